"""Lists in a row of items: their sums, their orders, and functions of their pairs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.typing import Arrays
from jaxloss._memory.deferred import map_rows, materialize
from jaxloss.numerics._derivatives import unshared_copy
from jaxloss.numerics._double_double import (
    DD,
    at_dd,
    difference,
    exp_shifted,
    exp_shifted_finite,
    two_sum,
)
from jaxloss.numerics._online_logsumexp import sum_of_exps
from jaxloss.numerics._order_nll import order_nll
from jaxloss.numerics._ordered import (
    behind,
    iota,
    map_batch,
    nan_of,
    sort,
)
from jaxloss.numerics._over_items import over_items
from jaxloss.numerics._softmax_nll import nll_from_gap


class Items(NamedTuple):
    """The items of a row; scores and relevance of masked ones are 0.

    Attributes:
        scores: The higher, the further up.
        relevance: The higher, the further up an item should be.
        mask: Whether an item is in a list.
        lists: The number of the list of each item, from 0; the number of items if it is masked.
            None if the row is one list.
        places: The index of each item in its row.
    """

    scores: Float[Array, "*batch items"]
    relevance: Float[Array, "*batch items"]
    mask: Bool[Array, "*batch items"]
    lists: Int[Array, "*batch items"] | None
    places: Int[Array, " items"]


class Lists(NamedTuple):
    """The lists of a row of items, and some items whose pairs with all others are computed.

    Arrays of pairs have an axis of rows and one of items; masked items form no pairs.

    Attributes:
        rows: Some items.
        items: All of them.
        axis: That of the items in arrays of pairs, -1 or -2.
    """

    rows: Items
    items: Items
    axis: int = -1

    def of_rows(self, x: Array) -> Array:
        """What rows have, beside the axis of items; an array of pairs is one."""
        return self._of_pairs(x, self.axis)

    def of_items(self, x: Array) -> Array:
        """What items have, beside the axis of rows; an array of pairs is one."""
        return self._of_pairs(x, -3 - self.axis)

    def _of_pairs(self, x: Array, axis: int) -> Array:
        return x if x.ndim > self.items.mask.ndim else jnp.expand_dims(x, axis)

    @property
    def scores(self) -> Float[Array, "*batch items"]:
        return self.items.scores

    @property
    def relevance(self) -> Float[Array, "*batch items"]:
        return self.items.relevance

    @property
    def together(self) -> Bool[Array, "*batch rows items"]:
        """The pairs of one list."""
        rows, items = self.rows, self.items
        together = self.of_rows(rows.mask) & self.of_items(items.mask)
        if rows.lists is None or items.lists is None:
            return together
        return together & (self.of_rows(rows.lists) == self.of_items(items.lists))

    def should_lead(self) -> Bool[Array, "*batch rows items"]:
        """The pairs (i, j) in which item i is the more relevant one."""
        rows, items = self.rows, self.items
        return self.together & (self.of_rows(rows.relevance) > self.of_items(items.relevance))

    def apart(self) -> Bool[Array, "*batch rows items"]:
        """The pairs of two different items."""
        return self.together & self.of_places(jnp.not_equal)

    def of_places(
        self, compare: Callable[[Array, Array], Array]
    ) -> Bool[Array, "*batch rows items"]:
        """`compare(i, j)` of the places of rows and items."""
        found = compare(self.of_rows(self.rows.places), self.of_items(self.items.places))
        return jnp.expand_dims(found, range(self.items.mask.ndim - 1))

    def unshared(self) -> "Lists":
        """The same lists, for what must be known before the values of the pairs.

        XLA on GPU would write a mask of all pairs that two passes share.
        """
        # Not the places: XLA on GPU takes a minute to compile pairs of places that it cannot fold.
        return self._replace(rows=unshared_copy(self.rows)._replace(places=self.rows.places))

    def map_rows(
        self,
        function: Callable[..., Array],
        *rows: Array | None,
        items: tuple[Any, ...] = (),
        separate: bool = True,
        fun_name: str = "",
        chunk_size: int | None = None,
    ) -> Array:
        """`function(lists, *rows, *items)`, one value per item, `chunk_size` items at a time.

        `rows` are split into chunks as the items are; `items`, and numbers among them, are passed
        as they are. The function closes over no array: see `map_rows` of `_memory`. Unless
        `separate` is False, its derivatives in rows and in items share nothing on GPU.
        """
        known, batch = list(self.items[:-1]), self.scores.ndim - 1
        shared, own = [*known, *items], [*known, *rows]
        of_rows = _OfRows(function, separate)
        return materialize(map_rows(fun_name, of_rows, chunk_size, shared, own, batch=batch))

    def sum_of_list(self, values: Float[Array, "*batch items"]) -> Float[Array, "*batch items"]:
        """For each item, the sum of the values of its list."""
        return _sums(values, self.items.mask, self.items.lists)

    def mean_of_lists(self, values: Float[Array, "*batch items"]) -> Float[Array, "*batch"]:
        """The sum of the values of a row, divided by the number of its lists.

        It is NaN if a score or a relevance is, also where the values depend on their order alone.
        """
        total = jnp.sum(values, axis=-1) + nan_of(self.scores, self.relevance)
        if self.items.lists is None:
            return total
        last = jnp.max(jnp.where(self.items.mask, self.items.lists, -1), axis=-1, initial=-1)
        return total / jnp.maximum(last + 1, 1).astype(total.dtype)


class _OfRows(NamedTuple):
    """A function of the lists, of some items and of all of them, as `map_rows` calls it."""

    function: Callable[..., Array]
    separate: bool

    def __call__(self, shared: list[Any], own: list[Any]) -> Array:
        if not self.separate:
            return self.of_pairs(own, shared, -1)
        # Derivatives in the scores of rows and of items are sums over different axes: XLA on GPU
        # would write all pairs.
        return over_items(self.of_pairs, own, shared)

    def of_pairs(self, own: list[Any], shared: list[Any], axis: int) -> Array:
        *own, places = own
        count = len(Items._fields) - 1
        rows = Items(*own[:count], places)  # type: ignore  # a NamedTuple, from the leaves of a tree
        every = jnp.arange(shared[2].shape[-1], dtype=places.dtype)
        items = Items(*shared[:count], every)  # type: ignore  # as above
        return self.function(Lists(rows, items, axis), *own[count:], *shared[count:])


def lists_of(scores: Array, relevance: Array, mask: Array | None, segments: Array | None) -> Lists:
    if mask is None:
        mask = jnp.ones(scores.shape, jnp.bool_)
    else:
        scores, relevance = jnp.where(mask, scores, 0), jnp.where(mask, relevance, 0)
    places = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    numbers = None if segments is None else _number_lists(segments, mask)
    items = Items(scores, relevance, mask, numbers, places)
    return Lists(items, items)


def _number_lists(
    segments: Int[Array, "*batch items"], mask: Bool[Array, "*batch items"]
) -> Int[Array, "*batch items"]:
    """The lists of each row as numbers from 0; masked items get the number of items."""
    is_out, segments, places = sort((~mask, segments, iota(mask)), num_keys=3)
    is_new = segments != jnp.roll(segments, 1, axis=-1)
    number = jnp.cumsum(is_new & (iota(mask) > 0), axis=-1, dtype=jnp.int32)
    numbers = jnp.where(is_out, mask.shape[-1], number)
    return sort((places, numbers), num_keys=1)[1]  # back at their places


def _add_up(values: Array, lists: Array) -> Array:
    return jnp.zeros_like(values).at[lists].add(values, mode="drop")[lists]


def _largest(values: Array, lists: Array) -> Array:
    return jnp.full_like(values, -jnp.inf).at[lists].max(values, mode="drop")[lists]


def _sums(values: Array, mask: Array, lists: Array | None) -> Float[Array, "*batch items"]:
    """For each item, the sum of the values of its list; 0 if it is masked."""
    values = jnp.where(mask, values, 0)
    if lists is None:
        total = jnp.sum(values, axis=-1, keepdims=True)
    else:
        total = map_batch(_add_up, values, lists)
    return jnp.where(mask, total, 0)


# --- softmax in a list ----------------------------------------------------------------------------


def nll_in_list(lists: Lists) -> Float[Array, "*batch items"]:
    """-log of the softmax of each item in its list; 0 for a masked item."""
    items = lists.items
    if items.lists is None:
        return -numerics.log_softmax(items.scores, where=items.mask)
    return _nll_in_lists(items.scores, items.mask, items.lists)


@jax.custom_jvp
def _nll_in_lists(scores: Array, mask: Array, lists: Array) -> Array:
    return _nll_and_probability(scores, mask, lists)[0]


@_nll_in_lists.defjvp
def _nll_in_lists_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    # A full rule, as that of `numerics.log_softmax`: it takes off the mean of the list twice, since
    # what is left of the largest score after the first time is a rounding error.
    nll, probability = _nll_and_probability(*primals)
    _, mask, lists = primals
    scores_dot = tangents[0]
    for _ in range(2):
        scores_dot = scores_dot - _sums(probability * scores_dot, mask, lists)
    return _nll_in_lists(*primals), jnp.where(mask & (nll < jnp.inf), -scores_dot, 0)


def _nll_and_probability(scores: Array, mask: Array, lists: Array) -> tuple[Array, Array]:
    top = lax.stop_gradient(map_batch(_largest, scores, lists))
    top = jnp.where(mask & (top > -jnp.inf), top, 0)
    exps = jnp.where(mask, exp_shifted(scores, top), 0)
    is_top = exps == 1
    # The sum without the 1 of one largest score, so that it is not rounded when it is small. At the
    # largest score, `exps - 1` is 0 and has the derivative of `exps`.
    rest = _sums(jnp.where(is_top, exps - 1, exps), mask, lists)
    rest = rest + jnp.maximum(_sums(is_top.astype(exps.dtype), mask, lists) - 1, 0)
    gap = jnp.where(scores == jnp.inf, 0, top - scores)
    return jnp.where(mask, gap + jnp.log1p(rest), 0), exps / (1 + rest)


def nll_among_less_relevant(lists: Lists, **chunks: Any) -> Float[Array, "*batch items"]:
    """-log of the softmax of each item among itself and those of less relevance; 0 without any."""
    top = lax.stop_gradient(lists.map_rows(_largest_of_rivals, separate=False, **chunks))
    rest = lists.map_rows(_sum_over_rivals, top, **chunks)
    return nll_from_gap(rest, top - lists.scores)[0]


def _largest_of_rivals(lists: Lists) -> Float[Array, "*batch rows"]:
    """The largest score of an item and those of less relevance."""
    lists = lists.unshared()
    own, scores = lists.of_rows(lists.rows.scores), lists.of_items(lists.scores)
    scores = lax.stop_gradient(jnp.where(lists.should_lead(), scores, own))
    return jnp.max(scores, axis=lists.axis, initial=-jnp.inf)


def _sum_over_rivals(lists: Lists, top: Array) -> Float[Array, "*batch rows"]:
    rivals = lists.should_lead()
    scores = jnp.broadcast_to(lists.of_items(lists.scores), rivals.shape)
    return sum_of_exps(lists.axis, scores, rivals, top, exp=exp_shifted_finite)


# --- softmax among the items that come later ------------------------------------------------------


def nll_of_order(
    scores: Float[Array, "*batch items"],
    order: tuple[Real[Array, "..."], ...],
    mask: Bool[Array, "*batch items"] | None,
    segments: Int[Array, "*batch items"] | None,
) -> tuple[Float[Array, "*batch"], Int[Array, "*batch"]]:
    """-log of the softmax of each item among itself and those behind it, added up in a row.

    The items of a list are in the increasing order of the first of `order`, ties in that of the
    next, then of places. With it comes the number of lists of each row that have an item.
    """
    places = iota(scores)
    lists = [*([] if mask is None else [~mask]), *([] if segments is None else [segments])]
    keys = [*lists, *(jnp.broadcast_to(lax.stop_gradient(x), scores.shape) for x in order)]
    *found, places_in_order = sort((*keys, places), num_keys=len(keys) + 1)
    groups = tuple(found[: len(lists)])
    is_in = jnp.ones(scores.shape, bool) if mask is None else ~found[0]
    is_followed = is_in & (places < scores.shape[-1] - 1)
    for x in groups:
        is_followed &= x == behind(x, 1, 0)
    total = _order_nll(scores, places_in_order, is_in, groups)
    return total, jnp.sum(is_in & ~is_followed, axis=-1, dtype=jnp.int32)


_order_nll = jax.jit(order_nll)  # so that an eager call compiles it once


# --- orders and functions of pairs ----------------------------------------------------------------


def before(lists: Lists, *keys: tuple[Array, Array]) -> Bool[Array, "*batch rows items"]:
    """The pairs (i, j) in which i comes first: by the highest key, ties by the next, by place.

    A key is a pair: of the rows and of the items.
    """
    first = lists.of_places(jnp.less)
    for of_rows, of_items in reversed(keys):
        left, right = lists.of_rows(of_rows), lists.of_items(of_items)
        first = (left > right) | ((left == right) & first)
    return lists.together & first


def ranks_of(lists: Lists, *keys: Array, **chunks: Any) -> Float[Array, "*batch items"]:
    """The rank of each item in the order of `before`, from 1."""
    number = lists.map_rows(_number_before, *keys, items=keys, separate=False, **chunks)
    return (1 + number).astype(lists.scores.dtype)


def _number_before(lists: Lists, *keys: Array) -> Int[Array, "*batch rows"]:
    pairs = zip(keys[: len(keys) // 2], keys[len(keys) // 2 :], strict=True)
    return jnp.sum(lists.apart() & ~before(lists, *pairs), axis=lists.axis, dtype=jnp.int32)


def of_pairs(
    function: Callable[..., Array],
    lists: Lists,
    pairs: Bool[Array, "*batch rows items"],
    *options: Any,
    errors: bool = False,
) -> Float[Array, "*batch rows items"]:
    """function(s_i - s_j, *options) at the pairs, 0 elsewhere, as if the difference were exact.

    In the tail of an exponential and near a hinge, a rounding error of the difference is many ULP
    of the result; it is added to first order (as long as that product does not underflow: in
    float32 down to results of 1e-31). With `errors`, s - y takes the place of s.
    """
    if errors:
        gap = jnp.where(pairs, _difference_of_errors(lists), 0)
        return jnp.where(pairs, function(gap, *options), 0)
    gap = difference(lists.of_rows(lists.rows.scores), lists.of_items(lists.items.scores))
    # Beyond 2**24 a gap has no fraction, and the correction of a square could overflow.
    lo = jnp.where(pairs & (jnp.abs(gap.lo) < 1), gap.lo, 0)
    gap = DD(jnp.where(pairs, gap.hi, 0), lo)
    return jnp.where(pairs, at_dd(lambda gap: function(gap, *options), gap), 0)


def _difference_of_errors(lists: Lists) -> Array:
    """(s_i - y_i) - (s_j - y_j), rounded: the difference of two close numbers has no error."""
    rows, items = lists.rows, lists.items
    of_rows = two_sum(lists.of_rows(rows.scores), -lists.of_rows(rows.relevance))
    of_items = two_sum(lists.of_items(items.scores), -lists.of_items(items.relevance))
    return (of_rows.hi - of_items.hi) + (of_rows.lo - of_items.lo)


def gains_of(relevance: Float[Array, "*batch items"], gain: str) -> Float[Array, "*batch items"]:
    """2^relevance - 1, exact for whole relevances; or the relevance itself."""
    if gain == "linear":
        return relevance
    whole = lax.stop_gradient(jnp.round(relevance))
    power = jnp.ldexp(jnp.ones_like(whole), whole.astype(jnp.int32))  # jnp.exp2(13.0) is not 2**13
    return power * jnp.expm1((relevance - whole) * math.log(2)) + (power - 1)


def discount(rank: Array) -> Array:
    """1 / log2(1 + rank)."""
    return math.log(2) / jnp.log1p(rank)


def shares_of(lists: Lists, gains: Array, discounts: Array) -> Float[Array, "*batch items"]:
    """Gains divided by the DCG that these discounts make of their list; 0 if that is 0."""
    total = lists.sum_of_list(gains * discounts)
    return gains / jnp.where(total == 0, 1, total)
