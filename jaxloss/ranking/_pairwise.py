"""Pairwise losses: functions of the score differences of the pairs of a list, and of one pair."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import finite, nonnegative_number, sign, unit_interval
from jaxloss.numerics._elementwise import linear_argument, pinball_of_error
from jaxloss.ranking._lists import Lists, lists_of
from jaxloss.ranking._pairs import Pairs, mean_over_pairs, variance_of_errors
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


def _hinge(gap: Array, margin: Array | float) -> Array:
    return numerics.relu(margin - gap)


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
    r"""Pairwise hinge loss (RankSVM): hinge on the score difference of each pair.

    When to use: pairs should be in the right order by a margin, and larger leads do not matter.

    $$\ell(s, y) = \frac{1}{|P|} \sum_{(i, j) \in P} \max(0, m - (s_i - s_j)), \qquad
      P = \{(i, j) : y_i > y_j\}$$

    The gradient of a pair is constant until it is right by the margin, and 0 from there on. Of the
    relevances only the order is used, beside the pair weights. rax adds up the pairs in its
    formula, takes one mean over the pairs of all lists, and has no margin other than 1.

    Args:
        scores: The predicted scores.
        relevance: The higher, the further up an item belongs.
        margin: How much higher the more relevant item should be, in the unit of the scores.
        pair_weights: The weight of each pair, at least 0: entry (i, j) for i above j. Its two item
            axes are the last ones, whatever `axis` is.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all
            pairs exists. None compares all of them.

    Returns:
        The loss of each list, in the unit of the scores; with segments the mean of the lists.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> pairwise_hinge([2.0, 1.5, 0.0], [2.0, 1.0, 0.0])  # gaps 0.5, 2 and 1.5
        Array(0.16666667, dtype=float32)

    References:
        Herbrich et al., *Large Margin Rank Boundaries for Ordinal Regression*, 2000.
        Joachims, *Optimizing Search Engines Using Clickthrough Data* (RankSVM), 2002.
    """
    lists = lists_of(scores, relevance, mask, segments)
    return mean_over_pairs("pairwise_hinge", Pairs(_hinge), lists, pair_weights, chunk_size, margin)


def _nll(gap: Array) -> Array:
    return numerics.softplus(-gap)


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
    r"""Pairwise logistic loss (RankNet): -log sigmoid of the score difference of each pair.

    When to use: the standard choice for preferences in pairs.

    $$\ell(s, y) = \frac{1}{|P|} \sum_{(i, j) \in P} \log\big(1 + e^{-(s_i - s_j)}\big), \qquad
      P = \{(i, j) : y_i > y_j\}$$

    With `pair_weights=dcg_weights(scores, relevance)` it is LambdaRank, which weights the top of
    the list more; without them, all pairs have the same weight. rax adds up the pairs in its
    formula and takes one mean over the pairs of all lists.

    Args:
        scores: The predicted scores.
        relevance: The higher, the further up an item belongs.
        pair_weights: The weight of each pair, at least 0: entry (i, j) for i above j. Its two item
            axes are the last ones, whatever `axis` is.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all
            pairs exists. None compares all of them.

    Returns:
        The loss of each list in nats; with segments the mean of the lists.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> pairwise_logistic([[0.0, 0.0], [80.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Burges et al., *Learning to Rank Using Gradient Descent* (RankNet), 2005.
        Burges et al., *Learning to Rank with Nonsmooth Cost Functions* (LambdaRank), 2006.
    """
    lists = lists_of(scores, relevance, mask, segments)
    return mean_over_pairs("pairwise_logistic", Pairs(_nll), lists, pair_weights, chunk_size)


def _soft_error(gap: Array) -> Array:
    return numerics.sigmoid(-gap)


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
    r"""Pairwise sigmoid loss: a smooth share of the pairs in wrong order.

    When to use: some relevances are wrong, since the loss of a pair is at most 1.

    $$\ell(s, y) = \frac{1}{|P|} \sum_{(i, j) \in P} \frac{1}{1 + e^{s_i - s_j}}, \qquad
      P = \{(i, j) : y_i > y_j\}$$

    The gradient of a pair vanishes as it gets more wrong, so that outliers have no influence, and a
    bad start learns slowly. As scores grow, the loss goes to the share of discordant pairs. rax
    adds up the pairs in its formula and takes one mean over the pairs of all lists.

    Args:
        scores: The predicted scores.
        relevance: The higher, the further up an item belongs.
        pair_weights: The weight of each pair, at least 0: entry (i, j) for i above j. Its two item
            axes are the last ones, whatever `axis` is.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all
            pairs exists. None compares all of them.

    Returns:
        The soft share of pairs in wrong order; with segments the mean of the lists.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> pairwise_soft_zero_one([0.0, 0.0, 100.0], [2.0, 1.0, 0.0])  # 1/2, 1 and 1
        Array(0.8333333, dtype=float32)

    References:
        Kendall, *A New Measure of Rank Correlation*, 1938.
        Valizadegan et al., *Learning to Rank by Optimizing NDCG Measure*, 2009.
    """
    lists = lists_of(scores, relevance, mask, segments)
    pairs = Pairs(_soft_error)
    return mean_over_pairs("pairwise_soft_zero_one", pairs, lists, pair_weights, chunk_size)


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
    r"""Pairwise squared error: of the score differences against the relevance differences.

    When to use: score differences should equal relevance differences, in each list.

    $$\ell(s, y) = \frac{1}{n (n - 1)} \sum_{i \neq j} \big((s_i - s_j) - (y_i - y_j)\big)^2$$

    All pairs count, also ties: the loss is twice the sample variance of the errors $s - y$ in the
    list, and does not depend on the offset of its scores. rax takes the mean over $n^2$ pairs,
    including those of an item with itself: smaller by $(n - 1) / n$ in a list of $n$.

    Args:
        scores: The predicted scores.
        relevance: The unit of the scores: what their differences should be.
        pair_weights: The weight of each pair, at least 0: entry (i, j) for i above j. Its two item
            axes are the last ones, whatever `axis` is.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all
            pairs exists. None compares all of them.

    Returns:
        The loss of each list, in the squared unit of the scores; with segments their mean.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> pairwise_squared_error([5.0, 7.0], [0.0, 1.0])  # a difference of 2, not 1
        Array(1., dtype=float32)

    References:
        Cossock and Zhang, *Subset Ranking Using Regression*, 2006.
    """
    lists = lists_of(scores, relevance, mask, segments)
    if pair_weights is None:
        return variance_of_errors(lists)
    pairs = Pairs(jnp.square, Lists.apart, errors=True)
    return mean_over_pairs("pairwise_squared_error", pairs, lists, pair_weights, chunk_size)


def _squared_pinball(error: Array, level: Array | float) -> Array:
    return jnp.where(error < 0, level, 1 - level) * jnp.square(error)


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
    r"""Pairwise pinball loss: quantile regression of score differences on relevance differences.

    When to use: score differences should follow relevance differences, and errors of one sign are
    worse than those of the other.

    $$\ell(s, y) = \frac{1}{|P|} \sum_{(i, j) \in P}
      \tau \max(0, -e_{ij}) + (1 - \tau) \max(0, e_{ij}), \qquad
      e_{ij} = (s_i - s_j) - (y_i - y_j)$$

    The pairs are those of different relevance, $P = \{(i, j) : y_i > y_j\}$. At level 0.5 it is
    half the absolute error of the differences; towards 1, score differences become at least as
    large as those of the relevances. rax calls the level tau, does not take 0, adds up the pairs in
    its formula and takes one mean over the pairs of all lists.

    Args:
        scores: The predicted scores.
        relevance: The unit of the scores: what their differences should be.
        level: The weight of a difference that is too small; of one too large it is 1 - level.
        squared: Whether errors are squared, which gives expectiles instead of quantiles.
        pair_weights: The weight of each pair, at least 0: entry (i, j) for i above j. Its two item
            axes are the last ones, whatever `axis` is.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row, in any order; without them a row is one list.
        chunk_size: How many items to compare with all others at once, so that no array of all
            pairs exists. None compares all of them.

    Returns:
        The loss of each list, in the unit of the scores, squared or not; with segments their mean.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> pairwise_quantile([5.0, 7.0], [0.0, 3.0], level=0.75)  # 1 too small
        Array(0.75, dtype=float32)

    References:
        Koenker and Bassett, *Regression Quantiles*, 1978.
    """
    lists = lists_of(scores, relevance, mask, segments)
    pairs = Pairs(_squared_pinball if squared else pinball_of_error, errors=True)
    return mean_over_pairs("pairwise_quantile", pairs, lists, pair_weights, chunk_size, level)


@loss(convex, nonnegative, bounded_gradient, translation_invariant, sign=sign)
def margin(
    scores: Real[ArrayLike, "*batch"],
    rival_scores: Real[ArrayLike, "*batch"],
    sign: Real[ArrayLike, "*batch"],
    *,
    margin: Real[ArrayLike, ""] = 0.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Margin ranking loss: hinge on the difference of two scores.

    When to use: an example is two scores and which of them should be the higher one, not a list.

    $$\ell(s, r, y) = \max(0, m - y (s - r))$$

    A pair that is right by the margin has gradient 0. With the default margin 0, as in torch, a
    constant score has loss 0 (with half the gradient of a wrong pair, where torch has all of it):
    pass a margin. For whole lists, `pairwise_hinge` finds the pairs itself.

    Args:
        scores: The scores of the first of each two.
        rival_scores: The scores of the second.
        sign: +1 if the first should be higher, -1 if the second; anything else gives NaN.
        margin: How much higher it should be, in the unit of the scores.

    Returns:
        The loss of each pair, in the unit of the scores.

    Example:
        >>> margin([2.0, 2.0], [1.5, 1.5], [1, -1], margin=1.0)
        Array([0.5, 1.5], dtype=float32)

    References:
        Herbrich et al., *Large Margin Rank Boundaries for Ordinal Regression*, 2000.
    """
    gap = linear_argument(scores - rival_scores)  # its NaN is lost in the gradient of a maximum
    return jnp.maximum(margin - sign * gap, 0)
