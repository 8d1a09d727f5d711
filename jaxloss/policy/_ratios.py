r"""Policy-gradient losses, most of them functions of the ratio $\rho = \pi / \pi_\text{old}$."""

import math
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import extended, finite, nonnegative_number, positive, unit_interval
from jaxloss.numerics._double_double import (
    DD,
    at_dd,
    difference,
    exp_dd,
    two_product,
    two_sum,
)
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.numerics._reductions import mean_where


@jax.custom_jvp
def _exp(log_ratio: DD) -> Float[Array, "*shape"]:
    """The exponential, infinite where it overflows."""
    largest = math.floor(math.log(float(jnp.finfo(log_ratio.hi.dtype).max)))
    # Up to the overflow, e times the exponential of a logarithm less by 1, which is a number.
    beyond = log_ratio.hi > largest
    fits = jnp.where(beyond, jnp.minimum(log_ratio.hi - 1, largest), log_ratio.hi)
    return exp_dd(log_ratio._replace(hi=fits)) * jnp.where(beyond, math.e, 1).astype(fits.dtype)


_exp.defjvps(lambda log_ratio_dot, out, _: out * log_ratio_dot.hi)


@jax.custom_jvp
def _ratio_within(
    log_prob: Float[Array, "*batch"],
    old_log_prob: Float[Array, "*batch"],
    floor: Float[Array, "*#batch"],
    cap: Float[Array, "*#batch"],
) -> Float[Array, "*batch"]:
    """The ratio of two probabilities, clipped; a ratio at or beyond a bound has derivative 0."""
    return jnp.clip(_exp(difference(log_prob, old_log_prob)), floor, cap)


def _at_cap(ratio: Array, cap: Array) -> Array:
    return (ratio >= cap) & (cap < jnp.inf)


def _slope(ratio: Array, floor: Array, cap: Array) -> Array:
    """The derivative in the log-ratio. NaN is not clipped."""
    return jnp.where((ratio <= floor) | _at_cap(ratio, cap), 0, ratio)


# Of the clipped ratio, not by the chain rule: 0 times the slope of an infinite ratio is NaN.
_ratio_within.defjvps(
    lambda dot, out, _log_prob, _old, floor, cap: dot * _slope(out, floor, cap),
    lambda dot, out, _log_prob, _old, floor, cap: -dot * _slope(out, floor, cap),
    lambda dot, out, _log_prob, _old, floor, _cap: jnp.where(out <= floor, dot, 0),
    lambda dot, out, _log_prob, _old, _floor, cap: jnp.where(_at_cap(out, cap), dot, 0),
)


def _one_sided(
    advantage: Float[Array, "*batch"], low: Array | float, high: Array | float, dual_clip: Any
) -> tuple[Array, Array]:
    """The bounds of the ratio: one above for a positive advantage, one below for a negative."""
    worse = advantage < 0
    floor = jnp.where(worse, 1 - low, 0)
    cap = jnp.where(worse, jnp.inf if dual_clip is None else dual_clip, 1 + high)
    return floor.astype(advantage.dtype), cap.astype(advantage.dtype)


