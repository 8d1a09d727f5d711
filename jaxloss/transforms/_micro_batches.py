"""Micro-batches over several calls, added up as one batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxloss.transforms._common import nothing, wrapped

_NAME = "jaxloss.transforms.accumulate"


class AccumulateState(NamedTuple):
    """What was added up since the last step of the optimizer inside.

    Attributes:
        micro_step: How many micro-batches were added. An int32 scalar.
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
    inner: optax.GradientTransformation, every: int
) -> optax.GradientTransformationExtraArgs:
    r"""Steps once every few micro-batches, with the gradient of the mean over all of them.

    $$g = \frac{\sum_b W_b g_b}{\sum_b W_b}, \qquad g_b = \nabla \frac{T_b}{W_b}$$

    Where masks differ, so do the weights $W_b$ of the micro-batches, and the mean of their
    gradients (`optax.MultiSteps`) is the gradient of another loss: a token in a short sequence
    counts more than one in a long one. Say what each mean was divided by, `weight=`, and the
    result is that of the whole batch. `minimize` says it by itself if the loss gives a `Mean`. A
    micro-batch of weight 0 adds nothing, even if its gradient is NaN.

    Between the steps the updates change nothing, to the bit. Schedules and penalties inside
    count and act once a step; a `value` is averaged like the gradient; a `value_fn` would be that
    of the last micro-batch alone, and is refused when it is called. Where all micro-batches are
    at hand in one call, `gradients.accumulate_value_and_grad` needs no state, and takes several
    terms with different denominators.

    Args:
        inner: What Optax makes: `optax.adam(1e-3)`, or a chain.
        every: How many micro-batches make a step.

    Returns:
        A gradient transformation, whose `update` takes the gradient of a *mean* and `weight=`,
        and whose state is an `AccumulateState`.

    Raises:
        TypeError: If `inner` is not a transformation.
        ValueError: If `every` is not an integer of at least 1, or `update` is called without
            `weight`.

    Example:
        >>> tx = accumulate(optax.sgd(1.0), 2)
        >>> _, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)), weight=3.0)
        >>> tx.update(jnp.array([0.0]), state, weight=1.0)[0]
        Array([-3.], dtype=float32)
    """
    inner = wrapped(_NAME, "inner", inner)
    if not isinstance(every, int) or every < 1:
        message = f"{_NAME}: `every` is {every!r}, expected an integer of at least 1."
        raise ValueError(message)

    def init(params: Any) -> AccumulateState:
        zero = jnp.zeros((), jnp.float32)
        gradients = jax.tree.map(
            lambda p: jnp.zeros_like(p, jnp.promote_types(jnp.result_type(p), jnp.float32)), params
        )
        return AccumulateState(
            jnp.zeros((), jnp.int32), gradients, zero, zero + 0, inner.init(params)
        )

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AccumulateState]:
        weight = extra_args.pop("weight", None)
        if weight is None or jnp.ndim(weight):
            came = "not given" if weight is None else f"of shape {jnp.shape(weight)}"
            message = (
                f"{_NAME}: `weight` is {came}, expected a scalar, what the mean of this micro-batch "
                f"was divided by: take `mean = loss(..., reduction='parts')`, differentiate "
                f"`mean.value`, and write `tx.update(grads, state, params, weight=mean.weight)`."
            )
            raise ValueError(message)
        weight = jnp.asarray(weight).astype(jnp.float32)

        def weighed(x: Any, total: Array) -> Array:
            # Chosen, not multiplied: a mean over nothing may have a gradient of NaN.
            own = weight.astype(total.dtype) * jnp.asarray(x).astype(total.dtype)
            return total + jnp.where(weight == 0, 0, own)

        gradients = jax.tree.map(weighed, updates, state.gradients)
        value = extra_args.get("value")
        total_loss = state.total_loss if value is None else weighed(value, state.total_loss)
        total_weight = state.total_weight + weight
        divisor = jnp.where(total_weight == 0, 1, total_weight)
        given = dict(extra_args)
        if value is not None:
            given["value"] = total_loss / divisor
        if given.get("value_fn") is not None:
            given["value_fn"] = _refuse

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
        last = state.micro_step + 1 >= every
        new, inner_state = jax.lax.cond(last, step, lambda: (nothing(expected), state.inner_state))
        micro_step = jnp.where(last, 0, state.micro_step + 1).astype(jnp.int32)
        gradients, total_loss, total_weight = jax.tree.map(
            lambda x: jnp.where(last, jnp.zeros_like(x), x), (gradients, total_loss, total_weight)
        )
        return new, AccumulateState(micro_step, gradients, total_loss, total_weight, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _refuse(*args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    message = (
        f"{_NAME}: the optimizer inside evaluates the loss (`value_fn`), which here is that of the "
        f"last micro-batch alone. Use `gradients.accumulate_value_and_grad` around one step of it."
    )
    raise ValueError(message)
