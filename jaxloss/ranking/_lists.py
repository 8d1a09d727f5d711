"""The engine of the ranking shelf: lists in a row, their orders, and functions of their pairs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._rounding import two_sum
from jaxloss._softmax import surprise_of_class


class Lists(NamedTuple):
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


def lists_of(scores: Array, relevance: Array, mask: Array | None, segments: Array | None) -> Lists:
    if mask is None:
        mask = jnp.ones(scores.shape, jnp.bool_)
    else:
        scores, relevance = jnp.where(mask, scores, 0), jnp.where(mask, relevance, 0)
    together = mask[..., :, None] & mask[..., None, :]
    if segments is not None:
        together &= segments[..., :, None] == segments[..., None, :]
    return Lists(scores, relevance, together, segments is not None)


def before(together: Array, *keys: Array) -> Array:
    """The pairs (i, j) in which i comes first: by the highest key, ties by the next, by place."""
    place = jnp.arange(together.shape[-1])
    before = place[:, None] < place[None, :]
    for key in reversed(keys):
        left, right = key[..., :, None], key[..., None, :]
        before = (left > right) | ((left == right) & before)
    return together & before


def ranks_of(before: Array, dtype: Any) -> Array:
    return (1 + jnp.sum(before, axis=-2, dtype=jnp.int32)).astype(dtype)


def surprise_among(scores: Array, rivals: Array) -> Array:
    """-log of the softmax of each item, among itself and its rivals; 0 without any."""
    items = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    present = rivals | (items[:, None] == items)
    logits = jnp.where(present, scores[..., None, :], -jnp.inf)
    return surprise_of_class(logits, jnp.broadcast_to(items, scores.shape))


def of_pairs(
    function: Callable[[Array], Array], values: Array, pairs: Array, slack: Array | None = None
) -> Array:
    """function(v_i - v_j) at the pairs, 0 elsewhere, as if the difference were not rounded.

    In the tail of an exponential and near a hinge, the last place of the difference is many last
    places of the result: what it lost is put back with the slope (as far as that product does not
    underflow: in float32 down to results of 1e-31). `slack` is what the values themselves lost.
    """
    gap, lost = two_sum(values[..., :, None], -values[..., None, :])
    if slack is not None:
        lost = lost + (slack[..., :, None] - slack[..., None, :])
        rounded = gap + lost
        gap, lost = rounded, jax.lax.stop_gradient(lost - (rounded - gap))
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


def shares_of(lists: Lists, gains: Array, discounts: Array) -> Array:
    """Gains as shares of the DCG that these discounts make of their list; 0 if that is 0."""
    total = lists.sum_of_list(gains * discounts)
    return gains / jnp.where(total == 0, 1, total)
