"""A gradient for every example, and their clipped mean in bounded memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from jaxloss import numerics
from jaxloss._memory.mesh import pcast_varying, vma_of
from jaxloss.gradients._common import check_scalar, rows, scalar

_NAME = "jaxloss.gradients.per_example_value_and_grad"


def per_example_value_and_grad(
    loss: Callable[..., Any], *, clip: Any = None, chunk_size: int | None = None
) -> Callable[..., tuple[Array, Any]]:
    r"""Sees the gradient of each example, or clips them one by one: outliers, privacy, noise.

    $$g_i = \nabla \ell_i, \qquad
      \bar g = \frac1n \sum_i \min\left(1, \frac{c}{\lVert g_i \rVert}\right) g_i$$

    Without `clip` the result has a gradient an example, and that many times the memory of the
    parameters. With it, gradients are clipped and added up a chunk at a time, so that no more than
    a chunk of them exists: what differentially private training adds its noise to.

    Inside `shard_map` gradients are those of the examples of a device, and so is their mean, also
    where parameters are the same on all devices: `jax.lax.pmean` makes that of all devices of it.

    Args:
        loss: `loss(params, *example, **shared)` gives the number of one example: rows come without
            their first axis.
        clip: The largest norm, over all parameters together, that the gradient of an example may
            have; a scalar, which may be traced. If None, gradients come one by one.
        chunk_size: How many examples are computed at once; if None, all.

    Returns:
        A function `(params, *batch, **shared)` that gives the values, of shape (n,), and the
        gradients: stacked, each of shape (n, ...), or the mean of the clipped ones, like the
        parameters.

    Raises:
        TypeError: If the loss gives no number.
        ValueError: If the number of rows differs between leaves, `chunk_size` is not an integer
            of at least 1, or `clip` is not a scalar.

    Example:
        >>> oracle = per_example_value_and_grad(lambda p, x: p * x, clip=2.0)
        >>> oracle(jnp.float32(1.0), jnp.array([1.0, 5.0]))
        (Array([1., 5.], dtype=float32), Array(1.5, dtype=float32))

    References:
        Abadi et al., *Deep Learning with Differential Privacy*, 2016.
    """
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(
            f"{_NAME}: `chunk_size` is {chunk_size!r}, expected an integer of at least 1."
        )
    check_scalar(_NAME, "clip", 0 if clip is None else clip)

    def value_and_grad(params: PyTree, *batch: PyTree, **shared: Any) -> tuple[Array, Any]:
        count = rows(_NAME, batch)
        size = max(1, min(chunk_size or count, count))
        params, batch = jax.tree.map(jnp.asarray, (params, batch))

        def evaluate(p: Any, *example: Any) -> Array:
            return scalar(_NAME, "the loss", loss(p, *example, **shared))

        # The gradient of what all devices share would be added up over the devices.
        losses = jax.eval_shape(
            lambda p, rows: jax.vmap(lambda x: evaluate(p, *x))(rows), params, batch
        )
        params = pcast_varying(params, vma_of(losses))

        def single(example: tuple[Any, ...]) -> tuple[Array, Any]:
            return jax.value_and_grad(evaluate)(params, *example)

        if clip is None:
            return jax.lax.map(single, batch, batch_size=size)

        most = jnp.asarray(clip)

        def clipped_sum(rows: Any) -> tuple[Array, Any]:
            values, gradients = jax.vmap(single)(rows)
            norms = [
                numerics.norm(g.reshape(g.shape[0], -1).astype(values.dtype))
                for g in jax.tree.leaves(gradients)
            ]
            norm = numerics.norm(jnp.stack(norms, axis=-1)) if norms else jnp.zeros_like(values)
            share = jnp.minimum(1, most / jnp.where(norm == 0, 1, norm)).astype(values.dtype)
            return values, jax.tree.map(
                lambda g: jnp.tensordot(share, g.astype(values.dtype), 1),
                gradients,
            )

        def add(sums: Any, rows: Any) -> tuple[Any, Array]:
            values, own = clipped_sum(rows)
            return jax.tree.map(jnp.add, sums, own), values

        whole = count // size * size
        chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), batch)
        rest = jax.tree.map(lambda x: x[whole:], batch)
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, losses.dtype), params)
        zeros = pcast_varying(zeros, vma_of(params, most))
        sums, values = jax.lax.scan(add, zeros, chunks)
        values = values.reshape(-1)
        if whole < count:
            sums, last = add(sums, rest)
            values = jnp.concatenate([values, last])
        return values, jax.tree.map(lambda s, p: (s / max(count, 1)).astype(p.dtype), sums, params)

    return value_and_grad
