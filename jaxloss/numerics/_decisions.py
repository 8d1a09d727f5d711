"""Functions of the lead of a decision, the score times the sign of the label."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._xla import recompute


def sign_of(labels: Array, zero_one_labels: bool) -> Array:
    """The labels as -1 and +1; NaN for what is not a label."""
    sign = 2 * labels - 1 if zero_one_labels else labels
    # JAX would convert a Python NaN in a call, of which `jax_debug_nans` would complain.
    return jnp.where(jnp.abs(sign) == 1, sign, np.asarray(np.nan, sign.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def function_of_lead(
    function: Callable[[Array], Array], scores: Array, labels: Array, zero_one_labels: bool
) -> Array:
    """A function of sign * score, which is positive if the decision is right."""
    return function(sign_of(labels, zero_one_labels) * scores)


# A full rule: on CPU the lead, which value and gradient share, would be written to memory.
@functools.partial(function_of_lead.defjvp, symbolic_zeros=True)
def _function_of_lead_jvp(
    function: Callable[[Array], Array],
    zero_one_labels: bool,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> tuple[Array, Array]:
    scores, labels = recompute(primals)
    scores_dot, labels_dot = tangents
    sign = sign_of(labels, zero_one_labels)
    lead = sign * scores
    _, slope = jax.jvp(function, (lead,), (jnp.ones_like(lead),))
    value_dot = jnp.zeros_like(lead)
    if not isinstance(scores_dot, SymbolicZero):
        value_dot = value_dot + slope * sign * scores_dot
    if not isinstance(labels_dot, SymbolicZero):
        value_dot = value_dot + slope * scores * (1 + zero_one_labels) * labels_dot
    return function_of_lead(function, *primals, zero_one_labels), value_dot
