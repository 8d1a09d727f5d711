r"""Weights from the Gramian: how to add gradients up, given only their inner products.

The direction is $d = \sum_k w_k g_k$; a loss improves where $\langle g_k, d \rangle > 0$.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.aggregators._quadratic import (
    check_gramian,
    check_preference,
    correlation,
    nonnegative_minimum,
    normalized,
    pseudo_inverse_times,
    rounding,
)

_WHERE = "jaxloss.aggregators."


def _regularized(gramian: Array, regularization: float) -> Array:
    return normalized(gramian) + regularization * jnp.eye(len(gramian), dtype=gramian.dtype)


def _project(gramian: Array, weights: Array) -> Array:
    """The weights at least as large whose direction is shortest: it then conflicts with nobody."""
    return weights + nonnegative_minimum(gramian, gramian @ weights)


def upgrad(
    gramian: Array, *, preference: Array | None = None, regularization: float = 1e-4
) -> Array:
    r"""Take it first: no loss is harmed, and each counts in proportion to its gradient.

    $$w = \sum_k \arg\min_{v \ge u_k e_k} v^\top G v$$

    Every gradient is projected onto the cone of directions that harm no loss, and the projections
    are averaged. Without conflict it is the mean.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        preference: How much each loss counts, of shape (m,); if None, 1/m.
        regularization: What is added to the diagonal, as a share of the trace. It keeps weights
            finite where gradients are opposite, and lets a loss be harmed by about as much.

    Returns:
        Weights of shape (m,).

    Raises:
        ValueError: If the Gramian is not square, or the preference does not fit.

    Example:
        >>> upgrad(jnp.array([[1.0, -0.5], [-0.5, 1.0]]), regularization=0.0)
        Array([0.75, 0.75], dtype=float32)

    References:
        Quinton and Rey, *Jacobian Descent for Multi-Objective Optimization*, 2024.
    """
    fun_name = f"{_WHERE}upgrad"
    gramian = check_gramian(fun_name, gramian)
    preference = check_preference(fun_name, preference, gramian)
    matrix = _regularized(gramian, regularization)
    return jnp.sum(jax.vmap(lambda u: _project(matrix, u))(jnp.diag(preference)), axis=0)


def dual_projection(
    gramian: Array, *, preference: Array | None = None, regularization: float = 1e-4
) -> Array:
    r"""Take it to change the mean gradient as little as needed for no loss to be harmed.

    $$w = \arg\min_{v \ge u} v^\top G v$$

    The mean is projected onto the cone of directions that harm no loss, where `upgrad` projects
    every gradient. Long gradients win more often.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        preference: How much each loss counts, of shape (m,); if None, 1/m.
        regularization: What is added to the diagonal, as a share of the trace.

    Returns:
        Weights of shape (m,).

    Raises:
        ValueError: If the Gramian is not square, or the preference does not fit.

    Example:
        >>> dual_projection(jnp.array([[4.0, -2.0], [-2.0, 1.5]]), regularization=0.0)
        Array([0.5      , 0.6666667], dtype=float32)

    References:
        Lopez-Paz and Ranzato, *Gradient Episodic Memory for Continual Learning*, 2017.
    """
    fun_name = f"{_WHERE}dual_projection"
    gramian = check_gramian(fun_name, gramian)
    preference = check_preference(fun_name, preference, gramian)
    return _project(_regularized(gramian, regularization), preference)


def mgda(gramian: Array) -> Array:
    r"""Take it to improve all losses at the same rate, down to a point where that is impossible.

    $$w = \arg\min_{v \ge 0, \, \sum v = 1} v^\top G v$$

    The shortest convex combination; 0 exactly where no direction improves all losses (Pareto
    stationarity). Short gradients win: it all but ignores a loss far from its optimum. Solved
    exactly, where others run so many steps of Frank and Wolfe.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).

    Returns:
        Weights of shape (m,), at least 0, whose sum is 1.

    Raises:
        ValueError: If the Gramian is not square.

    Example:
        >>> mgda(jnp.array([[4.0, 0.0], [0.0, 1.0]])).round(6)
        Array([0.2, 0.8], dtype=float32)

    References:
        Désidéri, *Multiple-Gradient Descent Algorithm (MGDA)*, 2012.
        Sener and Koltun, *Multi-Task Learning as Multi-Objective Optimization*, 2018.
    """
    gramian = check_gramian(f"{_WHERE}mgda", gramian)
    # On the ray of the solution the minimum of z'Gz/2 - sum(z): the same problem without the sum.
    little, ones = 4 * rounding(gramian), jnp.ones(len(gramian), gramian.dtype)
    matrix = _regularized(gramian, little)
    ray = nonnegative_minimum(matrix, -ones)
    ray = nonnegative_minimum(matrix, -ones - little * ray)  # takes the regularization back
    return ray / jnp.sum(ray)


def cagrad(gramian: Array, *, c: float = 0.5) -> Array:
    r"""Take it to follow the mean gradient, but help the worst loss within a ball around it.

    $$d = \arg\max_{\lVert d - g_0 \rVert \le c \lVert g_0 \rVert} \min_k \langle g_k, d \rangle,
      \qquad g_0 = \frac1m \sum_k g_k$$

    With c = 0 it is the mean; with c < 1 it converges to a minimum of the mean loss. The largest
    improvement of the worst loss is the root of a convex function of one number, which a few
    steps of Newton's method find to rounding.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        c: The radius of the ball, as a share of the norm of the mean; at least 0.

    Returns:
        Weights of shape (m,).

    Raises:
        ValueError: If the Gramian is not square.

    Example:
        >>> cagrad(jnp.array([[1.0, 0.0], [0.0, 4.0]]), c=0.5).round(4)
        Array([1.059, 0.5  ], dtype=float32)

    References:
        Liu et al., *Conflict-Averse Gradient Descent for Multi-Task Learning*, 2021.
    """
    gramian = check_gramian(f"{_WHERE}cagrad", gramian)
    mean = jnp.full(len(gramian), 1 / len(gramian), gramian.dtype)
    matrix = _regularized(gramian, 4 * rounding(gramian))
    slope = matrix @ mean
    radius = c * jnp.sqrt(mean @ slope)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        level, _, _, rounds = state
        y = nonnegative_minimum(matrix, slope - level)
        length = jnp.sqrt(jnp.maximum(y @ (matrix @ y), 0))
        total = jnp.sum(y)
        change = jnp.where(
            total > 0, (length - radius) * length / jnp.where(total > 0, total, 1), 0
        )
        return level - change, y, jnp.abs(length - radius), rounds + 1

    # No lower than the root, by the worst loss alone; from there Newton's steps descend to it.
    start = jnp.min(slope + radius * jnp.sqrt(jnp.diagonal(matrix)))
    tolerance = 4 * jnp.finfo(gramian.dtype).eps * radius
    state = (start, jnp.zeros_like(mean), jnp.full_like(radius, jnp.inf), jnp.asarray(0))
    _, y, *_ = jax.lax.while_loop(lambda s: (s[2] > tolerance) & (s[3] < 30), step, state)
    return mean + jnp.where(jnp.diagonal(gramian) > 0, y, 0)  # a gradient of 0 has no say


def aligned_mtl(gramian: Array, *, preference: Array | None = None) -> Array:
    r"""Take it to remove conflict and dominance at once: as if the gradients were orthogonal.

    $$w = \sqrt{\lambda_{\min}} \, G^{-1/2} u$$

    The gradients are replaced by the nearest ones at right angles, as long as the smallest
    principal component. Components of rounding are left out.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        preference: How much each loss counts, of shape (m,); if None, 1/m.

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
    fun_name = f"{_WHERE}aligned_mtl"
    gramian = check_gramian(fun_name, gramian)
    preference = check_preference(fun_name, preference, gramian)
    values, vectors = jnp.linalg.eigh(gramian)
    kept = values > rounding(gramian) * jnp.max(values)
    smallest = jnp.min(jnp.where(kept, values, jnp.inf))
    share = jnp.where(kept, jnp.sqrt(smallest / jnp.where(kept, values, 1)), 0)
    aligned = vectors @ (share * (vectors.T @ preference))
    return jnp.where(jnp.any(kept), aligned, preference)


