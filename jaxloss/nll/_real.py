"""Real numbers: Gaussian errors, and errors with heavier tails."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import nonnegative_number, positive
from jaxloss.numerics._gamma import HALF_LOG_2PI, log_rising
from jaxloss.numerics._special import x_minus_log1p
from jaxloss.traits import bounded_gradient, convex, smooth, symmetric, translation_invariant


def _standard_score(
    error: Array, variance: Any, log_variance: Any, fun_name: str
) -> tuple[Any, Array]:
    """The log-variance, and the error in standard deviations, from variance or log_variance."""
    if (variance is None) == (log_variance is None):
        came = "neither is given" if variance is None else "both are given"
        message = (
            f"jaxloss.nll.{fun_name}: give `variance` or `log_variance`: {came}, expected one."
        )
        raise TypeError(message)
    if variance is None:
        log_variance = jnp.asarray(log_variance, error.dtype)
        return log_variance, error * jnp.exp(-0.5 * log_variance)
    variance = jnp.asarray(variance, error.dtype)
    return jnp.log(variance), numerics.quotient(error, jnp.sqrt(variance))


@loss(convex, smooth, symmetric, translation_invariant, variance=positive)
def gaussian(
    mean: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    variance: Real[ArrayLike, "*batch"] | None = None,
    *,
    log_variance: Real[ArrayLike, "*batch"] | None = None,
    full: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Gaussian negative log-likelihood, given mean and variance.

    When to use: regression that predicts its own uncertainty, with roughly Gaussian errors.

    $$\ell(\mu, \sigma^2, y) =
      \frac{(y - \mu)^2}{2 \sigma^2} + \frac12 \log \sigma^2 + \frac12 \log 2\pi$$

    Give either the variance or its logarithm, which needs no constraint. torch leaves out the
    constant (as `full=False` does here) and replaces variances below 1e-6 by 1e-6. Examples with a
    large predicted variance have small gradients in the mean: see `beta_gaussian`.

    Args:
        mean: The predicted mean.
        target: The observed value, in the same unit.
        variance: The predicted variance, above 0, in the squared unit of the target.
        log_variance: The natural logarithm of the variance, instead of it.
        full: Whether the constant log(2 pi) / 2 is added.

    Returns:
        The loss of each example, in nats.

    Raises:
        TypeError: If both variance and log_variance are given, or neither.

    Example:
        >>> gaussian([0.0, 0.0], [0.0, 2.0], variance=4.0, full=False)
        Array([0.6931472, 1.1931472], dtype=float32)

    References:
        Nix and Weigend, *Estimating the Mean and Variance of the Target Distribution*, 1994.
    """
    log_of_variance, score = _standard_score(target - mean, variance, log_variance, "gaussian")
    constant = HALF_LOG_2PI if full else 0.0
    return 0.5 * jnp.square(score) + (0.5 * log_of_variance + constant)


