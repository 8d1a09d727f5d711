"""Ranks of the members of an ensemble; means over pairs of them and of their components."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._xla import on_cpu, on_each
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._elementwise import absolute, power_or_zero, sqrt
from jaxloss.numerics._reductions import mean_where
from jaxloss.numerics._vectors import power_of_two_near

_FEW = 32  # measured on CPU: up to here comparing all pairs takes less time than two sorts


def _is_below(other: Array, one: Array) -> Array:
    """2 where one number is below another, 1 where they are equal."""
    return (other < one).astype(jnp.int32) + (other <= one).astype(jnp.int32)


def _below_in_pairs(x: Array) -> Array:
    """Twice the number of entries below each entry, plus the number of those that equal it."""
    return jnp.sum(_is_below(x[..., None, :], x[..., :, None]), axis=-1, dtype=jnp.int32)


def _below_in_turn(x: Array) -> Array:
    """The same, on TPU: counted in the kernels that need it, where the sum would be written.

    The sum over pairs takes 5 times the cycles (`benchmarks/accelerators.py`).
    """
    others = (x[..., i, None] for i in range(x.shape[-1]))
    return functools.reduce(jnp.add, (_is_below(other, x) for other in others))


def ranks(x: Array) -> Array:
    """The rank of each entry, from 1; entries that are equal share the mean of their ranks."""
    size, last = x.shape[-1], x.ndim - 1
    if size <= _FEW:
        twice = on_each(_below_in_pairs, _below_in_pairs, _below_in_turn, x)
        return 0.5 * (twice + 1).astype(x.dtype)
    places = lax.broadcasted_iota(jnp.int32, x.shape, last)
    ordered, order = lax.sort((x, places), num_keys=1)
    edge = jnp.ones_like(ordered[..., :1], bool)
    differs = ordered[..., 1:] != ordered[..., :-1]
    starts, ends = (jnp.concatenate(parts, -1) for parts in ((edge, differs), (differs, edge)))
    first_equal = lax.cummax(jnp.where(starts, places, 0), axis=last)
    last_equal = lax.cummin(jnp.where(ends, places, size), axis=last, reverse=True)
    middle = 0.5 * (first_equal + last_equal).astype(x.dtype) + 1
    return lax.sort((order, middle), num_keys=1)[1]


def _power(difference: Array, exponent: Array) -> Array:
    """|difference|^exponent, with gradient 0 at 0."""
    return power_or_zero(absolute(difference), exponent)


def _map_slices(function: Callable[[Any], Any], arrays: Any, axis: int) -> Any:
    """`function` of the slices of arrays along an axis, one after the other; they come first.

    They are computed again for the gradient, so that only one is held at a time.
    """
    slices = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), arrays)
    return lax.map(jax.checkpoint(function), slices)


def _magnifier(members: Array) -> Array:
    """A power of 2 for each set, by which differences are multiplied before they are squared.

    The largest have squares far below overflow, and those of differences 1e30 times smaller are
    normal numbers.
    """
    largest = jnp.max(jnp.abs(members - members[..., :1, :]), axis=(-2, -1), keepdims=True)
    exponent = jnp.finfo(members.dtype).maxexp
    room = 2.0 ** (2 * exponent // 5)
    scale = room / jnp.maximum(power_of_two_near(largest), room * 2.0 ** (1 - exponent))
    return jnp.where(largest == 0, 1, scale)  # it multiplies tangents, too


def _to_others(one: Array, members: Array, scale: Array, mask: Array | None) -> tuple[Array, Array]:
    """The mean distance of one member to all, and its derivative; members are along the last axis.

    The derivative is 0 in the direction of a member that coincides.
    """
    apart = scale * (one[..., None] - members)
    length = sqrt(jnp.sum(jnp.square(apart), axis=-2))
    unit = apart / jnp.where(length == 0, jnp.inf, length)[..., None, :]
    return (
        mean_where(length, mask) / scale[..., 0, 0],
        mean_where(unit, None if mask is None else mask[..., None, :]),
    )


def _distances_in_turn(members: Array, mask: Array | None) -> tuple[Array, Array]:
    scale, columns = _magnifier(members), jnp.moveaxis(members, -1, -2)
    found = _map_slices(lambda one: _to_others(one, columns, scale, mask), members, -2)
    return jnp.moveaxis(found[0], 0, -1), jnp.moveaxis(found[1], 0, -2)


def _distances_at_once(members: Array, mask: Array | None) -> tuple[Array, Array]:
    # On GPU and TPU the differences of the pairs are not written, and a loop is many small kernels.
    columns = jnp.moveaxis(members, -1, -2)[..., None, :, :]
    scale, masks = _magnifier(members), None if mask is None else mask[..., None, :]
    return _to_others(members, columns, scale[..., None, :, :], masks)


@jax.custom_jvp
def _mean_less_distances(
    errors: Array, members: Array, divisor: Array, mask: Array | None
) -> Array:
    distances, _ = on_cpu(_distances_in_turn, _distances_at_once, members, mask)
    return mean_where(errors - distances / divisor[..., None], mask)


@_mean_less_distances.defjvp
def _mean_less_distances_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # A full rule: a pair is in the sums of two members, whose derivatives are those of the one.
    errors, members, divisor, mask = primals
    distances, slopes = on_cpu(_distances_in_turn, _distances_at_once, members, mask)
    divisor = divisor[..., None]
    changes = tangents[0] - 2 * jnp.sum(slopes * tangents[1], axis=-1) / divisor
    return mean_where(errors - distances / divisor, mask), mean_where(changes, mask)


# A compiled function, so that eager calls do not compile the loop again.
@jax.jit
def mean_less_distances(errors: Array, members: Array, divisor: Array, mask: Array | None) -> Array:
    """The mean over members of an error less the mean distance to all members over a constant.

    The distance of a member to itself, 0, is one of them.
    """
    return _mean_less_distances(errors, members, divisor, mask)


@jax.jit
def variogram_errors(members: Array, target: Array, exponent: Array, mask: Array | None) -> Array:
    """For each pair of components, which come first and last, the error of their difference."""
    return on_cpu(_errors_in_turn, _errors_at_once, members, target, exponent, mask)


def _errors_at_once(members: Array, target: Array, exponent: Array, mask: Array | None) -> Array:
    masks = () if mask is None else (mask,)
    mean = separate_derivative(_mean_powers, each=True)(members, members, exponent, *masks)
    of_target = _power(target[..., :, None] - target[..., None, :], exponent)
    return jnp.moveaxis(of_target - mean, -2, 0)


def _mean_powers(first: Array, second: Array, exponent: Array, mask: Array | None = None) -> Array:
    powers = _power(first[..., :, None] - second[..., None, :], exponent)
    if mask is None:
        return jnp.mean(powers, axis=-3)
    return mean_where(jnp.moveaxis(powers, -3, -1), mask[..., None, None, :])


def _errors_in_turn(members: Array, target: Array, exponent: Array, mask: Array | None) -> Array:
    def errors(component: tuple[Array, Array]) -> Array:
        of_members, of_target = component
        powers = _power(of_members[..., None] - members, exponent)
        mean = mean_where(
            jnp.moveaxis(powers, -2, -1), None if mask is None else mask[..., None, :]
        )
        return _power(of_target[..., None] - target, exponent) - mean

    return _map_slices(errors, (members, target), -1)
