r"""Focal losses, and other cross-entropies whose terms are reweighted by how easy an example is.

They are functions of $-\log p_y$, the negative log-probability of the label. The focal losses have
a factor $(1 - p_y)^\gamma$, which reduces the loss of examples that are classified well, so that
rare and hard examples dominate the gradient. `poly1` changes the first coefficient of the series of
the cross-entropy in $1 - p_y$.
"""

from typing import Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.classification._labels import (
    complement_of_nll,
    function_of_nll,
    nll_and_complement,
    weighted_labels,
)
from jaxloss.domains import (
    at_least_minus_one,
    class_ids,
    distribution,
    extended,
    nonnegative_number,
    unit_interval,
)
from jaxloss.numerics._double_double import DD
from jaxloss.numerics._labels import is_label, is_static_zero, uniform_over_finite
from jaxloss.numerics._sigmoid_nll import sigmoid_nll
from jaxloss.numerics._softmax_dense import softmax_cross_entropy_dense
from jaxloss.traits import bounded_gradient, nonnegative, shift_invariant, smooth

SoftLabels = Literal["expected_loss", "expected_probability"]


@jax.custom_jvp
def _complement_power(nll: Array, power: Array | float) -> Array:
    """(1 - p) ** power, where p = exp(-nll)."""
    return jnp.power(-jnp.expm1(-nll), power)


def _odds(nll: Array) -> Array:
    """p / (1 - p), for nll above 0."""
    return jnp.exp(-nll) / -jnp.expm1(-nll)


# At nll = 0, where the derivatives may not exist, they are 0.
_complement_power.defjvps(
    lambda nll_dot, out, nll, power: jnp.where(
        nll == 0, 0, out * (power * _odds(jnp.where(nll == 0, 1, nll)) * nll_dot)
    ),
    lambda power_dot, out, nll, _power: jnp.where(
        nll == 0, 0, out * (numerics.log1mexp(-jnp.where(nll == 0, 1, nll)) * power_dot)
    ),
)


def _nll_times_odds(nll: Array) -> Array:
    """nll p / (1 - p), which is 1 at nll = 0 and decreases to 0."""
    small = nll < 1e-2
    square = jnp.square(nll)
    series = 1 - nll / 2 + square / 12 - jnp.square(square) / 720
    safe = jnp.where(small, 1, jnp.minimum(nll, 1e3))  # not inf, which times 0 is NaN
    return jnp.where(small, series, safe * _odds(safe))


@jax.custom_jvp
def _focal(nll: Array, gamma: Array | float) -> Array:
    """(1 - p) ** gamma * nll, where p = exp(-nll)."""
    return _complement_power(nll, gamma) * nll


def _log_complement(nll: Array) -> Array:
    """log(1 - p); 0 at nll = 0, where the loss that it multiplies is 0."""
    return jnp.where(nll == 0, 0, numerics.log1mexp(-jnp.where(nll == 0, 1, nll)))


# Without the power gamma - 1, which is infinite at nll = 0 for gamma below 1.
_focal.defjvps(
    lambda nll_dot, _, nll, gamma: (
        _complement_power(nll, gamma) * (1 + gamma * _nll_times_odds(nll)) * nll_dot
    ),
    lambda gamma_dot, out, nll, _gamma: (
        numerics.multiply_no_nan(_log_complement(nll), out) * gamma_dot
    ),
)


def _focal_of_nll(nll: DD, gamma: Array | float) -> Array:
    """`_focal` of the rounded nll: its derivative has no exponential that needs the low word."""
    return _focal(nll.hi, gamma)


@jax.custom_jvp
def _modulated(nll: Array, complement: Array, gamma: Array | float) -> Array:
    """complement ** gamma * nll."""
    return jnp.power(complement, gamma) * nll


