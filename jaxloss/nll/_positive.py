"""Positive amounts, whose spread grows with their mean: costs, durations, rainfall."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import nonnegative_number, positive
from jaxloss.numerics._gamma import HALF_LOG_2PI, log_factorial, stirling_error
from jaxloss.numerics._log_ratios import log_ratio, ratio_minus_log1p
from jaxloss.numerics._tweedie import boxcox_difference, tweedie_half_deviance
from jaxloss.traits import nonnegative, smooth, zero_at_match


@loss(smooth, mean=positive, target=positive, concentration=positive)
def gamma(
    mean: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    concentration: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict positive amounts whose errors grow with the amount: costs, waiting times.

    $$\ell(\mu, a, y) = a \left( \frac{y}{\mu} - \log \frac{a y}{\mu} \right)
      + \log y + \log \Gamma(a)$$

    The standard deviation is $\mu / \sqrt a$, in proportion to the mean, so that relative errors
    count. `Gamma(concentration, rate)` of torch and TFP has the mean concentration / rate. A
    target of 0 is impossible: amounts that may be 0 are for `tweedie_deviance`.

    Args:
        mean: The predicted mean, above 0.
        target: What was observed, above 0, in the same unit.
        concentration: The inverse of the squared relative error, above 0; 1 is exponential.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> gamma([1.0, 1.0], [1.0, 3.0], concentration=1.0)
        Array([1., 3.], dtype=float32)

    References:
        McCullagh and Nelder, *Generalized Linear Models*, 1989.
    """
    large = concentration >= 1
    shape = jnp.where(large, concentration, 1)
    small = jnp.where(large, 1, concentration)
    # log gamma(a) - a log a + a, which is about -log(a) / 2 for large a and -log(a) for small.
    peak = HALF_LOG_2PI - 0.5 * jnp.log(shape) + stirling_error(shape)
    low = log_factorial(small) - (1 + small) * jnp.log(small) + small
    gap = _deviance_of_ratio(target, mean)
    return concentration * gap + jnp.log(target) + jnp.where(large, peak, low)


@jax.custom_jvp
def _deviance_of_ratio(x: Array, y: Array) -> Array:
    """x / y - 1 - log(x / y): 0 where the two are equal, and never below."""
    return ratio_minus_log1p(numerics.quotient(x - y, y), log_ratio(x, y))


@_deviance_of_ratio.defjvp
def _deviance_of_ratio_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, y), (x_dot, y_dot) = primals, tangents
    change = numerics.quotient(x - y, y)
    # Times the inverse: of two divisions XLA makes one, by the square of y.
    of_x, of_y = (numerics.quotient(jnp.ones_like(y), z) for z in (x, y))
    slope = change * of_x * x_dot - change * of_y * y_dot
    return _deviance_of_ratio(x, y), slope


@jax.custom_jvp
def _tweedie(mean: Array, target: Array, power: Array) -> Array:
    none = target == 0
    target = jnp.where(none, mean, target)
    several = 2 * tweedie_half_deviance(mean, target, log_ratio(target, mean), power)
    finite = power < 2
    left = jnp.where(finite, 2 - power, 1)
    cost = jnp.where(finite, 2 * mean**left / left, jnp.inf)
    return jnp.where(none, cost, several)


@_tweedie.defjvp
def _tweedie_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (mean, target, power), (mean_dot, target_dot, power_dot) = primals, tangents
    none = target == 0
    # Not the power -p, which overflows where the slope does not.
    to_mean = 2 * (numerics.quotient(mean - target, mean) * mean ** (1 - power))
    several = jnp.where(none, mean, target)
    logarithm = log_ratio(several, mean)
    to_target = 2 * boxcox_difference(several, mean, logarithm, 1 - power)
    # At a target of 0 the slope is infinite from power 1 on: 0 by convention.
    below = power < 1
    left = jnp.where(below, 1 - power, 1)
    to_target = jnp.where(none, jnp.where(below, -2 * mean**left / left, 0), to_target)
    _, from_several = jax.jvp(
        lambda p: 2 * tweedie_half_deviance(mean, several, logarithm, p), (power,), (power_dot,)
    )
    finite = power < 2
    rest = jnp.where(finite, 2 - power, 1)
    from_none = -2 * mean**rest * (jnp.log(mean) - 1 / rest) / rest * power_dot
    from_power = jnp.where(none, jnp.where(finite, from_none, 0), from_several)
    return _tweedie(mean, target, power), to_mean * mean_dot + to_target * target_dot + from_power


@loss(nonnegative, smooth, zero_at_match, mean=positive, target=nonnegative_number)
def tweedie_deviance(
    mean: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    power: Real[ArrayLike, ""] = 1.5,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for amounts that are often exactly 0 and positive otherwise: claims, rain, sales.

    $$\ell_p(\mu, y) = 2 \int_\mu^y \frac{y - t}{t^p} \, dt = 2 \left(
      \frac{y^{2-p}}{(1-p)(2-p)} - \frac{y \mu^{1-p}}{1-p} + \frac{\mu^{2-p}}{2-p} \right)$$

    The variance grows as $\mu^p$. The power may be any number, traced or learned: 0 gives the
    squared error, 1 the deviance of `poisson`, 2 that of `gamma`, 3 that of the inverse Gaussian.
    Between 1 and 2, zeros and positive amounts go together; from 2 on a target of 0 costs inf.
    (The default of scikit-learn is 0, of XGBoost 1.5.) The deviance is twice the negative
    log-likelihood less its smallest value, so it is 0 at a perfect prediction.

    Args:
        mean: The predicted mean, above 0.
        target: What was observed, at least 0, in the same unit.
        power: The power of the mean that the variance is in proportion to.

    Returns:
        The deviance of each example.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> tweedie_deviance([1.0, 4.0], [1.0, 0.0])
        Array([0., 8.], dtype=float32)

    References:
        Jorgensen, *Exponential Dispersion Models*, 1987.
    """
    return _tweedie(mean, target, jnp.broadcast_to(power, mean.shape).astype(mean.dtype))
