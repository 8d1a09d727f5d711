r"""Segmentation: losses of the overlap between the predicted and the true regions of an image.

They are ratios of sums over all pixels of an image, so that a region of a hundred pixels counts as
much as one of a million; a cross-entropy averaged over pixels is dominated by the large region. The
two are often added: the cross-entropy has useful gradients at the start, the overlap is what is
evaluated.

The event is an image, `(height, width, classes)`: the class axis is the last one, axes in front of
the image are batch, and each image has a loss of its own. `spatial_axes` is the number of axes of
pixels: 3 for volumes `(depth, height, width, classes)`, 1 for points `(points, classes)`. A single
class still has an axis: write `probabilities[..., None]`. The predictions are probabilities, not
logits (optax takes logits): `jax.nn.softmax(logits)` for classes that exclude each other,
`jax.nn.sigmoid(logits)` for classes that do not, or for a single one. Labels come in two forms:
integers are the class of each pixel, numbers of the predictions' shape are the share of each class.

`mask` leaves out pixels, whatever they hold: `mask=labels != 255`. The loss of an image is the
weighted mean over its classes; the loss of each class alone is
`jax.vmap(lambda w: dice(p, y, class_weights=w), out_axes=-1)(jnp.eye(classes))`.
"""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import class_ids, nonnegative_number, unit_interval
from jaxloss.numerics._labels import is_label
from jaxloss.traits import bounded, nonnegative

__all__ = ["dice", "generalized_dice", "tversky"]

Shares = Float[Array, "*batch height width classes"]
PerClass = Float[Array, "*batch classes"]


def _predicted_and_true(
    fun_name: str,
    probabilities: Shares,
    labels: Int[Array, "*batch height width"] | Shares,
    mask: Bool[Array, "*batch height width"] | None,
    spatial_axes: int | None,
) -> tuple[Shares, Shares]:
    """The predicted and the true share of each class in each pixel; 0 where a pixel is left out."""
    if labels.ndim == probabilities.ndim:
        if spatial_axes is None:
            _check_layout(fun_name, probabilities.shape)
        return probabilities, labels
    is_class = is_label(probabilities, labels)
    if mask is not None:
        is_class &= mask[..., None]
    return probabilities, is_class.astype(probabilities.dtype)


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


# The losses are written in terms of the part that is not overlap, which a small loss is
# proportional to: 1 less the overlap would be rounded to the last place of 1.
def _over_pixels(shares: Shares) -> PerClass:
    return jnp.sum(shares, axis=(-3, -2))


def _weight_of_class(
    classes: int, class_weights: Array | None, ignore_background: bool, dtype: DTypeLike
) -> Float[Array, "classes"]:
    weights = jnp.ones(classes, dtype) if class_weights is None else class_weights
    return weights.at[0].set(0) if ignore_background else weights


def _mean_over_classes(losses: PerClass, weights: Float[Array, "classes"]) -> Array:
    total = jnp.sum(weights)
    weighted = jnp.broadcast_to(weights, losses.shape) * losses
    return numerics.quotient(jnp.sum(weighted, axis=-1), jnp.where(total == 0, 1, total))


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
    squared: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Dice loss: 1 less the Dice coefficient, or F1 score, of each class.

    When to use: segmentation with small regions, alone or added to a cross-entropy.

    $$\ell(p, t) = \frac{\sum_c w_c \ell_c}{\sum_c w_c}, \qquad
      \ell_c = 1 - \frac{2 \sum_i p_{ic} t_{ic} + s}{\sum_i p_{ic} + \sum_i t_{ic} + s}$$

    The sums are over the pixels of one image, never over the batch (in Keras they are). The
    smoothing $s$, in pixels, determines the loss of a class that is not in the image: with 0 it is
    1, however little of the class is predicted, with gradient 0; with 1 it grows with the predicted
    pixels. optax adds its `smooth` to half of each sum, so that 1 there is 2 here. The minimum for
    soft labels is not at the labels, unless `squared`, which sums $p^2$ and $t^2$ (V-Net).

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
    predicted, true = _predicted_and_true(
        "jaxloss.segmentation.dice", probabilities, labels, mask, spatial_axes
    )
    both = _over_pixels(predicted * true)
    if squared:
        missed = _over_pixels(jnp.square(predicted - true))
    else:
        missed = _over_pixels(predicted * (1 - true) + true * (1 - predicted))
    weights = _weight_of_class(
        predicted.shape[-1], class_weights, ignore_background, predicted.dtype
    )
    return _mean_over_classes(numerics.fraction(missed, 2 * both + smooth), weights)


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
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Tversky loss: the Dice loss with a weight each for false and for missed pixels.

    When to use: segmentation in which a missed pixel is worse than a false one, or the reverse.

    $$\ell_c = 1 - \frac{\mathrm{TP}_c + s}
      {\mathrm{TP}_c + \alpha \, \mathrm{FP}_c + \beta \, \mathrm{FN}_c + s}$$

    with $\mathrm{TP}_c = \sum_i p_{ic} t_{ic}$, $\mathrm{FP}_c = \sum_i p_{ic} (1 - t_{ic})$ and
    $\mathrm{FN}_c = \sum_i (1 - p_{ic}) t_{ic}$. The defaults are those of the paper: a missed
    pixel has more than twice the weight of a false one. (Keras exchanges alpha and beta.) With 1/2
    and 1/2 this is `dice` with twice the smoothing; with 1 and 1 it is the Jaccard loss, 1 - IoU.

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
    predicted, true = _predicted_and_true(
        "jaxloss.segmentation.tversky", probabilities, labels, mask, spatial_axes
    )
    both = _over_pixels(predicted * true)
    false = _over_pixels(predicted * (1 - true))
    missed = alpha * false + beta * _over_pixels(true * (1 - predicted))
    weights = _weight_of_class(
        predicted.shape[-1], class_weights, ignore_background, predicted.dtype
    )
    return _mean_over_classes(numerics.fraction(missed, both + smooth), weights)


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
    predicted, true = _predicted_and_true(
        "jaxloss.segmentation.generalized_dice", probabilities, labels, mask, spatial_axes
    )
    both = _over_pixels(predicted * true)
    missed = _over_pixels(predicted * (1 - true) + true * (1 - predicted))
    size = _over_pixels(true)
    weights = _weight_of_class(size.shape[-1], class_weights, ignore_background, size.dtype)
    weights = jnp.broadcast_to(weights, size.shape)
    counts = (size > 0) & (weights > 0)
    smallest = jnp.min(jnp.where(counts, size, jnp.inf), axis=-1, keepdims=True)
    size = jnp.where(counts, size, jnp.where(smallest == jnp.inf, 1, smallest))
    # Only the ratios of the weights matter; in this unit the largest is 1.
    relative = numerics.quotient(lax.stop_gradient(jnp.min(size, axis=-1, keepdims=True)), size)
    weights = weights * jnp.square(relative)
    return numerics.fraction(
        jnp.sum(weights * missed, axis=-1), 2 * jnp.sum(weights * both, axis=-1)
    )


__getattr__, __dir__ = public_names(__name__, __all__)
