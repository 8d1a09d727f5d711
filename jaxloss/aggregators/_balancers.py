"""Balancers: weights that depend on the history of the losses, with an explicit state.

Call `weights, state = balancer.update(state, losses=losses)` at every step. The weights are
constants of the gradient. They multiply the losses, with one backward pass
(`jaxloss.total({"a": (a, weights[0]), ...})`), or their gradients, with one backward pass for each
loss (`transforms.aggregate(balancer, m)`). Both ways give the same steps. Balancers that depend on
gradients are in `_gradient_balancers`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from jaxloss._combine import vector
from jaxloss._core.parameters import check_count, real_scalar
from jaxloss._core.spec import ArrayLike
from jaxloss.domains import positive


class Balancer(NamedTuple):
    """A weighting with a state: a pair of pure functions.

    Attributes:
        init: `init(m)` returns the state for m losses, a pytree of arrays.
        update: `update(state, losses=..., gramian=...)` returns the weights for these losses, of
            shape (m,), and the next state. Losses are an array of shape (m,), or a dict, which is
            ordered by name.
    """

    init: Callable[[int], Any]
    update: Callable[..., tuple[Array, Any]]


def constant_losses(fun_name: str, losses: ArrayLike, count: int) -> Array:
    """The losses as a float32 array of shape (m,), without a gradient."""
    if losses is None:
        message = (
            f"{fun_name}: `losses` was not given, but the weights depend on them: write "
            f"`balancer.update(state, losses=losses)`, or in a chain `tx.update(grads, state, "
            f"params, losses=losses)`."
        )
        raise ValueError(message)
    losses = jax.lax.stop_gradient(vector(fun_name, losses)).astype(jnp.float32)
    if losses.size != count:
        message = f"{fun_name}: got {losses.size} losses, expected {count}, as given to `init`."
        raise ValueError(message)
    return losses


def ratio(now: Array, past: Array) -> Array:
    """`now / past`, finite: 1 where `past` is 0, since no relative change is known there."""
    quotient = now / jnp.where(past == 0, 1, past)
    return jnp.where(past == 0, 1, jnp.clip(quotient, *_FINITE))


def step_key(seed: int, step: Array) -> Array:
    """The key of a step, from a counter, so that a checkpoint holds only ordinary arrays."""
    return jax.random.fold_in(jax.random.key(seed), step)


_FINITE = float(jnp.finfo(jnp.float32).min), float(jnp.finfo(jnp.float32).max)


def softmax(ratios: Array, temperature: Array | float) -> Array:
    """The softmax of `ratios / temperature`, where that overflows, too."""
    temperature = jnp.asarray(temperature).astype(ratios.dtype)
    return jax.nn.softmax((ratios - jnp.max(ratios)) / temperature)


def adam_step(
    tx: optax.GradientTransformation, gradient: Array, state: PyTree, variables: Array
) -> tuple[Array, Any]:
    """The next variables and state; Optax's Adam does not run under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        change, state = tx.update(gradient, state, variables)
        return jnp.asarray(optax.apply_updates(variables, change)), state


class DwaState(NamedTuple):
    """The sum of the losses of the current epoch, and the means of the two epochs before it."""

    step: Array
    total: Array
    newer: Array
    older: Array


def dwa(steps_per_epoch: int, *, temperature: float = 2.0) -> Balancer:
    r"""Dynamic weight averaging (DWA): larger weights for losses that decreased less.

    When to use: losses that decrease at different rates, at the cost of one backward pass.

    $$w_k = m \, \mathrm{softmax}_k \frac{r_k}{T}, \qquad
      r_k = \frac{\bar L_k(e - 1)}{\bar L_k(e - 2)}$$

    The sum of the weights is m. In the first two epochs all of them are 1. The ratio to a loss of 0
    counts as 1.

    Args:
        steps_per_epoch: The number of updates over which the losses are averaged.
        temperature: The larger, the more even are the weights; 2 in the paper.

    Returns:
        A `Balancer` that needs `losses`.

    Raises:
        ValueError: If `steps_per_epoch` is below 1, or `temperature` is not above 0.

    Example:
        >>> balancer = dwa(steps_per_epoch=1)
        >>> balancer.update(balancer.init(2), losses=jnp.array([1.0, 2.0]))[0]
        Array([1., 1.], dtype=float32)

    References:
        Liu, Johns and Davison, *End-to-End Multi-Task Learning with Attention*, 2019.
    """
    fun_name = "jaxloss.aggregators.dwa"
    steps_per_epoch = check_count(fun_name, "steps_per_epoch", steps_per_epoch)
    real_scalar(fun_name, "temperature", temperature, positive)

    def init(count: int) -> DwaState:
        zeros = jnp.zeros(count, jnp.float32)
        return DwaState(jnp.zeros((), jnp.int32), zeros, zeros + 0, zeros + 0)

    def update(
        state: DwaState, *, losses: ArrayLike | None = None, gramian: ArrayLike | None = None
    ) -> tuple[Array, Any]:
        del gramian
        losses = constant_losses(fun_name, losses, state.total.size)
        epoch, place = state.step // steps_per_epoch, state.step % steps_per_epoch
        weights = losses.size * softmax(ratio(state.newer, state.older), temperature)
        weights = jnp.where(epoch < 2, jnp.ones_like(weights), weights)
        total = state.total + losses
        ends = place == steps_per_epoch - 1
        return weights, DwaState(
            state.step + 1,
            jnp.where(ends, 0, total),
            jnp.where(ends, total / steps_per_epoch, state.newer),
            jnp.where(ends, state.newer, state.older),
        )

    return Balancer(init, update)


