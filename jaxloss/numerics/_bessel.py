"""The modified Bessel function of order 0."""

import math

import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._polynomials import power_series


def log_bessel_i0(x: Array, scaled: Array) -> Array:
    """log I0(x), or log(exp(-x) I0(x)) where `scaled`, for x >= 0, with accurate derivatives.

    Where it is not scaled, x must be at most 1: a power series keeps the digits of a small result.
    """
    square = 0.25 * jnp.square(jnp.where(scaled, 0, x))
    series = power_series(square, [1 / math.factorial(k) ** 2 for k in range(1, 11)], 0.25)
    low = jnp.log1p(square * series)
    end, points, terms = (10, 11, 10) if jnp.finfo(x.dtype).bits == 32 else (20, 20, 20)
    near = x < end
    inner, outer = jnp.where(near, x, 0), jnp.where(near, end, x)
    # The integral over a period, by the trapezoidal rule: exact to rounding with so few points.
    waves = [
        jnp.exp(-2 * math.sin(0.5 * math.pi * j / points) ** 2 * inner) for j in range(1, points)
    ]
    mean = (0.5 * (1 + jnp.exp(-2 * inner)) + sum(waves)) / points
    # The asymptotic series in 1 / x, nested.
    inverse, tail = 1 / outer, jnp.ones_like(x)
    for j in range(terms, 0, -1):
        tail = 1 + (2 * j - 1) ** 2 / (8 * j) * inverse * tail
    # One logarithm serves both: of their squares, since the root of 1 / x is one more factor.
    squared = jnp.where(near, mean * mean, tail * tail * ((0.5 / math.pi) * inverse))
    return jnp.where(scaled, 0.5 * jnp.log(squared), low)
