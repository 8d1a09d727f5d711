r"""Penalties: what a model pays for its parameters, as pure functions of a parameter pytree.

A penalty maps parameters to one number, which is *added* to a loss:
`total({"fit": values, "decay": (l2(params), 1e-4)})`, or, without touching the loss,
`jaxloss.transforms.add_penalty(l2, 1e-4)` in front of an optimizer. It sums over leaves, and does
not divide by their number. None leaves are skipped, an empty tree costs 0, and half precision is
summed in float32 while gradients come back in the dtype of each leaf.

To leave biases out, hand over the other leaves alone, or give `add_penalty` a `mask`.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss._core.checks import are_on, check
from jaxloss.domains import Domain, positive, unit_interval


def _sum(
    fun_name: str,
    cost: Callable[[Array], Array],
    params: Any,
    *,
    rank: int = 0,
    axis: int | tuple[int, ...] = (),
) -> Array:
    """Adds up what the cost gives for every leaf, in float32 or better."""
    total = jnp.zeros((), jnp.float32)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = f"params{jax.tree_util.keystr(path)}"
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            came = dtype if hasattr(leaf, "dtype") else f"of type {dtype.__name__}"
            message = (
                f"{fun_name}: `{name}` is {came}, expected floating-point parameters. Leave it out: put "
                f"None in its place, or mask it out (`add_penalty(..., mask=...)`)."
            )
            raise TypeError(message)
        leaf = jnp.asarray(leaf)
        axes = axis if isinstance(axis, tuple) else (axis,)
        if leaf.ndim < rank or not all(-leaf.ndim <= a < leaf.ndim for a in axes):
            needed = f"at least {rank} axes" if leaf.ndim < rank else f"an axis {axis}"
            message = (
                f"{fun_name}: `{name}` has shape {leaf.shape}, expected {needed}. Leave it out: put "
                f"None in its place, or mask it out (`add_penalty(..., mask=...)`)."
            )
            raise ValueError(message)
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        total = total + jnp.sum(cost(leaf))
    return total


def _option(fun_name: str, name: str, given: Any, domain: Domain) -> Array:
    """A numeric option: a scalar, compared with its domain as far as it can be seen."""
    if isinstance(given, int | float) and not domain.test(given, {})[0]:
        raise ValueError(f"{fun_name}: `{name}` must be {domain.meaning}, got {given!r}.")
    option = jnp.asarray(given)
    if option.ndim:
        raise ValueError(f"{fun_name}: `{name}` has shape {option.shape}, expected a scalar.")
    if are_on():
        check(fun_name, name, domain, option, {})
    return option


def l1(params: Any) -> Array:
    r"""Take it to have parameters that are exactly 0, in most of a model: the sum of magnitudes.

    $$\sum_i |p_i|$$

    It pulls every parameter toward 0 with the same force. The gradient at 0 is 0, so that a bias
    that starts there is left alone (`jax.grad(jnp.abs)` has 1 there).

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
    r"""Take it to keep parameters small without making any of them 0: half the squared norm.

    $$\frac12 \sum_i p_i^2$$

    With the factor 1/2 its gradient is the parameters themselves, so that its weight is what
    `weight_decay` is in Optax and torch; keras's `L2(w)`, without the factor, is `2 * w * l2`.

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
    r"""Take it for exact zeros where parameters are correlated: a blend of `l1` and `l2`.

    $$\rho \sum_i |p_i| + \frac{1 - \rho}{2} \sum_i p_i^2$$

    `l1` alone picks one of a group of correlated parameters; the quadratic part keeps the group
    together. This is scikit-learn's definition, and glmnet's, where $\rho$ is called alpha.
    Where a function of parameters alone is asked for, write
    `functools.partial(elastic_net, l1_ratio=0.9)`.

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
    ratio = _option(fun_name, "l1_ratio", l1_ratio, unit_interval)
    absolute = _sum(fun_name, numerics.absolute, params)
    square = _sum(fun_name, lambda x: 0.5 * jnp.square(x), params)
    ratio = ratio.astype(absolute.dtype)
    return ratio * absolute + (1 - ratio) * square