class FamoState(NamedTuple):
    """The logits of the weights, the state of their optimizer, and the previous losses."""

    step: Array
    logits: Array
    optimizer: Any
    previous: Array


def famo(
    *, learning_rate: float = 0.025, weight_decay: float = 1e-3, ideal: ArrayLike = 0.0
) -> Balancer:
    r"""FAMO: weights that equalize the relative decrease of all losses.

    When to use: many losses, at the cost of one backward pass.

    $$w_k = \frac{z_k / (L_k - b_k)}{\sum_l z_l / (L_l - b_l)}, \qquad
      z = \mathrm{softmax}(\xi), \qquad \xi \leftarrow \xi - \eta \, \mathrm{Adam} \left(
      \nabla_\xi z^\top \log \frac{L - b}{L' - b} + \gamma \xi \right)$$

    $L'$ are the losses after the step: here those of the next update, on the next batch. The paper
    evaluates the same batch again, which is less noisy; to do so, call `update` a second time with
    those losses, and use its state but not its weights.

    Args:
        learning_rate: The learning rate of the logits.
        weight_decay: The weight decay of the logits.
        ideal: A lower bound of each loss, a scalar or of shape (m,).

    Returns:
        A `Balancer` that needs `losses`, above `ideal`.

    Raises:
        ValueError: From `update`, if the losses are missing or not as many as given to `init`.

    Example:
        >>> balancer = famo()
        >>> balancer.update(balancer.init(2), losses=jnp.array([1.0, 3.0]))[0]
        Array([0.75, 0.25], dtype=float32)

    References:
        Liu et al., *FAMO: Fast Adaptive Multitask Optimization*, 2023.
    """
    fun_name = "jaxloss.aggregators.famo"
    tx = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))

    def init(count: int) -> FamoState:
        zeros = jnp.zeros(count, jnp.float32)
        return FamoState(jnp.zeros((), jnp.int32), zeros, tx.init(zeros), zeros + 1)

    def update(
        state: FamoState, *, losses: ArrayLike | None = None, gramian: ArrayLike | None = None
    ) -> tuple[Array, Any]:
        del gramian
        losses = constant_losses(fun_name, losses, state.logits.size)
        above = jnp.maximum(losses - jnp.asarray(ideal).astype(losses.dtype), 0) + 1e-8
        _, vjp_fn = jax.vjp(jax.nn.softmax, state.logits)
        (gradient,) = vjp_fn(jnp.log(state.previous) - jnp.log(above))
        first = state.step == 0
        logits, optimizer = jax.tree.map(
            lambda new, old: jnp.where(first, old, new),
            adam_step(tx, gradient, state.optimizer, state.logits),
            (state.logits, state.optimizer),
        )
        raw = jax.nn.softmax(logits) / above
        return raw / jnp.sum(raw), FamoState(state.step + 1, logits, optimizer, above)

    return Balancer(init, update)


class RelobraloState(NamedTuple):
    """The weights, and the first and the previous losses."""

    step: Array
    weights: Array
    initial: Array
    previous: Array


