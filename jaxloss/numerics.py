"""Safe primitives: the few functions that `jnp` gets wrong at a point, in a tail, or in a gradient.

Every loss of this library stands on these. Each is pure, works elementwise or along an axis of any batch, keeps
float32 in float32 and float64 in float64, and has derivatives of every order in forward and reverse mode. Three
conventions hold throughout:

- **A gradient that does not exist is 0 or a mid-point**, never NaN: at the kink of an absolute value, at a zero vector,
  at a term of weight zero.
- **What is masked does not exist.** A False entry of `where` gets gradient exactly 0, whatever it holds.
- **Infinity is a number, NaN is a message.** Infinite entries give their limit; a NaN that counts stays visible.

Where the value or its slope needs a formula of its own, that formula is a `jax.custom_jvp` whose rule is made of
other functions of this module, so that jvp, vjp, Hessians and `vmap` all follow from it.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

Axis = int | tuple[int, ...] | None

# ---------------------------------------------------------------------------------------------- elementwise


def absolute(x: ArrayLike) -> Array:
    """The absolute value, whose gradient at 0 is 0.

    `jnp.abs` has gradient 1 at 0, so that a perfect prediction is pushed away from its target.

    >>> float(jax.grad(absolute)(0.0)), float(jax.grad(absolute)(-2.0))
    (0.0, -1.0)
    """
    return x * jnp.sign(x)


def sqrt(x: ArrayLike) -> Array:
    r"""The square root, whose gradient at 0 is 0 (by convention: the true one is infinite).

    `jnp.sqrt` has gradient inf at 0, which becomes NaN as soon as the chain rule multiplies it by 0:
    $\sqrt{x^2}$ at 0, a standard deviation of equal numbers. Below 0 the result is NaN.

    >>> float(jax.grad(sqrt)(0.0)), float(jax.grad(sqrt)(4.0))
    (0.0, 0.25)
    """
    zero = jnp.equal(x, 0)
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def multiply_no_nan(weight: ArrayLike, value: ArrayLike) -> Array:
    """`weight * value`, where a weight of 0 wins over an infinite or NaN value.

    Both gradients are those of the product, except that such a value contributes 0 to the weight's. The rule is local:
    `value` must be finite to differentiate (`log(p)` at p = 0 is not; see `xlogy`), or carry its own safe gradient.

    >>> float(multiply_no_nan(0.0, jnp.inf)), float(jax.grad(multiply_no_nan)(0.0, 3.0))
    (0.0, 3.0)
    """
    dead = jnp.equal(weight, 0) & ~jnp.isfinite(value)
    return weight * jnp.where(dead, 0, value)


def xlogy(x: ArrayLike, y: ArrayLike) -> Array:
    r"""$x \log y$ with $0 \log 0 = 0$, and gradients that are finite there.

    At x = 0 the value is 0 whatever y holds. The gradients are $\log y$ and $x / y$; at x = 0 a y that is 0, infinite,
    negative or NaN makes both 0. `jax.scipy.special.xlogy` has gradients -inf and NaN at (0, 0).

    >>> float(xlogy(0.0, 0.0)), jax.grad(lambda p: xlogy(p, p))(0.0).item()
    (0.0, 0.0)
    """
    dead = jnp.equal(x, 0) & ~(jnp.greater(y, 0) & jnp.isfinite(y))
    return x * jnp.log(jnp.where(dead, 1, y))


def xlog1py(x: ArrayLike, y: ArrayLike) -> Array:
    r"""$x \log(1 + y)$ with $0 \log 0 = 0$, and gradients that are finite there.

    `xlogy(x, 1 + y)` would lose a tiny y; this keeps it, and treats x = 0 as `xlogy` does.

    >>> float(xlog1py(0.0, -1.0)), jax.grad(xlog1py, argnums=1)(0.0, -1.0).item()
    (0.0, 0.0)
    """
    dead = jnp.equal(x, 0) & ~(jnp.greater(y, -1) & jnp.isfinite(y))
    return x * jnp.log1p(jnp.where(dead, 0, y))


def xlog1py(x: ArrayLike, y: ArrayLike) -> Array:
    r"""$x \log(1 + y)$ with $0 \log 0 = 0$, and gradients that are finite there: `xlogy` for y near 0.

    `xlog1py(1 - p, -p)` is the other half of a cross-entropy, and keeps the digits of a small p.

    >>> float(xlog1py(0.0, -1.0)), jax.grad(xlog1py, 1)(0.0, -1.0).item()
    (0.0, 0.0)
    """
    dead = jnp.equal(x, 0) & ~(jnp.greater(y, -1) & jnp.isfinite(y))
    return x * jnp.log1p(jnp.where(dead, 0, y))


@jax.custom_jvp
def sigmoid(x: ArrayLike) -> Array:
    r"""$\sigma(x) = 1 / (1 + e^{-x})$, with a slope $\sigma(x)\,\sigma(-x)$ that does not vanish early.

    The slope of `jax.nn.sigmoid` is $\sigma (1 - \sigma)$: exactly 0 from x = 17 on in float32.

    >>> float(sigmoid(0.0)), bool(jax.grad(sigmoid)(80.0) == jax.grad(sigmoid)(-80.0))
    (0.5, True)
    """
    return jax.nn.sigmoid(x)


@sigmoid.defjvp
def _sigmoid_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out = sigmoid(x)
    return out, out * sigmoid(-x) * x_dot


@jax.custom_jvp
def softplus(x: ArrayLike) -> Array:
    r"""$\log(1 + e^x)$, with slope $\sigma(x)$ to the last digits.

    `jax.nn.softplus` has the right value; its slope is $e^{x - \mathrm{softplus}(x)}$, whose
    exponent is rounded to the ULP of x.

    >>> float(softplus(-jnp.inf)), float(jax.grad(softplus)(0.0))
    (0.0, 0.5)
    """
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return softplus(x), sigmoid(x) * x_dot


def log_sigmoid(x: ArrayLike) -> Array:
    r"""$\log \sigma(x) = -\mathrm{softplus}(-x)$: the log-probability of the positive class.

    >>> float(log_sigmoid(jnp.inf)) == 0, float(jax.grad(log_sigmoid)(0.0))
    (True, 0.5)
    """
    return -softplus(-x)


@jax.custom_jvp
def log1mexp(x: ArrayLike) -> Array:
    r"""$\log(1 - e^x)$ for x <= 0: the log-probability of the complement of a log-probability.

    $$\log(1 - e^x) = \begin{cases} \log(-\mathrm{expm1}(x)) & x > -\log 2 \\ \mathrm{log1p}(-e^x) & \text{else}\end{cases}$$

    At 0 it is -inf (with slope -inf), above 0 NaN. Each of the two formulas alone loses all digits at one end.

    >>> float(log1mexp(0.0)), float(log1mexp(-jnp.inf)) == 0
    (-inf, True)
    """
    return jnp.where(x > -math.log(2), jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))


@log1mexp.defjvp
def _log1mexp_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    # |expm1| and not -expm1: at x = 0 the slope is -inf, not +inf.
    return log1mexp(x), -jnp.exp(x) / jnp.abs(jnp.expm1(x)) * x_dot


@jax.custom_jvp
def log_cosh(x: ArrayLike) -> Array:
    r"""$\log \cosh x$: half a square near 0, $|x| - \log 2$ far away, with slope $\tanh x$.

    The usual $|x| + \mathrm{softplus}(-2|x|) - \log 2$ has no correct digit below |x| = 3e-4 in float32. Below 1 the
    series of $\cosh x - 1$ is summed instead (`jnp.sinh`, the other way there, is 4 ULP off before it is squared).

    >>> round(float(log_cosh(1e-4)), 15), float(jax.grad(log_cosh)(0.0))
    (5e-09, 0.0)
    """
    square, magnitude = jnp.square(x), jnp.abs(x)
    series = 1.0
    for k in range(18, 2, -2):  # cosh(x) - 1 = x^2/2 (1 + x^2/(3 4) (1 + x^2/(5 6) (1 + ...)))
        series = 1 + square / (k * (k - 1)) * series
    far = (magnitude - math.log(2)) + jnp.log1p(jnp.exp(-2 * magnitude))
    return jnp.where(magnitude < 1, jnp.log1p(square / 2 * series), far)


@log_cosh.defjvp
def _log_cosh_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return log_cosh(x), jnp.tanh(x) * x_dot


@jax.custom_jvp
def hypot1m1(x: ArrayLike) -> Array:
    r"""$\sqrt{1 + x^2} - 1$: half a square near 0, $|x| - 1$ far away, from 1e-19 to the largest float.

    As written it is 0 below 4e-4 and infinite above 2e19 in float32. Its slope is $x / \sqrt{1 + x^2}$.

    >>> float(hypot1m1(0.75)), round(float(jax.grad(hypot1m1)(0.75)), 6)
    (0.25, 0.6)
    """
    magnitude = jnp.abs(x)
    root, inverse = _hypot1_scaled(x)
    return magnitude * jnp.where(magnitude < 1, magnitude / (1 + root), 1 / (inverse + root))


def _hypot1_scaled(x):
    """`sqrt(1 + x^2) / max(1, |x|)`, whose square cannot overflow, and `1 / max(1, |x|)`."""
    inverse = 1 / jnp.maximum(jnp.abs(x), 1)
    return jnp.sqrt(1 + jnp.square(jnp.minimum(jnp.abs(x), inverse))), inverse


@jax.custom_jvp
def _hypot1_slope(x):
    return jnp.clip(x, -1, 1) / _hypot1_scaled(x)[0]


@_hypot1_slope.defjvp
def _hypot1_slope_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return _hypot1_slope(x), x_dot / (1 + hypot1m1(x)) ** 3


@hypot1m1.defjvp
def _hypot1m1_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return hypot1m1(x), _hypot1_slope(x) * x_dot


# ------------------------------------------------------------------------------------------------ softmax


def logsumexp(
    x: Array, axis: Axis = -1, where: Array | None = None, keepdims: bool = False
) -> Array:
    r"""$\log \sum_j e^{x_j}$, also where it is almost 0, and with a gradient at a row of -inf.

    $$m + \log(1 + \textstyle\sum_{j \ne \arg\max} e^{x_j - m}), \qquad m = \max_j x_j$$

    `jax.nn.logsumexp` rounds the sum before its logarithm, and the gradient of a row of -inf is NaN. Here such a row,
    or one that `where` empties, is -inf with gradient 0, and +inf entries share the whole gradient.

    >>> f"{logsumexp(jnp.array([0.0, -80.0])):.5g}"
    '1.8049e-35'
    """
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    out = _logsumexp(x, axis)
    return out if keepdims else jnp.squeeze(out, axis)


def log_softmax(x: Array, axis: Axis = -1, where: Array | None = None) -> Array:
    r"""$x - \mathrm{logsumexp}(x)$, with every digit of a probability close to 1.

    `jax.nn.log_softmax` is exactly 0, as is its gradient, from a lead of 17 on in float32. Entries of -inf, entries
    that `where` leaves out and whole rows of such are -inf and constant: gradient 0.

    >>> f"{log_softmax(jnp.array([80.0, 0.0]))[0]:.5g}"
    '-1.8049e-35'
    """
    if where is None:
        return _log_softmax(x, axis)
    return jnp.where(where, _log_softmax(jnp.where(where, x, -jnp.inf), axis), -jnp.inf)


def softmax(x: Array, axis: Axis = -1, where: Array | None = None) -> Array:
    r"""$e^{x_i} / \sum_j e^{x_j}$; all zeros for a row of -inf, or one that `where` empties.

    >>> softmax(jnp.array([[0.0, 0.0], [-jnp.inf, -jnp.inf]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    if where is None:
        return _softmax(x, axis)
    return jnp.where(where, _softmax(jnp.where(where, x, -jnp.inf), axis), 0)


def _max_and_rest(x, axis):
    """The maximum m of each row, and the sum of exp(x - m) less the 1 of one maximum.

    Each sum is one pass of sub, exp and floor, which XLA fuses with its reduction on every backend; a comparison, a
    select or a term shared by the two sums would on CPU be stored first (4 times as slow).
    """
    m = jnp.max(x, axis, keepdims=True, initial=-jnp.inf)
    finite, largest = jnp.isfinite(m), float(jnp.finfo(x.dtype).max)
    whole = jnp.sum(
        jnp.exp(jnp.minimum(x - jnp.clip(m, -largest, largest), 0)), axis, keepdims=True
    )
    terms = jnp.exp(x - jnp.where(finite, m, 0))
    others = jnp.sum(terms - jnp.floor(terms), axis, keepdims=True)  # without those that are 1
    # A sum below 2 has one maximum, which `others` leaves out; a larger one can spare the digits.
    return m, jnp.where(finite & (whole < 2), others, whole - 1)


def _below_max(x, m):
    return jnp.where(x == m, 0, x - jnp.where(m == -jnp.inf, 0, m))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _logsumexp(x, axis):
    m, rest = _max_and_rest(x, axis)
    return m + jnp.log1p(rest)


@_logsumexp.defjvp
def _logsumexp_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return _logsumexp(x, axis), jnp.sum(_softmax(x, axis) * x_dot, axis, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _softmax(x, axis):
    m, rest = _max_and_rest(x, axis)
    return jnp.where(m == -jnp.inf, 0, jnp.exp(_below_max(x, m)) / (1 + jnp.maximum(rest, 0)))


@_softmax.defjvp
def _softmax_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out = _softmax(x, axis)
    return out, out * _less_mean(x_dot, out, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _log_softmax(x, axis):
    m, rest = _max_and_rest(x, axis)
    return jnp.where(m == -jnp.inf, -jnp.inf, _below_max(x, m) - jnp.log1p(rest))


@_log_softmax.defjvp
def _log_softmax_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out, p = _log_softmax(x, axis), _softmax(x, axis)
    return out, jnp.where(out == -jnp.inf, 0, _less_mean(x_dot, p, axis))


def _less_mean(v, p, axis):
    """v less its mean under p, taken off twice.

    Once leaves `1 - p` where p rounds to 1; the second time takes off the rest, which has its digits. The transpose,
    hence the gradient, has the same property.
    """
    v = v - jnp.sum(p * v, axis, keepdims=True)
    return v - jnp.sum(p * v, axis, keepdims=True)


# -------------------------------------------------------------------------------------------------- vectors


def norm(x: Array, axis: Axis = -1, where: Array | None = None, keepdims: bool = False) -> Array:
    r"""The Euclidean norm, for entries of any size, with gradient 0 at the zero vector.

    `jnp.linalg.norm` has gradient NaN there, and squares its entries: inf at 1e20, 0 at 1e-30 in float32. Here the
    entries are first divided by a power of 2, which loses nothing. An infinite entry gives inf, with gradient 0.

    >>> f"{norm(jnp.array([3e30, 4e30])):.6g}", jax.grad(norm)(jnp.zeros(2)).tolist()
    ('5e+30', [0.0, 0.0])
    """
    if where is not None:
        x = jnp.where(where, x, 0)
    out = _norm(x, axis)
    return out if keepdims else jnp.squeeze(out, axis)


def normalize(x: Array, axis: Axis = -1) -> Array:
    r"""$x / \lVert x \rVert$, for entries of any size; the zero vector stays, with gradient 0.

    >>> normalize(jnp.array([[0.0, -1e30], [0.0, 0.0]])).tolist()
    [[0.0, -1.0], [0.0, 0.0]]
    """
    return _normalize(x, axis)


def _scaled(x, axis):
    """x divided by a power of 2 so that squares neither over- nor underflow, its norm, the power."""
    info = jnp.finfo(x.dtype)
    half = (
        jnp.max(jnp.abs(x), axis, keepdims=True, initial=0) / 2
    )  # so that rounding up stays finite
    power = lax.reduce_precision(half, exponent_bits=info.nexp, mantissa_bits=0)
    power = jnp.clip(power, info.tiny, 2.0 ** (info.maxexp - 2))
    scaled = x / power
    return scaled, jnp.sqrt(jnp.sum(jnp.square(scaled), axis, keepdims=True)), power


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _norm(x, axis):
    _, length, power = _scaled(x, axis)
    return length * power


@_norm.defjvp
def _norm_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out = _norm(x, axis)
    unit = _normalize(jnp.where(jnp.isinf(out), 0, x), axis)
    return out, jnp.sum(unit * x_dot, axis, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalize(x, axis):
    scaled, length, _ = _scaled(x, axis)
    return scaled / jnp.where(length == 0, 1, length)


@_normalize.defjvp
def _normalize_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out, length = _normalize(x, axis), _norm(x, axis)
    across = x_dot - out * jnp.sum(out * x_dot, axis, keepdims=True)
    return out, jnp.where(length == 0, 0, across / jnp.where(length == 0, 1, length))


def cosine_similarity(x: Array, y: Array, axis: Axis = -1) -> Array:
    r"""$\langle x, y \rangle / (\lVert x \rVert \lVert y \rVert)$ in [-1, 1]; 0 with gradient 0 if either vector is 0.

    Vectors are normalized before they are multiplied, so that entries of 1e20 or 1e-30 do no harm; the value is
    clipped, the gradient is not.

    >>> f"{cosine_similarity(jnp.array([3e30, 4e30]), jnp.array([1e-30, 0.0])):.6f}"
    '0.600000'
    """
    cosine = jnp.sum(normalize(x, axis) * normalize(y, axis), axis)
    return cosine + lax.stop_gradient(jnp.clip(cosine, -1, 1) - cosine)


def squared_distance(x: Array, y: Array, axis: Axis = -1) -> Array:
    r"""$\sum_i (x_i - y_i)^2$, from the differences: no cancellation between close points.

    >>> float(squared_distance(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])))
    25.0
    """
    return jnp.sum(jnp.square(x - y), axis)


def distance(x: Array, y: Array, axis: Axis = -1) -> Array:
    """The Euclidean distance, whose gradient is 0 where the points coincide.

    >>> float(distance(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])))
    5.0
    """
    return norm(x - y, axis)


def pairwise_difference(x: Array, y: Array | None = None) -> Array:
    """All differences along the last axis: entry (i, j) is `x[i] - y[j]`; y is x unless given.

    >>> pairwise_difference(jnp.array([1.0, 4.0])).tolist()
    [[0.0, -3.0], [3.0, 0.0]]
    """
    return x[..., :, None] - (x if y is None else y)[..., None, :]
