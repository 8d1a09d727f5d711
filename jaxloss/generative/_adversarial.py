"""Adversarial losses: pairs of a generator's and a discriminator's, of the latter's scores.

A discriminator scores samples: the higher, the more real. Its losses take the scores of one real
and one generated sample an example.
"""

from typing import Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.traits import bounded_gradient, convex, nonnegative, smooth


@loss(convex, nonnegative, smooth, bounded_gradient)
def non_saturating_generator(
    fake: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Non-saturating loss of a generator: -log of the probability that its sample is real.

    When to use: the generator of a GAN, with `non_saturating_discriminator`; its gradient does not
    vanish where the discriminator is certain.

    $$\ell = -\log \sigma(D(\hat x)) = \log(1 + e^{-D(\hat x)})$$

    Args:
        fake: The discriminator's scores (logits) of generated samples.

    Returns:
        The loss of each sample in nats.

    Example:
        >>> non_saturating_generator([0.0, 80.0])
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Goodfellow et al., *Generative Adversarial Nets*, 2014.
    """
    return numerics.softplus(-fake)


@loss(convex, nonnegative, smooth, bounded_gradient)
def non_saturating_discriminator(
    real: Real[ArrayLike, "*batch"],
    fake: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Logistic loss of a discriminator: real samples are class 1, generated ones class 0.

    When to use: the discriminator of a GAN, with `non_saturating_generator`; with `r1` it is that
    of StyleGAN.

    $$\ell = \log(1 + e^{-D(x)}) + \log(1 + e^{D(\hat x)})$$

    The sum of both terms, not their mean.

    Args:
        real: The discriminator's scores (logits) of real samples.
        fake: Its scores of generated samples.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> non_saturating_discriminator([0.0], [0.0])
        Array([1.3862944], dtype=float32)

    References:
        Goodfellow et al., *Generative Adversarial Nets*, 2014.
    """
    return numerics.softplus(-real) + numerics.softplus(fake)


@loss(convex, bounded_gradient, smooth)
def hinge_generator(
    fake: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Loss of a generator beside a hinge discriminator: minus the score of its sample.

    When to use: with `hinge_discriminator` (SAGAN, BigGAN, VQGAN).

    $$\ell = -D(\hat x)$$

    Args:
        fake: The discriminator's scores of generated samples.

    Returns:
        The loss of each sample.

    Example:
        >>> hinge_generator([0.5])
        Array([-0.5], dtype=float32)

    References:
        Lim and Ye, *Geometric GAN*, 2017.
    """
    return -linear_argument(fake)


@loss(convex, nonnegative, bounded_gradient)
def hinge_discriminator(
    real: Real[ArrayLike, "*batch"],
    fake: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Hinge loss of a discriminator: real scores above 1, generated ones below -1.

    When to use: discriminators of images (SAGAN, BigGAN, VQGAN); samples on the right side of
    their margin have no gradient.

    $$\ell = \max(0, 1 - D(x)) + \max(0, 1 + D(\hat x))$$

    VQGAN multiplies by 1/2. MONAI applies a hyperbolic tangent to the scores first.

    Args:
        real: The discriminator's scores of real samples.
        fake: Its scores of generated samples.

    Returns:
        The loss of each pair.

    Example:
        >>> hinge_discriminator([0.5, 3.0], [0.5, -3.0])
        Array([2., 0.], dtype=float32)

    References:
        Lim and Ye, *Geometric GAN*, 2017.
    """
    return numerics.relu(1 - real) + numerics.relu(1 + fake)


@loss(convex, nonnegative, smooth)
def least_squares_generator(
    fake: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Least-squares loss of a generator: half the squared distance of its score from 1.

    When to use: with `least_squares_discriminator` (LSGAN, CycleGAN).

    $$\ell = \tfrac12 (D(\hat x) - 1)^2$$

    Args:
        fake: The discriminator's scores of generated samples.

    Returns:
        The loss of each sample.

    Example:
        >>> least_squares_generator([0.0, 1.0])
        Array([0.5, 0. ], dtype=float32)

    References:
        Mao et al., *Least Squares Generative Adversarial Networks*, 2017.
    """
    return 0.5 * jnp.square(fake - 1)


@loss(convex, nonnegative, smooth)
def least_squares_discriminator(
    real: Real[ArrayLike, "*batch"],
    fake: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Least-squares loss of a discriminator: real scores are 1, generated ones 0.

    When to use: with `least_squares_generator`, where a logistic discriminator saturates.

    $$\ell = \tfrac12 (D(x) - 1)^2 + \tfrac12 D(\hat x)^2$$

    With the factors 1/2 of the paper; MONAI has none.

    Args:
        real: The discriminator's scores of real samples.
        fake: Its scores of generated samples.

    Returns:
        The loss of each pair.

    Example:
        >>> least_squares_discriminator([0.0], [1.0])
        Array([1.], dtype=float32)

    References:
        Mao et al., *Least Squares Generative Adversarial Networks*, 2017.
    """
    return 0.5 * jnp.square(real - 1) + 0.5 * jnp.square(fake)


@loss(convex, bounded_gradient, smooth)
def wasserstein_generator(
    fake: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Loss of a Wasserstein generator: minus the critic's score of its sample.

    When to use: with `wasserstein_discriminator` and `wgan_gp`.

    $$\ell = -D(\hat x)$$

    Args:
        fake: The critic's scores of generated samples.

    Returns:
        The loss of each sample.

    Example:
        >>> wasserstein_generator([0.5])
        Array([-0.5], dtype=float32)

    References:
        Arjovsky et al., *Wasserstein GAN*, 2017.
    """
    return -linear_argument(fake)


@loss(convex, bounded_gradient, smooth)
def wasserstein_discriminator(
    real: Real[ArrayLike, "*batch"],
    fake: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Loss of a Wasserstein critic: the score of a generated sample less that of a real one.

    When to use: with `wgan_gp`, which keeps the critic's slope near 1; minus its mean then
    estimates the distance of the two distributions.

    $$\ell = D(\hat x) - D(x)$$

    Args:
        real: The critic's scores of real samples.
        fake: Its scores of generated samples.

    Returns:
        The loss of each pair; not bounded below without a penalty.

    Example:
        >>> wasserstein_discriminator([3.0], [1.0])
        Array([-2.], dtype=float32)

    References:
        Arjovsky et al., *Wasserstein GAN*, 2017.
    """
    return linear_argument(fake) - linear_argument(real)


@loss(convex, nonnegative)
def lecam(
    real: Real[ArrayLike, "*batch"],
    fake: Real[ArrayLike, "*batch"],
    *,
    real_mean: Real[ArrayLike, ""],
    fake_mean: Real[ArrayLike, ""],
    rectified: bool = True,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""LeCam regularizer: keeps a discriminator's scores near running means of the other class.

    When to use: GANs trained on few images, beside the discriminator's loss, times about 0.1.

    $$\ell = [D(x) - \bar D_{\hat x}]_+^2 + [\bar D_x - D(\hat x)]_+^2$$

    The running means are state that is passed in, and constants of the gradient. The brackets are
    those of the authors' code and of MaskGIT; the paper writes plain squares, `rectified=False`.

    Args:
        real: The discriminator's scores of real samples.
        fake: Its scores of generated samples.
        real_mean: The running mean of the scores of real samples.
        fake_mean: The running mean of those of generated samples.
        rectified: Whether scores on the other side of the mean have loss 0.

    Returns:
        The regularizer of each pair.

    Example:
        >>> lecam([1.0, -1.0], [0.0, 0.0], real_mean=0.5, fake_mean=0.0)
        Array([1.25, 0.25], dtype=float32)

    References:
        Tseng et al., *Regularizing Generative Adversarial Networks under Limited Data*, 2021.
    """
    gaps = real - lax.stop_gradient(fake_mean), lax.stop_gradient(real_mean) - fake
    kept = map(numerics.relu, gaps) if rectified else gaps
    of_real, of_fake = map(jnp.square, kept)
    return of_real + of_fake
