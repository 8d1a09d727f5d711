"""The Renyi divergence from sums that recompute their classes, and its derivatives."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._xla import each_on_gpu, recompute_off_cpu
from jaxloss.numerics._derivatives import jvp_of_moving
from jaxloss.numerics._elementwise import quotient
from jaxloss.numerics._kl_terms import log, masked_difference
from jaxloss.numerics._labels import is_label
from jaxloss.numerics._softmax import exp_and_rest
from jaxloss.numerics._special import expm1_minus_x_over_x2, log1p_over_x


class _Classes(NamedTuple):
    """What is known of a class from the sums over its row.

    Attributes:
        share: The target, divided by its sum.
        log_share: Its logarithm, also that of a share close to 1.
        ratio: log_share less the log-probability; 0 where the share is 0 or the class ruled out.
        ruled_out: Whether the log-probability is -inf where the share is not 0.
    """

    share: Array
    log_share: Array
    ratio: Array
    ruled_out: Array


def _classes(log_prediction: Array, target: Array, *rows: Array) -> _Classes:
    place, total, rest = rows
    largest = is_label(target, place) & (target > 0)
    share = target / total
    odds = quotient(rest, jnp.where(largest, target, 1))
    log_share = jnp.where(largest, -jnp.log1p(odds), log(share))
    ruled_out = (log_prediction == -jnp.inf) & (share > 0)
    ratio = masked_difference(jnp.where(ruled_out, 0, share), log_share, log_prediction)
    return _Classes(share, log_share, ratio, ruled_out)


def _logs(classes: _Classes, power: Array) -> Array:
    """The logarithms of the powers; infinite where a class is ruled out."""
    out = jnp.where(power < 0, -jnp.inf, jnp.inf)
    return jnp.where(classes.ruled_out, out, classes.log_share + power * classes.ratio)


def _value_and_weights(log_prediction: Array, target: Array, order: Array) -> tuple[Array, Array]:
    """The divergence, and its derivatives in the log-probabilities with the sign changed."""
    power, place = order - 1, jnp.argmax(target, axis=-1)
    rest = jnp.sum(jnp.where(is_label(target, place), 0, target), axis=-1, keepdims=True)
    total = jnp.max(target, axis=-1, keepdims=True) + rest
    rows = place, jnp.where(total == 0, 1, total), rest
    # Each sum over the classes computes them again from numbers of its own.
    copies = [*zip(*(each_on_gpu(recompute_off_cpu(x), 5) for x in rows), strict=True)]
    copies[-1] = tuple(map(recompute_off_cpu, copies[-1]))
    first, second, third, fourth, last = (_classes(log_prediction, target, *x) for x in copies)

    mean = jnp.sum(first.share * first.ratio, axis=-1, keepdims=True)
    means = each_on_gpu(recompute_off_cpu(mean), 3)
    is_close = jnp.abs(power * (second.ratio - means[0])) < 1
    close = jnp.all(is_close & ~second.ruled_out | (second.share == 0), axis=-1, keepdims=True)
    close = close | jnp.isnan(mean)  # `far` would hide it
    # A cumulant generating function over its argument: about 0, by its distance from the mean.
    gap = jnp.where(third.share > 0, third.ratio - means[1], 0)
    small = jnp.where(jnp.abs(power * gap) < 1, gap, 0)
    terms = third.share * jnp.square(small) * expm1_minus_x_over_x2(power * small)
    spread = jnp.sum(terms, axis=-1, keepdims=True)
    near = mean + power * spread * log1p_over_x(jnp.square(power) * spread)

    top, _, rest = exp_and_rest(_logs(fourth, power), -1)
    whole = jnp.where(close, 0, top + jnp.log1p(rest))  # -inf would have NaN derivatives
    far = jnp.where(power == 0, jnp.inf, whole / jnp.where(power == 0, 1, power))

    tilt = jnp.where(close & (last.share > 0), power * (last.ratio - means[2]), 0)
    if_close = last.share * jnp.exp(tilt) / (1 + jnp.square(power) * spread)
    exponent = jnp.where(jnp.isfinite(top), _logs(last, power) - top, -jnp.inf)
    weights = jnp.where(close, if_close, jnp.exp(exponent) / (1 + rest))
    return jnp.where(close, near, far)[..., 0], weights


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
