r"""The difference of two distances, accurate where they are large and nearly equal.

$$\lVert x - y \rVert - \lVert x - z \rVert =
  \frac{\langle z - y,\; (x - y) + (x - z) \rangle}{\lVert x - y \rVert + \lVert x - z \rVert}$$

If y and z are close to each other and far from x, the left side subtracts two rounded numbers; the
right side uses the difference of y and z.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss import numerics
from jaxloss._xla import on_cpu, recompute
from jaxloss.numerics._vectors import magnitudes, norm_of, power_of_two_near


def _max_of_each(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    # Not a lambda: JAX compiles an eager reduction once per function.
    return tuple(map(lax.max, a, b))


def _largest(x: Array, y: Array) -> tuple[Array, Array]:
    """The largest entry of each row of two arrays, at least 0, in one pass over memory."""
    zero = jnp.zeros((), x.dtype)
    return lax.reduce((x, y), (zero, zero), _max_of_each, dimensions=(x.ndim - 1,))


def _by_largest(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """The largest differences first, then the sums over differences that are scaled by them."""
    powers = list(map(power_of_two_near, _largest(jnp.abs(x - y), jnp.abs(x - z))))
    power = jnp.maximum(*powers)
    # The differences are recomputed in each pass, which is faster than storing them.
    x, y, z, *scales = recompute((x, y, z, *(1 / p[..., None] for p in (*powers, power))))
    close, far = x - y, x - z
    close2, far2, dot = numerics.fused_sums(
        jnp.square(close * scales[0]),
        jnp.square(far * scales[1]),
        ((z - y) * scales[2]) * ((close + far) * scales[2]),
    )
    close_norm, far_norm = numerics.sqrt(close2), numerics.sqrt(far2)
    both = close_norm * (powers[0] / power) + far_norm * (powers[1] / power)
    close_norm, far_norm = close_norm * powers[0], far_norm * powers[1]
    gap = dot / jnp.where(both == 0, 1, both) * power
    return jnp.where(jnp.abs(dot) < jnp.inf, gap, close_norm - far_norm), close_norm, far_norm


def _by_three_scales(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """Each sum at three scales, of which the one that fits the longer distance is used."""
    close, far = x - y, x - z
    close_norm, far_norm = norm_of(jnp.subtract, x, y), norm_of(jnp.subtract, x, z)
    large, small, down, up = magnitudes(x.dtype)
    across, along = z - y, close + far
    at_down, at_1, at_up = (
        jnp.sum((across * scale) * (along * scale), axis=-1) for scale in (down, 1.0, up)
    )
    longer = jnp.maximum(close_norm, far_norm)
    is_large, is_small = longer > large, longer < small
    scale = jnp.where(is_large, down, jnp.where(is_small, up, 1)).astype(x.dtype)
    dot = jnp.where(is_large, at_down, jnp.where(is_small, at_up, at_1))
    both = close_norm * scale + far_norm * scale
    gap = dot / jnp.where(both == 0, 1, both) / scale
    return jnp.where(jnp.abs(dot) < jnp.inf, gap, close_norm - far_norm), close_norm, far_norm


@jax.custom_jvp
def gap_of_distances(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """|x - y| - |x - z| and both distances, at any scale; derivatives at distance 0 are 0.

    On GPU and TPU a second pass over memory takes longer than the sums at three scales.
    """
    return on_cpu(_by_largest, _by_three_scales, x, y, z)


@gap_of_distances.defjvp
def _gap_of_distances_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> Any:
    # A full rule: all three results share the two directions, which are recomputed, not stored.
    found = gap_of_distances(*primals)
    _, close_norm, far_norm = found
    (x_dot, y_dot, z_dot), (x, y, z, *_) = tangents, recompute((*primals, close_norm))
    # The opposite differences share no array with those of the value, which would be kept.
    close_dot = jnp.sum(_direction(y - x, close_norm) * (y_dot - x_dot), axis=-1)
    far_dot = jnp.sum(_direction(z - x, far_norm) * (z_dot - x_dot), axis=-1)
    return found, (close_dot - far_dot, close_dot, far_dot)


def _direction(difference: Array, distance: Array) -> Array:
    """A difference divided by its length; 0 where the length is 0 or infinite."""
    dead = ((distance == 0) | (distance == jnp.inf))[..., None]
    length = jnp.where(dead, 1, distance[..., None])
    return jnp.where(dead, 0, numerics.quotient(difference, length))
