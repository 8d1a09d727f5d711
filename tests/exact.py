"""Exact values for accuracy tests: plain formulas in mpmath numbers, and errors counted in ULP.

A test takes three lines:

    x = log_spaced(-30, 30, 200, seed=0)
    want = exact_map(lambda x: mpmath.log1p(x * x), x)
    assert ulp_error(function(x), want).max() < 4

A formula is written as the textbook has it. It is evaluated in 200 digits, so that
sqrt(1 + x^2) - 1 at 1e-30 still has 140 of them, at the inputs *as rounded to their dtype*: the
rounding of the inputs is not the function's fault.
"""

import mpmath
import numpy as np

DIGITS = 200


def exact_map(formula, *arrays):
    """An object array of `formula`, evaluated entry by entry on mpmath numbers."""

    def at(*entries):
        with mpmath.workdps(DIGITS):
            return mpmath.mpf(formula(*(mpmath.mpf(float(entry)) for entry in entries)))

    return np.asarray(np.frompyfunc(at, len(arrays), 1)(*arrays), object)


def exact_gradient(formula, *arrays, argnum=0):
    """The derivative of `formula` in one argument, entry by entry, by a central difference.

    The step is 1e-40 of the argument, so that 60 digits are right wherever the formula is smooth.
    At a kink, or at 0, give the derivative itself to `exact_map`.
    """

    def slope(*entries):
        x = entries[argnum]
        step = abs(x) * mpmath.mpf(10) ** -40
        up, down = ((*entries[:argnum], to, *entries[argnum + 1 :]) for to in (x + step, x - step))
        return (formula(*up) - formula(*down)) / (2 * step)

    return exact_map(slope, *arrays)


def ulp_error(got, exact, dtype=None):
    """How far each `got` is from `exact`, in units in the last place of `exact` in `dtype`.

    `dtype` is that of `got` unless given. NaN is infinitely far from everything but NaN.

    Subnormals count as 0: XLA flushes them on CPU, so that if both numbers are at most the smallest
    normal one, the error is 0. (Results that should be normal and were flushed count in full.)
    Infinity counts as the power of 2 past the largest number: an inf in place of the largest number
    is 1 ULP off, an inf for a number that does not fit is right.
    """
    got = np.asarray(got)
    info = np.finfo(dtype or got.dtype)
    tiny, past = float(info.tiny), mpmath.ldexp(1, int(info.maxexp))

    def error(got, exact):
        if mpmath.isnan(exact) or np.isnan(got):
            return 0.0 if mpmath.isnan(exact) and np.isnan(got) else np.inf
        with mpmath.workdps(DIGITS):
            got, exact = (max(-past, min(past, mpmath.mpf(x))) for x in (float(got), exact))
            if abs(exact) < tiny and abs(got) <= tiny:
                return 0.0
            exponent = max(mpmath.frexp(exact)[1], int(info.minexp) + 1)  # |exact| < 2^exponent
            return float(abs(got - exact) / mpmath.ldexp(1, exponent - 1 - int(info.nmant)))

    return np.asarray(np.frompyfunc(error, 2, 1)(got, exact), float)


def log_spaced(low, high, count, seed=0, dtype=np.float32):
    """`count` random numbers of either sign, their magnitudes evenly over 10^low ... 10^high."""
    generator = np.random.default_rng(seed)
    sign = generator.choice([-1.0, 1.0], count)
    return (sign * 10.0 ** generator.uniform(low, high, count)).astype(dtype)
