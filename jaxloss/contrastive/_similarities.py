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
from jaxloss._memory.chunk_map import map_chunks
from jaxloss._memory.deferred import checked_split
from jaxloss._memory.layout import Split, from_scan, to_scan
from jaxloss._memory.mesh import unify_vma
from jaxloss.numerics._double_double import two_quotient, two_sum
from jaxloss.numerics._labels import take_label
from jaxloss.numerics._softmax_nll import exp_shifted, nll_from_gap


def product(x: Array, y: Array) -> Array:
    """All inner products of two sets, in full precision.

    Accelerators would round to bfloat16, and a cosine that is 0.4 % off is, at a temperature of
    0.07, a probability that is 6 % off.
    """
    return jnp.einsum("...id,...jd->...ij", x, y, precision=lax.Precision.HIGHEST)


def own_similarity(x: Array, y: Array, temperature: Any) -> tuple[Array, Array]:
    """The cosine of each x and its own y by the temperature, and what rounding took; no slope.

    It decides on the loss alone: of unlike vectors the cosines are small, and so are their errors.
    On the diagonal of `product` hundreds of roundings near 1 add up, of which the temperature makes
    150 last places of a loss. Here they are those of the distance, 0 where the match is exact.
    """
    x, y, temperature = lax.stop_gradient((x, y, jnp.asarray(temperature, x.dtype)))
    cosine, lost = two_sum(jnp.ones((), x.dtype), -numerics.cosine_distance(x, y))
    direct = numerics.cosine_similarity(x, y)
    near = jnp.abs(direct) > 0.5
    similarity, more = two_quotient(jnp.where(near, cosine, direct), temperature)
    return similarity, more + jnp.where(near, lost, 0) / temperature


def with_slope_of(entry: Array, value: Array) -> Array:
    """The value, with the slope of an entry that is the same but for rounding."""
    return entry + lax.stop_gradient(value - entry)


@jax.custom_jvp
def own_with_slope(entries: Array, places: Array, value: Array) -> Array:
    """The value of each row's entry at its own place, with the slope of the entry."""
    return with_slope_of(take_label(entries, places), value)


@own_with_slope.defjvp
def _own_with_slope_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    entries, places, _ = primals
    own = places[..., None] == jnp.arange(entries.shape[-1], dtype=places.dtype)
    return own_with_slope(*primals), jnp.sum(jnp.where(own, tangents[0], 0), axis=-1)


class Others(NamedTuple):
    """What the entries of rows (or columns) sum to.

    Attributes:
        top: The largest of them.
        rest: The sum of exp(entry - top) without the diagonal.
    """

    top: Array
    rest: Array


def _others_and_exps(entries: Array, own: Array, seen: Array | None) -> tuple[Others, Array]:
    # One array serves the sum and its gradient, so nothing else of the square's size is stored.
    if seen is None:
        top, counts = jnp.max(entries, axis=-1), ~own
    else:
        top, counts = top_of(entries, seen | own, -1), seen & ~own
    top = lax.stop_gradient(top)
    terms = jnp.where(counts, exps(entries, top[..., None]), 0)
    return Others(top, jnp.sum(terms, axis=-1)), terms


@jax.custom_jvp
def others_of_rows(entries: Array, own: Array, seen: Array | None) -> Others:
    """What each row sums to, of what is seen; its diagonal is, always."""
    return _others_and_exps(entries, own, seen)[0]


@others_of_rows.defjvp
def _others_of_rows_jvp(primals: Any, tangents: Any) -> tuple[Others, Others]:
    known, (_, terms) = others_of_rows(*primals), _others_and_exps(*primals)
    return known, Others(jnp.zeros_like(known.top), jnp.sum(terms * tangents[0], axis=-1))


def surprise(own: Array, lost: Array, others: Others) -> Array:
    """-log of the softmax of what has similarity `own + lost`, among itself and others."""
    return nll_from_gap(others.rest, (others.top - own) - lost)[0]


class Sums(NamedTuple):
    """The diagonal of a square, and what its rows and columns sum to; each of shape (set,)."""

    own: Array
    rows: Others
    columns: Others


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
    return exp_shifted(jnp.where(entries > top, top, entries), top)


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
    chunks = [to_scan(a, how) for a in (x, inside, places, jnp.ones_like(inside))]

    def step(carry: Others, chunk: Any) -> Any:
        x, mine, places, real = chunk
        places = jnp.where(real > 0, places, -1)
        entries, own, others = block(directed(x, temperature), y, places, inside, mine)
        row_top = top_of(entries, own + others, 1)
        row_rest = jnp.sum(jnp.where(others > 0, exps(entries, row_top[:, None]), 0), axis=1)
        top = jnp.maximum(carry.top, top_of(entries, own + others, 0))
        scale = jnp.where(carry.top == top, 1, jnp.exp(carry.top - top))
        rest = jnp.sum(jnp.where(others > 0, exps(entries, top[None, :]), 0), axis=0)
        found = jnp.sum(own * entries, axis=1), Others(row_top, row_rest)
        return Others(top, carry.rest * scale + rest), found

    start = Others(lax.full_like(y[:, 0], -jnp.inf), lax.full_like(y[:, 0], 0))
    columns, found = lax.scan(step, start, chunks)
    own, rows = jax.tree.map(lambda a: from_scan(a, how), found)
    return Sums(own, rows, columns)


@sums.defjvp
def _sums_jvp(how: Split, primals: Any, tangents: Any) -> Any:
    (x, y, temperature, inside), (x_dot, y_dot, temperature_dot, _) = primals, tangents
    known = sums(how, *primals)
    tops = lax.stop_gradient((known.rows.top, known.columns.top))
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

    chunks = [to_scan(a, how) for a in rows]
    column, found = lax.scan(step, lax.full_like(y[:, 0], 0), chunks)
    own, row = (from_scan(a, how) for a in found)
    nothing = jnp.zeros_like(known.own)
    return known, Sums(own, Others(nothing, row), Others(nothing, column))


def by_rows_and_columns(
    fun_name: str, chunk_size: Any, left: Array, right: Array, temperature: Any, where: Array | None
) -> Array:
    """The mean surprise of each entry of the diagonal in its row and in its column; see `sums`."""
    how = checked_split(fun_name, left.shape[-2], chunk_size, left, left.ndim - 2)

    def of_set(left: Array, right: Array, temperature: Array, inside: Array) -> Array:
        def of_rows(_: Any, rows: Any) -> Any:
            return own_similarity(rows[0], rows[1], temperature)

        own, lost = map_chunks(of_rows, how, [], [left, right])
        found = sums(how, left, numerics.normalize(right), temperature, inside)
        own = with_slope_of(found.own, own)
        return 0.5 * (surprise(own, lost, found.rows) + surprise(own, lost, found.columns))

    inside = jnp.ones(left.shape[:-1], bool) if where is None else where
    for _ in range(left.ndim - 2):
        of_set = jax.vmap(of_set, (0, 0, None, 0))
    temperature = jnp.asarray(temperature, left.dtype)
    return of_set(*unify_vma(left, right, temperature, inside.astype(left.dtype)))
