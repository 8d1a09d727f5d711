r"""Regression: losses of a number predicted for a number.

They are elementwise: prediction, target and result have one shape (`quantiles` and
`cosine_distance`, of several numbers an example, stand at the end). $e$ stands for the error
`prediction - target`. What tells them apart is how the pull of an example, the gradient, grows
with its error: in proportion (squared), not at all (absolute), or in proportion and then no more
(Huber). The pull decides what is estimated: the squared error finds the mean of the targets, the
absolute error their median, a lopsided pull their quantiles and expectiles. For amounts over
several orders of magnitude the relative errors count instead.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import nonnegative_number, nonzero, positive, unit_interval
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


@loss(convex, nonnegative, smooth, symmetric, translation_invariant, zero_at_match)
def squared_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict the mean, when errors are about normal and large ones truly cost more.

    $$\ell(e) = e^2$$

    No factor 1/2: `optax.l2_loss` and `torch`'s textbooks differ there. An error twice as large
    pulls twice as hard, so a few outliers can decide the fit.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.

    Returns:
        The squared error of each example, in the squared unit of the target.

    Raises:
        ValueError: If the shapes differ.

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
    r"""Take it to predict the median, when some targets are far off and must not decide the fit.

    $$\ell(e) = |e|$$

    Every example pulls with the same force, however small its error: near the optimum it wants a
    decaying learning rate. The gradient at $e = 0$ is 0 (`jax.grad(jnp.abs)` has 1 there).

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.

    Returns:
        The absolute error of each example, in the unit of the target.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> absolute_error([1.0, 2.0], [1.5, 2.0])
        Array([0.5, 0. ], dtype=float32)

    References:
        Laplace, *Sur quelques points du système du monde*, 1789.
    """
    return numerics.absolute(prediction - target)


@jax.custom_jvp
def _huber(error: Array, delta: Any) -> Array:
    size = jnp.abs(error)
    return jnp.where(size < delta, 0.5 * jnp.square(error), delta * (size - 0.5 * delta))


# Both rules use the error alone: a rule that uses the value would keep the value in memory.
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
        prediction: What the model says.
        target: What was observed, in the same unit.
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
    r"""Take it for the absolute error without its kink: the Huber loss in the unit of the target.

    $$\ell(e) = \begin{cases} \frac{1}{2 \beta} e^2 & |e| < \beta \\
      |e| - \frac12 \beta & |e| \ge \beta \end{cases}$$

    It is `huber` divided by its delta: whatever beta is, a large error pulls with force 1. With
    `beta=0` it is the absolute error, exactly. Bounding boxes are often fitted with it, with
    beta 1/9.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        beta: The error, in the unit of the target, at which the parabola becomes a line.

    Returns:
        The loss of each example, in the unit of the target.

    Raises:
        ValueError: If the shapes differ, or beta is a number below 0.

    Example:
        >>> smooth_l1([0.0, 0.0], [0.5, 3.0], beta=2.0)
        Array([0.0625, 2.    ], dtype=float32)

    References:
        Girshick, *Fast R-CNN*, 2015.
    """
    error = prediction - target
    inside = jnp.abs(error) < beta
    share = jnp.where(inside, error, 0) / jnp.where(inside, beta, 1)
    # The pull: also the derivative of this form, in which the pull may be taken for constant.
    pull = jnp.where(inside, share, jnp.sign(error))
    return pull * (error - 0.5 * beta * pull)


@jax.custom_jvp
def _pseudo_huber(error: Array, delta: Any) -> Array:
    # Not delta**2 times a function of error / delta, whose square leaves the range of floats.
    return error * (error / (2 + numerics.hypot1m1(error / delta)))


@_pseudo_huber.defjvp
def _pseudo_huber_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (error, delta), (to_error, to_delta) = primals, tangents
    excess = numerics.hypot1m1(error / delta)
    pull = delta * (error / delta / (1 + excess))
    return _pseudo_huber(error, delta), pull * to_error + delta * excess * (
        excess / (1 + excess)
    ) * to_delta


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
    r"""Take it in place of Huber where second derivatives count: it bends without a corner.

    $$\ell(e) = \delta^2 \left( \sqrt{1 + (e / \delta)^2} - 1 \right)$$

    Half the squared error when small, $\delta |e|$ when large. `robust.charbonnier` is this
    divided by $\delta^2$.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        delta: The error, in the unit of the target, about which the parabola becomes a line.

    Returns:
        The loss of each example, in the squared unit of the target.

    Raises:
        ValueError: If the shapes differ, or delta is a number that is not above 0.

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
    r"""Take it like Huber when nothing should need tuning and the targets have about unit scale.

    $$\ell(e) = \log \cosh e$$

    Half the squared error when small, $|e| - \log 2$ when large; the pull is $\tanh e$. It bends
    at 1 in the unit of the target: divide both by another scale to move the bend.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.

    Returns:
        The loss of each example.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> log_cosh([0.0, 0.0], [1e-4, 50.0])
        Array([5.000000e-09, 4.930685e+01], dtype=float32)

    References:
        Green, *Bayesian Reconstructions from Emission Tomography Data Using a Modified EM
        Algorithm*, 1990.
    """
    return numerics.log_cosh(prediction - target)


