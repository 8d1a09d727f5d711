r"""The cross-entropy of a softmax and a distribution over the classes, and functions of -log p.

Where a probability is close to its label, their difference would be rounded: the gradient is
computed from sums that leave out the largest class.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._xla import (
    each_on_gpu,
    on_gpu,
    recompute_off_cpu,
    recompute_on_gpu,
    written_on_cpu,
)
from jaxloss.numerics._double_double import DD, exp_shifted, finite, two_quotient, two_sum
from jaxloss.numerics._online_sums import (
    WeightedSums,
    top_and_rest,
    weighted_exps,
    weighted_sums,
)
from jaxloss.numerics._reductions import fused_sums, in_one_reduction
from jaxloss.numerics._top import (
    Copies,
    below_top,
    exps_again,
    finite_words,
    first_of,
    high_word,
    is_top,
    of_rows,
    top_of_row,
)


class _Sums(NamedTuple):
    """What the derivatives of a cross-entropy are computed from, beside logits and labels.

    Attributes:
        top: The largest logit of each row.
        exps: exp(logit - top).
        rest: The sum of `exps` less the 1 of one largest logit.
        labels_off_top: The sum of the labels at the other logits.
        labels_on_top: The sum of the labels at the largest logits.
    """

    top: Any
    exps: Array
    rest: Array
    labels_off_top: Array
    labels_on_top: Array


def _terms_of_dense(
    exps: Array, logits: Array | DD, labels: Array, *tops: Any
) -> tuple[Array, ...]:
    """What is summed over the classes, each term given the top of its own."""
    at_top, ties, off_top, on_top = (is_top(exps, logits, top) for top in tops[:4])
    gap = below_top(tops[4], logits)
    return (
        # The sum of the exponentials less the 1 of one top keeps the tiny of 1 + tiny. At the top,
        # `exps - 1` is 0 and has the derivative of `exps`.
        jnp.where(at_top, exps - 1, exps),
        ties.astype(exps.dtype),
        jnp.where(off_top, 0, labels),
        jnp.where(on_top, labels, 0),
        labels * jnp.where((labels == 0) & (gap == jnp.inf), 0, gap),
    )


def _weighted_by_passes(logits: Array | DD, labels: Array) -> tuple[Array, WeightedSums]:
    """exp(logits - top), and the sums of a row."""
    top = top_of_row(logits)
    exps = written_on_cpu(exp_shifted(logits, top))
    tops = each_on_gpu(top, 5)
    below, ties, off_top, on_top, gaps = fused_sums(*_terms_of_dense(exps, logits, labels, *tops))
    rest = below + jnp.maximum(ties - 1, 0)
    top = jax.tree.map(lambda x: jnp.squeeze(x, -1), top)
    return exps, WeightedSums(top, rest, off_top, on_top, gaps)


def _weighted_online(logits: Array | DD, labels: Array) -> tuple[Array, WeightedSums]:
    sums = weighted_sums(logits, labels)
    sums = sums._replace(top=finite_words(sums.top))
    return exp_shifted(logits, of_rows(sums.top)), sums


def _dense_and_sums(logits: Array | DD, labels: Array, _copies: Copies = ()) -> tuple[Array, _Sums]:
    """-sum(labels * log softmax(logits)), and the sums of its derivatives."""
    exps, sums = in_one_reduction(_weighted_by_passes, _weighted_online, logits, labels)
    value = sums.gaps + jnp.log1p(sums.rest) * (sums.below + sums.at_top)
    top, rest, below, at_top = of_rows(sums[:4])
    return value, _Sums(top, exps, rest, below, at_top)


# Value and sums are one function: XLA would read the logits once more for the sums alone.
_dense = jax.custom_jvp(_dense_and_sums)


# A full rule: it reduces over the classes.
@functools.partial(_dense.defjvp, symbolic_zeros=True)
def _dense_jvp(primals: Any, tangents: Any) -> Any:
    logits, labels, copies = primals
    logits_dot, labels_dot, _ = tangents
    value, sums = _dense(*primals)
    value_dot, sums_dot = jnp.zeros_like(value), jax.tree.map(jnp.zeros_like, sums)
    logits_dot = high_word(logits_dot)
    at_top = is_top(sums.exps, logits, sums.top)
    if not isinstance(logits_dot, SymbolicZero):
        gradient = _dense_gradient((logits, *copies)[-1], labels, sums)
        value_dot = value_dot + jnp.sum(gradient * logits_dot, axis=-1)
        exps_dot = sums.exps * logits_dot
        rest_dot = jnp.sum(exps_dot, axis=-1, keepdims=True)
        sums_dot = sums_dot._replace(exps=exps_dot, rest=rest_dot)
    if not isinstance(labels_dot, SymbolicZero):
        nll = _dense_nll(logits, labels, sums)
        value_dot = value_dot + jnp.sum(nll.hi * labels_dot, axis=-1)
        sums_dot = sums_dot._replace(
            labels_off_top=jnp.sum(jnp.where(at_top, 0, labels_dot), axis=-1, keepdims=True),
            labels_on_top=jnp.sum(jnp.where(at_top, labels_dot, 0), axis=-1, keepdims=True),
        )
    return (value, sums), (value_dot, sums_dot)


def _dense_gradient(logits: Array | DD, labels: Array, sums: _Sums) -> Array:
    """softmax(logits) * sum(labels) - labels."""
    # At a certain top p rounds to 1 and p - q to 0; the complement of p, the rest, is not rounded.
    # Elsewhere the ratio of the sums has two words, since its product with an exponential may
    # nearly equal the label.
    rest, top = sums.rest, recompute_on_gpu(sums.top)
    exps = on_gpu(exps_again, first_of, sums.exps, logits, sums.top)
    off_top, on_top = sums.labels_off_top, sums.labels_on_top
    at_top = off_top * exps + ((on_top - labels) * exps - labels * (rest - (exps - 1)))
    total, whole = two_sum(off_top, on_top), two_sum(rest, 1)
    ratio = two_quotient(total.hi, whole.hi)
    lo = ratio.lo + finite((total.lo - ratio.hi * whole.lo) / whole.hi)
    return jnp.where(
        is_top(exps, logits, top) & (rest < 0.5),
        at_top / (1 + rest),
        (ratio.hi * exps - labels) + lo * exps,
    )


def _dense_nll(logits: Array | DD, labels: Array, sums: _Sums) -> DD:
    """-log softmax(logits); 0 at a class with logit -inf and label 0."""
    x, top = high_word(logits), high_word(sums.top)
    nll = two_sum(jnp.log1p(sums.rest), below_top(top, x))
    hi = jnp.where((labels == 0) & (nll.hi == jnp.inf), 0, nll.hi)
    lo = nll.lo + two_sum(top, -x).lo
    return DD(hi, lo - (logits.lo - sums.top.lo) if isinstance(logits, DD) else lo)


def softmax_cross_entropy_dense(logits: Array | DD, labels: Array, copies: Copies = ()) -> Array:
    """-sum(labels * log softmax(logits)), where a class with logit -inf and label 0 adds 0.

    `logits` and `copies` are those of `softmax_nll`.
    """
    return _dense(logits, labels, copies)[0]


def _rest_by_passes(logits: Array) -> tuple[Array, Array, Array]:
    """The largest logit, exp(logits - top), and their sum without the 1 of one largest logit."""
    top = top_of_row(logits)
    exps = written_on_cpu(exp_shifted(logits, top))
    at_top, is_tie = (is_top(exps, logits, each) for each in each_on_gpu(top, 2))
    below, ties = fused_sums(jnp.where(at_top, exps - 1, exps), is_tie.astype(exps.dtype))
    return top, exps, (below + jnp.maximum(ties - 1, 0))[..., None]


def _rest_online(logits: Array) -> tuple[Array, Array, Array]:
    top, rest = of_rows(top_and_rest(logits))
    top = finite_words(top)
    return top, exp_shifted(logits, top), rest


def _expected_and_sums(
    function: Callable[..., Array], logits: Array, labels: Array, *options: Array
) -> tuple[Array, _Sums]:
    """sum(labels * function(-log softmax(logits), *options)), and the sums of its derivatives."""
    top, exps, rest = in_one_reduction(_rest_by_passes, _rest_online, logits)
    nothing = jnp.zeros_like(rest)
    sums = _Sums(top, exps, rest, nothing, nothing)
    terms = labels * function(_dense_nll(logits, labels, sums), *options)
    # The select comes last: XLA on CPU splits a final product and writes its factors to memory.
    return jnp.sum(jnp.where(labels == 0, 0, terms), axis=-1), sums


_expected = jax.custom_jvp(_expected_and_sums, nondiff_argnums=(0,))


# A full rule: it reduces over the classes.
@_expected.defjvp
def _expected_jvp(function: Callable[..., Array], primals: Any, tangents: Any) -> Any:
    logits, labels, *options = primals
    logits_dot, labels_dot, *options_dot = tangents
    value, sums = _expected(function, *primals)

    def of_classes(top: Array, rest: Array) -> tuple[DD, Array, Array, Array]:
        nll = _dense_nll(logits, labels, sums._replace(top=top, rest=rest))
        values, slopes = jax.jvp(
            lambda hi: function(DD(hi, nll.lo), *options), (nll.hi,), (jnp.ones_like(nll.hi),)
        )
        return nll, values, labels * slopes, is_top(sums.exps, logits, top)

    # Of five copies of the top, the value has the first two. Two sums and the gradient compute the
    # classes again, each from its own.
    rows = zip(each_on_gpu(sums.top, 5)[2:], each_on_gpu(sums.rest, 3), strict=True)
    off, on, own = (tuple(map(recompute_off_cpu, row)) for row in rows)
    own = tuple(map(recompute_off_cpu, own))
    (*_, left, at_top), (*_, right, also_at_top) = of_classes(*off), of_classes(*on)
    off_top, on_top = fused_sums(jnp.where(at_top, 0, left), jnp.where(also_at_top, right, 0))
    nll, values, weights, _ = of_classes(*own)
    known = sums._replace(
        top=own[0], labels_off_top=off_top[..., None], labels_on_top=on_top[..., None]
    )
    value_dot = jnp.sum(_dense_gradient(logits, weights, known) * logits_dot, axis=-1)
    value_dot = value_dot + jnp.sum(values * labels_dot, axis=-1)
    if options:
        _, by_options = jax.jvp(
            functools.partial(function, nll), tuple(options), tuple(options_dot)
        )
        value_dot = value_dot + jnp.sum(labels * by_options, axis=-1)
    exps_dot = sums.exps * logits_dot
    rest_dot = jnp.sum(exps_dot, axis=-1, keepdims=True)
    sums_dot = _Sums(*map(jnp.zeros_like, sums))._replace(exps=exps_dot, rest=rest_dot)
    return (value, sums), (value_dot, sums_dot)


def expected_function_of_nll(
    function: Callable[..., Array], logits: Array, labels: Array, *options: Array
) -> Array:
    """sum(labels * function(-log softmax(logits), *options)), for an elementwise function.

    The function takes a `DD` and the options. It should be defined at module level.
    """
    return _expected(function, logits, labels, *options)[0]


def _products_by_passes(logits: Array, labels: Array, top: Array, exps: Array) -> Array:
    # At the top, `exps - 1` is 0 and has the derivative of `exps`.
    at_top = is_top(exps, logits, top)
    return jnp.sum(labels * jnp.where(at_top, exps - 1, exps), axis=-1)


def _products_by_reduction(logits: Array, labels: Array, _top: Array, _exps: Array) -> Array:
    return weighted_exps(logits, labels)


@jax.custom_jvp
def _products(logits: Array, labels: Array, sums: _Sums) -> Array:
    """The sum of labels * exp(logit - top) over the classes other than the largest logits."""
    forms = _products_by_passes, _products_by_reduction
    return in_one_reduction(*forms, logits, labels, sums.top, sums.exps)[..., None]


# A full rule: it reduces over the classes. The largest logit is a constant.
@_products.defjvp
def _products_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, labels, sums = primals
    off_top = jnp.where(is_top(sums.exps, logits, sums.top), 0, sums.exps)
    terms = labels * sums.exps * tangents[0] + off_top * tangents[1]
    return _products(*primals), jnp.sum(terms, axis=-1, keepdims=True)


@jax.custom_jvp
def _complement(logits: Array, labels: Array, sums: _Sums) -> Array:
    # At the largest logit 1 - p is the rest. Elsewhere the rest is at least the exponential.
    off_top = sums.labels_off_top - _products(logits, labels, sums)
    total, rest = sums.labels_off_top + sums.labels_on_top, sums.rest
    return ((off_top + total * rest) / (1 + rest))[..., 0]


# A full rule: it reduces over the classes. The sums are functions of logits and labels, so that
# their tangents count in second derivatives alone.
@_complement.defjvp
def _complement_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, labels, sums = primals
    logits_dot, labels_dot, _ = tangents
    off_top, on_top = _products(logits, labels, sums), sums.labels_on_top
    rest, top = sums.rest, recompute_on_gpu(sums.top)
    exps = on_gpu(exps_again, first_of, sums.exps, logits, sums.top)
    at_top = is_top(exps, logits, top)
    excess = jnp.where(
        at_top, off_top + (on_top - labels) - labels * rest, off_top + on_top - labels * (1 + rest)
    )
    gradient = exps * excess / jnp.square(1 + rest)
    by_labels = jnp.where(at_top, rest - (exps - 1), rest + (1 - exps)) / (1 + rest)
    value_dot = jnp.sum(gradient * logits_dot, axis=-1) + jnp.sum(by_labels * labels_dot, axis=-1)
    return _complement(*primals), value_dot


def cross_entropy_complement_and_total(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """The sums of labels times -log p, times 1 - p, and of labels, of p = softmax(logits)."""
    value, sums = _dense(logits, labels)
    total = (sums.labels_off_top + sums.labels_on_top)[..., 0]
    return value, _complement(logits, labels, sums), total
