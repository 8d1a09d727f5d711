r"""Likelihood: the negative log-likelihood of what was observed, under a distribution predicted.

A network predicts the parameters of a distribution; the loss is minus the logarithm of the
density, or of the probability of a count, that it gave to the target. The target comes second,
as everywhere; what locates the distribution comes first, its other parameters after the target,
best given by name. All have the shape of the target, or are scalars. Losses are in nats and hold
every constant of the density, so that those of different families can be compared; densities
may exceed 1, so these losses may be negative.

Nothing is clamped and no epsilon is added: a variance of 1e-10 counts as 1e-10. A parameter that
has to be positive is made so by the user: `jax.nn.softplus`, or the logarithm where it is taken.
"""

import math
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._exponentials import log1p_excess
from jaxloss._powers import half_deviance, power_gap
from jaxloss._rounding import two_sum
from jaxloss.contract import loss
from jaxloss.declaration import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import (
    extended,
    mean_or_its_log,
    nonnegative_number,
    positive,
    unit_interval,
)
from jaxloss.traits import (
    bounded_gradient,
    convex,
    nonnegative,
    shift_invariant,
    smooth,
    symmetric,
    translation_invariant,
    zero_at_match,
)

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


# --- a number on the line ----------------------------------------------------------------------


def _standard_score(error: Array, variance: Any, log_variance: Any, who: str) -> tuple[Any, Array]:
    """The log-variance and the error in standard deviations, from either way to give them."""
    if (variance is None) == (log_variance is None):
        problem = "missing" if variance is None else "got both"
        message = f"jaxloss.likelihood.{who}: {problem} `variance` or `log_variance`: give one."
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
    constant = _HALF_LOG_2PI if full else 0.0
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
    constant = _HALF_LOG_2PI if full else 0.0
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


# --- gamma functions without cancellation ------------------------------------------------------


def _horner(coefficients: Sequence[float], x: Array) -> Array:
    """The polynomial of these coefficients, that of the highest power first."""
    value = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _log_ratio(x: Array, y: Array) -> Array:
    """log(x / y), with all its digits where the two are close, and for ratios that overflow."""
    near = jnp.abs(x - y) < 0.5 * y
    ratio = jax.lax.stop_gradient(x) / jax.lax.stop_gradient(y)
    far = (ratio < 1e-30) | (ratio > 1e30)
    change = numerics.quotient(jnp.where(near, x - y, 0), jnp.where(near, y, 1))
    apart = jnp.log(jnp.where(far, x, 1)) - jnp.log(jnp.where(far, y, 1))
    usual = ~(near | far)
    between = jnp.log(numerics.quotient(jnp.where(usual, x, 1), jnp.where(usual, y, 1)))
    return jnp.where(near, jnp.log1p(change), jnp.where(far, apart, between))


def _ratio_gap(d: Array, log_ratio: Array) -> Array:
    """d - log(1 + d) for d = ratio - 1, where log(ratio) serves if the ratio is almost 0."""
    tiny = d < -0.5
    return jnp.where(tiny, d - log_ratio, log1p_excess(jnp.where(tiny, 0, d)))


# Bernoulli numbers over 2k (2k - 1), highest power first: Stirling's series in 1/x.
_STIRLING = (
    -3617 / 122400,
    1 / 156,
    -691 / 360360,
    1 / 1188,
    -1 / 1680,
    1 / 1260,
    -1 / 360,
    1 / 12,
)


def _stirling_error(x: Array) -> Array:
    """log gamma(x) less Stirling's formula (x - 1/2) log x - x + log(2 pi) / 2.

    It is small and smooth, so that what is large in differences of log-gammas can be cancelled
    with pencil and paper. Below 8 it is carried there by S(x) = S(x+1) + (x+1/2) log(1+1/x) - 1.
    """
    low, below_one = x < 8, x < 1
    base = jnp.where(below_one, x + 1, x)
    far = jnp.where(low, base + 8, base)
    inverse = 1 / far
    out = inverse * _horner(_STIRLING, jnp.square(inverse))
    # One step from x to x + 1 is a series in 1 / (2x + 1). All eight stand on an axis of their own:
    # written out, they would take seconds to compile.
    start = jnp.where(low, base, 1)[..., None] + jnp.arange(8, dtype=x.dtype)
    squares = jnp.square(1 / (2 * start + 1))
    steps = squares * _horner([1 / k for k in range(35, 1, -2)], squares)
    out = out + jnp.where(low, jnp.sum(steps, axis=-1), 0)
    part = jnp.where(below_one, x, 1)
    first = (part + 0.5) * (jnp.log1p(part) - jnp.log(part)) - 1
    return out + jnp.where(below_one, first, 0)


