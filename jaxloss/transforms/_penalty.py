"""Penalties on parameters: in a chain, and around an optimizer that evaluates the loss."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from jaxloss._core.dtypes import add_in_dtype, to_accumulator
from jaxloss._core.parameters import named_leaves, real_scalar
from jaxloss._core.spec import ArrayLike
from jaxloss._memory.mesh import check_summed_gradients, cotangent
from jaxloss.transforms._common import with_extra_args

WEIGHT = "a real number, a scalar array or a schedule"

_SPLIT = (
    "Penalize the split parameters and the others separately: write two `add_penalty`, each with a "
    "`mask`."
)


class AddPenaltyState(NamedTuple):
    """The last values of `add_penalty`, to log; `optax.tree.get(state, "penalty")` finds them.

    Attributes:
        count: The number of updates, which is the argument of a schedule. An int32 scalar.
        penalty: The penalty of the last parameters, *before* weighting. A float32 scalar.
        weight: Its weight. A float32 scalar.
    """

    count: Array  # type: ignore[assignment]  # Optax's name for it; tuples have a method `count`
    penalty: Array
    weight: Array


class RegularizeState(NamedTuple):
    """The last values of `regularize`, to log, and the state of the optimizer inside.

    Attributes:
        count: The number of updates, which is the argument of a schedule. An int32 scalar.
        penalty: The penalty of the last parameters, *before* weighting. A float32 scalar.
        weight: Its weight. A float32 scalar.
        inner_state: The state of the optimizer inside.
    """

    count: Array  # type: ignore[assignment]  # Optax's name for it; tuples have a method `count`
    penalty: Array
    weight: Array
    inner_state: Any


def add_penalty(
    penalty: Callable[[Any], Any], weight: Any, mask: ArrayLike | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient of a parameter penalty, added to the updates of a chain.

    When to use: regularization without a change of the loss, with any optimizer that depends on
    gradients alone.

    $$u \leftarrow u + w \nabla R(p)$$

    The position in the chain decides what the penalty is:

    - before the optimizer, it is a term of the loss (L2 regularization), bit for bit;
    - after it and before the learning rate, it is decoupled:
      `chain(scale_by_adam(), add_penalty(l2, w), scale_by_learning_rate(r))` is `adamw`;
    - before `clip_by_global_norm` it is clipped with the rest, after it is not.

    With `l2` it equals `optax.add_decayed_weights`, except that half precision is multiplied in
    float32, so that the weight is not rounded. Optimizers that evaluate the loss (L-BFGS, line
    searches, Polyak's step size) need `regularize` instead: a penalty in the chain is not part of
    the value.

    Args:
        penalty: Maps a parameter pytree to a scalar: any of `jaxloss.penalties`, or your own. It
            is differentiated with respect to floating-point leaves only.
        weight: A number, a traced array, or an Optax schedule.
        mask: Booleans for the parameters or for whole subtrees, or a function that maps the
            parameters to them. Leaves at False are not penalized, and their updates are not
            changed; in their place the penalty receives `optax.MaskedNode()`, a tree without
            leaves.

    Returns:
        A gradient transformation, whose state is an `AddPenaltyState`. Updates keep their dtype.

    Raises:
        TypeError: If `penalty` is not a function, `weight` or the value of `penalty` is not a real
            number, or `mask` holds anything but booleans.
        ValueError: If `weight` or the value of `penalty` is not a scalar, `mask` or the updates do
            not have the structure of the parameters, or `update` is called without `params`.

    Example:
        >>> tx = optax.chain(add_penalty(lambda p: 0.5 * jnp.sum(p**2), 0.5), optax.sgd(1.0))
        >>> params = jnp.array([2.0, 4.0])
        >>> tx.update(jnp.zeros(2), tx.init(params), params)[0]
        Array([-1., -2.], dtype=float32)

    References:
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019.
    """
    term = _PenaltyTerm("jaxloss.transforms.add_penalty", penalty, weight, mask)

    def init(params: PyTree) -> AddPenaltyState:
        del params
        return AddPenaltyState(*initial_log())

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, AddPenaltyState]:
        del extra_args
        value, scale, add_gradient = term.differentiate(params, state.count)
        return add_gradient("updates", updates), AddPenaltyState(*next_log(state, value, scale))

    return optax.GradientTransformationExtraArgs(init, update)


