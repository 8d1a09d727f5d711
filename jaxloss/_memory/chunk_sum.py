r"""A sum over rows, computed one chunk of rows at a time, with its gradients.

$$L(\theta, x) = \sum_j \ell(\theta, x_j), \qquad
  \dot L = \Bigl\langle \sum_j \partial_\theta \ell(\theta, x_j), \dot\theta \Bigr\rangle
  + \sum_j \langle \partial_x \ell(\theta, x_j), \dot x_j \rangle$$

The loss is one number, so its cotangent is a factor of all gradients. They are added up in the
loop that computes the loss, and multiplied by the cotangent afterwards: no array of a chunk is kept
or computed twice. The rule of the `jax.custom_jvp` is linear in the tangents and consists of
functions that JAX differentiates, maps and shards.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import PyTree

from jaxloss._memory.layout import (
    Split,
    accumulator_dtype,
    merge_strided,
    real_rows,
    split_strided,
    take_chunk,
    zeros_like,
)
from jaxloss._memory.mesh import vma
from jaxloss.numerics._vectors import power_of_two_near

# A pytree of arrays that all rows share, or of arrays with the rows of one chunk.
Shared = Any
Rows = Any

# From `shared`, rows, and which rows are real (None: all) to the sum of their losses and to other
# results, one entry a row.
Value = Callable[[Shared, Rows, Array | None], tuple[Array, Any]]

# From the same, and what is `Wanted`, to the sum of the losses, the other results, the gradients of
# `shared` added to those so far, and the gradients of the rows; None where none is wanted.
ValueAndGrad = Callable[[Shared, Rows, Array | None, "Wanted"], tuple[Array, Any, Shared, Rows]]


class Wanted(NamedTuple):
    """The gradients that are wanted of a chunk.

    Attributes:
        sums: Like `shared`: the gradients added up so far, None if none is wanted.
        rows: Like the rows: whether a gradient is wanted.
    """

    sums: Shared
    rows: Rows


class ChunkedSum(NamedTuple):
    """The static part of a sum over chunks.

    Attributes:
        split: How the rows are split.
        value: Computes the sum of a chunk.
        value_and_grad: Computes its gradients as well; by default, JAX differentiates `value`.
        dtype_of_sums: From the dtype of an array that all rows share to the one in which its
            gradient is added up.
    """

    split: Split
    value: Value
    value_and_grad: ValueAndGrad | None = None
    dtype_of_sums: Callable[[DTypeLike], DTypeLike] = accumulator_dtype


class RowGradient(NamedTuple):
    """The gradient of rows, which waits for its cotangent in the dtype of the rows.

    Attributes:
        values: The gradient over `unit`.
        unit: For float16 a power of 2 a row, so that a small gradient keeps its digits; or None.
    """

    values: Array
    unit: Array | None


def store_row_gradient(gradient: Array, dtype: DTypeLike) -> RowGradient:
    """The gradient of rows in their dtype, until its cotangent is known."""
    if dtype != jnp.float16 or gradient.dtype == dtype:
        return RowGradient(gradient.astype(dtype), None)
    size = jnp.max(jnp.abs(gradient), tuple(range(1, gradient.ndim)), keepdims=True, initial=0)
    # Not smaller, or the derivative of a gradient that is almost 0 would overflow.
    unit = jnp.maximum(power_of_two_near(size), 2.0**-10)
    return RowGradient((gradient / unit).astype(dtype), unit)


def _inner(gradient: Array | RowGradient, tangent: Array) -> Array:
    """The inner product. A `vdot` would flatten a sharded gradient, and so gather it."""
    values, unit = gradient if isinstance(gradient, RowGradient) else (gradient, None)
    wide = accumulator_dtype(values.dtype)
    values = values.astype(wide)
    return jnp.sum((values if unit is None else values * unit) * tangent.astype(wide))


def tangent_of_sum(total: Array, gradients: list[Any], tangents: list[Any]) -> Array:
    """The tangent of a sum, from its gradients; those of None do not move."""
    total_dot = jnp.zeros_like(total)
    for gradient, x_dot in zip(gradients, tangents, strict=True):
        if gradient is not None:
            part = _inner(gradient, x_dot)
            over = tuple(sorted(vma(part) - vma(total)))
            part = lax.psum(part, over) if over else part
            total_dot = total_dot + part.astype(total.dtype)
    return total_dot


def by_autodiff(value: Value) -> ValueAndGrad:
    """Derives `value_and_grad` of a chunk."""

    def value_and_grad(shared: Shared, rows: Rows, real: Array | None, wanted: Wanted) -> Any:
        leaves, tree = jax.tree.flatten((shared, rows))
        shared_tree, rows_tree = jax.tree.structure(shared), jax.tree.structure(rows)
        sums = shared_tree.flatten_up_to(wanted.sums)
        moves = [s is not None for s in sums] + jax.tree.leaves(wanted.rows)

        def of_moving(moving: list[Array]) -> tuple[Array, Any]:
            source = iter(moving)
            every = [next(source) if m else x for x, m in zip(leaves, moves, strict=True)]
            return value(*tree.unflatten(every), real)  # type: ignore  # a NamedTuple, from the leaves of a tree

        moving = [x for x, m in zip(leaves, moves, strict=True) if m]
        total, vjp_fn, aux = jax.vjp(of_moving, moving, has_aux=True)
        found = iter(vjp_fn(jnp.ones_like(total))[0])
        gradients = [next(found) if m else None for m in moves]
        of_shared, of_rows = gradients[: len(sums)], gradients[len(sums) :]
        added = [
            None if s is None else s + g.astype(s.dtype)  # type: ignore  # not None here
            for s, g in zip(sums, of_shared, strict=True)
        ]
        return total, aux, shared_tree.unflatten(added), rows_tree.unflatten(of_rows)

    return value_and_grad


def _loop(
    how: Split, of_chunk: Callable[..., Any], sums: Any, shared: Shared, rows: Rows
) -> tuple[Array, Any, Any]:
    """Adds up `of_chunk(sums, shared, rows, real) -> (total, sums, results a row)` over chunks."""
    parts = jax.tree.map(lambda x: split_strided(x, how, "first"), rows), real_rows(how)

    def at(sums: Any, j: Array | int) -> Any:
        return of_chunk(sums, shared, *take_chunk(parts, j))

    def merged(found: Any) -> Any:
        return jax.tree.map(lambda x: merge_strided(x, how), found)

    if isinstance(how.chunks, int) and how.chunks == 1:
        total, sums, found = at(sums, 0)
        return total, sums, merged(jax.tree.map(lambda x: x[:, None], found))

    def start(sums: Any) -> Any:
        total, _, found = at(sums, 0)
        every = (how.size, how.chunks)
        return total, jax.tree.map(
            lambda x: jnp.broadcast_to(x[:, None], every + x.shape[1:]), found
        )

    def step(carry: PyTree, j: Array) -> Any:
        total, sums, collected = carry
        value, sums, found = at(sums, j)
        collected = jax.tree.map(
            lambda x, part: lax.dynamic_update_index_in_dim(x, part, j, 1), collected, found
        )
        return (total + value, sums, collected), None

    total, collected = jax.tree.map(zeros_like, jax.eval_shape(start, sums))
    (total, sums, collected), _ = lax.scan(step, (total, sums, collected), jnp.arange(how.chunks))
    return total, sums, merged(collected)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_chunks(program: ChunkedSum, shared: Shared, rows: Rows) -> tuple[Array, Any]:
    """The sum over all rows, and the other results of each row, which have no gradient.

    Inside `shard_map` all arrays must vary over the same axes: see `unify_vma`.
    """

    def of_chunk(_: None, *chunk: Any) -> Any:
        value, aux = program.value(*chunk)
        return value, None, aux

    total, _, aux = _loop(program.split, of_chunk, None, shared, rows)
    return total, aux


# The rule is not elementwise: its gradients come from the loop that computes the sum.
@functools.partial(sum_chunks.defjvp, symbolic_zeros=True)
def _sum_chunks_jvp(program: ChunkedSum, primals: Any, tangents: Any) -> Any:
    leaves = jax.tree.leaves(tangents)
    moves = tuple(not isinstance(x_dot, SymbolicZero) for x_dot in leaves)
    total, aux, gradients = _sum_and_grads(program, moves, *primals)
    total_dot = tangent_of_sum(total, gradients, leaves)
    return (total, aux), (total_dot, jax.tree.map(zero_tangent, aux))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sum_and_grads(
    program: ChunkedSum, moves: tuple[bool, ...], shared: Shared, rows: Rows
) -> tuple[Array, Any, list[Any]]:
    """The sum, the other results, and the gradients of the leaves that move."""
    shared_leaves, shared_tree = jax.tree.flatten(shared)
    row_leaves, rows_tree = jax.tree.flatten(rows)
    count = len(shared_leaves)
    sums = [
        zeros_like(x, program.dtype_of_sums(x.dtype)) if m else None
        for x, m in zip(shared_leaves, moves[:count], strict=True)
    ]
    wanted_rows = rows_tree.unflatten(moves[count:])
    value_and_grad = program.value_and_grad or by_autodiff(program.value)

    # Otherwise the transpose of the loop would keep the intermediate arrays of every chunk.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(sums: list[Any], *chunk: Any) -> Any:
        wanted = Wanted(shared_tree.unflatten(sums), wanted_rows)
        value, aux, found, of_rows = value_and_grad(*chunk, wanted)  # type: ignore  # a NamedTuple, from the leaves of a tree
        stored = [
            store_row_gradient(g, x.dtype) if m else None
            for g, x, m in zip(
                rows_tree.flatten_up_to(of_rows), row_leaves, moves[count:], strict=True
            )
        ]
        return value, shared_tree.flatten_up_to(found), (aux, stored)

    total, sums, (aux, stored) = _loop(program.split, of_chunk, sums, shared, rows)
    return total, aux, [*sums, *stored]


# The rule is the derivative of the function, and keeps the loop closed while JAX differentiates it
# once: JAX would move constants out of the body, each an array as large as that of a chunk.
@_sum_and_grads.defjvp
def _sum_and_grads_jvp(
    program: ChunkedSum, moves: tuple[bool, ...], primals: Any, tangents: Any
) -> Any:
    return jax.jvp(functools.partial(_sum_and_grads.fun, program, moves), primals, tangents)


def zero_tangent(x: Array) -> Any:
    """The tangent of a result without a gradient."""
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jnp.zeros_like(x) if inexact else np.zeros(x.shape, jax.dtypes.float0)
