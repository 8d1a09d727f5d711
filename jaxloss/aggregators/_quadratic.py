"""The small convex problems behind the weightings, solved to rounding, for any number of losses."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.arguments import as_array
from jaxloss._core.dtypes import to_accumulator
from jaxloss._core.spec import ArrayLike
from jaxloss.numerics._carry import carried

# Eager loops would be compiled in every call, since their bodies are new functions each time.
compiled_once = functools.partial(jax.jit, inline=True)


def check_gramian(fun_name: str, gramian: ArrayLike) -> Array:
    """A square matrix, in float32 or float64, without a gradient: weights are constants."""
    gramian = jnp.asarray(as_array(fun_name, "gramian", gramian))
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or not gramian.size:
        message = (
            f"{fun_name}: `gramian` has shape {gramian.shape}, expected (m, m), the inner products "
            f"of m gradients: write `jaxloss.aggregators.gramian(stacked)`."
        )
        raise ValueError(message)
    return jax.lax.stop_gradient(to_accumulator(gramian))


def check_preference(fun_name: str, preference: ArrayLike, gramian: Array) -> Array:
    """The relative importance of each loss; 1/m by default."""
    count = gramian.shape[0]
    if preference is None:
        return jnp.full(count, 1 / count, gramian.dtype)
    preference = jnp.asarray(as_array(fun_name, "preference", preference))
    if preference.shape != (count,):
        message = (
            f"{fun_name}: `preference` has shape {preference.shape}, expected ({count},), a number "
            f"for each loss."
        )
        raise ValueError(message)
    return preference.astype(gramian.dtype)


def divide_by_trace(gramian: Array) -> Array:
    """The matrix divided by its trace, which makes it independent of scale; zeros stay."""
    trace = jnp.trace(gramian)
    return gramian / jnp.where(trace == 0, 1, trace)


def rounding(matrix: Array) -> float:
    """The order of magnitude of rounding errors in eigenvalues, relative to the largest."""
    return len(matrix) * float(jnp.finfo(matrix.dtype).eps)


def pseudo_inverse_times(matrix: Array, vector: Array) -> Array:
    """The shortest solution of a symmetric system; eigenvalues within rounding count as 0."""
    values, vectors = jnp.linalg.eigh(matrix)
    kept = values > 10 * rounding(matrix) * jnp.max(values)
    return vectors @ (jnp.where(kept, 1 / jnp.where(kept, values, 1), 0) * (vectors.T @ vector))


def nonnegative_minimum(matrix: Array, vector: Array) -> Array:
    r"""The z >= 0 with the smallest $\frac12 z^\top M z + q^\top z$, for positive definite M.

    Block principal pivoting (Júdice and Pires, 1994): guess which entries are 0, solve for the
    others, and flip all guesses whose sign is wrong; where that does not improve, flip only the
    last one, which terminates (Murty). Each round is one solve, and a few suffice. The last solve
    gives all digits, which an iteration on the values does not.
    """
    scale = jax.lax.rsqrt(jnp.diagonal(matrix))
    matrix, vector = matrix * scale[None, :] * scale[:, None], vector * scale
    size, slack = len(vector), 10 * rounding(matrix)
    eye, index = jnp.eye(size, dtype=matrix.dtype), jnp.arange(size)

    def solve(free: Array) -> tuple[Array, Array]:
        both = free[None, :] & free[:, None]
        z = jnp.linalg.solve(jnp.where(both, matrix, eye), jnp.where(free, -vector, 0))
        slope = matrix @ z + vector
        largest = jnp.max(jnp.abs(z))
        wrong_z = free & (z < -slack * largest)
        wrong_slope = ~free & (slope < -slack * (largest + jnp.max(jnp.abs(vector))))
        return z, wrong_z | wrong_slope

    def flip(state: tuple[Array, ...]) -> tuple[Array, ...]:
        free, _, wrong, fewest, patience, rounds = state
        count = jnp.sum(wrong)
        better = count < fewest
        flip_all = better | (patience > 0)
        last = index == jnp.max(jnp.where(wrong, index, -1))
        free = free ^ jnp.where(flip_all, wrong, last)
        z, wrong = solve(free)
        patience = jnp.where(better, 3, jnp.maximum(patience - 1, 0))
        return free, z, wrong, jnp.minimum(count, fewest), patience, rounds + 1

    free = vector < 0
    z, wrong = solve(free)
    start = (free, z, wrong, jnp.asarray(size + 1), jnp.asarray(3), jnp.asarray(0))
    start, limit = carried(start, matrix, vector), 50 + 20 * size
    _, z, *_ = jax.lax.while_loop(lambda s: jnp.any(s[2]) & (s[-1] < limit), flip, start)
    return scale * jnp.maximum(z, 0)
