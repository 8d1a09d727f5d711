"""Half precision: gradients scaled so that small ones do not vanish, and steps that overflowed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxloss.transforms._common import all_finite, holds, update_if, wrapped

_NAME = "jaxloss.transforms.dynamic_loss_scale"


class DynamicLossScaleState(NamedTuple):
    """The scale of the next backward pass, and the state of the optimizer inside.

    Attributes:
        loss_scale: What the next backward pass is to be seeded with. A float32 scalar.
        good_steps: Steps without an overflow since the scale last changed. An int32 scalar.
        skipped: How many steps overflowed since `init`, and were skipped. An int32 scalar.
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
    r"""Trains in float16: divides scaled gradients, skips those that overflowed, adapts the scale.

    $$g = \frac{g_s}{s}, \qquad s \leftarrow \begin{cases} \max(s / f, s_{\min}) & g_s
      \text{ is not finite} \\ \min(s f, s_{\max}) & \text{after } n \text{ finite steps in a row}
      \end{cases}$$

    The gradients that come in were scaled in the backward pass, by
    `gradients.scaled_value_and_grad(loss, loss_scale(state))`: there the *cotangent* is scaled,
    so that the loss itself never overflows. `minimize` does this by itself. A step that
    overflowed leaves parameters and inner state as they were, bit for bit. Keep it outermost,
    and penalties inside, where gradients have their true size. Keep parameters in float32 and
    cast them in the loss: half-precision gradients of half-precision parameters are divided in
    float32, but must be rounded back.

    Args:
        inner: What Optax makes: `optax.adam(1e-3)`, or a chain.
        initial: The first scale. A power of 2 changes no digit.
        period: After how many finite steps in a row the scale grows.
        factor: By what it grows and shrinks, above 1.
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
    inner = wrapped(_NAME, "inner", inner)
    if not factor > 1 or period < 1 or not 0 < minimum <= initial <= maximum < float("inf"):
        message = (
            f"{_NAME}: expected `factor` > 1, `period` >= 1 and 0 < `minimum` <= `initial` <= "
            f"`maximum`, got factor={factor}, period={period}, minimum={minimum}, "
            f"initial={initial}, maximum={maximum}."
        )
        raise ValueError(message)

    def init(params: Any) -> DynamicLossScaleState:
        zero = jnp.zeros((), jnp.int32)
        return DynamicLossScaleState(
            jnp.full((), initial, jnp.float32), zero, zero + 0, inner.init(params)
        )

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, DynamicLossScaleState]:
        scale = state.loss_scale

        def unscale(g: Any) -> Array:
            wide = jnp.promote_types(jnp.result_type(g), jnp.float32)
            return (jnp.asarray(g).astype(wide) / scale.astype(wide)).astype(jnp.result_type(g))

        # Before the division: the largest scaled number that is finite stays so.
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


def loss_scale(state: Any) -> Array:
    r"""Finds the scale that the next backward pass is to be seeded with.

    $$g_s = \frac{\partial (s L)}{\partial p}$$

    Args:
        state: That of an optimizer with one `dynamic_loss_scale` in it, at any depth.

    Returns:
        The scale, a float32 scalar: for `gradients.scaled_value_and_grad`.

    Raises:
        ValueError: If there is none, or more than one.

    Example:
        >>> tx = optax.chain(dynamic_loss_scale(optax.sgd(1.0), initial=4.0))
        >>> float(loss_scale(tx.init(jnp.ones(2))))
        4.0
    """
    found = holds(state, DynamicLossScaleState)
    if len(found) != 1:
        message = (
            f"jaxloss.transforms.loss_scale: the state holds {len(found)} dynamic loss scales, "
            f"expected one: wrap the whole optimizer, `dynamic_loss_scale(optax.adam(1e-3))`."
        )
        raise ValueError(message)
    return found[0].loss_scale
