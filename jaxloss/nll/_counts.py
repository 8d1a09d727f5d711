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
from jaxloss.numerics._gamma import log_factorial, log_gamma, log_rising, stirling_error
from jaxloss.numerics._log_ratios import log1p_ratio, log_ratio, ratio_minus_log1p, scaled_log1p
from jaxloss.numerics._special import x_minus_log1p
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
    r"""Take it to predict counts whose variance is about their mean: clicks, photons, spikes.

    $$\ell(\lambda, y) = \lambda - y \log \lambda + \log y!$$

    The prediction is $\log \lambda$, as in `torch`; the rate itself with `log_input=False`. A rate
    of 0 costs 0 if nothing was counted and inf otherwise (torch adds 1e-8 to it, keras 1e-7).
    `full=False` leaves out the last term, which no prediction changes and which torch and keras
    leave out. Counts that vary more than this allows are for `negative_binomial`.

    Args:
        prediction: The logarithm of the expected count, or with `log_input=False` that count.
        target: What was counted, at least 0; it need not be an integer.
        log_input: Whether the prediction is the logarithm of the rate.
        full: Whether log(y!) is added.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> poisson([2.0, 0.0], [0, 1], log_input=False)
        Array([ 2., inf], dtype=float32)

    References:
        Nelder and Wedderburn, *Generalized Linear Models*, 1972.
    """
    rate, log_rate = _mean_and_log(prediction, log_input)
    few = target < 1
    linear = rate - (target * log_rate if log_input else numerics.xlogy(target, prediction))
    if not full:
        return linear
    # Large terms cancel in `linear + log y!`; the deviance and log y! less its maximum do not.
    count = jnp.where(few, 1, target)
    peak = 0.5 * jnp.log(2 * math.pi * count) + stirling_error(count)
    factorial = log_factorial(jnp.where(few, target, 0))
    rate, log_rate = jnp.where(few, 1, rate), jnp.where(few, 0, log_rate)
    return jnp.where(few, linear + factorial, _half_deviance(count, rate, log_rate) + peak)


def _mean_and_log(prediction: Array, log_input: bool) -> tuple[Array, Array]:
    if log_input:
        return jnp.exp(prediction), prediction
    some = prediction > 0
    return prediction, jnp.where(some, jnp.log(jnp.where(some, prediction, 1)), -jnp.inf)


def _half_deviance(count: Array, rate: Array, log_rate: Array) -> Array:
    """count log(count / rate) + rate - count, without cancellation where the two are close."""
    near = jnp.abs(rate - count) < 0.5 * count
    change = numerics.quotient(jnp.where(near, rate - count, 0), count)
    far = (rate - count) - count * (log_rate - jnp.log(count))
    return jnp.where(near, count * x_minus_log1p(change), far)


@loss(smooth, prediction=mean_or_its_log, target=nonnegative_number, total_count=positive)
def negative_binomial(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    total_count: Real[ArrayLike, "*batch"],
    *,
    log_input: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict counts that vary more than `poisson` allows: sales, reads, accidents.

    $$\ell(\mu, r, y) = -\log \frac{\Gamma(y + r)}{\Gamma(r)\, y!}
      + (r + y) \log(r + \mu) - r \log r - y \log \mu$$

    The variance is $\mu + \mu^2 / r$: the larger the total count $r$, the closer to `poisson`.
    It is `total_count` of torch and TFP, whose `logits` are $\log(\mu / r)$; statisticians call
    $1/r$ the dispersion. The prediction is $\log \mu$, or $\mu$ with `log_input=False`.

    Args:
        prediction: The logarithm of the expected count, or with `log_input=False` that count.
        target: What was counted, at least 0.
        total_count: The inverse of the dispersion, above 0; may be learned.
        log_input: Whether the prediction is the logarithm of the expected count.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> negative_binomial([1.0, 1.0], [0, 2], total_count=1.0, log_input=False)
        Array([0.6931472, 2.0794415], dtype=float32)

    References:
        Hilbe, *Negative Binomial Regression*, 2011.
    """
    _, log_mean = _mean_and_log(prediction, log_input)
    huge = log_mean > 85  # the mean would overflow in float32, where this loss does not
    mean, safe_log = _mean_and_log(jnp.where(huge, 1, prediction), log_input)
    growth = scaled_log1p(total_count, mean) + target * log1p_ratio(mean, total_count)
    linear = growth - (target * safe_log if log_input else numerics.xlogy(target, mean))
    log_count = jnp.log(total_count)
    log_odds = jnp.where(huge, log_mean, 0) - log_count
    linear = jnp.where(huge, total_count * log_odds - target * log_count, linear)
    few = target < 1
    count = jnp.where(few, 1, target)
    error = stirling_error(count)
    factorial = jnp.where(
        few, log_factorial(jnp.where(few, target, 0)), log_gamma(count, error) + jnp.log(count)
    )
    direct = linear + (factorial - log_rising(total_count, target))

    # For large counts the direct form cancels; near its minimum these terms are as small as it.
    few = few | huge
    mean, log_mean = jnp.where(few, 1, mean), jnp.where(few, 0, log_mean)
    ahead, total = total_count + count, total_count + mean
    change = numerics.quotient(mean - count, count) * numerics.fraction(total_count, mean)
    log_ahead = log_ratio(ahead, total)
    log_share = log_ahead + (log_mean - jnp.log(count))
    spread = total_count * ratio_minus_log1p(numerics.quotient(count - mean, total), log_ahead)
    spread = spread + count * ratio_minus_log1p(change, log_share)
    scale = jnp.log(2 * math.pi * count) + jnp.log1p(numerics.quotient(count, total_count))
    errors = error + (stirling_error(total_count) - stirling_error(ahead))
    return jnp.where(few, direct, spread + 0.5 * scale + errors)