@loss(convex, smooth, symmetric, translation_invariant, variance=positive, beta=nonnegative_number)
def beta_gaussian(
    mean: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    variance: Real[ArrayLike, "*batch"] | None = None,
    log_variance: Real[ArrayLike, "*batch"] | None = None,
    beta: Real[ArrayLike, ""] = 0.5,
    full: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Beta-NLL: Gaussian negative log-likelihood, weighted by a power of the variance.

    When to use: instead of `gaussian`, when the mean is not learned where the predicted variance is
    large.

    $$\ell(\mu, \sigma^2, y) = \lfloor \sigma^{2 \beta} \rfloor \left(
      \frac{(y - \mu)^2}{2 \sigma^2} + \frac12 \log \sigma^2 + \frac12 \log 2\pi \right)$$

    The factor $\lfloor\cdot\rfloor$ is constant under differentiation: it is the weight of the
    example. With $\beta = 0$ this is `gaussian`; with 1 the gradient in the mean is that of half
    the squared error. The value is not a likelihood: compare models by `gaussian`.

    Args:
        mean: The predicted mean.
        target: The observed value, in the same unit.
        variance: The predicted variance, above 0, in the squared unit of the target.
        log_variance: The natural logarithm of the variance, instead of it.
        beta: The power of the variance that is the weight of an example, usually from 0 to 1.
        full: Whether the constant log(2 pi) / 2 is added.

    Returns:
        The weighted loss of each example.

    Raises:
        TypeError: If both variance and log_variance are given, or neither.

    Example:
        >>> beta_gaussian([0.0, 0.0], [0.0, 2.0], variance=4.0, beta=1.0, full=False)
        Array([2.7725887, 4.7725887], dtype=float32)

    References:
        Seitzer et al., *On the Pitfalls of Heteroscedastic Uncertainty Estimation*, 2022.
    """
    name = "beta_gaussian"
    log_of_variance, score = _standard_score(target - mean, variance, log_variance, name)
    constant = HALF_LOG_2PI if full else 0.0
    weight = jnp.exp(beta * jax.lax.stop_gradient(log_of_variance))
    return weight * (0.5 * jnp.square(score) + (0.5 * log_of_variance + constant))


@loss(convex, bounded_gradient, symmetric, translation_invariant, scale=positive)
def laplace(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    scale: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Laplace negative log-likelihood, given median and scale.

    When to use: regression that predicts its own uncertainty, with some outliers.

    $$\ell(\mu, b, y) = \frac{|y - \mu|}{b} + \log 2b$$

    The scale is the mean absolute deviation, $1/\sqrt2$ of the standard deviation. The gradient in
    the location is 0 at a perfect prediction.

    Args:
        location: The predicted median.
        target: The observed value, in the same unit.
        scale: The predicted mean absolute deviation, above 0, in the unit of the target.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> laplace([0.0, 0.0], [0.0, 2.0], scale=0.5)
        Array([0., 4.], dtype=float32)

    References:
        Laplace, *Sur la probabilité des causes par les événements*, 1774.
    """
    return numerics.absolute(numerics.quotient(target - location, scale)) + jnp.log(2 * scale)


def _inward(t: Array) -> tuple[Array, Array]:
    """t, or 1 / t if |t| is above 1, and whether it is 1 / t."""
    outside = jnp.abs(t) > 1
    return jnp.where(
        outside, numerics.quotient(jnp.ones_like(t), jnp.where(outside, t, 1)), t
    ), outside


@jax.custom_jvp
def _student_tail(score: Array, degrees: Array) -> Array:
    """(degrees + 1) / 2 * log(1 + score^2 / degrees), for scores of any size."""
    return 0.5 * (degrees + 1) * _log1p_square(numerics.quotient(score, jnp.sqrt(degrees)))


def _log1p_square(t: Array) -> Array:
    inner, outside = _inward(t)
    twice_log = 2 * jnp.log(jnp.abs(jnp.where(outside, t, 1)))
    return jnp.log1p(jnp.square(inner)) + twice_log


def _tail_slope_in_score(score: Array, degrees: Array) -> Array:
    root = jnp.sqrt(degrees)
    inner, _ = _inward(numerics.quotient(score, root))
    return (degrees + 1) / root * (inner / (1 + jnp.square(inner)))


def _tail_slope_in_degrees(score: Array, degrees: Array) -> Array:
    t = numerics.quotient(score, jnp.sqrt(degrees))
    inner, outside = _inward(t)
    square = jnp.square(inner)
    part = jnp.where(outside, 1 / (1 + square), square / (1 + square))  # t^2 / (1 + t^2)
    # log(1 + t^2) - part is -log(1 - part) - part, which does not cancel for a small t.
    bend = jnp.where(outside, _log1p_square(t) - part, x_minus_log1p(-jnp.where(outside, 0, part)))
    return 0.5 * (bend - numerics.quotient(part, degrees))


_student_tail.defjvps(
    lambda score_dot, _, score, degrees: _tail_slope_in_score(score, degrees) * score_dot,
    lambda degrees_dot, _, score, degrees: _tail_slope_in_degrees(score, degrees) * degrees_dot,
)


@loss(
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    scale=positive,
    degrees_of_freedom=positive,
)
def student_t(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    scale: Real[ArrayLike, "*batch"],
    degrees_of_freedom: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Student's t negative log-likelihood, given location, scale and degrees of freedom.

    When to use: instead of `gaussian`, when a few targets are grossly wrong: the gradient of a far
    target tends to 0.

    $$\ell(\mu, s, \nu, y) = \frac{\nu + 1}{2} \log\left(1 + \frac{z^2}{\nu}\right) + \log s
      + \log \frac{\sqrt{\nu \pi}\, \Gamma(\nu/2)}{\Gamma((\nu + 1)/2)},
      \qquad z = \frac{y - \mu}{s}$$

    The fewer degrees of freedom, the heavier the tails: 1 is the Cauchy distribution, and for many
    the loss tends to `gaussian`. The scale is not the standard deviation, which is
    $s \sqrt{\nu / (\nu - 2)}$ for $\nu > 2$ and infinite below.

    Args:
        location: The predicted center.
        target: The observed value, in the same unit.
        scale: The predicted scale, above 0, in the unit of the target.
        degrees_of_freedom: Degrees of freedom, above 0; may be learned.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> student_t([0.0, 0.0], [0.0, 1e6], scale=1.0, degrees_of_freedom=1.0)
        Array([ 1.1447299, 28.775751 ], dtype=float32)

    References:
        Lange, Little and Taylor, *Robust Statistical Modeling Using the t Distribution*, 1989.
    """
    tail = _student_tail(numerics.quotient(target - location, scale), degrees_of_freedom)
    half = jnp.full_like(scale, 0.5)
    return tail + jnp.log(scale) + (HALF_LOG_2PI - log_rising(0.5 * degrees_of_freedom, half))