def imtl_g(gramian: Array) -> Array:
    r"""Take it to have the direction project onto every gradient equally.

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
    gramian = check_gramian(f"{_WHERE}imtl_g", gramian)
    cosines, inverse = correlation(gramian)
    longest = jnp.max(jnp.where(inverse > 0, 1 / jnp.where(inverse > 0, inverse, 1), 0))
    weights = inverse * longest * pseudo_inverse_times(cosines, (inverse > 0).astype(gramian.dtype))
    total = jnp.sum(weights)
    none = jnp.abs(total) <= 10 * rounding(gramian) * jnp.sum(jnp.abs(weights))
    return jnp.where(none, 0, weights / jnp.where(none, 1, total))


def con_fig(gramian: Array, *, preference: Array | None = None) -> Array:
    r"""Take it for physics-informed losses: the same cosine with every gradient, at full length.

    $$\left\langle \frac{g_k}{\lVert g_k \rVert}, \frac{d}{\lVert d \rVert} \right\rangle
      = \text{const}, \qquad \lVert d \rVert = \sum_k \left\langle g_k,
      \frac{d}{\lVert d \rVert} \right\rangle$$

    The direction of `imtl_g`; its length shrinks as the gradients conflict.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        preference: The cosines wanted, up to a factor, of shape (m,); if None, all equal.

    Returns:
        Weights of shape (m,).

    Raises:
        ValueError: If the Gramian is not square, or the preference does not fit.

    Example:
        >>> config(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
        Array([0.75, 1.5 ], dtype=float32)

    References:
        Liu, Chu and Thuerey, *ConFIG: Towards Conflict-free Training of PINNs*, 2025.
    """
    fun_name = f"{_WHERE}config"
    gramian = check_gramian(fun_name, gramian)
    preference = check_preference(fun_name, preference, gramian)
    cosines, inverse = correlation(gramian)
    weights = pseudo_inverse_times(cosines, preference)
    square = weights @ (cosines @ weights)
    norms = jnp.sqrt(jnp.diagonal(gramian))
    length = jnp.where(
        square > 0, norms @ (cosines @ weights) / jnp.where(square > 0, square, 1), 0
    )
    return length * weights * inverse


def fair_grad(gramian: Array, *, alpha: float = 1.0) -> Array:
    r"""Take it to choose how fair: from the sum of the improvements to the least of them.

    $$(G w)_k = w_k^{-1/\alpha}, \qquad w > 0$$

    It maximizes the alpha-fair utility of the improvements: alpha = 1 is `nash`, a large alpha
    looks at the worst loss alone. Where no direction improves all losses there is no solution, and
    the weights are large and their direction short. The minimum of a convex function, found by
    Newton's method to rounding, also for gradients of very different lengths.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        alpha: How fair, above 0; may be traced.

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
    gramian = check_gramian(f"{_WHERE}fair_grad", gramian)
    power = 1 / jnp.asarray(alpha, gramian.dtype)
    size = jnp.trace(gramian) / len(gramian)
    size = jnp.where(size == 0, 1, size)
    cosines, inverse = correlation(gramian / size)
    alive = inverse > 0
    both = alive & alive[:, None]
    eye = jnp.eye(len(gramian), dtype=gramian.dtype)
    matrix = jnp.where(both, cosines, eye) + 4 * rounding(gramian) * eye
    # In y = norm * w the matrix is that of the cosines, and the lengths are factors of a utility.
    factor = jnp.where(alive, inverse, 1) ** (1 - power)

    def cost(y: Array) -> Array:
        rest = jnp.where(power == 1, 1, 1 - power)
        utility = jnp.where(power == 1, jnp.log(y), jnp.expm1(rest * jnp.log(y)) / rest)
        return 0.5 * y @ (matrix @ y) - factor @ utility

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        y, _, rounds = state
        pull = factor * y**-power
        gradient = matrix @ y - pull
        change = -jnp.linalg.solve(matrix + jnp.diag(power * pull / y), gradient)
        # In the units of y: how far, and how far at most.
        longest = jnp.minimum(1, 0.95 / jnp.maximum(jnp.max(-change / y), 1e-3))
        lengths = longest * 0.5 ** jnp.arange(12, dtype=y.dtype)
        trials = y + lengths[:, None] * change
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
    y, *_ = jax.lax.while_loop(lambda s: (s[1] > tolerance) & (s[2] < 100), step, start)
    y, *_ = step((y, y[0], jnp.asarray(0)))  # quadratic convergence: one more is exact
    return jnp.where(alive, y * inverse, 0) * size ** (-1 / (1 + power))


def nash(gramian: Array) -> Array:
    r"""Take it to split the improvement as bargaining players would: scale-free in every loss.

    $$(G w)_k = \frac{1}{w_k}, \qquad w > 0$$

    Multiplying a loss by a number does not change its share. It is `fair_grad` with alpha = 1; the
    direction has norm $\sqrt m$.

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