def _pinball(error: Array, level: Any) -> Array:
    """The error times a pull that depends on its sign; at 0 the pull is 0."""
    return jnp.where(error > 0, 1 - level, jnp.where(error < 0, -level, 0)) * error


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
    r"""Take it to predict a bound that a given share of the targets stays below (the pinball loss).

    $$\ell(e) = \max\left( (1 - \tau) e, -\tau e \right)$$

    At level 0.9 a target above the prediction costs nine times as much as one as far below, so
    that nine in ten end up below. Level 1/2 is half the absolute error: the median.

    Args:
        prediction: The quantile that the model says.
        target: What was observed, in the same unit.
        level: The share of the targets that is to lie below the prediction; may differ between
            examples.

    Returns:
        The loss of each example, in the unit of the target.

    Raises:
        ValueError: If the shapes differ, or the level is a number outside 0 to 1.

    Example:
        >>> quantile([0.0, 0.0], [1.0, -1.0], level=0.75)
        Array([0.75, 0.25], dtype=float32)

    References:
        Koenker and Bassett, *Regression Quantiles*, 1978.
    """
    return _pinball(prediction - target, level)


@loss(convex, nonnegative, smooth, translation_invariant, zero_at_match, level=unit_interval)
def expectile(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    *,
    level: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 0.5,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for a lopsided mean: optimistic values, or bounds that weigh by how far.

    $$\ell(e) = \begin{cases} \tau e^2 & e < 0 \\ (1 - \tau) e^2 & e \ge 0 \end{cases}$$

    Level 1/2 is half the squared error; level 0.9 minds predictions that are too low nine times as
    much, and so approaches the maximum of the targets. Unlike a quantile it depends on how far
    the targets exceed it, and it has no kink. (The docstring of rlax says the opposite of its code,
    which agrees with this.)

    Args:
        prediction: The expectile that the model says.
        target: What was observed, in the same unit.
        level: The weight of predictions that are too low; those too high weigh `1 - level`. May
            differ between examples.

    Returns:
        The loss of each example, in the squared unit of the target.

    Raises:
        ValueError: If the shapes differ, or the level is a number outside 0 to 1.

    Example:
        >>> expectile([0.0, 0.0], [2.0, -2.0], level=0.75)
        Array([3., 1.], dtype=float32)

    References:
        Newey and Powell, *Asymmetric Least Squares Estimation and Testing*, 1987.
        Kostrikov et al., *Offline Reinforcement Learning with Implicit Q-Learning*, 2022.
    """
    error = prediction - target
    return jnp.where(error < 0, level, 1 - level) * jnp.square(error)


def _beyond(error: Array, epsilon: Any) -> Array:
    """By how much the size of an error exceeds epsilon; its gradient at the edge is 0."""
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
    r"""Take it when errors up to epsilon are as good as none: support vector regression.

    $$\ell(e) = \max(0, |e| - \epsilon)$$

    Examples inside the tube do not pull at all, so the fit depends on those outside alone.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        epsilon: The largest error that costs nothing, in the unit of the target.

    Returns:
        The loss of each example, in the unit of the target.

    Raises:
        ValueError: If the shapes differ, or epsilon is a number below 0.

    Example:
        >>> epsilon_insensitive([0.0, 0.0], [0.25, -2.0], epsilon=0.5)
        Array([0. , 1.5], dtype=float32)

    References:
        Vapnik, *The Nature of Statistical Learning Theory*, 1995.
    """
    return _beyond(prediction - target, epsilon)


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
    r"""Take it like the squared error when errors up to epsilon are as good as none.

    $$\ell(e) = \max(0, |e| - \epsilon)^2$$

    Smooth at the edge of the tube, and as sensitive to outliers as the squared error.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        epsilon: The largest error that costs nothing, in the unit of the target.

    Returns:
        The loss of each example, in the squared unit of the target.

    Raises:
        ValueError: If the shapes differ, or epsilon is a number below 0.

    Example:
        >>> squared_epsilon_insensitive([0.0, 0.0], [0.25, -2.0], epsilon=0.5)
        Array([0.  , 2.25], dtype=float32)

    References:
        Vapnik, *The Nature of Statistical Learning Theory*, 1995.
    """
    return jnp.square(_beyond(prediction - target, epsilon))


@jax.custom_jvp
def _log1p_difference(a: Array, b: Array) -> Array:
    """log(1 + a) - log(1 + b), where two close logarithms would cancel."""
    high, low, sign = (jnp.where(a < b, x, y) for x, y in ((b, a), (a, b), (-1, 1)))
    return sign * jnp.log1p((high - low) / (1 + low))


@_log1p_difference.defjvp
def _log1p_difference_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (a, b), (to_a, to_b) = primals, tangents
    return _log1p_difference(a, b), to_a / (1 + a) - to_b / (1 + b)


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
    r"""Take it for counts and amounts over orders of magnitude, when the ratio counts.

    $$\ell(p, t) = \left( \log(1 + p) - \log(1 + t) \right)^2$$

    Too low costs more than too high by the same amount. It is not convex: far above the target it
    is almost flat. Nothing is clipped: values down to -1 are computed with (keras lifts what
    is below 1e-7 to it).

    Args:
        prediction: What the model says, at least 0.
        target: What was observed, at least 0, in the same unit.

    Returns:
        The squared difference of the logarithms.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> squared_log_error([1.0, 3.0], [3.0, 3.0])
        Array([0.480453, 0.      ], dtype=float32)

    References:
        Hyndman and Koehler, *Another Look at Measures of Forecast Accuracy*, 2006.
    """
    return jnp.square(_log1p_difference(prediction, target))


@jax.custom_jvp
def _relative_error(prediction: Array, target: Array) -> Array:
    zero, error = target == 0, prediction - target
    missed = jnp.where(error == 0, 0, jnp.inf).astype(error.dtype)
    return jnp.where(zero, missed, jnp.abs(error) / jnp.abs(jnp.where(zero, 1, target)))


@_relative_error.defjvp
def _relative_error_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Of |e| / |t| the two parts of the slope in t cancel where the prediction is close to 0.
    (prediction, target), (to_prediction, to_target) = primals, tangents
    zero = target == 0
    divisor = jnp.where(zero, 1, target)
    slope = jnp.where(zero, 0, jnp.sign(prediction - target)) / (divisor * jnp.sign(divisor))
    tangent = slope * to_prediction - slope * (prediction / divisor) * to_target
    return _relative_error(prediction, target), tangent


@loss(convex, nonnegative, zero_at_match, target=nonzero)
def absolute_percentage_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to report errors as a share of the target, when no target is close to 0.

    $$\ell(p, t) = \frac{|p - t|}{|t|}$$

    A fraction: 0.25 is 25 % (keras multiplies by 100; scikit-learn does not). A forecast that is
    too low never costs more than 1, so minimising it forecasts too low. A target of 0 costs inf
    unless it is met (others divide by a small number instead).

    Args:
        prediction: What the model says.
        target: What was observed, not 0, in the same unit.

    Returns:
        The relative error of each example, as a fraction.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> absolute_percentage_error([3.0, 0.0, 1.0], [4.0, 4.0, 0.0])
        Array([0.25, 1.  ,  inf], dtype=float32)

    References:
        Hyndman and Koehler, *Another Look at Measures of Forecast Accuracy*, 2006.
    """
    return _relative_error(prediction, target)


@jax.custom_jvp
def _symmetric_relative_error(a: Array, b: Array) -> Array:
    size = jnp.abs(a) + jnp.abs(b)
    return 2 * (jnp.abs(a - b) / jnp.where(size == 0, 1, size))


@_symmetric_relative_error.defjvp
def _symmetric_relative_error_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Of the quotient's slope the part that is left over: nothing where the signs differ.
    (a, b), (to_a, to_b) = primals, tangents
    alike = (jnp.sign(a) == jnp.sign(b)) & (a != 0)
    size = jnp.where(alike, numerics.absolute(a) + numerics.absolute(b), 1)
    slope = jnp.where(alike, 4 * jnp.sign(a - b), 0) / size
    to_size = numerics.absolute(b) / size * to_a - numerics.absolute(a) / size * to_b
    return _symmetric_relative_error(a, b), slope * to_size


@loss(nonnegative, bounded, symmetric, zero_at_match)
def symmetric_absolute_percentage_error(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to report relative errors when targets may be close to 0: it never exceeds 2.

    $$\ell(p, t) = \frac{2 |p - t|}{|p| + |t|}$$

    A fraction of the mean size of both, as in the M4 competition but for its factor 100; others
    leave out the 2 and reach 1. Hard to train with: where the signs differ it is 2 and flat. Two
    zeros cost 0.

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.

    Returns:
        The relative error of each example, a fraction from 0 to 2.

    Raises:
        ValueError: If the shapes differ.

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
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict a whole distribution as several quantiles of one target.

    $$\ell(p, t) = \frac{1}{K} \sum_{k=1}^K \max\left( (1 - \tau_k) e_k, -\tau_k e_k \right),
      \qquad e_k = p_k - t$$

    The mean of `quantile` over the levels, so that their number does not change the scale
    (others take the sum). With many quantiles at even levels, twice this is the continuous ranked
    probability score. Nothing keeps the predicted quantiles in order.

    Args:
        prediction: The quantiles that the model says, one a level.
        target: What was observed, in the same unit.
        level: The share of the targets that is to lie below each of them; if None, the middles
            of even shares: 1/6, 1/2, 5/6 for three quantiles.

    Returns:
        The loss of each example, in the unit of the target.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> quantiles([[-1.0, 1.0]], [3.0], level=[0.25, 0.75])
        Array([1.25], dtype=float32)

    References:
        Koenker and Bassett, *Regression Quantiles*, 1978.
        Gneiting and Raftery, *Strictly Proper Scoring Rules, Prediction, and Estimation*, 2007.
    """
    if level is None:
        count = prediction.shape[-1]
        level = (jnp.arange(count, dtype=prediction.dtype) + 0.5) / count
    return jnp.mean(_pinball(prediction - target[..., None], level), axis=-1)


@loss(nonnegative, bounded, symmetric, scale_invariant)
def cosine_distance(
    prediction: Real[ArrayLike, "*batch features"],
    target: Real[ArrayLike, "*batch features"],
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to match the direction of a vector, an embedding say, whatever its length.

    $$\ell(p, t) = 1 - \frac{\langle p, t \rangle}{\lVert p \rVert \, \lVert t \rVert}
      = \frac12 \left\lVert \frac{p}{\lVert p \rVert} - \frac{t}{\lVert t \rVert} \right\rVert^2$$

    0 for one direction, 1 at a right angle, 2 for opposite ones. The second form is computed: it
    keeps the digits of small angles. The gradient grows as the prediction gets shorter. A zero
    vector has no direction: it costs 1, with gradient 0, and no epsilon is added. (keras returns
    minus the cosine, mlx the cosine.)

    Args:
        prediction: Vectors that the model says.
        target: Vectors to be met.

    Returns:
        The distance of each pair of vectors, from 0 to 2.

    Raises:
        ValueError: If the shapes differ.

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
    r"""Take it to report one number for a fit to the mean: `squared_error`, averaged by default.

    $$\frac{1}{n} \sum_{i=1}^n e_i^2$$

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.

    Returns:
        The mean squared error, a scalar, unless `reduction` says otherwise.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> mean_squared_error([1.0, 2.0], [1.5, 2.0])
        Array(0.125, dtype=float32)

    References:
        Gauss, *Theoria combinationis observationum erroribus minimis obnoxiae*, 1823.
    """
    return jnp.square(prediction - target)


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
    r"""Take it to report one number that outliers do not rule: `absolute_error`, averaged.

    $$\frac{1}{n} \sum_{i=1}^n |e_i|$$

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.

    Returns:
        The mean absolute error, a scalar, unless `reduction` says otherwise.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> mean_absolute_error([1.0, 2.0], [1.5, 2.0])
        Array(0.25, dtype=float32)

    References:
        Laplace, *Sur quelques points du système du monde*, 1789.
    """
    return numerics.absolute(prediction - target)
