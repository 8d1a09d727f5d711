"""Several sums over the same axis in one pass over memory."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._memory.mesh import has_typed_axes, is_unsharded, shards
from jaxloss._xla import (
    each_on_gpu,
    in_one_loop,
    on_chip_on_tpu,
    on_cpu,
    on_each,
    on_gpu,
    recompute_on_gpu,
)
from jaxloss.numerics._dtypes import half_in_float32

Axis = int | tuple[int, ...] | None
Arrays = TypeVar("Arrays", bound=tuple[Array, ...])
T = TypeVar("T")

# Cycles of the TPU compiler (`benchmarks/accelerators.py`): 3.1e6 for a product of 1000 entries,
# which grow with their square, and 8.1e6 for a cumulative sum.
_LONGEST_PRODUCT = 2048


def mean_where(x: Array, mask: Array | None) -> Array:
    """The mean along the last axis of the entries that a mask keeps, if there is one; 0 of none.

    The mask has the shape of x, or that of its last axis.
    """
    if mask is None:
        return jnp.mean(x, axis=-1)
    number = jnp.sum(jnp.broadcast_to(mask, x.shape), axis=-1, dtype=jnp.int32)
    return jnp.sum(jnp.where(mask, x, 0), axis=-1) / jnp.maximum(number, 1).astype(x.dtype)


def unmerged(sums: Array) -> Array:
    """Sums that are summed again, which XLA on GPU would do from all terms, in a pass more."""
    return recompute_on_gpu(sums)


def read_in_passes(x: Array) -> Array:
    """x, from which a sum is taken and then something else, as an array on the chip of a TPU."""
    return on_chip_on_tpu(x)


def summed_whole(x: Array) -> Array:
    """x, which XLA on CPU would compute in several loops, the last that of its sum, in one."""
    return in_one_loop(x)


def row_sum(terms: Array) -> Array:
    """The sum of terms along the last axis; on CPU they are computed in one loop."""
    return jnp.sum(in_one_loop(terms), axis=-1)


def for_each_sum(x: T, count: int) -> tuple[T, ...]:
    """x, numbers of each row, for each of several sums over rows, which share nothing on GPU."""
    return each_on_gpu(x, count)


def along_either(function: Callable[..., T], *arrays: Any) -> T:
    """`function(axis, *arrays)`, which reduces a matrix that it computes over an axis.

    That is the last one on GPU, where XLA would write what is summed over the one before it,
    and the one before it on CPU, where it takes less time.
    """
    return on_gpu(*_along(function), *arrays)


@functools.cache
def _along(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """One object each, so that eager calls compile once."""
    return functools.partial(function, -1), functools.partial(function, -2)


def cumulative_sum(x: Array) -> Array:
    """The sum of the entries up to each one, along the last axis.

    On TPU XLA computes a cumulative sum in blocks, and writes and reads eight arrays of the size of
    x. There it is a product with a triangle of ones, if x is not longer than takes less time.
    """
    size = x.shape[-1]
    if not isinstance(size, int) or size > _LONGEST_PRODUCT or shards(x, x.ndim - 1) > 1:
        return _cumulative_sum(x)
    return on_each(_cumulative_sum, _cumulative_sum, _times_triangle, x)


def _cumulative_sum(x: Array) -> Array:
    return jnp.cumsum(x, axis=-1)


def _times_triangle(x: Array) -> Array:
    place = jnp.arange(x.shape[-1])
    up_to = (place[:, None] <= place[None, :]).astype(x.dtype)
    return jnp.einsum("...i,ij->...j", x, up_to, precision=lax.Precision.HIGHEST)


def variadic_reduce(
    terms: Arrays,
    start: Sequence[float],
    combine: Callable[[Arrays, Arrays], Arrays],
    finish: Callable[[Arrays], Arrays],
) -> Arrays:
    """A reduction of several arrays along the last axis, which reads their common inputs once.

    XLA on CPU compiles each `jnp.sum` to a separate kernel and writes the kernel's input to memory
    first; a single reduction with several operands is fused with the computation of them. Eight
    numbers at distances of an eighth of the axis are combined into one, so that the inner loop runs
    over neighbours with vector instructions. On GPU and TPU ordinary reductions are fused, and the
    single one would write its operands to memory: there `finish` is all.

    Args:
        terms: Arrays of one shape.
        start: The neutral element of each.
        combine: Combines two tuples of numbers, one for each term. Defined at module level: JAX
            caches the compiled reduction by the identity of this function.
        finish: Reduces plain arrays by ordinary reductions. Defined at module level too.
    """
    # On several devices the compiler would gather what is sharded. A symbolic size cannot be split.
    if not is_unsharded() or not isinstance(terms[0].shape[-1], int):
        return finish(terms)
    return on_cpu(*_forms(tuple(start), combine, finish), *terms)


@functools.cache
def _forms(
    start: tuple[float, ...], combine: Callable[..., Any], finish: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The reduction on CPU and elsewhere: one object each, so that eager calls compile once."""

    def strided(*terms: Array) -> Any:
        size = terms[0].shape[-1]
        if size <= 32:
            return reduce_together(terms, start, combine, -1)
        length = (size - 2 * (size % 8 == 1)) // 8  # a remainder of one would be no reduction
        parts = tuple(x[..., : 8 * length].reshape(*x.shape[:-1], 8, length) for x in terms)
        found = finish(reduce_together(parts, start, combine, -2))
        if size == 8 * length:
            return found
        rest = tuple(x[..., 8 * length :] for x in terms)
        return combine(found, reduce_together(rest, start, combine, -1))

    return strided, lambda *terms: finish(terms)


