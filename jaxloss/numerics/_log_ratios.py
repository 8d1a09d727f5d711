"""Logarithms of ratios, accurate where the ratio is close to 1 and where it would overflow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss.numerics._dtypes import half_in_float32
from jaxloss.numerics._elementwise import fraction, quotient
from jaxloss.numerics._special import x_minus_log1p, x_minus_log1p_near_0


def _log_quotient(x: Array, y: Array) -> Array:
    """log(x / y), also where the quotient would overflow; not accurate where it is close to 1."""
    most = jnp.finfo(x.dtype).maxexp
    limit, shift = 2.0 ** (25 * most // 32), 3 * most // 5
    y = jnp.abs(y)  # of -0 the quotient is -inf
    ratio = quotient(x, y)
    # Of 0 nothing is divided by a factor: the other number could underflow, and 0 / 0 is NaN.
    up, down = (ratio > limit) & (y > 0), (ratio < 1 / limit) & (x > 0)
    steps = jnp.where(up, 1, jnp.where(down, -1, 0)).astype(x.dtype)
    factor, inverse = (
        jnp.where(steps > 0, 2.0**-power, jnp.where(steps < 0, 2.0**power, 1))
        for power in (shift, -shift)
    )
    # Not a division by the factor: XLA would multiply x by its square, which overflows.
    scaled = jnp.log(quotient(x * factor, y * inverse))
    removed = 2 * shift * math.log(2)
    rounded = float(np.asarray(removed, x.dtype))
    return (scaled + steps * (removed - rounded)) + steps * rounded


@jax.custom_jvp
def _log_ratio(x: Array, y: Array) -> Array:
    near = jnp.abs(x - y) < 0.5 * y
    change = quotient(jnp.where(near, x - y, 0), jnp.where(near, y, 1))
    far = _log_quotient(jnp.where(near, 1, x), jnp.where(near, 1, y))
    return jnp.where(near, jnp.log1p(change), far)


_log_ratio.defjvps(
    lambda x_dot, _, x, _y: quotient(x_dot, x),
    lambda y_dot, _, _x, y: -quotient(y_dot, y),
)


@half_in_float32
def log_ratio(x: Array, y: Array) -> Array:
    r"""$\log(x / y)$ of positive numbers, accurate where they are close and where x / y overflows.

    It is -inf at x = 0 and inf at y = 0. Of close numbers the quotient would be rounded near 1, and
    the difference of the logarithms cancels.

    >>> f"{log_ratio(1.0000001, 1.0):.6g}", f"{log_ratio(1e30, 1e-30):.6g}"
    ('1.19209e-07', '138.155')
    """
    return _log_ratio(jnp.asarray(x), jnp.asarray(y))


@jax.custom_jvp
def log1p_ratio(x: Array, y: Array) -> Array:
    """log(1 + x / y) of x >= 0 and y > 0, also where x / y overflows."""
    small = x < y
    part = jnp.log1p(quotient(jnp.where(small, x, 0), y))
    other, base = jnp.where(small, 0, x), jnp.where(small, 1, y)
    return jnp.where(small, part, _log_ratio(other + base, base))


log1p_ratio.defjvps(
    lambda x_dot, _, x, y: quotient(x_dot, x + y),
    lambda y_dot, _, x, y: -quotient(fraction(x, y) * y_dot, y),
)


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
    lambda n_dot, _, n, x: _scaled_log1p_slope(n, x) * n_dot,
    lambda x_dot, _, n, x: fraction(n, x) * x_dot,
)


def bregman_gap(a: Array, change: Array, log_a_over_b: Array) -> Array:
    """a log(a / b) - a + b, at least 0, from `change`, b - a, and log(a / b).

    It is the Bregman divergence of x log x. Both arguments are given because the caller may know
    them more accurately than from a and b. Where a is 0 the logarithm must be finite.
    """
    near = (change > -0.5 * a) & (change < 2 * a)
    ratio = quotient(jnp.where(near, change, 0), jnp.where(near, a, 1))
    return jnp.where(near, a * x_minus_log1p_near_0(ratio), change + a * log_a_over_b)


@jax.custom_jvp
def kl_div_of_change(a: Array, b: Array, change: Array) -> Array:
    """`kl_div(a, b)`, where `change` is b - a, known more accurately than from a and b."""
    return bregman_gap(a, change, _log_ratio_or_0(a, b))


def _log_ratio_or_0(a: Array, b: Array) -> Array:
    """log(a / b); 0 where a is 0."""
    none = a == 0
    return _log_quotient(jnp.where(none, 1, a), jnp.where(none, 1, b))


def _slope_in_a(a: Array, b: Array, change: Array) -> Array:
    """log(a / b), but 0 where it is infinite."""
    near = (change > -0.5 * a) & (change < 2 * a)
    ratio = quotient(jnp.where(near, change, 0), jnp.where(near, a, 1))
    far = _log_ratio_or_0(a, jnp.where(b == 0, a, b))
    return jnp.where(near, -jnp.log1p(ratio), far)


# At b = 0 both derivatives are infinite, or do not exist: 0 by convention.
kl_div_of_change.defjvps(
    lambda a_dot, _, a, b, change: _slope_in_a(a, b, change) * a_dot,
    lambda b_dot, _, _a, b, change: (
        jnp.where(b == 0, 0, quotient(change, jnp.where(b == 0, 1, b))) * b_dot
    ),
    None,
)


@half_in_float32
def kl_div(a: Array, b: Array) -> Array:
    r"""$a \log(a / b) - a + b$ of numbers of at least 0: accurate where they are close, and >= 0.

    A term of the Kullback-Leibler divergence, as in `scipy.special.kl_div`, with $0 \log 0 = 0$.
    Where a derivative is infinite it is 0 by convention.

    >>> f"{kl_div(1.0, 1.0 + 2**-20):.6g}", float(kl_div(0.0, 2.0)), float(kl_div(1.0, 0.0))
    ('4.54747e-13', 2.0, inf)
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    return kl_div_of_change(a, b, b - a)
