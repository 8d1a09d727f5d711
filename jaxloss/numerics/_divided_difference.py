r"""The divided difference of the exponential at three points, for any distances between them.

Of $0$, $L$ and $b L$, times $L^2$, it is $(e^{bL} - b e^L - (1 - b)) / (b (b - 1))$: the deviance
of a Tweedie distribution and the alpha-divergence. As written, that cancels where L is small, and
where b is close to 0 or 1.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._double_double import expm1
from jaxloss.numerics._elementwise import shared
from jaxloss.numerics._polynomials import horner
from jaxloss.numerics._special import exprel_slope


@functools.cache
def _series(dtype: Any) -> list[list[float]]:
    """The terms of `_close` that the dtype needs: those of q^i r^j in the j-th list."""
    least = 0.05 * jnp.finfo(dtype).eps

    def row(j: int) -> list[float]:
        terms = ((i, math.comb(i + j, j) / math.factorial(2 * i + 3 * j + 2)) for i in range(20))
        return [c for i, c in terms if c * 1.34**i * 0.6**j > least]  # the largest q and r

    return [terms for terms in map(row, range(20)) if terms]


def _close(g: Array, k: Array) -> Array:
    """exp[(2g + k) / 3, (k - g) / 3, -(g + 2k) / 3] for g, k >= 0 with g + k <= 2.

    Around their mean, 1 / (1 - q z^2 - r z^3) generates the complete symmetric polynomials of the
    three points, whose sum over factorials is the divided difference.
    """
    q = (g * g + g * k + k * k) * (1 / 3)
    r = (2 * g + k) * (g - k) * (g + 2 * k) * (1 / 27)
    rows = [horner(q, terms) for terms in _series(q.dtype)]
    value = rows[-1]
    for row in rows[-2::-1]:
        value = value * r + row
    return value


@jax.custom_jvp
def _falling_mean(x: Array) -> Array:
    """(1 - exp(-x)) / x for x >= 0, in fewer operations than `exprel`, with 2 ULP."""
    none = x == 0
    return jnp.where(none, 1, shared(-expm1(-x) / jnp.where(none, 1, x)))


_falling_mean.defjvps(lambda x_dot, _, x: -exprel_slope(-x) * x_dot)


class DividedDifference(NamedTuple):
    """L^2 exp[0, L, bL], over the exponential of the largest of the three points.

    Attributes:
        part: The quotient.
        by_ratio: Where the largest point is L, and `by_power` where it is bL; elsewhere it is 0.
    """

    part: Array
    by_ratio: Array
    by_power: Array


def exp_divided_difference(log_ratio: Array, b: Array, b_minus_1: Array) -> DividedDifference:
    """The divided difference, where L = log_ratio; beyond 1e30 it counts as 1e30."""
    up, over, under = log_ratio > 0, b_minus_1 > 0, b < 0
    length = jnp.minimum(jnp.abs(log_ratio), 1e30)  # 0 * inf would be NaN
    # The distances between the middle one of 0, 1 and b and the others. Not by `abs`, whose
    # derivative is 0 at 0.
    above = jnp.where(under, 1, jnp.where(over, b_minus_1, -b_minus_1))
    below = jnp.where(over, 1, jnp.where(under, -b, b))
    width = jnp.where(under, -b_minus_1, jnp.where(over, b, 1))
    # The points are now 0, -g and -g - k.
    g, k = length * jnp.where(up, above, below), length * jnp.where(up, below, above)

    # Of points close to each other by a series, else by the recurrence of divided differences.
    near = g + k < 2
    of_series = [jnp.where(near, x, 0) for x in (g, k)]
    falling = shared(jnp.exp(jnp.where(near, (2 * g + k) * (-1 / 3), -g)))
    series = falling * _close(*of_series)
    recurrence = (_falling_mean(g) - falling * _falling_mean(k)) / width
    part = length * jnp.where(near, length * series, recurrence)
    return DividedDifference(part, up & ~over, jnp.where(up, over, under))
