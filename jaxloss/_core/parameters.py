"""Arguments of functions around losses: pytrees, numbers and counts, and their error messages."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import PyTree

from jaxloss._core.arguments import as_array
from jaxloss._core.checks import are_on, check
from jaxloss.domains import Domain


def named_leaves(name: str, tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Each leaf with its name in error messages: `updates['w'][0]`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield f"{name}{jax.tree_util.keystr(path)}", leaf


def describe(value: object) -> str:
    """What a value is called in an error message; a tracer is described as an array."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return f"a tuple of {len(value)}"
    if not isinstance(value, Array | np.ndarray | np.generic):
        name = type(value).__name__
        return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
    return f"a {value.dtype} " + (f"array of shape {value.shape}" if value.shape else "scalar")


def check_leaves(fun_name: str, params: PyTree, kind: Any, remedy: str) -> None:
    """Raises where the dtype of a leaf is not of the kind `jnp.floating` or `jnp.inexact`."""
    for name, leaf in named_leaves("params", params):
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, kind):
            came = dtype if hasattr(leaf, "dtype") else f"of type {dtype.__name__}"
            raise TypeError(f"{fun_name}: `{name}` is {came}, {remedy}")


def real_array(fun_name: str, what: str, given: object, expected: str) -> Array:
    """An array of real numbers; lists and tuples are refused, since they could mean pairs."""
    try:
        numbers = as_array(fun_name, what, given) if isinstance(given, np.ndarray) else given
        array = None if isinstance(given, list | tuple) else jnp.asarray(numbers)
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None:
        raise TypeError(f"{fun_name}: {what} is a {type(given).__name__}, expected {expected}.")
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        message = f"{fun_name}: {what} is {array.dtype}, expected {expected}, of real numbers."
        raise TypeError(message)
    return array


def real_scalar(
    fun_name: str,
    name: str,
    given: object,
    domain: Domain | None = None,
    expected: str = "a real number or a scalar array",
) -> Array:
    """A numeric option: a real scalar, which may be traced.

    A concrete value is compared with its domain here, a traced one with `checks()` on.
    """
    array = real_array(fun_name, f"`{name}`", given, expected)
    if array.ndim:
        raise ValueError(f"{fun_name}: `{name}` has shape {array.shape}, expected {expected}.")
    if domain is not None:
        known = not isinstance(given, Tracer) and getattr(given, "is_fully_addressable", True)
        if known and not domain.test(np.asarray(given), {})[0]:
            raise ValueError(f"{fun_name}: `{name}` must be {domain.meaning}, got {given!r}.")
        if are_on():
            check(fun_name, name, domain, array, {})
    return array


def check_count(fun_name: str, name: str, given: object, least: int = 1) -> int:
    """A Python integer of at least `least`, since it determines the shape of the program."""
    if isinstance(given, Tracer):
        message = (
            f"{fun_name}: `{name}` is traced, expected a Python integer: name the argument of your "
            f"function in `static_argnames` of `jax.jit`, or close over it."
        )
        raise TypeError(message)
    if not isinstance(given, int | np.integer) or given < least:
        message = f"{fun_name}: `{name}` is {given!r}, expected an integer of at least {least}."
        raise ValueError(message)
    return int(given)
