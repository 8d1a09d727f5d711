"""Logarithms of ratios, with all their digits where the two are close and where one is huge."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss.numerics._special import x_minus_log1p


def log_ratio(x: Array, y: Array) -> Array:
    """log(x / y), with all its digits where the two are close, and for ratios that overflow."""
    near = jnp.abs(x - y) < 0.5 * y
    ratio = jax.lax.stop_gradient(x) / jax.lax.stop_gradient(y)
    far = (ratio < 1e-30) | (ratio > 1e30)
    change = numerics.quotient(jnp.where(near, x - y, 0), jnp.where(near, y, 1))
    apart = jnp.log(jnp.where(far, x, 1)) - jnp.log(jnp.where(far, y, 1))
    usual = ~(near | far)
    between = jnp.log(numerics.quotient(jnp.where(usual, x, 1), jnp.where(usual, y, 1)))
    return jnp.where(near, jnp.log1p(change), jnp.where(far, apart, between))


def ratio_minus_log1p(d: Array, log_ratio: Array) -> Array:
    """d - log(1 + d) for d = ratio - 1, where log(ratio) serves if the ratio is almost 0."""
    tiny = d < -0.5
    return jnp.where(tiny, d - log_ratio, x_minus_log1p(jnp.where(tiny, 0, d)))


def log1p_ratio(x: Array, y: Array) -> Array:
    """log(1 + x / y), also where x / y overflows."""
    small = x < y
    part = jnp.log1p(numerics.quotient(jnp.where(small, x, 0), y))
    other, base = jnp.where(small, 0, x), jnp.where(small, 1, y)
    return jnp.where(small, part, log_ratio(other + base, base))


@jax.custom_jvp
def scaled_log1p(n: Array, x: Array) -> Array:
    """n log(1 + x / n), which for large n is x, with its small slope in n."""
    return n * log1p_ratio(x, n)


@scaled_log1p.defjvp
def _scaled_log1p_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (n, x), (n_dot, x_dot) = primals, tangents
    share, large = numerics.share(x, n), x > n
    bend = x_minus_log1p(-jnp.where(large, 0, share))
    bend = jnp.where(large, log1p_ratio(x, n) - share, bend)
    return scaled_log1p(n, x), bend * n_dot + numerics.share(n, x) * x_dot
