"""Robust losses with a fixed shape of the tail."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import positive
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


def exp_minus_half_square(z: Array) -> Array:
    """exp(-z**2 / 2), accurate as if the exponent were not rounded."""
    z = jnp.clip(z, -40, 40)
    info = jnp.finfo(z.dtype)
    # The square of a number with half the digits is exact, and the rest of z**2 is small.
    short = jax.lax.stop_gradient(jax.lax.reduce_precision(z, info.nexp, info.nmant // 2))
    most = jnp.exp(-0.5 * short * short)
    # Not the product of two exponentials, which XLA replaces by the exponential of the sum.
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
    r"""Charbonnier loss: quadratic near 0 and linear in the tail.

    When to use: image restoration and optical flow, where edges are to be preserved. It is the only
    convex loss of this module.

    $$\ell(z) = \sqrt{1 + z^2} - 1, \qquad z = e / s$$

    It is `barron` with alpha 1. Image restoration writes $\sqrt{e^2 + \epsilon^2}$ with $\epsilon$
    about 1e-3, which is $\epsilon (\ell + 1)$ with `scale=epsilon`. `regression.pseudo_huber` is
    `scale**2` times this loss.

    Args:
        prediction: The predicted values.
        target: The observed values, in the same unit.
        scale: The size of an error from which it counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, dimensionless.

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
    r"""Cauchy (Lorentzian) loss: logarithmic in the tail.

    When to use: regression with outliers of any size, each of which is to keep some influence.

    $$\ell(z) = \log\left( 1 + \tfrac12 z^2 \right), \qquad z = e / s$$

    It is `barron` with alpha 0, and up to a factor the negative log-likelihood of Student's t
    distribution. The gradient is largest at $|z| = \sqrt 2$ and decays like $2 / z$. Statisticians
    write $\log(1 + (e / c)^2)$ with $c = \sqrt 2 s$. With Gaussian errors of standard deviation 1,
    `scale=1.69` has 95 % of the efficiency of the mean.

    Args:
        prediction: The predicted values.
        target: The observed values, in the same unit.
        scale: The size of an error from which it counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, dimensionless.

    Example:
        >>> cauchy([0.0, 0.0], [2.0, 1e20])
        Array([ 1.0986123, 91.41026  ], dtype=float32)

    References:
        Black and Anandan, *The Robust Estimation of Multiple Motions*, 1996.
    """
    return of_cauchy(numerics.quotient(prediction - target, scale))


def of_cauchy(z: Array) -> Array:
    """log(1 + z^2 / 2)."""
    # Its square may leave the range of floats; to add 1 to either changes less than the rounding.
    far = jnp.abs(z) > 128 / jnp.finfo(z.dtype).eps
    log = jnp.log1p(jnp.where(far, jnp.abs(z), 0.5 * jnp.square(jnp.where(far, 0, z))))
    return jnp.where(far, 2 * log - math.log(2), log)


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
    r"""Geman-McClure loss: bounded, tends to 2 in the tail.

    When to use: registration, tracking and pose estimation, where the number of outliers is to
    count and not their size.

    $$\ell(z) = \frac{2 z^2}{z^2 + 4}, \qquad z = e / s$$

    It is `barron` with alpha -2. Others write $x^2 / (1 + x^2)$, which is half of this for
    $x = z / 2$.

    Args:
        prediction: The predicted values.
        target: The observed values, in the same unit.
        scale: The size of an error from which it counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, dimensionless.

    Example:
        >>> geman_mcclure([0.0, 0.0], [2.0, 1e30])
        Array([1., 2.], dtype=float32)

    References:
        Geman and McClure, *Bayesian Image Analysis*, 1985.
    """
    return of_geman_mcclure(numerics.quotient(prediction - target, scale))


def of_geman_mcclure(z: Array) -> Array:
    """2 z^2 / (z^2 + 4)."""
    half = 0.5 * z
    far = jnp.abs(half) > 1
    square = jnp.square(jnp.where(far, 1 / jnp.where(far, half, 1), half))
    return jnp.where(far, 2, 2 * square) / (1 + square)


@jax.custom_jvp
def of_welsch(z: Array) -> Array:
    """1 - exp(-z^2 / 2)."""
    return -numerics.expm1(-0.5 * jnp.square(jnp.clip(z, -40, 40)))


# Beyond 40 the exponential is 0, and the product with an infinite z would be NaN.
of_welsch.defjvps(lambda z_dot, _, z: jnp.clip(z, -40, 40) * exp_minus_half_square(z) * z_dot)


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
    r"""Welsch (Leclerc) loss: one minus a Gaussian, bounded by 1.

    When to use: point clouds and correntropy, where an outlier is to have no influence. Start
    within a few scales of the solution.

    $$\ell(z) = 1 - e^{-z^2 / 2}, \qquad z = e / s$$

    It is `barron` with alpha $-\infty$. The gradient of an outlier decays like a Gaussian density.
    With Gaussian errors of standard deviation 1, `scale=2.11` has 95 % of the efficiency of the
    mean.

    Args:
        prediction: The predicted values.
        target: The observed values, in the same unit.
        scale: The size of an error from which it counts as an outlier; may differ between examples.

    Returns:
        The loss of each example, dimensionless.

    Example:
        >>> welsch([0.0, 0.0], [1.0, 100.0])
        Array([0.39346933, 1.        ], dtype=float32)

    References:
        Dennis and Welsch, *Techniques for Nonlinear Least Squares and Robust Regression*, 1978.
    """
    return of_welsch(numerics.quotient(prediction - target, scale))


@jax.custom_jvp
def _tukey(z: Array) -> Array:
    square = jnp.square(jnp.clip(z, -1, 1))
    return square * (3 + square * (square - 3)) / 6


def _tukey_slope(z: Array) -> Array:
    inside = jnp.where(jnp.abs(z) < 1, z, 1)
    inside = jnp.where(z == z, inside, z)  # NaN gives NaN
    return inside * jnp.square((1 - inside) * (1 + inside))


_tukey.defjvps(lambda z_dot, _, z: _tukey_slope(z) * z_dot)


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
    r"""Tukey's biweight (bisquare) loss: constant beyond the scale.

    When to use: regression where errors beyond a known limit are certainly wrong: their gradient
    is 0.

    $$\ell(z) = \begin{cases} \frac16 \left( 1 - (1 - z^2)^3 \right) & |z| \le 1 \\
      \frac16 & |z| > 1 \end{cases}, \qquad z = e / s$$

    With Gaussian errors of standard deviation 1, `scale=4.685` has 95 % of the efficiency of the
    mean. Statisticians multiply it by the squared scale.

    Args:
        prediction: The predicted values.
        target: The observed values, in the same unit.
        scale: The size of an error from which it is ignored; may differ between examples.

    Returns:
        The loss of each example, dimensionless.

    Example:
        >>> tukey([0.0, 0.0], [0.5, 7.0])
        Array([0.0963542, 0.16666667], dtype=float32)

    References:
        Beaton and Tukey, *The Fitting of Power Series, Meaning Polynomials*, 1974.
    """
    return _tukey(numerics.quotient(prediction - target, scale))
