"""Images with any number of spatial axes, for losses whose annotations have "height width".

`spatial_axes=3` makes of a volume an image of (depth * height) x width pixels; the annotations and
the body know images only.
"""

import math
from typing import Any

import jax.numpy as jnp

from jaxloss._core.spec import LossSpec

__all__ = ["merge_spatial_axes"]


def merge_spatial_axes(spec: LossSpec, arrays: dict[str, Any], count: Any) -> dict[str, Any]:
    """The arrays with two spatial axes in place of `count`."""
    if count is None:
        return arrays
    name = spec.data[0]
    shape = arrays[name].shape
    behind = len(spec.array_specs[name][0].event) - 2
    if not isinstance(count, int) or not 1 <= count <= len(shape) - behind:
        raise ValueError(
            f"{spec.name}: `spatial_axes` is {count!r}, but `{name}` has shape {shape}: give an "
            f"integer from 1 to {len(shape) - behind}."
        )
    start = len(shape) - behind - count
    return {n: _merged(spec, n, x, name, shape, start, count) for n, x in arrays.items()}


def _merged(
    spec: LossSpec, name: str, x: Any, first: str, shape: tuple[Any, ...], start: int, count: int
) -> Any:
    """One array, if one of its forms has spatial axes."""
    behind = [
        len(f.event) - 2 for f in spec.array_specs[name] if f.event[:2] == ("height", "width")
    ]
    if not behind:
        return x
    stop = start + count
    if x.ndim - stop not in behind or x.shape[:stop] != shape[:stop]:
        expected = ", or ".join(str((*shape[:stop], *shape[stop:][:n])) for n in behind)
        raise ValueError(
            f"{spec.name}: `{name}` has shape {x.shape}, expected {expected} to fit `{first}` with "
            f"`spatial_axes={count}`."
        )
    *rows, columns = shape[start:stop]
    return jnp.reshape(x, (*shape[:start], math.prod(rows), columns, *x.shape[stop:]))
