"""All pairs of two sets of vectors: inner products, squared distances, the farthest and nearest."""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from jaxloss._xla import fits_in_cache, not_folded, on_cpu, on_each
from jaxloss.numerics._elementwise import relu
from jaxloss.numerics._ordered import rows_at
from jaxloss.numerics._vectors import normalize, scaled_norm, squared_distance

_Vectors = Float[Array, "*batch rows dim"]
_Pairs = Bool[Array, "*batch rows columns"]
_Places = Int[Array, "*batch rows"]


def product(
    x: _Vectors,
    y: Float[Array, "*batch columns dim"],
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> Float[Array, "*batch rows columns"]:
    """All inner products of two sets, in full precision unless another is given.

    Accelerators would round to bfloat16, and a cosine that is 0.4 % off is, at a temperature of
    0.07, a probability that is 6 % off.
    """
    return jnp.einsum("...id,...jd->...ij", x, y, precision=precision)


class Short(NamedTuple):
    """Vectors as products of bfloat16 vectors, which are those that came, with numbers.

    Both have derivatives, since JAX does not use rules inside a scan that it differentiates twice.

    Attributes:
        vectors: The vectors in bfloat16.
        factor: What each is multiplied by.
    """

    vectors: _Vectors
    factor: Float[Array, "*batch rows"]

    def over_factor(self, x: _Vectors) -> _Vectors:
        """Vectors divided by the factor; 0 where it is 0."""
        factor = self.factor[..., None]
        return jnp.where(factor == 0, 0, x / jnp.where(factor == 0, 1, factor))

    def in_dtype_of(self, x: _Vectors) -> _Vectors:
        """The bfloat16 vectors, with the derivative of x over the factor, which is not rounded."""
        return _with_derivative_of(self.over_factor(x), self.vectors.astype(x.dtype))


class Vectors(NamedTuple):
    """A set of vectors.

    Attributes:
        values: The vectors, by which inner products are differentiated.
        short: The same by bfloat16 vectors; None if they did not come in bfloat16.
    """

    values: _Vectors
    short: Short | None = None

    @classmethod
    def of(cls, x: _Vectors, in_bfloat16: bool) -> Self:
        """The vectors x, whether or not they came in bfloat16."""
        if not in_bfloat16:
            return cls(x)
        # Not of an entry of each vector: it may have none.
        return cls(x, Short(x.astype(jnp.bfloat16), jnp.ones_like(jnp.sum(x, -1))))

    @classmethod
    def directions(cls, x: _Vectors, in_bfloat16: bool) -> Self:
        """Vectors of length 1 in the directions of x, whether or not they came in bfloat16."""
        units = normalize(x)
        if not in_bfloat16:
            return cls(units)
        length, power = scaled_norm(x, -1)
        factor = jnp.where(length == 0, 0, 1 / jnp.where(length == 0, 1, length))
        return cls(units, Short((x / power).astype(jnp.bfloat16), factor[..., 0]))

    @property
    def in_bfloat16(self) -> bool:
        """Whether the vectors came in bfloat16."""
        return self.short is not None


def inner_products(x: Vectors, y: Vectors) -> Float[Array, "*batch rows columns"]:
    """All inner products of two sets; on GPU and TPU of what came in bfloat16, if all did.

    A product of float32 matrices is six products of bfloat16 ones on TPU, and takes no tensor cores
    on GPU. Of bfloat16 numbers one product is exact but for its sum in float32. The gradient, which
    is rounded to bfloat16, is a product of them with cotangents of 16 bits on TPU and 11 on GPU.
    """
    if x.short is None or y.short is None:
        return product(x.values, y.values)
    return _products_of_short(x.values, y.values, x.short, y.short)


@jax.custom_jvp
def _products_of_short(x: Array, y: Array, short_x: Short, short_y: Short) -> Array:
    return on_cpu(_of_values, _of_short, x, y, short_x, short_y)


def _of_values(x: Array, y: Array, _short_x: Short, _short_y: Short) -> Array:
    return product(x, y)


def _of_short(x: Array, _y: Array, rows: Short, columns: Short) -> Array:
    sides = rows.vectors, columns.vectors
    products = jnp.einsum("...id,...jd->...ij", *sides, preferred_element_type=x.dtype)
    return rows.factor[..., :, None] * products * columns.factor[..., None, :]


# A full rule: it reduces over the dimensions.
@_products_of_short.defjvp
def _products_of_short_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    forms = _tangent_of_values, _tangent_at_once, _tangent_apart
    return _products_of_short(*primals), on_each(*forms, *tangents[:2], *primals)


def _tangent_of_values(x_dot: Array, y_dot: Array, x: Array, y: Array, *_: Short) -> Array:
    return product(x_dot, y) + product(x, y_dot)


def _tangents_of_short(
    x_dot: Array, y_dot: Array, x: Array, y: Array, rows: Short, columns: Short
) -> tuple[Array, Array, Array, Array]:
    """The tangents by rows and by columns, over the factors of both, and these factors."""
    high = lax.Precision.HIGH
    by_rows = product(rows.over_factor(x_dot), columns.in_dtype_of(y), high)
    by_columns = product(rows.in_dtype_of(x), columns.over_factor(y_dot), high)
    return by_rows, by_columns, rows.factor[..., :, None], columns.factor[..., None, :]


def _tangent_at_once(*arguments: Any) -> Array:
    """On GPU: the transpose writes one matrix of cotangents, which is multiplied with both sets."""
    by_rows, by_columns, of_rows, of_columns = _tangents_of_short(*arguments)
    return of_rows * (by_rows + by_columns) * of_columns


def _tangent_apart(*arguments: Any) -> Array:
    """On TPU: cotangents are computed in each of the two products; if shared they are written."""
    by_rows, by_columns, of_rows, of_columns = _tangents_of_short(*arguments)
    return of_rows * (by_rows * of_columns) + (of_rows * by_columns) * of_columns


# A rule, since XLA would compute the difference of a formula that adds it, from x in float32.
@jax.custom_jvp
def _with_derivative_of(_x: Array, value: Array) -> Array:
    """The value, with the derivative of x, which equals it but for rounding."""
    return value


_with_derivative_of.defjvps(lambda x_dot, out, x, value: x_dot, None)


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
    if not isinstance(x.shape[-1], int):  # a symbolic size
        return _in_one_sum(x, y)
    return on_each(_in_one_sum, _in_one_sum, _in_a_loop, x, y)


def _in_one_sum(x: Array, y: Array) -> Array:
    return jnp.sum(jnp.square(x[..., :, None, :] - y[..., None, :, :]), axis=-1)


# Of 1024 x 1024 pairs of 512 dimensions one sum takes 5.3 million cycles of TPU v5e, since it is
# along the lanes; in a loop over 8, 16, 32, 64 and 128 dimensions 2.4, 1.5, 1.3, 1.3 and 1.3.
_DIMENSIONS = 32


def _in_a_loop(x: Array, y: Array) -> Array:
    """Some dimensions at a time, so that pairs are in the lanes."""

    def parts(z: Array) -> Array:
        missing = -z.shape[-1] % _DIMENSIONS
        z = jnp.pad(z, [(0, 0)] * (z.ndim - 1) + [(0, missing)])
        return jnp.moveaxis(z, -1, 0).reshape(
            z.shape[-1] // _DIMENSIONS, _DIMENSIONS, *z.shape[:-1]
        )

    def step(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        rows, columns = part
        for i in range(_DIMENSIONS):
            difference = rows[i][..., :, None] - columns[i][..., None, :]
            total = total + jnp.square(difference)
        return total, None

    start = lax.full_like(x[..., :, None, 0] - y[..., None, :, 0], 0)
    return lax.scan(step, start, (parts(x), parts(y)))[0]


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
    `benchmarks/families.py`: all differences take at least six times as long as the product.
    """
    x, y, centre = lax.stop_gradient((x, y, centre))
    number = y.shape[-2]
    if fits_in_cache(y) or not isinstance(number, int) or number < 3:  # or a symbolic size
        return _by_differences(x, y, centre, far, near)
    return on_cpu(_by_product, _by_differences, x, y, centre, far, near)
