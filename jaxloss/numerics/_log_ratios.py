"""Logarithms of ratios, accurate where the ratio is close to 1 and where it would overflow."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._elementwise import fraction, quotient
from jaxloss.numerics._special import x_minus_log1p


def log_ratio(x: Array, y: Array) -> Array:
    """log(x / y) of positive numbers, accurate where they are close and where x / y overflows."""
    near = jnp.abs(x - y) < 0.5 * y
    ratio = jax.lax.stop_gradient(x) / jax.lax.stop_gradient(y)
    far = (ratio < 1e-30) | (ratio > 1e30)
    change = quotient(jnp.where(near, x - y, 0), jnp.where(near, y, 1))
    apart = jnp.log(jnp.where(far, x, 1)) - jnp.log(jnp.where(far, y, 1))
    usual = ~(near | far)
    between = jnp.log(quotient(jnp.where(usual, x, 1), jnp.where(usual, y, 1)))
    return jnp.where(near, jnp.log1p(change), jnp.where(far, apart, between))


def ratio_minus_log1p(d: Array, log_ratio: Array) -> Array:
    """d - log(1 + d) for d = ratio - 1, from log(ratio) where the ratio is almost 0."""
    tiny = d < -0.5
    return jnp.where(tiny, d - log_ratio, x_minus_log1p(jnp.where(tiny, 0, d)))


def log1p_ratio(x: Array, y: Array) -> Array:
    """log(1 + x / y), also where x / y overflows."""
    small = x < y
    part = jnp.log1p(quotient(jnp.where(small, x, 0), y))
    other, base = jnp.where(small, 0, x), jnp.where(small, 1, y)
    return jnp.where(small, part, log_ratio(other + base, base))


@jax.custom_jvp
def scaled_log1p(n: Array, x: Array) -> Array:
    """n log(1 + x / n), which tends to x for large n, and its derivative in n to 0."""
    return n * log1p_ratio(x, n)


def _scaled_log1p_slope(n: Array, x: Array) -> Array:
    """log(1 + x / n) - x / (x + n)."""
    part, large = fraction(x, n), x > n
    bend = x_minus_log1p(-jnp.where(large, 0, part))
    return jnp.where(large, log1p_ratio(x, n) - part, bend)


scaled_log1p.defjvps(
    lambda n_dot, out, n, x: _scaled_log1p_slope(n, x) * n_dot,
    lambda x_dot, out, n, x: fraction(n, x) * x_dot,
)
