"""The Renyi divergence from sums that recompute their classes, and its derivatives."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._xla import each_on_gpu, recompute_off_cpu
from jaxloss.numerics._derivatives import jvp_of_moving
from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._kl_terms import log, masked_difference
from jaxloss.numerics._labels import is_label
from jaxloss.numerics._online_sums import top_and_rest
from jaxloss.numerics._reductions import in_one_reduction, reduce_together
from jaxloss.numerics._softmax import exp_and_rest
from jaxloss.numerics._special import expm1_minus_x_over_x2, log1p_over_x

_LARGEST_LOG = 4.0  # above it the sum of the powers is larger than where they are used


def _merge(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """Parts (largest, sum of the others, what the sum was rounded by)."""
    (largest, rest, lo), (other, more, more_lo) = a, b
    both = two_sum(rest, more)
    total = two_sum(both.hi, jnp.minimum(largest, other))
    return jnp.maximum(largest, other), total.hi, (lo + more_lo) + (both.lo + total.lo)


def _rest_by_reduction(x: Array) -> tuple[Array, Array]:
    nothing = jnp.zeros_like(x)
    largest, rest, lo = reduce_together((x, nothing, nothing), (0, 0, 0), _merge, -1)
    return largest[..., None], (rest + lo)[..., None]


def _rest_by_passes(x: Array) -> tuple[Array, Array]:
    others = jnp.where(is_label(x, jnp.argmax(x, axis=-1)), 0, x)
    return jnp.max(x, axis=-1, keepdims=True), jnp.sum(others, axis=-1, keepdims=True)


@jax.custom_jvp
def _largest_and_rest(x: Array) -> tuple[Array, Array]:
    """The largest of some amounts, and the sum of the others."""
    return in_one_reduction(_rest_by_passes, _rest_by_reduction, x)


# A full rule: it reduces over the classes.
@_largest_and_rest.defjvp
def _largest_and_rest_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (x_dot,) = primals, tangents
    largest, rest = _largest_and_rest(x)
    parts = jnp.where(x == largest, x_dot, 0), jnp.where(x == largest, 0, x_dot)
    return (largest, rest), tuple(jnp.sum(part, axis=-1, keepdims=True) for part in parts)


class _Terms(NamedTuple):
    """What is summed over the classes.

    Attributes:
        logs: The logarithms of the powers q^a p^(1 - a); infinite where a class is ruled out.
        powers: The powers themselves.
        changes: (power - q) / (a - 1), for orders near 1 too.
    """

    logs: Array
    powers: Array
    changes: Array


def _terms(log_prediction: Array, target: Array, power: Array, *rows: Array) -> _Terms:
    largest, rest = rows
    total = largest + rest
    share = target / jnp.where(total == 0, 1, total)
    # Of a share close to 1, the logarithm is that of the others.
    log_largest = -jnp.log1p(rest / jnp.where(largest == 0, 1, largest))
    log_share = jnp.where((target == largest) & (rest < largest), log_largest, log(share))
    ruled_out = (log_prediction == -jnp.inf) & (share > 0)
    ratio = masked_difference(jnp.where(ruled_out, 0, share), log_share, log_prediction)
    out = jnp.where(power < 0, -jnp.inf, jnp.inf)
    logs = jnp.where(ruled_out, out, log_share + power * ratio)
    tilt = power * ratio
    # The rounding errors of an exponential are as many last places as its argument is large.
    is_less = (jnp.abs(tilt) < jnp.abs(logs)) & ~ruled_out
    exps = jnp.exp(jnp.where(is_less, tilt, jnp.minimum(logs, _LARGEST_LOG)))
    powers = jnp.where(is_less, share, 1) * exps
    is_close = (jnp.abs(tilt) < 1) & ~ruled_out
    small, gap = jnp.where(is_close, tilt, 0), jnp.where(is_close, ratio, 0)
    near = share * gap * (1 + small * expm1_minus_x_over_x2(small))
    away = (powers - share) / jnp.where(power == 0, 1, power)
    return _Terms(logs, powers, jnp.where(is_close, near, away))


def _sums_by_passes(logs: Array, changes: Array) -> tuple[Array, ...]:
    top, _, rest = exp_and_rest(logs, -1)
    return top, rest, jnp.sum(changes, axis=-1, keepdims=True)


def _sums_by_reduction(logs: Array, changes: Array) -> tuple[Array, ...]:
    return tuple(x[..., None] for x in top_and_rest(logs, -1, (changes,)))


@jax.custom_jvp
def _sums(logs: Array, changes: Array) -> tuple[Array, ...]:
    """The largest logarithm, the sum of exp(log - top) less the 1 of that one, that of changes."""
    return in_one_reduction(_sums_by_passes, _sums_by_reduction, logs, changes)


# A full rule: it reduces over the classes.
@_sums.defjvp
def _sums_jvp(primals: Any, tangents: Any) -> Any:
    top, *sums = _sums(*primals)
    exps = jnp.exp(jnp.where(jnp.isfinite(top), primals[0] - top, -jnp.inf))
    terms = exps * tangents[0], tangents[1]
    sums_dot = (jnp.sum(term, axis=-1, keepdims=True) for term in terms)
    return (top, *sums), (jnp.zeros_like(top), *sums_dot)


def _value_and_weights(log_prediction: Array, target: Array, order: Array) -> tuple[Array, Array]:
    """The divergence, and its derivatives in the log-probabilities with the sign changed."""
    power, rows = order - 1, _largest_and_rest(target)
    # Each sum over the classes computes them again from numbers of its own.
    copies = [*zip(*(each_on_gpu(recompute_off_cpu(x), 3) for x in rows), strict=True)]
    copies[-1] = tuple(map(recompute_off_cpu, copies[-1]))
    first, second, last = (_terms(log_prediction, target, power, *x) for x in copies)

    top, rest, change = _sums(first.logs, second.changes)
    whole = top + jnp.log1p(rest)
    # The sum of the powers is also 1 + power * change. Its logarithm has fewer rounding errors then
    # if it is close to 0, compared with the two that it is the sum of.
    size = jnp.exp(whole) * (jnp.abs(top) + jnp.log1p(rest))
    near = (5 * jnp.abs(whole) <= size) & (whole < 3) | (rows[0] == 0) | jnp.isnan(whole)
    change = jnp.where(near, change, 0)
    whole = jnp.where(near, 0, whole)  # -inf would have NaN derivatives
    far = jnp.where(power == 0, jnp.inf, whole / jnp.where(power == 0, 1, power))
    value = jnp.where(near, change * log1p_over_x(power * change), far)

    exponent = jnp.where(jnp.isfinite(top), last.logs - top, -jnp.inf)
    weights = jnp.where(near, last.powers / (1 + power * change), jnp.exp(exponent) / (1 + rest))
    return value[..., 0], weights


@jax.custom_jvp
def renyi_of_shares(log_prediction: Array, target: Array, order: Array) -> Array:
    """The divergence of the shares of a target from a prediction, along the last axis."""
    return _value_and_weights(log_prediction, target, order)[0]


# A full rule: it reduces over the classes.
@functools.partial(renyi_of_shares.defjvp, symbolic_zeros=True)
def _renyi_jvp(primals: tuple[Array, ...], tangents: Any) -> tuple[Array, Array]:
    change, *others = tangents
    value, weights = _value_and_weights(*primals)
    value_dot = jnp.zeros_like(value)
    if not isinstance(change, SymbolicZero):
        value_dot = value_dot - jnp.sum(weights * change, axis=-1)
    if not all(isinstance(x, SymbolicZero) for x in others):

        def of_others(*moving: Array) -> Array:
            return _value_and_weights(primals[0], *moving)[0]

        value_dot = value_dot + jvp_of_moving(of_others, primals[1:], tuple(others))[1]
    return value, value_dot
