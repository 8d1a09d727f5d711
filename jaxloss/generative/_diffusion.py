"""Diffusion and flow matching: the loss, its weights, and what a network is asked to predict."""

from typing import Literal, Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.arguments import check_choice
from jaxloss._core.decorator import loss
from jaxloss._core.helpers import floats
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import class_ids, extended, nonnegative_number
from jaxloss.numerics._reductions import mean_where
from jaxloss.numerics._softmax_nll import softmax_nll
from jaxloss.traits import convex, nonnegative, smooth, symmetric, zero_at_match

Predicts = Literal["noise", "sample", "velocity"]


@loss(convex, nonnegative, smooth, symmetric, zero_at_match, weight=nonnegative_number)
def denoising(
    prediction: Real[ArrayLike, "*batch features"],
    target: Real[ArrayLike, "*batch features"],
    *,
    weight: Real[ArrayLike, "*batch"] = 1.0,
    mask: Bool[ArrayLike, "*batch features"] | Bool[ArrayLike, "features"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Denoising loss of diffusion and flow matching: weighted mean squared error of an example.

    When to use: diffusion, score and flow-matching models, with one noise level an example.

    $$\ell = w(\lambda)\, \frac1d \sum_{i=1}^d (p_i - y_i)^2$$

    The target is what the network predicts: the noise, the sample, the `velocity` between them, or
    the direction of a flow. `min_snr_weight` and its neighbours give $w$ from the log of the
    signal-to-noise ratio $\lambda$. The weight is part of the loss: a mean is over examples, not
    over weights. For images pass `axis=(-3, -2, -1)`.

    Args:
        prediction: What the network predicts; noise, sample or velocity.
        target: Its true value.
        weight: A factor for each example, of its noise level.
        mask: False leaves a feature out of the mean of an example, or of all examples.

    Returns:
        The loss of each example.

    Example:
        >>> denoising([[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]], weight=[1.0, 0.5])
        Array([2.5, 1. ], dtype=float32)

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020.
        Lipman et al., *Flow Matching for Generative Modeling*, 2023.
    """
    return weight * mean_where(jnp.square(prediction - target), mask)


# --- weights -----------------------------------------------------------------------------------
# The error of the noise is the signal-to-noise ratio e^lambda times that of the sample, and the
# error of the velocity 1 + e^lambda times. Each weight is written out for all three, so that no
# quotient of two numbers that overflow is formed.


def _log_snr(fun_name: str, log_snr: ArrayLike, predicts: object) -> Array:
    check_choice(fun_name, "predicts", predicts, ("noise", "sample", "velocity"))
    return floats(fun_name, log_snr=log_snr)[0]


def min_snr_weight(
    log_snr: ArrayLike, *, gamma: ArrayLike = 5.0, predicts: Predicts = "noise"
) -> Array:
    r"""Min-SNR weight: that of the sample, the signal-to-noise ratio, is bounded by gamma.

    $$w = \min(e^\lambda, \gamma) \cdot \begin{cases} e^{-\lambda} & \text{noise} \\
      1 & \text{sample} \\ 1 / (1 + e^\lambda) & \text{velocity} \end{cases}$$

    Args:
        log_snr: $\lambda = \log (\alpha^2 / \sigma^2)$, from -inf (noise) to inf (data).
        gamma: The bound, 5 in the paper.
        predicts: What the network predicts: "noise", "sample" or "velocity".

    Returns:
        Weights of the shape of `log_snr`, finite at both ends.

    Raises:
        ValueError: If `predicts` is none of these.

    Example:
        >>> min_snr_weight([-jnp.inf, 0.0, jnp.inf], predicts="velocity")
        Array([0. , 0.5, 0. ], dtype=float32)

    References:
        Hang et al., *Efficient Diffusion Training via Min-SNR Weighting Strategy*, 2023.
    """
    x = _log_snr("jaxloss.generative.min_snr_weight", log_snr, predicts)
    if predicts == "noise":
        return jnp.minimum(1, gamma * jnp.exp(-x))
    if predicts == "sample":
        return jnp.minimum(jnp.exp(x), gamma)
    return jnp.minimum(numerics.sigmoid(x), gamma * numerics.sigmoid(-x))


def edm_weight(
    log_snr: ArrayLike, *, sigma_data: ArrayLike = 0.5, predicts: Predicts = "velocity"
) -> Array:
    r"""EDM weight: the reciprocal variance of the data plus the signal-to-noise ratio.

    $$w = (\sigma_d^{-2} + e^\lambda) \cdot \begin{cases} e^{-\lambda} & \text{noise} \\
      1 & \text{sample} \\ 1 / (1 + e^\lambda) & \text{velocity} \end{cases}$$

    For a sample with noise of scale $\sigma$ added, $\lambda = -2 \log \sigma$, and the weight of
    the sample is $(\sigma^2 + \sigma_d^2) / (\sigma \sigma_d)^2$ as in the paper. It is unbounded
    towards data, that of the noise towards noise; that of the velocity is finite at both ends. The
    paper also draws $\log \sigma$ from a normal distribution, of mean -1.2 and deviation 1.2.

    Args:
        log_snr: $\lambda = \log (\alpha^2 / \sigma^2)$.
        sigma_data: The standard deviation of the data.
        predicts: What the network predicts: "noise", "sample" or "velocity".

    Returns:
        Weights of the shape of `log_snr`.

    Raises:
        ValueError: If `predicts` is none of these.

    Example:
        >>> edm_weight([-jnp.inf, 0.0, jnp.inf])
        Array([4. , 2.5, 1. ], dtype=float32)

    References:
        Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*, 2022.
    """
    x = _log_snr("jaxloss.generative.edm_weight", log_snr, predicts)
    of_data = 1 / jnp.square(jnp.asarray(sigma_data, x.dtype))
    if predicts == "noise":
        return of_data * jnp.exp(-x) + 1
    if predicts == "sample":
        return of_data + jnp.exp(x)
    return of_data * numerics.sigmoid(-x) + numerics.sigmoid(x)


def sigmoid_weight(
    log_snr: ArrayLike, *, bias: ArrayLike = 2.0, predicts: Predicts = "noise"
) -> Array:
    r"""Sigmoid weight: the weight of the noise decreases smoothly where there is little of it.

    $$w = \sigma(b - \lambda) \cdot \begin{cases} 1 & \text{noise} \\
      e^\lambda & \text{sample} \\ \sigma(\lambda) & \text{velocity} \end{cases}$$

    This is the weight of an integral over $\lambda$. Where noise levels are drawn otherwise, it is
    divided by the density of $\lambda$: for a time that is drawn evenly, times
    $-\mathrm{d}\lambda / \mathrm{d}t$.

    Args:
        log_snr: $\lambda = \log (\alpha^2 / \sigma^2)$, from -inf (noise) to inf (data).
        bias: Where the weight of the noise is a half.
        predicts: What the network predicts: "noise", "sample" or "velocity".

    Returns:
        Weights of the shape of `log_snr`, finite at both ends.

    Raises:
        ValueError: If `predicts` is none of these.

    Example:
        >>> sigmoid_weight([-jnp.inf, 2.0, jnp.inf])
        Array([1. , 0.5, 0. ], dtype=float32)

    References:
        Kingma and Gao, *Understanding Diffusion Objectives as the ELBO*, 2023.
        Hoogeboom et al., *Simpler Diffusion (SiD2)*, 2025.
    """
    x = _log_snr("jaxloss.generative.sigmoid_weight", log_snr, predicts)
    if predicts == "sample":
        return jnp.exp(jnp.asarray(bias, x.dtype)) * numerics.sigmoid(x - bias)
    of_noise = numerics.sigmoid(bias - x)
    return of_noise if predicts == "noise" else of_noise * numerics.sigmoid(x)


def p2_weight(
    log_snr: ArrayLike,
    *,
    k: ArrayLike = 1.0,
    gamma: ArrayLike = 1.0,
    predicts: Predicts = "noise",
) -> Array:
    r"""P2 weight: a power of the signal-to-noise ratio, which favours large noise.

    $$w = (k + e^\lambda)^{-\gamma} \cdot \begin{cases} 1 & \text{noise} \\
      e^\lambda & \text{sample} \\ \sigma(\lambda) & \text{velocity} \end{cases}$$

    Args:
        log_snr: $\lambda = \log (\alpha^2 / \sigma^2)$, from -inf (noise) to inf (data).
        k: Bounds the weight where there is only noise; 1 in the paper.
        gamma: The power, 0.5 or 1 in the paper; 0 weights all noise levels alike.
        predicts: What the network predicts: "noise", "sample" or "velocity".

    Returns:
        Weights of the shape of `log_snr`, finite at both ends if gamma is at least 1.

    Raises:
        ValueError: If `predicts` is none of these.

    Example:
        >>> p2_weight([-jnp.inf, 0.0, jnp.inf])
        Array([1. , 0.5, 0. ], dtype=float32)

    References:
        Choi et al., *Perception Prioritized Training of Diffusion Models*, 2022.
    """
    x = _log_snr("jaxloss.generative.p2_weight", log_snr, predicts)
    k, gamma = jnp.asarray(k, x.dtype), jnp.asarray(gamma, x.dtype)
    # k + e^x is e^max(x, 0) times a number that neither overflows nor vanishes.
    above = numerics.relu(x)
    base = (k * jnp.exp(-above) + jnp.exp(jnp.minimum(x, 0))) ** -gamma
    if predicts == "sample":
        rest = numerics.multiply_no_nan(1 - gamma, above)
        return base * jnp.exp(jnp.minimum(x, 0)) * jnp.exp(rest)
    of_noise = base * jnp.exp(-numerics.multiply_no_nan(gamma, above))
    return of_noise if predicts == "noise" else of_noise * numerics.sigmoid(x)


# --- targets -----------------------------------------------------------------------------------


def velocity(sample: ArrayLike, noise: ArrayLike, *, alpha: ArrayLike, sigma: ArrayLike) -> Array:
    r"""The velocity of a diffusion that mixes $\alpha x + \sigma \epsilon$, with unit variance.

    $$v = \alpha \epsilon - \sigma x, \qquad \alpha^2 + \sigma^2 = 1$$

    The network then recovers the sample as $\alpha z - \sigma v$, and the noise as
    $\sigma z + \alpha v$, at every noise level.

    Args:
        sample: `(*batch, *event)`, data $x$.
        noise: Noise $\epsilon$ of the same shape.
        alpha: The share of the sample: a number, or of a shape that broadcasts to the sample's.
        sigma: The share of the noise, as `alpha`.

    Returns:
        The target of `denoising`, of the sample's shape.

    Raises:
        ValueError: If the shapes of sample and noise differ.

    Example:
        >>> velocity([1.0, 2.0], [0.5, 0.0], alpha=0.6, sigma=0.8)
        Array([-0.5, -1.6], dtype=float32)

    References:
        Salimans and Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*, 2022.
    """
    sample, noise = floats("jaxloss.generative.velocity", sample=sample, noise=noise)
    alpha, sigma = jnp.asarray(alpha, sample.dtype), jnp.asarray(sigma, sample.dtype)
    return alpha * noise - sigma * sample


def flow_to_sample(sample: ArrayLike, noise: ArrayLike) -> Array:
    r"""The flow-matching target of a time that runs from noise, at 0, to the sample, at 1.

    $$u = \frac{\mathrm{d} z}{\mathrm{d} t} = x - \epsilon, \qquad z_t = (1 - t) \epsilon + t x$$

    The convention of the papers on flow matching, and of torchcfm. The other one is
    `flow_to_noise`, with the opposite sign.

    Args:
        sample: `(*batch, *event)`, data $x$.
        noise: Noise $\epsilon$ of the same shape.

    Returns:
        The target of `denoising`, of the sample's shape.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> flow_to_sample([1.0, 2.0], [0.5, 0.0])
        Array([0.5, 2. ], dtype=float32)

    References:
        Lipman et al., *Flow Matching for Generative Modeling*, 2023.
        Liu et al., *Flow Straight and Fast: Learning to Generate with Rectified Flow*, 2023.
    """
    sample, noise = floats("jaxloss.generative.flow_to_sample", sample=sample, noise=noise)
    return sample - noise


def flow_to_noise(sample: ArrayLike, noise: ArrayLike) -> Array:
    r"""The flow-matching target of a time that runs from the sample, at 0, to noise, at 1.

    $$u = \frac{\mathrm{d} z}{\mathrm{d} t} = \epsilon - x, \qquad z_t = (1 - t) x + t \epsilon$$

    The convention of diffusion, which openpi and the trainers of Flux keep. The other one is
    `flow_to_sample`, with the opposite sign.

    Args:
        sample: `(*batch, *event)`, data $x$.
        noise: Noise $\epsilon$ of the same shape.

    Returns:
        The target of `denoising`, of the sample's shape.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> flow_to_noise([1.0, 2.0], [0.5, 0.0])
        Array([-0.5, -2. ], dtype=float32)

    References:
        Esser et al., *Scaling Rectified Flow Transformers for Image Synthesis*, 2024.
    """
    sample, noise = floats("jaxloss.generative.flow_to_noise", sample=sample, noise=noise)
    return noise - sample


# --- tokens ------------------------------------------------------------------------------------


@loss(nonnegative, logits=extended, labels=class_ids("classes"), weight=nonnegative_number)
def masked_diffusion(
    logits: Real[ArrayLike, "*batch tokens classes"],
    labels: Int[ArrayLike, "*batch tokens"],
    masked: Bool[ArrayLike, "*batch tokens"],
    *,
    weight: Real[ArrayLike, "*batch"] | Real[ArrayLike, "*batch tokens"] = 1.0,
    average: bool = False,
    mask: Bool[ArrayLike, "*batch tokens"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Masked diffusion: weighted cross-entropy of the tokens that the noise has masked.

    When to use: discrete diffusion language models whose noise replaces tokens by a mask token.

    $$\ell = w(t) \sum_{i \in M} -\log p(x_i \mid z_t), \qquad
      w(t) = \frac{-\dot\alpha_t}{1 - \alpha_t}$$

    $\alpha_t$ is the probability that a token is not yet masked at time $t$. For the linear
    schedule $\alpha_t = 1 - t$ the weight is $1 / t$. With a time drawn evenly from 0 to 1 the
    expectation is then the negative evidence lower bound of the sequence, as in MDLM and MD4. If
    the network may predict the mask token, set its logit to -inf. Tokens that are not masked have
    no loss and no gradient.

    Args:
        logits: Scores of all tokens of the vocabulary; -inf is a probability of 0.
        labels: The tokens of the data.
        masked: True for a token that the noise has masked.
        weight: One number a sequence; or one a token, where each has a schedule of its own.
        average: Whether to divide by the number of tokens (MDLM), for nats a token.
        mask: False leaves a token out: padding, or a prompt that is never masked.

    Returns:
        The loss of each sequence in nats.

    Example:
        >>> masked_diffusion([[0.0, 0.0], [9.0, 0.0]], [1, 1], [True, False], weight=2.0)
        Array(1.3862944, dtype=float32)

    References:
        Sahoo et al., *Simple and Effective Masked Diffusion Language Models* (MDLM), 2024.
        Shi et al., *Simplified and Generalized Masked Diffusion for Discrete Data* (MD4), 2024.
    """
    counted = masked if mask is None else masked & mask
    each = softmax_nll(jnp.where(counted[..., None], logits, 0), labels)
    weight = jnp.asarray(weight, logits.dtype)
    weight = weight[..., None] if 0 < weight.ndim < labels.ndim else weight
    total = jnp.sum(jnp.where(counted, weight * each, 0), axis=-1)
    if not average:
        return total
    tokens = jnp.ones_like(masked) if mask is None else mask
    return total / jnp.maximum(jnp.sum(tokens, axis=-1, dtype=logits.dtype), 1)
