"""The largest score of the classes other than the label, whose gradient rivals that tie share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

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