def regularize(
    inner: optax.GradientTransformation,
    penalty: Callable[[Any], Any],
    weight: Any,
    mask: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Optimizer of the loss plus a parameter penalty: gradient, value and line search.

    When to use: a penalty with an optimizer that evaluates the loss: L-BFGS, line searches,
    Polyak's step size. Around one that depends on gradients alone it equals `add_penalty`.

    $$L_w(p) = L(p) + w R(p)$$

    Not only the gradient: the extra arguments `value`, `grad` and `value_fn`, where they are given,
    become those of the sum. A penalty in a chain changes the gradient alone, so that a line search
    compares the slope of one function with the values of another, and stops before the minimum of
    either. Inside `optax.masked` and `optax.partition` the penalty is that of the unmasked
    parameters, and `value_fn`, which depends on all parameters, raises when it is called.

    Args:
        inner: An Optax transformation: `optax.lbfgs()`, or a chain.
        penalty: Maps a parameter pytree to a scalar: any of `jaxloss.penalties`, or your own.
        weight: A number, a traced array, or an Optax schedule.
        mask: As in `add_penalty`.

    Returns:
        A gradient transformation, whose state is a `RegularizeState`.

    Raises:
        TypeError: If `penalty` is not a function, `weight` or the value of `penalty` is not a real
            number, or `mask` holds anything but booleans.
        ValueError: If `weight` or the value of `penalty` is not a scalar, `mask` or the updates do
            not have the structure of the parameters, or `update` is called without `params`.

    Example:
        >>> tx = regularize(optax.sgd(1.0), lambda p: 0.5 * jnp.sum(p**2), 0.5)
        >>> params = jnp.array([2.0, 4.0])
        >>> tx.update(jnp.zeros(2), tx.init(params), params)[0]
        Array([-1., -2.], dtype=float32)

    References:
        Nocedal and Wright, *Numerical Optimization*, 2006, chapter 3.
    """
    term = _PenaltyTerm("jaxloss.transforms.regularize", penalty, weight, mask)
    inner = with_extra_args(term.fun_name, "inner", inner)

    def init(params: PyTree) -> RegularizeState:
        return RegularizeState(*initial_log(), inner.init(params))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, RegularizeState]:
        value, scale, add_gradient = term.differentiate(params, state.count)
        updates = add_gradient("updates", updates)
        given = dict(extra_args)
        loss = given.get("value_fn")
        if given.get("value") is not None:
            given["value"] = _add_scalars(given["value"], scale * value)
        if given.get("grad") is not None:
            grad, loss = _restrict(given["grad"], loss, params)
            given["grad"] = add_gradient("grad", grad)
        if loss is not None:

            @functools.wraps(loss)  # line searches inspect the names of its arguments
            def value_fn(p: Any, *args: Any, **kwargs: Any) -> Array:
                return _add_scalars(loss(p, *args, **kwargs), scale * term.value(p))

            given["value_fn"] = value_fn
        updates, inner_state = inner.update(updates, state.inner_state, params, **given)
        return updates, RegularizeState(*next_log(state, value, scale), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _restrict(grad: Any, loss: Any, params: PyTree) -> tuple[Any, Any]:
    """Gradient and loss of all parameters, for the parameters that a wrapper of Optax passes.

    `optax.masked` and `optax.partition` replace parameters by `MaskedNode`, and `optax.flatten`
    concatenates them; all three forward extra arguments unchanged. Hidden parameters leave a
    gradient, but no loss.
    """
    if jax.tree_util.all_leaves([params]) and not jax.tree_util.all_leaves([grad]):
        grad, unravel = ravel_pytree(grad)
        return grad, loss and _compose(loss, unravel)
    if _count_masked(params) <= _count_masked(grad):
        return grad, loss
    grad = jax.tree.map(lambda p, g: p if _is_masked(p) else g, params, grad, is_leaf=_is_masked)
    return grad, loss and _compose(loss, _refuse_masked)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _count_masked(tree: PyTree) -> int:
    return sum(map(_is_masked, jax.tree.leaves(tree, is_leaf=_is_masked)))


def _compose(loss: Callable[..., Any], function: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(loss)  # line searches inspect the names of its arguments
    def value_fn(p: Any, *args: Any, **kwargs: Any) -> Any:
        return loss(function(p), *args, **kwargs)

    return value_fn


def _refuse_masked(params: PyTree) -> Any:
    del params
    raise ValueError(
        "jaxloss.transforms.regularize: the optimizer inside evaluates the loss (`value_fn`), "
        "which depends on all parameters, but `optax.masked` or `optax.partition` hides some of "
        "them. Put `regularize` outside: `regularize(optax.lbfgs(), penalty, weight, mask)`; pass "
        "parameters that are not trained as an argument of the loss."
    )


def _add_scalars(loss: Any, term: Array) -> Array:
    return add_in_dtype(to_accumulator(loss), term)


def initial_log() -> tuple[Array, Array, Array]:
    """The first three fields of a state: count, penalty, weight."""
    return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)


def next_log(state: PyTree, value: Array, scale: Array) -> tuple[Array, Array, Array]:
    """The same three after an update; copies, so that the state shares no buffer with arguments."""
    return (
        jnp.asarray(optax.safe_increment(state.count)),
        jnp.array(value, jnp.float32, copy=True),
        jnp.array(scale, jnp.float32, copy=True),
    )


class _PenaltyTerm:
    """A weighted, masked penalty: its value, and its gradient added to a tree."""

    def __init__(self, fun_name: str, penalty: Any, weight: Any, mask: ArrayLike) -> None:
        if not callable(penalty):
            message = (
                f"{fun_name}: `penalty` is a {type(penalty).__name__}, expected a function of the "
                f"parameters. Inside `optax.inject_hyperparams`, name it among the `static_args`."
            )
            raise TypeError(message)
        if not callable(weight):
            real_scalar(fun_name, "weight", weight, expected=WEIGHT)
        self.fun_name, self.penalty, self.weight, self.mask = fun_name, penalty, weight, mask

    def value(self, params: PyTree) -> Array:
        """The penalty of the leaves that are not masked, before weighting."""
        leaves, treedef = jax.tree.flatten(params)
        return self._evaluate(leaves, treedef, self._penalized(params, len(leaves)))

    def differentiate(
        self, params: PyTree, count: Any
    ) -> tuple[Array, Array, Callable[[str, Any], Any]]:
        """The penalty, its weight, and a function that adds the weighted gradient to a tree."""
        if params is None:
            message = (
                f"{self.fun_name}: `params` is None, but a penalty is a function of the "
                f"parameters: write `tx.update(grads, state, params)`."
            )
            raise ValueError(message)
        leaves, treedef = jax.tree.flatten(params)
        penalized = self._penalized(params, len(leaves))
        variable = [
            i
            for i, x in enumerate(leaves)
            if penalized[i] and jnp.issubdtype(getattr(x, "dtype", type(x)), jnp.inexact)
        ]

        def evaluate(variables: list[Any]) -> Array:
            replaced = list(leaves)
            for i, x in zip(variable, variables, strict=True):
                replaced[i] = x
            return self._evaluate(replaced, treedef, penalized)

        variables = [leaves[i] for i in variable]
        value, vjp_fn = jax.vjp(evaluate, variables)
        check_summed_gradients(self.fun_name, "the penalty", value, variables, _SPLIT)
        scale = self.weight(count) if callable(self.weight) else self.weight
        scale = real_scalar(self.fun_name, "weight", scale, expected=WEIGHT).astype(value.dtype)
        # The weight is the cotangent, as in the gradient of a loss with this term: bitwise equal.
        (gradients,) = vjp_fn(cotangent(scale, value))

        def add_gradient(name: str, tree: PyTree) -> Any:
            try:
                new = treedef.flatten_up_to(tree)
            except ValueError as error:
                message = f"{self.fun_name}: `{name}` and `params` differ in structure: {error}"
                raise ValueError(message) from None
            for i, gradient in zip(variable, gradients, strict=True):
                if new[i] is not None:
                    new[i] = add_in_dtype(new[i], gradient)
            return treedef.unflatten(new)

        return value, scale, add_gradient

    def _evaluate(self, leaves: list[Any], treedef: Any, penalized: list[bool]) -> Array:
        masked = [x if k else optax.MaskedNode() for x, k in zip(leaves, penalized, strict=True)]
        try:
            value = jnp.asarray(self.penalty(treedef.unflatten(masked)))
        except (AttributeError, KeyError, TypeError) as error:
            if not all(penalized):
                error.add_note(f"{self.fun_name}: masked-out leaves are `optax.MaskedNode()` here.")
            raise
        if value.ndim:
            message = f"{self.fun_name}: `penalty` returned shape {value.shape}, expected a scalar."
            raise ValueError(f"{message} Write `jnp.sum` around it.")
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            message = f"{self.fun_name}: `penalty` returned {value.dtype}, expected a real number."
            raise TypeError(message)
        return to_accumulator(value)

    def _penalized(self, params: PyTree, count: int) -> list[bool]:
        if self.mask is None:
            return [True] * count
        return flat_mask(self.fun_name, self.mask, params)


def flat_mask(fun_name: str, mask: ArrayLike, params: PyTree) -> list[bool]:
    """The mask, one boolean for each leaf of the parameters."""
    # A module can be callable and hold booleans: then it is a mask, not a function of parameters.
    if callable(mask) and jax.tree_util.all_leaves([mask]):
        mask = mask(params)
    for name, flag in named_leaves("mask", mask):
        if not isinstance(flag, bool | np.bool_):
            message = (
                f"{fun_name}: `{name}` is {flag!r}, expected True or False for a whole leaf or "
                f"subtree of the parameters."
            )
            raise TypeError(message)
    try:
        flags = jax.tree.map(lambda flag, tree: jax.tree.map(lambda _: flag, tree), mask, params)
    except ValueError as error:
        message = f"{fun_name}: `mask` does not have the structure of the parameters: {error}"
        raise ValueError(message) from None
    return jax.tree.leaves(flags)
