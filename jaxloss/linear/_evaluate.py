"""The losses of all rows of a linear layer: where they are masked, weighted and reduced."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core.reduction import TypeOfReduction, reduce
from jaxloss._memory.layout import accumulator_dtype
from jaxloss._memory.row_factors import holds_float16, row_factors
from jaxloss.linear._blocks import Rows, Tiles, unify_layer_vma
from jaxloss.linear._layer import Head


class Engine(NamedTuple):
    """How losses are computed; static.

    Attributes:
        row_losses: From tiles, head and rows to the loss of each row and the metrics.
        total: From these and the factors of the rows to the sum of the losses and the metrics.
    """

    row_losses: Callable[[Tiles, Head, Rows], tuple[Array, Any]]
    total: Callable[[Tiles, Head, Rows, Array], tuple[Array, Any]]


# Jitted, so that an eager call compiles its loops once.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def evaluate(
    engine: Engine,
    tiles: Tiles,
    reduction: TypeOfReduction,
    head: Head,
    rows: Rows,
    weights: Array | None,
) -> Any:
    """The losses of the rows, reduced, and the metrics that are wanted."""
    mask = rows.mask
    if mask is not None:
        rows = rows._replace(ids=jnp.where(mask, rows.ids, 0))
        weights = None if weights is None else jnp.where(mask, weights, 0)
    if reduction == "none":
        head, rows, weights = unify_layer_vma(tiles.layer, head, rows, weights)
        values, aux = engine.row_losses(tiles, head, rows)
        return reduce(values, rows.mask, weights, "none"), aux
    factors, reduced = row_factors(
        tiles.rows.rows,
        rows.mask,
        weights,
        reduction,
        accumulator_dtype(head.weight.dtype),
        float16=holds_float16((head, rows)),
    )
    factors = factors + lax.full_like(rows.hidden[:, 0], 0, factors.dtype)  # of their sharding
    head, rows, factors = unify_layer_vma(tiles.layer, head, rows, factors)
    total, aux = engine.total(tiles, head, rows, factors)
    return reduced(total), aux
