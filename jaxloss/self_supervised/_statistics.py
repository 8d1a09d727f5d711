"""Means, variances and covariances of the features of a set, on one device or over a mesh.

Arrays are `(*batch, set, dim)`. With `axis_name` the set is split over devices, inside
`shard_map`; sums over it cross them before anything is squared or divided.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from jaxloss._core.typing import AxisName
from jaxloss._memory.deferred import map_rows, materialize


def over_devices(x: Array, axis_name: AxisName | None) -> Array:
    return x if axis_name is None else lax.psum(x, axis_name)


class Sample(NamedTuple):
    """Which examples of a set count, and where the others of them are.

    Attributes:
        mask: False leaves an example out; None if all count.
        axis_name: The mesh axes over which the set is split; None if it is whole.
    """

    mask: Bool[Array, "*batch set"] | None
    axis_name: AxisName | None = None

    def over_devices(self, x: Array) -> Array:
        """The sum of an array over the devices that share the set."""
        return over_devices(x, self.axis_name)

    def kept(self, x: Float[Array, "*batch set dim"]) -> Float[Array, "*batch set dim"]:
        """The array with 0 for the examples that do not count."""
        return x if self.mask is None else jnp.where(self.mask[..., None], x, 0)

    def number(self, x: Float[Array, "*batch set dim"]) -> Float[Array, "*batch"]:
        """How many examples count, on all devices."""
        ones = jnp.ones_like(x[..., 0])
        ones = ones if self.mask is None else jnp.where(self.mask, ones, 0)
        return self.over_devices(jnp.sum(ones, axis=-1))

    def total(self, x: Float[Array, "*batch set dim"]) -> Float[Array, "*batch dim"]:
        """The sum over the examples that count."""
        return self.over_devices(jnp.sum(self.kept(x), axis=-2))

    def mean(self, x: Float[Array, "*batch set dim"]) -> Float[Array, "*batch dim"]:
        """The mean over the examples that count; 0 of none."""
        return self.total(x) / jnp.maximum(self.number(x), 1)[..., None]

    def centred(self, x: Float[Array, "*batch set dim"]) -> Float[Array, "*batch set dim"]:
        """The array less its mean; 0 for the examples that do not count."""
        return self.kept(x - self.mean(x)[..., None, :])

    def variance(
        self, centred: Float[Array, "*batch set dim"], ddof: int = 0
    ) -> Float[Array, "*batch dim"]:
        """The variance of a centred array; 0 of one example."""
        free = jnp.maximum(self.number(centred) - ddof, 1)
        return self.total(jnp.square(centred)) / free[..., None]


class _OffDiagonal(NamedTuple):
    """Sums of squares of some rows of a cross-product but for its diagonal, for `map_rows`."""

    axis_name: AxisName | None

    def __call__(self, shared: list[Any], rows: list[Any]) -> Array:
        (y,), (features, places) = shared, rows
        products = jnp.einsum("...in,...nj->...ij", features, y, precision=lax.Precision.HIGHEST)
        products = over_devices(products, self.axis_name)
        own = places[:, None] == jnp.arange(y.shape[-1], dtype=places.dtype)[None, :]
        own = jnp.expand_dims(own, range(y.ndim - 2))
        return jnp.sum(jnp.where(own, 0, jnp.square(products)), axis=-1)


def off_diagonal_squares(
    fun_name: str,
    x: Float[Array, "*batch set dim"],
    y: Float[Array, "*batch set dim"],
    axis_name: AxisName | None,
    chunk_size: int | None,
) -> Float[Array, "*batch"]:
    r"""The sum of the squares of $x^\top y$ off its diagonal.

    Of a set that is at most half as large as its dimension it is computed from the Gram matrices,
    $\lVert x^\top y \rVert^2 = \langle x x^\top, y y^\top \rangle$, of the size of the set. The
    diagonal, which is subtracted, is then the smaller part. Elsewhere rows are computed,
    `chunk_size` at a time, without their own entry.
    """
    size, dim = x.shape[-2:]
    if axis_name is None and isinstance(size, int) and dim >= 2 * size:
        grams = (
            jnp.einsum("...ic,...jc->...ij", z, z, precision=lax.Precision.HIGHEST) for z in (x, y)
        )
        of_all = jnp.sum(next(grams) * next(grams), axis=(-2, -1))
        return of_all - jnp.sum(jnp.square(jnp.sum(x * y, axis=-2)), axis=-1)
    function, features = _OffDiagonal(axis_name), jnp.swapaxes(x, -1, -2)
    rows = map_rows(fun_name, function, chunk_size, [y], [features], batch=x.ndim - 2)
    total = jnp.sum(materialize(rows), axis=-1)
    # A loop over chunks loses that all devices have the same: their mean states it.
    return total if axis_name is None else lax.pmean(total, axis_name)
