r"""Penalties: what a model pays for its parameters, as pure functions of a parameter pytree.

A penalty maps parameters to one number, which is *added* to a loss:
`total({"fit": values, "decay": (l2(params), 1e-4)})`, or, without touching the loss,
`jaxloss.transforms.add_penalty(l2, 1e-4)` in front of an optimizer. It sums over leaves, and does
not divide by their number. None leaves are skipped, an empty tree costs 0, and half precision is
summed in float32 while gradients come back in the dtype of each leaf.

To leave biases out, hand over the other leaves alone, or give `add_penalty` a `mask`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import numerics
from jaxloss.checks import are_on, check
from jaxloss.domains import unit_interval


def _sum(who: str, cost: Callable[[Array], Array], params: Any) -> Array:
    """Adds up the cost of every entry of every leaf, in float32 or better."""
    total = jnp.zeros((), jnp.float32)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            name = f"params{jax.tree_util.keystr(path)}"
            came = dtype if hasattr(leaf, "dtype") else f"of type {dtype.__name__}"
            message = (
                f"{who}: `{name}` is {came}, expected floating-point parameters. Leave it out: put "
                f"None in its place, or mask it out (`add_penalty(..., mask=...)`)."
            )
            raise TypeError(message)
        leaf = jnp.asarray(leaf)
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        total = total + jnp.sum(cost(leaf))
    return total


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
    who = "jaxloss.penalties.elastic_net"
    if isinstance(l1_ratio, int | float) and not 0 <= l1_ratio <= 1:
        message = f"{who}: `l1_ratio` must be {unit_interval.meaning}, got {l1_ratio!r}."
        raise ValueError(message)
    ratio = jnp.asarray(l1_ratio)
    if ratio.ndim:
        raise ValueError(f"{who}: `l1_ratio` has shape {ratio.shape}, expected a scalar.")
    if are_on():
        check(who, "l1_ratio", unit_interval, ratio, {})
    absolute = _sum(who, numerics.absolute, params)
    square = _sum(who, lambda x: 0.5 * jnp.square(x), params)
    ratio = ratio.astype(absolute.dtype)
    return ratio * absolute + (1 - ratio) * square
