"""The head of a chain for several losses: stacked gradients in, one gradient out."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxloss.aggregators._balancers import Balancer, step_key
from jaxloss.aggregators._stacked import check_stacked, combine, cosines, gramian


def _takes_key(function: Callable[..., Any]) -> bool:
    return "key" in inspect.signature(function).parameters


class AggregateState(NamedTuple):
    """What `aggregate` saw and did last, for the log.

    Attributes:
        count: How many updates were made. An int32 scalar.
        loss_weights: What each gradient was multiplied by, of shape (m,).
        norms: The norm of each gradient, of shape (m,).
        cosines: The cosine between each pair of gradients, of shape (m, m): where it is negative,
            they conflict.
        balancer_state: The state of a `Balancer`; () of a function.
    """

    count: Array  # type: ignore[assignment]  # what Optax calls it; tuples have a method `count`
    loss_weights: Array
    norms: Array
    cosines: Array
    balancer_state: Any


class AggregateCoordinatesState(NamedTuple):
    """How many updates were made.

    Attributes:
        count: An int32 scalar: what random rules draw their key of.
    """

    count: Array  # type: ignore[assignment]  # what Optax calls it; tuples have a method `count`


def aggregate(
    weighting: Callable[..., Array] | Balancer, num_losses: int, *, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Adds up the gradients of several losses, with weights that settle their conflicts.

    $$u = \sum_k w_k g_k, \qquad w = w(G), \quad G_{kl} = \langle g_k, g_l \rangle$$

    It comes first in a chain, and is given stacked gradients:
    `chain(aggregate(aggregators.upgrad, 3), adam(1e-3))` updated with what
    `gradients.multi_value_and_grad(losses)` gives. What stands before it in a chain (clipping,
    accumulation) acts on all of them as one. `optax.MultiSteps` and `accumulate` cannot be put
    around it, since they keep gradients in the shape of parameters: accumulate the losses.
    What is stacked is told from what is not by the parameters, where `update` is given them.

    Args:
        weighting: A function from the Gramian to the weights, of `jaxloss.aggregators` or your
            own, which may take a `key`; or a `Balancer`.
        num_losses: How many losses there are, m.
        seed: For the keys of a function that takes one.

    Returns:
        A gradient transformation from leaves of shape (m, ...) to leaves of shape (...), whose
        state is an `AggregateState`. A `Balancer` that looks at the losses is given them as an
        extra argument: `tx.update(stacked, state, params, losses=losses)`.

    Raises:
        TypeError: If `weighting` is neither a function nor a `Balancer`.
        ValueError: If a leaf has no first axis of m, and the message names it; if the weights are
            not m; if a balancer needs losses that were not given.

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
            f"{fun_name}: `weighting` is a {type(weighting).__name__}, expected a function of the "
            f"Gramian, or a `Balancer`: write `aggregators.upgrad`."
        )
        raise TypeError(message)
    if not isinstance(num_losses, int) or num_losses < 1:
        message = f"{fun_name}: `num_losses` is {num_losses!r}, expected an integer of at least 1."
        raise ValueError(message)
    remembers = isinstance(weighting, Balancer)
    random = not remembers and _takes_key(weighting)

    def init(params: Any) -> AggregateState:
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
        updates: Any, state: Any, params: Any = None, **extra_args: Any
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
                f"{fun_name}: `weighting` gave shape {weights.shape}, expected ({num_losses},)."
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
    r"""Merges the gradients of several losses entry by entry: a trimmed mean, a median, a vote.

    $$u_i = \mathrm{rule}(g_{1i}, \dots, g_{mi})$$

    Like `aggregate` it comes first in a chain and is given stacked gradients, but it does not
    weigh losses as wholes: `functools.partial(jnp.median, axis=0)` is a rule, too.

    Args:
        rule: A function from a leaf of shape (m, ...) to one of shape (...), which may take a
            `key`: `aggregators.trimmed_mean`, `aggregators.grad_drop`, or your own.
        num_losses: How many losses there are, m.
        seed: For the keys of a rule that takes one; every leaf has its own.

    Returns:
        A gradient transformation from leaves of shape (m, ...) to leaves of shape (...), whose
        state is an `AggregateCoordinatesState`.

    Raises:
        TypeError: If `rule` is not a function.
        ValueError: If a leaf has no first axis of m, or the rule gives another shape; the message
            names the leaf.

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
        message = f"{fun_name}: `rule` is a {type(rule).__name__}, expected a function of a leaf."
        raise TypeError(message)
    if not isinstance(num_losses, int) or num_losses < 1:
        message = f"{fun_name}: `num_losses` is {num_losses!r}, expected an integer of at least 1."
        raise ValueError(message)
    random = _takes_key(rule)

    def init(params: Any) -> AggregateCoordinatesState:
        del params
        return AggregateCoordinatesState(jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AggregateCoordinatesState]:
        del extra_args
        named = check_stacked(fun_name, updates, num_losses, params)
        merged = []
        for i, (name, leaf) in enumerate(named):
            key = jax.random.fold_in(step_key(seed, state.count), i)
            merged.append(rule(leaf, key=key) if random else rule(leaf))
            if jnp.shape(merged[-1]) != jnp.shape(leaf)[1:]:
                message = (
                    f"{fun_name}: `rule` gave shape {jnp.shape(merged[-1])} for `{name}`, expected "
                    f"{jnp.shape(leaf)[1:]}."
                )
                raise ValueError(message)
        return jax.tree.unflatten(jax.tree.structure(updates), merged), AggregateCoordinatesState(
            jnp.asarray(optax.safe_increment(state.count))
        )

    return optax.GradientTransformationExtraArgs(init, update)
