"""The Kullback-Leibler divergence of logits: distillation."""

from typing import Unpack

from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.domains import extended, positive
from jaxloss.numerics._softmax_kl import as_temperature, compare_softmaxes, exponents
from jaxloss.traits import (
    bounded_gradient,
    convex,
    nonnegative,
    shift_invariant,
    smooth,
    zero_at_match,
)


def log_softmax_at(logits: Array, temperature: Array | None) -> Array:
    """log softmax(logits / temperature); a logit of -inf does not depend on the temperature."""
    return numerics.log_softmax(exponents(logits, temperature).hi)


def kl_of_logits(logits: Array, target_logits: Array, temperature: Array | None) -> Array:
    """KL(softmax(target_logits / temperature) || softmax(logits / temperature))."""
    return compare_softmaxes(logits, target_logits, temperature).kl


@loss(
    nonnegative,
    convex,
    smooth,
    bounded_gradient,
    shift_invariant,
    zero_at_match,
    logits=extended,
    target_logits=extended,
    temperature=positive,
)
def kl_logits(
    logits: Real[ArrayLike, "*batch classes"],
    target_logits: Real[ArrayLike, "*batch classes"],
    *,
    temperature: Real[ArrayLike, ""] = 1.0,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Kullback-Leibler divergence between the softmax of two sets of logits.

    When to use: distillation of a teacher, and other soft targets that are given as logits.

    $$KL(q \| p), \qquad p = \mathrm{softmax}(x / T), \quad q = \mathrm{softmax}(z / T)$$

    No probabilities are formed, so that nearly equal logits give 1e-12 and not rounding noise. A
    higher temperature gives small probabilities more weight. The factor $T^2$ by which distillation
    compensates for the smaller gradient is not included. (rlax takes the target first.)

    Args:
        logits: Scores of the classes; -inf is a probability of 0.
        target_logits: Scores whose softmax is the target.
        temperature: The number by which both are divided.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats; inf where the target has what p rules out.

    Example:
        >>> kl_logits([0.0, 0.0], [2e-6, 0.0])
        Array(5.e-13, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
        Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015.
    """
    return kl_of_logits(logits, target_logits, as_temperature(temperature, logits))
