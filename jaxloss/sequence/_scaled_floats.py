"""Nonnegative numbers of any magnitude: a mantissa, and a power of two of its own.

Nothing underflows, as in the log domain, but sums are sums: no logarithm is rounded on the way.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxloss.numerics._double_double import two_sum

NOTHING = -1e37  # the exponent of 0: below all others, and finite when two are added
CERTAIN = 2.0**127  # the odds a / b of a sum a + b of which b is nothing, or nearly so


class Mass(NamedTuple):
    """The numbers `mantissa * 2**exponent`; 0 has a mantissa too.

    Mantissas are brought back to [1, 2) now and then, as that is most of the work of a sum. On
    the way they may grow, but none falls below 1.
    """

    mantissa: Array
    exponent: Array

    def times(self, other: "Mass") -> "Mass":
        """The product."""
        return Mass(self.mantissa * other.mantissa, self.exponent + other.exponent)

    def normalized(self) -> "Mass":
        """The same numbers with mantissas in [1, 2)."""
        bits, width, bias = _layout(self.mantissa.dtype)
        field = lax.bitcast_convert_type(self.mantissa, bits) >> width  # the exponent and the bias
        inverse = lax.bitcast_convert_type((2 * bias - field) << width, self.mantissa.dtype)
        exponent = self.exponent + (field - bias).astype(self.exponent.dtype)
        return Mass(self.mantissa * inverse, jnp.maximum(exponent, NOTHING))

    @property
    def plain(self) -> Array:
        """The numbers themselves, at most 2; 0 if they underflow."""
        return self.mantissa * _power_of_two(self.exponent)


def _layout(dtype: Any) -> tuple[Any, int, int]:
    """The integer type, the width of the mantissa and the bias of the exponent of a float."""
    return (jnp.int64, 52, 1023) if dtype == jnp.float64 else (jnp.int32, 23, 127)


def _power_of_two(power: Array) -> Array:
    """Exactly `2**power` of powers below 1, 0 below the smallest; `jnp.exp2` is not exact."""
    bits, width, bias = _layout(power.dtype)
    field = (jnp.maximum(power, -bias) + bias).astype(bits)
    return lax.bitcast_convert_type(field << width, power.dtype)


def add(a: Mass, b: Mass) -> tuple[Mass, Array]:
    """The sum of two masses, and the odds a / b."""
    lead = a.exponent - b.exponent
    less = _power_of_two(-jnp.abs(lead))
    of_a = jnp.where(lead < 0, a.mantissa * less, a.mantissa)
    of_b = jnp.where(lead < 0, b.mantissa, b.mantissa * less)
    total = Mass(of_a + of_b, jnp.maximum(a.exponent, b.exponent))
    certain = of_b < of_a * 2.0**-120
    return total, jnp.where(certain, CERTAIN, of_a / jnp.where(certain, 1, of_b))


def shares(odds: Array) -> tuple[Array, Array]:
    """What the two parts of a sum are of the whole, each with all its digits."""
    of_b = 1 / (1 + odds)
    return jnp.where(odds < 1, odds * of_b, 1 - of_b), of_b


def exponentials(x: Array, top: Array, total: Array) -> Mass:
    """exp(x - top) / total: for infinite x, 1 / total and nothing."""
    shifted, lost = two_sum(x, -top)
    shifted = jnp.where(x == jnp.inf, 0, shifted)
    possible = shifted > -jnp.inf
    shifted = jnp.where(possible, shifted, 0)
    exponent = lax.stop_gradient(jnp.round(shifted * 1.4426950408889634))
    # log(2) in two parts, of which the first has few digits: its multiples are exact.
    rest = (shifted - exponent * 0.693359375) + exponent * 2.1219444005469057e-4
    rest = rest + jnp.where(jnp.abs(lost) < 1, lost, 0)
    return Mass(jnp.exp(rest) / total, jnp.where(possible, exponent, NOTHING)).normalized()
