r"""Penalties (regularizers): pure functions from a parameter pytree to one number.

A penalty is *added* to a loss: `total({"fit": values, "decay": (l2(params), 1e-4)})`, or, without
a change of the loss, `jaxloss.transforms.add_penalty(l2, 1e-4)` in front of an optimizer. It is a
sum over all leaves, not a mean. None leaves are skipped, and the penalty of an empty tree is 0.
Half precision is summed in float32; gradients have the dtype of each leaf.

To leave biases out, pass only the other leaves, or use the `mask` of `add_penalty`.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxloss import numerics
from jaxloss._core.arguments import as_array
from jaxloss._core.dtypes import accumulator_dtype, to_accumulator
from jaxloss._core.namespace import public_names
from jaxloss._core.parameters import check_count, check_leaves, named_leaves, real_scalar
from jaxloss.domains import positive, unit_interval
from jaxloss.numerics._carry import carried

__all__ = [
    "elastic_net",
    "group_lasso",
    "huber_penalty",
    "l1",
    "l2",
    "nuclear_norm",
    "orthogonality",
    "spectral_norm",
    "total_variation",
]

_REMEDY = "Leave it out: put None in its place, or mask it out (`add_penalty(..., mask=...)`)."


def _sum(
    fun_name: str,
    function: Callable[[Array], Array],
    params: Any,
    *,
    rank: int = 0,
    axis: int | tuple[int, ...] = (),
) -> Array:
    """The sum of a function of every leaf, in float32 or float64."""
    remedy = f"expected floating-point parameters. {_REMEDY}"
    check_leaves(fun_name, params, jnp.floating, remedy)
    axes = axis if isinstance(axis, tuple) else (axis,)
    terms = [jnp.zeros((), jnp.float32)]
    for name, leaf in named_leaves("params", params):
        leaf = to_accumulator(as_array(fun_name, name, leaf))
        if leaf.ndim < rank or not all(-leaf.ndim <= a < leaf.ndim for a in axes):
            needed = f"at least {rank} axes" if leaf.ndim < rank else f"an axis {axis}"
            message = f"{fun_name}: `{name}` has shape {leaf.shape}, expected {needed}. {_REMEDY}"
            raise ValueError(message)
        terms.append(jnp.sum(function(leaf)))
    dtype = accumulator_dtype(*(term.dtype for term in terms))
    return functools.reduce(operator.add, [term.astype(dtype) for term in terms])


def l1(params: Any) -> Array:
    r"""L1 penalty (lasso): the sum of absolute values.

    When to use: sparse models, most of whose parameters shall be exactly 0.

    $$\sum_i |p_i|$$

    The gradient at 0 is 0, so that a parameter that starts at 0 does not move (`jax.grad(jnp.abs)`
    is 1 there).

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.

    Example:
        >>> l1({"w": jnp.array([3.0, -4.0]), "b": None})
        Array(7., dtype=float32)

    References:
        Tibshirani, *Regression Shrinkage and Selection via the Lasso*, 1996.
    """
    return _sum("jaxloss.penalties.l1", numerics.absolute, params)


def l2(params: Any) -> Array:
    r"""L2 penalty (ridge, weight decay): half the squared norm.

    When to use: small parameters without sparsity.

    $$\frac12 \sum_i p_i^2$$

    With the factor 1/2 its gradient is the parameters themselves, and its weight is the
    `weight_decay` of Optax and torch. Keras's `L2(w)` has no such factor: it is `2 * w * l2`.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.

    Example:
        >>> l2({"w": jnp.array([3.0, -4.0]), "b": None})
        Array(12.5, dtype=float32)

    References:
        Hoerl and Kennard, *Ridge Regression: Biased Estimation for Nonorthogonal Problems*, 1970.
    """
    return _sum("jaxloss.penalties.l2", lambda x: 0.5 * jnp.square(x), params)


def elastic_net(params: Any, *, l1_ratio: Any = 0.5) -> Array:
    r"""Elastic net: a convex combination of `l1` and `l2`.

    When to use: sparse models with groups of correlated parameters.

    $$\rho \sum_i |p_i| + \frac{1 - \rho}{2} \sum_i p_i^2$$

    `l1` alone selects one of a group of correlated parameters; with the quadratic term the whole
    group stays. The definition is that of scikit-learn, and of glmnet, where $\rho$ is called
    alpha. As an argument of `add_penalty` write `functools.partial(elastic_net, l1_ratio=0.9)`.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        l1_ratio: The share of `l1`, from 0 to 1; a scalar, which may be traced.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.
        ValueError: If `l1_ratio` is not a scalar, or a number outside 0 to 1.

    Example:
        >>> elastic_net({"w": jnp.array([3.0, -4.0])}, l1_ratio=0.5)
        Array(9.75, dtype=float32)

    References:
        Zou and Hastie, *Regularization and Variable Selection via the Elastic Net*, 2005.
    """
    fun_name = "jaxloss.penalties.elastic_net"
    ratio = real_scalar(fun_name, "l1_ratio", l1_ratio, unit_interval)
    absolute = _sum(fun_name, numerics.absolute, params)
    square = _sum(fun_name, lambda x: 0.5 * jnp.square(x), params)
    ratio = ratio.astype(absolute.dtype)
    return ratio * absolute + (1 - ratio) * square


def huber_penalty(params: Any, *, delta: Any = 1.0) -> Array:
    r"""Huber penalty: quadratic up to delta, linear beyond it.

    When to use: weight decay that permits a few large parameters.

    $$\sum_i \begin{cases} \frac12 p_i^2 & |p_i| \le \delta \\
      \delta \left( |p_i| - \frac12 \delta \right) & |p_i| > \delta \end{cases}$$

    The gradient is the parameters, clipped to $\pm\delta$.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        delta: The absolute value above which the penalty is linear, above 0; a scalar, which may
            be traced.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.
        ValueError: If `delta` is not a scalar, or a number that is not above 0.

    Example:
        >>> huber_penalty({"w": jnp.array([0.5, -4.0])}, delta=1.0)
        Array(3.625, dtype=float32)

    References:
        Huber, *Robust Estimation of a Location Parameter*, 1964.
    """
    fun_name = "jaxloss.penalties.huber_penalty"
    delta = real_scalar(fun_name, "delta", delta, positive)

    def huber(x: Array) -> Array:
        bound = delta.astype(x.dtype)
        clipped = jnp.clip(x, -bound, bound)
        return clipped * (x - 0.5 * clipped)

    return _sum(fun_name, huber, params)


def group_lasso(params: Any, *, axis: int | tuple[int, ...] = 0) -> Array:
    r"""Group lasso: the sum of the Euclidean norms of groups.

    When to use: to remove whole units or filters: the parameters of a group become 0 together.

    $$\sum_g \sqrt{n_g} \, \lVert p_g \rVert_2$$

    A group consists of all entries along `axis`; $n_g$ is its size. In a kernel of shape (inputs,
    outputs), `axis=0` makes a group of the weights into one output, `axis=1` of the weights from
    one input. In a convolution kernel of shape (height, width, inputs, outputs), `axis=(0, 1, 2)`
    makes a group of each filter. The gradient of a group of zeros is 0.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        axis: The axis or axes of a group.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.
        ValueError: If a leaf has no such axis; the message names it.

    Example:
        >>> group_lasso({"w": jnp.array([[3.0, 0.0], [4.0, 0.0]])}) / 2**0.5
        Array(5., dtype=float32)

    References:
        Yuan and Lin, *Model Selection and Estimation in Regression with Grouped Variables*, 2006.
    """
    axes = axis if isinstance(axis, tuple) else (axis,)

    def scaled_norms(x: Array) -> Array:
        size = math.prod(x.shape[a] for a in axes)
        return math.sqrt(size) * numerics.norm(x, axes)

    return _sum("jaxloss.penalties.group_lasso", scaled_norms, params, axis=axis)


def total_variation(params: Any, *, axis: int | tuple[int, ...] = -1) -> Array:
    r"""Total variation (anisotropic): the sum of absolute differences of neighbours.

    When to use: parameters along positions, time steps or pixels that are piecewise constant.

    $$\sum_i |p_{i + 1} - p_i|$$

    With several axes it is the sum over the axes. The gradient of equal neighbours is 0.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        axis: The axis or axes along which neighbours are compared.

    Returns:
        A scalar, 0 for an empty tree: float32, or float64 if a leaf is.

    Raises:
        TypeError: If a leaf is not floating-point; the message names it.
        ValueError: If a leaf has no such axis; the message names it.

    Example:
        >>> total_variation({"w": jnp.array([1.0, 1.0, 4.0, 2.0])})
        Array(5., dtype=float32)

    References:
        Rudin, Osher and Fatemi, *Nonlinear Total Variation Based Noise Removal Algorithms*, 1992.
    """
    axes = axis if isinstance(axis, tuple) else (axis,)

    def differences(x: Array) -> Array:
        sums = [jnp.sum(numerics.absolute(jnp.diff(x, axis=a))) for a in axes]
        return functools.reduce(operator.add, sums)

    return _sum("jaxloss.penalties.total_variation", differences, params, axis=axis)


def orthogonality(params: Any, *, axis: int = -1) -> Array:
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

    return _sum("jaxloss.penalties.orthogonality", squared_distance, params, rank=2, axis=axis)


def _as_matrix(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


@functools.partial(jax.jit, inline=True)  # compiled once by eager calls
def _right_singular_vector(x: Array, iterations: Any) -> Array:
    """Power iteration for the largest singular value."""
    start = jax.random.normal(jax.random.key(0), x.shape[1:], x.dtype)

    def iterate(_: Any, v: Array) -> Array:
        return numerics.normalize(x.T @ numerics.normalize(x @ v))

    return jax.lax.fori_loop(0, iterations, iterate, carried(numerics.normalize(start), x))


def spectral_norm(params: Any, *, iterations: Any = 10) -> Array:
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

    return _sum(fun_name, largest, params, rank=2)


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


def nuclear_norm(params: Any) -> Array:
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
    return _sum(
        "jaxloss.penalties.nuclear_norm",
        lambda x: _nuclear_norm(_as_matrix(x)),
        params,
        rank=2,
    )


__getattr__, __dir__ = public_names(__name__, __all__)
