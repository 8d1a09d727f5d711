"""Directions of rows that XLA on GPU computes in the kernel that uses them: it reads a row once.

XLA makes one kernel (in Triton) of a row, a reduction of it, and what is computed from both, if
these are operations of one or two arguments and a reduction has one use. A select, a bound from
both sides, a factor that is not known, or a power that is used again for the norm would end it.
"""

import functools

import jax.numpy as jnp
from jax import Array, lax

from jaxloss.numerics._elementwise import quotient

_LONGEST = 1 << 14  # Longer rows would be divided over several kernels.


def fits_in_kernel(x: Array, axis: int) -> bool:
    """Whether an axis is that of rows which are computed in one kernel."""
    size = x.shape[axis]
    return axis in (-1, x.ndim - 1) and isinstance(size, int) and 0 < size <= _LONGEST


_sum = functools.partial(jnp.sum, axis=-1, keepdims=True)


def _unit(x: Array, copy: int = 0) -> Array:
    """The row over its norm; nothing is shared with copies of another number, from 0.

    It is shorter if no entry is a normal number, and 0 if all are 0.
    """
    info = jnp.finfo(x.dtype)
    size = jnp.max(jnp.abs(x * 2.0**-copy), axis=-1, keepdims=True)
    power = lax.reduce_precision(size / 4, exponent_bits=info.nexp, mantissa_bits=0)
    x = x * (1 / lax.stop_gradient(jnp.maximum(power, info.tiny)))
    # A bound beside the root, since XLA would divide by a root by multiplying with its reciprocal:
    # of equal rows a fused multiply-add would leave the rounding error of the product.
    return x / jnp.maximum(jnp.sqrt(jnp.maximum(_sum(jnp.square(x)), 0.25)), 0.5)


def _length(x: Array, unit: Array) -> Array:
    """The norm of a row, which is its product with its direction, also where terms underflow."""
    size, unit = jnp.abs(x), jnp.abs(unit)
    small = 2.0 ** -(jnp.finfo(x.dtype).maxexp // 2)
    scaled = jnp.minimum(size, small) * (1 / small)
    return jnp.maximum(_sum(unit * size), _sum(unit * scaled) * small)


def _are_units(p: Array, q: Array) -> Array:
    return ~((_sum(p * p) < 0.5) | (_sum(q * q) < 0.5))  # those of NaN are


def _squared_distance(p: Array, q: Array) -> Array:
    # Of equal entries a fused multiply-add may leave the rounding error of a quotient.
    return _sum(jnp.square(p - q) * (p != q).astype(p.dtype))


def _side_and_half(p: Array, q: Array) -> tuple[Array, Array]:
    """See `_distance_of_directions` of `_vectors`."""
    apart, opposed = _squared_distance(p, q), _squared_distance(p, -q)
    is_apart = opposed < apart
    return jnp.where(is_apart, -1, 1).astype(p.dtype), 0.5 * jnp.where(is_apart, opposed, apart)


def _distance(x: Array, y: Array) -> Array:
    """The cosine distance of rows; 1 if one of them is 0."""
    p, q = _unit(x), _unit(y)
    side, half = _side_and_half(p, q)
    out = jnp.where(_are_units(p, q), jnp.where(side > 0, half, 2 - half), 1)
    return jnp.squeeze(out, -1)


def distance_and_slope_of_rows(x: Array, y: Array) -> tuple[Array, Array]:
    """The distance and its derivative in x, each in a kernel that reads both rows."""
    return _distance(x, y), _slope(x, y)


def _slope(x: Array, y: Array) -> Array:
    one, other = _unit(x, 1), _unit(y, 1)
    side, half = _side_and_half(one, other)
    known = _are_units(one, other)
    across = side * ((one - side * other) - half * one)
    return jnp.where(known, quotient(across, jnp.where(known, _length(x, one), 1)), 0)
