"""The losses of a linear layer with all logits at once: what the others must equal."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxloss import numerics
from jaxloss._core.reduction import TypeOfReduction, mean, sum
from jaxloss._core.spec import ArrayLike
from jaxloss.classification import softmax_cross_entropy
from jaxloss.linear._statistics import Statistics


def _logits(
    hidden: Array,
    weight: Array,
    bias: ArrayLike,
    transposed: bool,
    softcap: ArrayLike,
    temperature: ArrayLike,
) -> Array:
    weight = weight.T if transposed else weight
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    logits = jnp.matmul(hidden, weight, preferred_element_type=dtype) + bias
    return (logits if softcap is None else softcap * jnp.tanh(logits / softcap)) / temperature


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
    logits = _logits(hidden, weight, bias, transposed, softcap, temperature)
    values = softmax_cross_entropy(logits, labels, **options)
    values = values + z_loss * jnp.square(numerics.logsumexp(logits))
    reduced = {"mean": mean, "sum": sum, "none": lambda values, **_: values}[reduction]
    return reduced(values, where=where, weights=weights)


def statistics(
    hidden: Array,
    weight: Array,
    labels: Array,
    *,
    outputs: Sequence[str],
    top_k: int,
    bias: ArrayLike = 0.0,
    transposed: bool = False,
    softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    where: Array | None = None,
) -> Statistics:
    """`linear.statistics`, plainly."""
    logits = _logits(hidden, weight, bias, transposed, softcap, temperature)
    if where is not None:
        logits = jnp.where(where[..., None], logits, 0)
    total = numerics.logsumexp(logits)
    log_p = logits - total[..., None]
    p = jnp.exp(log_p)
    best, (top, top_ids) = jnp.argmax(logits, axis=-1), lax.top_k(log_p, top_k)
    every = {
        "log_probability": -softmax_cross_entropy(logits, labels),
        "log_normalizer": total,
        "entropy": -jnp.sum(p * log_p, axis=-1),
        "sum_of_squares": jnp.sum(jnp.square(p), axis=-1),
        "mean_logit": jnp.mean(logits, axis=-1),
        "predicted": best,
        "correct": best == labels,
    }
    found = {name: every[name] for name in outputs}
    found |= {"top_log_probabilities": top, "top_ids": top_ids}
    if where is not None:
        for name, x in found.items():
            mask = jnp.expand_dims(where, range(where.ndim, x.ndim))
            found[name] = jnp.where(mask, x, jnp.zeros((), x.dtype))
    return Statistics(**found)
