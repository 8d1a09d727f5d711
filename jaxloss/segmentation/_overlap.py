"""Ratios of sums over pixels: Dice, Jaccard, Tversky."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import class_ids, nonnegative_number, positive, unit_interval
from jaxloss.numerics._elementwise import power_or_zero
from jaxloss.segmentation._regions import (
    PerClass,
    Shares,
    TrueShares,
    mean_over_classes,
    mismatch,
    over_pixels,
    overlap,
    pixels_of,
    predicted_and_true,
    weight_of_class,
    weighted_mismatch,
)
from jaxloss.traits import bounded, nonnegative


@loss(
    nonnegative,
    bounded,
    probabilities=unit_interval,
    labels=[class_ids("classes"), unit_interval],
    smooth=nonnegative_number,
    class_weights=nonnegative_number,
)
def dice(
    probabilities: Real[ArrayLike, "*batch height width classes"],
    labels: Int[ArrayLike, "*batch height width"] | Real[ArrayLike, "*batch height width classes"],
    *,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,
    smooth: Real[ArrayLike, ""] = 1.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    present_only: bool = False,
    squared: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Dice loss: 1 less the Dice coefficient, or F1 score, of each class.

    When to use: segmentation with small regions, alone or added to a cross-entropy.

    $$\ell(p, t) = \frac{\sum_c w_c \ell_c}{\sum_c w_c}, \qquad
      \ell_c = 1 - \frac{2 \sum_i p_{ic} t_{ic} + s}{\sum_i p_{ic} + \sum_i t_{ic} + s}$$

    The sums are over the pixels of one image. For one ratio over a whole batch of images (Keras,
    MONAI's `batch=True`), whose classes are rarely absent, count the batch among the pixels:
    `spatial_axes=3` for `(batch, height, width, classes)`. The smoothing $s$, in pixels, determines
    the loss of a class that is not in the image: with 0 it is 1, however little of the class is
    predicted, with gradient 0; with 1 it grows with the predicted pixels; with `present_only` the
    class is left out. optax adds its `smooth` to half of each sum, so that 1 there is 2 here. The
    minimum for soft labels is not at the labels, unless `squared`, which sums $p^2$ and $t^2$
    (V-Net).

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels in front of the class axis. If None, 2, and a
            last axis that looks like a width is refused.
        smooth: The number of pixels added to both sums. With 0, the loss of a class that is neither
            predicted nor present is 0.
        class_weights: The weight of each class in the mean.
        ignore_background: Whether class 0 is left out.
        present_only: Whether classes that are not in the image are left out.
        squared: Whether the denominator sums squares.

    Returns:
        The loss of each image, from 0 to 1; NaN if a class id names no class.

    Raises:
        ValueError: If `spatial_axes` is None and the last axis looks like a width: at least 16
            classes, not fewer than there are rows or columns, and labels of the same shape.

    Example:
        >>> probabilities, labels = jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]])
        >>> dice(probabilities, labels, smooth=0.0)
        Array(0.5, dtype=float32)

    References:
        Milletari, Navab and Ahmadi, *V-Net*, 2016.
    """
    predicted, true = predicted_and_true(
        "jaxloss.segmentation.dice", probabilities, labels, mask, spatial_axes
    )
    if squared:
        missed = over_pixels(jnp.square(predicted - true.astype(predicted.dtype)))
    else:
        missed = mismatch(predicted, true)
    losses = numerics.fraction(missed, 2 * overlap(predicted, true) + smooth)
    size = pixels_of(true, predicted)
    weights = weight_of_class(size, class_weights, ignore_background, present_only)
    return mean_over_classes(losses, weights)


def _one_less_tversky(
    predicted: Shares, true: TrueShares, alpha: Array | int, beta: Array | int, smooth: Array
) -> PerClass:
    """1 less the Tversky index of each class."""
    missed = weighted_mismatch(predicted, true, alpha, beta)
    return numerics.fraction(missed, overlap(predicted, true) + smooth)


