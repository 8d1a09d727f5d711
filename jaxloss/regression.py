r"""Regression: losses of a predicted number.

Most are elementwise: prediction, target and result have one shape, and $e$ is the error
`prediction - target`. `quantiles` and `cosine_distance`, at the end, take several numbers an
example.

A loss is chosen by its gradient as a function of the error. If the gradient is proportional to the
error (`squared_error`), the fit is the conditional mean, and outliers have the most influence. If
its size is constant (`absolute_error`), the fit is the conditional median. If it is proportional at
first and then constant (`huber`, `pseudo_huber`, `log_cosh`), the fit is close to the mean and the
influence of an outlier is bounded. If it depends on the sign of the error, the fit is a quantile
(`pinball`) or an expectile. For positive amounts over several orders of magnitude there are losses
of the relative error.

How to read this file: the body of a loss is its equation. Where automatic differentiation of the
equation would be inexact or not finite, the equation is a private function whose partial
derivatives are written below it with `defjvps`, one for each argument.
"""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import nonnegative_number, nonzero, positive, unit_interval
from jaxloss.numerics._elementwise import pinball_of_error, shared
from jaxloss.numerics._reductions import mean_where
from jaxloss.traits import (
    bounded,
    bounded_gradient,
    convex,
    nonnegative,
    scale_invariant,
    smooth,
    symmetric,
    translation_invariant,
    zero_at_match,
)

__all__ = [
    "absolute_error",
    "absolute_percentage_error",
    "cosine_distance",
    "epsilon_insensitive",
    "expectile",
    "huber",
    "log_cosh",
    "mean_absolute_error",
    "mean_squared_error",
    "pinball",
    "pseudo_huber",
    "quantiles",
    "smooth_l1",
    "squared_epsilon_insensitive",
    "squared_error",
    "squared_log_error",
    "symmetric_absolute_percentage_error",
]


@loss(convex, nonnegative, smooth, symmetric, translation_invariant, zero_at_match)
def squared_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Squared error: the loss of least squares.

    When to use: regression to the conditional mean, with errors that are about Gaussian.

    $$\ell(e) = e^2$$

    There is no factor 1/2 (`optax.l2_loss` has one). The gradient is $2e$, so that a few outliers
    can dominate the fit.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.

    Returns:
        The squared error of each example, in the squared unit of the target.

    Example:
        >>> squared_error([1.0, 2.0], [1.5, 2.0])
        Array([0.25, 0.  ], dtype=float32)

    References:
        Gauss, *Theoria combinationis observationum erroribus minimis obnoxiae*, 1823.
    """
    return jnp.square(prediction - target)


@loss(convex, nonnegative, bounded_gradient, symmetric, translation_invariant, zero_at_match)
def absolute_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Absolute error.

    When to use: regression to the conditional median, for targets with outliers or heavy tails.

    $$\ell(e) = |e|$$

    The gradient has size 1 however small the error, so that convergence needs a decaying learning
    rate. It is 0 at $e = 0$, where `jax.grad(jnp.abs)` is 1.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.

    Returns:
        The absolute error of each example, in the unit of the target.

    Example:
        >>> absolute_error([1.0, 2.0], [1.5, 2.0])
        Array([0.5, 0. ], dtype=float32)

    References:
        Laplace, *Sur quelques points du système du monde*, 1789.
    """
    return numerics.absolute(prediction - target)


@jax.custom_jvp
def _huber(error: Array, delta: Array | float) -> Array:
    size = jnp.abs(error)
    return jnp.where(size < delta, 0.5 * jnp.square(error), delta * (size - 0.5 * delta))