# The derivatives in the complement and in gamma are 0 where the complement is 0: so is nll there.
_modulated.defjvps(
    lambda nll_dot, _out, _nll, complement, gamma: jnp.power(complement, gamma) * nll_dot,
    lambda complement_dot, out, _nll, complement, gamma: (
        gamma * out / jnp.where(complement == 0, jnp.inf, complement) * complement_dot
    ),
    lambda gamma_dot, out, _nll, complement, _gamma: numerics.xlogy(out, complement) * gamma_dot,
)


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
    soft_labels: SoftLabels = "expected_loss",
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Focal loss of logits, one for each decision.

    When to use: binary classification or detection in which easy examples, such as background,
    outnumber those that matter.

    $$\ell(x, y) = -\alpha \, y \, (1 - p)^\gamma \log p
      - (1 - \alpha) (1 - y) \, p^\gamma \log(1 - p), \qquad p = \sigma(x)$$

    With $\gamma = 0$ it is `sigmoid_cross_entropy`. There is no alpha by default, as in optax, and
    both its factors are then 1; the paper and torchvision use `alpha=0.25`. For a label between 0
    and 1 this is the expected loss under the label. torchvision, optax and Keras compute another
    loss there, the cross-entropy times $(1 - p_t)^\gamma$ with the expected probability
    $p_t = y p + (1 - y)(1 - p)$: that is `soft_labels="expected_probability"`. They agree for
    labels of 0 and 1.

    Args:
        logits: Log-odds of yes; may be infinite.
        labels: 1 for yes, 0 for no, or the probability of yes.
        gamma: The exponent of the factor that reduces the loss of easy examples; 0 is no factor.
        alpha: The weight of yes, where no has weight 1 - alpha. If None, both weights are 1.
        label_smoothing: The part of each label that is replaced by 1/2.
        soft_labels: The loss of a label between 0 and 1: "expected_loss", or
            "expected_probability" as in torchvision, optax and Keras.

    Returns:
        The loss of each decision in nats.

    Example:
        >>> sigmoid_focal([0.0, 0.0], [1, 0], alpha=0.25)
        Array([0.0433217, 0.1299651], dtype=float32)

    References:
        Lin et al., *Focal Loss for Dense Object Detection*, 2017.
    """
    yes, no = labels, 1 - labels
    if not is_static_zero(label_smoothing):
        yes, no = ((1 - label_smoothing) * part + 0.5 * label_smoothing for part in (yes, no))
    if soft_labels == "expected_probability":
        complement = yes * numerics.sigmoid(-logits) + no * numerics.sigmoid(logits)
        focal = _modulated(sigmoid_nll(logits, yes, no), complement, gamma)
        return focal if alpha is None else (alpha * yes + (1 - alpha) * no) * focal
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
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    gamma: Real[ArrayLike, ""] = 2.0,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    class_weights: Real[ArrayLike, "classes"] | None = None,
    soft_labels: SoftLabels = "expected_loss",
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Focal loss of a softmax over several classes.

    When to use: classification into one of several classes in which most examples are easy.

    $$\ell(x, y) = -w_y \, (1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(x)$$

    With $\gamma = 0$ it is `softmax_cross_entropy`. `class_weights` is the paper's alpha, one for
    each class; Keras multiplies the loss by 0.25. The predicted probabilities are less confident
    than the true ones: calibrate them before they are used. For a distribution $q$ over classes
    this is the expected loss $\sum_k q_k \ell(x, k)$, as in Keras.
    `soft_labels="expected_probability"` is the cross-entropy times $(1 - \sum_k q_k p_k)^\gamma$
    instead. They agree for class ids.

    Args:
        logits: Scores of the classes; -inf gives a class probability 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False leaves a class out of an example, or of all examples.
        gamma: The exponent of the factor that reduces the loss of easy examples; 0 is no factor.
        label_smoothing: The part of each label that is spread evenly over the classes that are
            neither masked nor -inf.
        class_weights: The weight of each class.
        soft_labels: The loss of a distribution, and of a smoothed label: "expected_loss" or
            "expected_probability".

    Returns:
        The loss of each example in nats; inf if the label has probability 0, NaN if a class id
        names no class.

    Example:
        >>> softmax_focal([[0.0, 0.0], [20.0, 0.0]], [0, 0])
        Array([1.732868e-01, 8.756511e-27], dtype=float32)

    References:
        Lin et al., *Focal Loss for Dense Object Detection*, 2017.
    """
    is_smoothed = not is_static_zero(label_smoothing)
    if soft_labels == "expected_probability" and (is_smoothed or labels.ndim == logits.ndim):
        if labels.ndim < logits.ndim:
            labels = is_label(logits, labels).astype(logits.dtype)
        if is_smoothed:
            labels = (1 - label_smoothing) * labels + label_smoothing * uniform_over_finite(logits)
        complement = function_of_nll(complement_of_nll, logits, labels)
        nll = softmax_cross_entropy_dense(logits, weighted_labels(labels, class_weights))
        return _modulated(nll, complement, gamma)

    def expected(labels: Array) -> Array:
        return function_of_nll(_focal_of_nll, logits, labels, gamma, class_weights=class_weights)

    if not is_smoothed:
        return expected(labels)
    uniform = uniform_over_finite(logits)
    if labels.ndim == logits.ndim:
        return expected((1 - label_smoothing) * labels + label_smoothing * uniform)
    return (1 - label_smoothing) * expected(labels) + label_smoothing * expected(uniform)


