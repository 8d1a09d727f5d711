"""Rules that look at the gradients entry by entry: a stacked leaf in, a leaf out."""

import jax
import jax.numpy as jnp
from jax import Array


def _check(fun_name: str, stacked: Array) -> Array:
    stacked = jnp.asarray(stacked)
    if not stacked.ndim:
        message = (
            f"{fun_name}: `stacked` is a scalar, expected a leaf of shape (m, ...), the gradients of m "
            f"losses: wrap the rule in `transforms.aggregate_coordinates`."
        )
        raise ValueError(message)
    return stacked


def trimmed_mean(stacked: Array, *, trim: int = 1) -> Array:
    r"""Take it when single gradients may be gross: the mean without the extremes of each entry.

    $$\frac{1}{m - 2t} \sum_{k = t + 1}^{m - t} g_{(k)}$$

    Args:
        stacked: A leaf of shape (m, ...).
        trim: How many of the largest, and of the smallest, are left out of each entry.

    Returns:
        A leaf of shape (...), in its dtype.

    Raises:
        ValueError: If there is no first axis, or nothing would be left.

    Example:
        >>> trimmed_mean(jnp.array([[1.0], [2.0], [900.0]]))
        Array([2.], dtype=float32)

    References:
        Yin et al., *Byzantine-Robust Distributed Learning*, 2018.
    """
    fun_name = "jaxloss.aggregators.trimmed_mean"
    stacked = _check(fun_name, stacked)
    count = stacked.shape[0]
    if trim < 0 or 2 * trim >= count:
        message = (
            f"{fun_name}: of {count} gradients, `trim` can be 0 to {(count - 1) // 2}, got {trim}."
        )
        raise ValueError(message)
    kept = jnp.sort(stacked, axis=0)[trim : count - trim]
    wide = jnp.promote_types(stacked.dtype, jnp.float32)
    return jnp.mean(kept.astype(wide), axis=0).astype(stacked.dtype)


def grad_drop(stacked: Array, key: Array, *, leak: Array | None = None) -> Array:
    r"""Take it to have each entry obey one sign: the positive gradients, or the negative ones.

    $$P = \frac12 \left( 1 + \frac{\sum_k g_k}{\sum_k |g_k|} \right), \qquad
      d = \sum_k g_k [g_k > 0] \text{ with probability } P, \text{ else } \sum_k g_k [g_k < 0]$$

    Args:
        stacked: A leaf of shape (m, ...).
        key: A `jax.random.key`.
        leak: What share of each gradient passes whatever its sign, of shape (m,), from 0 to 1; if
            None, nothing does.

    Returns:
        A leaf of shape (...), in its dtype: a sum, not a mean, as in the paper.

    Raises:
        ValueError: If there is no first axis, or the leak does not fit it.

    Example:
        >>> grad_drop(jnp.array([[1.0, -1.0], [2.0, -3.0]]), jax.random.key(0))
        Array([ 3., -4.], dtype=float32)

    References:
        Chen et al., *Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign
        Dropout*, 2020.
    """
    fun_name = "jaxloss.aggregators.grad_drop"
    stacked = _check(fun_name, stacked)
    g = stacked.astype(jnp.promote_types(stacked.dtype, jnp.float32))
    leak = jnp.zeros(len(g), g.dtype) if leak is None else jnp.asarray(leak).astype(g.dtype)
    if leak.shape != (len(g),):
        message = (
            f"{fun_name}: `leak` has shape {leak.shape}, expected ({len(g)},), one for each loss."
        )
        raise ValueError(message)
    size = jnp.sum(jnp.abs(g), axis=0)
    purity = 0.5 * (1 + jnp.sum(g, axis=0) / jnp.where(size == 0, 1, size))
    positive = jax.random.uniform(key, purity.shape, purity.dtype) < purity
    passes = jnp.where(positive, g > 0, g < 0)
    leak = jnp.expand_dims(leak, tuple(range(1, g.ndim)))
    return jnp.sum((leak + (1 - leak) * passes) * g, axis=0).astype(stacked.dtype)
