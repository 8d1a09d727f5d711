"""A guard: steps that are not finite are skipped, counted, and never hidden."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from jaxloss.transforms._common import all_finite, update_if, wrapped


class SkipNonfiniteState(NamedTuple):
    """What `skip_nonfinite` saw, for the log, and the state of what it guards.

    Attributes:
        skipped: How many steps were skipped since `init`. An int32 scalar.
        consecutive: How many of them in a row, up to the last step. An int32 scalar.
        last_ok: Whether the last step was taken. A boolean scalar.
        inner_state: The state of the optimizer inside: after a skipped step the one before it.
    """

    skipped: Array
    consecutive: Array
    last_ok: Array
    inner_state: Any


def skip_nonfinite(
    inner: optax.GradientTransformation, *, check_value: bool = True
) -> optax.GradientTransformationExtraArgs:
    r"""Skips a step whose gradient, loss or update is NaN or infinite, and counts it.

    $$(u, s) \leftarrow \begin{cases} \mathrm{inner}(g, s) & g, L \text{ and } u
      \text{ are finite} \\ (-0, s) & \text{else} \end{cases}$$

    A skipped step leaves the parameters and every state inside as they were, bit for bit. It
    looks at what comes in, at what goes out (a penalty inside may overflow), and at the `value`:
    a loss can be NaN while its gradient is finite, where a label names no class. It goes on
    skipping for as long as it must, and does not apply the NaN after so many (as
    `optax.apply_if_finite` does), so look at `consecutive`: training that only skips has ended.
    What the model carries beside its parameters is yours to keep: see `select`.

    Args:
        inner: What Optax makes: `optax.adam(1e-3)`, or a chain.
        check_value: Whether the extra argument `value` is looked at, where it is given.

    Returns:
        A gradient transformation, whose state is a `SkipNonfiniteState`.

    Raises:
        TypeError: If `inner` is not a transformation.

    Example:
        >>> tx = skip_nonfinite(optax.sgd(1.0))
        >>> updates, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(jnp.ones(2)))
        >>> updates, int(state.skipped)
        (Array([-0., -0.], dtype=float32), 1)

    References:
        Micikevicius et al., *Mixed Precision Training*, 2018.
    """
    inner = wrapped("jaxloss.transforms.skip_nonfinite", "inner", inner)

    def init(params: Any) -> SkipNonfiniteState:
        zero = jnp.zeros((), jnp.int32)
        return SkipNonfiniteState(zero, zero + 0, jnp.ones((), bool), inner.init(params))

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, SkipNonfiniteState]:
        value = extra_args.get("value") if check_value else None
        fine = all_finite(updates, value)
        new, inner_state, ok = update_if(
            fine, inner, updates, state.inner_state, params, extra_args, check=True
        )
        return new, SkipNonfiniteState(
            jnp.where(ok, state.skipped, optax.safe_increment(state.skipped)),
            jnp.where(ok, jnp.zeros((), jnp.int32), optax.safe_increment(state.consecutive)),
            ok,
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)
