"""The cosine of the difference of two angles."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import on_gpu
from jaxloss.numerics._double_double import at_dd, two_sum


@jax.custom_jvp
def one_minus_cos(location: Array, target: Array, peaked: Array) -> Array:
    """1 - cos(target - location) where `peaked`, else without the 1.

    The rounding error of the angle matters near the zeros of sine and cosine.
    """
    error = two_sum(target, -location)
    chord = at_dd(lambda x: jnp.sin(0.5 * x), error)  # 2 chord**2 is 1 - cos
    return jnp.where(peaked, 2 * jnp.square(chord), -at_dd(jnp.cos, error))


def _sine(location: Array, target: Array) -> Array:
    return at_dd(jnp.sin, two_sum(target, -location))


def _sine_of_opposite(location: Array, target: Array) -> Array:
    return -at_dd(jnp.sin, two_sum(location, -target))


def _slope(location: Array, target: Array) -> Array:
    """sin(target - location), on GPU by the opposite angle.

    It then shares no sine or cosine with the value, which XLA would write to memory.
    """
    return on_gpu(_sine_of_opposite, _sine, location, target)


one_minus_cos.defjvps(
    lambda location_dot, _, location, target, _peaked: -_slope(location, target) * location_dot,
    lambda target_dot, _, location, target, _peaked: _slope(location, target) * target_dot,
    None,
)
