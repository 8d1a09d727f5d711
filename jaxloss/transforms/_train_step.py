"""A training step from a loss and an Optax optimizer."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from jaxloss._combine import scalar
from jaxloss._core.dtypes import to_accumulator
from jaxloss._core.parameters import check_leaves, describe, real_array
from jaxloss._core.reduction import Mean
from jaxloss._core.spec import ArrayLike
from jaxloss.gradients import scaled_value_and_grad
from jaxloss.transforms._common import find_states, with_extra_args
from jaxloss.transforms._loss_scale import DynamicLossScaleState, loss_scale
from jaxloss.transforms._micro_batches import AccumulateState

_NAME = "jaxloss.transforms.make_train_step"


def make_train_step(
    loss: Callable[..., Any], tx: optax.GradientTransformation, *, has_aux: bool = False
) -> tuple[Callable[[Any], Any], Callable[..., tuple[Any, Any, Any]]]:
    r"""The two functions of a training loop, `init` and `step`, for a loss and an optimizer.

    When to use: any training loop. The same two lines work for Adam, L-BFGS, Polyak's step size,
    SAM, gradient accumulation and loss scaling.

    $$p \leftarrow p + u(\nabla L(p), L(p), L)$$

    The step computes value and gradient, passes `value`, `grad` and `value_fn` to the
    transformation, and applies the updates. `adam` ignores the three; `polyak_sgd`, `momo` and
    `reduce_on_plateau` need the first, `lbfgs` all of them; `sam` in its opaque mode also receives
    a `grad_fn`. With `accumulate` in the transformation, the weight of a loss that returns a `Mean`
    is passed, too; with `dynamic_loss_scale`, the cotangent is the scale. The step is pure: write
    `jax.jit(step, donate_argnums=(0, 1))`. The gradient is always computed from the arguments of
    the step: one that a line search stored would belong to the previous batch.

    Args:
        loss: `loss(params, *args, **kwargs)` returns a scalar, or a `Mean`, which is divided; with
            `has_aux`, a pair of that and anything else, as `jaxloss.total` does.
        tx: An Optax transformation: `optax.adam(1e-3)`, or a chain.
        has_aux: Whether the loss returns a pair.

    Returns:
        `init` and `step`. `init(params)` returns the state of `tx`; `step(params, state, *args,
        **kwargs)` returns new parameters, new state, and the value, or the pair `(value, aux)`, of
        the parameters before the step. The value is float32, or float64 if the loss is.

    Raises:
        TypeError: If `tx` is not a transformation; from `step`, if the loss returns a pair without
            `has_aux`, or no pair with it, or not a real number, if a leaf of `params` has no
            gradient, where the message names it, or if `state` is not that of `init(params)`.
        ValueError: From `step`, if the loss returns an array instead of one number.

    Example:
        >>> init, step = make_train_step(lambda p, target: (p - target) ** 2, optax.sgd(0.5))
        >>> params = jnp.array(3.0)
        >>> step(params, init(params), 1.0)[::2]
        (Array(1., dtype=float32), Array(4., dtype=float32))
    """
    tx = with_extra_args(_NAME, "tx", tx)

    def init(params: PyTree) -> Any:
        _check_params(params)
        return tx.init(params)

    def step(params: PyTree, state: PyTree, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        def evaluate(params: PyTree) -> tuple[Array, Any]:
            result = loss(params, *args, **kwargs)
            if isinstance(result, tuple) != has_aux or (has_aux and len(result) != 2):
                raise TypeError(_wrong_result(result, has_aux))
            value, aux = result if has_aux else (result, None)
            return _scalar(value), (aux, value.weight if isinstance(value, Mean) else None)

        try:
            params, state, value, aux = _apply(evaluate, tx, params, state)
        except Exception as error:
            message = _misplaced(tx, params, state)
            if message is None:
                raise
            raise TypeError(message) from error
        return params, state, (value, aux) if has_aux else value

    return init, step


def _apply(
    evaluate: Callable[[Any], tuple[Array, Any]], tx: Any, params: PyTree, state: Any
) -> tuple[Any, Any, Array, Any]:
    """New parameters and state, and value and aux of the parameters before the step."""
    _check_params(params)
    scale = loss_scale(state) if find_states(state, DynamicLossScaleState) else 1.0
    (value, (aux, weight)), grads = scaled_value_and_grad(evaluate, scale, has_aux=True)(params)
    given = {"value": value, "grad": grads, "value_fn": lambda p: evaluate(p)[0]}
    if weight is not None and find_states(state, AccumulateState):
        given["weight"] = weight
    accepted = inspect.signature(tx.update).parameters
    if "grad_fn" in accepted:
        given["grad_fn"] = lambda p, _: jax.grad(lambda q: evaluate(q)[0])(p)
    if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        # `optax.contrib.sam` accepts no arguments but those in its signature.
        given = {name: x for name, x in given.items() if name in accepted}
    updates, state = tx.update(grads, state, params, **given)
    return optax.apply_updates(params, updates), state, value, aux


def _check_params(params: PyTree) -> None:
    remedy = (
        "which has no gradient. Keep it out of the parameters: pass it to `step` as an argument of "
        "the loss."
    )
    check_leaves(_NAME, params, jnp.inexact, remedy)


def _misplaced(tx: Any, params: PyTree, state: PyTree) -> str | None:
    """The error of a step whose `state` cannot be that of its `params`; None if it can."""
    if jax.tree.structure(params) == jax.tree.structure(_initialized(tx, state)):
        return f"{_NAME}: `params` and `state` are swapped: write `step(params, state, ...)`."
    expected = _initialized(tx, params)
    if expected is None or _layout(expected) == _layout(state):
        return None
    came, wanted = (f"{describe(s)} with {_layout(s)[1]} arrays" for s in (state, expected))
    return (
        f"{_NAME}: `state` is {came}, but `init(params)` returns {wanted}: write "
        f"`step(params, state, ...)`, with the arguments of the loss after them."
    )


def _initialized(tx: Any, params: PyTree) -> Any:
    try:
        return jax.eval_shape(tx.init, params)
    except Exception:  # noqa: BLE001  # whatever `init` raises, these are not its parameters
        return None


def _layout(state: PyTree) -> tuple[type, int]:
    """The outermost container and the number of leaves: static parts of a state may differ."""
    kind = tuple if isinstance(state, list) else type(state)
    return kind, jax.tree.structure(state).num_leaves


def _wrong_result(result: Any, has_aux: bool) -> str:
    came = f"{_NAME}: the loss returned {describe(result)}"
    if has_aux:
        return f"{came}, expected a pair `(value, aux)`, because of `has_aux=True`."
    return f"{came}, expected a scalar. Write `has_aux=True` for a pair."


def _scalar(value: ArrayLike) -> Array:
    what = "the value of the loss"
    if isinstance(value, Mean):
        return scalar(_NAME, what, value)
    value = real_array(_NAME, what, value, "a scalar")
    if value.ndim:
        message = (
            f"{_NAME}: {what} has shape {value.shape}, expected one number: write "
            f'`reduction="mean"` in the loss, or `jaxloss.mean` around it.'
        )
        raise ValueError(message)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{_NAME}: {what} is {value.dtype}, expected a floating-point scalar.")
    return to_accumulator(value)
