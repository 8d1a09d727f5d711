"""Losses of pairs of responses, relative to a fixed reference policy."""

from typing import Literal, Unpack

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
from jaxloss.traits import convex, nonnegative, smooth


def _score(
    log_ratio: Float[Array, "*batch"], divergence: str, alpha: Array | float
) -> Float[Array, "*batch"]:
    """The implicit reward of a log-ratio under an f-divergence, over beta."""
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "forward_kl":
        return -jnp.exp(-log_ratio)
    if divergence == "jensen_shannon":
        return numerics.log_sigmoid(log_ratio)
    return log_ratio * numerics.exprel(-alpha * log_ratio)


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
    better = _score(chosen - reference_chosen, divergence, alpha)
    worse = _score(rejected - reference_rejected, divergence, alpha)
    z = beta * (better - worse) - margin
    right, wrong = numerics.softplus(-z), numerics.softplus(z)
    if robust:
        kept = (1 - label_smoothing) * right - label_smoothing * wrong
        return kept / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right + label_smoothing * wrong


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
