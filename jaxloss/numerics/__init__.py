"""Safe primitives: what `jax.numpy` gets wrong at a point, in a tail, or in a gradient.

Every loss of this library stands on these. Each works elementwise, or along an axis of any batch,
keeps float32 in float32, and has derivatives of every order in forward and reverse mode, because
where a slope needs a formula of its own, it is a `jax.custom_jvp` whose rule is made of other
functions of this module. Three conventions hold throughout:

- **A gradient that does not exist is 0**, never NaN: at the kink of an absolute value, at a zero
  vector, at a term of weight 0.
- **What is masked does not exist.** A False entry of `where` has gradient exactly 0, whatever it
  holds.
- **Infinity is a number, NaN is a message.** An infinite entry gives the limit; a NaN that counts
  stays visible.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._memory.mesh import is_unsharded
from jaxloss._xla import recompute

Axis = int | tuple[int, ...] | None


def absolute(x: Array) -> Array:
    """The absolute value, whose gradient at 0 is 0.

    `jnp.abs` has gradient 1 at 0, which pushes a perfect prediction off its target.

    >>> float(jax.grad(absolute)(0.0)), float(jax.grad(absolute)(-2.0))
    (0.0, -1.0)
    """
    return x * jnp.sign(x)


def _vanishes(x: Array) -> Array:
    """Whether x counts as 0, as subnormal numbers do: compiled, they are 0 in some places only.

    Those of float32: what is subnormal in float16 is computed with.
    """
    tiny = jnp.finfo(jnp.promote_types(jnp.result_type(float, x), jnp.float32)).tiny
    return jnp.abs(x) < tiny


def relu(x: Array) -> Array:
    """The larger of 0 and x, whose gradient at 0 is 0.

    So it is with `jax.nn.relu`, of whose maximum XLA on CPU writes the zeros out, all of them,
    when a sum comes next: a hinge takes 1.6 times as long.

    >>> float(relu(-2.0)), float(jax.grad(relu)(0.0)), float(relu(jnp.nan))
    (0.0, 0.0, nan)
    """
    return jnp.where(x <= 0, 0, x)


def sqrt(x: Array) -> Array:
    r"""The square root, whose gradient at 0 is 0, by convention: the true one is infinite.

    `jnp.sqrt` has gradient inf there, which becomes NaN as soon as the chain rule multiplies it
    by 0, as in the standard deviation of equal numbers. Below 0 the result is NaN.

    >>> float(jax.grad(sqrt)(0.0)), float(jax.grad(sqrt)(4.0))
    (0.0, 0.25)
    """
    zero = _vanishes(x)
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def multiply_no_nan(weight: Array, value: Array) -> Array:
    """`weight * value`, where a weight of 0 wins over an infinite or NaN value.

    The gradients are those of the product, except that such a value leaves the weight's at 0.
    How `value` came about must be differentiable too, which log(p) at p = 0 is not: see `xlogy`.

    >>> float(multiply_no_nan(0.0, jnp.inf)), float(jax.grad(multiply_no_nan)(0.0, 3.0))
    (0.0, 3.0)
    """
    dead = _vanishes(weight) & ~jnp.isfinite(value)
    return weight * jnp.where(dead, 0, value)


@jax.custom_jvp
def quotient(x: Array, y: Array) -> Array:
    """`x / y`, whose slope does not square y.

    That of `x / y` is computed as `-x * y**-2`: for a y of 1e-20 the power overflows in float32,
    and an x of 0 makes it NaN.

    >>> f"{jax.grad(quotient, 1)(1e-20, 1e-20):.3g}", float(jax.grad(quotient, 1)(0.0, 1e-20)) == 0
    ('-1e+20', True)
    """
    return x / y


@quotient.defjvp
def _quotient_jvp(primals, tangents):
    (x, y), (x_dot, y_dot) = primals, tangents
    out = quotient(x, y)
    return out, quotient(x_dot - out * y_dot, y)


@jax.custom_jvp
def share(x: Array, y: Array) -> Array:
    """The share of x in x + y, both at least 0, with slopes that do not cancel; 0 of nothing.

    >>> float(share(1.0, 3.0)), float(share(0.0, 0.0))
    (0.25, 0.0)
    """
    total = x + y
    return quotient(x, jnp.where(total == 0, 1, total))


@share.defjvp
def _share_jvp(primals, tangents):
    (x, y), (x_dot, y_dot) = primals, tangents
    total = jnp.where(x + y == 0, 1, x + y)
    change = share(y, x) * x_dot - share(x, y) * y_dot
    return share(x, y), quotient(change, total)


def xlogy(x: Array, y: Array) -> Array:
    r"""$x \log y$, with $0 \log 0 = 0$ and gradients that are finite there.

    The gradients are $\log y$ and $x / y$. At x = 0 the value is 0 whatever y holds, and if y is
    0, infinite, negative or NaN, so are both gradients; those of JAX's own are -inf and NaN.

    >>> float(xlogy(0.0, 0.0)), float(jax.grad(lambda p: xlogy(p, p))(0.0))
    (0.0, 0.0)
    """
    dead = _vanishes(x) & ~(jnp.greater(y, 0) & ~_vanishes(y) & jnp.isfinite(y))
    return x * jnp.log(jnp.where(dead, 1, y))


def xlog1py(x: Array, y: Array) -> Array:
    r"""$x \log(1 + y)$, with $0 \log 0 = 0$ and gradients that are finite there.

    `xlogy(x, 1 + y)` would lose a tiny y; this keeps it, and treats x = 0 as `xlogy` does.

    >>> float(xlog1py(0.0, -1.0)), float(jax.grad(xlog1py, argnums=1)(0.0, -1.0))
    (0.0, 0.0)
    """
    dead = _vanishes(x) & ~(jnp.greater(y, -1) & jnp.isfinite(y))
    return x * jnp.log1p(jnp.where(dead, 0, y))


@jax.custom_jvp
def sigmoid(x: Array) -> Array:
    r"""$\sigma(x) = 1 / (1 + e^{-x})$, with slope $\sigma(x)\,\sigma(-x)$ on both sides.

    The slope of `jax.nn.sigmoid`, $\sigma (1 - \sigma)$, is 0 from x = 17 on in float32.

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
def softplus(x: Array) -> Array:
    r"""$\log(1 + e^x)$, with slope $\sigma(x)$.

    `jax.nn.softplus` has the right value, but takes for its slope $e^{x - \mathrm{softplus}(x)}$,
    which is as wrong as its exponent is rounded.

    >>> float(softplus(-jnp.inf)), float(jax.grad(softplus)(0.0))
    (0.0, 0.5)
    """
    tail = jnp.log1p(jnp.exp(jnp.where(x < 0, x, -x)))
    # A choice comes last: XLA on CPU takes a last sum apart, and writes both terms out before it.
    return jnp.where(x < 0, tail, x + tail)


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return softplus(x), sigmoid(x) * x_dot


