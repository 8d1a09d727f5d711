"""Pairwise losses: of each two items of a list that should be in one order, and of two scores."""

import functools
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import finite, nonnegative_number, sign, unit_interval
from jaxloss.numerics._double_double import two_sum
from jaxloss.ranking._lists import Lists, lists_of, of_pairs
from jaxloss.traits import (
    bounded,
    bounded_gradient,
    convex,
    nonnegative,
    shift_invariant,
    smooth,
    symmetric,
    translation_invariant,
    zero_at_match,
)


def _mean_over_pairs(
    name: str,
    function: Callable[[Array], Array],
    lists: Lists,
    pair_weights: Array | None,
    chunk_size: int | None,
    *,
    pairs: Callable[[Lists], Array] = Lists.should_lead,
    errors: bool = False,
) -> Array:
    """The mean of function(s_i - s_j), or of the errors s - y, over the pairs of each list."""
    how: Any = {"fun_name": f"jaxloss.ranking.{name}", "chunk_size": chunk_size}

    def number(lists: Lists) -> Array:
        return jnp.sum(pairs(lists), axis=-1, dtype=jnp.int32)

    def cost(lists: Lists, count: Array, pair_weights: Array | None) -> Array:
        among = pairs(lists)
        costs = of_pairs(function, lists, among, errors)
        if pair_weights is not None:
            costs = costs * jnp.where(among, pair_weights, 0)
        # Divided before they are added: a sum may overflow where the mean does not.
        return jnp.sum(costs / count[..., None], axis=-1)

    count = lists.sum_of_list(lists.of_rows(number, **how), **how)
    count = jnp.maximum(count, 1).astype(lists.scores.dtype)
    return lists.mean_of_lists(lists.of_rows(cost, count, pair_weights, **how), **how)


