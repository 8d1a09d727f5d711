r"""The engine of every loss that is a sum over rows: one chunk of rows at a time.

$$L(\theta, x) = \sum_j \ell(\theta, x_j), \qquad
  \dot L = \Bigl\langle \sum_j \partial_\theta \ell(\theta, x_j), \dot\theta \Bigr\rangle
  + \sum_j \langle \partial_x \ell(\theta, x_j), \dot x_j \rangle$$

The sums on the right need no cotangent, since the loss is one number: they are added up in the
loop that computes the loss, while a chunk is at hand, and multiplied by the cotangent afterwards.
So nothing of a chunk is kept or computed twice. As the rule of a `jax.custom_jvp` it is linear in
the tangents, and is made of functions that JAX differentiates again, maps and shards.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss._memory.layout import (
    Split,
    accumulator_dtype,
    merge_strided,
    split_strided,
    take_chunk,
    zeros_like,
)
from jaxloss._memory.mesh import vma


def _put(into: Any, tree: Any, j: Any) -> Any:
    def update(x: Array, part: Array) -> Array:
        return lax.dynamic_update_index_in_dim(x, part.astype(x.dtype), j, 1)

    return jax.tree.map(update, into, tree)


# A term computes, for one chunk, (the sum of its losses, and what else is wanted a row).
Term = Callable[[Any, Any], tuple[Array, Any]]


class Slopes(NamedTuple):
    """What is wanted of a chunk besides its value.

    Attributes:
        shared: For each shared leaf, the gradients added up so far, or None if none is wanted.
        rows: For each leaf of the rows, whether its gradient is wanted.
    """

    shared: list[Array | None]
    rows: list[bool]


def slopes_by_autodiff(term: Term, shared: list[Any], rows: list[Any], wanted: Slopes) -> Any:
    """The value of a chunk, what else it gives, sums with its gradients added, row gradients."""
    leaves = [*shared, *rows]
    moving = [s is not None for s in wanted.shared] + wanted.rows

    def function(floating: list[Any]) -> Any:
        source = iter(floating)
        whole = [next(source) if m else x for x, m in zip(leaves, moving, strict=True)]
        return term(whole[: len(shared)], whole[len(shared) :])

    at = [x for x, m in zip(leaves, moving, strict=True) if m]
    value, pull, aux = jax.vjp(function, at, has_aux=True)
    found = iter(pull(jnp.ones_like(value))[0])
    sums = [None if s is None else s + next(found).astype(s.dtype) for s in wanted.shared]
    return value, aux, sums, [next(found) if m else None for m in wanted.rows]


class ChunkedSum(NamedTuple):
    """What is static about a sum over chunks."""

    term: Term
    split: Split
    slopes: Callable[..., Any] = slopes_by_autodiff


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum_chunks(program: ChunkedSum, shared: list[Any], rows: list[Any]) -> tuple[Array, Any]:
    cuts = [split_strided(x, program.split) for x in rows]

    def step(carry: Any, j: Any) -> Any:
        total, collected = carry
        value, found = program.term(shared, take_chunk(cuts, j))
        return (total + value, _put(collected, found, j)), None

    value, found = _loop(step, _nothing(program, shared, rows), program.split)
    return value, jax.tree.map(lambda x: merge_strided(x, program.split), found)


def _nothing(program: ChunkedSum, shared: list[Any], rows: list[Any]) -> tuple[Array, Any]:
    """Zeros for the total, and room for what all chunks give besides."""
    how = program.split

    def outcome(shared: Any, rows: Any) -> Any:
        value, found = program.term(shared, take_chunk([split_strided(x, how) for x in rows], 0))
        return value, jax.tree.map(
            lambda x: jnp.broadcast_to(x[:, None], (how.size, how.chunks, *x.shape[1:])), found
        )

    return jax.tree.map(zeros_like, jax.eval_shape(outcome, shared, rows))


def _loop(step: Any, carry: Any, how: Split) -> Any:
    if how.chunks == 1:
        return step(carry, 0)[0]
    return lax.scan(step, carry, jnp.arange(how.chunks))[0]


@functools.partial(_sum_chunks.defjvp, symbolic_zeros=True)
def _sum_chunks_jvp(program: ChunkedSum, primals: Any, tangents: Any) -> Any:
    moves = [tuple(not isinstance(t, SymbolicZero) for t in group) for group in tangents]
    total, aux, gradients = _with_slopes(program, *moves, *primals)
    tangent = jnp.zeros_like(total)
    for gradient, t in zip(gradients, [*tangents[0], *tangents[1]], strict=True):
        if gradient is not None:
            # Not a `vdot`, which would flatten a sharded gradient, and so gather it first.
            part = jnp.sum(gradient * t.astype(gradient.dtype))
            over = tuple(sorted(vma(part) - vma(total)))
            part = lax.psum(part, over) if over else part
            tangent = tangent + part.astype(total.dtype)
    return (total, aux), (tangent, jax.tree.map(_no_tangent, aux))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _with_slopes(
    program: ChunkedSum, of_shared: Any, of_rows: Any, shared: list[Any], rows: list[Any]
) -> tuple[Array, Any, list[Array | None]]:
    """The total, what else the term gives, and the gradients of the leaves that move."""
    how = program.split
    sums = [
        zeros_like(x, accumulator_dtype(x.dtype)) if m else None
        for x, m in zip(shared, of_shared, strict=True)
    ]
    cuts = [split_strided(x, how) for x in rows]
    found = [zeros_like(x) if m else None for x, m in zip(cuts, of_rows, strict=True)]

    # Differentiated in reverse, the loop would keep what every chunk computes on the way.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def slopes(sums: Any, shared: Any, rows: Any) -> Any:
        return program.slopes(program.term, shared, rows, Slopes(sums, list(of_rows)))

    def step(carry: Any, j: Any) -> Any:
        total, collected, sums, found = carry
        value, aux, sums, gradients = slopes(sums, shared, take_chunk(cuts, j))
        # A gradient that nobody wants may have been computed on the way.
        gradients = [None if f is None else g for f, g in zip(found, gradients, strict=True)]
        return (total + value, _put(collected, aux, j), sums, _put(found, gradients, j)), None

    total, aux, sums, found = _loop(step, (*_nothing(program, shared, rows), sums, found), how)
    aux = jax.tree.map(lambda x: merge_strided(x, how), aux)
    return total, aux, [*sums, *(None if f is None else merge_strided(f, how) for f in found)]


# A rule that is the function's own derivative, and yet not idle: differentiated once, the loop
# stays closed, where JAX would move its constants out, each an array as large as a chunk's.
@_with_slopes.defjvp
def _with_slopes_jvp(
    program: ChunkedSum, of_shared: Any, of_rows: Any, primals: Any, tangents: Any
) -> Any:
    function = functools.partial(_with_slopes.fun, program, of_shared, of_rows)
    return jax.jvp(function, primals, tangents)


def _no_tangent(x: Array) -> Any:
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jnp.zeros_like(x) if inexact else np.zeros(x.shape, jax.dtypes.float0)


def sum_chunks(program: ChunkedSum, shared: list[Any], rows: list[Any]) -> tuple[Array, Any]:
    """The sum of a term over all chunks, with gradients computed in the same loop.

    Returns also what the term gives a row, joined; no gradient passes that. Inside `shard_map`
    all leaves must vary over the same axes (`_mesh.alike`).
    """
    return _sum_chunks(program, shared, rows)