def log_sigmoid(x: Array) -> Array:
    r"""$\log \sigma(x) = -\mathrm{softplus}(-x)$, with slope $\sigma(-x)$.

    >>> float(log_sigmoid(-1e4)), float(jax.grad(log_sigmoid)(0.0))
    (-10000.0, 0.5)
    """
    return -softplus(-x)


@jax.custom_jvp
def log1mexp(x: Array) -> Array:
    r"""$\log(1 - e^x)$ for x <= 0: from the log of a probability to that of its complement.

    $\log(-\mathrm{expm1}(x))$ near 0, $\mathrm{log1p}(-e^x)$ far from it: either alone loses all
    digits at the other end. At 0 it is -inf with slope -inf; above 0 it is NaN.

    >>> float(log1mexp(0.0)), float(log1mexp(-jnp.inf)) == 0
    (-inf, True)
    """
    # Both are right from -1.1 to -log(2). There XLA's float64 log1p on CPU is 140 ULP off.
    return jnp.where(x > -1.1, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))


@log1mexp.defjvp
def _log1mexp_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    # |expm1| and not -expm1, which is -0 at 0: the slope there is -inf, not +inf.
    return log1mexp(x), -quotient(jnp.exp(x), jnp.abs(jnp.expm1(x))) * x_dot


