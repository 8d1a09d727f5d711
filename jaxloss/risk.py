r"""Reductions that judge risk: from one number an example to one number, by more than the mean.

Every loss gives one number an example, `reduction="none"`; these functions take the place of the
mean. They emphasise the worst examples (`cvar`, `top_k`, `tilted` with t > 0, `group_dro`), for
safety or fairness or hard examples, or the best ones (`trimmed`, `tilted` with t < 0), where some
labels are wrong. Any loss will do:

    values = jl.classification.softmax_cross_entropy(logits, labels, where=known)
    loss = jl.risk.cvar(values, level=0.9, where=known)

`where` and `weights` are those of `jaxloss.mean`: what is False is not there, and a weight of 2 is
that example twice. At their limits (`level=0`, `t=0`, `k` of at least the number of values, nothing
trimmed, one group) they equal the mean. A gradient in the values is a weight for each example, at
least 0 and 1 in all; examples of equal value share it. Over nothing the result is 0, with gradient
0; a NaN that counts stays visible.

They are not linear in the examples, so that micro-batches do not merge exactly, as a `Mean` does:
the result of a batch estimates that of the data with a bias that decreases with the batch size.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Real

from jaxloss import numerics
from jaxloss._core.arguments import as_array
from jaxloss._core.namespace import public_names
from jaxloss._core.reduction import divide, to_values
from jaxloss._core.typing import ArrayLike
from jaxloss.numerics._reductions import fused_sums
from jaxloss.numerics._special import expm1_minus_x_over_x2

__all__ = ["cvar", "group_dro", "tilted", "top_k", "trimmed"]

Values = Float[Array, " n"]


def _weighted(name: str, values: Any, where: Any, weights: Any) -> tuple[Values, Values, Array]:
    """The values as a vector, the weight of each, and where they count."""
    x, kept, given = to_values(f"jaxloss.risk.{name}", values, where, weights)
    kept = jnp.ones(x.shape, bool) if kept is None else kept
    weight = jnp.where(kept, jnp.ones_like(x) if given is None else given, 0)
    x = jnp.where(kept, x, 0)
    return x.ravel(), weight.ravel(), kept.ravel()


def _tail(x: Values, weight: Values, kept: Array, mass: Array) -> Values:
    """The part of each weight that is among the largest values, `mass` in all.

    The value at which the mass is reached is in part there; equal values share that part.
    """
    key = lax.stop_gradient(jnp.where(kept, -x, jnp.inf))
    ordered, sorted_weight = lax.sort((key, lax.stop_gradient(weight)), num_keys=1)
    before = jnp.cumsum(sorted_weight) - sorted_weight
    last = -jnp.max(jnp.where(before < lax.stop_gradient(mass), ordered, -jnp.inf))
    above, at = jnp.where(-key > last, weight, 0), jnp.where(-key == last, weight, 0)
    rest = jnp.clip(mass - jnp.sum(above), 0, jnp.sum(at))
    share = numerics.quotient(rest, jnp.where(jnp.sum(at) > 0, jnp.sum(at), 1))
    return above + at * share


def _normalized(weight: Values) -> Values:
    return divide(weight, jnp.sum(weight))


def cvar(
    values: Real[ArrayLike, "..."],
    *,
    level: float | Real[ArrayLike, ""] = 0.9,
    where: Any = None,
    weights: Any = None,
) -> Float[Array, ""]:
    r"""Conditional value at risk (expected shortfall): the mean of the worst part of the values.

    When to use: when the worst cases matter, as in safety, and for distributionally robust
    training: it is the largest mean over all distributions that give no example more than
    $1 / (1 - \alpha)$ times its weight.

    $$\min_\eta \; \eta + \frac{1}{1 - \alpha} \, \frac{\sum_i w_i \max(0, \ell_i - \eta)}
      {\sum_i w_i}$$

    The minimum is computed by one sort, without a variable $\eta$ to learn. The example at the
    quantile counts in part, so that the result is continuous in the level.

    Args:
        values: One number an example, of any shape.
        level: The part of the values that is left out, from 0, the mean, to 1, the maximum.
        where: Booleans of the values' shape; what is False is left out.
        weights: Weights of the values' shape, at least 0.

    Returns:
        A scalar.

    Example:
        >>> cvar([1.0, 2.0, 3.0, 6.0], level=0.5), cvar([1.0, 2.0, 3.0, 6.0], level=1.0)
        (Array(4.5, dtype=float32), Array(6., dtype=float32))

    References:
        Rockafellar and Uryasev, *Optimization of Conditional Value-at-Risk*, 2000.
        Levy et al., *Large-Scale Methods for Distributionally Robust Optimization*, 2020.
    """
    x, weight, kept = _weighted("cvar", values, where, weights)
    tail = jnp.asarray(1 - level, x.dtype)  # a Python number is subtracted before it is rounded
    tail = jnp.maximum(tail, jnp.finfo(x.dtype).tiny)
    return jnp.sum(numerics.quotient(_tail(x, _normalized(weight), kept, tail), tail) * x)


def tilted(
    values: Real[ArrayLike, "..."],
    *,
    t: float | Real[ArrayLike, ""] = 1.0,
    where: Any = None,
    weights: Any = None,
) -> Float[Array, ""]:
    r"""Tilted mean (entropic risk, log-mean-exp): a soft maximum or minimum of the values.

    When to use: t > 0 to emphasise large losses smoothly (fairness, rare classes), t < 0 to
    suppress them (wrong labels).

    $$\frac1t \log \frac{\sum_i w_i e^{t \ell_i}}{\sum_i w_i}$$

    It increases with t from the minimum over the mean, at t = 0, to the maximum. Where $t$ times
    the spread is small, it is computed from the mean and the spread, so that value and derivatives
    are exact through 0; elsewhere nothing overflows. The gradient is a softmax of $t \ell$.

    Args:
        values: One number an example, of any shape.
        t: The tilt, in the inverse unit of the values; any real number, also learned.
        where: Booleans of the values' shape; what is False is left out.
        weights: Weights of the values' shape, at least 0.

    Returns:
        A scalar.

    Example:
        >>> tilted([1.0, 3.0], t=0.0), tilted([1.0, 3.0], t=1e-6), tilted([1.0, 3.0], t=1e6)
        (Array(2., dtype=float32), Array(2.0000005, dtype=float32), Array(2.9999993, dtype=float32))

    References:
        Li et al., *Tilted Empirical Risk Minimization*, 2021.
    """
    x, weight, kept = _weighted("tilted", values, where, weights)
    p, t = _normalized(weight), jnp.asarray(t, x.dtype)
    mean = jnp.sum(p * x)
    apart = jnp.where(kept, x - mean, 0)
    near = lax.stop_gradient(jnp.max(jnp.abs(t * apart), initial=0)) < 1
    # exp(z) = 1 + z + z^2 g(z), and the mean of z is 0.
    of_near, t_near = jnp.where(near, apart, 0), jnp.where(near, t, 0)
    square = jnp.sum(p * jnp.square(of_near) * expm1_minus_x_over_x2(t_near * of_near))
    close = t_near * square * numerics.log1p_over_x(jnp.square(t_near) * square)
    t_far = jnp.where(near, 1, t)
    exponents = jnp.where(near, 0, t_far * apart) + jnp.log(jnp.where(p > 0, p, 1))
    far = numerics.logsumexp(exponents, where=p > 0) / t_far
    return mean + jnp.where(near, close, far)


def top_k(
    values: Real[ArrayLike, "..."],
    *,
    k: int | Real[ArrayLike, ""],
    where: Any = None,
    weights: Any = None,
) -> Float[Array, ""]:
    r"""Mean of the k largest values: online hard example mining.

    When to use: many easy examples (pixels, anchors) whose small losses would hide the few hard
    ones.

    $$\frac{\sum_{i \in T} w_i \ell_i}{\sum_{i \in T} w_i}, \qquad
      T = \text{the } k \text{ largest } \ell_i$$

    As `cvar`, with a number of examples in place of a part of their weight: the weights do not
    decide which examples are among the k.

    Args:
        values: One number an example, of any shape.
        k: How many values are averaged; all if there are fewer. It may be traced, and need not be
            an integer: the last value counts in part.
        where: Booleans of the values' shape; what is False is left out.
        weights: Weights of the values' shape, at least 0.

    Returns:
        A scalar.

    Example:
        >>> top_k([1.0, 2.0, 3.0, 6.0], k=2)
        Array(4.5, dtype=float32)

    References:
        Shrivastava, Gupta and Girshick, *Training Region-based Object Detectors with Online Hard
        Example Mining*, 2016.
        Fan et al., *Learning with Average Top-k Loss*, 2017.
    """
    x, weight, kept = _weighted("top_k", values, where, weights)
    chosen = weight * _tail(x, kept.astype(x.dtype), kept, jnp.asarray(k, x.dtype))
    return divide(jnp.sum(chosen * x), jnp.sum(chosen))


def trimmed(
    values: Real[ArrayLike, "..."],
    *,
    upper: float | Real[ArrayLike, ""] = 0.1,
    lower: float | Real[ArrayLike, ""] = 0.0,
    where: Any = None,
    weights: Any = None,
) -> Float[Array, ""]:
    r"""Trimmed mean: the mean without the largest values, and without the smallest.

    When to use: a known part of the labels is wrong: least trimmed squares, and "small-loss"
    selection.

    $$\frac{\sum_i v_i \ell_i}{\sum_i v_i}, \qquad v_i = \text{the part of } w_i
      \text{ between the quantiles } \mathrm{lower} \text{ and } 1 - \mathrm{upper}$$

    The examples at the two quantiles count in part. With `upper=0` and `lower=a` it is
    `cvar(level=a)`.

    Args:
        values: One number an example, of any shape.
        upper: The part of the weight that is left out at the large end.
        lower: The part that is left out at the small end; less than 1 together.
        where: Booleans of the values' shape; what is False is left out.
        weights: Weights of the values' shape, at least 0.

    Returns:
        A scalar.

    Example:
        >>> trimmed([1.0, 2.0, 3.0, 600.0], upper=0.25)
        Array(2., dtype=float32)

    References:
        Rousseeuw, *Least Median of Squares Regression*, 1984.
        Shen and Sanghavi, *Learning with Bad Training Data via Iterative Trimmed Loss
        Minimization*, 2019.
    """
    x, weight, kept = _weighted("trimmed", values, where, weights)
    p = _normalized(weight)
    left_out = [
        _tail(sign * x, p, kept, jnp.asarray(part, x.dtype))
        for sign, part in ((1, upper), (-1, lower))
    ]
    between = p - sum(left_out)
    return divide(jnp.sum(between * x), jnp.sum(between))


def group_dro(
    values: Real[ArrayLike, "..."],
    groups: Int[ArrayLike, "..."],
    log_weights: Float[ArrayLike, " groups"],
    *,
    step_size: float | Real[ArrayLike, ""] = 0.01,
    where: Any = None,
    weights: Any = None,
) -> tuple[Float[Array, ""], Float[Array, " groups"]]:
    r"""Group distributionally robust risk: the groups' means, weighted towards the worst group.

    When to use: known groups, some of them small, where the error of the worst group matters: an
    imbalance that the mean hides.

    $$q_g \propto q_g \, e^{\eta L_g}, \qquad \sum_g q_g L_g, \qquad
      L_g = \frac{\sum_{i : g_i = g} w_i \ell_i}{\sum_{i : g_i = g} w_i}$$

    The weights of the groups are state: they go in and come out, as logarithms, and are constants
    of the gradient. Start with `jnp.zeros(number_of_groups)`. A group without an example in the
    batch has $L_g = 0$, as in the code of the authors: its weight decreases relative to the others,
    and its share of the loss is 0.

    Args:
        values: One number an example, of any shape.
        groups: The id of the group of each example, from 0.
        log_weights: The logarithm of the weight of each group; need not be normalized.
        step_size: The rate $\eta$ at which weights move to the groups with large losses.
        where: Booleans of the values' shape; what is False is left out.
        weights: Weights of the values' shape, at least 0.

    Returns:
        A scalar, NaN if a group id that counts names no group; and the new `log_weights`.

    Example:
        >>> value, log_weights = group_dro([1.0, 3.0, 8.0], [0, 0, 1], jnp.zeros(2), step_size=0.0)
        >>> value, log_weights
        (Array(5., dtype=float32), Array([-0.6931472, -0.6931472], dtype=float32))

    References:
        Sagawa et al., *Distributionally Robust Neural Networks for Group Shifts*, 2020.
    """
    x, weight, kept = _weighted("group_dro", values, where, weights)
    ids = jnp.asarray(as_array("jaxloss.risk.group_dro", "groups", groups))
    if ids.size != x.size or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"jaxloss.risk.group_dro: `groups` is {ids.dtype} of shape {ids.shape}, expected "
            f"{x.size} integers: the group of each value."
        )
    state = jnp.asarray(as_array("jaxloss.risk.group_dro", "log_weights", log_weights))
    state = lax.stop_gradient(state.astype(x.dtype))
    count = state.shape[0]
    is_group = ids.ravel()[None, :] == jnp.arange(count, dtype=ids.dtype)[:, None]
    totals, sizes = fused_sums(*(jnp.where(is_group, part, 0) for part in (weight * x, weight)))
    means = lax.stop_gradient(divide(totals, sizes))
    moved = numerics.log_softmax(state + jnp.asarray(step_size, x.dtype) * means)
    lost = jnp.any(kept & ~jnp.any(is_group, axis=0))
    # The gradient of this sum takes the factors of the groups; that of the means adds up an array
    # of all groups and all values.
    shares = jnp.exp(moved) / jnp.where(sizes == 0, 1, sizes)
    factors = jnp.take(shares, ids.ravel(), mode="clip")
    return jnp.where(lost, jnp.nan, jnp.sum(weight * x * factors)), moved


__getattr__, __dir__ = public_names(__name__, __all__)
