"""The three matrix products of a linear layer and its gradients, and the small arguments."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxloss import _xla
from jaxloss.linear._blocks import (
    WEIGHTS,
    Rows,
    Tiles,
    blocks_of,
    is_new_class,
    loop,
    where_rows,
)
from jaxloss.linear._layer import Head, Layer
from jaxloss.linear._online_softmax import product, rounded_dot


def times_weight(layer: Layer, raw_bar: Array, weight: Array, like: Array) -> Array:
    """The cotangent of the hidden states."""
    return rounded_dot(raw_bar, weight, (1, layer.class_axis), like)


def outer_product(layer: Layer, hidden: Array, raw_bar: Array, like: Array) -> Array:
    """The cotangent of the weight."""
    left, right = (raw_bar, hidden) if layer.transposed else (hidden, raw_bar)
    return rounded_dot(left, right, (0, 0), like)


def _outer_of_flipped(layer: Layer, flipped: Array, raw_bar: Array) -> Array:
    """The same from hidden states that were transposed outside of a loop.

    XLA on CPU has a fast product of bfloat16 for this form alone.
    """
    out = rounded_dot(flipped, raw_bar, (1, 0))
    return out.T if layer.transposed else out


def add_outer_product(
    tiles: Tiles, total: Array, hidden: Array, raw_bar: Array, head: Head
) -> Array:
    """Adds the cotangent of the weight of a chunk.

    On GPU and TPU the product is added to the total as it is computed. On CPU it would be a second
    array of the size of the weight, so that it is computed and added one block at a time.
    """
    layer, blocks = tiles.layer, blocks_of(tiles, head)
    axis = layer.class_axis

    def plain(total: Array, hidden: Array, raw_bar: Array) -> Array:
        new = total + outer_product(layer, hidden, raw_bar, head.weight)
        return new.astype(total.dtype)

    def in_blocks(total: Array, hidden: Array, raw_bar: Array) -> Array:
        flipped = hidden.T

        def body(total: Array, j: Array | int) -> Array:
            part = blocks.take(raw_bar, 1, j)
            if not blocks.divides:
                part = jnp.where(is_new_class(blocks, j), part, 0)
            return blocks.add(total, _outer_of_flipped(layer, flipped, part), axis, j)

        return blocks.merge(loop(body, blocks.split(total, axis), blocks.number), axis)

    if blocks.number == 1:
        return plain(total, hidden, raw_bar)
    return _xla.on_cpu(in_blocks, plain, total, hidden, raw_bar)


def products(layer: Layer, rows: Rows, head: Head) -> Any:
    """The product of hidden states and weight, or those of both layers."""
    raw = product(layer, rows.visible(), head.weight)
    if rows.target is None or head.target_weight is None:
        return raw
    return raw, product(layer, where_rows(rows.mask, rows.target), head.target_weight)


def small_fields(head: Head, wanted: Head) -> dict[str, Array]:
    """The fields whose gradients are wanted, but for the weights."""
    fields = head._asdict().items()
    return {f: x for f, x in fields if f not in WEIGHTS and getattr(wanted, f) is not None}


def add_small_fields(sums: Head, small_bar: dict[str, Array]) -> Head:
    added = {f: getattr(sums, f) + x.astype(getattr(sums, f).dtype) for f, x in small_bar.items()}
    return sums._replace(**added)
