"""Losses of single responses, each marked as desirable or not."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import (
    extended,
    finite,
    nonnegative_number,
    positive,
)
from jaxloss.traits import convex, nonnegative, smooth


@loss(
    nonnegative,
    log_ratio=extended,
    kl=finite,
    beta=positive,
    desirable_weight=nonnegative_number,
    undesirable_weight=nonnegative_number,
)
def kto(
    log_ratio: Real[ArrayLike, "*batch"],
    desirable: Bool[ArrayLike, "*batch"],
    *,
    kl: Real[ArrayLike, ""],
    beta: Real[ArrayLike, ""] = 0.1,
    desirable_weight: Real[ArrayLike, ""] = 1.0,
    undesirable_weight: Real[ArrayLike, ""] = 1.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Kahneman-Tversky optimization: single responses, each desirable or not.

    When to use: feedback on single responses (thumbs up or down) rather than on pairs.

    $$\ell = \begin{cases} w_D \left(1 - \sigma(\beta (x - z_0))\right) & \text{desirable} \\
      w_U \left(1 - \sigma(\beta (z_0 - x))\right) & \text{undesirable} \end{cases}, \qquad
      z_0 = \max(0, \mathrm{sg}[\mathrm{KL}])$$

    $x$ is the log-ratio of the response to the reference, of sums over tokens. The baseline is
    passed in, since it belongs to the whole batch on all devices: the mean log-ratio of
    responses paired with the prompts of others, `jax.lax.pmean` over the mesh. It is not
    differentiated. A batch may hold no desirable, or no undesirable, response.

    Args:
        log_ratio: Log-probability under the policy less that under the reference.
        desirable: True for a desirable response.
        kl: The estimate of the divergence from the reference; below 0 it counts as 0.
        beta: The scale of the rewards.
        desirable_weight: The weight of desirable responses.
        undesirable_weight: The weight of the others.

    Returns:
        The loss of each response, from 0 to its weight.

    Example:
        >>> kto([0.0, 0.0], [True, False], kl=0.0)
        Array([0.5, 0.5], dtype=float32)

    References:
        Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic Optimization*, 2024.
    """
    baseline = numerics.relu(jax.lax.stop_gradient(kl))
    z = beta * (log_ratio - baseline)
    good, bad = desirable_weight * numerics.sigmoid(-z), undesirable_weight * numerics.sigmoid(z)
    return jnp.where(desirable, good, bad)


@loss(
    convex,
    nonnegative,
    smooth,
    chosen_ratio=extended,
    rejected_ratio=extended,
    shift=finite,
    beta=positive,
)
def bco(
    chosen_ratio: Real[ArrayLike, "*batch"],
    rejected_ratio: Real[ArrayLike, "*batch"],
    *,
    shift: Real[ArrayLike, ""] = 0.0,
    beta: Real[ArrayLike, ""] = 0.1,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Binary classifier optimization: chosen rewards above a running mean, rejected ones below.

    When to use: as DPO, with feedback that is close to a label for each response.

    $$\ell = -\log \sigma(\beta c - \delta) - \log \sigma(-(\beta r - \delta))$$

    The shift $\delta$ is a running mean of the rewards: state that is passed in.

    Args:
        chosen_ratio: Log-ratio of the preferred response to the reference, sums over tokens.
        rejected_ratio: Log-ratio of the other response.
        shift: The mean reward; not differentiated.
        beta: The scale of the rewards.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> bco([0.0], [0.0])
        Array([1.3862944], dtype=float32)

    References:
        Jung et al., *Binary Classifier Optimization for Large Language Model Alignment*, 2024.
    """
    shift = jax.lax.stop_gradient(shift)
    good, bad = beta * chosen_ratio - shift, beta * rejected_ratio - shift
    return numerics.softplus(-good) + numerics.softplus(bad)
