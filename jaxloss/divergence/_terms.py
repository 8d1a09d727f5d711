"""Terms of divergences, in which 0 times infinity is 0."""

import jax.numpy as jnp
from jax import Array


def log(probability: Array) -> Array:
    """The logarithm: -inf at 0, with gradient 0 there."""
    zero = probability == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, probability)))


def masked_difference(weight: Array, a: Array, b: Array) -> Array:
    """a - b; where the weight is 0 it is 0, whatever infinity they hold."""
    return jnp.where(weight == 0, 0, a) - jnp.where(weight == 0, 0, b)
