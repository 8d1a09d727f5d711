"""How the arguments of a call fit its loss: batch, sizes of the named axes, form and dtype.

All of it depends on shapes and dtypes alone, so that compiled code holds none of it, and an eager
loop pays for it once. Sizes may be symbolic dimensions, which are compared for equality only.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import DTypeLike

from jaxloss._core import mismatch
from jaxloss._core.spec import ArraySpec, LossSpec
from jaxloss._core.typing import ArrayType, Layout, Shape, Size

__all__ = ["Plan", "fitting_form", "move_axis", "plan"]

_NEVER_EMPTY = ("classes", "components", "levels")  # an empty list of items is a list


class Plan(NamedTuple):
    """How the arguments of a call fit its loss."""

    batch: Shape
    sizes: dict[str, Size]
    forms: dict[str, ArraySpec]
    dtype: DTypeLike


@functools.lru_cache(maxsize=4096)
def plan(
    spec: LossSpec,
    arguments: tuple[tuple[str, Shape, Any, bool], ...],
    default: Any,
    layout: Layout | None = None,
) -> Plan:
    """Finds the batch, the sizes of the named axes, the form of each array, and the dtype.

    Args:
        spec: The loss.
        arguments: The fields of an `ArrayType` for each array.
        default: The dtype of numbers and lists.
        layout: Where the caller has the event axis, if not last.

    Returns:
        The plan.
    """
    types = tuple(ArrayType(*argument) for argument in arguments)
    batch, leader = _batch(spec, types)
    sizes: dict[str, Size] = {}
    forms: dict[str, ArraySpec] = {}
    for x in types:
        form = fitting_form(spec.array_specs[x.name], x, batch, sizes)
        if form is None:
            swapped = _fit_if_swapped(spec, types, x)
            raise mismatch.error(spec, types, x, batch, sizes, leader, layout, swapped)
        forms[x.name] = form
        sizes.update(zip(reversed(form.event), reversed(x.shape), strict=False))
        if empty := [n for n in form.event if n in _NEVER_EMPTY and sizes[n] == 0]:
            raise ValueError(
                f"{spec.name}: `{x.name}` has shape {x.shape}, but its `{empty[0]}` axis must not "
                f"be empty."
            )
    floating = [
        jax.dtypes.canonicalize_dtype(x.dtype)
        for x in types
        if x.typed and x.name in spec.data and jnp.issubdtype(x.dtype, jnp.floating)
    ]
    narrowest = jnp.dtype(jnp.float32) if floating else default
    dtype = max([narrowest, *floating], key=lambda dtype: jnp.finfo(dtype).bits)
    return Plan(batch, sizes, forms, dtype)


def _batch(spec: LossSpec, types: tuple[ArrayType, ...]) -> tuple[Shape, str]:
    """The batch and the argument that sets it: the first that has one in its only form."""
    for x in types:
        form, *others = spec.array_specs[x.name]
        if not others and form.batched and x.ndim > len(form.event):
            return x.shape[: x.ndim - len(form.event)], x.name
    return (), ""


def fitting_form(
    forms: tuple[ArraySpec, ...], x: ArrayType, batch: Shape, sizes: Mapping[str, Size]
) -> ArraySpec | None:
    """The form of an array, by its rank and dtype; None if its shape or no form fits."""
    for form in forms:
        if form.admits(x.dtype) and (_is_for_all(form, x) or _rank_fits(form, x, len(batch))):
            fits = _is_for_all(form, x) or _agree(x, form.shape(batch, sizes))
            return form if fits else None
    return None


def _is_for_all(form: ArraySpec, x: ArrayType) -> bool:
    """Whether it is a scalar for all examples; those of a set are on an axis of their own."""
    return x.ndim == 0 and form.batched and (not form.event or x.name in ("where", "weights"))


def _rank_fits(form: ArraySpec, x: ArrayType, batch_rank: int) -> bool:
    return x.ndim == len(form.event) + (batch_rank if form.batched else 0)


def _agree(x: ArrayType, expected: Shape) -> bool:
    """Whether sizes are equal where they are known: an axis without a size is still its name."""
    import chex  # noqa: PLC0415  # at the first call: it takes longer to import than jaxloss

    known = tuple(None if isinstance(n, str) else n for n in expected)
    if not all(n is None or isinstance(n, int) for n in (*known, *x.shape)):
        return all(n is None or m == n for m, n in zip(x.shape, known, strict=True))
    try:
        chex.assert_shape(x, known)
    except AssertionError:
        return False
    return True


def _fit_if_swapped(spec: LossSpec, types: tuple[ArrayType, ...], x: ArrayType) -> bool:
    """Whether the arguments would fit with the first two exchanged."""
    if len(spec.data) < 2 or x.name not in spec.data[:2]:
        return False
    first, second = spec.data[:2]
    other = {first: second, second: first}
    swapped = [dataclasses.replace(y, name=other.get(y.name, y.name)) for y in types]
    swapped.sort(key=lambda y: list(spec.array_specs).index(y.name))
    batch, _ = _batch(spec, tuple(swapped))
    sizes: dict[str, Size] = {}
    for y in swapped:
        form = fitting_form(spec.array_specs[y.name], y, batch, sizes)
        if form is None:
            return False
        sizes.update(zip(reversed(form.event), reversed(y.shape), strict=False))
    return True


def move_axis(
    spec: LossSpec, arrays: dict[str, Any], axis: object
) -> tuple[dict[str, Any], Layout | None]:
    """Brings the event axis, or several axes as one, to the end of every argument that has it."""
    name = spec.data[0]
    rank = arrays[name].ndim
    axes = _axes(spec.name, name, arrays[name].shape, axis)
    if axes == (rank - 1,):
        return arrays, None
    layout = Layout(axes, {n: x.shape for n, x in arrays.items()})
    event_shape = tuple(arrays[name].shape[a] for a in axes)
    moved = {}
    for n, x in arrays.items():
        forms = spec.array_specs[n]
        if x.ndim == rank and any(f.batched and f.event for f in forms):
            x = jnp.moveaxis(x, axes, tuple(range(-len(axes), 0)))
            x = x if len(axes) == 1 else x.reshape(*x.shape[: -len(axes)], -1)
        elif len(axes) > 1 and x.shape == event_shape and any(f.event for f in forms):
            x = x.reshape(-1)  # one weight a class, in the shape of the axes
        moved[n] = x
    return moved, layout


def _axes(fun_name: str, name: str, shape: Shape, axis: Any) -> tuple[int, ...]:
    """The axes as numbers from 0."""
    rank = len(shape)
    if isinstance(axis, Tracer):
        raise TypeError(
            f"{fun_name}: `axis` is traced, but it changes the program. Under `jax.jit` write "
            f"`static_argnames='axis'`."
        )
    try:
        axes = tuple(map(operator.index, axis if isinstance(axis, tuple) else (axis,)))
    except TypeError:
        axes = ()
    positive = tuple(a + rank if a < 0 else a for a in axes)
    is_wrong = not axes or isinstance(axis, bool) or len(set(positive)) < len(axes)
    if is_wrong or not all(0 <= a < rank for a in positive):
        raise ValueError(
            f"{fun_name}: `axis` is {axis!r}, but `{name}` has shape {shape}: give an integer from "
            f"{-rank} to {rank - 1}, or a tuple of such integers, each once."
        )
    return positive
