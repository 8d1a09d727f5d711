r"""Weightings under which the losses, or their logarithms, make equal progress.

Functions from the Gramian of the gradients to their weights, as those of `_weightings`.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.spec import ArrayLike
from jaxloss.aggregators._quadratic import (
    check_gramian,
    check_preference,
    compiled_once,
    pseudo_inverse_times,
    rounding,
)
from jaxloss.aggregators._stacked import normalize
from jaxloss.numerics._carry import carried

_MODULE = "jaxloss.aggregators."


@compiled_once
def _aligned_mtl(gramian: Array, preference: Array) -> Array:
    values, vectors = jnp.linalg.eigh(gramian)
    kept = values > rounding(gramian) * jnp.max(values)
    smallest = jnp.min(jnp.where(kept, values, jnp.inf))
    share = jnp.where(kept, jnp.sqrt(smallest / jnp.where(kept, values, 1)), 0)
    aligned = vectors @ (share * (vectors.T @ preference))
    return jnp.where(jnp.any(kept), aligned, preference)


def aligned_mtl(gramian: Array, *, preference: ArrayLike | None = None) -> Array:
    r"""Aligned-MTL: the mean after the gradients are made orthogonal and equally long.

    When to use: to remove conflict between gradients, and dominance of the longest, at once.

    $$w = \sqrt{\lambda_{\min}} \, G^{-1/2} u$$

    The gradients are replaced by the nearest orthogonal ones, whose length is that of the smallest
    principal component. Components below rounding are left out.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        preference: The relative importance of each loss, of shape (m,); if None, 1/m.

    Returns:
        Weights of shape (m,).

    Raises:
        ValueError: If the Gramian is not square, or the preference does not fit.

    Example:
        >>> aligned_mtl(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
        Array([0.25, 0.5 ], dtype=float32)

    References:
        Senushkin et al., *Independent Component Alignment for Multi-Task Learning*, 2023.
    """
    fun_name = f"{_MODULE}aligned_mtl"
    gramian = check_gramian(fun_name, gramian)
    return _aligned_mtl(gramian, check_preference(fun_name, preference, gramian))


@compiled_once
def _imtl_g(gramian: Array) -> Array:
    cosines, inverse = normalize(gramian)
    longest = jnp.max(jnp.where(inverse > 0, 1 / jnp.where(inverse > 0, inverse, 1), 0))
    weights = inverse * longest * pseudo_inverse_times(cosines, (inverse > 0).astype(gramian.dtype))
    total = jnp.sum(weights)
    none = jnp.abs(total) <= 10 * rounding(gramian) * jnp.sum(jnp.abs(weights))
    return jnp.where(none, 0, weights / jnp.where(none, 1, total))


def imtl_g(gramian: Array) -> Array:
    r"""Impartial multi-task learning (IMTL-G): equal projections onto all gradients.

    When to use: to give all losses the same influence, whatever the lengths of their gradients.

    $$\left\langle \frac{g_k}{\lVert g_k \rVert}, d \right\rangle = \text{const}, \qquad
      \sum_k w_k = 1$$

    Weights can be negative. Where the sum of the unnormalized weights is 0 there is no such
    direction, and all weights are 0.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).

    Returns:
        Weights of shape (m,), whose sum is 1, or 0.

    Raises:
        ValueError: If the Gramian is not square.

    Example:
        >>> imtl_g(jnp.array([[4.0, 0.0], [0.0, 1.0]])).round(6)
        Array([0.333333, 0.666667], dtype=float32)

    References:
        Liu et al., *Towards Impartial Multi-Task Learning*, 2021.
    """
    return _imtl_g(check_gramian(f"{_MODULE}imtl_g", gramian))


@compiled_once
def _con_fig(gramian: Array, preference: Array) -> Array:
    cosines, inverse = normalize(gramian)
    weights = pseudo_inverse_times(cosines, preference)
    square = weights @ (cosines @ weights)
    norms = jnp.sqrt(jnp.diagonal(gramian))
    length = jnp.where(
        square > 0, norms @ (cosines @ weights) / jnp.where(square > 0, square, 1), 0
    )
    return length * weights * inverse


def con_fig(gramian: Array, *, preference: ArrayLike | None = None) -> Array:
    r"""ConFIG: the same cosine with every gradient, and a length that decreases with conflict.

    When to use: physics-informed networks, with losses of residuals and boundary conditions.

    $$\left\langle \frac{g_k}{\lVert g_k \rVert}, \frac{d}{\lVert d \rVert} \right\rangle
      = \text{const}, \qquad \lVert d \rVert = \sum_k \left\langle g_k,
      \frac{d}{\lVert d \rVert} \right\rangle$$

    The direction is that of `imtl_g`.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        preference: The desired cosines, up to a factor, of shape (m,); if None, all equal.

    Returns:
        Weights of shape (m,).

    Raises:
        ValueError: If the Gramian is not square, or the preference does not fit.

    Example:
        >>> con_fig(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
        Array([0.75, 1.5 ], dtype=float32)

    References:
        Liu, Chu and Thuerey, *ConFIG: Towards Conflict-free Training of PINNs*, 2025.
    """
    fun_name = f"{_MODULE}con_fig"
    gramian = check_gramian(fun_name, gramian)
    return _con_fig(gramian, check_preference(fun_name, preference, gramian))


@compiled_once
def _fair_grad(gramian: Array, alpha: Array | float) -> Array:
    power = 1 / jnp.asarray(alpha, gramian.dtype)
    size = jnp.trace(gramian) / len(gramian)
    size = jnp.where(size == 0, 1, size)
    cosines, inverse = normalize(gramian / size)
    alive = inverse > 0
    both = alive[None, :] & alive[:, None]
    eye = jnp.eye(len(gramian), dtype=gramian.dtype)
    matrix = jnp.where(both, cosines, eye) + 4 * rounding(gramian) * eye
    # In y = norm * w the matrix holds the cosines, and the norms become factors of the utility.
    factor = jnp.where(alive, inverse, 1) ** (1 - power)

    def cost(y: Array) -> Array:
        rest = jnp.where(power == 1, 1, 1 - power)
        utility = jnp.where(power == 1, jnp.log(y), jnp.expm1(rest * jnp.log(y)) / rest)
        return 0.5 * y @ (matrix @ y) - factor @ utility

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        y, _, rounds = state
        slope = factor * y**-power
        gradient = matrix @ y - slope
        change = -jnp.linalg.solve(matrix + jnp.diag(power * slope / y), gradient)
        # The longest step length up to 1 that keeps y positive.
        longest = jnp.minimum(1, 0.95 / jnp.maximum(jnp.max(-change / y), 1e-3))
        lengths = longest * 0.5 ** jnp.arange(12, dtype=y.dtype)
        trials = y[None, :] + lengths[:, None] * change[None, :]
        costs = jax.vmap(cost)(trials)
        near = jnp.max(jnp.abs(change / y)) < 1e-3
        y = jnp.where(near, y + change, trials[jnp.nanargmin(costs)])
        return y, jnp.max(jnp.abs(change / y)), rounds + 1

    tolerance = rounding(gramian) ** 0.5 / 10
    start = (
        jnp.ones(len(gramian), gramian.dtype),
        jnp.full((), jnp.inf, gramian.dtype),
        jnp.asarray(0),
    )
    y, *_ = jax.lax.while_loop(
        lambda s: (s[1] > tolerance) & (s[2] < 100), step, carried(start, gramian)
    )
    y, *_ = step((y, y[0], jnp.asarray(0)))  # convergence is quadratic: one more step is exact
    return jnp.where(alive, y * inverse, 0) * size ** (-1 / (1 + power))


def fair_grad(gramian: Array, *, alpha: ArrayLike = 1.0) -> Array:
    r"""FairGrad: the direction that maximizes the alpha-fair utility of the improvements.

    When to use: to choose between the sum of the improvements (small alpha), their product
    (alpha = 1) and the smallest of them (large alpha).

    $$(G w)_k = w_k^{-1/\alpha}, \qquad w > 0$$

    alpha = 1 is `nash`. Where no direction decreases all losses there is no solution: the weights
    are large and their direction is short. The solution is the minimum of a convex function, found
    to rounding by Newton's method, also for gradients of very different lengths.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        alpha: The degree of fairness, above 0; may be traced.

    Returns:
        Weights of shape (m,), above 0; 0 for a gradient that is 0.

    Raises:
        ValueError: If the Gramian is not square.

    Example:
        >>> fair_grad(jnp.array([[4.0, 0.0], [0.0, 1.0]]), alpha=1.0).round(5)
        Array([0.5, 1. ], dtype=float32)

    References:
        Ban and Ji, *Fair Resource Allocation in Multi-Task Learning*, 2024.
    """
    return _fair_grad(check_gramian(f"{_MODULE}fair_grad", gramian), alpha)


def nash(gramian: Array) -> Array:
    r"""Nash-MTL: the Nash bargaining solution, independent of the scale of every loss.

    When to use: losses of different units that shall have the same influence.

    $$(G w)_k = \frac{1}{w_k}, \qquad w > 0$$

    The product of the improvements is maximal, so a factor on a loss changes nothing. It is
    `fair_grad` with alpha = 1; the direction has norm $\sqrt m$.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).

    Returns:
        Weights of shape (m,), above 0; 0 for a gradient that is 0.

    Raises:
        ValueError: If the Gramian is not square.

    Example:
        >>> nash(jnp.array([[4.0, 0.0], [0.0, 1.0]])).round(5)
        Array([0.5, 1. ], dtype=float32)

    References:
        Navon et al., *Multi-Task Learning as a Bargaining Game*, 2022.
    """
    return fair_grad(gramian, alpha=1.0)
