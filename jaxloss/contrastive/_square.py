r"""Losses over all pairs of a set, of whose square of similarities only some rows exist.

Most of them look at a row of the square alone: `_rows` computes those a few rows at a time. CLIP
also looks at the columns. Their sums are collected while the rows go by, each relative to
the highest top so far, and differentiated in one more pass:

$$\dot r_i = \sum_{j \ne i} e^{s_{ij} - m_i}\, \dot s_{ij}, \qquad
  \dot c_j = \sum_{i \ne j} e^{s_{ij} - n_j}\, \dot s_{ij}, \qquad
  \dot s_{ij} = \langle \dot x_i, y_j \rangle + \langle x_i, \dot y_j \rangle$$

It is linear in the tangents, so that its transpose is the gradient: one product of matrices for
the sums, three for the gradients, and no square.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss import numerics
from jaxloss._chunks import Split, stacked, unstacked
from jaxloss._mesh import alike
from jaxloss._rows import checked_split
from jaxloss._softmax import exp_of_difference, surprise_of_gap


def product(x: Array, y: Array) -> Array:
    """All inner products of two sets, in full precision.

    Accelerators would round to bfloat16, and a cosine that is 0.4 % off is, at a temperature of
    0.07, a probability that is 6 % off.
    """
    return jnp.einsum("...id,...jd->...ij", x, y, precision=lax.Precision.HIGHEST)


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


def directed(x: Array, temperature: Array) -> Array:
    """Vectors of length 1, by the temperature."""
    return numerics.normalize(x) / temperature


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sums(how: Split, x: Array, y: Array, temperature: Array, inside: Array) -> Sums:
    """The sums of the square of cosines of x and y by the temperature, in one pass over its rows.

    y has vectors of length 1; those of x are brought to it a chunk at a time, of which no array
    is left. `inside` is 1 for what belongs to the set and 0 for what is left out, which meets
    itself only.
    """
    places = jnp.arange(x.shape[0], dtype=jnp.int32)
    chunks = [stacked(a, how) for a in (x, inside, places, jnp.ones_like(inside))]

    def step(carry: Any, chunk: Any) -> Any:
        column_top, column_rest = carry
        x, mine, places, real = chunk
        places = jnp.where(real > 0, places, -1)
        entries, own, others = block(directed(x, temperature), y, places, inside, mine)
        row_top = top_of(entries, own + others, 1)
        row_rest = jnp.sum(jnp.where(others > 0, exps(entries, row_top[:, None]), 0), axis=1)
        top = jnp.maximum(column_top, top_of(entries, own + others, 0))
        scale = jnp.where(column_top == top, 1, jnp.exp(column_top - top))
        rest = jnp.sum(jnp.where(others > 0, exps(entries, top[None, :]), 0), axis=0)
        found = jnp.sum(own * entries, axis=1), row_top, row_rest
        return (top, column_rest * scale + rest), found

    start = lax.full_like(y[:, 0], -jnp.inf), lax.full_like(y[:, 0], 0)
    (column_top, column_rest), found = lax.scan(step, start, chunks)
    own, row_top, row_rest = (unstacked(a, how) for a in found)
    return Sums(own, row_top, row_rest, column_top, column_rest)


@sums.defjvp
def _sums_jvp(how: Split, primals: Any, tangents: Any) -> Any:
    (x, y, temperature, inside), (x_dot, y_dot, temperature_dot, _) = primals, tangents
    known = sums(how, *primals)
    tops = lax.stop_gradient((known.row_top, known.column_top))
    places = jnp.arange(x.shape[0], dtype=jnp.int32)
    rows = (x, x_dot, inside, places, tops[0], jnp.ones_like(inside))

    # Its transpose would keep a chunk of the square for each turn.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(shared: Any, shared_dot: Any, column_top: Array, inside: Array, rows: Any) -> Any:
        (y, temperature), (y_dot, temperature_dot) = shared, shared_dot
        x, x_dot, mine, places, row_top, real = rows
        x, x_dot = jax.jvp(directed, (x, temperature), (x_dot, temperature_dot))
        entries, own, others = block(x, y, jnp.where(real > 0, places, -1), inside, mine)
        change = product(x_dot, y) + product(x, y_dot)
        by_row = others * exps(entries, row_top[:, None]) * change
        by_column = others * exps(entries, column_top[None, :]) * change
        return jnp.sum(by_column, axis=0), (jnp.sum(own * change, axis=1), jnp.sum(by_row, axis=1))

    shared, shared_dot = (y, temperature), (y_dot, temperature_dot)

    def step(column: Array, rows: Any) -> Any:
        added, found = of_chunk(shared, shared_dot, tops[1], inside, rows)
        return column + added, found

    chunks = [stacked(a, how) for a in rows]
    column, found = lax.scan(step, lax.full_like(y[:, 0], 0), chunks)
    own, row = (unstacked(a, how) for a in found)
    nothing = jnp.zeros_like(known.row_top)
    return known, Sums(own, nothing, row, nothing, column)


def by_rows_and_columns(
    who: str, chunk: Any, left: Array, right: Array, temperature: Any, where: Array | None
) -> Array:
    """The mean surprise of each entry of the diagonal in its row and in its column; see `sums`."""
    how = checked_split(who, left.shape[-2], chunk, left, left.ndim - 2)

    def of_set(left: Array, right: Array, inside: Array, temperature: Array) -> Array:
        found = sums(how, left, right, temperature, inside)
        of_rows, _ = surprise_of_gap(found.row_rest, found.row_top - found.own)
        of_columns, _ = surprise_of_gap(found.column_rest, found.column_top - found.own)
        return 0.5 * (of_rows + of_columns)

    inside = jnp.ones(left.shape[:-1], bool) if where is None else where
    for _ in range(left.ndim - 2):
        of_set = jax.vmap(of_set, (0, 0, 0, None))
    temperature = jnp.asarray(temperature, left.dtype)
    return of_set(*alike(left, right, inside.astype(left.dtype), temperature))
