r"""Lovász losses: the Jaccard loss of sets, extended to probabilities and margins.

With the errors of the pixels in decreasing order, the extension is a weighted sum of them. The
weight of a pixel is the amount by which the Jaccard loss grows when it is wrong, too:
$1 / U$ if it is in the true region, and $I / (U (U - 1))$ if not, with the intersection $I$ and
the union $U$ that are left. The weights are constants of the gradient.
"""

from typing import Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import class_ids, nonnegative_number, unit_interval, zero_or_one
from jaxloss.numerics._labels import is_label
from jaxloss.segmentation._regions import mean_over_classes, over_pixels, weight_of_class
from jaxloss.traits import convex, nonnegative


def _weights(
    errors: Float[Array, "*regions pixels"],
    is_true: Bool[Array, "*regions pixels"],
    kept: Bool[Array, "*regions pixels"] | None,
) -> Float[Array, "*regions pixels"]:
    """The weight of each pixel; of those that are not kept it has no meaning."""
    last = errors.ndim - 1
    key = lax.stop_gradient(-errors if kept is None else jnp.where(kept, -errors, jnp.inf))
    places = lax.broadcasted_iota(jnp.int32, errors.shape, last)
    _, order, true = lax.sort((key, places, is_true.astype(jnp.int32)), num_keys=1)
    size = jnp.sum(true, axis=-1, keepdims=True, dtype=jnp.int32)
    # The numbers of pixels are integers: float32 cannot count past 2**24.
    intersection = size - jnp.cumsum(true, axis=-1)
    union = size + jnp.cumsum(1 - true, axis=-1)
    i, u = intersection.astype(errors.dtype), union.astype(errors.dtype)
    # The first pixel of an empty region decides all: its weight is 1.
    outside = jnp.where(union == 1, 1, i / jnp.maximum(u, 1) / jnp.maximum(u - 1, 1))
    weights = jnp.where(true == 1, 1 / jnp.maximum(u, 1), outside)
    return lax.sort((order, weights), num_keys=1)[1]


@loss(
    nonnegative,
    probabilities=unit_interval,
    labels=class_ids("classes"),
    class_weights=nonnegative_number,
)
def lovasz_softmax(
    probabilities: Real[ArrayLike, "*batch height width classes"],
    labels: Int[ArrayLike, "*batch height width"],
    *,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,  # noqa: ARG001  # applied by the contract
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    present_only: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Lovász-softmax loss: a piecewise linear extension of the Jaccard loss of each class.

    When to use: fine-tuning a segmentation for the mean intersection over union, after or beside a
    cross-entropy.

    $$\ell_c = \sum_k e_{(k)} \left( J_k - J_{k-1} \right), \qquad e_i = |t_{ic} - p_{ic}|,
      \quad J_k = 1 - \frac{|T_c \setminus E_k|}{|T_c \cup E_k|}$$

    with the errors in decreasing order, the true pixels $T_c$ and the $k$ pixels $E_k$ with the
    largest errors. Where all probabilities are 0 or 1 it is exactly 1 - IoU. All classes are sorted
    at once, in n log(n) steps. Over a whole batch of images, as in the code of the authors:
    `spatial_axes=3`. For a single class use `lovasz_hinge`.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: Class ids, one a pixel.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels in front of the class axis; 2 if None.
        class_weights: The weight of each class in the mean.
        ignore_background: Whether class 0 is left out.
        present_only: Whether classes that are not in the image are left out. Otherwise their loss
            is the largest probability that any pixel gives them.

    Returns:
        The loss of each image, from 0 to 1; NaN if a class id names no class.

    Example:
        >>> lovasz_softmax([[[0.75, 0.25], [0.5, 0.5]]], [[0, 1]])
        Array(0.4375, dtype=float32)

    References:
        Berman, Rannen Triki and Blaschko, *The Lovász-Softmax Loss*, 2018.
    """
    *batch, height, width, classes = probabilities.shape
    is_true = is_label(probabilities, labels)
    is_true = is_true if mask is None else is_true & mask[..., None]
    errors = numerics.absolute(is_true.astype(probabilities.dtype) - probabilities)
    rows = (*batch, height * width, classes)
    by_class, true = (jnp.moveaxis(x.reshape(rows), -1, -2) for x in (errors, is_true))
    kept = None
    if mask is not None:
        kept = jnp.broadcast_to(mask.reshape(*batch, 1, height * width), by_class.shape)
    losses = jnp.sum(by_class * _weights(by_class, true, kept), axis=-1)
    size = over_pixels(is_true.astype(errors.dtype))
    return mean_over_classes(
        losses, weight_of_class(size, class_weights, ignore_background, present_only)
    )


@loss(convex, nonnegative, labels=zero_or_one)
def lovasz_hinge(
    logits: Real[ArrayLike, "*batch height width"],
    labels: Real[ArrayLike, "*batch height width"],
    *,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,  # noqa: ARG001  # applied by the contract
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Lovász hinge: a convex extension of the Jaccard loss of one region to margins.

    When to use: segmentation of one region that is evaluated by the intersection over union.

    $$\ell = \sum_k \max(0, e_{(k)}) \left( J_k - J_{k-1} \right), \qquad
      e_i = 1 - (2 t_i - 1) z_i$$

    with the errors in decreasing order and $J_k$ as in `lovasz_softmax`. The predicted region is
    that of positive logits. It is 0 when all pixels have a margin of 1. Without a true region it
    is the largest error.

    Args:
        logits: The score of each pixel: positive in the region.
        labels: Numbers or booleans, 1 in the region and 0 outside.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels; 2 if None.

    Returns:
        The loss of each image; NaN if a label is neither 0 nor 1.

    Example:
        >>> lovasz_hinge([[2.0, 0.5, -3.0]], [[1, 1, 0]])
        Array(0.25, dtype=float32)

    References:
        Yu and Blaschko, *The Lovász Hinge: A Novel Convex Surrogate for Submodular Losses*, 2015.
    """
    *batch, height, width = logits.shape
    rows = (*batch, height * width)
    errors = (1 - (2 * labels - 1) * logits).reshape(rows)
    is_true = labels.reshape(rows) == 1
    kept = None if mask is None else mask.reshape(rows)
    weights = _weights(errors, is_true if kept is None else is_true & kept, kept)
    errors = errors if kept is None else jnp.where(kept, errors, 0)
    return jnp.sum(numerics.relu(errors) * weights, axis=-1)
