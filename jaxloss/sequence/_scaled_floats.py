"""Nonnegative numbers of any magnitude: a mantissa, and an exponent in a float of its own.

Nothing underflows, as in the log domain, but sums are sums: no logarithm is rounded on the way.
Exponents are integers in floats, exact up to 2**24 in float32. Where sums of exponents may exceed
that, because a class is masked with -1e9 or less, numbers have levels: a second, coarse exponent.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from jaxloss.numerics._double_double import DD, two_product, two_sum

ZERO = -1e37  # the exponent, or level, of 0: below all others, and finite when a few are added
CERTAIN = 2.0**127  # the odds a / b of a sum a + b in which b is negligible
_LEVEL = 2.0**20  # how large an exponent one level is
_LOG_2 = 0.6931471805599453
_LOG2_E = 1.4426950216293335, 1.9259629911266175e-08  # log2(e), of which the first has 24 bits
_LOG2_E_IN_FLOAT64 = 1.4426950408889634, 2.0355273740931033e-17  # the first has 53 bits
_LOG_2_PARTS = 355 / 512, -3560 / 2**24, -1.904654299957768e-09  # log(2): 9, 12 and all bits


class Mass(NamedTuple):
    """The numbers `mantissa * 2**(exponent + 2**20 * level)`.

    Mantissas are normalized to [1, 2) from time to time, since that is most of the work of a sum.
    In between they may grow, but none falls below 1.

    Attributes:
        mantissa: At least 1, also for 0.
        exponent: An integer; `ZERO` for 0, if there are no levels.
        level: An integer, `ZERO` for 0; None if all levels are 0.
    """

    mantissa: Array
    exponent: Array
    level: Array | None = None

    def times(self, other: "Mass") -> "Mass":
        """The product."""
        level = None if self.level is None else self.level + other.level  # type: ignore  # not None here
        return Mass(self.mantissa * other.mantissa, self.exponent + other.exponent, level)

    def normalized(self) -> "Mass":
        """The same numbers with mantissas in [1, 2) and exponents of at most half a level."""
        bits, width, bias = _layout(self.mantissa.dtype)
        field = lax.bitcast_convert_type(self.mantissa, bits) >> width  # the exponent and the bias
        inverse = lax.bitcast_convert_type((2 * bias - field) << width, self.mantissa.dtype)
        mantissa = self.mantissa * inverse
        exponent = self.exponent + (field - bias).astype(self.exponent.dtype)
        if self.level is None:
            return Mass(mantissa, jnp.maximum(exponent, ZERO))
        carry = jnp.round(exponent / _LEVEL)
        return Mass(mantissa, exponent - carry * _LEVEL, jnp.maximum(self.level + carry, ZERO))

    @property
    def plain(self) -> Array:
        """The numbers themselves, at most 2; 0 if they underflow."""
        level = 0 if self.level is None else self.level * _LEVEL
        return self.mantissa * _power_of_two(self.exponent + level)

    @property
    def is_rounded(self) -> Array:
        """Whether exponents without levels are so large that sums of them may be rounded."""
        most = 2.0 ** jnp.finfo(self.exponent.dtype).nmant
        return (self.exponent < -most) & (self.exponent > ZERO / 2)

    @property
    def negative_log(self) -> Array:
        """-log of the numbers: inf for 0 alone, the largest float where the result overflows."""
        scale = self.exponent if self.level is None else self.level
        is_zero = (scale < ZERO / 2) & (self.mantissa == self.mantissa)  # NaN stays
        log = jnp.log(self.mantissa) + self.exponent * _LOG_2
        log = log if self.level is None else log + self.level * (_LEVEL * _LOG_2)
        most = float(jnp.finfo(log.dtype).max)
        return jnp.where(is_zero, jnp.inf, jnp.minimum(-log, most))


def _layout(dtype: DTypeLike) -> tuple[Any, int, int]:
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
    if a.level is not None:
        lead = lead + (a.level - b.level) * _LEVEL  # type: ignore  # not None here
    scale = _power_of_two(-jnp.abs(lead))
    of_a = jnp.where(lead < 0, a.mantissa * scale, a.mantissa)
    of_b = jnp.where(lead < 0, b.mantissa, b.mantissa * scale)
    if a.level is None:
        total = Mass(of_a + of_b, jnp.maximum(a.exponent, b.exponent))
    else:
        exponent = jnp.where(lead < 0, b.exponent, a.exponent)
        total = Mass(of_a + of_b, exponent, jnp.where(lead < 0, b.level, a.level))  # type: ignore  # not None here
    certain = of_b < of_a * 2.0**-120
    return total, jnp.where(certain, CERTAIN, of_a / jnp.where(certain, 1, of_b))


def shares(odds: Array) -> tuple[Array, Array]:
    """The parts that a and b have in a + b, of odds a / b, both accurate."""
    of_b = 1 / (1 + odds)
    return jnp.where(odds < 1, odds * of_b, 1 - of_b), of_b


def exponentials(x: Array, top: Array, total: Array, *, levels: bool = False) -> Mass:
    """exp(x - top) / total: for infinite x, 1 / total and 0."""
    shifted = two_sum(x, -top)
    possible = x > -jnp.inf
    # The difference of two large numbers may overflow; neither is infinite.
    hi = jnp.maximum(shifted.hi, jnp.finfo(x.dtype).min)
    shifted = DD(jnp.where(possible & (x < jnp.inf), hi, 0), shifted.lo)
    if levels:
        level, exponent, rest = _split_with_level(shifted)
        level = jnp.where(possible, level, ZERO)
        return Mass(jnp.exp(rest) / total, exponent, level).normalized()
    exponent, rest = _split(shifted.hi)
    rest = rest + jnp.where(jnp.abs(shifted.lo) < 1, shifted.lo, 0)
    return Mass(jnp.exp(rest) / total, jnp.where(possible, exponent, ZERO)).normalized()


def _split(x: Array) -> tuple[Array, Array]:
    """An integer n and a rest below 0.35 with x = n log(2) + rest, exact for n up to 2**23."""
    n = lax.stop_gradient(jnp.round(jnp.maximum(x, -1e30) * (1 / _LOG_2)))
    # Both n and log(2) in parts, whose products with few bits are exact, as are the differences.
    coarse = jnp.round(n / 4096) * 4096
    c1, c2, c3 = _LOG_2_PARTS
    rest = (x - coarse * c1) - (n - coarse) * c1
    rest = (rest - coarse * c2) - ((n - coarse) * c2 + n * c3)
    return n, jnp.where(jnp.abs(rest) < 1, rest, 0)


def _split_with_level(x: DD) -> tuple[Array, Array, Array]:
    """A level, an integer n and a small rest with x = (n + 2**20 level) log(2) + rest.

    Past 2**44, in float64 2**73, n and the rest are not known. They are the same for equal x, and
    differences of other x are so large that they do not matter.
    """
    hi = x.hi / _LEVEL
    log2_e = _LOG2_E_IN_FLOAT64 if hi.dtype == jnp.float64 else _LOG2_E
    levels = two_product(hi, jnp.full_like(hi, log2_e[0]))
    level = jnp.round(levels.hi)
    # What is below the level, in two parts: the first is exact, the second of its last place.
    first, second = (levels.hi - level) * _LEVEL, (levels.lo + hi * log2_e[1]) * _LEVEL
    most = 2.0 ** (jnp.finfo(hi.dtype).nmant + 1)
    second = jnp.where(jnp.abs(levels.hi) < most, second, 0)
    n = jnp.round(first + second)
    more, rest = _split(jnp.where(jnp.abs(x.lo) < 2.0**16, x.lo, 0))
    return level, n + more, ((first - n) + second) * _LOG_2 + rest
