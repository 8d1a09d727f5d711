"""How rows are split into chunks, and how arrays are laid out for a loop over chunks.

Chunk j of k consists of the rows j, j + k, j + 2k ... If the rows lie in blocks on several devices,
each device then has its part of every chunk. A chunk of adjacent rows would lie on one device.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import PyTree

from jaxloss._memory.mesh import is_unsharded, pcast_varying, shards, vma
from jaxloss._xla import take_slice

Fill = Literal["zeros", "first"]


class Split(NamedTuple):
    """How rows are split: into `chunks` chunks of `size` rows, the last ones padded.

    Attributes:
        rows: The number of rows; it may be a symbolic dimension of `jax.export`.
        size: The number of rows of a chunk; never symbolic, unless all rows are one chunk.
        chunks: The number of chunks.
        shards: The number of devices that are known to share the rows. Each shard is padded by
            itself, and gives its part of every chunk.
    """

    rows: int
    size: int
    chunks: int
    shards: int = 1

    @property
    def padding(self) -> int:
        """The number of rows that are added, and masked."""
        return self.size * self.chunks - self.rows

    @property
    def is_padded(self) -> bool:
        """Whether rows may be added: so it is if their number is symbolic."""
        return not (isinstance(self.padding, int) and self.padding == 0)


def plan_split(rows: int, most: int, shards: int = 1) -> Split:
    """Splits rows into chunks of at most `most`, and of at least half of that.

    A size that divides the rows is preferred, since no array is copied to be padded; among those
    the one with most factors of 2, so that devices share a chunk evenly. A chunk has at least one
    row of each shard. If the number of rows is symbolic, chunks have `most` rows.
    """
    if shards > 1:
        local = plan_split(rows // shards, max(1, most // shards))
        return Split(rows, local.size * shards, local.chunks, shards)
    if not isinstance(rows, int):
        return Split(rows, most, -(-rows // most))
    if rows <= most:
        return Split(rows, max(rows, 1), 1)
    sizes = [n for n in range(most // 2 + 1, most + 1) if rows % n == 0]
    if sizes:
        size = max(sizes, key=lambda n: (n & -n, n))
        return Split(rows, size, rows // size)
    chunks = -(-rows // most)
    return Split(rows, -(-rows // chunks), chunks)


def checked_split(fun_name: str, size: int, chunk_size: Any, rows: Array, axis: int) -> Split:
    """The split of `size` rows along an axis, into chunks of at most `chunk_size` rows."""
    return plan_split(size, check_chunk_size(fun_name, chunk_size), shards(rows, axis))


def check_chunk_size(fun_name: str, chunk_size: Any, name: str = "chunk_size") -> int:
    """The size of a chunk as an int: it decides on shapes, so it must be known when tracing."""
    if isinstance(chunk_size, Tracer):
        message = (
            f"{fun_name}: `{name}` is a traced array, expected an int: it decides on shapes. "
            f'Write `jax.jit(..., static_argnames="{name}")`.'
        )
        raise TypeError(message)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int | np.integer):
        message = f"{fun_name}: `{name}` is {chunk_size!r}, expected a number of rows or None."
        raise TypeError(message)
    if chunk_size < 1:
        raise ValueError(
            f"{fun_name}: `{name}` is {chunk_size}, expected at least 1 row at a time."
        )
    return int(chunk_size)


def split_strided(x: Array, how: Split, fill: Fill = "zeros") -> Array:
    """Brings the rows into the form (size, chunks, ...), of which [:, j] is chunk j.

    The padding holds zeros, or copies of the first row of each shard. A function of rows is defined
    for the latter, if it is for the first row.
    """
    of_row = x.shape[1:]
    if how.is_padded:
        rows, size = how.rows // how.shards, how.size // how.shards  # of a shard
        x = _pad(x.reshape(how.shards, rows, *of_row), size * how.chunks - rows, fill)
        x = x.reshape(how.shards, size, how.chunks, *of_row)
    return x.reshape(how.size, how.chunks, *of_row)


def _pad(x: Array, count: int, fill: Fill) -> Array:
    shape = (x.shape[0], count, *x.shape[2:])
    if x.shape[1] == 0:
        return jnp.zeros(shape, x.dtype)
    first = x[:, :1] if fill == "first" else zeros_like(x[:, :1])  # split as the rows are
    return jnp.concatenate([x, jnp.broadcast_to(first, shape)], axis=1)


def real_rows(how: Split) -> Array | None:
    """Which rows are not padding, in the form (size, chunks); None if all are."""
    if not how.is_padded:
        return None
    rows, size = how.rows // how.shards, how.size // how.shards  # of a shard
    places = jnp.arange(size)[:, None] * how.chunks + jnp.arange(how.chunks)[None, :]
    return jnp.tile(places < rows, (how.shards, 1))


def merge_strided(x: Array, how: Split) -> Array:
    """The inverse of `split_strided`."""
    of_row = x.shape[2:]
    if how.is_padded:
        rows, size = how.rows // how.shards, how.size // how.shards  # of a shard
        x = x.reshape(how.shards, size, how.chunks, *of_row)
        x = x.reshape(how.shards, size * how.chunks, *of_row)[:, :rows]
    return x.reshape(how.rows, *of_row)


def carry_rows(x: Array, how: Split) -> Array:
    """What `split_strided` has split, in the form that a loop carries: `(rows, ...)`.

    XLA on CPU would copy an array that is reshaped after the loop. Padded rows stay split, and so
    does a single chunk, whose form XLA on TPU keeps out of memory.
    """
    return merge_strided(x, how) if _is_carried_whole(how) else x


def carried_chunks(x: Array, how: Split) -> Array:
    """The inverse of `carry_rows`."""
    return split_strided(x, how) if _is_carried_whole(how) else x


def _is_carried_whole(how: Split) -> bool:
    return not how.is_padded and how.chunks != 1


def to_scan(x: Array, how: Split, fill: Fill = "zeros") -> Array:
    """Brings the rows into the form (chunks, size, ...) for a scan; in place if none is sharded."""
    if how.is_padded or not is_unsharded(x):
        return jnp.moveaxis(split_strided(x, how, fill), 1, 0)
    return x.reshape(how.chunks, how.size, *x.shape[1:])


def from_scan(x: Array, how: Split) -> Array:
    """The inverse of `to_scan`."""
    if how.is_padded or not is_unsharded(x):
        return merge_strided(jnp.moveaxis(x, 0, 1), how)
    return x.reshape(how.rows, *x.shape[2:])


def take_chunk(tree: PyTree, j: Array | int) -> Any:
    """Chunk j of arrays that `split_strided` has split."""
    return jax.tree.map(lambda x: take_slice(x, j, 1, 1)[:, 0], tree)


def accumulator_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype in which numbers of this one are added up: float32, or float64."""
    is_wide = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits > 32
    return np.dtype(dtype if is_wide else np.float32)


def zeros_like(x: Any, dtype: DTypeLike | None = None) -> Array:
    """Zeros of the shape, the sharding and the mesh axes of an array or of its type."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return lax.full_like(x, 0, dtype=dtype)
    sharding = getattr(x, "sharding", None)
    explicit = sharding is not None and any(name is not None for name in sharding.spec)
    zeros = jnp.zeros(x.shape, dtype or x.dtype, out_sharding=sharding if explicit else None)
    return pcast_varying(zeros, vma(x))


def unwritten(shape: tuple[int, ...], dtype: DTypeLike, axes: frozenset[str]) -> Array:
    """An array that differs over these mesh axes and is then written in full.

    GPU and TPU allocate it, and write no zeros. It has no sharding: not for what a mesh may split.
    """
    return pcast_varying(lax.empty(shape, dtype), axes)


def unwritten_like(x: Any, *made_from: PyTree) -> Array:
    """`unwritten`, like an array or its type; zeros where a mesh may split what it is made from."""
    if is_unsharded(*jax.tree.leaves(made_from)):
        return unwritten(x.shape, x.dtype, vma(x))
    return zeros_like(x)
