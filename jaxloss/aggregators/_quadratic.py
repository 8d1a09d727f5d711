"""The small convex problems behind the weightings, solved to rounding, for any number of losses."""

import jax
import jax.numpy as jnp
from jax import Array


def check_gramian(fun_name: str, gramian: Array) -> Array:
    """A square matrix, in float32 or better, without a gradient: weights are not differentiated."""
    gramian = jnp.asarray(gramian)
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or not gramian.size:
        message = (
            f"{fun_name}: `gramian` has shape {gramian.shape}, expected (m, m), the inner products of m "
            f"gradients: write `jaxloss.aggregators.gramian(stacked)`."
        )
        raise ValueError(message)
    dtype = jnp.promote_types(gramian.dtype, jnp.float32)
    return jax.lax.stop_gradient(gramian.astype(dtype))


def check_preference(fun_name: str, preference: Array | None, gramian: Array) -> Array:
    """How much each loss counts: 1/m unless said otherwise."""
    count = gramian.shape[0]
    if preference is None:
        return jnp.full(count, 1 / count, gramian.dtype)
    preference = jnp.asarray(preference)
    if preference.shape != (count,):
        message = (
            f"{fun_name}: `preference` has shape {preference.shape}, expected ({count},), a number for "
            f"each loss."
        )
        raise ValueError(message)
    return preference.astype(gramian.dtype)


def normalized(gramian: Array) -> Array:
    """The matrix divided by its trace, whatever its scale; zeros stay."""
    trace = jnp.trace(gramian)
    return gramian / jnp.where(trace == 0, 1, trace)


def correlation(gramian: Array) -> tuple[Array, Array]:
    """The cosines between the gradients, and the inverse of each norm; 0 for a gradient of 0."""
    norms = jnp.sqrt(jnp.diagonal(gramian))
    inverse = jnp.where(norms == 0, 0, 1 / jnp.where(norms == 0, 1, norms))
    return gramian * inverse * inverse[:, None], inverse


def rounding(matrix: Array) -> float:
    """About how far rounding moves an eigenvalue, as a share of the largest."""
    return len(matrix) * float(jnp.finfo(matrix.dtype).eps)


def pseudo_inverse_times(matrix: Array, vector: Array) -> Array:
    """The shortest solution of a symmetric system, where eigenvalues of rounding count as 0."""
    values, vectors = jnp.linalg.eigh(matrix)
    kept = values > 10 * rounding(matrix) * jnp.max(values)
    return vectors @ (jnp.where(kept, 1 / jnp.where(kept, values, 1), 0) * (vectors.T @ vector))


def nonnegative_minimum(matrix: Array, vector: Array) -> Array:
    r"""The z >= 0 with the smallest $\frac12 z^\top M z + q^\top z$, for positive definite M.

    Block principal pivoting (Júdice and Pires, 1994): guess which entries are 0, solve for the
    others, and flip all guesses whose sign is wrong; where that does not improve, flip only the
    last one, which is known to end (Murty). Each round costs a solve; a handful are enough, and
    the last one gives all digits, which no iteration on the values does.
    """
    scale = jax.lax.rsqrt(jnp.diagonal(matrix))
    matrix, vector = matrix * scale * scale[:, None], vector * scale
    size, slack = len(vector), 10 * rounding(matrix)
    eye, index = jnp.eye(size, dtype=matrix.dtype), jnp.arange(size)

    def solve(free: Array) -> tuple[Array, Array]:
        both = free & free[:, None]
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
        all_at_once = better | (patience > 0)
        last = index == jnp.max(jnp.where(wrong, index, -1))
        free = free ^ jnp.where(all_at_once, wrong, last)
        z, wrong = solve(free)
        patience = jnp.where(better, 3, jnp.maximum(patience - 1, 0))
        return free, z, wrong, jnp.minimum(count, fewest), patience, rounds + 1

    free = vector < 0
    z, wrong = solve(free)
    start = (free, z, wrong, jnp.asarray(size + 1), jnp.asarray(3), jnp.asarray(0))
    limit = 50 + 20 * size
    _, z, *_ = jax.lax.while_loop(lambda s: jnp.any(s[2]) & (s[-1] < limit), flip, start)
    return scale * jnp.maximum(z, 0)
