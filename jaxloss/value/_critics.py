"""Losses of critics: scalar values, quantiles, and values of a soft maximum."""

from typing import Literal, Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import nonnegative_number, positive, unit_interval
from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._reductions import mean_where
from jaxloss.regression import _huber
from jaxloss.traits import convex, nonnegative


@loss(nonnegative, clip=nonnegative_number)
def clipped_value(
    value: Real[ArrayLike, "*batch"],
    old_value: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    clip: Real[ArrayLike, ""] = 0.2,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Clipped value loss of PPO: half the larger squared error with and without a bounded change.

    When to use: several optimization steps on one batch of samples, with values of about unit
    scale; the bound is in the unit of the value.

    $$\ell = \tfrac12 \max\left((v - y)^2,\; (\mathrm{clip}(v, v_\text{old} - \epsilon,
      v_\text{old} + \epsilon) - y)^2\right)$$

    The gradient is 0 where the value has moved by more than the bound and the clipped error is
    the larger one. As in brax, Stoix and purejaxrl; skrl takes the clipped error alone.

    Args:
        value: The predicted value.
        old_value: The value that was predicted when the samples were drawn.
        target: The return to be predicted.
        clip: How far the value may move, in its own unit.

    Returns:
        The loss of each step, in the squared unit of the value.

    Example:
        >>> clipped_value([1.0, 2.0], [0.0, 0.0], [0.0, 3.0], clip=0.5)
        Array([0.5  , 3.125], dtype=float32)

    References:
        Schulman et al., *Proximal Policy Optimization Algorithms* (its code), 2017.
    """
    moved = two_sum(value, -old_value)
    # The NaN of one is the NaN of the loss, whichever error is the larger.
    value = jnp.where(jnp.isnan(moved.hi), value + old_value, value)
    side = jnp.sign(moved.hi)
    excess = moved * side - clip
    bounded_error = two_sum(old_value, side * clip) - target
    # The larger of the two errors, also where both are rounded to the same number.
    both = two_sum(value, -target) + bounded_error
    is_bounded = (excess.hi + excess.lo > 0) & (side * (both.hi + both.lo) < 0)
    return 0.5 * jnp.square(
        jnp.where(is_bounded, bounded_error.hi + bounded_error.lo, value - target)
    )


@loss(nonnegative, levels=unit_interval, delta=positive)
def quantile_huber(
    quantiles: Real[ArrayLike, "*batch n"],
    targets: Real[ArrayLike, "*batch m"],
    *,
    levels: Real[ArrayLike, "n"] | Real[ArrayLike, "*batch n"] | None = None,
    delta: Real[ArrayLike, ""] = 1.0,
    average: Literal["targets", "both"] = "targets",
    divide_by_delta: bool = False,
    mask: Bool[ArrayLike, "*batch m"] | Bool[ArrayLike, "m"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Quantile Huber loss of distributional critics: every quantile meets every target sample.

    When to use: QR-DQN, IQN and TQC critics, whose targets are themselves quantiles.

    $$\ell = \sum_i \frac1m \sum_j \left|\tau_i - [u_{ij} < 0]\right| H_\delta(u_{ij}), \qquad
      u_{ij} = y_j - q_i$$

    $H_\delta$ is the Huber loss. Three conventions are in use. QR-DQN, rlax and dopamine sum over
    the quantiles and average over the targets, as here; brax and TQC average over both
    (`average="both"`); IQN divides by delta as well (`divide_by_delta=True`), so that the loss
    tends to the pinball loss as delta tends to 0.

    Args:
        quantiles: The predicted quantiles of the return.
        targets: Samples or quantiles of the target; their number may differ.
        levels: The probability level of each quantile, one for all examples or one an example;
            None for the midpoints of even shares, (i + 1/2) / n.
        delta: The absolute error above which the Huber loss is linear.
        average: "targets" sums over the quantiles, "both" averages over them too.
        divide_by_delta: Whether to divide by delta.
        mask: False leaves a target out of an example, or of all examples: TQC leaves out the
            largest.

    Returns:
        The loss of each example.

    Example:
        >>> quantile_huber([[0.0, 1.0]], [[1.0]], levels=[0.25, 0.75])
        Array([0.125], dtype=float32)

    References:
        Dabney et al., *Distributional Reinforcement Learning with Quantile Regression*, 2018.
        Dabney et al., *Implicit Quantile Networks for Distributional Reinforcement Learning*, 2018.
    """
    count = quantiles.shape[-1]
    midpoints = (jnp.arange(count, dtype=quantiles.dtype) + 0.5) / count
    level = midpoints if levels is None else jnp.asarray(levels)
    level = jnp.broadcast_to(level, quantiles.shape)[..., :, None]
    error = numerics.pairwise_difference(-quantiles, -targets)
    asymmetry = jnp.where(error < 0, 1 - level, level)
    keep = None if mask is None else jnp.broadcast_to(mask, targets.shape)[..., None, :]
    each = jnp.sum(mean_where(asymmetry * _huber(error, delta), keep), axis=-1)
    each = each / count if average == "both" else each
    return each / delta if divide_by_delta else each


@loss(convex, nonnegative, scale=positive, clip=positive)
def gumbel(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    scale: Real[ArrayLike, ""] = 1.0,
    clip: Real[ArrayLike, ""] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Gumbel regression (LINEX) loss: its minimizer is the log-mean-exp of the targets.

    When to use: extreme Q-learning (XQL), to fit the soft maximum of values without actions.

    $$\ell = e^z - 1 - z, \qquad z = \frac{y - p}{\beta}$$

    Targets above the prediction cost exponentially, those below linearly. `clip` continues the
    loss along its tangent beyond $z$ = clip, which keeps it convex and its gradient finite; the
    code of XQL drops the gradient there. For small $z$ it is $z^2 / 2$, to all digits.

    Args:
        prediction: The predicted value.
        target: The value observed or bootstrapped, in the same unit.
        scale: The scale $\beta$ of the Gumbel distribution, in the unit of the value.
        clip: The $z$ beyond which the loss is linear; None for nowhere.

    Returns:
        The loss of each example.

    Example:
        >>> gumbel([0.0, 0.0], [1.0, 10.0], clip=2.0)
        Array([ 0.71828175, 55.501507  ], dtype=float32)

    References:
        Garg et al., *Extreme Q-Learning: MaxEnt RL without Entropy*, 2023.
    """
    z = (target - prediction) / scale
    if clip is None:
        return numerics.expm1_minus_x(z)
    beyond = z > clip
    inside = jnp.where(beyond, clip, z)
    return numerics.expm1_minus_x(inside) + jnp.where(beyond, jnp.expm1(inside) * (z - clip), 0)
