"""Families of divergences: an order says how much each class counts."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss._core.typing import Arrays
from jaxloss.domains import distribution, extended, log_probability, nonnegative_number
from jaxloss.numerics._divided_difference import exp_divided_difference
from jaxloss.numerics._elementwise import shared
from jaxloss.numerics._reductions import row_sum
from jaxloss.numerics._renyi import renyi_of_shares
from jaxloss.numerics._special import exprel
from jaxloss.traits import nonnegative


@loss(log_prediction=log_probability, target=distribution, order=nonnegative_number)
def renyi(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    order: Real[ArrayLike, ""] = 0.5,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Renyi divergence: a family of divergences with an order, `kl` at order 1.

    When to use: privacy bounds and tempered inference, where the order sets the weight of large
    ratios.

    $$D_\alpha(q \| p) = \frac{1}{\alpha - 1} \log \sum_k q_k^\alpha p_k^{1 - \alpha}$$

    It grows with the order. At order 1 it is `kl`, exactly, with the right gradient, also with
    respect to the order; below 1 it is finite unless the distributions do not overlap. The target
    is divided by its sum, whose rounding error would otherwise be divided by $\alpha - 1$.

    At order 0 it is $-\log \sum_{q_k > 0} p_k$, which depends on where the target is 0 and on
    nothing else of it: the gradient of the target is 0.

    Args:
        log_prediction: Log-probabilities of the classes; -inf rules a class out.
        target: Target probabilities of the classes; at an order up to 1 the slope at probability 0
            is infinite, and the gradient there 0.
        order: The order, at least 0.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats.

    Example:
        >>> renyi(jnp.log(jnp.array([0.25, 0.75])), [1.0, 0.0], order=2.0)
        Array(1.3862944, dtype=float32)

    References:
        Rényi, *On Measures of Entropy and Information*, 1961.
        van Erven and Harremoës, *Rényi Divergence and Kullback-Leibler Divergence*, 2014.
    """
    given, power = target, order - 1
    # From 0 a probability takes from the others' shares; up to order 1 it does so infinitely fast.
    total = jnp.sum(given, axis=-1, keepdims=True)
    falls = (given == 0) & (log_prediction > -jnp.inf) & (power > 0) & (total > 0)
    slope = -order / (jnp.where(power > 0, power, 1) * jnp.where(total > 0, total, 1))
    from_zero = jnp.sum(jnp.where(falls, given * slope, 0), axis=-1)
    target = jnp.where(given == 0, 0, given)
    return renyi_of_shares(log_prediction, target, jnp.asarray(order, target.dtype)) + from_zero


def _power(p: Array, q: Array, logarithm: Array, order: Array | float) -> Array:
    """`q^a p^(1 - a)`, whose logarithm is only used where a power would leave the range."""
    ordinary = (p > 1e-30) & (q > 1e-30)
    base = jnp.where(ordinary, q, 1) / jnp.where(ordinary, p, 1)
    powers = jnp.where(ordinary, p, 1) * jnp.power(base, order)
    return jnp.where(ordinary, powers, jnp.exp(logarithm))


def _alpha_terms(log_p: Array, q: Array, order: Array | float) -> Array:
    """`(q^a p^(1 - a) - a q - (1 - a) p) / (a (a - 1))` where neither is 0; at least 0."""
    p, ratio = jnp.exp(log_p), jnp.log(q) - log_p
    # It is p L^2 exp[0, L, aL], where L is the logarithm of the ratio.
    order = jnp.asarray(order, q.dtype)
    part, by_ratio, by_power = exp_divided_difference(ratio, order, order - 1)
    power = _power(p, q, log_p + order * ratio, order)
    return jnp.where(by_power, power, jnp.where(by_ratio, q, p)) * part


@jax.custom_jvp
def _alpha_divergence(log_p: Array, q: Array, order: Array | float) -> Array:
    no_p, no_q = log_p == -jnp.inf, q == 0
    both = ~no_p & ~no_q
    terms = _alpha_terms(jnp.where(both, log_p, 0), jnp.where(both, q, 1), order)
    only_p = jnp.where(order > 0, jnp.exp(log_p) / jnp.where(order > 0, order, 1), jnp.inf)
    only_q = jnp.where(order < 1, q / jnp.where(order < 1, 1 - order, 1), jnp.inf)
    return jnp.where(both, terms, jnp.where(no_p, jnp.where(no_q, 0, only_q), only_p))


@_alpha_divergence.defjvp
def _alpha_divergence_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    (log_p, q, order), (log_p_dot, q_dot, order_dot) = primals, tangents
    p = shared(jnp.exp(log_p))
    both = (log_p != -jnp.inf) & (q != 0)
    safe_log_p, safe_q = jnp.where(both, log_p, 0), jnp.where(both, q, 1)
    log_q = shared(jnp.log(safe_q))
    ratio = log_q - safe_log_p
    tilt, rest = order * ratio, (order - 1) * ratio
    gentle = jnp.abs(tilt) < 1
    tame = p * ratio * exprel(jnp.where(gentle, tilt, 0))
    mixed = _power(p, safe_q, safe_log_p + jnp.where(gentle, 0, tilt), order)
    wild = (mixed - p) / jnp.where(gentle, 1, order)
    by_p = jnp.where(both, -jnp.where(gentle, tame, wild), p / jnp.where(order > 0, order, 1))
    gentle = jnp.abs(rest) < 1
    tame = ratio * exprel(jnp.where(gentle, rest, 0))
    mixed = _power(p, safe_q, log_q + jnp.where(gentle, 0, rest), order) / safe_q
    wild = (mixed - 1) / jnp.where(gentle, 1, order - 1)
    by_q = jnp.where(both, jnp.where(gentle, tame, wild), 0)
    _, by_order = jax.jvp(
        lambda order: _alpha_terms(safe_log_p, safe_q, order), (order,), (order_dot,)
    )
    return _alpha_divergence(log_p, q, order), (
        by_p * log_p_dot + by_q * q_dot + jnp.where(both, by_order, 0)
    )


@loss(
    nonnegative,
    log_prediction=extended,
    target=nonnegative_number,
)
def alpha_divergence(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    order: Real[ArrayLike, ""] = 0.5,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Alpha-divergence: a family from `reverse_kl` (order 0) to `kl` (order 1).

    When to use: choosing between covering the whole target and fitting one mode of it.

    $$D_\alpha(q, p) = \sum_k \frac{q_k^\alpha p_k^{1 - \alpha} - \alpha q_k - (1 - \alpha) p_k}
      {\alpha (\alpha - 1)}$$

    Order 1 is `kl`, order 0 `reverse_kl`, exactly, with a gradient in the order; 1/2 is four
    times the squared `hellinger`; 2 is half of Pearson's chi-squared. The terms that vanish when
    both sum to 1 make each class count at least 0. (Amari's own parameter is $2 \alpha - 1$.)

    Args:
        log_prediction: Log-probabilities of the classes, or logarithms of amounts.
        target: Target probabilities, or amounts, of the classes.
        order: The order; any number.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example.

    Example:
        >>> alpha_divergence(jnp.log(jnp.array([0.25, 0.75])), [0.5, 0.5], order=2.0)
        Array(0.16666667, dtype=float32)

    References:
        Amari, *Differential-Geometrical Methods in Statistics*, 1985.
        Cressie and Read, *Multinomial Goodness-of-Fit Tests*, 1984.
    """
    order = jnp.full_like(target, order)
    return row_sum(_alpha_divergence(log_prediction, target, order))
