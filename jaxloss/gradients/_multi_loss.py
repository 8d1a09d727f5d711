"""Several losses of one model: their gradients, stacked, combined, or only compared."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from jaxloss._combine import vector
from jaxloss._memory.mesh import check_summed_gradients, cotangent
from jaxloss.aggregators._stacked import combine, gramian
from jaxloss.gradients._common import split

Jacobian = Literal["map", "vmap", "stream"]


def multi_value_and_grad(
    losses: Callable[..., Any],
    weighting: Callable[[Array], Array] | None = None,
    *,
    jacobian: Jacobian = "map",
    has_aux: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    r"""Differentiates several losses of one model, and combines their gradients on request.

    $$g = \sum_k w_k \nabla L_k, \qquad w = w(G), \quad G_{kl} = \langle \nabla L_k, \nabla L_l
      \rangle$$

    It costs one forward pass and a backward pass a loss. Without a weighting the gradients come
    stacked along a first axis, for `transforms.aggregate` at the head of a chain. With one, the
    weights are computed from the Gramian, and not differentiated.

    Args:
        losses: `losses(params, *args, **kwargs)` gives a dict of losses, which are taken in the
            order of their sorted names (the one that JAX gives every dict), or an array of shape
            (m,); with `has_aux`, a pair of that and anything else.
        weighting: Maps the Gramian, of shape (m, m), to weights, of shape (m,): one of
            `jaxloss.aggregators`, or your own; if None, gradients come stacked.
        jacobian: How the gradients are computed. "map": one after the other; m gradients are
            kept. "vmap": all at once; m times the temporary memory too, faster where there is
            hardware to fill. "stream": no more than two exist at a time, at the price of a forward
            pass a loss and one more backward pass; it needs a weighting.
        has_aux: Whether `losses` gives a pair.

    Returns:
        A function of the same arguments that gives `(values, grads)`, or `((values, aux), grads)`:
        values before weighting, a dict or an array as they came; gradients stacked, each of shape
        (m, ...), or combined, like the parameters.

    Raises:
        TypeError: If a loss is not made of real numbers, or there is a pair without `has_aux`.
        ValueError: If there are none, or neither a dict nor an array of shape (m,), or
            `jacobian` is unknown, or "stream" without a weighting.

    Example:
        >>> def losses(p): return {"left": (p + 1.0) ** 2, "right": (p - 1.0) ** 2}
        >>> multi_value_and_grad(losses)(jnp.float32(0.0))[1]
        Array([ 2., -2.], dtype=float32)

    References:
        Quinton and Rey, *Jacobian Descent for Multi-Objective Optimization*, 2024.
    """
    fun_name = "jaxloss.gradients.multi_value_and_grad"
    _check_way(fun_name, jacobian)
    if jacobian == "stream" and weighting is None:
        message = (
            f'{fun_name}: `jacobian="stream"` never holds all gradients, so it cannot give them: '
            f'pass a weighting, `jaxloss.aggregators.upgrad` say, or write `jacobian="map"`.'
        )
        raise ValueError(message)

    def value_and_grad(params: PyTree, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        def evaluate(params: PyTree) -> tuple[Array, Any]:
            return _vector(fun_name, losses(params, *args, **kwargs), has_aux)

        params = jax.tree.map(jnp.asarray, params)
        if jacobian == "stream":
            values, jvp_fn, (named, aux) = jax.linearize(evaluate, params, has_aux=True)
            check_summed_gradients(fun_name, "the loss", values, params)
            vjp_fn = jax.linear_transpose(jvp_fn, params)
            weights = _weights(fun_name, weighting, _streamed(jvp_fn, vjp_fn, values))
            (gradients,) = vjp_fn(cotangent(weights, values))
        else:
            values, vjp_fn, (named, aux) = jax.vjp(evaluate, params, has_aux=True)
            check_summed_gradients(fun_name, "the loss", values, params)
            gradients = _stacked(vjp_fn, values, jacobian)
            if weighting is not None:
                weights = _weights(fun_name, weighting, gramian(gradients))
                gradients = combine(weights, gradients)
        values = values if named is None else named
        return (values, aux) if has_aux else values, gradients

    return value_and_grad


def value_and_gramian(
    losses: Callable[..., Any], *, jacobian: Jacobian = "stream", has_aux: bool = False
) -> Callable[..., tuple[Any, Array]]:
    r"""Compares the gradients of several losses without keeping them: their inner products.

    $$G_{kl} = \langle \nabla L_k, \nabla L_l \rangle$$

    "stream" computes a column of it from one gradient, as the change of all losses along it, so
    that its memory is that of one gradient, whatever the number of losses. All weightings of
    `jaxloss.aggregators` and all cosines come of this matrix; see also `conflicts`.

    Args:
        losses: As in `multi_value_and_grad`.
        jacobian: As in `multi_value_and_grad`.
        has_aux: Whether `losses` gives a pair.

    Returns:
        A function of the same arguments that gives `(values, gramian)`, or `((values, aux),
        gramian)`; the Gramian has shape (m, m), in float32 or better.

    Raises:
        TypeError: If a loss is not made of real numbers, or there is a pair without `has_aux`.
        ValueError: If there are none, or neither a dict nor an array of shape (m,), or
            `jacobian` is unknown.

    Example:
        >>> def losses(p): return {"left": (p + 1.0) ** 2, "right": (p - 1.0) ** 2}
        >>> value_and_gramian(losses)(jnp.float32(0.0))[1].tolist()
        [[4.0, -4.0], [-4.0, 4.0]]
    """
    fun_name = "jaxloss.gradients.value_and_gramian"
    _check_way(fun_name, jacobian)

    def function(params: PyTree, *args: Any, **kwargs: Any) -> tuple[Any, Array]:
        def evaluate(params: PyTree) -> tuple[Array, Any]:
            return _vector(fun_name, losses(params, *args, **kwargs), has_aux)

        params = jax.tree.map(jnp.asarray, params)
        if jacobian == "stream":
            values, jvp_fn, (named, aux) = jax.linearize(evaluate, params, has_aux=True)
            check_summed_gradients(fun_name, "the loss", values, params)
            matrix = _streamed(jvp_fn, jax.linear_transpose(jvp_fn, params), values)
        else:
            values, vjp_fn, (named, aux) = jax.vjp(evaluate, params, has_aux=True)
            check_summed_gradients(fun_name, "the loss", values, params)
            matrix = gramian(_stacked(vjp_fn, values, jacobian))
        values = values if named is None else named
        return (values, aux) if has_aux else values, matrix

    return function


def _check_way(fun_name: str, jacobian: str) -> None:
    if jacobian not in ("map", "vmap", "stream"):
        message = f"{fun_name}: `jacobian` is {jacobian!r}, expected 'map', 'vmap' or 'stream'."
        raise ValueError(message)


def _vector(fun_name: str, result: Any, has_aux: bool) -> tuple[Array, Any]:
    """The losses as one vector; beside it, those of a dict by name, and the aux."""
    result, aux = split(fun_name, result, has_aux)
    losses = vector(fun_name, result)
    if not isinstance(result, Mapping):
        return losses, (None, aux)
    return losses, (dict(zip(sorted(result), losses, strict=True)), aux)


def _stacked(vjp_fn: Callable[..., Any], losses: Array, jacobian: Jacobian) -> Any:
    seeds = cotangent(jnp.eye(losses.size, dtype=losses.dtype), losses)
    mapped = jax.vmap(vjp_fn)(seeds) if jacobian == "vmap" else jax.lax.map(vjp_fn, seeds)
    return mapped[0]


def _streamed(jvp_fn: Callable[..., Array], vjp_fn: Callable[..., Any], losses: Array) -> Array:
    """The Gramian, a column at a time: how all losses change along the gradient of one."""
    seeds = cotangent(jnp.eye(losses.size, dtype=losses.dtype), losses)
    matrix = jax.lax.map(lambda seed: jvp_fn(*vjp_fn(seed)), seeds)
    return (matrix + matrix.T) / 2


def _weights(fun_name: str, weighting: Any, matrix: Array) -> Array:
    weights = jnp.asarray(weighting(jax.lax.stop_gradient(matrix)))
    if weights.shape != matrix.shape[:1]:
        message = (
            f"{fun_name}: `weighting` gave shape {weights.shape}, expected {matrix.shape[:1]}, a "
            f"weight for each loss."
        )
        raise ValueError(message)
    return weights.astype(matrix.dtype)
