r"""The integral of $(y - t) / t^p$ from the mean to y, for every power p, without cancellation.

It is half the deviance of the Tweedie distributions, and the divergence of the bi-tempered loss. In
the textbook formula, three powers over $1 - p$ and $2 - p$ cancel where y is close to the mean, and
are 0 / 0 at p = 1 and 2.
"""

import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._divided_difference import exp_divided_difference
from jaxloss.numerics._double_double import expm1
from jaxloss.numerics._elementwise import shared
from jaxloss.numerics._special import exprel


def _box(log_ratio: Array, power: Array) -> Array:
    """(1 - exp(-power * log_ratio)) / power, which is log_ratio at power 0."""
    exponent = -power * jnp.clip(log_ratio, -1e30, 1e30)  # 0 * inf would be NaN
    slow = jnp.abs(exponent) < 1
    near = log_ratio * exprel(jnp.where(slow, exponent, 0))
    return jnp.where(slow, near, -expm1(exponent) / jnp.where(slow, 1, power))


def boxcox_difference(x: Array, y: Array, log_ratio: Array, power: Array) -> Array:
    """(x^power - y^power) / power, which is log(x / y) at power 0; `log_ratio` is log(x / y)."""
    # The larger power is factored out: both may overflow.
    up = power * log_ratio > 0
    rest = jnp.where(up, _box(log_ratio, power), -_box(-log_ratio, power))
    return _times_power(rest, jnp.where(up, x, y), power)


def _times_power(x: Array, base: Array, power: Array) -> Array:
    """x * base^power; half of the power twice, since it may overflow where the product does not."""
    root = shared(base ** (0.5 * power))
    return (root * x) * root


def tweedie_half_deviance(mean: Array, target: Array, log_ratio: Array, power: Array) -> Array:
    """The integral of (target - t) / t^power for t from mean to target.

    The mean is above 0, and so is the target, or below power 2 it is 0. `log_ratio` is
    log(target / mean), which the caller may know more accurately than a quotient; of a target of 0
    it is -inf.
    """
    # With a = 1 - power, b = 2 - power and L = log_ratio it is mean^b L^2 exp[0, L, bL].
    a, b = 1 - power, 2 - power
    part, by_ratio, by_power = exp_divided_difference(log_ratio, b, a)
    # mean^b times the exponential of the largest point: of 0, bL, or L, where it is mean^a target.
    root = shared(jnp.where(by_power, target, mean) ** jnp.where(by_ratio, 0.5 * a, 0.5 * b))
    return ((root * jnp.where(by_ratio, target, 1)) * part) * root
