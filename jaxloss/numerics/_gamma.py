"""Log-gamma functions without cancellation: Stirling's formula and its error, kept apart."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss.numerics._elementwise import quotient
from jaxloss.numerics._log_ratios import log1p_ratio
from jaxloss.numerics._polynomials import horner
from jaxloss.numerics._special import x_minus_log1p

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

# Bernoulli numbers over 2k (2k - 1): Stirling's series in 1/x, of which every other power is 0.
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
)


def _stirling_error_from_1_to_8(x: np.ndarray) -> np.ndarray:
    """By twenty steps S(x) = S(x+1) + (x+1/2) log(1+1/x) - 1, each a series in 1 / (2x + 1)."""
    far = 1 / (x + 20)
    out = far * np.polynomial.polynomial.polyval(np.square(far), _STIRLING)
    for start in (x + k for k in range(19, -1, -1)):
        squares = 1 / np.square(2 * start + 1)
        out = out + squares * np.polynomial.polynomial.polyval(
            squares, [1 / k for k in range(3, 40, 2)]
        )
    return out


@functools.cache
def _near_series(dtype: Any) -> tuple[float, float, list[float]]:
    """A polynomial for x S(x), x from 1 to 8, in 1 / (x + 3): its center, half width and terms.

    The constant 1/12 is subtracted before the interpolation, whose error is relative to its values.
    """
    ends = 1 / 11, 1 / 4
    center, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2

    def scaled(s: np.ndarray) -> np.ndarray:
        x = 1 / (center + half * s) - 3
        return x * _stirling_error_from_1_to_8(x) - _STIRLING[0]

    # The error falls by a factor of 4 with each degree, to below the rounding of the dtype.
    degree = 16 if jnp.finfo(dtype).bits == 32 else 24
    series = np.polynomial.Chebyshev.interpolate(scaled, degree) + _STIRLING[0]
    return center, half, series.convert(kind=np.polynomial.Polynomial).coef.tolist()


def stirling_error(x: Array) -> Array:
    """log gamma(x) less Stirling's formula (x - 1/2) log x - x + log(2 pi) / 2.

    It is small and smooth, so that the large terms of a difference of log-gammas can be cancelled
    in the formula. Below 1 it follows from S(x) = S(x+1) + (x+1/2) log(1+1/x) - 1.
    """
    low, below_one = x < 8, x < 1
    base = jnp.where(below_one, x + 1, x)
    inverse = 1 / jnp.where(low, 8, base)
    far = inverse * horner(jnp.square(inverse), _STIRLING)
    center, half, terms = _near_series(x.dtype)
    inner = jnp.where(low, base, 1)
    near = horner((1 / (inner + 3) - center) * (1 / half), terms) / inner
    part = jnp.where(below_one, x, 1)
    first = (part + 0.5) * (jnp.log1p(part) - jnp.log(part)) - 1
    return jnp.where(low, near, far) + jnp.where(below_one, first, 0)


def _stirling_error_difference(x: Array, step: Array) -> Array:
    """The Stirling error at x + step less that at x."""
    change = stirling_error(x + step) - stirling_error(x)
    # Compiled code may round the two differently; a step of 0 must give 0.
    return change - jax.lax.stop_gradient(jnp.where(step == 0, change, 0))


def log_gamma(x: Array, error: Array) -> Array:
    """log gamma(x), given its Stirling error."""
    return (x - 0.5) * jnp.log(x) - x + (HALF_LOG_2PI + error)


def log_factorial(x: Array) -> Array:
    """log gamma(1 + x) for x from 0 to 1, exactly 0 at 0."""
    change = _stirling_error_difference(jnp.ones_like(x), x)
    return change + ((x + 0.5) * jnp.log1p(x) - x)


def log_rising(x: Array, step: Array) -> Array:
    """log gamma(x + step) - log gamma(x) - step log(x), which tends to 0 for large x."""
    # Below 1, where log gamma(x) is singular, it follows from the same at x + 1.
    low = x < 1
    base = jnp.where(low, x + 1, x)
    close = step < 0.5 * base
    inner, outer = jnp.where(close, base, 1), jnp.where(close, 1, base)
    ahead, jump = jnp.where(close, step, 0), jnp.where(close, 0, step)
    ratio = quotient(ahead, inner)
    near = ratio * (ahead - 0.5) - (inner + ahead - 0.5) * x_minus_log1p(ratio)
    far = (outer + jump - 0.5) * log1p_ratio(jump, outer) - jump
    out = jnp.where(close, near, far) + _stirling_error_difference(base, step)
    small = jnp.where(low, x, 1)
    moved = step * log1p_ratio(jnp.ones_like(small), small) - log1p_ratio(step, small)
    return out + jnp.where(low, moved, 0)
