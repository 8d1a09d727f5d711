"""The cosine of the difference of two angles."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss._xla import on_gpu
from jaxloss.numerics._double_double import DD, two_sum

_HALF_PI_ERROR = 6.123233995736766e-17  # pi / 2 less the float64 nearest to it


def _turned(x: DD, sign: int) -> DD:
    """x plus or minus pi / 2."""
    rounded = np.asarray(0.5 * math.pi, x.hi.dtype)
    rest = (0.5 * math.pi - float(rounded)) + _HALF_PI_ERROR
    return x + DD(*(jnp.full_like(x.hi, sign * word) for word in (float(rounded), rest)))


@jax.custom_jvp
def _sin_dd(x: DD) -> Array:
    """sin(x), to second order in the low-order word."""
    # The cosine of the correction need not be exact, and its sign only where it is not close to 0.
    # A sine takes as long as fifty other operations.
    sine, half_turns = jnp.sin(x.hi), jnp.round(x.hi * (1 / math.pi))
    odd = half_turns - 2 * jnp.floor(0.5 * half_turns)
    cosine = (1 - 2 * odd) * jnp.sqrt(jnp.maximum(1 - sine * sine, 0))
    return sine + (cosine - 0.5 * sine * x.lo) * x.lo


_sin_dd.defjvps(lambda x_dot, _, x: _sin_dd(_turned(x, 1)) * x_dot.hi)


@jax.custom_jvp
def one_minus_cos(location: Array, target: Array, peaked: Array) -> Array:
    """1 - cos(target - location) where `peaked`, else without the 1.

    The rounding error of the angle matters near the zeros of sine and cosine.
    """
    error = two_sum(target, -location)
    turned = _turned(error, -1)  # whose sine is -cos
    angle = DD(*(jnp.where(peaked, 0.5 * x, y) for x, y in zip(error, turned, strict=True)))
    sine = _sin_dd(angle)
    return jnp.where(peaked, 2 * jnp.square(sine), sine)


def _sine(location: Array, target: Array) -> Array:
    return _sin_dd(two_sum(target, -location))


def _sine_of_opposite(location: Array, target: Array) -> Array:
    return -_sin_dd(two_sum(location, -target))


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
