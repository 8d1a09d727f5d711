r"""The engine of every loss with a softmax in it: -log softmax, exact in value and gradient.

`logsumexp(x) - x[y]` loses the loss of a confident right answer: `1 + tiny` rounds to 1 before
the logarithm is taken, and `p - 1` to 0 in the gradient. Here the sum leaves out the term that
is 1, so that [20, 0] costs 2.06e-9 and not 0, at the same time and memory.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss import numerics


def _shifted(logits: Array) -> Array:
    """The logits less the maximum of their row: at most 0, and -inf for impossible classes."""
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    top = jnp.where(top == -jnp.inf, 0, top)
    return jnp.where(logits == jnp.inf, 0, logits - top)


def _exp_of_shifted(logits: Array, shifted: Array) -> Array:
    """exp(logits - top), where the rounding of that difference is made good.

    Far from the top a rounded exponent would cost as many last places as the exponent has.
    """
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    back = shifted - logits
    lost = (logits - (shifted - back)) - (top + back)
    return jnp.exp(shifted) * (1 + jnp.where(jnp.abs(lost) < 1, lost, 0))


@jax.custom_jvp
def surprise_of_class(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label], with all its digits however sure or wrong the logits are."""
    return _surprise_of_class_jvp((logits, labels), (jnp.zeros_like(logits), None))[0]


@surprise_of_class.defjvp
def _surprise_of_class_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Of the sum over all classes, 1 + tiny would lose the tiny; the sum over the others keeps it.
    # One array serves the sum and the gradient, so nothing else of the logits' size is stored.
    logits, labels = primals
    label = labels[..., None]
    is_label = label == jnp.arange(logits.shape[-1], dtype=labels.dtype)
    shifted = _shifted(logits)
    others = jnp.where(is_label, 0, _exp_of_shifted(logits, shifted))
    rest = jnp.sum(others, axis=-1, keepdims=True)
    gap = -jnp.take_along_axis(shifted, label, axis=-1)
    total = rest + jnp.exp(-gap)
    total = jnp.where(total == 0, 1, total)  # a row of -inf alone
    value = jnp.where(gap == 0, jnp.log1p(rest), gap + jnp.log(total))
    gradient = jnp.where(is_label, -rest, others) / total
    return value[..., 0], jnp.sum(gradient * tangents[0], axis=-1)


@jax.custom_jvp
def _rest(shifted: Array) -> Array:
    """The sum of the exponentials less the 1 of one maximum: it keeps the tiny of 1 + tiny."""
    below = jnp.sum(jnp.where(shifted < 0, jnp.exp(shifted), 0), axis=-1, keepdims=True)
    ties = jnp.sum(shifted == 0, axis=-1, keepdims=True, dtype=jnp.int32)
    return below + jnp.maximum(ties - 1, 0).astype(shifted.dtype)


@_rest.defjvp
def _rest_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (shifted,), (tangent,) = primals, tangents
    return _rest(shifted), jnp.sum(jnp.exp(shifted) * tangent, axis=-1, keepdims=True)


@jax.custom_jvp
def surprise_of_distribution(logits: Array, labels: Array) -> Array:
    """-sum(labels * log softmax(logits)), where an impossible class of label 0 costs nothing."""
    shifted = _shifted(logits)
    costs = jnp.sum(numerics.multiply_no_nan(labels, -shifted), axis=-1)
    return costs + jnp.log1p(_rest(shifted))[..., 0] * jnp.sum(labels, axis=-1)


@functools.partial(surprise_of_distribution.defjvp, symbolic_zeros=True)
def _surprise_of_distribution_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, labels = primals
    to_logits, to_labels = tangents
    shifted = _shifted(logits)
    rest = _rest(shifted)
    tangent = jnp.zeros(logits.shape[:-1], logits.dtype)
    if not isinstance(to_logits, SymbolicZero):
        at_top = shifted == 0
        off_top = jnp.sum(jnp.where(at_top, 0, labels), axis=-1, keepdims=True)
        on_top = jnp.sum(jnp.where(at_top, labels, 0), axis=-1, keepdims=True)
        exps, total = jnp.exp(shifted), 1 + rest
        gradient = (off_top + on_top) * (exps / total) - labels
        # At the top p rounds to 1 and p - q to 0; its complement, the rest, does not. There
        # exps is 1, but not its derivative.
        at_top_gradient = (off_top + (on_top - labels)) * exps - labels * (rest - (exps - 1))
        gradient = jnp.where(at_top, at_top_gradient / total, gradient)
        tangent = tangent + jnp.sum(gradient * to_logits, axis=-1)
    if not isinstance(to_labels, SymbolicZero):
        surprise = jnp.log1p(rest) - shifted
        surprise = jnp.where((labels == 0) & (surprise == jnp.inf), 0, surprise)
        tangent = tangent + jnp.sum(surprise * to_labels, axis=-1)
    return surprise_of_distribution(logits, labels), tangent


def even_over_possible(logits: Array) -> Array:
    """The distribution that label smoothing mixes in: even over the classes that are possible."""
    possible = logits > -jnp.inf
    count = jnp.sum(possible, axis=-1, keepdims=True, dtype=jnp.int32)
    return possible / jnp.maximum(count, 1).astype(logits.dtype)
