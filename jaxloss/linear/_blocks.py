"""Blocks of classes and of rows: how the matrix of logits is cut, and what is taken of each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import PyTree

from jaxloss._memory.layout import Split, accumulator_dtype, unwritten_like, zeros_like
from jaxloss._memory.mesh import pcast_varying, possible_shards, vma_of
from jaxloss._xla import take_slice
from jaxloss.linear._layer import Head, Labels, Layer
from jaxloss.linear._online_softmax import Classes, sums_of_block


class Tiles(NamedTuple):
    """The static part of a loss in blocks.

    Attributes:
        layer: The layer and its loss.
        rows: How the rows are split into chunks.
        block: The number of classes of a block; None for all.
        sums_of: What is computed of a block of logits, as `sums_of_block` is.
        accumulator: The dtype in which the gradient of a half-precision weight is added up over
            chunks; None for float32.
        is_given: Whether the caller gave a size.
    """

    layer: Layer
    rows: Split
    block: int | None
    sums_of: Callable[..., Any] = sums_of_block
    accumulator: np.dtype | None = None
    is_given: bool = False

    def dtype_of_sums(self, dtype: DTypeLike) -> np.dtype:
        """The dtype in which gradients of this dtype are added up over chunks."""
        wide = accumulator_dtype(dtype)
        return wide if self.accumulator is None or dtype == wide else self.accumulator


class Blocks(NamedTuple):
    """How the classes of an array are split into blocks.

    The classes are first cut into as many `parts` as devices may share them, and a block consists
    of `size` classes of each part: a block of neighbours would be gathered from one device.

    Attributes:
        parts: The number of parts.
        size: The number of classes of a block in each part.
        number: The number of blocks.
        total: The number of classes of a part.
    """

    parts: int
    size: int
    number: int
    total: int

    @property
    def divides(self) -> bool:
        """Whether no block overlaps the one before it."""
        return self.number == 1 or self.total % self.size == 0

    def start(self, j: Array | int) -> Any:
        """The first class of block j in each part; the last block may overlap the one before."""
        return 0 if self.number == 1 else jnp.minimum(j * self.size, self.total - self.size)

    def split(self, x: Array, axis: int) -> Array:
        """The classes as an axis of parts and an axis of the classes of a part.

        One part stays as it is: XLA on CPU does not update in place what is reshaped afterwards.
        """
        if self.parts == 1:
            return x
        return x.reshape(*x.shape[:axis], self.parts, self.total, *x.shape[axis + 1 :])

    def merge(self, x: Array, axis: int) -> Array:
        """The inverse of `split`, also of a block."""
        if self.parts == 1:
            return x
        size = x.shape[axis] * x.shape[axis + 1]
        return x.reshape(*x.shape[:axis], size, *x.shape[axis + 2 :])

    def take(self, x: Array, axis: int, j: Array | int) -> Array:
        """The classes of block j."""
        if self.number == 1:
            return x
        x = take_slice(self.split(x, axis), self.start(j), self.size, self._own(axis))
        return self.merge(x, axis)

    def take_tangent(self, x_dot: Array, axis: int, j: Array | int) -> Array:
        """The classes of block j of a tangent that is `split`; JAX transposes it."""
        if self.number > 1:
            x_dot = lax.dynamic_slice_in_dim(x_dot, self.start(j), self.size, self._own(axis))
        return self.merge(x_dot, axis)

    def add(self, total: Array, part: Array, axis: int, j: Array | int) -> Array:
        """Adds to the classes of block j of an array that is `split`."""
        if self.number == 1:
            return total + self.split(part, axis).astype(total.dtype)
        old = take_slice(total, self.start(j), self.size, self._own(axis))
        return self._with_block(total, old.astype(part.dtype) + self._in_parts(part, axis), axis, j)

    def put(self, total: Array, part: Array, axis: int, j: Array | int) -> Array:
        """`add`, to zeros: what is there is read only if blocks overlap."""
        if self.number == 1 or not self.divides:
            return self.add(total, part, axis, j)
        return self._with_block(total, self._in_parts(part, axis), axis, j)

    def to_put(self, zeros: Array, axis: int, *made_from: PyTree) -> Array:
        """What all blocks are `put` into, `split`: zeros if they are read."""
        if self.number > 1 and self.divides:
            zeros = unwritten_like(zeros, zeros, *made_from)
        return self.split(zeros, axis)

    def _in_parts(self, part: Array, axis: int) -> Array:
        if self.parts == 1:
            return part
        return part.reshape(*part.shape[:axis], self.parts, self.size, *part.shape[axis + 1 :])

    def _with_block(self, total: Array, new: Array, axis: int, j: Array | int) -> Array:
        new, own = new.astype(total.dtype), self._own(axis)
        return lax.dynamic_update_slice_in_dim(total, new, self.start(j), own)

    def _own(self, axis: int) -> int:
        """The axis of the classes of a part."""
        return axis if self.parts == 1 else axis + 1


def blocks_of(tiles: Tiles, head: Head) -> Blocks:
    axis, size = tiles.layer.class_axis, tiles.layer.num_classes(head.weight)
    if tiles.block is None or not isinstance(size, int) or tiles.block >= size:
        return Blocks(1, size, 1, size)
    parts = possible_shards(head.weight, axis)
    total = size // parts
    block = max(1, min(tiles.block // parts, total))
    return Blocks(parts, block, -(-total // block), total)


# The weights, and the hidden states that each of them multiplies.
WEIGHTS = {"weight": "hidden", "target_weight": "target"}
CLASS_FIELDS = (*WEIGHTS, "bias", "target_bias", "class_weights")


def class_axis_of(layer: Layer, field: str) -> int:
    return layer.class_axis if field in WEIGHTS else 0


def block_of_head(layer: Layer, blocks: Blocks, head: Head, j: Array | int) -> Head:
    """Block j of what has classes, and all of the rest."""
    return map_classes(lambda x, axis: blocks.take(x, axis, j), head, layer)


def classes_of(blocks: Blocks, labels: Labels, j: Array | int) -> Classes:
    """The classes of block j, and which of the labels are among them."""
    dtype = labels.ids.dtype
    start = blocks.start(j)
    offsets = jnp.arange(blocks.size, dtype=dtype)
    parts = jnp.arange(blocks.parts, dtype=dtype)[:, None] * blocks.total
    ids = labels.first + (parts + start + offsets[None, :]).reshape(-1)
    is_new = None
    part, offset = labels.ids // blocks.total, labels.ids % blocks.total - start
    inside = (labels.ids >= 0) & (offset >= 0) & (offset < blocks.size)
    if not blocks.divides:
        # Of a block that overlaps the one before it, the first classes have been counted.
        new = start + offsets >= j * blocks.size
        is_new = jnp.tile(new, blocks.parts)
        inside &= labels.ids % blocks.total >= j * blocks.size
    place = jnp.where(inside, part * blocks.size + offset, -1).astype(dtype)
    return Classes(ids.astype(dtype), place, is_new)


def is_new_class(blocks: Blocks, j: Array | int) -> Array:
    """Which classes of block j are not in the block before it."""
    return jnp.tile(blocks.start(j) + jnp.arange(blocks.size) >= j * blocks.size, blocks.parts)


def map_classes(function: Any, head: Head, layer: Layer) -> Head:
    """`function(x, axis)` of the arrays that have classes."""
    fields = {f: getattr(head, f) for f in CLASS_FIELDS}
    return head._replace(
        **{f: function(x, class_axis_of(layer, f)) for f, x in fields.items() if x is not None}
    )


def loop(body: Any, carry: PyTree, number: Any) -> Any:
    """`body(carry, j)` for each j below a number; one turn is no loop."""
    if isinstance(number, int) and number == 1:
        return body(carry, 0)
    return lax.scan(lambda carry, j: (body(carry, j), None), carry, jnp.arange(number))[0]


class Rows(NamedTuple):
    """The rows of a loss.

    Attributes:
        hidden: `(rows, dim)`.
        ids: The labels; 0 in a row that does not count.
        mask: Which rows count; None if all do.
        target: `(rows, target_dim)`, the hidden states of the second layer, or None.
        known: What an earlier pass gave of each row, for `Tiles.sums_of`; or None.
    """

    hidden: Array
    ids: Array
    mask: Array | None
    target: Array | None = None
    known: Any = None

    def visible(self) -> Array:
        """The hidden states, and zeros in rows that do not count."""
        return where_rows(self.mask, self.hidden)


def where_rows(mask: Array | None, x: Array) -> Array:
    """Zeros in the rows of a mask that is False."""
    if mask is None:
        return x
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
    return jnp.where(mask, x, jnp.zeros((), x.dtype))


def zeros_of(head: Head, wanted: Head, dtype_of: Any) -> Head:
    """Zeros for the gradients that are wanted."""
    pairs = zip(head, wanted, strict=True)
    return Head(*(None if w is None else zeros_like(x, dtype_of(x.dtype)) for x, w in pairs))  # type: ignore  # not None here


def unify_layer_vma(layer: Layer, head: Head, rows: Rows, per_row: Array | None) -> Any:
    """Marks arrays as different between the devices of a mesh, before the loop.

    Over the axis of the vocabulary only those that make the logits of a device are: their
    gradients are parts of the whole. What follows the sums over all classes is the same everywhere.
    """
    axes = vma_of(head, rows, per_row)
    name = layer.axis_name
    of_rows = axes - ({name} if isinstance(name, str) else {*(name or ())})
    local = {*CLASS_FIELDS, "temperature", "softcap", "beta"}
    head = Head(
        *(
            pcast_varying(x, axes if field in local else of_rows)
            for field, x in zip(Head._fields, head, strict=True)
        )
    )
    rows = rows._replace(
        **{f: pcast_varying(getattr(rows, f), axes) for f in WEIGHTS.values()},
        **{f: pcast_varying(getattr(rows, f), of_rows) for f in ("ids", "mask")},
    )
    return head, rows, pcast_varying(per_row, of_rows)
