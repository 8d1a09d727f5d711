"""A function of each row, evaluated one chunk of rows at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._memory.layout import Split, accumulator_dtype, from_scan, to_scan


def map_chunks(function: Callable[[Any, Any], Any], how: Split, shared: Any, rows: Any) -> Any:
    """`function(shared, rows)`, one chunk at a time, computed again when it is differentiated.

    For values that are not summed, whose cotangents come later. Gradients of half precision are
    added up in float32.
    """
    dtypes = jax.tree.map(lambda x: x.dtype, shared)
    shared = jax.tree.map(
        lambda x: x.astype(accumulator_dtype(x.dtype)) if is_floating(x) else x, shared
    )

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(shared: Any, rows: Any) -> Any:
        shared = jax.tree.map(lambda x, d: x.astype(d) if is_floating(x) else x, shared, dtypes)
        return function(shared, rows)

    chunks = jax.tree.map(lambda x: to_scan(x, how, "first"), rows)
    _, found = lax.scan(lambda _, rows: (None, of_chunk(shared, rows)), None, chunks)
    return jax.tree.map(lambda x: from_scan(x, how), found)


def is_floating(x: Any) -> bool:
    """Whether an array, or its type, holds floating-point numbers."""
    return jnp.issubdtype(x.dtype, jnp.floating)