def _variance_of_errors(lists: Lists, **how: Any) -> Array:
    """The mean of ((s_i - s_j) - (y_i - y_j))^2 over all pairs, of which no array is needed.

    The first centre is rounded as the errors are large; what is left around it is not.
    """
    errors, lost = two_sum(lists.scores, -lists.relevance)
    number = lists.sum_of_list(lists.items.mask.astype(errors.dtype), **how)
    count = jnp.maximum(number, 1)
    centre = jax.lax.stop_gradient(lists.sum_of_list(errors / count, **how))
    off = jnp.where(lists.items.mask, (errors - centre) + lost, 0)
    off = off - lists.sum_of_list(off / count, **how)
    return lists.mean_of_lists(2 * jnp.square(off) / jnp.maximum(number - 1, 1), **how)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    shift_invariant,
    scores=finite,
    relevance=finite,
    pair_weights=nonnegative_number,
)
def pairwise_hinge(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    margin: Real[ArrayLike, ""] = 1.0,
    pair_weights: Real[ArrayLike, "*batch items items"] | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to put pairs in the right order by a margin, with no more pull once they are.

    $$\ell(s, y) = \frac{1}{|P|} \sum_{(i, j) \in P} \max(0, m - (s_i - s_j)), \qquad
      P = \{(i, j) : y_i > y_j\}$$

    Only pairs that are wrong or close pull, all with the same force. Of the relevances the order
    alone counts, unless pair weights say more. rax adds up the pairs in its formula, takes one
    mean over the pairs of all lists, and has no margin other than 1.

    Args:
        scores: How high the model ranks each item.
        relevance: The higher, the further up an item belongs.
        margin: By how much the more relevant item should lead, in the unit of the scores.
        pair_weights: How much the pair of each two items counts, at least 0: entry (i, j) for i
            above j. Its two item axes are the last, whatever `axis` says.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to pair with all others at once, so that no array of all pairs
            exists; without it one does.

    Returns:
        The loss of each list, in the unit of the scores; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores, or the
            chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> pairwise_hinge([2.0, 1.5, 0.0], [2.0, 1.0, 0.0])  # gaps 0.5, 2 and 1.5
        Array(0.16666667, dtype=float32)

    References:
        Herbrich et al., *Large Margin Rank Boundaries for Ordinal Regression*, 2000.
        Joachims, *Optimizing Search Engines Using Clickthrough Data* (RankSVM), 2002.
    """
    lists = lists_of(scores, relevance, mask, segments)

    def hinge(gap: Array) -> Array:
        return numerics.relu(margin - gap)

    return _mean_over_pairs("pairwise_hinge", hinge, lists, pair_weights, chunk_size)


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    scores=finite,
    relevance=finite,
    pair_weights=nonnegative_number,
)
def pairwise_logistic(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    pair_weights: Real[ArrayLike, "*batch items items"] | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it as the standard for preferences in pairs: the likelihood of each right order.

    $$\ell(s, y) = \frac{1}{|P|} \sum_{(i, j) \in P} \log\big(1 + e^{-(s_i - s_j)}\big), \qquad
      P = \{(i, j) : y_i > y_j\}$$

    RankNet; with `pair_weights=dcg_weights(scores, relevance)` it is LambdaRank. Each pair costs
    as much as every other, at the bottom of the list too: those weights put the top first. rax
    adds up the pairs in its formula and takes one mean over the pairs of all lists.

    Args:
        scores: How high the model ranks each item.
        relevance: The higher, the further up an item belongs.
        pair_weights: How much the pair of each two items counts, at least 0: entry (i, j) for i
            above j. Its two item axes are the last, whatever `axis` says.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to pair with all others at once, so that no array of all pairs
            exists; without it one does.

    Returns:
        The loss of each list in nats; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores, or the
            chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> pairwise_logistic([[0.0, 0.0], [80.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Burges et al., *Learning to Rank Using Gradient Descent* (RankNet), 2005.
        Burges et al., *Learning to Rank with Nonsmooth Cost Functions* (LambdaRank), 2006.
    """
    lists = lists_of(scores, relevance, mask, segments)

    def surprise(gap: Array) -> Array:
        return numerics.softplus(-gap)

    return _mean_over_pairs("pairwise_logistic", surprise, lists, pair_weights, chunk_size)


@loss(
    nonnegative,
    bounded,
    smooth,
    bounded_gradient,
    shift_invariant,
    scores=finite,
    relevance=finite,
    pair_weights=nonnegative_number,
)
def pairwise_soft_zero_one(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    pair_weights: Real[ArrayLike, "*batch items items"] | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when some relevances are wrong: it counts the pairs in wrong order, softly.

    $$\ell(s, y) = \frac{1}{|P|} \sum_{(i, j) \in P} \frac{1}{1 + e^{s_i - s_j}}, \qquad
      P = \{(i, j) : y_i > y_j\}$$

    No pair costs more than 1, so that hopeless ones are given up: their pull vanishes. For the
    same reason a bad start learns slowly. The sharper the scores, the closer it is to the share
    of discordant pairs. rax adds up the pairs in its formula and takes one mean over the pairs of
    all lists.

    Args:
        scores: How high the model ranks each item.
        relevance: The higher, the further up an item belongs.
        pair_weights: How much the pair of each two items counts, at least 0: entry (i, j) for i
            above j. Its two item axes are the last, whatever `axis` says.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to pair with all others at once, so that no array of all pairs
            exists; without it one does.

    Returns:
        The soft share of pairs in wrong order; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores, or the
            chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> pairwise_soft_zero_one([0.0, 0.0, 100.0], [2.0, 1.0, 0.0])  # 1/2, 1 and 1
        Array(0.8333333, dtype=float32)

    References:
        Kendall, *A New Measure of Rank Correlation*, 1938.
        Valizadegan et al., *Learning to Rank by Optimizing NDCG Measure*, 2009.
    """
    lists = lists_of(scores, relevance, mask, segments)

    def doubt(gap: Array) -> Array:
        return numerics.sigmoid(-gap)

    return _mean_over_pairs("pairwise_soft_zero_one", doubt, lists, pair_weights, chunk_size)


@loss(
    convex,
    nonnegative,
    smooth,
    symmetric,
    shift_invariant,
    translation_invariant,
    zero_at_match,
    scores=finite,
    relevance=finite,
    pair_weights=nonnegative_number,
)
def pairwise_squared_error(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    pair_weights: Real[ArrayLike, "*batch items items"] | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when score differences should equal relevance differences, in every list.

    $$\ell(s, y) = \frac{1}{n (n - 1)} \sum_{i \neq j} \big((s_i - s_j) - (y_i - y_j)\big)^2$$

    All pairs count, ties too: it is twice the sample variance of the errors $s - y$ in the list,
    a squared error that forgives a list its offset. A mean over $n^2$, the pairs of an item with
    itself among them, is what rax takes: smaller by $(n - 1) / n$ in a list of $n$.

    Args:
        scores: How high the model ranks each item.
        relevance: The unit of the scores: what their differences should be.
        pair_weights: How much the pair of each two items counts, at least 0: entry (i, j) for i
            above j. Its two item axes are the last, whatever `axis` says.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to pair with all others at once, so that no array of all pairs
            exists; without it one does.

    Returns:
        The loss of each list, in the squared unit of the scores; with segments their mean.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores, or the
            chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> pairwise_squared_error([5.0, 7.0], [0.0, 1.0])  # a difference of 2, not 1
        Array(1., dtype=float32)

    References:
        Cossock and Zhang, *Subset Ranking Using Regression*, 2006.
    """
    lists = lists_of(scores, relevance, mask, segments)
    name = "pairwise_squared_error"
    if pair_weights is None:
        return _variance_of_errors(lists, fun_name=f"jaxloss.ranking.{name}", chunk_size=chunk_size)
    mean = functools.partial(_mean_over_pairs, pairs=Lists.apart, errors=True)
    return mean(name, jnp.square, lists, pair_weights, chunk_size)


@loss(
    convex,
    nonnegative,
    shift_invariant,
    translation_invariant,
    zero_at_match,
    scores=finite,
    relevance=finite,
    pair_weights=nonnegative_number,
    level=unit_interval,
)
def pairwise_quantile(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    level: Real[ArrayLike, ""] = 0.5,
    squared: bool = False,
    pair_weights: Real[ArrayLike, "*batch items items"] | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
    chunk_size: int | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when score differences should follow relevance differences, erring to one side.

    $$\ell(s, y) = \frac{1}{|P|} \sum_{(i, j) \in P}
      \tau \max(0, -e_{ij}) + (1 - \tau) \max(0, e_{ij}), \qquad
      e_{ij} = (s_i - s_j) - (y_i - y_j)$$

    The pairs are those of different relevance, $P = \{(i, j) : y_i > y_j\}$. At level 0.5 it is
    half the absolute error of the differences; towards 1, pairs are pushed apart at least as far
    as their relevances are. rax calls the level tau, does not take 0, adds up the pairs in its
    formula and takes one mean over the pairs of all lists.

    Args:
        scores: How high the model ranks each item.
        relevance: The unit of the scores: what their differences should be.
        level: What too small a difference costs; too large a one costs 1 - level.
        squared: Whether errors are squared (an expectile rather than a quantile).
        pair_weights: How much the pair of each two items counts, at least 0: entry (i, j) for i
            above j. Its two item axes are the last, whatever `axis` says.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to pair with all others at once, so that no array of all pairs
            exists; without it one does.

    Returns:
        The loss of each list, in the unit of the scores, squared or not; with segments their mean.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores, the level
            is a number that is not between 0 and 1, or the chunk is below 1.
        TypeError: If the chunk is not an integer.

    Example:
        >>> pairwise_quantile([5.0, 7.0], [0.0, 3.0], level=0.75)  # 1 too small
        Array(0.75, dtype=float32)

    References:
        Koenker and Bassett, *Regression Quantiles*, 1978.
    """
    lists = lists_of(scores, relevance, mask, segments)
    power = jnp.square if squared else lambda miss: miss

    def pinball(error: Array) -> Array:
        return level * power(numerics.relu(-error)) + (1 - level) * power(numerics.relu(error))

    mean = functools.partial(_mean_over_pairs, errors=True)
    return mean("pairwise_quantile", pinball, lists, pair_weights, chunk_size)


@loss(convex, nonnegative, bounded_gradient, translation_invariant, sign=sign)
def margin(
    scores: Real[ArrayLike, "*batch"],
    rival_scores: Real[ArrayLike, "*batch"],
    sign: Real[ArrayLike, "*batch"],
    *,
    margin: Real[ArrayLike, ""] = 0.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it when an example is two scores and which of them should win, not a list.

    $$\ell(s, r, y) = \max(0, m - y (s - r))$$

    Pairs that are right by the margin pull no more. With the default margin 0, as in torch, a
    model that says the same of everything has loss 0 (and half the pull of a wrong pair, where
    torch has all of it): give a margin. For whole lists, `pairwise_hinge` finds the pairs itself.

    Args:
        scores: The scores of the first of each two.
        rival_scores: The scores of the second.
        sign: +1 if the first should win, -1 if the second; anything else gives NaN.
        margin: By how much it should win, in the unit of the scores.

    Returns:
        The loss of each two, in the unit of the scores.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> margin([2.0, 2.0], [1.5, 1.5], [1, -1], margin=1.0)
        Array([0.5, 1.5], dtype=float32)

    References:
        Herbrich et al., *Large Margin Rank Boundaries for Ordinal Regression*, 2000.
    """
    return jnp.maximum(margin - sign * (scores - rival_scores), 0)
