"""Weightings by discrete choices: projections in a random order, and selection."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.parameters import check_count
from jaxloss.aggregators._quadratic import check_gramian
from jaxloss.numerics._carry import carried


@functools.partial(jax.jit, inline=True)  # compiled once by eager calls
def _pcgrad(gramian: Array, key: Array) -> Array:
    count = len(gramian)

    def project(k: Array, key: Array) -> Array:
        order = jax.random.permutation(key, count)

        def step(i: Array, weights: Array) -> Array:
            other = order[i]
            inner, square = gramian[other] @ weights, gramian[other, other]
            conflict = (inner < 0) & (other != k) & (square > 0)
            component = jnp.where(conflict, inner / jnp.where(square > 0, square, 1), 0)
            return weights.at[other].add(-component)

        unit = (jnp.arange(count) == k).astype(gramian.dtype)
        return jax.lax.fori_loop(0, count, step, carried(unit, gramian, key))

    keys = jax.random.split(key, count)
    return jnp.sum(jax.vmap(project)(jnp.arange(count), keys), axis=0)


def pcgrad(gramian: Array, key: Array) -> Array:
    r"""Gradient surgery (PCGrad): removes from each gradient its components against the others.

    When to use: the classic method, as a baseline. `upgrad` does not depend on a random order.

    $$g_k' \leftarrow g_k' - \frac{\min(0, \langle g_k', g_l \rangle)}{\lVert g_l \rVert^2} g_l
      \quad \text{for all } l \ne k, \qquad d = \sum_k g_k'$$

    The projections onto the others are done in a random order, which matters for three losses and
    more: a later projection can bring back an earlier conflict. With two losses the result
    conflicts with neither. The direction is a sum, not a mean, as in the paper.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        key: A `jax.random.key`, for the orders.

    Returns:
        Weights of shape (m,).

    Raises:
        ValueError: If the Gramian is not square.

    Example:
        >>> pcgrad(jnp.array([[1.0, -0.5], [-0.5, 1.0]]), jax.random.key(0))
        Array([1.5, 1.5], dtype=float32)

    References:
        Yu et al., *Gradient Surgery for Multi-Task Learning*, 2020.
    """
    return _pcgrad(check_gramian("jaxloss.aggregators.pcgrad", gramian), key)


def krum(gramian: Array, *, byzantine: int, selected: int = 1) -> Array:
    r"""Krum (multi-Krum): the mean of the gradients that are nearest to their neighbours.

    When to use: gradients of which some may be corrupt or adversarial (byzantine).

    $$s_k = \sum_{l \in N_k} \lVert g_k - g_l \rVert, \qquad w_k = \frac1n \text{ for the } n
      \text{ smallest}$$

    The neighbours $N_k$ are the m - f - 2 nearest others, where f gradients may be byzantine. (The
    paper sums squared distances; this sums distances, as TorchJD does.)

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        byzantine: The number of gradients that may be corrupt, f; at most m - 3.
        selected: The number of gradients that are averaged, n.

    Returns:
        Weights of shape (m,), whose sum is 1.

    Raises:
        ValueError: If the Gramian is not square, or too small for `byzantine` or `selected`.

    Example:
        >>> stacked = jnp.array([[1.0, 0.0], [1.1, 0.0], [0.9, 0.0], [-9.0, 0.0]])
        >>> krum(stacked @ stacked.T, byzantine=1)
        Array([1., 0., 0., 0.], dtype=float32)

    References:
        Blanchard et al., *Machine Learning with Adversaries*, 2017.
    """
    fun_name = "jaxloss.aggregators.krum"
    gramian = check_gramian(fun_name, gramian)
    count = len(gramian)
    byzantine = check_count(fun_name, "byzantine", byzantine, least=0)
    selected = check_count(fun_name, "selected", selected)
    if byzantine > count - 3 or selected > count:
        message = (
            f"{fun_name}: of {count} gradients, expected 0 <= `byzantine` <= {count - 3} and 1 <= "
            f"`selected` <= {count}, got byzantine={byzantine}, selected={selected}."
        )
        raise ValueError(message)
    squares = jnp.diagonal(gramian)
    distances = jnp.sqrt(jnp.maximum(squares[None, :] + squares[:, None] - 2 * gramian, 0))
    distances = jnp.where(jnp.eye(count, dtype=bool), jnp.inf, distances)
    scores = jnp.sum(jnp.sort(distances, axis=1)[:, : count - byzantine - 2], axis=1)
    rank = jnp.argsort(jnp.argsort(scores))
    return (rank < selected).astype(gramian.dtype) / selected
