"""The dtype in which numbers are added up, and that in which they came."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
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


# The arguments of the loss whose body is being traced that came in half precision: their dtypes.
_in_half: ContextVar[Mapping[str, np.dtype]] = ContextVar("_in_half", default=MappingProxyType({}))
# Whether all of its arrays came in bfloat16.
_all_in_bfloat16: ContextVar[bool] = ContextVar("_all_in_bfloat16", default=False)


@contextlib.contextmanager
def body_of(came: Mapping[str, Any]) -> Iterator[None]:
    """While the body of a loss is traced: what these functions tell of its real arguments."""
    arrays = [x.dtype == jnp.bfloat16 for x in came.values() if x.ndim]
    floats = {n: x.dtype for n, x in came.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    halves = {n: dtype for n, dtype in floats.items() if dtype.itemsize < 4}
    tokens = _in_half.set(halves), _all_in_bfloat16.set(bool(arrays) and all(arrays))
    try:
        yield
    finally:
        _in_half.reset(tokens[0])
        _all_in_bfloat16.reset(tokens[1])


def came_in_half(name: str) -> bool:
    """Whether an argument, which a body sees in float32, was given in half precision.

    Its gradient is then rounded to that. Called by the body itself.
    """
    return name in _in_half.get()


def all_in_bfloat16() -> bool:
    """Whether all arrays of floats were given in bfloat16, scalars aside. As `came_in_half`."""
    return _all_in_bfloat16.get()


def half_dtype(name: str) -> np.dtype | None:
    """The dtype of 16 bits in which an argument was given, to which its gradient is rounded.

    None of any other argument, one of 8 bits included.
    """
    dtype = _in_half.get().get(name)
    return dtype if dtype is not None and dtype.itemsize == 2 else None
