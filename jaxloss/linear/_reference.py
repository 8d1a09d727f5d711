"""The loss of a linear layer with all logits at once: what the others must equal."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._core.reduction import TypeOfReduction, mean, sum
from jaxloss._core.spec import ArrayLike
from jaxloss.classification import softmax_cross_entropy


def reference(
    hidden: Array,
    weight: Array,
    labels: Array,
    *,
    bias: ArrayLike = 0.0,
    transposed: bool = False,
    softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    z_loss: ArrayLike = 0.0,
    where: Array | None = None,
    weights: Array | None = None,
    reduction: TypeOfReduction = "mean",
    **options: Any,
) -> Array:
    """`linear.softmax_cross_entropy`, plainly."""
    weight = weight.T if transposed else weight
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    logits = jnp.matmul(hidden, weight, preferred_element_type=dtype) + bias
    logits = (logits if softcap is None else softcap * jnp.tanh(logits / softcap)) / temperature
    values = softmax_cross_entropy(logits, labels, **options)
    values = values + z_loss * jnp.square(numerics.logsumexp(logits))
    reduced = {"mean": mean, "sum": sum, "none": lambda values, **_: values}[reduction]
    return reduced(values, where=where, weights=weights)
