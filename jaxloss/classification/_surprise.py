r"""Functions of the surprise: losses that listen more, or less, to what the model finds unlikely.

The surprise of a label is the cross-entropy, $s = -\log p_y$. Focal losses turn down what is well
learned already, so that rare and hard examples count; robust losses turn down what is
unbelievable, so that wrong labels do not. A distribution over labels gives the mean over them.
"""

import functools
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import (
    at_least_minus_one,
    class_ids,
    distribution,
    extended,
    nonnegative_number,
    nonpositive_number,
    unit_interval,
)
from jaxloss.numerics._double_double import DD, exp_dd, two_product
from jaxloss.numerics._labels import is_static_zero, uniform_over_finite
from jaxloss.numerics._softmax_nll import expected_function_of_nll, softmax_nll_dd
from jaxloss.traits import bounded_gradient, nonnegative, shift_invariant, smooth


def _of_labels(
    function: Callable[..., Array],
    logits: Array,
    labels: Array,
    *options: Array,
    class_weights: Array | None = None,
) -> Array:
    """A function of the surprise of the label; or its mean, if labels are distributions.

    It is given the surprise as a `DD`, and the options.
    """
    if labels.ndim < logits.ndim:
        value = function(softmax_nll_dd(logits, labels), *options)
        return value if class_weights is None else class_weights[labels] * value
    weights = labels if class_weights is None else class_weights * labels
    options = tuple(jnp.asarray(x, logits.dtype) for x in options)
    return expected_function_of_nll(function, logits, weights, *options)


@jax.custom_jvp
def _complement_to(surprise: Array, power: Array) -> Array:
    """(1 - p) ** power, where p = exp(-surprise)."""
    return jnp.power(-jnp.expm1(-surprise), power)


@_complement_to.defjvp
def _complement_to_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    surprise, power = primals
    value = _complement_to(surprise, power)
    certain = surprise == 0
    surprise = jnp.where(certain, 1, surprise)
    odds = jnp.exp(-surprise) / -jnp.expm1(-surprise)
    tangent = value * (power * odds * tangents[0] + numerics.log1mexp(-surprise) * tangents[1])
    return value, jnp.where(certain, 0, tangent)


def _surprise_times_odds(surprise: Array) -> Array:
    """Of s, with p = exp(-s): s p / (1 - p), which is 1 at s = 0 and falls to 0."""
    small = surprise < 1e-2
    square = jnp.square(surprise)
    series = 1 - surprise / 2 + square / 12 - jnp.square(square) / 720
    safe = jnp.where(small, 1, jnp.minimum(surprise, 1e3))  # inf * 0 is not a number
    return jnp.where(small, series, safe * (jnp.exp(-safe) / -jnp.expm1(-safe)))


@jax.custom_jvp
def _focal(surprise: Array, gamma: Array) -> Array:
    """(1 - p) ** gamma * surprise, where p = exp(-surprise)."""
    return _complement_to(surprise, gamma) * surprise


@_focal.defjvp
def _focal_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # No power gamma - 1, which is infinite at a probability of 1 where gamma is below 1.
    surprise, gamma = primals
    share = _complement_to(surprise, gamma)
    slope = share * (1 + gamma * _surprise_times_odds(surprise))
    certain = surprise == 0
    logarithm = jnp.where(certain, 0, numerics.log1mexp(-jnp.where(certain, 1, surprise)))
    value = _focal(surprise, gamma)
    return value, slope * tangents[0] + numerics.multiply_no_nan(logarithm, value) * tangents[1]


def _focal_of_label(nll: DD, gamma: Array) -> Array:
    """`_focal` of the rounded number: its derivative has no exponential that would need `lo`."""
    return _focal(nll.hi, gamma)


