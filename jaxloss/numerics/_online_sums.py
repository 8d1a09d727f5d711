"""Sums relative to the largest entry of a row, in the pass over memory that finds that entry.

Each part of a row is summed relative to its own largest entry, and two parts are merged relative to
the larger of the two: the online softmax of Milakov and Gimelshein (2018). Here its sum leaves out
the 1 of one largest entry, or what is not counted. On GPU and TPU one reduction with that rule
reads its operands once. On CPU, where rows stay in a cache and each merge takes an exponential, two
passes take less time.

The largest entry is a constant under differentiation; the sums have derivatives by all entries.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss.numerics._double_double import DD
from jaxloss.numerics._online_tops import Numbers, Tops, tops_in_order
from jaxloss.numerics._reductions import Axis, reduce_together

T = TypeVar("T")


def _in_order(words: int, a: Numbers, b: Numbers) -> tuple[Tops, Numbers, Numbers]:
    """Parts whose first numbers are the words of their tops: the tops, and the sums in order."""
    tops = tops_in_order(a[:words], b[:words])
    sums = list(zip(a[words:], b[words:], strict=True))
    return tops, tuple(tops.upper(*x) for x in sums), tuple(tops.lower(*x) for x in sums)


def _merge_rests(words: int, a: Numbers, b: Numbers) -> Numbers:
    """Parts (top, sum without the 1 of one largest entry, sums of something else)."""
    tops, (upper, *more), (lower, *others) = _in_order(words, a, b)
    return *tops.top, upper + (1 + lower) * tops.scale, *map(operator.add, more, others)


def _merge_counted(words: int, a: Numbers, b: Numbers) -> Numbers:
    """Parts (top, sum over the entries that are counted, sums of something else)."""
    tops, (upper, *more), (lower, *others) = _in_order(words, a, b)
    return *tops.top, upper + lower * tops.scale, *map(operator.add, more, others)


def _merge_weighted(words: int, a: Numbers, b: Numbers) -> Numbers:
    """Parts (top, rest, weights below the top, weights at the top, sum of weight (top - entry))."""
    tops, upper, lower = _in_order(words, a, b)
    rest, below, at_top, gaps = upper
    other_rest, other_below, other_at_top, other_gaps = lower
    weight = other_below + other_at_top
    return (
        *tops.top,
        rest + (1 + other_rest) * tops.scale,
        below + jnp.where(tops.gap == 0, other_below, weight),
        at_top + jnp.where(tops.gap == 0, other_at_top, 0),
        gaps + (other_gaps + jnp.where(weight == 0, 0, weight * tops.gap)),
    )


def _merge_products(words: int, a: Numbers, b: Numbers) -> Numbers:
    """Parts (top, sum of weight exp(entry - top) below the top, weights at the top)."""
    tops, (upper, at_top), (lower, other) = _in_order(words, a, b)
    is_tie = tops.gap == 0
    below = jnp.where(is_tie, lower, (lower + other) * tops.scale)
    return *tops.top, upper + below, at_top + jnp.where(is_tie, other, 0)


def _merge_gaps(words: int, a: Numbers, b: Numbers) -> Numbers:
    """Parts (top, rest, sum of exp(entry - top) (top - entry))."""
    tops, (rest, gaps), (other_rest, other_gaps) = _in_order(words, a, b)
    gap = jnp.where(tops.scale == 0, 0, tops.gap)  # it may be infinite
    total = 1 + other_rest
    return *tops.top, rest + total * tops.scale, gaps + (other_gaps + gap * total) * tops.scale


@functools.cache
def for_words(merge: Callable[..., Numbers], words: int) -> Callable[[Numbers, Numbers], Numbers]:
    """One object for each: JAX caches a compiled reduction by the identity of its function."""
    return functools.partial(merge, words)


class _Found(NamedTuple):
    """What one pass finds of each row.

    Attributes:
        top: The largest entry, a constant; -inf in a row of -inf, which has no exponentials.
        change: 0 with the derivative of the largest entry.
        sums: The sums, with derivatives by the entries less the largest.
    """

    top: Any
    change: Array
    sums: Numbers


def _online(merge: Any, x: Array | DD, terms: Sequence[Array], axis: Axis) -> _Found:
    words = (x.hi, x.lo) if isinstance(x, DD) else (x,)
    start = (-jnp.inf,) + (0.0,) * (len(words) - 1 + len(terms))
    combine = for_words(merge, len(words))
    found = reduce_together((*words, *terms), start, combine, axis)
    finite = jnp.where(jnp.abs(found[0]) < jnp.inf, found[0], 0)
    top = lax.stop_gradient(found[: len(words)])
    return _Found(
        DD(top[0], top[1]) if len(words) == 2 else top[0],
        finite - lax.stop_gradient(finite),
        found[len(words) :],
    )


def _is_empty(top: Array | DD) -> Array:
    return (top.hi if isinstance(top, DD) else top) == -jnp.inf


def finite_top(top: Array) -> Array:
    """The top, and 0 if nothing is possible."""
    return jnp.where(top == -jnp.inf, 0, top)


def top_and_rest(x: Array, axis: Axis = -1, more: Numbers = ()) -> Numbers:
    """The largest entry, the sum of exp(x - top) without the 1 of one such entry, sums of `more`.

    The first two are -inf and 0 in a row of -inf.
    """
    terms = jnp.zeros_like(x), *more
    top, change, (rest, *sums) = _online(_merge_rests, x, terms, axis)
    return top, jnp.where(_is_empty(top), 0, rest + (1 + rest) * change), *sums


def top_rest_and_gap(x: Array) -> Numbers:
    """The first two of `top_and_rest`, and the sum of exp(x - top) (top - x)."""
    nothing = jnp.zeros_like(x)
    top, change, (rest, gap) = _online(_merge_gaps, x, (nothing, nothing), -1)
    rest, gap = (jnp.where(_is_empty(top), 0, each) for each in (rest, gap))
    return top, rest + (1 + rest) * change, gap + (gap - (1 + rest)) * change


def top_and_sum(x: Array | DD, counted: Array, more: T, axis: Axis = -1) -> tuple[Any, Array, T]:
    """The largest entry, the sum of exp(x - top) over the counted entries, and those of `more`.

    The first two are -inf and 0 in a row of -inf.
    """
    arrays, structure = jax.tree.flatten(more)
    like = x.hi if isinstance(x, DD) else x
    counted = jnp.broadcast_to(counted, like.shape).astype(like.dtype)
    top, change, (total, *sums) = _online(_merge_counted, x, (counted, *arrays), axis)
    total = jnp.where(_is_empty(top), 0, total + total * change)
    return top, total, jax.tree.unflatten(structure, sums)


class WeightedSums(NamedTuple):
    """Sums over the entries x of a row, each with a weight.

    Attributes:
        top: The largest entry; -inf in a row of -inf.
        rest: The sum of exp(x - top) without the 1 of one largest entry.
        below: The sum of the weights of the other entries.
        at_top: The sum of the weights of the largest entries.
        gaps: The sum of weight (top - x), 0 where the weight is.
    """

    top: Any
    rest: Array
    below: Array
    at_top: Array
    gaps: Array


def weighted_sums(x: Array | DD, weights: Array) -> WeightedSums:
    """All of these, along the last axis."""
    nothing = jnp.zeros_like(weights)
    terms = nothing, nothing, weights, nothing
    top, change, (rest, below, at_top, gaps) = _online(_merge_weighted, x, terms, -1)
    weight, is_empty = below + at_top, _is_empty(top)
    return WeightedSums(
        top,
        jnp.where(is_empty, 0, rest + (1 + rest) * change),
        jnp.where(is_empty, weight, below),
        jnp.where(is_empty, 0, at_top),
        jnp.where(is_empty & (weight != 0), weight * jnp.inf, gaps - weight * change),
    )


def weighted_exps(x: Array, weights: Array) -> Array:
    """The sum of weight exp(x - top) along the last axis, over the entries below the top."""
    terms = jnp.zeros_like(weights), weights
    top, change, (below, at_top) = _online(_merge_products, x, terms, -1)
    return jnp.where(_is_empty(top), 0, below + (below + at_top) * change)