@jax.custom_jvp
def log_cosh(x: Array) -> Array:
    r"""$\log \cosh x$: half a square near 0, $|x| - \log 2$ far away, with slope $\tanh x$.

    $|x| + \mathrm{softplus}(-2|x|) - \log 2$ has no right digit below 3e-4 in float32. Below 1
    this sums the series of $\cosh x - 1$, because `jnp.sinh` is 4 ULP off even before squaring.

    >>> round(float(log_cosh(1e-4)), 15), float(jax.grad(log_cosh)(0.0))
    (5e-09, 0.0)
    """
    magnitude = jnp.abs(x)
    near = magnitude < 1
    square = jnp.square(jnp.where(near, x, 0))
    last = 12 if jnp.finfo(x.dtype).bits == 32 else 18
    series = 0.0
    for n in range(last, 0, -2):  # (cosh x - 1) / x^2 = 1/2! + x^2/4! + x^4/6! + ...
        series = 1 / math.factorial(n) + square * series
    # One logarithm serves both ends: it is most of the work.
    log = jnp.log1p(jnp.where(near, square * series, jnp.exp(-2 * magnitude)))
    return jnp.where(near, log, (magnitude - math.log(2)) + log)


@log_cosh.defjvp
def _log_cosh_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return log_cosh(x), jnp.tanh(x) * x_dot


@jax.custom_jvp
def hypot1m1(x: Array) -> Array:
    r"""$\sqrt{1 + x^2} - 1$: half a square near 0, $|x| - 1$ far away.

    As written it is 0 below 3e-4 and inf above 2e19 in float32. Its slope is $x/\sqrt{1 + x^2}$.

    >>> float(hypot1m1(0.75)), round(float(jax.grad(hypot1m1)(0.75)), 6)
    (0.25, 0.6)
    """
    magnitude = jnp.abs(x)
    near, root, inverse = _hypot1_scaled(x)
    return magnitude * jnp.where(near, magnitude / (1 + root), 1 / (inverse + root))


def _hypot1_scaled(x):
    """Whether |x| < 1, sqrt(1 + x^2) / max(1, |x|) without overflow, and 1 / max(1, |x|)."""
    near = jnp.abs(x) < 1
    inverse = 1 / jnp.where(near, 1, jnp.abs(x))
    return near, jnp.sqrt(1 + jnp.square(jnp.where(near, x, inverse))), inverse


@jax.custom_jvp
def _hypot1_slope(x):
    near, root, _ = _hypot1_scaled(x)
    return jnp.where(near, x, jnp.sign(x)) / root


@_hypot1_slope.defjvp
def _hypot1_slope_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return _hypot1_slope(x), x_dot * (1 / (1 + hypot1m1(x))) ** 3


@hypot1m1.defjvp
def _hypot1m1_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return hypot1m1(x), _hypot1_slope(x) * x_dot


def logsumexp(
    x: Array, axis: Axis = -1, where: Array | None = None, keepdims: bool = False
) -> Array:
    r"""$\log \sum_j e^{x_j}$, also where it is almost 0, and with a gradient for rows of -inf.

    $$m + \log\Big(1 + \sum_{j \ne \arg\max} e^{x_j - m}\Big), \qquad m = \max_j x_j$$

    `jax.nn.logsumexp` rounds the sum before its logarithm, and differentiates a row of -inf to
    NaN. Here such a row, or one without a True `where`, is -inf with gradient 0. Entries of +inf
    share the gradient. `x - m` is rounded: far below the top, a gradient has as many digits less
    as that difference.

    >>> f"{logsumexp(jnp.array([0.0, -80.0])):.5g}"
    '1.8049e-35'
    """
    out = _logsumexp(x if where is None else jnp.where(where, x, -jnp.inf), axis)
    return out if keepdims else jnp.squeeze(out, axis)


def log_softmax(x: Array, axis: Axis = -1, where: Array | None = None) -> Array:
    r"""$x - \mathrm{logsumexp}(x)$, with the digits of a probability close to 1.

    That of `jax.nn` is 0 in value and gradient from a lead of 17 on in float32. Entries of -inf or
    of a False `where`, and whole rows of such, are -inf and constant: no gradient passes them.

    >>> f"{log_softmax(jnp.array([80.0, 0.0]))[0]:.5g}"
    '-1.8049e-35'
    """
    if where is None:
        return _log_softmax(x, axis)
    return jnp.where(where, _log_softmax(jnp.where(where, x, -jnp.inf), axis), -jnp.inf)


