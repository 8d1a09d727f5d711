"""A loss and an Optax optimizer, joined into a step."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxloss._core.reduction import Mean
from jaxloss.gradients import scaled_value_and_grad
from jaxloss.transforms._common import dtype_of, holds, named_leaves, wrapped
from jaxloss.transforms._loss_scale import DynamicLossScaleState, loss_scale
from jaxloss.transforms._micro_batches import AccumulateState

_NAME = "jaxloss.transforms.make_train_step"


def make_train_step(
    loss: Callable[..., Any], tx: optax.GradientTransformation, *, has_aux: bool = False
) -> tuple[Callable[[Any], Any], Callable[..., tuple[Any, Any, Any]]]:
    r"""Makes the two functions of a training loop of a loss and an Optax transformation.

    $$p \leftarrow p + u(\nabla L(p), L(p), L)$$

    The step computes value and gradient, hands `value`, `grad` and `value_fn` to the
    transformation, and applies the updates: `adam` ignores the three, `polyak_sgd`, `momo` and
    `reduce_on_plateau` want the first, `lbfgs` all of them; `sam` is given the `grad_fn` that its
    opaque mode wants. With `accumulate` in the transformation, a loss that gives a `Mean` sends its
    weight along; with `dynamic_loss_scale`, the backward pass starts from the scale. It is pure:
    write `jax.jit(step, donate_argnums=(0, 1))`. The gradient is always that of the arguments at
    hand, never one that a line search kept, since the next batch is another function.

    Args:
        loss: `loss(params, *args, **kwargs)` gives a scalar, or a `Mean`, which is divided; with
            `has_aux`, a pair of that and anything else, as `jaxloss.total` does.
        tx: What Optax makes: `optax.adam(1e-3)`, or a chain.
        has_aux: Whether the loss gives a pair.

    Returns:
        `init` and `step`. `init(params)` gives the state of `tx`; `step(params, state, *args,
        **kwargs)` gives new parameters, new state, and the value, or the pair `(value, aux)`, of
        the parameters that came in. The value is float32, or float64 if the loss is.

    Raises:
        TypeError: From here, if `tx` is not a transformation; from `step`, if the loss gives a
            pair without `has_aux`, or none with it, or not a real number, or if a leaf of
            `params` has no gradient; the message names it.
        ValueError: From `step`, if the loss gives an array instead of one number.

    Example:
        >>> init, step = minimize(lambda p, target: (p - target) ** 2, optax.sgd(0.5))
        >>> params = jnp.array(3.0)
        >>> step(params, init(params), 1.0)[::2]
        (Array(1., dtype=float32), Array(4., dtype=float32))
    """
    tx = wrapped(_NAME, "tx", tx)

    def init(params: Any) -> Any:
        _check_params(params)
        return tx.init(params)

    def step(params: Any, state: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        _check_params(params)

        def evaluate(params: Any) -> tuple[Array, Any]:
            result = loss(params, *args, **kwargs)
            if isinstance(result, tuple) != has_aux or (has_aux and len(result) != 2):
                raise TypeError(_misfit(result, has_aux))
            value, aux = result if has_aux else (result, None)
            return _scalar(value), (aux, value.weight if isinstance(value, Mean) else None)

        scale = loss_scale(state) if holds(state, DynamicLossScaleState) else 1.0
        (value, (aux, weight)), grads = scaled_value_and_grad(evaluate, scale, has_aux=True)(params)
        given = {"value": value, "grad": grads, "value_fn": lambda p: evaluate(p)[0]}
        if weight is not None and holds(state, AccumulateState):
            given["weight"] = weight
        named = inspect.signature(tx.update).parameters
        if "grad_fn" in named:
            given["grad_fn"] = lambda p, _: jax.grad(lambda q: evaluate(q)[0])(p)
        if not any(p.kind is p.VAR_KEYWORD for p in named.values()):
            # `optax.contrib.sam` takes what it names, and nothing else.
            given = {name: x for name, x in given.items() if name in named}
        updates, state = tx.update(grads, state, params, **given)
        return optax.apply_updates(params, updates), state, (value, aux) if has_aux else value

    return init, step


def _check_params(params: Any) -> None:
    for name, leaf in named_leaves("params", params):
        if not jnp.issubdtype(dtype_of(leaf), jnp.inexact):
            came = dtype_of(leaf) if hasattr(leaf, "dtype") else f"of type {type(leaf).__name__}"
            message = (
                f"{_NAME}: `{name}` is {came}, which has no gradient. "
                f"Keep it out of the parameters: hand it to `step` as an argument of the loss."
            )
            raise TypeError(message)


def _misfit(result: Any, has_aux: bool) -> str:
    came = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
    if has_aux:
        return f"{_NAME}: the loss gave {came}, expected a pair `(value, aux)`, as `has_aux` says."
    return f"{_NAME}: the loss gave {came}, expected a scalar. Write `has_aux=True` for a pair."


def _scalar(value: Any) -> Array:
    if isinstance(value, Mean):
        value = value.value
        remedy = "merge the means exactly: write `jax.tree.map(jnp.sum, mean)`."
    else:
        remedy = 'write `reduction="mean"` in the loss, or `jaxloss.mean` around it.'
    try:
        value = jnp.asarray(value)
    except (TypeError, ValueError):
        message = f"{_NAME}: the loss gave a {type(value).__name__}, expected a scalar."
        raise TypeError(message) from None
    if value.ndim:
        message = f"{_NAME}: the loss gave shape {value.shape}, expected one number: {remedy}"
        raise ValueError(message)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{_NAME}: the loss gave {value.dtype}, expected a floating-point scalar.")
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))
