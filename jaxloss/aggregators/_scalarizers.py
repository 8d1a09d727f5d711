"""Scalarizations: several losses as one number to differentiate, with one backward pass.

`losses` is a dict of losses, ordered by name as JAX orders every dict, or an array of shape (m,).
Learned scales (log variances, log scales) are parameters: mask them out of weight decay and
penalties.
"""

import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._combine import vector
from jaxloss._core.arguments import as_array
from jaxloss._core.spec import ArrayLike


def _of_shape(fun_name: str, name: str, given: ArrayLike, losses: Array) -> Array:
    array = jnp.asarray(as_array(fun_name, name, given))
    if array.shape not in ((), losses.shape):
        message = (
            f"{fun_name}: `{name}` has shape {array.shape}, expected {losses.shape}, a number for "
            f"each loss."
        )
        raise ValueError(message)
    return jnp.broadcast_to(array, losses.shape).astype(losses.dtype)


def uncertainty(losses: ArrayLike, log_variances: ArrayLike) -> Array:
    r"""Uncertainty weighting: the noise of each task is learned, and determines its weight.

    When to use: regression and classification losses of different scales, with weights that are
    learned at the cost of one backward pass.

    $$\sum_k \frac12 \left( e^{-s_k} L_k + s_k \right)$$

    For a mean squared error $L_k$ it is the negative log-likelihood of Gaussian errors with
    variance $e^{s_k}$. At the optimal s the weight of a loss is $1 / (2 L_k)$, and the sum of the
    logarithms of the losses is minimized. Start s at 0, as TorchJD does (LibMTL starts at -0.5).

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
    s = _of_shape(fun_name, "log_variances", log_variances, losses)
    return 0.5 * jnp.sum(jnp.exp(-s) * losses + s)


def imtl_l(losses: ArrayLike, log_scales: ArrayLike) -> Array:
    r"""Impartial multi-task learning (IMTL-L): learned scales that make all losses equally large.

    When to use: losses of different scales, with weights that are learned at the cost of one
    backward pass.

    $$\sum_k \left( e^{s_k} L_k - s_k \right)$$

    At the optimal s every scaled loss is 1, and the sum of the logarithms of the losses is
    minimized, as in `uncertainty`, with twice its gradient.

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
    s = _of_shape(fun_name, "log_scales", log_scales, losses)
    return jnp.sum(jnp.exp(s) * losses - s)


def geometric_mean(losses: ArrayLike) -> Array:
    r"""Geometric mean of the losses.

    When to use: positive losses of different units, which shall count by their relative decrease.

    $$\left( \prod_k L_k \right)^{1/m}$$

    The weight of a loss is inversely proportional to it. Where a loss is 0, so are the mean and its
    gradient.

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
    losses: ArrayLike,
    *,
    mu: ArrayLike = 1.0,
    weights: ArrayLike | None = None,
    ideal: ArrayLike = 0.0,
) -> Array:
    r"""Smooth Tchebycheff scalarization: a smooth maximum of the weighted losses.

    When to use: to reach a chosen point of the Pareto front, also where the front is not convex.

    $$\mu \log \sum_k \exp \frac{w_k (L_k - z_k)}{\mu}$$

    Every point of the Pareto front is the minimum for some weights and a small enough mu; a
    weighted sum reaches only those on its convex hull. As mu approaches 0 the value approaches the
    maximum.

    Args:
        losses: A dict of losses, or an array of shape (m,).
        mu: The smoothness, above 0, in the unit of the weighted losses.
        weights: The factor of each loss, of shape (m,); if None, 1/m.
        ideal: A lower bound of each loss, a scalar or of shape (m,).

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
    weights = 1 / losses.size if weights is None else weights
    weights = _of_shape(fun_name, "weights", weights, losses)
    above = weights * (losses - _of_shape(fun_name, "ideal", ideal, losses))
    mu = jnp.asarray(mu).astype(losses.dtype)
    return mu * numerics.logsumexp(above / mu)
