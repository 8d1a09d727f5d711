"""A function of each row, evaluated one chunk of rows at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._memory.layout import Split, accumulator_dtype, from_scan, to_scan


def map_chunks(
    function: Callable[[Any, Any], Any], how: Split, shared: list[Any], rows: list[Any]
) -> Any:
    """What a function gives a row, a chunk at a time, computed anew when it is differentiated.

    For values that are not summed, whose cotangents come later. Gradients of half precision are
    added up in float32.
    """
    narrow = [x.dtype for x in shared]
    shared = [
        x.astype(accumulator_dtype(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x
        for x in shared
    ]
    chunks = [to_scan(x, how) for x in rows]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(shared: Any, rows: Any) -> Any:
        return function([x.astype(d) for x, d in zip(shared, narrow, strict=True)], rows)

    _, found = lax.scan(lambda _, rows: (None, of_chunk(shared, rows)), None, chunks)
    return jax.tree.map(lambda x: from_scan(x, how), found)
