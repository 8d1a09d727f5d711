"""Barron's general robust loss: one number, alpha, sets how fast the loss grows in the tail."""

import math
from collections.abc import Callable
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import extended, positive
from jaxloss.numerics._elementwise import shared
from jaxloss.numerics._quadrature import integrate_unit
from jaxloss.numerics._special import expm1_minus_x_over_x2, exprel, exprel_derivative
from jaxloss.robust._named import exp_minus_half_square, of_cauchy, of_geman_mcclure, of_welsch
from jaxloss.traits import nonnegative, smooth, symmetric, translation_invariant, zero_at_match


class _Parts(NamedTuple):
    """What value and derivatives are computed from, with b = |alpha - 2|.

    Attributes:
        infinite: Whether alpha is infinite.
        b: |alpha - 2|, but that of the next float at alpha = 2; finite.
        ratio: alpha / b; the sign of an infinite alpha.
        far: Whether z**2 / b may overflow.
        root: |z| / sqrt(b) where `far`, else 1.
        square: z**2 / b where not `far`, else 0.
        log: log(1 + z**2 / b).
    """

    infinite: Array
    b: Array
    ratio: Array
    far: Array
    root: Array
    square: Array
    log: Array


def _parts(z: Array, alpha: Array) -> _Parts:
    infinite = jnp.isinf(alpha)
    finite_alpha = jnp.where(infinite, 0, alpha)
    b = jnp.maximum(jnp.abs(finite_alpha - 2), jnp.finfo(z.dtype).eps)
    ratio = jnp.where(infinite, jnp.sign(alpha), numerics.quotient(finite_alpha, b))
    from_root = numerics.quotient(jnp.abs(z), shared(jnp.sqrt(b)))
    far = ~infinite & (from_root > 128 / jnp.finfo(z.dtype).eps)
    root = jnp.where(far, from_root, 1)
    near = jnp.where(far | infinite, 0, z)
    square = near * numerics.quotient(near, b)
    log = shared(jnp.log1p(jnp.where(far, root, square)))
    return _Parts(infinite, b, ratio, far, root, square, jnp.where(far, 2 * log, log))


def _or_limit(
    function: Callable[[Array, Array], Array],
    limit: Callable[[Array, Array], Array],
    z: Array,
    alpha: Array,
) -> Array:
    """The function, and at infinite z its limit; neither makes a derivative of the other NaN."""
    at_limit = jnp.isinf(z)
    found = function(jnp.where(at_limit, 1, z), alpha)
    return jnp.where(at_limit, limit(z, alpha), found)


def _limit(z: Array, alpha: Array) -> Array:
    """b / |alpha| of a negative alpha, else inf."""
    del z
    return jnp.where(alpha < 0, 1 - 2 / jnp.where(alpha < 0, alpha, -1), jnp.inf)


def _limit_of_slope_in_z(z: Array, alpha: Array) -> Array:
    return jnp.where(alpha > 1, z, jnp.where(alpha == 1, jnp.sign(z), 0))


def _limit_of_slope_in_alpha(z: Array, alpha: Array) -> Array:
    del z
    finite = jnp.where((alpha < 0) & (alpha > -jnp.inf), alpha, -1)
    of_finite = jnp.where(alpha < 0, 2 / jnp.square(finite), jnp.inf)
    return jnp.where(jnp.isinf(alpha), 0, of_finite)


@jax.custom_jvp
def _barron(z: Array, alpha: Array) -> Array:
    return _or_limit(_value, _limit, z, alpha)


