r"""The continuous ranked probability score of Student's t distribution.

With $z = e / s$ and $w^2 = \nu \log(1 + z^2 / \nu)$, the probability of errors smaller than $|z|$
is a Gaussian integral with a slowly varying factor, for all degrees of freedom:

$$2 F(z) - 1 = 2 f(0) \int_0^w e^{-v^2/2}\, b(v^2 / \nu)\,dv, \qquad
  b(y) = \sqrt{\frac{y}{1 - e^{-y}}}$$

One Gauss-Legendre rule computes it to rounding, and likewise its derivative in the degrees of
freedom, which the incomplete beta function of JAX does not have.
"""

import functools
from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import above_one_half, positive
from jaxloss.numerics._polynomials import horner
from jaxloss.numerics._quadrature import integrate
from jaxloss.numerics._special import exprel_slope
from jaxloss.traits import (
    bounded_gradient,
    convex,
    nonnegative,
    smooth,
    symmetric,
    translation_invariant,
)

FAR = 1e15  # the error over the width beyond which its logarithm is a difference of two
LOW = 2.0  # below it the derivative of the density in the degrees of freedom changes its sign

# Two functions of the degrees of freedom alone, as polynomials in 3 / (nu + 1) - 1, interpolated at
# Chebyshev's points in 80 digits: the score of the median times 1 - 1 / (2 nu), and the density at
# the center.
_AT_MEDIAN = (
    0.2276196208751276,
    -0.009736907681820171,
    -0.0061638986148027635,
    -0.003669936348522089,
    -0.0015430645548829562,
    -0.0005067554383346561,
    -0.00018467126106677401,
    -7.152609550056536e-05,
    -2.593038057726008e-05,
    -1.1012272852181147e-05,
    -4.4145285133726295e-06,
    -1.8205276344100417e-06,
    -8.38462451279934e-07,
    -3.2685515565977313e-07,
    -1.619121421212113e-07,
    -7.05545838678687e-08,
    -2.989159588020176e-08,
    -1.047570572989473e-08,
    -5.517126574776008e-09,
    -7.503017531174268e-09,
    -1.1496747858728846e-09,
    1.3081352965030184e-09,
    -1.0761635756888969e-10,
    -5.509289493370835e-10,
    -2.354889550871645e-10,
)
_DENSITY = (
    0.3535533905932738,
    -0.06030152123345553,
    -0.018135449547300293,
    -0.0038802633298308923,
    -0.0009441228587729226,
    -0.0003903253775191548,
    -0.00013688666429194187,
    -5.033975746932429e-05,
    -2.2976035097159464e-05,
    -8.434935843502995e-06,
    -3.841421351984024e-06,
    -1.6799850728366283e-06,
    -6.586544217292978e-07,
    -3.446359285694884e-07,
    -1.2569456637250574e-07,
    -6.722071773411196e-08,
    -3.169685415354912e-08,
    -9.855988751317879e-09,
    -3.7228048051586402e-09,
    -3.773998007766605e-09,
    -4.657282794983556e-09,
    9.183057760477409e-10,
    1.1707665623178948e-09,
    -7.161029750636038e-10,
    -3.1348497395373437e-10,
)


def _at_median(degrees: Array) -> Array:
    """The score at the median, for scale 1: infinite for 1/2 degree of freedom or less."""
    excess = jnp.maximum(degrees - 0.5, 0)
    return horner(3 / (degrees + 1) - 1, _AT_MEDIAN) * (1 + 0.5 / excess)


def _density(degrees: Array) -> Array:
    """The density at the center, for scale 1."""
    return horner(3 / (degrees + 1) - 1, _DENSITY)


def _with_slope(function: Callable[[Array], Array], degrees: Array) -> tuple[Array, Array]:
    return jax.jvp(function, (degrees,), (jnp.ones_like(degrees),))


