r"""Sparse probabilities: losses whose predictions can be exactly 0 or 1.

A softmax gives every class a positive probability. The sparsemax is the Euclidean projection of the
scores onto the simplex: classes far enough below the largest score have probability exactly 0, and
a class that leads by 1 has probability 1 and loss 0.
"""

import functools
from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss._core.typing import Arrays
from jaxloss.classification._labels import Logits
from jaxloss.domains import class_ids, distribution, extended, unit_interval
from jaxloss.numerics._double_double import DD, two_sum
from jaxloss.numerics._labels import is_label
from jaxloss.traits import bounded_gradient, convex, nonnegative, shift_invariant, smooth


# Jitted because `jax_debug_nans` would report the rounding error of a logit of -inf, which is NaN
# and is not used.
@jax.custom_jvp
@functools.partial(jax.jit, inline=True)
def _above_threshold(logits: Logits) -> DD:
    """The logits less their threshold, whose positive part is the sparsemax.

    The low word keeps the digits of a probability near 0, and of the complement of one near 1.
    """
    top = jnp.max(logits, axis=-1, keepdims=True)
    top = jnp.where(jnp.isinf(top), 0, top)
    shifted = two_sum(logits, -top)
    from_top = jnp.where(logits == jnp.inf, 0, shifted.hi)

    ordered = jnp.sort(from_top, axis=-1, descending=True)
    sums = jnp.cumsum(ordered, axis=-1)
    ranks = 1 + lax.broadcasted_iota(logits.dtype, logits.shape, logits.ndim - 1)
    last = jnp.maximum(jnp.sum(1 + ranks * ordered > sums, axis=-1, keepdims=True), 1) - 1
    threshold = (jnp.take_along_axis(sums, last, axis=-1) - 1) / (last + 1).astype(logits.dtype)
    threshold = jnp.where(jnp.isinf(threshold), 0, threshold)  # every logit is -inf

    height = from_top - threshold
    inside = height + shifted.lo > 0
    # The probabilities sum to 1, so that their sum gives the rounding error of the threshold.
    is_top = is_label(logits, jnp.argmax(from_top, axis=-1))
    others = jnp.where(inside & ~is_top, height + shifted.lo, 0)
    excess = (-threshold - 1) + jnp.sum(others, axis=-1, keepdims=True)
    return DD(height, shifted.lo - lax.stop_gradient(excess / _count(inside, logits.dtype)))


def _count(inside: Bool[Array, "*batch classes"], dtype: DTypeLike) -> Float[Array, "*batch 1"]:
    return jnp.maximum(jnp.sum(inside, axis=-1, keepdims=True), 1).astype(dtype)


