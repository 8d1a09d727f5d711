"""Listwise losses: functions of the order of a whole list."""

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
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.numerics._softmax_dense import (
    cross_entropy_complement_and_total,
    softmax_cross_entropy_dense,
)
from jaxloss.ranking._lists import (
    Lists,
    before,
    discount,
    gains_of,
    lists_of,
    nll_among_less_relevant,
    nll_in_list,
    nll_of_order,
    of_pairs,
    ranks_of,
    shares_of,
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
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Softmax cross-entropy of a list (ListNet's top-one form), weighted by relevance.

    When to use: the first choice for ranking, in particular if few items of a list are relevant.

    $$\ell(s, y) = -\sum_i y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}}$$

    Relevances are weights and are not normalized, as in rax and optax: a list with twice the
    relevance counts twice. Divide them by their sum for a cross-entropy; multiply them by the
    weights of items, if there are any. The loss grows without bound with the score of a single
    irrelevant item.

    Args:
        scores: The predicted scores; -inf makes an item impossible.
        relevance: The weight of each item, at least 0.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.

    Returns:
        The loss of each list in nats, times its relevance; with segments their mean.

    Example:
        >>> softmax([[0.0, 0.0], [80.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]])
        Array([1.386294e+00, 1.804851e-35], dtype=float32)

    References:
        Cao et al., *Learning to Rank: From Pairwise Approach to Listwise Approach*, 2007.
        Bruch et al., *An Analysis of the Softmax Cross Entropy Loss for Learning-to-Rank*, 2019.
    """
    if segments is not None:
        lists = lists_of(scores, relevance, mask, segments)
        return lists.mean_of_lists(numerics.multiply_no_nan(lists.relevance, nll_in_list(lists)))
    return softmax_cross_entropy_dense(scores, linear_argument(relevance))


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
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Poly-1 softmax loss: `softmax` plus epsilon times 1 - p of the relevant items.

    When to use: as `softmax`, if items that are already ranked well should have larger gradients
    (epsilon above 0), or smaller ones (below 0).

    $$\ell(s, y) = -\sum_i y_i \log p_i
      + \epsilon \Big(1 - \sum_i \frac{y_i}{\sum_j y_j} p_i\Big), \qquad
      p_i = \frac{e^{s_i}}{\sum_j e^{s_j}}$$

    The first term of the series of the logarithm, $1 - p$, has the weight $1 + \epsilon$. Without
    any relevance the loss is 0; in rax it is then the constant $\epsilon (1 - 1 / n)$.

    Args:
        scores: The predicted scores; -inf makes an item impossible.
        relevance: The weight of each item, at least 0.
        epsilon: The number added to the weight of the first term.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.

    Returns:
        The loss of each list; with segments their mean.

    Example:
        >>> poly1_softmax([0.0, 0.0], [1.0, 0.0], epsilon=2.0)  # log 2 + 2 (1 - 1/2)
        Array(1.6931472, dtype=float32)

    References:
        Leng et al., *PolyLoss: A Polynomial Expansion Perspective of Classification Losses*, 2022.
    """
    if segments is None:
        nll, missed, total = cross_entropy_complement_and_total(scores, relevance)
        return nll + epsilon * missed / jnp.where(total == 0, 1, total)
    lists = lists_of(scores, relevance, mask, segments)
    nll = nll_in_list(lists)
    total = lists.sum_of_list(lists.relevance)
    share = lists.relevance / jnp.where(total == 0, 1, total)
    missed = -jnp.expm1(-nll)  # 1 - p, without the rounding error of p
    return lists.mean_of_lists(
        numerics.multiply_no_nan(lists.relevance, nll) + epsilon * share * missed
    )


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
    r"""Unique softmax loss: softmax cross-entropy of each item among the less relevant ones.

    When to use: graded relevance, where two relevant items should not compete with each other.

    $$\ell(s, y) = -\sum_i G(y_i) \log
      \frac{e^{s_i}}{e^{s_i} + \sum_{j : y_j < y_i} e^{s_j}}, \qquad G(y) = 2^y - 1$$

    The gain grows fast: relevance 5 has 31 times the weight of relevance 1. For another gain that
    grows with relevance, pass `G(relevance)` as the relevance, with `gain="linear"`.

    Args:
        scores: The predicted scores.
        relevance: Grades of the items, at least 0.
        gain: "exponential", $2^y - 1$; or "linear", the relevance itself.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all
            pairs exists. None compares all of them.

    Returns:
        The loss of each list in nats, times its gains; with segments their mean.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> unique_softmax([0.0, 0.0, 0.0], [2.0, 1.0, 0.0])  # 3 log 3 + 1 log 2
        Array(3.988984, dtype=float32)

    References:
        Zhu and Klabjan, *Listwise Learning to Rank by Exploring Unique Ratings*, 2020.
    """
    lists = lists_of(scores, relevance, mask, segments)
    chunks: Any = {"fun_name": "jaxloss.ranking.unique_softmax", "chunk_size": chunk_size}
    nll = nll_among_less_relevant(lists, **chunks)
    return lists.mean_of_lists(gains_of(lists.relevance, gain) * nll)


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
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""ListMLE loss: -log likelihood of the right order under the Plackett-Luce model.

    When to use: the order of the whole list is known, and counts down to the last item.

    $$\ell(s, y) = -\sum_i \log \frac{e^{s_{\pi(i)}}}{\sum_{j \geq i} e^{s_{\pi(j)}}}, \qquad
      y_{\pi(1)} \geq y_{\pi(2)} \geq \dots$$

    In that model items are drawn one after the other, without replacement. Of the relevances only
    the order is used, and there are no ties: items of the same relevance are put in their order in
    the list, so that the loss of a list of ties is not 0. With a new key at every step ties are
    broken at random: one order of the places is drawn for all lists of a call (rax draws one per
    list), so that `vmap` does not change the result.

    Args:
        scores: The predicted scores.
        relevance: The higher, the earlier in the right order.
        key: A `jax.random` key that breaks ties; without one, ties keep the order of the list.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.

    Returns:
        The loss of each list in nats, summed over its items; with segments the mean of the lists.

    Example:
        >>> list_mle([0.0, 0.0, 0.0], [1.0, 3.0, 2.0])  # log 3 + log 2
        Array(1.7917595, dtype=float32)

    References:
        Xia et al., *Listwise Approach to Learning to Rank: Theory and Algorithm*, 2008.
    """
    ties = () if key is None else (jax.random.permutation(key, scores.shape[-1]),)
    scores = scores + jnp.where(relevance == relevance, 0, jnp.nan)  # the order has no number
    total, count = nll_of_order(scores, (-relevance, *ties), mask, segments)
    return total if segments is None else total / jnp.maximum(count, 1).astype(total.dtype)


def _excess(gap: Array, sign: Array, temperature: Array | float) -> Array:
    return sign * numerics.sigmoid(-sign * gap / temperature)


def _excess_rank(
    lists: Lists, own_gains: Array, gains: Array, temperature: Array | float
) -> Float[Array, "*batch rows"]:
    """The smooth rank of an item less its best rank."""
    leads = before(lists, (own_gains, gains), (lists.rows.scores, lists.items.scores))
    sign = jnp.where(leads, 1, -1).astype(gains.dtype)
    return jnp.sum(of_pairs(_excess, lists, lists.apart(), sign, temperature), axis=lists.axis)


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
    r"""ApproxNDCG loss: 1 - NDCG, with ranks smoothed by a sigmoid of the score differences.

    When to use: fine-tuning on NDCG itself, from a model that was fitted with `softmax`.

    $$\ell(s, y) = 1 - \frac{1}{Z} \sum_i \frac{G(y_i)}{\log_2(1 + r_i)}, \qquad
      r_i = 1 + \sum_{j \neq i} \frac{1}{1 + e^{(s_i - s_j) / T}}, \qquad G(y) = 2^y - 1$$

    $Z$ is the same sum in the best order. As the temperature goes to 0 the loss goes to the true
    1 - NDCG, and its gradient to 0. It is not convex. rax returns -NDCG
    (`approx_t12n(ndcg_metric)`), smaller by 1; without any relevance both are 0.

    Args:
        scores: The predicted scores.
        relevance: Grades of the items, at least 0.
        temperature: The scale of score differences, above 0: much larger ones count as an order.
        gain: "exponential", $2^y - 1$; or "linear", the relevance itself.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all
            pairs exists. None compares all of them.

    Returns:
        The loss of each list, between 0 and 1; with segments the mean of the lists.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> approx_ndcg([0.0, 90.0, 80.0], [1.0, 0.0, 0.0])  # third: 1 - 1 / log2(4)
        Array(0.5, dtype=float32)

    References:
        Qin et al., *A General Approximation Framework for Direct Optimization of Information
        Retrieval Measures*, 2010.
    """
    lists = lists_of(scores, relevance, mask, segments)
    chunks: Any = {"fun_name": "jaxloss.ranking.approx_ndcg", "chunk_size": chunk_size}
    gains = gains_of(lists.relevance, gain)

    # A rank is kept as the best rank and the excess over it, which may be tiny.
    best = ranks_of(lists, gains, lists.scores, **chunks)
    excess = lists.map_rows(_excess_rank, gains, items=(gains, temperature), **chunks)
    log_best, log_ratio = jnp.log1p(best), jnp.log1p(excess / (1 + best))
    loss_of_discount = math.log(2) * log_ratio / (log_best * (log_best + log_ratio))
    return lists.mean_of_lists(shares_of(lists, gains, discount(best)) * loss_of_discount)
