r"""Differences of exponentials and logarithms that keep their digits where they nearly vanish.

Divergences and robust losses are made of $e^x - 1 - x$ and $x - \log(1 + x)$, which are quadratic
near 0, where the formula as written loses all digits. Each is computed as a series there.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._dtypes import half_in_float32
from jaxloss.numerics._elementwise import fraction, quotient
from jaxloss.numerics._polynomials import power_series


@half_in_float32
def exprel(x: Array) -> Array:
    r"""$(e^x - 1) / x$, which is 1 at 0, with derivatives of every order.

    With it a quotient by p has its limit at p = 0:
    $(x^p - y^p) / p = y^p \log(x / y)\, \mathrm{exprel}(p \log(x / y))$.

    >>> float(exprel(0.0)), float(jax.grad(exprel)(0.0))
    (1.0, 0.5)
    """
    x = jnp.asarray(x)
    near = jnp.abs(x) < 1
    series = power_series(jnp.where(near, x, 0), [1 / math.factorial(n + 1) for n in range(18)])
    away = jnp.where(near, 1, x)
    return jnp.where(near, series, jnp.expm1(away) / away)


def exprel_derivative(x: Array) -> Array:
    """The derivative of `exprel`, for |x| < 1."""
    return power_series(x, [(n + 1) / math.factorial(n + 2) for n in range(18)])


def exprel_slope(x: Array) -> Array:
    """The derivative of `exprel` for any x."""
    near = jnp.abs(x) < 1
    away = jnp.where(near, 1, x)
    far = (jnp.exp(away) - jnp.expm1(away) / away) / away
    return jnp.where(near, exprel_derivative(jnp.where(near, x, 0)), far)


def expm1_minus_x_over_x2(x: Array) -> Array:
    r"""$(e^x - 1 - x) / x^2$ for |x| < 1: 1/2 at 0, with derivatives of every order."""
    return power_series(x, [1 / math.factorial(n + 2) for n in range(18)])


@half_in_float32
def log1p_over_x(x: Array) -> Array:
    r"""$\log(1 + x) / x$ for x > -1, which is 1 at 0, with derivatives of every order.

    >>> float(log1p_over_x(0.0)), float(jax.grad(log1p_over_x)(0.0))
    (1.0, -0.5)
    """
    x = jnp.asarray(x)
    near = jnp.abs(x) < 0.125
    series = power_series(
        jnp.where(near, x, 0), [(-1) ** n / (n + 1) for n in range(18)], radius=0.125
    )
    away = jnp.where(near, 1, x)
    return jnp.where(near, series, jnp.log1p(away) / away)


@jax.custom_jvp
def _expm1_minus_x(x: Array) -> Array:
    near = jnp.abs(x) < 1
    square = x * x * expm1_minus_x_over_x2(jnp.where(near, x, 0))
    return jnp.where(near, square, jnp.expm1(x) - x)


_expm1_minus_x.defjvps(lambda x_dot, _, x: jnp.expm1(x) * x_dot)


@half_in_float32
def expm1_minus_x(x: Array) -> Array:
    r"""$e^x - 1 - x$, at least 0: the distance of the exponential from its tangent at 0.

    >>> f"{expm1_minus_x(1e-10):.6g}", float(jax.grad(expm1_minus_x)(0.0))
    ('5e-21', 0.0)
    """
    return _expm1_minus_x(jnp.asarray(x))


def _slope_of_x_minus_log1p(x_dot: Array, _: Array, x: Array) -> Array:
    # As a fraction, whose own derivative neither cancels nor squares a large x.
    return jnp.where(x == -1, -jnp.inf, fraction(x, jnp.ones_like(x))) * x_dot


@jax.custom_jvp
def x_minus_log1p_near_0(x: Array) -> Array:
    """`x_minus_log1p` for x from -0.65 to 2."""
    # With s = x / (2 + x), log(1 + x) is 2 artanh(s), and x - 2s is x s.
    s = quotient(x, 2 + x)
    return x * s - s * s * s * power_series(s * s, [2 / (2 * n + 3) for n in range(28)], 0.25)


@jax.custom_jvp
def _x_minus_log1p(x: Array) -> Array:
    near = (x > -0.65) & (x < 2)
    return jnp.where(near, x_minus_log1p_near_0(jnp.where(near, x, 0)), x - jnp.log1p(x))


x_minus_log1p_near_0.defjvps(_slope_of_x_minus_log1p)
_x_minus_log1p.defjvps(_slope_of_x_minus_log1p)


@half_in_float32
def x_minus_log1p(x: Array) -> Array:
    r"""$x - \log(1 + x)$, at least 0: the distance of the logarithm from its tangent at 1.

    >>> f"{x_minus_log1p(1e-10):.6g}", float(jax.grad(x_minus_log1p)(0.0))
    ('5e-21', 0.0)
    """
    return _x_minus_log1p(jnp.asarray(x))
