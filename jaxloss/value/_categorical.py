"""Distributions of targets, for critics that predict the probability of each of some values."""

import math

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr

from jaxloss import numerics
from jaxloss._core.spec import ArrayLike


def _atoms(fun_name: str, name: str, support: ArrayLike, least: int = 2) -> Array:
    support = jnp.asarray(support)
    if support.ndim != 1 or support.shape[0] < least:
        message = (
            f"{fun_name}: `{name}` has shape {support.shape}, expected (bins,) of at least {least}."
        )
        raise ValueError(message)
    return support.astype(jnp.promote_types(support.dtype, jnp.float32))


def two_hot(targets: ArrayLike, support: ArrayLike) -> Array:
    r"""Two-hot encoding: each target as weights of the two atoms around it, with its mean.

    $$p_k = \frac{z_{k+1} - y}{z_{k+1} - z_k}, \qquad p_{k+1} = 1 - p_k, \qquad
      z_k \le y \le z_{k+1}$$

    Targets outside the support are moved to its nearest end.

    Args:
        targets: `(*batch)`.
        support: `(bins,)`, the atoms in increasing order, evenly spaced or not.

    Returns:
        Distributions `(*batch, bins)`, labels for `classification.softmax_cross_entropy`; the
        value is read off as `jnp.sum(probabilities * support, -1)`.

    Raises:
        ValueError: If the support is not one row of at least two atoms.

    Example:
        >>> two_hot([0.25, 7.0], [-1.0, 0.0, 1.0])
        Array([[0.  , 0.75, 0.25],
               [0.  , 0.  , 1.  ]], dtype=float32)

    References:
        Hafner et al., *Mastering Diverse Domains through World Models*, 2023.
    """
    support = _atoms("jaxloss.value.two_hot", "support", support)
    targets = jnp.asarray(targets, support.dtype)
    clipped = jnp.clip(targets, support[0], support[-1])
    lower = jnp.clip(jnp.searchsorted(support, clipped, side="right") - 1, 0, len(support) - 2)
    share = (clipped - support[lower]) / (support[lower + 1] - support[lower])
    bins = jnp.arange(len(support), dtype=lower.dtype)
    is_lower, is_upper = lower[..., None] == bins, lower[..., None] + 1 == bins
    return jnp.where(is_lower, 1 - share[..., None], jnp.where(is_upper, share[..., None], 0))


def hl_gauss(targets: ArrayLike, edges: ArrayLike, *, width: ArrayLike = 0.75) -> Array:
    r"""Histogram of a Gaussian around each target (HL-Gauss), for categorical critics.

    $$p_k = \frac{\Phi\left(\frac{e_{k+1} - y}{\sigma}\right) - \Phi\left(\frac{e_k - y}{\sigma}
      \right)}{\Phi\left(\frac{e_K - y}{\sigma}\right) - \Phi\left(\frac{e_0 - y}{\sigma}\right)}$$

    $\sigma$ is `width` times the mean width of a bin. Differences are taken in log space on the
    side where both terms are small, so that a target many $\sigma$ outside the edges has the right
    distribution, where the formula as written is 0 / 0.

    Args:
        targets: `(*batch)`.
        edges: `(bins + 1,)`, the edges of the bins in increasing order.
        width: Standard deviation in widths of a bin; the paper recommends 0.75.

    Returns:
        Distributions `(*batch, bins)`, labels for `classification.softmax_cross_entropy`; the
        value is read off with the middles of the bins.

    Raises:
        ValueError: If the edges are not one row of at least two numbers.

    Example:
        >>> jnp.round(hl_gauss([0.0, 50.0], [-1.5, -0.5, 0.5, 1.5]), 2).tolist()
        [[0.24, 0.52, 0.24], [0.0, 0.0, 1.0]]

    References:
        Farebrother et al., *Stop Regressing: Training Value Functions via Classification*, 2024.
    """
    edges = _atoms("jaxloss.value.hl_gauss", "edges", edges)
    targets = jnp.asarray(targets, edges.dtype)
    sigma = width * (edges[-1] - edges[0]) / (len(edges) - 1)
    z = (edges - targets[..., None]) / sigma
    low, high = z[..., :-1], z[..., 1:]
    # Both tails are small on the left of 0; on the right their mirror images are.
    mirrored = low + high > 0
    near, far = jnp.where(mirrored, -low, high), jnp.where(mirrored, -high, low)
    log_near, log_far = log_ndtr(near), log_ndtr(far)
    gap = log_far - log_near
    log_mass = log_near + numerics.log1mexp(jnp.where(gap < 0, gap, -math.inf))
    return numerics.softmax(log_mass)


def project(probabilities: ArrayLike, from_support: ArrayLike, to_support: ArrayLike) -> Array:
    r"""Projection of a categorical distribution to other atoms (C51).

    $$p'_k = \sum_j p_j\, h_k\left(\mathrm{clip}(z_j, z'_0, z'_{K-1})\right)$$

    $h_k$ is the triangle of linear interpolation around atom $k$, so that the mean is kept for
    atoms inside the support.

    Args:
        probabilities: `(*batch, from_bins)`.
        from_support: `(from_bins,)` or `(*batch, from_bins)`: where that mass lies, such as
            `reward + discount * support`.
        to_support: `(bins,)`, the atoms in increasing order, evenly spaced or not.

    Returns:
        Distributions `(*batch, bins)`.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> project([0.5, 0.5], [0.5, 9.0], [0.0, 1.0, 2.0])
        Array([0.25, 0.25, 0.5 ], dtype=float32)

    References:
        Bellemare et al., *A Distributional Perspective on Reinforcement Learning*, 2017.
    """
    name = "jaxloss.value.project"
    to_support = _atoms(name, "to_support", to_support)
    probabilities = jnp.asarray(probabilities, to_support.dtype)
    from_support = jnp.asarray(from_support, to_support.dtype)
    if from_support.shape not in (probabilities.shape, probabilities.shape[-1:]):
        message = (
            f"{name}: `from_support` has shape {from_support.shape}, expected "
            f"{probabilities.shape[-1:]} or {probabilities.shape} to fit `probabilities`."
        )
        raise ValueError(message)
    from_support = jnp.broadcast_to(from_support, probabilities.shape)
    return jnp.sum(probabilities[..., None] * two_hot(from_support, to_support), axis=-2)
