"""Terms of divergences, in which 0 times infinity is 0."""

import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._log_ratios import kl_div_of_change


def log(probability: Array) -> Array:
    """The logarithm: -inf at 0, with gradient 0 there."""
    zero = probability == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, probability)))


def masked_difference(weight: Array, a: Array, b: Array) -> Array:
    """a - b; where the weight is 0 it is 0, whatever infinity they hold."""
    return jnp.where(weight == 0, 0, a) - jnp.where(weight == 0, 0, b)


def gaps_from_mixture(
    p: Array, q: Array, change: Array, weight: Array | float
) -> tuple[Array, Array]:
    """The terms of KL(p || m) and KL(q || m), m = (1 - weight) p + weight q; `change` is q - p."""
    mixture = (1 - weight) * p + weight * q
    return (
        kl_div_of_change(p, mixture, weight * change),
        kl_div_of_change(q, mixture, -(1 - weight) * change),
    )
