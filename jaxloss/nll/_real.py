"""A number on the line: normal errors, and errors with heavier tails."""

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
    """The log-variance and the error in standard deviations, from either way to give them."""
    if (variance is None) == (log_variance is None):
        problem = "missing" if variance is None else "got both"
        message = f"jaxloss.nll.{fun_name}: {problem} `variance` or `log_variance`: give one."
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
    r"""Take it to predict a mean and how far off it may be, when errors are about normal.

    $$\ell(\mu, \sigma^2, y) =
      \frac{(y - \mu)^2}{2 \sigma^2} + \frac12 \log \sigma^2 + \frac12 \log 2\pi$$

    Of the two ways to give the variance exactly one is taken; its logarithm needs no constraint.
    `torch` leaves out the constant (`full=False` does here, too) and raises variances below 1e-6
    to it. An example with a large variance is hardly fitted: `beta_gaussian` is the remedy.

    Args:
        mean: The predicted mean.
        target: What was observed, in the same unit.
        variance: The predicted variance, above 0, in the squared unit of the target.
        log_variance: Its natural logarithm, instead.
        full: Whether the constant log(2 pi) / 2 is added.

    Returns:
        The loss of each example, in nats.

    Raises:
        TypeError: If both variance and log_variance are given, or none.
        ValueError: If the shapes differ, or the variance is a number that is not above 0.

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
    r"""Take it like `gaussian` when the means are not learned where the variance is large.

    $$\ell(\mu, \sigma^2, y) = \lfloor \sigma^{2 \beta} \rfloor \left(
      \frac{(y - \mu)^2}{2 \sigma^2} + \frac12 \log \sigma^2 + \frac12 \log 2\pi \right)$$

    The factor $\lfloor\cdot\rfloor$ has no gradient in the variance: it only says how much an
    example counts. At $\beta = 0$ this is `gaussian`, at 1 the mean is learned as by the squared
    error. The value is a likelihood no more: compare models by `gaussian`.

    Args:
        mean: The predicted mean.
        target: What was observed, in the same unit.
        variance: The predicted variance, above 0, in the squared unit of the target.
        log_variance: Its natural logarithm, instead.
        beta: The power of the variance that examples are weighted by, usually from 0 to 1.
        full: Whether the constant log(2 pi) / 2 is added.

    Returns:
        The weighted loss of each example.

    Raises:
        TypeError: If both variance and log_variance are given, or none.
        ValueError: If the shapes differ, or variance or beta is a number out of its range.

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
    r"""Take it to predict a median and how far off it may be, when some targets are far off.

    $$\ell(\mu, b, y) = \frac{|y - \mu|}{b} + \log 2b$$

    The scale is the mean absolute error, $1/\sqrt2$ of the standard deviation. The gradient in
    the location is 0 at a perfect prediction.

    Args:
        location: The predicted median.
        target: What was observed, in the same unit.
        scale: The predicted mean absolute error, above 0, in the unit of the target.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> laplace([0.0, 0.0], [0.0, 2.0], scale=0.5)
        Array([0., 4.], dtype=float32)

    References:
        Laplace, *Sur la probabilité des causes par les événements*, 1774.
    """
    return numerics.absolute(numerics.quotient(target - location, scale)) + jnp.log(2 * scale)


def _inward(t: Array) -> tuple[Array, Array]:
    """t or 1 / t, whichever is at most 1, and whether it is 1 / t."""
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


@_student_tail.defjvp
def _student_tail_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (score, degrees), (score_dot, degrees_dot) = primals, tangents
    root = jnp.sqrt(degrees)
    inner, outside = _inward(numerics.quotient(score, root))
    square = jnp.square(inner)
    share = jnp.where(outside, 1 / (1 + square), square / (1 + square))  # t^2 / (1 + t^2)
    to_score = (degrees + 1) / root * (inner / (1 + square))
    # log(1 + t^2) - share is the gap of log(1 - share): no digits are lost at a small t.
    bend = jnp.where(
        outside,
        _log1p_square(numerics.quotient(score, root)) - share,
        x_minus_log1p(-jnp.where(outside, 0, share)),
    )
    to_degrees = 0.5 * (bend - numerics.quotient(share, degrees))
    return _student_tail(score, degrees), to_score * score_dot + to_degrees * degrees_dot


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
    r"""Take it like `gaussian` when a few targets are grossly wrong: far ones pull less and less.

    $$\ell(\mu, s, \nu, y) = \frac{\nu + 1}{2} \log\left(1 + \frac{z^2}{\nu}\right) + \log s
      + \log \frac{\sqrt{\nu \pi}\, \Gamma(\nu/2)}{\Gamma((\nu + 1)/2)},
      \qquad z = \frac{y - \mu}{s}$$

    Few degrees of freedom mean heavy tails: 1 is Cauchy's distribution, and for many it becomes
    `gaussian`. The scale is not the standard deviation, which is
    $s \sqrt{\nu / (\nu - 2)}$ for $\nu > 2$ and infinite below.

    Args:
        location: The predicted centre.
        target: What was observed, in the same unit.
        scale: The predicted scale, above 0, in the unit of the target.
        degrees_of_freedom: How light the tails are, above 0; may be learned.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> student_t([0.0, 0.0], [0.0, 1e6], scale=1.0, degrees_of_freedom=1.0)
        Array([ 1.1447299, 28.775751 ], dtype=float32)

    References:
        Lange, Little and Taylor, *Robust Statistical Modeling Using the t Distribution*, 1989.
    """
    tail = _student_tail(numerics.quotient(target - location, scale), degrees_of_freedom)
    half = jnp.full_like(scale, 0.5)
    return tail + jnp.log(scale) + (HALF_LOG_2PI - log_rising(0.5 * degrees_of_freedom, half))
