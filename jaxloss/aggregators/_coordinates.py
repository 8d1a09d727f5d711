"""Coordinate-wise rules: a stacked leaf in, a leaf out."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.dtypes import to_accumulator
from jaxloss._core.parameters import check_count


def _check(fun_name: str, stacked: Array) -> Array:
    stacked = jnp.asarray(stacked)
    if not stacked.ndim:
        message = (
            f"{fun_name}: `stacked` is a scalar, expected a leaf of shape (m, ...), the gradients "
            f"of m losses: wrap the rule in `transforms.aggregate_coordinates`."
        )
        raise ValueError(message)
    return stacked


def trimmed_mean(stacked: Array, *, trim: int = 1) -> Array:
    r"""Trimmed mean: the mean of each entry without its largest and smallest values.

    When to use: gradients of which some may be corrupt or contain outliers.

    $$\frac{1}{m - 2t} \sum_{k = t + 1}^{m - t} g_{(k)}$$

    Args:
        stacked: A leaf of shape (m, ...).
        trim: The number of largest values, and of smallest, that are left out in each entry.

    Returns:
        A leaf of shape (...), in its dtype.

    Raises:
        ValueError: If there is no first axis, or `trim` leaves no values.

    Example:
        >>> trimmed_mean(jnp.array([[1.0], [2.0], [900.0]]))
        Array([2.], dtype=float32)

    References:
        Yin et al., *Byzantine-Robust Distributed Learning*, 2018.
    """
    fun_name = "jaxloss.aggregators.trimmed_mean"
    stacked = _check(fun_name, stacked)
    count = stacked.shape[0]
    trim = check_count(fun_name, "trim", trim, least=0)
    if 2 * trim >= count:
        message = (
            f"{fun_name}: of {count} gradients, `trim` can be 0 to {(count - 1) // 2}, got {trim}."
        )
        raise ValueError(message)
    kept = jnp.sort(stacked, axis=0)[trim : count - trim]
    return jnp.mean(to_accumulator(kept), axis=0).astype(stacked.dtype)


def grad_drop(stacked: Array, key: Array, *, leak: Array | None = None) -> Array:
    r"""GradDrop: keeps in each entry only the gradients of one sign, drawn at random.

    When to use: conflict that shall be resolved entry by entry, with some noise as a regularizer.

    $$P = \frac12 \left( 1 + \frac{\sum_k g_k}{\sum_k |g_k|} \right), \qquad
      d = \sum_k g_k [g_k > 0] \text{ with probability } P, \text{ else } \sum_k g_k [g_k < 0]$$

    Args:
        stacked: A leaf of shape (m, ...).
        key: A `jax.random.key`.
        leak: The share of each gradient that is kept whatever its sign, of shape (m,), from 0 to
            1; if None, 0.

    Returns:
        A leaf of shape (...), in its dtype: a sum, not a mean, as in the paper.

    Raises:
        ValueError: If there is no first axis, or `leak` does not have its size.

    Example:
        >>> grad_drop(jnp.array([[1.0, -1.0], [2.0, -3.0]]), jax.random.key(0))
        Array([ 3., -4.], dtype=float32)

    References:
        Chen et al., *Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign
        Dropout*, 2020.
    """
    fun_name = "jaxloss.aggregators.grad_drop"
    stacked = _check(fun_name, stacked)
    g = to_accumulator(stacked)
    leak = jnp.zeros(len(g), g.dtype) if leak is None else jnp.asarray(leak).astype(g.dtype)
    if leak.shape != (len(g),):
        message = (
            f"{fun_name}: `leak` has shape {leak.shape}, expected ({len(g)},), one for each loss."
        )
        raise ValueError(message)
    size = jnp.sum(jnp.abs(g), axis=0)
    purity = 0.5 * (1 + jnp.sum(g, axis=0) / jnp.where(size == 0, 1, size))
    positive = jax.random.uniform(key, purity.shape, purity.dtype) < purity
    kept = jnp.where(positive[None], g > 0, g < 0)
    leak = jnp.expand_dims(leak, tuple(range(1, g.ndim)))
    share = jnp.where(kept, 1, jnp.broadcast_to(leak, g.shape))
    return jnp.sum(share * g, axis=0).astype(stacked.dtype)
