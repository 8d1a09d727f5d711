"""Cross-entropy of probabilities, and of their logarithms, where a model gives no logits."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.classification._labels import (
    times_weight_of_label,
    weighted_labels,
)
from jaxloss.domains import (
    class_ids,
    distribution,
    log_probability,
    nonnegative_number,
    unit_interval,
)
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.numerics._labels import take_label
from jaxloss.numerics._reductions import row_sum
from jaxloss.traits import bounded_gradient, convex, nonnegative, proper, smooth


@loss(convex, nonnegative, proper, probabilities=unit_interval, labels=unit_interval)
def binary_cross_entropy(
    probabilities: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Binary cross-entropy of probabilities.

    When to use: binary classification by a model that returns probabilities. With logits,
    `sigmoid_cross_entropy` is more accurate.

    $$\ell(p, y) = -y \log p - (1 - y) \log(1 - p)$$

    Nothing is clipped: the loss is inf where the label has probability 0. (Keras clips
    probabilities at 1e-7; torch caps the loss at 100, with gradient 0 there.)

    Args:
        probabilities: Predicted probabilities of yes.
        labels: 1 for yes, 0 for no, or the probability of yes.

    Returns:
        The loss of each decision in nats.

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
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Categorical cross-entropy of probabilities.

    When to use: classification by a model that returns probabilities. With logits,
    `softmax_cross_entropy` is more accurate.

    $$\ell(p, y) = -\log p_y, \qquad \ell(p, q) = -\sum_k q_k \log p_k$$

    Nothing is clipped or rescaled: the probabilities of an example have to sum to 1 (Keras divides
    by their sum).

    Args:
        probabilities: Predicted probabilities of the classes.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False sets the probability and the label of a class to 0, in one example or in all.
            The other probabilities are not rescaled.

    Returns:
        The loss of each example in nats; inf if the label has probability 0.

    Example:
        >>> categorical_cross_entropy([[0.5, 0.5], [0.0, 1.0]], [0, 1])
        Array([0.6931472, 0.       ], dtype=float32)

    References:
        Good, *Rational Decisions*, 1952.
    """
    if labels.ndim == probabilities.ndim:
        return 0 - row_sum(numerics.xlogy(labels, probabilities))
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
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Negative log-likelihood of class labels, of log-probabilities.

    When to use: classification by a model that returns log-probabilities, such as a mixture or a
    normalizing flow.

    $$\ell(l, y) = -l_y, \qquad \ell(l, q) = -\sum_k q_k l_k$$

    Nothing is normalized. After a log-softmax this is `softmax_cross_entropy`, which is more
    accurate. With class weights the mean divides by the number of examples; torch divides by the
    sum of the weights of the labels, which is `weights=class_weights[labels]` here.

    Args:
        log_probabilities: Logarithms of the predicted probabilities; -inf is probability 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False sets the probability and the label of a class to 0, in one example or in all.
            The other probabilities are not rescaled.
        class_weights: The weight of each class.

    Returns:
        The loss of each example in nats; inf if the label has probability 0.

    Example:
        >>> negative_log_likelihood([[-0.5, -1.0], [0.0, -jnp.inf]], [1, 0])
        Array([1., 0.], dtype=float32)

    References:
        Fisher, *On the Mathematical Foundations of Theoretical Statistics*, 1922.
    """
    if labels.ndim == log_probabilities.ndim:
        weighted = weighted_labels(labels, class_weights)
        return row_sum(numerics.multiply_no_nan(weighted, -linear_argument(log_probabilities)))
    nll = 0 - linear_argument(take_label(log_probabilities, labels))
    return times_weight_of_label(nll, labels, class_weights)
