r"""The engine of every loss with a softmax or a sigmoid in it: -log p, exact in value and gradient.

`logsumexp(x) - x[y]` loses the loss of a confident right answer: `1 + tiny` rounds to 1 before
the logarithm is taken, and `p - 1` to 0 in the gradient. Here the sum leaves out the term that
is 1, so that [20, 0] costs 2.06e-9 and not 0, at the same time and memory.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss import numerics
from jaxloss._memory.mesh import shards
from jaxloss.numerics._double_double import finite, two_sum


@functools.cache
def _constants(dtype: Any) -> tuple[float, float, list[float]]:
    """Log 2 as a large and a small part, and the series (e^f - 1 - f) / f^2 for |f| < 0.35."""
    info = jnp.finfo(dtype)
    unit = 2.0 ** (1 + info.nexp - info.nmant)  # of which all multiples that occur are exact
    large = round(math.log(2) / unit) * unit
    taylor = np.polynomial.Polynomial([1 / math.factorial(n + 2) for n in range(20)])
    degree = 4 if info.bits == 32 else 10  # right to rounding
    short = np.polynomial.Chebyshev.interpolate(taylor, degree, [-0.35, 0.35])
    series = short.convert(kind=np.polynomial.Polynomial).coef
    return large, math.log(2) - large, series.tolist()


@jax.custom_jvp
def exp_dd(x: Array, lost: Array) -> Array:
    """exp(x + lost), of an x that was rounded and what rounding took; for x up to 88.

    The rounded exponent alone would cost half as many last places as its size. XLA's exponential
    cannot be told of the rest; this one takes no longer than that, on CPU, and is 0.7 ULP off. It
    is 0 where the result would be no normal number. No slope goes to what was lost.
    """
    info, (large, small, series) = jnp.finfo(x.dtype), _constants(x.dtype)
    integer = np.dtype(f"int{info.bits}").type
    # x is n log(2) + f. What is added first leaves no bits for a fraction: n stands in the last.
    shift = np.asarray(1.5 * 2.0**info.nmant, x.dtype)
    n = lax.bitcast_convert_type(x * (1 / math.log(2)) + shift, integer) - shift.view(integer)
    multiple = n.astype(x.dtype)
    impossible = x < math.log(info.tiny)
    f = jnp.where(impossible, 0, (x - multiple * large) + (lost - multiple * small))
    total = jnp.full_like(f, series[-1])
    for coefficient in reversed(series[:-1]):
        total = total * f + coefficient
    power = lax.bitcast_convert_type((n + (info.maxexp - 1)) << info.nmant, x.dtype)
    return ((total * f + 1) * f + 1) * jnp.where(impossible, 0, power)


@exp_dd.defjvp
def _exp_of_sum_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Not the slope of the series, which is 3 ULP off: in second derivatives these nearly cancel.
    exps = exp_dd(*primals)
    return exps, exps * tangents[0]


def exp_shifted(logits: Array, top: Array, lost: Array | float = 0.0) -> Array:
    """exp(logits - top + lost) as if nothing were rounded: 1 at the top, less below it.

    +inf counts as the top, -inf as impossible. `lost` is what the logits have lost before.
    """
    largest = float(jnp.finfo(logits.dtype).max)
    logits, top = jnp.minimum(logits, largest), jnp.minimum(top, largest)
    shifted = logits - top  # and what rounding took of it (Knuth), NaN where that is infinite
    back = shifted - logits
    lost = (logits - (shifted - back)) - (top + back) + lost
    return exp_dd(shifted, lax.stop_gradient(lost))


def _top(logits: Array) -> Array:
    """The largest of each row, and 0 for a row of -inf."""
    top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    return jnp.where(top == -jnp.inf, 0, top)


def _below(top: Array, logits: Array) -> Array:
    """How far below the top: at least 0, and 0 for +inf."""
    return jnp.where(logits == jnp.inf, 0, top - logits)


def take_label(x: Array, place: Array) -> Array:
    """The entry of each row at a place; without a gather, where that would cross devices."""
    if shards(x, x.ndim - 1) > 1:
        is_place = place[..., None] == jnp.arange(x.shape[-1], dtype=place.dtype)
        return jnp.sum(jnp.where(is_place, x, 0), axis=-1)
    return jnp.take_along_axis(x, place[..., None], axis=-1)[..., 0]


def nll_from_gap(rest: Array, gap: Array) -> Array:
    """-log p of what lies `gap` below a top, beside others: rest is their sum of exp(logit - top).

    The formula is right without a rule, which a scan forgets.
    """
    near = gap < 64
    odds = rest * jnp.exp(jnp.where(near, gap, 0))
    far = jnp.where(near, 64, gap)
    total = jnp.where(near, 1, rest) + jnp.exp(-far)
    total = jnp.where(total == 0, 1, total)  # nothing is possible
    return jnp.where(near, jnp.log1p(odds), far + jnp.log(total))


def _of_class(logits: Array, labels: Array, lost: Array | None) -> tuple[Array, Array, Array]:
    """-log softmax(logits + lost)[label], its gradient, and the log of the sum over the top."""
    # Of the sum over all classes, 1 + tiny would lose the tiny; the sum over the others keeps it.
    # One array serves the sum and the gradient, so nothing else of the logits' size is stored.
    label = labels[..., None]
    is_label = label == jnp.arange(logits.shape[-1], dtype=labels.dtype)
    top = _top(logits)
    others = jnp.where(is_label, 0, exp_shifted(logits, top, 0.0 if lost is None else lost))
    rest = jnp.sum(others, axis=-1, keepdims=True)
    gap = _below(top, take_label(logits, labels)[..., None])
    if lost is not None:
        gap = gap - lax.stop_gradient(take_label(lost, labels)[..., None])
    total = rest + jnp.exp(-gap)
    total = jnp.where(total == 0, 1, total)  # a row of -inf alone
    gradient = jnp.where(is_label, -rest, others) / total
    return nll_from_gap(rest, gap)[..., 0], gradient, jnp.log(total)[..., 0]


@jax.custom_jvp
def softmax_nll(logits: Array, labels: Array, lost: Array | None = None) -> Array:
    """-log softmax(logits)[label], with all its digits however sure or wrong the logits are.

    `lost` is what rounding has taken of the logits already.
    """
    return _of_class(logits, labels, lost)[0]


@softmax_nll.defjvp
def _surprise_of_class_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # The value is that of the function itself: differentiated again, it must obey this rule.
    gradient = _of_class(*primals)[1]
    return softmax_nll(*primals), jnp.sum(gradient * tangents[0], axis=-1)


@jax.custom_jvp
def softmax_nll_dd(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The rounded surprise of a class, and what rounding took, to the last place of 1.

    For exponentials: half a last place of a surprise of 80 is 32 last places of exp(-80).
    """
    surprise, _, log_total = _of_class(logits, labels, None)
    top, at_label = _top(logits)[..., 0], take_label(logits, labels)
    taken = log_total + two_sum(top, -at_label)[1]
    return surprise, finite((_below(top, at_label) - surprise) + taken)


