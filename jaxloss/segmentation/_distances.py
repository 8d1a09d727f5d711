"""Losses with distance maps: how far a pixel is from the boundary of a region.

The maps are inputs: a Euclidean distance transform (`scipy.ndimage.distance_transform_edt`) is
computed once for each image, outside compiled code.
"""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import class_ids, nonnegative_number, positive, unit_interval
from jaxloss.numerics._elementwise import linear_argument, power_or_zero
from jaxloss.segmentation._regions import (
    PerClass,
    Shares,
    mean_over_classes,
    over_pixels,
    predicted_and_true,
    weight_of_class,
)
from jaxloss.traits import nonnegative


def _mean_over_pixels(values: Shares, mask: Bool[Array, "*batch height width"] | None) -> PerClass:
    """The mean of the pixels that are kept; values of the others are 0."""
    kept = jnp.ones_like(values[..., :1]) if mask is None else mask[..., None].astype(values.dtype)
    return over_pixels(values) / jnp.maximum(over_pixels(kept), 1)


@loss(probabilities=unit_interval, class_weights=nonnegative_number)
def boundary(
    probabilities: Real[ArrayLike, "*batch height width classes"],
    distances: Real[ArrayLike, "*batch height width classes"],
    *,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,  # noqa: ARG001  # applied by the contract
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Boundary loss: the mean signed distance to the true boundary, where a class is predicted.

    When to use: beside `dice`, with a weight that increases during training, for regions so small
    that overlaps say little.

    $$\ell_c = \frac1N \sum_i p_{ic} \, \varphi_{ic}$$

    The map $\varphi$ is the distance to the boundary of the true region: negative inside, positive
    outside, and 0 where the class is absent. With `edt = scipy.ndimage.distance_transform_edt` and
    a mask `t`, it is `edt(~t) * ~t - (edt(t) - 1) * t` (the paper and MONAI). The loss is linear in
    the probabilities and has no minimum of 0: its least value is the sum over the true region.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        distances: The signed distance map of each class, in pixels or any unit.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels in front of the class axis; 2 if None.
        class_weights: The weight of each class in the mean.
        ignore_background: Whether class 0 is left out.

    Returns:
        The loss of each image, in the unit of the distances; it may be negative.

    Example:
        >>> boundary([[[0.5], [0.25]]], [[[-1.0], [2.0]]])
        Array(0., dtype=float32)

    References:
        Kervadec et al., *Boundary Loss for Highly Unbalanced Segmentation*, 2019.
    """
    losses = _mean_over_pixels(linear_argument(probabilities) * distances, mask)
    return mean_over_classes(losses, weight_of_class(losses, class_weights, ignore_background))


@loss(
    nonnegative,
    probabilities=unit_interval,
    labels=[class_ids("classes"), unit_interval],
    predicted_distances=nonnegative_number,
    true_distances=nonnegative_number,
    alpha=positive,
    class_weights=nonnegative_number,
)
def hausdorff(
    probabilities: Real[ArrayLike, "*batch height width classes"],
    labels: Int[ArrayLike, "*batch height width"] | Real[ArrayLike, "*batch height width classes"],
    predicted_distances: Real[ArrayLike, "*batch height width classes"],
    true_distances: Real[ArrayLike, "*batch height width classes"],
    *,
    alpha: Real[ArrayLike, ""] = 2.0,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Hausdorff distance loss: squared errors, weighted by powers of distances to the boundaries.

    When to use: beside `dice`, where the Hausdorff distance is evaluated: a wrong pixel far from
    the true region costs more than one at its edge.

    $$\ell_c = \frac1N \sum_i (p_{ic} - t_{ic})^2 \left( d_{p,ic}^\alpha + d_{t,ic}^\alpha \right)$$

    The maps are the distances to the boundary of the predicted region, probabilities above 1/2, and
    of the true one, both at least 0 on both sides: `edt(t) + edt(~t)`, and 0 for an empty or full
    mask. That of the prediction changes with every step, and is computed on the host; with zeros
    in its place the loss is the one-sided form of the paper.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        predicted_distances: The distance map of each predicted region; a constant, as a rule.
        true_distances: The distance map of each true region.
        alpha: The power of the distances, above 0.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels in front of the class axis. If None, 2, and a
            last axis that looks like a width is refused.
        class_weights: The weight of each class in the mean.
        ignore_background: Whether class 0 is left out.

    Returns:
        The loss of each image; NaN if a class id names no class.

    Raises:
        ValueError: If `spatial_axes` is None and the last axis looks like a width: at least 16
            classes, not fewer than there are rows or columns, and labels of the same shape.

    Example:
        >>> p, t = jnp.array([[[0.5], [0.5]]]), jnp.array([[[1.0], [0.0]]])
        >>> hausdorff(p, t, jnp.zeros_like(p), jnp.ones_like(p))
        Array(0.25, dtype=float32)

    References:
        Karimi and Salcudean, *Reducing the Hausdorff Distance in Medical Image Segmentation with
        Convolutional Neural Networks*, 2019.
    """
    predicted, true = predicted_and_true(
        "jaxloss.segmentation.hausdorff", probabilities, labels, mask, spatial_axes
    )
    powers = [power_or_zero(d, alpha) for d in (predicted_distances, true_distances)]
    error = predicted - true.astype(predicted.dtype)
    losses = _mean_over_pixels(jnp.square(error) * (powers[0] + powers[1]), mask)
    return mean_over_classes(losses, weight_of_class(losses, class_weights, ignore_background))