def relobralo(
    *, alpha: float = 0.999, temperature: float = 0.1, lookback: float = 0.999, seed: int = 0
) -> Balancer:
    r"""ReLoBRaLo: weights from relative progress, compared with the last step or with the first.

    When to use: physics-informed networks, with losses of residuals and boundary conditions.

    $$w(t) = \alpha \left( \rho \, w(t - 1) + (1 - \rho) \hat w(t, 0) \right) + (1 - \alpha)
      \hat w(t, t - 1), \qquad
      \hat w_k(t, t') = m \, \mathrm{softmax}_k \frac{L_k(t)}{T L_k(t')}$$

    $\rho$ is 1 with the probability `lookback`, else 0.

    Args:
        alpha: The share of the past that each step keeps.
        temperature: The larger, the more even are the weights.
        lookback: The probability that the past is that of the weights, not of the first losses.
        seed: The seed of $\rho$.

    Returns:
        A `Balancer` that needs `losses`. Its first weights are 1, and their sum is always m.

    Raises:
        ValueError: From `update`, if the losses are missing or not as many as given to `init`.

    Example:
        >>> balancer = relobralo()
        >>> balancer.update(balancer.init(2), losses=jnp.array([1.0, 2.0]))[0]
        Array([1., 1.], dtype=float32)

    References:
        Bischof and Kraus, *Multi-Objective Loss Balancing for Physics-Informed Deep Learning*,
        2021.
    """
    fun_name = "jaxloss.aggregators.relobralo"

    def init(count: int) -> RelobraloState:
        ones = jnp.ones(count, jnp.float32)
        return RelobraloState(jnp.zeros((), jnp.int32), ones, ones + 0, ones + 0)

    def update(
        state: RelobraloState, *, losses: ArrayLike | None = None, gramian: ArrayLike | None = None
    ) -> tuple[Array, Any]:
        del gramian
        losses = constant_losses(fun_name, losses, state.weights.size)
        first = state.step == 0

        def since(past: Array) -> Array:
            return losses.size * softmax(ratio(losses, past), temperature)

        rho = jax.random.bernoulli(step_key(seed, state.step), lookback)
        history = jnp.where(rho, state.weights, since(state.initial))
        share = jnp.asarray(alpha).astype(history.dtype)
        weights = share * history + (1 - share) * since(state.previous)
        weights = jnp.where(first, state.weights, weights)
        initial = jnp.where(first, losses, state.initial)
        return weights, RelobraloState(state.step + 1, weights, initial, losses)

    return Balancer(init, update)


class SoftAdaptState(NamedTuple):
    """The previous losses."""

    step: Array
    previous: Array


def soft_adapt(
    *, beta: float = 0.1, normalized: bool = False, loss_weighted: bool = False
) -> Balancer:
    r"""SoftAdapt: larger weights for losses that decreased less since the last step.

    When to use: losses that decrease at different rates, without epochs, at the cost of one
    backward pass.

    $$w_k = \mathrm{softmax}_k(\beta s_k), \qquad s_k = L_k(t) - L_k(t - 1)$$

    Args:
        beta: The sharpness of the softmax; if negative, losses that decreased more have larger
            weights.
        normalized: Whether the changes are divided by the sum of their absolute values.
        loss_weighted: Whether the weights are multiplied by the losses, and then normalized again;
            they are not where the losses are 0.

    Returns:
        A `Balancer` that needs `losses`. Its weights sum to 1; the first are 1/m, or proportional
        to the losses with `loss_weighted`.

    Raises:
        ValueError: From `update`, if the losses are missing or not as many as given to `init`.

    Example:
        >>> balancer = soft_adapt()
        >>> balancer.update(balancer.init(2), losses=jnp.array([1.0, 2.0]))[0]
        Array([0.5, 0.5], dtype=float32)

    References:
        Heydari, Thompson and Mehmood, *SoftAdapt: Techniques for Adaptive Loss Weighting*, 2019.
    """
    fun_name = "jaxloss.aggregators.soft_adapt"

    def init(count: int) -> SoftAdaptState:
        return SoftAdaptState(jnp.zeros((), jnp.int32), jnp.zeros(count, jnp.float32))

    def update(
        state: SoftAdaptState, *, losses: ArrayLike | None = None, gramian: ArrayLike | None = None
    ) -> tuple[Array, Any]:
        del gramian
        losses = constant_losses(fun_name, losses, state.previous.size)
        change = jnp.where(state.step == 0, 0, losses - state.previous)
        if normalized:
            size = jnp.sum(jnp.abs(change))
            change = change / jnp.where(size == 0, 1, size)
        weights = jax.nn.softmax(jnp.asarray(beta).astype(change.dtype) * change)
        if loss_weighted:
            weighted = weights * losses
            total = jnp.sum(weighted)
            weights = jnp.where(total == 0, weights, weighted / jnp.where(total == 0, 1, total))
        return weights, SoftAdaptState(state.step + 1, losses)

    return Balancer(init, update)


class RandomState(NamedTuple):
    """The number of draws, and the last weights."""

    step: Array
    weights: Array


def random(seed: int = 0) -> Balancer:
    r"""Random loss weighting (RLW): new random weights at every step.

    When to use: a baseline for other balancers.

    $$w = \mathrm{softmax}(z), \qquad z \sim N(0, I)$$

    Args:
        seed: The seed of the weights.

    Returns:
        A `Balancer` that needs nothing; its weights sum to 1.

    Example:
        >>> balancer = random(0)
        >>> float(balancer.update(balancer.init(3))[0].sum())
        1.0

    References:
        Lin et al., *Reasonable Effectiveness of Random Weighting*, 2022.
    """

    def init(count: int) -> RandomState:
        return RandomState(jnp.zeros((), jnp.int32), jnp.zeros(count, jnp.float32))

    def update(
        state: RandomState, *, losses: ArrayLike | None = None, gramian: ArrayLike | None = None
    ) -> tuple[Array, RandomState]:
        del losses, gramian
        noise = jax.random.normal(step_key(seed, state.step), state.weights.shape)
        weights = jax.nn.softmax(noise)
        return weights, RandomState(state.step + 1, weights)

    return Balancer(init, update)
