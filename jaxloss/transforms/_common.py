"""What several transformations need: named leaves, finite trees, updates that change nothing."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array


def named_leaves(name: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """Each leaf with the name that an error gives it: `updates['w'][0]`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield f"{name}{jax.tree_util.keystr(path)}", leaf


def dtype_of(leaf: Any) -> Any:
    """The dtype of an array, or the type of anything else."""
    return getattr(leaf, "dtype", type(leaf))


def check_scalar(fun_name: str, name: str, given: Any) -> None:
    """Raises unless a number, a scalar array or a traced scalar was given."""
    expected = "expected a real number, a scalar array or a schedule."
    try:
        array = jnp.asarray(given)
    except (TypeError, ValueError):
        message = f"{fun_name}: `{name}` is a {type(given).__name__}, {expected}"
        raise TypeError(message) from None
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{fun_name}: `{name}` is {array.dtype}, {expected}")
    if array.ndim:
        raise ValueError(f"{fun_name}: `{name}` has shape {array.shape}, {expected}")


def all_finite(*trees: Any) -> Array:
    """Whether no floating-point number in any of the trees is NaN or infinite."""
    floats = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in floats], bool))


def nothing(updates: Any) -> Any:
    """Updates that leave parameters as they are, to the bit.

    Minus zero, because it is the neutral element: -0 + 0 is 0, and would lose the sign of a -0.
    """
    return jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates)


def tree_where(ok: Any, new: Any, old: Any) -> Any:
    r"""Keeps what a bad step would have spoilt: batch statistics, a moving average, anything.

    $$x \leftarrow \begin{cases} x_\text{new} & \text{ok} \\ x_\text{old} & \text{else}
      \end{cases}$$

    A guard protects parameters and the state of the optimizer. What the model itself carries
    (the statistics of a batch norm) was computed before the guard looked, and may hold NaN.

    Args:
        ok: A boolean scalar: `optax.tree.get(state, "last_ok")` after `skip_nonfinite`.
        new: A pytree of arrays; None stays None.
        old: A pytree of the same structure, shapes and dtypes.

    Returns:
        `new` where `ok` is True, else `old`, bit for bit. Nothing of the other leaks in.

    Raises:
        ValueError: If the trees differ in structure.

    Example:
        >>> select(False, {"mean": jnp.float32(jnp.nan)}, {"mean": jnp.float32(2.0)})
        {'mean': Array(2., dtype=float32)}
    """
    if jax.tree.structure(new) != jax.tree.structure(old):
        message = (
            f"jaxloss.transforms.tree_where: `new` is {jax.tree.structure(new)}, but `old` is "
            f"{jax.tree.structure(old)}: expected one structure."
        )
        raise ValueError(message)
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


def like(params: Any, tree: Any, change: Callable[[Any], Any]) -> Any:
    """A changed copy of a tree that goes with the parameters.

    Where the parameters have no leaves, it is they themselves: Optax asks with a placeholder
    which fields of a state are like the parameters.
    """
    return jax.tree.map(change, tree) if jax.tree.leaves(params) else params


def holds(state: Any, kind: type) -> list[Any]:
    """The states of a kind in a state, outermost ones, at any depth."""
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    return [x for x in nodes if isinstance(x, kind)]


def wrapped(fun_name: str, name: str, inner: Any) -> optax.GradientTransformationExtraArgs:
    """The transformation inside a wrapper, which then takes extra arguments, needed or not."""
    if not (hasattr(inner, "init") and hasattr(inner, "update")):
        came = getattr(inner, "__name__", type(inner).__name__)
        message = (
            f"{fun_name}: `{name}` is {came}, expected what Optax makes: write `optax.adam(1e-3)`."
        )
        raise TypeError(message)
    # `optax.MultiSteps` is no GradientTransformation; it takes and forwards extra arguments itself.
    if isinstance(inner, optax.GradientTransformation):
        return optax.with_extra_args_support(inner)
    return inner


def update_if(
    ok: Array,
    inner: optax.GradientTransformationExtraArgs,
    updates: Any,
    inner_state: Any,
    params: Any,
    extra_args: dict[str, Any],
    *,
    check: bool = False,
) -> tuple[Any, Any, Array]:
    """The update of `inner` if all is well; else updates that change nothing, and its old state.

    A `lax.cond`, so that a bad step is not computed. With `check`, all is well only if what would
    come out is finite, too. To choose afterwards, both states would have to exist; so the update
    is first computed to be judged, which needs no memory, and then to be made. Only where it
    evaluates the loss, in a line search, is it computed once, and both states are kept.
    """
    evaluations = []

    def step() -> tuple[Any, Any]:
        return inner.update(updates, inner_state, params, **extra_args)

    def watched() -> tuple[Any, Any]:
        given = dict(extra_args)
        for name in {"value_fn", "grad_fn"} & set(given):
            if callable(given[name]):
                given[name] = _watched(given[name], evaluations)
        return inner.update(updates, inner_state, params, **given)

    expected, _ = jax.eval_shape(watched)

    def skip() -> tuple[Any, Any]:
        return nothing(expected), inner_state

    if not check:
        return *jax.lax.cond(ok, step, skip), ok
    if evaluations:
        new, state = jax.lax.cond(ok, step, skip)
        ok = ok & all_finite(new)
        return tree_where(ok, new, nothing(new)), tree_where(ok, state, inner_state), ok
    ok = jax.lax.cond(ok, lambda: all_finite(step()[0]), lambda: jnp.zeros((), bool))
    return *jax.lax.cond(ok, step, skip), ok


def _watched(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # line searches look at the names of its arguments
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        calls.append(function)
        return function(*args, **kwargs)

    return evaluate
