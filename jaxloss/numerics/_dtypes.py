"""The dtype in which a function computes: never less than float32."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

P = ParamSpec("P")
R = TypeVar("R")


def accumulator_dtype(x: Any) -> Any:
    """The dtype in which an array (or numbers of a dtype) is summed: at least float32."""
    dtype = jnp.result_type(x)
    # Not by promotion, which `jax_numpy_dtype_promotion` may forbid.
    is_wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return dtype if is_wide else jnp.dtype(jnp.float32)


def _is_half(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def half_in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Computes half-precision arguments in float32 and rounds the results once, to their dtype.

    A sum of 70,000 ones is inf in float16 and 256 in bfloat16. Arguments of other dtypes are passed
    on unchanged.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if not any(map(_is_half, args)):
            return function(*args, **kwargs)
        floating = [x for x in args if jnp.issubdtype(getattr(x, "dtype", bool), jnp.floating)]
        dtype = jnp.result_type(*floating)
        wide = [x.astype(jnp.float32) if _is_half(x) else x for x in args]  # type: ignore[attr-defined]
        return jax.tree.map(lambda out: out.astype(dtype), function(*wide, **kwargs))  # type: ignore[arg-type]

    return wrapper
