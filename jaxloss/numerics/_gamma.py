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
from jaxloss.numerics._special import x_minus_log1p_near_0

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


def _error_and_slope(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Stirling error S for x >= 1 and its derivative, in float64.

    By twenty steps S(x) = S(x+1) + (x+1/2) log(1+1/x) - 1, each a series in 1 / (2x + 1).
    """
    polynomial, odd = np.polynomial.polynomial.polyval, np.arange(3, 40, 2)
    far = 1 / (x + 20)
    value = far * polynomial(far**2, _STIRLING)
    slope = -(far**2) * polynomial(far**2, _STIRLING * np.arange(1, 2 * len(_STIRLING), 2))
    for start in (x + k for k in range(19, -1, -1)):
        w = 1 / (2 * start + 1)
        value = value + w**2 * polynomial(w**2, 1 / odd)
        slope = slope - 2 * w**3 * polynomial(w**2, (odd - 1) / odd)
    return value, slope


@functools.cache
def _series(dtype: Any) -> tuple[list[float], list[float]]:
    """Polynomials for S(x) / t and S'(x) / t^2 in t = 1 / (x + 1/2), for x from 1 to inf.

    With 1/2 the error falls by a factor of 9 with each degree, to below the rounding of the dtype.
    The expansion for large x is subtracted before the interpolation, whose error is relative to its
    values.
    """
    degree = 9 if jnp.finfo(dtype).bits == 32 else 20
    known = np.polynomial.Polynomial([1 / 12, 1 / 24, 13 / 720, 1 / 160])

    def interpolated(part: int, known: np.polynomial.Polynomial) -> list[float]:
        def rest(t: np.ndarray) -> np.ndarray:
            return _error_and_slope(1 / t - 0.5)[part] / t ** (part + 1) - known(t)

        series = np.polynomial.Chebyshev.interpolate(rest, degree, [0, 2 / 3])
        plain = series.convert(kind=np.polynomial.Polynomial, domain=[-1, 1])
        return (plain + known).coef.tolist()

    by_t = np.polynomial.Polynomial([0, 1])
    return interpolated(0, known), interpolated(1, -(known * by_t).deriv())


@jax.custom_jvp
def stirling_error_from_1(x: Array) -> Array:
    """`stirling_error` for x >= 1."""
    inverse = quotient(1.0, x + 0.5)
    return inverse * horner(inverse, _series(x.dtype)[0])


def _stirling_error_slope(x: Array) -> Array:
    inverse = quotient(1.0, x + 0.5)
    return jnp.square(inverse) * horner(inverse, _series(x.dtype)[1])


# A polynomial of its own: what is derived from the other one takes more than twice the operations.
stirling_error_from_1.defjvps(lambda x_dot, _, x: _stirling_error_slope(x) * x_dot)


def plus_one_below_1(x: Array) -> Array:
    """x + 1 where x < 1, else x: there `stirling_error_from_1` holds."""
    return jnp.where(x < 1, x + 1, x)


def stirling_error(x: Array, error: Array) -> Array:
    """log gamma(x) less Stirling's formula (x - 1/2) log x - x + log(2 pi) / 2.

    It is small and smooth, so that the large terms of a difference of log-gammas can be cancelled
    in the formula. Below 1 it follows from S(x) = S(x+1) + (x+1/2) log(1+1/x) - 1. `error` is that
    at x or, below 1, x + 1.
    """
    low = x < 1
    part = jnp.where(low, x, 1)
    first = (part + 0.5) * (jnp.log1p(part) - jnp.log(part)) - 1
    return error + jnp.where(low, first, 0)


def _difference(error: Array, start: Array, step: Array) -> Array:
    """The difference of Stirling errors that are a step apart."""
    change = error - start
    # Compiled code may round the two differently; a step of 0 must give 0.
    return change - jax.lax.stop_gradient(jnp.where(step == 0, change, 0))


def log_factorial(x: Array, error: Array | None = None) -> Array:
    """log gamma(1 + x) for x >= 0, exactly 0 at 0; `error` is the Stirling error at 1 + x."""
    if error is None:
        error = stirling_error_from_1(1 + x)
    change = _difference(error, stirling_error_from_1(jnp.ones_like(x)), x)
    return change + ((x + 0.5) * jnp.log1p(x) - x)


def log_rising(x: Array, step: Array, errors: tuple[Array, Array] | None = None) -> Array:
    """log gamma(x + step) - log gamma(x) - step log(x), which tends to 0 for large x.

    `errors` are the Stirling errors at b and b + step, where b is x or, below 1, x + 1.
    """
    # Below 1, where log gamma(x) is singular, it follows from the same at x + 1.
    low, base = x < 1, plus_one_below_1(x)
    start, end = errors or (stirling_error_from_1(base), stirling_error_from_1(base + step))
    ratio = quotient(step, base)
    close = ratio < 0.5
    remainder = x_minus_log1p_near_0(jnp.where(close, ratio, 0))
    near = ratio * (step - 0.5) - (base + step - 0.5) * remainder
    far = (base + step - 0.5) * jnp.log1p(ratio) - step
    out = jnp.where(close, near, far) + _difference(end, start, step)
    small = jnp.where(low, x, 1)
    moved = step * (jnp.log1p(small) - jnp.log(small)) - log1p_ratio(step, small)
    return out + jnp.where(low, moved, 0)
