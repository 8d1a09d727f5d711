r"""Sparse probabilities: losses whose prediction can rule a class out, at a finite score.

A softmax gives every class some probability. The sparsemax projects the scores on the simplex,
and gives exactly 0 to classes that trail far enough; a lead of 1 is certainty, and costs nothing.
"""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import class_ids, distribution, extended, unit_interval
from jaxloss.numerics._double_double import two_sum
from jaxloss.traits import bounded_gradient, convex, nonnegative, shift_invariant, smooth


@jax.custom_jvp
def _above_threshold(logits: Array) -> tuple[Array, Array]:
    """The logits less their threshold, in a large and a small part; max(0, sum) is the sparsemax.

    The small part is what rounding took: without it a probability near 0, and one near 1 less 1,
    would have few digits.
    """
    top = jnp.max(logits, axis=-1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0)
    shifted, lost = two_sum(logits, -top)
    shifted = jnp.where(logits == jnp.inf, 0, shifted)

    ordered = jnp.sort(shifted, axis=-1, descending=True)
    sums = jnp.cumsum(ordered, axis=-1)
    ranks = jnp.arange(1, logits.shape[-1] + 1, dtype=logits.dtype)
    last = jnp.maximum(jnp.sum(1 + ranks * ordered > sums, axis=-1, keepdims=True), 1) - 1
    threshold = (jnp.take_along_axis(sums, last, axis=-1) - 1) / (last + 1).astype(logits.dtype)
    threshold = jnp.where(jnp.isfinite(threshold), threshold, 0)  # a row of -inf alone

    height = shifted - threshold
    inside = height + lost > 0
    # The probabilities have to sum to 1: by how much they do not is the error of the threshold.
    is_top = jnp.arange(logits.shape[-1]) == jnp.argmax(shifted, axis=-1, keepdims=True)
    others = jnp.sum(jnp.where(inside & ~is_top, height + lost, 0), axis=-1, keepdims=True)
    count = jnp.maximum(jnp.sum(inside, axis=-1, keepdims=True), 1).astype(logits.dtype)
    return height, lost - jax.lax.stop_gradient(((-threshold - 1) + others) / count)


@_above_threshold.defjvp
def _above_threshold_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    large, small = _above_threshold(*primals)
    inside = jax.lax.stop_gradient(large + small > 0)
    count = jnp.maximum(jnp.sum(inside, axis=-1, keepdims=True), 1).astype(large.dtype)
    mean = jnp.sum(jnp.where(inside, tangents[0], 0), axis=-1, keepdims=True) / count
    return (large, small), (tangents[0] - mean, jnp.zeros_like(small))


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=[class_ids("classes"), distribution],
)
def sparsemax(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to choose one of many classes when most should get a probability of exactly 0.

    $$\ell(x, q) = \tfrac12 \|p - q\|^2 + \sum_k q_k \max(0, \tau - x_k), \qquad
      p_k = \max(0, x_k - \tau), \quad \sum_k p_k = 1$$

    The Fenchel-Young loss of the Euclidean projection $p$ on the simplex, and the paper's loss in
    another form: its terms cannot cancel. 0 once the label leads by 1; the gradient is $p - q$.

    Args:
        logits: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis; or distributions over the classes.

    Returns:
        The loss of each example; inf if the label's class is impossible, NaN if a class id names
        no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If the labels do not fit the logits.

    Example:
        >>> sparsemax([[2.0, 1.0, 0.0], [0.5, 0.0, -1.0]], [0, 0])
        Array([0.    , 0.0625], dtype=float32)

    References:
        Martins and Astudillo, *From Softmax to Sparsemax*, 2016.
        Blondel et al., *Learning with Fenchel-Young Losses*, 2020.
    """
    if labels.ndim < logits.ndim:
        is_label = labels[..., None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)
        labels = is_label.astype(logits.dtype)
    large, small = _above_threshold(logits)
    height = large + small
    # At height 0 too, where the slope of the other term is 0.
    missed = jnp.where(height >= 0, (large - labels) + small, labels)
    excess = numerics.multiply_no_nan(labels, numerics.relu(-height))
    return jnp.sum(0.5 * jnp.square(missed) + excess, axis=-1)


@loss(convex, nonnegative, smooth, bounded_gradient, logits=extended, labels=unit_interval)
def sigmoid_sparsemax(
    logits: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for yes or no when a clear case should cost nothing, and probabilities are wanted.

    $$\ell(x, y) = (p - y)^2 + y \max(0, -1 - x) + (1 - y) \max(0, x - 1), \qquad
      p = \min\left(1, \max\left(0, \tfrac{x + 1}{2}\right)\right)$$

    The sparsemax of two classes, for which optax writes a quadratic between two lines: a hinge
    with a round corner, 0 beyond 1. The gradient is $p - y$.

    Args:
        logits: Scores; the probability of yes is 1/2 at 0, and certain from 1 on.
        labels: 1 for yes, 0 for no, or the probability of yes.

    Returns:
        The loss of each decision.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> sigmoid_sparsemax([1.0, 0.0, -3.0], [1, 1, 1])
        Array([0.  , 0.25, 3.  ], dtype=float32)

    References:
        Blondel et al., *Learning with Fenchel-Young Losses*, 2020.
    """
    # Not jnp.clip, whose gradient at its ends is half of the right one.
    inner = jnp.where(logits < -1, -1, jnp.where(logits > 1, 1, logits))
    # From the nearer end, so that neither a tiny y nor a tiny 1 - y is lost.
    missed = jnp.where(labels < 0.5, 0.5 * (inner + 1) - labels, (1 - labels) - 0.5 * (1 - inner))
    low = numerics.multiply_no_nan(labels, numerics.relu(-1 - logits))
    high = numerics.multiply_no_nan(1 - labels, numerics.relu(logits - 1))
    return jnp.square(missed) + low + high


@loss
def fenchel_young(
    scores: Real[ArrayLike, "*batch classes"],
    targets: Real[ArrayLike, "*batch classes"],
    *,
    max_fn: Callable[[Array], Array] = numerics.logsumexp,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to train through any smoothed maximum: its gradient is the prediction you expect.

    $$\ell(s, t) = \Omega^*(s) - \langle t, s \rangle$$

    $\Omega^*$ is `max_fn`, and its gradient the prediction. Log-sum-exp gives the softmax and its
    cross-entropy; a perturbed maximum gives perturbed optimizers (`optax.perturbations`).
    The term $\Omega(t)$, which does not depend on the scores, is left out, as in optax.

    Args:
        scores: What the maximum is taken of.
        targets: What its gradient should be: one-hot, a distribution, a permutation.
        max_fn: A convex function of the scores of one example, (classes,) to a number.

    Returns:
        The loss of each example; smallest where the gradient of `max_fn` is the target.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> fenchel_young([3.0, 1.0], [0.0, 1.0], max_fn=jnp.max)
        Array(2., dtype=float32)

    References:
        Blondel et al., *Learning with Fenchel-Young Losses*, 2020.
        Berthet et al., *Learning with Differentiable Perturbed Optimizers*, 2020.
    """
    largest = jnp.vectorize(max_fn, signature="(classes)->()")(scores)
    return largest - jnp.sum(targets * scores, axis=-1)
