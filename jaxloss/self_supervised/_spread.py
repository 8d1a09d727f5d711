"""Losses of the spread of embeddings on the sphere: KoLeo, alignment and uniformity."""

from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import all_in_bfloat16
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction, SetReduction
from jaxloss._core.typing import AxisName
from jaxloss._memory.deferred import map_rows, materialize
from jaxloss._memory.mesh import places_from, ring_scan
from jaxloss.contrastive._similarities import Masks, whole, whole_set
from jaxloss.domains import nonnegative_number
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._elementwise import power_or_zero, uncontracted
from jaxloss.numerics._online_logsumexp import ExpSum, finite_top
from jaxloss.numerics._ordered import rows_at
from jaxloss.numerics._pair_distances import (
    Vectors,
    inner_products,
    squared_distances_by_product,
)
from jaxloss.self_supervised._statistics import over_devices
from jaxloss.traits import nonnegative, scale_invariant, symmetric, zero_at_match


def _nearest(own: Vectors, directions: Vectors, others: Array) -> tuple[Array, Array]:
    """The largest cosine of each row with the others, and the neighbour that has it."""
    cosines = lax.stop_gradient(jnp.where(others, inner_products(own, directions), -jnp.inf))
    places = jnp.argmax(cosines, axis=-1).astype(jnp.int32)
    return jnp.max(cosines, axis=-1), rows_at(directions.values, places)


def _koleo_rows(shared: list[Any], rows: list[Any]) -> Array:
    directions, in_set, epsilon = shared
    *own, rows_in_set, places = rows
    own = Vectors(*own)
    others = Masks.of_rows(places, directions.values, rows_in_set, in_set).others
    _, neighbour = _nearest(own, directions, others)
    return -jnp.log(numerics.distance(own.values, neighbour) + epsilon)


def _nearest_of_all_devices(own: Array, keep: Array, axis_name: AxisName) -> Array:
    """The neighbour of each row of this device among those of all devices."""

    def tile(state: Any, carry: Any, owner: Array, constants: Any) -> Any:
        (best, neighbour), (own, keep) = state, constants
        places = places_from(owner, own.shape[-2], axis_name)
        others = Masks.of_rows(places, carry[0], keep, carry[1]).others
        top, other = _nearest(Vectors(own), Vectors(carry[0]), others)
        nearer = top > best
        neighbour = jnp.where(nearer[..., None], other, neighbour)
        return (jnp.where(nearer, top, best), neighbour), carry

    start = lax.full_like(own[..., 0], -jnp.inf), lax.full_like(own, 0)
    (_, neighbour), _ = ring_scan(tile, start, (own, keep), (own, keep), axis_name)
    return neighbour


def _check_one_split(fun_name: str, chunk_size: int | None, axis_name: AxisName | None) -> None:
    if chunk_size is not None and axis_name is not None:
        message = (
            f"{fun_name}: `chunk_size` is {chunk_size!r} with `axis_name`, expected None: "
            f"embeddings are compared with those of one device at a time."
        )
        raise ValueError(message)


