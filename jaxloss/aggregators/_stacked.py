"""Stacked gradients: their Gramian, its cosines, and their weighted sum."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from jaxloss._core.dtypes import accumulator_dtype, to_accumulator
from jaxloss._core.parameters import named_leaves
from jaxloss._xla import gram_matrix


def gramian(stacked: PyTree) -> Array:
    r"""Gramian of stacked gradients: the inner product of every pair.

    When to use: the input of a weighting, where gradients are computed by other means than
    `gradients.value_and_gramian`.

    $$G_{kl} = \langle g_k, g_l \rangle$$

    On accelerators each leaf is contracted over all its own axes, without a reshape, so that a
    sharded leaf needs no communication but a sum over devices.

    Args:
        stacked: A pytree of gradients, each of shape (m, ...); None leaves are skipped.

    Returns:
        A symmetric matrix of shape (m, m): float32, or float64 if a leaf is.

    Raises:
        ValueError: If there is no leaf, or the first axes of the leaves are missing or differ in
            size; the message names the leaf.

    Example:
        >>> gramian({"w": jnp.array([[3.0, 0.0], [0.0, 2.0]]), "b": jnp.array([4.0, 1.0])}).tolist()
        [[25.0, 4.0], [4.0, 5.0]]
    """
    named = check_stacked("jaxloss.aggregators.gramian", stacked)
    if not named:
        message = "jaxloss.aggregators.gramian: there are no leaves, expected some of (m, ...)."
        raise ValueError(message)
    products = [gram_matrix(to_accumulator(leaf)) for _, leaf in named]
    dtype = accumulator_dtype(*(product.dtype for product in products))
    return functools.reduce(operator.add, [product.astype(dtype) for product in products])


def combine(weights: Array, stacked: PyTree) -> Any:
    r"""Weighted sum of stacked gradients.

    When to use: weights that are computed outside of `transforms.aggregate` and
    `gradients.multi_value_and_grad`.

    $$\sum_k w_k g_k$$

    Args:
        weights: An array of shape (m,).
        stacked: A pytree of gradients, each of shape (m, ...); None leaves are skipped.

    Returns:
        A pytree of gradients of shape (...), in their dtypes.

    Raises:
        ValueError: If the first axis of a leaf has another size than the weights; the message
            names the leaf.

    Example:
        >>> combine(jnp.array([1.0, 0.5]), {"w": jnp.array([[3.0, 0.0], [0.0, 2.0]])})
        {'w': Array([3., 1.], dtype=float32)}
    """
    weights = jnp.asarray(weights)
    check_stacked("jaxloss.aggregators.combine", stacked, weights.size)

    def weighted_sum(x: Any) -> Array:
        x = jnp.asarray(x)
        wide = to_accumulator(x)
        return jnp.tensordot(weights.astype(wide.dtype), wide, 1).astype(x.dtype)

    return jax.tree.map(weighted_sum, stacked)


def cosines(gramian: Array) -> Array:
    r"""Cosine similarities of gradients, from their Gramian.

    When to use: to see which losses conflict: those whose gradients have a negative cosine.

    $$\frac{G_{kl}}{\sqrt{G_{kk} G_{ll}}}$$

    Args:
        gramian: A matrix of shape (m, m), as `gramian` returns it.

    Returns:
        A matrix of shape (m, m), between -1 and 1: 1 on the diagonal, and 0 in the rows and
        columns of a gradient that is 0.

    Example:
        >>> cosines(jnp.array([[4.0, -4.0], [-4.0, 4.0]])).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    return jnp.clip(normalize(jnp.asarray(gramian))[0], -1, 1)


def normalize(gramian: Array) -> tuple[Array, Array]:
    """The Gramian of the normalized gradients, and the inverse norms; 0 for a gradient of 0."""
    norms = jnp.sqrt(jnp.diagonal(gramian))
    inverse = jnp.where(norms == 0, 0, 1 / jnp.where(norms == 0, 1, norms))
    return gramian * inverse[None, :] * inverse[:, None], inverse


def check_stacked(
    fun_name: str, stacked: PyTree, expected: int | None = None, params: PyTree = None
) -> list[tuple[str, Any]]:
    """The named leaves of a stack; raises unless each has the shape (expected, ...)."""
    named = []
    known = jax.tree.structure(params) == jax.tree.structure(stacked)
    shapes = [jnp.shape(p) for p in jax.tree.leaves(params)] if known else []
    for i, (name, leaf) in enumerate(named_leaves("updates", stacked)):
        shape = jnp.shape(leaf)
        inner = shapes[i] if known else shape[1:]
        if not shape or shape[1:] != inner or (expected is not None and shape[0] != expected):
            count = "m" if expected is None else expected
            wanted = ", ".join(map(str, (count, *inner))) if known else f"{count}, ..."
            message = (
                f"{fun_name}: `{name}` has shape {shape}, expected ({wanted}): a gradient for each "
                f"loss, stacked along the first axis, as `gradients.multi_value_and_grad(losses)` "
                f"returns them."
            )
            raise ValueError(message)
        expected = shape[0]
        named.append((name, leaf))
    return named