@loss(
    log_prob=extended,
    old_log_prob=extended,
    advantage=finite,
    low=unit_interval,
    high=nonnegative_number,
    dual_clip=positive,
)
def clipped(
    log_prob: Real[ArrayLike, "*batch"],
    old_log_prob: Real[ArrayLike, "*batch"],
    advantage: Real[ArrayLike, "*batch"],
    *,
    low: Real[ArrayLike, ""] = 0.2,
    high: Real[ArrayLike, ""] = 0.2,
    dual_clip: Real[ArrayLike, ""] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Clipped surrogate loss of PPO, with separate bounds for decrease and increase.

    When to use: several optimization steps on one batch of samples (PPO, GRPO); `high=0.28` is the
    asymmetric clipping of DAPO.

    $$\ell = -\min\left(\rho A,\; \mathrm{clip}(\rho, 1 - \epsilon_\text{low},
      1 + \epsilon_\text{high}) A\right), \qquad \rho = e^{\log \pi - \log \pi_\text{old}}$$

    The ratio has an upper bound where the advantage is positive and a lower bound where it is
    negative; beyond its bound the gradient is exactly 0. A negative advantage leaves the ratio
    unbounded above: `dual_clip` bounds it there (3 in dual-clip PPO; the two-sided $\delta$ of
    TRL). Forms that exponentiate first give NaN for log-ratios above 88 that are clipped or masked.

    Args:
        log_prob: Log-probability of the action under the policy that is trained.
        old_log_prob: Log-probability under the policy that sampled the action.
        advantage: How much better the action was than expected.
        low: How far the ratio may fall below 1, from 0 to 1.
        high: How far the ratio may rise above 1.
        dual_clip: The largest ratio where the advantage is negative, above 1; None for no bound.

    Returns:
        The loss of each action, in the unit of the advantage.

    Example:
        >>> clipped([0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [2.0, 2.0, -2.0], dual_clip=2.0)
        Array([-2. , -2.4,  4. ], dtype=float32)

    References:
        Schulman et al., *Proximal Policy Optimization Algorithms*, 2017.
        Ye et al., *Mastering Complex Control in MOBA Games* (dual clip), 2020.
        Yu et al., *DAPO: An Open-Source LLM Reinforcement Learning System at Scale*, 2025.
    """
    floor, cap = _one_sided(advantage, low, high, dual_clip)
    return -(advantage * _ratio_within(log_prob, old_log_prob, floor, cap))


@loss(log_prob=extended, advantage=finite, weight=finite)
def reinforce(
    log_prob: Real[ArrayLike, "*batch"],
    advantage: Real[ArrayLike, "*batch"],
    *,
    weight: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Policy-gradient loss (REINFORCE): minus the advantage times the log-probability.

    When to use: one optimization step per batch of samples, or several with an importance weight
    that is not differentiated.

    $$\ell = -w A \log \pi$$

    The weight is a constant of the gradient. A truncated importance weight (TIS) is
    `jnp.minimum(jnp.exp(log_prob - sampler_log_prob), cap)`.

    Args:
        log_prob: Log-probability of the action under the policy that is trained.
        advantage: How much better the action was than expected.
        weight: Importance weight; not differentiated.

    Returns:
        The loss of each action; its gradient is the policy gradient, its value means little.

    Example:
        >>> reinforce([-1.0, -2.0], [2.0, -1.0])
        Array([ 2., -2.], dtype=float32)

    References:
        Williams, *Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
        Learning*, 1992.
    """
    return -jax.lax.stop_gradient(weight) * advantage * linear_argument(log_prob)


@loss(
    log_prob=extended,
    old_log_prob=extended,
    advantage=finite,
    low=unit_interval,
    high=nonnegative_number,
)
def cispo(
    log_prob: Real[ArrayLike, "*batch"],
    old_log_prob: Real[ArrayLike, "*batch"],
    advantage: Real[ArrayLike, "*batch"],
    *,
    low: Real[ArrayLike, ""] = 1.0,
    high: Real[ArrayLike, ""] = 4.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""CISPO loss: policy gradient with a clipped importance weight that is not differentiated.

    When to use: post-training where clipping the objective would remove the gradient of rare
    tokens; every token keeps one.

    $$\ell = -\,\mathrm{sg}\!\left[\mathrm{clip}(\rho, 1 - \epsilon_\text{low},
      1 + \epsilon_\text{high})\right] A \log \pi$$

    `sg` stops the gradient. With `low=1` the ratio is bounded above only, as in TRL, whose bound
    of 5 on the ratio is `high=4` here; verl and SkyRL bound both sides.

    Args:
        log_prob: Log-probability of the action under the policy that is trained.
        old_log_prob: Log-probability under the policy that sampled the action.
        advantage: How much better the action was than expected.
        low: How far the weight may fall below 1, from 0 to 1.
        high: How far the weight may rise above 1.

    Returns:
        The loss of each action.

    Example:
        >>> cispo([-1.0, -1.0], [-1.0, -9.0], [2.0, 2.0], high=1.0)
        Array([2., 4.], dtype=float32)

    References:
        MiniMax, *MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention*, 2025.
    """
    floor, cap = (jnp.asarray(x, log_prob.dtype) for x in (1 - low, 1 + high))
    weight = _ratio_within(log_prob, old_log_prob, floor, cap)
    return -jax.lax.stop_gradient(weight) * advantage * linear_argument(log_prob)


@loss(
    log_prob=extended,
    old_log_prob=extended,
    advantage=finite,
    positive_temperature=positive,
    negative_temperature=positive,
)
def soft_clipped(
    log_prob: Real[ArrayLike, "*batch"],
    old_log_prob: Real[ArrayLike, "*batch"],
    advantage: Real[ArrayLike, "*batch"],
    *,
    positive_temperature: Real[ArrayLike, ""] = 1.0,
    negative_temperature: Real[ArrayLike, ""] = 1.05,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Soft-clipped surrogate loss (SAPO): a sigmoid gate in place of the clip of PPO.

    When to use: as `clipped`, where a gradient that fades out beyond the trust region is wanted
    instead of one that ends.

    $$\ell = -\frac{4}{\tau}\, \sigma\bigl(\tau (\rho - 1)\bigr) A, \qquad
      \tau = \begin{cases} \tau_+ & A > 0 \\ \tau_- & A \le 0 \end{cases}$$

    At $\rho = 1$ its gradient is that of `clipped`.

    Args:
        log_prob: Log-probability of the action under the policy that is trained.
        old_log_prob: Log-probability under the policy that sampled the action.
        advantage: How much better the action was than expected.
        positive_temperature: How quickly the gate closes where the advantage is positive.
        negative_temperature: How quickly the gate closes where it is not.

    Returns:
        The loss of each action, in the unit of the advantage.

    Example:
        >>> soft_clipped([0.0, -1.0], [0.0, -1.0], [1.0, -1.0], negative_temperature=2.0)
        Array([-2.,  1.], dtype=float32)

    References:
        Gao et al., *Soft Adaptive Policy Optimization*, 2025.
    """
    temperature = jnp.where(advantage > 0, positive_temperature, negative_temperature)
    # The sigmoid is 0 or 1 to all digits where its argument exceeds 100.
    log_ratio = two_sum(log_prob, -old_log_prob)
    near = ~(log_ratio.hi >= jnp.log1p(100 / temperature))  # NaN is near
    change = at_dd(numerics.expm1, jax.tree.map(lambda x: jnp.where(near, x, 0), log_ratio))
    gate = jnp.where(near, at_dd(numerics.sigmoid, two_product(temperature, change)), 1)
    return -4 / temperature * gate * advantage


@loss(
    log_probs=extended,
    old_log_probs=extended,
    advantage=finite,
    low=unit_interval,
    high=nonnegative_number,
)
def clipped_sequence(
    log_probs: Real[ArrayLike, "*batch length"],
    old_log_probs: Real[ArrayLike, "*batch length"],
    advantage: Real[ArrayLike, "*batch"],
    *,
    mask: Bool[ArrayLike, "*batch length"] | None = None,
    low: Real[ArrayLike, ""] = 3e-4,
    high: Real[ArrayLike, ""] = 4e-4,
    mean: Literal["ratio", "geometric"] = "ratio",
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Clipped surrogate loss of a whole sequence: GSPO, or GMPO with `mean="geometric"`.

    When to use: the reward belongs to a whole response, and ratios of single tokens are too noisy.

    $$\ell = -\min\left(s A,\; \mathrm{clip}(s, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})
      A\right), \qquad s = \exp\left(\frac1T \sum_t \log \rho_t\right)$$

    With `mean="geometric"` each $\log \rho_t$ is clipped by itself, to at least
    $-\epsilon_\text{low}$ where the advantage is negative and to at most $\epsilon_\text{high}$
    where it is positive, and the mean is not clipped again; GMPO takes 0.4 for both.

    Args:
        log_probs: Log-probabilities of the tokens under the policy that is trained.
        old_log_probs: Log-probabilities under the policy that sampled them.
        advantage: How much better the sequence was than expected.
        mask: False leaves a token out, whatever it holds; a sequence of none is left out.
        low: How far the ratio (the log-ratio of a token) may fall below 1 (below 0).
        high: How far it may rise.
        mean: "ratio" clips the mean of the sequence, "geometric" the tokens.

    Returns:
        The loss of each sequence, in the unit of the advantage.

    Example:
        >>> clipped_sequence([[-1.0, -2.0]], [[-1.5, -1.5]], [2.0])
        Array([-2.], dtype=float32)

    References:
        Zheng et al., *Group Sequence Policy Optimization*, 2025.
        Zhao et al., *Geometric-Mean Policy Optimization*, 2025.
    """
    if mask is not None:
        log_probs, old_log_probs = (jnp.where(mask, x, 0) for x in (log_probs, old_log_probs))
    log_ratio = log_probs - old_log_probs
    if mean == "geometric":
        worse = advantage[..., None] < 0
        outside = jnp.where(worse, log_ratio < -low, log_ratio > high)
        log_ratio = jnp.where(outside, jnp.where(worse, -low, high), log_ratio)
        ratio = jnp.exp(mean_where(log_ratio, mask))
    else:
        floor, cap = _one_sided(advantage, low, high, None)
        mean_log_ratio = mean_where(log_ratio, mask)
        ratio = _ratio_within(mean_log_ratio, jnp.zeros_like(mean_log_ratio), floor, cap)
    return -advantage * ratio
