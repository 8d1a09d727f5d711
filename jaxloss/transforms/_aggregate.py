"""The first link of a chain for several losses: stacked gradients in, one gradient out."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from jaxloss._core.parameters import check_count, describe
from jaxloss.aggregators._balancers import Balancer, step_key
from jaxloss.aggregators._stacked import check_stacked, combine, cosines, gramian


def _accepts_key(function: Callable[..., Any]) -> bool:
    return "key" in inspect.signature(function).parameters


class AggregateState(NamedTuple):
    """The weights, norms and cosines of the last update, to log.

    Attributes:
        count: The number of updates. An int32 scalar.
        loss_weights: The weight of each gradient, of shape (m,).
        norms: The norm of each gradient, of shape (m,).
        cosines: The cosine between each pair of gradients, of shape (m, m): where it is negative,
            they conflict.
        balancer_state: The state of a `Balancer`; () for a function.
    """

    count: Array  # type: ignore[assignment]  # Optax's name for it; tuples have a method `count`
    loss_weights: Array
    norms: Array
    cosines: Array
    balancer_state: Any


class AggregateCoordinatesState(NamedTuple):
    """The number of updates.

    Attributes:
        count: An int32 scalar, from which the keys of random rules are derived.
    """

    count: Array  # type: ignore[assignment]  # Optax's name for it; tuples have a method `count`


def aggregate(
    weighting: Callable[..., Array] | Balancer, num_losses: int, *, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Weighted sum of the gradients of several losses, with weights that resolve conflicts.

    When to use: several losses whose gradients conflict, with any Optax optimizer behind it.

    $$u = \sum_k w_k g_k, \qquad w = w(G), \quad G_{kl} = \langle g_k, g_l \rangle$$

    It is the first link of a chain, and its input are stacked gradients, from
    `gradients.multi_value_and_grad(losses)`: `chain(aggregate(aggregators.upgrad, 3), adam(1e-3))`.
    A link before it (clipping, accumulation) would act on the stack as one gradient.
    `optax.MultiSteps` and `accumulate` cannot wrap it, because they hold gradients in the shape of
    the parameters: accumulate the losses instead. Where `update` is given `params`, the shapes of
    the stack are compared with theirs.

    Args:
        weighting: A function from the Gramian to the weights, of `jaxloss.aggregators` or your
            own, with or without an argument `key`; or a `Balancer`.
        num_losses: The number of losses, m.
        seed: The seed of the keys, for a function with an argument `key`.

    Returns:
        A gradient transformation from leaves of shape (m, ...) to leaves of shape (...), whose
        state is an `AggregateState`. A `Balancer` that depends on the losses needs them as an
        extra argument: `tx.update(stacked, state, params, losses=losses)`.

    Raises:
        TypeError: If `weighting` is neither a function nor a `Balancer`.
        ValueError: If a leaf has no first axis of size m, and the message names it; if the weights
            do not have shape (m,); if a balancer needs losses that were not given.

    Example:
        >>> from jaxloss import aggregators
        >>> tx = optax.chain(aggregate(aggregators.mgda, 2), optax.sgd(1.0))
        >>> stacked = jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> tx.update(stacked, tx.init(jnp.zeros(2)))[0].round(5)
        Array([-0.4, -0.8], dtype=float32)

    References:
        Quinton and Rey, *Jacobian Descent for Multi-Objective Optimization*, 2024.
    """
    fun_name = "jaxloss.transforms.aggregate"
    if not isinstance(weighting, Balancer) and not callable(weighting):
        message = (
            f"{fun_name}: `weighting` is {describe(weighting)}, expected a function of the "
            f"Gramian, or a `Balancer`: write `aggregators.upgrad`."
        )
        raise TypeError(message)
    num_losses = check_count(fun_name, "num_losses", num_losses)
    random = not isinstance(weighting, Balancer) and _accepts_key(weighting)

    def init(params: PyTree) -> AggregateState:
        del params
        zeros = jnp.zeros(num_losses, jnp.float32)
        return AggregateState(
            jnp.zeros((), jnp.int32),
            zeros,
            zeros + 0,
            jnp.zeros((num_losses, num_losses), jnp.float32),
            weighting.init(num_losses) if isinstance(weighting, Balancer) else (),
        )

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, AggregateState]:
        balancer_state = state.balancer_state
        if not jax.tree.leaves(updates):
            return updates, state._replace(count=optax.safe_increment(state.count))
        check_stacked(fun_name, updates, num_losses, params)
        matrix = jax.lax.stop_gradient(gramian(updates))
        if isinstance(weighting, Balancer):
            weights, balancer_state = weighting.update(
                balancer_state, losses=extra_args.get("losses"), gramian=matrix
            )
        elif random:
            weights = weighting(matrix, key=step_key(seed, state.count))
        else:
            weights = weighting(matrix)
        weights = jnp.asarray(weights)
        if weights.shape != (num_losses,):
            message = (
                f"{fun_name}: `weighting` returned shape {weights.shape}, expected ({num_losses},)."
            )
            raise ValueError(message)
        return combine(weights, updates), AggregateState(
            jnp.asarray(optax.safe_increment(state.count)),
            weights.astype(jnp.float32),
            jnp.sqrt(jnp.diagonal(matrix)).astype(jnp.float32),
            cosines(matrix).astype(jnp.float32),
            balancer_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def aggregate_coordinates(
    rule: Callable[..., Array], num_losses: int, *, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Coordinate-wise aggregation of the gradients of several losses: trimmed mean, median.

    When to use: gradients of which single entries may be corrupt, or rules that are not a weighted
    sum of whole gradients.

    $$u_i = \mathrm{rule}(g_{1i}, \dots, g_{mi})$$

    Like `aggregate` it is the first link of a chain, and its input are stacked gradients. Any
    function along the first axis is a rule, `functools.partial(jnp.median, axis=0)` for example.

    Args:
        rule: A function from a leaf of shape (m, ...) to one of shape (...), with or without an
            argument `key`: `aggregators.trimmed_mean`, `aggregators.grad_drop`, or your own.
        num_losses: The number of losses, m.
        seed: The seed of the keys, for a rule with an argument `key`; each leaf has its own key.

    Returns:
        A gradient transformation from leaves of shape (m, ...) to leaves of shape (...), whose
        state is an `AggregateCoordinatesState`.

    Raises:
        TypeError: If `rule` is not a function.
        ValueError: If a leaf has no first axis of size m, or the rule returns another shape; the
            message names the leaf.

    Example:
        >>> from jaxloss import aggregators
        >>> tx = aggregate_coordinates(aggregators.trimmed_mean, 3)
        >>> tx.update(jnp.array([[1.0], [2.0], [900.0]]), tx.init(jnp.zeros(1)))[0]
        Array([2.], dtype=float32)

    References:
        Yin et al., *Byzantine-Robust Distributed Learning*, 2018.
    """
    fun_name = "jaxloss.transforms.aggregate_coordinates"
    if not callable(rule):
        message = f"{fun_name}: `rule` is {describe(rule)}, expected a function of a leaf."
        raise TypeError(message)
    num_losses = check_count(fun_name, "num_losses", num_losses)
    random = _accepts_key(rule)

    def init(params: PyTree) -> AggregateCoordinatesState:
        del params
        return AggregateCoordinatesState(jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, AggregateCoordinatesState]:
        del extra_args
        named = check_stacked(fun_name, updates, num_losses, params)
        aggregated = []
        for i, (name, leaf) in enumerate(named):
            key = jax.random.fold_in(step_key(seed, state.count), i)
            aggregated.append(rule(leaf, key=key) if random else rule(leaf))
            if jnp.shape(aggregated[-1]) != jnp.shape(leaf)[1:]:
                message = (
                    f"{fun_name}: `rule` returned shape {jnp.shape(aggregated[-1])} for `{name}`, "
                    f"expected {jnp.shape(leaf)[1:]}."
                )
                raise ValueError(message)
        treedef = jax.tree.structure(updates)
        return jax.tree.unflatten(treedef, aggregated), AggregateCoordinatesState(
            jnp.asarray(optax.safe_increment(state.count))
        )

    return optax.GradientTransformationExtraArgs(init, update)
