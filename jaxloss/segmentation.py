r"""Segmentation: losses of the overlap between predicted and true regions of an image.

They are ratios over all the pixels of an image, so that a region of a hundred pixels counts as
much as one of a million; an average of cross-entropies over pixels forgets the small one. Add the
two: the cross-entropy makes the first steps, the overlap the last.

The event is an image, `(height, width, classes)`: pixels of other ranks are reshaped to it, a
volume to `(depth * height, width, classes)`, a row of points to `(1, points, classes)`. What is in
front is batch, and each image has a loss of its own. The predictions are probabilities, not
logits (optax takes logits): `jax.nn.softmax(logits)` for classes that exclude each other,
`jax.nn.sigmoid(logits)` for ones that do not, or for a single one. Labels come in two forms:
integers name the class of each pixel, numbers of the predictions' shape are the share of each
class.

`mask` leaves out pixels, whatever they hold: `mask=labels != 255`. An image gets the weighted mean
over its classes; the loss of each class alone is
`jax.vmap(lambda w: dice(p, y, class_weights=w), out_axes=-1)(jnp.eye(classes))`.
"""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import class_ids, nonnegative_number, unit_interval
from jaxloss.traits import bounded, nonnegative


def _shares(probabilities: Array, labels: Array, mask: Array | None) -> tuple[Array, Array]:
    """The predicted and the true share of each class in each pixel; 0 where a pixel is left out."""
    kept = True if mask is None else mask[..., None]
    if labels.ndim < probabilities.ndim:
        labels = labels[..., None] == jnp.arange(probabilities.shape[-1], dtype=labels.dtype)
        labels = labels.astype(probabilities.dtype)
    return jnp.where(kept, probabilities, 0), jnp.where(kept, labels, 0)


# The losses are written with what is missed, which is all of a small loss: 1 less the overlap
# would be rounded to the last place of 1.
def _over_pixels(shares: Array) -> Array:
    return jnp.sum(shares, axis=(-3, -2))


def _importance(classes: int, class_weights: Any, ignore_background: bool, dtype: Any) -> Array:
    weights = jnp.ones(classes, dtype) if class_weights is None else class_weights
    return weights.at[0].set(0) if ignore_background else weights


