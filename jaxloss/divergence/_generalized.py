"""Kullback-Leibler for what is no distribution over classes: amounts, decisions, numbers."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import extended, nonnegative_number, unit_interval
from jaxloss.numerics._kl_terms import gaps_of_log
from jaxloss.numerics._log_ratios import kl_div_of_change
from jaxloss.numerics._reductions import row_sum
from jaxloss.numerics._special import expm1_minus_x
from jaxloss.traits import convex, nonnegative, smooth, zero_at_match


@loss(
    convex,
    nonnegative,
    smooth,
    log_prediction=extended,
    target=nonnegative_number,
)
def generalized_kl(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Generalized Kullback-Leibler divergence of amounts that need not sum to 1.

    When to use: spectra, counts and histograms (nonnegative matrix factorization).

    $$D(q, p) = \sum_k \left( q_k \log \frac{q_k}{p_k} - q_k + p_k \right)$$

    If both sum to 1 it is `kl`; otherwise the difference of the sums is added, so that it is 0 only
    at a match. No term is negative. It is half the deviance of Poisson regression.

    Args:
        log_prediction: Logarithms of the predicted amounts.
        target: Target amounts, at least 0.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example; inf where the target has what p rules out.

    Example:
        >>> generalized_kl([0.0, 0.0], [1.0, 0.0])
        Array(1., dtype=float32)

    References:
        Csiszár, *Why Least Squares and Maximum Entropy?*, 1991.
    """
    return row_sum(gaps_of_log(log_prediction, target))


@loss(nonnegative, convex, zero_at_match, prediction=unit_interval, target=unit_interval)
def bernoulli_kl(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Kullback-Leibler divergence between two Bernoulli distributions.

    When to use: one probability fitted to another: sparse activations, calibrated rates.

    $$KL(q \| p) = q \log \frac qp + (1 - q) \log \frac{1 - q}{1 - p}$$

    It is elementwise, one decision an entry. With logits, `classification.sigmoid_cross_entropy`
    has the same gradient with respect to the prediction.

    Args:
        prediction: Predicted probabilities of yes.
        target: Target probabilities of yes.

    Returns:
        The divergence of each decision in nats; inf if p is sure and wrong.

    Example:
        >>> bernoulli_kl([0.5, 0.5, 1.0], [0.0, 0.5, 0.5])
        Array([0.6931472, 0.       ,       inf], dtype=float32)

    References:
        Ng, *Sparse Autoencoder*, 2011.
    """
    change = prediction - target
    return kl_div_of_change(target, prediction, change) + kl_div_of_change(
        1 - target, 1 - prediction, -change
    )


@loss(nonnegative, convex, smooth)
def gaussian_kl(
    mean: Real[ArrayLike, "*batch dimensions"],
    log_variance: Real[ArrayLike, "*batch dimensions"],
    *,
    target_mean: Real[ArrayLike, ""]
    | Real[ArrayLike, "dimensions"]
    | Real[ArrayLike, "*batch dimensions"] = 0.0,
    target_log_variance: Real[ArrayLike, ""]
    | Real[ArrayLike, "dimensions"]
    | Real[ArrayLike, "*batch dimensions"] = 0.0,
    mask: Bool[ArrayLike, "*batch dimensions"] | Bool[ArrayLike, "dimensions"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Kullback-Leibler divergence between Gaussians with independent dimensions.

    When to use: the term of a variational autoencoder that keeps the posterior close to the prior.

    $$KL(p \| q) = \frac12 \sum_k \left( \frac{\sigma_k^2}{s_k^2} - 1
      - \log \frac{\sigma_k^2}{s_k^2} + \frac{(\mu_k - m_k)^2}{s_k^2} \right)$$

    It is summed over the dimensions (a mean would weaken it with their number). Without options the
    prior is standard normal. Unlike `kl` it is an expectation under the prediction.

    Args:
        mean: Predicted means $\mu$.
        log_variance: Logarithms of the predicted variances $\sigma^2$.
        target_mean: Means $m$ of the target.
        target_log_variance: Logarithms of its variances $s^2$.
        mask: False leaves a dimension out of an example, or of all examples.

    Returns:
        The divergence of each example in nats.

    Example:
        >>> gaussian_kl([[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1e-4, 0.0]])
        Array([5.000000e-01, 2.500083e-09], dtype=float32)

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014.
    """
    distance = (mean - target_mean) * jnp.exp(-0.5 * target_log_variance)
    terms = expm1_minus_x(log_variance - target_log_variance) + jnp.square(distance)
    terms = terms if mask is None else jnp.where(mask, terms, 0)
    return 0.5 * row_sum(terms)
