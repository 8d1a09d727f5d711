r"""Margins: losses of decisions, which ask for a lead and are content with it.

Labels are signs, -1 or +1, where one score decides; class ids where several compete. Scores need
not be logits, and nothing is said about probabilities (`logistic` apart).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss._xla import recompute
from jaxloss.domains import (
    class_ids,
    decision_label,
    extended,
    nonnegative_number,
    sign_label,
    unit_interval,
)
from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._labels import take_label
from jaxloss.numerics._reductions import variadic_reduce
from jaxloss.traits import bounded_gradient, convex, nonnegative, shift_invariant, smooth


def _sign(labels: Array, zero_one_labels: bool) -> Array:
    """-1 or +1, whichever way the labels are written."""
    return 2 * labels - 1 if zero_one_labels else labels


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def _of_lead(
    function: Callable[[Array], Array], scores: Array, labels: Array, zero_one_labels: bool
) -> Array:
    """A function of how far a score is on the side of its label; NaN if that is none."""
    sign = _sign(labels, zero_one_labels)
    return function(jnp.where(jnp.abs(sign) == 1, sign, jnp.nan) * scores)


@functools.partial(_of_lead.defjvp, symbolic_zeros=True)
def _of_lead_jvp(function: Any, zero_one_labels: bool, primals: Any, tangents: Any) -> Any:
    # What value and gradient share would be written out.
    scores, labels = recompute(primals)
    sign = _sign(labels, zero_one_labels)
    sign = jnp.where(jnp.abs(sign) == 1, sign, jnp.nan)
    lead = sign * scores
    _, slope = jax.jvp(function, (lead,), (jnp.ones_like(lead),))
    tangent = jnp.zeros_like(lead)
    if not isinstance(tangents[0], SymbolicZero):
        tangent = tangent + slope * sign * tangents[0]
    if not isinstance(tangents[1], SymbolicZero):
        tangent = tangent + slope * scores * (1 + zero_one_labels) * tangents[1]
    return _of_lead(function, *primals, zero_one_labels), tangent


def _hinge_of_lead(margin: Array, above: Array, below: Array) -> Array:
    """max(0, margin + above - below), with all its digits where the three almost cancel.

    What is impossible, -inf, leads nobody: it costs nothing to be above it, whoever one is.
    """
    difference, lost = two_sum(above, -below)
    lead = jnp.where(above == -jnp.inf, -jnp.inf, (margin + difference) + lost)
    return numerics.relu(lead)


def _is_label(scores: Array, labels: Array) -> Array:
    """Which entries of the scores are those of the label."""
    return labels[..., None] == jnp.arange(scores.shape[-1], dtype=labels.dtype)


def _of_label(scores: Array, labels: Array) -> Array:
    return take_label(scores, labels)[..., None]


def _larger(left: Any, right: Any) -> tuple[Array, Array]:
    """The larger of two numbers, and in how many places it was seen; of two such pairs."""
    (a, of_a), (b, of_b) = left, right
    top = jnp.maximum(a, b)
    return top, jnp.where(a == top, of_a, 0) + jnp.where(b == top, of_b, 0)


def _largest_of(parts: Any) -> tuple[Array, Array]:
    x, seen = parts
    top = jnp.max(x, axis=-1)
    return top, jnp.sum(jnp.where(x == top[..., None], seen, 0), axis=-1)


def _largest(x: Array) -> tuple[Array, Array]:
    """The largest number along the last axis, and how many are that large, in one pass."""
    return variadic_reduce((x, jnp.ones_like(x)), (-np.inf, 0), _larger, _largest_of)


@jax.custom_jvp
def _rivals_and_own(scores: Array, labels: Array) -> tuple[Array, Array, Array]:
    """The strongest score of another class than the label, how many have it, and the label's."""
    rivals = jnp.where(_is_label(scores, labels), -jnp.inf, scores)
    return *_largest(rivals), _of_label(scores, labels)[..., 0]


