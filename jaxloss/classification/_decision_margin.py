"""Margin losses of single decisions: 0 once the score has the right sign and the margin.

Labels are signs, -1 or +1, or 0 and 1 on request. The scores need not be logits, and are not meant
to give probabilities, except those of `logistic`.
"""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import (
    decision_label,
    extended,
    nonnegative_number,
    sign_label,
)
from jaxloss.numerics._decisions import function_of_lead, sign_of
from jaxloss.traits import bounded_gradient, convex, nonnegative, smooth


def _hinge(lead: Array) -> Array:
    return numerics.relu(1 - lead)


def _squared_hinge(lead: Array) -> Array:
    return jnp.square(numerics.relu(1 - lead))


def _perceptron(lead: Array) -> Array:
    return numerics.relu(-lead)


def _logistic(lead: Array) -> Array:
    return numerics.softplus(-lead)


@loss(convex, nonnegative, bounded_gradient, labels=decision_label)
def hinge(
    scores: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Hinge loss: the loss of support vector machines.

    When to use: binary decisions with a margin, where probabilities are not needed.

    $$\ell(s, y) = \max(0, 1 - y s)$$

    Examples beyond the margin have gradient 0, so that the fit depends on the others alone, the
    support vectors. The gradient of a wrong label has the same size as that of a right one.

    Args:
        scores: Positive for yes, negative for no; the margin is at 1.
        labels: +1 for yes, -1 for no; any other value gives NaN.
        zero_one_labels: Whether the labels are 1 for yes and 0 for no instead.

    Returns:
        The loss of each decision, in the unit of the scores.

    Example:
        >>> hinge([2.0, 0.5, -1.0], [1, 1, 1])
        Array([0. , 0.5, 2. ], dtype=float32)

    References:
        Cortes and Vapnik, *Support-Vector Networks*, 1995.
    """
    return function_of_lead(_hinge, scores, labels, zero_one_labels)


@loss(convex, nonnegative, smooth, labels=decision_label)
def squared_hinge(
    scores: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Squared hinge loss.

    When to use: like `hinge`, where a smooth loss is easier to optimize. It is more sensitive to
    outliers.

    $$\ell(s, y) = \max(0, 1 - y s)^2$$

    Args:
        scores: Positive for yes, negative for no; the margin is at 1.
        labels: +1 for yes, -1 for no; any other value gives NaN.
        zero_one_labels: Whether the labels are 1 for yes and 0 for no instead.

    Returns:
        The loss of each decision, in the squared unit of the scores.

    Example:
        >>> squared_hinge([2.0, 0.5, -1.0], [1, 1, 1])
        Array([0.  , 0.25, 4.  ], dtype=float32)

    References:
        Lee and Mangasarian, *SSVM: A Smooth Support Vector Machine*, 2001.
    """
    return function_of_lead(_squared_hinge, scores, labels, zero_one_labels)


@loss(convex, nonnegative, bounded_gradient, labels=decision_label)
def perceptron(
    scores: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Perceptron loss: the hinge loss without a margin.

    When to use: binary decisions that are to be learned from mistakes alone, as by the perceptron.

    $$\ell(s, y) = \max(0, -y s)$$

    Scores of 0 are a minimum, with gradient 0: do not initialize there.

    Args:
        scores: Positive for yes, negative for no.
        labels: +1 for yes, -1 for no; any other value gives NaN.
        zero_one_labels: Whether the labels are 1 for yes and 0 for no instead.

    Returns:
        The loss of each decision, in the unit of the scores.

    Example:
        >>> perceptron([2.0, -0.5], [1, 1])
        Array([0. , 0.5], dtype=float32)

    References:
        Rosenblatt, *The Perceptron*, 1958.
    """
    return function_of_lead(_perceptron, scores, labels, zero_one_labels)


@loss(convex, nonnegative, smooth, bounded_gradient, scores=extended, labels=decision_label)
def logistic(
    scores: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Logistic loss of labels -1 and +1.

    When to use: binary classification with labels written as signs, where probabilities are needed.

    $$\ell(s, y) = \log(1 + e^{-y s})$$

    The same as `sigmoid_cross_entropy` with labels 1 and 0. In torch it is the soft margin loss,
    which is inf there for a score of -89.

    Args:
        scores: Log-odds of yes; may be infinite.
        labels: +1 for yes, -1 for no; any other value gives NaN.
        zero_one_labels: Whether the labels are 1 for yes and 0 for no instead.

    Returns:
        The loss of each decision in nats.

    Example:
        >>> logistic([0.0, -1000.0], [1, 1])
        Array([6.931472e-01, 1.000000e+03], dtype=float32)

    References:
        Cox, *The Regression Analysis of Binary Sequences*, 1958.
    """
    return function_of_lead(_logistic, scores, labels, zero_one_labels)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    distances=nonnegative_number,
    labels=sign_label,
    margin=nonnegative_number,
)
def hinge_embedding(
    distances: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    margin: Real[ArrayLike, ""] = 1.0,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Hinge embedding loss: the distance of similar pairs, and a hinge loss for dissimilar ones.

    When to use: learning a distance from pairs that are known to be similar or dissimilar.

    $$\ell(d, +1) = d, \qquad \ell(d, -1) = \max(0, m - d)$$

    Dissimilar pairs that are farther apart than the margin have gradient 0.

    Args:
        distances: Distances between the two of each pair, at least 0.
        labels: +1 for similar pairs, -1 for dissimilar ones; any other value gives NaN.
        margin: The distance from which on a dissimilar pair has loss 0.
        zero_one_labels: Whether the labels are 1 for similar and 0 for dissimilar instead.

    Returns:
        The loss of each pair, in the unit of the distances.

    Example:
        >>> hinge_embedding([0.25, 0.25, 3.0], [1, -1, -1])
        Array([0.25, 0.75, 0.  ], dtype=float32)

    References:
        Hadsell et al., *Dimensionality Reduction by Learning an Invariant Mapping*, 2006.
    """
    similar = (1 + sign_of(labels, zero_one_labels)) / 2
    return similar * distances + (1 - similar) * numerics.relu(margin - distances)
