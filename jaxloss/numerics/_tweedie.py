r"""The integral of $(y - t) / t^p$ from the mean to y, for every power p, without cancellation.

It is half the deviance of the Tweedie distributions, and the divergence of the bi-tempered loss. In
the textbook formula, three powers over $1 - p$ and $2 - p$ cancel where y is close to the mean, and
are 0 / 0 at p = 1 and 2.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss.numerics._special import exprel

# Gauss-Legendre on the unit interval: the integral of exp(x s) is exact to rounding for |x| < 8.
_NODES, _WEIGHTS = (0.5 * points for points in np.polynomial.legendre.leggauss(14))
_RULE = tuple(zip((0.5 + _NODES).tolist(), _WEIGHTS.tolist(), strict=True))


def tweedie_half_deviance(mean: Array, target: Array, log_ratio: Array, power: Array) -> Array:
    """The integral of (target - t) / t^power for t from mean to target, both above 0.

    `log_ratio` is log(target / mean), which the caller may know more accurately than a quotient.
    """
    near = jnp.abs(log_ratio) < 2
    inner, outer = jnp.where(near, log_ratio, 0), jnp.where(near, 2, log_ratio)
    # Substituting t = mean exp(s log_ratio) makes the integrand smooth and at least 0.
    close = inner * sum(
        weight * jnp.expm1((1 - node) * inner) * jnp.exp((2 - power) * node * inner)
        for node, weight in _RULE
    )
    m, y = jnp.where(near, 1, mean), jnp.where(near, math.e**2, target)
    far = y * boxcox_difference(y, m, outer, 1 - power) - boxcox_difference(y, m, outer, 2 - power)
    return jnp.where(near, mean ** (2 - power) * close, far)


def boxcox_difference(x: Array, y: Array, log_ratio: Array, power: Array) -> Array:
    """(x^power - y^power) / power, which is log(x / y) at power 0."""
    exponent = power * jnp.minimum(log_ratio, 1e30)  # 0 * inf would be NaN
    slow = jnp.abs(exponent) < 1
    close = y**power * log_ratio * exprel(jnp.where(slow, exponent, 0))
    return jnp.where(slow, close, (x**power - y**power) / jnp.where(slow, 1, power))
