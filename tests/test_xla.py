"""Hints for XLA: they change programs for CPU, on whatever host these are traced, and no number."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxloss as jl
from jaxloss import _xla
from jaxloss._core import registry
from jaxloss.numerics._double_double import DD, exp_dd, two_product
from jaxloss.numerics._labels import take_label

pytestmark = pytest.mark.few


@pytest.mark.parametrize(
    "shape", [(), (0,), (0, 3), (7,), (6, 10), (2, 3, 5), (3, 100), (9000,), (10007,), (4099, 3)]
)
def test_an_elementwise_function_has_the_same_values_in_another_shape(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    np.testing.assert_array_equal(
        _xla.with_vectorizable_shape(lambda x, y: 3 * x - y, x, x), 3 * x - x
    )


def test_a_function_of_slices_is_a_call_that_is_not_inlined_on_cpu_alone():
    steps = jnp.diff
    call = jax.jit(lambda x: _xla.outlined_on_cpu(steps, x))
    large, small = jnp.arange(20_000.0), jnp.arange(3.0)
    for x, platform, is_call in (
        (large, "cpu", True),
        (large, "cuda", False),
        (small, "cpu", False),
    ):
        text = call.trace(x).lower(lowering_platforms=(platform,)).as_text()
        assert ('inlineable = "false"' in text) == is_call
    np.testing.assert_array_equal(call(large), steps(large))


@pytest.mark.parametrize(
    ("shape", "better"),
    [
        ((6400, 10), (250, 256)),
        ((6400, 3), (75, 256)),
        ((63999,), (117, 547)),  # one axis would not divide evenly among the cores
        ((640,), (640,)),  # runs on one core
        ((64, 10), (2, 320)),
        ((20, 10), (20, 10)),  # too small
        ((100, 1000), (100, 1000)),
        ((4099, 3), (12297,)),  # no suitable divisor
    ],
)
def test_the_vectorizable_shape_has_a_long_last_axis(shape, better):
    assert _xla._vectorizable_shape(shape) == better


@pytest.mark.slow
def test_a_loss_is_evaluated_in_that_shape_and_returns_its_own():
    x = jnp.ones((6400, 3))
    program = str(jax.make_jaxpr(jl.regression.log_cosh)(x, x))
    assert "f32[75,256] = tanh" in str(jax.make_jaxpr(jax.grad(_mean_log_cosh))(x, x))
    assert "f32[75,256] = log1p" in program
    assert jl.regression.log_cosh(x, x).shape == x.shape


def _mean_log_cosh(prediction, target):
    return jl.regression.log_cosh(prediction, target, reduction="mean")


@pytest.mark.slow
def test_options_that_lie_along_the_last_axis_keep_their_place():
    logits, labels = jnp.ones((5, 3)), jnp.zeros((5, 3)).at[:, 0].set(1.0)
    weight = jnp.asarray([2.0, 3.0, 4.0])
    got = jl.classification.sigmoid_cross_entropy(logits, labels, positive_weight=weight)
    each = [
        jl.classification.sigmoid_cross_entropy(logits[:, i], labels[:, i], positive_weight=w)
        for i, w in enumerate(weight)
    ]
    np.testing.assert_allclose(got, jnp.stack(each, -1), rtol=1e-6)


def test_a_loss_of_a_user_may_hold_an_array_of_the_last_axis(monkeypatch):
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))

    @jl.loss
    def weighted(prediction, target):
        return jnp.asarray([1.0, 10.0]) * (prediction - target)

    np.testing.assert_array_equal(
        jax.jit(weighted)(jnp.ones((3, 2)), jnp.zeros((3, 2)))[0], [1, 10]
    )


def test_small_arrays_take_no_hints():
    for size, hinted in ((100, False), (100_000, True)):
        x = jnp.ones((size, 1))
        assert ("optimization_barrier" in str(jax.make_jaxpr(_xla.recompute)(x))) is hinted
        # The one that waits for the sum asks whether it is NaN.
        program = str(jax.make_jaxpr(jax.grad(_mean_log_cosh))(x, x))
        assert (" ne " in program) is hinted


@pytest.mark.parametrize(("rows", "stays"), [(1 << 15, True), ((1 << 15) + 1, False)])
def test_what_does_not_stay_on_the_chip_of_a_tpu_is_not_written(rows, stays):
    x = jax.ShapeDtypeStruct((rows, 256), jnp.float32)
    exported = jax.export.export(jax.jit(_xla.on_chip_on_tpu), platforms=["tpu"])(x)
    assert ("optimization_barrier" in str(exported.mlir_module())) is stays


@pytest.mark.parametrize("shape", [(6400, 3), (100, 1000), (100_000, 3), (1000, 1000)])
def test_a_program_for_an_accelerator_holds_no_hints_for_cpu(shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    step = jax.jit(jax.value_and_grad(_mean_log_cosh))
    text = {
        platform: str(jax.export.export(step, platforms=[platform])(x, x).mlir_module())
        for platform in ("cpu", "cuda", "tpu")
    }
    assert "stablehlo.compare NE" in text["cpu"]
    for platform in ("cuda", "tpu"):
        assert "stablehlo.compare NE" not in text[platform]
        # On GPU the barrier of a scalar keeps the derivative of large arrays apart from the value.
        barriers = re.findall(r"optimization_barrier.* : (.*)", text[platform])
        assert all("tensor<f32>" in of for of in barriers)
        assert bool(barriers) == (platform == "cuda" and x.size > 1 << 18)
        assert "stablehlo.reshape" not in text[platform]


def test_symbolic_shapes_take_no_hints_that_depend_on_the_size():
    (rows,) = jax.export.symbolic_shape("rows")
    x = jax.ShapeDtypeStruct((rows, 3), jnp.float32)
    exported = jax.export.export(
        jax.jit(jax.grad(lambda p, t: jnp.sum(jl.regression.log_cosh(p, t))))
    )
    slope = exported(x, x).call(jnp.full((5, 3), 2.0), jnp.ones((5, 3)))
    np.testing.assert_allclose(slope, np.full((5, 3), np.tanh(1.0)), rtol=1e-6)


@pytest.fixture
def as_elsewhere(monkeypatch):
    """Programs take the forms of GPU and TPU, which XLA on CPU compiles with multiply-adds too."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, default, **_platforms: default(*args)
    )
    jax.clear_caches()
    yield
    jax.clear_caches()


