"""Losses of the spread of embeddings on the sphere: KoLeo, alignment and uniformity."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction, SetReduction
from jaxloss._memory.deferred import map_rows, materialize
from jaxloss.contrastive._similarities import Masks, product, squared_distances, whole
from jaxloss.domains import nonnegative_number
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._elementwise import power_or_zero
from jaxloss.numerics._labels import is_label
from jaxloss.traits import nonnegative, scale_invariant, symmetric, zero_at_match


def _koleo_rows(shared: list[Any], rows: list[Any]) -> Array:
    directions, in_set, epsilon = shared
    own, rows_in_set, places = rows
    others = Masks.of_rows(places, directions, rows_in_set, in_set).others
    cosines = lax.stop_gradient(jnp.where(others, product(own, directions), -jnp.inf))
    nearest = is_label(cosines, jnp.argmax(cosines, axis=-1).astype(jnp.int32))
    # A product with ones and zeros, whose transpose is a product again.
    neighbour = jnp.einsum(
        "...ij,...jd->...id",
        nearest.astype(own.dtype),
        directions,
        precision=lax.Precision.HIGHEST,
    )
    return -jnp.log(numerics.distance(own, neighbour) + epsilon)


@loss(scale_invariant, epsilon=nonnegative_number)
def koleo(
    embeddings: Real[ArrayLike, "*batch set dim"],
    *,
    epsilon: Real[ArrayLike, ""] = 1e-8,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""KoLeo: minus the log of the distance to the nearest neighbour, on the sphere.

    When to use: a small weight (0.1 in DINOv2) beside another loss, to spread the embeddings of a
    batch evenly.

    $$\ell_i = -\log\Bigl(\min_{j \neq i} \lVert \hat z_i - \hat z_j \rVert + \epsilon\Bigr)$$

    The estimator of the differential entropy of Kozachenko and Leonenko, up to constants. An
    example and its neighbour are both moved. Two equal embeddings have the loss $-\log \epsilon$
    and, since no direction leads apart, gradient 0. The neighbour is found by cosines, and its
    distance then computed from the difference.

    Args:
        embeddings: Embeddings, one set per example of the batch; of any length.
        epsilon: Added to distances.
        chunk_size: How many examples to compare with all others at once; None for all of them.
        mask: False leaves an entry out of the vector of an example, or of all vectors.
        where: False takes an example out of the set.

    Returns:
        The loss of each example; 0 for one that is alone.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> koleo([[1.0, 0.0], [-2.0, 0.0]])  # -log 2
        Array([-0.6931472, -0.6931472], dtype=float32)

    References:
        Sablayrolles et al., *Spreading Vectors for Similarity Search*, 2019.
        Oquab et al., *DINOv2: Learning Robust Visual Features without Supervision*, 2024.
    """
    units = numerics.normalize(embeddings)
    ones = jnp.ones(units.shape[:-1], bool) if where is None else where
    is_alone = jnp.sum(ones, axis=-1, keepdims=True, dtype=jnp.int32) < 2
    name = "jaxloss.self_supervised.koleo"
    shared = [whole(units, -2), whole(where), jnp.asarray(epsilon, units.dtype)]
    values = map_rows(name, _koleo_rows, chunk_size, shared, [units, where], batch=units.ndim - 2)
    return jnp.where(is_alone, 0, materialize(values))


@loss(nonnegative, scale_invariant, symmetric, zero_at_match, power=above_zero)
def alignment(
    left: Real[ArrayLike, "*batch dim"],
    right: Real[ArrayLike, "*batch dim"],
    *,
    power: Real[ArrayLike, ""] = 2.0,
    mask: Bool[ArrayLike, "*batch dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Alignment: a power of the distance of two views on the sphere.

    When to use: with `uniformity`, the two terms into which a contrastive loss separates.

    $$\ell = \lVert \hat x - \hat z \rVert^\alpha$$

    With the power 2 it is twice the cosine distance. Equal directions have gradient 0.

    Args:
        left: Embeddings of one view, of any length.
        right: Embeddings of the other view.
        power: The power $\alpha$ of the distance.
        mask: False leaves an entry out of the vectors of an example, or of all examples.

    Returns:
        The loss of each pair, from 0 to $2^\alpha$.

    Example:
        >>> alignment([[1.0, 0.0]], [[0.0, 2.0]])
        Array([2.], dtype=float32)

    References:
        Wang and Isola, *Understanding Contrastive Representation Learning*, 2020.
    """
    squared = 2 * numerics.cosine_distance(left, right)
    if isinstance(power, int | float) and power == 2:
        return squared
    return power_or_zero(squared, power / 2)


def _log_mean_exp(x: Array, where: Array, number: Array) -> Array:
    """The log of the mean of exponentials, which are at most 1; 0 of none.

    Where most of them are 1, the distance of the mean from 1 has the digits.
    """
    short = jnp.sum(jnp.where(where, numerics.expm1(jnp.where(where, x, 0)), 0), axis=-1) / number
    is_near = short > -0.5
    far = numerics.logsumexp(x, where=where)
    far = jnp.where(is_near, 0, far) - jnp.log(number)
    return jnp.where(is_near, jnp.log1p(jnp.where(is_near, short, 0)), far)


def _uniformity_rows(shared: list[Any], rows: list[Any]) -> Array:
    directions, in_set, sharpness, number = shared
    own, rows_in_set, places = rows
    others = Masks.of_rows(places, directions, rows_in_set, in_set).others
    exponents = -sharpness * squared_distances(own, directions)
    return _log_mean_exp(exponents, others, number[..., None])


@loss(scale_invariant, sharpness=above_zero)
def uniformity(
    embeddings: Real[ArrayLike, "*batch set dim"],
    *,
    sharpness: Real[ArrayLike, ""] = 2.0,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Uniformity: the log of the mean Gaussian kernel over all pairs of a set, on the sphere.

    When to use: with `alignment`; or to measure how evenly embeddings cover the sphere.

    $$\ell = \log \frac{1}{n (n - 1)} \sum_{i \neq j} e^{-t \lVert \hat z_i - \hat z_j \rVert^2}$$

    It is 0 where all embeddings have one direction, and about $-2 t$ where they are spread over
    many dimensions. Both ends keep their digits.

    Args:
        embeddings: Embeddings, one set per example of the batch; of any length.
        sharpness: The sharpness $t$ of the kernel; 2 in the paper.
        chunk_size: How many examples to compare with all others at once; None for all of them.
        mask: False takes an example out of the set.

    Returns:
        The loss of each set, at most 0; 0 for a set of one.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> uniformity([[1.0, 0.0], [0.0, 3.0]], sharpness=1.0)
        Array(-2., dtype=float32)

    References:
        Wang and Isola, *Understanding Contrastive Representation Learning*, 2020.
    """
    units = numerics.normalize(embeddings)
    keep = jnp.ones(units.shape[:-1], bool) if mask is None else mask
    number = jnp.sum(keep, axis=-1, dtype=jnp.int32).astype(units.dtype)
    shared = [whole(units, -2), whole(mask), jnp.asarray(sharpness, units.dtype)]
    shared.append(jnp.maximum(number - 1, 1))
    name, batch = "jaxloss.self_supervised.uniformity", units.ndim - 2
    of_rows = map_rows(name, _uniformity_rows, chunk_size, shared, [units, mask], batch=batch)
    return _log_mean_exp(materialize(of_rows), keep, jnp.maximum(number, 1))
