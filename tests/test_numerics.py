"""The safe primitives: digits, bad points, masks and derivatives of every order."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from arithmetic import exact_gradient, exact_map, log_spaced, ulp_error

from jaxloss import numerics
from jaxloss.numerics import _divided_difference, _gamma, _log_ratios

pytestmark = pytest.mark.few

inf, nan = np.inf, np.nan
DTYPES = [np.float32, np.float64]


@contextlib.contextmanager
def x64(on):
    # Both of JAX's own context managers exist only in some of the versions this suite runs on.
    jax.config.update("jax_enable_x64", bool(on))
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def spread(low, high, dtype):
    """Numbers of both signs: over decades, and evenly around 0."""
    return np.r_[log_spaced(low, high, 150, 1, dtype), np.linspace(-6, 6, 150, dtype=dtype)]


def logistic(x):
    return 1 / (1 + mpmath.exp(-x))


def softplus(x):
    return mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x))


def log_cosh(x):
    return abs(x) - mpmath.log(2) + mpmath.log1p(mpmath.exp(-2 * abs(x)))


# name: formula, inputs, bounds in ULP of (value, gradient) in float32, then in float64.
# Beneath each is the worst of 24000 inputs, on XLA's CPU.
ELEMENTWISE = {
    "sqrt": (mpmath.sqrt, lambda t: abs(spread(-30, 30, t)), (1, 1), (1, 1.5)),
    # 0.50, 0.94; 0.50, 1.11
    "sigmoid": (logistic, lambda t: spread(-30, 1.93, t), (2, 4), (2, 4)),
    # 1.92, 3.23; 1.92, 3.41
    "softplus": (softplus, lambda t: spread(-30, 1.93, t), (3, 2), (3, 2)),
    # 2.78, 1.92; 2.36, 1.92
    "log_sigmoid": (lambda x: -softplus(-x), lambda t: spread(-30, 1.93, t), (3, 3), (3, 3)),
    # 2.47, 2.08; 2.36, 1.89
    "log1mexp": (
        lambda x: mpmath.log(-mpmath.expm1(x)),
        lambda t: np.r_[-abs(spread(-30, 1.93, t)), np.linspace(-2, -1e-3, 200, dtype=t)],
        (5, 5),
        (4, 4),
    ),
    # 4.38, 4.36; 3.34, 3.79: XLA's expm1 is 4.2 off
    "log_cosh": (log_cosh, lambda t: spread(-18, 30, t), (3, 4), (3, 7)),
    # 2.67, 3.90; 2.76, 6.92: XLA's tanh is
    "hypot1m1": (
        lambda x: mpmath.sqrt(1 + x * x) - 1,
        lambda t: spread(-18, 30, t),
        (3, 2),
        (3, 2),
    ),
    # 2.33, 1.73; 2.64, 1.64
}


def padded(function):
    """The function of arrays of some rows, compiled for 512 rows only: compiling takes the time."""
    compiled = jax.jit(jax.vmap(function))

    def run(*arrays):
        rows = len(arrays[0])
        results = compiled(*(np.resize(array, (512, *array.shape[1:])) for array in arrays))
        return jax.tree.map(lambda result: np.asarray(result)[:rows], results)

    return run


@functools.cache
def derivatives(name):
    """Value, and every way to the first and second derivatives, of a function of one number."""
    function = getattr(numerics, name)
    reverse, forward = jax.grad(function), jax.jacfwd(function)

    def of(x):
        return {
            "value": function(x),
            "vjp": reverse(x),
            "jvp": forward(x),
            "reverse over reverse": jax.grad(reverse)(x),
            "forward over reverse": jax.jacfwd(reverse)(x),
            "forward over forward": jax.jacfwd(forward)(x),
        }

    return padded(of)


# The light compiler of `make test` rounds these two otherwise than users' does.
LAST_PLACES = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("sqrt", "log_cosh") else name
    for name in ELEMENTWISE
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAST_PLACES)
def test_elementwise_values_and_slopes_have_all_their_digits(name, dtype):
    formula, draw, *bounds = ELEMENTWISE[name]
    value_bound, slope_bound = bounds[DTYPES.index(dtype)]
    x = draw(dtype)
    x = x[x != 0]
    with x64(dtype == np.float64):
        got = derivatives(name)(x)
    assert all(result.dtype == dtype for result in got.values())
    assert ulp_error(got["value"], exact_map(formula, x)).max() <= value_bound
    slope = exact_gradient(formula, x)
    if name == "sigmoid":  # whose difference of two numbers near 1 is not exact enough
        slope = exact_map(lambda x: logistic(x) * logistic(-x), x)
    assert ulp_error(got["vjp"], slope).max() <= slope_bound
    np.testing.assert_array_equal(got["vjp"], got["jvp"])
    moderate = abs(x) > 1e-15  # where the second derivatives of sqrt and log1mexp fit the dtype
    second = np.stack([got[way][moderate] for way in got if "over" in way])
    assert np.isfinite(second).all()
    np.testing.assert_allclose(second[1:], second[:1].repeat(2, 0), rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize(
    ("name", "formula", "y"),
    [
        ("xlogy", lambda x, y: x * mpmath.log(y), abs(spread(-15, 15, np.float32))),
        ("xlog1py", lambda x, y: x * mpmath.log1p(y), abs(spread(-15, 15, np.float32))),
        ("xlog1py", lambda x, y: x * mpmath.log1p(y), -abs(spread(-15, -0.01, np.float32)) % -1),
    ],
)
def test_x_times_log_has_all_its_digits(name, formula, y):
    x, y = log_spaced(-15, 15, y.size, 2)[y != 0], y[y != 0]
    function = getattr(numerics, name)
    value, slopes = jax.jit(jax.vmap(jax.value_and_grad(function, (0, 1))))(x, y)
    assert ulp_error(value, exact_map(formula, x, y)).max() <= 3
    for argnum, slope in enumerate(slopes):
        assert ulp_error(slope, exact_gradient(formula, x, y, argnum=argnum)).max() <= 2.5


# name: (input, value, slope, second derivative or None where it is not asked for)
POINTS = {
    "absolute": [
        (0, 0, 0, 0),
        (-0.0, 0, 0, 0),
        (-3, 3, -1, 0),
        (inf, inf, 1, 0),
        (-inf, inf, -1, 0),
    ],
    "sqrt": [(0, 0, 0, 0), (4, 2, 0.25, -1 / 32), (inf, inf, 0, 0), (-1, nan, nan, nan)],
    "sigmoid": [
        (0, 0.5, 0.25, 0),
        (inf, 1, 0, 0),
        (-inf, 0, 0, 0),
        (1e4, 1, 0, 0),
        (-1e4, 0, 0, 0),
    ],
    "softplus": [(inf, inf, 1, 0), (-inf, 0, 0, 0), (1e4, 1e4, 1, 0), (-1e4, 0, 0, 0)],
    "log_sigmoid": [(inf, 0, 0, 0), (-inf, -inf, 1, 0), (1e4, 0, 0, 0), (-1e4, -1e4, 1, 0)],
    "log1mexp": [(0, -inf, -inf, None), (-inf, 0, 0, 0), (-200, 0, 0, 0), (1, nan, None, None)],
    "log_cosh": [(0, 0, 0, 1), (inf, inf, 1, 0), (-inf, inf, -1, 0), (-3e38, 3e38, -1, 0)],
    "hypot1m1": [(0, 0, 0, 1), (inf, inf, 1, 0), (-inf, inf, -1, 0), (-3e38, 3e38, -1, 0)],
}


@pytest.mark.parametrize("name", POINTS)
def test_bad_points(name):
    # One batch, so that each is a neighbour of all the others; NaN comes out where it went in.
    rows = [*POINTS[name], (nan, nan, None, None)]
    x, *wanted = (
        np.array([nan if v is None else v for v in column]) for column in zip(*rows, strict=True)
    )
    got = derivatives(name)(x.astype(np.float32))
    ways = [["value"], ["vjp", "jvp"], [way for way in got if "over" in way]]
    for place, (want, names) in enumerate(zip(wanted, ways, strict=True), start=1):
        asked = np.array([row[place] is not None for row in rows])
        for way in names:
            np.testing.assert_allclose(
                got[way][asked], want[asked].astype(np.float32), rtol=1e-6, err_msg=way
            )


VECTOR = {
    "logsumexp": numerics.logsumexp,
    "softmax": numerics.softmax,
    "log_softmax": lambda x: jnp.maximum(numerics.log_softmax(x), -99),
    "norm": numerics.norm,
    "normalize": numerics.normalize,
    "fused_sums": lambda x: jnp.stack(numerics.fused_sums(x, jnp.sign(x), x * x)),
    "cosine_similarity": lambda x: numerics.cosine_similarity(x, x[::-1] * jnp.arange(4)),
}


@pytest.mark.parametrize("name", [*POINTS, *VECTOR])
def test_in_a_scan_second_derivatives_are_those_outside(name):
    """Differentiated, a scan forgets the rules: formulas have the right slopes by themselves."""
    function = VECTOR.get(name, getattr(numerics, name))
    rows = np.float32([[1, -2, 3, 0.5], [0, 0, 0, 0], [2, 2, 0, -1], [-inf] * 4, [0, -inf, 1, 1]])
    if name not in VECTOR:
        rows = np.float32([-3, -1, -0.5, 0, 1, 80]) if name != "log1mexp" else np.float32([-3, -80])
    elif not name.endswith(("max", "exp")):
        rows = rows[:3]

    def square(x):
        return jnp.sum(jnp.square(function(x)))

    def scanned(x):
        return jax.lax.scan(lambda total, x: (total + square(x), None), 0.0, jnp.stack([x, x]))[0]

    both = jax.jit(jax.vmap(lambda x: [jax.jacfwd(jax.grad(f))(x) for f in (square, scanned)]))
    outside, inside = both(rows)
    np.testing.assert_allclose(inside, 2 * outside, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("divisor", [3.0, 1.3, 0.7])
def test_a_product_is_as_good_as_a_number(divisor):
    """Compiled with what made it, x may have another last place where its maximum is taken off."""
    generator = np.random.default_rng(2)
    x = (10.0 ** generator.uniform(0, 1.5, (50, 1)) * generator.normal(size=(50, 4))).astype("f")
    for function in (numerics.logsumexp, numerics.softmax, numerics.log_softmax):
        expected = function(jnp.asarray(x / np.float32(divisor)))
        got = jax.jit(lambda x, f=function: f(x / divisor))(x)
        np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_tiny_results_are_kept():
    small = jnp.float32(-80)
    exact = exact_map(mpmath.exp, small)
    assert ulp_error(numerics.softplus(small), exact) <= 1
    assert ulp_error(-numerics.log_sigmoid(-small), exact) <= 1
    assert ulp_error(jax.grad(numerics.sigmoid)(-small), exact) <= 2
    assert ulp_error(-numerics.log1mexp(small), exact) <= 1


PRODUCTS = {  # x, y, value, gradient in x, gradient in y
    "multiply_no_nan": [
        (0, inf, 0, 0, 0),
        (0, -inf, 0, 0, 0),
        (0, nan, 0, 0, 0),
        (0, 3, 0, 3, 0),
        (2, 3, 6, 3, 2),
        (2, inf, inf, inf, 2),
        (nan, 3, nan, 3, nan),
        (1e-40, inf, 0, 0, 0),  # subnormal: compiled, it is 0 in some places only
    ],
    "xlogy": [
        (0, 0, 0, 0, 0),
        (0, inf, 0, 0, 0),
        (0, nan, 0, 0, 0),
        (0, -1, 0, 0, 0),
        (0, 1, 0, 0, 0),
        (2, 1, 0, 0, 2),
        (2, 0, -inf, -inf, inf),
        (2, nan, nan, nan, nan),
        (0, 1e-40, 0, 0, 0),
        (1e-40, 1e-40, 0, 0, 0),
    ],
    "xlog1py": [
        (0, -1, 0, 0, 0),
        (0, inf, 0, 0, 0),
        (0, nan, 0, 0, 0),
        (0, -2, 0, 0, 0),
        (0, 0, 0, 0, 0),
        (2, 0, 0, 0, 2),
        (2, -1, -inf, -inf, inf),
        (1e-40, -1, 0, 0, 0),
    ],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_weight_of_zero_wins(name):
    function = getattr(numerics, name)
    x, y, value, *slopes = np.array(PRODUCTS[name], np.float32).T
    gradient = jax.grad(function, (0, 1))
    dead = np.abs(x) < np.finfo(x.dtype).tiny

    @jax.jit
    @jax.vmap
    def results(x, y):
        forward = jax.jacfwd(function, (0, 1))(x, y)
        return function(x, y), gradient(x, y), forward, jax.jacrev(gradient, (0, 1))(x, y)

    got, reverse, forward, second = results(x, y)
    np.testing.assert_array_equal(got, value)
    np.testing.assert_array_equal(reverse, slopes)
    finite = np.isfinite(slopes).all(0)  # forward mode multiplies an infinite slope by 0
    np.testing.assert_array_equal(np.asarray(forward)[:, finite], np.asarray(slopes)[:, finite])
    assert np.isfinite(np.asarray(second)[..., dead]).all()


def test_entropy_at_zero():
    p = jnp.array([0.0, 0.5, 1.0])
    slope = jax.grad(lambda p: numerics.xlogy(p, p).sum())(p)
    np.testing.assert_allclose(slope, [0, 1 - np.log(2), 1], rtol=1e-6)


def softmax_of(row):
    exps = [mpmath.exp(entry) for entry in row]
    return [e / mpmath.fsum(exps) for e in exps]


def exact_rows(function, x):
    """An object array of `function`, which takes a row of mpmath numbers."""
    with mpmath.workdps(200):
        return np.array([function([mpmath.mpf(float(v)) for v in row]) for row in x], object)


def log_softmax_slopes(row):
    p = softmax_of(row)
    return [[(i == j) - p[j] for j in range(len(p))] for i in range(len(p))]


SOFTMAX = {
    "logsumexp": (lambda row: mpmath.log(mpmath.fsum(map(mpmath.exp, row))), softmax_of),
    "log_softmax": (lambda row: [mpmath.log(p) for p in softmax_of(row)], log_softmax_slopes),
}


@functools.cache
def softmax_results(name):
    function = getattr(numerics, name)

    def one(x, mask):
        masked = functools.partial(function, where=mask)
        return {
            "value": function(x),
            "vjp": jax.jacrev(function)(x),
            "jvp": jax.jacfwd(function)(x),
            "second": jax.jacrev(jax.jacrev(function))(x),
            "masked": masked(x),
            "masked vjp": jax.jacrev(masked)(x),
        }

    return padded(one)


def quantized(low, high, rows, seed):
    """Rows of 4 whose differences are exact, so that what is measured is not their rounding."""
    return np.random.default_rng(seed).integers(low * 8, high * 8, (rows, 4)).astype(np.float32) / 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_has_all_its_digits(name, dtype):
    x = np.concatenate(
        [
            quantized(-8, 8, 40, 0),  # worst of 4000: 1.8 and 2.4
            quantized(-40, 40, 40, 1),
            quantized(-2, 2, 10, 2) + 1e4,
            quantized(0, 2, 10, 2) // 1 * 20,  # ties
            [[80, 0, 0, 0], [0, -80, -80, -80], [0, -80, -80, -81], [17, 0, 0, 0]],
        ]
    ).astype(dtype)
    value, slope = SOFTMAX[name]
    with x64(dtype == np.float64):
        got = softmax_results(name)(x, np.ones(x.shape, bool))
    assert got["value"].dtype == dtype
    exact = exact_rows(value, x)
    if name == "logsumexp":  # the sum of the maximum and a logarithm, which may cancel
        exact[abs(exact) < abs(x).max(-1) / 2] = 0
        got["value"] = np.where(exact == 0, 0, got["value"])
    assert ulp_error(got["value"], exact).max() <= 4
    slopes = exact_rows(slope, x)
    assert ulp_error(got["vjp"], slopes).max() <= 4
    assert ulp_error(got["jvp"], slopes).max() <= 4


def test_softmax_of_many_classes():
    x = np.random.default_rng(3).normal(size=(2, 32768)).astype(np.float32) * 3
    got = np.asarray(numerics.logsumexp(x))
    top = x.max(-1, keepdims=True).astype(np.float64)
    want = top[:, 0] + np.log(np.exp(x.astype(np.float64) - top).sum(-1))
    np.testing.assert_allclose(got, want, rtol=2e-7)


BAD_ROWS = np.array(
    [
        [-inf, -inf, -inf, -inf],
        [inf, 0, 1, -inf],
        [inf, inf, 0, 5],
        [0, -inf, 0, -inf],
        [1e30, 1e30, 1e30, -1e30],
        [3e38, -3e38, 0, 1],
        [nan, 0, 1, 2],
    ],
    np.float32,
)


def test_infinite_logits():
    p = np.zeros((6, 4), np.float32)
    p[1, :1], p[2, :2], p[3, ::2], p[4, :3], p[5, :1] = 1, 0.5, 0.5, 1 / 3, 1
    got = softmax_results("logsumexp")(BAD_ROWS, BAD_ROWS > 0)
    want = np.float32([-inf, inf, inf, np.log(2), 1e30, 3e38, nan])
    np.testing.assert_allclose(got["value"], want, rtol=1e-6)
    for way in ("vjp", "jvp"):
        np.testing.assert_allclose(got[way][:6], p, rtol=1e-6)
    np.testing.assert_allclose(numerics.softmax(BAD_ROWS)[:6], p, rtol=1e-6)
    assert np.isfinite(got["second"][:6]).all()

    got = softmax_results("log_softmax")(BAD_ROWS, BAD_ROWS > 0)
    want = np.where(p == 0, -inf, np.log(np.where(p == 0, 1, p)))
    want[4, 3], want[5, 2:] = -2e30, -3e38
    np.testing.assert_allclose(got["value"][:6], want, rtol=1e-6)
    assert np.isnan(got["value"][6]).all()
    for way in ("vjp", "jvp"):
        slopes = np.where(np.isneginf(want)[:, :, None], 0, np.eye(4) - p[:, None, :])
        np.testing.assert_allclose(got[way][:6], slopes, rtol=1e-6)
    assert np.isfinite(got["second"][:6]).all()


@pytest.mark.parametrize("junk", [nan, inf, -inf, 1e30])
@pytest.mark.parametrize("name", SOFTMAX)
def test_masked_logits_do_not_exist(name, junk):
    x = np.array([[1, junk, 3, 2], [junk] * 4], np.float32)
    mask = np.array([[True, False, True, True], [False] * 4])
    got = softmax_results(name)(x, mask)
    kept = softmax_results(name)(np.array([[1, 3, 2, -inf]], np.float32), mask[:1] | True)
    place = np.array([0, 2, 3])
    value, slopes = np.asarray(got["masked"]), np.asarray(got["masked vjp"])
    if name == "logsumexp":
        np.testing.assert_array_equal(value, [kept["value"][0], -inf])
        np.testing.assert_allclose(slopes[0, place], kept["vjp"][0, :3], rtol=1e-6)
    else:
        np.testing.assert_array_equal(value[0, place], kept["value"][0, :3])
        assert np.isneginf(value[0, 1])
        assert np.isneginf(value[1]).all()
        np.testing.assert_allclose(slopes[0][np.ix_(place, place)], kept["vjp"][0, :3, :3], 1e-6)
        assert (slopes[0, 1] == 0).all()
    assert (slopes[0, ..., 1] == 0).all()
    assert (slopes[1] == 0).all()


def test_masked_log_softmax_ignores_what_comes_back_to_the_mask():
    x, mask = jnp.array([1.0, 2.0, 3.0]), jnp.array([True, True, False])
    for function in (numerics.log_softmax, numerics.softmax):
        _, gradient = jax.vjp(functools.partial(function, where=mask), x)
        assert np.isfinite(gradient(jnp.array([1.0, 0.0, nan]))[0]).all()


VECTORS = {
    "small": np.float32([[3, -4, 1], [1, 1, 0]]) * np.float32(1e-30),
    "large": np.float32([[3, -4, 1], [1, 1, 0]]) * np.float32(1e30),
    "mixed": np.float32([[1e-30, 1, 1e-5], [1e30, 1e25, 3]]),
    "edge": np.float32([[3e38, 0, 0], [1.2e-38, 0, 0]]),
}


@functools.cache
def vector_results():
    def one(x):
        return {
            "norm": numerics.norm(x),
            "vjp": jax.grad(numerics.norm)(x),
            "jvp": jax.jacfwd(numerics.norm)(x),
            "unit": numerics.normalize(x),
            "unit vjp": jax.jacrev(numerics.normalize)(x),
            "unit jvp": jax.jacfwd(numerics.normalize)(x),
            "second": jax.jacrev(jax.grad(numerics.norm))(x),
            "second forward": jax.jacfwd(jax.grad(numerics.norm))(x),
            "unit second": jax.jacfwd(jax.jacrev(numerics.normalize))(x),
            "third": jax.jacfwd(jax.jacfwd(jax.grad(numerics.norm)))(x),
        }

    return padded(one)


@pytest.mark.parametrize("scale", VECTORS)
def test_norm_of_any_size(scale):  # worst of 20000 random vectors of 3: 1.5, 2.1
    x = VECTORS[scale]
    length = lambda row: mpmath.sqrt(mpmath.fsum(v * v for v in row))
    got = vector_results()(x)
    assert ulp_error(got["norm"], exact_rows(length, x)).max() <= 2
    unit = exact_rows(lambda row: [v / length(row) for v in row], x)
    for way in ("vjp", "jvp", "unit"):
        assert ulp_error(got[way], unit).max() <= 3
    for way in ("second", "second forward", "unit second", "third")[: 2 if scale == "small" else 4]:
        assert np.isfinite(got[way]).all() or scale == "edge"
    sizes = np.asarray(got["norm"], np.float64)[:, None, None]
    u = np.asarray(got["unit"], np.float64)
    hessian = np.eye(3) - u[:, :, None] * u[:, None, :]  # over the norm
    for way in ("second", "second forward", "unit vjp", "unit jvp"):
        if scale != "edge":
            np.testing.assert_allclose(got[way] * sizes, hessian, atol=1e-6)


@pytest.mark.slow
def test_zero_and_infinite_vectors():
    x = np.float32([[0, 0, 0], [3, 0, 4], [inf, 1, 2], [nan, 1, 2], [-0.0, 0, 0]])
    got = vector_results()(x)
    np.testing.assert_array_equal(got["norm"], np.float32([0, 5, inf, nan, 0]))
    for way in ("vjp", "jvp"):
        np.testing.assert_array_equal(got[way][2], [0, 0, 0])
        np.testing.assert_allclose(got[way][1], [0.6, 0, 0.8], rtol=1e-6)
    for way in got:
        assert np.isfinite(np.asarray(got[way])[[0, 1, 4]]).all(), way
        assert (np.asarray(got[way])[[0, 4]] == 0).all(), way
    with jax.debug_nans(True):
        jax.grad(lambda x: numerics.norm(x).sum())(x[:3])


def test_norm_sums_many_terms():
    x = np.random.default_rng(4).normal(size=(20, 1000)).astype(np.float32)
    want = np.sqrt((x.astype(np.float64) ** 2).sum(-1))
    assert (abs(np.asarray(numerics.norm(x)) - want) / want).max() < 4 * 2**-24


@pytest.mark.slow
def test_masked_norm():
    x = jnp.array([[3.0, nan, 4.0], [inf, nan, 1.0]])
    mask = jnp.array([[True, False, True], [False, False, False]])
    value, slope = jax.value_and_grad(lambda x: numerics.norm(x, where=mask).sum())(x)
    assert value == 5
    np.testing.assert_allclose(slope, [[0.6, 0, 0.8], [0, 0, 0]], rtol=1e-6)
    empty = jnp.zeros((2, 0))
    np.testing.assert_array_equal(numerics.norm(empty), [0, 0])
    np.testing.assert_array_equal(numerics.logsumexp(empty), [-inf, -inf])


@pytest.mark.parametrize("axis", [0, (0, 2), None])
def test_axes(axis):
    x = np.arange(24, dtype=np.float32).reshape(4, 3, 2)[::-1] / 4

    @jax.jit
    def results(x):
        return {
            f"{name} {keepdims}": getattr(numerics, name)(x, axis=axis, keepdims=keepdims)
            for name in ("norm", "logsumexp")
            for keepdims in (False, True)
        } | {name: getattr(numerics, name)(x, axis=axis) for name in ("softmax", "normalize")}

    with jax.numpy_rank_promotion("raise"):
        got = {name: np.asarray(result) for name, result in results(x).items()}
    for keepdims in (False, True):
        length = np.sqrt((x * x).sum(axis, keepdims=keepdims))
        total = np.exp(x).sum(axis, keepdims=keepdims)
        np.testing.assert_allclose(got[f"norm {keepdims}"], length, rtol=1e-6)
        np.testing.assert_allclose(got[f"logsumexp {keepdims}"], np.log(total), rtol=1e-6)
    np.testing.assert_allclose(got["softmax"], np.exp(x) / total, rtol=1e-5)
    np.testing.assert_allclose(got["normalize"], x / length, rtol=1e-6)


@pytest.mark.slow
def test_cosine_similarity():
    @jax.jit
    @jax.vmap
    def results(x, y):
        function = numerics.cosine_similarity
        slopes = jax.grad(function, (0, 1))(x, y)
        return function(x, y), *slopes, jax.jacfwd(function)(x, y), jax.hessian(function)(x, y)

    x = np.float32([[1, 2, 2]] * 6)
    y = np.float32([[2, 1, 2], [-2, -4, -4], [0, 0, 0], [2, 1, 2], [2, 1, 2], [3e-3, 6e-3, 6e-3]])
    x[3] *= np.float32(1e30)
    y[3] *= np.float32(1e-30)
    x[4] = 0
    value, in_x, in_y, forward, second = map(np.asarray, results(x, y))
    np.testing.assert_allclose(value, [8 / 9, -1, 0, 8 / 9, 0, 1], rtol=3e-7)
    assert (abs(value) <= 1).all()
    assert np.isfinite(in_x).all()
    assert np.isfinite(in_y).all()
    assert np.isfinite(second).all()
    assert (in_x[2] == 0).all()
    assert (in_x[4] == 0).all()
    assert (in_y[4] == 0).all()
    assert (in_y[2] == 0).all()
    want = (np.array([2, 1, 2]) / 3 - 8 / 9 * np.array([1, 2, 2]) / 3) / 3
    np.testing.assert_allclose(in_x[0], want, rtol=1e-6)
    np.testing.assert_allclose(in_x[3], want / 1e30, rtol=1e-6)
    np.testing.assert_allclose(forward, in_x, rtol=1e-6, atol=1e-7)
    many = np.random.default_rng(5).normal(size=(2000, 3)).astype(np.float32)
    same = np.asarray(numerics.cosine_similarity(many, 7 * many))
    assert same.max() <= 1
    assert same.min() > 1 - 4e-7


def test_cosine_similarity_is_clipped_in_value_only():
    # Some of these exceed 1 before they are clipped, and their slope must survive.
    x = np.random.default_rng(6).normal(size=(500, 3)).astype(np.float32)
    along = np.roll(x, 1, -1)

    @jax.jit
    def slopes(x):
        raw = lambda y: jnp.sum(numerics.normalize(x) * numerics.normalize(y), -1)
        clipped = functools.partial(numerics.cosine_similarity, x)
        return jax.jvp(raw, (x,), (along,)), jax.jvp(clipped, (x,), (along,))

    (raw, want), (value, got) = slopes(x)
    assert raw.max() > 1 >= value.max()
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_distances():
    x, y = np.float32([[1, 2], [5, 5], [1e30, 0]]), np.float32([[4, 6], [5, 5], [0, 0]])
    np.testing.assert_array_equal(numerics.distance(x, y), np.float32([5, 0, 1e30]))
    np.testing.assert_array_equal(numerics.squared_distance(x[:2], y[:2]), [25, 0])
    slope = jax.jit(jax.grad(lambda x: numerics.distance(x, y).sum()))(x)
    np.testing.assert_allclose(slope, [[-0.6, -0.8], [0, 0], [1, 0]], rtol=1e-6)
    second = jax.jit(jax.hessian(lambda x: numerics.distance(x, y[1])))(x[1])
    assert (second == 0).all()
    a, b = np.arange(6.0, dtype=np.float32).reshape(2, 3), np.ones((2, 4), np.float32)
    assert numerics.pairwise_difference(a).shape == (2, 3, 3)
    np.testing.assert_array_equal(numerics.pairwise_difference(a, b)[1, 2], [4, 4, 4, 4])
    np.testing.assert_array_equal(numerics.pairwise_difference(a)[0, 1], [1, 0, -1])


ONE = [*POINTS, "logsumexp", "log_softmax", "softmax", "norm", "normalize", "pairwise_difference"]
TWO = [*PRODUCTS, "cosine_similarity", "squared_distance", "distance"]


def test_float32_stays_where_float64_is_allowed():
    x = jax.ShapeDtypeStruct((2, 3), np.float32)
    with x64(True):
        for name, count in [(name, 1) for name in ONE] + [(name, 2) for name in TWO]:
            function = getattr(numerics, name)
            value, slope = jax.eval_shape(
                lambda *x, f=function: (f(*x), jax.grad(lambda *x: f(*x).sum())(*x)), *[x] * count
            )
            assert value.dtype == slope.dtype == np.float32, name


@pytest.mark.parametrize("name", ["softplus", "log_cosh", "log_softmax", "cosine_similarity"])
def test_eager_is_jit(name):
    function, x = getattr(numerics, name), jnp.array([[0.5, -1.5, 0], [-3, 20, -1]])
    x = (x, abs(x)) if name in TWO else (x,)
    np.testing.assert_allclose(function(*x), jax.jit(function)(*x), rtol=5e-7)


@pytest.mark.slow
def test_infinities_pass_debug_nans():
    rows = BAD_ROWS[:6]
    with jax.debug_nans(True):
        for name in ("logsumexp", "log_softmax", "softmax"):
            function = getattr(numerics, name)
            jax.vjp(function, rows)[1](jnp.ones_like(function(rows)))
        far = jnp.array([-inf, -1e4])
        for name in ("softplus", "log1mexp", "log_cosh", "hypot1m1"):
            jax.vjp(getattr(numerics, name), far)[1](jnp.ones(2))


def test_the_counter_of_digits():
    assert ulp_error(np.float32(1) + np.float32(2**-23), mpmath.mpf(1)) == 1
    assert ulp_error(np.float32(0), mpmath.mpf(2) ** -127) == 0  # flushed, and rightly so
    assert ulp_error(np.float32(0), mpmath.mpf(2) ** -120) > 1e6
    assert ulp_error(np.float32(inf), mpmath.mpf(2) ** 129) == 0
    assert ulp_error(np.float32(inf), mpmath.mpf(2) ** 127) > 1e6
    assert ulp_error(np.float32(nan), mpmath.mpf(1)) == inf
    assert ulp_error(np.float32(1e-3), exact_map(lambda x: x, np.float32(1e-3))) == 0
    assert 0 < ulp_error(np.float32(1e-3), mpmath.mpf("1e-3")) < 0.5


@pytest.mark.slow
def test_quotient_divides_by_what_has_no_square():
    x, y = log_spaced(-15, 15, 200, 3), log_spaced(-15, 15, 200, 4)
    x, y = np.r_[x, np.float32([0, 1e-20])], np.r_[y, np.float32([1e-20, 1e-20])]
    to_x, to_y = jax.vmap(jax.grad(numerics.quotient, (0, 1)))(x, y)
    assert ulp_error(to_x, exact_map(lambda x, y: 1 / y, x, y)).max() < 2
    assert ulp_error(to_y, exact_map(lambda x, y: -x / y**2, x, y)).max() < 3
    assert jnp.all(jnp.isfinite(jax.vmap(jax.hessian(numerics.quotient))(x, y)))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e20])
def test_norms_of_constants_are_those_of_arguments(size):
    """XLA rearranges what a program closes over: a square may come apart, and overflow."""
    even, uneven = jnp.full((2, 3), size), size * jnp.array([[3.0, 4.0, 0.0]])
    for x in (even, uneven):
        for function in (numerics.norm, numerics.normalize):
            got = jax.jit(lambda x=x, function=function: function(x))()
            np.testing.assert_allclose(got, jax.jit(function)(x), rtol=1e-6)
            assert np.all(np.isfinite(got))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_logarithm_of_a_ratio_that_overflows(dtype):
    """Compiled, where XLA reorders products and quotients."""
    with x64(dtype == "float64"):
        limit = float(jnp.finfo(dtype).max) / 2
        numbers = [limit, 1e30, 1.0, 1e-3, 1e-30, 4 / limit]
        pairs = np.asarray([(x, y) for x in numbers for y in numbers], dtype)
        found = jax.jit(_log_ratios.log_ratio)(*pairs.T)
        expected = [mpmath.log(mpmath.mpf(float(x)) / mpmath.mpf(float(y))) for x, y in pairs]
        np.testing.assert_allclose(found, np.float64(expected), rtol=2 * jnp.finfo(dtype).eps)


def test_the_logarithm_of_a_ratio_with_a_zero_of_either_sign():
    some = jnp.array([1e-37, 1e-30, 1.0, 1e30])
    for zero in (0.0, -0.0):
        np.testing.assert_array_equal(_log_ratios.log_ratio(some, jnp.full(4, zero)), np.inf)
        np.testing.assert_array_equal(_log_ratios.log_ratio(jnp.full(4, zero), some), -np.inf)
        np.testing.assert_array_equal(_log_ratios.kl_div(some, jnp.full(4, zero)), np.inf)
        np.testing.assert_allclose(_log_ratios.kl_div(jnp.full(4, zero), some), some)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_of_stirling_and_its_slope(dtype):
    def exact(x):
        with mpmath.workdps(80):
            x = mpmath.mpf(float(x))
            return (
                mpmath.loggamma(x) - (x - 0.5) * mpmath.log(x) + x - mpmath.log(2 * mpmath.pi) / 2
            )

    def exact_slope(x):
        with mpmath.workdps(80):
            x = mpmath.mpf(float(x))
            return mpmath.digamma(x) - mpmath.log(x) + 1 / (2 * x)

    with x64(dtype == np.float64):
        x = np.r_[1, np.linspace(1, 12, 30), np.geomspace(12, 1e12, 20)].astype(dtype)
        got, slope = jax.jit(jax.vmap(jax.value_and_grad(_gamma.stirling_error_from_1)))(x)
        assert ulp_error(got, [exact(each) for each in x]).max() <= 5
        assert ulp_error(slope, [exact_slope(each) for each in x]).max() <= 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_divided_difference_of_the_exponential(dtype):
    """Of 0, L and bL: where the three are close, where two are, and where none is."""
    lengths = [1e-20, 1e-5, 0.3, 0.99, 2.5, 30.0, 80.0]
    powers = np.array([-3, -1, -1e-4, 0, 1e-4, 0.5, 1 - 1e-4, 1, 1 + 1e-4, 1.5, 2, 5])
    pairs = np.array([(s * x, b) for s in (1, -1) for x in lengths for b in powers], dtype)

    def exact(length, b):
        with mpmath.workdps(120):
            length, b = mpmath.mpf(float(length)), mpmath.mpf(float(b))
            b += mpmath.mpf(10) ** -60 if b in (0, 1) else 0
            terms = mpmath.exp(b * length) - b * mpmath.exp(length) - (1 - b)
            return terms / (b * (b - 1)) / mpmath.exp(max(0, length, b * length))

    with x64(dtype == np.float64):
        length, b = pairs.T
        found, by_ratio, by_power = jax.jit(_divided_difference.exp_divided_difference)(
            length, b, b - 1
        )
        assert ulp_error(found, [exact(*pair) for pair in pairs]).max() <= 6
        largest = np.where(by_power, b * length, np.where(by_ratio, length, 0))
        np.testing.assert_array_equal(largest, np.maximum(np.maximum(0, length), b * length))
