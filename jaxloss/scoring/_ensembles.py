r"""Scores of ensembles: samples of the predicted distribution, in any order.

The CRPS of members $x_i$ with errors $d_i = x_i - y$ is a sum over the members alone:

$$\frac1M \sum_i |d_i| - \frac{1}{2 M^2} \sum_{i, j} |x_i - x_j|
  = \frac{2}{M^2} \sum_i |d_i| \cdot
    \begin{cases} M - r_i + \tfrac12 & d_i > 0 \\ r_i - \tfrac12 & d_i < 0 \end{cases}$$

with the rank $r_i$ from 1 to $M$. Every term is at least 0, so that nothing cancels, and the
factors are its gradient.
"""

from typing import Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import nonnegative_number, positive
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.numerics._members import mean_less_distances, ranks, variogram_errors
from jaxloss.traits import bounded_gradient, nonnegative

Members = Float[Array, "*batch members"]
Mask = Bool[Array, "*batch members"] | None


def _count(x: Members, mask: Mask) -> Array:
    """The number of members of each example, at least 1."""
    kept = jnp.full_like(x, 1) if mask is None else mask.astype(x.dtype)
    return jnp.maximum(jnp.sum(kept, axis=-1), 1)


@loss(nonnegative, bounded_gradient)
def crps_ensemble(
    members: Real[ArrayLike, "*batch members"],
    target: Real[ArrayLike, "*batch"],
    *,
    fair: bool = True,
    mask: Bool[ArrayLike, "*batch members"] | Bool[ArrayLike, "members"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""CRPS of an ensemble: mean error of its members, less half their mean distance.

    When to use: training a model whose samples are the forecast, such as a generative weather
    model.

    $$\ell(x, y) = \frac1M \sum_i |x_i - y| - \frac{1}{2 M (M - 1)} \sum_{i, j} |x_i - x_j|$$

    The fair score estimates without bias the CRPS of the distribution that the members are drawn
    from, and is right for training. With `fair=False` the second divisor is $2 M^2$: the exact
    CRPS of the ensemble as a distribution of its own, which favours ensembles that are too narrow
    (scoringrules calls the two "fair" and "nrg"). With one member both are the absolute error. The
    members are sorted once, in M log(M) steps, and no two numbers are subtracted but members and
    target: close members keep their digits.

    Args:
        members: The samples, in any order.
        target: The observed value, in the same unit.
        fair: Whether distances are averaged over pairs of different members.
        mask: False leaves a member out of an ensemble, or of all of them.

    Returns:
        The score of each example, in the unit of the target.

    Example:
        >>> crps_ensemble([1.0, 2.0, 4.0], 3.0), crps_ensemble([1.0, 2.0, 4.0], 3.0, fair=False)
        (Array(0.33333334, dtype=float32), Array(0.6666667, dtype=float32))

    References:
        Ferro, *Fair Scores for Ensemble Forecasts*, 2014.
        Zamo and Naveau, *Estimation of the Continuous Ranked Probability Score*, 2018.
    """
    error = members - target[..., None]
    mask = None if mask is None else jnp.broadcast_to(mask, members.shape)
    kept = members if mask is None else jnp.where(mask, members, jnp.inf)
    rank = ranks(lax.stop_gradient(kept))  # that of the error
    count = _count(error, mask)[..., None]
    above, below = count - rank, rank - 1
    if fair:
        above, below = (jnp.where(count == 1, 0.5, x) for x in (above, below))
        divisor = count * jnp.maximum(count - 1, 1)
    else:
        above, below, divisor = above + 0.5, below + 0.5, jnp.square(count)
    factor = 2 * jnp.where(error > 0, above, jnp.where(error < 0, -below, 0.5 * (above - below)))
    error = error if mask is None else jnp.where(mask, error, 0)
    return jnp.sum(linear_argument(error) * (factor / divisor), axis=-1)


@loss()
def energy_score(
    members: Real[ArrayLike, "*batch members dim"],
    target: Real[ArrayLike, "*batch dim"],
    *,
    fair: bool = True,
    mask: Bool[ArrayLike, "*batch members"] | Bool[ArrayLike, "members"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Energy score: the CRPS of an ensemble of vectors, with Euclidean distances.

    When to use: ensembles of vectors, such as trajectories or fields, of which the joint
    distribution matters.

    $$\ell(x, y) = \frac1M \sum_i \lVert x_i - y \rVert
      - \frac{1}{2 M (M - 1)} \sum_{i, j} \lVert x_i - x_j \rVert$$

    With `fair=False` the second divisor is $2 M^2$. The gradient of a distance is 0 where two
    members, or a member and the target, coincide. The members are compared with all others one
    after the other, so that memory grows with $M d + M^2$ and not with $M^2 d$. The score is more
    sensitive to means than to dependence between the components: see `variogram_score`.

    Args:
        members: The samples, in any order.
        target: The observed vector.
        fair: Whether distances are averaged over pairs of different members.
        mask: False leaves a member out of an ensemble, or of all of them.

    Returns:
        The score of each example; it may be negative if fair.

    Example:
        >>> energy_score([[0.0, 0.0], [6.0, 8.0]], [3.0, 4.0])
        Array(0., dtype=float32)

    References:
        Gneiting and Raftery, *Strictly Proper Scoring Rules, Prediction, and Estimation*, 2007.
    """
    mask = None if mask is None else jnp.broadcast_to(mask, members.shape[:-1])
    errors = numerics.distance(members, target[..., None, :])
    count = _count(errors, mask)
    others = jnp.maximum(count - 1, 1) / count if fair else jnp.ones_like(count)
    return mean_less_distances(errors, members, 2 * others, mask)


@loss(nonnegative, exponent=positive, pair_weights=nonnegative_number)
def variogram_score(
    members: Real[ArrayLike, "*batch members dim"],
    target: Real[ArrayLike, "*batch dim"],
    *,
    exponent: Real[ArrayLike, ""] = 0.5,
    pair_weights: Real[ArrayLike, "dim dim"] | None = None,
    mask: Bool[ArrayLike, "*batch members"] | Bool[ArrayLike, "members"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Variogram score: squared errors of the mean differences between components.

    When to use: beside `energy_score` or a CRPS of each component, when the dependence between
    components matters: it is sensitive to correlations, but not to a common error of all.

    $$\ell(x, y) = \sum_{a, b} w_{ab} \left( |y_a - y_b|^p
      - \frac1M \sum_i |x_{ia} - x_{ib}|^p \right)^2$$

    Every pair of components is counted twice, as in scoringrules. Weights that decrease with the
    distance of two places leave out pairs that are hardly related. The gradient of a power is 0
    where two components are equal. Components are compared with all others one after the other, so
    that memory grows with $M d + d^2$ and not with $M d^2$.

    Args:
        members: The samples, in any order.
        target: The observed vector.
        exponent: The power p, above 0; at most 1 as a rule.
        pair_weights: The weight of each pair of components; 1 if None.
        mask: False leaves a member out of an ensemble, or of all of them.

    Returns:
        The score of each example, in the unit of the target to the power 2p.

    Example:
        >>> variogram_score([[0.0, 1.0], [0.0, 4.0]], [2.0, 2.0])
        Array(4.5, dtype=float32)

    References:
        Scheuerer and Hamill, *Variogram-Based Proper Scoring Rules for Probabilistic Forecasts of
        Multivariate Quantities*, 2015.
    """
    mask = None if mask is None else jnp.broadcast_to(mask, members.shape[:-1])
    exponent = jnp.asarray(exponent, members.dtype)
    squares = jnp.square(variogram_errors(members, target, exponent, mask))
    if pair_weights is not None:
        squares = squares * jnp.expand_dims(pair_weights, range(1, squares.ndim - 1))
    return jnp.sum(squares, axis=(0, -1))
