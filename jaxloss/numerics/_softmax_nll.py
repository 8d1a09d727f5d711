r"""-log p of a softmax at one class, accurate in value and gradient.

`logsumexp(x) - x[y]` is 0 for a confident correct prediction: `1 + tiny` is rounded to 1 before the
logarithm is taken, and `p - 1` to 0 in the gradient. Here the sum leaves out the term that is 1,
so that the logits [20, 0] have a loss of 2.06e-9 and not 0, at the same time and memory.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import on_each, recompute_on_gpu
from jaxloss.numerics._double_double import DD, exp_shifted, finite, two_sum
from jaxloss.numerics._labels import is_label, take_label
from jaxloss.numerics._online_sums import top_and_sum
from jaxloss.numerics._reductions import fused_sums, in_one_reduction
from jaxloss.numerics._softmax import exp_below
from jaxloss.numerics._top import (
    Copies,
    below_top,
    finite_words,
    first_of,
    high_word,
    of_rows,
    top_of_row,
)


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
    top = top_of_row(high_word(logits))
    if isinstance(logits, DD):
        top = DD(top, jnp.zeros_like(top))
    others = _others(logits, top, is_label(high_word(logits), labels))
    logit = of_rows(jax.tree.map(lambda x: take_label(x, labels), logits))
    return _Label(top, logit, others, jnp.sum(others, axis=-1, keepdims=True))


def _label_online(logits: Array | DD, labels: Array, copy: Array | DD) -> _Label:
    at_label = is_label(high_word(logits), labels)
    chosen = jax.tree.map(lambda x: jnp.where(at_label, x, 0), copy)
    top, rest, logit = of_rows(top_and_sum(logits, ~at_label, chosen))
    top = finite_words(top)
    return _Label(top, logit, _others(logits, top, at_label), rest)


def _others_again(_computed: Array, logits: Array | DD, top: Any, at_label: Array) -> Array:
    return _others(logits, recompute_on_gpu(top), at_label)


def _exps_of_half(_computed: Array, logits: Array, top: Array, _at_label: Array) -> Array:
    return exp_below(logits, top)


class _OfClass(NamedTuple):
    """The loss of one class.

    Attributes:
        nll: -log softmax(logits)[label].
        slopes: Its gradient times `total`.
        total: The sum of exp(logit - top), in the form (..., 1).
        log_total: The logarithm of the sum of exp(logit - top).
        top: The largest logit; 0 in a row of -inf.
        logit: That of the label.
    """

    nll: Array
    slopes: Array
    total: Array
    log_total: Array
    top: Any
    logit: Any


def _of_class(
    logits: Array | DD, labels: Array, copies: Copies = (), of_half: bool = False
) -> _OfClass:
    # The sum over all classes would round 1 + tiny; the sum over the others keeps the tiny. The
    # array of their exponentials serves the sum and the gradient: no other array of the logits'
    # size is stored.
    at_label = is_label(high_word(logits), labels)
    top, logit, others, rest = in_one_reduction(
        _label_by_passes, _label_online, logits, labels, (*copies, logits)[0]
    )
    gap = below_top(top, logit)
    total = rest + jnp.exp(-gap)
    total = jnp.where(total == 0, 1, total)  # every logit is -inf
    # XLA on TPU computes the gradient inside of the matrix products that take it; where that takes
    # many operations a class, it writes and reads an array instead. A difference of half-precision
    # logits is exact, unless one is smaller than the other by 2^11 or more.
    on_tpu = _exps_of_half if of_half else first_of
    last_copy = (logits, *copies)[-1]
    others = on_each(first_of, _others_again, on_tpu, others, last_copy, top, at_label)
    slopes = jnp.where(at_label, -rest, others)
    nll, log_total = nll_from_gap(rest, gap)
    of_row = jax.tree.map(lambda x: x[..., 0], (log_total, top, logit))
    return _OfClass(nll[..., 0], slopes, total, *of_row)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def softmax_nll(
    logits: Array | DD,
    labels: Array,
    copies: Copies = (),
    of_half: bool = False,  # noqa: ARG001  # see its rule
) -> Array:
    """-log softmax(logits)[label], accurate however confident and however wrong the logits are.

    Args:
        logits: The logits; a `DD` if they are themselves the result of a sum or a product.
        labels: Class ids.
        copies: Of a `DD`: see `Copies`.
        of_half: Whether the logits were in half precision, to which their gradient is rounded.
    """
    return _of_class(logits, labels, copies).nll


# A full rule: it reduces over the classes.
@softmax_nll.defjvp
def _softmax_nll_jvp(of_half: bool, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # The value is the function itself, so that this rule also applies to second derivatives. The
    # sum is divided, not its terms: so is each row of the gradient, once.
    logits_dot = high_word(tangents[0])
    slopes, total = _slopes_and_total(*primals, of_half)
    return softmax_nll(*primals, of_half), jnp.sum(slopes * logits_dot, axis=-1) / total[..., 0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _slopes_and_total(
    logits: Array | DD, labels: Array, copies: Copies = (), of_half: bool = False
) -> tuple[Array, Array]:
    """Two arrays whose quotient is the gradient; of the total the derivative is left to it."""
    found = _of_class(logits, labels, copies, of_half)
    return found.slopes, found.total


def _gradient_of_class(logits: Array, labels: Array) -> Array:
    slopes, total = _slopes_and_total(logits, labels)
    return slopes / total


# A full rule: of p (change - mean change), changes are measured from that of the largest logit, so
# that their mean is not rounded where the probabilities are close to 0 and 1.
@_slopes_and_total.defjvp
def _slopes_and_total_jvp(of_half: bool, primals: Any, tangents: Any) -> Any:
    logits, labels, _ = primals
    hi, change = high_word(logits), high_word(tangents[0])
    slopes, total = _slopes_and_total(*primals, of_half)
    gradient = slopes / total
    at_label = is_label(hi, labels)
    p = jnp.where(at_label, jnp.exp(-softmax_nll(logits, labels))[..., None], gradient)
    at_top = is_label(hi, jnp.argmax(hi, axis=-1))
    of_top = jnp.sum(jnp.where(at_top, change, 0), axis=-1, keepdims=True)
    change = jnp.where(at_top, 0, change - of_top)
    mean = jnp.sum(p * change, axis=-1, keepdims=True)
    gradient_dot = jnp.where(p == 0, 0, p * (change - mean))
    return (slopes, total), (gradient_dot * total, jnp.zeros_like(total))


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
    gaps = jnp.where(kept, below_top(top[..., None], logits), 0)
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
    excess = mean_gap - below_top(of_class.top, of_class.logit)
    value_dot = jnp.sum(gradient * tangents[0], axis=-1) + excess * tangents[2]
    return smoothed_softmax_nll(*primals), value_dot


@jax.custom_jvp
def softmax_nll_dd(logits: Array, labels: Array) -> DD:
    """`softmax_nll` with its rounding error, to the last place of 1.

    For functions of p = exp(-nll): half a unit in the last place of a loss of 80 is 32 units in the
    last place of exp(-80).
    """
    nll, _, _, log_total, top, logit = _of_class(logits, labels)
    return DD(nll, finite((below_top(top, logit) - nll) + (log_total + two_sum(top, -logit).lo)))


@softmax_nll_dd.defjvp
def _softmax_nll_dd_jvp(primals: Any, tangents: Any) -> tuple[DD, DD]:
    logits, labels = primals
    nll = softmax_nll_dd(logits, labels)
    _, nll_dot = jax.jvp(lambda x: softmax_nll(x, labels), (logits,), (tangents[0],))
    return nll, DD(nll_dot, jnp.zeros_like(nll.lo))
