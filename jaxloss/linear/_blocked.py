"""Losses of rows, and their gradients, with a block of rows and classes at a time.

There are two ways through the matrix of all logits:

- rows outside, all classes of a chunk at once: its gradients are computed with its losses, in three
  matrix products (`chunk_value_and_grad`, in the loop of `_memory.chunk_sum`);
- classes outside, rows inside: a first pass computes the sums of each row (`row_sums`), a second
  one each logit again and the gradient (`total_loss`), in four matrix products. The second pass
  finishes the gradient of one block of the weight after the other, so that nothing of the weight's
  size exists but the gradient itself, and nothing is held between the forward and the backward pass
  but the sums.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss import _xla
from jaxloss._memory.chunk_sum import store_row_gradient, tangent_of_sum, zero_tangent
from jaxloss._memory.layout import (
    Split,
    accumulator_dtype,
    from_scan,
    merge_strided,
    split_strided,
    take_chunk,
    to_scan,
    zeros_like,
)
from jaxloss._memory.mesh import pcast_varying, possible_shards, vma
from jaxloss.linear._online_softmax import (
    Classes,
    Head,
    Labels,
    Layer,
    RowSums,
    labels_of,
    losses_of,
    losses_of_products,
    product,
    rounded_dot,
    sums_of_block,
)


class Tiles(NamedTuple):
    """The static part of a loss in blocks.

    Attributes:
        layer: The layer and its loss.
        rows: How the rows are split into chunks.
        block: The number of classes of a block; None for all.
    """

    layer: Layer
    rows: Split
    block: int | None


class _Blocks(NamedTuple):
    """How the classes of an array are split into blocks.

    The classes are first cut into as many `parts` as devices may share them, and a block consists
    of `size` classes of each part: a block of neighbours would be gathered from one device.

    Attributes:
        parts: The number of parts.
        size: The number of classes of a block in each part.
        number: The number of blocks.
        total: The number of classes of a part.
    """

    parts: int
    size: int
    number: int
    total: int

    @property
    def divides(self) -> bool:
        """Whether no block overlaps the one before it."""
        return self.number == 1 or self.total % self.size == 0

    def start(self, j: Any) -> Any:
        """The first class of block j in each part; the last block may overlap the one before."""
        return 0 if self.number == 1 else jnp.minimum(j * self.size, self.total - self.size)

    def split(self, x: Array, axis: int) -> Array:
        """The classes as an axis of parts and an axis of the classes of a part."""
        return x.reshape(*x.shape[:axis], self.parts, self.total, *x.shape[axis + 1 :])

    def merge(self, x: Array, axis: int) -> Array:
        """The inverse of `split`, also of a block."""
        size = x.shape[axis] * x.shape[axis + 1]
        return x.reshape(*x.shape[:axis], size, *x.shape[axis + 2 :])

    def take(self, x: Array, axis: int, j: Any) -> Array:
        """The classes of block j."""
        if self.number == 1:
            return x
        if self.parts == 1:
            return lax.dynamic_slice_in_dim(x, self.start(j), self.size, axis)
        taken = lax.dynamic_slice_in_dim(self.split(x, axis), self.start(j), self.size, axis + 1)
        return self.merge(taken, axis)

    def add(self, total: Array, part: Array, axis: int, j: Any) -> Array:
        """Adds to the classes of block j of an array that is `split`."""
        if self.number == 1:
            return total + self.split(part, axis).astype(total.dtype)
        part = part.reshape(*part.shape[:axis], self.parts, self.size, *part.shape[axis + 1 :])
        old = lax.dynamic_slice_in_dim(total, self.start(j), self.size, axis + 1)
        new = (old.astype(part.dtype) + part).astype(total.dtype)
        return lax.dynamic_update_slice_in_dim(total, new, self.start(j), axis + 1)


def _blocks_of(tiles: Tiles, head: Head) -> _Blocks:
    axis, size = tiles.layer.class_axis, tiles.layer.num_classes(head.weight)
    if tiles.block is None or not isinstance(size, int) or tiles.block >= size:
        return _Blocks(1, size, 1, size)
    parts = possible_shards(head.weight, axis)
    total = size // parts
    block = max(1, min(tiles.block // parts, total))
    return _Blocks(parts, block, -(-total // block), total)


_CLASS_FIELDS = ("weight", "bias", "class_weights")


def _class_axis(layer: Layer, field: str) -> int:
    return layer.class_axis if field == "weight" else 0


def _block_of_head(layer: Layer, blocks: _Blocks, head: Head, j: Any) -> Head:
    """Block j of what has classes, and all of the rest."""
    return _map_classes(lambda x, axis: blocks.take(x, axis, j), head, layer)


def _classes_of(blocks: _Blocks, labels: Labels, j: Any) -> Classes:
    """The classes of block j, and which of the labels are among them."""
    dtype = labels.ids.dtype
    start = blocks.start(j)
    offsets = jnp.arange(blocks.size, dtype=dtype)
    parts = jnp.arange(blocks.parts, dtype=dtype)[:, None] * blocks.total
    ids = labels.first + (parts + start + offsets).reshape(-1)
    is_new = None
    part, offset = labels.ids // blocks.total, labels.ids % blocks.total - start
    inside = (labels.ids >= 0) & (offset >= 0) & (offset < blocks.size)
    if not blocks.divides:
        # Of a block that overlaps the one before it, the first classes have been counted.
        new = start + offsets >= j * blocks.size
        is_new = jnp.tile(new, blocks.parts)
        inside &= labels.ids % blocks.total >= j * blocks.size
    place = jnp.where(inside, part * blocks.size + offset, -1).astype(dtype)
    return Classes(ids.astype(dtype), place, is_new)


def _loop(body: Any, carry: Any, number: Any) -> Any:
    """`body(carry, j)` for each j below a number; one turn is no loop."""
    if isinstance(number, int) and number == 1:
        return body(carry, 0)
    return lax.scan(lambda carry, j: (body(carry, j), None), carry, jnp.arange(number))[0]


# --- rows outside: all classes of a chunk --------------------------------------------------------


def chunk_losses(layer: Layer, head: Head, hidden: Array, ids: Array) -> tuple[Array, Any]:
    """The loss of each row, and the metrics that are wanted."""
    return losses_of_products(layer, head, ids, product(layer, hidden, head.weight))


def chunk_value_and_grad(
    tiles: Tiles, head: Head, hidden: Array, ids: Array, factors: Array, sums: Head
) -> tuple[Array, Any, Head, Array]:
    """The loss of each row, and the gradients of their sum weighted by `factors`.

    Args:
        tiles: What is static.
        head: What all rows share.
        hidden: `(rows, dim)`.
        ids: The label of each row.
        factors: The factor of each row.
        sums: The gradients of `head` that are wanted, as far as they were added up before; None
            where none is wanted.

    Returns:
        The losses, the metrics, the gradients of `head` added to the sums, and those of `hidden`.
    """
    layer, small = tiles.layer, _small(head, sums)
    raw = product(layer, hidden, head.weight)
    values, vjp_fn, aux = jax.vjp(
        lambda raw, small: losses_of_products(layer, head._replace(**small), ids, raw),
        raw,
        small,
        has_aux=True,
    )
    raw_bar, small_bar = vjp_fn(factors)
    sums = _add_small(sums, small_bar)
    if sums.weight is not None:
        sums = sums._replace(weight=_add_outer(tiles, sums.weight, hidden, raw_bar, head))
    return values, aux, sums, _times_weight(layer, raw_bar, head.weight, hidden)


def _small(head: Head, wanted: Head) -> dict[str, Array]:
    """The fields whose gradients are wanted, but for the weight."""
    fields = head._asdict().items()
    return {f: x for f, x in fields if f != "weight" and getattr(wanted, f) is not None}


def _add_small(sums: Head, small_bar: dict[str, Array]) -> Head:
    added = {f: getattr(sums, f) + x.astype(getattr(sums, f).dtype) for f, x in small_bar.items()}
    return sums._replace(**added)


def _times_weight(layer: Layer, raw_bar: Array, weight: Array, like: Array) -> Array:
    """The cotangent of the hidden states."""
    return rounded_dot(raw_bar, weight, (1, layer.class_axis), like)


def _outer(layer: Layer, hidden: Array, raw_bar: Array, like: Array) -> Array:
    """The cotangent of the weight."""
    left, right = (raw_bar, hidden) if layer.transposed else (hidden, raw_bar)
    return rounded_dot(left, right, (0, 0), like)


def _outer_of_flipped(layer: Layer, flipped: Array, raw_bar: Array) -> Array:
    """The same from hidden states that were transposed outside of a loop.

    XLA on CPU has a fast product of bfloat16 for this form alone.
    """
    out = rounded_dot(flipped, raw_bar, (1, 0))
    return out.T if layer.transposed else out


def _add_outer(tiles: Tiles, total: Array, hidden: Array, raw_bar: Array, head: Head) -> Array:
    """Adds the cotangent of the weight of a chunk.

    On GPU and TPU the product is added to the total as it is computed. On CPU it would be a second
    array of the size of the weight, so that it is computed and added one block at a time.
    """
    layer, blocks = tiles.layer, _blocks_of(tiles, head)
    axis = layer.class_axis

    def plain(total: Array, hidden: Array, raw_bar: Array) -> Array:
        return total + _outer(layer, hidden, raw_bar, head.weight)

    def in_blocks(total: Array, hidden: Array, raw_bar: Array) -> Array:
        flipped = hidden.T

        def body(total: Array, j: Any) -> Array:
            part = blocks.take(raw_bar, 1, j)
            if not blocks.divides:
                part = jnp.where(_is_new(blocks, j), part, 0)
            return blocks.add(total, _outer_of_flipped(layer, flipped, part), axis, j)

        return blocks.merge(_loop(body, blocks.split(total, axis), blocks.number), axis)

    if blocks.number == 1:
        return plain(total, hidden, raw_bar)
    return _xla.on_cpu(in_blocks, plain, total, hidden, raw_bar)


def _is_new(blocks: _Blocks, j: Any) -> Array:
    """Which classes of block j are not in the block before it."""
    return jnp.tile(blocks.start(j) + jnp.arange(blocks.size) >= j * blocks.size, blocks.parts)


# --- classes outside: the sums of all rows -------------------------------------------------------


class Rows(NamedTuple):
    """The rows of a loss.

    Attributes:
        hidden: `(rows, dim)`.
        ids: The labels; 0 in a row that does not count.
        mask: Which rows count; None if all do.
    """

    hidden: Array
    ids: Array
    mask: Array | None

    def visible(self) -> Array:
        """The hidden states, and zeros in rows that do not count."""
        return where_rows(self.mask, self.hidden)


def where_rows(mask: Array | None, x: Array) -> Array:
    """Zeros in the rows of a mask that is False."""
    if mask is None:
        return x
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
    return jnp.where(mask, x, jnp.zeros((), x.dtype))


def _block_sums(
    tiles: Tiles,
    blocks: _Blocks,
    j: Any,
    head: Head,
    hidden: Array,
    labels: Labels,
    top: Array | None = None,
) -> RowSums:
    """The sums over block j, whose part of `head` is given, of some rows."""
    raw = product(tiles.layer, hidden, head.weight)
    return sums_of_block(tiles.layer, head, raw, _classes_of(blocks, labels, j), top)


def _scan_rows(tiles: Tiles, function: Any, rows: Any) -> Any:
    """`function(rows)` of each chunk, for rows in the form (chunks, size, ...)."""
    if isinstance(tiles.rows.chunks, int) and tiles.rows.chunks == 1:
        found = function(jax.tree.map(lambda x: x[0], rows))
        return jax.tree.map(lambda x: x[None], found)
    return lax.scan(lambda _, rows: (None, function(rows)), None, rows)[1]


def _to_scan(tiles: Tiles, tree: Any) -> Any:
    return jax.tree.map(lambda x: to_scan(x, tiles.rows, "first"), tree)


def _from_scan(tiles: Tiles, tree: Any) -> Any:
    return jax.tree.map(lambda x: from_scan(x, tiles.rows), tree)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def row_sums(tiles: Tiles, head: Head, rows: Rows) -> RowSums:
    """The sums of each row over the whole vocabulary."""
    layer, blocks = tiles.layer, _blocks_of(tiles, head)
    labels = labels_of(layer, head, rows.ids)
    chunks = _to_scan(tiles, (rows, labels.ids))

    def of_block(j: Any) -> RowSums:
        own = _block_of_head(layer, blocks, head, j)

        def of_chunk(chunk: Any) -> RowSums:
            rows, ids = chunk
            here = labels._replace(ids=ids)
            return _block_sums(tiles, blocks, j, own, rows.visible(), here)

        return _scan_rows(tiles, of_chunk, chunks)

    sums = of_block(0)
    if blocks.number > 1:
        more = jnp.arange(1, blocks.number)
        sums, _ = lax.scan(lambda sums, j: (sums.merge(of_block(j)), None), sums, more)
    sums = _from_scan(tiles, sums)
    return sums if layer.axis_name is None else sums.psum(layer.axis_name)


# Not elementwise: the tangents are those of one more pass, relative to tops that are known only
# after the first, so that the transpose keeps nothing of a block.
@functools.partial(row_sums.defjvp, symbolic_zeros=True)
def _row_sums_jvp(tiles: Tiles, primals: Any, tangents: Any) -> tuple[RowSums, RowSums]:
    (head, rows), (head_dot, rows_dot) = primals, tangents
    layer, blocks = tiles.layer, _blocks_of(tiles, head)
    sums = row_sums(tiles, head, rows)
    top = lax.stop_gradient(sums.others.top)
    labels = labels_of(layer, head, rows.ids)
    fields = head_dot._asdict().items()
    moving = {f: x for f, x in fields if not (x is None or isinstance(x, SymbolicZero))}
    hidden_dot = None if isinstance(rows_dot.hidden, SymbolicZero) else rows_dot.hidden

    # Cotangents are added up over rows and over blocks in float32.
    def wide(x: Array) -> Array:
        return x.astype(accumulator_dtype(x.dtype))

    blocks_dot = {
        f: _stack(blocks, wide(x), _class_axis(layer, f)) if f in _CLASS_FIELDS else wide(x)
        for f, x in moving.items()
    }
    in_blocks = {f: x for f, x in blocks_dot.items() if f in _CLASS_FIELDS}
    whole = {f: x for f, x in blocks_dot.items() if f not in _CLASS_FIELDS}
    chunks = _to_scan(tiles, (rows, labels.ids, top))
    chunks_dot = None if hidden_dot is None else _to_scan(tiles, wide(hidden_dot))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(own: Head, own_dot: Any, j: Any, chunk: Any, hidden_dot: Any) -> RowSums:
        rows, ids, top = chunk
        hidden = rows.visible()

        def variables(fields: dict[str, Array], hidden: Array) -> RowSums:
            here, head = labels._replace(ids=ids), own._replace(**fields)
            return _block_sums(tiles, blocks, j, head, hidden, here, top).variables()

        fields = {f: getattr(own, f) for f in own_dot}
        own_dot = {f: x.astype(fields[f].dtype) for f, x in own_dot.items()}
        if hidden_dot is None:
            return jax.jvp(lambda fields: variables(fields, hidden), (fields,), (own_dot,))[1]
        hidden_dot = rows._replace(hidden=hidden_dot.astype(hidden.dtype)).visible()
        return jax.jvp(variables, (fields, hidden), (own_dot, hidden_dot))[1]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_block(chunks: Any, chunks_dot: Any, whole: Any, block: Any) -> RowSums:
        j, own_dot = block
        own = _block_of_head(layer, blocks, head, j)
        every = {**own_dot, **whole}
        return _scan_rows(
            tiles, lambda chunk: of_chunk(own, every, j, *chunk), (chunks, chunks_dot)
        )

    def step(total: Any, block: Any) -> Any:
        return jax.tree.map(jnp.add, total, of_block(chunks, chunks_dot, whole, block)), None

    first = jax.tree.map(lambda x: x[0], in_blocks)
    found = of_block(chunks, chunks_dot, whole, (0, first))
    if blocks.number > 1:
        rest = jnp.arange(1, blocks.number), jax.tree.map(lambda x: x[1:], in_blocks)
        found, _ = lax.scan(step, found, rest)
    found = _from_scan(tiles, found)
    found = found if layer.axis_name is None else lax.psum(found, layer.axis_name)
    zeros = jax.tree.map(zero_tangent, sums)
    return sums, found._replace(others=zeros.others._replace(rest=found.others), best=zeros.best)


def _stack(blocks: _Blocks, x: Array, axis: int) -> Array:
    """The blocks along a new first axis: as `take` would give them, but copied once."""
    if blocks.number == 1:
        return x[None]
    parts = blocks.split(x, axis)
    full = blocks.number if blocks.divides else blocks.number - 1
    head = lax.slice_in_dim(parts, 0, full * blocks.size, axis=axis + 1)
    head = head.reshape(*x.shape[:axis], blocks.parts, full, blocks.size, *x.shape[axis + 1 :])
    head = blocks.merge(jnp.moveaxis(head, axis + 1, 0), axis + 1)
    if blocks.divides:
        return head
    last = lax.slice_in_dim(parts, blocks.total - blocks.size, blocks.total, axis=axis + 1)
    return jnp.concatenate([head, blocks.merge(last, axis)[None]])


def row_losses(tiles: Tiles, head: Head, rows: Rows) -> tuple[Array, Any]:
    """The loss of each row, and the metrics that are wanted."""
    labels = labels_of(tiles.layer, head, rows.ids)
    return losses_of(head, labels, row_sums(tiles, head, rows))


def _zeros(head: Head, wanted: Head, dtype_of: Any) -> Head:
    """Zeros for the gradients that are wanted."""
    pairs = zip(head, wanted, strict=True)
    return Head(*(None if w is None else zeros_like(x, dtype_of(x.dtype)) for x, w in pairs))  # type: ignore  # not None here


def _map_classes(function: Any, head: Head, layer: Layer) -> Head:
    """`function(x, axis)` of the arrays that have classes."""
    fields = {f: getattr(head, f) for f in _CLASS_FIELDS}
    return head._replace(
        **{f: function(x, _class_axis(layer, f)) for f, x in fields.items() if x is not None}
    )


# --- classes outside: the sum of all losses ------------------------------------------------------


def total_loss(tiles: Tiles, head: Head, rows: Rows, factors: Array) -> tuple[Array, Any]:
    """The sum of the losses times their factors, and the metrics that are wanted.

    The backward pass computes the gradients from the sums of the rows, which are all that it holds.
    """
    sums = row_sums(tiles, *jax.tree.map(lax.stop_gradient, (head, rows)))
    return jax.checkpoint(functools.partial(_total_of_sums, tiles))(sums, head, rows, factors)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _total_of_sums(
    tiles: Tiles, sums: RowSums, head: Head, rows: Rows, factors: Array
) -> tuple[Array, Any]:
    labels = labels_of(tiles.layer, head, rows.ids)
    values, aux = losses_of(head, labels, sums)
    return _weighted(values, rows, factors), aux


def _weighted(values: Array, rows: Rows, factors: Array) -> Array:
    return jnp.sum(where_rows(rows.mask, values * factors))


# Not elementwise: the gradient needs a loop of its own. It is the derivative with respect to `head`
# and `rows`, of which the sums are functions: their tangents are none.
@functools.partial(_total_of_sums.defjvp, symbolic_zeros=True)
def _total_of_sums_jvp(tiles: Tiles, primals: Any, tangents: Any) -> Any:
    (sums, *arguments), (_, *tangents) = primals, tangents
    total, aux = _total_of_sums(tiles, *primals)
    leaves = jax.tree.leaves(tangents)
    moves = tuple(not isinstance(x_dot, SymbolicZero) for x_dot in leaves)
    gradients = _gradients(tiles, moves, lax.stop_gradient(sums), *arguments)
    return (total, aux), (tangent_of_sum(total, gradients, leaves), jax.tree.map(zero_tangent, aux))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _gradients(
    tiles: Tiles,
    moves: tuple[bool, ...],
    sums: RowSums,
    head: Head,
    rows: Rows,
    factors: Array,
) -> list[Any]:
    """The gradients of the leaves of head, rows and factors that move."""
    layer, blocks = tiles.layer, _blocks_of(tiles, head)
    tree = jax.tree.structure((head, rows, factors))
    wanted: tuple[Head, Rows, Any]
    wanted = jax.tree.unflatten(tree, [True if m else None for m in moves])
    small = _small(head, wanted[0])
    labels = labels_of(layer, head, rows.ids)

    def losses(variables: RowSums, small: dict[str, Array]) -> Array:
        these = head._replace(**small)
        labels = labels_of(layer, these, rows.ids)
        return losses_of(these, labels, sums.with_variables(variables))[0]

    values, vjp_fn = jax.vjp(losses, sums.variables(), small)
    variables_bar, small_bar = vjp_fn(where_rows(rows.mask, factors))

    def split(tree: Any, fill: Any) -> Any:
        return jax.tree.map(lambda x: split_strided(x, tiles.rows, fill), tree)

    passes = _Passes(
        split((rows, labels.ids, sums.others.top), "first"),
        split(variables_bar, "zeros"),  # so that padding has no cotangent
        labels,
    )

    def of_block(carry: Any, j: Any) -> Any:
        total, hidden_bar = carry
        own = _block_of_head(layer, blocks, head, j)
        own_bar, hidden_bar = _block_gradients(
            tiles, blocks, j, own, passes, _zeros(own, wanted[0], accumulator_dtype), hidden_bar
        )
        return _add_block(layer, blocks, j, total, own_bar), hidden_bar

    # A block of the gradient is complete when it is added: no wider dtype is needed, but in
    # float16, whose range is too small for a sum that is not divided yet.
    start = _zeros(head, wanted[0], lambda d: accumulator_dtype(d) if d == jnp.float16 else d)
    start = _map_classes(blocks.split, start, layer)
    hidden_bar = None
    if wanted[1].hidden is not None:
        like = split_strided(rows.hidden, tiles.rows)
        hidden_bar = zeros_like(like, accumulator_dtype(rows.hidden.dtype))
    total, hidden_bar = _loop(of_block, (start, hidden_bar), blocks.number)
    total = _add_small(_map_classes(blocks.merge, total, layer), small_bar)
    if hidden_bar is not None:
        hidden_bar = where_rows(rows.mask, merge_strided(hidden_bar, tiles.rows))
        hidden_bar = store_row_gradient(hidden_bar, rows.hidden.dtype)
    found = total, Rows(hidden_bar, None, None), where_rows(rows.mask, values)  # type: ignore  # not None here
    return [x if m else None for m, x in zip(moves, tree.flatten_up_to(found), strict=True)]


class _Passes(NamedTuple):
    """What the second pass knows of the rows, in the form (size, chunks, ...).

    Attributes:
        parts: The rows, their labels on this device, and their largest logits.
        parts_bar: The cotangents of their sums.
        labels: What else is known of the labels.
    """

    parts: tuple[Rows, Array, Array]
    parts_bar: RowSums
    labels: Labels


def _block_gradients(
    tiles: Tiles,
    blocks: _Blocks,
    j: Any,
    own: Head,
    passes: _Passes,
    own_bar: Head,
    hidden_bar: Array | None,
) -> tuple[Head, Array | None]:
    """Adds the gradients that come from block j, whose part of the head is `own`."""
    layer = tiles.layer
    own_small = _small(own, own_bar)

    def of_chunk(carry: Any, c: Any) -> Any:
        own_bar, hidden_bar = carry
        (rows, ids, top), bar = take_chunk((passes.parts, passes.parts_bar), c)
        hidden = rows.visible()
        classes = _classes_of(blocks, passes.labels._replace(ids=ids), j)
        raw = product(layer, hidden, own.weight)

        def variables(raw: Array, small: dict[str, Array]) -> RowSums:
            return sums_of_block(layer, own._replace(**small), raw, classes, top).variables()

        found, vjp_fn = jax.vjp(variables, raw, own_small)
        raw_bar, small_bar = vjp_fn(
            jax.tree.map(lambda x, like: pcast_varying(x, vma(like)), bar, found)
        )
        own_bar = _add_small(own_bar, small_bar)
        if own_bar.weight is not None:
            outer = _outer(layer, hidden, raw_bar, own.weight)
            own_bar = own_bar._replace(weight=own_bar.weight + outer)
        if hidden_bar is not None:
            change = _times_weight(layer, raw_bar, own.weight, hidden)
            old = lax.dynamic_index_in_dim(hidden_bar, c, 1, keepdims=False)
            hidden_bar = lax.dynamic_update_index_in_dim(hidden_bar, old + change, c, 1)
        return own_bar, hidden_bar

    return _loop(of_chunk, (own_bar, hidden_bar), tiles.rows.chunks)


def _add_block(layer: Layer, blocks: _Blocks, j: Any, total: Head, own_bar: Head) -> Head:
    """Adds the gradients of block j to those of all classes, which are in parts."""
    fields = {}
    for field, part in own_bar._asdict().items():
        x = getattr(total, field)
        if part is not None:
            axis = _class_axis(layer, field)
            fields[field] = blocks.add(x, part, axis, j) if field in _CLASS_FIELDS else x + part
    return total._replace(**fields)


# The rule is the derivative of the function, in which the sums are functions of the arguments.
@_gradients.defjvp
def _gradients_jvp(
    tiles: Tiles, moves: tuple[bool, ...], primals: Any, tangents: Any
) -> tuple[list[Any], list[Any]]:
    def function(head: Head, rows: Rows, factors: Array) -> list[Any]:
        sums = row_sums(tiles, head, rows)
        return _gradients.fun(tiles, moves, sums, head, rows, factors)

    return jax.jvp(function, primals[1:], tangents[1:])
