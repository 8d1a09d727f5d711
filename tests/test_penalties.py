"""Penalties: values, gradients and dtypes of pure functions of a parameter pytree."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss.penalties import (
    elastic_net,
    group_lasso,
    huber_penalty,
    l1,
    l2,
    nuclear_norm,
    orthogonality,
    spectral_norm,
    total_variation,
)

pytestmark = pytest.mark.few

MOSTLY_L1 = functools.partial(elastic_net, l1_ratio=0.75)
SHARE = {l1: 1.0, l2: 0.0, MOSTLY_L1: 0.75}
NAMES = {l1: "l1", l2: "l2", MOSTLY_L1: "elastic_net"}
ALL = pytest.mark.parametrize("penalty", NAMES, ids=NAMES.get)


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def parameters(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(4, 3)), dtype),
        "frozen": None,
        "layers": [jnp.asarray(rng.normal(size=3), dtype), jnp.zeros((), dtype)],
    }


def oracle(penalty, params):
    x = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]).astype(np.float64)
    share = SHARE[penalty]
    return share * np.abs(x).sum() + (1 - share) / 2 * (x**2).sum()


@ALL
def test_value_is_that_of_the_formula(penalty):
    value = jax.jit(penalty)(parameters())
    np.testing.assert_allclose(value, oracle(penalty, parameters()), rtol=1e-6)
    assert (value.shape, value.dtype, value.weak_type) == ((), jnp.float32, False)


@ALL
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradient_has_the_dtype_of_each_leaf_and_is_exact(penalty, dtype):
    params = parameters(dtype)
    gradient = jax.jit(jax.grad(penalty))(params)
    share = SHARE[penalty]
    expected = jax.tree.map(
        lambda p: np.asarray(share * np.sign(p) + (1 - share) * np.float32(p), p.dtype), params
    )
    chex.assert_trees_all_equal(gradient, expected)
    chex.assert_trees_all_equal_dtypes(gradient, params)


@ALL
def test_at_zero_nothing_is_moved(penalty):
    gradient = jax.jit(jax.grad(penalty))({"b": np.zeros(3, np.float32), "c": -0.0})
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@ALL
def test_forward_mode_and_second_derivatives_work(penalty):
    x, direction = np.float32([1.5, -2.0, 0.0]), np.float32([1.0, 0.5, 7.0])
    gradient, slope = jax.jit(jax.grad(penalty))(x), jax.jit(jax.jvp, static_argnums=0)
    tangent = slope(penalty, (x,), (direction,))[1]
    np.testing.assert_allclose(tangent, np.vdot(gradient, direction), rtol=1e-6)
    np.testing.assert_array_equal(
        jax.jit(jax.hessian(penalty))(x), (1 - SHARE[penalty]) * np.eye(3)
    )


def test_half_precision_is_summed_in_float32():
    ones = {"w": jnp.ones(4097, jnp.bfloat16)}  # 4097 is 4096 in bfloat16
    assert l1(ones) == 4097
    assert l2(ones) == 2048.5
    assert l2({"w": jnp.full(4, 300, jnp.float16)}) == 180_000  # above what float16 can hold


@pytest.mark.usefixtures("x64")
def test_float64_stays_float64():
    value = l2({"w": jnp.float64(0.1), "b": jnp.float32(0)})
    assert value.dtype == jnp.float64
    assert value == 0.5 * (0.1 * 0.1)


@ALL
@pytest.mark.parametrize("empty", [{}, None, {"w": None}, {"w": jnp.zeros((0, 3))}], ids=str)
def test_nothing_costs_nothing(penalty, empty):
    value = penalty(empty)
    assert value == 0
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal(jax.grad(penalty)(empty), empty)


@ALL
def test_vmap_is_a_loop_and_a_nan_is_seen(penalty):
    stacked = jnp.array([[1.0, -2.0], [0.0, 3.0], [jnp.nan, 1.0]])
    mapped = jax.jit(jax.vmap(penalty))(stacked)
    looped = [jax.jit(penalty)(row) for row in stacked]
    np.testing.assert_allclose(mapped, looped, rtol=1e-6)
    assert jnp.isnan(mapped[2])


def test_the_ratio_is_traced_and_learned():
    traced = []

    @jax.jit
    def cost(ratio):
        traced.append(1)
        return elastic_net(parameters(), l1_ratio=ratio)

    ends = [cost(0.0), cost(1.0)]
    np.testing.assert_allclose(ends, [l2(parameters()), l1(parameters())], rtol=1e-6)
    assert len(traced) == 1
    np.testing.assert_allclose(jax.grad(cost)(0.3), ends[1] - ends[0], rtol=1e-5)


@ALL
@pytest.mark.parametrize(
    ("leaf", "came"),
    [(np.int32(3), "int32"), (np.array(True), "bool"), (7, "of type int"), (abs, "of"), (1j, "of")],
    ids=["integer", "boolean", "number", "function", "complex"],
)
def test_a_leaf_that_is_no_parameter_is_named(penalty, leaf, came):
    with pytest.raises(TypeError, match=rf"\.{NAMES[penalty]}: `params\['a'\]\[1\]` is {came}"):
        penalty({"a": [jnp.ones(2), leaf]})


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan"), jnp.ones(2)], ids=str)
def test_a_wrong_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match=r"net: `l1_ratio` (must be between 0 and 1|has shape)"):
        elastic_net(parameters(), l1_ratio=ratio)


def test_a_traced_ratio_is_checked_on_demand():
    cost = jax.jit(lambda ratio: elastic_net(parameters(), l1_ratio=ratio))
    cost(1.5)
    with pytest.raises(ValueError, match=r"`l1_ratio` must be between 0 and 1, got 1\.5"):
        jl.checked(cost)(1.5)


# --- of the shape of a leaf ---------------------------------------------------------------------


def of_all(x, axis):
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def singular_values(x):
    return np.linalg.svd(x.reshape(-1, x.shape[-1]), compute_uv=False)


def off_identity(x):
    rows = of_all(x, -1)
    gramian = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    return np.square(gramian - np.eye(len(gramian))).sum()


GROUPS_OF_FILTERS = functools.partial(group_lasso, axis=(0, 1))
BOTH_WAYS = functools.partial(total_variation, axis=(0, -1))
NARROW = functools.partial(huber_penalty, delta=0.3)
LONG = functools.partial(spectral_norm, iterations=200)
SHAPED = {  # each beside its definition for one leaf, in float64
    NARROW: lambda x: np.where(abs(x) <= 0.3, x * x / 2, 0.3 * (abs(x) - 0.15)).sum(),
    group_lasso: lambda x: (np.sqrt(len(x)) * np.linalg.norm(x, axis=0)).sum(),
    GROUPS_OF_FILTERS: lambda x: (
        np.sqrt(x.shape[0] * x.shape[1]) * np.sqrt((x * x).sum((0, 1)))
    ).sum(),
    total_variation: lambda x: abs(np.diff(x)).sum(),
    BOTH_WAYS: lambda x: abs(np.diff(x, axis=0)).sum() + abs(np.diff(x)).sum(),
    orthogonality: off_identity,
    LONG: lambda x: singular_values(x)[0],
    nuclear_norm: lambda x: singular_values(x).sum(),
}
EACH_SHAPED = pytest.mark.parametrize("penalty", SHAPED)


def leaves(dtype=np.float32):
    rng = np.random.default_rng(3)
    shapes = {"tall": (5, 3), "wide": (2, 4), "kernel": (3, 2, 4)}
    return {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()} | {"off": None}


@EACH_SHAPED
def test_values_of_shaped_penalties_are_those_of_their_definitions(penalty):
    params = leaves()
    expected = sum(SHAPED[penalty](np.float64(x)) for x in jax.tree.leaves(params))
    value = jax.jit(penalty)(params)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    assert (value.shape, value.dtype, value.weak_type) == ((), jnp.float32, False)
    assert penalty({"off": None}) == 0


@EACH_SHAPED
@pytest.mark.usefixtures("x64")
def test_gradients_of_shaped_penalties_are_finite_differences(penalty):
    params = leaves(np.float64)
    direction = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size) + 1.0).reshape(x.shape), params)
    both = jax.jit(lambda p: (jax.grad(penalty)(p), jax.jvp(penalty, (p,), (direction,))[1]))
    gradient, tangent = both(params)
    step, value = 1e-6, jax.jit(penalty)
    ahead, behind = (
        value(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction)) for s in (step, -step)
    )
    np.testing.assert_allclose(tangent, (ahead - behind) / (2 * step), rtol=1e-7)
    along = sum(
        jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
    )
    np.testing.assert_allclose(along, tangent, rtol=1e-12)


@EACH_SHAPED
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_at_zero_shaped_penalties_have_the_gradient_of_least_length(penalty, dtype):
    """The shortest subgradient: 0 at every kink. `orthogonality` is smooth there, and flat."""
    params = jax.tree.map(lambda x: jnp.zeros_like(x, dtype), leaves())
    gradient = jax.jit(jax.grad(penalty))(params)
    chex.assert_trees_all_equal(gradient, params)
    chex.assert_trees_all_equal_dtypes(gradient, params)


@pytest.mark.slow
def test_subgradients_where_only_a_part_is_zero():
    w = jnp.array([[3.0, 0.0], [4.0, 0.0]])
    np.testing.assert_allclose(
        jax.grad(group_lasso)(w), 2**0.5 * np.array([[0.6, 0], [0.8, 0]]), rtol=1e-6
    )
    np.testing.assert_array_equal(jax.grad(total_variation)(jnp.array([1.0, 1.0, 4.0])), [0, -1, 1])
    one = jnp.outer(jnp.array([0.6, 0.8, 0.0]), jnp.array([0.0, 5.0]))  # of rank 1
    np.testing.assert_allclose(jax.grad(nuclear_norm)(one), one / 5, atol=1e-6)
    np.testing.assert_allclose(jax.grad(spectral_norm)(one), one / 5, atol=1e-6)
    equal = jax.grad(spectral_norm)(2 * jnp.eye(2))  # one of many: of rank 1 and norm 1
    np.testing.assert_allclose(np.linalg.svd(equal)[1], [1, 0], atol=1e-6)


@pytest.mark.slow
def test_power_iteration_comes_from_below_and_matrices_of_any_scale():
    x = leaves()["tall"]
    norms = [jax.jit(functools.partial(spectral_norm, iterations=n))(x) for n in (0, 1, 3, 100)]
    assert norms == sorted(norms)
    np.testing.assert_allclose(norms[-1], singular_values(np.float64(x))[0], rtol=1e-6)
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(LONG(x * scale) / scale, norms[-1], rtol=1e-5)


@pytest.mark.slow
def test_orthogonal_layers_cost_nothing_whatever_their_shape():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].astype(np.float32)
    for w in (q, q[:, :2], q[:2], q.reshape(5, 1, 5)):
        assert orthogonality(w) < 1e-11
    assert orthogonality(2 * q[:2]) == pytest.approx(2 * 9, rel=1e-5)
    assert orthogonality(q[:2].T, axis=0) < 1e-11


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orthogonality({"b": jnp.ones(3)}), r"orthogonality: `params\['b'\]` has.*2 axes"),
        (lambda: nuclear_norm(jnp.ones(3)), r"nuclear_norm: `params` has shape \(3,\)"),
        (lambda: spectral_norm([jnp.ones(3)]), r"spectral_norm: `params\[0\]` has shape \(3,\)"),
        (lambda: group_lasso(jnp.ones(3), axis=1), r"shape \(3,\), expected an axis 1.*mask"),
        (lambda: group_lasso(jnp.float32(3)), r"shape \(\), expected an axis 0"),
        (lambda: total_variation(jnp.ones(3), axis=(0, 1)), r"expected an axis \(0, 1\)"),
        (lambda: huber_penalty(jnp.ones(3), delta=0.0), "`delta` must be above 0, got 0.0"),
        (lambda: huber_penalty(jnp.ones(3), delta=jnp.ones(2)), r"`delta` has shape \(2,\)"),
    ],
)
def test_a_leaf_of_the_wrong_shape_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integers_are_refused_by_all():
    for penalty in SHAPED:
        with pytest.raises(TypeError, match=r"`params\['n'\]` is int32, expected floating"):
            penalty({"n": jnp.arange(4).reshape(2, 2)})