def _change_of_error(x: Array, step: Array) -> Array:
    """What the Stirling error gains from x to x + step."""
    change = _stirling_error(x + step) - _stirling_error(x)
    # Compiled, the same number may be rounded in two ways: of no step nothing is to be left.
    return change - jax.lax.stop_gradient(jnp.where(step == 0, change, 0))


def _log_gamma(x: Array, error: Array) -> Array:
    """log gamma(x), given its Stirling error."""
    return (x - 0.5) * jnp.log(x) - x + (_HALF_LOG_2PI + error)


def _log_factorial(x: Array) -> Array:
    """log gamma(1 + x) for x from 0 to 1, exactly 0 at 0."""
    change = _change_of_error(jnp.ones_like(x), x)
    return change + ((x + 0.5) * jnp.log1p(x) - x)


def _log_rising(x: Array, step: Array) -> Array:
    """log gamma(x + step) - log gamma(x) - step log(x), which vanishes for large x."""
    large = (x >= 1) & (step < 0.5 * x)
    base = jnp.where(large, x, 1)
    ahead = jnp.where(large, step, 0)
    share = numerics.quotient(ahead, base)
    tame = share * (ahead - 0.5) - (base + ahead - 0.5) * log1p_excess(share)
    other, jump = jnp.where(large, 1, x), jnp.where(large, 0, step)
    wild = (other + jump - 0.5) * (jnp.log(other + jump) - jnp.log(other)) - jump
    return jnp.where(large, tame, wild) + _change_of_error(x, step)


def _inward(t: Array) -> tuple[Array, Array]:
    """t or 1 / t, whichever is at most 1, and whether it is 1 / t."""
    outside = jnp.abs(t) > 1
    return jnp.where(
        outside, numerics.quotient(jnp.ones_like(t), jnp.where(outside, t, 1)), t
    ), outside


def _log1p_ratio(x: Array, y: Array) -> Array:
    """log(1 + x / y), also where x / y overflows."""
    small = x < y
    part = jnp.log1p(numerics.quotient(jnp.where(small, x, 0), y))
    other, base = jnp.where(small, 0, x), jnp.where(small, 1, y)
    return jnp.where(small, part, _log_ratio(other + base, base))


@jax.custom_jvp
def _scaled_log1p(n: Array, x: Array) -> Array:
    """n log(1 + x / n), which for large n is x, with its small slope in n."""
    return n * _log1p_ratio(x, n)


@_scaled_log1p.defjvp
def _scaled_log1p_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (n, x), (n_dot, x_dot) = primals, tangents
    share, large = numerics.share(x, n), x > n
    bend = log1p_excess(-jnp.where(large, 0, share))
    bend = jnp.where(large, _log1p_ratio(x, n) - share, bend)
    return _scaled_log1p(n, x), bend * n_dot + numerics.share(n, x) * x_dot


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
        log1p_excess(-jnp.where(outside, 0, share)),
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
    return tail + jnp.log(scale) + (_HALF_LOG_2PI - _log_rising(0.5 * degrees_of_freedom, half))


# --- counts ------------------------------------------------------------------------------------


