r"""Robust losses: regression where gross errors must not decide the fit, and may be ignored.

They are elementwise, of one number $z = e / s$: the error `prediction - target` in units of
`scale`. All have one normalisation: near 0 each is $\frac12 z^2$, so that they can be exchanged
at one scale and differ in their tails alone. `charbonnier` grows in proportion, `cauchy` like a
logarithm; `geman_mcclure`, `welsch` and `tukey` level off, and an error far beyond the scale no
longer pulls at all. `general` has a number, alpha, for the tail, which may be learnt; the others
but `tukey` are special cases of it.

The heavier the downweighting, the less convex: start from a robust fit, or lower alpha slowly.
Where the scale is learnt too, the negative log-likelihood needs its normaliser; the loss alone is
smallest at an infinite scale.
"""

import math
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import extended, positive
from jaxloss.numerics._special import (
    expm1_minus_x,
    expm1_minus_x_over_x2,
    exprel,
    exprel_derivative,
)
from jaxloss.traits import (
    bounded,
    bounded_gradient,
    convex,
    nonnegative,
    smooth,
    symmetric,
    translation_invariant,
    zero_at_match,
)

__all__ = [
    "barron",
    "cauchy",
    "charbonnier",
    "geman_mcclure",
    "tukey",
    "welsch",
]