@_rivals_and_own.defjvp
def _rivals_and_own_jvp(primals: Any, tangents: Any) -> Any:
    scores, labels = primals
    rival, count, own = _rivals_and_own(scores, labels)
    is_label = _is_label(scores, labels)
    is_rival = ~is_label & (scores == rival[..., None])
    # Rivals that tie share the slope. A choice: of a maximum XLA would write each class's out.
    several = count > 1
    share = jnp.where(several, 1 / jnp.where(several, count, 1), 1)[..., None]
    share = jnp.where(is_rival, share, 0)
    to_rival = jnp.sum(share * tangents[0], axis=-1)
    to_own = jnp.sum(jnp.where(is_label, tangents[0], 0), axis=-1)
    return (rival, count, own), (to_rival, jnp.zeros_like(count), to_own)


@loss(convex, nonnegative, bounded_gradient, labels=decision_label)
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
    return _of_lead(lambda lead: numerics.relu(1 - lead), scores, labels, zero_one_labels)


@loss(convex, nonnegative, smooth, labels=decision_label)
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
    return _of_lead(
        lambda lead: jnp.square(numerics.relu(1 - lead)), scores, labels, zero_one_labels
    )


@loss(convex, nonnegative, bounded_gradient, labels=decision_label)
def perceptron(
    scores: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to learn from mistakes alone, as the perceptron does: a right sign costs nothing.

    $$\ell(s, y) = \max(0, -y s)$$

    It is the hinge without its margin, and all scores at 0 are a perfect fit: the gradient there
    is 0, so start elsewhere.

    Args:
        scores: Positive for yes, negative for no.
        labels: +1 for yes, -1 for no; anything else gives NaN.
        zero_one_labels: Whether the labels are 1 for yes and 0 for no instead.

    Returns:
        The loss of each decision, in the unit of the scores.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> perceptron([2.0, -0.5], [1, 1])
        Array([0. , 0.5], dtype=float32)

    References:
        Rosenblatt, *The Perceptron*, 1958.
    """
    return _of_lead(lambda lead: numerics.relu(-lead), scores, labels, zero_one_labels)


@loss(convex, nonnegative, smooth, bounded_gradient, scores=extended, labels=decision_label)
def logistic(
    scores: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    zero_one_labels: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for yes or no written as +1 and -1, when probabilities are wanted as well.

    $$\ell(s, y) = \log(1 + e^{-y s})$$

    The same as `sigmoid_cross_entropy` with labels 1 and 0; torch calls it the soft margin loss,
    which is inf there from a score of -89 on.

    Args:
        scores: Log-odds of yes; infinite ones are sure.
        labels: +1 for yes, -1 for no; anything else gives NaN.
        zero_one_labels: Whether the labels are 1 for yes and 0 for no instead.

    Returns:
        The loss of each decision in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> logistic([0.0, -1000.0], [1, 1])
        Array([6.931472e-01, 1.000000e+03], dtype=float32)

    References:
        Cox, *The Regression Analysis of Binary Sequences*, 1958.
    """
    return _of_lead(lambda lead: numerics.softplus(-lead), scores, labels, zero_one_labels)


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
    r"""Take it on distances of pairs, known to be alike or not: pulls together, pushes apart.

    $$\ell(d, +1) = d, \qquad \ell(d, -1) = \max(0, m - d)$$

    Pairs that are not alike are pushed until the margin lies between them, then left alone.

    Args:
        distances: How far the two of a pair are apart, at least 0.
        labels: +1 if the two are alike, -1 if not; anything else gives NaN.
        margin: The distance at which two that are not alike are far enough apart.
        zero_one_labels: Whether the labels are 1 for alike and 0 for not alike instead.

    Returns:
        The loss of each pair, in the unit of the distances.

    Raises:
        ValueError: If the shapes differ, or the margin is a number below 0.

    Example:
        >>> hinge_embedding([0.25, 0.25, 3.0], [1, -1, -1])
        Array([0.25, 0.75, 0.  ], dtype=float32)

    References:
        Hadsell et al., *Dimensionality Reduction by Learning an Invariant Mapping*, 2006.
    """
    alike = (1 + _sign(labels, zero_one_labels)) / 2  # 0 or 1, or the NaN of a wrong label
    return alike * distances + (1 - alike) * numerics.relu(margin - distances)


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
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to learn one class of several from mistakes alone: the right winner costs nothing.

    $$\ell(s, y) = \max_k s_k - s_y$$

    A tie with the label costs nothing either. With a structured set of classes this is the loss
    of the structured perceptron.

    Args:
        scores: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis.

    Returns:
        By how much the winner leads the label, for each example.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If the labels do not fit the scores.

    Example:
        >>> multiclass_perceptron([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]], [1, 2])
        Array([0., 1.], dtype=float32)

    References:
        Crammer and Singer, *Ultraconservative Online Algorithms for Multiclass Problems*, 2003.
    """
    rival, _, own = _rivals_and_own(scores, labels)
    return _hinge_of_lead(jnp.zeros_like(rival), rival, own)


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
    margin: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to separate classes by a margin, when only the strongest rival should count.

    $$\ell(s, y) = \max\left(0, m + \max_{k \ne y} s_k - s_y\right)$$

    Crammer and Singer's form, as in optax. `multi_margin` counts every rival within the margin;
    keras's `CategoricalHinge` takes the maximum with 0, so that negative scores cost.

    Args:
        scores: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis.
        margin: The lead over the strongest rival that is enough.

    Returns:
        The loss of each example, in the unit of the scores; inf if the label is impossible.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If the labels do not fit the scores, or the margin is a number below 0.

    Example:
        >>> multiclass_hinge([[1.0, 0.5, 0.75], [-1.0, -2.0, -3.0]], [0, 0])
        Array([0.75, 0.  ], dtype=float32)

    References:
        Crammer and Singer, *On the Algorithmic Implementation of Multiclass Kernel-based Vector
        Machines*, 2001.
    """
    rival, _, own = _rivals_and_own(scores, labels)
    return _hinge_of_lead(margin, rival, own)


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
    power: Literal[1, 2] = 1,
    margin: Real[ArrayLike, ""] = 1.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to separate classes by a margin, when every rival within it should count.

    $$\ell(s, y) = \frac{w_y}{K} \sum_{k \ne y} \max(0, m - s_y + s_k)^p$$

    Weston and Watkins's form, divided by the number of classes $K$ as in torch (they divide by
    nothing). `multiclass_hinge` counts the strongest rival alone.

    Args:
        scores: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis.
        power: 1, or 2 for a smooth loss that minds gross errors much more.
        margin: The lead over each rival that is enough.
        class_weights: How much each class counts as a label.

    Returns:
        The loss of each example; inf if the label is impossible.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels or class weights do not fit the scores, the margin is a number
            below 0, or the power is not 1 or 2.

    Example:
        >>> multi_margin([1.0, 0.5, 0.75, -1.0], 0)
        Array(0.3125, dtype=float32)

    References:
        Weston and Watkins, *Support Vector Machines for Multi-Class Pattern Recognition*, 1999.
    """
    rivals = jnp.where(_is_label(scores, labels), -jnp.inf, scores)
    terms = _hinge_of_lead(margin, rivals, _of_label(scores, labels)) ** power
    mean = jnp.mean(terms, axis=-1)
    return mean if class_weights is None else class_weights[labels] * mean


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
    margin: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to have the labels that are on lead all those that are off, whatever their scores.

    $$\ell(s, y) = \frac1K \sum_{j} \sum_{k \ne j} y_j \, (1 - y_k) \, \max(0, m - s_j + s_k)$$

    Labels are 0 or 1 for each class; torch takes lists of the ids that are on. A label between
    is a probability: a pair counts by the chance that one is on and the other off.

    Args:
        scores: Scores of the labels; -inf makes one impossible.
        labels: 1 where a label is on, 0 where it is off.
        margin: The lead that is enough.

    Returns:
        The loss of each example, in the unit of the scores; 0 if all labels are on, or all off.

    Raises:
        ValueError: If the shapes differ, or the margin is a number below 0.

    Example:
        >>> multilabel_margin([1.0, 0.5, 0.25, -1.0], [1, 0, 1, 0])
        Array(0.4375, dtype=float32)

    References:
        Crammer and Singer, *A Family of Additive Online Algorithms for Category Ranking*, 2003.
    """
    on, off = labels[..., :, None], 1 - labels[..., None, :]
    pairs = jnp.where(jnp.eye(labels.shape[-1], dtype=bool), 0, on * off)
    terms = _hinge_of_lead(margin, scores[..., None, :], scores[..., :, None])
    return jnp.sum(numerics.multiply_no_nan(pairs, terms), axis=(-2, -1)) / labels.shape[-1]
