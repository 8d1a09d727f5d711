r"""-log p of a softmax, accurate in value and gradient: the core of every such loss.

`logsumexp(x) - x[y]` is 0 for a confident correct prediction: `1 + tiny` is rounded to 1 before the
logarithm is taken, and `p - 1` to 0 in the gradient. Here the sum leaves out the term that is 1,
so that the logits [20, 0] have a loss of 2.06e-9 and not 0, at the same time and memory.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss._xla import each_on_gpu, on_cpu, on_gpu, recompute_off_cpu, recompute_on_gpu
from jaxloss.numerics._double_double import DD, exp_shifted, finite, two_quotient, two_sum
from jaxloss.numerics._labels import is_label, take_label
from jaxloss.numerics._online_sums import (
    WeightedSums,
    finite_top,
    top_and_rest,
    top_and_sum,
    weighted_exps,
    weighted_sums,
)
from jaxloss.numerics._reductions import fused_sums

T = TypeVar("T")
# Of logits that are a `DD`: the same, each computed from an unshared copy of what it is made of.
# XLA on GPU would write the low words, in float32, where they are read twice; the first copy is
# read for the label, the last for the gradient.
Copies = tuple[DD, ...]


def _hi(x: Any) -> Any:
    return x.hi if isinstance(x, DD) else x


def _top(logits: Array | DD) -> Any:
    """The largest logit of each row; 0 for a row of -inf."""
    hi = _hi(logits)
    top = _finite(lax.stop_gradient(jnp.max(hi, axis=-1, keepdims=True, initial=-jnp.inf)))
    if not isinstance(logits, DD):
        return top
    at_top = jnp.where(hi == top, logits.lo, -jnp.inf)
    return DD(top, finite(jnp.max(at_top, axis=-1, keepdims=True, initial=-jnp.inf)))


def _finite(top: Any) -> Any:
    """The largest logit, and 0 if all are -inf."""
    return top._replace(hi=finite_top(top.hi)) if isinstance(top, DD) else finite_top(top)


def _is_top(exps: Array, logits: Array | DD, top: Array | DD) -> Array:
    """Where the logit is the largest of its row; on CPU also where its exponential rounds to 1."""
    return on_cpu(_is_top_by_exps, _is_top_by_logits, exps, _hi(logits), _hi(top))


def _is_top_by_exps(exps: Array, _logits: Array, _top: Array) -> Array:
    return exps == 1


def _is_top_by_logits(_exps: Array, logits: Array, top: Array) -> Array:
    # On GPU what many terms need is written out, unless each can compute it cheaply.
    return logits == top


def _below(top: Array | DD, logits: Array | DD) -> Array:
    """The top less the logits: at least 0, and 0 for +inf."""
    hi = _hi(logits)
    gap = jnp.where(hi == jnp.inf, 0, _hi(top) - hi)
    if not isinstance(logits, DD):
        return gap
    return gap - (logits.lo - top.lo if isinstance(top, DD) else logits.lo)


def nll_from_gap(rest: Array, gap: Array) -> tuple[Array, Array]:
    """-log p of an entry, and the logarithm of the sum of exp(logit - top) over all entries.

    No rule is needed: the derivatives of these formulas are accurate.

    Args:
        rest: The sum of exp(logit - top) over the other entries.
        gap: The top less the entry's own logit; its error-free value may be a little below 0.
    """
    near = gap < 64
    odds = rest * jnp.exp(jnp.where(near, gap, 0))
    far = jnp.where(near, 64, gap)
    total = jnp.where(near, 1, rest) + jnp.exp(-far)
    total = jnp.where(total == 0, 1, total)  # every entry is -inf
    nll = jnp.where(near, jnp.log1p(odds), far + jnp.log(total))
    whole = rest + jnp.exp(-gap)
    whole = jnp.where(whole == 0, 1, whole)
    return nll, jnp.where(gap == 0, jnp.log1p(rest + jnp.expm1(-gap)), jnp.log(whole))


def _others(logits: Array | DD, top: Any, at_label: Array) -> Array:
    """exp(logits - top) at the classes other than the label, 0 at the label."""
    return jnp.where(at_label, 0, exp_shifted(logits, top))


class _Label(NamedTuple):
    """What a row of logits has for one label.

    Attributes:
        top: The largest logit.
        logit: That of the label; 0 if the label names no class.
        others: exp(logits - top) at the other classes, 0 at the label.
        rest: The sum of `others`.
    """

    top: Any
    logit: Any
    others: Array
    rest: Array


def _label_by_passes(logits: Array | DD, labels: Array, _copy: Array | DD) -> _Label:
    top = _top(_hi(logits))
    if isinstance(logits, DD):
        top = DD(top, jnp.zeros_like(top))
    others = _others(logits, top, is_label(_hi(logits), labels))
    logit = _of_rows(jax.tree.map(lambda x: take_label(x, labels), logits))
    return _Label(top, logit, others, jnp.sum(others, axis=-1, keepdims=True))


def _label_online(logits: Array | DD, labels: Array, copy: Array | DD) -> _Label:
    at_label = is_label(_hi(logits), labels)
    chosen = jax.tree.map(lambda x: jnp.where(at_label, x, 0), copy)
    top, rest, logit = _of_rows(top_and_sum(logits, ~at_label, chosen))
    top = _finite(top)
    return _Label(top, logit, _others(logits, top, at_label), rest)


def _of_rows(numbers: T) -> T:
    """Numbers of each row, in arrays that broadcast against the classes."""
    return jax.tree.map(lambda x: x[..., None], numbers)


def _first(computed: Array, *_: Any) -> Array:
    return computed


def _others_again(_computed: Array, logits: Array | DD, top: Any, at_label: Array) -> Array:
    return _others(logits, recompute_on_gpu(top), at_label)


def _exps_again(_computed: Array, logits: Array | DD, top: Any) -> Array:
    return exp_shifted(logits, recompute_on_gpu(top))


class _OfClass(NamedTuple):
    """The loss of one class.

    Attributes:
        nll: -log softmax(logits)[label].
        gradient: Its gradient.
        log_total: The logarithm of the sum of exp(logit - top).
        top: The largest logit; 0 in a row of -inf.
        logit: That of the label.
    """

    nll: Array
    gradient: Array
    log_total: Array
    top: Any
    logit: Any


def _of_class(logits: Array | DD, labels: Array, copies: Copies = ()) -> _OfClass:
    # The sum over all classes would round 1 + tiny; the sum over the others keeps the tiny. The
    # array of their exponentials serves the sum and the gradient: no other array of the logits'
    # size is stored.
    at_label = is_label(_hi(logits), labels)
    top, logit, others, rest = on_cpu(
        _label_by_passes, _label_online, logits, labels, (*copies, logits)[0]
    )
    gap = _below(top, logit)
    total = rest + jnp.exp(-gap)
    total = jnp.where(total == 0, 1, total)  # every logit is -inf
    others = on_gpu(_others_again, _first, others, (logits, *copies)[-1], top, at_label)
    gradient = jnp.where(at_label, -rest, others) / total
    nll, log_total = nll_from_gap(rest, gap)
    of_row = jax.tree.map(lambda x: x[..., 0], (log_total, top, logit))
    return _OfClass(nll[..., 0], gradient, *of_row)


@jax.custom_jvp
def softmax_nll(logits: Array | DD, labels: Array, copies: Copies = ()) -> Array:
    """-log softmax(logits)[label], accurate however confident and however wrong the logits are.

    Args:
        logits: The logits; a `DD` if they are themselves the result of a sum or a product.
        labels: Class ids.
        copies: Of a `DD`: see `Copies`.
    """
    return _of_class(logits, labels, copies).nll


# A full rule: it reduces over the classes.
@softmax_nll.defjvp
def _softmax_nll_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # The value is the function itself, so that this rule also applies to second derivatives.
    logits_dot = _hi(tangents[0])
    return softmax_nll(*primals), jnp.sum(_gradient_of_class(*primals) * logits_dot, axis=-1)


@jax.custom_jvp
def _gradient_of_class(logits: Array | DD, labels: Array, copies: Copies = ()) -> Array:
    return _of_class(logits, labels, copies).gradient


# A full rule: of p (change - mean change), changes are measured from that of the largest logit, so
# that their mean is not rounded where the probabilities are close to 0 and 1.
@_gradient_of_class.defjvp
def _gradient_of_class_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, labels, _ = primals
    hi, change = _hi(logits), _hi(tangents[0])
    gradient = _gradient_of_class(*primals)
    at_label = is_label(hi, labels)
    p = jnp.where(at_label, jnp.exp(-softmax_nll(logits, labels))[..., None], gradient)
    at_top = is_label(hi, jnp.argmax(hi, axis=-1))
    of_top = jnp.sum(jnp.where(at_top, change, 0), axis=-1, keepdims=True)
    change = jnp.where(at_top, 0, change - of_top)
    mean = jnp.sum(p * change, axis=-1, keepdims=True)
    return gradient, jnp.where(p == 0, 0, p * (change - mean))


@jax.custom_jvp
def log_partition(logits: Array) -> Array:
    """The logarithm of the sum of exp(logits): the largest logit, and the loss of its class."""
    largest = _of_class(logits, jnp.argmax(logits, axis=-1))
    return largest.logit + jnp.where(largest.logit == -jnp.inf, 0, largest.nll)


# A full rule: it reduces over the classes.
@log_partition.defjvp
def _log_partition_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (logits,), (change,) = primals, tangents
    largest, labels = log_partition(logits), jnp.argmax(logits, axis=-1)
    of_nll = jnp.where(largest[..., None] == -jnp.inf, 0, _gradient_of_class(logits, labels))
    slopes = of_nll + is_label(logits, labels).astype(of_nll.dtype)
    return largest, jnp.sum(slopes * change, axis=-1)


def _mean_gap(logits: Array, top: Array) -> tuple[Array, Array]:
    """The mean distance below the top of the classes that are not -inf, and their number."""
    kept = logits > -jnp.inf
    gaps = jnp.where(kept, _below(top[..., None], logits), 0)
    total, number = fused_sums(gaps, kept.astype(gaps.dtype))
    number = jnp.maximum(number, 1)
    return total / number, number


@jax.custom_jvp
def smoothed_softmax_nll(logits: Array, labels: Array, smoothing: Array) -> Array:
    """(1 - s) nll[label] + s mean(nll), the mean over the classes that are not -inf."""
    of_class = _of_class(logits, labels)
    uniform = of_class.log_total + _mean_gap(logits, of_class.top)[0]
    return (1 - smoothing) * of_class.nll + smoothing * uniform


# A full rule: it reduces over the classes.
@smoothed_softmax_nll.defjvp
def _smoothed_softmax_nll_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, labels, smoothing = primals
    of_class = _of_class(logits, labels)
    mean_gap, number = _mean_gap(logits, of_class.top)
    uniform = jnp.where(logits > -jnp.inf, 1 / number[..., None], 0)
    gradient = _gradient_of_class(logits, labels)
    gradient = gradient + smoothing * jnp.where(is_label(logits, labels), 1 - uniform, -uniform)
    excess = mean_gap - _below(of_class.top, of_class.logit)
    value_dot = jnp.sum(gradient * tangents[0], axis=-1) + excess * tangents[2]
    return smoothed_softmax_nll(*primals), value_dot


@jax.custom_jvp
def softmax_nll_dd(logits: Array, labels: Array) -> DD:
    """`softmax_nll` with its rounding error, to the last place of 1.

    For functions of p = exp(-nll): half a unit in the last place of a loss of 80 is 32 units in the
    last place of exp(-80).
    """
    nll, _, log_total, top, logit = _of_class(logits, labels)
    return DD(nll, finite((_below(top, logit) - nll) + (log_total + two_sum(top, -logit).lo)))


@softmax_nll_dd.defjvp
def _softmax_nll_dd_jvp(primals: Any, tangents: Any) -> tuple[DD, DD]:
    logits, labels = primals
    nll = softmax_nll_dd(logits, labels)
    _, nll_dot = jax.jvp(lambda x: softmax_nll(x, labels), (logits,), (tangents[0],))
    return nll, DD(nll_dot, jnp.zeros_like(nll.lo))


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
    at_top, ties, off_top, on_top = (_is_top(exps, logits, top) for top in tops[:4])
    gap = _below(tops[4], logits)
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
    top = _top(logits)
    exps = exp_shifted(logits, top)
    tops = each_on_gpu(top, 5)
    below, ties, off_top, on_top, gaps = fused_sums(*_terms_of_dense(exps, logits, labels, *tops))
    rest = below + jnp.maximum(ties - 1, 0)
    top = jax.tree.map(lambda x: jnp.squeeze(x, -1), top)
    return exps, WeightedSums(top, rest, off_top, on_top, gaps)


def _weighted_online(logits: Array | DD, labels: Array) -> tuple[Array, WeightedSums]:
    sums = weighted_sums(logits, labels)
    sums = sums._replace(top=_finite(sums.top))
    return exp_shifted(logits, _of_rows(sums.top)), sums


def _dense_and_sums(logits: Array | DD, labels: Array, _copies: Copies = ()) -> tuple[Array, _Sums]:
    """-sum(labels * log softmax(logits)), and the sums of its derivatives."""
    exps, sums = on_cpu(_weighted_by_passes, _weighted_online, logits, labels)
    value = sums.gaps + jnp.log1p(sums.rest) * (sums.below + sums.at_top)
    top, rest, below, at_top = _of_rows(sums[:4])
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
    logits_dot = _hi(logits_dot)
    at_top = _is_top(sums.exps, logits, sums.top)
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
    exps = on_gpu(_exps_again, _first, sums.exps, logits, sums.top)
    off_top, on_top = sums.labels_off_top, sums.labels_on_top
    at_top = off_top * exps + ((on_top - labels) * exps - labels * (rest - (exps - 1)))
    total, whole = two_sum(off_top, on_top), two_sum(rest, 1)
    ratio = two_quotient(total.hi, whole.hi)
    lo = ratio.lo + finite((total.lo - ratio.hi * whole.lo) / whole.hi)
    return jnp.where(
        _is_top(exps, logits, top) & (rest < 0.5),
        at_top / (1 + rest),
        (ratio.hi * exps - labels) + lo * exps,
    )


def _dense_nll(logits: Array | DD, labels: Array, sums: _Sums) -> DD:
    """-log softmax(logits); 0 at a class with logit -inf and label 0."""
    x, top = _hi(logits), _hi(sums.top)
    nll = two_sum(jnp.log1p(sums.rest), _below(top, x))
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
    top = _top(logits)
    exps = exp_shifted(logits, top)
    at_top, is_tie = (_is_top(exps, logits, each) for each in each_on_gpu(top, 2))
    below, ties = fused_sums(jnp.where(at_top, exps - 1, exps), is_tie.astype(exps.dtype))
    return top, exps, (below + jnp.maximum(ties - 1, 0))[..., None]


def _rest_online(logits: Array) -> tuple[Array, Array, Array]:
    top, rest = _of_rows(top_and_rest(logits))
    top = _finite(top)
    return top, exp_shifted(logits, top), rest


def _expected_and_sums(
    function: Callable[..., Array], logits: Array, labels: Array, *options: Array
) -> tuple[Array, _Sums]:
    """sum(labels * function(-log softmax(logits), *options)), and the sums of its derivatives."""
    top, exps, rest = on_cpu(_rest_by_passes, _rest_online, logits)
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
        return nll, values, labels * slopes, _is_top(sums.exps, logits, top)

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
    at_top = _is_top(exps, logits, top)
    return jnp.sum(labels * jnp.where(at_top, exps - 1, exps), axis=-1)


def _products_by_reduction(logits: Array, labels: Array, _top: Array, _exps: Array) -> Array:
    return weighted_exps(logits, labels)


@jax.custom_jvp
def _products(logits: Array, labels: Array, sums: _Sums) -> Array:
    """The sum of labels * exp(logit - top) over the classes other than the largest logits."""
    forms = _products_by_passes, _products_by_reduction
    return on_cpu(*forms, logits, labels, sums.top, sums.exps)[..., None]


# A full rule: it reduces over the classes. The largest logit is a constant.
@_products.defjvp
def _products_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, labels, sums = primals
    off_top = jnp.where(_is_top(sums.exps, logits, sums.top), 0, sums.exps)
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
    exps = on_gpu(_exps_again, _first, sums.exps, logits, sums.top)
    at_top = _is_top(exps, logits, top)
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
