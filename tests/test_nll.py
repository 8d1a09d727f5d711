"""Likelihoods: the two ways to give a parameter, limits, impossible counts, no hidden epsilon."""

import cases.nll as oracles
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from arithmetic import ulp_error

from jaxloss import nll


def value_and_slopes(loss, *data, **options):
    argnums = tuple(range(len(data)))
    data = [jnp.asarray(x, jnp.float32) for x in data]
    return jax.value_and_grad(lambda *x: jnp.sum(loss(*x, **options)), argnums)(*data)


def test_no_variance_is_too_small():
    got = nll.gaussian(1e-3, 0.0, variance=1e-10, full=False)
    np.testing.assert_allclose(got, 4988.487, rtol=1e-6)
    assert nll.poisson(1e-10, 1, log_input=False, full=False) == pytest.approx(23.02585)
    assert jnp.isfinite(nll.laplace(0.0, 1e-30, scale=1e-30))


@pytest.mark.parametrize("loss", [nll.gaussian, nll.beta_gaussian])
def test_exactly_one_variance(loss):
    with pytest.raises(TypeError, match=f"{loss.__name__}: give `variance` or `log_variance`"):
        loss(0.0, 1.0)
    with pytest.raises(TypeError, match=f"{loss.__name__}: give `variance` or"):
        loss(0.0, 1.0, variance=1.0, log_variance=0.0)
    with pytest.raises(ValueError, match="`variance` must be above 0, got -1"):
        jax.jit(nll.beta_gaussian, static_argnames="variance")(0.0, 1.0, variance=-1.0)


def test_a_log_variance_is_a_variance():
    generator = np.random.default_rng(0)
    mean, target, log_variance = (3 * generator.normal(size=(3, 50))).astype(np.float32)

    def from_log(mean, target, log_variance):
        return nll.gaussian(mean, target, log_variance=log_variance)

    got, slopes = value_and_slopes(from_log, mean, target, log_variance)
    variance = np.exp(log_variance)
    expected, others = value_and_slopes(nll.gaussian, mean, target, variance)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes[0], others[0], rtol=1e-5)
    np.testing.assert_allclose(slopes[2], others[2] * variance, rtol=1e-4, atol=1e-5)


def test_the_weight_of_beta_gaussian_has_no_gradient():
    variance = jnp.array([0.5, 4.0])

    def slope(beta):
        loss = lambda v: jnp.sum(
            nll.beta_gaussian(jnp.array([0.0, 1.0]), 2.0, variance=v, beta=beta)
        )
        return jax.grad(loss)(variance)

    plain = jax.grad(lambda v: jnp.sum(nll.gaussian(jnp.array([0.0, 1.0]), 2.0, variance=v)))(
        variance
    )
    np.testing.assert_allclose(slope(0.0), plain, rtol=1e-6)
    np.testing.assert_allclose(slope(0.5), plain * jnp.sqrt(variance), rtol=1e-6)


def test_student_becomes_gaussian_and_outliers_lose_their_gradient():
    score = jnp.array([0.0, 0.5, -3.0])
    many = nll.student_t(score, 0.0, 2.0, degrees_of_freedom=1e8)
    np.testing.assert_allclose(many, nll.gaussian(score, 0.0, variance=4.0), rtol=1e-6)
    gradient = jax.grad(lambda e: nll.student_t(e, 0.0, 1.0, 3.0))
    assert gradient(1e30) < gradient(1e3) < gradient(1.0)
    np.testing.assert_allclose(gradient(1e20), 4e-20, rtol=1e-5)


@pytest.mark.parametrize("form", [{}, {"log_input": False}])
def test_counts_of_nothing(form):
    """At 0 the loss is the rate alone, and both gradients are finite."""
    rate = 2.5
    prediction = rate if form else np.log(rate)
    value, (to_prediction, to_count) = value_and_slopes(nll.poisson, prediction, 0.0, **form)
    np.testing.assert_allclose(value, rate, rtol=1e-6)
    np.testing.assert_allclose(to_prediction, 1 if form else rate, rtol=1e-6)
    np.testing.assert_allclose(to_count, -np.log(rate) - np.euler_gamma, rtol=1e-6)


