r"""Double-double numbers: an unevaluated sum of two floats, with about twice the digits of one.

Where a rounded number is exponentiated, or a difference nearly vanishes, one unit in its last place
becomes many in the result. The error-free transformations `two_sum` and `two_product` return the
rounded result together with its rounding error, as a `DD`; operations on a `DD` carry the error
along, and `exp_dd` and `at_dd` use it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._xla import on_cpu, rounded
from jaxloss.numerics._dtypes import half_in_float32
from jaxloss.numerics._polynomials import horner


class DD(NamedTuple):
    """The number `hi + lo`: a float, and a correction of at most about its last place.

    The operators take a `DD` or an array on the right, except that `*` and `/` take an array. Under
    differentiation `lo` is a constant, so that a `DD` has the derivatives of `hi`. It is 0 where it
    would be infinite or NaN, for instance where `hi` has overflowed.

    Attributes:
        hi: The number as rounded to its dtype.
        lo: The number less `hi`, itself rounded.
    """

    hi: Array
    lo: Array

    def __neg__(self) -> DD:
        return DD(-self.hi, -self.lo)

    def __add__(self, other: DD | Array) -> DD:  # type: ignore[override]  # not of tuples
        if not isinstance(other, DD):
            total = two_sum(self.hi, other)
            return DD(total.hi, finite(total.lo + self.lo))
        total = two_sum(self.hi, other.hi)
        return DD(total.hi, finite(total.lo + (self.lo + other.lo)))

    def __sub__(self, other: DD | Array) -> DD:
        return self + -other

    def __mul__(self, factor: Array | float) -> DD:  # type: ignore[override]  # not of a tuple
        product = two_product(self.hi, factor)
        return DD(product.hi, finite(product.lo + self.lo * factor))

    def __truediv__(self, divisor: Array | float) -> DD:
        quotient = two_quotient(self.hi, divisor)
        return DD(quotient.hi, finite(quotient.lo + self.lo / divisor))

    def renormalized(self) -> DD:
        """The same number with the smallest possible `lo`, where operations have let it grow."""
        hi = self.hi + self.lo
        return DD(hi, finite(self.lo - (hi - self.hi)))


# An infinite or overflowing result has a rounding error of inf - inf, which `finite` replaces.
# Jitted, since `jax_debug_nans` would report that in each eager operation.
_error_free = functools.partial(jax.jit, inline=True)


@_error_free
def two_sum(a: Array | float, b: Array | float) -> DD:
    """`a + b` and its rounding error (Knuth)."""
    total = jnp.add(a, b)
    # If a is a constant, XLA simplifies (a + b) - a to b, unless a select separates the two.
    seen = jnp.where(b == b, total, b)
    back = seen - a
    return DD(total, finite((a - (seen - back)) + (b - back)))


@_error_free
def difference(a: Array, b: Array) -> DD:
    """`two_sum(a, -b)` in fewer operations; neither number is a constant."""
    hi = a - b
    back = hi - a
    return DD(hi, finite((a - (hi - back)) - (b + back)))


@_error_free
def two_product(a: Array | float, b: Array | float) -> DD:
    """`a * b` and its rounding error (Dekker), from halves whose products are exact."""
    product = rounded(jnp.multiply(a, b))
    info = jnp.finfo(product.dtype)
    # If both are constants, XLA reorders the sum, unless a select by the product comes first.
    (a1, a2), (b1, b2) = (
        (head, x - head)
        for x in (jnp.where(product == product, x, product) for x in (a, b))
        for head in [lax.reduce_precision(x, info.nexp, info.nmant // 2)]
    )
    return DD(product, finite(((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2))


@_error_free
def two_quotient(a: Array | float, b: Array | float) -> DD:
    """`a / b` and its rounding error, itself rounded."""
    ratio = rounded(jnp.divide(a, b))
    product, error = two_product(ratio, b)
    return DD(ratio, finite(((a - product) - error) / b))


def finite(lo: Array) -> Array:
    """The low-order word of a `DD`: 0 where not finite, and constant under differentiation."""
    return lax.stop_gradient(jnp.where(jnp.abs(lo) < jnp.inf, lo, 0))


def at_dd(function: Callable[[Array], Array], x: DD) -> Array:
    """`function(hi + lo)`, to first order in `lo`."""
    value, correction = jax.jvp(function, (x.hi,), (x.lo,))
    return value + correction


LOG_2 = math.log(2)
LOG_2_ERROR = 2.3190468138462996e-17  # log(2) less the float64 nearest to it


@functools.cache
def _constants(dtype: Any) -> tuple[float, float, list[float]]:
    """log(2) as a large and a small part, and a polynomial for (e^f - 1 - f) / f^2, |f| < 0.35."""
    info = jnp.finfo(dtype)
    unit = 2.0 ** (1 + info.nexp - info.nmant)  # products of the large part and n are exact
    large = round(LOG_2 / unit) * unit
    taylor = np.polynomial.Polynomial([1 / math.factorial(n + 2) for n in range(20)])
    degree = 4 if info.bits == 32 else 10  # its error is below the rounding of the dtype
    short = np.polynomial.Chebyshev.interpolate(taylor, degree, [-0.35, 0.35])
    series = short.convert(kind=np.polynomial.Polynomial).coef
    return large, (LOG_2 - large) + LOG_2_ERROR, series.tolist()


def _reduced(x: DD | Array) -> tuple[Array, Array]:
    """n and f, with x = n log(2) + f and |f| at most log(2) / 2, for an x whose exp is a number."""
    hi = x.hi if isinstance(x, DD) else x
    info, (large, small, _) = jnp.finfo(hi.dtype), _constants(hi.dtype)
    integer = np.dtype(f"int{info.bits}").type
    # The shift is so large that the sum has no bits for a fraction: its last bits hold n.
    shift = np.asarray(1.5 * 2.0**info.nmant, hi.dtype)
    n = lax.bitcast_convert_type(hi * (1 / LOG_2) + shift, integer) - shift.view(integer)
    multiple = n.astype(hi.dtype)
    rest = x.lo - multiple * small if isinstance(x, DD) else -(multiple * small)
    return n, (hi - multiple * large) + rest


def expm1_near_0(f: Array) -> Array:
    """exp(f) - 1 for |f| up to 0.35."""
    return (horner(f, _constants(f.dtype)[2]) * f + 1) * f


def _power_of_2(n: Array, dtype: Any) -> Array:
    info = jnp.finfo(dtype)
    return lax.bitcast_convert_type((n + (info.maxexp - 1)) << info.nmant, dtype)


def _exp_of_reduced(hi: Array, lo: Array) -> Array:
    impossible = hi < math.log(jnp.finfo(hi.dtype).tiny)
    n, f = _reduced(DD(hi, lo))
    power = jnp.where(impossible, 0, _power_of_2(n, hi.dtype))
    return (expm1_near_0(jnp.where(impossible, 0, f)) + 1) * power


def _corrected_exp(hi: Array, lo: Array, impossible: Array | None = None) -> Array:
    if impossible is None:
        impossible = hi < math.log(jnp.finfo(hi.dtype).tiny)
    exp = jnp.exp(hi)
    return jnp.where(impossible, 0, exp + exp * lo)


@jax.custom_jvp
def exp_dd(x: DD) -> Array:
    """exp(x) with 0.7 ULP, for x up to 88; 0 where the result would not be a normal number.

    The exponential of a rounded x has an error of as many last places as x is large. On CPU this
    costs no more than `jnp.exp`. On GPU and TPU, which have an instruction for the exponential, the
    platform's own is corrected to first order, with its own error.
    """
    return on_cpu(_exp_of_reduced, _corrected_exp, x.hi, x.lo)


# Not the derivative of the polynomial, which is 3 ULP off: in second derivatives such terms cancel.
exp_dd.defjvps(lambda x_dot, out, _x: out * x_dot.hi)


def shifted(x: Array | DD, top: Array | DD) -> DD:
    """x - top, for x up to the top; an infinity counts as the largest number."""
    hi, upper = (y.hi if isinstance(y, DD) else y for y in (x, top))
    largest = float(jnp.finfo(hi.dtype).max)
    hi, upper = jnp.minimum(hi, largest), jnp.minimum(upper, largest)
    # The sum of Knuth, in fewer operations than `two_sum`: neither number is a constant.
    gap = hi - upper
    back = gap - hi
    lo = (hi - (gap - back)) - (upper + back)
    if isinstance(x, DD):
        lo = lo + x.lo
    if isinstance(top, DD):
        lo = lo - top.lo
    lo = lax.stop_gradient(lo)
    if isinstance(x, DD) or isinstance(top, DD):
        # The low-order words of large numbers may differ by more than a last place of the gap.
        lo = jnp.where(gap == -jnp.inf, 0, lo)
        gap, lo = gap + lo, lo - lax.stop_gradient((gap + lo) - gap)
    return DD(gap, lo)


# Jitted because `jax_debug_nans` would report the rounding error of -inf, which is NaN and is not
# used.
@functools.partial(jax.jit, inline=True)
def exp_shifted(x: Array | DD, top: Array | DD) -> Array:
    """exp(x - top), accurate as if the difference were not rounded, for x up to the top.

    It is exactly 1 at the top. An x of +inf equals the top, one of -inf gives 0.
    """
    return exp_dd(shifted(x, top))


@functools.partial(jax.jit, inline=True)
def exp_shifted_finite(x: Array, top: Array) -> Array:
    """`exp_shifted` of numbers that are not +inf.

    XLA on GPU would write the top bounded by the largest number, and read it beside the top.
    """
    return exp_dd(difference(x, top))


def exp_by_instruction(x: DD) -> Array:
    """`exp_dd` in its form for GPU and TPU, for the function that a reduction combines by.

    It holds no choice of a platform, and its derivative needs no rule.
    """
    impossible = x.hi < math.log(jnp.finfo(x.hi.dtype).tiny)
    hi, lo = (jnp.where(impossible, 0, word) for word in x)
    return _corrected_exp(hi, lo, impossible)


@jax.custom_jvp
def _expm1(x: Array) -> Array:
    info = jnp.finfo(x.dtype)
    n, f = _reduced(jnp.clip(x, -info.nmant, info.maxexp * LOG_2 + 0.3))
    half = _power_of_2(n - 1, x.dtype)  # 2^n may overflow where the result does not
    return 2 * (half * expm1_near_0(f) + (half - 0.5))


_expm1.defjvps(lambda x_dot, _, x: jnp.exp(x) * x_dot)


@half_in_float32
def expm1(x: Array) -> Array:
    r"""$e^x - 1$ with at most 1.4 ULP; its derivative is $e^x$.

    XLA's `jnp.expm1` has up to 5.3 ULP on (-1, 0) on CPU, where it takes three times as long.

    >>> f"{expm1(jnp.float32(-1e-10)):.6g}", float(expm1(-jnp.inf))
    ('-1e-10', -1.0)
    """
    return _expm1(jnp.asarray(x))
