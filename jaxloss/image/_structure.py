"""Structural similarity of two images, at one scale or several."""

import functools
from collections.abc import Callable
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.arguments import check_choice
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import nonnegative_number, positive
from jaxloss.numerics._derivatives import by_gradient
from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._windows import (
    Moments,
    Windows,
    along,
    along_in_reverse,
    cut,
    known,
    shares_of,
    with_written_pixels,
)
from jaxloss.traits import nonnegative, symmetric, zero_at_match

Padding = Literal["valid", "same"]
Rows = Float[Array, "... height values"]
Images = Float[Array, "... height width channels"]
Pixels = Bool[Array, "... height width"]
Along = Callable[[Windows, Array, int, int], Windows]


def _window(size: int, sigma: Array) -> Float[Array, " size"]:
    """The weights of a Gaussian window, which sum to 1."""
    places = jnp.arange(size, dtype=sigma.dtype) - (size - 1) / 2
    return numerics.softmax(-0.5 * jnp.square(places / sigma))


def _as_rows(x: Images) -> Rows:
    """Images without an axis of channels: no loops over three of them."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _as_pixels(x: Rows, channels: int) -> Images:
    return x.reshape(*x.shape[:-1], x.shape[-1] // channels, channels)


def _compared(prediction: Images, target: Images, mask: Pixels | None) -> Windows:
    """Each pixel of the sum and of the difference of two images as a window of its own.

    The squares of the images are half the squares of those two, and nothing cancels.
    """
    images, kept = (prediction, target), None
    if mask is not None:  # what it leaves out is as far from its neighbours as they are
        kept = jnp.broadcast_to(mask[..., None], prediction.shape).astype(prediction.dtype)
        number = jnp.maximum(jnp.sum(kept, axis=(-3, -2), keepdims=True), 1)
        means = [jnp.sum(x * kept, axis=(-3, -2), keepdims=True) / number for x in images]
        images = [
            jnp.where(kept == 0, lax.stop_gradient(mean), x)
            for x, mean in zip(images, means, strict=True)
        ]
    kept = None if kept is None else _as_rows(kept)
    first, second = map(_as_rows, images)
    total = two_sum(first, second)
    return Moments(total.hi, total.lo, kept=kept), Moments(first - second, kept=kept)


def _mean_over_windows(
    values: Rows, every: Windows, channels: int, axis: tuple[int, ...] = (-3, -2, -1)
) -> Array:
    """The mean over windows, each of which counts as the pixel in its middle does."""
    kept = every[0].kept
    if kept is None and axis == (-3, -2, -1):
        return jnp.mean(values, axis=(-2, -1))
    values = _as_pixels(values, channels)
    if kept is None:
        return jnp.mean(values, axis=axis)
    kept = _as_pixels(kept, channels)
    margin = (kept.shape[-3] - values.shape[-3]) // 2
    for place in (-3, -2):
        kept = cut(kept, margin, values.shape[place], place)
    total = jnp.sum(kept, axis=axis)
    return jnp.sum(values * kept, axis=axis) / jnp.where(total == 0, 1, total)


def _differences(
    along: Along, every: Windows, channels: int, weights: Array, constants: tuple[Array, Array]
) -> tuple[Rows, Rows]:
    """1 less the luminance term of each window, and 1 less the term of contrast and structure."""
    rows = with_written_pixels(along(every, weights, -1, channels))
    of_sum, of_difference = along(rows, weights, -2, 1)
    pairs = (
        (jnp.square(of_sum.mean()), jnp.square(of_difference.mean())),
        (known(of_sum.variance, of_sum.pixel), known(of_difference.variance, of_sum.pixel)),
    )
    of_means, of_variances = (
        numerics.quotient(change, 0.5 * (both + change) + constant)
        for (both, change), constant in zip(pairs, constants, strict=True)
    )
    return of_means, of_variances


def _check_window(name: str, shape: tuple[Any, ...], size: int, levels: int = 1) -> None:
    """Raises if the window has no middle, or does not fit into the images."""
    fun_name = f"jaxloss.image.{name}"
    if size < 1 or size % 2 == 0:
        raise ValueError(f"{fun_name}: `size` is {size}, expected an odd number of pixels.")
    height, width = shape[-3:-1]
    least = size * 2 ** (levels - 1)
    known = [n for n in (height, width) if isinstance(n, int)]  # or symbolic
    if min(known, default=least) < least:
        what = f"on {levels} levels " if levels > 1 else ""
        remedy = "fewer levels or a smaller `size`" if levels > 1 else "a smaller `size`"
        raise ValueError(
            f"{fun_name}: the images have {height} x {width} pixels, but a window of {size} "
            f"{what}needs {least}: give {remedy}; of images without an axis of channels, give "
            f"`image[..., None]`."
        )


def _constants(k1: Any, k2: Any, data_range: Any, dtype: DTypeLike) -> tuple[Array, Array]:
    first, second = (jnp.square(jnp.asarray(k * data_range, dtype)) for k in (k1, k2))
    return first, second


def _ssim(
    along: Along,
    prediction: Images,
    target: Images,
    weights: Array,
    of_means: Array,
    of_variances: Array,
    mask: Pixels | None = None,
) -> Array:
    every = _compared(prediction, target, mask)
    channels = prediction.shape[-1]
    means, variances = _differences(along, every, channels, weights, (of_means, of_variances))
    return _mean_over_windows(means + variances * (1 - means), every, channels)


# Numbers of images whose windows stay on the chip of a TPU: four of 256 x 256 x 3.
_ON_CHIP = 1 << 20

_ssim_by_gradient = by_gradient(
    functools.partial(_ssim, along), functools.partial(_ssim, along_in_reverse), (3, 3), _ON_CHIP
)


@loss(
    nonnegative,
    symmetric,
    zero_at_match,
    data_range=positive,
    sigma=positive,
    k1=nonnegative_number,
    k2=nonnegative_number,
)
def ssim(
    prediction: Real[ArrayLike, "*batch height width channels"],
    target: Real[ArrayLike, "*batch height width channels"],
    *,
    data_range: Real[ArrayLike, ""] = 1.0,
    size: int = 11,
    sigma: Real[ArrayLike, ""] = 1.5,
    k1: Real[ArrayLike, ""] = 0.01,
    k2: Real[ArrayLike, ""] = 0.03,
    padding: Padding = "valid",
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""SSIM loss: 1 less the structural similarity of two images.

    When to use: reconstruction and restoration of images, alone or added to an absolute error,
    where structure matters more than the brightness of single pixels.

    $$\ell = 1 - \frac1N \sum \frac{2 \mu_x \mu_y + C_1}{\mu_x^2 + \mu_y^2 + C_1} \cdot
      \frac{2 \sigma_{xy} + C_2}{\sigma_x^2 + \sigma_y^2 + C_2}, \qquad C_i = (k_i L)^2$$

    The mean is over all windows and channels. The variances are those of the window as a
    distribution (pytorch-msssim, dm_pix; `use_sample_covariance=False` of scikit-image). "valid"
    takes the windows that lie inside the image; "same" reflects the image at its edges, so that
    each pixel has a window (kornia, torchmetrics). kornia's loss is half of this. What `mask`
    leaves out counts in no window, and windows around it are not counted.

    Args:
        prediction: The predicted images.
        target: The true images.
        data_range: The difference L of the largest and the smallest possible value: 255 for bytes.
        size: The side of the window, an odd number of pixels.
        sigma: The standard deviation of the Gaussian window, in pixels.
        k1: The constant of the means, relative to the data range.
        k2: The constant of the variances.
        padding: "valid" or "same".
        mask: False leaves a pixel out.

    Returns:
        The loss of each image, from 0 to 2; 0 if no window counts.

    Raises:
        ValueError: If an image is smaller than the window, or the window is not odd.

    Example:
        >>> flat = jnp.ones((11, 11, 1))
        >>> ssim(0.5 * flat, flat)
        Array(0.19998401, dtype=float32)

    References:
        Wang et al., *Image Quality Assessment: From Error Visibility to Structural Similarity*,
        2004.
    """
    check_choice("jaxloss.image.ssim", "padding", padding, ("valid", "same"))
    _check_window("ssim", prediction.shape, size)
    if padding == "same":
        edges = [(0, 0)] * (prediction.ndim - 3) + [(size // 2, size // 2)] * 2 + [(0, 0)]
        prediction, target = (jnp.pad(x, edges, mode="reflect") for x in (prediction, target))
        mask = None if mask is None else jnp.pad(mask, edges[:-1], mode="reflect")
    weights = _window(size, jnp.asarray(sigma, prediction.dtype))
    constants = _constants(k1, k2, data_range, prediction.dtype)
    masks = () if mask is None else (mask,)
    return _ssim_by_gradient(prediction, target, weights, *constants, *masks)


def _half(x: Moments, channels: int) -> Moments:
    """The means of squares of four pixels; an odd last row or column is dropped."""
    height, values = x.pixel.shape[-2:]
    height, width = 2 * (height // 2), 2 * (values // channels // 2)
    four = [
        jax.tree.map(
            lambda y, i=i, j=j: _as_rows(_as_pixels(y, channels)[..., i:height:2, j:width:2, :]),
            x,
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
    first = four[0]
    apart = [part.less(first) for part in four]
    shares, kept = shares_of([0.25] * 4, [part.kept for part in four])
    if kept is not None:
        apart = [4 * share * x for share, x in zip(shares, apart, strict=True)]
    mean = 0.25 * ((apart[0] + apart[1]) + (apart[2] + apart[3]))
    return Moments(first.pixel, mean if first.offset is None else first.offset + mean, kept=kept)


def _ms_ssim(
    along: Along,
    prediction: Images,
    target: Images,
    powers: Array,
    weights: Array,
    of_means: Array,
    of_variances: Array,
    mask: Pixels | None = None,
) -> Array:
    every, levels = _compared(prediction, target, mask), powers.shape[0]
    channels = prediction.shape[-1]
    logarithm, nothing = jnp.zeros((), prediction.dtype), False
    for level in range(levels):
        means, variances = _differences(along, every, channels, weights, (of_means, of_variances))
        terms = variances if level < levels - 1 else means + variances * (1 - means)
        differs = _mean_over_windows(terms, every, channels, (-3, -2))
        none = differs >= 1
        logarithm = logarithm + powers[level] * jnp.log1p(-jnp.where(none, 0, differs))
        nothing = none | nothing
        every = tuple(_half(x, channels) for x in every)
    return jnp.mean(jnp.where(nothing, 1, -numerics.expm1(logarithm)), axis=-1)


_ms_ssim_by_gradient = by_gradient(
    functools.partial(_ms_ssim, along),
    functools.partial(_ms_ssim, along_in_reverse),
    (3, 3),
    _ON_CHIP,
)

_LEVELS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the paper


@loss(
    nonnegative,
    symmetric,
    zero_at_match,
    level_weights=nonnegative_number,
    data_range=positive,
    sigma=positive,
    k1=nonnegative_number,
    k2=nonnegative_number,
)
def ms_ssim(
    prediction: Real[ArrayLike, "*batch height width channels"],
    target: Real[ArrayLike, "*batch height width channels"],
    *,
    data_range: Real[ArrayLike, ""] = 1.0,
    level_weights: Real[ArrayLike, "levels"] | None = None,
    size: int = 11,
    sigma: Real[ArrayLike, ""] = 1.5,
    k1: Real[ArrayLike, ""] = 0.01,
    k2: Real[ArrayLike, ""] = 0.03,
    mask: Bool[ArrayLike, "*batch height width"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Multi-scale SSIM loss: 1 less a product of similarities at several resolutions.

    When to use: instead of `ssim`, when images are seen at several distances, or their resolutions
    differ.

    $$\ell = 1 - \left( l_M \, c_M \right)^{w_M} \prod_{j=1}^{M-1} c_j^{w_j}$$

    with the means over all windows of the terms of `ssim`, $c$ of contrast and structure alone and
    $l c$ of both; each level has half the resolution of the one before. The product is taken for
    each channel. A level with a similarity of at most 0 makes the loss 1, with gradient 0. On
    images of odd size the last row or column is dropped before a level is halved. With a `mask`, a
    pixel of a coarser level is the mean of those that it keeps, and counts as much as they do.

    Args:
        prediction: The predicted images; five levels of 11 pixels need sides of 176.
        target: The true images.
        data_range: The difference of the largest and the smallest possible value.
        level_weights: The power of each level, from the finest; those of the paper if None.
        size: The side of the window, an odd number of pixels.
        sigma: The standard deviation of the Gaussian window, in pixels.
        k1: The constant of the means, relative to the data range.
        k2: The constant of the variances.
        mask: False leaves a pixel out.

    Returns:
        The loss of each image, from 0 to 1.

    Raises:
        ValueError: If an image is too small for the window on the coarsest level.

    Example:
        >>> flat = jnp.ones((22, 22, 1))
        >>> ms_ssim(0.5 * flat, flat, level_weights=[0.5, 0.5])
        Array(0.1055639, dtype=float32)

    References:
        Wang, Simoncelli and Bovik, *Multiscale Structural Similarity for Image Quality
        Assessment*, 2003.
    """
    powers = jnp.asarray(_LEVELS if level_weights is None else level_weights, prediction.dtype)
    _check_window("ms_ssim", prediction.shape, size, powers.shape[0])
    weights = _window(size, jnp.asarray(sigma, prediction.dtype))
    constants = _constants(k1, k2, data_range, prediction.dtype)
    masks = () if mask is None else (mask,)
    return _ms_ssim_by_gradient(prediction, target, powers, weights, *constants, *masks)