@softmax_nll_dd.defjvp
def _two_surprise_of_class_jvp(primals: Any, tangents: Any) -> Any:
    logits, labels = primals
    surprise, taken = softmax_nll_dd(logits, labels)
    _, change = jax.jvp(lambda x: softmax_nll(x, labels), (logits,), (tangents[0],))
    return (surprise, taken), (change, jnp.zeros_like(taken))


@jax.custom_jvp
def nll_and_log_total(rest: Array, gap: Array) -> tuple[Array, Array]:
    """-log p of a class that is `gap` below the top, and log(sum of exp(logit - top))."""
    total = rest + jnp.exp(-gap)
    total = jnp.where(total == 0, 1, total)
    excess = jnp.where(gap == 0, jnp.log1p(rest + jnp.expm1(-gap)), jnp.log(total))
    return gap + excess, excess


@nll_and_log_total.defjvp
def _surprise_of_gap_jvp(primals: Any, tangents: Any) -> Any:
    (rest, gap), (rest_dot, gap_dot) = primals, tangents
    exp = jnp.exp(-gap)
    total = jnp.where(rest + exp == 0, 1, rest + exp)
    # Of the gap: 1 - p of the label, from the others alone.
    surprise = (rest_dot + rest * gap_dot) / total
    return nll_and_log_total(rest, gap), (surprise, (rest_dot - exp * gap_dot) / total)


