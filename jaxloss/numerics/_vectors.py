"""Norms, directions, angles and distances of vectors of any length, the zero vector included."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss._xla import (
    barrier,
    on_cpu,
    on_each,
    on_gpu,
    recompute,
    rounded,
    unshared,
    unshared_on_gpu,
)
from jaxloss.numerics._derivatives import is_moving, jvp_of_moving
from jaxloss.numerics._dtypes import half_in_float32
from jaxloss.numerics._elementwise import quotient, sqrt
from jaxloss.numerics._reductions import Axis, fused_sums
from jaxloss.numerics._unit_rows import distance_and_slope_of_rows, fits_in_kernel


@half_in_float32
def norm(x: Array, axis: Axis = -1, where: Array | None = None, keepdims: bool = False) -> Array:
    r"""The Euclidean norm $\sqrt{\sum_i x_i^2}$ without overflow or underflow; gradient 0 at 0.

    `jnp.linalg.norm` squares the entries (inf at 1e20, 0 at 1e-30 in float32), and its gradient at
    0 is NaN. Here the entries are divided by a power of 2 first. An infinite norm has gradient 0.

    >>> f"{norm(jnp.array([3e30, 4e30])):.6g}", jax.grad(norm)(jnp.zeros(2)).tolist()
    ('5e+30', [0.0, 0.0])
    """
    out = _norm(x if where is None else jnp.where(where, x, 0), axis)
    return out if keepdims else jnp.squeeze(out, axis)


def norm_of(function: Callable[..., Array], *arrays: Array, axis: Axis = -1) -> Array:
    """The norm of a function of arrays, which takes many operations an entry.

    On GPU and TPU it is evaluated again for the gradient: XLA would write it. Defined at module
    level: JAX caches compiled functions by its identity.
    """
    return jnp.squeeze(_norm_of(function, True, axis, *arrays), axis)


def length_and_is_zero(x: Array) -> tuple[Array, Array]:
    """The norm of rows, 1 for those that are 0, and which ones are: for a logarithm.

    On CPU these are found first, in a loop that vectorizes where that of a plain difference may
    not; elsewhere they are known from the norm, and the rows are read once.
    """
    return on_cpu(_zeros_first, _zeros_of_norm, x)


def _zeros_first(x: Array) -> tuple[Array, Array]:
    is_zero = jnp.all(x == 0, axis=-1)
    return norm(jnp.where(is_zero[..., None], 1, x)), is_zero


def _zeros_of_norm(x: Array) -> tuple[Array, Array]:
    length = norm(x)
    return jnp.where(length == 0, 1, length), length == 0


@half_in_float32
def normalize(x: Array, axis: Axis = -1) -> Array:
    r"""$x / \lVert x \rVert$ without overflow; the zero vector is returned as it is, gradient 0.

    >>> normalize(jnp.array([[0.0, -1e30], [0.0, 0.0]])).tolist()
    [[0.0, -1.0], [0.0, 0.0]]
    """
    return _normalize(x, axis)


# The rules of this module reduce over an axis, which `defjvps` does not cover.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalize(x: Array, axis: Axis) -> Array:
    return _direction(x, *scaled_norm(x, axis))


@_normalize.defjvp
def _normalize_jvp(axis: Axis, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    out, length = _normalize(x, axis), _norm(x, axis)
    across = x_dot - out * jnp.sum(out * x_dot, axis, keepdims=True)
    return out, jnp.where(length == 0, 0, quotient(across, jnp.where(length == 0, 1, length)))


def power_of_two_near(size: Array) -> Array:
    """A power of 2 by which numbers up to this size can be divided and then squared.

    It is constant under differentiation.

    >>> float(power_of_two_near(jnp.float32(3e30))) == 2.0**100
    True
    """
    info = jnp.finfo(size.dtype)
    half = size / 2  # so as not to round up to inf
    power = lax.reduce_precision(half, exponent_bits=info.nexp, mantissa_bits=0)
    return lax.stop_gradient(jnp.clip(power, info.tiny, 2.0 ** (info.maxexp - 2)))


def scaled_norm(x: Array, axis: Axis) -> tuple[Array, Array]:
    """The norm of the vector over a power of 2, and that power: near its norm or largest entry."""
    return _scaled_norm_of(_identity, False, axis, x)


def _identity(x: Array) -> Array:
    return x


def _scaled_norm_of(
    function: Callable[..., Array], again_on_tpu: bool, axis: Axis, *arrays: Array
) -> tuple[Array, Array]:
    return on_each(*_norm_forms(function, again_on_tpu, axis), *arrays)


@functools.cache
def _norm_forms(
    function: Callable[..., Array], again_on_tpu: bool, axis: Axis
) -> tuple[Callable[..., Any], ...]:
    """`_scaled_norm_of` on each platform: one object each, so that eager calls compile once."""

    def by_largest(*arrays: Array) -> tuple[Array, Array]:
        return _norm_by_largest(axis, function(*arrays))

    def by_magnitudes(*arrays: Array) -> tuple[Array, Array]:
        return _norm_by_magnitudes(axis, *(function(*arrays),) * 3)

    def of_copies(*arrays: Array) -> tuple[Array, Array]:
        return _norm_by_magnitudes(axis, *(function(*unshared(arrays, i)) for i in (2, 3, 4)))

    return by_largest, of_copies, of_copies if again_on_tpu else by_magnitudes


def _norm_by_largest(axis: Axis, x: Array) -> tuple[Array, Array]:
    # If x is constant, XLA would square x and the power separately and divide inf by inf.
    x = barrier(x)
    power = power_of_two_near(jnp.max(jnp.abs(x), axis, keepdims=True, initial=0))
    return sqrt(jnp.sum(jnp.square(x / power), axis, keepdims=True)), power


def magnitudes(dtype: Any) -> tuple[float, float, float, float]:
    """From and up to which numbers are large and small, and what brings their squares in range.

    Sums of squares of the numbers between the two neither overflow nor lose digits to underflow.
    """
    exponent = jnp.finfo(dtype).maxexp
    large, small = 2.0 ** (25 * exponent // 64), 2.0 ** -(3 * exponent // 8)
    return large, small, 2.0 ** -(39 * exponent // 64), 2.0 ** (5 * exponent // 8)


def _norm_by_magnitudes(axis: Axis, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """Large, ordinary and small entries are summed separately, times a constant each (Blue).

    The three arguments are the same array.

    The largest entry is not needed first. Sums fused over one array cost nothing on GPU and TPU,
    a second pass over memory does; on CPU it is the other way round.
    """
    exponent = jnp.finfo(x.dtype).maxexp
    large, small, down, up = magnitudes(x.dtype)
    squares = (
        jnp.square(jnp.where(jnp.abs(x) > large, x * down, 0)),
        jnp.square(jnp.where((jnp.abs(y) > large) | (jnp.abs(y) < small), 0, y)),
        jnp.square(jnp.where(jnp.abs(z) < small, z * up, 0)),
    )
    of_large, of_others, of_small = (jnp.sum(term, axis, keepdims=True) for term in squares)
    has_large, has_others = of_large > 0, ~(of_others == 0)
    # XLA would multiply the two constants first, and their product underflows.
    total = jnp.where(
        has_large,
        of_large + rounded(of_others * down) * down,
        jnp.where(has_others, of_others + rounded(of_small * (1 / up)) * (1 / up), of_small),
    )
    scale = jnp.where(has_large, 1 / down, jnp.where(has_others, 1, 1 / up)).astype(x.dtype)
    length = sqrt(total)
    info = jnp.finfo(x.dtype)
    # So large that a change of a zero vector, divided by it, does not overflow.
    least = float(info.tiny) * 2.0 ** (info.nmant + 3)
    near = lax.reduce_precision(length, exponent_bits=info.nexp, mantissa_bits=0)
    near = lax.stop_gradient(jnp.clip(near, least / scale, 2.0 ** (exponent - 2) / scale))
    return length / near, near * scale


def _direction(x: Array, length: Array, power: Array) -> Array:
    """The vector over its norm, which is the product of the last two; a zero vector stays 0."""
    # Recomputed, since XLA would write the factors of all rows to memory to share them with the
    # norm. A length of 0 is replaced by inf, so that the derivative is 0 too.
    return x / recompute(power, x) / jnp.where(length == 0, jnp.inf, length)


def _norm(x: Array, axis: Axis) -> Array:
    return _norm_of(_identity, False, axis, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _norm_of(
    function: Callable[..., Array], again_on_tpu: bool, axis: Axis, *arrays: Array
) -> Array:
    length, power = _scaled_norm_of(function, again_on_tpu, axis, *arrays)
    return length * power


@functools.partial(_norm_of.defjvp, symbolic_zeros=True)
def _norm_of_jvp(
    function: Callable[..., Array],
    again_on_tpu: bool,
    axis: Axis,
    primals: Any,
    tangents: Any,
) -> tuple[Array, Array]:
    x, x_dot = jvp_of_moving(function, unshared_on_gpu(primals, on_tpu=again_on_tpu), tangents)
    unit = on_cpu(*_slope_forms(function, again_on_tpu, axis), x, *primals)
    out = _norm_of(function, again_on_tpu, axis, *primals)
    return out, jnp.sum(unit * x_dot, axis, keepdims=True)


@functools.cache
def _slope_forms(
    function: Callable[..., Array], again_on_tpu: bool, axis: Axis
) -> tuple[Callable[..., Array], ...]:
    """The derivative of the norm on CPU and elsewhere, where the norm is not computed again."""

    def of_finite(x: Array, *arrays: Array) -> Array:
        infinite = jnp.isinf(_norm_of(function, again_on_tpu, axis, *arrays))
        return _normalize(jnp.where(infinite, 0, x), axis)

    def of_norm(x: Array, *arrays: Array) -> Array:
        return _slope(axis, x, *_scaled_norm_of(function, again_on_tpu, axis, *arrays))

    return of_finite, of_norm


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _slope(_axis: Axis, x: Array, length: Array, power: Array) -> Array:
    return jnp.where(jnp.isinf(length * power), 0, _direction(x, length, power))


@_slope.defjvp
def _slope_jvp(axis: Axis, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Norm and power are functions of x: the change of x alone tells that of the direction.
    x_dot, out, size = tangents[0], _slope(axis, *primals), primals[1] * primals[2]
    is_constant = (size == 0) | jnp.isinf(size)
    across = x_dot - out * jnp.sum(out * x_dot, axis, keepdims=True)
    return out, jnp.where(is_constant, 0, quotient(across, jnp.where(is_constant, 1, size)))


@half_in_float32
def cosine_similarity(x: Array, y: Array, axis: Axis = -1) -> Array:
    r"""The cosine of the angle between two vectors; 0, with gradient 0, if one of them is 0.

    $$\frac{\langle x, y \rangle}{\lVert x \rVert \lVert y \rVert} \in [-1, 1]$$

    The value is clipped to [-1, 1], which rounding may exceed; the gradient is not.

    >>> f"{cosine_similarity(jnp.array([3e30, 4e30]), jnp.array([1e-30, 0.0])):.6f}"
    '0.600000'
    """
    cosine = _cosine(x, y, axis)
    return cosine + lax.stop_gradient(jnp.clip(cosine, -1, 1) - cosine)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cosine(x: Array, y: Array, axis: int) -> Array:
    return jnp.sum(_normalize(x, axis) * _normalize(y, axis), axis)


@functools.partial(_cosine.defjvp, symbolic_zeros=True)
def _cosine_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # That of the product of two directions would write the gradient in each direction first.
    directions = [_normalize(x, axis) for x in primals]
    cosine = jnp.sum(directions[0] * directions[1], axis, keepdims=True)
    change = jnp.zeros_like(cosine)
    for x, x_dot, one, other in zip(primals, tangents, directions, directions[::-1], strict=True):
        if not isinstance(x_dot, SymbolicZero):
            length = _norm(x, axis)
            slope = quotient(other - cosine * one, jnp.where(length == 0, jnp.inf, length))
            change = change + jnp.sum(slope * x_dot, axis, keepdims=True)
    return jnp.squeeze(cosine, axis), jnp.squeeze(change, axis)


@half_in_float32
def cosine_distance(x: Array, y: Array, axis: Axis = -1) -> Array:
    r"""One minus the cosine, accurate for small angles; 1, with gradient 0, if a vector is 0.

    It is half the squared distance between the two directions, or 2 minus that to the opposite of
    one of them, whichever distance is smaller: a cosine near 1 is rounded, and the gradient of the
    larger distance cancels.

    >>> f"{cosine_distance(jnp.array([1.0, 0.0]), jnp.array([1e20, 1e16])):.6g}"
    '5e-09'
    """
    return _cosine_distance(x, y, axis)


@functools.partial(jax.jit, static_argnums=2)
def _distance_of_directions(x: Array, y: Array, axis: int) -> tuple[Any, ...]:
    """The cosine distance and its intermediate results.

    These are: the scaled norm and the power of each vector, whether neither vector is 0, the sign
    of their cosine, and half the squared distance from one direction to that sign times the other.
    """
    norms = scaled_norm(x, axis), scaled_norm(y, axis)
    nonzero = (norms[0][0] != 0) & (norms[1][0] != 0)
    p, q = _direction(x, *norms[0]), _direction(y, *norms[1])
    # Of equal vectors, a fused multiply-add would leave the rounding error of a quotient.
    same = (norms[0][0] == norms[1][0]) & (norms[0][1] == norms[1][1])
    terms = jnp.where(same & (x == y), 0, jnp.square(p - q)), jnp.square(p + q)
    apart, opposed = fused_sums(*(jnp.moveaxis(term, axis, -1) for term in terms))
    apart, opposed = jnp.expand_dims(apart, axis), jnp.expand_dims(opposed, axis)
    side = jnp.where(opposed < apart, -1, 1).astype(x.dtype)
    half = jnp.where(nonzero, 0.5 * jnp.where(side > 0, apart, opposed), 0)
    out = jnp.where(nonzero, jnp.where(side > 0, half, 2 - half), 1)
    return jnp.squeeze(out, axis), norms, nonzero, side, half


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cosine_distance(x: Array, y: Array, axis: int) -> Array:
    return _distance_of_directions(x, y, axis)[0]


@functools.partial(_cosine_distance.defjvp, symbolic_zeros=True)
def _cosine_distance_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    moving = [i for i, x_dot in enumerate(tangents) if is_moving(x_dot)]
    if len(moving) == 1 and fits_in_kernel(primals[0], axis):
        # Two derivatives would be a kernel each, which reads both vectors.
        (at,) = moving
        first = primals[at], primals[1 - at]
        out, slope = on_gpu(distance_and_slope_of_rows, _first_slope_form(axis), *first)
        return out, jnp.sum(slope * tangents[at], axis)
    out, *slopes = _distance_and_slopes(primals[0], primals[1], axis)
    change = (jnp.sum(slopes[i] * tangents[i], axis) for i in moving)
    return out, functools.reduce(operator.add, change)


def _distance_and_slopes(x: Array, y: Array, axis: int) -> tuple[Array, Array, Array]:
    out, norms, nonzero, side, half = _distance_of_directions(x, y, axis)
    p, q = (_direction(recompute(x), *norm) for x, norm in zip((x, y), norms, strict=True))
    slopes = []
    for one, other, (length, power) in zip((p, q), (q, p), norms, strict=True):
        # `half * one` is the component along `one`, which does not change the angle.
        across = side * ((one - side * other) - half * one)
        slope = quotient(across, jnp.where(nonzero, length, 1) * power)
        slopes.append(jnp.where(nonzero, slope, 0))
    return out, slopes[0], slopes[1]


@functools.cache
def _first_slope_form(axis: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    return lambda x, y: _distance_and_slopes(x, y, axis)[:2]


@half_in_float32
def squared_distance(x: Array, y: Array, axis: Axis = -1) -> Array:
    r"""$\sum_i (x_i - y_i)^2$, from the differences, so that close points keep their digits.

    >>> float(squared_distance(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])))
    25.0
    """
    return jnp.sum(jnp.square(x - y), axis)


@half_in_float32
def distance(x: Array, y: Array, axis: Axis = -1) -> Array:
    """The Euclidean distance, without overflow; gradient 0 where the points coincide.

    >>> float(distance(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])))
    5.0
    """
    return jnp.squeeze(_norm_of(jnp.subtract, False, axis, x, y), axis)


def pairwise_difference(x: Array, y: Array | None = None) -> Array:
    """All differences `x[..., i] - y[..., j]`, at [..., i, j]; y is x unless given.

    >>> pairwise_difference(jnp.array([1.0, 4.0])).tolist()
    [[0.0, -3.0], [3.0, 0.0]]
    """
    return x[..., :, None] - (x if y is None else y)[..., None, :]
