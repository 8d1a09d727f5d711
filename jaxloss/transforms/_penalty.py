"""Penalties of parameters around an optimizer: the loss stays as it is."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxloss.transforms._common import check_scalar, dtype_of, named_leaves, wrapped


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


class RegularizeState(NamedTuple):
    """What `regularize` did last, for the log, and the state of what it wraps.

    Attributes:
        count: How many updates were made: what a schedule is given. An int32 scalar.
        penalty: The penalty of the last parameters, *before* weighting. A float32 scalar.
        weight: The weight that it was given. A float32 scalar.
        inner_state: The state of the optimizer inside.
    """

    count: Array  # type: ignore[assignment]  # what Optax calls it; tuples have a method `count`
    penalty: Array
    weight: Array
    inner_state: Any


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
    step size) does not see a penalty in the chain: there, wrap it in `regularize`.

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
    term = _Term("jaxloss.transforms.add_penalty", penalty, weight, mask)

    def init(params: Any) -> AddPenaltyState:
        del params
        return AddPenaltyState(*_unused())

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AddPenaltyState]:
        del extra_args
        value, scale, add = term.pull(params, state.count)
        return add("updates", updates), AddPenaltyState(*_used(state, value, scale))

    return optax.GradientTransformationExtraArgs(init, update)


def regularize(
    inner: optax.GradientTransformation,
    penalty: Callable[[Any], Any],
    weight: Any,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Makes an optimizer that looks at the loss see it with a penalty: L-BFGS, line searches.

    $$L_w(p) = L(p) + w R(p)$$

    Not only the gradient: `value`, `grad` and `value_fn`, where they are given, become those of
    the sum. A penalty in a chain changes the gradient alone, so that a line search compares the
    slope of one function with the values of another, and stops short of the minimum of both. For
    `adam` and all that look at gradients alone it is `add_penalty` in front of them.

    Args:
        inner: What Optax makes: `optax.lbfgs()`, or a chain.
        penalty: Maps a parameter pytree to a scalar: any of `jaxloss.penalties`, or your own.
        weight: A number, a traced array, or an Optax schedule.
        mask: As in `add_penalty`.

    Returns:
        A gradient transformation, whose state is a `RegularizeState`.

    Raises:
        TypeError: If `penalty` is not a function, `weight` or what `penalty` gives is not a real
            number, or `mask` holds something else than booleans.
        ValueError: If `weight` or what `penalty` gives is not a scalar, `mask` or the updates do
            not fit the parameters, or `update` is called without `params`.

    Example:
        >>> tx = regularize(optax.sgd(1.0), lambda p: 0.5 * jnp.sum(p**2), 0.5)
        >>> params = jnp.array([2.0, 4.0])
        >>> tx.update(jnp.zeros(2), tx.init(params), params)[0]
        Array([-1., -2.], dtype=float32)

    References:
        Nocedal and Wright, *Numerical Optimization*, 2006, chapter 3.
    """
    term = _Term("jaxloss.transforms.regularize", penalty, weight, mask)
    inner = wrapped(term.name, "inner", inner)

    def init(params: Any) -> RegularizeState:
        return RegularizeState(*_unused(), inner.init(params))

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, RegularizeState]:
        value, scale, add = term.pull(params, state.count)
        updates = add("updates", updates)
        given = dict(extra_args)
        if given.get("value") is not None:
            given["value"] = given["value"] + scale * value
        if given.get("grad") is not None:
            given["grad"] = add("grad", given["grad"])
        if given.get("value_fn") is not None:
            bare = given["value_fn"]

            # Line searches look at the names of its arguments.
            @functools.wraps(bare)
            def value_fn(p: Any, *args: Any, **words: Any) -> Array:
                return bare(p, *args, **words) + scale * term.value(p)

            given["value_fn"] = value_fn
        updates, inner_state = inner.update(updates, state.inner_state, params, **given)
        return updates, RegularizeState(*_used(state, value, scale), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _unused() -> tuple[Array, Array, Array]:
    return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)


def _used(state: Any, value: Array, scale: Array) -> tuple[Array, Array, Array]:
    # Copies, so that the state never shares a buffer with a weight or a leaf that lives on.
    return (
        jnp.asarray(optax.safe_increment(state.count)),
        jnp.array(value, jnp.float32, copy=True),
        jnp.array(scale, jnp.float32, copy=True),
    )


