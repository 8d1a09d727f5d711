"""Predicted and true regions, and means over their pixels and classes."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxloss import numerics
from jaxloss.numerics._labels import is_label
from jaxloss.numerics._reductions import weighted_sum

Shares = Float[Array, "*batch height width classes"]
TrueShares = Shares | Bool[Array, "*batch height width classes"]
PerClass = Float[Array, "*batch classes"]


def predicted_and_true(
    fun_name: str,
    probabilities: Shares,
    labels: Int[Array, "*batch height width"] | Shares,
    mask: Bool[Array, "*batch height width"] | None,
    spatial_axes: int | None,
) -> tuple[Shares, TrueShares]:
    """The predicted and the true share of each class in each pixel; 0 where a pixel is left out.

    The true shares of class ids are booleans.
    """
    if labels.ndim == probabilities.ndim:
        if spatial_axes is None:
            _check_layout(fun_name, probabilities.shape)
        return probabilities, labels
    is_class = is_label(probabilities, labels)
    if mask is not None:
        is_class &= mask[..., None]
    return probabilities, is_class


def _check_layout(fun_name: str, shape: tuple[Any, ...]) -> None:
    """Refuses a last axis that is more likely a width than a class axis.

    Maps without a class axis, (N, H, W), and maps whose classes come first, (N, C, H, W), have
    labels of the same shape and would be read as images with W classes.
    """
    height, width, classes = shape[-3:]
    known = all(isinstance(n, int) for n in (height, width, classes))  # or symbolic
    if known and classes >= 16 and classes >= min(height, width):
        raise ValueError(
            f"{fun_name}: `probabilities` has shape {shape}, which is read as images of {height} x "
            f"{width} pixels with {classes} classes. If it has no class axis, write "
            f"`probabilities[..., None]` and `labels[..., None]`; if the classes come first, "
            f"`jnp.moveaxis(probabilities, -3, -1)` and `jnp.moveaxis(labels, -3, -1)`. If it is "
            f"read correctly, write `spatial_axes=2`."
        )


def over_pixels(shares: Shares) -> PerClass:
    return jnp.sum(shares, axis=(-3, -2))


def pixels_of(true: TrueShares, predicted: Shares) -> PerClass:
    """How many pixels a class truly has."""
    return over_pixels(true.astype(predicted.dtype))


# Of class ids a choice by booleans, which are compared anew where they are read, in value and
# gradient: a product reads an array of their size.
def overlap(predicted: Shares, true: TrueShares) -> PerClass:
    """What is predicted and true."""
    if true.dtype == jnp.bool_:
        return over_pixels(jnp.where(true, predicted, 0))
    return over_pixels(predicted * true)


# The losses are written in terms of the part that is not overlap, which a small loss is
# proportional to: 1 less the overlap would be rounded to the last place of 1.
def mismatch(predicted: Shares, true: TrueShares) -> PerClass:
    """What is predicted and not true, or true and not predicted."""
    if true.dtype == jnp.bool_:
        return over_pixels(jnp.where(true, 1 - predicted, predicted))
    return over_pixels(predicted * (1 - true) + true * (1 - predicted))


def weighted_mismatch(predicted: Shares, true: TrueShares, alpha: Any, beta: Any) -> PerClass:
    """`mismatch`, with a weight each for what is false and what is missed."""
    if true.dtype == jnp.bool_:
        return over_pixels(jnp.where(true, beta * (1 - predicted), alpha * predicted))
    parts = predicted * (1 - true), true * (1 - predicted)
    return weighted_sum(parts, (alpha, beta), (-3, -2))


def weight_of_class(
    true: PerClass,
    class_weights: Array | None,
    ignore_background: bool,
    present_only: bool = False,
) -> PerClass:
    """The weight of each class in the mean of an image, given how many pixels it truly has."""
    weights = jnp.ones(true.shape[-1], true.dtype) if class_weights is None else class_weights
    weights = weights.at[0].set(0) if ignore_background else weights
    weights = jnp.broadcast_to(weights, true.shape)
    return jnp.where(true > 0, weights, 0) if present_only else weights


def mean_over_classes(losses: PerClass, weights: PerClass) -> Array:
    """The weighted mean; 0 if no class has a weight."""
    total = jnp.sum(weights, axis=-1)
    return numerics.quotient(jnp.sum(weights * losses, axis=-1), jnp.where(total == 0, 1, total))
