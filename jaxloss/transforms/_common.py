"""What several transformations share: finiteness, conditional updates, states, wrappers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer
from jaxtyping import PyTree

from jaxloss._memory.mesh import is_manual, pcast_varying, vma_of


def all_finite(*trees: PyTree) -> Array:
    """Whether no floating-point number in any of the trees is NaN or infinite."""
    floats = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in floats], bool))


def no_update(updates: PyTree) -> Any:
    """Updates that leave parameters as they are, bit for bit.

    They are -0, the neutral element: -0 + 0 is 0, which would lose the sign of a parameter of -0.
    """
    return jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates)


def tree_where(ok: Any, new: Any, old: Any) -> Any:
    r"""One of two pytrees, selected by a condition.

    When to use: what a model carries beside its parameters (the batch statistics of a batch norm, a
    moving average) and must not change in a skipped step.

    $$x \leftarrow \begin{cases} x_\text{new} & \text{ok} \\ x_\text{old} & \text{else}
      \end{cases}$$

    `skip_nonfinite` protects parameters and optimizer state only. Batch statistics are computed in
    the forward pass, before it, and may hold NaN.

    Args:
        ok: A boolean scalar: `optax.tree.get(state, "last_ok")` after `skip_nonfinite`.
        new: A pytree of arrays; None stays None.
        old: A pytree of the same structure, shapes and dtypes.

    Returns:
        `new` where `ok` is True, else `old`, bit for bit.

    Raises:
        ValueError: If the trees differ in structure.

    Example:
        >>> tree_where(False, {"mean": jnp.float32(jnp.nan)}, {"mean": jnp.float32(2.0)})
        {'mean': Array(2., dtype=float32)}
    """
    if jax.tree.structure(new) != jax.tree.structure(old):
        message = (
            f"jaxloss.transforms.tree_where: `new` is {jax.tree.structure(new)}, but `old` is "
            f"{jax.tree.structure(old)}: expected one structure."
        )
        raise ValueError(message)
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


def map_like_params(function: Callable[[Any], Any], tree: PyTree, params: PyTree) -> Any:
    """Maps over a tree that has the structure of the parameters.

    Returns the parameters themselves where they have no leaves: `optax.tree_map_params` calls
    `init` with a placeholder, to find the fields of a state that have the structure of parameters.
    """
    return jax.tree.map(function, tree) if jax.tree.leaves(params) else params


def find_states(state: PyTree, kind: type) -> list[Any]:
    """The outermost states of a kind, at any depth of a state."""
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    return [x for x in nodes if isinstance(x, kind)]


def with_extra_args(fun_name: str, name: str, inner: Any) -> optax.GradientTransformationExtraArgs:
    """A transformation that ignores the extra arguments that it has no use for."""
    if not (hasattr(inner, "init") and hasattr(inner, "update")):
        came = getattr(inner, "__name__", type(inner).__name__)
        message = (
            f"{fun_name}: `{name}` is {came}, expected an Optax transformation: write "
            f"`optax.adam(1e-3)`."
        )
        raise TypeError(message)
    # `optax.MultiSteps` is not a GradientTransformation; it forwards extra arguments itself.
    if isinstance(inner, optax.GradientTransformation):
        return optax.with_extra_args_support(inner)
    return inner


def cond(ok: Array, true_fun: Callable[[], Any], false_fun: Callable[[], Any]) -> Any:
    """`jax.lax.cond`, without compilation where the condition is known, as in eager calls.

    `jax.lax.cond` compiles its branches in every eager call, since they are new functions. Inside
    `shard_map` it refuses branches of which one gives a constant and one what differs between
    devices: there both are marked alike.
    """
    if not isinstance(ok, Tracer):
        return true_fun() if ok else false_fun()
    if not is_manual():
        return jax.lax.cond(ok, true_fun, false_fun)
    shapes = [jax.eval_shape(fun) for fun in (true_fun, false_fun)]

    def marked(fun: Callable[[], Any]) -> Callable[[], Any]:
        def mark(x: Any, *branches: Any) -> Any:
            return pcast_varying(x, vma_of(branches))

        return lambda: jax.tree.map(mark, fun(), *shapes)

    return jax.lax.cond(ok, marked(true_fun), marked(false_fun))


def update_if(
    ok: Array,
    inner: optax.GradientTransformationExtraArgs,
    updates: PyTree,
    inner_state: PyTree,
    params: PyTree,
    extra_args: dict[str, Any],
    *,
    check: bool = False,
) -> tuple[Any, Any, Array]:
    """The update of `inner` and its new state if `ok`; else no update, and its old state.

    With `check`, the new updates must be finite, too. They are computed twice: once to be checked,
    which needs no memory, and once in a `lax.cond`, so that old and new state never exist side by
    side. In eager calls, and if it evaluates the loss, as line searches do, it is computed once,
    and both states are kept.
    """
    evaluations = []

    def step() -> tuple[Any, Any]:
        return inner.update(updates, inner_state, params, **extra_args)

    def counted_step() -> tuple[Any, Any]:
        counted = dict(extra_args)
        for name in {"value_fn", "grad_fn"} & set(counted):
            if callable(counted[name]):
                counted[name] = _count_calls(counted[name], evaluations)
        return inner.update(updates, inner_state, params, **counted)

    expected, _ = jax.eval_shape(counted_step)

    def skip() -> tuple[Any, Any]:
        return no_update(expected), inner_state

    if not check:
        return *cond(ok, step, skip), ok
    if evaluations or not isinstance(ok, Tracer):
        new, state = cond(ok, step, skip)
        ok = ok & all_finite(new)
        return tree_where(ok, new, no_update(new)), tree_where(ok, state, inner_state), ok
    ok = cond(ok, lambda: all_finite(step()[0]), lambda: jnp.zeros((), bool))
    return *cond(ok, step, skip), ok


def _count_calls(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # line searches inspect the names of its arguments
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(function)
        return function(*args, **kwargs)

    return counted
