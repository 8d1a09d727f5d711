"""Numbers in a bounded range: proportions between 0 and 1, and angles."""

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import nonnegative_number, positive, unit_interval
from jaxloss.numerics._angles import one_minus_cos
from jaxloss.numerics._bessel import log_bessel_i0
from jaxloss.numerics._gamma import (
    HALF_LOG_2PI,
    log_factorial,
    log_rising,
    plus_one_below_1,
    stirling_error_from_1,
)
from jaxloss.numerics._log_ratios import bregman_gap
from jaxloss.traits import convex, smooth, symmetric, translation_invariant


@loss(convex, smooth, alpha=positive, target=unit_interval, beta=positive)
def beta(
    alpha: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    beta: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Beta negative log-likelihood of a proportion.

    When to use: proportions between 0 and 1 whose spread is predicted too.

    $$\ell(\alpha, \beta, y) = \log \frac{\Gamma(\alpha) \Gamma(\beta)}{\Gamma(\alpha + \beta)}
      - (\alpha - 1) \log y - (\beta - 1) \log(1 - y)$$

    The mean is $\alpha / (\alpha + \beta)$; the larger $\alpha + \beta$, the smaller the variance.
    They are `concentration1` and `concentration0` in torch and TFP. At a proportion of exactly 0 or
    1 the loss is inf if its parameter ($\alpha$ at 0, $\beta$ at 1) is above 1, and -inf if it is
    below 1.

    Args:
        alpha: The first shape parameter, above 0; it raises the mean.
        target: The observed proportion, from 0 to 1.
        beta: The second shape parameter, above 0; it lowers the mean.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> beta(2.0, [0.5, 0.75], beta=2.0)
        Array([-0.405465, -0.117783], dtype=float32)

    References:
        Ferrari and Cribari-Neto, *Beta Regression for Modelling Rates and Proportions*, 2004.
    """
    swap = alpha < beta
    small, large = jnp.where(swap, alpha, beta), jnp.where(swap, beta, alpha)
    few, low = small < 8, small < 1
    # The Stirling errors at both and at their sum, below 1 at one more, serve both forms.
    base = plus_one_below_1(large)
    of_small, of_large, of_total = (
        stirling_error_from_1(x) for x in (plus_one_below_1(small), base, base + small)
    )
    part, above = jnp.where(low, small, 1), jnp.where(low, small, small - 1)
    log_gamma_of_small = log_factorial(above, of_small) - jnp.log(part)
    rising = log_rising(large, small, (of_large, of_total))
    log_beta = log_gamma_of_small - small * jnp.log(large) - rising
    log_kernel = numerics.xlogy(alpha - 1, target) + numerics.xlog1py(beta - 1, -target)
    direct = log_beta - log_kernel

    # For two large parameters the direct form cancels: it is measured from the peak of the density.
    a, b = jnp.where(few, 8, alpha), jnp.where(few, 8, beta)
    at_end = (target == 0) | (target == 1)  # where the density is 0
    y = jnp.where(few | at_end, 0.5, target)
    total, z, one = a + b, 1 - y, jnp.ones_like(y)
    off = b * y - a * z
    log_a = jnp.log(numerics.quotient(a, total * y))
    log_b = jnp.log(numerics.quotient(b, total * z))
    spread = a * bregman_gap(one, numerics.quotient(off, a), log_a)
    spread = spread + b * bregman_gap(one, numerics.quotient(-off, b), log_b)
    scale = HALF_LOG_2PI + 0.5 * jnp.log(numerics.quotient(numerics.quotient(total, a), b))
    errors = of_large + (of_small - of_total)
    from_peak = spread + (jnp.log(y) + jnp.log1p(-y)) + (scale + errors)
    return jnp.where(few, direct, jnp.where(at_end, jnp.inf, from_peak))


@loss(smooth, symmetric, translation_invariant, concentration=nonnegative_number)
def von_mises(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    concentration: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Von Mises negative log-likelihood of an angle.

    When to use: directions, phases and times of day, where 359 degrees is next to 1 degree.

    $$\ell(\mu, \kappa, y) = \log\left(2 \pi I_0(\kappa)\right) - \kappa \cos(y - \mu)$$

    A concentration of 0 is the uniform distribution; for a large one the loss is close to
    `gaussian` with variance $1/\kappa$, and does not overflow. The gradient in the location is 0
    opposite to the target too: start from small concentrations.

    Args:
        location: The predicted angle, in radians.
        target: The observed angle, in radians.
        concentration: The inverse of the variance, approximately; at least 0.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> von_mises([0.0, 0.0], [0.0, jnp.pi], concentration=1.0)
        Array([1.0737915, 3.0737915], dtype=float32)

    References:
        Mardia and Jupp, *Directional Statistics*, 2000.
    """
    # A flat distribution is measured from its mean, a peaked one from its peak.
    peaked = concentration > 1
    away = one_minus_cos(location, target, peaked)
    return concentration * away + (log_bessel_i0(concentration, peaked) + math.log(2 * math.pi))
