"""-log p of a sigmoid, accurate in value and gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss.numerics._elementwise import multiply_no_nan, softplus


@jax.custom_jvp
def _both_sigmoids(x: Array) -> tuple[Array, Array]:
    """sigmoid(x) and sigmoid(-x), from one exponential, each with all its digits."""
    exp = jnp.exp(jnp.where(x < 0, x, -x))  # not -|x|, which has no derivative at 0
    near, far = 1 / (1 + exp), exp / (1 + exp)
    return jnp.where(x < 0, far, near), jnp.where(x < 0, near, far)


# A full rule: the function has two results, with opposite derivatives.
@_both_sigmoids.defjvp
def _both_sigmoids_jvp(primals: Any, tangents: Any) -> Any:
    positive, negative = _both_sigmoids(*primals)
    slope = positive * negative * tangents[0]
    return (positive, negative), (slope, -slope)


@jax.custom_jvp
def sigmoid_nll(logits: Array, yes: Array, no: Array) -> Array:
    """-yes * log sigmoid(logits) - no * log sigmoid(-logits), where 0 * inf is 0."""
    shared = jnp.log1p(jnp.exp(jnp.where(logits < 0, logits, -logits)))
    of_yes = shared + jnp.where(logits < 0, -logits, 0)
    of_no = shared + jnp.where(logits < 0, 0, logits)
    plain = yes * of_yes + no * of_no
    careful = multiply_no_nan(yes, of_yes) + multiply_no_nan(no, of_no)
    # The select comes last: XLA on CPU splits a final sum and writes both of its terms to memory.
    return jnp.where(plain < jnp.inf, plain, careful)


# A full rule: the derivatives in `yes` and `no`, which most callers do not need, cost logarithms.
@functools.partial(sigmoid_nll.defjvp, symbolic_zeros=True)
def _sigmoid_nll_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, yes, no = primals
    logits_dot, yes_dot, no_dot = tangents
    nll_dot = jnp.zeros_like(logits)
    if not isinstance(logits_dot, SymbolicZero):
        positive, negative = _both_sigmoids(logits)
        nll_dot = nll_dot + (no * positive - yes * negative) * logits_dot
    for weight, weight_dot, x in ((yes, yes_dot, -logits), (no, no_dot, logits)):
        if not isinstance(weight_dot, SymbolicZero):
            nll = softplus(x)
            nll = jnp.where((weight == 0) & (nll == jnp.inf), 0, nll)
            nll_dot = nll_dot + nll * weight_dot
    return sigmoid_nll(logits, yes, no), nll_dot