# The rules use the error, not the value: the value would then be kept in memory for them.
_huber.defjvps(
    lambda error_dot, _, error, delta: jnp.clip(error, -delta, delta) * error_dot,
    lambda delta_dot, _, error, delta: numerics.relu(jnp.abs(error) - delta) * delta_dot,
)


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    delta=positive,
)
def huber(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    delta: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Huber loss: half the squared error up to delta, linear beyond it.

    When to use: regression with mostly Gaussian errors and some outliers.

    $$\ell(e) = \begin{cases} \frac12 e^2 & |e| \le \delta \\
      \delta \left(|e| - \frac12 \delta\right) & |e| > \delta \end{cases}$$

    The gradient is $e$, clipped to $\pm\delta$. With Gaussian errors of standard deviation 1,
    `delta=1.345` has 95 % of the efficiency of the mean. `smooth_l1` is this divided by delta.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.
        delta: The absolute error above which the loss is linear, in the unit of the target.

    Returns:
        The loss of each example, in the squared unit of the target.

    Example:
        >>> huber([0.0, 0.0], [0.5, 3.0])
        Array([0.125, 2.5  ], dtype=float32)

    References:
        Huber, *Robust Estimation of a Location Parameter*, 1964.
    """
    return _huber(prediction - target, delta)


@jax.custom_jvp
def _smooth_l1(error: Array, beta: Array | float) -> Array:
    slope = _smooth_l1_slope(error, beta)
    return slope * (error - 0.5 * beta * slope)


def _smooth_l1_slope(error: Array, beta: Array | float) -> Array:
    """The error over beta, clipped to -1 and 1; its sign where beta is 0."""
    inside = jnp.abs(error) < beta
    ratio = jnp.where(inside, error, 0) / jnp.where(inside, beta, 1)
    return jnp.where(inside, ratio, jnp.sign(error))


_smooth_l1.defjvps(
    lambda error_dot, _, error, beta: _smooth_l1_slope(error, beta) * error_dot,
    lambda beta_dot, _, error, beta: -0.5 * jnp.square(_smooth_l1_slope(error, beta)) * beta_dot,
)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    beta=nonnegative_number,
)
def smooth_l1(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Smooth L1 loss: the absolute error with a parabola in place of its kink.

    When to use: regression of bounding boxes and the like, where the gradient of a large error is
    to have size 1 whatever beta is.

    $$\ell(e) = \begin{cases} \frac{1}{2 \beta} e^2 & |e| < \beta \\
      |e| - \frac12 \beta & |e| \ge \beta \end{cases}$$

    This is `huber` divided by its delta. `beta=0` gives the absolute error exactly. Detectors often
    use `beta=1/9`.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.
        beta: The absolute error above which the loss is linear, in the unit of the target; may be
            0.

    Returns:
        The loss of each example, in the unit of the target.

    Example:
        >>> smooth_l1([0.0, 0.0], [0.5, 3.0], beta=2.0)
        Array([0.0625, 2.    ], dtype=float32)

    References:
        Girshick, *Fast R-CNN*, 2015.
    """
    return _smooth_l1(prediction - target, beta)


def _legs(error: Array, delta: Array | float) -> tuple[Array, Array, Array]:
    """The shorter of |error| and delta, its ratio to the longer, and sqrt(1 + ratio^2)."""
    size = jnp.abs(error)
    inside = size < delta
    shorter, longer = jnp.where(inside, size, delta), jnp.where(inside, delta, size)
    ratio = numerics.quotient(shorter, longer)
    return shorter, ratio, shared(jnp.sqrt(1 + jnp.square(ratio)))


# In terms of the two legs, no square and no quotient overflows where the result does not. That
# holds for any order of the operations, so also if the compiler may reorder them ("fast math").
@jax.custom_jvp
def _pseudo_huber(error: Array, delta: Array | float) -> Array:
    shorter, ratio, root = _legs(error, delta)
    inside = jnp.abs(error) < delta
    return shorter * (jnp.abs(error) / (jnp.where(inside, 1, ratio) + root))


def _pseudo_huber_slope(error: Array, delta: Array | float) -> Array:
    inside, (_, _, root) = jnp.abs(error) < delta, _legs(error, delta)
    return jnp.where(inside, error, jnp.sign(error) * delta) / root


def _pseudo_huber_slope_in_delta(error: Array, delta: Array | float) -> Array:
    """(hypot(error, delta) - delta)^2 / hypot(error, delta)."""
    inside, (_, ratio, root) = jnp.abs(error) < delta, _legs(error, delta)
    excess = jnp.where(inside, ratio, 1) / (jnp.where(inside, 1, ratio) + root)
    return jnp.abs(error) * excess * (jnp.where(inside, ratio, 1) * excess / root)


_pseudo_huber.defjvps(
    lambda error_dot, _, error, delta: _pseudo_huber_slope(error, delta) * error_dot,
    lambda delta_dot, _, error, delta: _pseudo_huber_slope_in_delta(error, delta) * delta_dot,
)


@loss(
    convex,
    nonnegative,
    smooth,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    delta=positive,
)
def pseudo_huber(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    delta: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Pseudo-Huber loss: a smooth approximation of the Huber loss, a branch of a hyperbola.

    When to use: in place of `huber` where second derivatives are used, by Newton's method or by
    boosting.

    $$\ell(e) = \delta^2 \left( \sqrt{1 + (e / \delta)^2} - 1 \right)$$

    About half the squared error for small errors, $\delta |e|$ for large ones.
    `robust.charbonnier` is this divided by $\delta^2$.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.
        delta: The absolute error around which the parabola becomes a line, in the unit of the
            target.

    Returns:
        The loss of each example, in the squared unit of the target.

    Example:
        >>> pseudo_huber([0.0, 0.0], [0.75, 1e-8])
        Array([2.5e-01, 5.0e-17], dtype=float32)

    References:
        Charbonnier et al., *Deterministic Edge-Preserving Regularization in Computed
        Imaging*, 1997.
    """
    return _pseudo_huber(prediction - target, delta)


@loss(
    convex, nonnegative, smooth, bounded_gradient, symmetric, translation_invariant, zero_at_match
)
def log_cosh(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Log-cosh loss.

    When to use: in place of `huber` for targets of about unit scale, without an option to tune.

    $$\ell(e) = \log \cosh e$$

    About half the squared error for small errors, $|e| - \log 2$ for large ones; the gradient is
    $\tanh e$. The transition is at an error of 1: to move it, divide prediction and target by
    another scale.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.

    Returns:
        The loss of each example.

    Example:
        >>> log_cosh([0.0, 0.0], [1e-4, 50.0])
        Array([5.000000e-09, 4.930685e+01], dtype=float32)

    References:
        Green, *Bayesian Reconstructions from Emission Tomography Data Using a Modified EM
        Algorithm*, 1990.
    """
    return numerics.log_cosh(prediction - target)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    translation_invariant,
    zero_at_match,
    level=unit_interval,
)
def pinball(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    level: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 0.5,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Pinball loss: the loss of quantile regression.

    When to use: prediction of a conditional quantile, such as the bound that 90 % of the targets
    stay below.

    $$\ell(e) = \max\left( (1 - \tau) e, -\tau e \right)$$

    At level 0.9, a prediction that is too low costs nine times as much as one that is too high by
    as much. Level 1/2 is half the absolute error. `quantiles` predicts several levels at once.

    Args:
        prediction: Predicted quantiles.
        target: Observed values, in the same unit.
        level: The probability that a target is below the prediction; may differ between examples.

    Returns:
        The loss of each example, in the unit of the target.

    Example:
        >>> pinball([0.0, 0.0], [1.0, -1.0], level=0.75)
        Array([0.75, 0.25], dtype=float32)

    References:
        Koenker and Bassett, *Regression Quantiles*, 1978.
    """
    return pinball_of_error(prediction - target, level)


@loss(convex, nonnegative, smooth, translation_invariant, zero_at_match, level=unit_interval)
def expectile(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    level: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 0.5,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Expectile loss: the squared error with a weight for each sign.

    When to use: an asymmetric mean, as in implicit Q-learning, or a bound that depends on how far
    the targets exceed it and not on how many do.

    $$\ell(e) = \begin{cases} \tau e^2 & e < 0 \\ (1 - \tau) e^2 & e \ge 0 \end{cases}$$

    Level 1/2 is half the squared error. The closer the level is to 1, the closer the minimum is to
    the largest target. Unlike the pinball loss it has no kink.

    Args:
        prediction: Predicted expectiles.
        target: Observed values, in the same unit.
        level: The weight of predictions that are too low; those that are too high have the weight
            `1 - level`. May differ between examples.

    Returns:
        The loss of each example, in the squared unit of the target.

    Example:
        >>> expectile([0.0, 0.0], [2.0, -2.0], level=0.75)
        Array([3., 1.], dtype=float32)

    References:
        Newey and Powell, *Asymmetric Least Squares Estimation and Testing*, 1987.
        Kostrikov et al., *Offline Reinforcement Learning with Implicit Q-Learning*, 2022.
    """
    error = prediction - target
    return jnp.where(error < 0, level, 1 - level) * jnp.square(error)


def _excess_over(error: Array, epsilon: Array | float) -> Array:
    """max(0, |error| - epsilon), whose gradient at the kink is 0."""
    return numerics.relu(numerics.absolute(error) - epsilon)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    epsilon=nonnegative_number,
)
def epsilon_insensitive(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    epsilon: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Epsilon-insensitive loss: the loss of support vector regression.

    When to use: regression in which errors up to epsilon do not matter.

    $$\ell(e) = \max(0, |e| - \epsilon)$$

    Examples with a smaller error have gradient 0, so that the fit depends on the others alone.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.
        epsilon: The largest absolute error with loss 0, in the unit of the target.

    Returns:
        The loss of each example, in the unit of the target.

    Example:
        >>> epsilon_insensitive([0.0, 0.0], [0.25, -2.0], epsilon=0.5)
        Array([0. , 1.5], dtype=float32)

    References:
        Vapnik, *The Nature of Statistical Learning Theory*, 1995.
    """
    return _excess_over(prediction - target, epsilon)


@loss(
    convex,
    nonnegative,
    smooth,
    symmetric,
    translation_invariant,
    zero_at_match,
    epsilon=nonnegative_number,
)
def squared_epsilon_insensitive(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    epsilon: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Squared epsilon-insensitive loss.

    When to use: like `squared_error`, where errors up to epsilon do not matter.

    $$\ell(e) = \max(0, |e| - \epsilon)^2$$

    It is smooth at $|e| = \epsilon$, and as sensitive to outliers as the squared error.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.
        epsilon: The largest absolute error with loss 0, in the unit of the target.

    Returns:
        The loss of each example, in the squared unit of the target.

    Example:
        >>> squared_epsilon_insensitive([0.0, 0.0], [0.25, -2.0], epsilon=0.5)
        Array([0.  , 2.25], dtype=float32)

    References:
        Vapnik, *The Nature of Statistical Learning Theory*, 1995.
    """
    return jnp.square(_excess_over(prediction - target, epsilon))


@jax.custom_jvp
def _log1p_difference(a: Array, b: Array) -> Array:
    """log(1 + a) - log(1 + b), accurate where a and b are close."""
    low, high, sign = (jnp.where(a < b, x, y) for x, y in ((a, b), (b, a), (-1, 1)))
    return sign * jnp.log1p((high - low) / (1 + low))


def _derivative_of_log1p(x_dot: Array, x: Array, other: Array) -> Array:
    """That of log(1 + x); 0 at infinity if the other argument is finite."""
    return jnp.where((x == jnp.inf) & (other < jnp.inf), 0, x_dot) / (1 + x)


_log1p_difference.defjvps(
    lambda a_dot, _, a, b: _derivative_of_log1p(a_dot, a, b),
    lambda b_dot, _, a, b: -_derivative_of_log1p(b_dot, b, a),
)


@loss(
    nonnegative,
    smooth,
    symmetric,
    zero_at_match,
    prediction=nonnegative_number,
    target=nonnegative_number,
)
def squared_log_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Squared logarithmic error: the squared error of log(1 + x).

    When to use: counts and amounts over several orders of magnitude, where relative errors matter.

    $$\ell(p, t) = \left( \log(1 + p) - \log(1 + t) \right)^2$$

    A prediction that is too low costs more than one that is too high by as much. The loss is not
    convex: far above the target it is almost flat. Nothing is clipped, and the formula is used down
    to -1 (Keras replaces values below 1e-7).

    Args:
        prediction: Predicted values, at least 0.
        target: Observed values, at least 0, in the same unit.

    Returns:
        The squared difference of the logarithms.

    Example:
        >>> squared_log_error([1.0, 3.0], [3.0, 3.0])
        Array([0.480453, 0.      ], dtype=float32)

    References:
        Hyndman and Koehler, *Another Look at Measures of Forecast Accuracy*, 2006.
    """
    return jnp.square(_log1p_difference(prediction, target))


@jax.custom_jvp
def _relative_error(prediction: Array, target: Array) -> Array:
    size, zero = jnp.abs(prediction - target), target == 0
    return jnp.where(zero & (size > 0), jnp.inf, size / jnp.abs(jnp.where(zero, 1, target)))


def _relative_error_slope(prediction: Array, target: Array) -> Array:
    """The sign of the error over |target|; 0 where the target is 0, NaN where the error is NaN."""
    divisor = jnp.where(target == 0, jnp.inf, jnp.abs(target))
    return jnp.sign(prediction - target) / divisor


# The rule in the target is one product: the derivatives of |p - t| and of 1 / |t| would cancel
# where the prediction is close to 0.
_relative_error.defjvps(
    lambda p_dot, _, p, t: _relative_error_slope(p, t) * p_dot,
    lambda t_dot, _, p, t: -_relative_error_slope(p, t) * (p / jnp.where(t == 0, 1, t)) * t_dot,
)


@loss(convex, nonnegative, zero_at_match, target=nonzero)
def absolute_percentage_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Absolute percentage error: the absolute error relative to the target.

    When to use: forecasts whose errors are reported relative to the target, if no target is close
    to 0.

    $$\ell(p, t) = \frac{|p - t|}{|t|}$$

    A fraction: 0.25 is 25 % (Keras multiplies by 100; scikit-learn does not). A prediction between
    0 and the target never costs more than 1, so that minimizing the loss predicts too low. At a
    target of 0 the loss is infinite unless the prediction is 0 as well (others divide by a small
    number instead).

    Args:
        prediction: Predicted values.
        target: Observed values, not 0, in the same unit.

    Returns:
        The relative error of each example, as a fraction.

    Example:
        >>> absolute_percentage_error([3.0, 0.0, 1.0], [4.0, 4.0, 0.0])
        Array([0.25, 1.  ,  inf], dtype=float32)

    References:
        Hyndman and Koehler, *Another Look at Measures of Forecast Accuracy*, 2006.
    """
    return _relative_error(prediction, target)


def _most(x: Array) -> float:
    return float(jnp.finfo(x.dtype).max)


@jax.custom_jvp
def _symmetric_relative_error(a: Array, b: Array) -> Array:
    # The sum of two large numbers overflows, that of their halves does not.
    half = jnp.where(jnp.abs(a) + jnp.abs(b) < jnp.inf, 1, 0.5).astype(a.dtype)
    size, apart = jnp.abs(half * a) + jnp.abs(half * b), jnp.abs(half * a - half * b)
    ratio = 2 * (apart / jnp.where(size == 0, 1, jnp.minimum(size, _most(a))))
    return jnp.minimum(ratio, 2)  # one that is infinite differs from any other by all of its size


def _symmetric_relative_error_slope(a: Array, b: Array) -> Array:
    """The derivative in a: 0 where the signs differ, since the loss is 2 there."""
    same_sign = (jnp.sign(a) == jnp.sign(b)) & (a != 0)
    size = jnp.where(same_sign, numerics.absolute(a) + numerics.absolute(b), 1)
    slope = jnp.sign(a - b) * jnp.where(same_sign, 4, 0) / size  # NaN where an argument is
    return slope * (jnp.minimum(numerics.absolute(b), _most(b)) / size)


_symmetric_relative_error.defjvps(
    lambda a_dot, _, a, b: _symmetric_relative_error_slope(a, b) * a_dot,
    lambda b_dot, _, a, b: _symmetric_relative_error_slope(b, a) * b_dot,
)


@loss(nonnegative, bounded, symmetric, zero_at_match)
def symmetric_absolute_percentage_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Symmetric absolute percentage error: the absolute error relative to the mean size of both.

    When to use: to report relative errors of forecasts whose targets may be close to 0.

    $$\ell(p, t) = \frac{2 |p - t|}{|p| + |t|}$$

    A fraction from 0 to 2, as in the M4 competition without its factor 100; others leave out the 2
    and reach 1. It is hard to train with, because it is constant where the signs differ. If
    prediction and target are 0, the loss is 0.

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.

    Returns:
        The relative error of each example, a fraction from 0 to 2.

    Example:
        >>> symmetric_absolute_percentage_error([1.0, -1.0, 0.0], [3.0, 4.0, 0.0])
        Array([1., 2., 0.], dtype=float32)

    References:
        Makridakis, *Accuracy Measures: Theoretical and Practical Concerns*, 1993.
    """
    return _symmetric_relative_error(prediction, target)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    translation_invariant,
    level=unit_interval,
)
def quantiles(
    prediction: Real[ArrayLike, "*batch levels"],
    target: Real[ArrayLike, "*batch"],
    *,
    level: Real[ArrayLike, "levels"] | None = None,
    mask: Bool[ArrayLike, "*batch levels"] | Bool[ArrayLike, "levels"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Mean pinball loss of several quantiles of one target.

    When to use: prediction of a distribution by its quantiles.

    $$\ell(p, t) = \frac{1}{K} \sum_{k=1}^K \max\left( (1 - \tau_k) e_k, -\tau_k e_k \right),
      \qquad e_k = p_k - t$$

    The mean of `pinball` over the levels, so that the scale does not depend on their number (others
    take the sum). With many evenly spaced levels, twice this is the continuous ranked probability
    score. Nothing keeps the predicted quantiles in order.

    Args:
        prediction: Predicted quantiles, one for each level.
        target: Observed values, in the same unit.
        level: The probability, for each quantile, that a target is below it. If None, the levels
            are the midpoints of equal parts: 1/6, 1/2, 5/6 for three quantiles.
        mask: False leaves a quantile out of the mean of an example, or of all examples.

    Returns:
        The loss of each example, in the unit of the target.

    Example:
        >>> quantiles([[-1.0, 1.0]], [3.0], level=[0.25, 0.75])
        Array([1.25], dtype=float32)

    References:
        Koenker and Bassett, *Regression Quantiles*, 1978.
        Gneiting and Raftery, *Strictly Proper Scoring Rules, Prediction, and Estimation*, 2007.
    """
    count = prediction.shape[-1]
    midpoints = (jnp.arange(count, dtype=prediction.dtype) + 0.5) / count
    level = jnp.broadcast_to(midpoints if level is None else jnp.asarray(level), prediction.shape)
    losses = pinball_of_error(prediction - target[..., None], level)
    return mean_where(losses, mask)


@loss(nonnegative, bounded, symmetric, scale_invariant)
def cosine_distance(
    prediction: Real[ArrayLike, "*batch features"],
    target: Real[ArrayLike, "*batch features"],
    *,
    mask: Bool[ArrayLike, "*batch features"] | Bool[ArrayLike, "features"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Cosine distance: 1 less the cosine of the angle between two vectors.

    When to use: to match the direction of a vector, such as an embedding, and not its length.

    $$\ell(p, t) = 1 - \frac{\langle p, t \rangle}{\lVert p \rVert \, \lVert t \rVert}
      = \frac12 \left\lVert \frac{p}{\lVert p \rVert} - \frac{t}{\lVert t \rVert} \right\rVert^2$$

    0 for the same direction, 1 at a right angle, 2 for opposite directions. The second form is
    computed, because the first loses the digits of small angles. The gradient is inversely
    proportional to the length of the prediction. If a vector is zero, the loss is 1 with gradient
    0; no epsilon is added. (Keras returns minus the cosine, MLX the cosine.)

    Args:
        prediction: Predicted vectors.
        target: Target vectors.
        mask: False leaves a feature out of an example, or of all examples.

    Returns:
        The distance of each pair of vectors, from 0 to 2.

    Example:
        >>> cosine_distance([[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [-2.0, 0.0]])
        Array([1., 2.], dtype=float32)

    References:
        Salton, Wong and Yang, *A Vector Space Model for Automatic Indexing*, 1975.
    """
    return numerics.cosine_distance(prediction, target)


@loss(
    convex, nonnegative, smooth, symmetric, translation_invariant, zero_at_match, reduction="mean"
)
def mean_squared_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Mean squared error: `squared_error`, whose default reduction here is the mean.

    When to use: to report or minimize the mean squared error without writing `reduction="mean"`.

    $$\frac{1}{n} \sum_{i=1}^n e_i^2$$

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.

    Returns:
        The mean squared error, a scalar, unless `reduction` is given.

    Example:
        >>> mean_squared_error([1.0, 2.0], [1.5, 2.0])
        Array(0.125, dtype=float32)

    References:
        Gauss, *Theoria combinationis observationum erroribus minimis obnoxiae*, 1823.
    """
    return squared_error(prediction, target)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    symmetric,
    translation_invariant,
    zero_at_match,
    reduction="mean",
)
def mean_absolute_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Mean absolute error: `absolute_error`, whose default reduction here is the mean.

    When to use: to report or minimize the mean absolute error without writing `reduction="mean"`.

    $$\frac{1}{n} \sum_{i=1}^n |e_i|$$

    Args:
        prediction: Predicted values.
        target: Observed values, in the same unit.

    Returns:
        The mean absolute error, a scalar, unless `reduction` is given.

    Example:
        >>> mean_absolute_error([1.0, 2.0], [1.5, 2.0])
        Array(0.25, dtype=float32)

    References:
        Laplace, *Sur quelques points du système du monde*, 1789.
    """
    return absolute_error(prediction, target)


__getattr__, __dir__ = public_names(__name__, __all__)
