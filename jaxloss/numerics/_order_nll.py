r"""-log of the softmax of each entry among itself and those behind it, added up: Plackett-Luce.

A row is cut into blocks, about as many as each has entries. Behind an entry are those of its block
and those with which the next blocks begin; before it are those of its block and those with which
the earlier blocks end. A sum of exponentials is relative to the largest of its entries, so that
nothing underflows that counts; the own entry is no part of it, so that 1 + tiny is not rounded.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from jaxloss._xla import on_gpu, recompute_on_gpu
from jaxloss.numerics._double_double import exp_shifted
from jaxloss.numerics._ordered import in_order, sort
from jaxloss.numerics._softmax_nll import nll_from_gap


class _Blocks(NamedTuple):
    """Which entries of a row in blocks are summed for which.

    Attributes:
        later: The pairs (i, j) of a block in which j is behind i and of its group.
        heads: The entries of the group of the first of their block.
        tails: The entries of the group of the last of their block.
        goes_on: The pairs of blocks, the second behind the first, in which the last group of the
            first is the first group of the second.
    """

    later: Bool[Array, "*batch blocks length length"]
    heads: Bool[Array, "*batch blocks length"]
    tails: Bool[Array, "*batch blocks length"]
    goes_on: Bool[Array, "*batch blocks blocks"]


class _Sums(NamedTuple):
    """For each entry, the sum exp(top) * rest of the exponentials of those behind it.

    Attributes:
        top: The largest of the entry itself and those behind it.
        rest: The sum without the entry itself.
    """

    top: Float[Array, "*batch blocks length"]
    rest: Float[Array, "*batch blocks length"]


def _shape_in_blocks(size: Any) -> tuple[Any, Any]:
    """The number of blocks, at least 1, and their length; a symbolic size has blocks of 32."""
    if not isinstance(size, int):
        return -(-size // 32), 32
    length = max(size, 1) if size <= 32 else math.isqrt(size)
    return max(-(-size // length), 1), length


def _in_blocks(x: Array) -> Array:
    size = x.shape[-1]
    count, length = _shape_in_blocks(size)
    padding = [(0, 0)] * (x.ndim - 1) + [(0, count * length - size)]
    return jnp.pad(x, padding).reshape(*x.shape[:-1], count, length)


def _together(start: Array, same: Iterable[Array]) -> Array:
    return functools.reduce(jnp.logical_and, same, start)


def _blocks_of(x: Array, groups: tuple[Array, ...]) -> _Blocks:
    size = x.shape[-1]
    count, length = _shape_in_blocks(size)
    blocks = [_in_blocks(g) for g in groups]
    place = jnp.arange(count * length).reshape(*(1,) * (x.ndim - 1), count, length)
    exists, first, last = place < size, place[..., :1], place[..., -1:]

    later = (place[..., :, None] < place[..., None, :]) & exists[..., None, :]
    behind = last < first[..., 0][..., None, :]
    return _Blocks(
        _together(later, (g[..., :, None] == g[..., None, :] for g in blocks)),
        _together(exists, (g == g[..., :1] for g in blocks)),
        _together(exists, (g == g[..., -1:] for g in blocks)),
        _together(behind, (g[..., -1:] == g[..., None, :, 0] for g in blocks)),
    )


def _exps(x: Array, top: Array, counted: Array) -> Array:
    """exp(x - top) where it is counted, 0 elsewhere: there x may exceed the top."""
    return jnp.where(counted, exp_shifted(jnp.where(counted, x, top), top), 0)


def _largest(x: Array, counted: Array) -> Array:
    """The largest of the entries that are counted, and finite."""
    least = jnp.finfo(x.dtype).min
    return lax.stop_gradient(jnp.max(jnp.where(counted, x, least), axis=-1))


def _terms(x: Array, top: Array, later: Array) -> Array:
    """exp(entry - top) of the pairs of a block."""
    return _exps(x[..., None, :], top[..., None], later)


def _sums_over_later(x: Array, blocks: _Blocks) -> _Sums:
    if x.shape[-2] == 1:
        top = _largest(x[..., None, :], blocks.later | _is_own(x))
        return _Sums(top, jnp.sum(_terms(x, top, blocks.later), axis=-1))
    head_top = _largest(x, blocks.heads)
    head_rest = jnp.sum(_exps(x, head_top[..., None], blocks.heads), axis=-1)
    next_top, next_rest = head_top[..., None, :], head_rest[..., None, :]
    far_top = recompute_on_gpu(_largest(next_top, blocks.goes_on))[..., None]
    far_rest = jnp.sum(_exps(next_top, far_top, blocks.goes_on) * next_rest, axis=-1)
    far = far_top, recompute_on_gpu(far_rest)[..., None]

    reaches = blocks.tails & jnp.any(blocks.goes_on, axis=-1)[..., None]
    return _Sums(*on_gpu(_near_with_far, _near_and_far, x, blocks.later, reaches, far))


def _near_and_far(
    x: Array, later: Array, reaches: Array, far: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Top and rest from those of the block and, where it reaches them, of the next blocks."""
    far_top, far_rest = far
    top = _largest(x[..., None, :], later | _is_own(x))
    top = jnp.where(reaches, jnp.maximum(top, far_top), top)
    near = jnp.sum(_terms(x, top, later), axis=-1)
    return top, near + _exps(far_top, top, reaches) * far_rest


