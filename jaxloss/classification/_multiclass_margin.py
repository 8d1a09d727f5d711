"""Margin losses of several scores: 0 once the score of the label leads the others by a margin.

Labels are class ids. The scores need not be logits, and are not meant to give probabilities.
"""

from typing import Literal, Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import half_dtype
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.classification._labels import times_weight_of_label
from jaxloss.domains import (
    class_ids,
    extended,
    nonnegative_number,
    unit_interval,
)
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._labels import take_label_first
from jaxloss.numerics._reductions import mean_where
from jaxloss.numerics._rivals import hinge_of_rival, hinges_of_power, rival_and_own
from jaxloss.traits import bounded_gradient, convex, nonnegative, shift_invariant


def _sum_over_rivals(
    margin: Array, own: Array, own_labels: Array, scores: Array, labels: Array
) -> Array:
    """For each label that is on, the hinges of those that are off."""
    on, off = own_labels[..., :, None], 1 - labels[..., None, :]
    is_same = jnp.broadcast_to(jnp.eye(labels.shape[-1], dtype=bool), (on * off).shape)
    terms = hinge_of_rival(margin, scores[..., None, :], own[..., :, None])
    pairs = numerics.multiply_no_nan(jnp.where(is_same, 0, on * off), terms)
    return jnp.sum(pairs, axis=-1)


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
    rival, _, own = rival_and_own(scores, labels)
    return hinge_of_rival(0.0, rival, own)


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
    rival, _, own = rival_and_own(scores, labels)
    return hinge_of_rival(margin, rival, own)


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
    own = take_label_first(scores, labels, half_dtype("scores"))[..., None]
    terms = hinges_of_power[power](jnp.asarray(margin), scores, labels, own) ** power
    return times_weight_of_label(mean_where(terms, mask), labels, class_weights)


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
    rows, others = (scores, labels), (scores, labels)
    of_pairs = separate_derivative(_sum_over_rivals, each=True)
    return mean_where(of_pairs(jnp.asarray(margin), *rows, *others), mask)
