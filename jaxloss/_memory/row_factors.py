"""The factors of rows in a sum or a mean that is added up in chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import PyTree

from jaxloss._core.reduction import Mean, TypeOfReduction, total_weight
from jaxloss.numerics._vectors import power_of_two_near


def holds_float16(tree: PyTree) -> bool:
    """Whether a leaf has a dtype in which a gradient divided by many rows would vanish."""
    return any(x.dtype == jnp.float16 for x in jax.tree.leaves(tree))


def row_factors(
    rows: int,
    where: Array | None,
    weights: Array | None,
    reduction: TypeOfReduction,
    dtype: DTypeLike,
    *,
    float16: bool,
) -> tuple[Array, Callable[[Array], Any]]:
    """What the losses are multiplied by in the loop, and what makes the result of their sum.

    A mean is divided in the loop, so that its gradients need not be read and written once more
    afterwards. Not so in float16: there the factors are near 1, and the gradients, which float16
    could not hold after the division, are divided when their cotangent is known.

    Args:
        rows: The number of rows.
        where: Booleans; the factor of a False row is 0.
        weights: The weights of the rows.
        reduction: "mean", "sum" or "parts".
        dtype: The dtype of the sum.
        float16: Whether gradients of float16 arrays are computed in the loop.

    Returns:
        The factors, of shape (rows,), and a function from the sum to the result.
    """
    weight = total_weight((rows,), where, weights, dtype)
    factors = jnp.ones(rows, dtype) if weights is None else weights.astype(dtype)
    factors = factors if where is None else jnp.where(where, factors, 0)
    if reduction == "mean" and not float16:
        # What is left after the division is a mean of weight 1, or 0 if the weights sum to 0.
        nothing = weight == 0
        factors = factors / jnp.where(nothing, 1, weight)
        return factors, lambda total: Mean(total, jnp.where(nothing, 0, 1).astype(dtype)).value
    unit = jnp.ones((), dtype)
    if float16 and weights is not None:
        unit = power_of_two_near(jnp.max(jnp.abs(factors), initial=0))
        factors = factors / unit

    def reduced(total: Array) -> Any:
        parts = Mean(total * unit, weight)
        return {"sum": parts.total, "parts": parts, "mean": parts.value}[reduction]

    return factors, reduced
