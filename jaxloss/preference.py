r"""Preference: losses of pairs of responses of which one is preferred, and of single ones.

Most take log-probabilities of whole responses, one number a response, under the policy that is
trained and under a fixed reference policy; `sequence_log_probability` makes them of those of
tokens. Whether a method takes the sum over tokens or their mean is said in each docstring; it is
chosen there, by `average`, not in the loss. $c$ and $r$ are the log-ratios
$\log \pi / \pi_\text{ref}$ of the chosen and the rejected response.

Rewards are implicit, $\beta$ times a log-ratio; every loss applies $\beta$ itself, once.
"""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import (
    extended,
    finite,
    log_probability,
    nonnegative_number,
    positive,
    unit_interval,
)
from jaxloss.ranking import list_mle
from jaxloss.traits import convex, nonnegative, smooth

HELPERS = ["sequence_log_probability"]  # public, but not losses

__all__ = [
    "apo_down",
    "apo_zero",
    "bco",
    "bradley_terry",
    "cpo",
    "dpo",
    "hinge_dpo",
    "ipo",
    "kto",
    "nca",
    "orpo",
    "plackett_luce",
    "sequence_log_probability",
    "simpo",
]


def sequence_log_probability(
    token_log_probs: Any,
    *,
    mask: Any = None,
    segments: Any = None,
    num_segments: int | None = None,
    average: bool = False,
) -> Array:
    r"""The log-probability of each sequence, from those of its tokens.

    $$\log \pi(y \mid x) = \sum_t m_t \log \pi(y_t \mid x, y_{<t})$$

    Sums are taken in float32 or wider; a token that is masked may hold anything. DPO, KTO and CPO
    take the sum, SimPO, ORPO and IPO (as its authors recommend) the mean over tokens.

    Args:
        token_log_probs: `(*batch, length)`, log-probabilities of the tokens.
        mask: Booleans of the same shape, True for the tokens of the response.
        segments: Integers of the same shape, from 0 to `num_segments - 1`, the sequence of each
            token where a row holds several.
        num_segments: How many sequences a row holds.
        average: Whether to divide by the number of tokens.

    Returns:
        `(*batch)`, or with segments `(*batch, num_segments)`; 0 for a sequence without tokens.

    Raises:
        TypeError: If the mask is not boolean.
        ValueError: If shapes differ, or segments come without their number.

    Example:
        >>> sequence_log_probability([[-1.0, -2.0, -5.0]], mask=[[True, True, False]])
        Array([-3.], dtype=float32)
    """
    name = "jaxloss.preference.sequence_log_probability"
    x = jnp.asarray(token_log_probs)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    keep = jnp.ones(x.shape, bool) if mask is None else jnp.asarray(mask)
    if keep.dtype != jnp.bool_:
        raise TypeError(f"{name}: `mask` is {keep.dtype}, expected booleans: write `mask > 0`.")
    if keep.shape != x.shape:
        raise ValueError(f"{name}: `mask` has shape {keep.shape}, expected {x.shape}.")
    x = jnp.where(keep, x, 0)
    if segments is None:
        total, count = jnp.sum(x, axis=-1), jnp.sum(keep, axis=-1, dtype=jnp.int32)
    else:
        ids = jnp.asarray(segments)
        if num_segments is None or ids.shape != x.shape:
            message = (
                f"{name}: `segments` has shape {ids.shape} and `num_segments` is {num_segments}, "
                f"expected shape {x.shape} and the number of sequences in a row."
            )
            raise ValueError(message)
        of_row = jax.vmap(lambda v, i: jax.ops.segment_sum(v, i, num_segments=num_segments))
        flat = ids.reshape(-1, x.shape[-1])
        shape = (*x.shape[:-1], num_segments)
        total = of_row(x.reshape(flat.shape), flat).reshape(shape)
        count = of_row(keep.reshape(flat.shape).astype(jnp.int32), flat).reshape(shape)
    return total / jnp.maximum(count, 1).astype(total.dtype) if average else total


