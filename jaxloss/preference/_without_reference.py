"""Losses of pairs of responses that need no reference policy."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import (
    extended,
    finite,
    log_probability,
    nonnegative_number,
    positive,
    unit_interval,
)
from jaxloss.preference._logistic import smoothed_nll
from jaxloss.traits import convex, nonnegative, smooth


@loss(convex, nonnegative, smooth, chosen=extended, rejected=extended, beta=positive, gamma=finite)
def simpo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 2.0,
    gamma: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Simple preference optimization: logistic loss of length-normalized rewards, no reference.

    When to use: as DPO, where no reference model should be held in memory.

    $$\ell = -\log \sigma\left(\beta (\bar c - \bar r) - \gamma\right)$$

    $\bar c$ and $\bar r$ are mean log-probabilities of the tokens
    (`sequence_log_probability(..., average=True)`).

    Args:
        chosen: Mean log-probability of the tokens of the preferred response.
        rejected: Mean log-probability of the tokens of the other response.
        beta: The scale of the rewards.
        gamma: The margin between the rewards.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> simpo([-1.0], [-1.5])
        Array([0.6931472], dtype=float32)

    References:
        Meng et al., *SimPO: Simple Preference Optimization with a Reference-Free Reward*, 2024.
    """
    return numerics.softplus(gamma - beta * (chosen - rejected))


@loss(
    convex,
    nonnegative,
    smooth,
    chosen=extended,
    rejected=extended,
    beta=positive,
    label_smoothing=unit_interval,
)
def cpo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    *,
    beta: Real[ArrayLike, ""] = 0.1,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Contrastive preference optimization: DPO with a uniform reference.

    When to use: as DPO without a reference model; add the cross-entropy of the chosen response.

    $$\ell = -(1 - \epsilon) \log \sigma(z) - \epsilon \log \sigma(-z), \qquad
      z = \beta (\log \pi_c - \log \pi_r)$$

    Log-probabilities are sums over tokens.

    Args:
        chosen: Log-probability of the preferred response.
        rejected: Log-probability of the other response.
        beta: The scale of the rewards.
        label_smoothing: The share of pairs in the wrong order.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> cpo([-1.0], [-1.0])
        Array([0.6931472], dtype=float32)

    References:
        Xu et al., *Contrastive Preference Optimization*, 2024.
    """
    return smoothed_nll(beta * (chosen - rejected), label_smoothing)


def _log1p_odds_ratio(
    rejected: Float[Array, "*batch"], chosen: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """log(1 + odds(rejected) / odds(chosen)) of log-probabilities."""
    # Near certainty the odds of the chosen one are infinite, and their inverse is 0 with a finite
    # derivative, which a difference of logarithms does not have.
    near = chosen > -1
    certain = (chosen == 0) & (rejected == 0)  # both: their odds count as equal
    is_near = near & ~certain
    c, r = jnp.where(is_near, chosen, -1), jnp.where(is_near, rejected, -1)
    # Not -expm1, which is -0 at 0: the odds are inf there, not -inf.
    odds = numerics.quotient(jnp.exp(r - c) * jnp.abs(jnp.expm1(c)), jnp.abs(jnp.expm1(r)))
    c, r = jnp.where(near, -1, chosen), jnp.where(near, -1, rejected)
    log_odds = (r - c) - (numerics.log1mexp(r) - numerics.log1mexp(c))
    return jnp.where(near, jnp.log1p(odds), numerics.softplus(log_odds))


@loss(
    nonnegative,
    chosen=log_probability,
    rejected=log_probability,
    weight=nonnegative_number,
)
def orpo(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    *,
    weight: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Odds-ratio preference optimization: likelihood of the chosen response plus a log-odds term.

    When to use: fine-tuning on preferred responses and preferences in one stage, no reference.

    $$\ell = -\bar c + w \log\left(1 + \frac{\mathrm{odds}(\bar r)}{\mathrm{odds}(\bar c)}\right),
      \qquad \mathrm{odds}(x) = \frac{e^x}{1 - e^x}$$

    $\bar c$ and $\bar r$ are mean log-probabilities of the tokens, as in TRL; tunix takes sums by
    default. Nothing is clamped: a chosen response of probability 1 has loss 0 and a finite
    gradient (others clamp at -1e-7 or give NaN); a rejected one of probability 1 costs inf.

    Args:
        chosen: Mean log-probability of the tokens of the preferred response, at most 0.
        rejected: Mean log-probability of the tokens of the other response, at most 0.
        weight: The weight of the odds-ratio term; 0 leaves the likelihood alone.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> orpo([0.0, -1.0], [-2.0, -1.0], weight=1.0)
        Array([0.       , 1.6931472], dtype=float32)

    References:
        Hong et al., *ORPO: Monolithic Preference Optimization without Reference Model*, 2024.
    """
    return -chosen + weight * _log1p_odds_ratio(rejected, chosen)
