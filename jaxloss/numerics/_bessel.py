"""The modified Bessel function of order 0."""

import math

import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._polynomials import horner


def log_bessel_i0(x: Array, scaled: Array) -> Array:
    """log I0(x), or log(exp(-x) I0(x)) where `scaled`, for x >= 0, with accurate derivatives.

    Where it is not scaled, x must be at most 1: a power series keeps the digits of a small result.
    """
    square = 0.25 * jnp.square(jnp.where(scaled, 0, x))
    series = horner(square, [1 / math.factorial(k) ** 2 for k in range(1, 11)])
    low = jnp.log1p(square * series)
    near = x < 20
    inner, outer = jnp.where(near, x, 0), jnp.where(near, 20, x)
    # The integral over a period, by the trapezoidal rule: exact to rounding with so few points.
    waves = [jnp.exp(-2 * math.sin(math.pi * j / 40) ** 2 * inner) for j in range(21)]
    mean = (0.5 * (waves[0] + waves[-1]) + sum(waves[1:-1])) / 20
    # The asymptotic series in 1 / x, nested.
    inverse, tail = 1 / outer, jnp.ones_like(x)
    for j in range(20, 0, -1):
        tail = 1 + (2 * j - 1) ** 2 / (8 * j) * inverse * tail
    far = jnp.log(tail) - 0.5 * jnp.log(2 * math.pi * outer)
    return jnp.where(scaled, jnp.where(near, jnp.log(mean), far), low)
