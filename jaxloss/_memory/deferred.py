"""Functions of rows that meet all of a set, evaluated for some rows at a time.

The gradients of a sum over rows are computed in the loop that computes the sum: for a matrix of
similarities that takes three matrix products. If the values of the rows are wanted, their
cotangents come later and the chunks are computed again: four products. A loss in chunks therefore
returns `DeferredRows`, and the contract, which knows the reduction, evaluates them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxloss._core.reduction import Mean, TypeOfReduction, reduce, total_weight
from jaxloss._memory.chunk_map import map_chunks
from jaxloss._memory.chunk_sum import ChunkedSum, sum_chunks
from jaxloss._memory.layout import Split, checked_split
from jaxloss._memory.mesh import unify_vma

__all__ = ["DeferredRows", "checked_split", "map_rows", "materialize"]

# From what all rows share, and some rows, to one value a row.
Function = Callable[[Any, Any], Array]


@dataclasses.dataclass(frozen=True)
class DeferredRows:
    """Values that are computed when it is known whether only their sum is wanted.

    Attributes:
        shape: Their shape.
        dtype: Their dtype.
        values: Computes them.
        total: Computes the sum of their products with factors of their shape.
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    values: Callable[[], Array]
    total: Callable[[Array], Array]

    def reduced(self, where: Any, weights: Any, reduction: TypeOfReduction) -> Any:
        """Their sum or mean: what `reduction.reduce` makes of the values."""
        factors = reduce(jnp.ones(self.shape, self.dtype), where, weights, "none")
        total = self.total(factors)
        weights = None if weights is None else factors
        parts = Mean(total, total_weight(self.shape, where, weights, total.dtype))
        return {"sum": total, "parts": parts, "mean": parts.value}[reduction]


def materialize(values: Array | DeferredRows) -> Array:
    """The values themselves."""
    return values.values() if isinstance(values, DeferredRows) else values


def map_rows(
    fun_name: str,
    function: Function,
    chunk_size: int | None,
    shared: list[Any],
    rows: list[Any],
    *,
    batch: int,
) -> Array | DeferredRows:
    """`function(shared, [*rows, places])`: deferred, in chunks, if `chunk_size` is given.

    Args:
        fun_name: The name of the loss.
        function: Gives one value a row; what is None stays None. It closes over no array, and is
            equal between calls: an eager call compiles its loop once for each function.
        chunk_size: How many rows to compute at once, or None for all.
        shared: What every row meets.
        rows: What the rows have.
        batch: The number of leading axes of all arrays: one set for each of their entries.

    Returns:
        The values, of floating dtype.
    """
    size = rows[0].shape[batch]
    if chunk_size is None:
        return function(shared, [*rows, _places(size)])
    how = checked_split(fun_name, size, chunk_size, rows[0], batch)
    # A Python number has no dtype to be restored, and must not decide on one.
    shared = [jnp.asarray(x, rows[0].dtype) if isinstance(x, int | float) else x for x in shared]
    return DeferredRows(
        rows[0].shape[: batch + 1],
        rows[0].dtype,
        lambda: _values(function, how, batch, shared, rows),
        lambda factors: _total(function, how, batch, shared, rows, factors),
    )


def _places(size: int) -> Array:
    return jnp.arange(size, dtype=jnp.int32)


def _map_sets(of_set: Callable[..., Array], batch: int, *arguments: Any) -> Array:
    axes = jax.tree.map(lambda x: 0 if x.ndim else None, arguments)
    for _ in range(batch):
        of_set = jax.vmap(of_set, axes)
    return of_set(*arguments)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _values(function: Function, how: Split, batch: int, shared: Any, rows: Any) -> Array:
    def of_set(shared: Any, rows: Any) -> Array:
        return map_chunks(function, how, *unify_vma(shared, [*rows, _places(how.rows)]))

    return _map_sets(of_set, batch, shared, rows)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _total(
    function: Function, how: Split, batch: int, shared: Any, rows: Any, factors: Array
) -> Array:
    def value(shared: Any, chunk: Any, real: Array | None) -> Any:
        rows, factors = chunk
        values = factors * function(shared, rows)
        return jnp.sum(values if real is None else jnp.where(real, values, 0)), ()

    def of_set(shared: Any, rows: Any, factors: Array) -> Array:
        chunk = [*rows, _places(how.rows)], factors
        return sum_chunks(ChunkedSum(how, value), *unify_vma(shared, chunk))[0]

    return jnp.sum(_map_sets(of_set, batch, shared, rows, factors))
