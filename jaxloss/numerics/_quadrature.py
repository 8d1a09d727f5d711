"""Integrals by the Gauss-Legendre rule."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss.numerics._reductions import summed_whole

_POINTS, _WEIGHTS = (0.5 * points for points in np.polynomial.legendre.leggauss(14))
_RULE = tuple(zip((0.5 + _POINTS).tolist(), _WEIGHTS.tolist(), strict=True))


def integrate_unit(function: Callable[[float], Array]) -> Array:
    """The integral of a function from 0 to 1, by the Gauss-Legendre rule with 14 points.

    That of exp(x s) is exact to rounding for |x| < 8.
    """
    return sum(weight * function(point) for point, weight in _RULE)  # type: ignore[return-value]


def integrate(function: Callable[[Array], Array], start: Array, stop: Array, points: int) -> Array:
    """The integrals from `start` to `stop`; the function takes an axis of points in front."""
    rule = np.polynomial.legendre.leggauss(points)
    nodes, weights = (jnp.asarray(x, stop.dtype).reshape(points, *stop.ndim * [1]) for x in rule)
    half = 0.5 * (stop - start)
    terms = weights * function(start + half * (1 + nodes))
    return half * jnp.sum(summed_whole(terms), axis=0)
