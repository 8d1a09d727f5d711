r"""Scores of distributions that are given by location and scale.

With the error $e = y - \mu$ and $z = e / s$, each CRPS is written as a distance in which nothing
cancels, plus a constant times the scale: no factor overflows where the score does not.
"""

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import erf, erfc
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import positive
from jaxloss.traits import (
    bounded_gradient,
    convex,
    nonnegative,
    smooth,
    symmetric,
    translation_invariant,
)

ROOT_2_OVER_PI = math.sqrt(2 / math.pi)  # twice the normal density at 0
AT_MEDIAN = (math.sqrt(2) - 1) / math.sqrt(math.pi)  # the CRPS of a standard normal at 0
FAR = 40.0  # standard deviations beyond which the normal density is 0 in float64


def _score(error: Array, scale: Array) -> Array:
    """The error in units of the scale, limited so that derivatives beyond are 0."""
    return numerics.quotient(jnp.clip(error, -FAR * scale, FAR * scale), scale)


def _density_change(z: Array) -> Array:
    """Twice the normal density at z, less that at 0."""
    return ROOT_2_OVER_PI * numerics.expm1(-0.5 * jnp.square(z))


@jax.custom_jvp
def _crps_gaussian(error: Array, scale: Array) -> Array:
    z = _score(error, scale)
    return error * erf(z * math.sqrt(0.5)) + scale * (_density_change(z) + AT_MEDIAN)


