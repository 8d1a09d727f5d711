r"""The engine of every loss that is a sum over rows: one chunk of rows at a time.

$$L(\theta, x) = \sum_j \ell(\theta, x_j), \qquad
  \dot L = \Bigl\langle \sum_j \partial_\theta \ell(\theta, x_j), \dot\theta \Bigr\rangle
  + \sum_j \langle \partial_x \ell(\theta, x_j), \dot x_j \rangle$$

The sums on the right need no cotangent, since the loss is one number: they are added up in the
loop that computes the loss, while a chunk is at hand, and multiplied by the cotangent afterwards.
So nothing of a chunk is kept or computed twice. As the rule of a `jax.custom_jvp` it is linear in
the tangents, and is made of functions that JAX differentiates again, maps and shards.

Chunk j of k takes the rows j, j + k, j + 2k ... Rows that lie in blocks on several devices then
give each device its part of every chunk; a chunk of neighbours would lie on one of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss._mesh import is_local, vary, varying


class Split(NamedTuple):
    """How rows are split: into chunks of `size`, which may hold a few rows too many in all."""

    rows: int
    size: int
    chunks: int

    @property
    def padding(self) -> int:
        """How many rows are made up, and masked."""
        return self.size * self.chunks - self.rows


def split(rows: int, most: int, shards: int = 1) -> Split:
    """Splits rows into chunks of at most `most`, and of at least half of that.

    A size that divides is preferred, since then no array is copied to be padded; among those the
    one with most factors of 2, so that devices share a chunk evenly. Rows that are known to be in
    shards are never padded: there the size divides, however small, and each shard gives its part.
    """
    if rows % shards == 0 and most >= shards > 1:
        sizes = [n for n in range(1, most // shards + 1) if rows // shards % n == 0]
        return Split(rows, sizes[-1] * shards, rows // shards // sizes[-1])
    if rows <= most:
        return Split(rows, max(rows, 1), 1)
    sizes = [n for n in range(most // 2 + 1, most + 1) if rows % n == 0]
    if sizes:
        size = max(sizes, key=lambda n: (n & -n, n))
        return Split(rows, size, rows // size)
    chunks = -(-rows // most)
    return Split(rows, -(-rows // chunks), chunks)


def cut(x: Array, how: Split) -> Array:
    """Brings the rows into the form (size, count, ...), of which [:, j] is chunk j."""
    if how.padding:
        x = jnp.pad(x, [(0, how.padding)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(how.size, how.chunks, *x.shape[1:])


def joined(x: Array, how: Split) -> Array:
    """The inverse of `cut`."""
    return x.reshape(how.size * how.chunks, *x.shape[2:])[: how.rows]


def stacked(x: Array, how: Split) -> Array:
    """Brings the rows into the form (chunks, size, ...) for a scan: as they lie, if they may."""
    if not is_local():
        return jnp.moveaxis(cut(x, how), 1, 0)
    if how.padding:
        x = jnp.pad(x, [(0, how.padding)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(how.chunks, how.size, *x.shape[1:])


def unstacked(x: Array, how: Split) -> Array:
    """The inverse of `stacked`."""
    if not is_local():
        return joined(jnp.moveaxis(x, 0, 1), how)
    return x.reshape(how.chunks * how.size, *x.shape[2:])[: how.rows]


def chunk(tree: Any, j: Any) -> Any:
    """Chunk j of arrays that were cut."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, j, 1, keepdims=False), tree)


def _put(into: Any, tree: Any, j: Any) -> Any:
    def update(x: Array, part: Array) -> Array:
        return lax.dynamic_update_index_in_dim(x, part.astype(x.dtype), j, 1)

    return jax.tree.map(update, into, tree)


def wide(dtype: Any) -> Any:
    """The dtype in which numbers of this one are added up."""
    return jnp.promote_types(dtype, jnp.float32)


