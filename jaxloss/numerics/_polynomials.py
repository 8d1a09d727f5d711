"""Polynomials and truncated power series."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array


def horner(x: Array, coefficients: Sequence[float]) -> Array:
    """The polynomial with these coefficients, lowest power first, by Horner's scheme."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def power_series(x: Array, coefficients: Sequence[float], radius: float = 1.0) -> Array:
    """The sum of a power series for |x| up to the radius, with the terms that x's dtype needs."""
    least = 0.1 * jnp.finfo(x.dtype).eps * abs(coefficients[0])
    return horner(x, [c for n, c in enumerate(coefficients) if abs(c) * radius**n > least])
