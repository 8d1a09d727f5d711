"""Losses of latent variables: Gaussian ones and quantized ones."""

from typing import Literal, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.domains import nonnegative_number
from jaxloss.numerics._labels import is_static_zero
from jaxloss.numerics._reductions import mean_where, summed_whole
from jaxloss.traits import convex, nonnegative, zero_at_match


@loss(convex, nonnegative, free_nats=nonnegative_number)
def gaussian_vae_kl(
    mean: Real[ArrayLike, "*batch latent"],
    log_variance: Real[ArrayLike, "*batch latent"],
    *,
    free_nats: Real[ArrayLike, ""] = 0.0,
    free_per: Literal["dimension", "total"] = "total",
    mask: Bool[ArrayLike, "*batch latent"] | Bool[ArrayLike, "latent"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""KL divergence of a diagonal Gaussian posterior from the standard normal prior.

    When to use: the regularizer of a variational autoencoder.

    $$\ell = \max\Bigl(f,\; \tfrac12 \sum_i \mu_i^2 + e^{\lambda_i} - 1 - \lambda_i\Bigr), \qquad
      \lambda_i = \log \sigma_i^2$$

    The first $f$ nats are free: below them the gradient is 0, which keeps a decoder from ignoring
    its latents. `free_per="dimension"` grants them to each latent, before the sum. It is the
    divergence of each example; Kingma et al. average over the batch before the maximum. The loss
    is summed over latents: divide by their number to compare it with a mean over pixels. Near the
    prior $e^\lambda - 1 - \lambda$ is computed without cancellation. For two Gaussians, or with
    standard deviations in place of logarithms, write `nll` and `divergence`.

    Args:
        mean: The means of the posterior.
        log_variance: The logarithms of its variances.
        free_nats: How many nats are free.
        free_per: Whether they are free for each latent, or for all in "total".
        mask: False leaves a latent out of an example, or of all examples.

    Returns:
        The divergence of each example in nats, at least the free ones.

    Example:
        >>> gaussian_vae_kl([0.0, 0.0], [2e-4, 0.0])
        Array(1.0000665e-08, dtype=float32)

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014.
        Kingma et al., *Improved Variational Inference with Inverse Autoregressive Flow* (free
        bits), 2016.
    """
    each = summed_whole(0.5 * (jnp.square(mean) + numerics.expm1_minus_x(log_variance)))
    if free_per == "dimension":
        each = jnp.where(each < free_nats, free_nats, each)
        each = each if mask is None else jnp.where(mask, each, 0)
    total = jnp.sum(each, axis=-1)
    if is_static_zero(free_nats) or free_per == "dimension":  # one pass is enough
        return total
    return jnp.where(total < free_nats, free_nats, total)


@loss(convex, nonnegative, zero_at_match, commitment=nonnegative_number)
def vector_quantization(
    inputs: Real[ArrayLike, "*batch dim"],
    codes: Real[ArrayLike, "*batch dim"],
    *,
    commitment: Real[ArrayLike, ""] = 0.25,
    mask: Bool[ArrayLike, "*batch dim"] | Bool[ArrayLike, "dim"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Vector quantization: draws codes to the vectors they replace, and vectors to their codes.

    When to use: VQ-VAE and discrete tokenizers, beside the reconstruction.

    $$\ell = \frac1d \lVert \mathrm{sg}[z] - e \rVert^2
      + \beta\, \frac1d \lVert z - \mathrm{sg}[e] \rVert^2$$

    `sg` stops the gradient: codes move by the first term, the encoder by the second. With codes
    that are running means, pass `lax.stop_gradient(codes)`: only the commitment then has a
    gradient. The mean over dimensions is that of sonnet, haiku and most code; the paper has the
    sum. The decoder receives `inputs + lax.stop_gradient(codes - inputs)`.

    Args:
        inputs: What the encoder gives.
        codes: The code of each, its nearest one say.
        commitment: The weight of the second term.
        mask: False leaves a dimension out of an example, or of all examples.

    Returns:
        The loss of each vector, in the squared unit of the vectors.

    Example:
        >>> vector_quantization([[1.0, 2.0]], [[1.0, 0.0]], commitment=0.25)
        Array([2.5], dtype=float32)

    References:
        van den Oord et al., *Neural Discrete Representation Learning*, 2017.
    """
    of_codes = mean_where(jnp.square(lax.stop_gradient(inputs) - codes), mask)
    of_inputs = mean_where(jnp.square(inputs - lax.stop_gradient(codes)), mask)
    return of_codes + commitment * of_inputs
