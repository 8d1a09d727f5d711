"""Mixtures: a target that may come from one of several distributions."""

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.domains import extended, positive
from jaxloss.numerics._gamma import HALF_LOG_2PI
from jaxloss.traits import shift_invariant, smooth


@loss(shift_invariant, smooth, logits=extended, losses=extended)
def mixture(
    logits: Real[ArrayLike, "*batch components"],
    losses: Real[ArrayLike, "*batch components"],
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to mix distributions of any kind, when a target may come from one of several.

    $$\ell(x, \ell_1 \dots \ell_K) = -\log \sum_k \pi_k e^{-\ell_k}, \qquad
      \pi = \mathrm{softmax}(x)$$

    The second argument holds the loss of the target under each component, from any loss of this
    shelf, or from different ones. A component with a logit of -inf, or of loss inf, takes no part.
    Mixtures have many optima: what matters is that the components start apart.

    Args:
        logits: Scores of the components, before softmax.
        losses: The negative log-likelihood of the target under each component.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> from jaxloss.nll import gaussian
        >>> mixture([0.0, 0.0], gaussian([-1.0, 1.0], 1.0, variance=0.01))
        Array(-0.6904994, dtype=float32)

    References:
        McLachlan and Peel, *Finite Mixture Models*, 2000.
    """
    return -numerics.logsumexp(numerics.log_softmax(logits) - losses)


@loss(smooth, variances=positive, logits=extended)
def gaussian_mixture(
    means: Real[ArrayLike, "*batch components"],
    target: Real[ArrayLike, "*batch"],
    variances: Real[ArrayLike, "*batch components"],
    logits: Real[ArrayLike, "*batch components"],
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to predict a number that may be one of several: the mixture density network.

    $$\ell = -\log \sum_k \frac{\pi_k}{\sqrt{2 \pi v_k}}
      \exp\left(-\frac{(y - \mu_k)^2}{2 v_k}\right), \qquad \pi = \mathrm{softmax}(x)$$

    The squared error would predict the average of the alternatives, which may be none of them.
    A component that shrinks onto one target drives the loss to minus infinity: bound the
    variances from below. Other families are mixed with `mixture`.

    Args:
        means: The mean of each component.
        target: What was observed, in the same unit; without the axis of the components.
        variances: The variance of each component, above 0.
        logits: The score $x_k$ of each component, before softmax.

    Returns:
        The loss of each example, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> gaussian_mixture([-1.0, 1.0], 1.0, variances=[0.01, 0.01], logits=[0.0, 0.0])
        Array(-0.6904994, dtype=float32)

    References:
        Bishop, *Mixture Density Networks*, 1994.
    """
    error, deviation = target[..., None] - means, jnp.sqrt(variances)
    # A component so far away that the square overflows takes no part.
    none = jnp.abs(error) > math.sqrt(jnp.finfo(error.dtype).max) * deviation
    score = numerics.quotient(jnp.where(none, 0, error), jnp.where(none, 1, deviation))
    losses = 0.5 * jnp.square(score) + (0.5 * jnp.log(variances) + HALF_LOG_2PI)
    return -numerics.logsumexp(numerics.log_softmax(logits) - jnp.where(none, jnp.inf, losses))
