"""From what a caller gives to named arrays and options, with errors that name what to write.

Whatever NumPy understands is accepted: lists, numbers, booleans, arrays in the byte order of
another machine. Numbers that are given for an option stay numbers.
"""

import difflib
import functools
import reprlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import DTypeLike

from jaxloss._core.checks import sizes_of
from jaxloss._core.labels import to_index
from jaxloss._core.peer_names import keyword_advice, reduction_advice
from jaxloss._core.spec import ArraySpec, LossSpec
from jaxloss._core.typing import Shape, Size
from jaxloss.domains import Domain

__all__ = [
    "ARRAYS",
    "as_array",
    "bind",
    "check_choice",
    "check_options",
    "convert",
    "option",
    "to_arrays",
]

ARRAYS = (jax.Array, np.ndarray)


def bind(spec: LossSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name."""
    given = spec.defaults | dict(zip(spec.data, args, strict=False)) | kwargs
    twice = any(name in kwargs for name in spec.data[: len(args)])
    if len(args) > len(spec.data) or given.keys() != spec.signature.parameters.keys() or twice:
        raise TypeError(_misuse(spec, args, kwargs))
    return given


def _misuse(spec: LossSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The error of a call that does not fit the signature; an unknown name comes first."""
    names = list(spec.signature.parameters)
    takes = f"It takes ({', '.join([*spec.data, '*', *names[len(spec.data) :]])})."
    unknown = [name for name in kwargs if name not in names]
    if unknown:
        word = unknown[0]
        advice = keyword_advice(spec, word, kwargs[word])
        if not advice and (near := difflib.get_close_matches(word, names, n=1)):
            advice = f"Did you mean `{near[0]}`?"
        return f"{spec.name}: it has no argument `{word}`. {advice}{' ' * bool(advice)}{takes}"
    count = len(spec.data)
    if len(args) > count:
        option, value = names[count], args[count]
        written = repr(value) if isinstance(value, bool | int | float | str) else "..."
        return (
            f"{spec.name}: {len(args)} positional arguments were given, but it takes {count}. "
            f"Options are given by name: write `{option}={written}`. {takes}"
        )
    twice = [name for name in spec.data[: len(args)] if name in kwargs]
    if twice:
        return f"{spec.name}: `{twice[0]}` is given by position and by name. {takes}"
    missing = [n for n in names[len(args) :] if n not in spec.defaults and n not in kwargs]
    return f"{spec.name}: missing {' and '.join(f'`{name}`' for name in missing)}. {takes}"


def to_arrays(spec: LossSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are arrays, as arrays; a number for an option that may be one is not."""
    arrays = {}
    for name in spec.array_specs:
        value = given[name]
        if isinstance(value, jax.Array):
            arrays[name] = value
        elif value is None and name in spec.defaults and spec.defaults[name] is None:
            continue
        elif name not in spec.scalar_options or not isinstance(value, bool | int | float):
            if value is None and name in spec.defaults:
                default = repr(spec.defaults[name])
                message = f"`{name}` is None, expected numbers: leave it out for its default"
                raise TypeError(f"{spec.name}: {message}, {default}.")
            arrays[name] = as_array(spec.name, name, value)
    for name in spec.static_options:
        if isinstance(given[name], Tracer):
            raise TypeError(
                f"{spec.name}: `{name}` is traced, but it changes the program, so that its value "
                f"must be known. Under `jax.jit` write `static_argnames={name!r}`."
            )
        if name in spec.static_types:
            _check_type(spec.name, name, given[name], spec.static_types[name])
    for name, choices in spec.choices.items():
        check_choice(spec.name, name, given[name], choices)
    return arrays


_EXPECTED = {bool: "True or False", int: "an integer", str: "a string", type(None): "None"}


def _check_type(fun_name: str, name: str, given: object, types: tuple[type, ...]) -> None:
    """Raises if a flag is not a boolean, or an integer is none: "no" and 0.5 would count as True.

    Arrays of NumPy and JAX that hold one value count as it does.
    """
    is_array = isinstance(given, (*ARRAYS, np.generic))
    value = given.item() if is_array and not given.shape else given
    # A boolean is an integer of Python.
    kinds = [kind for kind in types if kind is not int or not isinstance(value, bool)]
    if isinstance(value, tuple(kinds)):
        return
    expected = " or ".join(_EXPECTED[each] for each in types)
    remedy = ""
    if bool in types and isinstance(value, int) and value in (0, 1):
        remedy = f" Write `{name}={bool(value)}`."
    elif int in types and isinstance(value, float) and value.is_integer():
        remedy = f" Write `{name}={int(value)}`."
    raise TypeError(f"{fun_name}: `{name}` is {_shown(given)}, expected {expected}.{remedy}")


def _shown(given: object) -> str:
    """What was given, in a few words."""
    shape = getattr(given, "shape", ())
    return f"an array of shape {shape}" if shape else reprlib.repr(given)


def check_choice(fun_name: str, name: str, given: object, choices: tuple[Any, ...]) -> None:
    """Raises if a string is not one of its choices."""
    if not isinstance(given, ARRAYS) and given in choices:
        return
    meant = reduction_advice(given) if name == "reduction" else None
    near = difflib.get_close_matches(str(given), [str(c) for c in choices], n=1)
    if meant in choices:
        near = [str(meant)]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    expected = ", ".join(map(repr, choices))
    came = repr(given) if isinstance(given, str) else _shown(given)
    raise ValueError(f"{fun_name}: `{name}` is {came}, expected one of {expected}.{hint}")


def as_array(fun_name: str, name: str, value: object) -> Any:
    """A NumPy or JAX array of numbers that JAX can hold."""
    try:
        array = _array_of(value)
    except (TypeError, ValueError, OverflowError) as error:
        came = "None" if value is None else f"a {type(value).__name__}"
        reason = f" ({str(error).rstrip('.')})" if isinstance(value, list | tuple | int) else ""
        raise TypeError(
            f"{fun_name}: `{name}` is {came}, of which no array can be made{reason}. "
            f"Give an array, a number, or a list of numbers."
        ) from None
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(
            f"{fun_name}: `{name}` is a masked array, whose mask would be lost. Write "
            f"`{name}.filled(0)`, and `where=~numpy.ma.getmaskarray({name})`."
        )
    if isinstance(array, jax.Array):
        return array
    held = _dtype_that_jax_holds(array.dtype)
    if held is None:
        message = f"{fun_name}: `{name}` holds text or dates ({array.dtype}), expected numbers."
        raise TypeError(message + (f" Write `{name}={value}`." if _reads_as_number(value) else ""))
    return array if array.dtype == held and array.dtype.isnative else array.astype(held)


def _reads_as_number(value: object) -> bool:
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _array_of(value: object) -> Any:
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # of a list that holds traced numbers
        return jnp.asarray(value)
    # A list that holds traced arrays is an object to NumPy, and an array to JAX.
    return jnp.asarray(value) if array.dtype == object else array


@functools.lru_cache(maxsize=256)
def _dtype_that_jax_holds(dtype: np.dtype) -> np.dtype | None:
    """In the byte order of this machine, at most double; None for what is not a number."""
    if dtype.kind in "USMm" or dtype.names is not None:
        return None
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):  # longdouble
        return np.dtype(np.float64 if dtype.kind == "f" else np.complex128)
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def convert(
    spec: LossSpec, name: str, x: Any, form: ArraySpec, shape: Shape, dtype: DTypeLike
) -> Array:
    """The array that the body sees: in its dtype; a scalar for all examples has their shape."""
    if form.kind == "Int":
        x = to_index(spec.name, name, x, bounded=form.domain.guard)
        dtype = x.dtype
    elif form.kind == "Bool":
        dtype = x.dtype
    # Weakly typed arrays are cast: derivative rules treat them as Python scalars.
    if not isinstance(x, jax.Array) or x.dtype != dtype or x.weak_type:
        x = jnp.asarray(x).astype(dtype)
    return jnp.broadcast_to(x, shape) if x.ndim == 0 and form.batched and shape else x


def option(spec: LossSpec, name: str, value: Any) -> Any:
    """The option that the body sees: a number is a float, as JVP rules need a tangent of it."""
    if name in spec.static_types and hasattr(value, "item"):
        return value.item()  # a flag or an integer of NumPy or JAX
    return float(value) if name in spec.numeric_options and type(value) is int else value


def check_options(
    spec: LossSpec,
    given: Mapping[str, Any],
    arrays: Mapping[str, Any],
    sizes: Mapping[str, Size],
    forms: Mapping[str, ArraySpec],
) -> None:
    """Compares the options whose values are known when the program is traced with their domains.

    These are numbers, lists, and arrays that are not traced. Options with one entry an example
    are data: `where` may leave out what is outside; and so may `mask`, if it has their axes.
    """
    masked = {*forms["mask"].event} if "mask" in arrays else set()
    for name in spec.numeric_options:
        value = given[name]
        if value is None or isinstance(value, Tracer):
            continue
        if name not in arrays:
            domain = spec.array_specs[name][0].domain
            if not domain.test(value, {**given, **sizes})[0]:
                raise _out_of_range(spec.name, name, domain, str(value), {**given, **sizes})
        elif _is_option(forms[name], masked) and _is_known(arrays[name]):
            _check_values(spec.name, name, forms[name].domain, arrays[name], {**given, **sizes})


def _is_option(form: ArraySpec, masked: set[str]) -> bool:
    """Whether an array holds numbers that are the same for all examples, and that all count."""
    return not (form.batched or form.kind == "Bool" or masked & {*form.event})


def _is_known(array: Any) -> bool:
    if isinstance(array, Tracer):
        return False
    return not isinstance(array, jax.Array) or array.is_fully_addressable


def _check_values(
    fun_name: str, name: str, domain: Domain, array: Any, context: Mapping[str, Size]
) -> None:
    holds, shown = map(np.asarray, domain.test(np.asarray(array), context))
    if not holds.all():
        place = int(np.argmin(holds))
        got = str(np.ravel(shown)[place])
        where = f" at flat index {place} of shape {shown.shape}" if shown.ndim else ""
        raise _out_of_range(fun_name, name, domain, got + where, context)


def _out_of_range(
    fun_name: str, name: str, domain: Domain, got: str, context: Mapping[str, Size]
) -> ValueError:
    expected = domain.meaning + sizes_of(domain, context)
    return ValueError(f"{fun_name}: `{name}` must be {expected}, got {got}.")