def _bell(z: Array) -> Array:
    """The exponential of -z**2 / 2, with the exponent unrounded: its last place is a factor."""
    z = jnp.clip(z, -40, 40)
    info = jnp.finfo(z.dtype)
    # The square of a number of half the digits is exact, and what is left of z**2 is small.
    short = jax.lax.stop_gradient(jax.lax.reduce_precision(z, info.nexp, info.nmant // 2))
    most = jnp.exp(-0.5 * short * short)
    # Not the product of two exponentials, which XLA turns into that of their sum.
    return most + most * jnp.expm1(-0.5 * (z - short) * (z + short))


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    scale=positive,
)
def charbonnier(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    scale: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for images and optical flow, where edges stay: the one convex loss of the shelf.

    $$\ell(z) = \sqrt{1 + z^2} - 1$$

    `general` with alpha 1. In image restoration it is written $\sqrt{e^2 + \epsilon^2}$ with
    $\epsilon$ about 1e-3: that is $\epsilon (\ell + 1)$ at `scale=epsilon`. `scale**2` times it is
    `regression.pseudo_huber`.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        scale: The error from which an example counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, without unit.

    Raises:
        ValueError: If the shapes differ, or the scale is a number that is not above 0.

    Example:
        >>> charbonnier([0.0, 0.0], [0.75, 1e-8])
        Array([2.5e-01, 5.0e-17], dtype=float32)

    References:
        Charbonnier et al., *Two Deterministic Half-Quadratic Regularization Algorithms for
        Computed Imaging*, 1994.
    """
    return numerics.hypot1m1(numerics.quotient(prediction - target, scale))


@loss(
    nonnegative,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    scale=positive,
)
def cauchy(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    scale: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it when outliers may be any size, yet should never quite stop to pull.

    $$\ell(z) = \log\left( 1 + \tfrac12 z^2 \right)$$

    `general` with alpha 0; the likelihood of Student's t. The pull is largest at $|z| = \sqrt 2$
    and falls off like $2 / z$. Statistics writes $\log(1 + (e / c)^2)$ with $c = \sqrt 2 s$. With
    normal errors of standard deviation 1, `scale=1.69` keeps 95 % of the precision of the mean.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        scale: The error from which an example counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, without unit.

    Raises:
        ValueError: If the shapes differ, or the scale is a number that is not above 0.

    Example:
        >>> cauchy([0.0, 0.0], [2.0, 1e20])
        Array([ 1.0986123, 91.41026  ], dtype=float32)

    References:
        Black and Anandan, *The Robust Estimation of Multiple Motions*, 1996.
    """
    z = numerics.quotient(prediction - target, scale)
    far = jnp.abs(z) > 1e9  # its square may leave the range of floats
    logarithm = 2 * jnp.log(jnp.abs(jnp.where(far, z, 1))) - math.log(2)
    return jnp.where(far, logarithm, jnp.log1p(0.5 * jnp.square(jnp.where(far, 0, z))))


@loss(
    nonnegative,
    bounded,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    scale=positive,
)
def geman_mcclure(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    scale: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it when outliers should count as a constant: registration, tracking, pose.

    $$\ell(z) = \frac{2 z^2}{z^2 + 4}$$

    `general` with alpha -2; never above 2. Others write $x^2 / (1 + x^2)$, which is half of this
    with $x = z / 2$.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        scale: The error from which an example counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, without unit.

    Raises:
        ValueError: If the shapes differ, or the scale is a number that is not above 0.

    Example:
        >>> geman_mcclure([0.0, 0.0], [2.0, 1e30])
        Array([1., 2.], dtype=float32)

    References:
        Geman and McClure, *Bayesian Image Analysis*, 1985.
    """
    half = 0.5 * numerics.quotient(prediction - target, scale)
    far = jnp.abs(half) > 1
    square = jnp.square(jnp.where(far, 1 / jnp.where(far, half, 1), half))
    return jnp.where(far, 2, 2 * square) / (1 + square)


@jax.custom_jvp
def _welsch(z: Array) -> Array:
    return -jnp.expm1(-0.5 * jnp.square(jnp.clip(z, -40, 40)))


@_welsch.defjvp
def _welsch_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z,), (to_z,) = primals, tangents
    return _welsch(z), z * _bell(z) * to_z


@loss(
    nonnegative,
    bounded,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    scale=positive,
)
def welsch(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    scale: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it when outliers should be forgotten, and smoothly: correntropy, point clouds.

    $$\ell(z) = 1 - e^{-z^2 / 2}$$

    `general` with alpha $-\infty$; never above 1. The pull of an outlier falls off like a normal
    density, so the start must be within a few scales. Also named after Leclerc. With normal errors
    of standard deviation 1, `scale=2.11` keeps 95 % of the precision of the mean.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        scale: The error from which an example counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, without unit.

    Raises:
        ValueError: If the shapes differ, or the scale is a number that is not above 0.

    Example:
        >>> welsch([0.0, 0.0], [1.0, 100.0])
        Array([0.39346933, 1.        ], dtype=float32)

    References:
        Dennis and Welsch, *Techniques for Nonlinear Least Squares and Robust Regression*, 1978.
    """
    return _welsch(numerics.quotient(prediction - target, scale))


@jax.custom_jvp
def _tukey(z: Array) -> Array:
    square = jnp.square(jnp.clip(z, -1, 1))
    return square * (3 + square * (square - 3)) / 6


@_tukey.defjvp
def _tukey_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z,), (to_z,) = primals, tangents
    inside = jnp.where(jnp.abs(z) < 1, z, 1)
    return _tukey(z), inside * jnp.square((1 - inside) * (1 + inside)) * to_z


@loss(
    nonnegative,
    bounded,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    scale=positive,
)
def tukey(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    scale: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it when errors beyond a known limit are surely wrong: they do not pull at all.

    $$\ell(z) = \begin{cases} \frac16 \left( 1 - (1 - z^2)^3 \right) & |z| \le 1 \\
      \frac16 & |z| > 1 \end{cases}$$

    The biweight. With normal errors of standard deviation 1, `scale=4.685` keeps 95 % of the
    precision of the mean. Statistics multiplies by the squared scale.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        scale: The error from which an example is ignored; may differ between examples.

    Returns:
        The loss of each example, without unit.

    Raises:
        ValueError: If the shapes differ, or the scale is a number that is not above 0.

    Example:
        >>> tukey([0.0, 0.0], [0.5, 7.0])
        Array([0.0963542, 0.16666667], dtype=float32)

    References:
        Beaton and Tukey, *The Fitting of Power Series, Meaning Polynomials*, 1974.
    """
    return _tukey(numerics.quotient(prediction - target, scale))


def _parts(z: Array, alpha: Array) -> tuple[Array, ...]:
    """What value and slopes of `general` are made of; see there for b.

    Whether b is infinite, b (finite), alpha / b, whether z**2 / b leaves the range, |z| / sqrt(b)
    where it does, z**2 / b where not, and the logarithm of 1 + z**2 / b.
    """
    endless = jnp.isinf(alpha)
    finite_alpha = jnp.where(endless, 0, alpha)
    b = jnp.maximum(jnp.abs(finite_alpha - 2), jnp.finfo(z.dtype).eps)
    share = jnp.where(endless, jnp.sign(alpha), finite_alpha / b)
    root = jnp.sqrt(b)
    far = ~endless & (jnp.abs(z) / root > 1e9)
    x = jnp.where(far, jnp.abs(z) / root, 1)
    near = jnp.where(far | endless, 0, z)
    y = near * (near / b)
    return endless, b, share, far, x, y, jnp.where(far, 2 * jnp.log(x), jnp.log1p(y))


def _half_log(z: Array, endless: Array, b: Array, logarithm: Array) -> Array:
    """Half of b times the logarithm of 1 + z**2 / b: z**2 / 2 for an infinite b."""
    return jnp.where(endless, 0.5 * jnp.square(jnp.clip(z, -40, 40)), 0.5 * b * logarithm)


@jax.custom_jvp
def _general(z: Array, alpha: Array) -> Array:
    endless, b, share, far, x, y, logarithm = _parts(z, alpha)
    half = _half_log(z, endless, b, logarithm)
    exponent = share * half
    # b / alpha (exp(exponent) - 1), where alpha may be 0 and the exponential large.
    small = exponent < 1
    tame = half * exprel(jnp.where(small, exponent, 0))
    finite = jnp.where(endless | small, 1, alpha)
    power = jnp.power(jnp.where(far, x, 1 + y), finite / 2)
    power = b * power * jnp.where(far, power, 1)
    wild = jnp.where(endless, jnp.expm1(half), (power - b) / finite)
    return jnp.where(alpha == 2, 0.5 * jnp.square(z), jnp.where(small, tame, wild))


@_general.defjvp
def _general_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z, alpha), (to_z, to_alpha) = primals, tangents
    endless, b, share, far, x, y, logarithm = _parts(z, alpha)
    finite = jnp.where(endless, 2, alpha)
    # z (1 + z**2 / b)**(alpha / 2 - 1); alpha / 2 is exact, less 1 it is not.
    close = y < 1
    weight = jnp.where(
        close,
        jnp.exp((finite / 2 - 1) * jnp.log1p(jnp.where(close, y, 0))),
        jnp.power(1 + y, finite / 2) / (1 + y),
    )
    at_infinity = jnp.where(alpha > 0, jnp.exp(0.5 * jnp.square(jnp.clip(z, -40, 40))), _bell(z))
    weight = jnp.where(endless, at_infinity, jnp.where(alpha == 2, 1, weight))
    half_power = jnp.power(x, finite / 2)
    far_pull = jnp.sign(z) * jnp.sqrt(b) * (half_power / x) * half_power
    pull = jnp.where(far & (alpha != 2), far_pull, z * weight)
    # The slope in alpha of half * expm1_ratio(share * half), half and share being functions of it.
    value = _general(z, alpha)
    half = _half_log(z, endless, b, logarithm)
    exponent = share * half
    sign = jnp.where(alpha > 2, 1, -1).astype(z.dtype)
    ratio = -jnp.expm1(-logarithm)
    low = logarithm < 1
    growth = jnp.where(
        low,
        logarithm * expm1_minus_x_over_x2(jnp.where(low, -logarithm, 0)),
        expm1_minus_x(-logarithm) / jnp.where(low, 1, logarithm),
    )
    small = jnp.abs(exponent) < 1
    bend = jnp.where(
        small,
        half * exprel_derivative(jnp.where(small, exponent, 0)),
        (half + (exponent - 1) * value) / jnp.where(small, 1, exponent),
    )
    slope = sign / b * growth * value + bend * 0.5 * (logarithm - sign * share * ratio)
    slope = jnp.where(endless, 0, slope)
    return value, pull * to_z + slope * to_alpha


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
    r"""Take it when how robust to be is to be tuned or learnt: one number sets the tail.

    $$\ell(z) = \frac{b}{\alpha} \left( \left( \frac{z^2}{b} + 1 \right)^{\alpha / 2} - 1 \right),
      \qquad b = |\alpha - 2|$$

    Its limits are exact: alpha 2 is half the squared error, 1 `charbonnier`, 0 `cauchy`, -2
    `geman_mcclure`, $-\infty$ `welsch`. Gradients flow to alpha and scale, through these points
    too; at 2, where the slope in alpha is infinite, it is that at the next number. Alpha cannot be
    learnt by minimising the loss alone, which falls with alpha: add the normaliser of its
    likelihood.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        alpha: The shape of the tail: the smaller, the less an outlier counts; may be infinite, and
            differ between examples.
        scale: The error from which an example counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, without unit.

    Raises:
        ValueError: If the shapes differ, or the scale is a number that is not above 0.

    Example:
        >>> general([0.0, 0.0, 0.0], [2.0, 2.0, 2.0], alpha=[2.0, 0.0, -2.0])
        Array([2.       , 1.0986123, 1.       ], dtype=float32)

    References:
        Barron, *A General and Adaptive Robust Loss Function*, 2019.
    """
    z = numerics.quotient(prediction - target, scale)
    return _general(z, jnp.full_like(z, alpha))


__getattr__, __dir__ = public_names(__name__, __all__)
