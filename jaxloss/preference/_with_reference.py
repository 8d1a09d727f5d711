"""Losses of pairs of responses, relative to a fixed reference policy."""

from typing import Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import (
    extended,
    finite,
    positive,
    unit_interval,
)
from jaxloss.preference._logistic import smoothed_nll
from jaxloss.traits import convex, nonnegative, smooth


def _relative_to_larger(a: Array, b: Array, alpha: Array, beta: Array) -> Array:
    gap = alpha * (a - b)
    base = jnp.where(gap > 0, b, a)  # of the larger exponential: the other factor is at most 1
    return jnp.exp(jnp.log(beta) - alpha * base) * (a - b) * numerics.exprel(-jnp.abs(gap))


@jax.custom_jvp
def _difference_of_exponentials(a: Array, b: Array, alpha: Array, beta: Array) -> Array:
    """beta (exp(-alpha b) - exp(-alpha a)) / alpha, which is beta (a - b) at alpha = 0."""
    return _relative_to_larger(a, b, alpha, beta)


def _slope(x: Array, a: Array, b: Array, alpha: Array, beta: Array) -> Array:
    """beta exp(-alpha x), finite where a > b: where it overflows there, the loss has slope 0."""
    exponent = jnp.log(beta) - alpha * x
    return jnp.exp(jnp.where(a > b, jnp.minimum(exponent, 88), exponent))


def _slope_in_alpha(a: Array, b: Array, alpha: Array, beta: Array) -> Array:
    one = jnp.ones_like(alpha)
    _, slope = jax.jvp(lambda x: _relative_to_larger(a, b, x, beta), (alpha,), (one,))
    overflow = jnp.where(a > b, 0, jnp.copysign(jnp.inf, -alpha))
    return jnp.where(jnp.isfinite(slope), slope, overflow)


def _slope_in_beta(z: Array, a: Array, b: Array, beta: Array) -> Array:
    return jnp.where(jnp.isfinite(z), z / beta, jnp.where(a > b, 0, -jnp.inf))


_difference_of_exponentials.defjvps(
    lambda a_dot, _, a, b, alpha, beta: _slope(a, a, b, alpha, beta) * a_dot,
    lambda b_dot, _, a, b, alpha, beta: -_slope(b, a, b, alpha, beta) * b_dot,
    lambda alpha_dot, _, a, b, alpha, beta: _slope_in_alpha(a, b, alpha, beta) * alpha_dot,
    lambda beta_dot, z, a, b, _alpha, beta: _slope_in_beta(z, a, b, beta) * beta_dot,
)


def _difference_of_rewards(
    better: Float[Array, "*batch"],
    worse: Float[Array, "*batch"],
    beta: Array,
    divergence: str,
    alpha: Array,
) -> Float[Array, "*batch"]:
    """The difference of the implicit rewards of two log-ratios."""
    if divergence == "reverse_kl":
        return beta * (better - worse)
    if divergence == "jensen_shannon":
        return beta * (numerics.log_sigmoid(better) - numerics.log_sigmoid(worse))
    order = jnp.full_like(better, 1 if divergence == "forward_kl" else alpha)
    return _difference_of_exponentials(better, worse, order, jnp.full_like(better, beta))


@loss(
    smooth,
    chosen=extended,
    rejected=extended,
    reference_chosen=extended,
    reference_rejected=extended,
    beta=positive,
    label_smoothing=unit_interval,
    margin=finite,
    alpha=finite,
)
def dpo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    reference_chosen: Real[ArrayLike, "*batch"],
    reference_rejected: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 0.1,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    robust: bool = False,
    margin: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 0.0,
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "reverse_kl",
    alpha: Real[ArrayLike, ""] = 0.5,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Direct preference optimization: logistic loss of the difference of implicit rewards.

    When to use: post-training on pairs of responses with a frozen reference model.

    $$\ell = -(1 - \epsilon) \log \sigma(z) - \epsilon \log \sigma(-z), \qquad
      z = \beta (c - r) - m$$

    Log-probabilities are sums over tokens. With noisy labels, $\epsilon$ is the share of pairs in
    the wrong order: conservative DPO as above, or with `robust=True` the unbiased estimate
    $(-(1 - \epsilon) \log \sigma(z) + \epsilon \log \sigma(-z)) / (1 - 2 \epsilon)$, which may be
    negative. Other divergences replace a log-ratio $x$: $-e^{-x}$ (forward KL), $\log \sigma(x)$
    (Jensen-Shannon), $(1 - e^{-\alpha x}) / \alpha$ (alpha; $x$ at 0).

    Args:
        chosen: Log-probability of the preferred response under the policy.
        rejected: Log-probability of the other response under the policy.
        reference_chosen: Log-probability of the preferred response under the reference.
        reference_rejected: Log-probability of the other response under the reference.
        beta: The inverse strength of the constraint to stay near the reference.
        label_smoothing: The share of wrong labels, below 1/2.
        robust: Whether to use the unbiased estimate.
        margin: By how much the rewards should differ.
        divergence: "reverse_kl", "forward_kl", "jensen_shannon" or "alpha".
        alpha: The order of the alpha-divergence.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> dpo([-1.0], [-3.0], [-2.0], [-2.0], beta=1.0)
        Array([0.126928], dtype=float32)

    References:
        Rafailov et al., *Direct Preference Optimization*, 2023.
        Chowdhury et al., *Provably Robust DPO*, 2024.
        Wang et al., *Beyond Reverse KL* (f-DPO), 2024.
    """
    better, worse = chosen - reference_chosen, rejected - reference_rejected
    z = _difference_of_rewards(better, worse, beta, divergence, alpha) - margin
    return smoothed_nll(z, label_smoothing, robust=robust)


@loss(
    convex,
    nonnegative,
    smooth,
    chosen=extended,
    rejected=extended,
    reference_chosen=extended,
    reference_rejected=extended,
    beta=positive,
)
def ipo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    reference_chosen: Real[ArrayLike, "*batch"],
    reference_rejected: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Identity preference optimization: squared distance of the log-ratio gap from a target gap.

    When to use: as DPO, where preferences are nearly deterministic and DPO overfits them.

    $$\ell = \left(c - r - \frac{1}{2 \beta}\right)^2$$

    The authors average log-probabilities over tokens (as in TRL's DPO trainer); TRL's CPO trainer
    and others take sums.

    Args:
        chosen: Log-probability of the preferred response under the policy.
        rejected: Log-probability of the other response under the policy.
        reference_chosen: Log-probability of the preferred response under the reference.
        reference_rejected: Log-probability of the other response under the reference.
        beta: The strength of the regularization; the gap wanted is 1 / (2 beta).

    Returns:
        The loss of each pair.

    Example:
        >>> ipo([-1.0], [-3.0], [-2.0], [-2.0], beta=0.5)
        Array([1.], dtype=float32)

    References:
        Azar et al., *A General Theoretical Paradigm to Understand Learning from Human
        Preferences*, 2023.
    """
    gap = (chosen - reference_chosen) - (rejected - reference_rejected)
    return jnp.square(gap - 0.5 / beta)


