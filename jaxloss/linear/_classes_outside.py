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
    zeros_like,
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
    loop,
)
from jaxloss.linear._layer import Head, Labels, labels_of
from jaxloss.linear._online_softmax import losses_of
from jaxloss.linear._products import products


def _block_sums(
    tiles: Tiles,
    blocks: Blocks,
    j: Array | int,
    head: Head,
    rows: Rows,
    labels: Labels,
    anchors: Any = None,
) -> Any:
    """The sums over block j, whose part of `head` is given, of some rows."""
    raw = products(tiles.layer, rows, head)
    known = () if rows.known is None else (rows.known,)
    return tiles.sums_of(tiles.layer, head, raw, classes_of(blocks, labels, j), anchors, *known)


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
            return _block_sums(tiles, blocks, j, own, rows, here)

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
    sums = row_sums(tiles, *primals)
    anchors = lax.stop_gradient(sums.anchored())
    found = sum_of_tangents(tiles, anchors, primals, tangents)
    return sums, sums.tangents(found, jax.tree.map(zero_tangent, sums))


def sum_of_tangents(
    tiles: Tiles, anchors: PyTree, primals: tuple[Head, Rows], tangents: tuple[Head, Rows]
) -> Any:
    """The tangents of the variables of `tiles.sums_of`, added up over all blocks and devices.

    Args:
        tiles: What is static.
        anchors: What the pass knows of each row; it has no tangent here.
        primals: The head and the rows.
        tangents: Their tangents, some of which are symbolic zeros.
    """
    (head, rows), (head_dot, rows_dot) = primals, tangents
    layer, blocks = tiles.layer, blocks_of(tiles, head)
    labels = labels_of(layer, head, rows.ids)
    moving, rows_moving = _moving(head, head_dot), _moving(rows, rows_dot)

    # Cotangents are added up over rows, and those of the rows over blocks, in float32. Those of a
    # block of the weight are complete at its end, and have the dtype of the weight from there on,
    # but in float16, where they are not divided yet.
    def wide(x: Array) -> Array:
        return x.astype(tiles.dtype_of_sums(x.dtype))

    # The transpose of a slice adds to what was sliced, which is the gradient itself: nothing else
    # of its size exists.
    in_blocks = {
        f: blocks.split(wide(x) if x.dtype == jnp.float16 else x, class_axis_of(layer, f))
        for f, x in moving.items()
        if f in CLASS_FIELDS
    }
    whole = {f: wide(x) for f, x in moving.items() if f not in CLASS_FIELDS}
    chunks = _to_scan(tiles, (rows, labels.ids, anchors))
    chunks_dot = {
        f: _to_scan(tiles, jax.tree.map(lambda x: x.astype(accumulator_dtype(x.dtype)), x))
        for f, x in rows_moving.items()
    }

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(own: Head, own_dot: Any, j: Array | int, chunk: Any, rows_dot: Any) -> Any:
        rows, ids, anchors = chunk
        here = labels._replace(ids=ids)

        def of_moving(fields: dict[str, Array], row_fields: dict[str, Any]) -> Any:
            head, moved = own._replace(**fields), rows._replace(**row_fields)
            return _block_sums(tiles, blocks, j, head, moved, here, anchors).variables()

        fields, row_fields = (
            {f: getattr(x, f) for f in moving} for x, moving in ((own, own_dot), (rows, rows_dot))
        )
        dots = (
            jax.tree.map(lambda x_dot, x: x_dot.astype(x.dtype), moving, like)
            for moving, like in ((own_dot, fields), (rows_dot, row_fields))
        )
        return jax.jvp(of_moving, (fields, row_fields), tuple(dots))[1]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_block(chunks: Any, chunks_dot: Any, whole: Any, own_dot: Any, j: Array | int) -> Any:
        own = block_of_head(layer, blocks, head, j)
        every = {**jax.tree.map(wide, own_dot), **whole}
        return _scan_rows(
            tiles, lambda chunk: of_chunk(own, every, j, *chunk), (chunks, chunks_dot)
        )

    def at(j: Array | int) -> Any:
        own_dot = {
            f: blocks.take_tangent(x, class_axis_of(layer, f), j) for f, x in in_blocks.items()
        }
        return of_block(chunks, chunks_dot, whole, own_dot, j)

    if blocks.number == 1:
        found = at(0)
    else:
        start = jax.tree.map(zeros_like, jax.eval_shape(at, 0))
        found = loop(lambda total, j: jax.tree.map(jnp.add, total, at(j)), start, blocks.number)
    found = _from_scan(tiles, found)
    return found if layer.axis_name is None else lax.psum(found, layer.axis_name)


def _moving(tree: Head | Rows, tangents: Head | Rows) -> dict[str, Any]:
    """The tangents of the fields that move."""
    found = {}
    for field, x_dot in tangents._asdict().items():
        if not all(isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(x_dot)):
            x = getattr(tree, field)
            found[field] = jax.tree.map(
                lambda d, x: zeros_like(x) if isinstance(d, SymbolicZero) else d, x_dot, x
            )
    return found


def row_losses(tiles: Tiles, head: Head, rows: Rows) -> tuple[Array, Any]:
    """The loss of each row, and the metrics that are wanted."""
    labels = labels_of(tiles.layer, head, rows.ids)
    return losses_of(head, labels, row_sums(tiles, head, rows))