def reduce_together(
    terms: tuple[Array, ...], start: Sequence[float], combine: Callable[..., Any], axis: Axis
) -> Any:
    """`lax.reduce` of several arrays, which JAX can differentiate twice."""
    # Inside a scan that is differentiated twice the custom rules are not used, and JAX can
    # differentiate this reduction only if every term has a tangent. The select, which compiles to
    # nothing, makes every term depend on all of them.
    one = functools.reduce(functools.partial(lax.select_n, np.False_), terms)
    terms = tuple(lax.select_n(np.False_, x, one) for x in terms)
    neutral = tuple(np.asarray(value, x.dtype) for value, x in zip(start, terms, strict=True))
    axes = range(one.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(lax.reduce(terms, neutral, combine, tuple(i % one.ndim for i in axes)))


def in_one_reduction(
    by_passes: Callable[..., T], by_reduction: Callable[..., T], *arguments: Any
) -> T:
    """Evaluates one of two forms: on GPU and TPU the second, which is one `reduce_together`.

    On CPU passes over rows in the cache take less time. On a mesh with Explicit or Manual axes all
    operands of a reduction would have to be split alike, also the masks and zeros among them: there
    it is the first form too. Give the same objects in each call, so that eager calls compile once.
    """
    if has_typed_axes(arguments):
        return by_passes(*arguments)
    return on_cpu(by_passes, by_reduction, *arguments)


def _add(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(map(operator.add, a, b))


def _sum_each(terms: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(jnp.sum(x, axis=-1) for x in terms)


@jax.custom_jvp
def _fused_sums(*terms: Array) -> tuple[Array, ...]:
    return variadic_reduce(terms, (0,) * len(terms), _add, _sum_each)


@_fused_sums.defjvp
def _fused_sums_jvp(
    primals: Arrays, tangents: Arrays
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    # A full rule: the number of arguments is not fixed. The sum is linear.
    return _fused_sums(*primals), _sum_each(tangents)


@half_in_float32
def fused_sums(*terms: Array) -> tuple[Array, ...]:
    """The sum of each term along the last axis, all in one pass over memory.

    >>> [float(total) for total in fused_sums(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))]
    [3.0, 7.0]
    """
    return _fused_sums(*terms)


def _slices(x: Array) -> tuple[Array, ...]:
    return tuple(x[..., i] for i in range(x.shape[-1]))


def _masked_sums(x: Array) -> tuple[Array, ...]:
    place = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return sums_together(tuple(jnp.where(place == i, x, 0) for i in range(x.shape[-1])))


def sums_together(terms: tuple[Array, ...]) -> tuple[Array, ...]:
    """The sum of each term along the last axis, in one reduction, which has no transpose."""
    return reduce_together(terms, (0,) * len(terms), _add, -1)


@jax.custom_jvp
def entries_of_short_axis(x: Array) -> tuple[Array, ...]:
    """The entries along the last axis, whose size is a small number: an array for each.

    On TPU they are sums of zeros and the entry, in one reduction. XLA would slice a float32 copy of
    half-precision numbers, which it writes, and compute what it slices in a slower layout
    (`benchmarks/accelerators.py`: the IoU of boxes moves 24 MiB in 0.5 million cycles, and with
    slices 56 MiB in 1.6).
    """
    if has_typed_axes(x):
        return _slices(x)
    return on_each(_slices, _slices, _masked_sums, x)


# A full rule: its results are several arrays. They are linear.
@entries_of_short_axis.defjvp
def _entries_of_short_axis_jvp(primals: Any, tangents: Any) -> Any:
    return entries_of_short_axis(*primals), _slices(*tangents)


def _sums_weighted(axis: Axis, parts: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    sums = (jnp.sum(part, axis=axis) for part in parts)
    return functools.reduce(operator.add, map(operator.mul, weights, sums))


def _weighted_summed(axis: Axis, parts: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    return jnp.sum(functools.reduce(operator.add, map(operator.mul, weights, parts)), axis=axis)


@functools.cache
def _weighted_forms(axis: Axis) -> tuple[Callable[..., Array], Callable[..., Array]]:
    return functools.partial(_sums_weighted, axis), functools.partial(_weighted_summed, axis)


def weighted_sum(parts: tuple[Array, ...], weights: tuple[Any, ...], axis: Axis) -> Array:
    """The sum over axes of several parts, each times a number.

    On GPU and TPU it is one sum: XLA on GPU compiles three sums over pixels to two kernels, and
    writes what they share.
    """
    return on_cpu(*_weighted_forms(axis), parts, weights)
