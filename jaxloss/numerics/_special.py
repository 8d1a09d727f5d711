r"""Differences of exponentials and logarithms that keep their digits where they nearly vanish.

Divergences and robust losses are made of $e^x - 1 - x$ and $x - \log(1 + x)$: quadratic near 0,
where the formula as written leaves nothing. Each is summed as a series there.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def _series(x: Array, coefficients: list[float], radius: float = 1.0) -> Array:
    """The sum of the power series for |x| up to the radius, to the precision of x."""
    least = 0.1 * jnp.finfo(x.dtype).eps * abs(coefficients[0])
    kept = [c for n, c in enumerate(coefficients) if abs(c) * radius**n > least]
    total = jnp.full_like(x, kept[-1])
    for coefficient in reversed(kept[:-1]):
        total = coefficient + x * total
    return total


def exprel(x: Array) -> Array:
    r"""$(e^x - 1) / x$: 1 at 0, with all derivatives."""
    near = jnp.abs(x) < 1
    series = _series(jnp.where(near, x, 0), [1 / math.factorial(n + 1) for n in range(18)])
    away = jnp.where(near, 1, x)
    return jnp.where(near, series, jnp.expm1(away) / away)


def exprel_derivative(x: Array) -> Array:
    """The derivative of `expm1_ratio`, for |x| below 1."""
    return _series(x, [(n + 1) / math.factorial(n + 2) for n in range(18)])


def expm1_minus_x_over_x2(x: Array) -> Array:
    r"""$(e^x - 1 - x) / x^2$ for |x| below 1: 1/2 at 0, with all derivatives."""
    return _series(x, [1 / math.factorial(n + 2) for n in range(18)])


def log1p_over_x(x: Array) -> Array:
    r"""$\log(1 + x) / x$ for x at least 0: 1 at 0, with all derivatives."""
    near = x < 0.125
    series = _series(jnp.where(near, x, 0), [(-1) ** n / (n + 1) for n in range(18)], 0.125)
    away = jnp.where(near, 1, x)
    return jnp.where(near, series, jnp.log1p(away) / away)


@jax.custom_jvp
def expm1_minus_x(x: Array) -> Array:
    r"""$e^x - 1 - x$, at least 0: by how much the exponential exceeds its tangent at 0."""
    near = jnp.abs(x) < 1
    square = x * x * expm1_minus_x_over_x2(jnp.where(near, x, 0))
    return jnp.where(near, square, jnp.expm1(x) - x)


@expm1_minus_x.defjvp
def _exp_excess_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    return expm1_minus_x(x), jnp.expm1(x) * x_dot


@jax.custom_jvp
def x_minus_log1p(x: Array) -> Array:
    r"""$x - \log(1 + x)$, at least 0: by how much its tangent at 0 exceeds the logarithm."""
    # With s = x / (2 + x) the logarithm is 2 artanh(s), and x - 2s is x s.
    near = (x > -0.65) & (x < 2)
    s = jnp.where(near, x, 0) / (2 + jnp.where(near, x, 0))
    cubes = s * s * s * _series(s * s, [2 / (2 * n + 3) for n in range(28)], 0.25)
    return jnp.where(near, x * s - cubes, x - jnp.log1p(x))


@x_minus_log1p.defjvp
def _log1p_excess_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    return x_minus_log1p(x), x / (1 + x) * x_dot
