r"""The integral of $(y - t) / t^p$ from the mean to y, for every power p, without cancellation.

It is half the deviance of the Tweedie distributions, and the divergence of the bi-tempered loss. In
the textbook formula, three powers over $1 - p$ and $2 - p$ cancel where y is close to the mean, and
are 0 / 0 at p = 1 and 2.
"""

import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._double_double import expm1
from jaxloss.numerics._elementwise import shared
from jaxloss.numerics._quadrature import integrate_unit
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
    """The integral of (target - t) / t^power for t from mean to target, both above 0.

    `log_ratio` is log(target / mean), which the caller may know more accurately than a quotient.
    """
    # With a = 1 - power, b = 2 - power and L = log_ratio, it is mean^b or target^b times a function
    # of L and the powers. The larger of the two is factored out, so that nothing else overflows.
    a, b = 1 - power, 2 - power
    small, up = jnp.abs(log_ratio) < 2, b * log_ratio > 0
    steep = small & (jnp.abs(b * log_ratio) > 8)

    # (i) Close to each other. Substituting t = mean exp(s L) makes the integrand smooth and >= 0.
    near = small & ~steep
    inner, exponent = jnp.where(near, log_ratio, 0), jnp.where(near, b, 0)
    integral = integrate_unit(lambda s: expm1((1 - s) * inner) * jnp.exp(exponent * s * inner))
    close = mean**exponent * inner * integral

    # (ii) Close to each other, with a large power: 1 / a - 1 / b is taken out.
    outer, divisor = jnp.where(steep, log_ratio, 1), jnp.where(steep, b, 9)
    step = divisor * expm1(outer)
    falling = shared(jnp.exp(-jnp.abs(divisor * outer)))
    combined = jnp.where(up, 1 - falling * (1 + step), falling - 1 - step)
    combined = combined / (divisor * (divisor - 1))

    # (iii) Far from each other, as written.
    rising, falling = ~small & up, ~small & ~up
    far, c, d = (jnp.where(rising, x, 1) for x in (log_ratio, a, b))
    up_form = _box(far, c) - _box(far, d)
    far, c, d = (jnp.where(falling, x, -1) for x in (log_ratio, a, b))
    slow, exp = jnp.abs(c * far) < 1, shared(jnp.exp(far))
    mixed = (jnp.exp(d * far) - exp) / jnp.where(slow, 1, c)
    down_form = jnp.where(slow, -exp * _box(-far, c), mixed) + _box(-far, d)

    factor = jnp.where(steep, combined, jnp.where(up, up_form, down_form))
    base = jnp.where(near, 1, jnp.where(up, target, mean))
    return jnp.where(near, close, _times_power(factor, base, jnp.where(near, 0, b)))