def _mean_over_classes(losses: Array, weights: Array) -> Array:
    total = jnp.sum(weights)
    return numerics.quotient(jnp.sum(weights * losses, axis=-1), jnp.where(total == 0, 1, total))


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
    smooth: Real[ArrayLike, ""] = 1.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    squared: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to segment images in which what matters is small, next to a cross-entropy.

    $$\ell(p, t) = \frac{\sum_c w_c \ell_c}{\sum_c w_c}, \qquad
      \ell_c = 1 - \frac{2 \sum_i p_{ic} t_{ic} + s}{\sum_i p_{ic} + \sum_i t_{ic} + s}$$

    Sums run over the pixels of one image, never over the batch (in keras they do). The smoothing
    $s$, in pixels, decides what a class costs that is not in the image: with 0 it costs 1 however
    little of it is predicted, and teaches nothing; with 1 predicted pixels cost little by little.
    optax adds its `smooth` to half of either sum: there 1 is 2 here. Soft labels are not best
    predicted by themselves unless `squared`, which sums $p^2$ and $t^2$ (V-Net).

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        mask: False leaves a pixel out.
        smooth: The pixels added to both sums; 0 is the bare ratio, which is 0 for a class that
            is neither predicted nor there.
        class_weights: How much each class counts.
        ignore_background: Whether class 0 does not count.
        squared: Whether the denominator sums squares.

    Returns:
        The loss of each image, from 0 to 1; NaN if a class id names no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels, mask or class weights do not fit, or smoothing is a number below 0.

    Example:
        >>> probabilities, labels = jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]])
        >>> dice(probabilities, labels, smooth=0.0)
        Array(0.5, dtype=float32)

    References:
        Milletari, Navab and Ahmadi, *V-Net*, 2016.
    """
    predicted, true = _shares(probabilities, labels, mask)
    both = _over_pixels(predicted * true)
    if squared:
        missed = _over_pixels(jnp.square(predicted - true))
    else:
        missed = _over_pixels(predicted * (1 - true) + true * (1 - predicted))
    weights = _importance(
        probabilities.shape[-1], class_weights, ignore_background, probabilities.dtype
    )
    each = numerics.fraction(missed, 2 * both + smooth)
    return _mean_over_classes(each, weights)


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
    smooth: Real[ArrayLike, ""] = 1.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it like `dice` when a missed pixel is worse than a false one, or the other way round.

    $$\ell_c = 1 - \frac{\mathrm{TP}_c + s}
      {\mathrm{TP}_c + \alpha \, \mathrm{FP}_c + \beta \, \mathrm{FN}_c + s}$$

    with $\mathrm{TP}_c = \sum_i p_{ic} t_{ic}$, $\mathrm{FP}_c = \sum_i p_{ic} (1 - t_{ic})$ and
    $\mathrm{FN}_c = \sum_i (1 - p_{ic}) t_{ic}$. The defaults are the paper's: missed pixels cost
    more than twice what false ones do. (In keras alpha and beta stand the other way round.) With
    1/2 and 1/2 it is `dice` of twice the smoothing; with 1 and 1 the Jaccard loss, 1 - IoU.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        alpha: The cost of a false pixel.
        beta: The cost of a missed pixel.
        mask: False leaves a pixel out.
        smooth: The pixels added to both sums, as in `dice`.
        class_weights: How much each class counts.
        ignore_background: Whether class 0 does not count.

    Returns:
        The loss of each image, from 0 to 1; NaN if a class id names no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels, mask or class weights do not fit, or an option is a number below 0.

    Example:
        >>> probabilities, labels = jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]])
        >>> tversky(probabilities, labels, alpha=0.0, beta=1.0, smooth=0.0)
        Array(0.5, dtype=float32)

    References:
        Salehi, Erdogmus and Gholipour, *Tversky Loss Function for Image Segmentation*, 2017.
    """
    predicted, true = _shares(probabilities, labels, mask)
    both = _over_pixels(predicted * true)
    false = _over_pixels(predicted * (1 - true))
    missed = alpha * false + beta * _over_pixels(true * (1 - predicted))
    weights = _importance(
        probabilities.shape[-1], class_weights, ignore_background, probabilities.dtype
    )
    each = numerics.fraction(missed, both + smooth)
    return _mean_over_classes(each, weights)


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
    class_weights: Real[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it like `dice` when regions differ much in size: errors count relative to the region.

    $$\ell(p, t) = 1 - \frac{2 \sum_c v_c \sum_i p_{ic} t_{ic}}
      {\sum_c v_c \sum_i (p_{ic} + t_{ic})}, \qquad v_c = \frac{w_c}{(\sum_i t_{ic})^2}$$

    One ratio of weighted sums, as the paper has it (optax averages weighted ratios instead). The
    $v_c$ of a class that is not in the image would be infinite: it gets the largest $1/T^2$ of
    the classes that are (as in MONAI), so that predicting it costs as on the smallest of these. An
    image in which nothing is labelled has the unit weight 1 for every class, hence loss 1.

    Args:
        probabilities: The predicted share of each class in each pixel, from 0 to 1.
        labels: The class of each pixel, or the true share of each class in each pixel.
        mask: False leaves a pixel out.
        class_weights: How much each class counts, on top of its size.
        ignore_background: Whether class 0 does not count.

    Returns:
        The loss of each image, from 0 to 1; 0 if no pixel counts, NaN if a class id names no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels, mask or class weights do not fit.

    Example:
        >>> probabilities, labels = jnp.full((1, 2, 1), 0.5), jnp.array([[[1.0], [0.0]]])
        >>> generalized_dice(probabilities, labels)
        Array(0.5, dtype=float32)

    References:
        Sudre et al., *Generalised Dice Overlap as a Deep Learning Loss Function*, 2017.
    """
    predicted, true = _shares(probabilities, labels, mask)
    both = _over_pixels(predicted * true)
    missed = _over_pixels(predicted * (1 - true) + true * (1 - predicted))
    weights = _importance(
        probabilities.shape[-1], class_weights, ignore_background, probabilities.dtype
    )
    size = _over_pixels(true)
    counts = (size > 0) & (weights > 0)
    smallest = jnp.min(jnp.where(counts, size, jnp.inf), axis=-1, keepdims=True)
    size = jnp.where(counts, size, jnp.where(smallest == jnp.inf, 1, smallest))
    # Only the ratios of the weights matter: in a unit that makes the largest of them 1.
    relative = numerics.quotient(lax.stop_gradient(jnp.min(size, axis=-1, keepdims=True)), size)
    weights = weights * jnp.square(relative)
    return numerics.fraction(
        jnp.sum(weights * missed, axis=-1), 2 * jnp.sum(weights * both, axis=-1)
    )