def _near_with_far(
    x: Array, later: Array, reaches: Array, far: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The same: the place of an entry itself is taken by the next blocks.

    XLA on GPU would write the sums of the block before it adds those of the next blocks.
    """
    far_top, far_rest = (jnp.broadcast_to(y, x.shape)[..., None] for y in far)
    is_own, entries = _is_own(x), x[..., None, :]
    is_far = is_own & reaches[..., None]
    largest = jnp.where(is_far, jnp.maximum(entries, far_top), entries)
    top = recompute_on_gpu(_largest(largest, later | is_own))
    terms = _exps(jnp.where(is_far, far_top, entries), top[..., None], later | is_far)
    rest = jnp.sum(jnp.where(is_far, terms * far_rest, terms), axis=-1)
    return top, recompute_on_gpu(rest)


def _is_own(x: Array) -> Array:
    """The pairs of an entry and itself."""
    return jnp.expand_dims(jnp.eye(x.shape[-1], dtype=bool), tuple(range(x.ndim - 1)))


def _value(x: Array, order: Array, counted: Array, groups: tuple[Array, ...]) -> Array:
    x = in_order(x, order)
    sums, x = _sums_over_later(_in_blocks(x), _blocks_of(x, groups)), _in_blocks(x)
    nll, _ = nll_from_gap(sums.rest, sums.top - x)
    return jnp.sum(jnp.where(_in_blocks(counted), nll, 0), axis=(-2, -1))


def _gradient(x: Array, order: Array, counted: Array, groups: tuple[Array, ...]) -> Array:
    """The probability of each entry among the later ones of earlier entries, less 1 - its own."""
    size, x = x.shape[-1], in_order(x, order)
    blocks, x = _blocks_of(x, groups), _in_blocks(x)
    sums = _sums_over_later(x, blocks)
    far = _from_earlier_blocks(x, blocks, sums)

    top, rest = recompute_on_gpu(sums.top), sums.rest
    total = rest + exp_shifted(x, top)
    near = jnp.sum(_terms(x, top, blocks.later) / total[..., None], axis=-2)
    gradient = jnp.where(_in_blocks(counted), (near + far) - rest / total, 0)
    gradient = gradient.reshape(*x.shape[:-2], -1)[..., :size]
    return sort((order, gradient), num_keys=1)[1]  # back at their places


def _from_earlier_blocks(x: Array, blocks: _Blocks, sums: _Sums) -> Array:
    """The probability of each entry among the later ones of the entries of earlier blocks."""
    if x.shape[-2] == 1:
        return jnp.zeros_like(x)
    head_top, last_top = _largest(x, blocks.heads), sums.top[..., -1:]
    tail = _exps(last_top, sums.top, blocks.tails) / (sums.rest + exp_shifted(x, sums.top))
    scale = _exps(head_top[..., None, :], last_top, blocks.goes_on)
    far = jnp.sum(scale * jnp.sum(tail, axis=-1, keepdims=True), axis=-2)
    return _exps(x, head_top[..., None], blocks.heads) * far[..., None]


@jax.custom_jvp
def order_nll(
    x: Float[Array, "*batch items"],
    order: Int[Array, "*batch items"],
    counted: Bool[Array, "*batch items"],
    groups: tuple[Array, ...],
) -> Float[Array, "*batch"]:
    """The sum of -log of the softmax of each entry among itself and those behind it in an order.

    Behind it are those of its group. Entries of one group have the same value in each array of
    `groups`, and lie one after the other; these and `counted`, the entries that are summed, are in
    the order already, and of a group all are counted or none.
    """
    return _value(x, order, counted, groups)


# A full rule: it reduces over the entries. The transpose of the sums over later entries would be
# computed from arrays of each of their steps.
@order_nll.defjvp
def _order_nll_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return order_nll(*primals), jnp.sum(_gradient(*primals) * tangents[0], axis=-1)