def _value(z: Array, alpha: Array) -> Array:
    """b / alpha * (exp(exponent) - 1) with exponent = alpha / 2 * log(1 + z**2 / b)."""
    p = _parts(z, alpha)
    # Half of b times the logarithm, which is z**2 / 2 for an infinite b.
    half = jnp.where(p.infinite, 0.5 * jnp.square(jnp.clip(z, -40, 40)), 0.5 * p.b * p.log)
    exponent = p.ratio * half
    small = exponent < 1
    near = half * exprel(jnp.where(small, exponent, 0))
    divisor = jnp.where(p.infinite | small, 1, alpha)
    power = shared(jnp.power(jnp.where(p.far, p.root, 1 + p.square), divisor / 2))
    power = p.b * power * jnp.where(p.far, power, 1)
    away = jnp.where(p.infinite, numerics.expm1(half), (power - p.b) / divisor)
    return jnp.where(alpha == 2, 0.5 * jnp.square(z), jnp.where(small, near, away))


def _slope_in_z(z: Array, alpha: Array) -> Array:
    """z * (1 + z**2 / b)**(alpha / 2 - 1)."""
    p = _parts(z, alpha)
    finite_alpha = jnp.where(p.infinite, 2, alpha)
    # alpha / 2 is exact, alpha / 2 - 1 is rounded.
    close = p.square < 1
    weight = jnp.where(
        close,
        jnp.exp((finite_alpha / 2 - 1) * jnp.log1p(jnp.where(close, p.square, 0))),
        jnp.power(1 + p.square, finite_alpha / 2) / (1 + p.square),
    )
    # Of a finite alpha it would overflow, and so would what its derivative multiplies by 0.
    growing = jnp.exp(0.5 * jnp.square(jnp.clip(jnp.where(p.infinite, z, 0), -40, 40)))
    at_infinity = jnp.where(alpha > 0, growing, exp_minus_half_square(z))
    weight = jnp.where(p.infinite, at_infinity, jnp.where(alpha == 2, 1, weight))
    half_power = shared(jnp.power(p.root, finite_alpha / 2))
    far = jnp.sign(z) * jnp.sqrt(p.b) * (half_power / p.root) * half_power
    return jnp.where(p.far & (alpha != 2), far, z * weight)


def _slope_in_alpha(z: Array, alpha: Array) -> Array:
    r"""The derivative in alpha, at least 0.

    With L = log(1 + z**2 / b), u = alpha L / 2 and w = u - L it is b L / 4 times
    exprel(w) - exprel(u) + L exprel'(u), which nearly vanishes for small L, near alpha = 2 and for
    large negative alpha. Three forms cover the plane of L and u.
    """
    p = _parts(z, alpha)
    length = p.log
    delta = jnp.where(alpha > 2, p.b, -p.b)
    w, u = 0.5 * delta * length, jnp.where(p.infinite, 0, 0.5 * alpha * length)

    # (i) Near 0, the integral of exp(w v) (1 - exp(L v) + L v exp(L v)) over v, divided by L**2.
    middle = (jnp.abs(u) <= 3) & (length <= 8)
    inner, inner_w = jnp.where(middle, length, 0), jnp.where(middle, w, 0)

    def integrand(v: float) -> Array:
        small = inner * v < 1
        x = jnp.where(small, inner * v, 0)
        near = exprel_derivative(x)
        y = jnp.where(small, 1, inner * v)
        away = (jnp.exp(y) * (y - 1) + 1) / jnp.square(y)
        return v * v * jnp.exp(inner_w * v) * jnp.where(small, near, away)

    by_integral = integrate_unit(integrand)

    # (ii) For small u and large L, as written.
    long = (jnp.abs(u) <= 3) & ~middle
    at = jnp.where(long, u, 1)
    tiny = jnp.abs(at) < 1
    other = jnp.where(tiny, 1, at)
    derivative = jnp.where(
        tiny,
        exprel_derivative(jnp.where(tiny, at, 0)),
        (jnp.exp(other) * (other - 1) + 1) / jnp.square(other),
    )
    outer = jnp.where(long, length, 1)
    direct = (exprel(jnp.where(long, w, 0)) - exprel(at) + outer * derivative) / jnp.square(outer)

    # (iii) For large u, with the terms that cancel for small L taken out; divided by L**2. A power
    # of a large number is more accurate than the exponential of u, which is rounded.
    large = jnp.abs(u) > 3
    at, at_w, outer = jnp.where(large, u, 3), jnp.where(large, w, 2), jnp.where(large, length, 1)
    exponent = jnp.where(large, 0.5 * alpha, 0)
    root_power = jnp.power(p.root, exponent)
    exp_u = jnp.where(p.square < 1, jnp.exp(at), jnp.power(1 + p.square, exponent))
    exp_u = jnp.where(p.far, root_power * root_power, exp_u)
    exp_w = jnp.where(p.far, jnp.square(root_power / p.root), exp_u / (1 + p.square))
    flat = jnp.abs(at_w) < 3
    exprel_w = (exp_w - 1) / jnp.where(flat, 3, at_w)
    exprel_w = jnp.where(flat, exprel(jnp.where(flat, at_w, 0)), exprel_w)
    short = outer < 1
    series = exp_w * expm1_minus_x_over_x2(jnp.where(short, outer, 0))
    stepped = jnp.where(short, 1, outer)
    quadratic = (exp_u - exp_w * (1 + stepped)) / jnp.square(stepped)
    bend = jnp.where(short, series, quadratic)
    rest = exp_w * (1 - at) + bend * (at + outer - outer * at)
    by_terms = (exprel_w - rest) / jnp.square(at)

    factor = jnp.where(middle, by_integral, jnp.where(long, direct, by_terms))
    return jnp.where(p.infinite, 0, 0.25 * p.b * length * jnp.square(length) * factor)


