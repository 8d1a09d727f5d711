r"""Imbalance: losses for classes with many examples and classes with few.

There are three ways: a weight for each class (`class_balanced_weights`, for any loss with
`class_weights`), logits that are shifted by the class frequencies (`logit_adjusted`), and a larger
margin for rare classes (`ldam`).
"""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike as Numbers
from jaxtyping import Bool, Float, Int, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.classification._labels import Logits
from jaxloss.domains import class_ids, distribution, extended, nonnegative_number, positive
from jaxloss.numerics._derivatives import with_copies
from jaxloss.numerics._double_double import DD, two_sum
from jaxloss.numerics._labels import is_label
from jaxloss.numerics._softmax_dense import softmax_cross_entropy_dense
from jaxloss.numerics._softmax_nll import softmax_nll
from jaxloss.traits import bounded_gradient, convex, nonnegative, shift_invariant, smooth


def _adjusted(
    logits: Logits, class_counts: Float[Array, "classes"], temperature: Array | float
) -> DD:
    """logits + temperature * log(class_counts); -inf for a class that does not occur."""
    occurs = class_counts > 0
    offset = temperature * jnp.log(jnp.where(occurs, class_counts, 1))
    occurs, offset = (jnp.broadcast_to(x, logits.shape) for x in (occurs, offset))
    total = two_sum(jnp.where(jnp.isfinite(logits), logits, 0), offset)
    finite = jnp.isfinite(logits) & occurs
    hi = jnp.where(finite, total.hi, jnp.where(occurs, logits, -jnp.inf))
    return DD(hi, jnp.where(finite, total.lo, 0))


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=[class_ids("classes"), distribution],
    class_counts=nonnegative_number,
)
def logit_adjusted(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    class_counts: Real[ArrayLike, "classes"],
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    temperature: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Logit-adjusted cross-entropy, or balanced softmax.

    When to use: classification with rare classes, if the classes matter equally in evaluation.

    $$\ell(x, y) = -\log \frac{n_y^\tau e^{x_y}}{\sum_k n_k^\tau e^{x_k}}$$

    The logits do not have to represent the class frequencies: for predictions use them without the
    adjustment. With temperature 1 this is the balanced softmax. Frequencies may be given in place
    of counts.

    Args:
        logits: Scores of the classes; -inf gives a class probability 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        class_counts: The number of training examples of each class; 0 gives a class probability 0.
        mask: False leaves a class out of an example, or of all examples.
        temperature: The exponent of the counts; 0 is no adjustment.

    Returns:
        The loss of each example in nats; inf if the label has probability 0, NaN if a class id
        names no class.

    Example:
        >>> logit_adjusted([0.0, 0.0], 1, class_counts=[3, 1])
        Array(1.3862944, dtype=float32)

    References:
        Menon et al., *Long-tail Learning via Logit Adjustment*, 2021.
        Ren et al., *Balanced Meta-Softmax for Long-Tailed Visual Recognition*, 2020.
    """
    adjusted, *copies = (_adjusted(x, class_counts, temperature) for x in with_copies(logits))
    if labels.ndim < logits.ndim:
        return softmax_nll(adjusted, labels, (*copies,))
    return softmax_cross_entropy_dense(adjusted, labels, (*copies,))


def _scaled_with_margin(logits: Logits, margins: Logits, scale: Array | float) -> DD:
    """scale * (logits - margins)."""
    finite, scale = jnp.isfinite(logits), jnp.asarray(scale, logits.dtype)
    # Infinite logits are not multiplied: the derivative in the scale would be 0 times infinity.
    lowered = two_sum(jnp.where(finite, logits, 0), -margins)
    scaled = lowered * jnp.broadcast_to(scale, logits.shape)
    # A low word that is not small belongs to numbers above 1e8: they are equal or far apart.
    is_small = finite & (jnp.abs(scaled.lo) < 16)
    return DD(jnp.where(finite, scaled.hi, logits), jnp.where(is_small, scaled.lo, 0))


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=class_ids("classes"),
    class_counts=positive,
    max_margin=nonnegative_number,
    scale=positive,
)
def ldam(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"],
    *,
    class_counts: Real[ArrayLike, "classes"],
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    max_margin: Real[ArrayLike, ""] = 0.5,
    scale: Real[ArrayLike, ""] = 30.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Label-distribution-aware margin loss (LDAM): a cross-entropy with a margin for each class.

    When to use: classification by cosine scores with rare classes.

    $$\ell(x, y) = -\log \frac{e^{s (x_y - \Delta_y)}}
      {e^{s (x_y - \Delta_y)} + \sum_{k \ne y} e^{s x_k}}, \qquad
      \Delta_k = \Delta_{\max} \left( \frac{\min_j n_j}{n_k} \right)^{1/4}$$

    The rarer the class of the label, the larger its margin. The scores are meant to be cosines,
    between -1 and 1, of features and class weights. The authors add class weights late in training:
    that is `weights=class_weights[labels]`.

    Args:
        logits: Scores of the classes, not yet multiplied by the scale.
        labels: Class ids, integers without the class axis.
        class_counts: The number of training examples of each class.
        mask: False leaves a class out of an example, or of all examples.
        max_margin: The margin of the rarest class.
        scale: The factor of the scores, an inverse temperature.

    Returns:
        The loss of each example in nats; NaN if a class id names no class.

    Example:
        >>> ldam([0.5, 0.0], 0, class_counts=[1, 16])
        Array(0.6931472, dtype=float32)

    References:
        Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*, 2019.
    """
    kept = class_counts if mask is None else jnp.where(mask, class_counts, jnp.inf)
    rarest = jnp.min(kept, axis=-1, keepdims=True)
    rarest = jnp.where(rarest == jnp.inf, 1, rarest)  # every class is left out
    margins = max_margin * jnp.sqrt(jnp.sqrt(rarest / class_counts))
    margins = jnp.where(is_label(logits, labels), jnp.broadcast_to(margins, logits.shape), 0)
    scaled, *copies = (_scaled_with_margin(x, margins, scale) for x in with_copies(logits))
    return softmax_nll(scaled, labels, (*copies,))


def class_balanced_weights(class_counts: Numbers, *, beta: Numbers = 0.9999) -> Array:
    r"""Class-balanced weights: the inverse of the effective number of examples of each class.

    $$w_k = \frac{1}{c} \, \frac{1 - \beta}{1 - \beta^{n_k}}, \qquad
      c = \text{the mean of the weights of the classes that occur}$$

    They are meant for `class_weights` of a loss. With `beta=0` all classes have the same weight,
    with `beta=1` the inverse of their count. The mean weight is 1.

    Args:
        class_counts: The number of training examples of each class, (classes,).
        beta: From 0 to 1; more than 1 / (1 - beta) examples of a class change its weight little.

    Returns:
        The weight of each class; 0 for a class that does not occur.

    Raises:
        ValueError: If the counts do not have one axis, or beta is a number outside [0, 1].

    Example:
        >>> class_balanced_weights([1, 3], beta=1.0)
        Array([1.5, 0.5], dtype=float32)
    """
    counts = jnp.asarray(class_counts)
    counts = counts.astype(jnp.promote_types(counts.dtype, jnp.float32))
    if counts.ndim != 1:
        message = (
            f"class_balanced_weights: `class_counts` has shape {counts.shape}, not (classes,)."
        )
        raise ValueError(message)
    if isinstance(beta, int | float) and not 0 <= beta <= 1:
        message = f"class_balanced_weights: `beta` must be between 0 and 1, got {beta!r}."
        raise ValueError(message)
    # 1 - beta in double precision: in float32, 1 - 0.9999 has four digits.
    complement = jnp.asarray(1 - beta if isinstance(beta, int | float) else 1 - jnp.asarray(beta))
    complement = complement.astype(counts.dtype)
    log_beta = jnp.log1p(-jnp.where(complement > 0, complement, 0.5))
    # The effective number of examples: n at beta = 1, 1 at beta = 0.
    number = jnp.where(complement > 0, -jnp.expm1(counts * log_beta) / complement, counts)
    occurs = counts > 0
    inverse = jnp.where(occurs, 1 / jnp.where(occurs, number, 1), 0)
    mean = jnp.sum(inverse) / jnp.maximum(jnp.sum(occurs), 1).astype(inverse.dtype)
    return inverse / jnp.where(mean > 0, mean, 1)
