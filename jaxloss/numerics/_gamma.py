"""Log-gammas without cancellation: Stirling's formula apart from its small, smooth error."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss.numerics._special import x_minus_log1p

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _horner(coefficients: Sequence[float], x: Array) -> Array:
    """The polynomial of these coefficients, that of the highest power first."""
    value = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


# Bernoulli numbers over 2k (2k - 1), highest power first: Stirling's series in 1/x.
_STIRLING = (
    -3617 / 122400,
    1 / 156,
    -691 / 360360,
    1 / 1188,
    -1 / 1680,
    1 / 1260,
    -1 / 360,
    1 / 12,
)


def stirling_error(x: Array) -> Array:
    """log gamma(x) less Stirling's formula (x - 1/2) log x - x + log(2 pi) / 2.

    It is small and smooth, so that what is large in differences of log-gammas can be cancelled
    with pencil and paper. Below 8 it is carried there by S(x) = S(x+1) + (x+1/2) log(1+1/x) - 1.
    """
    low, below_one = x < 8, x < 1
    base = jnp.where(below_one, x + 1, x)
    far = jnp.where(low, base + 8, base)
    inverse = 1 / far
    out = inverse * _horner(_STIRLING, jnp.square(inverse))
    # One step from x to x + 1 is a series in 1 / (2x + 1). All eight stand on an axis of their own:
    # written out, they would take seconds to compile.
    start = jnp.where(low, base, 1)[..., None] + jnp.arange(8, dtype=x.dtype)
    squares = jnp.square(1 / (2 * start + 1))
    steps = squares * _horner([1 / k for k in range(35, 1, -2)], squares)
    out = out + jnp.where(low, jnp.sum(steps, axis=-1), 0)
    part = jnp.where(below_one, x, 1)
    first = (part + 0.5) * (jnp.log1p(part) - jnp.log(part)) - 1
    return out + jnp.where(below_one, first, 0)


def _change_of_error(x: Array, step: Array) -> Array:
    """What the Stirling error gains from x to x + step."""
    change = stirling_error(x + step) - stirling_error(x)
    # Compiled, the same number may be rounded in two ways: of no step nothing is to be left.
    return change - jax.lax.stop_gradient(jnp.where(step == 0, change, 0))


def log_gamma(x: Array, error: Array) -> Array:
    """log gamma(x), given its Stirling error."""
    return (x - 0.5) * jnp.log(x) - x + (HALF_LOG_2PI + error)


def log_factorial(x: Array) -> Array:
    """log gamma(1 + x) for x from 0 to 1, exactly 0 at 0."""
    change = _change_of_error(jnp.ones_like(x), x)
    return change + ((x + 0.5) * jnp.log1p(x) - x)


def log_rising(x: Array, step: Array) -> Array:
    """log gamma(x + step) - log gamma(x) - step log(x), which vanishes for large x."""
    large = (x >= 1) & (step < 0.5 * x)
    base = jnp.where(large, x, 1)
    ahead = jnp.where(large, step, 0)
    share = numerics.quotient(ahead, base)
    tame = share * (ahead - 0.5) - (base + ahead - 0.5) * x_minus_log1p(share)
    other, jump = jnp.where(large, 1, x), jnp.where(large, 0, step)
    wild = (other + jump - 0.5) * (jnp.log(other + jump) - jnp.log(other)) - jump
    return jnp.where(large, tame, wild) + _change_of_error(x, step)
