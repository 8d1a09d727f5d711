"""A linear recursion along the last axis, from its end to its start."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._xla import recompute
from jaxloss.numerics._carry import carried

Terms = Callable[..., tuple[Array, Array | None]]


def backward(
    terms: Terms,
    data: tuple[Array, ...],
    follows: Array,
    decay: Array,
    *,
    axis: int = -1,
    parallel: bool = False,
) -> tuple[Array, Array]:
    """y[t] = base[t] + factor[t] f[t] with f[t] = decay y[t + 1], or 0 where nothing follows.

    Args:
        terms: Gives base and factor from the data of any steps; None for a factor of 1.
        data: Arrays `(*batch, time)`, in memory as `axis` says.
        follows: Booleans of their shape, False where y[t + 1], 0 at the end, does not count.
        decay: A number.
        axis: 0 if the arrays are the transposes of arrays `(time, *batch)`: nothing is transposed.
        parallel: Whether to use an associative scan.

    Returns:
        y and f, of the shape of the data.

    Example:
        >>> rewards, follows = jnp.array([1.0, 2.0]), jnp.array([True, False])
        >>> [x.tolist() for x in backward(lambda r: (r, None), (rewards,), follows, 0.5)]
        [[2.0, 2.0], [1.0, 0.0]]
    """
    if parallel:
        return _parallel(terms(*data), follows, decay)
    if axis == 0:
        return _sequential(terms, data, follows, decay)
    base, factor = terms(*data)  # of which two arrays are transposed at most, not all data
    if factor is None:
        return _sequential(lambda base: (base, None), (base,), follows, decay)
    _, future = _sequential(lambda base, factor: (base, factor), (base, factor), follows, decay)
    # y from f, so that f alone is transposed again. The base is not held meanwhile.
    base_again, _ = terms(*recompute(data))
    return base_again + factor * future, future


def _sequential(
    terms: Terms, data: tuple[Array, ...], follows: Array, decay: Array
) -> tuple[Array, Array]:
    """`backward` by a loop over the steps, each of which computes its base and factor."""

    def step(later: Array, at: tuple[Array, tuple[Array, ...]]) -> tuple[Array, Any]:
        follows, data = at
        base, factor = terms(*data)
        future = jnp.where(follows, decay * later, 0)
        y = base + (future if factor is None else factor * future)
        return y, (y, future)

    time_first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (follows, data))
    start = carried(jnp.zeros_like(data[0][..., 0]), time_first)
    _, found = lax.scan(step, start, time_first, reverse=True)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), found)


def _parallel(
    terms: tuple[Array, Array | None], follows: Array, decay: Array
) -> tuple[Array, Array]:
    """`backward` by an associative scan, of logarithmic depth."""
    base, factor = terms
    each = jnp.where(follows, decay, 0)

    def compose(later: Any, earlier: Any) -> Any:
        (a2, b2), (a1, b1) = later, earlier
        return a1 * a2, b1 + a1 * b2

    both = each if factor is None else each * factor, base
    _, y = lax.associative_scan(compose, both, reverse=True, axis=base.ndim - 1)
    later = jnp.concatenate([y[..., 1:], jnp.zeros_like(y[..., :1])], axis=-1)
    return y, each * later
