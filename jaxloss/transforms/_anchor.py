"""Quadratic penalties on the distance of parameters to a point that the state holds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from jaxloss._core.dtypes import accumulator_dtype, add_in_dtype, to_accumulator
from jaxloss._core.parameters import check_leaves, named_leaves, real_scalar
from jaxloss._core.spec import ArrayLike
from jaxloss.domains import unit_interval
from jaxloss.transforms._common import map_like_params
from jaxloss.transforms._penalty import WEIGHT, initial_log, next_log


class AddAnchoredPenaltyState(NamedTuple):
    """The anchor, and the last values of `add_anchored_penalty`, to log.

    Attributes:
        count: The number of updates, which is the argument of a schedule. An int32 scalar.
        penalty: The penalty of the last parameters, *before* weighting. A float32 scalar.
        weight: Its weight. A float32 scalar.
        anchor: The anchor, with the structure of the parameters.
        importance: The factor of each parameter, with the structure of the parameters; or None.
    """

    count: Array  # type: ignore[assignment]  # Optax's name for it; tuples have a method `count`
    penalty: Array
    weight: Array
    anchor: Any
    importance: Any


class AddEmaPenaltyState(NamedTuple):
    """The moving average, and the last values of `add_ema_penalty`, to log.

    Attributes:
        count: The number of updates, which is the argument of a schedule. An int32 scalar.
        penalty: The penalty of the last parameters, *before* weighting. A float32 scalar.
        weight: Its weight. A float32 scalar.
        ema: The moving average of the parameters, in float32 or better.
    """

    count: Array  # type: ignore[assignment]  # Optax's name for it; tuples have a method `count`
    penalty: Array
    weight: Array
    ema: Any


def add_anchored_penalty(
    weight: Any, *, anchor: Any = None, importance: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Quadratic penalty on the distance to an anchor: L2-SP, elastic weight consolidation (EWC).

    When to use: fine-tuning that must stay near the pretrained parameters, and continual learning
    that must not forget an earlier task.

    $$R(p) = \frac12 \sum_i F_i (p_i - a_i)^2, \qquad u \leftarrow u + w F (p - a)$$

    With the anchor at the pretrained parameters this is L2-SP. With an importance it is EWC: the
    diagonal of the Fisher information, that is, the mean of the squared gradients of the earlier
    task's log-likelihood. As with `add_penalty`, the position in the chain decides whether it is
    part of the loss or decoupled from the optimizer. Anchor and importance are copied into the
    state, so that parameters can be donated; to move the anchor, call `init` again.

    Args:
        weight: A number, a traced array, or an Optax schedule.
        anchor: A pytree like the parameters; if None, the parameters given to `init`.
        importance: A pytree like the parameters, of numbers at least 0; if None, all are 1.

    Returns:
        A gradient transformation, whose state is an `AddAnchoredPenaltyState`. Updates keep their
        dtype.

    Raises:
        TypeError: If `weight` is not a real number, or a leaf of the parameters has no gradient.
        ValueError: If `weight` is not a scalar, anchor, importance or updates do not have the
            structure and shapes of the parameters, or `update` is called without `params`.

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
        real_scalar(fun_name, "weight", weight, expected=WEIGHT)

    def init(params: PyTree) -> AddAnchoredPenaltyState:
        _check_params(fun_name, params)
        for name, tree in (("anchor", anchor), ("importance", importance)):
            if tree is not None and jax.tree.leaves(params):
                _check_like_params(fun_name, name, tree, params)
        start = params if anchor is None else anchor
        return AddAnchoredPenaltyState(
            *initial_log(),
            map_like_params(_copy, start, params),
            None if importance is None else map_like_params(_copy, importance, params),
        )

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, AddAnchoredPenaltyState]:
        del extra_args
        updates, count, value, scale = _add_gradient(
            fun_name, weight, updates, state, params, state.anchor, state.importance
        )
        return updates, state._replace(count=count, penalty=value, weight=scale)

    return optax.GradientTransformationExtraArgs(init, update)


def add_ema_penalty(weight: Any, decay: ArrayLike = 0.999) -> optax.GradientTransformationExtraArgs:
    r"""Quadratic penalty on the distance to an exponential moving average of the parameters.

    When to use: a smoother path of the parameters, or self-distillation from an averaged teacher.

    $$u \leftarrow u + w (p - a), \qquad a \leftarrow d a + (1 - d) p$$

    The average starts at the parameters given to `init`. `update` first adds the gradient, and then
    moves the average towards the parameters given to it. The average is kept in float32 whatever
    the dtype of the parameters: in bfloat16 a decay of 0.999 would not change it.
    `optax.tree.get(state, "ema")` finds it for evaluation.

    Args:
        weight: A number, a traced array, or an Optax schedule.
        decay: The share of the average that each step keeps, from 0 to 1; may be traced.

    Returns:
        A gradient transformation, whose state is an `AddEmaPenaltyState`. Updates keep their
        dtype.

    Raises:
        TypeError: If `weight` is not a real number, or a leaf of the parameters has no gradient.
        ValueError: If `weight` or `decay` is not a scalar, `decay` is a number outside 0 to 1, the
            updates do not have the structure of the parameters, or `update` is called without
            `params`.

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
        real_scalar(fun_name, "weight", weight, expected=WEIGHT)
    real_scalar(fun_name, "decay", decay, unit_interval)

    def init(params: PyTree) -> AddEmaPenaltyState:
        _check_params(fun_name, params)
        ema = map_like_params(lambda p: to_accumulator(_copy(p)), params, params)
        return AddEmaPenaltyState(*initial_log(), ema)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[Any, AddEmaPenaltyState]:
        del extra_args
        updates, count, value, scale = _add_gradient(
            fun_name, weight, updates, state, params, state.ema, None
        )
        ema = jax.tree.map(
            lambda a, p: a + jnp.asarray(1 - decay, a.dtype) * (jnp.asarray(p).astype(a.dtype) - a),
            state.ema,
            params,
        )
        return updates, AddEmaPenaltyState(count, value, scale, ema)

    return optax.GradientTransformationExtraArgs(init, update)