def _clipped_nll_of_no(logits: Array, clip: Array | float) -> Array:
    """-log(1 - max(0, sigmoid(x) - clip))."""
    yes, no = numerics.sigmoid(logits), numerics.sigmoid(-logits)
    above = numerics.relu(yes - clip)
    is_near, unclipped = above < 0.5, clip == 0
    near = -jnp.log1p(-jnp.minimum(above, 0.5))
    far = -jnp.log(jnp.where(is_near | unclipped, 1, no + clip))
    # Without a clip, 1 - sigmoid of a large logit is 0, and its logarithm is not computed from it.
    # This form contains the clip as well, for the derivative in it.
    nll = numerics.softplus(logits)
    whole = nll - jnp.log1p(clip * jnp.exp(jnp.minimum(nll, 80)))
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
    r"""Asymmetric loss: a focal loss with an exponent for each sign, without easy negatives.

    When to use: multi-label classification with many labels, of which few are on.

    $$\ell(x, y) = -y \, (1 - p)^{\gamma_+} \log p - (1 - y) \, p_m^{\gamma_-} \log(1 - p_m),
      \qquad p = \sigma(x), \quad p_m = \max(0, p - m)$$

    Negatives with a probability below the clip $m$ have loss 0. The defaults are those of the
    authors' code (their paper has `gamma_positive=0`). The gradient includes that of the powers,
    which their code can treat as constants.

    Args:
        logits: Log-odds, one for each label; may be infinite.
        labels: 1 where a label is on, 0 where it is off, or the probability that it is on.
        gamma_positive: The exponent for positives.
        gamma_negative: The exponent for negatives.
        clip: The probability up to which a negative has loss 0.

    Returns:
        The loss of each decision in nats.

    Example:
        >>> asymmetric([0.0, -3.0], [1, 0])
        Array([0.3465736, 0.       ], dtype=float32)

    References:
        Ridnik et al., *Asymmetric Loss For Multi-Label Classification*, 2021.
    """
    yes = _focal(numerics.softplus(-logits), gamma_positive)
    no = _focal(_clipped_nll_of_no(logits, clip), gamma_negative)
    return numerics.multiply_no_nan(labels, yes) + numerics.multiply_no_nan(1 - labels, no)


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
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    epsilon: Real[ArrayLike, ""] = 2.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Poly-1 loss: the cross-entropy with another first coefficient of its series.

    When to use: in place of `softmax_cross_entropy`, with one number to tune.

    $$\ell(x, y) = -\log p_y + \varepsilon \, (1 - p_y), \qquad p = \mathrm{softmax}(x)$$

    The cross-entropy is $\sum_j (1 - p_y)^j / j$; the coefficient of its first term becomes
    $1 + \varepsilon$. An $\varepsilon$ above 0 gives more weight to confident predictions, one
    below 0 less. The default is that of optax; that of Rax is 1.

    Args:
        logits: Scores of the classes; -inf gives a class probability 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False leaves a class out of an example, or of all examples.
        epsilon: The number that is added to the first coefficient, at least -1.

    Returns:
        The loss of each example; inf if the label has probability 0, NaN if a class id names no
        class.

    Example:
        >>> poly1([[0.0, 0.0], [80.0, 0.0]], [0, 0])
        Array([1.6931472e+00, 5.4145543e-35], dtype=float32)

    References:
        Leng et al., *PolyLoss: A Polynomial Expansion Perspective of Classification Loss
        Functions*, 2022.
    """
    return function_of_nll(nll_and_complement, logits, labels, 1.0, epsilon)
