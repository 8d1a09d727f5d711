"""A guard against NaN and infinity: it skips and counts steps that are not finite."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from jaxloss.transforms._common import all_finite, update_if, with_extra_args


class SkipNonfiniteState(NamedTuple):
    """Counts of skipped steps, to log, and the state of the optimizer inside.

    Attributes:
        skipped: The number of steps skipped since `init`. An int32 scalar.
        consecutive: The number of them in a row, up to the last step. An int32 scalar.
        last_ok: Whether the last step was applied. A boolean scalar.
        inner_state: The state of the optimizer inside, which a skipped step does not change.
    """

    skipped: Array
    consecutive: Array
    last_ok: Array
    inner_state: Any


def skip_nonfinite(
    inner: optax.GradientTransformation, *, check_value: bool = True
) -> optax.GradientTransformationExtraArgs:
    r"""Skips and counts steps whose gradient, loss or update is NaN or infinite.

    When to use: long training runs, where a single bad batch must not destroy the parameters.

    $$(u, s) \leftarrow \begin{cases} \mathrm{inner}(g, s) & g, L \text{ and } u
      \text{ are finite} \\ (-0, s) & \text{else} \end{cases}$$

    A skipped step leaves the parameters and every state inside as they were, bit for bit. Three
    things are checked: the gradients; the new updates, since a penalty inside may overflow; and the
    extra argument `value`, since a loss can be NaN while its gradient is finite, where a label is
    not a class id. `optax.apply_if_finite` applies the NaN after a number of skipped steps; this
    never does, so look at `consecutive`: a run that only skips has ended. `tree_where` protects
    what a model carries beside its parameters.

    Args:
        inner: An Optax transformation: `optax.adam(1e-3)`, or a chain.
        check_value: Whether the extra argument `value` is checked, where it is given.

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
    inner = with_extra_args("jaxloss.transforms.skip_nonfinite", "inner", inner)

    def init(params: PyTree) -> SkipNonfiniteState:
        zero = jnp.zeros((), jnp.int32)
        return SkipNonfiniteState(zero, zero + 0, jnp.ones((), bool), inner.init(params))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, SkipNonfiniteState]:
        value = extra_args.get("value") if check_value else None
        finite = all_finite(updates, value)
        new, inner_state, ok = update_if(
            finite, inner, updates, state.inner_state, params, extra_args, check=True
        )
        return new, SkipNonfiniteState(
            jnp.where(ok, state.skipped, optax.safe_increment(state.skipped)),
            jnp.where(ok, jnp.zeros((), jnp.int32), optax.safe_increment(state.consecutive)),
            ok,
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)
