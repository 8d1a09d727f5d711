"""Several losses as one number to differentiate: no more than one backward pass.

`losses` is a dict of losses, taken in the order of their sorted names (the one that JAX gives every
dict), or an array of shape (m,). What is learned (log variances, log
scales) belongs among the parameters: mask it out of weight decay and of penalties.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._combine import vector


def _fitting(fun_name: str, name: str, given: Any, losses: Array) -> Array:
    array = jnp.asarray(given)
    if array.shape not in ((), losses.shape):
        message = (
            f"{fun_name}: `{name}` has shape {array.shape}, expected {losses.shape}, one a loss."
        )
        raise ValueError(message)
    return jnp.broadcast_to(array, losses.shape).astype(losses.dtype)


def uncertainty(losses: Any, log_variances: Any) -> Array:
    r"""Take it to learn how noisy each task is, and weigh it accordingly.

    $$\sum_k \frac12 \left( e^{-s_k} L_k + s_k \right)$$

    The log-likelihood of normal errors with variance $e^{s_k}$, if $L_k$ is a mean squared error.
    At the best s the weight of a loss is $1 / (2 L_k)$: learned, it minimizes the sum of the logs
    of the losses. Start it at 0 (TorchJD does; LibMTL starts at -0.5).

    Args:
        losses: A dict of losses, or an array of shape (m,).
        log_variances: Parameters of shape (m,), in that order.

    Returns:
        A scalar. It can be negative.

    Raises:
        ValueError: If there are no losses, or the shapes differ.

    Example:
        >>> uncertainty(jnp.array([2.0, 4.0]), jnp.zeros(2))
        Array(3., dtype=float32)

    References:
        Kendall, Gal and Cipolla, *Multi-Task Learning Using Uncertainty to Weigh Losses*, 2018.
    """
    fun_name = "jaxloss.aggregators.uncertainty"
    losses = vector(fun_name, losses)
    s = _fitting(fun_name, "log_variances", log_variances, losses)
    return 0.5 * jnp.sum(jnp.exp(-s) * losses + s)


def imtl_l(losses: Any, log_scales: Any) -> Array:
    r"""Take it to learn scales that make all losses equally large.

    $$\sum_k \left( e^{s_k} L_k - s_k \right)$$

    At the best s every scaled loss is 1, and the sum of their logs is minimized, as in
    `uncertainty`, but at twice the pull.

    Args:
        losses: A dict of losses, or an array of shape (m,).
        log_scales: Parameters of shape (m,), in that order.

    Returns:
        A scalar.

    Raises:
        ValueError: If there are no losses, or the shapes differ.

    Example:
        >>> imtl_l(jnp.array([2.0, 4.0]), jnp.zeros(2))
        Array(6., dtype=float32)

    References:
        Liu et al., *Towards Impartial Multi-Task Learning*, 2021.
    """
    fun_name = "jaxloss.aggregators.imtl_l"
    losses = vector(fun_name, losses)
    s = _fitting(fun_name, "log_scales", log_scales, losses)
    return jnp.sum(jnp.exp(s) * losses - s)


def geometric_mean(losses: Any) -> Array:
    r"""Take it when losses of different units are to count by their relative improvement.

    $$\left( \prod_k L_k \right)^{1/m}$$

    The weight of a loss is inverse to its size. A loss of 0 makes it 0, with gradient 0: there is
    then nothing left to improve.

    Args:
        losses: A dict of losses, or an array of shape (m,), at least 0.

    Returns:
        A scalar; NaN if a loss is below 0.

    Raises:
        ValueError: If there are no losses.

    Example:
        >>> geometric_mean(jnp.array([1.0, 4.0]))
        Array(2., dtype=float32)

    References:
        Chennupati et al., *MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
        Strategy*, 2019.
    """
    losses = vector("jaxloss.aggregators.geometric_mean", losses)
    done = jnp.any(losses == 0)
    return jnp.where(done, 0, jnp.exp(jnp.mean(jnp.log(jnp.where(done, 1, losses)))))


def smooth_tchebycheff(
    losses: Any, *, mu: Any = 1.0, weights: Any = None, ideal: Any = 0.0
) -> Array:
    r"""Take it to reach a chosen point of the front: a smooth maximum of the weighted losses.

    $$\mu \log \sum_k \exp \frac{w_k (L_k - z_k)}{\mu}$$

    Every trade-off, those on a hollow front included, is the minimum for some weights; a weighted
    sum finds only the bulging part. A small mu is close to the maximum itself.

    Args:
        losses: A dict of losses, or an array of shape (m,).
        mu: How smooth, above 0, in the unit of the weighted losses.
        weights: What each loss is multiplied by, of shape (m,); if None, 1/m.
        ideal: The value that each loss could have at best, a scalar or of shape (m,).

    Returns:
        A scalar.

    Raises:
        ValueError: If there are no losses, or the shapes differ.

    Example:
        >>> smooth_tchebycheff(jnp.array([1.0, 3.0]), mu=0.01, weights=jnp.ones(2))
        Array(3., dtype=float32)

    References:
        Lin et al., *Smooth Tchebycheff Scalarization for Multi-Objective Optimization*, 2024.
    """
    fun_name = "jaxloss.aggregators.smooth_tchebycheff"
    losses = vector(fun_name, losses)
    weights = _fitting(fun_name, "weights", 1 / losses.size if weights is None else weights, losses)
    above = weights * (losses - _fitting(fun_name, "ideal", ideal, losses))
    mu = jnp.asarray(mu).astype(losses.dtype)
    return mu * numerics.logsumexp(above / mu)