def test_elsewhere_a_product_has_its_rounding_error(as_elsewhere):
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 5000)).astype(np.float32)

    hi, lo = map(np.asarray, jax.jit(lambda a, b: tuple(two_product(a, b)))(a, b))
    np.testing.assert_array_equal(hi, a * b)
    np.testing.assert_array_equal(np.float64(hi) + lo, np.float64(a) * b)
    # The sum invites the compiler to a fused multiply-add, which does not round the product.
    total = jax.jit(lambda a, b, c: two_product(a, b).hi + c)(a, b, c)
    np.testing.assert_array_equal(total, a * b + c)


@pytest.mark.slow  # the exponential of the light compiler is 32 last places off
def test_elsewhere_the_exponential_of_a_sum_is_corrected(as_elsewhere):
    rng = np.random.default_rng(0)
    hi = -np.float32(rng.uniform(0, 87, 5000))
    lo = np.float32(np.spacing(hi) * rng.uniform(-0.5, 0.5, hi.size))
    expected = np.exp(np.float64(hi) + lo)
    error = np.abs(jax.jit(exp_dd)(DD(hi, lo)) - expected) / np.spacing(np.float32(expected))
    assert np.max(error) < 2
    at_the_ends = exp_dd(DD(jnp.array([0.0, -jnp.inf, -200.0]), jnp.array([0.0, jnp.nan, 0.0])))
    np.testing.assert_array_equal(at_the_ends, [1, 0, 0])


@pytest.mark.parametrize("exponent", [-112, -90, -48, -20, 0, 50, 76, 120])
def test_elsewhere_a_norm_of_any_size_has_its_digits(as_elsewhere, exponent):
    rng = np.random.default_rng(0)
    spread = rng.integers(-4, 5, (64, 37))
    x = (rng.normal(size=(64, 37)) * 2.0 ** (exponent + spread)).astype(np.float32)
    expected = np.linalg.norm(np.float64(x), axis=-1)
    np.testing.assert_allclose(jax.jit(jl.numerics.norm)(x), expected, rtol=3e-7)


def test_elsewhere_a_norm_of_nothing_infinite_or_nan_is_that(as_elsewhere):
    x = jnp.array([[0.0, 0.0], [jnp.inf, 1.0], [jnp.nan, 1e30], [3e38, 0.0]])
    norms = jl.numerics.norm(x)
    np.testing.assert_array_equal(norms, jnp.array([0, jnp.inf, jnp.nan, 3e38]))