def softmax(x: Array, axis: Axis = -1, where: Array | None = None) -> Array:
    r"""$e^{x_i} / \sum_j e^{x_j}$; 0 where `where` is False, and in a row of -inf.

    >>> softmax(jnp.array([[0.0, 0.0], [-jnp.inf, -jnp.inf]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    if where is None:
        return _softmax(x, axis)
    return jnp.where(where, _softmax(jnp.where(where, x, -jnp.inf), axis), 0)


def _exp_and_rest(x, axis):
    """The maximum m of each row, exp(x - m), and the sum of that less the 1 of one maximum.

    XLA on CPU fuses these sums with their terms as long as they are plain arithmetic and share
    none: a comparison, or the same exp in both, would be written to memory first. As everything
    here, it has the right slope by itself too: a scan that is differentiated forgets the rules.
    """
    m = lax.stop_gradient(jnp.max(x, axis, keepdims=True, initial=-jnp.inf))
    largest = float(jnp.finfo(x.dtype).max)
    # Clipped, an infinite m gives a row of 0, with 1 for each +inf, and never inf - inf.
    exps = jnp.exp(jnp.minimum(x, largest) - jnp.clip(m, -largest, largest))
    whole = jnp.sum(exps, axis, keepdims=True)
    terms = jnp.exp(x - jnp.where(jnp.isfinite(m), m, 0))
    # Below a sum of 3/2 only the maximum is above 1/2. It is left out whatever it is: where x is a
    # product, a fused multiply-add may leave something of it in x - m.
    most = jnp.floor(terms + 0.5) * lax.stop_gradient(terms)
    others = jnp.sum(terms - most, axis, keepdims=True)
    rest = jnp.where(jnp.isfinite(m) & (whole < 1.5), others, whole - 1)
    return m, exps, jnp.where(m == -jnp.inf, 0, rest)


# Under jit, `jax_debug_nans` does not see what becomes of the rows of infinities on the way.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _logsumexp(x, axis):
    m, _, rest = _exp_and_rest(x, axis)
    return m + jnp.log1p(rest)


@_logsumexp.defjvp
def _logsumexp_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return _logsumexp(x, axis), jnp.sum(_softmax(x, axis) * x_dot, axis, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _softmax(x, axis):
    _, exps, rest = _exp_and_rest(x, axis)
    return exps / (1 + rest)


@_softmax.defjvp
def _softmax_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out = _softmax(x, axis)
    return out, out * subtract_weighted_mean(x_dot, out, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _log_softmax(x, axis):
    m, _, rest = _exp_and_rest(x, axis)
    below = jnp.where(x == m, x - lax.stop_gradient(x), x - m)  # 0 at the top, with its slope
    below = jnp.where((x == m) & ~jnp.isfinite(m), 0, below)
    return jnp.where(m == -jnp.inf, -jnp.inf, below - jnp.log1p(rest))


@_log_softmax.defjvp
def _log_softmax_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out = _log_softmax(x, axis)
    change = subtract_weighted_mean(x_dot, _softmax(x, axis), axis)
    return out, jnp.where(out == -jnp.inf, 0, change)


def subtract_weighted_mean(change: Array, p: Array, axis: Axis) -> Array:
    """The change less its mean under p, taken off twice.

    Once leaves 1 - p at the top, 0 where p rounds to 1. Twice takes off what the others leave,
    which has all its digits. The transpose, and so the gradient, does the same.
    """
    # Behind barriers, which also part the gradient's steps: or XLA computes one of them for its sum
    # and, otherwise rounded, once more, and the second step takes off what the first did not leave.
    once = lax.optimization_barrier(change - jnp.sum(p * change, axis, keepdims=True))
    return lax.optimization_barrier(once - jnp.sum(p * once, axis, keepdims=True))


def variadic_reduce(terms, start, combine, finish):
    """A reduction of several arrays along the last axis that reads what they are made of once.

    XLA on CPU turns every `jnp.sum` into a kernel of its own, before which its input is written
    out; one reduction of several operands is computed with them. Eight numbers, each an eighth of
    the axis apart from the next, are combined to one: so neighbours are combined at once, by vector
    instructions. The results, fewer and plain, are left to `finish`.
    """
    size = terms[0].shape[-1]
    if not is_unsharded():  # the compiler would gather what lies on several devices
        return finish(terms)
    if size <= 32:
        return _combined(terms, start, combine, -1)
    length = (size - 2 * (size % 8 == 1)) // 8  # a rest of one number would be no reduction
    parts = tuple(x[..., : 8 * length].reshape(*x.shape[:-1], 8, length) for x in terms)
    found = finish(_combined(parts, start, combine, -2))
    if size == 8 * length:
        return found
    rest = tuple(x[..., 8 * length :] for x in terms)
    return combine(found, _combined(rest, start, combine, -1))


def _combined(terms, start, combine, axis):
    # A scan that is differentiated forgets custom rules, and JAX differentiates a reduction only
    # if all its terms move: this choice, which is gone once it is compiled, makes them.
    one = functools.reduce(functools.partial(lax.select_n, np.False_), terms)
    terms = tuple(lax.select_n(np.False_, x, one) for x in terms)
    start = tuple(np.asarray(value, x.dtype) for value, x in zip(start, terms, strict=True))
    return tuple(lax.reduce(terms, start, combine, (terms[0].ndim + axis,)))


@jax.custom_jvp
def fused_sums(*terms: Array) -> tuple[Array, ...]:
    r"""The sum of each term along the last axis, all in one pass over memory.

    >>> [float(total) for total in sums(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))]
    [3.0, 7.0]
    """
    return variadic_reduce(
        terms,
        (0,) * len(terms),
        lambda a, b: tuple(map(operator.add, a, b)),
        lambda parts: tuple(jnp.sum(x, axis=-1) for x in parts),
    )


@fused_sums.defjvp
def _sums_jvp(primals, tangents):
    return fused_sums(*primals), tuple(jnp.sum(x, axis=-1) for x in tangents)


def norm(x: Array, axis: Axis = -1, where: Array | None = None, keepdims: bool = False) -> Array:
    r"""The Euclidean norm $\sqrt{\sum_i x_i^2}$, of entries of any size; 0 has gradient 0.

    `jnp.linalg.norm` squares its entries (inf at 1e20, 0 at 1e-30 in float32), and its gradient at
    0 is NaN. Here they are divided by a power of 2 first. A norm of inf has gradient 0.

    >>> f"{norm(jnp.array([3e30, 4e30])):.6g}", jax.grad(norm)(jnp.zeros(2)).tolist()
    ('5e+30', [0.0, 0.0])
    """
    out = _norm(x if where is None else jnp.where(where, x, 0), axis)
    return out if keepdims else jnp.squeeze(out, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def normalize(x: Array, axis: Axis = -1) -> Array:
    r"""$x / \lVert x \rVert$, of entries of any size; the zero vector stays, with gradient 0.

    >>> normalize(jnp.array([[0.0, -1e30], [0.0, 0.0]])).tolist()
    [[0.0, -1.0], [0.0, 0.0]]
    """
    return _unit(x, *_scaled_norm(x, axis))


@normalize.defjvp
def _normalize_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out, length = normalize(x, axis), _norm(x, axis)
    across = x_dot - out * jnp.sum(out * x_dot, axis, keepdims=True)
    return out, jnp.where(length == 0, 0, quotient(across, jnp.where(length == 0, 1, length)))


def power_of_two_near(size: Array) -> Array:
    """A power of 2 by which entries of at most this size can be divided and squared; no slope.

    >>> float(power_near(jnp.float32(3e30))) == 2.0**100
    True
    """
    info = jnp.finfo(size.dtype)
    half = size / 2  # so as not to round up to inf
    power = lax.reduce_precision(half, exponent_bits=info.nexp, mantissa_bits=0)
    return lax.stop_gradient(jnp.clip(power, info.tiny, 2.0 ** (info.maxexp - 2)))


def _scaled_norm(x, axis):
    """The norm of the vector over a power of 2 near its largest entry, and that power."""
    # Of a constant x, XLA would square x and the power apart, and divide infinity by infinity.
    x = lax.optimization_barrier(x)
    power = power_of_two_near(jnp.max(jnp.abs(x), axis, keepdims=True, initial=0))
    return sqrt(jnp.sum(jnp.square(x / power), axis, keepdims=True)), power


def _unit(x, length, power):
    """The direction of a vector."""
    # Anew, or the factors of the rows are shared with the norm, and so written out in full.
    return x / recompute(power, x) / jnp.where(length == 0, jnp.inf, length)  # 0 has slope 0


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _norm(x, axis):
    length, power = _scaled_norm(x, axis)
    return length * power


@_norm.defjvp
def _norm_jvp(axis, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    out = _norm(x, axis)
    unit = normalize(jnp.where(jnp.isinf(out), 0, x), axis)
    return out, jnp.sum(unit * x_dot, axis, keepdims=True)


def cosine_similarity(x: Array, y: Array, axis: Axis = -1) -> Array:
    r"""The cosine of the angle between two vectors of any length; 0, with gradient 0, if one is 0.

    $$\frac{\langle x, y \rangle}{\lVert x \rVert \lVert y \rVert} \in [-1, 1]$$

    What rounding adds to 1 is clipped in the value; the gradient does not notice.

    >>> f"{cosine_similarity(jnp.array([3e30, 4e30]), jnp.array([1e-30, 0.0])):.6f}"
    '0.600000'
    """
    cosine = jnp.sum(normalize(x, axis) * normalize(y, axis), axis)
    return cosine + lax.stop_gradient(jnp.clip(cosine, -1, 1) - cosine)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def cosine_distance(x: Array, y: Array, axis: Axis = -1) -> Array:
    r"""1 less the cosine, with the digits of small angles; 1, with gradient 0, if a vector is 0.

    Half the squared distance of the two directions, or of one and the other's opposite: a cosine
    would have been rounded near 1, and the larger distance loses the gradient's digits.

    >>> f"{cosine_distance(jnp.array([1.0, 0.0]), jnp.array([1e20, 1e16])):.6g}"
    '5e-09'
    """
    return _distance_of_directions(x, y, axis)[0]


@functools.partial(jax.jit, static_argnums=2)
def _distance_of_directions(x, y, axis):
    """The distance and how it came about.

    That is: norm and power of each vector, whether neither is 0, on which side of the right angle
    they are, and half the squared distance there.
    """
    norms = _scaled_norm(x, axis), _scaled_norm(y, axis)
    counts = (norms[0][0] != 0) & (norms[1][0] != 0)
    p, q = _unit(x, *norms[0]), _unit(y, *norms[1])
    # Of equal vectors, a fused multiply-add leaves the rounding of a quotient.
    same = (norms[0][0] == norms[1][0]) & (norms[0][1] == norms[1][1])
    terms = jnp.where(same & (x == y), 0, jnp.square(p - q)), jnp.square(p + q)
    apart, opposed = fused_sums(*(jnp.moveaxis(term, axis, -1) for term in terms))
    apart, opposed = jnp.expand_dims(apart, axis), jnp.expand_dims(opposed, axis)
    side = jnp.where(opposed < apart, -1, 1).astype(x.dtype)
    half = jnp.where(counts, 0.5 * jnp.where(side > 0, apart, opposed), 0)
    out = jnp.where(counts, jnp.where(side > 0, half, 2 - half), 1)
    return jnp.squeeze(out, axis), norms, counts, side, half


@cosine_distance.defjvp
def _cosine_distance_jvp(axis, primals, tangents):
    out, norms, counts, side, half = _distance_of_directions(*primals, axis)
    p, q = (_unit(recompute(x), *norm) for x, norm in zip(primals, norms, strict=True))
    change = jnp.zeros_like(out)
    for one, other, (length, power), x_dot in zip((p, q), (q, p), norms, tangents, strict=True):
        across = side * ((one - side * other) - half * one)  # half of it is what lies along
        slope = quotient(across, jnp.where(counts, length, 1) * power)
        change = change + jnp.sum(jnp.where(counts, slope, 0) * x_dot, axis)
    return out, change


def squared_distance(x: Array, y: Array, axis: Axis = -1) -> Array:
    r"""$\sum_i (x_i - y_i)^2$, from the differences, so that close points keep their digits.

    >>> float(squared_distance(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])))
    25.0
    """
    return jnp.sum(jnp.square(x - y), axis)


def distance(x: Array, y: Array, axis: Axis = -1) -> Array:
    """The Euclidean distance, of points of any size; gradient 0 where they coincide.

    >>> float(distance(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])))
    5.0
    """
    return norm(x - y, axis)


def pairwise_difference(x: Array, y: Array | None = None) -> Array:
    """All differences `x[..., i] - y[..., j]`, at [..., i, j]; y is x unless given.

    >>> pairwise_difference(jnp.array([1.0, 4.0])).tolist()
    [[0.0, -3.0], [3.0, 0.0]]
    """
    return x[..., :, None] - (x if y is None else y)[..., None, :]
