"""Dynamic loss scaling for half precision, with a guard against overflow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from jaxloss._core.dtypes import to_accumulator
from jaxloss.transforms._common import all_finite, find_states, update_if, with_extra_args

_NAME = "jaxloss.transforms.dynamic_loss_scale"


class DynamicLossScaleState(NamedTuple):
    """The scale of the next backward pass, and the state of the optimizer inside.

    Attributes:
        loss_scale: The cotangent of the next backward pass. A float32 scalar.
        good_steps: Steps without an overflow since the scale last changed. An int32 scalar.
        skipped: The number of steps that overflowed since `init`, and were skipped. An int32
            scalar.
        inner_state: The state of the optimizer inside.
    """

    loss_scale: Array
    good_steps: Array
    skipped: Array
    inner_state: Any


def dynamic_loss_scale(
    inner: optax.GradientTransformation,
    *,
    initial: float = 2.0**15,
    period: int = 2000,
    factor: float = 2.0,
    minimum: float = 1.0,
    maximum: float = 2.0**24,
) -> optax.GradientTransformationExtraArgs:
    r"""Dynamic loss scaling: unscales gradients, skips steps that overflowed, adapts the scale.

    When to use: training in float16, whose small gradients would round to 0. bfloat16 has the
    range of float32 and needs no scale.

    $$g = \frac{g_s}{s}, \qquad s \leftarrow \begin{cases} \max(s / f, s_{\min}) & g_s
      \text{ is not finite} \\ \min(s f, s_{\max}) & \text{after } n \text{ finite steps in a row}
      \end{cases}$$

    Its input are scaled gradients, from `gradients.scaled_value_and_grad(loss, loss_scale(state))`:
    the *cotangent* is scaled, so that the loss itself never overflows. `make_train_step` does this
    where it finds a scale in the state. A step that overflowed leaves parameters and inner state
    as they were, bit for bit. Keep this wrapper outermost, and penalties inside, where gradients
    are not scaled. Keep parameters in float32 and cast them in the loss: gradients of
    half-precision parameters are divided in float32, and then rounded to half precision.

    Args:
        inner: An Optax transformation: `optax.adam(1e-3)`, or a chain.
        initial: The first scale. A power of 2 introduces no rounding.
        period: The number of finite steps in a row after which the scale grows.
        factor: The factor by which it grows and shrinks, above 1.
        minimum: The smallest scale.
        maximum: The largest scale.

    Returns:
        A gradient transformation, whose state is a `DynamicLossScaleState`.

    Raises:
        TypeError: If `inner` is not a transformation.
        ValueError: If `factor` is not above 1, `period` is below 1, or the scales are not in the
            order `0 < minimum <= initial <= maximum`.

    Example:
        >>> tx = dynamic_loss_scale(optax.sgd(1.0), initial=4.0)
        >>> updates, state = tx.update(jnp.array([8.0]), tx.init(jnp.ones(1)))
        >>> updates, float(loss_scale(tx.update(jnp.array([jnp.inf]), state)[1]))
        (Array([-2.], dtype=float32), 2.0)

    References:
        Micikevicius et al., *Mixed Precision Training*, 2018.
    """
    inner = with_extra_args(_NAME, "inner", inner)
    if not factor > 1 or period < 1 or not 0 < minimum <= initial <= maximum < float("inf"):
        message = (
            f"{_NAME}: expected `factor` > 1, `period` >= 1 and 0 < `minimum` <= `initial` <= "
            f"`maximum`, got factor={factor}, period={period}, minimum={minimum}, "
            f"initial={initial}, maximum={maximum}."
        )
        raise ValueError(message)

    def init(params: PyTree) -> DynamicLossScaleState:
        zero = jnp.zeros((), jnp.int32)
        return DynamicLossScaleState(
            jnp.full((), initial, jnp.float32), zero, zero + 0, inner.init(params)
        )

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, DynamicLossScaleState]:
        scale = state.loss_scale

        def unscale(g: Any) -> Array:
            wide = to_accumulator(g)
            return (wide / scale.astype(wide.dtype)).astype(jnp.result_type(g))

        # Tested on the scaled gradients: the division may overflow where the scale is below 1.
        finite = all_finite(updates)
        if extra_args.get("grad") is not None:
            extra_args["grad"] = jax.tree.map(unscale, extra_args["grad"])
        unscaled = jax.tree.map(unscale, updates)
        new, inner_state, _ = update_if(
            finite, inner, unscaled, state.inner_state, params, extra_args
        )
        good = jnp.where(finite, state.good_steps + 1, 0)
        grown = jnp.where(good >= period, jnp.minimum(scale * factor, maximum), scale)
        shrunk = jnp.maximum(scale / factor, minimum)
        return new, DynamicLossScaleState(
            jnp.where(finite, grown, shrunk).astype(jnp.float32),
            jnp.where(good >= period, 0, good).astype(jnp.int32),
            jnp.where(finite, state.skipped, optax.safe_increment(state.skipped)),
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def loss_scale(state: PyTree) -> Array:
    r"""The current loss scale, found in the state of an optimizer.

    When to use: a training step with `dynamic_loss_scale` that is not made by `make_train_step`.

    $$g_s = \frac{\partial (s L)}{\partial p}$$

    Args:
        state: The state of an optimizer with one `dynamic_loss_scale`, at any depth.

    Returns:
        The scale, a float32 scalar: for `gradients.scaled_value_and_grad`.

    Raises:
        ValueError: If there is none, or more than one.

    Example:
        >>> tx = optax.chain(dynamic_loss_scale(optax.sgd(1.0), initial=4.0))
        >>> float(loss_scale(tx.init(jnp.ones(2))))
        4.0
    """
    found = find_states(state, DynamicLossScaleState)
    if len(found) != 1:
        message = (
            f"jaxloss.transforms.loss_scale: the state holds {len(found)} dynamic loss scales, "
            f"expected one: wrap the whole optimizer, `dynamic_loss_scale(optax.adam(1e-3))`."
        )
        raise ValueError(message)
    return found[0].loss_scale
