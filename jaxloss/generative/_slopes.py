"""Gradient penalties: functions of a discriminator, by its slope in the samples.

The discriminator is a function of *one* sample, `(*event) -> ()`, and is differentiated one
example at a time (`vmap` of `grad`), so that no example's penalty depends on another's. What else
it takes, a class say, is passed behind the samples, one an example. Parameters are closed over;
the penalty is differentiated in them as in any other array:

    def loss(params):
        penalty = jl.generative.r1(lambda x: discriminator(params, x), real)
        ...
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._core.helpers import floats
from jaxloss._core.spec import ArrayLike


def _slopes(
    fun_name: str, discriminator: Callable[..., Any], x: Array, conditions: tuple[Any, ...]
) -> Array:
    """The gradient of the score of each sample with respect to that sample, flattened."""
    if x.ndim == 0:
        message = f"{fun_name}: samples have shape (), expected (batch, *event): one a row."
        raise ValueError(message)

    def score(x: Array, *conditions: Any) -> Array:
        out = jnp.asarray(discriminator(x, *conditions))
        if out.shape != ():
            raise ValueError(
                f"{fun_name}: the discriminator gives shape {out.shape} for one sample of shape "
                f"{x.shape}, expected a scalar. Of a function of batches write "
                f"`lambda x: discriminator(x[None])[0]`."
            )
        return out.astype(jnp.promote_types(out.dtype, jnp.float32))

    gradients = jax.vmap(jax.grad(score))(x, *conditions)
    return gradients.reshape(x.shape[0], -1)


def _half_squared(
    fun_name: str, discriminator: Callable[..., Any], samples: Any, conditions: tuple[Any, ...]
) -> Array:
    (x,) = floats(fun_name, samples=samples)
    slopes = _slopes(fun_name, discriminator, x, conditions)
    return 0.5 * jnp.sum(jnp.square(slopes), axis=-1)


def r1(discriminator: Callable[..., Any], real: ArrayLike, *conditions: Any) -> Array:
    r"""R1 penalty: half the squared slope of a discriminator at real samples.

    $$\ell = \tfrac12 \lVert \nabla_x D(x) \rVert^2$$

    Multiply by $\gamma$, 10 in the paper and 0.1 to 100 elsewhere, and add its mean to the
    discriminator's loss.

    Args:
        discriminator: From one sample, and its conditions, to a scalar score.
        real: `(batch, *event)`, real samples.
        *conditions: What else the discriminator takes, one an example.

    Returns:
        The penalty of each sample, `(batch,)`.

    Raises:
        ValueError: If the discriminator does not give a scalar.

    Example:
        >>> r1(lambda x: jnp.sum(x**2), [[1.0, 2.0], [0.0, 0.0]])
        Array([10.,  0.], dtype=float32)

    References:
        Mescheder et al., *Which Training Methods for GANs do actually Converge?*, 2018.
    """
    return _half_squared("jaxloss.generative.r1", discriminator, real, conditions)


def r2(discriminator: Callable[..., Any], fake: ArrayLike, *conditions: Any) -> Array:
    r"""R2 penalty: half the squared slope of a discriminator at generated samples.

    $$\ell = \tfrac12 \lVert \nabla_x D(\hat x) \rVert^2$$

    Args:
        discriminator: As in `r1`.
        fake: `(batch, *event)`, generated samples.
        *conditions: As in `r1`.

    Returns:
        The penalty of each sample, `(batch,)`.

    Raises:
        ValueError: If the discriminator does not give a scalar.

    Example:
        >>> r2(lambda x: 3.0 * x[0], [[1.0, 2.0]])
        Array([4.5], dtype=float32)

    References:
        Mescheder et al., *Which Training Methods for GANs do actually Converge?*, 2018.
    """
    return _half_squared("jaxloss.generative.r2", discriminator, fake, conditions)


def wgan_gp(
    discriminator: Callable[..., Any],
    real: ArrayLike,
    fake: ArrayLike,
    share: ArrayLike,
    *conditions: Any,
    target: ArrayLike = 1.0,
    one_sided: bool = False,
) -> Array:
    r"""Gradient penalty of WGAN-GP: the critic's slope between samples is to be 1.

    $$\ell = (\lVert \nabla_z D(z) \rVert - t)^2, \qquad z = u x + (1 - u) \hat x$$

    Where the slope is 0 its norm has gradient 0, and second derivatives are finite.

    Args:
        discriminator: From one sample, and its conditions, to a scalar score.
        real: `(batch, *event)`, real samples.
        fake: `(batch, *event)`, generated samples.
        share: `(batch,)`, the share $u$ of the real sample, drawn evenly from 0 to 1.
        *conditions: What else the discriminator takes, one an example.
        target: The slope $t$ that has no penalty.
        one_sided: Whether smaller slopes have no penalty either.

    Returns:
        The penalty of each pair, `(batch,)`; the paper multiplies it by 10.

    Raises:
        ValueError: If shapes do not fit, or the discriminator does not give a scalar.

    Example:
        >>> wgan_gp(lambda x: 3.0 * x[0], [[1.0, 2.0]], [[0.0, 0.0]], [0.5])
        Array([4.], dtype=float32)

    References:
        Gulrajani et al., *Improved Training of Wasserstein GANs*, 2017.
    """
    fun_name = "jaxloss.generative.wgan_gp"
    real, fake = floats(fun_name, real=real, fake=fake)
    share = jnp.asarray(share, real.dtype)
    if share.shape != real.shape[:1]:
        message = f"{fun_name}: `share` has shape {share.shape}, expected {real.shape[:1]}."
        raise ValueError(message)
    share = share.reshape(-1, *(1,) * (real.ndim - 1))
    slopes = _slopes(fun_name, discriminator, share * real + (1 - share) * fake, conditions)
    excess = numerics.norm(slopes) - target
    return jnp.square(numerics.relu(excess) if one_sided else excess)
