"""The Kullback-Leibler divergence, in both directions."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.domains import distribution, log_probability
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._kl_terms import log, relative_nll, relative_nll_of_log
from jaxloss.numerics._reductions import row_sum
from jaxloss.traits import bounded_gradient, convex, smooth, zero_at_match


@loss(
    convex,
    smooth,
    bounded_gradient,
    log_prediction=log_probability,
    target=distribution,
)
def kl(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Kullback-Leibler divergence of predicted log-probabilities from a target distribution.

    When to use: fitting log-probabilities to soft targets; with logits, `kl_logits` is more
    accurate.

    $$KL(q \| p) = \sum_k q_k \left( \log q_k - \log p_k \right)$$

    The cross-entropy less the entropy of the target: the same gradient in the prediction, and 0
    at the optimum. It is at least 0 as far as both sum to 1, which the rounding of p and q limits
    to about 1e-7; closer than that only logits tell them apart. (torch's `kl_div` averages over
    the classes as well by default; its "batchmean" does not.)

    Args:
        log_prediction: Log-probabilities of the classes; -inf rules a class out.
        target: Target probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats; inf where the target has what p rules out.

    Example:
        >>> kl(jnp.log(jnp.array([0.25, 0.75, 0.0])), [1.0, 0.0, 0.0])
        Array(1.3862944, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
    """
    return jnp.sum(relative_nll(log_prediction, target), axis=-1)


@loss(
    convex,
    smooth,
    bounded_gradient,
    zero_at_match,
    log_prediction=log_probability,
    log_target=log_probability,
)
def kl_log(
    log_prediction: Real[ArrayLike, "*batch classes"],
    log_target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Kullback-Leibler divergence of log-probabilities from target log-probabilities.

    When to use: as `kl`, where the target is given as log-probabilities, by a teacher for example.

    $$KL(q \| p) = \sum_k e^{\log q_k} \left( \log q_k - \log p_k \right)$$

    Log-probabilities represent probabilities below 1e-38, and those near 1, without rounding.

    Args:
        log_prediction: Log-probabilities of the classes; -inf rules a class out.
        log_target: Target log-probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats; inf where the target has what p rules out.

    Example:
        >>> kl_log([-jnp.log(4.0), -jnp.inf], [0.0, -jnp.inf])
        Array(1.3862944, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
    """
    return jnp.sum(relative_nll_of_log(log_prediction, log_target), axis=-1)


@separate_derivative
def _reverse_terms(log_prediction: Array, target: Array) -> Array:
    return relative_nll_of_log(log(target), log_prediction)


@loss(
    smooth,
    bounded_gradient,
    log_prediction=log_probability,
    target=distribution,
)
def reverse_kl(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Reverse Kullback-Leibler divergence, of the target from the prediction.

    When to use: the model cannot represent the whole target and should fit one mode of it.

    $$KL(p \| q) = \sum_k p_k \left( \log p_k - \log q_k \right)$$

    It is infinite if the prediction gives any probability to a class of target probability 0, and a
    class of predicted probability 0 contributes 0. It is mode-seeking; `kl` is mass-covering.

    Args:
        log_prediction: Log-probabilities of the classes.
        target: Target probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats.

    Example:
        >>> reverse_kl([0.0, -jnp.inf], [0.25, 0.75])
        Array(1.3862944, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
        Minka, *Divergence Measures and Message Passing*, 2005.
    """
    return row_sum(_reverse_terms(log_prediction, target))