def zeros_like(x: Any, dtype: Any = None) -> Array:
    """Zeros of the shape, the sharding and the mesh axes of an array or of its type."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return lax.full_like(x, 0, dtype=dtype)
    sharding = getattr(x, "sharding", None)
    explicit = sharding is not None and any(name is not None for name in sharding.spec)
    zeros = jnp.zeros(x.shape, dtype or x.dtype, out_sharding=sharding if explicit else None)
    return vary(zeros, varying(x))


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


class Program(NamedTuple):
    """What is static about a sum over chunks."""

    term: Term
    split: Split
    slopes: Callable[..., Any] = slopes_by_autodiff


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _total(program: Program, shared: list[Any], rows: list[Any]) -> tuple[Array, Any]:
    cuts = [cut(x, program.split) for x in rows]

    def step(carry: Any, j: Any) -> Any:
        total, collected = carry
        value, found = program.term(shared, chunk(cuts, j))
        return (total + value, _put(collected, found, j)), None

    value, found = _loop(step, _nothing(program, shared, rows), program.split)
    return value, jax.tree.map(lambda x: joined(x, program.split), found)


def _nothing(program: Program, shared: list[Any], rows: list[Any]) -> tuple[Array, Any]:
    """Zeros for the total, and room for what all chunks give besides."""
    how = program.split

    def outcome(shared: Any, rows: Any) -> Any:
        value, found = program.term(shared, chunk([cut(x, how) for x in rows], 0))
        return value, jax.tree.map(
            lambda x: jnp.broadcast_to(x[:, None], (how.size, how.chunks, *x.shape[1:])), found
        )

    return jax.tree.map(zeros_like, jax.eval_shape(outcome, shared, rows))


def _loop(step: Any, carry: Any, how: Split) -> Any:
    if how.chunks == 1:
        return step(carry, 0)[0]
    return lax.scan(step, carry, jnp.arange(how.chunks))[0]


@functools.partial(_total.defjvp, symbolic_zeros=True)
def _total_jvp(program: Program, primals: Any, tangents: Any) -> Any:
    moves = [tuple(not isinstance(t, SymbolicZero) for t in group) for group in tangents]
    total, aux, gradients = _with_slopes(program, *moves, *primals)
    tangent = jnp.zeros_like(total)
    for gradient, t in zip(gradients, [*tangents[0], *tangents[1]], strict=True):
        if gradient is not None:
            # Not a `vdot`, which would flatten a sharded gradient, and so gather it first.
            part = jnp.sum(gradient * t.astype(gradient.dtype))
            over = tuple(sorted(varying(part) - varying(total)))
            part = lax.psum(part, over) if over else part
            tangent = tangent + part.astype(total.dtype)
    return (total, aux), (tangent, jax.tree.map(_no_tangent, aux))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _with_slopes(
    program: Program, of_shared: Any, of_rows: Any, shared: list[Any], rows: list[Any]
) -> tuple[Array, Any, list[Array | None]]:
    """The total, what else the term gives, and the gradients of the leaves that move."""
    how = program.split
    sums = [
        zeros_like(x, wide(x.dtype)) if m else None for x, m in zip(shared, of_shared, strict=True)
    ]
    cuts = [cut(x, how) for x in rows]
    found = [zeros_like(x) if m else None for x, m in zip(cuts, of_rows, strict=True)]

    # Differentiated in reverse, the loop would keep what every chunk computes on the way.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def slopes(sums: Any, shared: Any, rows: Any) -> Any:
        return program.slopes(program.term, shared, rows, Slopes(sums, list(of_rows)))

    def step(carry: Any, j: Any) -> Any:
        total, collected, sums, found = carry
        value, aux, sums, gradients = slopes(sums, shared, chunk(cuts, j))
        # A gradient that nobody wants may have been computed on the way.
        gradients = [None if f is None else g for f, g in zip(found, gradients, strict=True)]
        return (total + value, _put(collected, aux, j), sums, _put(found, gradients, j)), None

    total, aux, sums, found = _loop(step, (*_nothing(program, shared, rows), sums, found), how)
    aux = jax.tree.map(lambda x: joined(x, how), aux)
    return total, aux, [*sums, *(None if f is None else joined(f, how) for f in found)]


# A rule that is the function's own derivative, and yet not idle: differentiated once, the loop
# stays closed, where JAX would move its constants out, each an array as large as a chunk's.
@_with_slopes.defjvp
def _with_slopes_jvp(
    program: Program, of_shared: Any, of_rows: Any, primals: Any, tangents: Any
) -> Any:
    function = functools.partial(_with_slopes.fun, program, of_shared, of_rows)
    return jax.jvp(function, primals, tangents)


def _no_tangent(x: Array) -> Any:
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jnp.zeros_like(x) if inexact else np.zeros(x.shape, jax.dtypes.float0)


def total(program: Program, shared: list[Any], rows: list[Any]) -> tuple[Array, Any]:
    """The sum of a term over all chunks, with gradients computed in the same loop.

    Returns also what the term gives a row, joined; no gradient passes that. Inside `shard_map`
    all leaves must vary over the same axes (`_mesh.alike`).
    """
    return _total(program, shared, rows)


def each(
    function: Callable[[Any, Any], Any], how: Split, shared: list[Any], rows: list[Any]
) -> Any:
    """What a function gives a row, a chunk at a time, computed anew when it is differentiated.

    For values that are not summed, whose cotangents come later. Gradients of half precision are
    added up in float32.
    """
    narrow = [x.dtype for x in shared]
    shared = [
        x.astype(wide(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in shared
    ]
    chunks = [stacked(x, how) for x in rows]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(shared: Any, rows: Any) -> Any:
        return function([x.astype(d) for x, d in zip(shared, narrow, strict=True)], rows)

    _, found = lax.scan(lambda _, rows: (None, of_chunk(shared, rows)), None, chunks)
    return jax.tree.map(lambda x: unstacked(x, how), found)