# Derivatives of the formula as written cancel: terms that are equal are left out of them.
_crps_gaussian.defjvps(
    lambda error_dot, _, error, scale: erf(_score(error, scale) * math.sqrt(0.5)) * error_dot,
    lambda scale_dot, _, error, scale: (
        (_density_change(_score(error, scale)) + AT_MEDIAN) * scale_dot
    ),
)


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    scale=positive,
)
def crps_gaussian(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    scale: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""CRPS of a Gaussian distribution, given mean and standard deviation.

    When to use: regression that predicts its own uncertainty, where `nll.gaussian` is dominated by
    outliers, or where the score should be in the unit of the target.

    $$\ell(\mu, \sigma, y) = \sigma \left( z\,(2 \Phi(z) - 1) + 2 \varphi(z)
      - \frac{1}{\sqrt\pi} \right), \qquad z = \frac{y - \mu}{\sigma}$$

    The scale is the standard deviation, not the variance. Far from the target the score is
    $|y - \mu| - \sigma / \sqrt\pi$, so that an outlier has a bounded gradient.

    Args:
        location: The predicted mean.
        target: The observed value, in the same unit.
        scale: The predicted standard deviation, above 0, in the unit of the target.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> crps_gaussian([0.0, 0.0], [0.0, 1e10], scale=1.0)
        Array([2.3369498e-01, 1.0000000e+10], dtype=float32)

    References:
        Gneiting et al., *Calibrated Probabilistic Forecasting Using Ensemble Model Output
        Statistics and Minimum CRPS Estimation*, 2005.
    """
    return _crps_gaussian(target - location, scale)


@jax.custom_jvp
def _crps_logistic(error: Array, scale: Array) -> Array:
    z = _score(error, scale)
    near = jnp.abs(z) < 2
    close = scale * (2 * numerics.log_cosh(0.5 * jnp.where(near, z, 0)) + (2 * math.log(2) - 1))
    return jnp.where(near, close, jnp.abs(error) + scale * (2 * jnp.log1p(jnp.exp(-abs(z))) - 1))


@jax.custom_jvp
def _tanh_of_half(z: Array) -> Array:
    near = jnp.abs(z) < 2
    far = jnp.sign(z) * (1 - 2 * numerics.sigmoid(-jnp.abs(z)))
    return jnp.where(near, jnp.tanh(0.5 * jnp.where(near, z, 0)), far)


_tanh_of_half.defjvps(lambda z_dot, _, z: 2 * numerics.sigmoid(z) * numerics.sigmoid(-z) * z_dot)


@jax.custom_jvp
def _logistic_slope_in_scale(z: Array) -> Array:
    near = jnp.abs(z) < 2
    inner, size = jnp.where(near, z, 0), jnp.abs(z)
    close = 2 * numerics.log_cosh(0.5 * inner) - inner * _tanh_of_half(inner)
    far = 2 * numerics.softplus(-size) + 2 * size * numerics.sigmoid(-size) - 1
    return jnp.where(near, close + (2 * math.log(2) - 1), far)


# Equal terms are left out of the derivative.
_logistic_slope_in_scale.defjvps(
    lambda z_dot, _, z: -2 * z * numerics.sigmoid(z) * numerics.sigmoid(-z) * z_dot
)
_crps_logistic.defjvps(
    lambda error_dot, _, error, scale: _tanh_of_half(_score(error, scale)) * error_dot,
    lambda scale_dot, _, error, scale: _logistic_slope_in_scale(_score(error, scale)) * scale_dot,
)


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    scale=positive,
)
def crps_logistic(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    scale: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""CRPS of a logistic distribution, given location and scale.

    When to use: instead of `crps_gaussian`, when large errors are more frequent than in a Gaussian
    distribution.

    $$\ell(\mu, s, y) = s \left( z - 2 \log F(z) - 1 \right), \qquad
      z = \frac{y - \mu}{s}, \quad F(z) = \frac{1}{1 + e^{-z}}$$

    The standard deviation of the distribution is $\pi s / \sqrt3$, 1.8 times the scale.

    Args:
        location: The predicted median.
        target: The observed value, in the same unit.
        scale: The predicted scale, above 0, in the unit of the target.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> crps_logistic([0.0, 0.0], [0.0, 1e10], scale=1.0)
        Array([3.8629436e-01, 1.0000000e+10], dtype=float32)

    References:
        Taillardat et al., *Calibrated Ensemble Forecasts Using Quantile Regression Forests and
        Ensemble Model Output Statistics*, 2016.
    """
    return _crps_logistic(target - location, scale)


@jax.custom_jvp
def _crps_laplace(error: Array, scale: Array) -> Array:
    size = jnp.abs(_score(error, scale))
    return jnp.abs(error) + scale * (numerics.expm1(-size) + 0.25)


def _laplace_slope_in_error(error: Array, scale: Array) -> Array:
    size = jnp.abs(_score(error, scale))
    return -jnp.sign(error) * numerics.expm1(-size)


def _laplace_slope_in_scale(error: Array, scale: Array) -> Array:
    size = numerics.absolute(_score(error, scale))
    return numerics.expm1(-size) + size * jnp.exp(-size) + 0.25


_crps_laplace.defjvps(
    lambda error_dot, _, error, scale: _laplace_slope_in_error(error, scale) * error_dot,
    lambda scale_dot, _, error, scale: _laplace_slope_in_scale(error, scale) * scale_dot,
)


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    scale=positive,
)
def crps_laplace(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    scale: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""CRPS of a Laplace distribution, given median and scale.

    When to use: instead of `crps_gaussian`, when most errors are small and some are large.

    $$\ell(\mu, b, y) = |y - \mu| + b \left( e^{-|y - \mu| / b} - \frac34 \right)$$

    The scale is the mean absolute deviation, $1/\sqrt2$ of the standard deviation.

    Args:
        location: The predicted median.
        target: The observed value, in the same unit.
        scale: The predicted mean absolute deviation, above 0, in the unit of the target.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> crps_laplace([0.0, 0.0], [0.0, 1e10], scale=1.0)
        Array([2.5e-01, 1.0e+10], dtype=float32)

    References:
        Jordan, Krüger and Lerch, *Evaluating Probabilistic Forecasts with scoringRules*, 2019.
    """
    return _crps_laplace(target - location, scale)


def _moments(z: Array, scale: Array) -> Array:
    r"""The sum over k >= 2 of scale^k / k! times the integral of t^k phi(t) up to z.

    By parts, $M_k = (k - 1) M_{k-2} - z^{k-1} \varphi(z)$. For scales up to 1/2.
    """
    density = jnp.exp(-0.5 * jnp.square(z)) / math.sqrt(2 * math.pi)
    even, odd, power = 0.5 * (1 + erf(z * math.sqrt(0.5))), -density, density
    total, factor = jnp.zeros_like(z), scale
    for k in range(2, 12 if jnp.finfo(z.dtype).bits == 32 else 20):
        power, factor = power * z, factor * scale / k
        even, odd = odd, (k - 1) * even - power
        total = total + factor * odd
    return total


def _log_score(location: Array, target: Array, scale: Array) -> Array:
    """log(target) in standard deviations from the location: of the ratio, which is not rounded."""
    ratio = numerics.quotient(target, jnp.exp(location))
    usual = (ratio > 0) & (ratio < jnp.inf)
    log = jnp.where(usual, jnp.log(jnp.where(usual, ratio, 1)), jnp.log(target) - location)
    return _score(log, scale)


def _spread_of_narrow(z: Array, scale: Array) -> Array:
    """The score less |target - median|, over the median, for scales up to 1/2.

    That of a Gaussian, of the order of the scale, and small terms.
    """
    half_square = 0.5 * jnp.square(scale)
    level = ROOT_2_OVER_PI * scale - jnp.exp(half_square) * erf(0.5 * scale)
    rest = numerics.expm1(half_square) - 2 * _moments(z, scale)
    return scale * _density_change(z) + level + rest


def _spread_of_wide(location: Array, z: Array, scale: Array) -> Array:
    """Half the mean of |X - X'|, less the mean of X up to the target."""
    half = jnp.exp(0.5 * location + 0.25 * jnp.square(scale))  # its square may overflow
    # A tail that underflows where the exponential overflows would give NaN.
    least = jnp.maximum(erfc(0.5 * scale), jnp.finfo(z.dtype).tiny)
    up_to_z = erfc((scale - z) * math.sqrt(0.5))
    return half * least * half - jnp.where(up_to_z == 0, 0, half * up_to_z * half)


def _log_normal_terms(location: Array, target: Array, scale: Array) -> tuple[Array, Array]:
    """The score, and its derivative in the location."""
    z, median = _log_score(location, target, scale), jnp.exp(location)
    probability = erf(z * math.sqrt(0.5))
    narrow = scale < 0.5
    of_narrow = median * _spread_of_narrow(z, jnp.where(narrow, scale, 0.25))
    of_wide = _spread_of_wide(location, z, jnp.where(narrow, 1, scale))
    value = jnp.where(
        narrow, (target - median) * probability + of_narrow, target * probability + of_wide
    )
    return value, jnp.where(narrow, of_narrow - median * probability, of_wide)


@jax.custom_jvp
def _crps_log_normal(location: Array, target: Array, scale: Array) -> Array:
    return _log_normal_terms(location, target, scale)[0]


@jax.custom_jvp
def _slope_in_location(location: Array, target: Array, scale: Array) -> Array:
    return _log_normal_terms(location, target, scale)[1]


def _density(*at: Array) -> Array:
    """Twice the normal density of the score."""
    return ROOT_2_OVER_PI * jnp.exp(-0.5 * jnp.square(_log_score(*at)))


def _mean_distance(location: Array, scale: Array) -> Array:
    """The part of the slope in the scale that comes from the mean of |X - X'|."""
    return jnp.exp(location + 0.25 * jnp.square(scale)) / math.sqrt(math.pi)


def _slope_in_scale(location: Array, target: Array, scale: Array) -> Array:
    at = location, target, scale
    density = target * _density(*at)
    return density - _mean_distance(location, scale) + scale * _slope_in_location(*at)


def _slope_in_location_and_scale(slope: Array, *at: Array) -> Array:
    location, target, scale = at
    density = target * _density(*at) * (_log_score(*at) / scale + 1)
    return density - _mean_distance(location, scale) + scale * slope


# The derivatives of the series and of the difference of tails would cancel.
_crps_log_normal.defjvps(
    lambda location_dot, _, *at: _slope_in_location(*at) * location_dot,
    lambda target_dot, _, *at: erf(_log_score(*at) * math.sqrt(0.5)) * target_dot,
    lambda scale_dot, _, *at: _slope_in_scale(*at) * scale_dot,
)
_slope_in_location.defjvps(
    lambda location_dot, out, *at: (out + at[1] * _density(*at) / at[2]) * location_dot,
    lambda target_dot, _, *at: -_density(*at) / at[2] * target_dot,
    lambda scale_dot, out, *at: _slope_in_location_and_scale(out, *at) * scale_dot,
)


@loss(nonnegative, smooth, target=positive, scale=positive)
def crps_log_normal(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    scale: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""CRPS of a log-normal distribution, given mean and standard deviation of the logarithm.

    When to use: positive amounts over several orders of magnitude, scored in their own unit.

    $$\ell(\mu, \sigma, y) = y\,(2 \Phi(z) - 1) - 2 e^{\mu + \sigma^2 / 2} \left(
      \Phi(z - \sigma) - \Phi(-\sigma / \sqrt2) \right), \qquad z = \frac{\log y - \mu}{\sigma}$$

    In the unit of the target, examples with large amounts dominate a mean; `crps_gaussian` of the
    logarithms scores all amounts alike. For scales below 1/2 the terms cancel as written; they are
    computed as a series there.

    Args:
        location: The predicted mean of the logarithm: the log of the median.
        target: The observed amount, above 0.
        scale: The predicted standard deviation of the logarithm, above 0.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> crps_log_normal([0.0, 0.0], [1.0, 1e10], scale=0.5)
        Array([1.2079185e-01, 1.0000000e+10], dtype=float32)

    References:
        Baran and Lerch, *Log-normal Distribution Based Ensemble Model Output Statistics Models for
        Probabilistic Wind-speed Forecasting*, 2015.
    """
    return _crps_log_normal(location, target, scale)


@loss(smooth, symmetric, translation_invariant, scale=positive)
def dawid_sebastiani(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    scale: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Dawid-Sebastiani score: a proper score of mean and standard deviation alone.

    When to use: forecasts of which only mean and spread are known, or are to be judged.

    $$\ell(\mu, \sigma, y) = \frac{(y - \mu)^2}{\sigma^2} + 2 \log \sigma$$

    It is twice `nll.gaussian` without its constant, but proper for any distribution with these
    moments. For an ensemble, give the mean and the standard deviation of the members.

    Args:
        location: The predicted mean.
        target: The observed value, in the same unit.
        scale: The predicted standard deviation, above 0, in the unit of the target.

    Returns:
        The score of each example; it may be negative.

    Example:
        >>> dawid_sebastiani([0.0, 0.0], [0.0, 4.0], scale=2.0)
        Array([1.3862944, 5.3862944], dtype=float32)

    References:
        Dawid and Sebastiani, *Coherent Dispersion Criteria for Optimal Experimental Design*, 1999.
    """
    return jnp.square(numerics.quotient(target - location, scale)) + 2 * jnp.log(scale)
