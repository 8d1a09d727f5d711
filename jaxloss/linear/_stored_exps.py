"""Losses of rows, and their gradients, from exponentials that are stored in bfloat16.

This is the form of "fastest" on TPU, for a bfloat16 weight and no other argument. The logits
of a block of classes stay on the chip. Their exponentials, relative to the largest logit of the row
in the block, are summed, rounded and written. The second loop makes the cotangents of the logits
from them, which are rounded in any case, and finishes one block of the gradient of the weight after
the other. There are three matrix products; in float32 the logits would
be written once, and read three times.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._memory.layout import plan_split, unwritten, unwritten_like, zeros_like
from jaxloss._memory.mesh import is_unsharded, vma
from jaxloss._xla import take_slice
from jaxloss.linear._blocks import Rows, Tiles, block_of_head, blocks_of, classes_of, loop
from jaxloss.linear._layer import Head, labels_of
from jaxloss.linear._online_softmax import RowSums, losses_of, product, sums_and_exps
from jaxloss.linear._products import outer_product, times_weight
from jaxloss.numerics._online_logsumexp import ExpSum

# Numbers of a block of logits, which the memory of the chip holds with what is made of it, and the
# shortest block whose products take no longer. In the second loop, where the gradient of the rows
# is on the chip too, blocks are half as large: for 8192 rows 2048 and 1024 classes. 11,816
# MiB are moved, 18,022 with 2048 in both, 13,856 with 1024 in both (`benchmarks/accelerators.py`).
_BLOCK = 8192 * 2048
_SHORTEST = 768


def tiles_with_stored_exps(tiles: Tiles, head: Head, rows: Rows) -> Tiles | None:
    """The tiles of this form; None where it does not apply."""
    (dim, classes), number = head.weight.shape[:: -1 if tiles.layer.transposed else 1], tiles.rows
    sizes = (dim, classes, number.rows)
    # float16 would not hold small exponentials.
    if not tiles.layer.to_half or head.weight.dtype != jnp.bfloat16:
        return None
    if not all(isinstance(size, int) for size in sizes):
        return None
    if number.chunks == 1:  # the logits are few
        return None
    if tiles.layer.axis_name is not None or not is_unsharded(head.weight, rows.hidden):
        return None
    # As much as four times the weight.
    split = plan_split(number.rows, min(max(4 * dim, 2048), 16384))
    most = min(_BLOCK // split.size, classes // 2)
    blocks = [n for n in range(256, most + 1, 256) if classes % n == 0]
    if not blocks or blocks[-1] < _SHORTEST:
        return None
    # A block of the gradient of a single chunk is complete, so that no wider dtype is needed.
    accumulator = head.weight.dtype if split.chunks == 1 else tiles.accumulator
    return tiles._replace(rows=split, block=blocks[-1], accumulator=accumulator)


def chunk_value_and_grad(
    tiles: Tiles, head: Head, hidden: Array, ids: Array, factors: Array, sums: Head
) -> tuple[Array, Any, Head, Array]:
    """`_rows_outside.chunk_value_and_grad`, of a weight alone."""
    layer, blocks = tiles.layer, blocks_of(tiles, head)
    labels = labels_of(layer, head, ids)

    def first(carry: Any, j: Array) -> Any:
        found, exps, tops = carry
        own = block_of_head(layer, blocks, head, j)
        raw, classes = product(layer, hidden, own.weight), classes_of(blocks, labels, j)
        here, part = sums_and_exps(layer, raw, classes)
        exps = lax.dynamic_update_slice_in_dim(exps, part.astype(exps.dtype), blocks.start(j), 1)
        tops = lax.dynamic_update_index_in_dim(tops, here.others.top, j, 0)
        return found.merge(here), exps, tops

    none = jnp.zeros_like(factors)
    start = RowSums(ExpSum.over_nothing(none), none, best=none if layer.metrics else None)
    exps = unwritten((hidden.shape[0], blocks.total), hidden.dtype, vma(none))
    tops = unwritten((blocks.number, hidden.shape[0]), none.dtype, vma(none))
    found, exps, tops = loop(first, (start, exps, tops), blocks.number)

    def losses(variables: RowSums) -> tuple[Array, Any]:
        return losses_of(head, labels, found.with_variables(variables))

    values, vjp_fn, aux = jax.vjp(losses, found.variables(), has_aux=True)
    (bar,) = vjp_fn(factors)
    halves = blocks._replace(size=blocks.size // 2, number=2 * blocks.number)
    add = halves.add
    if tiles.rows.chunks == 1 and sums.weight is not None:
        sums, add = sums._replace(weight=unwritten_like(sums.weight, hidden)), halves.put

    def second(carry: Any, j: Array) -> Any:
        sums, hidden_bar = carry
        own = block_of_head(layer, halves, head, j)
        part = take_slice(exps, halves.start(j), halves.size, 1).astype(none.dtype)
        top = lax.dynamic_index_in_dim(tops, j // 2, 0, keepdims=False)
        place = classes_of(halves, labels, j).place[:, None]
        scale = ExpSum(top, none).scale_to(found.others.top) * bar.others
        at_label = place == jnp.arange(halves.size, dtype=place.dtype)
        raw_bar = jnp.where(at_label, bar.label[:, None], part * scale[:, None])
        if sums.weight is not None:
            outer = outer_product(layer, hidden, raw_bar, own.weight)
            sums = sums._replace(weight=add(sums.weight, outer, layer.class_axis, j))
        return sums, hidden_bar + times_weight(layer, raw_bar, own.weight, hidden)

    start = sums, zeros_like(hidden, none.dtype)
    sums, hidden_bar = loop(second, start, halves.number)
    return values, aux, sums, hidden_bar