@loss(convex, smooth, prediction=mean_or_its_log, target=nonnegative_number)
def poisson(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    log_input: bool = True,
    full: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict counts whose variance is about their mean: clicks, photons, spikes.

    $$\ell(\lambda, y) = \lambda - y \log \lambda + \log y!$$

    The prediction is $\log \lambda$, as in `torch`; the rate itself with `log_input=False`. A rate
    of 0 costs 0 if nothing was counted and inf otherwise (torch adds 1e-8 to it, keras 1e-7).
    `full=False` leaves out the last term, which no prediction changes and which torch and keras
    leave out. Counts that vary more than this allows are for `negative_binomial`.

    Args:
        prediction: The logarithm of the expected count, or with `log_input=False` that count.
        target: What was counted, at least 0; it need not be an integer.
        log_input: Whether the prediction is the logarithm of the rate.
        full: Whether log(y!) is added.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> poisson([2.0, 0.0], [0, 1], log_input=False)
        Array([ 2., inf], dtype=float32)

    References:
        Nelder and Wedderburn, *Generalized Linear Models*, 1972.
    """
    rate, log_rate = _mean_and_log(prediction, log_input)
    few = target < 1
    linear = rate - (target * log_rate if log_input else numerics.xlogy(target, prediction))
    if not full:
        return linear
    # Large terms cancel in `linear + log y!`; the deviance and log y! less its maximum do not.
    count = jnp.where(few, 1, target)
    peak = 0.5 * jnp.log(2 * math.pi * count) + _stirling_error(count)
    factorial = _log_factorial(jnp.where(few, target, 0))
    rate, log_rate = jnp.where(few, 1, rate), jnp.where(few, 0, log_rate)
    return jnp.where(few, linear + factorial, _half_deviance(count, rate, log_rate) + peak)


def _mean_and_log(prediction: Array, log_input: bool) -> tuple[Array, Array]:
    if log_input:
        return jnp.exp(prediction), prediction
    some = prediction > 0
    return prediction, jnp.where(some, jnp.log(jnp.where(some, prediction, 1)), -jnp.inf)


def _half_deviance(count: Array, rate: Array, log_rate: Array) -> Array:
    """count log(count / rate) + rate - count, without cancellation where the two are close."""
    near = jnp.abs(rate - count) < 0.5 * count
    change = numerics.quotient(jnp.where(near, rate - count, 0), count)
    far = (rate - count) - count * (log_rate - jnp.log(count))
    return jnp.where(near, count * log1p_excess(change), far)


@loss(smooth, prediction=mean_or_its_log, target=nonnegative_number, total_count=positive)
def negative_binomial(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    total_count: Real[ArrayLike, "*batch"],
    *,
    log_input: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict counts that vary more than `poisson` allows: sales, reads, accidents.

    $$\ell(\mu, r, y) = -\log \frac{\Gamma(y + r)}{\Gamma(r)\, y!}
      + (r + y) \log(r + \mu) - r \log r - y \log \mu$$

    The variance is $\mu + \mu^2 / r$: the larger the total count $r$, the closer to `poisson`.
    It is `total_count` of torch and TFP, whose `logits` are $\log(\mu / r)$; statisticians call
    $1/r$ the dispersion. The prediction is $\log \mu$, or $\mu$ with `log_input=False`.

    Args:
        prediction: The logarithm of the expected count, or with `log_input=False` that count.
        target: What was counted, at least 0.
        total_count: The inverse of the dispersion, above 0; may be learned.
        log_input: Whether the prediction is the logarithm of the expected count.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> negative_binomial([1.0, 1.0], [0, 2], total_count=1.0, log_input=False)
        Array([0.6931472, 2.0794415], dtype=float32)

    References:
        Hilbe, *Negative Binomial Regression*, 2011.
    """
    _, log_mean = _mean_and_log(prediction, log_input)
    huge = log_mean > 85  # the mean would overflow in float32, where this loss does not
    mean, safe_log = _mean_and_log(jnp.where(huge, 1, prediction), log_input)
    growth = _scaled_log1p(total_count, mean) + target * _log1p_ratio(mean, total_count)
    linear = growth - (target * safe_log if log_input else numerics.xlogy(target, mean))
    log_count = jnp.log(total_count)
    log_odds = jnp.where(huge, log_mean, 0) - log_count
    linear = jnp.where(huge, total_count * log_odds - target * log_count, linear)
    few = target < 1
    count = jnp.where(few, 1, target)
    error = _stirling_error(count)
    factorial = jnp.where(
        few, _log_factorial(jnp.where(few, target, 0)), _log_gamma(count, error) + jnp.log(count)
    )
    direct = linear + (factorial - _log_rising(total_count, target))

    # For large counts the direct form cancels; near its minimum these terms are as small as it.
    few = few | huge
    mean, log_mean = jnp.where(few, 1, mean), jnp.where(few, 0, log_mean)
    ahead, total = total_count + count, total_count + mean
    change = numerics.quotient(mean - count, count) * numerics.share(total_count, mean)
    log_ahead = _log_ratio(ahead, total)
    log_share = log_ahead + (log_mean - jnp.log(count))
    spread = total_count * _ratio_gap(numerics.quotient(count - mean, total), log_ahead)
    spread = spread + count * _ratio_gap(change, log_share)
    scale = jnp.log(2 * math.pi * count) + jnp.log1p(numerics.quotient(count, total_count))
    errors = error + (_stirling_error(total_count) - _stirling_error(ahead))
    return jnp.where(few, direct, spread + 0.5 * scale + errors)


# --- positive amounts, shares, directions ------------------------------------------------------


@loss(smooth, mean=positive, target=positive, concentration=positive)
def gamma(
    mean: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    concentration: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict positive amounts whose errors grow with the amount: costs, waiting times.

    $$\ell(\mu, a, y) = a \left( \frac{y}{\mu} - \log \frac{a y}{\mu} \right)
      + \log y + \log \Gamma(a)$$

    The standard deviation is $\mu / \sqrt a$, in proportion to the mean, so that relative errors
    count. `Gamma(concentration, rate)` of torch and TFP has the mean concentration / rate. A
    target of 0 is impossible: amounts that may be 0 are for `tweedie_deviance`.

    Args:
        mean: The predicted mean, above 0.
        target: What was observed, above 0, in the same unit.
        concentration: The inverse of the squared relative error, above 0; 1 is exponential.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> gamma([1.0, 1.0], [1.0, 3.0], concentration=1.0)
        Array([1., 3.], dtype=float32)

    References:
        McCullagh and Nelder, *Generalized Linear Models*, 1989.
    """
    large = concentration >= 1
    shape = jnp.where(large, concentration, 1)
    small = jnp.where(large, 1, concentration)
    # log gamma(a) - a log a + a, which is about -log(a) / 2 for large a and -log(a) for small.
    peak = _HALF_LOG_2PI - 0.5 * jnp.log(shape) + _stirling_error(shape)
    low = _log_factorial(small) - (1 + small) * jnp.log(small) + small
    gap = _deviance_of_ratio(target, mean)
    return concentration * gap + jnp.log(target) + jnp.where(large, peak, low)


@jax.custom_jvp
def _deviance_of_ratio(x: Array, y: Array) -> Array:
    """x / y - 1 - log(x / y): 0 where the two are equal, and never below."""
    return _ratio_gap(numerics.quotient(x - y, y), _log_ratio(x, y))


@_deviance_of_ratio.defjvp
def _deviance_of_ratio_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, y), (x_dot, y_dot) = primals, tangents
    change = numerics.quotient(x - y, y)
    slope = numerics.quotient(change, x) * x_dot - numerics.quotient(change, y) * y_dot
    return _deviance_of_ratio(x, y), slope


@jax.custom_jvp
def _tweedie(mean: Array, target: Array, power: Array) -> Array:
    none = target == 0
    target = jnp.where(none, mean, target)
    several = 2 * half_deviance(mean, target, _log_ratio(target, mean), power)
    finite = power < 2
    left = jnp.where(finite, 2 - power, 1)
    cost = jnp.where(finite, 2 * mean**left / left, jnp.inf)
    return jnp.where(none, cost, several)


@_tweedie.defjvp
def _tweedie_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (mean, target, power), (mean_dot, target_dot, power_dot) = primals, tangents
    none = target == 0
    to_mean = 2 * (mean - target) * mean ** (-power)
    several = jnp.where(none, mean, target)
    log_ratio = _log_ratio(several, mean)
    to_target = 2 * power_gap(several, mean, log_ratio, 1 - power)
    # At a target of 0 the slope is infinite from power 1 on: 0 by convention.
    below = power < 1
    left = jnp.where(below, 1 - power, 1)
    to_target = jnp.where(none, jnp.where(below, -2 * mean**left / left, 0), to_target)
    _, from_several = jax.jvp(
        lambda p: 2 * half_deviance(mean, several, log_ratio, p), (power,), (power_dot,)
    )
    finite = power < 2
    rest = jnp.where(finite, 2 - power, 1)
    from_none = -2 * mean**rest * (jnp.log(mean) - 1 / rest) / rest * power_dot
    from_power = jnp.where(none, jnp.where(finite, from_none, 0), from_several)
    return _tweedie(mean, target, power), to_mean * mean_dot + to_target * target_dot + from_power


@loss(nonnegative, smooth, zero_at_match, mean=positive, target=nonnegative_number)
def tweedie_deviance(
    mean: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    power: Real[ArrayLike, ""] = 1.5,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for amounts that are often exactly 0 and positive otherwise: claims, rain, sales.

    $$\ell_p(\mu, y) = 2 \int_\mu^y \frac{y - t}{t^p} \, dt = 2 \left(
      \frac{y^{2-p}}{(1-p)(2-p)} - \frac{y \mu^{1-p}}{1-p} + \frac{\mu^{2-p}}{2-p} \right)$$

    The variance grows as $\mu^p$. The power may be any number, traced or learned: 0 gives the
    squared error, 1 the deviance of `poisson`, 2 that of `gamma`, 3 that of the inverse Gaussian.
    Between 1 and 2, zeros and positive amounts go together; from 2 on a target of 0 costs inf.
    (The default of scikit-learn is 0, of XGBoost 1.5.) The deviance is twice the negative
    log-likelihood less its smallest value, so it is 0 at a perfect prediction.

    Args:
        mean: The predicted mean, above 0.
        target: What was observed, at least 0, in the same unit.
        power: The power of the mean that the variance is in proportion to.

    Returns:
        The deviance of each example.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> tweedie_deviance([1.0, 4.0], [1.0, 0.0])
        Array([0., 8.], dtype=float32)

    References:
        Jorgensen, *Exponential Dispersion Models*, 1987.
    """
    return _tweedie(mean, target, jnp.broadcast_to(power, mean.shape).astype(mean.dtype))


@loss(convex, smooth, alpha=positive, target=unit_interval, beta=positive)
def beta(
    alpha: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    beta: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict shares, between 0 and 1, and how much they vary.

    $$\ell(\alpha, \beta, y) = \log \frac{\Gamma(\alpha) \Gamma(\beta)}{\Gamma(\alpha + \beta)}
      - (\alpha - 1) \log y - (\beta - 1) \log(1 - y)$$

    The mean is $\alpha / (\alpha + \beta)$; the larger their sum, the smaller the variance. They
    are `concentration1` and `concentration0` of torch and TFP. A share of exactly 0 or 1 has
    infinite loss unless its parameter is 1, or minus infinity if that is below 1.

    Args:
        alpha: What draws the share to 1, above 0.
        target: The share observed, from 0 to 1.
        beta: What draws the share to 0, above 0.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> beta(2.0, [0.5, 0.75], beta=2.0)
        Array([-0.405465, -0.117783], dtype=float32)

    References:
        Ferrari and Cribari-Neto, *Beta Regression for Modelling Rates and Proportions*, 2004.
    """
    swap = alpha < beta
    small, large = jnp.where(swap, alpha, beta), jnp.where(swap, beta, alpha)
    few = small < 8
    tiny = small < 1
    part, rest = jnp.where(tiny, small, 0.5), jnp.where(tiny, 1, small)
    log_gamma = jnp.where(
        tiny,
        _log_factorial(part) - jnp.log(part),
        _log_gamma(rest, _stirling_error(rest)),
    )
    normalizer = log_gamma - small * jnp.log(large) - _log_rising(large, small)
    pull = numerics.xlogy(alpha - 1, target) + numerics.xlog1py(beta - 1, -target)
    direct = normalizer - pull

    # Of two large parameters the direct form cancels: measure from the peak of the density.
    a, b = jnp.where(few, 8, alpha), jnp.where(few, 8, beta)
    y = jnp.where(few, 0.5, target)
    total, z = a + b, 1 - y
    off = b * y - a * z
    spread = a * _ratio_gap(numerics.quotient(off, a), jnp.log(numerics.quotient(total * y, a)))
    spread = spread + b * _ratio_gap(
        numerics.quotient(-off, b), jnp.log(numerics.quotient(total * z, b))
    )
    errors = _stirling_error(a) + _stirling_error(b) - _stirling_error(total)
    scale = _HALF_LOG_2PI + 0.5 * (jnp.log(total / a) - jnp.log(b))
    far = spread + (jnp.log(y) + jnp.log1p(-y)) + (scale + errors)
    return jnp.where(few, direct, far)


def _log_bessel(x: Array, scaled: Array) -> Array:
    """log I0(x), less x where it is scaled, with slopes that have all their digits.

    Not scaled it is for x up to 1, where its power series keeps them.
    """
    square = 0.25 * jnp.square(jnp.where(scaled, 0, x))
    terms = jnp.ones_like(x)
    for k in range(10, 1, -1):
        terms = 1 + square / k**2 * terms
    low = jnp.log1p(square * terms)
    near = x < 20
    inner, outer = jnp.where(near, x, 0), jnp.where(near, 20, x)
    # The integral over a period, by the trapezoidal rule: exact to rounding with so few points.
    waves = [jnp.exp(-2 * math.sin(math.pi * j / 40) ** 2 * inner) for j in range(21)]
    mean = (0.5 * (waves[0] + waves[-1]) + sum(waves[1:-1])) / 20
    inverse, series = 1 / outer, jnp.ones_like(x)
    for j in range(20, 0, -1):
        series = 1 + (2 * j - 1) ** 2 / (8 * j) * inverse * series
    far = jnp.log(series) - 0.5 * jnp.log(2 * math.pi * outer)
    return jnp.where(scaled, jnp.where(near, jnp.log(mean), far), low)


@loss(smooth, symmetric, translation_invariant, concentration=nonnegative_number)
def von_mises(
    location: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    concentration: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict directions, phases or times of day, where 359 degrees is next to 1.

    $$\ell(\mu, \kappa, y) = \log\left(2 \pi I_0(\kappa)\right) - \kappa \cos(y - \mu)$$

    A concentration of 0 knows nothing; a large one is like `gaussian` with the variance
    $1/\kappa$, and does not overflow. The gradient is 0 opposite to the target, too: start from
    small concentrations.

    Args:
        location: The predicted angle, in radians.
        target: The angle observed, in radians.
        concentration: The inverse of about the variance, at least 0.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> von_mises([0.0, 0.0], [0.0, jnp.pi], concentration=1.0)
        Array([1.0737915, 3.0737915], dtype=float32)

    References:
        Mardia and Jupp, *Directional Statistics*, 2000.
    """
    error, lost = two_sum(target, -location)
    half, rest = 0.5 * error, 0.5 * lost
    # A flat distribution is measured from its mean, a peaked one from its peak. What rounding took
    # from the error counts next to the zeros of sine and cosine.
    peaked = concentration > 1
    chord = jnp.sin(half) + rest * jnp.cos(half)  # its square is 1 - cos, with the digits near 0
    cosine = jnp.cos(error) - lost * jnp.sin(error)
    away = jnp.where(peaked, 2 * jnp.square(chord), -cosine)
    return concentration * away + (_log_bessel(concentration, peaked) + math.log(2 * math.pi))


# --- mixtures ----------------------------------------------------------------------------------


@loss(shift_invariant, smooth, logits=extended, losses=extended)
def mixture(
    logits: Real[ArrayLike, "*batch components"],
    losses: Real[ArrayLike, "*batch components"],
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to mix distributions of any kind, when a target may come from one of several.

    $$\ell(x, \ell_1 \dots \ell_K) = -\log \sum_k \pi_k e^{-\ell_k}, \qquad
      \pi = \mathrm{softmax}(x)$$

    The second argument holds the loss of the target under each component, from any loss of this
    shelf, or from different ones. A component with a logit of -inf, or of loss inf, takes no part.
    Mixtures have many optima: what matters is that the components start apart.

    Args:
        logits: Scores of the components, before softmax.
        losses: The negative log-likelihood of the target under each component.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> mixture([0.0, 0.0], gaussian([-1.0, 1.0], 1.0, variance=0.01))
        Array(-0.6904994, dtype=float32)

    References:
        McLachlan and Peel, *Finite Mixture Models*, 2000.
    """
    return -numerics.logsumexp(numerics.log_softmax(logits) - losses)


@loss(smooth, variances=positive, logits=extended)
def gaussian_mixture(
    means: Real[ArrayLike, "*batch components"],
    target: Real[ArrayLike, "*batch"],
    variances: Real[ArrayLike, "*batch components"],
    logits: Real[ArrayLike, "*batch components"],
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict a number that may be one of several: the mixture density network.

    $$\ell = -\log \sum_k \frac{\pi_k}{\sqrt{2 \pi v_k}}
      \exp\left(-\frac{(y - \mu_k)^2}{2 v_k}\right), \qquad \pi = \mathrm{softmax}(x)$$

    The squared error would predict the average of the alternatives, which may be none of them.
    A component that shrinks onto one target drives the loss to minus infinity: bound the
    variances from below. Other families are mixed with `mixture`.

    Args:
        means: The mean of each component.
        target: What was observed, in the same unit; without the axis of the components.
        variances: The variance of each component, above 0.
        logits: The score $x_k$ of each component, before softmax.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> gaussian_mixture([-1.0, 1.0], 1.0, variances=[0.01, 0.01], logits=[0.0, 0.0])
        Array(-0.6904994, dtype=float32)

    References:
        Bishop, *Mixture Density Networks*, 1994.
    """
    score = numerics.quotient(target[..., None] - means, jnp.sqrt(variances))
    losses = 0.5 * jnp.square(score) + (0.5 * jnp.log(variances) + _HALF_LOG_2PI)
    return -numerics.logsumexp(numerics.log_softmax(logits) - losses)
