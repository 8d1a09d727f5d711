r"""Weightings: functions from the Gramian of the gradients to their weights.

The update direction is $d = \sum_k w_k g_k$. A small step along $-d$ decreases a loss where
$\langle g_k, d \rangle > 0$; otherwise $d$ conflicts with it.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.spec import ArrayLike
from jaxloss.aggregators._quadratic import (
    check_gramian,
    check_preference,
    compiled_once,
    divide_by_trace,
    nonnegative_minimum,
    rounding,
)
from jaxloss.numerics._carry import carried

_MODULE = "jaxloss.aggregators."


def _regularize(gramian: Array, regularization: Array | float) -> Array:
    regularization = jnp.asarray(regularization).astype(gramian.dtype)
    return divide_by_trace(gramian) + regularization * jnp.eye(len(gramian), dtype=gramian.dtype)


def _project(gramian: Array, weights: Array) -> Array:
    """The weights v >= weights with the shortest direction, which conflicts with no gradient."""
    return weights + nonnegative_minimum(gramian, gramian @ weights)


@compiled_once
def _upgrad(gramian: Array, preference: Array, regularization: Array | float) -> Array:
    matrix = _regularize(gramian, regularization)
    return jnp.sum(jax.vmap(lambda u: _project(matrix, u))(jnp.diag(preference)), axis=0)


def upgrad(
    gramian: Array, *, preference: ArrayLike | None = None, regularization: ArrayLike = 1e-4
) -> Array:
    r"""UPGrad: the mean of the gradients, each projected onto the cone without conflict.

    When to use: the first choice. No loss increases, and each counts in proportion to its gradient.

    $$w = \sum_k \arg\min_{v \ge u_k e_k} v^\top G v$$

    The dual cone of the gradients holds the directions that conflict with none of them. Without
    conflict the direction is the mean.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        preference: The relative importance of each loss, of shape (m,); if None, 1/m.
        regularization: Added to the diagonal, relative to the trace. It keeps weights finite where
            gradients are opposite, and permits a conflict of about that size.

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
    fun_name = f"{_MODULE}upgrad"
    gramian = check_gramian(fun_name, gramian)
    preference = check_preference(fun_name, preference, gramian)
    return _upgrad(gramian, preference, regularization)


@compiled_once
def _dual_projection(gramian: Array, preference: Array, regularization: Array | float) -> Array:
    return _project(_regularize(gramian, regularization), preference)


def dual_projection(
    gramian: Array, *, preference: ArrayLike | None = None, regularization: ArrayLike = 1e-4
) -> Array:
    r"""Dual cone projection: the mean gradient, projected onto the cone without conflict.

    When to use: to change the mean gradient as little as possible such that no loss increases.

    $$w = \arg\min_{v \ge u} v^\top G v$$

    `upgrad` projects each gradient instead of their mean. Here long gradients have more influence.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        preference: The relative importance of each loss, of shape (m,); if None, 1/m.
        regularization: Added to the diagonal, relative to the trace.

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
    fun_name = f"{_MODULE}dual_projection"
    gramian = check_gramian(fun_name, gramian)
    preference = check_preference(fun_name, preference, gramian)
    return _dual_projection(gramian, preference, regularization)


@compiled_once
def _mgda(gramian: Array) -> Array:
    # The minimum of z'Gz/2 - sum(z) over z >= 0 is a multiple of the solution.
    shift, ones = 4 * rounding(gramian), jnp.ones(len(gramian), gramian.dtype)
    matrix = _regularize(gramian, shift)
    multiple = nonnegative_minimum(matrix, -ones)
    multiple = nonnegative_minimum(matrix, -ones - shift * multiple)  # removes the regularization
    return multiple / jnp.sum(multiple)


def mgda(gramian: Array) -> Array:
    r"""Multiple-gradient descent (MGDA): the shortest convex combination of the gradients.

    When to use: to decrease all losses at the same rate, and to stop at a Pareto-stationary point.

    $$w = \arg\min_{v \ge 0, \, \sum v = 1} v^\top G v$$

    It is 0 exactly where no direction decreases all losses (Pareto stationarity). Short gradients
    get most of the weight, so a loss far from its minimum is almost ignored. The quadratic program
    is solved exactly, not by steps of Frank and Wolfe.

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
    return _mgda(check_gramian(f"{_MODULE}mgda", gramian))


@compiled_once
def _cagrad(gramian: Array, c: Array | float) -> Array:
    mean = jnp.full(len(gramian), 1 / len(gramian), gramian.dtype)
    matrix = _regularize(gramian, 4 * rounding(gramian))
    slope = matrix @ mean
    radius = jnp.asarray(c).astype(gramian.dtype) * jnp.sqrt(mean @ slope)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        level, _, _, rounds = state
        y = nonnegative_minimum(matrix, slope - level)
        length = jnp.sqrt(jnp.maximum(y @ (matrix @ y), 0))
        total = jnp.sum(y)
        change = jnp.where(
            total > 0, (length - radius) * length / jnp.where(total > 0, total, 1), 0
        )
        return level - change, y, jnp.abs(length - radius), rounds + 1

    # The start is not below the root, from where Newton's steps decrease monotonically to it.
    start = jnp.min(slope + radius * jnp.sqrt(jnp.diagonal(matrix)))
    tolerance = 4 * jnp.finfo(gramian.dtype).eps * radius
    state = (start, jnp.zeros_like(mean), jnp.full_like(radius, jnp.inf), jnp.asarray(0))
    state = carried(state, gramian, c)
    _, y, *_ = jax.lax.while_loop(
        lambda s: (s[2] > tolerance) & (s[3] < 30), step, carried(state, gramian, c)
    )
    return mean + jnp.where(jnp.diagonal(gramian) > 0, y, 0)  # 0 for a gradient of 0


def cagrad(gramian: Array, *, c: ArrayLike = 0.5) -> Array:
    r"""Conflict-averse gradient descent (CAGrad): the best direction for the worst loss in a ball.

    When to use: to minimize the mean loss, with some care for the loss that improves least.

    $$d = \arg\max_{\lVert d - g_0 \rVert \le c \lVert g_0 \rVert} \min_k \langle g_k, d \rangle,
      \qquad g_0 = \frac1m \sum_k g_k$$

    The ball is centred at the mean gradient. With c = 0 the direction is the mean; with c < 1 the
    iteration converges to a minimum of the mean loss. The solution is the root of a convex function
    of one variable, found to rounding by a few steps of Newton's method.

    Args:
        gramian: Inner products of the gradients, of shape (m, m).
        c: The radius of the ball, relative to the norm of the mean; at least 0.

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
    return _cagrad(check_gramian(f"{_MODULE}cagrad", gramian), c)
