"""Means and variances of weighted windows, made along one axis after the other."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import outlined_on_cpu


def cut(x: Array, start: int, count: int, axis: int) -> Array:
    """Some entries along an axis, which counts from the last."""
    return x[(..., slice(start, start + count), *(slice(None),) * (-axis - 1))]


class Moments(NamedTuple):
    """Mean and variance of windows; the mean is a pixel plus an offset, and is not rounded to it.

    Attributes:
        pixel: The pixel in the middle.
        offset: The mean less that pixel.
        variance: The mean squared distance from the mean.
        kept: How much of it a mask keeps; None without a mask.
    """

    pixel: Array
    offset: Array
    variance: Array
    kept: Array | None = None


def shares_of(weights: Sequence[Any] | Array, kept: list[Any]) -> tuple[Any, Any]:
    """The weights of the entries of a window, of what a mask keeps; and how much that is."""
    if kept[0] is None:
        return weights, None
    products = [weight * of_entry for weight, of_entry in zip(weights, kept, strict=True)]
    total = functools.reduce(jnp.add, products)
    return [product / jnp.where(total == 0, 1, total) for product in products], total


def _parts(x: Moments, size: int, axis: int, stride: int) -> tuple[Moments, list[Moments]]:
    """Of windows along an axis the middle entry, and all entries."""
    count = x.pixel.shape[axis] - (size - 1) * stride
    parts = [jax.tree.map(lambda y, k=k: cut(y, k * stride, count, axis), x) for k in range(size)]
    return parts[size // 2], parts


def _along(axis: int, stride: int, x: Moments, weights: Array) -> Moments:
    size = weights.shape[0]
    middle, parts = _parts(x, size, axis, stride)
    apart = [(p.pixel - middle.pixel) + (p.offset - middle.offset) for p in parts]
    shares, kept = shares_of(weights, [part.kept for part in parts])
    mean, variance = jnp.zeros_like(middle.offset), jnp.zeros_like(middle.variance)
    for k in range(size):
        mean = mean + shares[k] * apart[k]
    for k in range(size):
        variance = variance + shares[k] * (parts[k].variance + jnp.square(apart[k] - mean))
    return Moments(middle.pixel, middle.offset + mean, variance, kept)


def _x_bar(
    axis: int, stride: int, x: Moments, out: Moments, weights: Array, out_bar: Moments
) -> Moments:
    """The gradient in the moments of the entries, of that in the moments of the windows."""
    size, count = weights.shape[0], x.pixel.shape[axis]
    mean_bar, variance_bar = out_bar.offset, out_bar.variance
    if x.kept is not None:
        none = out.kept == 0
        mean_bar, variance_bar = (
            jnp.where(none, 0, y / jnp.where(none, 1, out.kept)) for y in (mean_bar, variance_bar)
        )
    edges = [(0, 0)] * x.pixel.ndim
    edges[axis] = ((size - 1) * stride,) * 2
    padded = [jnp.pad(y, edges) for y in (mean_bar, variance_bar, out.pixel, out.offset)]
    x_bar, of_variance = jnp.zeros_like(x.pixel), jnp.zeros_like(x.pixel)
    for k in range(size):  # of the windows in which an entry is at place k
        mean_bar, variance_bar, pixel, offset = (
            cut(y, (size - 1 - k) * stride, count, axis) for y in padded
        )
        apart = (x.pixel - pixel) + (x.offset - offset)
        x_bar = x_bar + weights[k] * (mean_bar + 2 * variance_bar * apart)
        of_variance = of_variance + weights[k] * variance_bar
    if x.kept is not None:
        x_bar, of_variance = x.kept * x_bar, x.kept * of_variance
    nothing = None if x.kept is None else jnp.zeros_like(x.kept)
    return Moments(x_bar, x_bar, of_variance, nothing)


@functools.cache  # one object each, so that eager calls compile once
def _forms(axis: int, stride: int) -> tuple[Callable[..., Moments], Callable[..., Moments]]:
    return functools.partial(_along, axis, stride), functools.partial(_x_bar, axis, stride)


def along(x: Moments, weights: Array, axis: int, stride: int = 1) -> Moments:
    """The moments of windows along an axis, made of those of their entries, a stride apart."""
    return outlined_on_cpu(_forms(axis, stride)[0], x, weights)


def _forward(x: Moments, weights: Array, axis: int, stride: int) -> tuple[Moments, Any]:
    out = along(x, weights, axis, stride)
    return out, (x, out, weights)


def _backward(axis: int, stride: int, saved: Any, out_bar: Moments) -> tuple[Moments, None]:
    x, out, weights = saved
    return outlined_on_cpu(_forms(axis, stride)[1], x, out, weights, out_bar), None


# For reverse mode, of functions of the sums of pixel and offset. The gradient is made of windows,
# too; that of `along` adds up an array for each entry of a window, padded with zeros. The weights
# have none.
along_in_reverse = jax.custom_vjp(along, nondiff_argnums=(2, 3))
along_in_reverse.defvjp(_forward, _backward)
