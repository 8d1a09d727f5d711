"""Exact values for tests: elementary functions, formulas in mpmath numbers, errors in ULP.

An oracle written with these functions serves twice: on floats it is the slow reference that a
reader checks by eye; on mpmath numbers it is the exact one that accuracy is measured against. A
plain formula is evaluated entry by entry:

    x = log_spaced(-30, 30, 200, seed=0)
    want = exact_map(lambda x: mpmath.log1p(x * x), x)
    assert ulp_error(function(x), want).max() < 4

The inputs are taken *as rounded to their dtype*: their rounding is not the function's fault.
"""

import math

import mpmath
import numpy as np
import scipy.special

mpmath.mp.dps = 160  # differences of numbers 60 decades apart must not be lost
DIGITS = 200  # sqrt(1 + x^2) - 1 at 1e-30 still has 140 of them


def is_exact(x):
    """Whether x is an mpmath number, or an array of them."""
    return isinstance(x, mpmath.mpf) or (isinstance(x, np.ndarray) and x.dtype == object)


def _lift(name, plain):
    exact = getattr(mpmath, name)
    return_objects = np.frompyfunc(exact, 1, 1)

    def function(x):
        if isinstance(x, np.ndarray) and x.dtype == object:
            return return_objects(x)
        return exact(x) if isinstance(x, mpmath.mpf) else plain(x)

    function.__name__ = name
    return function


exp = _lift("exp", np.exp)
expm1 = _lift("expm1", np.expm1)
log = _lift("log", np.log)
log1p = _lift("log1p", np.log1p)
sqrt = _lift("sqrt", np.sqrt)
sin = _lift("sin", np.sin)
cos = _lift("cos", np.cos)
tanh = _lift("tanh", np.tanh)
cosh = _lift("cosh", np.cosh)
loggamma = _lift("loggamma", scipy.special.gammaln)
erf = _lift("erf", scipy.special.erf)
erfc = _lift("erfc", scipy.special.erfc)
pi = math.pi  # exact enough for floats; oracles on mpmath numbers take mpmath.pi


def to_exact(x):
    """The number that a float is, without rounding; integers, booleans and options stay."""
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        return (
            np.frompyfunc(lambda v: mpmath.mpf(float(v)), 1, 1)(x)
            if x.ndim
            else mpmath.mpf(float(x))
        )
    if isinstance(x, float | np.floating):
        return mpmath.mpf(float(x))
    return x


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
