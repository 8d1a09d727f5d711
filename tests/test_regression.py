"""The regression losses at their kinks, at the ends of their options, and with NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss import regression


@pytest.mark.parametrize("error", [-2.0, 0.0, 1e-20, 3.0])
def test_smooth_l1_without_beta_is_the_absolute_error(error):
    value, slopes = jax.value_and_grad(
        lambda e, beta: regression.smooth_l1(e, 0.0, beta=beta), argnums=(0, 1)
    )(error, 0.0)
    assert value == np.float32(abs(error))
    np.testing.assert_array_equal(slopes, (np.sign(error), -0.5 * (error != 0)))


@pytest.mark.parametrize(
    "name", [info.name for info in jl.catalogue.losses() if info.family == "regression"]
)
def test_a_nan_that_counts_has_a_nan_gradient(name):
    loss = getattr(regression, name.partition(".")[2])
    vector = {"cosine_distance": (2,), "quantiles": (2,)}.get(loss.__name__, ())
    shapes = vector, () if loss.__name__ == "quantiles" else vector
    compiled = jax.jit(jax.value_and_grad(lambda *x: jnp.sum(loss(*x)), argnums=(0, 1)))
    for place in (0, 1):
        data = [np.full(shape, 0.5 + k, np.float32) for k, shape in enumerate(shapes)]
        data[place].reshape(-1)[0] = np.nan
        value, slopes = compiled(*data)
        assert np.isnan(value)
        assert np.isnan(slopes[place].reshape(-1)[0])


def test_a_nan_relative_to_a_target_of_0_is_seen():
    value, slope = jax.value_and_grad(regression.absolute_percentage_error)(jnp.nan, 0.0)
    assert np.isnan(value)
    assert np.isnan(slope)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("huber", "delta"),
        ("smooth_l1", "beta"),
        ("pseudo_huber", "delta"),
        ("pinball", "level"),
        ("expectile", "level"),
        ("epsilon_insensitive", "epsilon"),
        ("squared_epsilon_insensitive", "epsilon"),
    ],
)
def test_an_option_may_be_a_whole_number(name, option):
    slopes = [
        jax.grad(lambda p: getattr(regression, name)(p, 0.0, **{option: number}))(3.0)  # noqa: B023
        for number in (1, 1.0)
    ]
    assert slopes[0] == slopes[1]


def test_quantiles_under_strict_promotion():
    data = jnp.zeros((4, 3)), jnp.ones(4)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.make_jaxpr(jax.grad(lambda p, t: jnp.sum(regression.quantiles(p, t))))(*data)
        jax.make_jaxpr(lambda p, t: regression.quantiles(p, t, level=[0.1, 0.5, 0.9]))(*data)


def test_smooth_l1_is_huber_over_delta():
    errors = jnp.linspace(-3, 3, 25)
    expected = regression.huber(errors, 0.0, delta=0.5) / 0.5
    np.testing.assert_allclose(regression.smooth_l1(errors, 0.0, beta=0.5), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("error", "delta"),
    [(1e-3, 1e20), (1e25, 1e-5), (1e-8, 1.0), (1e30, 1e-20), (1e37, 3.0), (2e19, 3e18), (0, 1)],
)
@pytest.mark.parametrize("fast_math", [False, True])
def test_pseudo_huber_overflows_only_where_its_value_does(error, delta, fast_math):
    """Neither the square of the error nor its ratio to delta need be representable."""
    function = jax.value_and_grad(lambda e, d: regression.pseudo_huber(e, 0.0, delta=d), (0, 1))
    compiled = jax.jit(function, compiler_options={"xla_cpu_enable_fast_math": fast_math})
    value, slopes = compiled(*np.float32([error, delta]))
    length = np.hypot(error, delta)
    expected = [error / length * delta, (error / (length + delta) * error) ** 2 / length]
    np.testing.assert_allclose(value, error / (length + delta) * error * delta, rtol=1e-6)
    np.testing.assert_allclose(slopes, expected, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize(
    "name",
    [
        "absolute_error",
        "smooth_l1",
        "pinball",
        "epsilon_insensitive",
        "absolute_percentage_error",
        "symmetric_absolute_percentage_error",
    ],
)
def test_the_gradient_at_a_match_is_0(name):
    slopes = jax.grad(getattr(regression, name), argnums=(0, 1))(2.0, 2.0)
    np.testing.assert_array_equal(slopes, (0, 0))


def test_pinball_is_smallest_at_the_quantile_of_a_sample():
    sample = jnp.arange(11.0)
    guesses = jnp.linspace(-1, 11, 121)
    cost = jax.vmap(lambda g: regression.pinball(g, sample, level=0.85, reduction="mean"))(guesses)
    assert abs(guesses[jnp.argmin(cost)] - 9) < 1e-4


def test_quantiles_average_each_quantile():
    predictions, levels = jnp.array([[1.0, 2.0, 5.0]]), jnp.array([0.1, 0.5, 0.9])
    each = [
        regression.pinball(p, 3.0, level=q) for p, q in zip(predictions[0], levels, strict=True)
    ]
    got = regression.quantiles(predictions, [3.0], level=levels)
    np.testing.assert_allclose(got[0], np.mean(each), rtol=1e-6)
    even = regression.quantiles(predictions, [3.0])
    given = regression.quantiles(predictions, [3.0], level=[1 / 6, 0.5, 5 / 6])
    np.testing.assert_allclose(even, given, rtol=1e-6)


@pytest.mark.parametrize("level", [-0.1, 1.5])
def test_a_level_outside_0_to_1_is_refused(level):
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        regression.pinball(0.0, 0.0, level=level)


def test_expectile_weighs_predictions_that_are_too_low_by_its_level():
    np.testing.assert_allclose(regression.expectile([-1.0, 1.0], 0.0, level=0.9), [0.9, 0.1])


def test_squared_log_error_keeps_a_small_difference():
    value = regression.squared_log_error(1000.0, 1000.001)
    exact = np.log1p(np.float64(np.float32(1000.001))) - np.log1p(1000.0)
    np.testing.assert_allclose(value, exact**2, rtol=1e-6)
    second = jax.grad(jax.grad(regression.squared_log_error))(3.0, 3.0)
    np.testing.assert_allclose(second, 2 / 16, rtol=1e-6)


def test_percentage_errors_of_a_target_of_0():
    np.testing.assert_array_equal(
        regression.absolute_percentage_error([0.0, 1.0], 0.0), [0, np.inf]
    )
    np.testing.assert_array_equal(
        regression.symmetric_absolute_percentage_error([0.0, 1.0], 0.0), [0, 2]
    )
    slopes = jax.grad(regression.symmetric_absolute_percentage_error, argnums=(0, 1))(0.0, 0.0)
    np.testing.assert_array_equal(slopes, (0, 0))


LARGE = np.float32(3e38)


@pytest.mark.parametrize(
    ("prediction", "target", "value"),
    [
        (LARGE, -LARGE, 2),
        (LARGE, LARGE, 0),
        (LARGE, LARGE / 3, 1),
        (LARGE, 0.0, 2),
        (np.inf, 1.0, 2),
        (np.inf, -np.inf, 2),
        (np.inf, np.inf, np.nan),
    ],
)
def test_symmetric_percentage_errors_whose_sum_overflows(prediction, target, value):
    loss = regression.symmetric_absolute_percentage_error
    run = jax.value_and_grad(loss, argnums=(0, 1))
    for pair in ((prediction, target), (target, prediction)):
        got, slopes = run(*map(jnp.float32, pair))
        np.testing.assert_allclose(got, value, rtol=1e-6)
        np.testing.assert_array_equal(np.isnan(slopes), np.isnan(value))


def test_squared_log_errors_of_infinite_numbers():
    loss = regression.squared_log_error
    run = jax.value_and_grad(loss, argnums=(0, 1))
    np.testing.assert_allclose(loss(LARGE, 0.0), np.log(float(LARGE)) ** 2, rtol=1e-6)
    assert run(jnp.inf, 1.0) == (np.inf, (0, -np.inf))
    assert run(1.0, jnp.inf) == (np.inf, (-np.inf, 0))
    assert np.all(np.isnan(run(jnp.inf, jnp.inf)[1]))


def test_the_slope_of_a_relative_error_in_its_target_does_not_cancel():
    slope = jax.grad(regression.absolute_percentage_error, argnums=1)(1e-20, 1.0)
    np.testing.assert_allclose(slope, 1e-20, rtol=1e-6)


@pytest.mark.parametrize("length", [1e-25, 1.0, 1e25])
def test_cosine_distance_of_any_length(length):
    vector = length * jnp.array([3.0, 4.0])
    np.testing.assert_allclose(regression.cosine_distance(vector, [1.0, 0.0]), 0.4, rtol=1e-6)
    np.testing.assert_allclose(regression.cosine_distance(vector, vector), 0)


def test_cosine_distance_of_a_small_angle_keeps_its_digits():
    value = regression.cosine_distance([1.0, 1e-4], [1.0, 0.0])
    np.testing.assert_allclose(value, 5e-9, rtol=1e-5)


def test_a_zero_vector_is_at_distance_1_with_gradient_0():
    function = lambda p: jnp.sum(regression.cosine_distance(p, jnp.array([1.0, 2.0])))
    value, slope = jax.value_and_grad(function)(jnp.zeros(2))
    assert value == 1
    np.testing.assert_array_equal(slope, 0)
    np.testing.assert_array_equal(jax.hessian(function)(jnp.zeros(2)), 0)