@loss(
    convex,
    nonnegative,
    chosen=extended,
    rejected=extended,
    reference_chosen=extended,
    reference_rejected=extended,
    beta=positive,
)
def hinge_dpo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    reference_chosen: Real[ArrayLike, "*batch"],
    reference_rejected: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Hinge loss of the difference of implicit rewards.

    When to use: as DPO, where pairs that are already apart by 1 / beta should have no gradient.

    $$\ell = \max(0, 1 - \beta (c - r))$$

    Log-probabilities are sums over tokens. SLiC has $\beta c$ without the reference.

    Args:
        chosen: Log-probability of the preferred response under the policy.
        rejected: Log-probability of the other response under the policy.
        reference_chosen: Log-probability of the preferred response under the reference.
        reference_rejected: Log-probability of the other response under the reference.
        beta: The inverse of the margin.

    Returns:
        The loss of each pair.

    Example:
        >>> hinge_dpo([-1.0], [-3.0], [-2.0], [-2.0], beta=0.25)
        Array([0.5], dtype=float32)

    References:
        Liu et al., *Statistical Rejection Sampling Improves Preference Optimization*, 2024.
    """
    gap = (chosen - reference_chosen) - (rejected - reference_rejected)
    return numerics.relu(1 - beta * gap)


@loss(nonnegative, smooth, chosen_ratio=extended, rejected_ratio=extended, beta=positive)
def apo_zero(
    chosen_ratio: Real[ArrayLike, "*batch"],
    rejected_ratio: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Anchored preference optimization, zero: chosen responses up, rejected ones down.

    When to use: the chosen responses are better than what the policy produces.

    $$\ell = 1 - \sigma(\beta c) + \sigma(\beta r)$$

    Args:
        chosen_ratio: Log-ratio of the preferred response to the reference, sums over tokens.
        rejected_ratio: Log-ratio of the other response.
        beta: The scale of the rewards.

    Returns:
        The loss of each pair, from 0 to 2.

    Example:
        >>> apo_zero([0.0], [0.0])
        Array([1.], dtype=float32)

    References:
        D'Oosterlinck et al., *Anchored Preference Optimization*, 2024.
    """
    return numerics.sigmoid(-beta * chosen_ratio) + numerics.sigmoid(beta * rejected_ratio)


@loss(nonnegative, smooth, chosen_ratio=extended, rejected_ratio=extended, beta=positive)
def apo_down(
    chosen_ratio: Real[ArrayLike, "*batch"],
    rejected_ratio: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Anchored preference optimization, down: both responses down, the rejected one more.

    When to use: the policy already produces better responses than the chosen ones.

    $$\ell = \sigma(\beta c) + 1 - \sigma(\beta (c - r))$$

    Args:
        chosen_ratio: Log-ratio of the preferred response to the reference, sums over tokens.
        rejected_ratio: Log-ratio of the other response.
        beta: The scale of the rewards.

    Returns:
        The loss of each pair, from 0 to 2.

    Example:
        >>> apo_down([0.0], [0.0])
        Array([1.], dtype=float32)

    References:
        D'Oosterlinck et al., *Anchored Preference Optimization*, 2024.
    """
    gap = chosen_ratio - rejected_ratio
    return numerics.sigmoid(beta * chosen_ratio) + numerics.sigmoid(-beta * gap)


@loss(convex, nonnegative, smooth, chosen_ratio=extended, rejected_ratio=extended, beta=positive)
def nca(
    chosen_ratio: Real[ArrayLike, "*batch"],
    rejected_ratio: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Noise-contrastive alignment of a pair: keeps the likelihood of the chosen response up.

    When to use: as DPO, where the likelihood of chosen responses falls in training.

    $$\ell = -\log \sigma(\beta c) - \tfrac12 \log \sigma(-\beta c) - \tfrac12 \log
      \sigma(-\beta r)$$

    Args:
        chosen_ratio: Log-ratio of the preferred response to the reference, sums over tokens.
        rejected_ratio: Log-ratio of the other response.
        beta: The scale of the rewards.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> nca([0.0], [0.0])
        Array([1.3862944], dtype=float32)

    References:
        Chen et al., *Noise Contrastive Alignment of Language Models with Explicit Rewards*, 2024.
    """
    good, bad = beta * chosen_ratio, beta * rejected_ratio
    both = numerics.softplus(good) + numerics.softplus(bad)
    return numerics.softplus(-good) + 0.5 * both
