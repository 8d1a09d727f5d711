"""Balancers that depend on the lengths of the gradients, or on the history of their angles.

They need the Gramian. In a chain `transforms.aggregate` passes it; elsewhere write
`balancer.update(state, losses=losses, gramian=gramian)`, with that of
`gradients.value_and_gramian`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxloss._core.spec import ArrayLike
from jaxloss.aggregators._balancers import Balancer, adam_step, constant_losses, ratio, step_key
from jaxloss.aggregators._quadratic import check_gramian
from jaxloss.numerics._carry import carried


def _required(fun_name: str, gramian: ArrayLike, count: int) -> Array:
    if gramian is None:
        message = (
            f"{fun_name}: `gramian` was not given, but the weights depend on the gradients: write "
            f"`transforms.aggregate(balancer, m)` in a chain, or pass that of "
            f"`gradients.value_and_gramian`."
        )
        raise ValueError(message)
    gramian = check_gramian(fun_name, gramian)
    if len(gramian) != count:
        message = (
            f"{fun_name}: `gramian` is that of {len(gramian)} gradients, expected {count}, as "
            f"given to `init`."
        )
        raise ValueError(message)
    return gramian


class GradNormState(NamedTuple):
    """The weights, the state of their optimizer, and the first losses."""

    step: Array
    weights: Array
    optimizer: Any
    initial: Array


def gradnorm(*, alpha: float = 1.5, learning_rate: float = 0.025) -> Balancer:
    r"""GradNorm: weights that balance the lengths of the gradients and the rates of training.

    When to use: losses that shall train at the same rate, whatever their scales.

    $$\min_w \sum_k \left| w_k \lVert g_k \rVert - \bar G \, r_k^\alpha \right|, \qquad
      r_k = \frac{L_k / L_k(0)}{\frac1m \sum_l L_l / L_l(0)}$$

    $\bar G$ is the mean of the weighted lengths, and a constant of the gradient. After every update
    the weights take a step of Adam on this objective, are clipped at 0, and rescaled so that their
    sum is m; a step that makes all of them 0 is skipped. The paper uses the gradients of the last
    shared layer only: pass the Gramian of those.

    Args:
        alpha: The strength with which slower losses are favoured; 0 makes the lengths equal.
        learning_rate: The learning rate of the weights.

    Returns:
        A `Balancer` that needs `losses` and `gramian`, of which it uses the diagonal.

    Raises:
        ValueError: From `update`, if either is missing, or not of the size given to `init`.

    Example:
        >>> balancer = gradnorm(learning_rate=0.5)
        >>> losses, gramian = jnp.array([1.0, 1.0]), jnp.diag(jnp.array([4.0, 1.0]))
        >>> _, state = balancer.update(balancer.init(2), losses=losses, gramian=gramian)
        >>> state.weights.round(4)
        Array([0.5, 1.5], dtype=float32)

    References:
        Chen et al., *GradNorm: Gradient Normalization for Adaptive Loss Balancing*, 2018.
    """
    fun_name = "jaxloss.aggregators.gradnorm"
    tx = optax.adam(learning_rate)

    def init(count: int) -> GradNormState:
        ones = jnp.ones(count, jnp.float32)
        return GradNormState(jnp.zeros((), jnp.int32), ones, tx.init(ones), ones + 0)

    def update(
        state: GradNormState, *, losses: ArrayLike | None = None, gramian: ArrayLike | None = None
    ) -> tuple[Array, Any]:
        losses = constant_losses(fun_name, losses, state.weights.size)
        squares = jnp.diagonal(_required(fun_name, gramian, state.weights.size))
        norms = jnp.sqrt(squares).astype(jnp.float32)
        initial = jnp.where(state.step == 0, losses, state.initial)
        ratios = ratio(losses, initial)
        mean = jnp.mean(ratios)
        rates = ratios / jnp.where(mean == 0, 1, mean)
        lengths = state.weights * norms
        targets = jnp.mean(lengths) * rates ** jnp.asarray(alpha).astype(rates.dtype)
        slope = norms * jnp.sign(lengths - targets)
        weights, optimizer = adam_step(tx, slope, state.optimizer, state.weights)
        weights = jnp.maximum(weights, 0)
        total = jnp.sum(weights)
        weights = jnp.where(
            total == 0, state.weights, weights * weights.size / jnp.where(total == 0, 1, total)
        )
        return state.weights, GradNormState(state.step + 1, weights, optimizer, initial)

    return Balancer(init, update)


class GradVacState(NamedTuple):
    """The moving averages of the cosines between the gradients."""

    step: Array
    targets: Array


@functools.partial(jax.jit, inline=True)  # compiled once by eager calls
def _vaccinate(
    matrix: Array, targets: Array, keys: Array, decay: Array | float
) -> tuple[Array, Array]:
    """The weights of the sum of the vaccinated gradients, and the next targets."""
    count = len(matrix)
    decay = jnp.asarray(decay).astype(targets.dtype)

    def vaccinate(k: Array, targets: Array, key: Array) -> tuple[Array, Array]:
        order = jax.random.permutation(key, count)

        def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            weights, targets = carry
            other = order[i]
            different = other != k
            norm = jnp.sqrt(jnp.maximum(weights @ (matrix @ weights), 0))
            other_norm = jnp.sqrt(matrix[other, other])
            product = norm * other_norm
            safe = jnp.where(product == 0, 1, product)
            phi = jnp.where(product == 0, 0, matrix[other] @ weights / safe)
            target = targets[other].astype(phi.dtype)
            sine = jnp.sqrt(jnp.maximum(1 - phi**2, 0))
            sine_target = jnp.sqrt(jnp.maximum(1 - target**2, 0))
            divisor = other_norm * sine_target
            dividend = norm * (target * sine - phi * sine_target)
            needed = different & (phi < target) & (divisor > 0)
            change = jnp.where(needed, dividend / jnp.where(divisor > 0, divisor, 1), 0)
            moved = targets[other] + decay * (phi.astype(targets.dtype) - targets[other])
            targets = targets.at[other].set(jnp.where(different, moved, targets[other]))
            return weights.at[other].add(change), targets

        unit = (jnp.arange(count) == k).astype(matrix.dtype)
        return jax.lax.fori_loop(0, count, step, carried((unit, targets), matrix, decay, key))

    weights, targets = jax.vmap(vaccinate)(jnp.arange(count), targets, keys)
    return jnp.sum(weights, axis=0), targets


def grad_vac(*, decay: float = 0.5, seed: int = 0) -> Balancer:
    r"""Gradient vaccine (GradVac): restores the usual cosine of two gradients where it is smaller.

    When to use: gradients that usually agree. `pcgrad` changes only gradients that conflict.

    $$g_k' \leftarrow g_k' + \frac{\lVert g_k' \rVert \left( \hat\phi \sqrt{1 - \phi^2} - \phi
      \sqrt{1 - \hat\phi^2} \right)}{\lVert g_l \rVert \sqrt{1 - \hat\phi^2}} g_l
      \quad \text{if } \phi < \hat\phi_{kl}, \qquad
      \hat\phi \leftarrow (1 - \beta) \hat\phi + \beta \phi$$

    $\phi$ is the cosine of $g_k'$ and $g_l$, for all other $l$ in a random order. The targets
    $\hat\phi$ start at 0, where it equals `pcgrad`. The direction is a sum, not a mean.

    Args:
        decay: The share of the current cosine in the targets, beta.
        seed: The seed of the orders.

    Returns:
        A `Balancer` that needs `gramian`.

    Raises:
        ValueError: From `update`, if it is missing, or not of the size given to `init`.

    Example:
        >>> balancer = grad_vac()
        >>> balancer.update(balancer.init(2), gramian=jnp.array([[1.0, -0.5], [-0.5, 1.0]]))[0]
        Array([1.5, 1.5], dtype=float32)

    References:
        Wang et al., *Gradient Vaccine*, 2021.
    """
    fun_name = "jaxloss.aggregators.grad_vac"

    def init(count: int) -> GradVacState:
        return GradVacState(jnp.zeros((), jnp.int32), jnp.zeros((count, count), jnp.float32))

    def update(
        state: GradVacState, *, losses: ArrayLike | None = None, gramian: ArrayLike | None = None
    ) -> tuple[Array, GradVacState]:
        del losses
        count = state.targets.shape[0]
        matrix = _required(fun_name, gramian, count)
        keys = jax.random.split(step_key(seed, state.step), count)
        weights, targets = _vaccinate(matrix, state.targets, keys, decay)
        return weights, GradVacState(state.step + 1, targets)

    return Balancer(init, update)
