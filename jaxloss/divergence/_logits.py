"""The Kullback-Leibler divergence of logits: distillation."""

from typing import TypeAlias, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss._core.typing import Arrays
from jaxloss.domains import extended, positive
from jaxloss.numerics._double_double import DD, two_quotient, two_sum
from jaxloss.numerics._labels import take_label
from jaxloss.numerics._softmax import subtract_weighted_mean
from jaxloss.numerics._special import expm1_minus_x
from jaxloss.traits import (
    bounded_gradient,
    convex,
    nonnegative,
    shift_invariant,
    smooth,
    zero_at_match,
)


def _scaled(logits: Array, temperature: Array) -> DD:
    """Logits less the largest, over the temperature."""
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    top = jnp.where(jnp.isfinite(top), top, 0)
    finite = jnp.isfinite(logits)  # the rounding error of an infinity would be NaN
    below = two_sum(jnp.where(finite, logits, top), -top)
    exponents = two_quotient(below.hi, temperature)
    hi = jnp.where(finite, exponents.hi, logits)
    return DD(hi, exponents.lo + below.lo / temperature)


def _softmax(logits: Array, temperature: Array) -> Array:
    """softmax(logits / temperature), of exponents that have not been rounded."""
    exponents = _scaled(logits, temperature)
    out = numerics.softmax(exponents.hi)
    return out * (1 + jax.lax.stop_gradient(jnp.where(out > 0, exponents.lo, 0)))


def log_softmax_at(logits: Array, temperature: Array) -> Array:
    """log softmax(logits / temperature); a logit of -inf does not depend on the temperature."""
    return numerics.log_softmax(_scaled(logits, temperature).hi)


def _log_ratio(
    logits: Array, target_logits: Array, temperature: Array
) -> tuple[Array, Array, Array]:
    """q, log(q / p) (0 where q is 0) and KL(q || p), with all digits where p is close to q."""
    q = _softmax(target_logits, temperature)
    impossible = target_logits == -jnp.inf
    logs = jnp.where(impossible, 0, log_softmax_at(target_logits, temperature))
    logs = logs - jnp.where(impossible, 0, log_softmax_at(logits, temperature))
    # Close to each other, log q - log p cancels; the logits' own differences do not. With d their
    # distance from their mean under q, KL = log(sum q exp(-d)) and log(q / p) = d + KL.
    finite = jnp.isfinite(logits) & jnp.isfinite(target_logits)
    gap = two_sum(jnp.where(finite, target_logits, 0), -jnp.where(finite, logits, 0))
    first = jnp.argmin(impossible, axis=-1)
    shift = DD(*((x - take_label(x, first)[..., None]) / temperature for x in gap))
    is_close = finite & (jnp.abs(shift.hi) < 0.5) | impossible & (logits == -jnp.inf)
    close = jnp.all(is_close, axis=-1, keepdims=True)
    possible = close & ~impossible
    distance = subtract_weighted_mean(jnp.where(possible, shift.hi + shift.lo, 0), q, -1)
    distance = jnp.where(possible, distance, 0)
    near = jnp.log1p(jnp.sum(q * expm1_minus_x(-distance), axis=-1, keepdims=True))
    # Far from each other each class is counted with p - q more, which sums to 0: no term is
    # negative then, so none cancels another.
    ratio = jnp.where(close, distance + near, logs)
    small = (jnp.abs(logs) < 1) & ~impossible
    terms = jnp.where(
        small,
        q * expm1_minus_x(-jnp.where(small, logs, 0)),
        jnp.where(q == 0, 0, q * logs) + (_softmax(logits, temperature) - q),
    )
    far = jnp.sum(terms, axis=-1, keepdims=True)
    return q, ratio, jnp.where(close, near, far)


_Three: TypeAlias = tuple[Array, Array, Array]


@jax.custom_jvp
def softmaxes_and_difference(logits: Array, target_logits: Array, temperature: Array) -> _Three:
    """Both distributions, p and q, and q - p with all its digits where they are close."""
    p = _softmax(logits, temperature)
    q, log_ratio, _ = _log_ratio(logits, target_logits, temperature)
    return p, q, -_p_minus_q(p, q, log_ratio)


