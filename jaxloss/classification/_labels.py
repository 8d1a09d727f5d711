"""Class weights, and losses that are functions of -log p of the label, for both forms of labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Real

from jaxloss.numerics._double_double import DD, exp_dd
from jaxloss.numerics._elementwise import multiply_no_nan
from jaxloss.numerics._softmax_dense import expected_function_of_nll
from jaxloss.numerics._softmax_nll import softmax_nll_dd

Logits = Float[Array, "*batch classes"]
Labels = Int[Array, "*batch"] | Real[Array, "*batch classes"]


def weighted_labels(labels: Logits, class_weights: Float[Array, "classes"] | None) -> Logits:
    """Distributions, each class times its weight."""
    if class_weights is None:
        return labels
    return jnp.broadcast_to(class_weights, labels.shape) * labels


def times_weight_of_label(
    values: Float[Array, "*batch"],
    labels: Int[Array, "*batch"],
    class_weights: Float[Array, "classes"] | None,
) -> Float[Array, "*batch"]:
    """One value an example, times the weight of its class; 0 where that is 0, also of inf."""
    return values if class_weights is None else multiply_no_nan(class_weights[labels], values)


def function_of_nll(
    function: Callable[..., Array],
    logits: Logits,
    labels: Labels,
    *options: Array | float,
    class_weights: Float[Array, "classes"] | None = None,
) -> Float[Array, "*batch"]:
    """function(-log p of the label, *options), or its mean if labels are distributions.

    The function is elementwise, takes a `DD` and the options, and is defined at module level.
    """
    if labels.ndim < logits.ndim:
        values = function(softmax_nll_dd(logits, labels), *options)
        return times_weight_of_label(values, labels, class_weights)
    labels = weighted_labels(labels, class_weights)
    arrays = tuple(jnp.asarray(x, logits.dtype) for x in options)
    return expected_function_of_nll(function, logits, labels, *arrays)


@jax.custom_jvp
def complement_of_nll(nll: DD) -> Array:
    """1 - p, where p = exp(-nll)."""
    return -jnp.expm1(-nll.hi)


# The low word is used by p alone. JAX computes p as 1 + expm1, which is 0 where p is small.
complement_of_nll.defjvps(lambda nll_dot, _, nll: exp_dd(-nll) * nll_dot.hi)


def nll_and_complement(nll: DD, alpha: Array | float, beta: Array | float) -> Array:
    """alpha * nll + beta * (1 - p), where p = exp(-nll)."""
    return alpha * nll.hi + beta * complement_of_nll(nll)
