"""Rows of items in an order: entries in it, and sums and maxima over what comes later."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from jaxloss._xla import not_folded, on_cpu, on_each
from jaxloss.numerics._labels import is_label


def iota(x: Array) -> Int[Array, "*batch items"]:
    """The index of each item in its row."""
    # Added to zeros like x, so that it is sharded like x: a sort takes arrays of one sharding.
    return jnp.zeros_like(x, jnp.int32) + lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)


def sort(arrays: tuple[Array, ...], num_keys: int) -> tuple[Array, ...]:
    """Rows of several arrays in the order of the first of them, the keys, which are distinct."""
    first, *others = arrays
    return tuple(lax.sort((not_folded(first), *others), num_keys=num_keys, is_stable=False))


def largest(
    x: Float[Array, "*batch items"], count: int, half: np.dtype | None = None
) -> Float[Array, "*batch count"]:
    """The largest entries of each row in order, constants of the gradient.

    Args:
        x: Numbers.
        count: How many.
        half: The dtype that x was converted from, if any: on GPU and TPU it is sorted in that.
    """
    in_float32, in_half = _largest_forms(count, half)
    return on_cpu(in_float32, in_half, lax.stop_gradient(x))


@functools.cache  # one object each, so that eager calls compile once
def _largest_forms(
    count: int, half: np.dtype | None
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    def in_float32(x: Array) -> Array:
        return lax.top_k(x, count)[0]

    def in_half(x: Array) -> Array:
        return lax.top_k(x.astype(half), count)[0].astype(x.dtype)

    return in_float32, in_float32 if half is None else in_half


def map_batch(function: Callable[..., Array], *arrays: Array) -> Array:
    """A function of rows, of every row."""
    for _ in range(arrays[0].ndim - 1):
        function = jax.vmap(function)
    return function(*arrays)


@jax.custom_jvp
def in_order(x: Float[Array, "*batch items"], order: Int[Array, "*batch items"]) -> Array:
    """The entries at the indices of an order, which is a permutation of each row."""
    return jnp.take_along_axis(x, order, axis=-1)


# A full rule: its transpose is a gather, where that of a gather is a scatter: slow on GPUs, and
# `checkify` raises an IndexError on it (JAX 0.10: `scatter_oob` knows no batching dimensions).
@in_order.defjvp
def _in_order_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    x, order = primals
    _, places = sort((order, iota(order)), num_keys=1)
    return in_order(x, order), map_batch(_put, places, tangents[0])


def _put(places: Array, values: Array) -> Array:
    return jnp.zeros_like(values).at[places].set(values, unique_indices=True)


def behind(x: Array, distance: Array | float, fill: Array | float) -> Array:
    """The entry at a distance behind each entry along the last axis; `fill` past the end."""
    padded = jnp.concatenate([x, jnp.full_like(x, fill)], axis=-1)
    return lax.dynamic_slice_in_dim(padded, distance, x.shape[-1], axis=-1)


def _distances(size: int) -> Array:
    """1, 2, 4, ... below a size: so many passes reach every item. A symbolic size is below 2^31."""
    passes = max(size - 1, 0).bit_length() if isinstance(size, int) else 31
    return jnp.asarray(2 ** np.arange(passes), jnp.int32)


def max_of_later(x: Array, is_followed: Array) -> Array:
    """The maximum over each entry and those behind it in its list."""

    def double(state: tuple[Array, Array], distance: Array) -> tuple[tuple[Array, Array], None]:
        x, reaches = state
        later = jnp.where(reaches, behind(x, distance, -jnp.inf), -jnp.inf)
        return (jnp.maximum(x, later), reaches & behind(reaches, distance, False)), None

    return lax.scan(double, (x, is_followed), _distances(x.shape[-1]))[0][0]


def sum_of_later(factor: Array, term: Array) -> Array:
    """The solution x of `x[i] = term[i] + factor[i] * x[i + 1]`."""

    def double(state: tuple[Array, Array], distance: Array) -> tuple[tuple[Array, Array], None]:
        factor, x = state
        x = x + factor * behind(x, distance, 0)
        return (factor * behind(factor, distance, 0), x), None

    return lax.scan(double, (factor, term), _distances(term.shape[-1]))[0][1]


def nan_of(*arrays: Float[Array, "*batch items"]) -> Float[Array, "*batch"]:
    """0, or NaN in value and gradients if an entry of a row is NaN."""
    return _nan_of_row(functools.reduce(operator.add, arrays))


@jax.custom_jvp
def _nan_of_row(x: Array) -> Array:
    return jnp.sum(jnp.where(x == x, 0, x), axis=-1)


# A full rule: the gradient is that of the row, so that it does not read the arrays again.
@_nan_of_row.defjvp
def _nan_of_row_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    nan = _nan_of_row(*primals)
    return nan, nan * jnp.sum(tangents[0], axis=-1)


def rows_at(rows: Array, places: Array) -> Array:
    """The rows at some places; on TPU by a product, whose transpose is no scatter."""
    return on_each(_gathered, _gathered, _by_product, rows, places)


def _gathered(rows: Array, places: Array) -> Array:
    # From one table: of a gather with batch axes checkify raises an IndexError in the gradient.
    *batch, count, dim = rows.shape
    number = math.prod(batch)
    first = count * jnp.arange(number, dtype=places.dtype).reshape(*batch, 1)
    return rows.reshape(number * count, dim).at[first + places].get(mode="clip")


def _by_product(rows: Array, places: Array) -> Array:
    chosen = is_label(rows[..., 0], places).astype(rows.dtype)
    return jnp.matmul(chosen, rows, precision=lax.Precision.HIGHEST)
