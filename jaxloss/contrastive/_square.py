r"""Losses over all pairs of a set, of whose square of similarities only some rows exist.

Most of them look at a row of the square alone; `by_rows` computes those a few rows at a time.
CLIP also looks at the columns. Their sums are collected while the rows go by, each relative to
the highest top so far, and differentiated in one more pass:

$$\dot r_i = \sum_{j \ne i} e^{s_{ij} - m_i}\, \dot s_{ij}, \qquad
  \dot c_j = \sum_{i \ne j} e^{s_{ij} - n_j}\, \dot s_{ij}, \qquad
  \dot s_{ij} = \langle \dot x_i, y_j \rangle + \langle x_i, \dot y_j \rangle$$

It is linear in the tangents, so that its transpose is the gradient: one product of matrices for
the sums, three for the gradients, and no square.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._chunks import Split, each, split, stacked, unstacked
from jaxloss._mesh import alike, shards
from jaxloss._softmax import exp_of_difference, surprise_of_gap


def product(x: Array, y: Array) -> Array:
    """All inner products of two sets, in full precision.

    Accelerators would round to bfloat16, and a cosine that is 0.4 % off is, at a temperature of
    0.07, a probability that is 6 % off.
    """
    return jnp.einsum("...id,...jd->...ij", x, y, precision=lax.Precision.HIGHEST)


def by_rows(
    who: str,
    function: Callable[[Any, Any], Array],
    chunk: int | None,
    shared: list[Any],
    rows: list[Any],
) -> Array:
    """A function of rows and of all that they meet, for some rows at a time if `chunk` is given.

    `function(shared, [*rows, places])` gives one value a row; what is None stays None. Arrays may
    have leading batch axes: one set an example.
    """
    places = jnp.arange(rows[0].shape[-2], dtype=jnp.int32)
    if chunk is None:
        return function(shared, [*rows, places])
    how = checked_split(who, places.size, chunk, rows[0])
    # Numbers have no dtype to be restored, and must not decide on one.
    shared = [jnp.asarray(x, rows[0].dtype) if isinstance(x, int | float) else x for x in shared]

    def of_set(shared: list[Any], rows: list[Any]) -> Array:
        leaves, form = jax.tree.flatten(shared)
        row_leaves, row_form = jax.tree.flatten([*rows, places])

        def of_chunk(leaves: Any, row_leaves: Any) -> Array:
            return function(form.unflatten(leaves), row_form.unflatten(row_leaves))

        return each(of_chunk, how, *alike(leaves, row_leaves))

    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, (shared, rows))
    for _ in range(rows[0].ndim - 2):
        of_set = jax.vmap(of_set, axes)
    return of_set(shared, rows)


def checked_split(who: str, size: int, chunk: Any, rows: Array) -> Split:
    """How a set is split; a chunk that is no number of rows is refused."""
    if type(chunk) is not int:
        raise TypeError(f"{who}: `chunk` is {chunk!r}, expected a number of rows or None.")
    if chunk < 1:
        raise ValueError(f"{who}: `chunk` is {chunk}, expected at least 1 row at a time.")
    return split(size, chunk, shards(rows, rows.ndim - 2))


class Sums(NamedTuple):
    """What the rows and the columns of a square sum to; each of shape (set,).

    Attributes:
        own: The diagonal.
        row_top: The largest entry of each row.
        row_rest: The sum of exp(entry - top) over a row, without the diagonal.
        column_top: The largest entry of each column.
        column_rest: The sum of exp(entry - top) over a column, without the diagonal.
    """

    own: Array
    row_top: Array
    row_rest: Array
    column_top: Array
    column_rest: Array


def block(x: Array, y: Array, places: Array, inside: Array, mine: Array) -> tuple[Array, ...]:
    """Some rows of the square, as numbers what is the diagonal and what else counts."""
    own = (places[:, None] == jnp.arange(y.shape[0], dtype=places.dtype)).astype(x.dtype)
    others = (1 - own) * (mine[:, None] * inside[None, :])
    return product(x, y), own, others


@jax.custom_jvp
def exps(entries: Array, top: Array) -> Array:
    """exp(entries - top) of what counts; what does not may lie above the top, and stays finite."""
    top = jnp.where(top == -jnp.inf, 0, top)
    # Not a minimum, whose slope at a tie is 1/2: a scan that is differentiated twice goes by it.
    return exp_of_difference(jnp.where(entries > top, top, entries), top)


@exps.defjvp
def _exps_jvp(primals: Any, tangents: Any) -> Any:
    out = exps(*primals)
    return out, out * (tangents[0] - tangents[1])


def top_of(entries: Array, counts: Array, axis: int) -> Array:
    return jnp.max(entries, axis=axis, where=counts > 0, initial=-jnp.inf)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sums(how: Split, x: Array, y: Array, inside: Array) -> Sums:
    """The sums of the square of inner products of x and y, in one pass over its rows.

    `inside` is 1 for what belongs to the set and 0 for what is left out, which meets itself only.
    """
    places = jnp.arange(x.shape[0], dtype=jnp.int32)
    chunks = [stacked(a, how) for a in (x, inside, places, jnp.ones_like(inside))]

    def step(carry: Any, chunk: Any) -> Any:
        column_top, column_rest = carry
        x, mine, places, real = chunk
        entries, own, others = block(x, y, jnp.where(real > 0, places, -1), inside, mine)
        row_top = top_of(entries, own + others, 1)
        row_rest = jnp.sum(others * exps(entries, row_top[:, None]), axis=1)
        top = jnp.maximum(column_top, top_of(entries, own + others, 0))
        scale = jnp.where(column_top == top, 1, jnp.exp(column_top - top))
        rest = jnp.sum(others * exps(entries, top[None, :]), axis=0)
        found = jnp.sum(own * entries, axis=1), row_top, row_rest
        return (top, column_rest * scale + rest), found

    start = lax.full_like(y[:, 0], -jnp.inf), lax.full_like(y[:, 0], 0)
    (column_top, column_rest), found = lax.scan(step, start, chunks)
    own, row_top, row_rest = (unstacked(a, how) for a in found)
    return Sums(own, row_top, row_rest, column_top, column_rest)


@sums.defjvp
def _sums_jvp(how: Split, primals: Any, tangents: Any) -> Any:
    (x, y, inside), (x_dot, y_dot, _) = primals, tangents
    known = sums(how, x, y, inside)
    tops = lax.stop_gradient((known.row_top, known.column_top))
    places = jnp.arange(x.shape[0], dtype=jnp.int32)
    rows = (x, x_dot, inside, places, tops[0], jnp.ones_like(inside))

    # Its transpose would keep a chunk of the square for each turn.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(y: Array, y_dot: Array, column_top: Array, inside: Array, rows: Any) -> Any:
        x, x_dot, mine, places, row_top, real = rows
        entries, own, others = block(x, y, jnp.where(real > 0, places, -1), inside, mine)
        change = product(x_dot, y) + product(x, y_dot)
        by_row = others * exps(entries, row_top[:, None]) * change
        by_column = others * exps(entries, column_top[None, :]) * change
        return jnp.sum(by_column, axis=0), (jnp.sum(own * change, axis=1), jnp.sum(by_row, axis=1))

    def step(column: Array, rows: Any) -> Any:
        added, found = of_chunk(y, y_dot, tops[1], inside, rows)
        return column + added, found

    chunks = [stacked(a, how) for a in rows]
    column, found = lax.scan(step, lax.full_like(y[:, 0], 0), chunks)
    own, row = (unstacked(a, how) for a in found)
    nothing = jnp.zeros_like(known.row_top)
    return known, Sums(own, nothing, row, nothing, column)


def by_rows_and_columns(
    who: str, chunk: Any, left: Array, right: Array, where: Array | None
) -> Array:
    """The mean surprise of each entry of the diagonal in its row and in its column."""
    how = checked_split(who, left.shape[-2], chunk, left)

    def of_set(left: Array, right: Array, inside: Array) -> Array:
        found = sums(how, left, right, inside)
        of_rows, _ = surprise_of_gap(found.row_rest, found.row_top - found.own)
        of_columns, _ = surprise_of_gap(found.column_rest, found.column_top - found.own)
        return 0.5 * (of_rows + of_columns)

    inside = jnp.ones(left.shape[:-1], bool) if where is None else where
    for _ in range(left.ndim - 2):
        of_set = jax.vmap(of_set)
    return of_set(*alike(left, right, inside.astype(left.dtype)))
