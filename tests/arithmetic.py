"""Elementary functions for oracles, in float64 or, given mpmath numbers, in 160 digits.

An oracle written with these serves twice: on floats it is the slow reference that a reader checks
by eye; on mpmath numbers it is the exact one that accuracy is measured against.
"""

import math

import mpmath
import numpy as np
import scipy.special

mpmath.mp.dps = 160  # differences of numbers 60 decades apart must not be lost


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


def ulp_error(got, exact):
    """How many units in the last place of float32 `got` is away from `exact`.

    Below the smallest normal number everything counts as 0, as XLA on CPU has it; a number past
    the largest is expected to be inf.
    """
    exact, got = mpmath.mpf(exact), float(got)
    tiny, huge = 2.0**-126, 2.0**128
    if math.isnan(got):
        return math.inf
    if abs(exact) >= huge * (1 - 2.0**-25) or math.isinf(got):
        same = math.isinf(got) and (got > 0) == (exact > 0) and abs(exact) > huge * (1 - 2.0**-20)
        return 0.0 if same else math.inf
    exponent = math.floor(mpmath.log(abs(exact), 2)) if abs(exact) >= tiny else -126
    error = abs(mpmath.mpf(got) - exact) / mpmath.mpf(2) ** (exponent - 23)
    # What is flushed to 0 is off by less than the smallest normal number.
    return 0.0 if abs(exact) < tiny and abs(got) <= tiny else float(error)
