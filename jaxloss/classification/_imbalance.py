r"""Imbalance: losses for classes of which there are many examples, and few.

Three ways: weigh the classes (`class_balanced_weights`, for any loss with class weights), tell
the model how rare they are (`logit_adjusted`), or ask rare ones for a larger lead (`ldam`).
"""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike as Numbers
from jaxtyping import Float, Int, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.domains import class_ids, distribution, extended, nonnegative_number, positive
from jaxloss.numerics._double_double import DD, two_product, two_sum
from jaxloss.numerics._softmax_nll import softmax_cross_entropy_dense, softmax_nll
from jaxloss.traits import bounded_gradient, convex, nonnegative, shift_invariant, smooth


def _surprise(logits: Array, lost: Array, labels: Array) -> Array:
    """-log softmax(logits + lost)[label], where `lost` is too small to be added to the logits."""
    # A first-order term makes good what rounding would multiply by the size of the logits.
    of_labels = softmax_nll if labels.ndim < logits.ndim else softmax_cross_entropy_dense
    value, change = jax.jvp(lambda x: of_labels(x, labels), (logits,), (lost,))
    return value + change


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
    temperature: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when classes are rare in training, but should count alike when the model is used.

    $$\ell(x, y) = -\log \frac{n_y^\tau e^{x_y}}{\sum_k n_k^\tau e^{x_k}}$$

    The model learns what the scores say beyond the class frequencies: use the plain logits when
    predicting. With temperature 1 it is the balanced softmax; frequencies do as well as counts.

    Args:
        logits: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        class_counts: How often each class occurs in training; 0 makes a class impossible.
        temperature: How much of the imbalance is taken over; 0 is none.

    Returns:
        The loss of each example in nats; inf if the label's class is impossible, NaN if a class
        id names no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels or class counts do not fit the logits.

    Example:
        >>> logit_adjusted([0.0, 0.0], 1, class_counts=[3, 1])
        Array(1.3862944, dtype=float32)

    References:
        Menon et al., *Long-tail Learning via Logit Adjustment*, 2021.
        Ren et al., *Balanced Meta-Softmax for Long-Tailed Visual Recognition*, 2020.
    """
    occurs = class_counts > 0
    logs = jnp.log(jnp.where(occurs, class_counts, 1))
    offset = jnp.where(occurs, temperature * logs, -jnp.inf)
    adjusted, lost = two_sum(logits, offset)
    if labels.ndim < logits.ndim:
        return softmax_nll(DD(adjusted, lost), labels)  # also where a first-order term underflows
    return _surprise(adjusted, lost, labels)


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
    max_margin: Real[ArrayLike, ""] = 0.5,
    scale: Real[ArrayLike, ""] = 30.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it on cosine scores when classes are rare: the rarer the label, the larger its lead.

    $$\ell(x, y) = -\log \frac{e^{s (x_y - \Delta_y)}}
      {e^{s (x_y - \Delta_y)} + \sum_{k \ne y} e^{s x_k}}, \qquad
      \Delta_k = \Delta_{\max} \left( \frac{\min_j n_j}{n_k} \right)^{1/4}$$

    The scores are meant to be cosines, between -1 and 1, of features and class weights. The
    authors turn on class weights late in training: that is `weights=`.

    Args:
        logits: Scores of the classes, not yet multiplied by the scale.
        labels: Class ids, integers without the class axis.
        class_counts: How often each class occurs in training.
        max_margin: The margin of the rarest class.
        scale: What the scores are multiplied by; an inverse temperature.

    Returns:
        The loss of each example in nats; NaN if a class id names no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels or class counts do not fit the logits, or a number is out of range.

    Example:
        >>> ldam([0.5, 0.0], 0, class_counts=[1, 16])
        Array(0.6931472, dtype=float32)

    References:
        Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*, 2019.
    """
    margins = max_margin * jnp.sqrt(jnp.sqrt(jnp.min(class_counts) / class_counts))
    is_label = labels[..., None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)
    lowered, lost = two_sum(logits, jnp.where(is_label, -margins, 0))
    scaled, lost_again = two_product(lowered, jnp.broadcast_to(scale, lowered.shape))
    return _surprise(scaled, lax.stop_gradient(scale) * lost + lost_again, labels)


def class_balanced_weights(class_counts: Numbers, *, beta: Numbers = 0.9999) -> Array:
    r"""Weights for rare classes that grow less than their rarity: for any `class_weights=`.

    $$w_k = \frac{1}{c} \, \frac{1 - \beta}{1 - \beta^{n_k}}, \qquad
      c = \text{the mean of the weights of the classes that occur}$$

    The more examples a class has, the less a further one adds: beta says how much less. 0 weighs
    all classes alike, 1 by the inverse of their counts. The mean weight is 1.

    Args:
        class_counts: How often each class occurs in training, (classes,).
        beta: From 0 to 1; examples beyond 1 / (1 - beta) of them count little.

    Returns:
        The weight of each class; 0 for one that does not occur.

    Raises:
        ValueError: If the counts are not one row, or beta is a number outside [0, 1].

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
    # A number is taken in double precision: 1 - 0.9999 has four digits in float32.
    complement = jnp.asarray(1 - beta if isinstance(beta, int | float) else 1 - jnp.asarray(beta))
    complement = complement.astype(counts.dtype)
    log_beta = jnp.log1p(-jnp.where(complement > 0, complement, 0.5))
    # The effective number of examples: n at beta = 1, 1 at beta = 0.
    number = jnp.where(complement > 0, -jnp.expm1(counts * log_beta) / complement, counts)
    occurs = counts > 0
    inverse = jnp.where(occurs, 1 / jnp.where(occurs, number, 1), 0)
    mean = jnp.sum(inverse) / jnp.maximum(jnp.sum(occurs), 1)
    return inverse / jnp.where(mean > 0, mean, 1)
