r"""Value: losses of critics, which predict returns or the distribution of returns.

A scalar critic is trained with the losses of `jaxloss.regression` on targets from `policy.gae`,
`policy.lambda_returns` or a bootstrapped reward; those of this module are for critics that need
more: a bound on how far the value moves, quantiles, a categorical distribution, or an entropy
temperature. Targets are constants: wrap them in `jax.lax.stop_gradient`.

A categorical critic is trained with `classification.softmax_cross_entropy` on the distribution
that `two_hot`, `hl_gauss` or `project` makes of a target.
"""

import math
from typing import Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import extended, finite, nonnegative_number, positive, unit_interval
from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.numerics._reductions import mean_where
from jaxloss.regression import _huber
from jaxloss.traits import convex, nonnegative

HELPERS = ["hl_gauss", "project", "two_hot"]  # public, but not losses

__all__ = [
    "clipped_value",
    "exponential_advantage",
    "gumbel",
    "hl_gauss",
    "project",
    "quantile_huber",
    "temperature",
    "two_hot",
]


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


@loss(log_temperature=finite, log_prob=extended, target_entropy=finite)
def temperature(
    log_temperature: Real[ArrayLike, "*batch"],
    log_prob: Real[ArrayLike, "*batch"],
    *,
    target_entropy: Real[ArrayLike, ""],
    linear: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Temperature loss of soft actor-critic: raises the entropy bonus while entropy is too low.

    When to use: SAC and its kin, to learn the weight of the entropy bonus.

    $$\ell = -\alpha\, \mathrm{sg}[\log \pi + \bar H], \qquad \alpha = e^{\log \alpha}$$

    `sg` stops the gradient. brax and the paper multiply by $\alpha$, others by $\log \alpha$
    (`linear=True`); both have the same fixed point. Common targets are minus the number of action
    dimensions, and in brax half of that.

    Args:
        log_temperature: The logarithm of the temperature; one number for all actions is fine.
        log_prob: Log-probability, or log-density, of the sampled action; not differentiated.
        target_entropy: The entropy wanted, in nats.
        linear: Whether to multiply by the logarithm of the temperature instead.

    Returns:
        The loss of each action.

    Example:
        >>> temperature(0.0, [-1.0, 3.0], target_entropy=-2.0)
        Array([ 3., -1.], dtype=float32)

    References:
        Haarnoja et al., *Soft Actor-Critic Algorithms and Applications*, 2018.
    """
    excess = jax.lax.stop_gradient(log_prob + target_entropy)
    return -(linear_argument(log_temperature) if linear else jnp.exp(log_temperature)) * excess


@loss(log_prob=extended, advantage=finite, temperature=positive, max_weight=positive)
def exponential_advantage(
    log_prob: Real[ArrayLike, "*batch"],
    advantage: Real[ArrayLike, "*batch"],
    *,
    temperature: Real[ArrayLike, ""] = 1.0,
    max_weight: Real[ArrayLike, ""] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Advantage-weighted regression: log-likelihood of actions, weighted by exp(advantage).

    When to use: offline reinforcement learning (AWR, CRR, IQL), where the policy must stay on the
    actions of the data.

    $$\ell = -\min\left(e^{A / \beta}, w_\text{max}\right) \log \pi$$

    The weight is a constant of the gradient, and is bounded before it is exponentiated.

    Args:
        log_prob: Log-probability of the action of the data under the policy that is trained.
        advantage: How much better the action was than expected; not differentiated.
        temperature: How sharply the weights prefer good actions.
        max_weight: The largest weight, 20 in AWR, 100 in IQL; None for no bound.

    Returns:
        The loss of each action.

    Example:
        >>> exponential_advantage([-1.0, -1.0], [0.0, 1000.0], max_weight=20.0)
        Array([ 1., 20.], dtype=float32)

    References:
        Peng et al., *Advantage-Weighted Regression*, 2019.
        Kostrikov et al., *Offline Reinforcement Learning with Implicit Q-Learning*, 2022.
    """
    exponent, log_prob = jax.lax.stop_gradient(advantage / temperature), linear_argument(log_prob)
    if max_weight is None:
        return -jnp.exp(exponent) * log_prob
    largest = jax.lax.stop_gradient(jnp.asarray(max_weight, exponent.dtype))
    clipped = exponent >= jnp.log(largest)
    weight = jnp.where(clipped, largest, jnp.exp(jnp.where(clipped, 0, exponent)))
    return -weight * log_prob


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


# --- distributions of targets ------------------------------------------------------------------


def _atoms(fun_name: str, name: str, support: ArrayLike, least: int = 2) -> Array:
    support = jnp.asarray(support)
    if support.ndim != 1 or support.shape[0] < least:
        message = (
            f"{fun_name}: `{name}` has shape {support.shape}, expected (bins,) of at least {least}."
        )
        raise ValueError(message)
    return support.astype(jnp.promote_types(support.dtype, jnp.float32))


def two_hot(targets: ArrayLike, support: ArrayLike) -> Array:
    r"""Two-hot encoding: each target as weights of the two atoms around it, with its mean.

    $$p_k = \frac{z_{k+1} - y}{z_{k+1} - z_k}, \qquad p_{k+1} = 1 - p_k, \qquad
      z_k \le y \le z_{k+1}$$

    Targets outside the support are moved to its nearest end.

    Args:
        targets: `(*batch)`.
        support: `(bins,)`, the atoms in increasing order, evenly spaced or not.

    Returns:
        Distributions `(*batch, bins)`, labels for `classification.softmax_cross_entropy`; the
        value is read off as `jnp.sum(probabilities * support, -1)`.

    Raises:
        ValueError: If the support is not one row of at least two atoms.

    Example:
        >>> two_hot([0.25, 7.0], [-1.0, 0.0, 1.0])
        Array([[0.  , 0.75, 0.25],
               [0.  , 0.  , 1.  ]], dtype=float32)

    References:
        Hafner et al., *Mastering Diverse Domains through World Models*, 2023.
    """
    support = _atoms("jaxloss.value.two_hot", "support", support)
    targets = jnp.asarray(targets, support.dtype)
    clipped = jnp.clip(targets, support[0], support[-1])
    lower = jnp.clip(jnp.searchsorted(support, clipped, side="right") - 1, 0, len(support) - 2)
    share = (clipped - support[lower]) / (support[lower + 1] - support[lower])
    bins = jnp.arange(len(support), dtype=lower.dtype)
    is_lower, is_upper = lower[..., None] == bins, lower[..., None] + 1 == bins
    return jnp.where(is_lower, 1 - share[..., None], jnp.where(is_upper, share[..., None], 0))


def hl_gauss(targets: ArrayLike, edges: ArrayLike, *, width: ArrayLike = 0.75) -> Array:
    r"""Histogram of a Gaussian around each target (HL-Gauss), for categorical critics.

    $$p_k = \frac{\Phi\left(\frac{e_{k+1} - y}{\sigma}\right) - \Phi\left(\frac{e_k - y}{\sigma}
      \right)}{\Phi\left(\frac{e_K - y}{\sigma}\right) - \Phi\left(\frac{e_0 - y}{\sigma}\right)}$$

    $\sigma$ is `width` times the mean width of a bin. Differences are taken in log space on the
    side where both terms are small, so that a target many $\sigma$ outside the edges has the right
    distribution, where the formula as written is 0 / 0.

    Args:
        targets: `(*batch)`.
        edges: `(bins + 1,)`, the edges of the bins in increasing order.
        width: Standard deviation in widths of a bin; the paper recommends 0.75.

    Returns:
        Distributions `(*batch, bins)`, labels for `classification.softmax_cross_entropy`; the
        value is read off with the middles of the bins.

    Raises:
        ValueError: If the edges are not one row of at least two numbers.

    Example:
        >>> jnp.round(hl_gauss([0.0, 50.0], [-1.5, -0.5, 0.5, 1.5]), 2).tolist()
        [[0.24, 0.52, 0.24], [0.0, 0.0, 1.0]]

    References:
        Farebrother et al., *Stop Regressing: Training Value Functions via Classification*, 2024.
    """
    edges = _atoms("jaxloss.value.hl_gauss", "edges", edges)
    targets = jnp.asarray(targets, edges.dtype)
    sigma = width * (edges[-1] - edges[0]) / (len(edges) - 1)
    z = (edges - targets[..., None]) / sigma
    low, high = z[..., :-1], z[..., 1:]
    # Both tails are small on the left of 0; on the right their mirror images are.
    mirrored = low + high > 0
    near, far = jnp.where(mirrored, -low, high), jnp.where(mirrored, -high, low)
    log_near, log_far = log_ndtr(near), log_ndtr(far)
    gap = log_far - log_near
    log_mass = log_near + numerics.log1mexp(jnp.where(gap < 0, gap, -math.inf))
    return numerics.softmax(log_mass)


def project(probabilities: ArrayLike, from_support: ArrayLike, to_support: ArrayLike) -> Array:
    r"""Projection of a categorical distribution to other atoms (C51).

    $$p'_k = \sum_j p_j\, h_k\left(\mathrm{clip}(z_j, z'_0, z'_{K-1})\right)$$

    $h_k$ is the triangle of linear interpolation around atom $k$, so that the mean is kept for
    atoms inside the support.

    Args:
        probabilities: `(*batch, from_bins)`.
        from_support: `(from_bins,)` or `(*batch, from_bins)`: where that mass lies, such as
            `reward + discount * support`.
        to_support: `(bins,)`, the atoms in increasing order, evenly spaced or not.

    Returns:
        Distributions `(*batch, bins)`.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> project([0.5, 0.5], [0.5, 9.0], [0.0, 1.0, 2.0])
        Array([0.25, 0.25, 0.5 ], dtype=float32)

    References:
        Bellemare et al., *A Distributional Perspective on Reinforcement Learning*, 2017.
    """
    name = "jaxloss.value.project"
    to_support = _atoms(name, "to_support", to_support)
    probabilities = jnp.asarray(probabilities, to_support.dtype)
    from_support = jnp.asarray(from_support, to_support.dtype)
    if from_support.shape not in (probabilities.shape, probabilities.shape[-1:]):
        message = (
            f"{name}: `from_support` has shape {from_support.shape}, expected "
            f"{probabilities.shape[-1:]} or {probabilities.shape} to fit `probabilities`."
        )
        raise ValueError(message)
    from_support = jnp.broadcast_to(from_support, probabilities.shape)
    return jnp.sum(probabilities[..., None] * two_hot(from_support, to_support), axis=-2)


__getattr__, __dir__ = public_names(__name__, __all__)
