"""`where` and `mask`: what is left out is replaced before the body sees it.

`where` has an entry for each value of the result; `mask` has one for each class, item, feature or
pixel of an example. A body therefore never meets what a False entry hides, NaN included, and the
gradient with respect to it is exactly 0.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core.spec import ArraySpec, LossSpec
from jaxloss._core.typing import AxisName, Shape

__all__ = ["leave_out"]


def leave_out(
    spec: LossSpec,
    arrays: dict[str, Array],
    forms: Mapping[str, ArraySpec],
    result_shape: Shape,
    axis_name: AxisName | None = None,
) -> tuple[dict[str, Array], Array | None]:
    """Replaces what `mask` and `where` leave out; the `where` that is returned is of both.

    With `axis_name`, inside `shard_map`, an example is the parts of all devices.
    """
    where = arrays.get("where")
    if "mask" in arrays:
        arrays, where = _fill_masked(spec, arrays, forms, where, axis_name)
        where = jnp.broadcast_to(where, result_shape)  # a mask of all examples has one for all
    if where is not None:
        arrays = _fill_where(spec, arrays, forms, where)
        if "where" in spec.arguments:  # a loss over a set, which an example without entries leaves
            arrays["where"] = where
    return arrays, where


def _fill_where(
    spec: LossSpec, arrays: Mapping[str, Array], forms: Mapping[str, ArraySpec], where: Array
) -> dict[str, Array]:
    """Puts a value of its domain into each array wherever `where` is False."""
    dims = spec.result.dims
    return {
        name: _select(where, x, _fill(forms[name], x))
        if forms[name].dims[: len(dims)] == dims
        else x
        for name, x in arrays.items()
    }


def _fill(form: ArraySpec, x: Array) -> float:
    """A value of the domain, whose logarithm is finite in a row that sums to 1."""
    return 1 / x.shape[-1] if form.domain.normalized and form.event else form.domain.fill


def _fill_masked(
    spec: LossSpec,
    arrays: Mapping[str, Array],
    forms: Mapping[str, ArraySpec],
    where: Array | None,
    axis_name: AxisName | None,
) -> tuple[dict[str, Array], Array]:
    """Replaces what `mask` leaves out, wherever the axes of the mask are found in an array.

    The value is one that a body can compute with, and which contributes nothing to most sums: a
    logit of -inf, a probability of 0. An example of which nothing is left is itself left out: the
    `where` that is returned is False for it.
    """
    mask, form = arrays["mask"], forms["mask"]
    axes = form.event
    filled = {}
    for name, x in arrays.items():
        event = forms[name].event
        for start in range(len(event) - len(axes) + 1) if name != "mask" else ():
            if event[start : start + len(axes)] == axes and (
                forms[name].batched or not form.batched
            ):
                before = (x.ndim - len(event) if forms[name].batched else 0) + start
                behind = x.ndim - before - len(axes)
                x = _select(_spread(mask, form, before, behind), x, forms[name].domain.masked_value)
        filled[name] = x
    inside = sum(axis not in spec.result.event for axis in axes)  # a set has one value an example
    has_entries = jnp.any(mask, axis=tuple(range(-inside, 0)))
    if axis_name is not None and inside == len(axes):  # else each device has examples of its own
        has_entries = lax.pmax(has_entries.astype(jnp.int32), axis_name) > 0
    return filled, has_entries if where is None else where & has_entries


def _spread(mask: Array, form: ArraySpec, before: int, behind: int) -> Array:
    """The mask with axes of size 1 where an array has others."""
    batch = mask.ndim - len(form.event)
    ones = (1,) * (before - batch)
    return mask.reshape(*mask.shape[:batch], *ones, *mask.shape[batch:], *(1,) * behind)


def _select(keep: Array, x: Array, fill: float) -> Array:
    """x where it is kept; booleans are let alone."""
    if x.dtype == jnp.bool_:
        return x
    inner = tuple(range(keep.ndim, x.ndim)) if keep.ndim else ()
    return jnp.where(jnp.expand_dims(keep, inner), x, jnp.asarray(fill, x.dtype))
