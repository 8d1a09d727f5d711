"""Weights for the pairs of a pairwise loss: plain functions of scores and relevance."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._core.spec import ArrayLike
from jaxloss.ranking._lists import Lists, discount, gains_of, lists_of, ranks_of, shares_of

_GAINS = ("exponential", "linear")


def _up_to(values: Array, ranks: Array, top: int | None) -> Array:
    return values if top is None else jnp.where(ranks <= top, values, 0)


def _worth(lists: Lists, gain: str, top: int | None, normalize: bool) -> Array:
    """The gains, divided by the DCG of the best order with `normalize`."""
    gains = gains_of(lists.relevance, gain)
    if not normalize:
        return gains
    best = ranks_of(lists, gains)
    return shares_of(lists, gains, _up_to(discount(best), best, top))


def _distances(lists: Lists, values: Array) -> Array:
    """|v_i - v_j| for each two items of a list, 0 across lists."""
    return numerics.absolute(jnp.where(lists.together, numerics.pairwise_difference(values), 0))


def _canonicalize(
    name: str,
    scores: ArrayLike,
    relevance: ArrayLike,
    mask: ArrayLike,
    segments: ArrayLike,
    gain: str = "linear",
) -> Lists:
    """Converts and checks arguments, as `@loss` does for a loss."""
    fun_name = f"jaxloss.ranking.{name}"
    scores, relevance = jnp.asarray(scores), jnp.asarray(relevance)
    dtype = jnp.promote_types(jnp.result_type(scores, relevance), jnp.float32)
    mask = None if mask is None else jnp.asarray(mask)
    segments = None if segments is None else jnp.asarray(segments)
    for argument, x in (("relevance", relevance), ("mask", mask), ("segments", segments)):
        if x is not None and x.shape != scores.shape:
            expected = f"{scores.shape}, that of `scores`"
            raise ValueError(f"{fun_name}: `{argument}` has shape {x.shape}, expected {expected}.")
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(f"{fun_name}: `mask` is {mask.dtype}, expected booleans: write `mask > 0`.")
    if gain not in _GAINS:
        raise ValueError(f"{fun_name}: `gain` is {gain!r}, expected one of {_GAINS}.")
    return lists_of(scores.astype(dtype), relevance.astype(dtype), mask, segments)


def pair_count(
    relevance: ArrayLike, *, mask: ArrayLike | None = None, segments: ArrayLike | None = None
) -> Array:
    r"""Counts the pairs of different relevance in each list: the pairs of the pairwise losses.

    As `weights` of a pairwise loss it turns the mean over lists into the mean over the pairs of
    all lists, which rax has.

    $$|\{(i, j) : y_i > y_j\}|$$

    Args:
        relevance: Relevances of the items, along the last axis.
        mask: False takes an item out of its list.
        segments: Ids of the lists in a row: pairs of different lists do not count.

    Returns:
        The number of pairs of each list; with segments, of all lists in a row.

    Raises:
        ValueError: If the mask or the segments do not fit.

    Example:
        >>> pair_count([[2.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        Array([3, 2], dtype=int32)
    """
    lists = _canonicalize("pair_count", relevance, relevance, mask, segments)
    return jnp.sum(lists.should_lead(), axis=(-2, -1), dtype=jnp.int32)


def relevance_weights(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    segments: ArrayLike | None = None,
) -> Array:
    r"""Weights of pairs for `pair_weights`: the absolute difference of their relevances.

    $$w_{ij} = |y_i - y_j|$$

    Args:
        scores: Scores of the items, along the last axis; not used.
        relevance: Relevances of the items.
        mask: False takes an item out of its list: its pairs have weight 0.
        segments: Ids of the lists in a row: pairs of different lists have weight 0.

    Returns:
        Weights of all pairs, with one more item axis.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> relevance_weights([0.0, 0.0], [3.0, 1.0])
        Array([[0., 2.], [2., 0.]], dtype=float32)
    """
    lists = _canonicalize("relevance_weights", scores, relevance, mask, segments)
    return _distances(lists, lists.relevance)


def dcg_weights(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    top: int | None = None,
    normalize: bool = False,
    gain: Literal["exponential", "linear"] = "exponential",
    mask: ArrayLike | None = None,
    segments: ArrayLike | None = None,
) -> Array:
    r"""Weights of pairs for `pair_weights`: the change of DCG by swapping them (LambdaRank).

    $$w_{ij} = |G(y_i) - G(y_j)| \cdot |D(r_i) - D(r_j)|, \qquad
      G(y) = 2^y - 1, \quad D(r) = \frac{1}{\log_2(1 + r)}$$

    $r$ is the rank by the scores; ties keep the order of the list. No gradient flows to the
    scores. rax multiplies these weights by the length of the list, masked items included.

    Args:
        scores: Scores of the items, along the last axis.
        relevance: Grades of the items, at least 0.
        top: The last rank that counts; None counts all of them.
        normalize: Whether to divide by the DCG of the best order, so that all lists have the same
            scale.
        gain: "exponential", $2^y - 1$; or "linear", the relevance itself.
        mask: False takes an item out of its list: its pairs have weight 0.
        segments: Ids of the lists in a row: pairs of different lists have weight 0.

    Returns:
        Weights of all pairs, with one more item axis.

    Raises:
        ValueError: If the shapes differ, or the gain is unknown.

    Example:
        >>> dcg_weights([2.0, 1.0, 0.0], [0.0, 0.0, 1.0], gain="linear")[2]  # 1 - 1/2 at the top
        Array([0.5      , 0.1309298, 0.       ], dtype=float32)
    """
    lists = _canonicalize("dcg_weights", scores, relevance, mask, segments, gain)
    ranks = ranks_of(lists, lists.scores)
    discounts = _up_to(discount(ranks), ranks, top)
    return _distances(lists, _worth(lists, gain, top, normalize)) * _distances(lists, discounts)


def dcg2_weights(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    top: int | None = None,
    normalize: bool = False,
    gain: Literal["exponential", "linear"] = "exponential",
    mask: ArrayLike | None = None,
    segments: ArrayLike | None = None,
) -> Array:
    r"""Weights of pairs for `pair_weights` from a bound on DCG (LambdaLoss, NDCG-Loss2).

    The bound is tighter than that of LambdaRank.

    $$w_{ij} = |G(y_i) - G(y_j)| \cdot \big(D(|r_i - r_j|) - D(|r_i - r_j| + 1)\big), \qquad
      G(y) = 2^y - 1, \quad D(r) = \frac{1}{\log_2(1 + r)}$$

    $r$ is the rank by the scores; ties keep the order of the list. Neighbours have the largest
    weights, at the bottom as at the top. No gradient flows to the scores. rax multiplies these
    weights by the length of the list, masked items included.

    Args:
        scores: Scores of the items, along the last axis.
        relevance: Grades of the items, at least 0.
        top: Past this rank $k$, a pair whose lower item has rank $m > k$ is multiplied by
            $1 / (1 - D(m))$.
        normalize: Whether to divide by the DCG of the best order, so that all lists have the same
            scale.
        gain: "exponential", $2^y - 1$; or "linear", the relevance itself.
        mask: False takes an item out of its list: its pairs have weight 0.
        segments: Ids of the lists in a row: pairs of different lists have weight 0.

    Returns:
        Weights of all pairs, with one more item axis.

    Raises:
        ValueError: If the shapes differ, or the gain is unknown.

    Example:
        >>> dcg2_weights([2.0, 1.0, 0.0], [0.0, 0.0, 1.0], gain="linear")[2]
        Array([0.1309298, 0.3690702, 0.       ], dtype=float32)
    """
    lists = _canonicalize("dcg2_weights", scores, relevance, mask, segments, gain)
    ranks = ranks_of(lists, lists.scores)
    apart = jnp.maximum(_distances(lists, ranks), 1)
    steps = discount(apart) - discount(apart + 1)
    if top is not None:
        lower = jnp.maximum(ranks[..., :, None], ranks[..., None, :])
        steps = jnp.where(lower > top, steps / (1 - discount(jnp.maximum(lower, 2))), steps)
    return _distances(lists, _worth(lists, gain, top, normalize)) * steps
