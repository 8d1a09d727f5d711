"""The one validation of `where` and `weights`, for functions that `@loss` has not decorated.

A decorated loss validates all its arguments in the same way: the forms are the same, and the
errors are written by the same functions.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxloss._core import mismatch
from jaxloss._core.arguments import as_array, check_choice
from jaxloss._core.shapes import fitting_form
from jaxloss._core.spec import ArraySpec
from jaxloss._core.typing import ArrayType, Shape
from jaxloss.domains import finite

__all__ = ["check_reduction", "where_and_weights"]

_SPECS = {
    "where": ArraySpec("Bool", ("*batch",), finite),
    "weights": ArraySpec("Real", ("*batch",), finite),
}


def where_and_weights(
    fun_name: str, shape: Shape, dtype: DTypeLike, where: Any, weights: Any, *, leader: str = ""
) -> tuple[Array | None, Array | None]:
    """`where` and `weights` as arrays that fit values of a shape.

    Args:
        fun_name: The function that is called, for errors.
        shape: The shape of the values; both must have it, or be scalars.
        dtype: The dtype of the values, which weights get.
        where: Booleans, or None.
        weights: Real numbers, or None.
        leader: The argument that sets the shape, for errors.

    Returns:
        Both as arrays of the shape; what is None stays None.

    Raises:
        TypeError: If `where` is not boolean, or weights are not real numbers.
        ValueError: If a shape differs.
    """
    return (
        _validated(fun_name, "where", where, shape, jnp.bool_, leader),
        _validated(fun_name, "weights", weights, shape, dtype, leader),
    )


def _validated(
    fun_name: str, name: str, given: object, shape: Shape, dtype: DTypeLike, leader: str
) -> Array | None:
    if given is None:
        return None
    array = as_array(fun_name, name, given)
    kind, form = ArrayType(name, array.shape, array.dtype, True), _SPECS[name]
    if fitting_form((form,), kind, shape, {}) is None:
        origin = f" to fit `{leader}`" if leader else ""
        raise mismatch.plain_error(fun_name, kind, form, shape, origin)
    return jnp.broadcast_to(jnp.asarray(array).astype(dtype), shape)


def check_reduction(fun_name: str, reduction: object) -> None:
    """Raises if there is no such reduction."""
    check_choice(fun_name, "reduction", reduction, ("none", "mean", "sum", "parts"))
