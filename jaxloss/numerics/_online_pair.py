"""Sums over the classes of two softmaxes, in the pass over memory that finds both largest logits.

As in `_online_sums`, parts of a row are summed relative to their own largest logits, and merged
relative to the larger ones: one reduction with that rule reads both rows once.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxloss.numerics._double_double import DD, expm1_near_0
from jaxloss.numerics._online_sums import for_words
from jaxloss.numerics._online_tops import Numbers, Tops, tops_in_order
from jaxloss.numerics._reductions import reduce_together


class _Scales(NamedTuple):
    """What the sums of two parts are multiplied by, to be relative to the larger of their tops.

    Attributes:
        below: The top of each part less the larger.
        exps: Their exponentials, of which one is 1.
    """

    below: tuple[DD, DD]
    exps: tuple[Array, Array]


def _scales(tops: Tops) -> _Scales:
    first = DD(*(tops.upper(jnp.zeros_like(word), word) for word in tops.below))
    second = DD(*(tops.lower(jnp.zeros_like(word), word) for word in tops.below))
    one = jnp.ones_like(tops.scale)
    return _Scales((first, second), (tops.upper(one, tops.scale), tops.lower(one, tops.scale)))


def _rest(tops: Tops, a: Array, b: Array) -> Array:
    """The sum of the exponentials without the 1 of one largest logit, from those of both parts."""
    return tops.upper(a, b) + (1 + tops.lower(a, b)) * tops.scale


def _at_top(tops: Tops, a: Array, b: Array) -> Array:
    """What is at the larger top; of equal ones the larger."""
    return jnp.where(tops.below.hi == 0, jnp.maximum(a, b), tops.upper(a, b))


def _merge_pairs(words: int, a: Numbers, b: Numbers) -> Numbers:
    """Parts (top of x, top of z, both rests, excess, z at the top of x, x at that of z)."""
    tops_x = tops_in_order(a[:words], b[:words])
    tops_z = tops_in_order(a[words:-5], b[words:-5])
    x, z = _scales(tops_x), _scales(tops_z)
    excess = jnp.zeros_like(a[-3])
    for i, (rest_x, rest_z, of_part) in enumerate((a[-5:-2], b[-5:-2])):
        total_x, total_z = 1 + rest_x, 1 + rest_z
        hi, lo = (z.below[i][word] - x.below[i][word] for word in range(2))
        is_close = jnp.abs(hi) < 0.34
        change = z.exps[i] * expm1_near_0(jnp.where(is_close, -(hi + lo), 0))
        near = x.exps[i] * of_part + change * total_z
        # Not from the excess of the part, which is rounded: of many classes that are likely in one
        # softmax and masked in the other, it is large.
        far = x.exps[i] * total_x - z.exps[i] * total_z
        excess = excess + jnp.where(is_close, near, far)
    return (
        *tops_x.top,
        *tops_z.top,
        _rest(tops_x, a[-5], b[-5]),
        _rest(tops_z, a[-4], b[-4]),
        excess,
        _at_top(tops_x, a[-2], b[-2]),
        _at_top(tops_z, a[-1], b[-1]),
    )


class PairSums(NamedTuple):
    """Sums over the entries of two rows, x and z.

    Attributes:
        top_x: The largest entry of x, a constant under differentiation; -inf in a row of -inf.
        top_z: That of z.
        rest_x: The sum of exp(x - top_x) without the 1 of one largest entry; 0 in a row of -inf.
        rest_z: That of z.
        excess: The sum of exp(x - top_x) less that of exp(z - top_z), with all its digits.
        more: z where x is largest, and x where z is: the largest of several.
    """

    top_x: Array
    top_z: Array
    rest_x: Array
    rest_z: Array
    excess: Array
    more: tuple[Array, Array]


def pair_sums(x: Array | DD, z: Array | DD, more: tuple[Array, Array]) -> PairSums:
    """All of these, along the last axis, where the two arrays of `more` tell what z and x are.

    Both or neither of x and z are a `DD`; its top is the high-order word.
    """
    rows = [tuple(y) if isinstance(y, DD) else (y,) for y in (x, z)]
    words, nothing = len(rows[0]), jnp.zeros_like(rows[0][0])
    start = ((-jnp.inf, 0.0)[:words]) * 2 + (0.0,) * 3 + (-jnp.inf,) * 2
    terms = *rows[0], *rows[1], nothing, nothing, nothing, *more
    found = reduce_together(terms, start, for_words(_merge_pairs, words), -1)
    tops = found[0], found[words]
    *rests, excess, z_at_top, x_at_top = found[2 * words :]
    # 0, with the derivative of the largest entry, which is a constant in what follows.
    finite = (jnp.where(jnp.abs(top) < jnp.inf, top, 0) for top in tops)
    changes = [top - lax.stop_gradient(top) for top in finite]
    is_empty = [top == -jnp.inf for top in tops]
    rest_x, rest_z = (
        jnp.where(empty, 0, rest + (1 + rest) * change)
        for empty, rest, change in zip(is_empty, rests, changes, strict=True)
    )
    total_x, total_z = (
        jnp.where(empty, 0, 1 + rest)
        for empty, rest in zip(is_empty, (rest_x, rest_z), strict=True)
    )
    excess = excess + ((1 + rests[0]) * changes[0] - (1 + rests[1]) * changes[1])
    return PairSums(
        lax.stop_gradient(tops[0]),
        lax.stop_gradient(tops[1]),
        rest_x,
        rest_z,
        jnp.where(is_empty[0] | is_empty[1], total_x - total_z, excess),
        (lax.stop_gradient(z_at_top), lax.stop_gradient(x_at_top)),
    )