class _Term:
    """A weighted, masked penalty: its value, and its gradient added to a tree."""

    def __init__(self, fun_name: str, penalty: Any, weight: Any, mask: Any) -> None:
        if not callable(penalty):
            message = (
                f"{fun_name}: `penalty` is a {type(penalty).__name__}, expected a function of the "
                f"parameters. Inside `optax.inject_hyperparams`, name it among the `static_args`."
            )
            raise TypeError(message)
        if not callable(weight):
            check_scalar(fun_name, "weight", weight)
        self.name, self.penalty, self.weight, self.mask = fun_name, penalty, weight, mask

    def value(self, params: Any) -> Array:
        """The penalty of what the mask keeps, before weighting."""
        leaves, treedef = jax.tree.flatten(params)
        return self._measure(leaves, treedef, self._kept(params, len(leaves)))

    def pull(self, params: Any, count: Any) -> tuple[Array, Array, Callable[[str, Any], Any]]:
        """The penalty, its weight, and a function that adds the weighted gradient to a tree."""
        if params is None:
            message = (
                f"{self.name}: `params` is None, but a penalty is a function of the parameters: "
                f"write `tx.update(grads, state, params)`."
            )
            raise ValueError(message)
        leaves, treedef = jax.tree.flatten(params)
        kept = self._kept(params, len(leaves))
        own = [
            i for i, x in enumerate(leaves) if kept[i] and jnp.issubdtype(dtype_of(x), jnp.inexact)
        ]

        def measure(variables: list[Any]) -> Array:
            seen = list(leaves)
            for i, x in zip(own, variables, strict=True):
                seen[i] = x
            return self._measure(seen, treedef, kept)

        value, pull = jax.vjp(measure, [leaves[i] for i in own])
        scale = self.weight(count) if callable(self.weight) else self.weight
        check_scalar(self.name, "weight", scale)
        scale = jnp.asarray(scale).astype(value.dtype)
        # Seeded, not multiplied afterwards: that is what the chain rule does to a term of a loss.
        (gradients,) = pull(scale)

        def add(name: str, tree: Any) -> Any:
            try:
                new = treedef.flatten_up_to(tree)
            except ValueError as error:
                message = f"{self.name}: `{name}` and `params` differ in structure: {error}"
                raise ValueError(message) from None
            for i, gradient in zip(own, gradients, strict=True):
                if new[i] is not None:
                    dtype = jnp.result_type(new[i])
                    new[i] = (jnp.asarray(new[i]).astype(dtype) + gradient).astype(dtype)
            return treedef.unflatten(new)

        return value, scale, add

    def _measure(self, leaves: list[Any], treedef: Any, kept: list[bool]) -> Array:
        seen = [x if k else optax.MaskedNode() for x, k in zip(leaves, kept, strict=True)]
        try:
            value = jnp.asarray(self.penalty(treedef.unflatten(seen)))
        except (AttributeError, KeyError, TypeError) as error:
            if not all(kept):
                error.add_note(f"{self.name}: masked-out leaves are `optax.MaskedNode()` here.")
            raise
        if value.ndim:
            message = f"{self.name}: `penalty` gave shape {value.shape}, expected a scalar."
            raise ValueError(f"{message} Write `jnp.sum` around it.")
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise TypeError(f"{self.name}: `penalty` gave {value.dtype}, expected a real number.")
        return value.astype(jnp.promote_types(value.dtype, jnp.float32))

    def _kept(self, params: Any, count: int) -> list[bool]:
        return [True] * count if self.mask is None else kept_leaves(self.name, self.mask, params)


def kept_leaves(fun_name: str, mask: Any, params: Any) -> list[bool]:
    """The mask, one boolean for each leaf of the parameters."""
    # A module can be callable and hold booleans: then it is a mask, not a function of parameters.
    if callable(mask) and jax.tree_util.all_leaves([mask]):
        mask = mask(params)
    for name, flag in named_leaves("mask", mask):
        if not isinstance(flag, bool | np.bool_):
            message = (
                f"{fun_name}: `{name}` is {flag!r}, expected True or False for a whole leaf or subtree "
                f"of the parameters."
            )
            raise TypeError(message)
    try:
        spread = jax.tree.map(lambda flag, tree: jax.tree.map(lambda _: flag, tree), mask, params)
    except ValueError as error:
        message = f"{fun_name}: `mask` does not fit the parameters: {error}"
        raise ValueError(message) from None
    return jax.tree.leaves(spread)
