"""Elementwise functions whose derivatives are finite and accurate."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._xla import inlined
from jaxloss.numerics._dtypes import accumulator_dtype, half_in_float32
from jaxloss.numerics._polynomials import horner


@jax.custom_jvp
def absolute(x: Array) -> Array:
    """The absolute value, with gradient 0 at 0.

    `jnp.abs` has gradient 1 at 0, so that a prediction that equals its target is moved.

    >>> float(jax.grad(absolute)(0.0)), float(jax.grad(absolute)(-2.0))
    (0.0, -1.0)
    """
    return jnp.abs(x)


absolute.defjvps(lambda x_dot, _, x: jnp.sign(x) * x_dot)


def pinball_of_error(error: Array, level: Array | float) -> Array:
    """1 - level times an error above 0, -level times one below, with gradient 0 at 0."""
    # The sign is 0 at 0 and NaN at NaN, and has derivative 0: so the gradient is the first factor.
    return jnp.where(error < 0, -level, jnp.sign(error) * (1 - level)) * error


@jax.custom_jvp
def uncontracted(x: Array) -> Array:
    """x, a product or a quotient, rounded before anything is added to it or subtracted from it.

    A fused multiply-add would use it unrounded in one place and rounded in another: the difference
    of two that are equal is then not 0. No compiler contracts across a select; XLA on CPU does
    across a barrier.
    """
    return jnp.where(x == x, x, jnp.nan)


uncontracted.defjvps(lambda x_dot, _, _x: x_dot)


def _is_negligible(x: Array) -> Array:
    """Whether |x| is 0 or subnormal in float32: compiled code may flush subnormal numbers to 0."""
    return jnp.abs(x) < jnp.finfo(accumulator_dtype(x)).tiny


def shared(x: Array) -> Array:
    """x, a root, power, exponential or logarithm that is used more than once.

    XLA on CPU would write it, and what it is computed from, to arrays. `quotient` needs no such
    hint.
    """
    return inlined(x)


@jax.custom_jvp
def relu(x: Array) -> Array:
    """The larger of 0 and x, with gradient 0 at 0 and NaN at NaN.

    It equals `jax.nn.relu`, but takes less time on CPU when its result is summed: XLA does not fuse
    `jnp.maximum` with the sum.

    >>> float(relu(-2.0)), float(jax.grad(relu)(0.0)), float(relu(jnp.nan))
    (0.0, 0.0, nan)
    """
    return jnp.where(x <= 0, 0, x)


relu.defjvps(lambda x_dot, _, x: jnp.where(x <= 0, 0, jnp.where(x == x, 1, x) * x_dot))


def sqrt(x: Array) -> Array:
    r"""The square root, with gradient 0 at 0 by convention (the true one is infinite).

    `jnp.sqrt` has gradient inf at 0, which becomes NaN when the chain rule multiplies it by 0, as
    in the standard deviation of equal numbers. Below 0 the result is NaN.

    >>> float(jax.grad(sqrt)(0.0)), float(jax.grad(sqrt)(4.0))
    (0.0, 0.25)
    """
    zero = _is_negligible(x)
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def power_or_zero(x: Array, exponent: Array | float) -> Array:
    """x ** exponent of x >= 0, with value and gradient 0 at 0, whatever the exponent.

    >>> float(power_or_zero(0.0, 0.5)), float(jax.grad(power_or_zero)(0.0, 0.5))
    (0.0, 0.0)
    """
    is_zero = x == 0
    return jnp.where(is_zero, 0, jnp.power(jnp.where(is_zero, 1, x), exponent))


def multiply_no_nan(weight: Array, value: Array) -> Array:
    """`weight * value`, but 0 where the weight is 0, even if the value is infinite or NaN.

    The gradients are those of the product, except that the weight's gradient is 0 where the weight
    is 0 and the value is infinite or NaN. The computation of `value` must be differentiable too,
    which log(p) is not at p = 0: see `xlogy`.

    >>> float(multiply_no_nan(0.0, jnp.inf)), float(jax.grad(multiply_no_nan)(0.0, 3.0))
    (0.0, 3.0)
    """
    ignored = _is_negligible(weight) & ~jnp.isfinite(value)
    return weight * jnp.where(ignored, 0, value)


@jax.custom_jvp
def _quotient(x: Array, y: Array) -> Array:
    return inlined(x / y)


_quotient.defjvps(
    lambda x_dot, _, _x, y: _quotient(x_dot, y),
    lambda y_dot, out, _x, y: _quotient(-out * y_dot, y),
)


@half_in_float32
def quotient(x: Array | float, y: Array | float) -> Array:
    """`x / y`, with a derivative that does not square y.

    JAX computes the derivative in y as `-x * y**-2`: in float32 the power overflows for y = 1e-20,
    and the derivative is NaN if x is 0.

    >>> f"{jax.grad(quotient, 1)(1e-20, 1e-20):.3g}", float(jax.grad(quotient, 1)(0.0, 1e-20)) == 0
    ('-1e+20', True)
    """
    return _quotient(x, y)


@jax.custom_jvp
def _fraction(x: Array, y: Array) -> Array:
    total = x + y
    return _quotient(x, jnp.where(total == 0, 1, total))


_fraction.defjvps(
    lambda x_dot, _, x, y: _quotient(_fraction(y, x) * x_dot, jnp.where(x + y == 0, 1, x + y)),
    lambda y_dot, out, x, y: _quotient(-out * y_dot, jnp.where(x + y == 0, 1, x + y)),
)


@half_in_float32
def fraction(x: Array, y: Array) -> Array:
    """`x / (x + y)` for x, y >= 0, with derivatives that do not cancel; 0 if both are 0.

    >>> float(fraction(1.0, 3.0)), float(fraction(0.0, 0.0))
    (0.25, 0.0)
    """
    return _fraction(x, y)


@jax.custom_jvp
def linear_argument(x: Array) -> Array:
    """x itself; its gradient is NaN where x is NaN.

    For an argument in which a loss is linear, as labels often are: the gradient does not depend on
    it otherwise, and would not show that it is NaN.
    """
    return x


linear_argument.defjvps(lambda x_dot, out, x: jnp.where(x == x, 1, jnp.nan).astype(x.dtype) * x_dot)


def xlogy(x: Array, y: Array) -> Array:
    r"""$x \log y$, with $0 \log 0 = 0$ and finite gradients there.

    The gradients are $\log y$ and $x / y$. At x = 0 the value is 0 for every y, NaN included; where
    y is 0, infinite, negative or NaN there, both gradients are 0 too (those of
    `jax.scipy.special.xlogy` are -inf and NaN).

    >>> float(xlogy(0.0, 0.0)), float(jax.grad(lambda p: xlogy(p, p))(0.0))
    (0.0, 0.0)
    """
    ignored = _is_negligible(x) & ~(jnp.greater(y, 0) & ~_is_negligible(y) & jnp.isfinite(y))
    return x * jnp.log(jnp.where(ignored, 1, y))


def xlog1py(x: Array, y: Array) -> Array:
    r"""$x \log(1 + y)$, with $0 \log 0 = 0$ and finite gradients there.

    Unlike `xlogy(x, 1 + y)` it does not round a small y. It treats x = 0 as `xlogy` does.

    >>> float(xlog1py(0.0, -1.0)), float(jax.grad(xlog1py, argnums=1)(0.0, -1.0))
    (0.0, 0.0)
    """
    ignored = _is_negligible(x) & ~(jnp.greater(y, -1) & jnp.isfinite(y))
    return x * jnp.log1p(jnp.where(ignored, 0, y))


@jax.custom_jvp
def _sigmoid(x: Array) -> Array:
    return jax.nn.sigmoid(x)


_sigmoid.defjvps(lambda x_dot, out, x: out * _sigmoid(-x) * x_dot)


@half_in_float32
def sigmoid(x: Array) -> Array:
    r"""$\sigma(x) = 1 / (1 + e^{-x})$, with derivative $\sigma(x)\,\sigma(-x)$.

    The derivative of `jax.nn.sigmoid`, $\sigma (1 - \sigma)$, is 0 from x = 17 on in float32.

    >>> float(sigmoid(0.0)), bool(jax.grad(sigmoid)(80.0) == jax.grad(sigmoid)(-80.0))
    (0.5, True)
    """
    return _sigmoid(x)


@jax.custom_jvp
def _softplus(x: Array) -> Array:
    tail = jnp.log1p(jnp.exp(jnp.where(x < 0, x, -x)))
    # The select comes last: XLA on CPU splits a final sum and writes both of its terms to memory.
    return jnp.where(x < 0, tail, x + tail)


_softplus.defjvps(lambda x_dot, _, x: _sigmoid(x) * x_dot)


@half_in_float32
def softplus(x: Array) -> Array:
    r"""$\log(1 + e^x)$, with derivative $\sigma(x)$.

    `jax.nn.softplus` has the same value. Its derivative is $e^{x - \mathrm{softplus}(x)}$, in which
    the rounding of the exponent is multiplied by its size.

    >>> float(softplus(-jnp.inf)), float(jax.grad(softplus)(0.0))
    (0.0, 0.5)
    """
    return _softplus(x)


def log_sigmoid(x: Array) -> Array:
    r"""$\log \sigma(x) = -\mathrm{softplus}(-x)$, with derivative $\sigma(-x)$.

    >>> float(log_sigmoid(-1e4)), float(jax.grad(log_sigmoid)(0.0))
    (-10000.0, 0.5)
    """
    return -softplus(-x)


@jax.custom_jvp
def _log1mexp(x: Array) -> Array:
    # Both forms are accurate from -1.1 to -log(2). There XLA's float64 log1p on CPU is 140 ULP off.
    return jnp.where(x > -1.1, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))


# |expm1| and not -expm1, which is -0 at 0: the derivative there is -inf, not +inf.
_log1mexp.defjvps(lambda x_dot, _, x: -_quotient(jnp.exp(x), jnp.abs(jnp.expm1(x))) * x_dot)


@half_in_float32
def log1mexp(x: Array) -> Array:
    r"""$\log(1 - e^x)$ for x <= 0: the log-probability of the complement of an event.

    It is $\log(-\mathrm{expm1}(x))$ near 0 and $\mathrm{log1p}(-e^x)$ far from it: each form loses
    all digits at the other end. At 0 it is -inf with derivative -inf; above 0 it is NaN.

    >>> float(log1mexp(0.0)), float(log1mexp(-jnp.inf)) == 0
    (-inf, True)
    """
    return _log1mexp(x)


def log_cosh_parts(x: Array) -> tuple[Array, Array]:
    """Whether |x| < 1, and log cosh x there; elsewhere what it has beyond |x| - log 2."""
    magnitude = jnp.abs(x)
    near = magnitude < 1
    square = jnp.square(jnp.where(near, x, 0))
    # Near 0 the series of (cosh x - 1) / x^2, since `jnp.sinh` is 4 ULP off even before squaring.
    last = 12 if jnp.finfo(x.dtype).bits == 32 else 18
    series = horner(square, [1 / math.factorial(n) for n in range(2, last + 1, 2)])
    # One logarithm serves both branches: it is most of the work.
    return near, jnp.log1p(jnp.where(near, square * series, jnp.exp(-2 * magnitude)))


@jax.custom_jvp
def _log_cosh(x: Array) -> Array:
    near, log = log_cosh_parts(x)
    return jnp.where(near, log, (jnp.abs(x) - math.log(2)) + log)


_log_cosh.defjvps(lambda x_dot, _, x: jnp.tanh(x) * x_dot)


@half_in_float32
def log_cosh(x: Array) -> Array:
    r"""$\log \cosh x$: about $x^2 / 2$ near 0, $|x| - \log 2$ far away, with derivative $\tanh x$.

    $|x| + \mathrm{softplus}(-2|x|) - \log 2$ has no correct digit below 3e-4 in float32.

    >>> round(float(log_cosh(1e-4)), 15), float(jax.grad(log_cosh)(0.0))
    (5e-09, 0.0)
    """
    return _log_cosh(jnp.asarray(x))


def _hypot1_scaled(x: Array) -> tuple[Array, Array, Array]:
    """Whether |x| < 1, sqrt(1 + x^2) / max(1, |x|) without overflow, and 1 / max(1, |x|)."""
    near = jnp.abs(x) < 1
    inverse = shared(_quotient(1.0, jnp.where(near, 1, jnp.abs(x))))
    root = shared(jnp.sqrt(1 + jnp.square(jnp.where(near, x, inverse))))
    return near, root, inverse


@jax.custom_jvp
def _hypot1m1_slope(x: Array) -> Array:
    near, root, _ = _hypot1_scaled(x)
    return jnp.where(near, x, jnp.sign(x)) / root


_hypot1m1_slope.defjvps(lambda x_dot, _, x: x_dot * (1 / (1 + _hypot1m1(x))) ** 3)


@jax.custom_jvp
def _hypot1m1(x: Array) -> Array:
    magnitude = jnp.abs(x)
    near, root, inverse = _hypot1_scaled(x)
    return magnitude * jnp.where(near, magnitude / (1 + root), 1 / (inverse + root))


_hypot1m1.defjvps(lambda x_dot, _, x: _hypot1m1_slope(x) * x_dot)


@half_in_float32
def hypot1m1(x: Array) -> Array:
    r"""$\sqrt{1 + x^2} - 1$: about $x^2 / 2$ near 0 and $|x| - 1$ far away.

    As written, the formula is 0 below 3e-4 and inf above 2e19 in float32. The derivative is
    $x / \sqrt{1 + x^2}$.

    >>> float(hypot1m1(0.75)), round(float(jax.grad(hypot1m1)(0.75)), 6)
    (0.25, 0.6)
    """
    return _hypot1m1(x)
