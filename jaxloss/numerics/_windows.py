"""Means and variances of weighted windows, made along one axis after the other."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import outlined_on_cpu, written_on_tpu


def cut(x: Array, start: int, count: int, axis: int) -> Array:
    """Some entries along an axis, which counts from the last."""
    return x[(..., slice(start, start + count), *(slice(None),) * (-axis - 1))]


class Moments(NamedTuple):
    """Mean and variance of windows; the mean is a pixel plus an offset, and is not rounded to it.

    Attributes:
        pixel: The pixel in the middle.
        offset: The mean less that pixel; None if it is 0.
        variance: The mean squared distance from the mean; None if it is 0.
        kept: How much of it a mask keeps; None without a mask.
    """

    pixel: Array
    offset: Array | None = None
    variance: Array | None = None
    kept: Array | None = None

    def less(self, other: "Moments") -> Array:
        """The mean less that of another."""
        step = self.pixel - other.pixel
        if other.offset is None:
            return _plus(self.offset, step)
        return step + (-other.offset if self.offset is None else self.offset - other.offset)

    def mean(self) -> Array:
        """The mean, rounded."""
        return _plus(self.offset, self.pixel)


Windows = tuple[Moments, ...]


def known(x: Array | None, like: Array) -> Array:
    return jnp.zeros_like(like) if x is None else x


def _plus(x: Array | None, y: Array) -> Array:
    return y if x is None else x + y


def shares_of(weights: Sequence[Any] | Array, kept: list[Any]) -> tuple[Any, Any]:
    """The weights of the entries of a window, of what a mask keeps; and how much that is."""
    if kept[0] is None:
        return weights, None
    products = [weight * of_entry for weight, of_entry in zip(weights, kept, strict=True)]
    total = functools.reduce(jnp.add, products)
    return [product / jnp.where(total == 0, 1, total) for product in products], total


def _along(axis: int, stride: int, size: int, x: Moments, weights: Array) -> Moments:
    count = x.pixel.shape[axis] - (size - 1) * stride
    parts = [jax.tree.map(lambda y, k=k: cut(y, k * stride, count, axis), x) for k in range(size)]
    middle = parts[size // 2]
    apart = [part.less(middle) for part in parts]
    shares, kept = shares_of(weights, [part.kept for part in parts])
    mean = functools.reduce(jnp.add, (shares[k] * apart[k] for k in range(size)))
    variance = functools.reduce(
        jnp.add,
        (shares[k] * _plus(parts[k].variance, jnp.square(apart[k] - mean)) for k in range(size)),
    )
    return Moments(middle.pixel, _plus(middle.offset, mean), variance, kept)


def _bar_along(
    axis: int, stride: int, size: int, x: Moments, out: Moments, weights: Array, out_bar: Moments
) -> Moments:
    """The gradient in the moments of the entries, of that in the moments of the windows."""
    count = x.pixel.shape[axis]
    bars = [known(bar, out.pixel) for bar in (out_bar.offset, out_bar.variance)]
    if out.kept is not None:
        none = out.kept == 0
        bars = [jnp.where(none, 0, y / jnp.where(none, 1, out.kept)) for y in bars]
    edges = [(0, 0)] * x.pixel.ndim
    beyond = (size - 1) * stride
    edges[axis] = beyond, beyond
    padded = jax.tree.map(lambda y: jnp.pad(y, edges), (*bars, out._replace(kept=None)))
    x_bar, of_variance = jnp.zeros_like(x.pixel), jnp.zeros_like(x.pixel)
    for k in range(size):  # of the windows in which an entry is at place k
        mean_bar, variance_bar, window = jax.tree.map(
            lambda y, k=k: cut(y, (size - 1 - k) * stride, count, axis), padded
        )
        x_bar = x_bar + weights[k] * (mean_bar + 2 * variance_bar * x.less(window))
        of_variance = of_variance + weights[k] * variance_bar
    if x.kept is not None:
        x_bar, of_variance = x.kept * x_bar, x.kept * of_variance
    return Moments(
        x_bar,
        None if x.offset is None else x_bar,
        None if x.variance is None else of_variance,
        None if x.kept is None else jnp.zeros_like(x.kept),
    )


@functools.cache  # one object each, so that eager calls compile once
def _forms(axis: int, stride: int) -> tuple[Callable[..., Windows], Callable[..., Windows]]:
    def forward(every: Windows, weights: Array) -> Windows:
        return tuple(_along(axis, stride, weights.shape[0], x, weights) for x in every)

    def backward(every: Windows, found: Windows, weights: Array, bars: Windows) -> Windows:
        return tuple(
            _bar_along(axis, stride, weights.shape[0], x, out, weights, bar)
            for x, out, bar in zip(every, found, bars, strict=True)
        )

    return forward, backward


def along(every: Windows, weights: Array, axis: int, stride: int = 1) -> Windows:
    """The moments of windows along an axis, made of those of their entries, a stride apart."""
    return outlined_on_cpu(_forms(axis, stride)[0], every, weights)


def with_written_pixels(every: Windows) -> Windows:
    """The same windows, whose pixels are an array of their own on TPU."""
    return tuple(x._replace(pixel=written_on_tpu(x.pixel)) for x in every)


def _forward(every: Windows, weights: Array, axis: int, stride: int) -> tuple[Windows, Any]:
    found = along(every, weights, axis, stride)
    return found, (every, found, weights)


def _backward(axis: int, stride: int, saved: Any, bars: Windows) -> tuple[Windows, None]:
    return outlined_on_cpu(_forms(axis, stride)[1], *saved, bars), None


# For reverse mode, of functions of the means and variances. The gradient is made of windows, too;
# that of `along` adds up an array for each entry of a window, padded with zeros. The weights have
# none.
along_in_reverse = jax.custom_vjp(along, nondiff_argnums=(2, 3))
along_in_reverse.defvjp(_forward, _backward)
