r"""By how much one distance exceeds another, when both are large and almost the same.

$$\lVert x - y \rVert - \lVert x - z \rVert =
  \frac{\langle z - y,\; (x - y) + (x - z) \rangle}{\lVert x - y \rVert + \lVert x - z \rVert}$$

Of two points that are close to each other and far from x, the left side subtracts two rounded
numbers; the right side has the difference of the points themselves. It also takes one pass over
memory for all three sums, and one before it for the sizes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss import numerics
from jaxloss._xla import recompute
from jaxloss.numerics._vectors import power_of_two_near


def _largest(x: Array, y: Array) -> tuple[Array, Array]:
    """The largest entry of each row, at least 0: of both in one pass, see `numerics.sums`."""
    zero = jnp.zeros((), x.dtype)
    return lax.reduce(
        (x, y), (zero, zero), lambda a, b: tuple(map(lax.max, a, b)), dimensions=(x.ndim - 1,)
    )


@jax.custom_jvp
def gap_of_distances(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """|x - y| - |x - z| and both distances, of points of any size; slopes at distance 0 are 0."""
    powers = list(map(power_of_two_near, _largest(jnp.abs(x - y), jnp.abs(x - z))))
    power = jnp.maximum(*powers)
    # Differences are quicker computed again, in each pass, than held.
    x, y, z, *scales = recompute((x, y, z, *(1 / p[..., None] for p in (*powers, power))))
    close, far = x - y, x - z
    to_close, to_far, across = numerics.fused_sums(
        jnp.square(close * scales[0]),
        jnp.square(far * scales[1]),
        ((z - y) * scales[2]) * ((close + far) * scales[2]),
    )
    to_close, to_far = numerics.sqrt(to_close), numerics.sqrt(to_far)
    both = to_close * (powers[0] / power) + to_far * (powers[1] / power)
    to_close, to_far = to_close * powers[0], to_far * powers[1]
    gap = across / jnp.where(both == 0, 1, both) * power
    return jnp.where(jnp.abs(across) < jnp.inf, gap, to_close - to_far), to_close, to_far


@gap_of_distances.defjvp
def _gap_of_distances_jvp(primals: Any, tangents: Any) -> Any:
    found = gap_of_distances(*primals)
    _, to_close, to_far = found
    (x_dot, y_dot, z_dot), (x, y, z, *_) = tangents, recompute((*primals, to_close))
    close = jnp.sum(_unit(x - y, to_close) * (x_dot - y_dot), axis=-1)
    far = jnp.sum(_unit(x - z, to_far) * (x_dot - z_dot), axis=-1)
    return found, (close - far, close, far)


def _unit(difference: Array, distance: Array) -> Array:
    dead = ((distance == 0) | (distance == jnp.inf))[..., None]
    length = jnp.where(dead, 1, distance[..., None])
    return jnp.where(dead, 0, numerics.quotient(difference, length))