def _parts_of_distribution(logits: Array, labels: Array) -> tuple[Array, tuple[Array, ...]]:
    """-sum(labels * log softmax(logits)), and what its derivatives are made of."""
    top = _top(logits)
    exps = exp_shifted(logits, top)
    at_top, gap = exps == 1, _below(top, logits)
    # The sum of the exponentials less the 1 of one top keeps the tiny of 1 + tiny. There exps is
    # 1, but not its derivative.
    below, ties, off_top, on_top, gaps = numerics.fused_sums(
        jnp.where(at_top, exps - 1, exps),
        at_top.astype(exps.dtype),
        jnp.where(at_top, 0, labels),
        jnp.where(at_top, labels, 0),
        labels * jnp.where((labels == 0) & (gap == jnp.inf), 0, gap),
    )
    rest = below + jnp.maximum(ties - 1, 0)
    value = gaps + jnp.log1p(rest) * (off_top + on_top)
    return value, (top, exps, rest[..., None], off_top[..., None], on_top[..., None])


# Value and parts in one: computed apart, their sums would be read from memory twice.
_of_distribution = jax.custom_jvp(_parts_of_distribution)


@functools.partial(_of_distribution.defjvp, symbolic_zeros=True)
def _of_distribution_jvp(primals: Any, tangents: Any) -> Any:
    logits, labels = primals
    value, parts = _of_distribution(logits, labels)
    top, exps, rest, off_top, on_top = parts
    tangent, to_parts = jnp.zeros_like(value), [jnp.zeros_like(x) for x in parts]
    at_top = exps == 1
    if not isinstance(tangents[0], SymbolicZero):
        gradient = _share_less(labels, exps, rest, off_top, on_top)
        tangent = tangent + jnp.sum(gradient * tangents[0], axis=-1)
        to_parts[1] = exps * tangents[0]
        to_parts[2] = jnp.sum(to_parts[1], axis=-1, keepdims=True)
    if not isinstance(tangents[1], SymbolicZero):
        surprise, _ = _two_surprises(logits, labels, top, rest)
        tangent = tangent + jnp.sum(surprise * tangents[1], axis=-1)
        to_parts[3] = jnp.sum(jnp.where(at_top, 0, tangents[1]), axis=-1, keepdims=True)
        to_parts[4] = jnp.sum(jnp.where(at_top, tangents[1], 0), axis=-1, keepdims=True)
    return (value, parts), (tangent, tuple(to_parts))


def _share_less(labels: Array, exps: Array, rest: Array, off_top: Array, on_top: Array) -> Array:
    """p sum(labels) - labels, of labels with these sums off the top and on it."""
    # At the top p rounds to 1 and p - q to 0; its complement, the rest, does not.
    scaled = jnp.where(
        exps == 1,
        (off_top + (on_top - labels)) * exps - labels * (rest - (exps - 1)),
        (off_top + on_top) * exps - labels * (1 + rest),
    )
    return scaled / (1 + rest)


def _two_surprises(logits: Array, labels: Array, top: Array, rest: Array) -> tuple[Array, Array]:
    """-log softmax(logits), and what rounding took of it; 0 for an impossible class of label 0."""
    surprise, taken = two_sum(jnp.log1p(rest), _below(top, logits))
    surprise = jnp.where((labels == 0) & (surprise == jnp.inf), 0, surprise)
    return surprise, taken + two_sum(top, -logits)[1]


def softmax_cross_entropy_dense(logits: Array, labels: Array) -> Array:
    """-sum(labels * log softmax(logits)), where an impossible class of label 0 costs nothing."""
    return _of_distribution(logits, labels)[0]


def _parts_of_mean(function: Any, logits: Array, labels: Array, *options: Array) -> Any:
    """sum(labels * function(-log softmax(logits), *options)), and parts of its derivatives."""
    top = _top(logits)
    exps = exp_shifted(logits, top)
    at_top = exps == 1
    below, ties = numerics.fused_sums(jnp.where(at_top, exps - 1, exps), at_top.astype(exps.dtype))
    rest = (below + jnp.maximum(ties - 1, 0))[..., None]
    terms = labels * function(*_two_surprises(logits, labels, top, rest), *options)
    # A choice comes last: XLA on CPU takes a last product apart, and writes out both factors.
    return jnp.sum(jnp.where(labels == 0, 0, terms), axis=-1), (top, exps, rest)


_mean_over_labels = jax.custom_jvp(_parts_of_mean, nondiff_argnums=(0,))