def test_a_rate_of_zero():
    loss = lambda rate, count: nll.poisson(rate, count, log_input=False)
    value, (to_rate, to_count) = value_and_slopes(loss, 0.0, 0.0)
    assert value == 0
    assert to_rate == 1
    assert jnp.isfinite(to_count)
    assert loss(0.0, 3.0) == jnp.inf
    many = lambda mean, count: nll.negative_binomial(mean, count, 2.0, log_input=False)
    value, (to_mean, to_count) = value_and_slopes(many, 0.0, 0.0)
    assert value == 0
    assert to_mean == 1
    assert jnp.isfinite(to_count)


def test_log_rates_of_any_size():
    np.testing.assert_allclose(nll.poisson(-200.0, 3.0), 600 + np.log(6), rtol=1e-6)
    loss = lambda x: nll.negative_binomial(x, 3.0, 0.5)
    with mpmath.workdps(60):
        for x in (-300.0, 90.0, 300.0):
            exact = oracles.negative_binomial(mpmath.mpf(x), mpmath.mpf(3), mpmath.mpf("0.5"))
            np.testing.assert_allclose(loss(x), float(exact), rtol=1e-6)
            np.testing.assert_allclose(jax.grad(loss)(x), -3.0 if x < 0 else 0.5, rtol=1e-6)


def test_many_counts_cost_what_few_do():
    """The constants of the density are billions here, and cancel."""
    counts = jnp.array([1e4, 1e6, 1e8])
    expected = 0.5 * np.log(2 * np.pi * counts)
    exact = nll.poisson(counts, counts, log_input=False)
    np.testing.assert_allclose(exact, expected, rtol=1e-5)
    near = nll.negative_binomial(counts, counts, 1e12, log_input=False)
    np.testing.assert_allclose(near, expected, rtol=1e-4)
    with mpmath.workdps(60):
        for a, b, y in ((1e6, 2e6, 0.3333), (1e5, 9.0, 0.9999), (3e4, 3e4, 0.5)):
            got = nll.beta(a, y, b)
            numbers = (mpmath.mpf(float(np.float32(v))) for v in (a, y, b))
            assert ulp_error(got, oracles.beta(*numbers)) < 32


def test_negative_binomial_becomes_poisson():
    counts = jnp.arange(20.0)
    got = nll.negative_binomial(1.5, counts, 1e9)
    np.testing.assert_allclose(got, nll.poisson(1.5, counts), rtol=1e-6)


def test_poisson_is_a_distribution():
    counts = np.arange(200.0)
    for loss in (nll.poisson, lambda x, y: nll.negative_binomial(x, y, 3.0)):
        np.testing.assert_allclose(jnp.sum(jnp.exp(-loss(2.0, counts))), 1, rtol=1e-5)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 3.0])
def test_tweedie_at_whole_powers_traced_or_not(power):
    mean, target = jnp.array([0.5, 2.0, 2.0, 30.0]), jnp.array([0.5, 1.9, 50.0, 0.1])
    expected = [
        oracles.tweedie_deviance(m, y, power)
        for m, y in zip(np.float64(mean), np.float64(target), strict=True)
    ]
    deviance = lambda p: nll.tweedie_deviance(mean, target, power=p)
    np.testing.assert_allclose(deviance(power), expected, rtol=2e-6)
    np.testing.assert_allclose(jax.jit(deviance)(power), expected, rtol=2e-6)
    with mpmath.workdps(30):
        # The slope of the integral: differences of the formula cancel at whole powers.
        exact = [
            mpmath.quad(lambda t, y=y: 2 * (t - y) * mpmath.log(t) * t**-power, [m, y])
            for m, y in zip(mean.tolist(), target.tolist(), strict=True)
        ]
    slope = jax.jacfwd(deviance)(power)
    np.testing.assert_allclose(slope, np.float64(exact), rtol=1e-5, atol=1e-9)


