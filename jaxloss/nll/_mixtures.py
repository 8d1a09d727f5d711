"""Mixtures of distributions."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss._core.typing import Arrays
from jaxloss.domains import extended, positive
from jaxloss.numerics._gamma import HALF_LOG_2PI
from jaxloss.numerics._softmax import exp_and_rest, finite_below
from jaxloss.traits import shift_invariant, smooth


def _value_and_slopes(logits: Array, losses: Array) -> tuple[Array, Array, Array]:
    """-log of the sum of p exp(-loss), and its derivatives by the logits and by the losses."""
    top, exps, rest = exp_and_rest(logits, -1)
    below = finite_below(logits, top)
    scores = jnp.where(logits == -jnp.inf, -jnp.inf, below) - losses
    top_score, of_scores, rest_of_scores = exp_and_rest(scores, -1)
    p, posterior = exps / (1 + rest), of_scores / (1 + rest_of_scores)
    change = jnp.log1p(rest) - jnp.log1p(rest_of_scores)
    # The logarithm of posterior / p, for the digits of their difference.
    log_ratio = finite_below(scores, top_score) - below + change
    near = jnp.abs(log_ratio) < 1
    difference = -p * jnp.expm1(jnp.where(near, log_ratio, 0))
    by_logits = jnp.where(near, difference, p - posterior)
    return (change - top_score)[..., 0], by_logits, posterior


@jax.custom_jvp
def _nll_of_mixture(logits: Array, losses: Array) -> Array:
    return _value_and_slopes(logits, losses)[0]


# A full rule: it reduces over the components.
@_nll_of_mixture.defjvp
def _nll_of_mixture_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    value, by_logits, by_losses = _value_and_slopes(*primals)
    return value, jnp.sum(by_logits * tangents[0] + by_losses * tangents[1], axis=-1)


@loss(shift_invariant, smooth, logits=extended, losses=extended._replace(masked=math.inf))
def mixture(
    logits: Real[ArrayLike, "*batch components"],
    losses: Real[ArrayLike, "*batch components"],
    *,
    mask: Bool[ArrayLike, "*batch components"] | Bool[ArrayLike, "components"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Negative log-likelihood of a mixture of distributions, from those of its components.

    When to use: a target that may come from one of several distributions, of any kind.

    $$\ell(x, \ell_1 \dots \ell_K) = -\log \sum_k \pi_k e^{-\ell_k}, \qquad
      \pi = \mathrm{softmax}(x)$$

    The second argument holds the loss of the target under each component, from any loss of this
    module, or from several. A component with logit -inf or loss inf is ignored. Mixtures have many
    local optima: initialize the components apart.

    Args:
        logits: The unnormalized log-weight of each component.
        losses: The negative log-likelihood of the target under each component.
        mask: False leaves a component out of an example, or of all examples.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> from jaxloss.nll import gaussian
        >>> mixture([0.0, 0.0], gaussian([-1.0, 1.0], 1.0, variance=0.01))
        Array(-0.6904994, dtype=float32)

    References:
        McLachlan and Peel, *Finite Mixture Models*, 2000.
    """
    return _nll_of_mixture(logits, losses)


@loss(smooth, variances=positive, logits=extended)
def gaussian_mixture(
    means: Real[ArrayLike, "*batch components"],
    target: Real[ArrayLike, "*batch"],
    variances: Real[ArrayLike, "*batch components"],
    logits: Real[ArrayLike, "*batch components"],
    *,
    mask: Bool[ArrayLike, "*batch components"] | Bool[ArrayLike, "components"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Negative log-likelihood of a mixture of Gaussians: the loss of a mixture density network.

    When to use: regression where the target may be one of several values. The squared error would
    predict their average.

    $$\ell = -\log \sum_k \frac{\pi_k}{\sqrt{2 \pi v_k}}
      \exp\left(-\frac{(y - \mu_k)^2}{2 v_k}\right), \qquad \pi = \mathrm{softmax}(x)$$

    If the variance of a component tends to 0 at one of the targets, the loss tends to -inf: bound
    the variances from below. `mixture` mixes other distributions.

    Args:
        means: The mean of each component.
        target: The observed value, in the same unit; without the axis of the components.
        variances: The variance of each component, above 0.
        logits: The unnormalized log-weight $x_k$ of each component.
        mask: False leaves a component out of an example, or of all examples.

    Returns:
        The loss of each example, in nats.

    Example:
        >>> gaussian_mixture([-1.0, 1.0], 1.0, variances=[0.01, 0.01], logits=[0.0, 0.0])
        Array(-0.6904994, dtype=float32)

    References:
        Bishop, *Mixture Density Networks*, 1994.
    """
    error, deviation = target[..., None] - means, jnp.sqrt(variances)
    # A component whose squared distance overflows is ignored.
    none = jnp.abs(error) > math.sqrt(jnp.finfo(error.dtype).max) * deviation
    score = numerics.quotient(jnp.where(none, 0, error), jnp.where(none, 1, deviation))
    losses = 0.5 * jnp.square(score) + (0.5 * jnp.log(variances) + HALF_LOG_2PI)
    return _nll_of_mixture(logits, jnp.where(none, jnp.inf, losses))
