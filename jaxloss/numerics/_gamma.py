"""Log-gamma functions without cancellation: Stirling's formula and its error, kept apart."""

import math

import jax
import jax.numpy as jnp
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


def stirling_error(x: Array) -> Array:
    """log gamma(x) less Stirling's formula (x - 1/2) log x - x + log(2 pi) / 2.

    It is small and smooth, so that the large terms of a difference of log-gammas can be cancelled
    in the formula. Below 8 it follows from S(x) = S(x+1) + (x+1/2) log(1+1/x) - 1.
    """
    low, below_one = x < 8, x < 1
    base = jnp.where(below_one, x + 1, x)
    far = jnp.where(low, base + 8, base)
    inverse = 1 / far
    out = inverse * horner(jnp.square(inverse), _STIRLING)
    # A step from x to x + 1 is a series in 1 / (2x + 1). The eight steps are an axis of one array:
    # eight copies of the series would take seconds to compile.
    eight = jnp.arange(8, dtype=x.dtype).reshape(*(1,) * x.ndim, 8)
    start = jnp.where(low, base, 1)[..., None] + eight
    squares = jnp.square(1 / (2 * start + 1))
    steps = squares * horner(squares, [1 / k for k in range(3, 36, 2)])
    out = out + jnp.where(low, jnp.sum(steps, axis=-1), 0)
    part = jnp.where(below_one, x, 1)
    first = (part + 0.5) * (jnp.log1p(part) - jnp.log(part)) - 1
    return out + jnp.where(below_one, first, 0)


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
