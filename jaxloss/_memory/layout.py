"""How rows are split into chunks, and how arrays are laid out for a loop over chunks.

Chunk j of k takes the rows j, j + k, j + 2k ... Rows that lie in blocks on several devices then
give each device its part of every chunk; a chunk of adjacent rows would lie on one device.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._memory.mesh import is_unsharded, pcast_varying, vma


class Split(NamedTuple):
    """How rows are split: into chunks of `size`, which may hold a few rows too many in all."""

    rows: int
    size: int
    chunks: int

    @property
    def padding(self) -> int:
        """How many rows are made up, and masked."""
        return self.size * self.chunks - self.rows


def plan_split(rows: int, most: int, shards: int = 1) -> Split:
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


def split_strided(x: Array, how: Split) -> Array:
    """Brings the rows into the form (size, count, ...), of which [:, j] is chunk j."""
    if how.padding:
        x = jnp.pad(x, [(0, how.padding)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(how.size, how.chunks, *x.shape[1:])


def merge_strided(x: Array, how: Split) -> Array:
    """The inverse of `cut`."""
    return x.reshape(how.size * how.chunks, *x.shape[2:])[: how.rows]


def to_scan(x: Array, how: Split) -> Array:
    """Brings the rows into the form (chunks, size, ...) for a scan: as they lie, if they may."""
    if not is_unsharded():
        return jnp.moveaxis(split_strided(x, how), 1, 0)
    if how.padding:
        x = jnp.pad(x, [(0, how.padding)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(how.chunks, how.size, *x.shape[1:])


def from_scan(x: Array, how: Split) -> Array:
    """The inverse of `stacked`."""
    if not is_unsharded():
        return merge_strided(jnp.moveaxis(x, 0, 1), how)
    return x.reshape(how.chunks * how.size, *x.shape[2:])[: how.rows]


def take_chunk(tree: Any, j: Any) -> Any:
    """Chunk j of arrays that were cut."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, j, 1, keepdims=False), tree)


def accumulator_dtype(dtype: Any) -> Any:
    """The dtype in which numbers of this one are added up."""
    return jnp.promote_types(dtype, jnp.float32)


def zeros_like(x: Any, dtype: Any = None) -> Array:
    """Zeros of the shape, the sharding and the mesh axes of an array or of its type."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return lax.full_like(x, 0, dtype=dtype)
    sharding = getattr(x, "sharding", None)
    explicit = sharding is not None and any(name is not None for name in sharding.spec)
    zeros = jnp.zeros(x.shape, dtype or x.dtype, out_sharding=sharding if explicit else None)
    return pcast_varying(zeros, vma(x))
