"""Labels that are not valid: NaN in value and gradient, never another class.

Ids are compared before they are narrowed: 2**32 + 1 is not class 1. Under `jit` a value cannot
raise, so an example with an invalid label gets NaN; its label is replaced by a valid one, so that
the body is computed for the others as ever.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxloss._core.spec import ArraySpec, LossSpec
from jaxloss._core.typing import Arrays, Size

__all__ = ["guard", "index_dtype", "nan_unless", "to_index"]


def index_dtype(dtype: DTypeLike) -> Any:
    """The dtype in which ids are compared: int32, or int64 where JAX has it and they need it."""
    is_wide = jnp.iinfo(dtype).max > jnp.iinfo(jnp.int32).max
    return jax.dtypes.canonicalize_dtype(jnp.int64) if is_wide else np.dtype(np.int32)


def to_index(fun_name: str, name: str, x: Any, *, bounded: bool) -> Array:
    """Integers in the dtype in which they are compared.

    Values that this dtype cannot hold become its largest or smallest value if they are `bounded`
    by the domain of the argument, and so remain invalid. Where ids are only compared with each
    other, as labels of a set are, they are refused.
    """
    dtype = index_dtype(x.dtype)
    held, given = jnp.iinfo(dtype), jnp.iinfo(x.dtype)
    if given.max <= held.max and given.min >= held.min:
        return jnp.asarray(x).astype(dtype)
    if not bounded and x.dtype.itemsize == np.dtype(dtype).itemsize:
        return jnp.asarray(x.astype(dtype))  # unsigned integers that differ still differ
    if isinstance(x, jax.Array):
        return jnp.minimum(x, held.max).astype(dtype)
    if not bounded and x.size and (x.max() > held.max or x.min() < held.min):
        raise ValueError(
            f"{fun_name}: `{name}` holds ids that {dtype} cannot hold (up to {x.max()}). Number "
            f"them from 0: `numpy.unique({name}, return_inverse=True)[1]`."
        )
    return jnp.asarray(np.clip(x, max(held.min, given.min), held.max).astype(dtype))


def guard(
    spec: LossSpec,
    arrays: dict[str, Array],
    forms: Mapping[str, ArraySpec],
    context: Mapping[str, Size],
) -> tuple[dict[str, Array], Array | None]:
    """Replaces invalid labels by valid ones, and tells which examples had none."""
    valid, axes = None, spec.result.dims
    for name, x in arrays.items():
        form = forms[name]
        if form.domain.guard and not form.domain.handles_invalid:
            holds, _ = form.domain.test(x, context)
            arrays = {**arrays, name: jnp.where(holds, x, jnp.asarray(form.domain.fill, x.dtype))}
            inner = len(form.dims) - len(axes)
            holds = jnp.all(holds, axis=tuple(range(-inner, 0))) if inner > 0 else holds
            valid = holds if valid is None else valid & holds
    for name in spec.data if valid is not None else ():
        x, form = arrays[name], forms[name]
        if form.dims[: len(axes)] == axes and jnp.issubdtype(x.dtype, jnp.inexact):
            arrays = {**arrays, name: _with_gradient_nan_unless(x, valid)}
    return arrays, valid


@jax.custom_jvp
def _with_gradient_nan_unless(x: Array, valid: Array) -> Array:  # noqa: ARG001  # see its rule
    """x itself; its gradient is NaN in examples that are not valid, whatever the body selects."""
    return x


@jax.custom_jvp
def nan_unless(x: Array, valid: Array) -> Array:
    """x where it is valid; elsewhere NaN, in value and gradient."""
    return jnp.where(valid, x, jnp.nan)


def _gradient_nan_unless(function: Any, primals: Arrays, tangents: tuple[Any, ...]) -> Any:
    x, valid = primals  # the tangent of booleans is an array of NumPy
    factor = jnp.where(valid, 1, jnp.nan).astype(x.dtype)
    x_dot = tangents[0] * jnp.expand_dims(factor, range(factor.ndim, x.ndim))
    return function(x, valid), x_dot


_with_gradient_nan_unless.defjvp(functools.partial(_gradient_nan_unless, _with_gradient_nan_unless))
nan_unless.defjvp(functools.partial(_gradient_nan_unless, nan_unless))
