"""Terms of divergences, in which 0 times infinity is 0."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import recompute, with_vectorizable_shape
from jaxloss.numerics._log_ratios import kl_div_of_change
from jaxloss.numerics._special import expm1_minus_x_over_x2


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


def _slope_where_linear(weight: Array, x: Array) -> Array:
    """The weight, which does not depend on x, NaN where x is and counts: it would not be seen."""
    return jnp.where((x != x) & (weight != 0), jnp.nan, weight)


@jax.custom_jvp
def relative_nll(log_p: Array, q: Array) -> Array:
    """`q (log q - log p)`, which is 0 where q is."""
    return jnp.where(q == 0, 0, q * masked_difference(q, log(q), log_p))


@relative_nll.defjvp
def _relative_nll_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (log_p, q), (log_p_dot, q_dot) = primals, tangents
    slope = jnp.where(q == 0, 0, masked_difference(q, log(q), log_p) + 1)
    return relative_nll(log_p, q), slope * q_dot - _slope_where_linear(q, log_p) * log_p_dot


@jax.custom_jvp
def relative_nll_of_log(log_p: Array, log_q: Array) -> Array:
    """`relative_nll` of exp(log_q)."""
    q = jnp.exp(log_q)
    return jnp.where(q == 0, 0, q * masked_difference(q, log_q, log_p))


@relative_nll_of_log.defjvp
def _relative_nll_of_log_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (log_p, log_q), (log_p_dot, log_q_dot) = primals, tangents
    q = jnp.exp(recompute(log_q))  # not held for the slope: an exponential is quicker than memory
    slope = jnp.where(q == 0, 0, q * (masked_difference(q, log_q, log_p) + 1))
    log_p_bar = _slope_where_linear(q, log_p)
    return relative_nll_of_log(log_p, log_q), slope * log_q_dot - log_p_bar * log_p_dot


@jax.custom_jvp
def gap_of_log(log_b: Array, a: Array) -> Array:
    """a (log a - log_b) - a + exp(log_b), the term of the divergence of amounts."""
    logs = masked_difference(a, log(a), log_b)
    near = (jnp.abs(logs) < 1) & (a > 0)
    far = (jnp.exp(log_b) - a) + a * logs
    small = jnp.where(near, -logs, 0)
    return jnp.where(near, a * (small * small * expm1_minus_x_over_x2(small)), far)


@gap_of_log.defjvp
def _gap_of_log_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (log_b, a), (log_b_dot, a_dot) = primals, tangents
    both_near_1 = (jnp.abs(log_b) < 0.5) & (jnp.abs(a - 1) < 0.5)
    small = jnp.where(both_near_1, log_b, 0)
    expm1 = small + small * small * expm1_minus_x_over_x2(small)  # quicker than that of all sizes
    change = jnp.where(both_near_1, expm1 - (a - 1), jnp.exp(recompute(log_b)) - a)
    logs = jnp.where(log_b == -jnp.inf, 0, masked_difference(a, log(a), log_b))
    return gap_of_log(log_b, a), change * log_b_dot + logs * a_dot


def gaps_of_log(log_b: Array, a: Array) -> Array:
    """`gap_of_log` of all entries, in loops that vectorize."""
    return with_vectorizable_shape(gap_of_log, log_b, a)
