"""The engine of the ranking shelf: lists in a row, their orders, and functions of their pairs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._memory.deferred import map_rows, materialize
from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._softmax_nll import softmax_nll


class Items(NamedTuple):
    """What is known of items; those that are masked hold 0."""

    scores: Array
    relevance: Array
    mask: Array
    segments: Array | None
    places: Array


class Lists(NamedTuple):
    """The lists of a row of items, and the items of them whose pairs with all are looked at.

    Arrays of pairs have an axis of rows and one of items; a masked item is together with none.
    """

    rows: Items
    items: Items

    @property
    def scores(self) -> Array:
        return self.items.scores

    @property
    def relevance(self) -> Array:
        return self.items.relevance

    @property
    def together(self) -> Array:
        """The pairs of one list."""
        rows, items = self.rows, self.items
        together = rows.mask[..., :, None] & items.mask[..., None, :]
        if rows.segments is None or items.segments is None:
            return together
        return together & (rows.segments[..., :, None] == items.segments[..., None, :])

    def should_lead(self) -> Array:
        """The pairs (i, j) in which item i is the more relevant one."""
        rows, items = self.rows, self.items
        return self.together & (rows.relevance[..., :, None] > items.relevance[..., None, :])

    def apart(self) -> Array:
        """The pairs of two different items."""
        return self.together & (self.rows.places[:, None] != self.items.places[None, :])

    def of_rows(
        self,
        function: Callable[..., Array],
        *rows: Array | None,
        met: tuple[Array, ...] = (),
        fun_name: str = "",
        chunk_size: int | None = None,
    ) -> Array:
        """What `function(lists, *rows, *met)` gives each item, or some items at a time.

        `rows` have an entry an item, and those of the items at hand are passed; `met` are whole.
        """

        def of_chunk(shared: Any, own: Any) -> Array:
            *own, places = own
            rows, items = [*own[:4], places], [*shared[:4], self.items.places]
            lists = Lists(Items._make(rows), Items._make(items))
            return function(lists, *own[4:], *shared[4:])

        known, batch = list(self.items[:4]), self.scores.ndim - 1
        met_by, own = [*known, *met], [*known, *rows]
        return materialize(map_rows(fun_name, of_chunk, chunk_size, met_by, own, batch=batch))

    def sum_of_list(self, values: Array, **how: Any) -> Array:
        """For each item, the sum of the values of its list."""
        if self.items.segments is None:
            total = jnp.sum(jnp.where(self.items.mask, values, 0), axis=-1, keepdims=True)
            return jnp.where(self.items.mask, total, 0)

        def of_each(lists: Lists, values: Array) -> Array:
            return jnp.sum(jnp.where(lists.together, values[..., None, :], 0), axis=-1)

        return self.of_rows(of_each, met=(values,), **how)

    def mean_of_lists(self, values: Array, **how: Any) -> Array:
        """Adds up what the items cost; of several lists in a row it takes the mean."""
        total = jnp.sum(values, axis=-1)
        if self.items.segments is None:
            return total

        def opens(lists: Lists) -> Array:
            earlier = lists.items.places[None, :] < lists.rows.places[:, None]
            return jnp.any(lists.together, -1) & ~jnp.any(lists.together & earlier, -1)

        count = jnp.sum(self.of_rows(opens, **how), axis=-1, dtype=jnp.int32)
        return total / jnp.maximum(count, 1).astype(total.dtype)


def lists_of(scores: Array, relevance: Array, mask: Array | None, segments: Array | None) -> Lists:
    if mask is None:
        mask = jnp.ones(scores.shape, jnp.bool_)
    else:
        scores, relevance = jnp.where(mask, scores, 0), jnp.where(mask, relevance, 0)
    items = Items(scores, relevance, mask, segments, jnp.arange(scores.shape[-1], dtype=jnp.int32))
    return Lists(items, items)


def before(lists: Lists, *keys: tuple[Array, Array]) -> Array:
    """The pairs (i, j) in which i comes first: by the highest key, ties by the next, by place.

    A key is given of the rows and of the items.
    """
    first = lists.rows.places[:, None] < lists.items.places[None, :]
    for of_rows, of_items in reversed(keys):
        left, right = of_rows[..., :, None], of_items[..., None, :]
        first = (left > right) | ((left == right) & first)
    return lists.together & first


def ranks_of(lists: Lists, *keys: Array, **how: Any) -> Array:
    """The rank of each item in the order of `before`, from 1."""

    def number_before(lists: Lists, *keys: Array) -> Array:
        both = zip(keys[: len(keys) // 2], keys[len(keys) // 2 :], strict=True)
        return jnp.sum(lists.apart() & ~before(lists, *both), axis=-1, dtype=jnp.int32)

    return (1 + lists.of_rows(number_before, *keys, met=keys, **how)).astype(lists.scores.dtype)


def surprise_among(lists: Lists, rivals: Array) -> Array:
    """-log of the softmax of each item, among itself and its rivals; 0 without any."""
    rows, items = lists.rows.places, lists.items
    present = rivals | (rows[:, None] == items.places)
    logits = jnp.where(present, items.scores[..., None, :], -jnp.inf)
    return softmax_nll(logits, jnp.broadcast_to(rows, lists.rows.scores.shape))


def surprise_in_list(lists: Lists, **how: Any) -> Array:
    """-log of the softmax of each item in its list."""
    if lists.items.segments is None:
        return -numerics.log_softmax(lists.scores, where=lists.items.mask)
    return lists.of_rows(lambda lists: surprise_among(lists, lists.together), **how)


def of_pairs(
    function: Callable[[Array], Array], lists: Lists, pairs: Array, errors: bool = False
) -> Array:
    """function(s_i - s_j) at the pairs, 0 elsewhere, as if the difference were not rounded.

    In the tail of an exponential and near a hinge, the last place of the difference is many last
    places of the result: what it lost is put back with the slope (as far as that product does not
    underflow: in float32 down to results of 1e-31). With `errors` it is s - y in place of s.
    """
    if errors:
        left, left_lost = two_sum(lists.rows.scores, -lists.rows.relevance)
        right, right_lost = two_sum(lists.items.scores, -lists.items.relevance)
        gap, lost = two_sum(left[..., :, None], -right[..., None, :])
        lost = lost + (left_lost[..., :, None] - right_lost[..., None, :])
        rounded = gap + lost
        gap, lost = rounded, jax.lax.stop_gradient(lost - (rounded - gap))
    else:
        gap, lost = two_sum(lists.rows.scores[..., :, None], -lists.items.scores[..., None, :])
    gap = jnp.where(pairs, gap, 0)
    # Past 2**24 no digit of a gap is missed, and the correction of a square might overflow.
    lost = jnp.where(pairs & (jnp.abs(lost) < 1), lost, 0)
    value, correction = jax.jvp(function, (gap,), (lost,))
    return jnp.where(pairs, value + correction, 0)


def gains_of(relevance: Array, gain: str) -> Array:
    """2^relevance - 1, exact for whole relevances; or the relevance itself."""
    if gain == "linear":
        return relevance
    whole = jax.lax.stop_gradient(jnp.round(relevance))
    power = jnp.ldexp(jnp.ones_like(whole), whole.astype(jnp.int32))  # jnp.exp2(13.0) is not 2**13
    return power * jnp.expm1((relevance - whole) * math.log(2)) + (power - 1)


def discount(rank: Array) -> Array:
    return math.log(2) / jnp.log1p(rank)


def shares_of(lists: Lists, gains: Array, discounts: Array, **how: Any) -> Array:
    """Gains as shares of the DCG that these discounts make of their list; 0 if that is 0."""
    total = lists.sum_of_list(gains * discounts, **how)
    return gains / jnp.where(total == 0, 1, total)
