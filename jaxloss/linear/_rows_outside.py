"""Losses of rows, and their gradients, with all classes of a chunk of rows at once.

The gradients are computed with the losses, in three matrix products, in the loop of
`_memory.chunk_sum`.
"""

from typing import Any

import jax
from jax import Array

from jaxloss.linear._blocks import Tiles
from jaxloss.linear._layer import Head, Layer
from jaxloss.linear._online_softmax import losses_of_products, product
from jaxloss.linear._products import add_outer_product, add_small_fields, small_fields, times_weight


def chunk_losses(layer: Layer, head: Head, hidden: Array, ids: Array) -> tuple[Array, Any]:
    """The loss of each row, and the metrics that are wanted."""
    return losses_of_products(layer, head, ids, product(layer, hidden, head.weight))


def chunk_value_and_grad(
    tiles: Tiles, head: Head, hidden: Array, ids: Array, factors: Array, sums: Head
) -> tuple[Array, Any, Head, Array]:
    """The loss of each row, and the gradients of their sum weighted by `factors`.

    Args:
        tiles: What is static.
        head: What all rows share.
        hidden: `(rows, dim)`.
        ids: The label of each row.
        factors: The factor of each row.
        sums: The gradients of `head` that are wanted, as far as they were added up before; None
            where none is wanted.

    Returns:
        The losses, the metrics, the gradients of `head` added to the sums, and those of `hidden`.
    """
    layer, small = tiles.layer, small_fields(head, sums)
    raw = product(layer, hidden, head.weight)
    values, vjp_fn, aux = jax.vjp(
        lambda raw, small: losses_of_products(layer, head._replace(**small), ids, raw),
        raw,
        small,
        has_aux=True,
    )
    raw_bar, small_bar = vjp_fn(factors)
    sums = add_small_fields(sums, small_bar)
    if sums.weight is not None:
        sums = sums._replace(weight=add_outer_product(tiles, sums.weight, hidden, raw_bar, head))
    return values, aux, sums, times_weight(layer, raw_bar, head.weight, hidden)