_barron.defjvps(
    lambda z_dot, _, *at: _or_limit(_slope_in_z, _limit_of_slope_in_z, *at) * z_dot,
    lambda alpha_dot, _, *at: _or_limit(_slope_in_alpha, _limit_of_slope_in_alpha, *at) * alpha_dot,
)


# Where alpha is a number, known before tracing.
_NAMED = {
    2: lambda z: 0.5 * jnp.square(z),
    1: numerics.hypot1m1,
    0: of_cauchy,
    -2: of_geman_mcclure,
    -math.inf: of_welsch,
}


@loss(
    nonnegative,
    smooth,
    symmetric,
    translation_invariant,
    zero_at_match,
    alpha=extended,
    scale=positive,
)
def barron(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    alpha: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
    scale: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Barron's general robust loss: alpha interpolates between squared error and bounded losses.

    When to use: regression where the amount of robustness is a hyperparameter, or is learned.

    $$\ell(z) = \frac{b}{\alpha} \left( \left( \frac{z^2}{b} + 1 \right)^{\alpha / 2} - 1 \right),
      \qquad z = e / s, \quad b = |\alpha - 2|$$

    The limits are exact: alpha 2 is half the squared error, 1 `charbonnier`, 0 `cauchy`, -2
    `geman_mcclure`, $-\infty$ `welsch`. Alpha and scale have accurate gradients, at and near these
    points too; at alpha 2, where the derivative in alpha is infinite, it is that at the next float.
    Minimizing the loss alone lowers alpha without bound: to learn it, add the normalizer of its
    likelihood.

    Args:
        prediction: The predicted values.
        target: The observed values, in the same unit.
        alpha: The shape of the tail; the smaller, the less influence has an outlier. May be
            infinite, and may differ between examples.
        scale: The size of an error from which it counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, dimensionless.

    Example:
        >>> barron([0.0, 0.0, 0.0], [2.0, 2.0, 2.0], alpha=[2.0, 0.0, -2.0])
        Array([2.       , 1.0986123, 1.       ], dtype=float32)

    References:
        Barron, *A General and Adaptive Robust Loss Function*, 2019.
    """
    z = numerics.quotient(prediction - target, scale)
    named = _NAMED.get(alpha) if isinstance(alpha, int | float) else None
    return named(z) if named else _barron(z, jnp.full_like(z, alpha))