def _score(
    log_ratio: Float[Array, "*batch"], divergence: str, alpha: Any
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


@loss(convex, nonnegative, smooth, chosen=extended, rejected=extended, beta=positive, gamma=finite)
def simpo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 2.0,
    gamma: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Simple preference optimization: logistic loss of length-normalized rewards, no reference.

    When to use: as DPO, where no reference model should be held in memory.

    $$\ell = -\log \sigma\left(\beta (\bar c - \bar r) - \gamma\right)$$

    $\bar c$ and $\bar r$ are mean log-probabilities of the tokens
    (`sequence_log_probability(..., average=True)`).

    Args:
        chosen: Mean log-probability of the tokens of the preferred response.
        rejected: Mean log-probability of the tokens of the other response.
        beta: The scale of the rewards.
        gamma: The margin between the rewards.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> simpo([-1.0], [-1.5])
        Array([0.6931472], dtype=float32)

    References:
        Meng et al., *SimPO: Simple Preference Optimization with a Reference-Free Reward*, 2024.
    """
    return numerics.softplus(gamma - beta * (chosen - rejected))


@loss(
    convex,
    nonnegative,
    smooth,
    chosen=extended,
    rejected=extended,
    beta=positive,
    label_smoothing=unit_interval,
)
def cpo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 0.1,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Contrastive preference optimization: DPO with a uniform reference.

    When to use: as DPO without a reference model; add the cross-entropy of the chosen response.

    $$\ell = -(1 - \epsilon) \log \sigma(z) - \epsilon \log \sigma(-z), \qquad
      z = \beta (\log \pi_c - \log \pi_r)$$

    Log-probabilities are sums over tokens.

    Args:
        chosen: Log-probability of the preferred response.
        rejected: Log-probability of the other response.
        beta: The scale of the rewards.
        label_smoothing: The share of pairs in the wrong order.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> cpo([-1.0], [-1.0])
        Array([0.6931472], dtype=float32)

    References:
        Xu et al., *Contrastive Preference Optimization*, 2024.
    """
    z = beta * (chosen - rejected)
    right, wrong = numerics.softplus(-z), numerics.softplus(z)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def _log1p_odds_ratio(
    rejected: Float[Array, "*batch"], chosen: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """log(1 + odds(rejected) / odds(chosen)) of log-probabilities."""
    # Near certainty the odds of the chosen one are infinite, and their inverse is 0 with a finite
    # derivative, which a difference of logarithms does not have.
    near = chosen > -1
    c, r = jnp.where(near, chosen, -1), jnp.where(near, rejected, -1)
    odds = numerics.quotient(jnp.exp(r - c) * jnp.expm1(c), jnp.expm1(r))
    c, r = jnp.where(near, -1, chosen), jnp.where(near, -1, rejected)
    log_odds = (r - c) - (numerics.log1mexp(r) - numerics.log1mexp(c))
    return jnp.where(near, jnp.log1p(odds), numerics.softplus(log_odds))


@loss(
    nonnegative,
    chosen=log_probability,
    rejected=log_probability,
    weight=nonnegative_number,
)
def orpo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    *,
    weight: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Odds-ratio preference optimization: likelihood of the chosen response plus a log-odds term.

    When to use: fine-tuning on preferred responses and preferences in one stage, no reference.

    $$\ell = -\bar c + w \log\left(1 + \frac{\mathrm{odds}(\bar r)}{\mathrm{odds}(\bar c)}\right),
      \qquad \mathrm{odds}(x) = \frac{e^x}{1 - e^x}$$

    $\bar c$ and $\bar r$ are mean log-probabilities of the tokens, as in TRL; tunix takes sums by
    default. Nothing is clamped: a chosen response of probability 1 has loss 0 and a finite
    gradient (others clamp at -1e-7 or give NaN); a rejected one of probability 1 costs inf.

    Args:
        chosen: Mean log-probability of the tokens of the preferred response, at most 0.
        rejected: Mean log-probability of the tokens of the other response, at most 0.
        weight: The weight of the odds-ratio term; 0 leaves the likelihood alone.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> orpo([0.0, -1.0], [-2.0, -1.0], weight=1.0)
        Array([0.       , 1.6931472], dtype=float32)

    References:
        Hong et al., *ORPO: Monolithic Preference Optimization without Reference Model*, 2024.
    """
    return -chosen + weight * _log1p_odds_ratio(rejected, chosen)


@loss(
    nonnegative,
    log_ratio=extended,
    kl=finite,
    beta=positive,
    desirable_weight=nonnegative_number,
    undesirable_weight=nonnegative_number,
)
def kto(
    log_ratio: Real[ArrayLike, "*batch"],
    desirable: Bool[ArrayLike, "*batch"],
    *,
    kl: Real[ArrayLike, ""],
    beta: Real[ArrayLike, ""] = 0.1,
    desirable_weight: Real[ArrayLike, ""] = 1.0,
    undesirable_weight: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Kahneman-Tversky optimization: single responses, each desirable or not.

    When to use: feedback on single responses (thumbs up or down) rather than on pairs.

    $$\ell = \begin{cases} w_D \left(1 - \sigma(\beta (x - z_0))\right) & \text{desirable} \\
      w_U \left(1 - \sigma(\beta (z_0 - x))\right) & \text{undesirable} \end{cases}, \qquad
      z_0 = \max(0, \mathrm{sg}[\mathrm{KL}])$$

    $x$ is the log-ratio of the response to the reference, of sums over tokens. The baseline is
    passed in, since it belongs to the whole batch on all devices: the mean log-ratio of
    responses paired with the prompts of others, `jax.lax.pmean` over the mesh. It is not
    differentiated. A batch may hold no desirable, or no undesirable, response.

    Args:
        log_ratio: Log-probability under the policy less that under the reference.
        desirable: True for a desirable response.
        kl: The estimate of the divergence from the reference; below 0 it counts as 0.
        beta: The scale of the rewards.
        desirable_weight: The weight of desirable responses.
        undesirable_weight: The weight of the others.

    Returns:
        The loss of each response, from 0 to its weight.

    Example:
        >>> kto([0.0, 0.0], [True, False], kl=0.0)
        Array([0.5, 0.5], dtype=float32)

    References:
        Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic Optimization*, 2024.
    """
    baseline = numerics.relu(jax.lax.stop_gradient(kl))
    z = beta * (log_ratio - baseline)
    good, bad = desirable_weight * numerics.sigmoid(-z), undesirable_weight * numerics.sigmoid(z)
    return jnp.where(desirable, good, bad)


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


@loss(
    convex,
    nonnegative,
    smooth,
    chosen_ratio=extended,
    rejected_ratio=extended,
    shift=finite,
    beta=positive,
)
def bco(
    chosen_ratio: Real[ArrayLike, "*batch"],
    rejected_ratio: Real[ArrayLike, "*batch"],
    *,
    shift: Real[ArrayLike, ""] = 0.0,
    beta: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Binary classifier optimization: chosen rewards above a running mean, rejected ones below.

    When to use: as DPO, with feedback that is close to a label for each response.

    $$\ell = -\log \sigma(\beta c - \delta) - \log \sigma(-(\beta r - \delta))$$

    The shift $\delta$ is a running mean of the rewards: state that is passed in.

    Args:
        chosen_ratio: Log-ratio of the preferred response to the reference, sums over tokens.
        rejected_ratio: Log-ratio of the other response.
        shift: The mean reward; not differentiated.
        beta: The scale of the rewards.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> bco([0.0], [0.0])
        Array([1.3862944], dtype=float32)

    References:
        Jung et al., *Binary Classifier Optimization for Large Language Model Alignment*, 2024.
    """
    shift = jax.lax.stop_gradient(shift)
    good, bad = beta * chosen_ratio - shift, beta * rejected_ratio - shift
    return numerics.softplus(-good) + numerics.softplus(bad)


@loss(nonnegative, smooth, chosen=extended, rejected=extended, margin=finite, log_tie=finite)
def bradley_terry(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    *,
    margin: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 0.0,
    tied: Bool[ArrayLike, "*batch"] | None = None,
    log_tie: Real[ArrayLike, ""] = 0.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Bradley-Terry loss of a reward model: logistic loss of the difference of scores.

    When to use: a reward model, or any rating, from comparisons of two.

    $$\ell = -\log \sigma(s_c - s_r - m)$$

    With `tied` it is Davidson's model: with $d = s_c - s_r - m$ the outcomes are proportional to
    $e^{d/2}$ (chosen), $e^{-d/2}$ (rejected) and $\nu$ (tie).

    Args:
        chosen: Score of the preferred one.
        rejected: Score of the other.
        margin: By how much the scores should differ.
        tied: True where neither was preferred; if given, ties have a probability.
        log_tie: $\log \nu$, how likely ties are between equals.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> bradley_terry([1.0, 2.0], [1.0, 0.0])
        Array([0.6931472, 0.126928 ], dtype=float32)

    References:
        Bradley and Terry, *Rank Analysis of Incomplete Block Designs*, 1952.
        Davidson, *On Extending the Bradley-Terry Model to Accommodate Ties*, 1970.
    """
    gap = chosen - rejected - margin
    if tied is None:
        return numerics.softplus(-gap)
    outcomes = jnp.stack(jnp.broadcast_arrays(0.5 * gap, -0.5 * gap, log_tie), axis=-1)
    seen = jnp.where(tied, outcomes[..., 2], outcomes[..., 0])
    return numerics.logsumexp(outcomes - seen[..., None])


@loss(convex, nonnegative, smooth, scores=extended)
def plackett_luce(
    scores: Real[ArrayLike, "*batch items"],
    ranks: Int[ArrayLike, "*batch items"],
    *,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Plackett-Luce loss: negative log-probability of a ranking of several responses.

    When to use: preferences over more than two responses to a prompt.

    $$\ell = -\sum_i \log \frac{e^{s_{(i)}}}{\sum_{j \ge i} e^{s_{(j)}}}$$

    $s_{(1)}$ is the score of the response of the lowest rank. It is `ranking.list_mle` of
    ranks; with two responses it is `bradley_terry`.

    Args:
        scores: Scores, or implicit rewards, of the responses.
        ranks: The rank of each response, the best one lowest; ties are taken in order.
        mask: False leaves a response out.

    Returns:
        The loss of each list in nats.

    Example:
        >>> plackett_luce([[0.0, 0.0, 0.0]], [[1, 2, 3]])
        Array([1.7917595], dtype=float32)

    References:
        Plackett, *The Analysis of Permutations*, 1975.
    """
    return list_mle(scores, -ranks.astype(scores.dtype), mask=mask)


__getattr__, __dir__ = public_names(__name__, __all__)
