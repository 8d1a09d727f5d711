"""Penalties of parameters as a link in a chain: the loss stays as it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

_WHO = "jaxloss.transforms.add_penalty"


class AddPenaltyState(NamedTuple):
    """What `add_penalty` did last, for the log; `optax.tree.get(state, "penalty")` finds it.

    Attributes:
        count: How many updates were made: what a schedule is given. An int32 scalar.
        penalty: The penalty of the last parameters, *before* weighting. A float32 scalar.
        weight: The weight that it was given. A float32 scalar.
    """

    count: Array  # type: ignore[assignment]  # what Optax calls it; tuples have a method `count`
    penalty: Array
    weight: Array


def add_penalty(
    penalty: Callable[[Any], Any], weight: Any, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of a penalty of the parameters to the updates that come along a chain.

    $$u \leftarrow u + w \nabla R(p)$$

    Where it stands in the chain decides what it is:

    - before the optimizer, the penalty is part of the loss (L2 regularization), bit for bit;
    - after it and before the learning rate, it is decoupled:
      `chain(scale_by_adam(), add_penalty(l2, w), scale_by_learning_rate(r))` is `adamw`;
    - before `clip_by_global_norm` it is clipped with the rest, behind it is not.

    With `l2` it is `optax.add_decayed_weights`; for half precision it multiplies in float32, and
    so does not round the weight. What looks at the loss itself (L-BFGS, line searches, Polyak's
    step size) does not see a penalty in the chain: there, add it to the loss, `jaxloss.total`.

    Args:
        penalty: Maps a parameter pytree to a scalar: any of `jaxloss.penalties`, or your own. It
            is differentiated with respect to floating-point leaves; the others it only sees.
        weight: A number, a traced array, or an Optax schedule.
        mask: Booleans for the parameters or for whole subtrees, or a function that makes them of
            the parameters. What is False is not penalized, and its update is left untouched; the
            penalty finds `optax.MaskedNode()`, a tree without leaves, in its place.

    Returns:
        A gradient transformation, whose state is an `AddPenaltyState`. Updates keep their dtype.

    Raises:
        TypeError: If `penalty` is not a function, `weight` or what `penalty` gives is not a real
            number, or `mask` holds something else than booleans.
        ValueError: If `weight` or what `penalty` gives is not a scalar, `mask` or the updates do
            not fit the parameters, or `update` is called without `params`.

    Example:
        >>> tx = optax.chain(add_penalty(lambda p: 0.5 * jnp.sum(p**2), 0.5), optax.sgd(1.0))
        >>> params = jnp.array([2.0, 4.0])
        >>> tx.update(jnp.zeros(2), tx.init(params), params)[0]
        Array([-1., -2.], dtype=float32)

    References:
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019.
    """
    if not callable(penalty):
        message = (
            f"{_WHO}: `penalty` is a {type(penalty).__name__}, expected a function of the "
            f"parameters. Inside `optax.inject_hyperparams`, name it among the `static_args`."
        )
        raise TypeError(message)
    if not callable(weight):
        _check_weight(weight)

    def init(params: Any) -> AddPenaltyState:
        del params
        return AddPenaltyState(
            jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
        )

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AddPenaltyState]:
        del extra_args
        if params is None:
            message = (
                f"{_WHO}: `params` is None, but a penalty is a function of the parameters: write "
                f"`tx.update(grads, state, params)`."
            )
            raise ValueError(message)
        leaves, treedef = jax.tree.flatten(params)
        kept = [True] * len(leaves) if mask is None else _kept(mask, params)
        own = [i for i, x in enumerate(leaves) if kept[i] and jnp.issubdtype(_type(x), jnp.inexact)]

        def measure(variables: list[Any]) -> Array:
            seen = [x if k else optax.MaskedNode() for x, k in zip(leaves, kept, strict=True)]
            for i, x in zip(own, variables, strict=True):
                seen[i] = x
            try:
                value = jnp.asarray(penalty(treedef.unflatten(seen)))
            except (AttributeError, KeyError, TypeError) as error:
                if not all(kept):
                    error.add_note(f"{_WHO}: masked-out leaves are `optax.MaskedNode()` here.")
                raise
            if value.ndim:
                message = f"{_WHO}: `penalty` gave shape {value.shape}, expected a scalar."
                raise ValueError(f"{message} Write `jnp.sum` around it.")
            if jnp.issubdtype(value.dtype, jnp.complexfloating):
                raise TypeError(f"{_WHO}: `penalty` gave {value.dtype}, expected a real number.")
            return value.astype(jnp.promote_types(value.dtype, jnp.float32))

        value, pull = jax.vjp(measure, [leaves[i] for i in own])
        scale = weight(state.count) if callable(weight) else weight
        _check_weight(scale)
        # Seeded, not multiplied afterwards: that is what the chain rule does to a term of a loss.
        (gradients,) = pull(jnp.asarray(scale).astype(value.dtype))
        try:
            new = treedef.flatten_up_to(updates)
        except ValueError as error:
            message = f"{_WHO}: `updates` and `params` differ in structure: {error}"
            raise ValueError(message) from None
        for i, gradient in zip(own, gradients, strict=True):
            if new[i] is not None:
                dtype = jnp.result_type(new[i])
                new[i] = (jnp.asarray(new[i]).astype(dtype) + gradient).astype(dtype)
        # Copies, so that the state never shares a buffer with a weight or a leaf that lives on.
        return treedef.unflatten(new), AddPenaltyState(
            jnp.asarray(optax.safe_increment(state.count)),
            jnp.array(value, jnp.float32, copy=True),
            jnp.array(scale, jnp.float32, copy=True),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _check_weight(weight: Any) -> None:
    expected = "expected a real number, a scalar array or a schedule."
    try:
        array = jnp.asarray(weight)
    except (TypeError, ValueError):
        message = f"{_WHO}: `weight` is a {type(weight).__name__}, {expected}"
        raise TypeError(message) from None
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{_WHO}: `weight` is {array.dtype}, {expected}")
    if array.ndim:
        raise ValueError(f"{_WHO}: `weight` has shape {array.shape}, {expected}")


def _type(leaf: Any) -> Any:
    return getattr(leaf, "dtype", type(leaf))


def _kept(mask: Any, params: Any) -> list[bool]:
    """The mask, one boolean for each leaf of the parameters."""
    # A module can be callable and hold booleans: then it is a mask, not a function of parameters.
    if callable(mask) and jax.tree_util.all_leaves([mask]):
        mask = mask(params)
    for path, flag in jax.tree_util.tree_leaves_with_path(mask):
        if not isinstance(flag, bool | np.bool_):
            message = (
                f"{_WHO}: `mask{jax.tree_util.keystr(path)}` is {flag!r}, expected True or False "
                f"for a whole leaf or subtree of the parameters."
            )
            raise TypeError(message)
    try:
        spread = jax.tree.map(lambda flag, tree: jax.tree.map(lambda _: flag, tree), mask, params)
    except ValueError as error:
        message = f"{_WHO}: `mask` does not fit the parameters: {error}"
        raise ValueError(message) from None
    return jax.tree.leaves(spread)