def huber_penalty(params: Any, *, delta: Any = 1.0) -> Array:
    r"""Take it to shrink small parameters in proportion, and large ones by no more than delta.

    $$\sum_i \begin{cases} \frac12 p_i^2 & |p_i| \le \delta \\
      \delta \left( |p_i| - \frac12 \delta \right) & |p_i| > \delta \end{cases}$$

    `l2` for what is close to 0, `l1` for what is not: a few large parameters may stay large.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        delta: Where the parabola becomes a line, above 0; a scalar, which may be traced.

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
    delta = _option(fun_name, "delta", delta, positive)

    def cost(x: Array) -> Array:
        most = delta.astype(x.dtype)
        bounded = jnp.clip(x, -most, most)
        return bounded * (x - 0.5 * bounded)

    return _sum(fun_name, cost, params)


def group_lasso(params: Any, *, axis: int | tuple[int, ...] = 0) -> Array:
    r"""Take it to remove whole units: groups of parameters become 0 together, or not at all.

    $$\sum_g \sqrt{n_g} \, \lVert p_g \rVert_2$$

    A group runs along `axis`; $n_g$ is its size. In a kernel of shape (inputs, outputs), `axis=0`
    groups what leads to one output, `axis=1` what one input leads to, and in a convolution of shape
    (height, width, inputs, outputs) `axis=(0, 1, 2)` makes a group of each filter. A group of
    zeros has gradient 0.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        axis: The axis or axes along which a group runs.

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

    def cost(x: Array) -> Array:
        size = math.prod(x.shape[a] for a in axes)
        return math.sqrt(size) * numerics.norm(x, axes)

    return _sum("jaxloss.penalties.group_lasso", cost, params, axis=axis)


def total_variation(params: Any, *, axis: int | tuple[int, ...] = -1) -> Array:
    r"""Take it to have neighbours agree, but for a few jumps: positions, time steps, pixels.

    $$\sum_i |p_{i + 1} - p_i|$$

    Of several axes it is the sum over each (anisotropic). Equal neighbours have gradient 0.

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

    def cost(x: Array) -> Array:
        jumps = [jnp.sum(numerics.absolute(jnp.diff(x, axis=a))) for a in axes]
        return functools.reduce(operator.add, jumps)

    return _sum("jaxloss.penalties.total_variation", cost, params, axis=axis)


def orthogonality(params: Any, *, axis: int = -1) -> Array:
    r"""Take it to keep the units of a layer apart and of length 1: as if drawn orthogonal.

    $$\lVert W W^\top - I \rVert_F^2$$

    The rows of W are numbered by `axis`, the outputs say, and hold all other axes. Where there are
    more rows than entries in one, they cannot be orthogonal, and $W^\top W$ is compared instead. No
    factor 1/2, as in the paper; keras's `OrthogonalRegularizer` looks at cosines.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        axis: The axis that numbers the units.

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

    def cost(x: Array) -> Array:
        x = jnp.moveaxis(x, axis, 0)
        x = x.reshape(x.shape[0], -1)
        x = x if x.shape[0] <= x.shape[1] else x.T
        gramian = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.square(gramian - jnp.eye(len(x), dtype=x.dtype))

    return _sum("jaxloss.penalties.orthogonality", cost, params, rank=2, axis=axis)


def _as_matrix(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def spectral_norm(params: Any, *, iterations: int = 10) -> Array:
    r"""Take it to bound how much a layer can stretch its input: the largest singular values.

    $$\sum_W \sigma_1(W)$$

    A leaf is a matrix of its last axis by all others. The singular vectors come from power
    iteration, started at random but always the same, and are taken for constant: the gradient is
    $u v^\top$, and has as many digits as the iterations gave. The value is never too large. A
    matrix of zeros has gradient 0; where two singular values are equally large, one of their
    subgradients is picked. Second derivatives are not those of the norm.

    Args:
        params: A pytree of floating-point arrays; None leaves are skipped.
        iterations: How many times each matrix and its transpose are applied; the error shrinks by
            $(\sigma_2 / \sigma_1)^2$ each time.

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

    def cost(x: Array) -> Array:
        x = _as_matrix(x)
        frozen = jax.lax.stop_gradient(x)
        start = jax.random.normal(jax.random.key(0), x.shape[1:], x.dtype)

        def once(_: Any, v: Array) -> Array:
            return numerics.normalize(frozen.T @ numerics.normalize(frozen @ v))

        v = jax.lax.fori_loop(0, iterations, once, numerics.normalize(start))
        return numerics.norm(x @ v)

    return _sum("jaxloss.penalties.spectral_norm", cost, params, rank=2)


@jax.custom_jvp
def _sum_of_singular_values(x: Array) -> Array:
    return jnp.sum(jnp.linalg.svd(x, compute_uv=False))


@_sum_of_singular_values.defjvp
def _sum_of_singular_values_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (to_x,) = primals, tangents
    left, values, right = jnp.linalg.svd(x, full_matrices=False)
    # What rounding makes of a 0 has no direction of its own: of all subgradients the shortest.
    alive = values > max(x.shape) * jnp.finfo(x.dtype).eps * jnp.max(values, initial=0)
    return jnp.sum(values), jnp.sum((left * alive) @ right * to_x)


def nuclear_norm(params: Any) -> Array:
    r"""Take it to have matrices of low rank: the sum of their singular values.

    $$\sum_W \sum_i \sigma_i(W)$$

    A leaf is a matrix of its last axis by all others. It pulls every singular value toward 0 with
    the same force, as `l1` does with numbers. The gradient is $U V^\top$, without the singular
    values that are 0. It takes a singular value decomposition of every leaf.

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
        lambda x: _sum_of_singular_values(_as_matrix(x)),
        params,
        rank=2,
    )
