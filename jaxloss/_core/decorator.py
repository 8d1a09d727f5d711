"""The contract: `@loss` turns three lines of mathematics into a loss that keeps every promise.

A loss is written for clean arrays: floating, of one dtype, of shapes that fit. `@loss` reads the
annotations of the function and does the rest, once, for all losses:

- **shapes** must agree, only a scalar stretches; chex asserts it on static shapes, so compiled
  code holds none of it, and an error says which argument, what came, and what to write;
- **conversion**: whatever NumPy understands comes in; half precision is computed in float32;
- **where** is applied to the inputs, so that nothing hidden behind a False, NaN included, reaches
  value or gradient; **weights** and **reduction** are applied to the result;
- **domains**: `@loss(labels=class_ids("classes"))` says what values an argument may hold. A class
  id outside gives NaN, never another class; inside `jaxloss.checks()` all domains are checked.
  What an option `mask` leaves out is not asked;
- **the catalogue** files traits, formula and signature as data.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss._core.checks import are_on, check, sizes_of
from jaxloss._core.reduction import TypeOfReduction, reduce
from jaxloss._core.registry import register
from jaxloss._core.spec import ArraySpec, LossSpec
from jaxloss._core.typing import ArrayLike
from jaxloss._memory.deferred import DeferredRows, materialize
from jaxloss._xla import fits_in_cache, with_vectorizable_shape
from jaxloss.domains import Domain, finite
from jaxloss.traits import Trait

__all__ = ["ArrayLike", "loss"]

P = ParamSpec("P")

_ARRAYS = (jax.Array, np.ndarray)
_NEVER_EMPTY = ("classes", "components", "levels")  # an empty list of items is a list
_NUMBERS = {"Int": "integers", "Bool": "booleans", "Float": "floats", "Real": "real numbers"}


@overload
def loss(body: Callable[P, object], /) -> Callable[P, Any]: ...
@overload
def loss(
    *traits: Trait, reduction: TypeOfReduction = "none", **domains: Domain | list[Domain]
) -> Callable[[Callable[P, object]], Callable[P, Any]]: ...
def loss(*traits: Any, reduction: TypeOfReduction = "none", **domains: Any) -> Any:
    """Makes a function of predictions and targets a loss, with the whole contract of jaxloss.

    Args:
        *traits: What is true of the loss for every input, from `jaxloss.traits`.
        reduction: What the loss does when the caller does not say.
        **domains: For an argument, the values it may hold, from `jaxloss.domains`; a list where
            the annotation has alternatives, in its order.

    Returns:
        A decorator; or, as plain `@loss`, the decorated function.

    Raises:
        TypeError: If the annotations cannot be read as a loss.

    Example:
        >>> @loss
        ... def cubic(prediction, target, *, scale=1.0):
        ...     return jnp.abs((prediction - target) / scale) ** 3
        >>> cubic([1.0, 5.0], [3.0, jnp.nan], where=[True, False], reduction="mean")
        Array(8., dtype=float32)
    """
    if len(traits) == 1 and callable(traits[0]):
        return loss()(traits[0])

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        spec = LossSpec(body, domains, reduction)

        @functools.wraps(body)
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            return _evaluate(spec, spec.bind(args, kwargs))

        evaluate.__signature__ = spec.signature  # type: ignore[attr-defined]  # for help()
        evaluate.__doc__ = spec.documentation()
        register(evaluate, spec, traits)
        return evaluate

    return decorate


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What is known of an array before its values."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    votes: bool

    @property
    def ndim(self) -> int:
        return len(self.shape)


class _Plan(NamedTuple):
    """How the arguments of a call fit its loss."""

    batch: tuple[int, ...]
    sizes: dict[str, int]
    forms: dict[str, ArraySpec]
    dtype: Any


def _evaluate(spec: LossSpec, given: dict[str, Any]) -> Any:
    """One call, from what the user gave to what the user gets."""
    arrays = _arrays(spec, given)
    if given.get("axis", -1) != -1:
        arrays = _move_axis(spec, arrays, given["axis"])
    batch, sizes, forms, dtype = _plan(
        spec,
        # Numbers and lists have no precision of their own: they do not vote on it.
        tuple((n, x.shape, x.dtype, isinstance(given[n], _ARRAYS)) for n, x in arrays.items()),
        jnp.result_type(float),
    )
    arrays = {name: _convert(x, forms[name], batch, dtype) for name, x in arrays.items()}
    where, weights = arrays.get("where"), arrays.get("weights")
    if where is not None:
        arrays = {n: _fill(x, forms[n], spec.result, where) for n, x in arrays.items()}
    context, sane, sound = given | sizes, True, None
    _check_numbers(spec, given, arrays, context)
    if are_on() or spec.guarded:
        seen = _without_masked(arrays, forms)
        for name, x in seen.items() if are_on() else ():
            sane &= check(spec.name, name, forms[name].domain, x, context)
        if spec.guarded:
            arrays, sound = _guard(arrays, seen, forms, spec, context)

    inputs = {name: arrays.get(name, given[name]) for name in spec.arguments}
    values = _values(spec, inputs, batch)
    shape = spec.result.shape(batch, sizes)
    if values.shape != shape:
        raise _misshapen(f"{spec.name}: its result", "", values.shape, shape, "")
    if isinstance(values, DeferredRows):
        if given["reduction"] != "none" and sound is None and not are_on():
            return values.reduced(where, weights, given["reduction"])
        values = materialize(values)  # which the checks look at
    if sound is not None:
        values = _nan_unless(values, sound)
    if are_on():
        counted = values if where is None else jnp.where(where, values, 0)
        check(spec.name, "result", finite, counted, context, unless=~jnp.asarray(sane))
    cached = fits_in_cache(arrays)
    return reduce(values, where, weights, given["reduction"], cached=cached)


def _values(spec: LossSpec, inputs: dict[str, Any], batch: tuple[int, ...]) -> Any:
    """What the body makes of its arguments."""
    names = [name for name, x in inputs.items() if isinstance(x, _ARRAYS) and x.ndim]
    # An own loss of a user is let alone: it may hold an array that fits the last axis.
    if not spec.is_builtin or not names or any(inputs[name].shape != batch for name in names):
        return spec.body(**inputs)
    arrays = [inputs[name] for name in names]
    return with_vectorizable_shape(
        lambda *xs: spec.body(**inputs | dict(zip(names, xs, strict=True))), *arrays
    )


def _arrays(spec: LossSpec, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are arrays; numbers given for an option stay numbers."""
    arrays = {}
    for name in spec.array_specs:
        value = given[name]
        if isinstance(value, _ARRAYS):
            arrays[name] = value
        elif value is None and name in spec.defaults and spec.defaults[name] is None:
            continue
        elif name in spec.data or not isinstance(value, bool | int | float):
            arrays[name] = _as_array(spec.name, name, value)
    for name, choices in spec.choices.items():
        if given[name] not in choices:
            near = difflib.get_close_matches(str(given[name]), [str(c) for c in choices], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            expected = ", ".join(map(repr, choices))
            message = f"{spec.name}: `{name}` is {given[name]!r}, expected one of {expected}."
            raise ValueError(message + hint)
    return arrays


def _check_numbers(
    spec: LossSpec,
    given: Mapping[str, Any],
    arrays: Mapping[str, Any],
    context: Mapping[str, Any],
) -> None:
    """A number written in the program is seen when it is traced, checks or not."""
    for name, forms in spec.array_specs.items():
        value, domain = given[name], forms[0].domain
        if name not in arrays and value is not None and not domain.test(value, context)[0]:
            expected = domain.meaning + sizes_of(domain, context)
            raise ValueError(f"{spec.name}: `{name}` must be {expected}, got {value!r}.")


def _as_array(fun_name: str, name: str, value: Any) -> Any:
    try:
        array = np.asarray(value)
        # A list that holds traced arrays is an object to NumPy, and an array to JAX.
        array = jnp.asarray(value) if array.dtype == object else array
    except (TypeError, ValueError) as error:
        message = (
            f"{fun_name}: `{name}` is a {type(value).__name__} of which no array can be made ({error})."
            f" Give an array, a number, or a list of numbers."
        )
        raise TypeError(message) from None
    if array.dtype.kind in "USMm":
        message = f"{fun_name}: `{name}` holds text or dates ({array.dtype}), expected numbers."
        raise TypeError(message)
    return array


def _move_axis(spec: LossSpec, arrays: dict[str, Any], axis: Any) -> dict[str, Any]:
    """Brings the event axis to the end of every argument that has it."""
    name = spec.data[0]
    rank = arrays[name].ndim
    if not isinstance(axis, int) or not -rank <= axis < rank:
        message = (
            f"{spec.name}: `axis` is {axis!r}, but `{name}` has shape {arrays[name].shape}: "
            f"give an integer from {-rank} to {rank - 1}."
        )
        raise ValueError(message)
    has_axis = {
        n for n, forms in spec.array_specs.items() if any(f.batched and f.event for f in forms)
    }
    return {
        n: jnp.moveaxis(x, axis, -1) if n in has_axis and x.ndim == rank else x
        for n, x in arrays.items()
    }


@functools.lru_cache(maxsize=4096)
def _plan(spec: LossSpec, key: tuple[Any, ...], default: Any) -> _Plan:
    """Finds the batch, the sizes of the named axes, the form of each array, and the dtype.

    It depends on shapes and dtypes alone, so an eager loop pays for it once.
    """
    import chex  # at the first call: it takes longer to import than all of jaxloss

    arrays = [_Kind(*kind) for kind in key]
    batch: tuple[int, ...] = ()
    leader = ""
    for x in arrays:
        form, *others = spec.array_specs[x.name]
        if not others and form.batched and x.ndim > len(form.event):
            batch, leader = x.shape[: x.ndim - len(form.event)], x.name
            break
    sizes: dict[str, int] = {}
    chosen: dict[str, ArraySpec] = {}
    for x in arrays:
        forms = spec.array_specs[x.name]
        origin = f" to fit `{leader}`" if leader not in ("", x.name) else ""
        found = [f for f in forms if f.admits(x.dtype) and _rank_fits(f, x.ndim, len(batch))]
        if not found:
            raise _misfit(spec.name, x, [f.shape(batch, sizes) for f in forms], forms, origin)
        form = chosen[x.name] = found[0]
        if x.ndim or not form.batched or form.event:
            shape = form.shape(batch, sizes)
            try:
                chex.assert_shape(x, tuple(n if isinstance(n, int) else None for n in shape))
            except AssertionError as error:
                what = f"{spec.name}: `{x.name}`"
                hint = _axis_hint(spec, arrays[0], form, x)
                raise _misshapen(what, x.name, x.shape, shape, origin, hint) from error
            sizes.update(zip(reversed(form.event), reversed(x.shape), strict=False))
            if empty := [n for n in form.event if n in _NEVER_EMPTY and sizes[n] == 0]:
                message = f"{spec.name}: `{x.name}` has shape {x.shape}, of no {empty[0]} at all."
                raise ValueError(message)
    voters = [
        jax.dtypes.canonicalize_dtype(x.dtype)
        for x in arrays
        if x.votes and x.name in spec.data and jnp.issubdtype(x.dtype, jnp.floating)
    ]
    narrowest = jnp.dtype(jnp.float32) if voters else default
    dtype = max([narrowest, *voters], key=lambda dtype: jnp.finfo(dtype).bits)
    return _Plan(batch, sizes, chosen, dtype)


def _rank_fits(form: ArraySpec, rank: int, batch_rank: int) -> bool:
    if not form.batched:
        return rank == len(form.event)
    return rank == batch_rank + len(form.event) or (rank == 0 and not form.event)


def _axis_hint(spec: LossSpec, first: _Kind, form: ArraySpec, x: _Kind) -> str:
    """What to write if the shapes fit as soon as the classes lie along another axis."""
    if "axis" not in spec.common_kwargs or form.event:
        return ""
    rest = [first.shape[:axis] + first.shape[axis + 1 :] for axis in range(first.ndim)]
    if x.shape not in rest:
        return ""
    (event,) = spec.array_specs[first.name][0].event
    axis = rest.index(x.shape)
    return f" If the {event} of `{first.name}` lie along axis {axis}, write `axis={axis}`."


def _misshapen(
    what: str,
    name: str,
    got: tuple[int, ...],
    expected: tuple[Any, ...],
    origin: str,
    hint: str = "",
) -> ValueError:
    message = f"{what} has shape {got}, expected {_shape(expected)}{origin}."
    return ValueError(message + (hint or _remedy(name, got, expected)))


def _shape(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _remedy(name: str, got: tuple[int, ...], expected: tuple[Any, ...]) -> str:
    if not name:
        return ""
    if got == (*expected, 1):
        return f" Nothing is broadcast here: write `jnp.squeeze({name}, -1)`."
    if (*got, 1) == expected:
        return f" Nothing is broadcast here: write `{name}[..., None]`, or squeeze the other."
    if len(got) > 1 and got == expected[::-1]:
        return f" Write `{name}.T`."
    return " Nothing is broadcast here: only a scalar stretches."


def _misfit(
    fun_name: str,
    x: _Kind,
    shapes: list[tuple[Any, ...]],
    forms: tuple[ArraySpec, ...],
    origin: str,
) -> Exception:
    """The error for an array whose rank and dtype no form admits together."""
    expected = ", or ".join(
        f"{_NUMBERS[form.kind]} of shape {_shape(shape)}"
        for form, shape in zip(forms, shapes, strict=True)
    )
    message = (
        f"{fun_name}: `{x.name}` is {x.dtype} of shape {x.shape}, expected {expected}{origin}."
    )
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return TypeError(f"{message} Take `jnp.abs({x.name})`, or its real and imaginary parts.")
    of_rank = [f for f, shape in zip(forms, shapes, strict=True) if len(shape) == x.ndim]
    if of_rank or not any(form.admits(x.dtype) for form in forms):
        remedy = {"Int": "astype(int)", "Bool": "astype(bool)"}
        write = remedy.get((of_rank or forms)[0].kind, "astype(jnp.float32)")
        return TypeError(f"{message} Write `{x.name}.{write}` if that is what its numbers mean.")
    return ValueError(message + _remedy(x.name, x.shape, shapes[0]))


def _convert(x: Any, form: ArraySpec, batch: tuple[int, ...], dtype: Any) -> Array:
    if form.kind == "Int":
        small = jnp.iinfo(x.dtype).bits < 32 or jnp.issubdtype(x.dtype, jnp.unsignedinteger)
        dtype = jnp.int32 if small else jax.dtypes.canonicalize_dtype(x.dtype)
    elif form.kind == "Bool":
        dtype = x.dtype
    # A weak type is a Python number in disguise, and reaches rules of derivatives as one.
    if not isinstance(x, jax.Array) or x.dtype != dtype or x.weak_type:
        x = jnp.asarray(x).astype(dtype)
    stretches = x.ndim == 0 and form.batched and not form.event and batch
    return jnp.broadcast_to(x, batch) if stretches else x


def _fill(x: Array, form: ArraySpec, result: ArraySpec, where: Array) -> Array:
    """Puts a harmless value wherever `where` is False, so that nothing there can leak."""
    if form.dims[: len(result.dims)] != result.dims or x.dtype == jnp.bool_:
        return x
    inner = tuple(range(where.ndim, x.ndim))
    return jnp.where(jnp.expand_dims(where, inner), x, jnp.asarray(form.domain.fill, x.dtype))


def _without_masked(arrays: dict[str, Any], forms: Mapping[str, ArraySpec]) -> dict[str, Any]:
    """The arrays with a harmless value wherever `mask` is False: nobody asks what is there."""
    if "mask" not in arrays:
        return arrays
    mask, axes = arrays["mask"], forms["mask"].dims

    def seen(x: Array, form: ArraySpec) -> Array:
        if form.dims[: len(axes)] == axes:
            kept = jnp.expand_dims(mask, tuple(range(mask.ndim, x.ndim)))
        elif form.dims[-len(axes) :] == axes:
            kept = mask
        else:
            return x
        return jnp.where(kept, x, jnp.asarray(form.domain.fill, x.dtype))

    return {n: x if x.dtype == jnp.bool_ else seen(x, forms[n]) for n, x in arrays.items()}


def _guard(
    arrays: dict[str, Any],
    seen: Mapping[str, Any],
    forms: Mapping[str, ArraySpec],
    spec: LossSpec,
    context: Mapping[str, Any],
) -> tuple[dict[str, Any], Array | None]:
    """Takes labels that name no class out of the body's sight, and remembers their rows."""
    sound, axes = None, spec.result.dims
    for name, x in arrays.items():
        form = forms[name]
        if form.domain.guard and not form.domain.handles_invalid:
            holds, _ = form.domain.test(seen[name], context)
            arrays = {**arrays, name: jnp.where(holds, x, jnp.asarray(form.domain.fill, x.dtype))}
            inner = len(form.dims) - len(axes)
            holds = jnp.all(holds, axis=tuple(range(-inner, 0))) if inner > 0 else holds
            sound = holds if sound is None else sound & holds
    for name in spec.data if sound is not None else ():
        x, form = arrays[name], forms[name]
        if form.dims[: len(axes)] == axes and jnp.issubdtype(x.dtype, jnp.inexact):
            arrays = {**arrays, name: _with_slope_of(x, sound)}
    return arrays, sound


@jax.custom_jvp
def _with_slope_of(x: Array, sound: Any) -> Array:
    """x itself, whose slope is NaN in rows that are not sound: no choice in a body removes that."""
    return x


@jax.custom_jvp
def _nan_unless(x: Array, sound: Any) -> Array:
    """x where it is sound; elsewhere NaN, in value and slope."""
    return jnp.where(sound, x, jnp.nan)


def _slope_nan_unless(function: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    x, sound = primals
    slope = jnp.where(sound, 1, jnp.nan).astype(x.dtype)
    return function(x, sound), tangents[0] * jnp.expand_dims(slope, range(slope.ndim, x.ndim))


_with_slope_of.defjvp(functools.partial(_slope_nan_unless, _with_slope_of))
_nan_unless.defjvp(functools.partial(_slope_nan_unless, _nan_unless))