def test_tweedie_at_a_target_of_zero():
    value, slopes = value_and_slopes(nll.tweedie_deviance, 4.0, 0.0)
    np.testing.assert_allclose((value, slopes[0]), (8, 1), rtol=1e-6)
    assert jnp.isfinite(slopes[1])
    assert nll.tweedie_deviance(4.0, 0.0, power=2.0) == jnp.inf
    slope = jax.grad(lambda p: nll.tweedie_deviance(4.0, 0.0, power=p))(1.5)
    np.testing.assert_allclose(slope, 2 * 2 * (2 - np.log(4)) / 0.5, rtol=1e-5)


def test_beta_at_the_edges():
    assert nll.beta(1.0, 0.0, beta=2.0) == pytest.approx(-np.log(2))
    assert nll.beta(2.0, 0.0, beta=2.0) == jnp.inf
    assert nll.beta(0.5, 0.0, beta=2.0) == -jnp.inf
    shares = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(nll.beta(1.0, shares, beta=1.0), 0, atol=1e-6)


def test_directions_go_round():
    around = nll.von_mises(jnp.pi - 0.01, -jnp.pi + 0.01, 1e4)
    np.testing.assert_allclose(around, nll.von_mises(0.0, 0.02, 1e4), rtol=1e-3)
    flat, slopes = value_and_slopes(nll.von_mises, 0.3, 1.0, 0.0)
    np.testing.assert_allclose(flat, np.log(2 * np.pi), rtol=1e-6)
    np.testing.assert_allclose(slopes[2], -np.cos(0.7), rtol=1e-6)
    for concentration in (0.5, 1.0, 5.0, 19.99, 20.0, 300.0):
        got = nll.von_mises(0.0, 0.5, concentration)
        exact = oracles.von_mises(0.0, 0.5, concentration)
        np.testing.assert_allclose(got, exact, rtol=2e-6, atol=1e-6)


def test_von_mises_becomes_gaussian():
    got = nll.von_mises(0.0, 1e-3, 1e6)
    np.testing.assert_allclose(got, nll.gaussian(0.0, 1e-3, variance=1e-6), rtol=1e-5)


def test_a_mixture_of_one_and_of_none():
    losses = jnp.array([1.5, jnp.inf, 2.0])
    logits = jnp.array([0.0, 1.0, -jnp.inf])
    value, slopes = value_and_slopes(nll.mixture, logits, losses)
    np.testing.assert_allclose(value, 1.5 + np.log1p(np.e), rtol=1e-6)
    assert all(jnp.all(jnp.isfinite(s)) for s in slopes)
    assert slopes[1][2] == 0
    assert nll.mixture([0.0], [1.25]) == 1.25


def test_a_mixture_of_gaussians_is_a_mixture():
    generator = np.random.default_rng(1)
    means, logits = generator.normal(size=(2, 6, 3)).astype(np.float32)
    variances = np.exp(generator.normal(size=(6, 3))).astype(np.float32)
    target = generator.normal(size=6).astype(np.float32)
    each = nll.gaussian(means, np.repeat(target[:, None], 3, 1), variances)
    got = nll.gaussian_mixture(means, target, variances, logits)
    np.testing.assert_allclose(got, nll.mixture(logits, each), rtol=1e-6)
    moved = nll.gaussian_mixture(means.T, target, variances.T, logits.T, axis=0)
    np.testing.assert_allclose(moved, got, rtol=1e-6)


def test_scalar_parameters_stretch():
    target = jnp.ones((2, 3))
    assert nll.student_t(0.0, target, 1.0, degrees_of_freedom=4).shape == (2, 3)
    assert nll.gamma(1.0, target, 2.0).shape == (2, 3)
    with pytest.raises(ValueError, match="nll.laplace: `scale`"):
        nll.laplace(target, target, jnp.ones(3))


