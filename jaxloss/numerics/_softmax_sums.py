"""Sums over the classes of a function of two softmaxes, and their derivatives by the logits.

The derivative by a logit is that by the logarithm of its probability, less the probability times
the sum of those derivatives. That sum is added up beside the value: both logits are read once for
the largest of a row, once for the sums of the exponentials, once for the value and the sums of the
derivatives, and once for the gradient. On TPU, which writes what a kernel of many operations
shares, value and derivatives are two passes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import each_on_gpu, on_cpu, recompute_off_cpu, recompute_on_gpu
from jaxloss.numerics._reductions import fused_sums
from jaxloss.numerics._softmax import subtract_weighted_mean
from jaxloss.numerics._softmax_kl import compare_with_arrays, tangents_of_exponents
from jaxloss.numerics._softmax_pair import (
    Normalizers,
    difference_of_exps,
    elements_of,
    probabilities_of,
    top_of,
)

Temperature = Array | None


class Pair(NamedTuple):
    """Two softmaxes.

    Attributes:
        p: The probability of each class.
        q: The other one.
        p_minus_q: Their difference, with all digits where they are close.
        bounds: Of each row the least logit whose p, and whose q, is above 1/2; inf if there is none.
    """

    p: Array
    q: Array
    p_minus_q: Array
    bounds: tuple[Array, Array]


class _Pairs(NamedTuple):
    """The classes, computed again for each pass, and numbers of a row.

    Attributes:
        value: For the value.
        by_p: For two sums of the derivatives by p.
        by_q: For two sums of the derivatives by q.
        last: For the gradient.
        missing: Of p and of q, 1 less the probability that is above 1/2, if there is one.
    """

    value: Pair
    by_p: tuple[Pair, Pair]
    by_q: tuple[Pair, Pair]
    last: Pair
    missing: tuple[Array, Array]


def _for_each_pass(x: Array) -> tuple[Array, ...]:
    """A number of each row for the value, four sums and the gradient, which share nothing."""
    value = recompute_off_cpu(x)
    sums = each_on_gpu(recompute_off_cpu(value), 4)
    return value, *sums, recompute_off_cpu(sums[-1])


def _bound(top: Array, rest: Array) -> Array:
    return jnp.where((rest < 1) & (top > -jnp.inf), top, jnp.inf)[..., None]


def _pairs_by_passes(logits: Array, target_logits: Array, temperature: Temperature) -> _Pairs:
    """Both logits are read in each pass, and nothing of their size is written."""
    data = logits, target_logits, temperature
    tops = [each_on_gpu(top_of(x), 6) for x in (logits, target_logits)]
    e = [elements_of(*data, pair) for pair in zip(*tops, strict=True)]
    below_x, ties_x, below_z, ties_z, excess = fused_sums(
        jnp.where(e[0].x.hi == 0, e[0].exp_x - 1, e[0].exp_x),
        (e[1].x.hi == 0).astype(logits.dtype),
        jnp.where(e[2].z.hi == 0, e[2].exp_z - 1, e[2].exp_z),
        (e[3].z.hi == 0).astype(logits.dtype),
        difference_of_exps(e[4]),
    )
    rest_x, rest_z = below_x + jnp.maximum(ties_x - 1, 0), below_z + jnp.maximum(ties_z - 1, 0)
    rows = *(top[-1][..., 0] for top in tops), rest_x, rest_z, excess
    pairs = []
    for each in zip(*map(_for_each_pass, rows), strict=True):
        c = probabilities_of(*data, Normalizers(*each, each[0], each[1], temperature))
        bounds = _bound(each[0], each[2]), _bound(each[1], each[3])
        pairs.append(Pair(c.p, c.q, c.p_minus_q, bounds))
    missing = tuple((rest / (1 + rest))[..., None] for rest in (rest_x, rest_z))
    return _Pairs(pairs[0], (pairs[1], pairs[2]), (pairs[3], pairs[4]), pairs[5], missing)


def _pairs_of_arrays(logits: Array, target_logits: Array, temperature: Temperature) -> _Pairs:
    c = compare_with_arrays(logits, target_logits, temperature)
    missing = tuple(jnp.sum(jnp.where(x > 0.5, 0, x), axis=-1, keepdims=True) for x in (c.p, c.q))
    tops = top_of(logits)[..., 0], top_of(target_logits)[..., 0]
    bounds = tuple(_bound(top, 2 * x[..., 0]) for top, x in zip(tops, missing, strict=True))
    pair = Pair(c.p, c.q, c.p_minus_q, bounds)
    return _Pairs(pair, (pair, pair), (pair, pair), pair, missing)


@jax.custom_jvp
def _pairs(logits: Array, target_logits: Array, temperature: Temperature) -> _Pairs:
    return on_cpu(_pairs_of_arrays, _pairs_by_passes, logits, target_logits, temperature)


# Full rules: they reduce over the classes.
@_pairs.defjvp
def _pairs_jvp(primals: Any, tangents: Any) -> tuple[_Pairs, _Pairs]:
    pairs, found = _pairs(*primals), []
    for i, change in enumerate(tangents_of_exponents(primals, tangents)):
        p = pairs.value[i]
        p_dot = p * subtract_weighted_mean(change, p, -1)
        likely = primals[i] >= pairs.value.bounds[i]
        found.append((p_dot, -jnp.sum(jnp.where(likely, p_dot, 0), axis=-1, keepdims=True)))
    (p_dot, missing_p), (q_dot, missing_q) = found
    bounds = tuple(map(jnp.zeros_like, pairs.value.bounds))
    dot = Pair(p_dot, q_dot, p_dot - q_dot, bounds)
    return pairs, _Pairs(dot, (dot, dot), (dot, dot), dot, (missing_p, missing_q))


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

    def by_log_p(c: Pair) -> Array:
        return derivative_of(c, (c.p, jnp.zeros_like(c.q), c.p))

    def by_log_q(c: Pair) -> Array:
        return derivative_of(c, (jnp.zeros_like(c.p), c.q, -c.q))

    def derivative_of(c: Pair, dot: tuple[Array, Array, Array]) -> Array:
        return jax.jvp(lambda *c_: term(Pair(*c_, c.bounds), *options), c[:3], dot)[1]

    x_dot, z_dot = tangents_of_exponents(primals[:3], tangents[:3])
    dot = x_dot * _by_logits(logits, 0, by_log_p, pairs.by_p, pairs)
    dot += z_dot * _by_logits(target_logits, 1, by_log_q, pairs.by_q, pairs)
    if options:
        of_options = functools.partial(term, pairs.value)
        dot += jax.jvp(of_options, tuple(options), tuple(tangents[3:]))[1]
    # A sum of the whole batch would not be in one kernel with those of the rows.
    value = recompute_on_gpu(sum_over_classes(term, *primals))
    return value, jnp.sum(dot, axis=-1)


def _by_logits(
    logits: Array,
    place: int,
    by_log: Callable[[Pair], Array],
    sums: tuple[Pair, Pair],
    pairs: _Pairs,
) -> Array:
    """The derivatives by the logits of p, from those by the logarithms of the probabilities."""
    p, missing, last = pairs.last[place], pairs.missing[place], by_log(pairs.last)
    likely, unlikely = (logits >= c.bounds[place] for c in sums)
    from_likely = jnp.sum(jnp.where(likely, by_log(sums[0]), 0), axis=-1, keepdims=True)
    from_others = jnp.sum(jnp.where(unlikely, 0, by_log(sums[1])), axis=-1, keepdims=True)
    # Where p is above 1/2, and may round to 1, 1 - p has all digits.
    return jnp.where(
        logits >= pairs.last.bounds[place],
        missing * last - p * from_others,
        last - p * (from_likely + from_others),
    )
