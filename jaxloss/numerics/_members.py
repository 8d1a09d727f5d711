"""Means over pairs of the members of an ensemble, and over pairs of their components."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._xla import on_cpu
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._elementwise import absolute, power_or_zero
from jaxloss.numerics._reductions import mean_where
from jaxloss.numerics._vectors import distance


def _power(difference: Array, exponent: Array) -> Array:
    """|difference|^exponent, with gradient 0 at 0."""
    return power_or_zero(absolute(difference), exponent)


def _map_slices(function: Callable[[Any], Array], arrays: Any, axis: int) -> Array:
    """`function` of the slices of arrays along an axis, one after the other; they come first.

    They are computed again for the gradient, so that only one is held at a time.
    """
    slices = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), arrays)
    return lax.map(jax.checkpoint(function), slices)


def _mean_distances_in_turn(members: Array, mask: Array | None) -> Array:
    def to_others(one: Array) -> Array:
        return mean_where(distance(one[..., None, :], members), mask)

    return jnp.moveaxis(_map_slices(to_others, members, -2), 0, -1)


def _mean_distances_at_once(members: Array, mask: Array | None) -> Array:
    # On GPU and TPU the differences of the pairs are not written, and a loop is many small kernels.
    distances = distance(members[..., :, None, :], members[..., None, :, :])
    return mean_where(distances, None if mask is None else mask[..., None, :])


# Compiled functions, so that eager calls do not compile the loop again.
@jax.jit
def mean_distances(members: Array, mask: Array | None) -> Array:
    """The mean distance of each member to all members, itself included."""
    return on_cpu(_mean_distances_in_turn, _mean_distances_at_once, members, mask)


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