@loss(
    nonnegative,
    probabilities=unit_interval,
    labels=[class_ids("classes"), unit_interval],
    smooth=nonnegative_number,
    class_weights=nonnegative_number,
)
def jaccard(
    probabilities: Real[ArrayLike, "*batch height width classes"],
    labels: Int[ArrayLike, "*batch height width"] | Real[ArrayLike, "*batch height width classes"],
    *,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,
    smooth: Real[ArrayLike, ""] = 1.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    present_only: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Jaccard loss, or soft IoU loss: 1 less the intersection over the union of each class.

    When to use: segmentation that is evaluated by the intersection over union; it gives more weight
    to bad regions than `dice`.

    $$\ell_c = 1 - \frac{I_c + s}{\sum_i p_{ic} + \sum_i t_{ic} - I_c + s}, \qquad
      I_c = \sum_i p_{ic} t_{ic}$$

    With the Dice loss $d$ of the same class and no smoothing it is $2 d / (1 + d)$. Over a whole
    batch of images: `spatial_axes=3`, as in `dice`. The minimum for soft labels is not at the
    labels.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels in front of the class axis. If None, 2, and a
            last axis that looks like a width is refused.
        smooth: The number of pixels added to both sums, as in `dice`.
        class_weights: The weight of each class in the mean.
        ignore_background: Whether class 0 is left out.
        present_only: Whether classes that are not in the image are left out.

    Returns:
        The loss of each image, from 0 to 1; NaN if a class id names no class.

    Raises:
        ValueError: If `spatial_axes` is None and the last axis looks like a width: at least 16
            classes, not fewer than there are rows or columns, and labels of the same shape.

    Example:
        >>> probabilities, labels = jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]])
        >>> jaccard(probabilities, labels, smooth=0.0)
        Array(0.6666667, dtype=float32)

    References:
        Rahman and Wang, *Optimizing Intersection-Over-Union in Deep Neural Networks for Image
        Segmentation*, 2016.
    """
    predicted, true = predicted_and_true(
        "jaxloss.segmentation.jaccard", probabilities, labels, mask, spatial_axes
    )
    losses = _one_less_tversky(predicted, true, 1, 1, smooth)
    size = pixels_of(true, predicted)
    weights = weight_of_class(size, class_weights, ignore_background, present_only)
    return mean_over_classes(losses, weights)


@loss(
    nonnegative,
    bounded,
    probabilities=unit_interval,
    labels=[class_ids("classes"), unit_interval],
    alpha=nonnegative_number,
    beta=nonnegative_number,
    smooth=nonnegative_number,
    class_weights=nonnegative_number,
)
def tversky(
    probabilities: Real[ArrayLike, "*batch height width classes"],
    labels: Int[ArrayLike, "*batch height width"] | Real[ArrayLike, "*batch height width classes"],
    *,
    alpha: Real[ArrayLike, ""] = 0.3,
    beta: Real[ArrayLike, ""] = 0.7,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,
    smooth: Real[ArrayLike, ""] = 1.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    present_only: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Tversky loss: the Dice loss with a weight each for false and for missed pixels.

    When to use: segmentation in which a missed pixel is worse than a false one, or the reverse.

    $$\ell_c = 1 - \frac{\mathrm{TP}_c + s}
      {\mathrm{TP}_c + \alpha \, \mathrm{FP}_c + \beta \, \mathrm{FN}_c + s}$$

    with $\mathrm{TP}_c = \sum_i p_{ic} t_{ic}$, $\mathrm{FP}_c = \sum_i p_{ic} (1 - t_{ic})$ and
    $\mathrm{FN}_c = \sum_i (1 - p_{ic}) t_{ic}$. The defaults are those of the paper: a missed
    pixel has more than twice the weight of a false one. (Keras exchanges alpha and beta.) With 1/2
    and 1/2 this is `dice` with twice the smoothing; with 1 and 1 it is `jaccard`.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        alpha: The weight of false pixels.
        beta: The weight of missed pixels.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels in front of the class axis. If None, 2, and a
            last axis that looks like a width is refused.
        smooth: The number of pixels added to both sums, as in `dice`.
        class_weights: The weight of each class in the mean.
        ignore_background: Whether class 0 is left out.
        present_only: Whether classes that are not in the image are left out.

    Returns:
        The loss of each image, from 0 to 1; NaN if a class id names no class.

    Raises:
        ValueError: If `spatial_axes` is None and the last axis looks like a width: at least 16
            classes, not fewer than there are rows or columns, and labels of the same shape.

    Example:
        >>> probabilities, labels = jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]])
        >>> tversky(probabilities, labels, alpha=0.0, beta=1.0, smooth=0.0)
        Array(0.5, dtype=float32)

    References:
        Salehi, Erdogmus and Gholipour, *Tversky Loss Function for Image Segmentation*, 2017.
    """
    predicted, true = predicted_and_true(
        "jaxloss.segmentation.tversky", probabilities, labels, mask, spatial_axes
    )
    losses = _one_less_tversky(predicted, true, alpha, beta, smooth)
    size = pixels_of(true, predicted)
    weights = weight_of_class(size, class_weights, ignore_background, present_only)
    return mean_over_classes(losses, weights)


