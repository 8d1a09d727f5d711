"""Sums over the classes of each row, with a block of rows and classes at a time.

The blocks of classes are the outer loop. This is the first of two passes: `row_sums` computes what
the losses need. The second pass, in `_total_loss`, computes each logit again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import PyTree

from jaxloss._memory.chunk_sum import zero_tangent
from jaxloss._memory.layout import (
    accumulator_dtype,
    from_scan,
    to_scan,
)
from jaxloss.linear._blocks import (
    CLASS_FIELDS,
    Blocks,
    Rows,
    Tiles,
    block_of_head,
    blocks_of,
    class_axis_of,
    classes_of,
    stack_blocks,
)
from jaxloss.linear._layer import Head, Labels, labels_of
from jaxloss.linear._online_softmax import losses_of, product


def _block_sums(
    tiles: Tiles,
    blocks: Blocks,
    j: Array | int,
    head: Head,
    hidden: Array,
    labels: Labels,
    anchors: Any = None,
) -> Any:
    """The sums over block j, whose part of `head` is given, of some rows."""
    raw = product(tiles.layer, hidden, head.weight)
    return tiles.sums_of(tiles.layer, head, raw, classes_of(blocks, labels, j), anchors)


def _scan_rows(tiles: Tiles, function: Any, rows: Any) -> Any:
    """`function(rows)` of each chunk, for rows in the form (chunks, size, ...)."""
    if isinstance(tiles.rows.chunks, int) and tiles.rows.chunks == 1:
        found = function(jax.tree.map(lambda x: x[0], rows))
        return jax.tree.map(lambda x: x[None], found)
    return lax.scan(lambda _, rows: (None, function(rows)), None, rows)[1]


def _to_scan(tiles: Tiles, tree: PyTree) -> Any:
    return jax.tree.map(lambda x: to_scan(x, tiles.rows, "first"), tree)


def _from_scan(tiles: Tiles, tree: PyTree) -> Any:
    return jax.tree.map(lambda x: from_scan(x, tiles.rows), tree)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def row_sums(tiles: Tiles, head: Head, rows: Rows) -> Any:
    """The sums of each row over the whole vocabulary: `RowSums`, or what `tiles.sums_of` gives."""
    layer, blocks = tiles.layer, blocks_of(tiles, head)
    labels = labels_of(layer, head, rows.ids)
    chunks = _to_scan(tiles, (rows, labels.ids))

    def of_block(j: Array | int) -> Any:
        own = block_of_head(layer, blocks, head, j)

        def of_chunk(chunk: Any) -> Any:
            rows, ids = chunk
            here = labels._replace(ids=ids)
            return _block_sums(tiles, blocks, j, own, rows.visible(), here)

        return _scan_rows(tiles, of_chunk, chunks)

    sums = of_block(0)
    if blocks.number > 1:
        more = jnp.arange(1, blocks.number)
        sums, _ = lax.scan(lambda sums, j: (sums.merge(of_block(j)), None), sums, more)
    sums = _from_scan(tiles, sums)
    return sums if layer.axis_name is None else sums.psum(layer.axis_name)


# Not elementwise: the tangents are those of one more pass, relative to tops that are known only
# after the first, so that the transpose keeps nothing of a block.
@functools.partial(row_sums.defjvp, symbolic_zeros=True)
def _row_sums_jvp(
    tiles: Tiles, primals: tuple[Head, Rows], tangents: tuple[Head, Rows]
) -> tuple[Any, Any]:
    (head, rows), (head_dot, rows_dot) = primals, tangents
    layer, blocks = tiles.layer, blocks_of(tiles, head)
    sums = row_sums(tiles, head, rows)
    anchors = lax.stop_gradient(sums.anchored())
    labels = labels_of(layer, head, rows.ids)
    fields = head_dot._asdict().items()
    moving = {f: x for f, x in fields if not (x is None or isinstance(x, SymbolicZero))}
    hidden_dot = None if isinstance(rows_dot.hidden, SymbolicZero) else rows_dot.hidden

    # Cotangents are added up over rows, and those of the rows over blocks, in float32. Those of a
    # block of the weight are complete at its end, and have the dtype of the weight from there on,
    # but in float16, where they are not divided yet.
    def wide(x: Array) -> Array:
        return x.astype(tiles.dtype_of_sums(x.dtype))

    in_blocks = {
        f: stack_blocks(blocks, wide(x) if x.dtype == jnp.float16 else x, class_axis_of(layer, f))
        for f, x in moving.items()
        if f in CLASS_FIELDS
    }
    whole = {f: wide(x) for f, x in moving.items() if f not in CLASS_FIELDS}
    chunks = _to_scan(tiles, (rows, labels.ids, anchors))
    if hidden_dot is not None:
        hidden_dot = hidden_dot.astype(accumulator_dtype(hidden_dot.dtype))
    chunks_dot = None if hidden_dot is None else _to_scan(tiles, hidden_dot)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(own: Head, own_dot: Any, j: Array | int, chunk: Any, hidden_dot: Any) -> Any:
        rows, ids, anchors = chunk
        hidden = rows.visible()

        def variables(fields: dict[str, Array], hidden: Array) -> Any:
            here, head = labels._replace(ids=ids), own._replace(**fields)
            return _block_sums(tiles, blocks, j, head, hidden, here, anchors).variables()

        fields = {f: getattr(own, f) for f in own_dot}
        own_dot = {f: x.astype(fields[f].dtype) for f, x in own_dot.items()}
        if hidden_dot is None:
            return jax.jvp(lambda fields: variables(fields, hidden), (fields,), (own_dot,))[1]
        hidden_dot = rows._replace(hidden=hidden_dot.astype(hidden.dtype)).visible()
        return jax.jvp(variables, (fields, hidden), (own_dot, hidden_dot))[1]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_block(chunks: Any, chunks_dot: Any, whole: Any, block: Any) -> Any:
        j, own_dot = block
        own = block_of_head(layer, blocks, head, j)
        every = {**jax.tree.map(wide, own_dot), **whole}
        return _scan_rows(
            tiles, lambda chunk: of_chunk(own, every, j, *chunk), (chunks, chunks_dot)
        )

    def step(total: Any, block: Any) -> Any:
        return jax.tree.map(jnp.add, total, of_block(chunks, chunks_dot, whole, block)), None

    first = jax.tree.map(lambda x: x[0], in_blocks)
    found = of_block(chunks, chunks_dot, whole, (0, first))
    if blocks.number > 1:
        rest = jnp.arange(1, blocks.number), jax.tree.map(lambda x: x[1:], in_blocks)
        found, _ = lax.scan(step, found, rest)
    found = _from_scan(tiles, found)
    found = found if layer.axis_name is None else lax.psum(found, layer.axis_name)
    return sums, sums.tangents(found, jax.tree.map(zero_tangent, sums))


def row_losses(tiles: Tiles, head: Head, rows: Rows) -> tuple[Array, Any]:
    """The loss of each row, and the metrics that are wanted."""
    labels = labels_of(tiles.layer, head, rows.ids)
    return losses_of(head, labels, row_sums(tiles, head, rows))
