"""A look at conflicts between the gradients of several losses, for a notebook."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from jaxloss._combine import vector
from jaxloss._core.spec import ArrayLike
from jaxloss.aggregators._stacked import cosines
from jaxloss.gradients._multi_loss import value_and_gramian


@dataclasses.dataclass(frozen=True)
class Conflicts:
    """What `conflicts` found; `print` it.

    Attributes:
        names: The losses: those of a dict in the order of their sorted names.
        values: The value of each, of shape (m,).
        norms: The norm of the gradient of each, of shape (m,).
        cosines: The cosine between the gradients of each pair, of shape (m, m); 0 where a
            gradient is 0.
        count: How many pairs have a negative cosine.
        flops: What this look took, and what the gradient of the sum of the losses takes.
        bytes: Their temporary memory.
    """

    names: tuple[str, ...]
    values: np.ndarray
    norms: np.ndarray
    cosines: np.ndarray
    count: int
    flops: tuple[float, float]
    bytes: tuple[int, int]

    def __str__(self) -> str:
        width = max(8, *map(len, self.names))
        lines = [
            " " * width + "     value  gradient" + "".join(f" {n:>{width}}" for n in self.names)
        ]
        for name, value, norm, row in zip(
            self.names, self.values, self.norms, self.cosines, strict=True
        ):
            shown = "".join(f" {c:>{width}.2f}" for c in row)
            lines.append(f"{name:{width}}{value:>10.3g}{norm:>10.3g}{shown}")
        pairs = len(self.names) * (len(self.names) - 1) // 2
        mine, plain = self.flops
        memory, base = (b / 2**20 for b in self.bytes)
        lines.append(f"{self.count} of {pairs} pairs conflict.")
        lines.append(
            f"This look took {mine:.3g} flops and {memory:.3g} MiB; the gradient of the sum takes "
            f"{plain:.3g} and {base:.3g} MiB."
        )
        return "\n".join(lines)


def _unrolled(losses: ArrayLike, kwargs: Any, params: PyTree, *args: Any) -> Array:
    """What `value_and_gramian` computes, without its loop."""

    def evaluate(params: PyTree) -> Array:
        return vector("jaxloss.gradients.conflicts", losses(params, *args, **kwargs))

    values, jvp_fn = jax.linearize(evaluate, params)
    vjp_fn = jax.linear_transpose(jvp_fn, params)
    seeds = jnp.eye(values.size, dtype=values.dtype)
    return jnp.stack([jvp_fn(*vjp_fn(seed)) for seed in seeds])


def conflicts(losses: Callable[..., Any], params: PyTree, *args: Any, **kwargs: Any) -> Conflicts:
    r"""Reports whether the gradients of losses conflict, how large they are, and at what cost.

    $$\cos_{kl} = \frac{\langle \nabla L_k, \nabla L_l \rangle}
      {\lVert \nabla L_k \rVert \lVert \nabla L_l \rVert}$$

    For a notebook, not for a step: it compiles and runs at once, and measures itself beside the
    gradient of the sum. A negative cosine means that a small step for one loss harms the other.
    Inside a step `transforms.aggregate` keeps cosines and norms in its state.

    Args:
        losses: `losses(params, *args, **kwargs)` gives a dict of losses, or an array of shape
            (m,).
        params: A pytree of floating-point arrays.
        *args: For `losses`.
        **kwargs: For `losses`; they are constants of the compiled program.

    Returns:
        A `Conflicts`, of NumPy arrays, whose `str` is a table.

    Raises:
        TypeError: If a loss is not made of real numbers.
        ValueError: If there are none, or neither a dict nor an array of shape (m,).

    Example:
        >>> found = conflicts(lambda p: {"a": p @ p, "b": -p.sum()}, jnp.array([3.0, 4.0]))
        >>> found.count, found.norms.tolist()
        (1, [10.0, 1.4142135381698608])

    References:
        Yu et al., *Gradient Surgery for Multi-Task Learning*, 2020.
    """

    def look(params: PyTree, *args: Any) -> Any:
        values, matrix = value_and_gramian(losses)(params, *args, **kwargs)
        return values, jnp.sqrt(jnp.diagonal(matrix)), cosines(matrix)

    def plain(params: PyTree, *args: Any) -> Any:
        def summed(params: PyTree) -> Any:
            return jnp.sum(vector("jaxloss.gradients.conflicts", losses(params, *args, **kwargs)))

        return jax.value_and_grad(summed)(params)

    mine, base = (jax.jit(f).lower(params, *args).compile() for f in (look, plain))
    values, norms, angles = mine(params, *args)
    names = (
        tuple(sorted(values))
        if isinstance(values, Mapping)
        else tuple(map(str, range(len(values))))
    )
    # The compiler counts the body of a loop once, so the one that is counted is unrolled.
    unrolled = jax.jit(functools.partial(_unrolled, losses, kwargs)).lower(params, *args)
    flops = [(c.cost_analysis() or {}).get("flops", math.nan) for c in (unrolled.compile(), base)]
    memory = [getattr(c.memory_analysis(), "temp_size_in_bytes", 0) for c in (mine, base)]
    matrix = np.asarray(angles)
    return Conflicts(
        names,
        np.asarray([values[n] for n in names] if isinstance(values, Mapping) else values),
        np.asarray(norms),
        matrix,
        int(np.sum(np.triu(matrix, 1) < 0)),
        (flops[0], flops[1]),
        (memory[0], memory[1]),
    )