@loss(
    nonnegative,
    probabilities=unit_interval,
    labels=[class_ids("classes"), unit_interval],
    alpha=nonnegative_number,
    beta=nonnegative_number,
    gamma=positive,
    smooth=nonnegative_number,
    class_weights=nonnegative_number,
)
def focal_tversky(
    probabilities: Real[ArrayLike, "*batch height width classes"],
    labels: Int[ArrayLike, "*batch height width"] | Real[ArrayLike, "*batch height width classes"],
    *,
    alpha: Real[ArrayLike, ""] = 0.3,
    beta: Real[ArrayLike, ""] = 0.7,
    gamma: Real[ArrayLike, ""] = 4 / 3,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,
    smooth: Real[ArrayLike, ""] = 1.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    present_only: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Focal Tversky loss: a power of the Tversky loss of each class.

    When to use: instead of `tversky`, when small or difficult regions have a loss of about 1 for
    long: a power of 3/4 increases the gradient of classes that are nearly right, a power above 1
    (gamma < 1) that of classes that are not.

    $$\ell_c = (1 - \mathrm{TI}_c)^{1 / \gamma}$$

    with the index TI of `tversky`. The power is taken for each class, as in the paper; others take
    it of the mean, or with $\gamma$ in place of $1/\gamma$. With a gamma of 1 it is `tversky`. The
    gradient is 0 at a perfect prediction.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        alpha: The weight of false pixels.
        beta: The weight of missed pixels.
        gamma: The inverse of the power, above 0; from 1 to 3 in the paper.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels in front of the class axis. If None, 2, and a
            last axis that looks like a width is refused.
        smooth: The number of pixels added to both sums, as in `dice`.
        class_weights: The weight of each class in the mean.
        ignore_background: Whether class 0 is left out.
        present_only: Whether classes that are not in the image are left out.

    Returns:
        The loss of each image, from 0 to 1; NaN if a class id names no class.

    Raises:
        ValueError: If `spatial_axes` is None and the last axis looks like a width: at least 16
            classes, not fewer than there are rows or columns, and labels of the same shape.

    Example:
        >>> probabilities, labels = jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]])
        >>> focal_tversky(probabilities, labels, alpha=0.0, beta=1.0, smooth=0.0, gamma=2.0)
        Array(0.70710677, dtype=float32)

    References:
        Abraham and Khan, *A Novel Focal Tversky Loss Function with Improved Attention U-Net for
        Lesion Segmentation*, 2019.
    """
    predicted, true = predicted_and_true(
        "jaxloss.segmentation.focal_tversky", probabilities, labels, mask, spatial_axes
    )
    losses = _one_less_tversky(predicted, true, alpha, beta, smooth)
    size = pixels_of(true, predicted)
    weights = weight_of_class(size, class_weights, ignore_background, present_only)
    return mean_over_classes(power_or_zero(losses, 1 / gamma), weights)


@loss(
    nonnegative,
    bounded,
    probabilities=unit_interval,
    labels=[class_ids("classes"), unit_interval],
    class_weights=nonnegative_number,
)
def generalized_dice(
    probabilities: Real[ArrayLike, "*batch height width classes"],
    labels: Int[ArrayLike, "*batch height width"] | Real[ArrayLike, "*batch height width classes"],
    *,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    spatial_axes: int | None = None,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Generalized Dice loss: the Dice loss with class weights of 1 / size squared.

    When to use: segmentation with regions of very different sizes.

    $$\ell(p, t) = 1 - \frac{2 \sum_c v_c \sum_i p_{ic} t_{ic}}
      {\sum_c v_c \sum_i (p_{ic} + t_{ic})}, \qquad v_c = \frac{w_c}{(\sum_i t_{ic})^2}$$

    One ratio of weighted sums, as in the paper (optax averages weighted ratios instead). The
    $v_c$ of a class that is not in the image would be infinite; it is that of the smallest class
    that is (as in MONAI). In an image without any label it is 1 for every class, so that the loss
    is 1.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        mask: False leaves a pixel out.
        spatial_axes: The number of axes of pixels in front of the class axis. If None, 2, and a
            last axis that looks like a width is refused.
        class_weights: A weight of each class beside that of its size.
        ignore_background: Whether class 0 is left out.

    Returns:
        The loss of each image, from 0 to 1; 0 if no pixel counts, NaN if a class id names no class.

    Raises:
        ValueError: If `spatial_axes` is None and the last axis looks like a width: at least 16
            classes, not fewer than there are rows or columns, and labels of the same shape.

    Example:
        >>> probabilities, labels = jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]])
        >>> generalized_dice(probabilities, labels)
        Array(0.5, dtype=float32)

    References:
        Sudre et al., *Generalised Dice Overlap as a Deep Learning Loss Function*, 2017.
    """
    predicted, true = predicted_and_true(
        "jaxloss.segmentation.generalized_dice", probabilities, labels, mask, spatial_axes
    )
    both, missed = overlap(predicted, true), mismatch(predicted, true)
    size = pixels_of(true, predicted)
    weights = weight_of_class(size, class_weights, ignore_background)
    counts = (size > 0) & (weights > 0)
    smallest = jnp.min(jnp.where(counts, size, jnp.inf), axis=-1, keepdims=True)
    size = jnp.where(counts, size, jnp.where(smallest == jnp.inf, 1, smallest))
    # Only the ratios of the weights matter; in this unit the largest is 1.
    relative = numerics.quotient(lax.stop_gradient(jnp.min(size, axis=-1, keepdims=True)), size)
    weights = weights * jnp.square(relative)
    return numerics.fraction(
        jnp.sum(weights * missed, axis=-1), 2 * jnp.sum(weights * both, axis=-1)
    )
