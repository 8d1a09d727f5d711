"""The call of a body: in a shape that the compiler vectorizes, with a result of known shape."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxloss._core.mismatch import shape_text
from jaxloss._core.spec import LossSpec
from jaxloss._core.typing import Shape, Size
from jaxloss._memory.deferred import DeferredRows
from jaxloss._xla import fits_in_cache, fits_in_gpu_cache, in_one_loop, with_vectorizable_shape
from jaxloss.numerics._derivatives import separate_derivative

__all__ = ["evaluate_body"]


def evaluate_body(
    spec: LossSpec,
    inputs: dict[str, Any],
    batch: Shape,
    sizes: Mapping[str, Size],
    dtype: DTypeLike,
) -> Array | DeferredRows:
    """The values of a loss: one an example, in the dtype of the loss."""
    values, shape = _values(spec, inputs, batch), spec.result.shape(batch, sizes)
    if not isinstance(values, DeferredRows):
        values = _as_array(spec.name, values, shape)
    if values.shape != shape:
        fewer = len(values.shape) < len(shape)
        hint = " Return one value an example; `reduction` takes the mean." if fewer else ""
        raise ValueError(
            f"{spec.name}: its result has shape {values.shape}, expected {shape_text(shape)}.{hint}"
        )
    if isinstance(values, DeferredRows) or (values.dtype == dtype and not values.weak_type):
        return values
    return values.astype(dtype)


def _as_array(fun_name: str, values: Any, shape: Shape) -> Array:
    """The result as an array of real numbers; booleans and integers are real numbers."""
    if isinstance(values, jax.Array):
        array = values
    else:
        try:
            array = jnp.asarray(values) if not isinstance(values, tuple | list | dict) else None
        except (TypeError, ValueError):
            array = None
    if array is None:
        came = "None" if values is None else f"a {type(values).__name__}"
        hint = "Does it end without `return`?" if values is None else "Return one value an example."
        expected = f"an array of shape {shape_text(shape)}"
        raise TypeError(f"{fun_name}: its result is {came}, expected {expected}. {hint}")
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        raise TypeError(
            f"{fun_name}: its result is {array.dtype}, expected real numbers. If it is complex, "
            f"return `jnp.abs` or `jnp.real` of it."
        )
    return array


def _values(spec: LossSpec, inputs: dict[str, Any], batch: Shape) -> Any:
    """What the body returns."""
    if not spec.elementwise or not batch:
        return spec.body(**inputs)
    arrays = {name: x for name, x in inputs.items() if isinstance(x, jax.Array)}
    if any(x.ndim and x.shape != batch for x in arrays.values()):
        return spec.body(**inputs)
    static = tuple((name, type(x), x) for name, x in inputs.items() if name not in arrays)
    try:
        function = _function_of_arrays(spec, tuple(arrays), static)
    except TypeError:  # an option that is not hashable
        return spec.body(**inputs)
    values = _vectorized(function)
    small = fits_in_gpu_cache(arrays)
    return (values if small else separate_derivative(values))(*arrays.values())


@functools.lru_cache(maxsize=4096)
def _vectorized(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, in loops that XLA on CPU vectorizes also if its result is summed."""

    def whole(*arrays: Array) -> Array:
        values = function(*arrays)
        if not isinstance(values, Array) or fits_in_cache(values):
            return values  # what is not an array is an error, which `evaluate_body` explains
        types = tuple((x.shape, x.dtype) for x in arrays)
        return values if _is_arithmetic(function, types) else in_one_loop(values)

    return functools.partial(with_vectorizable_shape, whole)


# What XLA on CPU computes in the loop of a sum, if the sum is of nothing else.
_PLAIN = {"abs", "add", "convert_element_type", "div", "integer_pow", "mul", "neg", "square", "sub"}


@functools.lru_cache(maxsize=4096)
def _is_arithmetic(function: Callable[..., Any], types: tuple[tuple[Shape, Any], ...]) -> bool:
    """Whether a body is made of these alone, for arrays of these shapes and dtypes."""
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
    try:
        return _holds_arithmetic(jax.make_jaxpr(function)(*arrays).jaxpr)
    except Exception:  # noqa: BLE001  # of any kind: a body may depend on where it is traced
        return False


def _holds_arithmetic(jaxpr: Any) -> bool:
    def holds(step: Any) -> bool:
        inner = step.params.get("call_jaxpr", step.params.get("jaxpr"))
        return _holds_arithmetic(inner) if inner else step.primitive.name in _PLAIN

    return all(map(holds, jaxpr.eqns))


@functools.lru_cache(maxsize=4096)
def _function_of_arrays(
    spec: LossSpec, names: tuple[str, ...], static: tuple[tuple[str, type, Any], ...]
) -> Callable[..., Any]:
    """The body as a function of its arrays: the same object for the same options.

    A function made anew in each call could be traced and compiled anew in each eager call.
    """
    options = {name: x for name, _, x in static}
    return lambda *arrays: spec.body(**options, **dict(zip(names, arrays, strict=True)))