def test_elsewhere_the_logit_at_a_label_is_the_same(as_elsewhere):
    x, labels = jnp.array([[1e30, -jnp.inf, 2.0], [jnp.inf, 0.1, 3.0]]), jnp.array([2, 0])
    np.testing.assert_array_equal(take_label(x, labels), [2.0, jnp.inf])


def test_a_third_eager_gradient_of_large_arrays_compiles_nothing(count_compilations):
    x = jnp.ones((128, 128))  # too large for a core's cache
    gradient = jax.grad(lambda x, y: jl.classification.sigmoid_focal(x, y, reduction="sum"))
    gradient(x, x), gradient(x, x)
    with count_compilations() as compiled:
        gradient(x, x)
    assert not compiled


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_slice_of_bits_is_that_of_the_numbers(dtype):
    x = jax.random.normal(jax.random.key(0), (3, 8), dtype)
    ours = lambda x, j: jnp.square(_xla.take_slice(x, j, 3, 1))
    plain = lambda x, j: jnp.square(lax.dynamic_slice_in_dim(x, j, 3, 1))
    forms = (
        lambda f: f(x, 4),
        lambda f: jax.vjp(lambda x: f(x, 4), x)[1](f(x, 1))[0],
        lambda f: jax.jvp(lambda x: f(x, 4), (x,), (x,))[1],
        lambda f: jax.vmap(f)(x[:, None], jnp.arange(3)),
    )
    for form in forms:
        got, expected = (jax.jit(lambda f=f, form=form: form(f))() for f in (ours, plain))
        np.testing.assert_array_equal(got, expected)


def temporaries(function, *arrays):
    """What the compiled program holds beside arguments and results, in arrays of that size."""
    compiled = jax.jit(function).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes / arrays[0].nbytes


def test_a_quotient_that_is_used_twice_is_computed_where_it_is_used():
    x = jnp.ones((64, 1024))

    def terms(quotient):
        def of(x, y):
            ratio = quotient(y - x, x)
            s = quotient(ratio, 2 + ratio)
            return jnp.where(y > x, ratio * s - s * s * s, y - x)

        return of

    assert temporaries(terms(jnp.divide), x, x) >= 1  # if not, `inlined` is no longer needed
    assert temporaries(terms(jl.numerics.quotient), x, x) == 0
    numbers = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 1e-42, -0.0])
    np.testing.assert_array_equal(jax.jit(_xla.inlined)(numbers), numbers)


@pytest.mark.parametrize(
    ("loss", "arrays"),
    [
        (jl.regression.squared_error, 0),  # the sum is in the loop that computes it
        (jl.regression.absolute_error, 0),
        (jl.regression.pseudo_huber, 1),
        (jl.robust.barron, 1),
        (jl.robust.welsch, 1),
        (jl.divergence.bernoulli_kl, 1),
        (jl.classification.binary_cross_entropy, 1),
    ],
)
def test_the_mean_of_values_holds_no_more_than_the_values(loss, arrays):
    """XLA on CPU would write what a select, a quotient and a logarithm are computed from."""
    x = jnp.full((64, 1024), 0.3)
    held = temporaries(lambda x, y: loss(x, y, reduction="mean"), x, x)
    assert arrays <= held < arrays + 0.1


def test_no_nan_is_made_while_a_large_eager_call_is_traced():
    x = jnp.linspace(0.1, 1, 20_000)
    with jax.debug_nans(True):
        jl.regression.huber(x, x / 2)
        jl.classification.hinge(x, jnp.ones_like(x))
    assert jnp.isnan(jl.classification.hinge(x, 0.5 * x)).all()


def test_a_loss_of_ones_own_need_not_be_defined_for_another_shape(monkeypatch):
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    levels = jnp.linspace(0, 1, 128)

    @jl.loss
    def weighted(prediction, target):
        return jnp.exp(prediction - target) * levels

    x = jnp.ones((100, 128))
    np.testing.assert_allclose(weighted(x, x), jnp.broadcast_to(levels, x.shape))


def test_a_large_result_that_is_no_array_is_explained(monkeypatch):
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))

    @jl.loss
    def nothing(prediction, target):
        prediction - target  # a `return` is missing

    for shape in ((12_800,), (100, 128)):
        with pytest.raises(TypeError, match="its result is None"):
            nothing(jnp.ones(shape), jnp.ones(shape))
