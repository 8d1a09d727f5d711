r"""Ranking: losses of scores that put the items of a list in order.

The items lie along the last axis, or along `axis`; `scores` say how the model orders them,
`relevance` how they should be ordered. A list is one example: its losses are one number, so a
mean is a mean over lists. `mask` takes items out of a list, whatever they hold. With `segments`
a row holds several lists: items with the same id form a list, nothing crosses between lists, and
the number of the row is the mean over its lists. A list that says nothing about order, because it
is empty or its relevances are all 0 or all equal, costs 0 with gradient 0 (where a loss differs
there, it says so); it still counts in a mean, unless `where` leaves it out.

A pairwise loss is the *mean over the pairs of a list*. rax takes one mean over the pairs of all
lists together, so that long lists decide; that mean is `weights=pair_count(relevance)` here.
Pairwise losses, and all losses with segments, take memory that grows with the square of a list.

The pointwise losses of rax are `regression.squared_error` and
`classification.sigmoid_cross_entropy`.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._softmax import surprise_of_class, surprise_of_distribution
from jaxloss.contract import loss
from jaxloss.declaration import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import (
    extended,
    finite,
    kept,
    nonnegative_number,
    positive,
    sign,
    unit_interval,
)
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

HELPERS = ["pair_count", "relevance_weights", "dcg_weights", "dcg2_weights"]

_GAINS = ("exponential", "linear")


class _Lists(NamedTuple):
    """The lists of a row: items that are masked hold 0 and are together with none."""

    scores: Array
    relevance: Array
    together: Array
    segmented: bool

    def sum_of_list(self, values: Array) -> Array:
        """For each item, the sum of the values of its list."""
        return jnp.sum(jnp.where(self.together, values[..., None, :], 0), axis=-1)

    def mean_of_lists(self, values: Array) -> Array:
        """Adds up what the items cost; of several lists in a row it takes the mean."""
        total = jnp.sum(values, axis=-1)
        if not self.segmented:
            return total
        opens = jnp.any(self.together, axis=-1) & ~jnp.any(jnp.tril(self.together, -1), axis=-1)
        count = jnp.sum(opens, axis=-1, dtype=jnp.int32)
        return total / jnp.maximum(count, 1).astype(total.dtype)

    def should_lead(self) -> Array:
        """The pairs (i, j) in which item i is the more relevant one."""
        return self.together & (self.relevance[..., :, None] > self.relevance[..., None, :])


def _lists(scores: Array, relevance: Array, mask: Array | None, segments: Array | None) -> _Lists:
    if mask is None:
        mask = jnp.ones(scores.shape, jnp.bool_)
    else:
        scores, relevance = jnp.where(mask, scores, 0), jnp.where(mask, relevance, 0)
    together = mask[..., :, None] & mask[..., None, :]
    if segments is not None:
        together &= segments[..., :, None] == segments[..., None, :]
    return _Lists(scores, relevance, together, segments is not None)


def _before(together: Array, *keys: Array) -> Array:
    """The pairs (i, j) in which i comes first: by the highest key, ties by the next, by place."""
    place = jnp.arange(together.shape[-1])
    before = place[:, None] < place[None, :]
    for key in reversed(keys):
        left, right = key[..., :, None], key[..., None, :]
        before = (left > right) | ((left == right) & before)
    return together & before


def _ranks(before: Array, dtype: Any) -> Array:
    return (1 + jnp.sum(before, axis=-2, dtype=jnp.int32)).astype(dtype)


@jax.custom_jvp
def _surprise_of_class(scores: Array, ids: Array) -> Array:
    """The engine's function, in a rule whose value can be differentiated again.

    Its own rule returns a value that forgets the label's score if that is the highest, so that
    derivatives by relevance and score would miss a term.
    """
    return surprise_of_class(scores, ids)


@_surprise_of_class.defjvp
def _surprise_of_class_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (scores, ids), (to_scores, _) = primals, tangents
    tangent = jax.jvp(lambda s: surprise_of_class(s, ids), (scores,), (to_scores,))[1]
    return _surprise_of_class(scores, ids), tangent


def _surprise_among(scores: Array, rivals: Array) -> Array:
    """-log of the softmax of each item, among itself and its rivals; 0 without any."""
    items = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    present = rivals | (items[:, None] == items)
    logits = jnp.where(present, scores[..., None, :], -jnp.inf)
    return _surprise_of_class(logits, jnp.broadcast_to(items, scores.shape))


def _subtract(left: Array, right: Array) -> tuple[Array, Array]:
    """The difference, and what its rounding lost; a difference that overflows lost nothing."""
    difference = left - right
    back = left - difference
    lost = (left - (difference + back)) + (back - right)
    return difference, jax.lax.stop_gradient(jnp.where(jnp.abs(lost) < jnp.inf, lost, 0))


def _of_pairs(
    function: Callable[[Array], Array], values: Array, pairs: Array, slack: Array | None = None
) -> Array:
    """function(v_i - v_j) at the pairs, 0 elsewhere, as if the difference were not rounded.

    In the tail of an exponential and near a hinge, the last place of the difference is many last
    places of the result: what it lost is put back with the slope. `slack` is what the values
    themselves have lost.
    """
    gap, lost = _subtract(values[..., :, None], values[..., None, :])
    if slack is not None:
        lost = lost + (slack[..., :, None] - slack[..., None, :])
        rounded = gap + lost
        gap, lost = rounded, jax.lax.stop_gradient(lost - (rounded - gap))
    gap = jnp.where(pairs, gap, 0)
    # Past 2**24 no digit of a gap is missed, and the correction of a square might overflow.
    lost = jnp.where(pairs & (jnp.abs(lost) < 1), lost, 0)
    value, correction = jax.jvp(function, (gap,), (lost,))
    return jnp.where(pairs, value + correction, 0)


def _mean_over_pairs(
    function: Callable[[Array], Array],
    lists: _Lists,
    pairs: Array,
    pair_weights: Array | None,
    errors: bool = False,
) -> Array:
    """The mean of function(s_i - s_j), or of the errors s - y, over the pairs of each list."""
    values, slack = lists.scores, None
    if errors:
        values, slack = _subtract(lists.scores, lists.relevance)
    costs = _of_pairs(function, values, pairs, slack)
    if pair_weights is not None:
        costs = costs * jnp.where(pairs, pair_weights, 0)
    count = lists.sum_of_list(jnp.sum(pairs, axis=-1, dtype=jnp.int32))
    # Divided before they are added: a sum may overflow where the mean does not.
    shares = costs / jnp.maximum(count, 1).astype(costs.dtype)[..., None]
    return lists.mean_of_lists(jnp.sum(shares, axis=-1))


def _gains(relevance: Array, gain: str) -> Array:
    """2^relevance - 1, exact for whole relevances; or the relevance itself."""
    if gain == "linear":
        return relevance
    whole = jax.lax.stop_gradient(jnp.round(relevance))
    power = jnp.ldexp(jnp.ones_like(whole), whole.astype(jnp.int32))  # jnp.exp2(13.0) is not 2**13
    return power * jnp.expm1((relevance - whole) * math.log(2)) + (power - 1)


def _discount(rank: Array) -> Array:
    return math.log(2) / jnp.log1p(rank)


def _cut(values: Array, ranks: Array, top: int | None) -> Array:
    return values if top is None else jnp.where(ranks <= top, values, 0)


def _shares(lists: _Lists, gains: Array, discounts: Array) -> Array:
    """Gains as shares of the DCG that these discounts make of their list; 0 if that is 0."""
    total = lists.sum_of_list(gains * discounts)
    return gains / jnp.where(total == 0, 1, total)


def _worth(lists: _Lists, gain: str, top: int | None, normalize: bool) -> Array:
    """The gains, normalized by the DCG of the best order if asked to."""
    gains = _gains(lists.relevance, gain)
    if not normalize:
        return gains
    best = _ranks(_before(lists.together, gains), gains.dtype)
    return _shares(lists, gains, _cut(_discount(best), best, top))


def _distances(lists: _Lists, values: Array) -> Array:
    """|v_i - v_j| for each two items of a list, 0 across lists."""
    return numerics.absolute(jnp.where(lists.together, numerics.pairwise_difference(values), 0))


def _at_the_door(
    who: str, scores: Any, relevance: Any, mask: Any, segments: Any, gain: str = "linear"
) -> _Lists:
    """What `@loss` does for a loss, for the helpers that are none."""
    scores, relevance = jnp.asarray(scores), jnp.asarray(relevance)
    dtype = jnp.promote_types(jnp.result_type(scores, relevance), jnp.float32)
    mask = None if mask is None else jnp.asarray(mask)
    segments = None if segments is None else jnp.asarray(segments)
    for name, x in (("relevance", relevance), ("mask", mask), ("segments", segments)):
        if x is not None and x.shape != scores.shape:
            message = f"{who}: `{name}` has shape {x.shape}, expected {scores.shape} as `scores`."
            raise ValueError(message)
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(f"{who}: `mask` is {mask.dtype}, expected booleans: write `mask > 0`.")
    if gain not in _GAINS:
        raise ValueError(f"{who}: `gain` is {gain!r}, expected one of {_GAINS}.")
    return _lists(scores.astype(dtype), relevance.astype(dtype), mask, segments)


@loss(
    convex,
    nonnegative,
    smooth,
    shift_invariant,
    scores=kept(extended),
    relevance=kept(nonnegative_number),
)
def softmax(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
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

    Returns:
        The loss of each list in nats, times its relevance; with segments their mean.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores.

    Example:
        >>> softmax([[0.0, 0.0], [80.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]])
        Array([1.386294e+00, 1.804851e-35], dtype=float32)

    References:
        Cao et al., *Learning to Rank: From Pairwise Approach to Listwise Approach*, 2007.
        Bruch et al., *An Analysis of the Softmax Cross Entropy Loss for Learning-to-Rank*, 2019.
    """
    if segments is not None:
        lists = _lists(scores, relevance, mask, segments)
        surprise = _surprise_among(lists.scores, lists.together)
        return lists.mean_of_lists(numerics.multiply_no_nan(lists.relevance, surprise))
    if mask is not None:
        scores, relevance = jnp.where(mask, scores, -jnp.inf), jnp.where(mask, relevance, 0)
    return surprise_of_distribution(scores, relevance)


