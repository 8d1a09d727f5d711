"""Scores of the classes other than the label: the largest, and the hinge loss against each.

Rivals that tie share the gradient of the largest.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._xla import fits_in_cache, in_bytes, on_each
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._double_double import difference
from jaxloss.numerics._elementwise import relu
from jaxloss.numerics._labels import is_label, take_label
from jaxloss.numerics._reductions import in_one_reduction, reduce_together, variadic_reduce

Numbers = tuple[Array, ...]


def _larger(a: Numbers, b: Numbers) -> Numbers:
    """The larger of two numbers, how often it occurs, and sums of something else."""
    top = jnp.maximum(a[0], b[0])
    count = jnp.where(a[0] == top, a[1], 0) + jnp.where(b[0] == top, b[1], 0)
    return top, count, *(x + y for x, y in zip(a[2:], b[2:], strict=True))


def _largest_of(parts: Numbers) -> Numbers:
    x, count = parts
    top = jnp.max(x, axis=-1)
    return top, jnp.sum(jnp.where(x == top[..., None], count, 0), axis=-1)


def _by_passes(scores: Array, labels: Array) -> Numbers:
    rivals = jnp.where(is_label(scores, labels), -jnp.inf, scores)
    terms = rivals, jnp.ones_like(rivals)
    return *variadic_reduce(terms, (-np.inf, 0), _larger, _largest_of), take_label(scores, labels)


def _online(scores: Array, labels: Array) -> Numbers:
    at_label = is_label(scores, labels)
    rivals, own = jnp.where(at_label, -jnp.inf, scores), jnp.where(at_label, scores, 0)
    return reduce_together((rivals, jnp.ones_like(rivals), own), (-np.inf, 0, 0), _larger, -1)


@jax.custom_jvp
def rival_and_own(scores: Array, labels: Array) -> tuple[Array, Array, Array]:
    """The largest score of the other classes, how many have it, and the score of the label."""
    rival, count, own = in_one_reduction(_by_passes, _online, scores, labels)
    return rival, count, own


# A full rule: it reduces over the classes.
@rival_and_own.defjvp
def _rival_and_own_jvp(primals: Any, tangents: Any) -> Any:
    scores, labels = primals
    rival, count, own = rival_and_own(scores, labels)
    at_label = is_label(scores, labels)
    at_rival = ~at_label & ~(scores < rival[..., None])  # also where the largest is NaN
    # Rivals that tie share the derivative. A select, since XLA would write out a maximum of counts.
    several = count > 1
    part = jnp.where(several, 1 / jnp.where(several, count, 1), 1)[..., None]
    rival_dot = jnp.sum(jnp.where(at_rival, part, 0) * tangents[0], axis=-1)
    own_dot = jnp.sum(jnp.where(at_label, tangents[0], 0), axis=-1)
    return (rival, count, own), (rival_dot, jnp.zeros_like(count), own_dot)


# Jitted because `jax_debug_nans` would report the rounding error of a score of -inf, which is NaN
# and is not used.
@functools.partial(jax.jit, inline=True)
def hinge_of_rival(margin: Array | float, rival: Array, own: Array) -> Array:
    """max(0, margin + rival - own), accurate where the three almost cancel.

    A rival of -inf gives 0, whatever the own score is.
    """
    gap = difference(rival, jnp.where(rival == -jnp.inf, 0, own))
    return relu((margin + gap.hi) + gap.lo)


def _hinges(margin: Array, scores: Array, labels: Array, own: Array) -> Array:
    """The hinge of each class but the label."""
    rivals = jnp.where(is_label(scores, labels), -jnp.inf, scores)
    return hinge_of_rival(margin, rivals, own)


def _slope(hinges: Array) -> Array:
    hinges = lax.stop_gradient(hinges)
    return jnp.where(hinges <= 0, 0, jnp.where(hinges == hinges, 1, hinges))


def _times(slope: Array, change: Array) -> Array:
    return jnp.where(slope == 0, 0, slope * change)


def _changes(hinges: Array, scores_dot: Array, row_dot: Array) -> Array:
    return _times(_slope(hinges), scores_dot + row_dot)


def _changes_by_bytes(hinges: Array, scores_dot: Array, row_dot: Array) -> Array:
    slopes = _slope(hinges)
    return _times(in_bytes(slopes), scores_dot) + _times(slopes, row_dot)


_plain_hinges = jax.custom_jvp(_hinges)


# A full rule: on TPU the gradient in the scores reads which hinges count, in one byte each, and the
# sum over a row that is the gradient in its own score is one kernel with the sum of the hinges.
@_plain_hinges.defjvp
def _plain_hinges_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    margin_dot, scores_dot, _, own_dot = tangents
    hinges = _plain_hinges(*primals)
    arguments = hinges, scores_dot, margin_dot - own_dot
    if fits_in_cache(hinges):
        return hinges, _changes(*arguments)
    return hinges, on_each(_changes, _changes, _changes_by_bytes, *arguments)


# By the power of the hinges: of a square the slope is no byte.
hinges_of_power = {
    power: separate_derivative(hinges, each=True)
    for power, hinges in ((1, _plain_hinges), (2, _hinges))
}
