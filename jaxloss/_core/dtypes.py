"""The dtype in which numbers are added up."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike


def accumulator_dtype(*dtypes: DTypeLike) -> np.dtype:
    """The widest of the dtypes, and at least float32: that of integers, booleans, narrow floats.

    `jnp.promote_types(dtype, jnp.float32)` raises for float8, and for any other dtype under strict
    dtype promotion.
    """
    wide = [d if _is_wide(d) else jnp.dtype(jnp.float32) for d in (jnp.dtype(d) for d in dtypes)]
    return functools.reduce(np.promote_types, wide)


def _is_wide(dtype: np.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4


def to_accumulator(x: Any) -> Array:
    """An array in its accumulator dtype."""
    x = jnp.asarray(x)
    return x.astype(accumulator_dtype(x.dtype))


def add_in_dtype(x: Any, y: Any) -> Array:
    """`x + y`, added in their accumulator dtype and rounded to the dtype of `x`."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    wide = accumulator_dtype(x.dtype, y.dtype)
    return (x.astype(wide) + y.astype(wide)).astype(x.dtype)
