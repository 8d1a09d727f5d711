"""Penalties: values, gradients and dtypes of pure functions of a parameter pytree."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss.penalties import elastic_net, l1, l2

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
def test_at_zero_nothing_is_pulled(penalty):
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