def _copy(leaf: Any) -> Array:
    return jnp.array(leaf, copy=True)


def _check_params(fun_name: str, params: PyTree) -> None:
    remedy = (
        "which has no gradient. Put None in its place (`equinox.filter(model, "
        "equinox.is_inexact_array)`), or wrap this in `optax.masked`."
    )
    check_leaves(fun_name, params, jnp.floating, remedy)


def _check_like_params(fun_name: str, name: str, tree: PyTree, params: PyTree) -> None:
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
                f"{fun_name}: `{leaf_name}` has shape {jnp.shape(leaf)}, expected {jnp.shape(p)}, "
                f"that of the parameter."
            )
            raise ValueError(message)


def _add_gradient(
    fun_name: str,
    weight: Any,
    updates: PyTree,
    state: PyTree,
    params: PyTree,
    anchor: Any,
    importance: Any,
) -> tuple[Any, Array, Array, Array]:
    """The updates plus the weighted gradient, and the next count, penalty and weight."""
    if params is None:
        message = f"{fun_name}: `params` is None: write `tx.update(grads, state, params)`."
        raise ValueError(message)
    _check_params(fun_name, params)
    if jax.tree.structure(updates) != jax.tree.structure(params):
        raise ValueError(f"{fun_name}: `updates` and `params` differ in structure.")
    scale = weight(state.count) if callable(weight) else weight
    scale = real_scalar(fun_name, "weight", scale, expected=WEIGHT)
    distance = jax.tree.map(_subtract, params, anchor)
    if importance is None:
        gradient = distance
    else:
        gradient = jax.tree.map(
            lambda d, f: d * jnp.asarray(f).astype(d.dtype), distance, importance
        )
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(distance), strict=True)
    value = jnp.zeros((), jnp.float32)
    for g, d in pairs:
        value = add_in_dtype(value, 0.5 * jnp.sum(g * d))
    updates = jax.tree.map(
        lambda u, g: add_in_dtype(u, scale.astype(g.dtype) * g), updates, gradient
    )
    return updates, *next_log(state, value, scale)


def _subtract(p: Any, a: Any) -> Array:
    p, a = jnp.asarray(p), jnp.asarray(a)
    dtype = accumulator_dtype(p.dtype, a.dtype)
    return p.astype(dtype) - a.astype(dtype)
