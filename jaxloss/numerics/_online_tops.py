"""The tops of two parts of a row, in order: what merging sums relative to their tops needs."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxloss.numerics._double_double import DD, exp_by_instruction, shifted

Numbers = tuple[Array, ...]


class Tops(NamedTuple):
    """Two tops in order.

    Attributes:
        top: The larger of the two; one number, or the two words of a `DD`.
        is_second: Whether that is the top of the second part.
        gap: The top less the other.
        below: The other less the top, with its rounding error.
        scale: exp(below).
    """

    top: Numbers
    is_second: Array
    gap: Array
    below: DD
    scale: Array

    def upper(self, first: Array, second: Array) -> Array:
        """What belongs to the part with the larger top."""
        return jnp.where(self.is_second, second, first)

    def lower(self, first: Array, second: Array) -> Array:
        """What belongs to the other part."""
        return jnp.where(self.is_second, first, second)


def tops_in_order(a: Numbers, b: Numbers) -> Tops:
    """Of tops of one number each, or the two words of a `DD`; equal infinities have no gap."""
    is_second = b[0] > a[0]
    if len(a) == 2:
        is_second = is_second | (b[0] == a[0]) & (b[1] > a[1])
    upper = tuple(jnp.where(is_second, y, x) for x, y in zip(a, b, strict=True))
    lower = tuple(jnp.where(is_second, x, y) for x, y in zip(a, b, strict=True))
    both_infinite = (upper[0] == lower[0]) & (jnp.abs(upper[0]) == jnp.inf)
    top, other = (jnp.where(both_infinite, 0, part[0]) for part in (upper, lower))
    gap = top - other
    if len(a) == 2:
        gap = gap + (upper[1] - lower[1])
        top, other = DD(top, upper[1]), DD(other, lower[1])
    below = shifted(other, top)
    return Tops(upper, is_second, gap, below, exp_by_instruction(below))
