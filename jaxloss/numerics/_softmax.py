"""logsumexp, softmax and log_softmax with all digits, and with gradients for rows of -inf."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._xla import barrier
from jaxloss.numerics._dtypes import half_in_float32
from jaxloss.numerics._elementwise import softplus
from jaxloss.numerics._online_sums import top_and_rest
from jaxloss.numerics._reductions import Axis, in_one_reduction


@half_in_float32
def logsumexp(
    x: Array, axis: Axis = -1, where: Array | None = None, keepdims: bool = False
) -> Array:
    r"""$\log \sum_j e^{x_j}$, accurate also where the result is close to the maximum.

    $$m + \log\Big(1 + \sum_{j \ne \arg\max} e^{x_j - m}\Big), \qquad m = \max_j x_j$$

    `jax.nn.logsumexp` rounds the sum before its logarithm, and its gradient is NaN for a row of
    -inf. Here a row of -inf, or one without a True `where`, gives -inf with gradient 0, and entries
    of +inf share the gradient evenly. `x - m` is rounded: the relative error of a gradient is that
    of the difference, times its size.

    >>> f"{logsumexp(jnp.array([0.0, -80.0])):.5g}"
    '1.8049e-35'
    """
    out = _logsumexp(x if where is None else jnp.where(where, x, -jnp.inf), axis)
    return out if keepdims else jnp.squeeze(out, axis)


def is_moderate(scale: Any, margin: Any) -> bool:
    """Whether `scale * (cosine - margin)` is known, while tracing, to be from -80 to 60.

    Its exponentials neither underflow, nor does a sum of them overflow.
    """
    if not all(isinstance(x, int | float) for x in (scale, margin)):
        return False
    middle = -scale * margin
    return middle + abs(scale) <= 60 and middle - abs(scale) >= -80


def log1p_sum_exp(x: Array, axis: int = -1, *, where: Array, moderate: bool) -> Array:
    r"""$\log(1 + \sum_j e^{x_j})$ of the entries that `where` keeps.

    If all entries are moderate, those left out too, no exponential is relative to the largest
    entry, for which the entries would be read once more.
    """
    if moderate:
        return jnp.log1p(jnp.sum(jnp.where(where, jnp.exp(x), 0), axis))
    return softplus(logsumexp(x, axis, where))


@half_in_float32
def log_softmax(x: Array, axis: Axis = -1, where: Array | None = None) -> Array:
    r"""$x - \mathrm{logsumexp}(x)$, accurate also for a probability close to 1.

    That of `jax.nn` is 0, in value and gradient, if the largest entry leads by 17 or more in
    float32. Where an entry is -inf or its `where` is False, and in rows of nothing else, the result
    is -inf with gradient 0.

    >>> f"{log_softmax(jnp.array([80.0, 0.0]))[0]:.5g}"
    '-1.8049e-35'
    """
    if where is None:
        return _log_softmax(x, axis)
    return jnp.where(where, _log_softmax(jnp.where(where, x, -jnp.inf), axis), -jnp.inf)


@half_in_float32
def softmax(x: Array, axis: Axis = -1, where: Array | None = None) -> Array:
    r"""$e^{x_i} / \sum_j e^{x_j}$; 0 where `where` is False, and in a row of -inf.

    >>> softmax(jnp.array([[0.0, 0.0], [-jnp.inf, -jnp.inf]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    if where is None:
        return _softmax(x, axis)
    return jnp.where(where, _softmax(jnp.where(where, x, -jnp.inf), axis), 0)


def finite_below(x: Array, top: Array) -> Array:
    """x less the largest entry of its row, with the largest number in the place of infinity.

    So that it times a probability of 0 is 0, and the difference of two of them is not NaN.
    """
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.maximum(jnp.minimum(x, largest) - jnp.clip(top, -largest, largest), -largest)


def exp_and_rest(x: Array, axis: Axis) -> tuple[Array, Array, Array]:
    """The maximum m of each row, exp(x - m), and the sum of that less the 1 of one maximum.

    The formulas have the right derivative without a rule too: the derivative of a differentiated
    scan does not use the rules.
    """
    return in_one_reduction(*_exp_forms(axis), x)


@functools.cache
def _exp_forms(axis: Axis) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """One object each, so that eager calls compile once."""
    return functools.partial(_by_passes, axis), functools.partial(_online, axis)


def _online(axis: Axis, x: Array) -> tuple[Array, Array, Array]:
    axes = tuple(range(x.ndim)) if axis is None else axis
    m, rest = (jnp.expand_dims(found, axes) for found in top_and_rest(x, axis))
    return m, exp_below(x, m), rest


def exp_below(x: Array, m: Array) -> Array:
    """exp(x - m), for x up to m."""
    # With both clipped, a row with m = +inf gives 1 for each +inf and 0 elsewhere, and a row of
    # -inf gives 0: no inf - inf.
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.exp(jnp.minimum(x, largest) - jnp.clip(m, -largest, largest))


def without_largest(whole: Array, exps: Array, axis: Axis) -> Array:
    """The sum of exp(x - top) without the 1 of one largest entry, from the sum with it."""
    # If the sum is below 3/2, only the largest term is above 1/2. It is left out as computed: where
    # x is a product, a fused multiply-add may make x - top nonzero at the top. XLA on CPU fuses a
    # rounding with the sum, and writes an array for a comparison, or for a constant to add.
    others = jnp.sum(exps - jnp.round(exps) * lax.stop_gradient(exps), axis, keepdims=True)
    return jnp.where(whole < 1.5, others, whole - 1)


def _by_passes(axis: Axis, x: Array) -> tuple[Array, Array, Array]:
    # XLA on CPU fuses these sums with the computation of their terms only if that is arithmetic and
    # is not shared between them; a comparison, or one exp for both, would be written to memory.
    m = lax.stop_gradient(jnp.max(x, axis, keepdims=True, initial=-jnp.inf))
    exps = exp_below(x, m)
    whole = jnp.sum(exps, axis, keepdims=True)
    terms = jnp.exp(x - jnp.where(jnp.isfinite(m), m, 0))
    rest = jnp.where(jnp.isfinite(m), without_largest(whole, terms, axis), whole - 1)
    return m, exps, jnp.where(m == -jnp.inf, 0, rest)


# These rules reduce over an axis, which `defjvps` does not cover. The functions are jitted because
# `jax_debug_nans` would report intermediate infinities of rows that hold an infinity.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _logsumexp(x: Array, axis: Axis) -> Array:
    m, _, rest = exp_and_rest(x, axis)
    return m + jnp.log1p(rest)


@_logsumexp.defjvp
def _logsumexp_jvp(axis: Axis, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    return _logsumexp(x, axis), jnp.sum(_softmax(x, axis) * x_dot, axis, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _softmax(x: Array, axis: Axis) -> Array:
    _, exps, rest = exp_and_rest(x, axis)
    return exps / (1 + rest)


@_softmax.defjvp
def _softmax_jvp(axis: Axis, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    out = _softmax(x, axis)
    return out, out * subtract_weighted_mean(x_dot, out, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
@functools.partial(jax.jit, static_argnums=1)
def _log_softmax(x: Array, axis: Axis) -> Array:
    m, _, rest = exp_and_rest(x, axis)
    below = jnp.where(x == m, x - lax.stop_gradient(x), x - m)  # 0 at the maximum, with its slope
    below = jnp.where((x == m) & ~jnp.isfinite(m), 0, below)
    return jnp.where(m == -jnp.inf, -jnp.inf, below - jnp.log1p(rest))


@_log_softmax.defjvp
def _log_softmax_jvp(axis: Axis, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    out = _log_softmax(x, axis)
    change = subtract_weighted_mean(x_dot, _softmax(x, axis), axis)
    return out, jnp.where(out == -jnp.inf, 0, change)


def subtract_weighted_mean(change: Array, p: Array, axis: Axis) -> Array:
    """`change` less its mean under the probabilities p, subtracted twice.

    The first subtraction leaves 1 - p at a class of probability p, which is 0 where p rounds to 1.
    The second subtracts the mean of what is left at the other classes, which has all its digits.
    The transpose, and so the gradient, has the same two steps.
    """
    # The barriers also separate the steps of the gradient. Without them XLA computes the first step
    # twice, once inside the sum of the second with another rounding, and the steps do not match.
    once = barrier(change - jnp.sum(p * change, axis, keepdims=True))
    return barrier(once - jnp.sum(p * once, axis, keepdims=True))
