"""Functions of rows and of all that they meet: the pairs of a set, some rows of them at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._chunks import Split, each, split
from jaxloss._mesh import alike, shards


def by_rows(
    who: str,
    function: Callable[[Any, Any], Array],
    chunk: int | None,
    shared: list[Any],
    rows: list[Any],
    *,
    batch: int,
) -> Array:
    """A function of rows and of all that they meet, for some rows at a time if `chunk` is given.

    `function(shared, [*rows, places])` gives one value a row; what is None stays None. Arrays have
    `batch` leading axes: one set an example.
    """
    places = jnp.arange(rows[0].shape[batch], dtype=jnp.int32)
    if chunk is None:
        return function(shared, [*rows, places])
    how = checked_split(who, places.size, chunk, rows[0], batch)
    # Numbers have no dtype to be restored, and must not decide on one.
    shared = [jnp.asarray(x, rows[0].dtype) if isinstance(x, int | float) else x for x in shared]

    def of_set(shared: list[Any], rows: list[Any]) -> Array:
        leaves, form = jax.tree.flatten(shared)
        row_leaves, row_form = jax.tree.flatten([*rows, places])

        def of_chunk(leaves: Any, row_leaves: Any) -> Array:
            return function(form.unflatten(leaves), row_form.unflatten(row_leaves))

        return each(of_chunk, how, *alike(leaves, row_leaves))

    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, (shared, rows))
    for _ in range(batch):
        of_set = jax.vmap(of_set, axes)
    return of_set(shared, rows)


def checked_split(who: str, size: int, chunk: Any, rows: Array, axis: int) -> Split:
    """How a set is split along an axis; a chunk that is no number of rows is refused."""
    if type(chunk) is not int:
        raise TypeError(f"{who}: `chunk` is {chunk!r}, expected a number of rows or None.")
    if chunk < 1:
        raise ValueError(f"{who}: `chunk` is {chunk}, expected at least 1 row at a time.")
    return split(size, chunk, shards(rows, axis))
