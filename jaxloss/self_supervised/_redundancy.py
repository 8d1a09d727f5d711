"""Losses against redundant features: Barlow Twins and VICReg."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss._core.typing import AxisName
from jaxloss.domains import nonnegative_number
from jaxloss.self_supervised._statistics import Sample, off_diagonal_squares
from jaxloss.traits import nonnegative


def _standardized(sample: Sample, x: Array, epsilon: Array) -> tuple[Array, Array]:
    """Features of mean 0 and variance 1, and the share of epsilon in what they are divided by."""
    centred = sample.centred(x)
    variance = sample.variance(centred)
    total = variance + epsilon
    is_zero = total == 0
    total = jnp.where(is_zero, 1, total)
    return centred / numerics.sqrt(total)[..., None, :], jnp.where(is_zero, 1, epsilon / total)


@loss(nonnegative, redundancy=nonnegative_number, epsilon=nonnegative_number)
def barlow_twins(
    left: Real[ArrayLike, "*batch set dim"],
    right: Real[ArrayLike, "*batch set dim"],
    *,
    redundancy: Real[ArrayLike, ""] = 5e-3,
    epsilon: Real[ArrayLike, ""] = 1e-5,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set"] | None = None,
    axis_name: AxisName | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Barlow Twins: the cross-correlation of the features of two views is to be the identity.

    When to use: self-supervised training without negatives, momentum or stopped gradients, with
    wide embeddings.

    $$\ell = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \neq j} C_{ij}^2, \qquad
      C_{ij} = \frac1n \sum_b \hat x_{bi} \hat z_{bj}$$

    Hats are features less their mean over the set, divided by the root of their biased variance
    plus epsilon: batch normalization, as in the authors' code and lightly. A feature that is
    constant has correlation 0, and finite derivatives. $1 - C_{ii}$ is computed from the
    difference of the two views. The sum is large, about the dimension; some divide it by 40.

    Args:
        left: Embeddings of one view, one set per example of the batch.
        right: Embeddings of the other view of each.
        redundancy: The weight $\lambda$ of the off-diagonal terms.
        epsilon: Added to variances.
        chunk_size: How many rows of the correlations to compute at once; None for all. Sets of at
            most half the dimension take no array of that size in any case.
        mask: False takes an example out of the set.
        axis_name: Mesh axes over which the set is split, inside `shard_map`: its statistics are
            those of all devices.

    Returns:
        The loss of each set; with `axis_name` that of all devices.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> x = [[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]
        >>> barlow_twins(x, [[a, a] for a, _ in x], redundancy=0.5, epsilon=0.0)
        Array(1.5, dtype=float32)

    References:
        Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*, 2021.
    """
    sample = Sample(mask, axis_name)
    x, epsilon_of_x = _standardized(sample, left, epsilon)
    z, epsilon_of_z = _standardized(sample, right, epsilon)
    # The mean of x^2 is 1 less the share of epsilon, so that nothing is subtracted from 1.
    short = 0.5 * (sample.mean(jnp.square(x - z)) + epsilon_of_x + epsilon_of_z)
    name, number = "jaxloss.self_supervised.barlow_twins", jnp.maximum(sample.number(x), 1)
    squares = off_diagonal_squares(name, x / number[..., None, None], z, axis_name, chunk_size)
    return jnp.sum(jnp.square(short), axis=-1) + redundancy * squares


@loss(
    nonnegative,
    invariance=nonnegative_number,
    variance=nonnegative_number,
    covariance=nonnegative_number,
    epsilon=nonnegative_number,
)
def vicreg(
    left: Real[ArrayLike, "*batch set dim"],
    right: Real[ArrayLike, "*batch set dim"],
    *,
    invariance: Real[ArrayLike, ""] = 25.0,
    variance: Real[ArrayLike, ""] = 25.0,
    covariance: Real[ArrayLike, ""] = 1.0,
    epsilon: Real[ArrayLike, ""] = 1e-4,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set"] | None = None,
    axis_name: AxisName | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""VICReg: two views agree, each feature varies, and no two features are correlated.

    When to use: as `barlow_twins`, with terms that can be weighted one by one, and branches that
    need not be alike.

    $$\ell = \mu_i\, \frac{1}{n d} \sum (x - z)^2
      + \tfrac12 \sum_{u = x, z} \Bigl(\mu_v\, \frac1d \sum_i [1 - \sqrt{C_{ii}(u) + \epsilon}]_+
      + 2 \mu_c\, \frac1d \sum_{i \neq j} C_{ij}(u)^2\Bigr)$$

    $C(u)$ is the covariance of the features of one view, over $n - 1$. The variance term is a mean
    of both views, the covariance term their sum, as in the authors' code and in lightly. Epsilon
    is inside the root: a feature that is constant has a finite gradient, which is 0.

    Args:
        left: Embeddings of one view, one set per example of the batch.
        right: Embeddings of the other view of each.
        invariance: The weight of the squared difference of the views.
        variance: The weight of the hinges on standard deviations.
        covariance: The weight of the squared covariances.
        epsilon: Added to variances.
        chunk_size: How many rows of the covariances to compute at once; None for all. Sets of at
            most half the dimension take no array of that size in any case.
        mask: False takes an example out of the set.
        axis_name: Mesh axes over which the set is split, inside `shard_map`: its statistics are
            those of all devices.

    Returns:
        The loss of each set; with `axis_name` that of all devices.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> x = [[1.0, 1.0], [-1.0, -1.0]]
        >>> vicreg(x, x)  # both covariances of both views are 2
        Array(8., dtype=float32)

    References:
        Bardes et al., *VICReg: Variance-Invariance-Covariance Regularization*, 2022.
    """
    sample, dim = Sample(mask, axis_name), left.shape[-1]
    total = invariance * jnp.mean(sample.mean(jnp.square(left - right)), axis=-1)
    for x in (left, right):
        centred = sample.centred(x)
        deviation = numerics.sqrt(sample.variance(centred, ddof=1) + epsilon)
        total = total + 0.5 * variance * jnp.mean(numerics.relu(1 - deviation), axis=-1)
        scaled = centred / jnp.maximum(sample.number(x) - 1, 1)[..., None, None]
        name = "jaxloss.self_supervised.vicreg"
        squares = off_diagonal_squares(name, scaled, centred, axis_name, chunk_size)
        total = total + covariance * squares / dim
    return total
