"""Gradient accumulation over several calls: micro-batches that count as one batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from jaxloss._core.dtypes import accumulator_dtype
from jaxloss._core.parameters import check_count
from jaxloss.transforms._common import cond, no_update, with_extra_args

_NAME = "jaxloss.transforms.accumulate"


class AccumulateState(NamedTuple):
    """Sums since the last step of the optimizer inside.

    Attributes:
        micro_step: The number of micro-batches in the sums. An int32 scalar.
        gradients: The sum of their gradients, each times its weight, in float32 or better.
        total_loss: The sum of their losses, each times its weight. A float32 scalar.
        total_weight: The sum of their weights. A float32 scalar.
        inner_state: The state of the optimizer inside.
    """

    micro_step: Array
    gradients: Any
    total_loss: Array
    total_weight: Array
    inner_state: Any


def accumulate(
    inner: optax.GradientTransformation, micro_batches: int
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient accumulation: one step of an optimizer for several micro-batches.

    When to use: batches that do not fit into memory, whose micro-batches come in separate calls.
    Where all of them are available in one call, `gradients.accumulate_value_and_grad` needs no
    state, and accepts several terms with different denominators.

    $$g = \frac{\sum_b W_b g_b}{\sum_b W_b}, \qquad g_b = \nabla \frac{T_b}{W_b}$$

    Where masks differ, so do the weights $W_b$ of the micro-batches, and the mean of their
    gradients (`optax.MultiSteps`) is the gradient of another loss: a token in a short sequence
    has a larger weight than one in a long sequence. With the divisor of each mean as `weight=`, the
    result is the gradient of the whole batch. `make_train_step` passes it where the loss returns a
    `Mean`. A micro-batch of weight 0 adds nothing, even if its gradient is NaN.

    Between the steps the updates change nothing, bit for bit. Schedules and penalties inside act
    once a step; `value` is averaged like the gradient; `value_fn` would be that of the last
    micro-batch alone, and raises when it is called.

    Args:
        inner: An Optax transformation: `optax.adam(1e-3)`, or a chain.
        micro_batches: The number of micro-batches of a step.

    Returns:
        A gradient transformation, whose `update` takes the gradient of a *mean* and `weight=`,
        and whose state is an `AccumulateState`.

    Raises:
        TypeError: If `inner` is not a transformation.
        ValueError: If `micro_batches` is not an integer of at least 1, or `update` is called
            without `weight`.

    Example:
        >>> tx = accumulate(optax.sgd(1.0), 2)
        >>> _, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)), weight=3.0)
        >>> tx.update(jnp.array([0.0]), state, weight=1.0)[0]
        Array([-3.], dtype=float32)
    """
    inner = with_extra_args(_NAME, "inner", inner)
    micro_batches = check_count(_NAME, "micro_batches", micro_batches)

    def init(params: PyTree) -> AccumulateState:
        zero = jnp.zeros((), jnp.float32)
        gradients = jax.tree.map(
            lambda p: jnp.zeros_like(p, accumulator_dtype(jnp.result_type(p))), params
        )
        return AccumulateState(
            jnp.zeros((), jnp.int32), gradients, zero, zero + 0, inner.init(params)
        )

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, AccumulateState]:
        weight = extra_args.pop("weight", None)
        if weight is None or jnp.ndim(weight):
            came = "not given" if weight is None else f"of shape {jnp.shape(weight)}"
            message = (
                f"{_NAME}: `weight` is {came}, expected a scalar, the divisor of the mean of this "
                f"micro-batch: compute `mean = loss(..., reduction='parts')`, differentiate "
                f"`mean.value`, and write `tx.update(grads, state, params, weight=mean.weight)`."
            )
            raise ValueError(message)
        weight = jnp.asarray(weight).astype(jnp.float32)

        def add_weighted(x: Any, total: Array) -> Array:
            # Selected, not multiplied by 0: a mean over nothing may have a gradient of NaN.
            weighted = weight.astype(total.dtype) * jnp.asarray(x).astype(total.dtype)
            return total + jnp.where(weight == 0, 0, weighted)

        gradients = jax.tree.map(add_weighted, updates, state.gradients)
        value = extra_args.get("value")
        total_loss = state.total_loss if value is None else add_weighted(value, state.total_loss)
        total_weight = state.total_weight + weight
        divisor = jnp.where(total_weight == 0, 1, total_weight)
        given = dict(extra_args)
        if value is not None:
            given["value"] = total_loss / divisor
        if given.get("value_fn") is not None:
            given["value_fn"] = _refuse_evaluation

        def step() -> tuple[Any, Any]:
            mean = jax.tree.map(
                lambda g, u: (g / divisor.astype(g.dtype)).astype(jnp.result_type(u)),
                gradients,
                updates,
            )
            if given.get("grad") is not None:
                given["grad"] = mean
            return inner.update(mean, state.inner_state, params, **given)

        expected, _ = jax.eval_shape(step)
        last = state.micro_step + 1 >= micro_batches

        def wait() -> tuple[Any, Any]:
            return no_update(expected), state.inner_state

        new, inner_state = cond(last, step, wait)
        micro_step = jnp.where(last, 0, state.micro_step + 1).astype(jnp.int32)
        gradients, total_loss, total_weight = jax.tree.map(
            lambda x: jnp.where(last, jnp.zeros_like(x), x), (gradients, total_loss, total_weight)
        )
        return new, AccumulateState(micro_step, gradients, total_loss, total_weight, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _refuse_evaluation(*args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    message = (
        f"{_NAME}: the optimizer inside evaluates the loss (`value_fn`), which here is that of the "
        f"last micro-batch alone. Use `gradients.accumulate_value_and_grad` around one step of it."
    )
    raise ValueError(message)