# A full rule: it reduces over the classes.
@_above_threshold.defjvp
def _above_threshold_jvp(primals: Arrays, tangents: Arrays) -> tuple[DD, DD]:
    height = _above_threshold(*primals)
    inside = lax.stop_gradient(height.hi + height.lo > 0)
    total = jnp.sum(jnp.where(inside, tangents[0], 0), axis=-1, keepdims=True)
    height_dot = tangents[0] - total / _count(inside, height.hi.dtype)
    return height, DD(height_dot, jnp.zeros_like(height.lo))


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
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Sparsemax loss: the Fenchel-Young loss of the Euclidean projection onto the simplex.

    When to use: classification into many classes of which most are to have probability exactly 0.

    $$\ell(x, q) = \tfrac12 \|p - q\|^2 + \sum_k q_k \max(0, \tau - x_k), \qquad
      p_k = \max(0, x_k - \tau), \quad \sum_k p_k = 1$$

    This is the loss of the paper in a form whose terms do not cancel. It is 0 if the label leads by
    1; the gradient is $p - q$.

    Args:
        logits: Scores of the classes; -inf gives a class probability 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False leaves a class out of an example, or of all examples.

    Returns:
        The loss of each example; inf if the label has logit -inf, NaN if a class id names no class.

    Example:
        >>> sparsemax([[2.0, 1.0, 0.0], [0.5, 0.0, -1.0]], [0, 0])
        Array([0.    , 0.0625], dtype=float32)

    References:
        Martins and Astudillo, *From Softmax to Sparsemax*, 2016.
        Blondel et al., *Learning with Fenchel-Young Losses*, 2020.
    """
    if labels.ndim < logits.ndim:
        labels = is_label(logits, labels).astype(logits.dtype)
    above = _above_threshold(logits)
    height = above.hi + above.lo
    # p - q. At height 0 the first form, since the derivative of the second term is 0 there.
    missed = jnp.where(height < 0, labels, (above.hi - labels) + above.lo)
    excess = numerics.multiply_no_nan(labels, numerics.relu(-height))
    return jnp.sum(0.5 * jnp.square(missed) + excess, axis=-1)


@loss(convex, nonnegative, smooth, bounded_gradient, logits=extended, labels=unit_interval)
def sigmoid_sparsemax(
    logits: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Sparsemax loss of two classes, one decision for each logit.

    When to use: binary classification in which clear cases are to have loss 0, with probabilities.

    $$\ell(x, y) = (p - y)^2 + y \max(0, -1 - x) + (1 - y) \max(0, x - 1), \qquad
      p = \min\left(1, \max\left(0, \tfrac{x + 1}{2}\right)\right)$$

    A hinge loss with a parabola in place of its kink, which optax writes as a parabola between two
    lines. It is 0 for a right decision beyond 1; the gradient is $p - y$.

    Args:
        logits: Scores; the probability of yes is 1/2 at 0, and 1 from 1 on.
        labels: 1 for yes, 0 for no, or the probability of yes.

    Returns:
        The loss of each decision.

    Example:
        >>> sigmoid_sparsemax([1.0, 0.0, -3.0], [1, 1, 1])
        Array([0.  , 0.25, 3.  ], dtype=float32)

    References:
        Blondel et al., *Learning with Fenchel-Young Losses*, 2020.
    """
    # Not jnp.clip, whose derivative at its ends is half of the right one.
    inner = jnp.where(logits < -1, -1, jnp.where(logits > 1, 1, logits))
    # p - y, or its complements, so that neither a tiny y nor a tiny 1 - y is rounded away.
    missed = jnp.where(labels < 0.5, 0.5 * (inner + 1) - labels, (1 - labels) - 0.5 * (1 - inner))
    low = numerics.multiply_no_nan(labels, numerics.relu(-1 - logits))
    high = numerics.multiply_no_nan(1 - labels, numerics.relu(logits - 1))
    return jnp.square(missed) + low + high


@loss(scores=extended)
def fenchel_young(
    scores: Real[ArrayLike, "*batch classes"],
    targets: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    max_fn: Callable[[Array], Array] = numerics.logsumexp,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Fenchel-Young loss of a smoothed maximum.

    When to use: structured prediction through a smoothed maximum, whose gradient is the prediction.

    $$\ell(s, t) = \Omega^*(s) - \langle t, s \rangle$$

    $\Omega^*$ is `max_fn`, and its gradient is the prediction. With log-sum-exp this is the
    softmax cross-entropy; with a perturbed maximum it is the loss of perturbed optimizers
    (`optax.perturbations`). The term $\Omega(t)$, which does not depend on the scores, is left out,
    as in optax.

    Args:
        scores: The scores of which the maximum is taken; may be -inf if `max_fn` accepts it.
        targets: The expected gradient of the maximum: one-hot, a distribution, a permutation.
        mask: False leaves a class out of an example, or of all examples: its score is -inf.
        max_fn: A convex function of the scores of one example, (classes,) to a number.

    Returns:
        The loss of each example; smallest where the gradient of `max_fn` is the target.

    Example:
        >>> fenchel_young([3.0, 1.0], [0.0, 1.0], max_fn=jnp.max)
        Array(2., dtype=float32)

    References:
        Blondel et al., *Learning with Fenchel-Young Losses*, 2020.
        Berthet et al., *Learning with Differentiable Perturbed Optimizers*, 2020.
    """
    largest = jnp.vectorize(max_fn, signature="(classes)->()")(scores)
    return largest - jnp.sum(numerics.multiply_no_nan(targets, scores), axis=-1)
