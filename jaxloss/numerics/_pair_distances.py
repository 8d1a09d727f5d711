"""All pairs of two sets of vectors: inner products, squared distances, the farthest and nearest."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from jaxloss._xla import fits_in_cache, not_folded, on_cpu
from jaxloss.numerics._elementwise import relu
from jaxloss.numerics._ordered import rows_at
from jaxloss.numerics._vectors import squared_distance

_Vectors = Float[Array, "*batch rows dim"]
_Pairs = Bool[Array, "*batch rows columns"]
_Places = Int[Array, "*batch rows"]


def product(x: _Vectors, y: Float[Array, "*batch columns dim"]) -> Array:
    """All inner products of two sets, in full precision.

    Accelerators would round to bfloat16, and a cosine that is 0.4 % off is, at a temperature of
    0.07, a probability that is 6 % off.
    """
    return jnp.einsum("...id,...jd->...ij", x, y, precision=lax.Precision.HIGHEST)


def _expanded_squares(x: Array, y: Array) -> Array:
    """`|x|^2 + |y|^2 - 2 <x, y>` of all pairs."""
    squares = jnp.sum(jnp.square(x), -1)[..., :, None] + jnp.sum(jnp.square(y), -1)[..., None, :]
    return squares - 2 * product(x, y)


def squared_distances_by_product(
    x: _Vectors, y: Float[Array, "*batch columns dim"]
) -> Float[Array, "*batch rows columns"]:
    """All squared distances, without an array of all differences.

    The error is a last place of the squared lengths: the vectors should lie around the origin, and
    the sum of all distances matter, not the smallest.
    """
    return relu(_expanded_squares(x, y))


@jax.custom_jvp
def squared_distances(
    x: _Vectors, y: Float[Array, "*batch columns dim"], _centre: Float[Array, "*batch 1 dim"]
) -> Float[Array, "*batch rows columns"]:
    """All squared distances of two sets, which lie around a centre.

    The value is that of the differences, so that close points keep their digits; the derivative is
    that of a product of matrices, which needs no array of all differences. The centre is constant.
    """
    return _squares_of_differences(x, y)


def _squares_of_differences(x: Array, y: Array) -> Array:
    return jnp.sum(jnp.square(x[..., :, None, :] - y[..., None, :, :]), axis=-1)


# A full rule: it reduces over the dimensions.
@squared_distances.defjvp
def _squared_distances_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    x, y, centre = primals
    centred = (x - centre, y - centre)
    return squared_distances(*primals), jax.jvp(_expanded_squares, centred, tangents[:2])[1]


def _by_differences(
    x: Array, y: Array, _centre: Array, far: _Pairs, near: _Pairs
) -> tuple[_Places, _Places]:
    squares = _squares_of_differences(x, y)
    farthest = jnp.argmax(jnp.where(far, squares, -jnp.inf), axis=-1)
    nearest = jnp.argmin(jnp.where(near, squares, jnp.inf), axis=-1)
    return farthest.astype(jnp.int32), nearest.astype(jnp.int32)


def _best_by_bounds(x: Array, y: Array, bounds: Array, sign: int) -> tuple[_Places, Array]:
    """Of each row the place of the largest `sign * |x - y|^2`, and whether that is certain.

    Args:
        x: The rows.
        y: The columns.
        bounds: A number that `sign * |x - y|^2` does not exceed; -inf at a pair that is left out.
        sign: 1 or -1.
    """
    # Else XLA on CPU would sort the rows for each of the slices below.
    tops, places = not_folded(tuple(lax.top_k(bounds, 3)))
    first, second = places[..., 0], places[..., 1]
    one, other = (
        jnp.where(top > -jnp.inf, sign * squared_distance(x, rows_at(y, place)), -jnp.inf)
        for top, place in ((tops[..., 0], first), (tops[..., 1], second))
    )
    is_second = (other > one) | ((other == one) & (second < first))
    return jnp.where(is_second, second, first), jnp.all(tops[..., 2] <= jnp.maximum(one, other))


def _by_product(
    x: Array, y: Array, centre: Array, far: _Pairs, near: _Pairs
) -> tuple[_Places, _Places]:
    info, centred = jnp.finfo(x.dtype), (x - centre, y - centre)
    lengths = (jnp.sum(jnp.square(z), -1) + info.tiny / info.eps for z in centred)
    rows, columns = ((x.shape[-1] + 4) * info.eps * length for length in lengths)
    error = rows[..., :, None] + columns[..., None, :]  # of the products and of the lengths
    squares = _expanded_squares(*centred)
    farthest, is_certain = _best_by_bounds(x, y, jnp.where(far, squares + error, -jnp.inf), 1)
    nearest, is_too = _best_by_bounds(x, y, jnp.where(near, error - squares, -jnp.inf), -1)
    return lax.cond(
        is_certain & is_too,
        lambda *_: (farthest, nearest),
        _by_differences,
        *(x, y, centre, far, near),
    )


def farthest_and_nearest(
    x: _Vectors,
    y: Float[Array, "*batch columns dim"],
    centre: Float[Array, "*batch 1 dim"],
    far: _Pairs,
    near: _Pairs,
) -> tuple[_Places, _Places]:
    """The place of the farthest of some columns, and of the nearest of others, for each row.

    The vectors lie around a centre. On CPU a product of matrices bounds all distances, and the two
    pairs with the best bounds are compared by their differences. All pairs are if a third one might
    be better: points that are close to each other, and far from the centre.
    `benchmarks/families.py`: all differences take nine times as long as the product.
    """
    x, y, centre = lax.stop_gradient((x, y, centre))
    number = y.shape[-2]
    if fits_in_cache(y) or not isinstance(number, int) or number < 3:  # or a symbolic size
        return _by_differences(x, y, centre, far, near)
    return on_cpu(_by_product, _by_differences, x, y, centre, far, near)
