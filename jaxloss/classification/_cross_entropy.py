"""Cross-entropy of logits, and what is made of it."""

from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike as Numbers
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import came_in_half, to_accumulator
from jaxloss._core.labels import to_index
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.classification._labels import (
    times_weight_of_label,
    weighted_labels,
)
from jaxloss.domains import (
    class_ids,
    distribution,
    extended,
    nonnegative_number,
    unit_interval,
)
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._labels import is_label, is_static_zero, uniform_over_finite
from jaxloss.numerics._reductions import mean_where
from jaxloss.numerics._sigmoid_nll import sigmoid_nll
from jaxloss.numerics._softmax_dense import softmax_cross_entropy_dense
from jaxloss.numerics._softmax_nll import log_partition, smoothed_softmax_nll, softmax_nll
from jaxloss.traits import bounded_gradient, convex, nonnegative, proper, shift_invariant, smooth


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    proper,
    logits=extended,
    labels=[class_ids("classes"), distribution],
    label_smoothing=unit_interval,
    class_weights=nonnegative_number,
)
def softmax_cross_entropy(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Softmax cross-entropy: the negative log-probability of the label.

    When to use: classification into one of several classes.

    $$\ell(x, y) = -\log \frac{e^{x_y}}{\sum_k e^{x_k}}, \qquad
      \ell(x, q) = -\sum_k q_k \log \frac{e^{x_k}}{\sum_j e^{x_j}}$$

    It is smallest in expectation at the true probabilities, so that `jax.nn.softmax(logits)`
    estimates them. It is not bounded: with wrong labels, use label smoothing or
    `generalized_cross_entropy`. With class weights $w$ the terms are $w_k q_k$, and the mean
    divides by the number of examples (torch divides by the sum of the weights of the labels: that
    is `weights=class_weights[labels]`).

    Args:
        logits: Scores of the classes; -inf gives a class probability 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False leaves a class out of an example (of shape (classes,): out of all examples),
            whatever logits and distributions hold there: its probability and its gradient are 0. A
            class id of a masked class has loss inf. Whole examples are left out by `where`.
        label_smoothing: The part of each label that is spread evenly over the classes that are
            neither masked nor -inf.
        class_weights: The weight of each class.

    Returns:
        The loss of each example in nats; inf if the label has probability 0, NaN if a class id
        names no class.

    Example:
        >>> softmax_cross_entropy([[0.0, 0.0], [80.0, 0.0]], [1, 0])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Bridle, *Probabilistic Interpretation of Feedforward Classification Network Outputs*, 1990.
        Szegedy et al., *Rethinking the Inception Architecture* (label smoothing), 2016.
    """
    if labels.ndim == logits.ndim:
        if not is_static_zero(label_smoothing):
            labels = (1 - label_smoothing) * labels + label_smoothing * uniform_over_finite(logits)
        return softmax_cross_entropy_dense(logits, weighted_labels(labels, class_weights))
    is_smoothed = not is_static_zero(label_smoothing)
    if is_smoothed and class_weights is None:
        return smoothed_softmax_nll(logits, labels, label_smoothing)
    nll = softmax_nll(logits, labels, of_half=came_in_half("logits"))
    nll = times_weight_of_label(nll, labels, class_weights)
    if not is_smoothed:
        return nll
    uniform = weighted_labels(uniform_over_finite(logits), class_weights)
    spread = softmax_cross_entropy_dense(logits, uniform)
    return (1 - label_smoothing) * nll + label_smoothing * spread


def _per_decision(positive_weight: ArrayLike, logits: Array) -> Any:
    """The weights in the shape of the logits; one weight a label is broadcast over the batch."""
    if not jnp.ndim(positive_weight):
        return positive_weight
    if positive_weight.shape not in (logits.shape, logits.shape[-1:]):
        raise ValueError(
            f"jaxloss.classification.sigmoid_cross_entropy: `positive_weight` has shape "
            f"{positive_weight.shape}, expected {logits.shape} to fit `logits`, or one weight a "
            f"label, {logits.shape[-1:]}."
        )
    return jnp.broadcast_to(positive_weight, logits.shape)


@loss(
    convex,
    nonnegative,
    smooth,
    proper,
    logits=extended,
    labels=unit_interval,
    label_smoothing=unit_interval,
    positive_weight=nonnegative_number,
)
def sigmoid_cross_entropy(
    logits: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    positive_weight: Real[ArrayLike, ""]
    | Real[ArrayLike, "*batch"]
    | Real[ArrayLike, "classes"] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Sigmoid cross-entropy: the binary cross-entropy of logits, one for each decision.

    When to use: binary classification, or several labels that may be on at once.

    $$\ell(x, y) = y \log(1 + e^{-x}) + (1 - y) \log(1 + e^{x})$$

    It is smallest in expectation where `jax.nn.sigmoid(logits)` is the true probability. A
    `positive_weight` other than 1 gives rare positives more weight, but the sigmoid is then no
    longer an estimate of the probability.

    Args:
        logits: Log-odds of yes; may be infinite.
        labels: 1 for yes, 0 for no, or the probability of yes.
        label_smoothing: The part of each label that is replaced by 1/2.
        positive_weight: The weight of yes, where no has weight 1: one number, one for each
            decision, or one for each label, along the last axis.

    Returns:
        The loss of each decision in nats.

    Raises:
        ValueError: If `positive_weight` does not have one of these shapes.

    Example:
        >>> sigmoid_cross_entropy([0.0, 80.0], [1, 1])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Cox, *The Regression Analysis of Binary Sequences*, 1958.
    """
    yes, no = labels, 1 - labels
    if not is_static_zero(label_smoothing):
        yes, no = ((1 - label_smoothing) * part + 0.5 * label_smoothing for part in (yes, no))
    return sigmoid_nll(logits, _per_decision(positive_weight, logits) * yes, no)


@separate_derivative
def _nll_of_both(logits: Array, labels: Array) -> Array:
    yes = numerics.multiply_no_nan(labels, numerics.softplus(-logits))
    no = numerics.multiply_no_nan(1 - labels, numerics.softplus(logits))
    return yes + no


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    logits=extended,
    labels=unit_interval,
    class_weights=nonnegative_number,
)
def multilabel_soft_margin(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Multi-label soft margin loss: the mean sigmoid cross-entropy of the labels of an example.

    When to use: multi-label classification in which an example, not a decision, is the unit of the
    mean.

    $$\ell(x, y) = \frac1K \sum_k w_k \left( y_k \log(1 + e^{-x_k})
      + (1 - y_k) \log(1 + e^{x_k}) \right)$$

    It is `sigmoid_cross_entropy`, averaged over the $K$ labels of an example: the divisor is $K$,
    as in torch, whatever the class weights sum to.

    Args:
        logits: Log-odds, one for each label.
        labels: 1 where a label is on, 0 where it is off, or the probability that it is on.
        mask: False leaves a label out of an example, or of all examples; $K$ is the number of those
            that are left.
        class_weights: The weight of each label.

    Returns:
        The loss of each example in nats per label.

    Example:
        >>> multilabel_soft_margin([0.0, 80.0], [1, 1])
        Array(0.3465736, dtype=float32)

    References:
        Zhang and Zhou, *A Review on Multi-Label Learning Algorithms*, 2014.
    """
    return mean_where(weighted_labels(_nll_of_both(logits, labels), class_weights), mask)


@loss(nonnegative, smooth, logits=extended)
def z_loss(
    logits: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Z-loss: the squared logarithm of the partition function of a softmax.

    When to use: added to a cross-entropy with a weight of about 1e-4, to keep logits from drifting,
    in routers and in training in half precision.

    $$\ell(x) = \left( \log \sum_k e^{x_k} \right)^2$$

    A cross-entropy does not change if a number is added to all logits. This loss is 0 where the
    logits are log-probabilities.

    Args:
        logits: Scores of the classes, or of the experts of a router.
        mask: False leaves a class out of an example, or of all examples.

    Returns:
        The squared log-partition function of each example.

    Example:
        >>> z_loss([[0.0, -jnp.inf], [1.0, -jnp.inf]])
        Array([0., 1.], dtype=float32)

    References:
        Zoph et al., *ST-MoE: Designing Stable and Transferable Sparse Expert Models*, 2022.
    """
    return jnp.square(log_partition(logits))


def smooth_labels(
    labels: Numbers,
    smoothing: Numbers,
    *,
    classes: int | None = None,
    mask: Numbers | None = None,
) -> Array:
    r"""Mixes labels with the uniform distribution, for losses that take distributions.

    $$q_k = (1 - s) \, y_k + \frac{s}{|M|} \, [k \in M]$$

    The smoothing is spread over the classes $M$ that are not masked (optax includes masked ones).
    `softmax_cross_entropy(label_smoothing=...)` gives the same loss without an array of this size.

    Args:
        labels: Class ids, integers without the class axis; or distributions, classes last.
        smoothing: The part that is spread, from 0 to 1: a number, or one for each example.
        classes: The number of classes; required with class ids, unless `mask` is given.
        mask: False for classes that are left out: one for all examples, or one for each.

    Returns:
        Distributions over the classes, float32 or float64; NaN for an id that names no class.

    Raises:
        ValueError: If class ids come without the number of classes, or shapes do not match.

    Example:
        >>> smooth_labels([0, 1], 0.3, mask=[True, True, False])
        Array([[0.85, 0.15, 0.  ],
               [0.15, 0.85, 0.  ]], dtype=float32)
    """
    given = labels if isinstance(labels, Array) else np.asarray(labels)
    kept, smoothing = jnp.asarray(True if mask is None else mask), jnp.asarray(smoothing)
    if jnp.issubdtype(given.dtype, jnp.integer):
        size = classes if mask is None else kept.shape[-1]
        if size is None or classes not in (None, size):
            message = f"smooth_labels: class ids need `classes`, got {classes} (mask: {size})."
            raise ValueError(message)
        ids = to_index("smooth_labels", "labels", given, bounded=True)
        one_hot = is_label(jnp.zeros((*ids.shape, size)), ids)
        is_valid = jnp.any(one_hot, axis=-1, keepdims=True)
        given = jnp.where(is_valid, one_hot.astype(jnp.float32), jnp.nan)
    labels = to_accumulator(given)
    smoothing = smoothing.astype(labels.dtype)
    if kept.shape not in ((), labels.shape[-1:], labels.shape):
        message = f"smooth_labels: `mask` {kept.shape} does not fit labels {labels.shape}."
        raise ValueError(message)
    if smoothing.shape not in ((), labels.shape[:-1]):
        message = f"smooth_labels: `smoothing` {smoothing.shape} is not one number an example."
        raise ValueError(message)
    kept = jnp.broadcast_to(kept, labels.shape)
    uniform = uniform_over_finite(jnp.where(kept, jnp.zeros_like(labels), -jnp.inf))
    part = jnp.broadcast_to(smoothing, labels.shape[:-1])[..., None]
    return (1 - part) * labels + part * uniform
