"""Scores of quantiles, and of intervals between two quantiles."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics, regression
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import positive, unit_interval
from jaxloss.traits import bounded_gradient, convex, nonnegative, translation_invariant


@loss(convex, nonnegative, bounded_gradient, translation_invariant, level=unit_interval)
def crps_quantiles(
    prediction: Real[ArrayLike, "*batch levels"],
    target: Real[ArrayLike, "*batch"],
    *,
    level: Real[ArrayLike, "levels"] | None = None,
    mask: Bool[ArrayLike, "*batch levels"] | Bool[ArrayLike, "levels"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""CRPS of a distribution that is given by quantiles: twice their mean pinball loss.

    When to use: models that predict quantiles, to be compared with other scores of this family.

    $$\ell(q, y) = \frac{2}{K} \sum_{k=1}^K \max\left( (1 - \tau_k)(q_k - y),
      -\tau_k (q_k - y) \right)$$

    It is the integral of the pinball loss over the levels, with equal weights: give levels that
    are evenly spaced. With the midpoints, the default, it is the exact CRPS of an ensemble whose
    members are the quantiles in order, `crps_ensemble(..., fair=False)`. It is twice
    `regression.quantiles`. Nothing keeps the predicted quantiles in order.

    Args:
        prediction: Predicted quantiles, one for each level.
        target: Observed values, in the same unit.
        level: The probability, for each quantile, that a target is below it. If None, the levels
            are the midpoints of equal parts: 1/6, 1/2, 5/6 for three quantiles.
        mask: False leaves a quantile out of an example, or of all examples.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> crps_quantiles([[-1.0, 1.0]], [3.0], level=[0.25, 0.75])
        Array([2.5], dtype=float32)

    References:
        Bröcker, *Evaluating Raw Ensembles with the Continuous Ranked Probability Score*, 2012.
    """
    return 2 * regression.quantiles(prediction, target, level=level, mask=mask)


def _outside(lower: Array, upper: Array, target: Array) -> Array:
    """How far the target is below the interval, plus how far above."""
    return numerics.relu(lower - target) + numerics.relu(target - upper)


@loss(convex, nonnegative, bounded_gradient, alpha=positive)
def interval_score(
    lower: Real[ArrayLike, "*batch"],
    upper: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    alpha: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Interval score, or Winkler score, of a central prediction interval.

    When to use: models that predict an interval, which should be narrow and contain the target
    with probability $1 - \alpha$.

    $$\ell(l, u, y) = (u - l) + \frac{2}{\alpha} \max(0, l - y) + \frac{2}{\alpha} \max(0, y - u)$$

    The best interval is that of the quantiles of levels $\alpha/2$ and $1 - \alpha/2$; the score is
    $2/\alpha$ times the sum of their pinball losses, so that it is at least 0 even where the ends
    are in the wrong order.

    Args:
        lower: The lower end of the predicted interval.
        upper: The upper end.
        target: The observed value, in the same unit.
        alpha: The probability that the target is outside, above 0: 0.1 for an interval of 90 %.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> interval_score([-1.0, -1.0], [1.0, 1.0], [0.0, 3.0], alpha=0.5)
        Array([ 2., 10.], dtype=float32)

    References:
        Winkler, *A Decision-Theoretic Approach to Interval Estimation*, 1972.
        Gneiting and Raftery, *Strictly Proper Scoring Rules, Prediction, and Estimation*, 2007.
    """
    return (upper - lower) + 2 * numerics.quotient(_outside(lower, upper, target), alpha)


@loss(convex, nonnegative, bounded_gradient, alpha=positive)
def weighted_interval_score(
    median: Real[ArrayLike, "*batch"],
    lower: Real[ArrayLike, "*batch levels"],
    upper: Real[ArrayLike, "*batch levels"],
    target: Real[ArrayLike, "*batch"],
    *,
    alpha: Real[ArrayLike, "levels"] | None = None,
    mask: Bool[ArrayLike, "*batch levels"] | Bool[ArrayLike, "levels"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Weighted interval score: the CRPS of a median and several central intervals.

    When to use: forecasts that are exchanged as a median and intervals, as in epidemiology.

    $$\ell(m, l, u, y) = \frac{1}{K + \frac12} \left( \tfrac12 |y - m|
      + \sum_{k=1}^K \tfrac{\alpha_k}{2} \, \mathrm{IS}_{\alpha_k}(l_k, u_k, y) \right)$$

    with the `interval_score` IS. It is twice the mean pinball loss of the $2K + 1$ quantiles, which
    approximates the CRPS if their levels are evenly spaced. scoringrules 0.10 adds half the median
    in place of half its error, except with numba.

    Args:
        median: The predicted median.
        lower: The lower end of each interval.
        upper: The upper end of each interval.
        target: The observed value, in the same unit.
        alpha: The probability that the target is outside, for each interval, above 0. If None,
            the levels of all quantiles are evenly spaced: 1/4, 1/2, 3/4 for three intervals.
        mask: False leaves an interval out of an example, or of all examples.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> weighted_interval_score(0.0, [-1.0], [1.0], 3.0, alpha=[0.5])
        Array(2.6666667, dtype=float32)

    References:
        Bracher et al., *Evaluating Epidemic Forecasts in an Interval Format*, 2021.
    """
    count = lower.shape[-1]
    evenly = jnp.arange(1, count + 1, dtype=lower.dtype) / (count + 1)
    alpha = jnp.broadcast_to(evenly if alpha is None else jnp.asarray(alpha), lower.shape)
    outside = _outside(lower, upper, target[..., None])
    terms = 0.5 * alpha * (upper - lower) + outside
    if mask is not None:
        terms = jnp.where(mask, terms, 0)
        count = jnp.sum(mask, axis=-1, dtype=jnp.int32).astype(terms.dtype)
    total = 0.5 * numerics.absolute(target - median) + jnp.sum(terms, axis=-1)
    return total / (count + 0.5)
