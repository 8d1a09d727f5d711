"""Sums of exponentials of masked entries, relative to a top."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxloss.numerics._softmax_nll import exp_shifted


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_of_exps(
    axis: int,
    entries: Float[Array, "*batch rows columns"],
    counted: Bool[Array, "*batch rows columns"],
    top: Float[Array, "..."],
) -> Float[Array, "..."]:
    """The sum of exp(entry - top) along an axis over the entries that are counted.

    None of these is above the top, which is a constant under differentiation.
    """
    return _terms_and_sum(axis, entries, counted, top)[1]


@sum_of_exps.defjvp
def _sum_of_exps_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # A full rule: one array of terms serves the sum and its gradient.
    terms, total = _terms_and_sum(axis, *primals)
    return total, jnp.sum(terms * tangents[0], axis)


def _terms_and_sum(axis: int, entries: Array, counted: Array, top: Array) -> tuple[Array, Array]:
    top = jnp.expand_dims(jnp.where(top == -jnp.inf, 0, top), axis)
    # Entries above the top are not counted; clipped, their exponentials are finite.
    exps = exp_shifted(jnp.where(entries > top, top, entries), top)
    terms = jnp.where(counted, exps, 0)
    return terms, jnp.sum(terms, axis)
