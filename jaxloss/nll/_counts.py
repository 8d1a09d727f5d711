"""Counts: how often something happened."""

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import mean_or_its_log, nonnegative_number, positive
from jaxloss.numerics._gamma import (
    log_factorial,
    log_rising,
    plus_one_below_1,
    stirling_error,
    stirling_error_from_1,
)
from jaxloss.numerics._log_ratios import bregman_gap, log1p_ratio, log_ratio, scaled_log1p
from jaxloss.traits import convex, smooth


@loss(convex, smooth, prediction=mean_or_its_log, target=nonnegative_number)
def poisson(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    log_input: bool = True,
    full: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Poisson negative log-likelihood of a count, given its mean or the logarithm of its mean.

    When to use: counts whose variance is about their mean, such as clicks, photons and spikes. For
    counts that vary more, use `negative_binomial`.

    $$\ell(\lambda, y) = \lambda - y \log \lambda + \log y!$$

    The prediction is $\log \lambda$, as in torch, or with `log_input=False` the rate $\lambda$. At
    a rate of 0 the loss is 0 for a count of 0 and inf for others (torch adds 1e-8 to the rate,
    keras 1e-7). `full=False` leaves out $\log y!$, which does not depend on the prediction, as
    torch and keras do.

    Args:
        prediction: The logarithm of the expected count, or with `log_input=False` that count.
        target: The observed count, at least 0; it need not be an integer.
        log_input: Whether the prediction is the logarithm of the rate.
        full: Whether log(y!) is added.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> poisson([2.0, 0.0], [0, 1], log_input=False)
        Array([ 2., inf], dtype=float32)

    References:
        Nelder and Wedderburn, *Generalized Linear Models*, 1972.
    """
    rate = jnp.exp(prediction) if log_input else prediction
    if not full:
        return rate - _target_times_log(target, prediction, log_input)
    # From a count of 1 on, large terms cancel in `linear + log y!`. They do not in the deviance,
    # nor in log y! less its value at the maximum of the likelihood.
    few = target < 1
    # Each branch has harmless values where the other one is taken: 0 times inf is NaN.
    of_few = jnp.where(few, prediction, 0 if log_input else 1)
    linear = jnp.where(few, rate, 0) - _target_times_log(
        jnp.where(few, target, 0), of_few, log_input
    )
    count, rate = jnp.where(few, 1, target), jnp.where(few, 1, rate)
    if log_input:
        log_count_over_rate = jnp.log(count) - jnp.where(few, 0, prediction)
    else:
        log_count_over_rate = log_ratio(count, rate)
    deviance_over_2 = bregman_gap(count, rate - count, log_count_over_rate)
    peak = 0.5 * jnp.log(2 * math.pi * count) + stirling_error_from_1(count)
    factorial = log_factorial(jnp.where(few, target, 0))
    return jnp.where(few, linear + factorial, deviance_over_2 + peak)


def _target_times_log(target: Array, prediction: Array, log_input: bool) -> Array:
    """target * log(mean), which is 0 if both target and mean are 0."""
    if log_input:
        return numerics.multiply_no_nan(target, prediction)
    return numerics.xlogy(target, prediction)


@loss(smooth, prediction=mean_or_its_log, target=nonnegative_number, total_count=positive)
def negative_binomial(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    total_count: Real[ArrayLike, "*batch"],
    *,
    log_input: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Negative binomial negative log-likelihood of a count, given its mean and total count.

    When to use: counts whose variance exceeds their mean, such as sales, reads and accidents.

    $$\ell(\mu, r, y) = -\log \frac{\Gamma(y + r)}{\Gamma(r)\, y!}
      + (r + y) \log(r + \mu) - r \log r - y \log \mu$$

    The variance is $\mu + \mu^2 / r$: for a large total count $r$ the loss tends to `poisson`. It
    is `total_count` in torch and TFP, whose `logits` are $\log(\mu / r)$; statisticians call $1/r$
    the dispersion. The prediction is $\log \mu$, or with `log_input=False` the mean $\mu$.

    Args:
        prediction: The logarithm of the expected count, or with `log_input=False` that count.
        target: The observed count, at least 0.
        total_count: The inverse of the dispersion, above 0; may be learned.
        log_input: Whether the prediction is the logarithm of the expected count.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> negative_binomial([1.0, 1.0], [0, 2], total_count=1.0, log_input=False)
        Array([0.6931472, 2.0794415], dtype=float32)

    References:
        Hilbe, *Negative Binomial Regression*, 2011.
    """
    few = target < 1
    count = jnp.where(few, 1, target)
    # The mean overflows in float32 where this loss does not; there it is linear in log(mean).
    huge = prediction > 85 if log_input else jnp.zeros(prediction.shape, bool)
    known = jnp.where(huge, 1, prediction)
    mean = jnp.exp(known) if log_input else known
    linear = scaled_log1p(total_count, mean) + target * log1p_ratio(mean, total_count)
    linear = linear - _target_times_log(target, known, log_input)
    log_total_count = jnp.log(total_count)
    far = total_count * (jnp.where(huge, prediction, 0) - log_total_count)
    linear = jnp.where(huge, far - target * log_total_count, linear)
    use_direct = few | huge
    # The Stirling errors serve both forms: of r they are at r + 1 if r is below 1, but the second
    # form needs that of r + y.
    base = plus_one_below_1(total_count)
    of_count = stirling_error_from_1(jnp.where(use_direct, 1 + target, count))
    of_base = stirling_error_from_1(base)
    of_total = stirling_error_from_1(jnp.where(use_direct, base + target, total_count + count))
    factorial = log_factorial(jnp.where(use_direct, target, 0), of_count)
    direct = linear + (factorial - log_rising(total_count, target, (of_base, of_total)))

    # For large counts the terms of the direct form cancel. These terms are as small as the loss
    # near its minimum: with m = mean, r = total count and y = count, two Bregman divergences, of (y
    # + r) / (m + r) and of (y + r) m / ((m + r) y) from 1.
    mean = jnp.where(use_direct, 1, mean)
    total, observed_total = total_count + mean, total_count + count
    log_totals = log_ratio(observed_total, total)
    if log_input:
        log_mean_over_count = jnp.where(use_direct, 0, prediction) - jnp.log(count)
    else:
        log_mean_over_count = log_ratio(mean, count)
    one = jnp.ones_like(count)
    change = numerics.quotient(mean - count, count) * numerics.fraction(total_count, mean)
    spread = total_count * bregman_gap(one, numerics.quotient(count - mean, total), -log_totals)
    spread = spread + count * bregman_gap(one, change, -(log_totals + log_mean_over_count))
    scale = jnp.log(2 * math.pi * count) + log1p_ratio(count, total_count)
    errors = of_count + (stirling_error(total_count, of_base) - of_total)
    return jnp.where(use_direct, direct, spread + 0.5 * scale + errors)
