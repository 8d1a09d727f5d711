"""Penalties of single parameters, and of groups of them."""

import functools
import math
import operator

import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from jaxloss import numerics
from jaxloss._core.parameters import real_scalar
from jaxloss._core.spec import ArrayLike
from jaxloss.domains import positive, unit_interval
from jaxloss.penalties._sums import sum_over_leaves


def l1(params: PyTree) -> Array:
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
    return sum_over_leaves("jaxloss.penalties.l1", numerics.absolute, params)


def l2(params: PyTree) -> Array:
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
    return sum_over_leaves("jaxloss.penalties.l2", lambda x: 0.5 * jnp.square(x), params)


def elastic_net(params: PyTree, *, l1_ratio: ArrayLike = 0.5) -> Array:
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
    absolute = sum_over_leaves(fun_name, numerics.absolute, params)
    square = sum_over_leaves(fun_name, lambda x: 0.5 * jnp.square(x), params)
    ratio = ratio.astype(absolute.dtype)
    return ratio * absolute + (1 - ratio) * square


def huber_penalty(params: PyTree, *, delta: ArrayLike = 1.0) -> Array:
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

    return sum_over_leaves(fun_name, huber, params)


def group_lasso(params: PyTree, *, axis: int | tuple[int, ...] = 0) -> Array:
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

    return sum_over_leaves("jaxloss.penalties.group_lasso", scaled_norms, params, axis=axis)


def total_variation(params: PyTree, *, axis: int | tuple[int, ...] = -1) -> Array:
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

    return sum_over_leaves("jaxloss.penalties.total_variation", differences, params, axis=axis)