@loss(
    smooth,
    shift_invariant,
    scores=kept(extended),
    relevance=kept(nonnegative_number),
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

    Returns:
        The loss of each list; with segments their mean.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores.

    Example:
        >>> poly1_softmax([0.0, 0.0], [1.0, 0.0], epsilon=2.0)  # log 2 + 2 (1 - 1/2)
        Array(1.6931472, dtype=float32)

    References:
        Leng et al., *PolyLoss: A Polynomial Expansion Perspective of Classification Losses*, 2022.
    """
    lists = _lists(scores, relevance, mask, segments)
    surprise = _surprise_among(lists.scores, lists.together)
    total = lists.sum_of_list(lists.relevance)
    share = lists.relevance / jnp.where(total == 0, 1, total)
    missed = -jnp.expm1(-surprise)  # 1 - p, with the digits that p rounds away
    costs = numerics.multiply_no_nan(lists.relevance, surprise) + epsilon * share * missed
    return lists.mean_of_lists(costs)


@loss(
    convex,
    nonnegative,
    smooth,
    shift_invariant,
    scores=kept(finite),
    relevance=kept(nonnegative_number),
)
def unique_softmax(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    gain: Literal["exponential", "linear"] = "exponential",
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
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

    Returns:
        The loss of each list in nats, times its gains; with segments their mean.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores.

    Example:
        >>> unique_softmax([0.0, 0.0, 0.0], [2.0, 1.0, 0.0])  # 3 log 3 + 1 log 2
        Array(3.988984, dtype=float32)

    References:
        Zhu and Klabjan, *Listwise Learning to Rank by Exploring Unique Ratings*, 2020.
    """
    lists = _lists(scores, relevance, mask, segments)
    surprise = _surprise_among(lists.scores, lists.should_lead())
    return lists.mean_of_lists(_gains(lists.relevance, gain) * surprise)


@loss(
    convex,
    nonnegative,
    smooth,
    shift_invariant,
    scores=kept(finite),
    relevance=kept(finite),
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

    Returns:
        The loss of each list in nats, summed over its items; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores.

    Example:
        >>> list_mle([0.0, 0.0, 0.0], [1.0, 3.0, 2.0])  # log 3 + log 2
        Array(1.7917595, dtype=float32)

    References:
        Xia et al., *Listwise Approach to Learning to Rank: Theory and Algorithm*, 2008.
    """
    lists = _lists(scores, relevance, mask, segments)
    lots = [] if key is None else [jax.random.permutation(key, scores.shape[-1])]
    behind = _before(lists.together, lists.relevance, *lots)
    return lists.mean_of_lists(_surprise_among(lists.scores, behind))


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    shift_invariant,
    scores=kept(finite),
    relevance=kept(finite),
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

    Returns:
        The loss of each list, in the unit of the scores; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores.

    Example:
        >>> pairwise_hinge([2.0, 1.5, 0.0], [2.0, 1.0, 0.0])  # gaps 0.5, 2 and 1.5
        Array(0.16666667, dtype=float32)

    References:
        Herbrich et al., *Large Margin Rank Boundaries for Ordinal Regression*, 2000.
        Joachims, *Optimizing Search Engines Using Clickthrough Data* (RankSVM), 2002.
    """
    lists = _lists(scores, relevance, mask, segments)
    hinge = lambda gap: jax.nn.relu(margin - gap)  # noqa: E731
    return _mean_over_pairs(hinge, lists, lists.should_lead(), pair_weights)


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    scores=kept(finite),
    relevance=kept(finite),
    pair_weights=nonnegative_number,
)
def pairwise_logistic(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    pair_weights: Real[ArrayLike, "*batch items items"] | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
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

    Returns:
        The loss of each list in nats; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores.

    Example:
        >>> pairwise_logistic([[0.0, 0.0], [80.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Burges et al., *Learning to Rank Using Gradient Descent* (RankNet), 2005.
        Burges et al., *Learning to Rank with Nonsmooth Cost Functions* (LambdaRank), 2006.
    """
    lists = _lists(scores, relevance, mask, segments)
    surprise = lambda gap: numerics.softplus(-gap)  # noqa: E731
    return _mean_over_pairs(surprise, lists, lists.should_lead(), pair_weights)


@loss(
    nonnegative,
    bounded,
    smooth,
    bounded_gradient,
    shift_invariant,
    scores=kept(finite),
    relevance=kept(finite),
    pair_weights=nonnegative_number,
)
def pairwise_soft_zero_one(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    pair_weights: Real[ArrayLike, "*batch items items"] | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
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

    Returns:
        The soft share of pairs in wrong order; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores.

    Example:
        >>> pairwise_soft_zero_one([0.0, 0.0, 100.0], [2.0, 1.0, 0.0])  # 1/2, 1 and 1
        Array(0.8333333, dtype=float32)

    References:
        Kendall, *A New Measure of Rank Correlation*, 1938.
        Valizadegan et al., *Learning to Rank by Optimizing NDCG Measure*, 2009.
    """
    lists = _lists(scores, relevance, mask, segments)
    doubt = lambda gap: numerics.sigmoid(-gap)  # noqa: E731
    return _mean_over_pairs(doubt, lists, lists.should_lead(), pair_weights)


@loss(
    convex,
    nonnegative,
    smooth,
    symmetric,
    shift_invariant,
    translation_invariant,
    zero_at_match,
    scores=kept(finite),
    relevance=kept(finite),
    pair_weights=nonnegative_number,
)
def pairwise_squared_error(
    scores: Real[ArrayLike, "*batch items"],
    relevance: Real[ArrayLike, "*batch items"],
    *,
    pair_weights: Real[ArrayLike, "*batch items items"] | None = None,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    segments: Int[ArrayLike, "*batch items"] | None = None,
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

    Returns:
        The loss of each list, in the squared unit of the scores; with segments their mean.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores.

    Example:
        >>> pairwise_squared_error([5.0, 7.0], [0.0, 1.0])  # a difference of 2, not 1
        Array(1., dtype=float32)

    References:
        Cossock and Zhang, *Subset Ranking Using Regression*, 2006.
    """
    lists = _lists(scores, relevance, mask, segments)
    pairs = lists.together & ~jnp.eye(scores.shape[-1], dtype=jnp.bool_)
    return _mean_over_pairs(jnp.square, lists, pairs, pair_weights, errors=True)


@loss(
    convex,
    nonnegative,
    shift_invariant,
    translation_invariant,
    zero_at_match,
    scores=kept(finite),
    relevance=kept(finite),
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

    Returns:
        The loss of each list, in the unit of the scores, squared or not; with segments their mean.

    Raises:
        ValueError: If relevance, pair weights, mask or segments do not fit the scores, or the
            level is a number that is not between 0 and 1.

    Example:
        >>> pairwise_quantile([5.0, 7.0], [0.0, 3.0], level=0.75)  # 1 too small
        Array(0.75, dtype=float32)

    References:
        Koenker and Bassett, *Regression Quantiles*, 1978.
    """
    lists = _lists(scores, relevance, mask, segments)
    power = jnp.square if squared else lambda miss: miss

    def pinball(error: Array) -> Array:
        return level * power(jax.nn.relu(-error)) + (1 - level) * power(jax.nn.relu(error))

    return _mean_over_pairs(pinball, lists, lists.should_lead(), pair_weights, errors=True)


@loss(
    nonnegative,
    bounded,
    smooth,
    shift_invariant,
    scores=kept(finite),
    relevance=kept(nonnegative_number),
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

    Returns:
        The loss of each list, between 0 and 1; with segments the mean of the lists.

    Raises:
        ValueError: If relevance, mask or segments do not fit the scores, or the temperature is a
            number that is not above 0.

    Example:
        >>> approx_ndcg([0.0, 90.0, 80.0], [1.0, 0.0, 0.0])  # third: 1 - 1 / log2(4)
        Array(0.5, dtype=float32)

    References:
        Qin et al., *A General Approximation Framework for Direct Optimization of Information
        Retrieval Measures*, 2010.
    """
    lists = _lists(scores, relevance, mask, segments)
    gains = _gains(lists.relevance, gain)
    leads = _before(lists.together, gains, lists.scores)
    overtaken = _of_pairs(lambda gap: numerics.sigmoid(-gap / temperature), lists.scores, leads)
    # Ranks are kept as the best rank and the distance from it, which may be tiny.
    best = _ranks(leads, gains.dtype)
    behind = jnp.sum(overtaken, axis=-1) - jnp.sum(overtaken, axis=-2)
    log_best, log_ratio = jnp.log1p(best), jnp.log1p(behind / (1 + best))
    lost = math.log(2) * log_ratio / (log_best * (log_best + log_ratio))
    return lists.mean_of_lists(_shares(lists, gains, _discount(best)) * lost)


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


def pair_count(relevance: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    r"""Counts the pairs of different relevance in each list: the pairs of the pairwise losses.

    As `weights` it makes a mean over lists the mean over the pairs of all lists, as rax has it.

    $$|\{(i, j) : y_i > y_j\}|$$

    Args:
        relevance: Relevances of the items, along the last axis.
        mask: False takes an item out of its list.

    Returns:
        The number of pairs of each list.

    Raises:
        ValueError: If the mask does not fit.

    Example:
        >>> pair_count([[2.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        Array([3, 2], dtype=int32)
    """
    lists = _at_the_door("pair_count", relevance, relevance, mask, None)
    return jnp.sum(lists.should_lead(), axis=(-2, -1), dtype=jnp.int32)


def relevance_weights(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    segments: ArrayLike | None = None,
) -> Array:
    r"""Makes pairs count by how far apart their relevances are, for `pair_weights`.

    $$w_{ij} = |y_i - y_j|$$

    Args:
        scores: Scores of the items, along the last axis; not used.
        relevance: Relevances of the items.
        mask: False takes an item out of its list: its pairs weigh 0.
        segments: Ids of the lists in a row: pairs across lists weigh 0.

    Returns:
        Weights of all pairs, with one more item axis.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> relevance_weights([0.0, 0.0], [3.0, 1.0])
        Array([[0., 2.], [2., 0.]], dtype=float32)
    """
    lists = _at_the_door("relevance_weights", scores, relevance, mask, segments)
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
    r"""Makes pairs count by what swapping them would change in DCG (LambdaRank).

    $$w_{ij} = |G(y_i) - G(y_j)| \cdot |D(r_i) - D(r_j)|, \qquad
      G(y) = 2^y - 1, \quad D(r) = \frac{1}{\log_2(1 + r)}$$

    $r$ is the rank by the scores; ties keep the order of the list. No gradient flows to the
    scores. rax multiplies these weights by the length of the list, masked items included.

    Args:
        scores: Scores of the items, along the last axis.
        relevance: Grades of the items, at least 0.
        top: The last rank that counts; without it all do.
        normalize: Whether to divide by the DCG of the best order, so that lists count alike.
        gain: "exponential", $2^y - 1$; or "linear", the relevance itself.
        mask: False takes an item out of its list: its pairs weigh 0.
        segments: Ids of the lists in a row: pairs across lists weigh 0.

    Returns:
        Weights of all pairs, with one more item axis.

    Raises:
        ValueError: If the shapes differ, or the gain is unknown.

    Example:
        >>> dcg_weights([2.0, 1.0, 0.0], [0.0, 0.0, 1.0], gain="linear")[2]  # 1 - 1/2 at the top
        Array([0.5      , 0.1309298, 0.       ], dtype=float32)
    """
    lists = _at_the_door("dcg_weights", scores, relevance, mask, segments, gain)
    ranks = _ranks(_before(lists.together, lists.scores), lists.scores.dtype)
    discounts = _cut(_discount(ranks), ranks, top)
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
    r"""Makes pairs count by a tighter bound on DCG than LambdaRank's (LambdaLoss, NDCG-Loss2).

    $$w_{ij} = |G(y_i) - G(y_j)| \cdot \big(D(|r_i - r_j|) - D(|r_i - r_j| + 1)\big), \qquad
      G(y) = 2^y - 1, \quad D(r) = \frac{1}{\log_2(1 + r)}$$

    $r$ is the rank by the scores; ties keep the order of the list. Neighbours count most, at the
    bottom as at the top. No gradient flows to the scores. rax multiplies these weights by the
    length of the list, masked items included.

    Args:
        scores: Scores of the items, along the last axis.
        relevance: Grades of the items, at least 0.
        top: Past this rank $k$, a pair whose lower item has rank $m > k$ is multiplied by
            $1 / (1 - D(m))$.
        normalize: Whether to divide by the DCG of the best order, so that lists count alike.
        gain: "exponential", $2^y - 1$; or "linear", the relevance itself.
        mask: False takes an item out of its list: its pairs weigh 0.
        segments: Ids of the lists in a row: pairs across lists weigh 0.

    Returns:
        Weights of all pairs, with one more item axis.

    Raises:
        ValueError: If the shapes differ, or the gain is unknown.

    Example:
        >>> dcg2_weights([2.0, 1.0, 0.0], [0.0, 0.0, 1.0], gain="linear")[2]
        Array([0.1309298, 0.3690702, 0.       ], dtype=float32)
    """
    lists = _at_the_door("dcg2_weights", scores, relevance, mask, segments, gain)
    ranks = _ranks(_before(lists.together, lists.scores), lists.scores.dtype)
    apart = jnp.maximum(_distances(lists, ranks), 1)
    steps = _discount(apart) - _discount(apart + 1)
    if top is not None:
        lower = jnp.maximum(ranks[..., :, None], ranks[..., None, :])
        steps = jnp.where(lower > top, steps / (1 - _discount(jnp.maximum(lower, 2))), steps)
    return _distances(lists, _worth(lists, gain, top, normalize)) * steps