@_mean_over_labels.defjvp
def _mean_over_labels_jvp(function: Any, primals: Any, tangents: Any) -> Any:
    logits, labels, *options = primals
    value, parts = _mean_over_labels(function, *primals)
    top, exps, rest = parts
    surprise, taken = _two_surprises(logits, labels, top, rest)
    of_each, slope = jax.jvp(
        lambda s: function(s, taken, *options), (surprise,), (jnp.ones_like(surprise),)
    )
    pull = labels * slope
    off_top, on_top = numerics.fused_sums(
        jnp.where(exps == 1, 0, pull), jnp.where(exps == 1, pull, 0)
    )
    gradient = _share_less(pull, exps, rest, off_top[..., None], on_top[..., None])
    tangent = jnp.sum(gradient * tangents[0], axis=-1) + jnp.sum(of_each * tangents[1], axis=-1)
    if options:
        _, change = jax.jvp(
            functools.partial(function, surprise, taken), tuple(options), tangents[2:]
        )
        tangent = tangent + jnp.sum(labels * change, axis=-1)
    to_exps = exps * tangents[0]
    to_parts = jnp.zeros_like(top), to_exps, jnp.sum(to_exps, axis=-1, keepdims=True)
    return (value, parts), (tangent, to_parts)


def expected_function_of_nll(
    function: Callable[..., Array], logits: Array, labels: Array, *options: Array
) -> Array:
    """sum(labels * function(-log softmax(logits), *options)), for a function of each element.

    It is given the surprises as rounded, what rounding took of them, and the options.
    """
    return _mean_over_labels(function, logits, labels, *options)[0]


@jax.custom_jvp
def _both_sigmoids(x: Array) -> tuple[Array, Array]:
    """sigmoid(x) and sigmoid(-x) of one exponential, each with all its digits."""
    exp = jnp.exp(jnp.where(x < 0, x, -x))  # not -|x|, which has no slope at 0
    near, far = 1 / (1 + exp), exp / (1 + exp)
    return jnp.where(x < 0, far, near), jnp.where(x < 0, near, far)


@_both_sigmoids.defjvp
def _both_sigmoids_jvp(primals: Any, tangents: Any) -> Any:
    yes, no = _both_sigmoids(*primals)
    slope = yes * no * tangents[0]
    return (yes, no), (slope, -slope)


@jax.custom_jvp
def sigmoid_nll(logits: Array, yes: Array, no: Array) -> Array:
    """-yes * log sigmoid(logits) - no * log sigmoid(-logits); 0 of an infinite surprise is 0."""
    shared = jnp.log1p(jnp.exp(jnp.where(logits < 0, logits, -logits)))
    of_yes = shared + jnp.where(logits < 0, -logits, 0)
    of_no = shared + jnp.where(logits < 0, 0, logits)
    plain = yes * of_yes + no * of_no
    careful = numerics.multiply_no_nan(yes, of_yes) + numerics.multiply_no_nan(no, of_no)
    # A choice comes last: XLA on CPU takes a last sum apart, and writes both terms out before it.
    return jnp.where(plain < jnp.inf, plain, careful)


@functools.partial(sigmoid_nll.defjvp, symbolic_zeros=True)
def _surprise_of_bit_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, yes, no = primals
    to_logits, to_yes, to_no = tangents
    tangent = jnp.zeros_like(logits)
    if not isinstance(to_logits, SymbolicZero):
        of_yes, of_no = _both_sigmoids(logits)
        tangent = tangent + (no * of_yes - yes * of_no) * to_logits
    for weight, direction, x in ((yes, to_yes, -logits), (no, to_no, logits)):
        if not isinstance(direction, SymbolicZero):
            surprise = numerics.softplus(x)
            surprise = jnp.where((weight == 0) & (surprise == jnp.inf), 0, surprise)
            tangent = tangent + surprise * direction
    return sigmoid_nll(logits, yes, no), tangent


def uniform_over_finite(logits: Array) -> Array:
    """The distribution that label smoothing mixes in: even over the classes that are possible."""
    possible = logits > -jnp.inf
    count = jnp.sum(possible, axis=-1, keepdims=True, dtype=jnp.int32)
    return possible / jnp.maximum(count, 1).astype(logits.dtype)


def is_static_zero(option: Any) -> bool:
    """Whether an option is the number 0, known before tracing; a traced 0 is computed with."""
    return isinstance(option, int | float) and option == 0
