"""A linear recursion along the last axis, from its end to its start."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._xla import on_cpu
from jaxloss.numerics._carry import carried

Data = tuple[Array, ...]
Terms = Callable[..., tuple[Array, Array | None]]


# Jitted, so that eager calls compile their loop once.
@functools.partial(jax.jit, static_argnames=("terms", "axis", "parallel"))
def backward(
    terms: Terms,
    data: Data,
    stops: Array,
    decay: Array,
    *,
    numbers: Data = (),
    axis: int = -1,
    parallel: bool | None = None,
) -> tuple[Array, Array]:
    """y[t] = base[t] + factor[t] f[t] with f[t] = decay y[t + 1], or 0 where it stops.

    Args:
        terms: Gives base and factor from the data of any steps and from the numbers; None for a
            factor of 1. Defined at module level: JAX caches the compiled loop by its identity.
        data: Arrays `(*batch, time)`, in memory as `axis` says.
        stops: Booleans of their shape, True where y[t + 1], 0 at the end, does not count.
        decay: A number.
        numbers: What else the terms need.
        axis: 0 if the arrays are the transposes of arrays `(time, *batch)`: nothing is transposed.
        parallel: Whether to use an associative scan, of logarithmic depth, or a loop over the
            steps. None for a loop on CPU, where a step costs little, and a scan elsewhere.

    Returns:
        y and f, of the shape of the data.

    Example:
        >>> rewards, stops = jnp.array([1.0, 2.0]), jnp.array([False, True])
        >>> [x.tolist() for x in backward(lambda r: (r, None), (rewards,), stops, 0.5)]
        [[2.0, 2.0], [1.0, 0.0]]
    """
    loop = functools.partial(_loop, terms, axis == 0)
    scan = functools.partial(_scan, terms)
    if parallel is None:
        return on_cpu(loop, scan, data, stops, decay, numbers)
    return (scan if parallel else loop)(data, stops, decay, numbers)


def _loop(
    terms: Terms, time_first: bool, data: Data, stops: Array, decay: Array, numbers: Data
) -> tuple[Array, Array]:
    if time_first:  # each step computes its base and factor
        return _steps(terms, data, stops, decay, numbers)
    base, factor = terms(*data, *numbers)
    if factor is None:
        return _steps(_base_alone, (base,), stops, decay)  # one array is transposed, not all data
    _, future = _steps(terms, data, stops, decay, numbers)
    return base + factor * future, future  # so that f alone is transposed again


def _base_alone(base: Array) -> tuple[Array, None]:
    return base, None


def _steps(
    terms: Terms, data: Data, stops: Array, decay: Array, numbers: Data = ()
) -> tuple[Array, Array]:
    def step(later: Array, at: tuple[Array, Data]) -> tuple[Array, Any]:
        stops, data = at
        base, factor = terms(*data, *numbers)
        future = jnp.where(stops, 0, decay * later)
        y = base + (future if factor is None else factor * future)
        return y, (y, future)

    time_first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (stops, data))
    start = carried(jnp.zeros_like(data[0][..., 0]), time_first)
    _, found = lax.scan(step, start, time_first, reverse=True)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), found)


def _scan(
    terms: Terms, data: Data, stops: Array, decay: Array, numbers: Data
) -> tuple[Array, Array]:
    base, factor = terms(*data, *numbers)
    each = jnp.where(stops, 0, decay)

    def compose(later: Any, earlier: Any) -> Any:
        (a2, b2), (a1, b1) = later, earlier
        return a1 * a2, b1 + a1 * b2

    both = each if factor is None else each * factor, base
    _, y = lax.associative_scan(compose, both, reverse=True, axis=base.ndim - 1)
    later = jnp.concatenate([y[..., 1:], jnp.zeros_like(y[..., :1])], axis=-1)
    return y, each * later
