"""Penalties of matrices: of their singular values and of their Gramian."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jaxtyping import PyTree

from jaxloss import numerics
from jaxloss._core.parameters import check_count
from jaxloss._core.spec import ArrayLike
from jaxloss.numerics._carry import carried
from jaxloss.penalties._sums import sum_over_leaves


def orthogonality(params: PyTree, *, axis: int = -1) -> Array:
    r"""Orthogonality penalty (soft orthogonality): the distance of the Gramian to the identity.

    When to use: layers whose units shall stay orthonormal, as after an orthogonal initialization.

    $$\lVert W W^\top - I \rVert_F^2$$

    The rows of W run along `axis`, for example that of the outputs, and hold all other axes.
    Where there are more rows than columns, the rows cannot be orthogonal, and $W^\top W$ is used
    instead. There is no factor 1/2, as in the paper. Keras's `OrthogonalRegularizer` penalizes
    cosines.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        axis: The axis of the units.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.
        ValueError: If a leaf has fewer than two axes, or no such axis; the message names it.

    Example:
        >>> orthogonality({"w": jnp.array([[1.0, 0.0], [0.0, 2.0]])})
        Array(9., dtype=float32)

    References:
        Bansal, Chen and Wang, *Can We Gain More from Orthogonality Regularizations in Training
        Deep Networks?*, 2018.
    """

    def squared_distance(x: Array) -> Array:
        x = jnp.moveaxis(x, axis, 0)
        x = x.reshape(x.shape[0], -1)
        x = x if x.shape[0] <= x.shape[1] else x.T
        gramian = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.square(gramian - jnp.eye(len(x), dtype=x.dtype))

    return sum_over_leaves(
        "jaxloss.penalties.orthogonality", squared_distance, params, rank=2, axis=axis
    )


def _as_matrix(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


@functools.partial(jax.jit, inline=True)  # compiled once by eager calls
def _right_singular_vector(x: Array, iterations: Array | float) -> Array:
    """Power iteration for the largest singular value."""
    start = jax.random.normal(jax.random.key(0), x.shape[1:], x.dtype)

    def iterate(_: Any, v: Array) -> Array:
        return numerics.normalize(x.T @ numerics.normalize(x @ v))

    return jax.lax.fori_loop(0, iterations, iterate, carried(numerics.normalize(start), x))


def spectral_norm(params: PyTree, *, iterations: ArrayLike = 10) -> Array:
    r"""Spectral norm penalty: the sum of the largest singular values of the matrices.

    When to use: to bound the Lipschitz constant of a layer.

    $$\sum_W \sigma_1(W)$$

    A leaf of several axes is a matrix whose columns run along the last axis. The singular vectors
    are computed by power iteration from a fixed random start, and are constants of the gradient,
    which is $u v^\top$. The value is a lower bound. The gradient of a matrix of zeros is 0; where
    the two largest singular values are equal, it is one of the subgradients. Second derivatives are
    those of $u^\top W v$ with constant $u$ and $v$, not of the norm.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        iterations: The number of products with each matrix and its transpose, which may be traced;
            each multiplies the error by $(\sigma_2 / \sigma_1)^2$.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.
        ValueError: If a leaf has fewer than two axes; the message names it.

    Example:
        >>> spectral_norm({"w": jnp.array([[3.0, 0.0], [0.0, -1.0]])})
        Array(3., dtype=float32)

    References:
        Yoshida and Miyato, *Spectral Norm Regularization for Improving the Generalizability of
        Deep Learning*, 2017.
    """
    fun_name = "jaxloss.penalties.spectral_norm"
    if not isinstance(iterations, Tracer):
        check_count(fun_name, "iterations", iterations, least=0)

    def largest(x: Array) -> Array:
        x = _as_matrix(x)
        return numerics.norm(x @ _right_singular_vector(jax.lax.stop_gradient(x), iterations))

    return sum_over_leaves(fun_name, largest, params, rank=2)


def _svd(x: Array) -> tuple[Array, Array, Array, Array]:
    """U, the singular values, their inverses and V^T.

    The inverses and the vectors of singular values within rounding of 0 are 0.
    """
    left, values, right = jnp.linalg.svd(x, full_matrices=False)
    kept = values > max(x.shape) * jnp.finfo(x.dtype).eps * jnp.max(values, initial=0)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    kept = kept.astype(x.dtype)
    return left * kept[None, :], values, inverse, right * kept[:, None]


@jax.custom_jvp
def _nuclear_norm(x: Array) -> Array:
    return jnp.sum(jnp.linalg.svd(x, compute_uv=False))


# A rule of its own: those of the decomposition divide by differences of singular values.
@_nuclear_norm.defjvp
def _nuclear_norm_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value, gradient = _nuclear_norm_and_gradient(*primals)
    return value, jnp.sum(gradient * tangents[0])


@jax.custom_jvp
def _nuclear_norm_and_gradient(x: Array) -> tuple[Array, Array]:
    """The gradient is U V^T over the singular values that are not 0: the shortest subgradient."""
    left, values, _, right = _svd(x)
    return jnp.sum(values), _matmul(left, right)


@_nuclear_norm_and_gradient.defjvp
def _nuclear_norm_and_gradient_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    r"""With $P = U^\top \dot X V$, inside the kept singular vectors and beside them.

    $$U \frac{P - P^\top}{\sigma_i + \sigma_j} V^\top + (I - U U^\top) \dot X V \Sigma^{-1} V^\top
      + U \Sigma^{-1} U^\top \dot X (I - V V^\top)$$
    """
    (x,), (x_dot,) = primals, tangents
    left, values, inverse, right = _svd(x)
    gradient = _matmul(left, right)
    sums = values[None, :] + values[:, None]
    rows, columns = _matmul(left.T, x_dot), _matmul(x_dot, right.T)
    inner = _matmul(rows, right.T)
    rotation = (inner - inner.T) / jnp.where(sums > 0, sums, 1)
    beside_left = (columns - _matmul(left, inner)) * inverse[None, :]
    beside_right = (rows - _matmul(inner, right)) * inverse[:, None]
    gradient_dot = _matmul(_matmul(left, rotation) + beside_left, right) + _matmul(
        left, beside_right
    )
    return (jnp.sum(values), gradient), (jnp.sum(gradient * x_dot), gradient_dot)


def _matmul(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def nuclear_norm(params: PyTree) -> Array:
    r"""Nuclear norm (trace norm): the sum of the singular values.

    When to use: matrices of low rank. It is to the singular values what `l1` is to numbers.

    $$\sum_W \sum_i \sigma_i(W)$$

    A leaf of several axes is a matrix whose columns run along the last axis. The gradient is
    $U V^\top$, over the singular values that are not 0; second derivatives are finite, also where
    singular values coincide or are 0. Each evaluation computes a singular value decomposition of
    every leaf.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.
        ValueError: If a leaf has fewer than two axes; the message names it.

    Example:
        >>> nuclear_norm({"w": jnp.array([[3.0, 0.0], [0.0, -1.0]])})
        Array(4., dtype=float32)

    References:
        Fazel, Hindi and Boyd, *A Rank Minimization Heuristic with Application to Minimum Order
        System Approximation*, 2001.
    """
    return sum_over_leaves(
        "jaxloss.penalties.nuclear_norm",
        lambda x: _nuclear_norm(_as_matrix(x)),
        params,
        rank=2,
    )
