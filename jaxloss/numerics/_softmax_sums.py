"""Sums over the classes of a function of two softmaxes, and their derivatives by the logits.

The derivative by a logit is p times what the derivative by p is above its mean under p. That mean
is a sum beside the value: both logits are read once for the sums of the exponentials, once for
value and mean, and once for the gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import each_on_gpu, on_cpu, recompute_off_cpu, recompute_on_gpu
from jaxloss.numerics._labels import take_label
from jaxloss.numerics._softmax import subtract_weighted_mean
from jaxloss.numerics._softmax_kl import compare_with_arrays, tangents_of_exponents
from jaxloss.numerics._softmax_pair import (
    Normalizers,
    normalizers_of_rows,
    probabilities_of,
)

Temperature = Array | None
T = TypeVar("T")


class Pair(NamedTuple):
    """The probabilities p and q of each class, and p - q with all digits where they are close."""

    p: Array
    q: Array
    p_minus_q: Array


class _Pairs(NamedTuple):
    """The classes, computed again for each pass, and two of them.

    Attributes:
        value: For the value.
        sums: For the sum of the derivatives by p, and of those by q.
        last: For the gradient.
        likeliest: A class whose p, and one whose q, is the largest of the row.
    """

    value: Pair
    sums: tuple[Pair, Pair]
    last: Pair
    likeliest: tuple[Pair, Pair]


def _for_each_pass(x: T) -> tuple[T, ...]:
    """Numbers of each row for the value, two sums and the gradient, which share nothing."""
    copies = each_on_gpu(recompute_off_cpu(x), 3)
    return *copies, recompute_off_cpu(copies[-1])


def _pairs_by_passes(logits: Array, target_logits: Array, temperature: Temperature) -> _Pairs:
    """Both logits are read in each pass, and nothing of their size is written."""
    sums = normalizers_of_rows(logits, target_logits, temperature)

    def pair(x: Array, z: Array, rows: Normalizers) -> Pair:
        c = probabilities_of(x, z, temperature, rows)
        return Pair(c.p, c.q, c.p_minus_q)

    value, by_p, by_q, last = (pair(logits, target_logits, rows) for rows in _for_each_pass(sums))
    tops = sums.top_x, sums.z_at_top, sums.x_at_top, sums.top_z
    top_x, z_at_top, x_at_top, top_z = (x[..., None] for x in tops)
    likeliest = pair(top_x, z_at_top, sums), pair(x_at_top, top_z, sums)
    return _Pairs(value, (by_p, by_q), last, likeliest)


def _pairs_of_arrays(logits: Array, target_logits: Array, temperature: Temperature) -> _Pairs:
    c = compare_with_arrays(logits, target_logits, temperature)
    pair = Pair(c.p, c.q, c.p_minus_q)
    places = jnp.argmax(c.p, axis=-1), jnp.argmax(c.q, axis=-1)
    by_p, by_q = (Pair(*(take_label(x, place)[..., None] for x in pair)) for place in places)
    return _Pairs(pair, (pair, pair), pair, (by_p, by_q))


@jax.custom_jvp
def _pairs(logits: Array, target_logits: Array, temperature: Temperature) -> _Pairs:
    return on_cpu(_pairs_of_arrays, _pairs_by_passes, logits, target_logits, temperature)


# Full rules: they reduce over the classes.
@_pairs.defjvp
def _pairs_jvp(primals: Any, tangents: Any) -> tuple[_Pairs, _Pairs]:
    pairs = _pairs(*primals)
    p_dot, q_dot = (
        p * subtract_weighted_mean(change, p, -1)
        for p, change in zip(pairs.value, tangents_of_exponents(primals, tangents), strict=False)
    )
    dot = Pair(p_dot, q_dot, p_dot - q_dot)
    # Derivatives relative to those of one class do not depend on which it is.
    return pairs, _Pairs(dot, (dot, dot), dot, jax.tree.map(jnp.zeros_like, pairs.likeliest))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_over_classes(
    term: Callable[..., Array],
    logits: Array,
    target_logits: Array,
    temperature: Temperature,
    *options: Array,
) -> Array:
    """The sum of `term(pair, *options)` over the classes of both softmaxes.

    Args:
        term: A function of a `Pair` and of the options, at module level.
        logits: Those of p.
        target_logits: Those of q.
        temperature: The number by which both are divided; None for 1.
        options: Numbers.
    """
    return jnp.sum(term(_pairs(logits, target_logits, temperature).value, *options), axis=-1)


@sum_over_classes.defjvp
def _sum_over_classes_jvp(
    term: Callable[..., Array], primals: Any, tangents: Any
) -> tuple[Array, Array]:
    logits, target_logits, temperature, *options = primals
    pairs = _pairs(logits, target_logits, temperature)

    def by_p(c: Pair) -> Array:
        return by_pair(c, Pair(jnp.ones_like(c.p), jnp.zeros_like(c.q), jnp.ones_like(c.p)))

    def by_q(c: Pair) -> Array:
        return by_pair(c, Pair(jnp.zeros_like(c.p), jnp.ones_like(c.q), -jnp.ones_like(c.q)))

    def by_pair(c: Pair, change: Pair) -> Array:
        return jax.jvp(lambda c: term(c, *options), (c,), (change,))[1]

    dot = jnp.zeros_like(logits)
    changes = tangents_of_exponents(primals[:3], tangents[:3])
    for i, (by, change) in enumerate(zip((by_p, by_q), changes, strict=True)):
        # Relative to the class with the largest probability, which may round to 1.
        p, at_top = pairs.sums[i][i], by(pairs.likeliest[i])
        mean = jnp.sum(p * (by(pairs.sums[i]) - at_top), axis=-1, keepdims=True)
        dot += pairs.last[i] * ((by(pairs.last) - at_top) - mean) * change
    if options:
        of_options = functools.partial(term, pairs.value)
        dot += jax.jvp(of_options, tuple(options), tuple(tangents[3:]))[1]
    # A sum of the whole batch would not be in one kernel with those of the rows.
    value = recompute_on_gpu(sum_over_classes(term, *primals))
    return value, jnp.sum(dot, axis=-1)
