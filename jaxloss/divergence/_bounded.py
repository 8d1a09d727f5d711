"""Divergences that cannot be infinite, of probabilities."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss._core.typing import Arrays
from jaxloss.domains import distribution, unit_interval
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._kl_terms import gaps_from_mixture
from jaxloss.numerics._reductions import row_sum
from jaxloss.numerics._vectors import norm_of
from jaxloss.traits import bounded_gradient, convex, nonnegative, symmetric, zero_at_match


@separate_derivative
def _gap_from_mixture(p: Array, q: Array, weight: Array) -> Array:
    from_p, from_q = gaps_from_mixture(p, q, q - p, weight)
    return (1 - weight) * from_p + weight * from_q


@loss(
    nonnegative,
    convex,
    zero_at_match,
    prediction=distribution,
    target=distribution,
    weight=unit_interval,
)
def jensen_shannon(
    prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    weight: Real[ArrayLike, ""] = 0.5,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Jensen-Shannon divergence: mean Kullback-Leibler divergence from the mixture.

    When to use: either distribution may have zeros where the other has none, or targets may be
    wrong.

    $$JS(p, q) = (1 - w) \, KL(p \| m) + w \, KL(q \| m), \qquad m = (1 - w) p + w q$$

    It is at most $\log 2$, and symmetric at `weight=0.5`; its square root is a metric. Confident
    wrong predictions have a smaller gradient than with `kl`.

    Args:
        prediction: Predicted probabilities of the classes.
        target: Target probabilities of the classes.
        weight: The share of the target in the mixture.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats.

    Example:
        >>> jensen_shannon([1.0, 0.0], [0.0, 1.0])
        Array(0.6931472, dtype=float32)

    References:
        Lin, *Divergence Measures Based on the Shannon Entropy*, 1991.
        Englesson and Azizpour, *Generalized Jensen-Shannon Divergence Loss*, 2021.
    """
    return row_sum(_gap_from_mixture(prediction, target, jnp.asarray(weight)))


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    symmetric,
    zero_at_match,
    prediction=distribution,
    target=distribution,
)
def total_variation(
    prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Total variation distance: half the sum of absolute differences of probabilities.

    When to use: reporting how much probability is misplaced, from 0 to 1.

    $$TV(p, q) = \frac12 \sum_k |p_k - q_k|$$

    The largest difference of the two in the probability of any event. (Some leave out the 1/2.)

    Args:
        prediction: Predicted probabilities of the classes.
        target: Target probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The distance of each example, from 0 to 1.

    Example:
        >>> total_variation([0.5, 0.5, 0.0], [0.25, 0.5, 0.25])
        Array(0.25, dtype=float32)

    References:
        Levin, Peres and Wilmer, *Markov Chains and Mixing Times*, 2009.
    """
    return 0.5 * jnp.sum(numerics.absolute(prediction - target), axis=-1)


@jax.custom_jvp
def _root_difference(a: Array, b: Array) -> Array:
    """The difference of the roots; of close ones, their own difference would cancel."""
    total = jnp.sqrt(a) + jnp.sqrt(b)
    return (a - b) / jnp.where(total == 0, 1, total)


@_root_difference.defjvp
def _root_difference_jvp(primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    (a, b), (a_dot, b_dot) = primals, tangents
    slope_a, slope_b = (
        jnp.where(x == 0, 0, 0.5 / jnp.sqrt(jnp.where(x == 0, 1, x))) for x in (a, b)
    )
    return _root_difference(a, b), slope_a * a_dot - slope_b * b_dot


@loss(nonnegative, symmetric, zero_at_match, prediction=distribution, target=distribution)
def hellinger(
    prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Hellinger distance: distance of the square roots of two distributions.

    When to use: a bounded metric that is sensitive to rare classes.

    $$H(p, q) = \sqrt{\frac12 \sum_k \left( \sqrt{p_k} - \sqrt{q_k} \right)^2}$$

    Some call its square by the same name, which is smooth at a match. The derivative is infinite
    for a class of probability exactly 0; there it is taken to be 0.

    Args:
        prediction: Predicted probabilities of the classes.
        target: Target probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The distance of each example, from 0 to 1.

    Example:
        >>> hellinger([1.0, 0.0], [0.25, 0.75])
        Array(0.7071068, dtype=float32)

    References:
        Hellinger, *Neue Begründung der Theorie quadratischer Formen von unendlichvielen
        Veränderlichen*, 1909.
    """
    return norm_of(_root_difference, prediction, target) * 0.5**0.5
