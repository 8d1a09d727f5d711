r"""Robust losses for noisy labels: a label that is far from the prediction has bounded influence.

With $p_y$ the predicted probability of the label, the cross-entropy $-\log p_y$ is not bounded, so
that confident predictions are drawn to wrong labels. These losses are functions of $-\log p_y$ that
grow more slowly, up to $1 - p_y$.
"""

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.classification._labels import function_of_nll, nll_and_complement
from jaxloss.domains import (
    class_ids,
    distribution,
    extended,
    nonnegative_number,
    nonpositive_number,
    unit_interval,
)
from jaxloss.numerics._double_double import DD, exp_dd
from jaxloss.numerics._polynomials import horner
from jaxloss.traits import bounded_gradient, nonnegative, shift_invariant, smooth


@jax.custom_jvp
def _box_cox(nll: DD, q: Array | float) -> Array:
    """(1 - p^q) / q, where p = exp(-nll): nll itself at q = 0, 1 - p at q = 1."""
    exponent = nll.hi * jnp.where(q == 0, 1, q)
    # Where the exponent is that small, also if q is subnormal, the result is nll to rounding.
    is_nll = (q == 0) | (exponent < 1e-30)
    return jnp.where(is_nll, nll.hi, -jnp.expm1(-exponent) / jnp.where(is_nll, 1, q))


def _power(nll: DD, q: Array | float) -> Array:
    """p^q, the derivative of `_box_cox` in nll."""
    return exp_dd(-(DD(jnp.where(q == 0, 0, nll.hi), nll.lo) * q))


def _slope_in_q(out: Array, nll: DD, q: Array | float) -> Array:
    """nll^2 f(q nll), where f(z) = (z e^-z + e^-z - 1) / z^2; f is a series near 0."""
    exponent = jnp.where(q == 0, 0, nll.hi) * q
    small = exponent < 0.5
    series = horner(jnp.where(small, exponent, 0), _SERIES)
    few = jnp.where(small & (nll.hi < jnp.inf), jnp.minimum(nll.hi, 1e18), 0)  # finite squared
    many = jnp.where(small, 0, nll.hi)
    far = (numerics.multiply_no_nan(_power(nll, q), many) - out) / jnp.where(small, 1, q)
    return jnp.where(small, jnp.square(few) * series, far)


_SERIES = [(-1) ** n * n / math.factorial(n + 1) for n in range(1, 17)]
_box_cox.defjvps(
    lambda nll_dot, _, nll, q: _power(nll, q) * nll_dot.hi,
    lambda q_dot, out, nll, q: _slope_in_q(out, nll, q) * q_dot,
)


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
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    q: Real[ArrayLike, ""] = 0.7,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Generalized cross-entropy: between the cross-entropy and the mean absolute error.

    When to use: classification with wrong labels.

    $$\ell(x, y) = \frac{1 - p_y^q}{q}, \qquad p = \mathrm{softmax}(x)$$

    At $q = 0$ it is the cross-entropy; at $q = 1$ it is $1 - p_y$, half the absolute error of the
    probabilities, which is robust but hard to train with. It is bounded by $1 / q$. The gradient is
    that of the cross-entropy times $p_y^q$, so that labels far from the prediction have little
    influence. For distributions it is the expected loss.

    Args:
        logits: Scores of the classes; -inf gives a class probability 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False leaves a class out of an example, or of all examples.
        q: From 0, the cross-entropy, to 1, the most robust.

    Returns:
        The loss of each example; NaN if a class id names no class.

    Example:
        >>> generalized_cross_entropy([[0.0, 0.0], [-1000.0, 0.0]], [0, 0], q=1.0)
        Array([0.5, 1. ], dtype=float32)

    References:
        Zhang and Sabuncu, *Generalized Cross Entropy Loss for Training Deep Neural Networks with
        Noisy Labels*, 2018.
    """
    return function_of_nll(_box_cox, logits, labels, q)


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
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    alpha: Real[ArrayLike, ""] = 0.1,
    beta: Real[ArrayLike, ""] = 1.0,
    log_of_zero: Real[ArrayLike, ""] = -4.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Symmetric cross-entropy: the cross-entropy plus the reverse cross-entropy.

    When to use: classification with wrong labels, where `generalized_cross_entropy` learns too
    slowly.

    $$\ell(x, y) = -\alpha \log p_y - \beta A \, (1 - p_y), \qquad p = \mathrm{softmax}(x)$$

    The second term is the reverse cross-entropy, of the label given the prediction, where the
    logarithm of the 0s of the label is $A$. It is bounded and robust; the first term learns faster.
    Alpha, beta and A differ between implementations (that of the authors clips labels at 1e-4,
    which is `log_of_zero=-9.21`).

    Args:
        logits: Scores of the classes; -inf gives a class probability 0.
        labels: Class ids, integers without the class axis; or distributions over the classes.
        mask: False leaves a class out of an example, or of all examples.
        alpha: The weight of the cross-entropy.
        beta: The weight of the reverse cross-entropy.
        log_of_zero: The number used for log(0) in the reverse cross-entropy, at most 0.

    Returns:
        The loss of each example; inf if the label has probability 0, NaN if a class id names no
        class.

    Example:
        >>> symmetric_cross_entropy([0.0, 0.0], 0, alpha=0.0)
        Array(2., dtype=float32)

    References:
        Wang et al., *Symmetric Cross Entropy for Robust Learning with Noisy Labels*, 2019.
    """
    return function_of_nll(nll_and_complement, logits, labels, alpha, -log_of_zero * beta)
