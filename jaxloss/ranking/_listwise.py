"""Listwise losses: of the order of a whole list."""

import math
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.domains import extended, finite, nonnegative_number, positive
from jaxloss.numerics._softmax_nll import softmax_cross_entropy_dense
from jaxloss.ranking._lists import (
    Lists,
    before,
    discount,
    gains_of,
    lists_of,
    of_pairs,
    ranks_of,
    shares_of,
    surprise_among,
    surprise_in_list,
)
from jaxloss.traits import bounded, convex, nonnegative, shift_invariant, smooth


@loss(
    convex,
    nonnegative,
    smooth,
    shift_invariant,
    scores=extended,
    relevance=nonnegative_number,
)
def softmax(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it first, to rank a list in which few items are relevant: one softmax over the list.

    $$\ell(s, y) = -\sum_i y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}}$$

    Relevances are weights and are not normalised, as in rax and optax: a list with twice the
    relevance counts twice. Divide them by their sum for a cross-entropy; multiply them by the
    weights of items. One irrelevant item with a very high score costs without bound.

    Args:
        scores: How high the model ranks each item; -inf makes an item impossible.
        relevance: How much each item should be at the top, at least 0.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: With segments, how many items to compare with all others at once, so that no array
            of all pairs exists; without them none does.

    Returns:
        The loss of each list in nats, times its relevance; with segments their mean.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores, or the chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> softmax([[0.0, 0.0], [80.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]])
        Array([1.386294e+00, 1.804851e-35], dtype=float32)

    References:
        Cao et al., *Learning to Rank: From Pairwise Approach to Listwise Approach*, 2007.
        Bruch et al., *An Analysis of the Softmax Cross Entropy Loss for Learning-to-Rank*, 2019.
    """
    if segments is not None:
        lists = lists_of(scores, relevance, mask, segments)
        how: Any = {"fun_name": "jaxloss.ranking.softmax", "chunk_size": chunk_size}
        surprise = surprise_in_list(lists, **how)
        return lists.mean_of_lists(numerics.multiply_no_nan(lists.relevance, surprise), **how)
    if mask is not None:
        scores, relevance = jnp.where(mask, scores, -jnp.inf), jnp.where(mask, relevance, 0)
    return softmax_cross_entropy_dense(scores, relevance)


@loss(
    smooth,
    shift_invariant,
    scores=extended,
    relevance=nonnegative_number,
)
def poly1_softmax(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    epsilon: Real[ArrayLike, ""] = 1.0,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it like the softmax, to pull more (or less) at items that it already ranks well.

    $$\ell(s, y) = -\sum_i y_i \log p_i
      + \epsilon \Big(1 - \sum_i \frac{y_i}{\sum_j y_j} p_i\Big), \qquad
      p_i = \frac{e^{s_i}}{\sum_j e^{s_j}}$$

    The first term of the logarithm's series, $1 - p$, gets the weight $1 + \epsilon$. Without any
    relevance the loss is 0; in rax it is then the constant $\epsilon (1 - 1 / n)$.

    Args:
        scores: How high the model ranks each item; -inf makes an item impossible.
        relevance: How much each item should be at the top, at least 0.
        epsilon: What is added to the weight of the first term; below 0 it softens the pull.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: With segments, how many items to compare with all others at once, so that no array
            of all pairs exists; without them none does.

    Returns:
        The loss of each list; with segments their mean.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores, or the chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> poly1_softmax([0.0, 0.0], [1.0, 0.0], epsilon=2.0)  # log 2 + 2 (1 - 1/2)
        Array(1.6931472, dtype=float32)

    References:
        Leng et al., *PolyLoss: A Polynomial Expansion Perspective of Classification Losses*, 2022.
    """
    lists = lists_of(scores, relevance, mask, segments)
    how: Any = {"fun_name": "jaxloss.ranking.poly1_softmax", "chunk_size": chunk_size}
    surprise = surprise_in_list(lists, **how)
    total = lists.sum_of_list(lists.relevance, **how)
    share = lists.relevance / jnp.where(total == 0, 1, total)
    missed = -jnp.expm1(-surprise)  # 1 - p, with the digits that p rounds away
    costs = numerics.multiply_no_nan(lists.relevance, surprise) + epsilon * share * missed
    return lists.mean_of_lists(costs, **how)


