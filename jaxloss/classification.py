r"""Classification: losses of scores for the classes of an example.

`logits` are scores before softmax or sigmoid: prefer them to probabilities, which have already
lost what they lost. The classes lie along the last axis, or along `axis`. Labels come in two
forms, told apart by shape and dtype: integers name the class of each example, floats of the
logits' shape are distributions over the classes. A class id that names no class gives NaN, in
value and gradient, for that example; `where=labels != -100` leaves such examples out.

Binary losses are elementwise, one score a decision, so that several labels may be on at once.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._softmax import even_over_possible, surprise_of_class, surprise_of_distribution
from jaxloss.contract import loss
from jaxloss.declaration import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import (
    class_ids,
    distribution,
    extended,
    nonnegative_number,
    sign_label,
    unit_interval,
)
from jaxloss.traits import bounded_gradient, convex, nonnegative, proper, shift_invariant, smooth


def _is_off(option: Any) -> bool:
    """Whether an option is the number 0, known before tracing; a traced 0 is computed with."""
    return isinstance(option, int | float) and option == 0


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
        mask: False takes a class out of an example (or out of all): probability and gradient 0.
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
        if not _is_off(label_smoothing):
            labels = (1 - label_smoothing) * labels + label_smoothing * even_over_possible(logits)
        weighted = labels if class_weights is None else class_weights * labels
        return surprise_of_distribution(logits, weighted)
    surprise = surprise_of_class(logits, labels)
    if class_weights is not None:
        surprise = class_weights[labels] * surprise
    if _is_off(label_smoothing):
        return surprise
    even = even_over_possible(logits) if class_weights is None else class_weights * even_over_possible(logits)
    spread = surprise_of_distribution(logits, even)
    return (1 - label_smoothing) * surprise + label_smoothing * spread


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
    positive_weight: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
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
        positive_weight: What a yes counts, if a no counts 1.

    Returns:
        The loss of each decision in nats.

    Raises:
        ValueError: If the shapes differ, or the label smoothing is not between 0 and 1.

    Example:
        >>> sigmoid_cross_entropy([0.0, 80.0], [1, 1])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Cox, *The Regression Analysis of Binary Sequences*, 1958.
    """
    yes, no = labels, 1 - labels
    if not _is_off(label_smoothing):
        yes, no = ((1 - label_smoothing) * share + 0.5 * label_smoothing for share in (yes, no))
    surprise_of_yes = numerics.multiply_no_nan(positive_weight * yes, numerics.softplus(-logits))
    return surprise_of_yes + numerics.multiply_no_nan(no, numerics.softplus(logits))


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
    return -(yes + no)


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
        return -jnp.sum(numerics.xlogy(labels, probabilities), axis=-1)
    return -jnp.log(jnp.take_along_axis(probabilities, labels[..., None], axis=-1)[..., 0])


@loss(convex, nonnegative, bounded_gradient, labels=sign_label)
def hinge(
    scores: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for yes or no with a margin, when only the decision counts and not its probability.

    $$\ell(s, y) = \max(0, 1 - y s)$$

    Examples beyond the margin pull no more: the fit depends on the hard ones alone (support
    vectors). It says nothing about probabilities, and a wrong label pulls as hard as a right one.

    Args:
        scores: Positive for yes, negative for no; the margin is at 1.
        labels: +1 for yes, -1 for no; anything else gives NaN.
        zero_one_labels: Whether the labels are 1 for yes and 0 for no instead.

    Returns:
        The loss of each decision, in the unit of the scores.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> hinge([2.0, 0.5, -1.0], [1, 1, 1])
        Array([0. , 0.5, 2. ], dtype=float32)

    References:
        Cortes and Vapnik, *Support-Vector Networks*, 1995.
    """
    sign = 2 * labels - 1 if zero_one_labels else labels
    return jax.nn.relu(1 - sign * scores)


@loss(convex, nonnegative, smooth, labels=sign_label)
def squared_hinge(
    scores: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it like the hinge when a smooth loss trains better; it minds gross errors much more.

    $$\ell(s, y) = \max(0, 1 - y s)^2$$

    Args:
        scores: Positive for yes, negative for no; the margin is at 1.
        labels: +1 for yes, -1 for no; anything else gives NaN.
        zero_one_labels: Whether the labels are 1 for yes and 0 for no instead.

    Returns:
        The loss of each decision, in the squared unit of the scores.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> squared_hinge([2.0, 0.5, -1.0], [1, 1, 1])
        Array([0.  , 0.25, 4.  ], dtype=float32)

    References:
        Lee and Mangasarian, *SSVM: A Smooth Support Vector Machine*, 2001.
    """
    sign = 2 * labels - 1 if zero_one_labels else labels
    return jnp.square(jax.nn.relu(1 - sign * scores))
