r"""The bi-tempered loss: a cross-entropy whose logarithm is bounded and whose tails are heavy."""

import functools
import math
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss._core.typing import Arrays
from jaxloss.domains import below_two, class_ids, distribution, extended, nonnegative_number
from jaxloss.numerics._carry import carried
from jaxloss.numerics._double_double import DD, two_product, two_sum
from jaxloss.numerics._labels import is_label
from jaxloss.numerics._reductions import for_each_sum, row_sum
from jaxloss.numerics._softmax import subtract_weighted_mean
from jaxloss.numerics._special import expm1_minus_x, expm1_minus_x_over_x2, exprel, log1p_over_x
from jaxloss.numerics._tweedie import boxcox_difference, tweedie_half_deviance
from jaxloss.traits import bounded_gradient, nonnegative, shift_invariant, smooth


def _probability(depth: Array, lo: Array, u: Array) -> tuple[Array, Array, Array]:
    """The probability p = (1 + u x)^(-1/u) at the depth x + lo below the normalizer, and -log p.

    exp(-x) at u = 0. For u below 0, p is 0 from x = -1/u on. Of -log p, the third result is what
    the low-order word of the depth adds.
    """
    x, some = jnp.where(depth == jnp.inf, 0, depth), jnp.where(u == 0, 1, u)
    # A depth whose product with u may overflow is divided by a power of 2, and so is the base.
    exponent = jnp.finfo(x.dtype).maxexp
    huge = u * x > 2.0 ** (3 * exponent // 4)
    unit = jnp.where(huge, 2.0 ** (-exponent // 2), 1).astype(x.dtype)
    scaled = two_product(jnp.broadcast_to(u, x.shape), x * unit)
    ended = (scaled.hi <= -1) | (depth == jnp.inf)
    slow = jnp.abs(scaled.hi) < 0.125
    product = jnp.where(ended | slow, 0, scaled.hi)
    near = x * log1p_over_x(jnp.where(slow, u * x, 0))
    of_unit = jnp.where(huge, exponent // 2 * math.log(2), 0).astype(x.dtype)
    nll = jnp.where(slow, near, (jnp.log1p(product) + of_unit) / some)
    # A power keeps digits that the exponential of a large, rounded logarithm has not: what the
    # rounding of its base and of 1/u takes is put back.
    inverse = 1 / some
    base = two_sum(unit, product)
    unity = two_product(some, inverse)
    missing = inverse * (base.lo + scaled.lo) / base.hi + nll * ((1 - unity.hi) - unity.lo)
    power = base.hi**-inverse * jnp.where(huge, jnp.exp2(-(exponent // 2) * inverse), 1)
    p = jnp.where(slow, jnp.exp(-nll), power * (1 - missing))
    added = jnp.where(ended, 0, jnp.exp(-u * nll) * lo)
    return jnp.where(ended, 0, p * (1 - added)), jnp.where(ended, jnp.inf, nll), added


_MOST_STEPS = 50


def _below(logits: Array, top: Array) -> DD:
    """The largest logit of each row less the logits."""
    gap = two_sum(top, -logits)
    return DD(jnp.where(logits == jnp.inf, 0, gap.hi), gap.lo)


@jax.jit  # called eagerly, a loop over new functions would be compiled in each call
def _normalizer(logits: Array, top: Array, u: Array) -> Array:
    """The normalizer of each row, measured from its top: the sum of all probabilities is 1.

    Of that sum to the -u, the p-norm of 1 + u x, which is concave for u above 0 and, from the
    other side, convex below: Newton's method climbs to its root from 0 and never past it: in 12
    steps at most for normal logits of 2 to 100 000 classes and u from -1 to 3.
    """
    place = jnp.argmax(logits, axis=-1)

    def newton(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        normalizer, _, count = state
        # Each sum computes the probabilities again: of the logits' size, only they are read.
        (p, of_terms), (_, nll) = (
            _probability(at + below.hi, below.lo, u)[:2]
            for at, below in (
                (at, _below(logits, top)) for at, top in for_each_sum((normalizer, top), 2)
            )
        )
        # The sum of all less 1, with all its digits: the largest and the others apart.
        terms = jnp.where(is_label(logits, place), jnp.expm1(-of_terms), p)
        excess = jnp.sum(terms, axis=-1, keepdims=True)
        log_sum = jnp.log1p(excess)
        powers = jnp.exp(-(1 + u) * jnp.where(nll == jnp.inf, 0, nll))  # u may be -1
        slope = jnp.sum(jnp.where(nll == jnp.inf, 0, powers), axis=-1, keepdims=True)
        step = (1 + excess) * log_sum * exprel(u * log_sum) / slope
        return normalizer + step, jnp.any(step > tolerance * (normalizer + step)), count + 1

    tolerance = float(jnp.finfo(logits.dtype).eps) ** 0.75  # the error is the square of a step
    start = jnp.zeros_like(top), jnp.array(True), jnp.array(0)
    start = carried(start, logits, top, u)
    found = lax.while_loop(lambda state: state[1] & (state[2] < _MOST_STEPS), newton, start)[0]
    return jnp.where(found == jnp.inf, jnp.nan, found)  # not as if every class were impossible


@jax.custom_jvp
def _tempered_softmax(logits: Array, u: Array) -> tuple[Array, Array, Array]:
    """The tempered softmax for u = t2 - 1: the probabilities p, -log p, and its low-order word."""
    top = jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf)
    top = jnp.where(jnp.isfinite(top), top, 0)
    below = _below(logits, top)
    depth, lo = two_sum(_normalizer(logits, top, u), below.hi)
    return _probability(depth, below.lo + lo, u)


@_tempered_softmax.defjvp
def _tempered_softmax_jvp(primals: Arrays, tangents: Arrays) -> tuple[Any, Any]:
    # Implicitly, from a sum that stays 1: no iteration is differentiated.
    (logits, u), (logits_dot, u_dot) = primals, tangents
    p, nll, lo = _tempered_softmax(logits, u)
    possible = nll < jnp.inf
    safe = jnp.where(possible, nll, 0)
    rooted = jnp.minimum(safe, math.sqrt(jnp.finfo(nll.dtype).max) / 4)  # its square is finite
    slopes = _to_power(p, safe, lo, u)
    powers = jnp.where(possible, _to_power(p, safe, lo, 1 + u), 0)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    # With the normalizer held, an nll s changes by -(exp(-us) - 1 + us) / u^2.
    held = -jnp.square(rooted) * _excess_ratio(-u * rooted)
    moved = jnp.sum(p * held, axis=-1, keepdims=True) / total
    change = slopes * -subtract_weighted_mean(logits_dot, powers / total, -1)
    change = jnp.where(possible, change + (held - slopes * moved) * u_dot, 0)
    return (p, nll, lo), (-p * change, change, jnp.zeros_like(lo))


def _to_power(
    p: Array, nll: Array, lo: Array, power: Array, times_p: Array | bool = False
) -> Array:
    """p ** power, where p = exp(-nll - lo) may have underflowed; where it says so, times p."""
    normal = p > jnp.finfo(p.dtype).tiny
    far = jnp.where(normal, 0, jnp.minimum(nll, 1e30))
    # Not a power 1 larger, of which rounding may take the last place.
    exponent = two_product(power, far) + jnp.where(times_p, far, 0)
    of_far = jnp.exp(-exponent.hi) * (1 - (exponent.lo + jnp.where(times_p, power + 1, power) * lo))
    usual = jnp.where(normal, p, 1)
    return jnp.where(normal, usual**power * jnp.where(times_p, usual, 1), of_far)


def _excess_ratio(x: Array) -> Array:
    """(exp(x) - 1 - x) / x^2."""
    slow = jnp.abs(x) < 1
    far = expm1_minus_x(jnp.where(slow, 1, x)) / jnp.square(jnp.where(slow, 1, x))
    return jnp.where(slow, expm1_minus_x_over_x2(jnp.where(slow, x, 0)), far)


def _of_labels(p: Array, nll: Array, labels: Array) -> tuple[Array, Array, Array]:
    """The label, log(label / p), and p; 1, 0 and 1 where the label is 0."""
    none = labels == 0
    label = jnp.where(none, 1, labels)
    return label, jnp.log(label) + jnp.where(none, 0, nll), jnp.where(none, 1, p)


def _held(p: Array, nll: Array, lo: Array, labels: Array, t1: Array) -> Array:
    none = labels == 0
    label, log_ratio, p_of_label = _of_labels(p, nll, labels)
    known = tweedie_half_deviance(p_of_label, label, log_ratio, t1)
    return jnp.where(none, _to_power(p, nll, lo, 1 - t1, none) / (2 - t1), known)


@jax.custom_jvp
def _divergence(p: Array, nll: Array, lo: Array, labels: Array, t1: Array) -> Array:
    """The integral of (y - t) / t^t1 from the probability p to the label y."""
    return _held(p, nll, lo, labels, t1)


@_divergence.defjvp
def _divergence_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    p, nll, lo, labels, t1 = primals
    _, nll_dot, _, labels_dot, t1_dot = tangents
    none, below = labels == 0, t1 < 1
    label, log_ratio, p_of_label = _of_labels(p, nll, labels)
    missed = jnp.where(none, -1, -label * jnp.expm1(-log_ratio))  # y - p, over p where y is 0
    dloss_dlogits_dot = _to_power(p, nll, lo, 1 - t1, none) * missed * nll_dot
    # The slope at a label of 0 is infinite from t1 = 1 on: 0 by convention.
    left = jnp.where(below, 1 - t1, 1)
    at_none = jnp.where(below, -_to_power(p, nll, lo, left) / left, 0)
    dloss_dlabel = jnp.where(none, at_none, boxcox_difference(label, p_of_label, log_ratio, 1 - t1))
    _, from_t1 = jax.jvp(functools.partial(_held, p, nll, lo, labels), (t1,), (t1_dot,))
    value = _divergence(p, nll, lo, labels, t1)
    return value, dloss_dlogits_dot + dloss_dlabel * labels_dot + from_t1


@loss(
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=[class_ids("classes"), distribution],
    t1=below_two,
    t2=nonnegative_number,
)
def bi_tempered(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    t1: Real[ArrayLike, ""] = 0.8,
    t2: Real[ArrayLike, ""] = 1.2,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Bi-tempered logistic loss: a bounded, heavy-tailed cross-entropy with two temperatures.

    When to use: classification with wrong labels, both far from the decision boundary and near it.

    $$\ell(x, q) = \sum_k \int_{p_k}^{q_k} \frac{q_k - t}{t^{t_1}} \, dt, \qquad
      p_k = \left[ 1 + (t_2 - 1) (\lambda - x_k) \right]_+^{-1 / (t_2 - 1)}, \quad
      \sum_k p_k = 1$$

    With both temperatures at 1 it is the cross-entropy less the entropy of the labels. A $t_1$
    below 1 bounds the loss by $1 / (1 - t_1)$, so that an example that is
    hopelessly wrong does not rule; a $t_2$ above 1 makes the tails of the softmax heavy, so that
    wrong labels near the boundary do not move it. Below 1 it rules classes out: at $t_2 = 0$ the
    probabilities are those of `sparsemax`. The normalizer $\lambda$ is found to all digits; five
    rounds of the authors' iteration, as most code has it, are far off where $t_2$ is large.

    Args:
        logits: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False leaves a class out of an example, or of all examples.
        t1: The temperature of the logarithm, below 2; below 1 the loss is bounded.
        t2: The temperature of the exponential, at least 0; probabilities are read with it.

    Returns:
        The loss of each example; NaN if a class id names no class, or if the number of classes to
        the power $t_2 - 1$ overflows.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If the labels do not fit the logits, or a temperature is out of range.

    Example:
        >>> bi_tempered([[0.0, 0.0], [-1e6, 0.0]], [0, 0], t1=0.5, t2=1.5)
        Array([0.3905243, 1.999996 ], dtype=float32)

    References:
        Amid et al., *Robust Bi-Tempered Logistic Loss Based on Bregman Divergences*, 2019.
    """
    if labels.ndim < logits.ndim:
        labels = is_label(logits, labels).astype(logits.dtype)
    p, nll, lo = _tempered_softmax(logits, jnp.asarray(t2 - 1, logits.dtype))
    t1 = jnp.broadcast_to(t1, labels.shape).astype(logits.dtype)
    return row_sum(_divergence(p, nll, lo, labels, t1))