@pytest.mark.parametrize("count", [0.0, 0.5, 1.0, 7.0, 8.0, 1e3])
@pytest.mark.parametrize("total", [1e-3, 0.5, 1.0, 30.0, 1e4])
def test_negative_binomial_in_its_total_count(count, total):
    with jax.enable_x64(True):
        loss = lambda r: nll.negative_binomial(jnp.float64(0.7), jnp.float64(count), r)
        slope = jax.grad(loss)(jnp.float64(total))
    with mpmath.workdps(50):
        exact = mpmath.diff(
            lambda r: oracles.negative_binomial(mpmath.mpf(0.7), mpmath.mpf(count), r), total
        )
    np.testing.assert_allclose(slope, float(exact), rtol=1e-7, atol=1e-12)


def test_slopes_of_tiny_amounts_do_not_overflow():
    gamma = jax.jit(jax.grad(lambda mean: nll.gamma(mean, 1e-8, concentration=0.5)))
    np.testing.assert_allclose(gamma(1e-20), -0.5 * 1e32, rtol=1e-5)
    tweedie = jax.jit(jax.grad(lambda mean: nll.tweedie_deviance(mean, 1e-10, power=3.0)))
    np.testing.assert_allclose(tweedie(1e-14), 2 * (1e-14 - 1e-10) * 1e42, rtol=1e-4)


def test_a_component_far_away_takes_no_part():
    far = jnp.array([0.0, 1e30, 1.0]), 0.5, jnp.array([1.0, 1e-20, 2.0]), jnp.zeros(3)
    value, slopes = jax.jit(jax.value_and_grad(nll.gaussian_mixture, (0, 1, 2, 3)))(*far)
    near = [x[jnp.array([0, 2])] if jnp.ndim(x) else x for x in far]
    np.testing.assert_allclose(value, nll.gaussian_mixture(*near) + np.log(1.5), rtol=1e-6)
    assert slopes[0][1] == slopes[2][1] == 0
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_a_rate_of_0_is_infinitely_steep_where_something_was_counted():
    slope = jax.grad(lambda rate, count: nll.poisson(rate, count, log_input=False))
    assert [float(slope(0.0, count)) for count in (0.0, 0.5, 1.0, 3.0)] == [1, *[-np.inf] * 3]


def test_a_gaussian_mixture_without_a_component_is_that_of_the_others():
    generator = np.random.default_rng(0)
    means, logits = generator.normal(size=(2, 3, 5)).astype(np.float32)
    variances, mask = np.exp(logits), np.array([True, True, False, True, False])
    got = nll.gaussian_mixture(means, 0.5, variances, logits, mask=mask)
    means, variances, logits = (x[:, mask] for x in (means, variances, logits))
    np.testing.assert_allclose(got, nll.gaussian_mixture(means, 0.5, variances, logits), rtol=1e-6)


@pytest.mark.parametrize("parameter", [0.5, 2.0, 8.0, 1e4, 1e10])
def test_a_beta_density_at_the_ends(parameter):
    """It is 0 there from a parameter above 1 on, so that the loss is inf; infinite below 1."""
    ends, both = jnp.array([0.0, 1.0]), jnp.full(2, parameter)
    got = nll.beta(both, ends, both)
    np.testing.assert_array_equal(got, np.inf if parameter > 1 else -np.inf)


def test_a_rate_of_minus_0_is_0():
    rates, counts = jnp.array([0.0, -0.0]), jnp.array([[0.0], [1.0]])
    got = [nll.poisson(rates, jnp.broadcast_to(n, 2), log_input=False) for n in counts]
    np.testing.assert_array_equal(got, [[0, 0], [np.inf, np.inf]])


def test_a_large_count_of_a_tiny_total_count():
    """Their ratio overflows, its logarithm does not."""
    value, slopes = value_and_slopes(nll.negative_binomial, 0.0, 1e18, 1e-30)
    np.testing.assert_allclose(value, 110.52409, rtol=1e-6)  # by mpmath
    np.testing.assert_allclose(slopes[2], -1e30, rtol=1e-6)
