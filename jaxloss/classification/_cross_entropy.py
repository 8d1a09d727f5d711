r"""Cross-entropy in all its forms: of logits, of probabilities, of log-probabilities."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike as Numbers
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import (
    class_ids,
    distribution,
    extended,
    log_probability,
    nonnegative_number,
    unit_interval,
)
from jaxloss.numerics._labels import is_static_zero, take_label, uniform_over_finite
from jaxloss.numerics._softmax_nll import (
    sigmoid_nll,
    softmax_cross_entropy_dense,
    softmax_nll,
)
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
    r"""Take it to choose one of several classes: the log-likelihood of the right one, negated.

    $$\ell(x, y) = -\log \frac{e^{x_y}}{\sum_k e^{x_k}}, \qquad
      \ell(x, q) = -\sum_k q_k \log \frac{e^{x_k}}{\sum_j e^{x_j}}$$

    Smallest at the true probabilities, so they can be read off with a softmax. One wrong label
    that the model is sure about costs without bound: with wrong labels, smooth them. With class
    weights $w$ the terms are $w_k q_k$; the mean then divides by the number of examples (torch
    divides by the sum of the labels' weights: that is `weights=class_weights[labels]`).

    Args:
        logits: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False takes a class out of an example (or out of all), whatever logits and
            distributions hold there: probability and gradient 0. A class id that names it costs
            inf.
        label_smoothing: The share of each label that is spread evenly over the possible classes.
        class_weights: How much each class counts.

    Returns:
        The loss of each example in nats; inf if the label's class is impossible, NaN if a class
        id names no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels, mask or class weights do not fit the logits.

    Example:
        >>> softmax_cross_entropy([[0.0, 0.0], [80.0, 0.0]], [1, 0])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Bridle, *Probabilistic Interpretation of Feedforward Classification Network Outputs*, 1990.
        Szegedy et al., *Rethinking the Inception Architecture* (label smoothing), 2016.
    """
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    if labels.ndim == logits.ndim:
        labels = labels if mask is None else jnp.where(mask, labels, 0)
        if not is_static_zero(label_smoothing):
            labels = (1 - label_smoothing) * labels + label_smoothing * uniform_over_finite(logits)
        weighted = labels if class_weights is None else class_weights * labels
        return softmax_cross_entropy_dense(logits, weighted)
    surprise = softmax_nll(logits, labels)
    if class_weights is not None:
        surprise = class_weights[labels] * surprise
    if is_static_zero(label_smoothing):
        return surprise
    even = (
        uniform_over_finite(logits)
        if class_weights is None
        else class_weights * uniform_over_finite(logits)
    )
    spread = softmax_cross_entropy_dense(logits, even)
    return (1 - label_smoothing) * surprise + label_smoothing * spread


def _check_last_axis(weights: Any, logits: Array) -> None:
    """One weight a label is the one thing that stretches along the axes in front."""
    if jnp.ndim(weights) and weights.shape not in (logits.shape, logits.shape[-1:]):
        message = (
            f"jaxloss.classification.sigmoid_cross_entropy: `positive_weight` has shape "
            f"{weights.shape}, expected {logits.shape} to fit `logits`, or one weight a label, "
            f"{logits.shape[-1:]}."
        )
        raise ValueError(message)


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
    r"""Take it for yes or no, or for several labels at once: one independent decision a logit.

    $$\ell(x, y) = y \log(1 + e^{-x}) + (1 - y) \log(1 + e^{x})$$

    Smallest at the true probability, which is then the sigmoid of the logit. A rare positive
    class can be made to count more with `positive_weight`, at the price of that reading.

    Args:
        logits: Scores before the sigmoid; infinite ones are sure.
        labels: 1 for yes, 0 for no, or the probability of yes.
        label_smoothing: The share of each label that is moved to 1/2.
        positive_weight: What a yes counts, if a no counts 1: one number, one a decision, or one a
            label, along the last axis.

    Returns:
        The loss of each decision in nats.

    Raises:
        ValueError: If the shapes differ, the positive weights do not fit, or the label smoothing
            is not between 0 and 1.

    Example:
        >>> sigmoid_cross_entropy([0.0, 80.0], [1, 1])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Cox, *The Regression Analysis of Binary Sequences*, 1958.
    """
    _check_last_axis(positive_weight, logits)
    yes, no = labels, 1 - labels
    if not is_static_zero(label_smoothing):
        yes, no = ((1 - label_smoothing) * share + 0.5 * label_smoothing for share in (yes, no))
    return sigmoid_nll(logits, positive_weight * yes, no)


@loss(convex, nonnegative, proper, probabilities=unit_interval, labels=unit_interval)
def binary_cross_entropy(
    probabilities: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it when probabilities are all there is; with logits, `sigmoid_cross_entropy` is safer.

    $$\ell(p, y) = -y \log p - (1 - y) \log(1 - p)$$

    Nothing is clipped: a probability of exactly 0 for what happened costs inf, of exactly 1
    costs 0. (keras clips at 1e-7 and torch caps the loss at 100, with gradient 0 there.)

    Args:
        probabilities: The predicted probability of yes.
        labels: 1 for yes, 0 for no, or the probability of yes.

    Returns:
        The loss of each decision in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> binary_cross_entropy([0.5, 1.0, 0.0], [1, 1, 1])
        Array([0.6931472, 0.       ,       inf], dtype=float32)

    References:
        Good, *Rational Decisions*, 1952.
    """
    yes = numerics.xlogy(labels, probabilities)
    no = numerics.xlog1py(1 - labels, -probabilities)
    return 0 - (yes + no)  # not -(yes + no), which is -0 for a perfect prediction


@loss(
    convex,
    nonnegative,
    probabilities=distribution,
    labels=[class_ids("classes"), distribution],
)
def categorical_cross_entropy(
    probabilities: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when probabilities are all there is; with logits, `softmax_cross_entropy` is safer.

    $$\ell(p, y) = -\log p_y, \qquad \ell(p, q) = -\sum_k q_k \log p_k$$

    Nothing is clipped or rescaled: the probabilities of an example have to sum to 1 (keras
    divides by their sum).

    Args:
        probabilities: Predicted probabilities of the classes.
        labels: Class ids, integers without the class axis; or distributions over the classes.

    Returns:
        The loss of each example in nats; inf if what happened had probability 0.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If the labels do not fit the probabilities.

    Example:
        >>> categorical_cross_entropy([[0.5, 0.5], [0.0, 1.0]], [0, 1])
        Array([0.6931472, 0.       ], dtype=float32)

    References:
        Good, *Rational Decisions*, 1952.
    """
    if labels.ndim == probabilities.ndim:
        return 0 - jnp.sum(numerics.xlogy(labels, probabilities), axis=-1)
    return 0 - jnp.log(take_label(probabilities, labels))


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    log_probabilities=log_probability,
    labels=[class_ids("classes"), distribution],
    class_weights=nonnegative_number,
)
def negative_log_likelihood(
    log_probabilities: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when a model returns log-probabilities, as mixtures and normalizing flows do.

    $$\ell(l, y) = -l_y, \qquad \ell(l, q) = -\sum_k q_k l_k$$

    Nothing is normalized: after a log-softmax it is `softmax_cross_entropy`, which keeps more
    digits. With class weights the mean divides by the number of examples; torch divides by the
    sum of the labels' weights, which is `weights=class_weights[labels]` here.

    Args:
        log_probabilities: Logs of the predicted probabilities; -inf is a probability of 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        class_weights: How much each class counts.

    Returns:
        The loss of each example in nats; inf if what happened had probability 0.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels or class weights do not fit the log-probabilities.

    Example:
        >>> negative_log_likelihood([[-0.5, -1.0], [0.0, -jnp.inf]], [1, 0])
        Array([1., 0.], dtype=float32)

    References:
        Fisher, *On the Mathematical Foundations of Theoretical Statistics*, 1922.
    """
    if labels.ndim == log_probabilities.ndim:
        weighted = labels if class_weights is None else class_weights * labels
        return jnp.sum(numerics.multiply_no_nan(weighted, -log_probabilities), axis=-1)
    surprise = 0 - take_label(log_probabilities, labels)
    return surprise if class_weights is None else class_weights[labels] * surprise


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
    class_weights: Real[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to tag an example with several labels, and to count examples rather than decisions.

    $$\ell(x, y) = \frac1K \sum_k w_k \left( y_k \log(1 + e^{-x_k})
      + (1 - y_k) \log(1 + e^{x_k}) \right)$$

    It is `sigmoid_cross_entropy`, averaged over the $K$ labels of an example: the divisor is $K$,
    as in torch, whatever the class weights sum to.

    Args:
        logits: Scores before the sigmoid, one a label.
        labels: 1 where a label is on, 0 where it is off, or the probability that it is on.
        class_weights: How much each label counts.

    Returns:
        The loss of each example in nats a label.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> multilabel_soft_margin([0.0, 80.0], [1, 1])
        Array(0.3465736, dtype=float32)

    References:
        Zhang and Zhou, *A Review on Multi-Label Learning Algorithms*, 2014.
    """
    yes = numerics.multiply_no_nan(labels, numerics.softplus(-logits))
    no = numerics.multiply_no_nan(1 - labels, numerics.softplus(logits))
    weights = 1 if class_weights is None else class_weights
    return jnp.mean(weights * (yes + no), axis=-1)


@loss(nonnegative, smooth, logits=extended)
def z_loss(
    logits: Real[ArrayLike, "*batch classes"],
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it beside a cross-entropy, times 1e-4 or so, to keep logits from drifting off.

    $$\ell(x) = \left( \log \sum_k e^{x_k} \right)^2$$

    A cross-entropy does not notice a number added to all logits; half precision does. This pulls
    the log of their partition function to 0, where logits are log-probabilities.

    Args:
        logits: Scores of the classes, or of the experts of a router.

    Returns:
        The squared log-partition function of each example.

    Raises:
        ValueError: If the logits have no class axis.

    Example:
        >>> z_loss([[0.0, -jnp.inf], [1.0, -jnp.inf]])
        Array([0., 1.], dtype=float32)

    References:
        Zoph et al., *ST-MoE: Designing Stable and Transferable Sparse Expert Models*, 2022.
    """
    # The largest logit, and its surprise, which has a gradient with all its digits.
    top = jnp.argmax(logits, axis=-1)
    largest = take_label(logits, top)
    impossible = largest == -jnp.inf
    surprise = softmax_nll(logits, top)
    return jnp.square(largest + jnp.where(impossible, 0, surprise))


def smooth_labels(
    labels: Numbers,
    smoothing: Numbers,
    *,
    classes: int | None = None,
    mask: Numbers | None = None,
) -> Array:
    r"""Mixes labels with the even distribution, for losses that take distributions.

    $$q_k = (1 - s) \, y_k + \frac{s}{|M|} \, [k \in M]$$

    The share $s$ goes to the possible classes $M$ alone (optax gives it to masked ones as well).
    `softmax_cross_entropy(label_smoothing=...)` does the same without an array of this size.

    Args:
        labels: Class ids, integers without the class axis; or distributions, classes last.
        smoothing: The share that is spread, from 0 to 1: a number, or one an example.
        classes: The number of classes; with class ids, it or the mask must tell.
        mask: False for classes that are impossible: one for all examples, or one an example.

    Returns:
        Distributions over the classes, float32 or float64; NaN for an id that names no class.

    Raises:
        ValueError: If class ids come without the number of classes, or shapes do not fit.

    Example:
        >>> smooth_labels([0, 1], 0.3, mask=[True, True, False])
        Array([[0.85, 0.15, 0.  ],
               [0.15, 0.85, 0.  ]], dtype=float32)
    """
    labels, smoothing = jnp.asarray(labels), jnp.asarray(smoothing)
    possible = jnp.asarray(True if mask is None else mask)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        size = classes if mask is None else possible.shape[-1]
        if size is None or classes not in (None, size):
            message = f"smooth_labels: class ids need `classes`, got {classes} (mask: {size})."
            raise ValueError(message)
        ids = labels[..., None]
        one_hot = (ids == jnp.arange(size)).astype(jnp.float32)
        labels = jnp.where((ids >= 0) & (ids < size), one_hot, jnp.nan)
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.float32))
    smoothing = smoothing.astype(labels.dtype)
    if possible.shape not in ((), labels.shape[-1:], labels.shape):
        message = f"smooth_labels: `mask` {possible.shape} does not fit labels {labels.shape}."
        raise ValueError(message)
    if smoothing.shape not in ((), labels.shape[:-1]):
        message = f"smooth_labels: `smoothing` {smoothing.shape} is not one number an example."
        raise ValueError(message)
    even = uniform_over_finite(jnp.where(possible, jnp.zeros_like(labels), -jnp.inf))
    share = smoothing[..., None]
    return (1 - share) * labels + share * even
