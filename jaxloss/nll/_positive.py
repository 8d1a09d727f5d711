"""Positive amounts, whose spread grows with their mean: costs, durations, rainfall."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import nonnegative_number, positive
from jaxloss.numerics._gamma import HALF_LOG_2PI, log_factorial, stirling_error_from_1
from jaxloss.numerics._log_ratios import bregman_gap, log_ratio
from jaxloss.numerics._tweedie import boxcox_difference, tweedie_half_deviance
from jaxloss.traits import nonnegative, smooth, zero_at_match


@loss(smooth, mean=positive, target=positive, concentration=positive)
def gamma(
    mean: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    concentration: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Gamma negative log-likelihood, given mean and concentration.

    When to use: positive amounts whose errors grow with the amount, such as costs and waiting
    times. For amounts that may be exactly 0, use `tweedie_deviance`.

    $$\ell(\mu, a, y) = a \left( \frac{y}{\mu} - \log \frac{a y}{\mu} \right)
      + \log y + \log \Gamma(a)$$

    The standard deviation is $\mu / \sqrt a$, in proportion to the mean: relative errors count.
    `Gamma(concentration, rate)` of torch and TFP has the mean concentration / rate.

    Args:
        mean: The predicted mean, above 0.
        target: The observed amount, above 0, in the same unit.
        concentration: The inverse of the squared relative error, above 0; 1 is the exponential
            distribution.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> gamma([1.0, 1.0], [1.0, 3.0], concentration=1.0)
        Array([1., 3.], dtype=float32)

    References:
        McCullagh and Nelder, *Generalized Linear Models*, 1989.
    """
    large = concentration >= 1
    shape = jnp.where(large, concentration, 1)
    small = jnp.where(large, 1, concentration)
    # log gamma(a) - a log a + a is about -log(a) / 2 for large a and -log(a) for small a.
    peak = HALF_LOG_2PI - 0.5 * jnp.log(shape) + stirling_error_from_1(shape)
    low = log_factorial(small) - (1 + small) * jnp.log(small) + small
    gap = _ratio_gap(target, mean)
    return concentration * gap + jnp.log(target) + jnp.where(large, peak, low)


@jax.custom_jvp
def _ratio_gap(x: Array, y: Array) -> Array:
    """x / y - 1 - log(x / y), at least 0, and 0 where x and y are equal."""
    return bregman_gap(jnp.ones_like(x), numerics.quotient(x - y, y), log_ratio(y, x))


# (x - y) / y times 1 / x, and not over x y, which may overflow; XLA merges two divisions into one.
_ratio_gap.defjvps(
    lambda x_dot, _, x, y: numerics.quotient(x - y, y) * numerics.quotient(x_dot, x),
    lambda y_dot, _, x, y: -numerics.quotient(x - y, y) * numerics.quotient(y_dot, y),
)


@jax.custom_jvp
def _tweedie_deviance(mean: Array, target: Array, power: Array) -> Array:
    impossible = (target == 0) & (power >= 2)
    some = jnp.where(impossible, mean, target)
    return jnp.where(impossible, jnp.inf, 2 * _deviance_over_2(mean, some, power))


def _deviance_over_2(mean: Array, target: Array, power: Array) -> Array:
    return tweedie_half_deviance(mean, target, log_ratio(target, mean), power)


def _slope_in_mean(mean: Array, target: Array, power: Array) -> Array:
    # Not with mean^-power, which may overflow where the derivative does not.
    error = numerics.quotient(mean - target, mean)
    return 2 * numerics.multiply_no_nan(error, mean ** (1 - power))


def _slope_in_target(mean: Array, target: Array, power: Array) -> Array:
    """The derivative in the target; 0 by convention where it is infinite: at 0 from power 1 on."""
    none = target == 0
    some = jnp.where(none, mean, target)
    above_0 = boxcox_difference(some, mean, log_ratio(some, mean), 1 - power)
    finite = power < 1
    exponent = jnp.where(finite, 1 - power, 1)
    at_0 = jnp.where(finite, -(mean**exponent) / exponent, 0)
    return 2 * jnp.where(none, at_0, above_0)


def _change_by_power(power_dot: Array, mean: Array, target: Array, power: Array) -> Array:
    none = target == 0
    some = jnp.where(none, mean, target)
    _, above_0 = jax.jvp(lambda p: _deviance_over_2(mean, some, p), (power,), (power_dot,))
    finite = power < 2
    exponent = jnp.where(finite, 2 - power, 1)
    at_0 = -(mean**exponent) * (jnp.log(mean) - 1 / exponent) / exponent * power_dot
    return 2 * jnp.where(none, jnp.where(finite, at_0, 0), above_0)


_tweedie_deviance.defjvps(
    lambda mean_dot, _, mean, target, power: _slope_in_mean(mean, target, power) * mean_dot,
    lambda target_dot, _, mean, target, power: _slope_in_target(mean, target, power) * target_dot,
    lambda power_dot, _, mean, target, power: _change_by_power(power_dot, mean, target, power),
)


@loss(nonnegative, smooth, zero_at_match, mean=positive, target=nonnegative_number)
def tweedie_deviance(
    mean: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    power: Real[ArrayLike, ""] = 1.5,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Tweedie deviance: between 1 and 2, that of amounts that are often exactly 0.

    When to use: amounts that are exactly 0 or positive, such as claims, rain and sales.

    $$\ell_p(\mu, y) = 2 \int_\mu^y \frac{y - t}{t^p} \, dt = 2 \left(
      \frac{y^{2-p}}{(1-p)(2-p)} - \frac{y \mu^{1-p}}{1-p} + \frac{\mu^{2-p}}{2-p} \right)$$

    The variance grows as $\mu^p$. The power may be any number, traced or learned: 0 gives the
    squared error, 1 the deviance of `poisson`, 2 that of `gamma`, 3 that of the inverse Gaussian.
    Between 1 and 2 both zeros and positive amounts are possible; from 2 on the loss of a target of
    0 is inf. (The default of scikit-learn is 0, of XGBoost 1.5.) A deviance is twice the negative
    log-likelihood less its smallest value, so it is 0 at a perfect prediction.

    Args:
        mean: The predicted mean, above 0.
        target: The observed amount, at least 0, in the same unit.
        power: The variance is proportional to this power of the mean.

    Returns:
        The deviance of each example.

    Example:
        >>> tweedie_deviance([1.0, 1.0], [1.0, 4.0])
        Array([0., 4.], dtype=float32)

    References:
        Jorgensen, *Exponential Dispersion Models*, 1987.
    """
    return _tweedie_deviance(mean, target, jnp.broadcast_to(power, mean.shape).astype(mean.dtype))