@jax.custom_jvp
def _normal_score(error: Array, scale: Array, degrees: Array) -> Array:
    """w, which has the sign of the error and is close to z for many degrees of freedom."""
    t = numerics.quotient(error, scale * jnp.sqrt(degrees))
    near, far = jnp.abs(t) < 1, jnp.abs(t) > FAR
    close = numerics.quotient(jnp.where(near, error, 0), scale)
    close = close * jnp.sqrt(numerics.log1p_over_x(jnp.square(jnp.where(near, t, 0))))
    log = 2 * (jnp.log(jnp.where(far, jnp.abs(error), 1)) - jnp.log(scale)) - jnp.log(degrees)
    log = jnp.where(far, log, jnp.log1p(jnp.square(jnp.where(near | far, 1, t))))
    return jnp.where(near, close, jnp.sign(error) * jnp.sqrt(degrees * log))


def _shrinkage(w: Array, degrees: Array) -> Array:
    """1 / b^2."""
    return numerics.exprel(-w * w / degrees)


def _normal_score_slope(error: Array, scale: Array, degrees: Array) -> Array:
    w = _normal_score(error, scale, degrees)
    return jnp.exp(-0.5 * w * w / degrees) * jnp.sqrt(_shrinkage(w, degrees)) / scale


_normal_score.defjvps(
    lambda error_dot, _, *at: _normal_score_slope(*at) * error_dot,
    lambda scale_dot, w, _, scale, degrees: -w * _shrinkage(w, degrees) / scale * scale_dot,
    lambda degrees_dot, w, _, __, degrees: (
        w * (1 - _shrinkage(w, degrees)) / (2 * degrees) * degrees_dot
    ),
)


def _rule(w: Array) -> tuple[int, float]:
    """The number of points, and the w beyond which the integrand is 0 to rounding."""
    return (20, 6.0) if jnp.finfo(w.dtype).bits == 32 else (32, 8.9)


def _integrand(v: Array, degrees: Array) -> Array:
    y = v * v / degrees
    is_0 = y < 4 * jnp.finfo(y.dtype).tiny  # half of it underflows
    some = jnp.where(is_0, 1, y)
    factor = jnp.where(is_0, 1, some / -numerics.expm1(-some))
    return jnp.exp(-0.5 * v * v) * jnp.sqrt(factor)


@jax.custom_jvp
def _probability(error: Array, scale: Array, degrees: Array) -> Array:
    """2 F(z) - 1."""
    w = _normal_score(error, scale, degrees)
    points, end = _rule(w)
    inside = jnp.clip(w, -end, end)
    total = integrate(lambda v: _integrand(v, degrees), jnp.zeros_like(w), inside, points)
    return jnp.where(jnp.abs(w) < end, 2 * _density(degrees) * total, jnp.sign(w))


def _probability_in_degrees(error: Array, scale: Array, degrees: Array) -> Array:
    """The derivative of 2 F(z) - 1: the integral from 0, or of the tail, which does not cancel."""
    w = _normal_score(error, scale, degrees)
    points, end = _rule(w)
    beyond = jnp.sign(w) * jnp.sqrt(w * w + end * end)
    start = jnp.where(jnp.abs(w) < LOW, 0, beyond)
    density, slope = _with_slope(_density, degrees)
    relative = slope / density

    def integrand(v: Array) -> Array:
        y = v * v / degrees
        of_tail = numerics.expm1_minus_x(-y) + numerics.expm1(-y) / degrees
        return (relative - 0.5 * of_tail) * _integrand(v, degrees)

    return 2 * density * integrate(integrand, start, w, points)


def _moments(error: Array, scale: Array, degrees: Array) -> tuple[Array, Array, Array]:
    """Twice the density of z, times 1, z and z^2."""
    w, density = _normal_score(error, scale, degrees), 2 * _density(degrees)
    half = 0.5 * w * w / degrees
    shrunk = w * jnp.sqrt(_shrinkage(w, degrees))
    first = density * jnp.exp(-(degrees + 1) * half)
    second = density * jnp.exp(-degrees * half) * shrunk
    return first, second, density * jnp.exp((1 - degrees) * half) * jnp.square(shrunk)


_probability.defjvps(
    lambda error_dot, _, *at: _moments(*at)[0] / at[1] * error_dot,
    lambda scale_dot, _, *at: -_moments(*at)[1] / at[1] * scale_dot,
    lambda degrees_dot, _, *at: _probability_in_degrees(*at) * degrees_dot,
)


