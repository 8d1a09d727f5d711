"""Sums over the classes of a function of two softmaxes, and their derivatives by the logits.

The derivative by a logit is that by the logarithm of its probability, less the probability times
the sum of those derivatives. That sum is added up with the value: each logit is read once for the
largest of its row, once for the sums of the exponentials, once for the value and the sums of the
derivatives, and once for the gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
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

COPIES = 6  # of the value, of the derivatives by each logit, of the gradient


class Pair(NamedTuple):
    """The probabilities p and q of each class, and p - q with all digits where they are close."""

    p: Array
    q: Array
    p_minus_q: Array


class Likely(NamedTuple):
    """Where a probability is above 1/2, and the sum of the others, which is 1 less that."""

    mask: Array
    missing: Array


def _pairs_by_passes(
    logits: Array, target_logits: Array, temperature: Array | None
) -> tuple[Any, ...]:
    """Each from numbers of its own a row: what several sums share would be written to memory."""
    data = logits, target_logits, temperature
    tops = [each_on_gpu(top_of(x), 6) for x in (logits, target_logits)]
    e = [elements_of(*data, pair) for pair in zip(*tops, strict=True)]
    dtype = e[0].exp_x.dtype
    below_x, ties_x, below_z, ties_z, excess = fused_sums(
        jnp.where(e[0].x.hi == 0, e[0].exp_x - 1, e[0].exp_x),
        (e[1].x.hi == 0).astype(dtype),
        jnp.where(e[2].z.hi == 0, e[2].exp_z - 1, e[2].exp_z),
        (e[3].z.hi == 0).astype(dtype),
        difference_of_exps(e[4]),
    )
    rest_x, rest_z = (
        below + jnp.maximum(ties - 1, 0) for below, ties in ((below_x, ties_x), (below_z, ties_z))
    )
    rows = [top[-1][..., 0] for top in tops] + [rest_x, rest_z, excess]
    copies = [each_on_gpu(recompute_off_cpu(x), COPIES) for x in rows]
    found = []
    for last, row in enumerate(zip(*copies, strict=True), 1 - COPIES):
        each = row if last else tuple(map(recompute_off_cpu, row))
        c = probabilities_of(*data, Normalizers(*each, each[0], each[1], temperature))
        likely = [
            Likely((x == top[..., None]) & (rest < 1)[..., None], (rest / (1 + rest))[..., None])
            for x, top, rest in ((logits, each[0], each[2]), (target_logits, each[1], each[3]))
        ]
        found.append((Pair(c.p, c.q, c.p_minus_q), *likely))
    return tuple(found)


def _pairs_of_arrays(
    logits: Array, target_logits: Array, temperature: Array | None
) -> tuple[Any, ...]:
    c = compare_with_arrays(logits, target_logits, temperature)
    likely = [
        Likely(p > 0.5, jnp.sum(jnp.where(p > 0.5, 0, p), axis=-1, keepdims=True))
        for p in (c.p, c.q)
    ]
    return ((Pair(c.p, c.q, c.p_minus_q), *likely),) * COPIES


@jax.custom_jvp
def _pairs(logits: Array, target_logits: Array, temperature: Array | None) -> tuple[Any, ...]:
    return on_cpu(_pairs_of_arrays, _pairs_by_passes, logits, target_logits, temperature)


# Full rules: they reduce over the classes.
@_pairs.defjvp
def _pairs_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    pairs = _pairs(*primals)
    p_dot, q_dot = (
        weights * subtract_weighted_mean(dot, weights, -1)
        for dot, weights in zip(tangents_of_exponents(primals, tangents), pairs[0][0], strict=False)
    )
    return pairs, ((Pair(p_dot, q_dot, p_dot - q_dot), *(Likely(np.zeros(x.mask.shape,jax.dtypes.float0), -jnp.sum(jnp.where(x.mask, d, 0),-1,keepdims=True)) for x, d in zip(pairs[0][1:], (p_dot,q_dot)))),) * len(pairs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_over_classes(
    term: Callable[..., Array],
    logits: Array,
    target_logits: Array,
    temperature: Array | None,
    *options: Array,
) -> Array:
    """The sum of `term(pair, *options)` over the classes of both softmaxes.

    Args:
        term: A function of a `Pair` and of the options, at module level.
        logits: Those of p.
        target_logits: Those of q.
        temperature: The number by which both are divided; None for 1.
        options: Scalars.
    """
    return jnp.sum(term(_pairs(logits, target_logits, temperature)[0][0], *options), axis=-1)


def _by_logits(derivatives: Callable[[Pair], Array], weights: int, sums: Any, last: Any) -> Array:
    """The derivatives by logits, from those by the logarithms of their probabilities."""
    from_likely, from_others = (
        jnp.sum(jnp.where(each[1 + weights].mask == is_likely, derivatives(each[0]), 0), axis=-1, keepdims=True)
        for each, is_likely in zip(sums, (True, False), strict=True)
    )
    p, likely, of_class = last[0][weights], last[1 + weights], derivatives(last[0])
    return jnp.where(
        likely.mask,
        likely.missing * of_class - p * from_others,
        of_class - p * (from_likely + from_others),
    )


@sum_over_classes.defjvp
def _sum_over_classes_jvp(
    term: Callable[..., Array], primals: Any, tangents: Any
) -> tuple[Array, Array]:
    logits, target_logits, temperature, *options = primals
    first, *others, last = _pairs(logits, target_logits, temperature)

    def by_log_p(c: Pair) -> Array:
        return jax.jvp(lambda c: term(c, *options), (c,), (Pair(c.p, jnp.zeros_like(c.q), c.p),))[1]

    def by_log_q(c: Pair) -> Array:
        change = Pair(jnp.zeros_like(c.p), c.q, -c.q)
        return jax.jvp(lambda c: term(c, *options), (c,), (change,))[1]

    x_dot, z_dot = tangents_of_exponents(primals[:3], tangents[:3])
    terms, by_options = jax.jvp(
        functools.partial(term, first[0]), tuple(options), tuple(tangents[3:])
    ) if options else (term(first[0]), jnp.zeros_like(first[0].p))
    by_x = _by_logits(by_log_p, 0, others[:2], last)
    by_z = _by_logits(by_log_q, 1, others[2:], last)
    return recompute_on_gpu(jnp.sum(terms, axis=-1)), jnp.sum(by_x * x_dot + by_z * z_dot + by_options, axis=-1)
