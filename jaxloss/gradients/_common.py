"""What a loss may give, and how it becomes one number."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from jaxloss import _combine
from jaxloss._core.reduction import Mean
from jaxloss._core.spec import ArrayLike


def scalar(fun_name: str, what: str, value: ArrayLike) -> Array:
    """A loss as one number to differentiate: float32 or better."""
    number = _combine.scalar(fun_name, what, value)
    given = jnp.result_type(value.total if isinstance(value, Mean) else value)
    if not jnp.issubdtype(given, jnp.floating):
        raise TypeError(f"{fun_name}: {what} is {given}, expected floating-point numbers.")
    return number


def split(fun_name: str, result: Any, has_aux: bool) -> tuple[Any, Any]:
    """What a loss gave, and beside it what `has_aux` says that it gives."""
    if has_aux and not (isinstance(result, tuple) and len(result) == 2):
        came = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        message = f"{fun_name}: the loss gave {came}, expected a pair, as `has_aux` says."
        raise TypeError(message)
    if not has_aux and isinstance(result, tuple):
        message = (
            f"{fun_name}: the loss gave a tuple of {len(result)}: write `has_aux=True` for a pair."
        )
        raise TypeError(message)
    return result if has_aux else (result, None)


def check_scalar(fun_name: str, name: str, given: ArrayLike) -> None:
    """Raises if an option has a shape."""
    if jnp.ndim(given):
        raise ValueError(f"{fun_name}: `{name}` has shape {jnp.shape(given)}, expected a scalar.")


def rows(fun_name: str, batch: PyTree) -> int:
    """The number of rows of a batch: the size that all its leaves have first."""
    sizes: dict[int, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        name = f"batch{jax.tree_util.keystr(path)}"
        if jnp.ndim(leaf) == 0:
            message = (
                f"{fun_name}: `{name}` is a scalar, expected rows along the first axis. What all "
                f"rows share is passed by keyword."
            )
            raise ValueError(message)
        sizes.setdefault(jnp.shape(leaf)[0], name)
    if len(sizes) != 1:
        came = ", ".join(f"{size} in `{name}`" for size, name in sizes.items()) or "no array"
        raise ValueError(f"{fun_name}: expected one number of rows in the whole batch, got {came}.")
    return next(iter(sizes))