@softmaxes_and_difference.defjvp
def _softmaxes_and_difference_jvp(primals: Arrays, tangents: Arrays) -> tuple[_Three, _Three]:
    # A full rule: the difference has the tangent of the two, and no cancellation is differentiated.
    p, q, difference = softmaxes_and_difference(*primals)
    p_dot, q_dot = (
        _softmax_dot(out, x, x_dot, primals[2], tangents[2])
        for out, x, x_dot in zip((p, q), primals[:2], tangents[:2], strict=True)
    )
    return (p, q, difference), (p_dot, q_dot, q_dot - p_dot)


def _softmax_dot(out: Array, x: Array, x_dot: Array, temperature: Array, by: Array) -> Array:
    """The tangent of softmax(x / temperature); a logit of -inf stays where it is."""
    change = (x_dot - jnp.where(jnp.isinf(x), 0, x) * (by / temperature)) / temperature
    return out * subtract_weighted_mean(change, out, -1)


def _p_minus_q(p: Array, q: Array, log_ratio: Array) -> Array:
    """p - q, where log_ratio is log(q / p)."""
    near = (jnp.abs(log_ratio) < 1) & (q > 0)
    return jnp.where(near, q * jnp.expm1(jnp.where(near, -log_ratio, 0)), p - q)


@jax.custom_jvp
def kl_of_logits(logits: Array, target_logits: Array, temperature: Array) -> Array:
    """KL(softmax(target_logits / temperature) || softmax(logits / temperature))."""
    return _log_ratio(logits, target_logits, temperature)[2][..., 0]


@kl_of_logits.defjvp
def _kl_of_logits_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    (logits, target_logits, temperature), (logits_dot, target_dot, temperature_dot) = (
        primals,
        tangents,
    )
    q, ratio, value = _log_ratio(logits, target_logits, temperature)
    p_minus_q = _p_minus_q(_softmax(logits, temperature), q, ratio)
    dloss_dtarget = jnp.where(q == 0, 0, q * (ratio - value))
    # A higher temperature moves each logit towards 0; one of -inf stays where it is.
    decrease = temperature_dot / temperature
    logits_dot, target_dot = (
        x_dot - jnp.where(jnp.isinf(x), 0, x) * decrease
        for x_dot, x in ((logits_dot, logits), (target_dot, target_logits))
    )
    value_dot = jnp.sum(p_minus_q * logits_dot + dloss_dtarget * target_dot, axis=-1)
    return value[..., 0], value_dot / temperature


@loss(
    nonnegative,
    convex,
    smooth,
    bounded_gradient,
    shift_invariant,
    zero_at_match,
    logits=extended,
    target_logits=extended,
    temperature=positive,
)
def kl_logits(
    logits: Real[ArrayLike, "*batch classes"],
    target_logits: Real[ArrayLike, "*batch classes"],
    *,
    temperature: Real[ArrayLike, ""] = 1.0,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Kullback-Leibler divergence between the softmax of two sets of logits.

    When to use: distillation of a teacher, and other soft targets that are given as logits.

    $$KL(q \| p), \qquad p = \mathrm{softmax}(x / T), \quad q = \mathrm{softmax}(z / T)$$

    No probabilities are formed, so that nearly equal logits give 1e-12 and not rounding noise. A
    higher temperature gives small probabilities more weight. The factor $T^2$ by which distillation
    compensates for the smaller gradient is not included. (rlax takes the target first.)

    Args:
        logits: Scores of the classes; -inf is a probability of 0.
        target_logits: Scores whose softmax is the target.
        temperature: The number by which both are divided.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats; inf where the target has what p rules out.

    Example:
        >>> kl_logits([0.0, 0.0], [2e-6, 0.0])
        Array(5.e-13, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
        Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015.
    """
    return kl_of_logits(logits, target_logits, jnp.asarray(temperature, logits.dtype))
