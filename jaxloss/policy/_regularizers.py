"""What is added to a policy loss: estimates of a Kullback-Leibler divergence, the entropy."""

from typing import Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss._core.typing import Arrays
from jaxloss.domains import extended
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.numerics._online_sums import top_rest_and_gap
from jaxloss.numerics._reductions import in_one_reduction
from jaxloss.numerics._softmax import exp_and_rest, exp_below, finite_below
from jaxloss.traits import nonnegative, shift_invariant


@loss(log_prob=extended, reference_log_prob=extended)
def kl_estimate(
    log_prob: Real[ArrayLike, "*batch"],
    reference_log_prob: Real[ArrayLike, "*batch"],
    *,
    order: Literal[1, 2, 3] = 3,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Estimates of the KL divergence from a reference policy, from one sample: k1, k2, k3.

    When to use: a penalty that keeps a policy close to a reference (k3 in GRPO), or a monitor of
    how far it has moved.

    $$k_1 = -r, \qquad k_2 = \tfrac12 r^2, \qquad k_3 = e^r - 1 - r, \qquad
      r = \log \pi_\text{ref} - \log \pi$$

    k1 and k3 are unbiased, k2 and k3 never negative. As a loss k1 is useless: the mean of its
    gradient is 0. The gradient of k2 is, on average, that of the divergence. k3 is computed
    without cancellation: $e^r - 1 - r$ as written is exactly 0 in float32 for $r = 10^{-4}$, so
    that the divergence of a policy that has barely moved is reported as 0.

    Args:
        log_prob: Log-probability of the sampled action under the policy that is trained.
        reference_log_prob: Log-probability under the reference policy.
        order: 1, 2 or 3: which estimate.

    Returns:
        The estimate from each sample, in nats.

    Example:
        >>> kl_estimate([0.0, -1.0], [1e-4, -1.0])
        Array([5.0001665e-09, 0.0000000e+00], dtype=float32)

    References:
        Schulman, *Approximating KL Divergence*, 2020.
    """
    log_ratio = reference_log_prob - log_prob
    if order == 1:
        return linear_argument(-log_ratio)
    return 0.5 * jnp.square(log_ratio) if order == 2 else numerics.expm1_minus_x(log_ratio)


def _sums_by_passes(logits: Array) -> tuple[Array, Array, Array, Array]:
    """The largest logit, exp(logits - top), its sum less 1, that of it times (top - logits)."""
    top, exps, rest = exp_and_rest(logits, -1)
    gap = jnp.sum(exps * -finite_below(logits, top), axis=-1, keepdims=True)
    return top, exps, rest, gap


def _sums_online(logits: Array) -> tuple[Array, Array, Array, Array]:
    top, rest, gap = (each[..., None] for each in top_rest_and_gap(logits))
    return top, exp_below(logits, top), rest, gap


def _entropy_and_slopes(logits: Array) -> tuple[Array, Array]:
    """The entropy of each row, and its derivatives by the logits."""
    top, exps, rest, gap = in_one_reduction(_sums_by_passes, _sums_online, logits)
    below, mean = finite_below(logits, top), -gap / (1 + rest)
    # Near the uniform distribution log p plus the entropy would cancel.
    return (jnp.log1p(rest) - mean)[..., 0], exps / (1 + rest) * (mean - below)


@jax.custom_jvp
def _entropy(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    return _entropy_and_slopes(logits)[0]


# A full rule: it reduces over the classes.
@_entropy.defjvp
def _entropy_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    value, slopes = _entropy_and_slopes(*primals)
    return value, jnp.sum(slopes * tangents[0], axis=-1)


@loss(nonnegative, shift_invariant, logits=extended)
def entropy(
    logits: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Entropy of a categorical policy; subtract it from a loss to encourage exploration.

    When to use: a bonus against early collapse of a policy, with a weight of about 0.01.

    $$H = -\sum_k p_k \log p_k, \qquad p = \mathrm{softmax}(x)$$

    A class of logit -inf contributes nothing.

    Args:
        logits: Scores of the actions; -inf makes an action impossible.
        mask: False leaves an action out of an example, or of all examples.

    Returns:
        The entropy of each example in nats, from 0 to the logarithm of the number of classes.

    Example:
        >>> entropy([[0.0, 0.0], [0.0, -jnp.inf]])
        Array([0.6931472, 0.       ], dtype=float32)

    References:
        Williams and Peng, *Function Optimization Using Connectionist Reinforcement Learning
        Algorithms*, 1991.
    """
    return _entropy(logits)
