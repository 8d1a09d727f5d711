"""Losses and gradients of a chunk of rows, with all classes at once or a block after the other."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._memory.layout import zeros_like
from jaxloss._memory.mesh import pcast_varying, vma
from jaxloss.linear._online_softmax import (
    Labels,
    Layer,
    Shared,
    Sums,
    across,
    classes,
    dot,
    labels_of,
    merged,
    of_products,
    outcome,
    product,
    scores,
    sums_of,
)


def losses(layer: Layer, shared: Shared, hidden: Array, ids: Array) -> tuple[Array, Any]:
    """The loss of each row, and the metrics that are wanted."""
    if layer.keep:
        return of_products(layer, product(layer, hidden, shared["weight"]), shared, ids)
    labels = labels_of(layer, classes(layer, shared["weight"]), shared, ids)
    return outcome(layer, _in_blocks(layer, shared, hidden, labels), labels, shared)


def slopes(
    layer: Layer, shared: Shared, hidden: Array, ids: Array, factors: Array, sums: Shared
) -> tuple[Array, Any, Shared, Array]:
    """The loss of each row, and the gradients of their weighted sum.

    Args:
        layer: What is static.
        shared: What all rows share.
        hidden: `(rows, dim)`.
        ids: The label of each row.
        factors: The weight of each row.
        sums: The gradients that are wanted of `shared`, as far as they were added up before.

    Returns:
        The losses, the metrics, the gradients of `shared` added up, and those of `hidden`.
    """
    of_chunk = _with_all_classes if layer.keep else _with_blocks
    return of_chunk(layer, shared, hidden, ids, factors, sums)


def _with_all_classes(
    layer: Layer, shared: Shared, hidden: Array, ids: Array, factors: Array, sums: Shared
) -> Any:
    moving = {name: shared[name] for name in sums if name != "weight"}
    raw = product(layer, hidden, shared["weight"])
    values, pull, aux = jax.vjp(
        lambda raw, moving: of_products(layer, raw, shared | moving, ids), raw, moving, has_aux=True
    )
    to_raw, parts = pull(factors)
    to_raw = to_raw.astype(hidden.dtype)
    sums = {n: x if n == "weight" else x + parts[n].astype(x.dtype) for n, x in sums.items()}
    if "weight" in sums:
        if layer.block is None:
            sums["weight"] += _outer(layer, hidden, to_raw, shared["weight"])
        else:
            sums["weight"] = _add_outer_in_blocks(layer, sums["weight"], hidden, to_raw)
    return values, aux, sums, _to_hidden(layer, to_raw, shared["weight"], hidden)


def _to_hidden(layer: Layer, to_raw: Array, weight: Array, hidden: Array) -> Array:
    return dot(to_raw, weight, (1, 0 if layer.transposed else 1), hidden)


def _outer(layer: Layer, hidden: Array, to_raw: Array, like: Array | None = None) -> Array:
    """The gradient of the weight."""
    left, right = (to_raw, hidden) if layer.transposed else (hidden, to_raw)
    return dot(left, right, (0, 0), like)


def _outer_of_flipped(layer: Layer, flipped: Array, to_raw: Array) -> Array:
    """The same from hidden states that were transposed outside of the loop.

    XLA on CPU has its fast product of bfloat16 for this form alone, and would copy the hidden
    states in every turn.
    """
    out = dot(flipped, to_raw, (1, 0))
    return out.T if layer.transposed else out


def _add_outer_in_blocks(layer: Layer, total: Array, hidden: Array, to_raw: Array) -> Array:
    """Adds the gradient of the weight a block at a time: no second array of its size exists."""
    size, (block, number) = to_raw.shape[1], _blocks(layer, to_raw.shape[1])
    axis, flipped = 0 if layer.transposed else 1, hidden.T

    def step(total: Array, j: Any) -> Any:
        start = jnp.minimum(j * block, size - block)
        part = lax.dynamic_slice_in_dim(to_raw, start, block, 1)
        if size % block:
            part = jnp.where(start + jnp.arange(block) >= j * block, part, 0)
        old = lax.dynamic_slice_in_dim(total, start, block, axis)
        new = old + _outer_of_flipped(layer, flipped, part)
        return lax.dynamic_update_slice_in_dim(total, new, start, axis), None

    return lax.scan(step, total, jnp.arange(number))[0]


def _blocks(layer: Layer, size: int) -> tuple[int, int]:
    """The size of a block and their number; the last may overlap the one before it."""
    block = min(layer.block or size, size)
    return block, -(-size // block)


_CLASS_AXES = {"bias": 0, "class_weights": 0}


def _class_axis(layer: Layer, name: str) -> int | None:
    return int(not layer.transposed) if name == "weight" else _CLASS_AXES.get(name)


def _take(layer: Layer, shared: Shared, j: Any) -> tuple[Shared, Array, Array | None]:
    """Block j of what has classes, the place of the block, and which classes are new in it."""
    size = classes(layer, shared["weight"])
    block, _ = _blocks(layer, size)
    start = jnp.minimum(j * block, size - block)
    taken = {}
    for name, x in shared.items():
        axis = _class_axis(layer, name)
        taken[name] = x if axis is None else lax.dynamic_slice_in_dim(x, start, block, axis)
    new = None if size % block == 0 else start + jnp.arange(block) >= j * block
    return taken, start, new


def _add(layer: Layer, sums: Shared, parts: Shared, start: Any) -> Shared:
    """Adds the gradients of a block to those of all classes."""
    out = dict(sums)
    for name, part in parts.items():
        axis, total = _class_axis(layer, name), sums[name]
        if axis is None:
            out[name] = total + part.astype(total.dtype)
        else:
            old = lax.dynamic_slice_in_dim(total, start, part.shape[axis], axis)
            update = old + part.astype(total.dtype)
            out[name] = lax.dynamic_update_slice_in_dim(total, update, start, axis)
    return out


def _sums_of_block(
    layer: Layer, raw: Array, taken: Shared, labels: Labels, start: Any, new: Any, top: Any = None
) -> Sums:
    x = scores(raw, taken)
    if new is not None:
        x = jnp.where(new, x, -jnp.inf)
    place = labels.ids - labels.first - start
    return sums_of(layer, x, place, labels.first + start, taken.get("class_weights"), top, new)


def _in_blocks(layer: Layer, shared: Shared, hidden: Array, labels: Labels) -> Sums:
    """The numbers of the whole vocabulary, of which one block at a time exists."""

    def of_block(j: Any) -> Sums:
        taken, start, new = _take(layer, shared, j)
        raw = product(layer, hidden, taken["weight"])
        return _sums_of_block(layer, raw, taken, labels, start, new)

    _, number = _blocks(layer, classes(layer, shared["weight"]))
    rest = jnp.arange(1, number)
    sums, _ = lax.scan(lambda sums, j: (merged(sums, of_block(j)), None), of_block(0), rest)
    return sums if layer.axis_name is None else across(sums, layer.axis_name)


def _with_blocks(
    layer: Layer, shared: Shared, hidden: Array, ids: Array, factors: Array, sums: Shared
) -> Any:
    """Two passes over the vocabulary: the numbers of each row, then each logit's gradient."""
    size = classes(layer, shared["weight"])
    labels = labels_of(layer, size, shared, ids)
    known = _in_blocks(layer, shared, hidden, labels)
    moving = {name: shared[name] for name in sums if name != "weight"}
    linear = ("rest", "label", "gaps", "weight")

    def final(numbers: Any, moving: Shared) -> Any:
        every = shared | moving
        return outcome(layer, known._replace(**numbers), labels_of(layer, size, every, ids), every)

    numbers = {name: getattr(known, name) for name in linear if getattr(known, name) is not None}
    values, pull, aux = jax.vjp(final, numbers, moving, has_aux=True)
    to_numbers, parts = pull(factors)
    sums = {n: x if n == "weight" else x + parts[n].astype(x.dtype) for n, x in sums.items()}
    _, number = _blocks(layer, size)
    flipped = hidden.T

    def step(carry: Any, j: Any) -> Any:
        sums, to_hidden = carry
        taken, start, new = _take(layer, shared, j)
        raw = product(layer, hidden, taken["weight"])
        local = {name: taken[name] for name in moving}

        def of_block(raw: Array, local: Shared) -> Any:
            every = taken | local
            found = _sums_of_block(layer, raw, every, labels, start, new, known.top)
            return {name: getattr(found, name) for name in numbers}

        found, pull = jax.vjp(of_block, raw, local)
        cotangents = {n: pcast_varying(to_numbers[n], vma(found[n])) for n in numbers}
        to_raw, parts = pull(cotangents)
        to_raw = to_raw.astype(hidden.dtype)
        if "weight" in sums:
            # One turn is no loop: XLA would fold the transpose into a product that it lacks.
            parts["weight"] = (
                _outer(layer, hidden, to_raw)
                if number == 1
                else _outer_of_flipped(layer, flipped, to_raw)
            )
        change = _to_hidden(layer, to_raw, taken["weight"], hidden)
        return (_add(layer, sums, parts, start), to_hidden + change), None

    start = sums, zeros_like(hidden, known.rest.dtype)
    (sums, to_hidden), _ = lax.scan(step, start, jnp.arange(number))
    return values, aux, sums, to_hidden