@jax.custom_jvp
def _slope_in_scale(error: Array, scale: Array, degrees: Array) -> Array:
    """The score less |e| (2 F - 1), over the scale."""
    w = _normal_score(error, scale, degrees)
    bend = numerics.exprel((1 - degrees) * (0.5 * w * w / degrees))
    return _at_median(degrees) - _density(degrees) * (w * w * bend)


def _slope_in_scale_and_degrees(error: Array, scale: Array, degrees: Array) -> Array:
    w = _normal_score(error, scale, degrees)
    y = w * w / degrees
    power = (1 - degrees) * (0.5 * y)
    density, slope = _with_slope(_density, degrees)
    bend = jnp.exp(power) * numerics.expm1_minus_x(-y) - 0.5 * y * y * exprel_slope(power)
    bend = slope * (w * w * numerics.exprel(power)) + density * bend
    return _with_slope(_at_median, degrees)[1] - bend


_slope_in_scale.defjvps(
    lambda error_dot, _, *at: -_moments(*at)[1] / at[1] * error_dot,
    lambda scale_dot, _, *at: _moments(*at)[2] / at[1] * scale_dot,
    lambda degrees_dot, _, *at: _slope_in_scale_and_degrees(*at) * degrees_dot,
)


@jax.custom_jvp
def _crps_student_t(error: Array, scale: Array, degrees: Array) -> Array:
    at = error, scale, degrees
    return error * _probability(*at) + scale * _slope_in_scale(*at)


# A full rule, because the derivative in the degrees of freedom, an integral, is often not needed.
@functools.partial(_crps_student_t.defjvp, symbolic_zeros=True)
def _crps_student_t_jvp(at: tuple, tangents: tuple) -> tuple[Array, Array]:
    error, scale, _ = at
    out_dot = jnp.zeros_like(error)
    if not isinstance(tangents[0], SymbolicZero):
        out_dot += _probability(*at) * tangents[0]
    if not isinstance(tangents[1], SymbolicZero):
        out_dot += _slope_in_scale(*at) * tangents[1]
    if not isinstance(tangents[2], SymbolicZero):
        in_degrees = error * _probability_in_degrees(*at) + scale * _slope_in_scale_and_degrees(*at)
        out_dot += in_degrees * tangents[2]
    return _crps_student_t(*at), out_dot


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    scale=positive,
    degrees_of_freedom=above_one_half,
)
def crps_student_t(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    scale: Real[ArrayLike, "*batch"],
    degrees_of_freedom: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""CRPS of Student's t distribution, given location, scale and degrees of freedom.

    When to use: instead of `crps_gaussian`, when some errors are far larger than most.

    $$\ell(\mu, s, \nu, y) = s \left( z\,(2 F_\nu(z) - 1) + \frac{2 f_\nu(z)\,(\nu + z^2)}{\nu - 1}
      - \frac{2 \sqrt\nu}{\nu - 1} \frac{B(1/2, \nu - 1/2)}{B(1/2, \nu/2)^2} \right),
      \qquad z = \frac{y - \mu}{s}$$

    The limits are used at 1 degree of freedom, the Cauchy distribution, and for very many, where
    the score is `crps_gaussian`. It is finite above 1/2 degree of freedom (others need 1). The
    degrees of freedom may be learned: the gradient in them is that of the score, as exact as the
    others. The scale is not the standard deviation, which is $s \sqrt{\nu / (\nu - 2)}$ for
    $\nu > 2$ and infinite below.

    Args:
        location: The predicted center.
        target: The observed value, in the same unit.
        scale: The predicted scale, above 0, in the unit of the target.
        degrees_of_freedom: Degrees of freedom, above 1/2.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> crps_student_t([0.0, 0.0], [0.0, 1e10], scale=1.0, degrees_of_freedom=3.0)
        Array([2.7566445e-01, 1.0000000e+10], dtype=float32)

    References:
        Jordan, Krüger and Lerch, *Evaluating Probabilistic Forecasts with scoringRules*, 2019.
    """
    # Beyond the square root of the largest number its derivative in them is 0 to all digits.
    most = 2.0 ** (jnp.finfo(scale.dtype).maxexp // 2)
    degrees = jnp.minimum(degrees_of_freedom, most)
    return _crps_student_t(target - location, scale, degrees)