@loss(scale_invariant, epsilon=nonnegative_number)
def koleo(
    embeddings: Real[ArrayLike, "*batch set dim"],
    *,
    epsilon: Real[ArrayLike, ""] = 1e-8,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    axis_name: AxisName | None = None,
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
    distance then computed from the difference. On GPU the gradient of an example that is the
    neighbour of several others is a sum in no given order: its last place may differ between runs.

    Args:
        embeddings: Embeddings, one set per example of the batch; of any length.
        epsilon: Added to distances.
        chunk_size: How many examples to compare with all others at once; None for all of them.
        mask: False leaves an entry out of the vector of an example, or of all vectors.
        axis_name: Mesh axes over which the set is split, inside `shard_map`: the neighbour is
            that among all devices, whose embeddings are passed on from one to the next.
        where: False takes an example out of the set.

    Returns:
        The loss of each example, of this device with `axis_name`: `reduction="parts"` and
        `.psum(axis_name).value` give the mean of all. 0 for an example that is alone.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1, or given with `axis_name`.

    Example:
        >>> koleo([[1.0, 0.0], [-2.0, 0.0]])  # -log 2
        Array([-0.6931472, -0.6931472], dtype=float32)

    References:
        Sablayrolles et al., *Spreading Vectors for Similarity Search*, 2019.
        Oquab et al., *DINOv2: Learning Robust Visual Features without Supervision*, 2024.
    """
    name = "jaxloss.self_supervised.koleo"
    _check_one_split(name, chunk_size, axis_name)
    vectors = Vectors.directions(embeddings, all_in_bfloat16())
    units = uncontracted(vectors.values)  # equal ones have no distance
    ones = jnp.ones(units.shape[:-1], bool) if where is None else where
    number = jnp.sum(ones, axis=-1, keepdims=True, dtype=jnp.int32)
    is_alone = over_devices(number, axis_name) < 2
    if axis_name is not None:
        neighbour = _nearest_of_all_devices(units, ones, axis_name)
        return jnp.where(is_alone, 0, -jnp.log(numerics.distance(units, neighbour) + epsilon))
    vectors = vectors._replace(values=units)
    shared = [whole_set(vectors), whole(where), jnp.asarray(epsilon, units.dtype)]
    rows = [*vectors, where]
    values = map_rows(name, _koleo_rows, chunk_size, shared, rows, batch=units.ndim - 2)
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


class _Kernels(NamedTuple):
    """Sums of exponentials that are at most 1.

    Attributes:
        short: The sum of exp(x) - 1: where most of them are 1, it has the digits of the mean.
        total: The sum of exp(x).
    """

    short: Array
    total: ExpSum

    @classmethod
    def of(cls, x: Array, where: Array) -> "_Kernels":
        inside = jnp.where(where, x, 0)
        short = jnp.sum(jnp.where(where, numerics.expm1(inside), 0), axis=-1)
        return cls(short, ExpSum.of(jnp.where(where, x, -jnp.inf), where))

    def merge(self, more: "_Kernels") -> "_Kernels":
        return _Kernels(self.short + more.short, self.total.merge(more.total))

    def psum(self, axis_name: AxisName) -> "_Kernels":
        return _Kernels(lax.psum(self.short, axis_name), self.total.psum(axis_name))

    def log_mean(self, number: Array) -> Array:
        """The log of the mean; 0 of none."""
        short, (top, rest) = self.short / number, self.total
        is_near = short > -0.5
        far = finite_top(top) + jnp.log(jnp.where(is_near, 1, rest) / number)
        return jnp.where(is_near, jnp.log1p(jnp.where(is_near, short, 0)), far)


def _uniformity_rows(shared: list[Any], rows: list[Any]) -> Array:
    directions, in_set, sharpness, number = shared
    own, rows_in_set, places = rows
    others = Masks.of_rows(places, directions, rows_in_set, in_set).others
    exponents = -sharpness * squared_distances_by_product(own, directions)
    return _Kernels.of(exponents, others).log_mean(number[..., None])


def _kernels_of_all_devices(own: Array, keep: Array, sharpness: Array, axis_name: Any) -> _Kernels:
    """The kernels of each row of this device with the others of all devices."""

    def tile(state: Any, carry: Any, owner: Array, constants: Any) -> Any:
        own, keep, sharpness = constants
        places = places_from(owner, own.shape[-2], axis_name)
        others = Masks.of_rows(places, carry[0], keep, carry[1]).others
        exponents = -sharpness * squared_distances_by_product(own, carry[0])
        return state.merge(_Kernels.of(exponents, others)), carry

    nothing = lax.full_like(own[..., 0], 0)
    start = _Kernels(nothing, ExpSum.over_nothing(nothing))
    return ring_scan(tile, start, (own, keep), (own, keep, sharpness), axis_name)[0]


@loss(scale_invariant, sharpness=above_zero)
def uniformity(
    embeddings: Real[ArrayLike, "*batch set dim"],
    *,
    sharpness: Real[ArrayLike, ""] = 2.0,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set"] | None = None,
    axis_name: AxisName | None = None,
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
        axis_name: Mesh axes over which the set is split, inside `shard_map`: the pairs are those
            of all devices, whose embeddings are passed on from one to the next.

    Returns:
        The loss of each set, at most 0; 0 for a set of one. With `axis_name` that of all devices.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1, or given with `axis_name`.

    Example:
        >>> uniformity([[1.0, 0.0], [0.0, 3.0]], sharpness=1.0)
        Array(-2., dtype=float32)

    References:
        Wang and Isola, *Understanding Contrastive Representation Learning*, 2020.
    """
    name, batch = "jaxloss.self_supervised.uniformity", embeddings.ndim - 2
    _check_one_split(name, chunk_size, axis_name)
    units = numerics.normalize(embeddings)
    keep = jnp.ones(units.shape[:-1], bool) if mask is None else mask
    number = over_devices(jnp.sum(keep, axis=-1, dtype=jnp.int32), axis_name).astype(units.dtype)
    sharpness, others = jnp.asarray(sharpness, units.dtype), jnp.maximum(number - 1, 1)
    total = over_devices(jnp.sum(jnp.where(keep[..., None], units, 0), -2), axis_name)
    centre = lax.stop_gradient(total / jnp.maximum(number, 1)[..., None])
    units = units - centre[..., None, :]  # distances of embeddings that have collapsed keep digits
    if axis_name is not None:
        of_rows = _kernels_of_all_devices(units, keep, sharpness, axis_name)
        means = _Kernels.of(of_rows.log_mean(others[..., None]), keep).psum(axis_name)
        return means.log_mean(jnp.maximum(number, 1))
    shared = [whole(units, -2), whole(mask), sharpness, others]
    of_rows = map_rows(name, _uniformity_rows, chunk_size, shared, [units, mask], batch=batch)
    return _Kernels.of(materialize(of_rows), keep).log_mean(jnp.maximum(number, 1))
