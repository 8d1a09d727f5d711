"""Numbers that cannot leave a range: shares between 0 and 1, and directions on the circle."""

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import nonnegative_number, positive, unit_interval
from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._gamma import (
    HALF_LOG_2PI,
    log_factorial,
    log_gamma,
    log_rising,
    stirling_error,
)
from jaxloss.numerics._log_ratios import ratio_minus_log1p
from jaxloss.traits import convex, smooth, symmetric, translation_invariant


@loss(convex, smooth, alpha=positive, target=unit_interval, beta=positive)
def beta(
    alpha: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    beta: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict shares, between 0 and 1, and how much they vary.

    $$\ell(\alpha, \beta, y) = \log \frac{\Gamma(\alpha) \Gamma(\beta)}{\Gamma(\alpha + \beta)}
      - (\alpha - 1) \log y - (\beta - 1) \log(1 - y)$$

    The mean is $\alpha / (\alpha + \beta)$; the larger their sum, the smaller the variance. They
    are `concentration1` and `concentration0` of torch and TFP. A share of exactly 0 or 1 has
    infinite loss unless its parameter is 1, or minus infinity if that is below 1.

    Args:
        alpha: What draws the share to 1, above 0.
        target: The share observed, from 0 to 1.
        beta: What draws the share to 0, above 0.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> beta(2.0, [0.5, 0.75], beta=2.0)
        Array([-0.405465, -0.117783], dtype=float32)

    References:
        Ferrari and Cribari-Neto, *Beta Regression for Modelling Rates and Proportions*, 2004.
    """
    swap = alpha < beta
    small, large = jnp.where(swap, alpha, beta), jnp.where(swap, beta, alpha)
    few = small < 8
    tiny = small < 1
    part, rest = jnp.where(tiny, small, 0.5), jnp.where(tiny, 1, small)
    of_small = jnp.where(
        tiny,
        log_factorial(part) - jnp.log(part),
        log_gamma(rest, stirling_error(rest)),
    )
    normalizer = of_small - small * jnp.log(large) - log_rising(large, small)
    pull = numerics.xlogy(alpha - 1, target) + numerics.xlog1py(beta - 1, -target)
    direct = normalizer - pull

    # Of two large parameters the direct form cancels: measure from the peak of the density.
    a, b = jnp.where(few, 8, alpha), jnp.where(few, 8, beta)
    y = jnp.where(few, 0.5, target)
    total, z = a + b, 1 - y
    off = b * y - a * z
    spread = a * ratio_minus_log1p(
        numerics.quotient(off, a), jnp.log(numerics.quotient(total * y, a))
    )
    spread = spread + b * ratio_minus_log1p(
        numerics.quotient(-off, b), jnp.log(numerics.quotient(total * z, b))
    )
    errors = stirling_error(a) + stirling_error(b) - stirling_error(total)
    scale = HALF_LOG_2PI + 0.5 * (jnp.log(total / a) - jnp.log(b))
    far = spread + (jnp.log(y) + jnp.log1p(-y)) + (scale + errors)
    return jnp.where(few, direct, far)


def _log_bessel(x: Array, scaled: Array) -> Array:
    """log I0(x), less x where it is scaled, with slopes that have all their digits.

    Not scaled it is for x up to 1, where its power series keeps them.
    """
    square = 0.25 * jnp.square(jnp.where(scaled, 0, x))
    terms = jnp.ones_like(x)
    for k in range(10, 1, -1):
        terms = 1 + square / k**2 * terms
    low = jnp.log1p(square * terms)
    near = x < 20
    inner, outer = jnp.where(near, x, 0), jnp.where(near, 20, x)
    # The integral over a period, by the trapezoidal rule: exact to rounding with so few points.
    waves = [jnp.exp(-2 * math.sin(math.pi * j / 40) ** 2 * inner) for j in range(21)]
    mean = (0.5 * (waves[0] + waves[-1]) + sum(waves[1:-1])) / 20
    inverse, series = 1 / outer, jnp.ones_like(x)
    for j in range(20, 0, -1):
        series = 1 + (2 * j - 1) ** 2 / (8 * j) * inverse * series
    far = jnp.log(series) - 0.5 * jnp.log(2 * math.pi * outer)
    return jnp.where(scaled, jnp.where(near, jnp.log(mean), far), low)


@loss(smooth, symmetric, translation_invariant, concentration=nonnegative_number)
def von_mises(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    concentration: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict directions, phases or times of day, where 359 degrees is next to 1.

    $$\ell(\mu, \kappa, y) = \log\left(2 \pi I_0(\kappa)\right) - \kappa \cos(y - \mu)$$

    A concentration of 0 knows nothing; a large one is like `gaussian` with the variance
    $1/\kappa$, and does not overflow. The gradient is 0 opposite to the target, too: start from
    small concentrations.

    Args:
        location: The predicted angle, in radians.
        target: The angle observed, in radians.
        concentration: The inverse of about the variance, at least 0.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> von_mises([0.0, 0.0], [0.0, jnp.pi], concentration=1.0)
        Array([1.0737915, 3.0737915], dtype=float32)

    References:
        Mardia and Jupp, *Directional Statistics*, 2000.
    """
    error, lost = two_sum(target, -location)
    half, rest = 0.5 * error, 0.5 * lost
    # A flat distribution is measured from its mean, a peaked one from its peak. What rounding took
    # from the error counts next to the zeros of sine and cosine.
    peaked = concentration > 1
    chord = jnp.sin(half) + rest * jnp.cos(half)  # its square is 1 - cos, with the digits near 0
    cosine = jnp.cos(error) - lost * jnp.sin(error)
    away = jnp.where(peaked, 2 * jnp.square(chord), -cosine)
    return concentration * away + (_log_bessel(concentration, peaked) + math.log(2 * math.pi))
