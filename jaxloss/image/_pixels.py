"""Losses of single pixels and of the differences between neighbours."""

import functools
import math
from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import positive
from jaxloss.numerics._derivatives import by_gradient
from jaxloss.numerics._vectors import length_and_is_zero
from jaxloss.numerics._windows import cut
from jaxloss.traits import convex, nonnegative, symmetric, translation_invariant

Images = Float[Array, "... height width channels"]
Pixels = Bool[Array, "... height width"]


@loss(symmetric, translation_invariant, data_range=positive)
def psnr(
    prediction: Real[ArrayLike, "*batch height width channels"],
    target: Real[ArrayLike, "*batch height width channels"],
    *,
    data_range: Real[ArrayLike, ""] = 1.0,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Minus the peak signal-to-noise ratio, in decibels: the logarithm of the squared error.

    When to use: restoration of images that is evaluated by PSNR: each image counts by the relative
    change of its error, so that good ones go on improving.

    $$\ell = 10 \log_{10} \frac{\frac1n \sum_i (p_i - t_i)^2}{L^2}$$

    Of equal images it is -inf, with gradient 0. A mean over images is not the PSNR of their mean
    squared error.

    Args:
        prediction: The predicted images.
        target: The true images.
        data_range: The largest possible value L of a difference: 255 for bytes.
        mask: False leaves a pixel out.

    Returns:
        The loss of each image in decibels; as a rule negative.

    Example:
        >>> psnr([[[0.5], [0.25]]], [[[0.4], [0.35]]])
        Array(-20., dtype=float32)

    References:
        Huynh-Thu and Ghanbari, *Scope of Validity of PSNR in Image/Video Quality Assessment*, 2008.
    """
    error = (prediction - target).reshape(*prediction.shape[:-3], math.prod(prediction.shape[-3:]))
    length, same = length_and_is_zero(error)
    number = error.shape[-1]
    if mask is not None:
        number = prediction.shape[-1] * jnp.sum(mask, axis=(-2, -1)).astype(error.dtype)
    root = length / jnp.sqrt(jnp.maximum(number, 1))
    decibels = (20 / math.log(10)) * (jnp.log(root) - jnp.log(data_range))
    return jnp.where(same, -jnp.inf, decibels)


def _steps(x: Images, axis: int) -> Images:
    """The differences of neighbours along an axis."""
    count = x.shape[axis] - 1
    return cut(x, 1, count, axis) - cut(x, 0, count, axis)


def _steps_bar(axis: int, _: None, bar: Images) -> tuple[Images]:
    # Differences again, of one padded array: JAX would add up two for each axis.
    edges = [(1, 1) if place == axis else (0, 0) for place in range(-bar.ndim, 0)]
    return (-_steps(jnp.pad(bar, edges), axis),)


_steps_in_reverse = jax.custom_vjp(_steps, nondiff_argnums=(1,))
_steps_in_reverse.defvjp(lambda x, axis: (_steps(x, axis), None), _steps_bar)


# The gradient computes signs again: in `numerics.absolute` they are written for both.
_absolute_in_reverse = jax.custom_vjp(jnp.abs)
_absolute_in_reverse.defvjp(lambda x: (jnp.abs(x), x), lambda x, bar: (jnp.sign(x) * bar,))


def _variation(
    isotropic: bool,
    steps: Callable[[Images, int], Images],
    absolute: Callable[[Images], Images],
    image: Images,
    mask: Pixels | None = None,
) -> Array:
    down, right = steps(image, -3), steps(image, -2)
    if mask is not None:
        down = jnp.where((mask[..., 1:, :] & mask[..., :-1, :])[..., None], down, 0)
        right = jnp.where((mask[..., 1:] & mask[..., :-1])[..., None], right, 0)
    pixels = (-3, -2, -1)
    if not isotropic:
        sums = [jnp.sum(absolute(change), axis=pixels) for change in (down, right)]
        return sums[0] + sums[1]
    none = [(0, 0)] * (image.ndim - 3)
    down = jnp.pad(down, [*none, (0, 1), (0, 0), (0, 0)])
    right = jnp.pad(right, [*none, (0, 0), (0, 1), (0, 0)])
    return jnp.sum(numerics.norm(jnp.stack([down, right], axis=-1)), axis=pixels)


@functools.cache  # one object each, so that eager calls compile once
def _variation_by_gradient(isotropic: bool) -> Callable[..., Array]:
    form = functools.partial(_variation, isotropic, _steps, numerics.absolute)
    in_reverse = functools.partial(_variation, isotropic, _steps_in_reverse, _absolute_in_reverse)
    return by_gradient(form, in_reverse, event=(3,))


@loss(convex, nonnegative)
def total_variation(
    prediction: Real[ArrayLike, "*batch height width channels"],
    *,
    isotropic: bool = False,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Total variation of an image: the sum of the differences of adjacent pixels.

    When to use: added to another loss, for smooth images with sharp edges: it removes noise, and
    penalizes an edge by its height, however sharp it is.

    $$\ell = \sum_{i,j,c} |x_{i+1,j} - x_{i,j}| + |x_{i,j+1} - x_{i,j}|, \qquad
      \ell_{\mathrm{iso}} = \sum_{i,j,c} \sqrt{(x_{i+1,j} - x_{i,j})^2 + (x_{i,j+1} - x_{i,j})^2}$$

    A sum, as in kornia and torchmetrics: divide by the number of pixels for a weight that does not
    depend on the size. Differences beyond the last row and column are 0. The gradient is 0 where
    adjacent pixels are equal. A difference from a pixel that `mask` leaves out is 0.

    Args:
        prediction: The images.
        isotropic: Whether the length of the gradient is summed, which does not favour edges along
            the axes.
        mask: False leaves a pixel out.

    Returns:
        The total variation of each image.

    Example:
        >>> image = jnp.array([[0.0, 3.0], [4.0, 3.0]])[..., None]
        >>> total_variation(image), total_variation(image, isotropic=True)
        (Array(8., dtype=float32), Array(6., dtype=float32))

    References:
        Rudin, Osher and Fatemi, *Nonlinear Total Variation Based Noise Removal Algorithms*, 1992.
    """
    masks = () if mask is None else (mask,)
    return _variation_by_gradient(isotropic)(prediction, *masks)
