"""Stacked gradients: their inner products, and their weighted sum."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def gramian(stacked: Any) -> Array:
    r"""Multiplies every gradient of a stack with every other: all that a weighting needs.

    $$G_{kl} = \langle g_k, g_l \rangle$$

    On accelerators each leaf is contracted over its own axes, without a reshape, so that a sharded
    leaf needs no more than a sum across devices.

    Args:
        stacked: A pytree of gradients, each of shape (m, ...); None leaves are skipped.

    Returns:
        A symmetric matrix of shape (m, m): float32, or float64 if a leaf is.

    Raises:
        ValueError: If there is no leaf, or one has no first axis, or another size of it than the
            rest; the message names it.

    Example:
        >>> gramian({"w": jnp.array([[3.0, 0.0], [0.0, 2.0]]), "b": jnp.array([4.0, 1.0])}).tolist()
        [[25.0, 4.0], [4.0, 5.0]]
    """
    named = check_stacked("jaxloss.aggregators.gramian", stacked)
    if not named:
        message = "jaxloss.aggregators.gramian: there are no leaves, expected some of (m, ...)."
        raise ValueError(message)
    return functools.reduce(operator.add, [_product(leaf) for _, leaf in named])


def _product(x: Any) -> Array:
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def contracted(x: Array) -> Array:
        inner = tuple(range(1, x.ndim))
        return jax.lax.dot_general(
            x, x, ((inner, inner), ((), ())), precision=jax.lax.Precision.HIGHEST
        )

    def flattened(x: Array) -> Array:
        return contracted(x.reshape(x.shape[0], -1))

    # Over several axes at once the CPU transposes a copy of the stack: 5 times slower. Elsewhere
    # the reshape would gather a leaf whose last axis is sharded.
    return jax.lax.platform_dependent(x, cpu=flattened, default=contracted)


def combine(weights: Array, stacked: Any) -> Any:
    r"""Adds up the gradients of a stack, each times its weight.

    $$\sum_k w_k g_k$$

    Args:
        weights: An array of shape (m,).
        stacked: A pytree of gradients, each of shape (m, ...); None leaves are skipped.

    Returns:
        A pytree of gradients of shape (...), in their dtypes.

    Raises:
        ValueError: If the first axis of a leaf has another size than there are weights; the
            message names it.

    Example:
        >>> combine(jnp.array([1.0, 0.5]), {"w": jnp.array([[3.0, 0.0], [0.0, 2.0]])})
        {'w': Array([3., 1.], dtype=float32)}
    """
    weights = jnp.asarray(weights)
    check_stacked("jaxloss.aggregators.combine", stacked, weights.size)

    def of(x: Any) -> Array:
        x = jnp.asarray(x)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.tensordot(weights.astype(wide), x.astype(wide), 1).astype(x.dtype)

    return jax.tree.map(of, stacked)


def cosines(gramian: Array) -> Array:
    r"""The cosines between the gradients of a Gramian: 0 where one of them is 0.

    $$\frac{G_{kl}}{\sqrt{G_{kk} G_{ll}}}$$

    Args:
        gramian: A matrix of shape (m, m), as `gramian` makes it.

    Returns:
        A matrix of shape (m, m), between -1 and 1, 1 on the diagonal of a gradient that is not 0.

    Example:
        >>> cosines(jnp.array([[4.0, -4.0], [-4.0, 4.0]])).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    norms = jnp.sqrt(jnp.diagonal(gramian))
    inverse = jnp.where(norms == 0, 0, 1 / jnp.where(norms == 0, 1, norms))
    return jnp.clip(gramian * inverse * inverse[:, None], -1, 1)


def check_stacked(
    fun_name: str, stacked: Any, expected: int | None = None, params: Any = None
) -> list[tuple[str, Any]]:
    """The leaves of a stack and their names; raises where one is not of so many gradients."""
    named = []
    known = jax.tree.structure(params) == jax.tree.structure(stacked)
    shapes = [jnp.shape(p) for p in jax.tree.leaves(params)] if known else []
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(stacked)):
        name, shape = f"updates{jax.tree_util.keystr(path)}", jnp.shape(leaf)
        inner = shapes[i] if known else shape[1:]
        if not shape or shape[1:] != inner or (expected is not None and shape[0] != expected):
            count = "m" if expected is None else expected
            wanted = ", ".join(map(str, (count, *inner))) if known else f"{count}, ..."
            message = (
                f"{fun_name}: `{name}` has shape {shape}, expected ({wanted}): a gradient for each "
                f"loss, stacked along the first axis, as "
                f"`gradients.multi_value_and_grad(losses)` gives them."
            )
            raise ValueError(message)
        expected = shape[0]
        named.append((name, leaf))
    return named
