"""Class ids and the class axis of logits: comparing, taking, and the uniform distribution."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jaxloss._memory.mesh import has_typed_axes, shards
from jaxloss._xla import on_cpu, on_each
from jaxloss.numerics._reductions import sums_together


def is_label(
    x: Shaped[Array, "... classes"], labels: Int[Array, "..."]
) -> Bool[Array, "... classes"]:
    """Where along the last axis of x the label is: one-hot labels as booleans, by comparison.

    Outside the range of classes a label is nowhere.
    """
    classes = jnp.arange(x.shape[-1], dtype=labels.dtype)
    return labels[..., None] == jnp.expand_dims(classes, tuple(range(labels.ndim)))


@jax.custom_jvp
def take_label(
    x: Shaped[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Shaped[Array, "*batch"]:
    """The entry of x at the label; a gather on CPU, where the classes are not sharded.

    On GPU and TPU a gather reads from an array in memory: of half-precision logits it is a copy in
    float32. There the entry is a sum of zeros and the entry, fused with other sums over x.
    """
    if shards(x, x.ndim - 1) > 1:
        return _masked_sum(x, labels)
    return on_cpu(_gather, _masked_sum, x, labels)


def _gather(x: Array, labels: Array) -> Array:
    return jnp.take_along_axis(x, labels[..., None], axis=-1)[..., 0]


def _masked_sum(x: Array, labels: Array) -> Array:
    return jnp.sum(jnp.where(is_label(x, labels), x, 0), axis=-1, dtype=x.dtype)


@take_label.defjvp
def _take_label_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return take_label(*primals), _change_at_label(primals, tangents)


def _change_at_label(primals: Any, tangents: Any) -> Array:
    # The transpose is a choice, which fuses with what follows. That of a gather is a scatter, on
    # which `checkify` raises an IndexError (JAX 0.10: `scatter_oob` knows no batching dimensions).
    return jnp.sum(jnp.where(is_label(*primals), tangents[0], 0), axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def take_label_first(
    x: Shaped[Array, "*batch classes"], labels: Int[Array, "*batch"], half: np.dtype | None = None
) -> Shaped[Array, "*batch"]:
    """`take_label`, of an entry that is needed before the row is read for the other sums.

    On TPU it is a gather, for which the row is not read.

    Args:
        x: Numbers of classes.
        labels: Class ids.
        half: The dtype that x was converted from, if any: the gather reads what came.
    """
    if is_split(x):
        return _masked_sum(x, labels)
    return on_each(_gather, _masked_sum, _from_what_came(_gather, half), x, labels)


@take_label_first.defjvp
def _take_label_first_jvp(half: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    return take_label_first(*primals, half), _change_at_label(primals, tangents)


@functools.cache  # one object each, so that eager calls compile once
def _from_what_came(
    gather: Callable[[Array, Array], Array], half: np.dtype | None
) -> Callable[[Array, Array], Array]:
    """A gather from x in the half precision that it came in, if it did, without a float32 copy.

    The transpose, a scatter, writes no float32 array either.
    """
    if half is None:
        return gather
    return lambda x, ids: gather(x.astype(half), ids).astype(x.dtype)


# On TPU the comparisons with so many classes are one kernel, and so many in a row take less time
# than a gather and a scatter: by the compiler's schedule, for classes in lanes, 2 cycles for 1024.
_MOST_COMPARED, _MOST_COMPARISONS = 64, 1 << 19


def _are_compared(x: Array, ids: Array) -> bool:
    classes, k = x.shape[-1], ids.shape[-1]
    if not (isinstance(classes, int) and isinstance(k, int)):
        return False
    return k <= _MOST_COMPARED and k * classes <= _MOST_COMPARISONS


def is_split(x: Array) -> bool:
    """Whether the type of x splits it: there JAX refuses a gather, and a scatter of a batch."""
    return any(shards(x, axis) > 1 for axis in range(x.ndim))


def _where_each(x: Array, ids: Array) -> list[Array]:
    return [is_label(x, ids[..., i]) for i in range(ids.shape[-1])]


def _gather_each(x: Array, ids: Array) -> Array:
    return jnp.take_along_axis(x, ids, axis=-1)


def _sum_each(x: Array, ids: Array) -> Array:
    chosen = (jnp.where(at, x, 0) for at in _where_each(x, ids))
    return jnp.stack([jnp.sum(part, axis=-1) for part in chosen], axis=-1)


def _sum_together(x: Array, ids: Array) -> Array:
    chosen = tuple(jnp.where(at, x, 0) for at in _where_each(x, ids))
    return jnp.stack(sums_together(chosen), axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def take_labels(
    x: Shaped[Array, "*batch classes"],
    ids: Int[Array, "*batch k"],
    half: np.dtype | None = None,
) -> Shaped[Array, "*batch k"]:
    """The entries of x at several classes; on TPU, if these are few, sums of zeros and the entry.

    On TPU a gather takes 15 instructions an entry, and its transpose, a scatter, sorts all ids and
    writes the gradient in other layouts. Comparisons with each class are fused with what reads x
    (`benchmarks/accelerators.py`).

    Args:
        x: Numbers of classes.
        ids: Class ids.
        half: The dtype that x was converted from, if the gradient is rounded to it, and if these
            entries have no other part in it.
    """
    if is_split(x):
        return _sum_each(x, ids)
    on_tpu = _from_what_came(_gather_each, half)
    if _are_compared(x, ids):
        on_tpu = _sum_each if has_typed_axes(x, ids) else _sum_together
    return on_each(_gather_each, _gather_each, on_tpu, x, ids)


# A full rule: it reduces over the classes. The transpose of the sums is a choice for each class.
@take_labels.defjvp
def _take_labels_jvp(half: np.dtype | None, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, ids), (x_dot, _) = primals, tangents
    if is_split(x):
        change = _sum_each(x_dot, ids)
    else:
        of_half = _from_what_came(_gather_each, half)
        on_tpu = _sum_each if _are_compared(x, ids) else of_half
        change = on_each(_gather_each, of_half, on_tpu, x_dot, ids)
    return take_labels(x, ids, half), change


def is_any_label(
    x: Shaped[Array, "*batch classes"], ids: Int[Array, "*batch k"]
) -> Bool[Array, "*batch classes"]:
    """Where along the last axis of x any of the classes is; outside the range they are nowhere."""
    if is_split(x):
        return _compare_each(x, ids)
    if not _are_compared(x, ids):
        return _mark_each(x, ids)
    return on_each(_mark_each, _mark_each, _compare_each, x, ids)


def _mark_each(x: Array, ids: Array) -> Array:
    # By `vmap`: `jnp.put_along_axis` takes no symbolic batch, and gathers that of a mesh.
    mark = _mark
    for _ in range(x.ndim - 1):
        mark = jax.vmap(mark)
    return mark(jnp.zeros(x.shape, bool), ids)


def _mark(marks: Array, ids: Array) -> Array:
    return marks.at[ids].set(True, mode="drop")


def _compare_each(x: Array, ids: Array) -> Array:
    return functools.reduce(operator.or_, _where_each(x, ids))


def uniform_over_finite(
    logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch classes"]:
    """The uniform distribution over the classes that a logit of -inf does not exclude."""
    possible = logits > -jnp.inf
    count = jnp.sum(possible, axis=-1, keepdims=True, dtype=jnp.int32)
    return possible.astype(logits.dtype) / jnp.maximum(count, 1).astype(logits.dtype)


def is_static_zero(option: Any) -> bool:
    """Whether an option is the Python number 0, known before tracing."""
    return isinstance(option, int | float) and option == 0