@loss(
    convex,
    nonnegative,
    smooth,
    shift_invariant,
    scores=finite,
    relevance=nonnegative_number,
)
def unique_softmax(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    gain: Literal["exponential", "linear"] = "exponential",
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it for graded relevance: each item competes with the less relevant ones alone.

    $$\ell(s, y) = -\sum_i G(y_i) \log
      \frac{e^{s_i}}{e^{s_i} + \sum_{j : y_j < y_i} e^{s_j}}, \qquad G(y) = 2^y - 1$$

    Unlike in the softmax, two relevant items do not take probability from each other. The gain
    grows fast: relevance 5 counts 31 times as much as relevance 1. For another gain that grows
    with relevance, give `G(relevance)` as the relevance, with `gain="linear"`.

    Args:
        scores: How high the model ranks each item.
        relevance: Grades of the items, at least 0.
        gain: "exponential", $2^y - 1$; or "linear", the relevance itself.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all pairs
            exists; without it one does.

    Returns:
        The loss of each list in nats, times its gains; with segments their mean.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores, or the chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> unique_softmax([0.0, 0.0, 0.0], [2.0, 1.0, 0.0])  # 3 log 3 + 1 log 2
        Array(3.988984, dtype=float32)

    References:
        Zhu and Klabjan, *Listwise Learning to Rank by Exploring Unique Ratings*, 2020.
    """
    lists = lists_of(scores, relevance, mask, segments)
    how: Any = {"fun_name": "jaxloss.ranking.unique_softmax", "chunk_size": chunk_size}
    surprise = lists.of_rows(lambda lists: surprise_among(lists, lists.should_lead()), **how)
    return lists.mean_of_lists(gains_of(lists.relevance, gain) * surprise, **how)


@loss(
    convex,
    nonnegative,
    smooth,
    shift_invariant,
    scores=finite,
    relevance=finite,
)
def list_mle(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    key: Array | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when the whole order of a list is known and counts down to the last item.

    $$\ell(s, y) = -\sum_i \log \frac{e^{s_{\pi(i)}}}{\sum_{j \geq i} e^{s_{\pi(j)}}}, \qquad
      y_{\pi(1)} \geq y_{\pi(2)} \geq \dots$$

    The likelihood of that order if items are drawn one after the other (Plackett and Luce). It
    uses the order of the relevances alone, and it has no notion of a tie: items of the same
    relevance are put in their order in the list, so that even a list of ties costs something.
    Give a new key at every step to break ties at random: one order of the places is drawn for all
    lists of a call (rax draws one a list), so that `vmap` changes nothing.

    Args:
        scores: How high the model ranks each item.
        relevance: The higher, the earlier in the right order.
        key: A `jax.random` key that breaks ties; without one, ties keep the order of the list.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all pairs
            exists; without it one does.

    Returns:
        The loss of each list in nats, summed over its items; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores, or the chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> list_mle([0.0, 0.0, 0.0], [1.0, 3.0, 2.0])  # log 3 + log 2
        Array(1.7917595, dtype=float32)

    References:
        Xia et al., *Listwise Approach to Learning to Rank: Theory and Algorithm*, 2008.
    """
    lists = lists_of(scores, relevance, mask, segments)
    lots = lists.items.places if key is None else jax.random.permutation(key, scores.shape[-1])
    lots = jnp.broadcast_to(-lots, scores.shape)

    def surprise(lists: Lists, mine: Array, lots: Array) -> Array:
        keys = (lists.rows.relevance, lists.items.relevance), (mine, lots)
        return surprise_among(lists, before(lists, *keys))

    how: Any = {"fun_name": "jaxloss.ranking.list_mle", "chunk_size": chunk_size}
    return lists.mean_of_lists(lists.of_rows(surprise, lots, met=(lots,), **how), **how)


@loss(
    nonnegative,
    bounded,
    smooth,
    shift_invariant,
    scores=finite,
    relevance=nonnegative_number,
    temperature=positive,
)
def approx_ndcg(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    temperature: Real[ArrayLike, ""] = 1.0,
    gain: Literal["exponential", "linear"] = "exponential",
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to train on what is reported: 1 less NDCG, with ranks made smooth by a temperature.

    $$\ell(s, y) = 1 - \frac{1}{Z} \sum_i \frac{G(y_i)}{\log_2(1 + r_i)}, \qquad
      r_i = 1 + \sum_{j \neq i} \frac{1}{1 + e^{(s_i - s_j) / T}}, \qquad G(y) = 2^y - 1$$

    $Z$ is the same sum in the best order. Towards temperature 0 it becomes the true 1 - NDCG, and
    flat: no pull is left. It is not convex; start from the fit of a softmax. rax returns -NDCG
    (`approx_t12n(ndcg_metric)`), smaller by 1; without any relevance both are 0.

    Args:
        scores: How high the model ranks each item.
        relevance: Grades of the items, at least 0.
        temperature: The difference of scores, above 0, at which an order counts as settled.
        gain: "exponential", $2^y - 1$; or "linear", the relevance itself.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all pairs
            exists; without it one does.

    Returns:
        The loss of each list, between 0 and 1; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores, the temperature is a
            number that is not above 0, or the chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> approx_ndcg([0.0, 90.0, 80.0], [1.0, 0.0, 0.0])  # third: 1 - 1 / log2(4)
        Array(0.5, dtype=float32)

    References:
        Qin et al., *A General Approximation Framework for Direct Optimization of Information
        Retrieval Measures*, 2010.
    """
    lists = lists_of(scores, relevance, mask, segments)
    how: Any = {"fun_name": "jaxloss.ranking.approx_ndcg", "chunk_size": chunk_size}
    gains = gains_of(lists.relevance, gain)

    def overtaken(lists: Lists, mine: Array, gains: Array) -> Array:
        """How far others are ahead of an item that should lead, less how far it is of others."""
        leads = before(lists, (mine, gains), (lists.rows.scores, lists.items.scores))
        sign = jnp.where(leads, 1, -1).astype(gains.dtype)

        def share(gap: Array) -> Array:
            return sign * numerics.sigmoid(-sign * gap / temperature)

        return jnp.sum(of_pairs(share, lists, lists.apart()), axis=-1)

    # Ranks are kept as the best rank and the distance from it, which may be tiny.
    best = ranks_of(lists, gains, lists.scores, **how)
    behind = lists.of_rows(overtaken, gains, met=(gains,), **how)
    log_best, log_ratio = jnp.log1p(best), jnp.log1p(behind / (1 + best))
    lost = math.log(2) * log_ratio / (log_best * (log_best + log_ratio))
    return lists.mean_of_lists(shares_of(lists, gains, discount(best), **how) * lost, **how)
