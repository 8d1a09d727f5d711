r"""Margin losses: losses of decisions that are 0 once a score leads by a margin.

Labels are signs, -1 or +1, where there is one score for a decision, and class ids where several
scores compete. The scores need not be logits, and are not meant to give probabilities, except those
of `logistic`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss._xla import recompute
from jaxloss.classification._labels import mean_over_classes, times_weight_of_label
from jaxloss.domains import (
    class_ids,
    decision_label,
    extended,
    nonnegative_number,
    sign_label,
    unit_interval,
)
from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._labels import is_label, take_label
from jaxloss.numerics._reductions import variadic_reduce
from jaxloss.traits import bounded_gradient, convex, nonnegative, shift_invariant, smooth


def _sign(labels: Array, zero_one_labels: bool) -> Array:
    """The labels as -1 and +1; NaN for what is not a label."""
    sign = 2 * labels - 1 if zero_one_labels else labels
    return jnp.where(jnp.abs(sign) == 1, sign, jnp.nan)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def _function_of_lead(
    function: Callable[[Array], Array], scores: Array, labels: Array, zero_one_labels: bool
) -> Array:
    """A function of sign * score, which is positive if the decision is right."""
    return function(_sign(labels, zero_one_labels) * scores)


# A full rule: on CPU the lead, which value and gradient share, would be written to memory.
@functools.partial(_function_of_lead.defjvp, symbolic_zeros=True)
def _function_of_lead_jvp(
    function: Callable[[Array], Array], zero_one_labels: bool, primals: Any, tangents: Any
) -> tuple[Array, Array]:
    scores, labels = recompute(primals)
    scores_dot, labels_dot = tangents
    sign = _sign(labels, zero_one_labels)
    lead = sign * scores
    _, slope = jax.jvp(function, (lead,), (jnp.ones_like(lead),))
    value_dot = jnp.zeros_like(lead)
    if not isinstance(scores_dot, SymbolicZero):
        value_dot = value_dot + slope * sign * scores_dot
    if not isinstance(labels_dot, SymbolicZero):
        value_dot = value_dot + slope * scores * (1 + zero_one_labels) * labels_dot
    return _function_of_lead(function, *primals, zero_one_labels), value_dot


def _hinge(lead: Array) -> Array:
    return numerics.relu(1 - lead)


def _squared_hinge(lead: Array) -> Array:
    return jnp.square(numerics.relu(1 - lead))


def _perceptron(lead: Array) -> Array:
    return numerics.relu(-lead)


def _logistic(lead: Array) -> Array:
    return numerics.softplus(-lead)


# Jitted because `jax_debug_nans` would report the rounding error of a score of -inf, which is NaN
# and is not used.
@functools.partial(jax.jit, inline=True)
def _hinge_of_rival(margin: Array | float, rival: Array, own: Array) -> Array:
    """max(0, margin + rival - own), accurate where the three almost cancel.

    A rival of -inf gives 0, whatever the own score is.
    """
    difference = two_sum(rival, -own)
    lead = (margin + difference.hi) + difference.lo
    return numerics.relu(jnp.where(rival == -jnp.inf, -jnp.inf, lead))


def _larger(left: Any, right: Any) -> tuple[Array, Array]:
    """The larger of two numbers, and how often it occurs, of two such pairs."""
    (a, count_a), (b, count_b) = left, right
    top = jnp.maximum(a, b)
    return top, jnp.where(a == top, count_a, 0) + jnp.where(b == top, count_b, 0)


def _largest_of(parts: Any) -> tuple[Array, Array]:
    x, count = parts
    top = jnp.max(x, axis=-1)
    return top, jnp.sum(jnp.where(x == top[..., None], count, 0), axis=-1)


def _largest(x: Array) -> tuple[Array, Array]:
    """The largest number along the last axis, and how often it occurs, in one pass."""
    return variadic_reduce((x, jnp.ones_like(x)), (-np.inf, 0), _larger, _largest_of)


@jax.custom_jvp
def _rival_and_own(scores: Array, labels: Array) -> tuple[Array, Array, Array]:
    """The largest score of the other classes, how many have it, and the score of the label."""
    rivals = jnp.where(is_label(scores, labels), -jnp.inf, scores)
    return *_largest(rivals), take_label(scores, labels)


# A full rule: it reduces over the classes.
@_rival_and_own.defjvp
def _rival_and_own_jvp(primals: Any, tangents: Any) -> Any:
    scores, labels = primals
    rival, count, own = _rival_and_own(scores, labels)
    at_label = is_label(scores, labels)
    at_rival = ~at_label & ~(scores < rival[..., None])  # also where the largest is NaN
    # Rivals that tie share the derivative. A select, since XLA would write out a maximum of counts.
    several = count > 1
    part = jnp.where(several, 1 / jnp.where(several, count, 1), 1)[..., None]
    rival_dot = jnp.sum(jnp.where(at_rival, part, 0) * tangents[0], axis=-1)
    own_dot = jnp.sum(jnp.where(at_label, tangents[0], 0), axis=-1)
    return (rival, count, own), (rival_dot, jnp.zeros_like(count), own_dot)


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
    return _function_of_lead(_hinge, scores, labels, zero_one_labels)


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
    return _function_of_lead(_squared_hinge, scores, labels, zero_one_labels)


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
    return _function_of_lead(_perceptron, scores, labels, zero_one_labels)


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
    return _function_of_lead(_logistic, scores, labels, zero_one_labels)


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
    similar = (1 + _sign(labels, zero_one_labels)) / 2
    return similar * distances + (1 - similar) * numerics.relu(margin - distances)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    shift_invariant,
    scores=extended,
    labels=class_ids("classes"),
)
def multiclass_perceptron(
    scores: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Multiclass perceptron loss: the largest score less that of the label.

    When to use: classification into one of several classes that is to be learned from mistakes
    alone.

    $$\ell(s, y) = \max_k s_k - s_y$$

    A tie with the label has loss and gradient 0. With a structured set of classes this is the loss
    of the structured perceptron.

    Args:
        scores: Scores of the classes; a class with -inf is never predicted.
        labels: Class ids, integers without the class axis.
        mask: False leaves a class out of an example, or of all examples.

    Returns:
        The loss of each example, in the unit of the scores; inf if the label has score -inf.

    Example:
        >>> multiclass_perceptron([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]], [1, 2])
        Array([0., 1.], dtype=float32)

    References:
        Crammer and Singer, *Ultraconservative Online Algorithms for Multiclass Problems*, 2003.
    """
    rival, _, own = _rival_and_own(scores, labels)
    return _hinge_of_rival(0.0, rival, own)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    shift_invariant,
    scores=extended,
    labels=class_ids("classes"),
    margin=nonnegative_number,
)
def multiclass_hinge(
    scores: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    margin: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Multiclass hinge loss: the hinge loss against the strongest rival of the label.

    When to use: classification with a margin where only the strongest rival counts.

    $$\ell(s, y) = \max\left(0, m + \max_{k \ne y} s_k - s_y\right)$$

    The form of Crammer and Singer, as in optax. `multi_margin` adds up all rivals within the
    margin. The `CategoricalHinge` of Keras takes the maximum over 0 as well, so that negative
    scores of the label have a loss.

    Args:
        scores: Scores of the classes; a class with -inf is never predicted.
        labels: Class ids, integers without the class axis.
        mask: False leaves a class out of an example, or of all examples.
        margin: The lead over the strongest rival from which on the loss is 0.

    Returns:
        The loss of each example, in the unit of the scores; inf if the label has score -inf.

    Example:
        >>> multiclass_hinge([[1.0, 0.5, 0.75], [-1.0, -2.0, -3.0]], [0, 0])
        Array([0.75, 0.  ], dtype=float32)

    References:
        Crammer and Singer, *On the Algorithmic Implementation of Multiclass Kernel-based Vector
        Machines*, 2001.
    """
    rival, _, own = _rival_and_own(scores, labels)
    return _hinge_of_rival(margin, rival, own)


@loss(
    convex,
    nonnegative,
    shift_invariant,
    scores=extended,
    labels=class_ids("classes"),
    margin=nonnegative_number,
    class_weights=nonnegative_number,
)
def multi_margin(
    scores: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    power: Literal[1, 2] = 1,
    margin: Real[ArrayLike, ""] = 1.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Multi-margin loss: the mean hinge loss against all rivals of the label.

    When to use: classification with a margin where every rival within it counts.

    $$\ell(s, y) = \frac{w_y}{K} \sum_{k \ne y} \max(0, m - s_y + s_k)^p$$

    The form of Weston and Watkins, divided by the number of classes $K$ as in torch (they do not
    divide). `multiclass_hinge` counts the strongest rival only.

    Args:
        scores: Scores of the classes; a class with -inf is never predicted.
        labels: Class ids, integers without the class axis.
        mask: False leaves a class out of an example, or of all examples; $K$ is the number of those
            that are left.
        power: 1, or 2 for a smooth loss that is more sensitive to outliers.
        margin: The lead over each rival from which on its term is 0.
        class_weights: The weight of each class as a label.

    Returns:
        The loss of each example; inf if the label has score -inf.

    Example:
        >>> multi_margin([1.0, 0.5, 0.75, -1.0], 0)
        Array(0.3125, dtype=float32)

    References:
        Weston and Watkins, *Support Vector Machines for Multi-Class Pattern Recognition*, 1999.
    """
    rivals = jnp.where(is_label(scores, labels), -jnp.inf, scores)
    terms = _hinge_of_rival(margin, rivals, take_label(scores, labels)[..., None]) ** power
    return times_weight_of_label(mean_over_classes(terms, mask), labels, class_weights)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    shift_invariant,
    scores=extended,
    labels=unit_interval,
    margin=nonnegative_number,
)
def multilabel_margin(
    scores: Real[ArrayLike, "*batch classes"],
    labels: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    margin: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Multi-label margin loss: the hinge loss of every label that is on against every other.

    When to use: multi-label classification in which labels that are on are to be ranked first.

    $$\ell(s, y) = \frac1K \sum_{j} \sum_{k \ne j} y_j \, (1 - y_k) \, \max(0, m - s_j + s_k)$$

    Labels are 0 or 1 for each class; torch takes lists of the ids that are on. A label between 0
    and 1 is a probability: a pair has the weight of the probability that its first is on and its
    second off.

    Args:
        scores: Scores of the labels; one with -inf is ranked last.
        labels: 1 where a label is on, 0 where it is off.
        mask: False leaves a label out of an example, or of all examples; $K$ is the number of those
            that are left.
        margin: The lead from which on a pair has loss 0.

    Returns:
        The loss of each example, in the unit of the scores; 0 if all labels are on, or all off.

    Example:
        >>> multilabel_margin([1.0, 0.5, 0.25, -1.0], [1, 0, 1, 0])
        Array(0.4375, dtype=float32)

    References:
        Crammer and Singer, *A Family of Additive Online Algorithms for Category Ranking*, 2003.
    """
    on, off = labels[..., :, None], 1 - labels[..., None, :]
    is_same = jnp.broadcast_to(jnp.eye(labels.shape[-1], dtype=bool), (on * off).shape)
    terms = _hinge_of_rival(margin, scores[..., None, :], scores[..., :, None])
    pairs = numerics.multiply_no_nan(jnp.where(is_same, 0, on * off), terms)
    return mean_over_classes(jnp.sum(pairs, axis=-1), mask)
