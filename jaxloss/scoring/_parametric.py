r"""Scores of distributions that are given by location and scale.

With the error $e = y - \mu$ and $z = e / s$, each CRPS is written as a distance in which nothing
cancels, plus a constant times the scale: no factor overflows where the score does not.
"""

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import erf
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import positive
from jaxloss.numerics._reductions import summed_whole
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


def score(error: Array, scale: Array) -> Array:
    """The error in units of the scale, limited so that derivatives beyond are 0."""
    return numerics.quotient(jnp.clip(error, -FAR * scale, FAR * scale), scale)


def density_change(z: Array) -> Array:
    """Twice the normal density at z, less that at 0."""
    return ROOT_2_OVER_PI * numerics.expm1(-0.5 * jnp.square(z))


@jax.custom_jvp
def _crps_gaussian(error: Array, scale: Array) -> Array:
    z = score(error, scale)
    spread = density_change(z) + AT_MEDIAN
    return summed_whole(error * erf(z * math.sqrt(0.5)) + scale * spread)


# Derivatives of the formula as written cancel: terms that are equal are left out of them.
_crps_gaussian.defjvps(
    lambda error_dot, _, error, scale: erf(score(error, scale) * math.sqrt(0.5)) * error_dot,
    lambda scale_dot, _, error, scale: (
        (density_change(score(error, scale)) + AT_MEDIAN) * scale_dot
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


LOG_4 = 2 * math.log(2)


def _size(x: Array) -> Array:
    return jnp.where(x < 0, -x, x)  # not |x|, which has no derivative at 0


def _log_share(z: Array) -> Array:
    """The logarithm of the mean of 1 and exp(-|z|)."""
    return jnp.log1p(0.5 * numerics.expm1(-_size(z)))


@jax.custom_jvp
def _crps_logistic(error: Array, scale: Array) -> Array:
    spread = 2 * _log_share(score(error, scale)) + (LOG_4 - 1)
    return summed_whole(_size(error) + scale * spread)


@jax.custom_jvp
def _tanh_of_half(z: Array) -> Array:
    change = numerics.expm1(-_size(z))
    return jnp.where(z < 0, change, -change) / (2 + change)


_tanh_of_half.defjvps(lambda z_dot, _, z: 2 * numerics.sigmoid(z) * numerics.sigmoid(-z) * z_dot)


@jax.custom_jvp
def _logistic_slope_in_scale(z: Array) -> Array:
    size = _size(z)
    tail = jnp.exp(-size)  # not 1 more than its difference from 1, which is rounded
    return 2 * _log_share(z) + (2 * size * tail / (1 + tail) + (LOG_4 - 1))


# Equal terms are left out of the derivative.
_logistic_slope_in_scale.defjvps(
    lambda z_dot, _, z: -2 * z * numerics.sigmoid(z) * numerics.sigmoid(-z) * z_dot
)
_crps_logistic.defjvps(
    lambda error_dot, _, error, scale: _tanh_of_half(score(error, scale)) * error_dot,
    lambda scale_dot, _, error, scale: _logistic_slope_in_scale(score(error, scale)) * scale_dot,
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
    size = jnp.abs(score(error, scale))
    return summed_whole(jnp.abs(error) + scale * (numerics.expm1(-size) + 0.25))


def _laplace_slope_in_error(error: Array, scale: Array) -> Array:
    size = jnp.abs(score(error, scale))
    return -jnp.sign(error) * numerics.expm1(-size)


def _laplace_slope_in_scale(error: Array, scale: Array) -> Array:
    size = numerics.absolute(score(error, scale))
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
