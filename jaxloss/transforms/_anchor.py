"""Penalties that pull parameters to a point they know: where they started, or where they were."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxloss.transforms._common import check_scalar, dtype_of, like, named_leaves


class AddAnchoredPenaltyState(NamedTuple):
    """Where the parameters are pulled to, and what that cost last.

    Attributes:
        count: How many updates were made: what a schedule is given. An int32 scalar.
        penalty: The penalty of the last parameters, *before* weighting. A float32 scalar.
        weight: The weight that it was given. A float32 scalar.
        anchor: The point, like the parameters.
        importance: How much each parameter counts, like the parameters; or None.
    """

    count: Array  # type: ignore[assignment]  # what Optax calls it; tuples have a method `count`
    penalty: Array
    weight: Array
    anchor: Any
    importance: Any


class AddEmaPenaltyState(NamedTuple):
    """The moving average that the parameters are pulled to, and what that cost last.

    Attributes:
        count: How many updates were made: what a schedule is given. An int32 scalar.
        penalty: The penalty of the last parameters, *before* weighting. A float32 scalar.
        weight: The weight that it was given. A float32 scalar.
        ema: The moving average of the parameters, in float32 or better.
    """

    count: Array  # type: ignore[assignment]  # what Optax calls it; tuples have a method `count`
    penalty: Array
    weight: Array
    ema: Any


def add_anchored_penalty(
    weight: Any, *, anchor: Any = None, importance: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Holds parameters near a point: fine-tuning that forgets less (L2-SP, EWC).

    $$R(p) = \frac12 \sum_i F_i (p_i - a_i)^2, \qquad u \leftarrow u + w F (p - a)$$

    With the anchor at the pretrained parameters this is L2-SP; with an importance, elastic weight
    consolidation: the diagonal of the Fisher information, the mean of squared gradients of the
    old task's log-likelihood. As with `add_penalty` its place in the chain decides whether it is
    part of the loss or decoupled from the optimizer. Anchor and importance are copied into the
    state, so that parameters can be donated; to move the anchor, call `init` again.

    Args:
        weight: A number, a traced array, or an Optax schedule.
        anchor: A pytree like the parameters; if None, the parameters that `init` is given.
        importance: A pytree like the parameters, of numbers at least 0; if None, all are 1.

    Returns:
        A gradient transformation, whose state is an `AddAnchoredPenaltyState`. Updates keep their
        dtype.

    Raises:
        TypeError: If `weight` is not a real number, or a leaf of the parameters has no gradient.
        ValueError: If `weight` is not a scalar, anchor, importance or updates do not fit the
            parameters, or `update` is called without `params`.

    Example:
        >>> tx = add_anchored_penalty(0.5, anchor=jnp.array([1.0, 1.0]))
        >>> params = jnp.array([1.0, 3.0])
        >>> tx.update(jnp.zeros(2), tx.init(params), params)[0]
        Array([0., 1.], dtype=float32)

    References:
        Li, Grandvalet and Davoine, *Explicit Inductive Bias for Transfer Learning*, 2018.
        Kirkpatrick et al., *Overcoming Catastrophic Forgetting in Neural Networks*, 2017.
    """
    fun_name = "jaxloss.transforms.add_anchored_penalty"
    if not callable(weight):
        check_scalar(fun_name, "weight", weight)

    def init(params: Any) -> AddAnchoredPenaltyState:
        _check_params(fun_name, params)
        for name, tree in (("anchor", anchor), ("importance", importance)):
            if tree is not None and jax.tree.leaves(params):
                _check_fit(fun_name, name, tree, params)
        start = params if anchor is None else anchor
        return AddAnchoredPenaltyState(
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.float32),
            jnp.zeros((), jnp.float32),
            like(params, start, _copy),
            None if importance is None else like(params, importance, _copy),
        )

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AddAnchoredPenaltyState]:
        del extra_args
        new, value, scale = _pull(
            fun_name, weight, updates, params, state.anchor, state.importance, state.count
        )
        return new, state._replace(
            count=jnp.asarray(optax.safe_increment(state.count)), penalty=value, weight=scale
        )

    return optax.GradientTransformationExtraArgs(init, update)


