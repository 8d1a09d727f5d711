"""Losses that a critic gives to the policy: its entropy, and weights of its actions."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import extended, finite, positive
from jaxloss.numerics._elementwise import linear_argument


@loss(log_temperature=finite, log_prob=extended, target_entropy=finite)
def temperature(
    log_temperature: Real[ArrayLike, "*batch"],
    log_prob: Real[ArrayLike, "*batch"],
    *,
    target_entropy: Real[ArrayLike, ""],
    linear: bool = False,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Temperature loss of soft actor-critic: raises the entropy bonus while entropy is too low.

    When to use: SAC and its kin, to learn the weight of the entropy bonus.

    $$\ell = -\alpha\, \mathrm{sg}[\log \pi + \bar H], \qquad \alpha = e^{\log \alpha}$$

    `sg` stops the gradient. brax and the paper multiply by $\alpha$, others by $\log \alpha$
    (`linear=True`); both have the same fixed point. Common targets are minus the number of action
    dimensions, and in brax half of that.

    Args:
        log_temperature: The logarithm of the temperature; one number for all actions is fine.
        log_prob: Log-probability, or log-density, of the sampled action; not differentiated.
        target_entropy: The entropy wanted, in nats.
        linear: Whether to multiply by the logarithm of the temperature instead.

    Returns:
        The loss of each action.

    Example:
        >>> temperature(0.0, [-1.0, 3.0], target_entropy=-2.0)
        Array([ 3., -1.], dtype=float32)

    References:
        Haarnoja et al., *Soft Actor-Critic Algorithms and Applications*, 2018.
    """
    excess = jax.lax.stop_gradient(log_prob + target_entropy)
    return -(linear_argument(log_temperature) if linear else jnp.exp(log_temperature)) * excess


@loss(log_prob=extended, advantage=finite, temperature=positive, max_weight=positive)
def exponential_advantage(
    log_prob: Real[ArrayLike, "*batch"],
    advantage: Real[ArrayLike, "*batch"],
    *,
    temperature: Real[ArrayLike, ""] = 1.0,
    max_weight: Real[ArrayLike, ""] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Advantage-weighted regression: log-likelihood of actions, weighted by exp(advantage).

    When to use: offline reinforcement learning (AWR, CRR, IQL), where the policy must stay on the
    actions of the data.

    $$\ell = -\min\left(e^{A / \beta}, w_\text{max}\right) \log \pi$$

    The weight is a constant of the gradient, and is bounded before it is exponentiated.

    Args:
        log_prob: Log-probability of the action of the data under the policy that is trained.
        advantage: How much better the action was than expected; not differentiated.
        temperature: How sharply the weights prefer good actions.
        max_weight: The largest weight, 20 in AWR, 100 in IQL; None for no bound.

    Returns:
        The loss of each action.

    Example:
        >>> exponential_advantage([-1.0, -1.0], [0.0, 1000.0], max_weight=20.0)
        Array([ 1., 20.], dtype=float32)

    References:
        Peng et al., *Advantage-Weighted Regression*, 2019.
        Kostrikov et al., *Offline Reinforcement Learning with Implicit Q-Learning*, 2022.
    """
    exponent, log_prob = jax.lax.stop_gradient(advantage / temperature), linear_argument(log_prob)
    if max_weight is None:
        return -jnp.exp(exponent) * log_prob
    largest = jax.lax.stop_gradient(jnp.asarray(max_weight, exponent.dtype))
    clipped = exponent >= jnp.log(largest)
    weight = jnp.where(clipped, largest, jnp.exp(jnp.where(clipped, 0, exponent)))
    return -weight * log_prob
