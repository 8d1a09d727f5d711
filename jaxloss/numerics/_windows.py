"""Means and variances of weighted windows, made along one axis after the other."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import on_gpu, unshared_on_gpu


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


def _parts(x: Moments, size: int, axis: int) -> tuple[Moments, list[Moments], list[Array]]:
    """Of windows along an axis the middle entry, all entries, and their means less its pixel."""
    count = x.pixel.shape[axis] - size + 1
    parts = [jax.tree.map(lambda y, k=k: cut(y, k, count, axis), x) for k in range(size)]
    middle = parts[size // 2]
    return middle, parts, [(p.pixel - middle.pixel) + (p.offset - middle.offset) for p in parts]


def _moments_along(axis: int, x: Moments, weights: Array) -> Moments:
    size = weights.shape[0]
    middle, parts, apart = _parts(x, size, axis)
    shares, kept = shares_of(weights, [part.kept for part in parts])
    mean, variance = jnp.zeros_like(middle.offset), jnp.zeros_like(middle.variance)
    for k in range(size):
        mean = mean + shares[k] * apart[k]
    for k in range(size):
        variance = variance + shares[k] * (parts[k].variance + jnp.square(apart[k] - mean))
    return Moments(middle.pixel, middle.offset + mean, variance, kept)


_by_rule = jax.custom_jvp(_moments_along, nondiff_argnums=(0,))


@_by_rule.defjvp
def _by_rule_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Moments, Moments]:
    # The distances from the mean have the mean 0, so that a change of the mean does not change the
    # variance: without that term, no array of each entry's distance is written for the gradient.
    (x, weights), (x_dot, weights_dot) = unshared_on_gpu(primals), tangents
    out, size = _by_rule(axis, *primals), weights.shape[0]
    middle, parts, apart = _parts(x, size, axis)
    middle_dot, parts_dot, apart_dot = _parts(x_dot, size, axis)
    mean = out.offset - middle.offset
    mean_dot, variance_dot = jnp.zeros_like(mean), jnp.zeros_like(mean)
    for k in range(size):
        off = apart[k] - mean
        mean_dot += weights[k] * apart_dot[k] + weights_dot[k] * apart[k]
        variance_dot += weights[k] * (parts_dot[k].variance + 2 * off * apart_dot[k])
        variance_dot += weights_dot[k] * (parts[k].variance + jnp.square(off))
    return out, Moments(middle_dot.pixel, middle_dot.offset + mean_dot, variance_dot)


@functools.cache  # one object each, so that eager calls compile once
def _forms(axis: int) -> tuple[Callable[..., Moments], Callable[..., Moments]]:
    return functools.partial(_by_rule, axis), functools.partial(_moments_along, axis)


def along(x: Moments, weights: Array, axis: int) -> Moments:
    """The moments of windows along an axis, made of those of their entries."""
    if x.kept is not None:
        return _moments_along(axis, x, weights)
    return on_gpu(*_forms(axis), x, weights)
