"""Terms of divergences, with all their digits near a match and none of 0 times infinity."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._core.typing import Arrays
from jaxloss.numerics._special import x_minus_log1p


def keep(mask: Array | None, fill: float, *arrays: Array) -> tuple[Array, ...]:
    """The arrays with a harmless value in the classes that are masked out."""
    return arrays if mask is None else tuple(jnp.where(mask, x, fill) for x in arrays)


def log(probability: Array) -> Array:
    """The logarithm: -inf at 0, with gradient 0 there."""
    zero = probability == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, probability)))


def less(weight: Array, a: Array, b: Array) -> Array:
    """The difference of a and b; where the weight is 0 it is 0, whatever infinity they hold."""
    return jnp.where(weight == 0, 0, a) - jnp.where(weight == 0, 0, b)


def log_quotient(a: Array, b: Array) -> Array:
    """log(a / b); 0 where a is 0."""
    whole = (a > 0) & (b > 0)
    ratio = numerics.quotient(jnp.where(whole, a, 1), jnp.where(whole, b, 1))
    ordinary = (ratio > 1e-30) & (ratio < 1e30)
    logs = jnp.where(whole, jnp.log(jnp.where(whole, a, 1)) - jnp.log(jnp.where(whole, b, 1)), 0)
    logs = jnp.where(ordinary, jnp.log(jnp.where(ordinary, ratio, 1)), logs)
    return jnp.where((a > 0) & (b == 0), jnp.inf, logs)


def _share(change: Array, a: Array) -> tuple[Array, Array]:
    """Whether b = a + change is close to a, and change / a where it is."""
    close = jnp.abs(change) < 0.5 * a
    return close, numerics.quotient(jnp.where(close, change, 0), jnp.where(close, a, 1))


@jax.custom_jvp
def kl_term(a: Array, b: Array, change: Array) -> Array:
    """`a log(a / b) - a + b`, at least 0; `change` is b - a, known better than from b and a."""
    close, share = _share(change, a)
    far = change + a * log_quotient(a, b)
    return jnp.where(close, a * x_minus_log1p(share), far)


@kl_term.defjvp
def _gap_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    (a, b, change), (to_a, to_b, _) = primals, tangents
    close, share = _share(change, a)
    logs = jnp.where(close, -jnp.log1p(share), jnp.where(b == 0, 0, log_quotient(a, b)))
    slope = jnp.where(b == 0, 0, numerics.quotient(change, jnp.where(b == 0, 1, b)))
    return kl_term(a, b, change), logs * to_a + slope * to_b
