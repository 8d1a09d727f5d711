r"""The square of similarities of a set: some rows of it, their masks, and their sums.

A loss whose terms are sums over rows is computed by `map_rows`, a few rows at a time. CLIP also
needs sums over columns. With chunks, these are collected in one loop over the rows, relative to
the largest entry seen so far, and differentiated in one more loop, relative to the largest entry
of all:

$$\dot r_i = \sum_{j \ne i} e^{s_{ij} - m_i}\, \dot s_{ij}, \qquad
  \dot c_j = \sum_{i \ne j} e^{s_{ij} - n_j}\, \dot s_{ij}, \qquad
  \dot s_{ij} = \langle \dot x_i, y_j \rangle + \langle x_i, \dot y_j \rangle$$

This is linear in the tangents, and its transpose is the gradient: one matrix product for the sums
and three for the gradients, without an array of all pairs.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, PyTree

from jaxloss import numerics
from jaxloss._core.dtypes import all_in_bfloat16
from jaxloss._memory.layout import Split, checked_split, from_scan, to_scan
from jaxloss._memory.mesh import unify_vma, unsplit
from jaxloss.numerics._double_double import DD, two_sum
from jaxloss.numerics._online_logsumexp import ExpSum
from jaxloss.numerics._pair_distances import Short, Vectors, inner_products, product


class Masks(NamedTuple):
    """Which pairs of some rows with all columns are summed.

    Attributes:
        own: The diagonal: the column that belongs to each row. A row of padding has none.
        in_set: The pairs of which both examples are in the set; None if all are.
        has_own: Whether a row has a column of its own.
    """

    own: Bool[Array, "*batch rows columns"]
    in_set: Bool[Array, "*batch rows columns"] | None
    has_own: Bool[Array, "*batch rows"]

    @classmethod
    def of_rows(
        cls,
        places: Int[Array, " rows"],
        columns: Float[Array, "*batch columns dim"],
        rows_in_set: Bool[Array, "*batch rows"] | None,
        columns_in_set: Bool[Array, "*batch columns"] | None,
    ) -> "Masks":
        """The masks of rows whose own columns are at `places`; None means all in the set."""
        own = places[:, None] == jnp.arange(columns.shape[-2], dtype=places.dtype)[None, :]
        has_own = (places >= 0) & (places < columns.shape[-2])
        own, has_own = (jnp.expand_dims(x, range(columns.ndim - 2)) for x in (own, has_own))
        if rows_in_set is None and columns_in_set is None:
            return cls(own, None, has_own)
        of_rows = True if rows_in_set is None else rows_in_set[..., :, None]
        of_columns = True if columns_in_set is None else columns_in_set[..., None, :]
        return cls(own, jnp.logical_and(of_rows, of_columns), has_own)

    @property
    def others(self) -> Bool[Array, "*batch rows columns"]:
        """The pairs off the diagonal of which both examples are in the set."""
        return ~self.own if self.in_set is None else self.in_set & ~self.own

    @property
    def number_of_others(self) -> Int[Array, "*batch rows"]:
        """How many others each row has; counted in the matrix only if some are not in the set."""
        if self.in_set is not None:
            return jnp.sum(self.others, axis=-1, dtype=jnp.int32)
        return self.own.shape[-1] - self.has_own.astype(jnp.int32)

    def by_label(
        self, of_rows: Int[Array, "*batch rows"], of_columns: Int[Array, "*batch columns"]
    ) -> tuple[Bool[Array, "*batch rows columns"], Bool[Array, "*batch rows columns"]]:
        """The positives and the negatives: the others with the label of the row, and the rest."""
        same = of_rows[..., :, None] == of_columns[..., None, :]
        return self.others & same, self.others & ~same

    def diagonal(self, entries: Float[Array, "*batch rows columns"]) -> Float[Array, "*batch rows"]:
        """The entry of each row on the diagonal; 0 in a row of padding."""
        return jnp.sum(jnp.where(self.own, entries, 0), axis=-1)

    def sum_of_others(
        self, entries: Float[Array, "*batch rows columns"], axis: int, top: Array | None = None
    ) -> ExpSum:
        """The exponentials off the diagonal.

        The top, if it is not given, is the largest entry on the diagonal or in the set.
        """
        if self.in_set is not None:
            entries = jnp.where(self.in_set | self.own, entries, -jnp.inf)
        return ExpSum.of(entries, self.others, top, axis)


def whole(x: Array | None, axis: int = -1) -> Any:
    """The array with its set whole on every device, where all rows meet it; None stays None."""
    return None if x is None else unsplit(x, axis)


def with_derivative_of(entry: Array, value: Array) -> Array:
    """The value, with the derivative of an entry that equals it but for rounding.

    A formula and not a rule, since JAX does not use rules inside a scan that it differentiates.
    """
    return entry + lax.stop_gradient(value - entry)


def own_similarity(x: Array, y: Array, temperature: Array | float) -> DD:
    """The cosine of each x and its own y by the temperature; not differentiated.

    The loss of a good match depends on this entry alone. In a matrix product, hundreds of rounding
    errors near 1 add up, of which a small temperature makes 150 ULP of a loss. The distance of two
    directions is exact to a few ULP, and 0 where they are equal.
    """
    x, y, temperature = lax.stop_gradient((x, y, jnp.asarray(temperature, x.dtype)))
    cosine = two_sum(jnp.ones((), x.dtype), -numerics.cosine_distance(x, y))
    direct = numerics.cosine_similarity(x, y)
    near = jnp.abs(direct) > 0.5
    return DD(jnp.where(near, cosine.hi, direct), jnp.where(near, cosine.lo, 0)) / temperature


class Columns(NamedTuple):
    """What every row of the square is compared with.

    Attributes:
        directions: The vectors, of length 1, with their form in bfloat16 if all came in it.
        temperature: What cosines are divided by.
        in_set: Whether each column is in the set; None if all are.
    """

    directions: Vectors
    temperature: Float[Array, ""]
    in_set: Bool[Array, "*batch columns"] | None


class Rows(NamedTuple):
    """Some rows of the square.

    Attributes:
        vectors: The vectors, of any length.
        matches: The vector of the own column of each, of any length; not differentiated.
        in_set: Whether each row is in the set; None if all are.
        places: The own column of each; -1 in a row of padding.
    """

    vectors: Float[Array, "*batch rows dim"]
    matches: Float[Array, "*batch rows dim"]
    in_set: Bool[Array, "*batch rows"] | None
    places: Int[Array, " rows"]


def whole_set(vectors: Vectors) -> Vectors:
    """The vectors with their set whole on every device."""
    if vectors.short is None:
        return Vectors(whole(vectors.values, -2))
    short = Short(whole(vectors.short.vectors, -2), whole(vectors.short.factor))
    return Vectors(whole(vectors.values, -2), short)


def columns_of(vectors: Array, temperature: Array | float, where: Array | None) -> Columns:
    """All columns of the square, whole on every device.

    Called while the body is traced, which knows the dtypes that came.
    """
    temperature = jnp.asarray(temperature, vectors.dtype)
    directions = Vectors.directions(vectors, all_in_bfloat16())
    return Columns(whole_set(directions), temperature, whole(where))


def rows_of(vectors: Array, matches: Array, where: Array | None) -> list[Any]:
    """All rows of the square, as fields of `Rows` without the places."""
    return [vectors, lax.stop_gradient(matches), where]


def logits_with(columns: Columns, rows: Rows, directions: Vectors) -> Array:
    """The cosines of some rows with other directions, divided by the temperature."""
    own = Vectors.directions(rows.vectors, columns.directions.in_bfloat16)
    if own.in_bfloat16:  # so that the gradient in the temperature is that of float32 cosines
        return inner_products(own, directions) / columns.temperature
    return product(own.values / columns.temperature, directions.values)


def logits_of_rows(columns: Columns, rows: Rows) -> tuple[Array, Masks, DD]:
    """The logits of some rows, their masks, and the diagonal, more exact than in the logits."""
    masks = Masks.of_rows(rows.places, columns.directions.values, rows.in_set, columns.in_set)
    logits = logits_with(columns, rows, columns.directions)
    own = own_similarity(rows.vectors, rows.matches, columns.temperature)
    return logits, masks, own._replace(hi=with_derivative_of(masks.diagonal(logits), own.hi))


def similarities_and_masks(columns: list[Any], rows: list[Any]) -> tuple[Array, Array, Array]:
    """Cosines by the temperature, and the positives and the negatives among the pairs.

    The labels come last in the columns, and behind the vectors in the rows.
    """
    *columns, column_labels = columns
    directions, temperature, in_set = Columns(*columns)
    vectors, labels, rows_in_set, places = rows
    masks = Masks.of_rows(places, directions.values, rows_in_set, in_set)
    own = Vectors.directions(vectors, directions.in_bfloat16)
    similarities = inner_products(own, directions) / temperature
    return similarities, *masks.by_label(labels, column_labels)


class Sums(NamedTuple):
    """The diagonal of the square, and the sums of its rows and of its columns."""

    own: DD
    rows: ExpSum
    columns: ExpSum


def _block(columns: Columns, rows: Rows, tops: tuple[Any, Any] = (None, None)) -> Sums:
    """The sums of some rows, relative to tops that are known or to their own."""
    logits, masks, own = logits_of_rows(columns, rows)
    return Sums(
        own, masks.sum_of_others(logits, -1, tops[0]), masks.sum_of_others(logits, -2, tops[1])
    )


def sums_of_square(fun_name: str, chunk_size: Any, columns: Columns, own: Sequence[Any]) -> Sums:
    """The sums of all rows and columns of each set, `chunk_size` rows at a time."""
    vectors, matches, in_set = own
    rows = Rows(vectors, matches, in_set, jnp.arange(vectors.shape[-2], dtype=jnp.int32))
    if chunk_size is None:
        return _block(columns, rows)
    batch = rows.vectors.ndim - 2
    split = checked_split(fun_name, rows.places.shape[0], chunk_size, rows.vectors, batch)
    function = functools.partial(_sums_of_chunks, split)
    for _ in range(batch):
        axes: Any = Columns, (0, None, 0), Rows, (0, 0, 0, None)
        function = jax.vmap(function, (axes[0](*axes[1]), axes[2](*axes[3])))
    return function(*unify_vma(columns, rows))


def _to_scan(tree: PyTree, split: Split) -> Any:
    return jax.tree.map(lambda x: to_scan(x, split), tree)


def _chunks(split: Split, rows: Rows) -> Rows:
    """The rows in chunks; padding, which is filled with zeros, gets the place -1."""
    if split.is_padded and rows.in_set is None:
        rows = rows._replace(in_set=jnp.ones(split.rows, bool))
    chunks = _to_scan(rows._replace(places=rows.places + 1), split)
    return chunks._replace(places=chunks.places - 1)


# Jitted, so that an eager call compiles its loop once.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)
def _sums_of_chunks(split: Split, columns: Columns, rows: Rows) -> Sums:
    def step(carry: ExpSum, chunk: Rows) -> Any:
        found = _block(columns, chunk)
        return carry.merge(found.columns), (found.own, found.rows)

    nothing = columns.directions.values[:, 0]
    start = ExpSum.over_nothing(nothing)
    of_columns, found = lax.scan(step, start, _chunks(split, rows))
    own, of_rows = jax.tree.map(lambda x: from_scan(x, split), found)
    return Sums(own, of_rows, of_columns)


@_sums_of_chunks.defjvp
def _sums_of_chunks_jvp(
    split: Split, primals: tuple[Columns, Rows], tangents: tuple[Columns, Rows]
) -> tuple[Sums, Sums]:
    # A full rule: the sums of columns are differentiated relative to tops that are known only when
    # all rows have been seen, so that nothing of a chunk need be kept.
    columns_dot, rows_dot = tangents
    known = _sums_of_chunks(split, *primals)
    tops = lax.stop_gradient((known.rows.top, known.columns.top))
    found = _sums_dot(split, *primals, (*columns_dot[:2], rows_dot.vectors), tops)
    own, of_rows, of_columns = found
    zeros = jax.tree.map(jnp.zeros_like, known)  # of the low word and of the tops
    return known, Sums(
        zeros.own._replace(hi=own),
        zeros.rows._replace(rest=of_rows),
        zeros.columns._replace(rest=of_columns),
    )


@functools.partial(jax.jit, static_argnums=0)
def _sums_dot(split: Split, columns: Columns, rows: Rows, tangents: Any, tops: Any) -> Any:
    """The tangents of the diagonal, and of the sums of rows and of columns."""
    row_top, column_top = tops

    # Without a checkpoint, the transpose of the loop would keep a block of the square per chunk.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block_dot(columns: Any, columns_dot: Any, column_top: Array, chunk: Any) -> Any:
        rows, vectors_dot, row_top = chunk

        def block(directions: Vectors, temperature: Array, vectors: Array) -> Sums:
            these = columns._replace(directions=directions, temperature=temperature)
            return _block(these, rows._replace(vectors=vectors), (row_top, column_top))

        primals = columns.directions, columns.temperature, rows.vectors
        found = jax.jvp(block, primals, (*columns_dot, vectors_dot))[1]
        return found.columns.rest, (found.own.hi, found.rows.rest)

    def step(carry: Array, chunk: Any) -> Any:
        added, found = block_dot(columns, tangents[:2], column_top, chunk)
        return carry + added, found

    chunks = _chunks(split, rows), *_to_scan((tangents[2], row_top), split)
    of_columns, found = lax.scan(step, lax.full_like(columns.directions.values[:, 0], 0), chunks)
    own, of_rows = (from_scan(x, split) for x in found)
    return own, of_rows, of_columns
