"""Functions of rows and of all that they meet: the pairs of a set, some rows of them at a time.

A sum over rows has its gradients made in the loop that computes it: of a square of similarities
that takes three products of matrices. Where each row is wanted, its cotangent comes later, and
the chunk is computed again when it has come: four. So a loss in chunks is `Pending`, and the
contract, which knows the reduction, says which.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.reduction import Mean, TypeOfReduction, reduce, total_weight
from jaxloss._memory.chunk_map import map_chunks
from jaxloss._memory.chunk_sum import ChunkedSum, sum_chunks
from jaxloss._memory.layout import Split, plan_split
from jaxloss._memory.mesh import shards, unify_vma


@dataclasses.dataclass(frozen=True)
class DeferredRows:
    """Values that are not computed before it is known whether more than their sum is wanted.

    Attributes:
        shape: Their shape.
        dtype: Their dtype.
        values: Computes them.
        total: Computes the sum of their products with factors of their shape.
    """

    shape: tuple[int, ...]
    dtype: Any
    values: Callable[[], Array]
    total: Callable[[Array], Array]

    def reduced(self, where: Any, weights: Any, reduction: TypeOfReduction) -> Any:
        """Their sum or mean, as `reduction.reduce` has it."""
        factors = reduce(jnp.ones(self.shape, self.dtype), where, weights, "none")
        total = self.total(factors)
        weights = None if weights is None else factors
        parts = Mean(total, total_weight(self.shape, where, weights, total.dtype))
        return {"sum": total, "parts": parts, "mean": parts.value}[reduction]


def materialize(values: Any) -> Array:
    """The values of what may be `Pending`."""
    return values.values() if isinstance(values, DeferredRows) else values


def map_rows(
    fun_name: str,
    function: Callable[[Any, Any], Array],
    chunk_size: int | None,
    shared: list[Any],
    rows: list[Any],
    *,
    batch: int,
) -> Any:
    """A function of rows and of all that they meet: `Pending`, some at a time, if `chunk_size` is given.

    `function(shared, [*rows, places])` gives one value a row; what is None stays None. Arrays have
    `batch` leading axes: one set an example. A total is that of floating values.
    """
    places = jnp.arange(rows[0].shape[batch], dtype=jnp.int32)
    if chunk_size is None:
        return function(shared, [*rows, places])
    how = checked_split(fun_name, places.size, chunk_size, rows[0], batch)
    # Numbers have no dtype to be restored, and must not decide on one.
    shared = [jnp.asarray(x, rows[0].dtype) if isinstance(x, int | float) else x for x in shared]
    leaves, form = jax.tree.flatten(shared)
    row_leaves, row_form = jax.tree.flatten(rows)

    def of_chunk(leaves: Any, row_leaves: Any) -> Array:
        *row_leaves, places = row_leaves
        return function(form.unflatten(leaves), [*row_form.unflatten(row_leaves), places])

    def values_of_set(leaves: Any, row_leaves: Any) -> Array:
        return map_chunks(of_chunk, how, *unify_vma(leaves, [*row_leaves, places]))

    def total_of_set(leaves: Any, row_leaves: Any, factors: Array) -> Array:
        def term(leaves: Any, row_leaves: Any) -> Any:
            *row_leaves, factors = row_leaves
            return jnp.sum(factors * of_chunk(leaves, row_leaves)), ()

        return sum_chunks(
            ChunkedSum(term, how), *unify_vma(leaves, [*row_leaves, places, factors])
        )[0]

    def of_sets(of_set: Callable[..., Array], *arguments: Any) -> Array:
        axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, arguments)
        for _ in range(batch):
            of_set = jax.vmap(of_set, axes)
        return of_set(*arguments)

    return DeferredRows(
        rows[0].shape[: batch + 1],
        rows[0].dtype,
        lambda: of_sets(values_of_set, leaves, row_leaves),
        lambda factors: jnp.sum(of_sets(total_of_set, leaves, row_leaves, factors)),
    )


def checked_split(fun_name: str, size: int, chunk_size: Any, rows: Array, axis: int) -> Split:
    """How a set is split along an axis; a chunk that is no number of rows is refused."""
    if type(chunk_size) is not int:
        raise TypeError(
            f"{fun_name}: `chunk_size` is {chunk_size!r}, expected a number of rows or None."
        )
    if chunk_size < 1:
        raise ValueError(
            f"{fun_name}: `chunk_size` is {chunk_size}, expected at least 1 row at a time."
        )
    return plan_split(size, chunk_size, shards(rows, axis))
