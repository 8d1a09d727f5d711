"""The sum of the losses of all rows, and its gradients, from the sums of each row.

This is the second of two passes, which take four matrix products together. It finishes the gradient
of one block of the weight after the other, so that nothing of the size of the weight exists but the
gradient itself, and nothing is held between the forward and the backward pass but the sums.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import PyTree

from jaxloss._memory.chunk_sum import store_row_gradient, tangent_of_sum, zero_tangent
from jaxloss._memory.layout import (
    Fill,
    accumulator_dtype,
    carried_chunks,
    carry_rows,
    merge_strided,
    split_strided,
    take_chunk,
    zeros_like,
)
from jaxloss._memory.mesh import pcast_varying, vma
from jaxloss._xla import on_cpu
from jaxloss.linear._blocks import (
    CLASS_FIELDS,
    WEIGHTS,
    Blocks,
    Rows,
    Tiles,
    block_of_head,
    blocks_of,
    class_axis_of,
    classes_of,
    loop,
    map_classes,
    where_rows,
    zeros_of,
)
from jaxloss.linear._layer import Head, Labels, Layer, labels_of
from jaxloss.linear._products import (
    add_small_fields,
    outer_product,
    products,
    small_fields,
    times_weight,
)


class Form(NamedTuple):
    """What is computed of the rows; `Tiles.sums_of` says what of a block.

    Attributes:
        sums_of_rows: From tiles, head and rows to the sums of each row over all classes.
        losses_of: From head, labels and sums to the losses and the metrics that are wanted.
    """

    sums_of_rows: Callable[[Tiles, Head, Rows], Any]
    losses_of: Callable[[Head, Labels, Any], tuple[Array, Any]]


def total_loss(
    form: Form, tiles: Tiles, head: Head, rows: Rows, factors: Array
) -> tuple[Array, Any]:
    """The sum of the losses times their factors, and the metrics that are wanted.

    The backward pass computes the gradients from the sums of the rows, which are all that it holds.
    """
    sums = form.sums_of_rows(tiles, *jax.tree.map(lax.stop_gradient, (head, rows)))
    total = jax.checkpoint(functools.partial(_total_of_sums, form, tiles))
    return total(sums, head, rows, factors)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _total_of_sums(
    form: Form, tiles: Tiles, sums: Any, head: Head, rows: Rows, factors: Array
) -> tuple[Array, Any]:
    labels = labels_of(tiles.layer, head, rows.ids)
    values, aux = form.losses_of(head, labels, sums)
    return _weighted(values, rows, factors), aux


def _weighted(values: Array, rows: Rows, factors: Array) -> Array:
    return jnp.sum(where_rows(rows.mask, values * factors))


# Not elementwise: the gradient needs a loop of its own. It is the derivative with respect to `head`
# and `rows`, of which the sums are functions: their tangents are none.
@functools.partial(_total_of_sums.defjvp, symbolic_zeros=True)
def _total_of_sums_jvp(form: Form, tiles: Tiles, primals: PyTree, tangents: PyTree) -> Any:
    (sums, *arguments), (_, *tangents) = primals, tangents
    total, aux = _total_of_sums(form, tiles, *primals)
    leaves = jax.tree.leaves(tangents)
    moves = tuple(not isinstance(x_dot, SymbolicZero) for x_dot in leaves)
    gradients = _gradients(form, tiles, moves, lax.stop_gradient(sums), *arguments)
    return (total, aux), (tangent_of_sum(total, gradients, leaves), jax.tree.map(zero_tangent, aux))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _gradients(
    form: Form,
    tiles: Tiles,
    moves: tuple[bool, ...],
    sums: Any,
    head: Head,
    rows: Rows,
    factors: Array,
) -> list[Any]:
    """The gradients of the leaves of head, rows and factors that move."""
    layer, blocks = tiles.layer, blocks_of(tiles, head)
    tree = jax.tree.structure((head, rows, factors))
    wanted: tuple[Head, Rows, Any]
    wanted = jax.tree.unflatten(tree, [True if m else None for m in moves])
    small = small_fields(head, wanted[0])
    labels = labels_of(layer, head, rows.ids)

    def losses(variables: Any, small: dict[str, Array]) -> Array:
        these = head._replace(**small)
        labels = labels_of(layer, these, rows.ids)
        return form.losses_of(these, labels, sums.with_variables(variables))[0]

    values, vjp_fn = jax.vjp(losses, sums.variables(), small)
    variables_bar, small_bar = vjp_fn(where_rows(rows.mask, factors))

    def split(tree: PyTree, fill: Fill) -> Any:
        return jax.tree.map(lambda x: split_strided(x, tiles.rows, fill), tree)

    passes = _Passes(
        split((rows, labels.ids, sums.anchored()), "first"),
        split(variables_bar, "zeros"),  # so that padding has no cotangent
        labels,
    )

    def of_block(carry: PyTree, j: Array | int) -> Any:
        total, rows_bar = carry
        own = block_of_head(layer, blocks, head, j)
        own_bar, rows_bar = _block_gradients(
            tiles, blocks, j, own, passes, zeros_of(own, wanted[0], accumulator_dtype), rows_bar
        )
        return _put_block(layer, blocks, j, total, own_bar), rows_bar

    rows_bar = {}
    for field in WEIGHTS.values():
        if getattr(wanted[1], field) is not None:
            like = getattr(rows, field)
            zeros = zeros_like(split_strided(like, tiles.rows), accumulator_dtype(like.dtype))
            rows_bar[field] = carry_rows(zeros, tiles.rows)

    def of_all(dtype_of: Any, rows_bar: dict[str, Array]) -> Any:
        zeros = zeros_of(head, wanted[0], dtype_of)
        start = map_classes(lambda x, axis: blocks.to_put(x, axis, rows), zeros, layer)
        total, rows_bar = loop(of_block, (start, rows_bar), blocks.number)
        return map_classes(blocks.merge, total, layer), rows_bar

    # A block of the gradient is complete when it is added: no wider dtype is needed, but in
    # float16, whose range is too small for a sum that is not divided yet.
    def own(dtype: np.dtype) -> np.dtype:
        return accumulator_dtype(dtype) if dtype == jnp.float16 else dtype

    # XLA on CPU updates an array in place, unless it is of bfloat16.
    def in_place(rows_bar: dict[str, Array]) -> Any:
        total, rows_bar = of_all(accumulator_dtype, rows_bar)
        rounded = map(_rounded_as, total, zeros_of(head, wanted[0], own))
        return Head(*rounded), rows_bar  # type: ignore  # not None here

    of_own = functools.partial(of_all, own)
    is_bfloat16 = head.weight.dtype == jnp.bfloat16 and blocks.number > 1
    total, rows_bar = on_cpu(in_place, of_own, rows_bar) if is_bfloat16 else of_own(rows_bar)
    total = add_small_fields(total, small_bar)
    stored = Rows(None, None, None)  # type: ignore  # not None here
    for field, x_bar in rows_bar.items():
        x_bar = where_rows(rows.mask, merge_strided(carried_chunks(x_bar, tiles.rows), tiles.rows))
        x_bar = store_row_gradient(x_bar, getattr(rows, field).dtype)
        stored = stored._replace(**{field: x_bar})
    found = total, stored, where_rows(rows.mask, values)
    return [x if m else None for m, x in zip(moves, tree.flatten_up_to(found), strict=True)]


def _rounded_as(x: Array | None, like: Array | None) -> Array | None:
    return None if x is None or like is None else x.astype(like.dtype)


class _Passes(NamedTuple):
    """What the second pass knows of the rows, in the form (size, chunks, ...).

    Attributes:
        parts: The rows, their labels on this device, and what is known from the first pass.
        parts_bar: The cotangents of their sums.
        labels: What else is known of the labels.
    """

    parts: tuple[Rows, Array, Any]
    parts_bar: Any
    labels: Labels


def _block_gradients(
    tiles: Tiles,
    blocks: Blocks,
    j: Array | int,
    own: Head,
    passes: _Passes,
    own_bar: Head,
    rows_bar: dict[str, Array],
) -> tuple[Head, dict[str, Array]]:
    """Adds the gradients that come from block j, whose part of the head is `own`."""
    layer = tiles.layer
    own_small = small_fields(own, own_bar)

    def of_chunk(carry: PyTree, c: Array | int) -> Any:
        own_bar, rows_bar = carry
        (rows, ids, anchors), bar = take_chunk((passes.parts, passes.parts_bar), c)
        classes = classes_of(blocks, passes.labels._replace(ids=ids), j)
        raw = products(layer, rows, own)

        def variables(raw: Any, small: dict[str, Array]) -> Any:
            head = own._replace(**small)
            return tiles.sums_of(layer, head, raw, classes, anchors).variables()

        found, vjp_fn = jax.vjp(variables, raw, own_small)
        raw_bar, small_bar = vjp_fn(
            jax.tree.map(lambda x, like: pcast_varying(x, vma(like)), bar, found)
        )
        own_bar = add_small_fields(own_bar, small_bar)
        rows_bar = dict(rows_bar)
        for (field, of_rows), of_raw in zip(
            WEIGHTS.items(), jax.tree.leaves(raw_bar), strict=False
        ):
            x, weight = where_rows(rows.mask, getattr(rows, of_rows)), getattr(own, field)
            if (weight_bar := getattr(own_bar, field)) is not None:
                outer = outer_product(layer, x, of_raw, weight)
                own_bar = own_bar._replace(**{field: weight_bar + outer})
            if of_rows in rows_bar:
                change = times_weight(layer, of_raw, weight, x)
                total = carried_chunks(rows_bar[of_rows], tiles.rows)
                old = lax.dynamic_index_in_dim(total, c, 1, keepdims=False)
                total = lax.dynamic_update_index_in_dim(total, old + change, c, 1)
                rows_bar[of_rows] = carry_rows(total, tiles.rows)
        return own_bar, rows_bar

    return loop(of_chunk, (own_bar, rows_bar), tiles.rows.chunks)


def _put_block(layer: Layer, blocks: Blocks, j: Array | int, total: Head, own_bar: Head) -> Head:
    """Puts the gradients of block j into those of all classes, which are in parts."""
    fields = {}
    for field, part in own_bar._asdict().items():
        x = getattr(total, field)
        if part is not None:
            axis = class_axis_of(layer, field)
            fields[field] = blocks.put(x, part, axis, j) if field in CLASS_FIELDS else x + part
    return total._replace(**fields)


# The rule is the derivative of the function, in which the sums are functions of the arguments.
@_gradients.defjvp
def _gradients_jvp(
    form: Form,
    tiles: Tiles,
    moves: tuple[bool, ...],
    primals: tuple[Array, ...],
    tangents: tuple[Array, ...],
) -> tuple[list[Any], list[Any]]:
    def function(head: Head, rows: Rows, factors: Array) -> list[Any]:
        sums = form.sums_of_rows(tiles, head, rows)
        return _gradients.fun(form, tiles, moves, sums, head, rows, factors)

    return jax.jvp(function, primals[1:], tangents[1:])