@loss(
    nonnegative,
    smooth,
    bounded_gradient,
    logits=extended,
    labels=unit_interval,
    gamma=nonnegative_number,
    alpha=unit_interval,
    label_smoothing=unit_interval,
)
def sigmoid_focal(
    logits: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    gamma: Real[ArrayLike, ""] = 2.0,
    alpha: Real[ArrayLike, ""] | None = None,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for yes or no when easy examples, background say, outnumber those that matter.

    $$\ell(x, y) = -\alpha \, y \, (1 - p)^\gamma \log p
      - (1 - \alpha) (1 - y) \, p^\gamma \log(1 - p), \qquad p = \sigma(x)$$

    With $\gamma = 0$ it is `sigmoid_cross_entropy`. No balance by default, as in optax; the paper
    and torchvision take `alpha=0.25`, and without alpha both factors are 1. A label between 0 and
    1 mixes the two losses (optax and torchvision mix the probabilities inside the power).

    Args:
        logits: Scores before the sigmoid; infinite ones are sure.
        labels: 1 for yes, 0 for no, or the probability of yes.
        gamma: How much easy examples are turned down; 0 is not at all.
        alpha: The weight of yes, that of no being 1 - alpha; both are 1 if it is left out.
        label_smoothing: The share of each label that is moved to 1/2.

    Returns:
        The loss of each decision in nats.

    Raises:
        ValueError: If the shapes differ, gamma is a number below 0, or alpha or the label
            smoothing is not in [0, 1].

    Example:
        >>> sigmoid_focal([0.0, 0.0], [1, 0], alpha=0.25)
        Array([0.0433217, 0.1299651], dtype=float32)

    References:
        Lin et al., *Focal Loss for Dense Object Detection*, 2017.
    """
    yes, no = labels, 1 - labels
    if not is_static_zero(label_smoothing):
        yes, no = ((1 - label_smoothing) * share + 0.5 * label_smoothing for share in (yes, no))
    if alpha is not None:
        yes, no = alpha * yes, (1 - alpha) * no
    of_yes = numerics.multiply_no_nan(yes, _focal(numerics.softplus(-logits), gamma))
    return of_yes + numerics.multiply_no_nan(no, _focal(numerics.softplus(logits), gamma))


@loss(
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=[class_ids("classes"), distribution],
    gamma=nonnegative_number,
    label_smoothing=unit_interval,
    class_weights=nonnegative_number,
)
def softmax_focal(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    gamma: Real[ArrayLike, ""] = 2.0,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to choose one of several classes when most examples are easy, and hard ones rare.

    $$\ell(x, y) = -w_y \, (1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(x)$$

    With $\gamma = 0$ it is `softmax_cross_entropy`. `class_weights` is the paper's alpha, class
    by class; keras multiplies everything by 0.25. The probabilities come out less sure than they
    are: calibrate them before reading them.

    Args:
        logits: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        gamma: How much easy examples are turned down; 0 is not at all.
        label_smoothing: The share of each label that is spread evenly over the possible classes.
        class_weights: How much each class counts.

    Returns:
        The loss of each example in nats; inf if the label's class is impossible, NaN if a class
        id names no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If labels or class weights do not fit the logits, gamma is below 0, or the
            label smoothing is not in [0, 1].

    Example:
        >>> softmax_focal([[0.0, 0.0], [20.0, 0.0]], [0, 0])
        Array([1.732868e-01, 8.756511e-27], dtype=float32)

    References:
        Lin et al., *Focal Loss for Dense Object Detection*, 2017.
    """
    of = functools.partial(_of_labels, _focal_of_label, logits, class_weights=class_weights)
    if is_static_zero(label_smoothing):
        return of(labels, gamma)
    even = uniform_over_finite(logits)
    if labels.ndim == logits.ndim:
        return of((1 - label_smoothing) * labels + label_smoothing * even, gamma)
    return (1 - label_smoothing) * of(labels, gamma) + label_smoothing * of(even, gamma)


def _surprise_of_no(logits: Array, clip: Array) -> Array:
    """-log(1 - max(0, sigmoid(x) - clip)): the surprise of no, forgiven up to clip."""
    yes, no = numerics.sigmoid(logits), numerics.sigmoid(-logits)
    forgiven = numerics.relu(yes - clip)
    near = -jnp.log1p(-jnp.minimum(forgiven, 0.5))
    is_near, unclipped = forgiven < 0.5, clip == 0
    far = -jnp.log(jnp.where(is_near | unclipped, 1, no + clip))
    # Without a clip the sigmoid of a large logit would leave nothing to take the logarithm of. The
    # clip stands in this form too, for its derivative.
    surprise = numerics.softplus(logits)
    whole = surprise - jnp.log1p(clip * jnp.exp(jnp.minimum(surprise, 80)))
    return jnp.where(unclipped, whole, jnp.where(is_near, near, far))


@loss(
    nonnegative,
    bounded_gradient,
    logits=extended,
    labels=unit_interval,
    gamma_positive=nonnegative_number,
    gamma_negative=nonnegative_number,
    clip=unit_interval,
)
def asymmetric(
    logits: Real[ArrayLike, "*batch"],
    labels: Real[ArrayLike, "*batch"],
    *,
    gamma_positive: Real[ArrayLike, ""] = 1.0,
    gamma_negative: Real[ArrayLike, ""] = 4.0,
    clip: Real[ArrayLike, ""] = 0.05,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to tag with many labels of which few are on: easy negatives are turned down, or off.

    $$\ell(x, y) = -y \, (1 - p)^{\gamma_+} \log p - (1 - y) \, p_m^{\gamma_-} \log(1 - p_m),
      \qquad p = \sigma(x), \quad p_m = \max(0, p - m)$$

    A focal loss with a strength each for yes and no, and negatives below a probability of $m$, the
    clip, left out. The defaults are those of the authors' code (their paper has
    `gamma_positive=0`); the gradient goes through the powers, which their code can switch off.

    Args:
        logits: Scores before the sigmoid, one a label; infinite ones are sure.
        labels: 1 where a label is on, 0 where it is off, or the probability that it is on.
        gamma_positive: How much easy positives are turned down.
        gamma_negative: How much easy negatives are turned down.
        clip: The probability up to which a negative costs nothing.

    Returns:
        The loss of each decision in nats.

    Raises:
        ValueError: If the shapes differ, a gamma is a number below 0, or the clip is not in [0, 1].

    Example:
        >>> asymmetric([0.0, -3.0], [1, 0])
        Array([0.3465736, 0.       ], dtype=float32)

    References:
        Ridnik et al., *Asymmetric Loss For Multi-Label Classification*, 2021.
    """
    yes = _focal(numerics.softplus(-logits), gamma_positive)
    no = _focal(_surprise_of_no(logits, clip), gamma_negative)
    return numerics.multiply_no_nan(labels, yes) + numerics.multiply_no_nan(1 - labels, no)


@jax.custom_jvp
def _bounded(nll: DD, bound: Array) -> Array:
    """(1 - exp(-q s)) / q: the surprise s itself at q = 0, and the less of it the larger q.

    The low-order word of s is used by the slope exp(-q s) alone.
    """
    surprise = nll.hi
    exponent = surprise * jnp.where(bound == 0, 1, bound)
    # Where the exponent is that small, also if q is a denormal number, the surprise is exact.
    same = (bound == 0) | (exponent < 1e-30)
    return jnp.where(same, surprise, -jnp.expm1(-exponent) / jnp.where(same, 1, bound))


@_bounded.defjvp
def _bounded_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (surprise, lost), bound = primals
    value = _bounded(*primals)
    exponent, error = two_product(jnp.where(bound == 0, 0, surprise), bound)
    slope = exp_dd(-DD(exponent, error + bound * lost))
    # d value / dq = s^2 f(q s), where f(z) = (z e^-z + e^-z - 1) / z^2, a series near 0.
    small = exponent < 0.5
    near = jnp.where(small, exponent, 0)
    series = jnp.zeros_like(near)
    factorial = 1.0
    coefficients = []
    for n in range(1, 17):
        factorial *= n + 1
        coefficients.append((-1) ** n * n / factorial)
    for coefficient in reversed(coefficients):
        series = coefficient + near * series
    few = jnp.where(small & (surprise < jnp.inf), jnp.minimum(surprise, 1e18), 0)  # finite squared
    many = jnp.where(small, 0, surprise)
    far = (numerics.multiply_no_nan(slope, many) - value) / jnp.where(small, 1, bound)
    to_bound = jnp.where(small, jnp.square(few) * series, far)
    return value, slope * tangents[0].hi + to_bound * tangents[1]


@loss(
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=[class_ids("classes"), distribution],
    q=unit_interval,
)
def generalized_cross_entropy(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    q: Real[ArrayLike, ""] = 0.7,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to choose one of several classes when some labels are wrong: no example costs > 1/q.

    $$\ell(x, y) = \frac{1 - p_y^q}{q}, \qquad p = \mathrm{softmax}(x)$$

    Between the cross-entropy, its limit at $q = 0$, which learns fast and believes every label, and
    half the absolute error of the probabilities at $q = 1$, which learns slowly and resists. The
    gradient of a label is that of the cross-entropy, times $p_y^q$.

    Args:
        logits: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        q: From 0, the cross-entropy, to 1, the most robust.

    Returns:
        The loss of each example; NaN if a class id names no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If the labels do not fit the logits, or q is a number outside [0, 1].

    Example:
        >>> generalized_cross_entropy([[0.0, 0.0], [-1000.0, 0.0]], [0, 0], q=1.0)
        Array([0.5, 1. ], dtype=float32)

    References:
        Zhang and Sabuncu, *Generalized Cross Entropy Loss for Training Deep Neural Networks with
        Noisy Labels*, 2018.
    """
    return _of_labels(_bounded, logits, labels, q)


@jax.custom_jvp
def _miss(nll: DD) -> Array:
    """1 - p, where p = exp(-nll); the low-order word is used by its slope, p, alone."""
    return -jnp.expm1(-nll.hi)


@_miss.defjvp
def _miss_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # JAX has 1 + expm1 for the slope, which is 0 where p is small.
    (nll,), (nll_dot,) = primals, tangents
    return _miss(nll), exp_dd(-nll) * nll_dot.hi


def _surprise_and_miss(nll: DD, alpha: Array, beta: Array) -> Array:
    """alpha * s + beta * (1 - p), where p = exp(-s)."""
    return alpha * nll.hi + beta * _miss(nll)


@loss(
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=[class_ids("classes"), distribution],
    alpha=nonnegative_number,
    beta=nonnegative_number,
    log_of_zero=nonpositive_number,
)
def symmetric_cross_entropy(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    alpha: Real[ArrayLike, ""] = 0.1,
    beta: Real[ArrayLike, ""] = 1.0,
    log_of_zero: Real[ArrayLike, ""] = -4.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to choose one of several classes when some labels are wrong, but a few are precious.

    $$\ell(x, y) = -\alpha \log p_y - \beta A \, (1 - p_y), \qquad p = \mathrm{softmax}(x)$$

    The second term is the reverse cross-entropy of the label given the prediction, where the log
    of a label's 0 is $A$; it resists, the first one learns. Alpha, beta and A differ from code to
    code (the authors' clips labels at 1e-4, which is `log_of_zero=-9.21`).

    Args:
        logits: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        alpha: The weight of the cross-entropy.
        beta: The weight of the reverse cross-entropy.
        log_of_zero: What the log of 0 is taken to be in the reverse cross-entropy, below 0.

    Returns:
        The loss of each example; inf if the label's class is impossible, NaN if a class id names
        no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If the labels do not fit the logits, or a number is outside its range.

    Example:
        >>> symmetric_cross_entropy([0.0, 0.0], 0, alpha=0.0)
        Array(2., dtype=float32)

    References:
        Wang et al., *Symmetric Cross Entropy for Robust Learning with Noisy Labels*, 2019.
    """
    return _of_labels(_surprise_and_miss, logits, labels, alpha, -log_of_zero * beta)


@loss(
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=[class_ids("classes"), distribution],
    epsilon=at_least_minus_one,
)
def poly1(
    logits: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    epsilon: Real[ArrayLike, ""] = 2.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it in place of the cross-entropy when one number is to be tuned, and often helps.

    $$\ell(x, y) = -\log p_y + \varepsilon \, (1 - p_y), \qquad p = \mathrm{softmax}(x)$$

    The cross-entropy is $\sum_j (1 - p_y)^j / j$; this changes the weight of its first term from 1
    to $1 + \varepsilon$. Above 0 it insists on sure predictions, below 0 it mistrusts them. The
    default is optax's; rax has 1.

    Args:
        logits: Scores of the classes; -inf makes a class impossible.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        epsilon: What is added to the weight of the first term, at least -1.

    Returns:
        The loss of each example; inf if the label's class is impossible, NaN if a class id names
        no class.

    Raises:
        TypeError: If class ids are not integers.
        ValueError: If the labels do not fit the logits, or epsilon is a number below -1.

    Example:
        >>> poly1([[0.0, 0.0], [80.0, 0.0]], [0, 0])
        Array([1.6931472e+00, 5.4145543e-35], dtype=float32)

    References:
        Leng et al., *PolyLoss: A Polynomial Expansion Perspective of Classification Loss
        Functions*, 2022.
    """
    return _of_labels(_surprise_and_miss, logits, labels, jnp.ones_like(epsilon), epsilon)
