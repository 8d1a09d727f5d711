r"""The continuous ranked probability score of a log-normal distribution.

With scales below 1/2 its terms cancel; there it is that of a Gaussian and a series of small terms.
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
from jaxloss.numerics._derivatives import each_of_choice, sharing_more_on_tpu
from jaxloss.numerics._polynomials import power_series
from jaxloss.numerics._reductions import summed_whole
from jaxloss.scoring._parametric import AT_MEDIAN, ROOT_2_OVER_PI, density_change, score
from jaxloss.traits import nonnegative, smooth

Parts = tuple[Array, Array]


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
    log = jnp.log(jnp.where(usual, ratio, target)) - jnp.where(usual, 0, location)
    return score(log, scale)


def _of_odd_power(m: int) -> float:
    """The coefficient of s^(2 m + 1) in exp(s^2 / 2) erf(s / 2)."""
    of_erf = [
        (-0.25) ** n / math.factorial(n) / (2 * n + 1) / math.sqrt(math.pi) for n in range(m + 1)
    ]
    return sum(c * 0.5 ** (m - n) / math.factorial(m - n) for n, c in enumerate(of_erf))


# The powers of s, from 1 on, in sqrt(2 / pi) s - exp(s^2 / 2) erf(s / 2) + exp(s^2 / 2) - 1.
_OF_SCALE = (
    AT_MEDIAN,
    *(
        coefficient
        for k in range(1, 12)
        for coefficient in (0.5**k / math.factorial(k), -_of_odd_power(k))
    ),
)


def _spread_of_narrow(z: Array, scale: Array) -> Parts:
    """The score less |target - median|, over the median, for scales up to 1/2.

    That of a Gaussian, of the order of the scale, and small terms.
    """
    level = scale * power_series(scale, _OF_SCALE, radius=0.5)
    return scale * density_change(z), level - 2 * _moments(z, scale)


def _spread_of_wide(location: Array, z: Array, scale: Array) -> Parts:
    """Half the mean of |X - X'|, and the mean of X up to the target, which is subtracted."""
    half = jnp.exp(0.5 * location + 0.25 * jnp.square(scale))  # its square may overflow
    # A tail that underflows where the exponential overflows would give NaN.
    least = jnp.maximum(erfc(0.5 * scale), jnp.finfo(z.dtype).tiny)
    up_to_z = erfc((scale - z) * math.sqrt(0.5))
    return half * least * half, jnp.where(up_to_z == 0, 0, half * up_to_z * half)


def _from_choice(
    narrow: Array, target: Array, median: Array, probability: Array, spreads: tuple[Parts, Parts]
) -> tuple[Array, Array]:
    (gaussian, small), (distance, mean) = spreads
    of_narrow, of_wide = each_of_choice(narrow, median * (gaussian + small), distance - mean)
    value = jnp.where(
        narrow, (target - median) * probability + of_narrow, target * probability + of_wide
    )
    return value, jnp.where(narrow, of_narrow - median * probability, of_wide)


def _from_parts(
    narrow: Array, target: Array, median: Array, probability: Array, spreads: tuple[Parts, Parts]
) -> tuple[Array, Array]:
    (gaussian, small), (distance, mean) = spreads
    of_narrow = (target - median) * probability + median * (gaussian + small)
    value = jnp.where(narrow, of_narrow, (target * probability - mean) + distance)
    return value, jnp.where(narrow, median * ((gaussian - probability) + small), distance - mean)


def _log_normal_terms(location: Array, target: Array, scale: Array) -> tuple[Array, Array]:
    """The score, and its derivative in the location."""
    z, median = _log_score(location, target, scale), jnp.exp(location)
    narrow = scale < 0.5
    spreads = (
        _spread_of_narrow(z, jnp.where(narrow, scale, 0.25)),
        _spread_of_wide(location, z, jnp.where(narrow, 1, scale)),
    )
    return sharing_more_on_tpu(
        _from_choice, _from_parts, narrow, target, median, erf(z * math.sqrt(0.5)), spreads
    )


@jax.custom_jvp
def _crps_log_normal(location: Array, target: Array, scale: Array) -> Array:
    return summed_whole(_log_normal_terms(location, target, scale)[0])


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
