"""Class ids and the class axis of logits: comparing, taking, and the uniform distribution."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jaxloss._memory.mesh import shards
from jaxloss._xla import on_cpu


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
    # The transpose is a choice, which fuses with what follows. That of a gather is a scatter, on
    # which `checkify` raises an IndexError (JAX 0.10: `scatter_oob` knows no batching dimensions).
    x, labels = primals
    chosen = jnp.where(is_label(x, labels), tangents[0], 0)
    return take_label(x, labels), jnp.sum(chosen, axis=-1)


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
