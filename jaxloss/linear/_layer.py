"""The layer, the arrays that all rows share, and what is known of the labels before any logit."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from jaxloss._core.typing import AxisName


class Layer(NamedTuple):
    """The static part of a linear layer and its loss.

    Attributes:
        transposed: Whether the weight is `(vocabulary, dim)`.
        axis_name: The mesh axis over which the vocabulary is split, inside `shard_map`.
        metrics: Whether the predicted class is wanted.
        to_half: Whether the cotangent of the logits goes into products in half precision alone.
    """

    transposed: bool = False
    axis_name: AxisName | None = None
    metrics: bool = False
    to_half: bool = False

    @property
    def class_axis(self) -> int:
        """The axis of the weight that has the classes."""
        return 0 if self.transposed else 1

    def num_classes(self, weight: Any) -> int:
        """The number of classes on this device."""
        return weight.shape[self.class_axis]


class Head(NamedTuple):
    """The arrays that all rows share; None for what is not used. As a pytree it has no None.

    Attributes:
        weight: `(dim, vocabulary)`, or `(vocabulary, dim)`.
        bias: `(vocabulary,)`.
        class_weights: `(vocabulary,)`.
        label_smoothing: A scalar.
        softcap: A scalar.
        z_loss: A scalar.
        temperature: A scalar.
        target_weight: `(target_dim, vocabulary)`, of the second layer of a divergence.
        target_bias: `(vocabulary,)`.
        beta: A scalar, the share of the second layer in a mixture.
    """

    weight: Array
    bias: Array | None = None
    class_weights: Array | None = None
    label_smoothing: Array | None = None
    softcap: Array | None = None
    z_loss: Array | None = None
    temperature: Array | None = None
    target_weight: Array | None = None
    target_bias: Array | None = None
    beta: Array | None = None


class Labels(NamedTuple):
    """What is known of the labels before any logit.

    Attributes:
        ids: The class of each row among those of this device; -1 if it has another.
        first: The id of the first class of this device.
        valid: Whether the id names a class.
        weight: The weight of that class, or None.
    """

    ids: Int[Array, " rows"]
    first: int | Int[Array, ""]
    valid: Bool[Array, " rows"]
    weight: Float[Array, " rows"] | None


def labels_of(layer: Layer, head: Head, ids: Array) -> Labels:
    """The labels, from ids among the classes of all devices: compared, and then narrowed."""
    size = layer.num_classes(head.weight)
    first, total = 0, size
    if layer.axis_name is not None:
        first = lax.axis_index(layer.axis_name).astype(jnp.int32) * size
        total = size * lax.axis_size(layer.axis_name)
    local = (ids >= first) & (ids < first + size)
    ids_here = jnp.where(local, ids - first, -1).astype(jnp.int32)
    weight = None
    if head.class_weights is not None:
        weight = jnp.where(local, head.class_weights[jnp.where(local, ids_here, 0)], 0)
        weight = weight if layer.axis_name is None else lax.psum(weight, layer.axis_name)
    return Labels(ids_here, first, (ids >= 0) & (ids < total), weight)