def add_ema_penalty(weight: Any, decay: Any = 0.999) -> optax.GradientTransformationExtraArgs:
    r"""Pulls parameters to their own moving average: a smoother path, a self-distilled anchor.

    $$u \leftarrow u + w (p - a), \qquad a \leftarrow d a + (1 - d) p$$

    The average starts at the parameters that `init` is given, and is updated after the pull, with
    the parameters that `update` is given. It is kept in float32 whatever the parameters are: in
    bfloat16 a decay of 0.999 would not move it. `optax.tree.get(state, "ema")` finds it for
    evaluation.

    Args:
        weight: A number, a traced array, or an Optax schedule.
        decay: How much of the average each step keeps, from 0 to 1; may be traced.

    Returns:
        A gradient transformation, whose state is an `AddEmaPenaltyState`. Updates keep their
        dtype.

    Raises:
        TypeError: If `weight` is not a real number, or a leaf of the parameters has no gradient.
        ValueError: If `weight` or `decay` is not a scalar, `decay` is a number outside 0 to 1, the
            updates do not fit the parameters, or `update` is called without `params`.

    Example:
        >>> tx = add_ema_penalty(0.5, decay=0.75)
        >>> _, state = tx.update(jnp.zeros(1), tx.init(jnp.zeros(1)), jnp.array([4.0]))
        >>> state.ema, float(state.penalty)
        (Array([1.], dtype=float32), 8.0)

    References:
        Tarvainen and Valpola, *Mean Teachers Are Better Role Models*, 2017.
    """
    fun_name = "jaxloss.transforms.add_ema_penalty"
    if not callable(weight):
        check_scalar(fun_name, "weight", weight)
    check_scalar(fun_name, "decay", decay)
    if isinstance(decay, int | float) and not 0 <= decay <= 1:
        raise ValueError(f"{fun_name}: `decay` must be between 0 and 1, got {decay!r}.")

    def init(params: Any) -> AddEmaPenaltyState:
        _check_params(fun_name, params)
        return AddEmaPenaltyState(
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.float32),
            jnp.zeros((), jnp.float32),
            like(params, params, lambda p: _wide(jnp.array(p, copy=True))),
        )

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AddEmaPenaltyState]:
        del extra_args
        new, value, scale = _pull(fun_name, weight, updates, params, state.ema, None, state.count)
        ema = jax.tree.map(
            lambda a, p: a + jnp.asarray(1 - decay, a.dtype) * (_wide(p) - a), state.ema, params
        )
        return new, AddEmaPenaltyState(
            jnp.asarray(optax.safe_increment(state.count)), value, scale, ema
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _copy(leaf: Any) -> Array:
    return jnp.array(leaf, copy=True)


def _wide(x: Any) -> Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check_params(fun_name: str, params: Any) -> None:
    for name, leaf in named_leaves("params", params):
        if not jnp.issubdtype(dtype_of(leaf), jnp.floating):
            came = dtype_of(leaf) if hasattr(leaf, "dtype") else f"of type {type(leaf).__name__}"
            message = (
                f"{fun_name}: `{name}` is {came}, which has no gradient. Put None in its place "
                f"(`equinox.filter(model, equinox.is_inexact_array)`), or wrap this in "
                f"`optax.masked`."
            )
            raise TypeError(message)


def _check_fit(fun_name: str, name: str, tree: Any, params: Any) -> None:
    """Raises unless a tree has the structure and the shapes of the parameters."""
    if jax.tree.structure(tree) != jax.tree.structure(params):
        message = (
            f"{fun_name}: `{name}` is {jax.tree.structure(tree)}, but the parameters are "
            f"{jax.tree.structure(params)}: expected one structure."
        )
        raise ValueError(message)
    for (leaf_name, leaf), p in zip(named_leaves(name, tree), jax.tree.leaves(params), strict=True):
        if jnp.shape(leaf) != jnp.shape(p):
            message = (
                f"{fun_name}: `{leaf_name}` has shape {jnp.shape(leaf)}, expected {jnp.shape(p)}, that "
                f"of the parameter."
            )
            raise ValueError(message)


def _pull(
    fun_name: str,
    weight: Any,
    updates: Any,
    params: Any,
    anchor: Any,
    importance: Any,
    count: Array,
) -> tuple[Any, Array, Array]:
    """The updates with the weighted pull added, the unweighted penalty, and the weight."""
    if params is None:
        message = f"{fun_name}: `params` is None: write `tx.update(grads, state, params)`."
        raise ValueError(message)
    _check_params(fun_name, params)
    if jax.tree.structure(updates) != jax.tree.structure(params):
        raise ValueError(f"{fun_name}: `updates` and `params` differ in structure.")
    scale = weight(count) if callable(weight) else weight
    check_scalar(fun_name, "weight", scale)
    apart = jax.tree.map(lambda p, a: _wide(p) - _wide(a), params, anchor)
    force = apart if importance is None else jax.tree.map(jnp.multiply, apart, importance)
    terms = [
        0.5 * jnp.sum(f * d)
        for f, d in zip(jax.tree.leaves(force), jax.tree.leaves(apart), strict=True)
    ]
    value = sum(terms, jnp.zeros((), jnp.float32))

    def add(u: Any, f: Array) -> Array:
        dtype = jnp.result_type(u)
        return (jnp.asarray(u).astype(dtype) + jnp.asarray(scale).astype(f.dtype) * f).astype(dtype)

    # Copies, so that the state never shares a buffer with a weight or a leaf that lives on.
    return (
        jax.tree.map(add, updates, force),
        jnp.array(value, jnp.float32, copy=True),
        jnp.array(scale, jnp.float32, copy=True),
    )
