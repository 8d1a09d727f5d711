r"""Divergences: how far a predicted distribution is from a target distribution.

The classes lie along the last axis, or along `axis`, and are summed over: one number an example,
in nats. $p$ is the prediction and $q$ the target. What may be infinite takes the logarithm of the
prediction, from `jax.nn.log_softmax`, say; what is bounded takes probabilities. Nothing is
clipped: $0 \log 0$ is 0, also against a logarithm of -inf, and a class that the target has and
the prediction rules out costs inf. `mask` takes classes out of an example.

The direction decides what is learnt where the model cannot match the target: $KL(q \| p)$ (`kl`)
covers all of the target, $KL(p \| q)$ (`reverse_kl`) settles on a part of it; the others stand
between.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._exponentials import (
    exp_excess,
    exp_excess_ratio,
    expm1_ratio,
    log1p_excess,
    log1p_ratio,
)
from jaxloss._rounding import two_quotient, two_sum
from jaxloss._schedule import anew, each
from jaxloss._softmax import entry_at
from jaxloss.contract import loss
from jaxloss.declaration import ArrayLike, AxisReduction, Reduction
from jaxloss.domains import (
    distribution,
    extended,
    log_probability,
    nonnegative_number,
    positive,
    unit_interval,
)
from jaxloss.traits import (
    bounded_gradient,
    convex,
    nonnegative,
    shift_invariant,
    smooth,
    symmetric,
    zero_at_match,
)


def _keep(mask: Array | None, fill: float, *arrays: Array) -> tuple[Array, ...]:
    """The arrays with a harmless value in the classes that are masked out."""
    return arrays if mask is None else tuple(jnp.where(mask, x, fill) for x in arrays)


def _log(probability: Array) -> Array:
    """The logarithm: -inf at 0, with gradient 0 there."""
    zero = probability == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, probability)))


def _less(weight: Array, a: Array, b: Array) -> Array:
    """The difference of a and b; where the weight is 0 it is 0, whatever infinity they hold."""
    return jnp.where(weight == 0, 0, a) - jnp.where(weight == 0, 0, b)


@jax.custom_jvp
def _surprise(log_p: Array, q: Array) -> Array:
    """`q (log q - log p)`, which is 0 where q is."""
    return jnp.where(q == 0, 0, q * _less(q, _log(q), log_p))


@_surprise.defjvp
def _surprise_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (log_p, q), (to_log_p, to_q) = primals, tangents
    slope = jnp.where(q == 0, 0, _less(q, _log(q), log_p) + 1)
    return _surprise(log_p, q), slope * to_q - q * to_log_p


@jax.custom_jvp
def _surprise_of_log(log_p: Array, log_q: Array) -> Array:
    """`_surprise` of exp(log_q)."""
    q = jnp.exp(log_q)
    return jnp.where(q == 0, 0, q * _less(q, log_q, log_p))


@_surprise_of_log.defjvp
def _surprise_of_log_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (log_p, log_q), (to_log_p, to_log_q) = primals, tangents
    q = jnp.exp(anew(log_q))  # not held for the slope: an exponential is quicker than memory
    slope = jnp.where(q == 0, 0, q * (_less(q, log_q, log_p) + 1))
    return _surprise_of_log(log_p, log_q), slope * to_log_q - q * to_log_p


@loss(
    convex,
    smooth,
    bounded_gradient,
    log_prediction=log_probability,
    target=distribution,
)
def kl(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to fit log-probabilities to a target distribution; of logits, `kl_logits`.

    $$KL(q \| p) = \sum_k q_k \left( \log q_k - \log p_k \right)$$

    The cross-entropy less the entropy of the target: the same gradient in the prediction, and 0
    at the optimum. It is at least 0 as far as both sum to 1, which the rounding of p and q limits
    to about 1e-7; closer than that only logits tell them apart. (torch's `kl_div` averages over
    the classes as well unless told "batchmean".)

    Args:
        log_prediction: Log-probabilities of the classes; -inf rules a class out.
        target: Target probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats; inf where the target has what p rules out.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> kl(jnp.log(jnp.array([0.25, 0.75, 0.0])), [1.0, 0.0, 0.0])
        Array(1.3862944, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
    """
    log_prediction, target = _keep(mask, 0, log_prediction, target)
    return jnp.sum(_surprise(log_prediction, target), axis=-1)


@loss(
    convex,
    smooth,
    bounded_gradient,
    zero_at_match,
    log_prediction=log_probability,
    log_target=log_probability,
)
def kl_log(
    log_prediction: Real[ArrayLike, "*batch classes"],
    log_target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it like `kl` when the target comes as log-probabilities too, from a teacher, say.

    $$KL(q \| p) = \sum_k e^{\log q_k} \left( \log q_k - \log p_k \right)$$

    Log-probabilities keep what probabilities below 1e-38 and near 1 have lost.

    Args:
        log_prediction: Log-probabilities of the classes; -inf rules a class out.
        log_target: Target log-probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats; inf where the target has what p rules out.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> kl_log([-jnp.log(4.0), -jnp.inf], [0.0, -jnp.inf])
        Array(1.3862944, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
    """
    log_prediction, log_target = _keep(mask, -jnp.inf, log_prediction, log_target)
    return jnp.sum(_surprise_of_log(log_prediction, log_target), axis=-1)


def _cooled(logits: Array, temperature: Array) -> tuple[Array, Array]:
    """Logits less the largest, over the temperature, and what rounding took of that."""
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    below, lost = two_sum(logits, -jnp.where(jnp.isfinite(top), top, 0))
    exponents, rest = two_quotient(below, temperature)
    return exponents, rest + lost / temperature


def _softmax(logits: Array, temperature: Array) -> Array:
    """softmax(logits / temperature), of exponents that have not been rounded."""
    exponents, lost = _cooled(logits, temperature)
    out = numerics.softmax(exponents)
    return out * (1 + jax.lax.stop_gradient(jnp.where(out > 0, lost, 0)))


def _log_ratio(
    logits: Array, target_logits: Array, temperature: Array
) -> tuple[Array, Array, Array]:
    """q, log(q / p) (0 where q is 0) and KL(q || p), with all digits where p is close to q."""
    q = _softmax(target_logits, temperature)
    dead = target_logits == -jnp.inf
    away = jnp.where(dead, 0, numerics.log_softmax(_cooled(target_logits, temperature)[0]))
    away = away - jnp.where(dead, 0, numerics.log_softmax(_cooled(logits, temperature)[0]))
    # Close to each other, log q - log p cancels; the logits' own differences do not. With d their
    # distance from their mean under q, KL = log(sum q exp(-d)) and log(q / p) = d + KL.
    raw, lost = two_sum(jnp.where(dead, 0, target_logits), -jnp.where(dead, 0, logits))
    first = jnp.argmin(dead, axis=-1)
    shift = (raw - entry_at(raw, first)[..., None]) / temperature
    alike = jnp.where(dead, logits == -jnp.inf, jnp.abs(shift) < 0.5)
    close = jnp.all(alike, axis=-1, keepdims=True)
    live = close & ~dead
    lost = (lost - entry_at(lost, first)[..., None]) / temperature
    distance = numerics.less_mean(jnp.where(live, shift + lost, 0), q, -1)
    distance = jnp.where(live, distance, 0)
    near = jnp.log1p(jnp.sum(q * exp_excess(-distance), axis=-1, keepdims=True))
    # Far from each other each class is counted with p - q more, which sums to 0: no term is
    # negative then, so none cancels another.
    ratio = jnp.where(close, distance + near, away)
    gentle = (jnp.abs(away) < 1) & ~dead
    terms = jnp.where(
        gentle,
        q * exp_excess(-jnp.where(gentle, away, 0)),
        jnp.where(q == 0, 0, q * away) + (_softmax(logits, temperature) - q),
    )
    far = jnp.sum(terms, axis=-1, keepdims=True)
    return q, ratio, jnp.where(close, near, far)


@jax.custom_jvp
def _kl_of_logits(logits: Array, target_logits: Array, temperature: Array) -> Array:
    return _log_ratio(logits, target_logits, temperature)[2][..., 0]


@_kl_of_logits.defjvp
def _kl_of_logits_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (logits, target_logits, temperature), (to_logits, to_target, to_temperature) = primals, tangents
    q, ratio, value = _log_ratio(logits, target_logits, temperature)
    near = jnp.abs(ratio) < 1
    closer = q * jnp.expm1(jnp.where(near, -ratio, 0))
    missed = jnp.where(near & (q > 0), closer, _softmax(logits, temperature) - q)
    wrong = jnp.where(q == 0, 0, q * (ratio - value))
    # A higher temperature moves each logit towards 0; one of -inf stays where it is.
    cooler = to_temperature / temperature
    to_logits, to_target = (
        change - jnp.where(jnp.isinf(x), 0, x) * cooler
        for change, x in ((to_logits, logits), (to_target, target_logits))
    )
    tangent = jnp.sum(missed * to_logits + wrong * to_target, axis=-1)
    return value[..., 0], tangent / temperature


@loss(
    nonnegative,
    convex,
    smooth,
    bounded_gradient,
    shift_invariant,
    zero_at_match,
    logits=extended,
    target_logits=extended,
    temperature=positive,
)
def kl_logits(
    logits: Real[ArrayLike, "*batch classes"],
    target_logits: Real[ArrayLike, "*batch classes"],
    *,
    temperature: Real[ArrayLike, ""] = 1.0,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to make one set of logits agree with another, down to the last digit.

    $$KL(q \| p), \qquad p = \mathrm{softmax}(x / T), \quad q = \mathrm{softmax}(z / T)$$

    It takes no probabilities on the way, so that nearly equal logits give 1e-12 and not rounding
    noise. A higher temperature looks at the small probabilities too. The factor $T^2$ with which
    distillation makes up for the smaller gradient is not in it. (rlax takes the target first.)

    Args:
        logits: Scores of the classes; -inf rules a class out.
        target_logits: Scores whose softmax is the target.
        temperature: What both are divided by.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats; inf where the target has what p rules out.

    Raises:
        ValueError: If the shapes differ, or the temperature is a number that is not above 0.

    Example:
        >>> kl_logits([0.0, 0.0], [2e-6, 0.0])
        Array(5.e-13, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
        Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015.
    """
    logits, target_logits = _keep(mask, -jnp.inf, logits, target_logits)
    return _kl_of_logits(logits, target_logits, jnp.asarray(temperature, logits.dtype))


@loss(
    smooth,
    bounded_gradient,
    log_prediction=log_probability,
    target=distribution,
)
def reverse_kl(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when the model cannot cover the target and should settle on one part of it.

    $$KL(p \| q) = \sum_k p_k \left( \log p_k - \log q_k \right)$$

    It is infinite as soon as the prediction gives anything to a class that the target rules out,
    and costs nothing where the prediction is 0: it seeks a mode, where `kl` covers them all.

    Args:
        log_prediction: Log-probabilities of the classes.
        target: Target probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> reverse_kl([0.0, -jnp.inf], [0.25, 0.75])
        Array(1.3862944, dtype=float32)

    References:
        Kullback and Leibler, *On Information and Sufficiency*, 1951.
        Minka, *Divergence Measures and Message Passing*, 2005.
    """
    (log_prediction,) = _keep(mask, -jnp.inf, log_prediction)
    return jnp.sum(_surprise_of_log(_log(target), log_prediction), axis=-1)


def _log_quotient(a: Array, b: Array) -> Array:
    """log(a / b); 0 where a is 0."""
    whole = (a > 0) & (b > 0)
    ratio = numerics.quotient(jnp.where(whole, a, 1), jnp.where(whole, b, 1))
    ordinary = (ratio > 1e-30) & (ratio < 1e30)
    logs = jnp.where(whole, jnp.log(jnp.where(whole, a, 1)) - jnp.log(jnp.where(whole, b, 1)), 0)
    logs = jnp.where(ordinary, jnp.log(jnp.where(ordinary, ratio, 1)), logs)
    return jnp.where((a > 0) & (b == 0), jnp.inf, logs)


def _share(change: Array, a: Array) -> tuple[Array, Array]:
    """Whether b = a + change is close to a, and change / a where it is."""
    close = jnp.abs(change) < 0.5 * a
    return close, numerics.quotient(jnp.where(close, change, 0), jnp.where(close, a, 1))


@jax.custom_jvp
def _gap(a: Array, b: Array, change: Array) -> Array:
    """`a log(a / b) - a + b`, at least 0; `change` is b - a, known better than from b and a."""
    close, share = _share(change, a)
    far = change + a * _log_quotient(a, b)
    return jnp.where(close, a * log1p_excess(share), far)


@_gap.defjvp
def _gap_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (a, b, change), (to_a, to_b, _) = primals, tangents
    close, share = _share(change, a)
    logs = jnp.where(close, -jnp.log1p(share), jnp.where(b == 0, 0, _log_quotient(a, b)))
    slope = jnp.where(b == 0, 0, numerics.quotient(change, jnp.where(b == 0, 1, b)))
    return _gap(a, b, change), logs * to_a + slope * to_b


@jax.custom_jvp
def _log_gap(log_b: Array, a: Array) -> Array:
    """`_gap` of a and exp(log_b): a logarithm does not underflow."""
    logs = _less(a, _log(a), log_b)
    near = (jnp.abs(logs) < 1) & (a > 0)
    far = (jnp.exp(log_b) - a) + a * logs
    small = jnp.where(near, -logs, 0)
    return jnp.where(near, a * (small * small * exp_excess_ratio(small)), far)


@_log_gap.defjvp
def _log_gap_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (log_b, a), (to_log_b, to_a) = primals, tangents
    both_near_1 = (jnp.abs(log_b) < 0.5) & (jnp.abs(a - 1) < 0.5)
    small = jnp.where(both_near_1, log_b, 0)
    expm1 = small + small * small * exp_excess_ratio(small)  # quicker than that of all sizes
    change = jnp.where(both_near_1, expm1 - (a - 1), jnp.exp(anew(log_b)) - a)
    logs = jnp.where(log_b == -jnp.inf, 0, _less(a, _log(a), log_b))
    return _log_gap(log_b, a), change * to_log_b + logs * to_a


@loss(
    convex,
    nonnegative,
    smooth,
    log_prediction=extended,
    target=nonnegative_number,
)
def generalized_kl(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it for amounts that need not sum to 1: spectra, counts, histograms.

    $$D(q, p) = \sum_k \left( q_k \log \frac{q_k}{p_k} - q_k + p_k \right)$$

    Where both sum to 1 it is `kl`; elsewhere it minds the difference of the sums too, so that it is
    0 at a match and nowhere else. No term is negative. Half the deviance of Poisson regression.

    Args:
        log_prediction: Logarithms of the predicted amounts.
        target: Target amounts, at least 0.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example; inf where the target has what p rules out.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> generalized_kl([0.0, 0.0], [1.0, 0.0])
        Array(1., dtype=float32)

    References:
        Csiszár, *Why Least Squares and Maximum Entropy?*, 1991.
    """
    (target,) = _keep(mask, 0, target)
    (log_prediction,) = _keep(mask, -jnp.inf, log_prediction)
    return jnp.sum(each(_log_gap, log_prediction, target), axis=-1)


@loss(nonnegative, convex, zero_at_match, prediction=unit_interval, target=unit_interval)
def bernoulli_kl(
    prediction: Real[ArrayLike, "*batch"],
    target: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it for one probability fitted to another: activations kept sparse, a calibrated rate.

    $$KL(q \| p) = q \log \frac qp + (1 - q) \log \frac{1 - q}{1 - p}$$

    Elementwise, one decision an entry. With logits, `classification.sigmoid_cross_entropy` has the
    same gradient in the prediction.

    Args:
        prediction: Predicted probabilities of yes.
        target: Target probabilities of yes.

    Returns:
        The divergence of each decision in nats; inf if p is sure and wrong.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> bernoulli_kl([0.5, 0.5, 1.0], [0.0, 0.5, 0.5])
        Array([0.6931472, 0.       ,       inf], dtype=float32)

    References:
        Ng, *Sparse Autoencoder*, 2011.
    """
    change = prediction - target
    return _gap(target, prediction, change) + _gap(1 - target, 1 - prediction, -change)


@loss(
    nonnegative,
    convex,
    zero_at_match,
    prediction=distribution,
    target=distribution,
    weight=unit_interval,
)
def jensen_shannon(
    prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    weight: Real[ArrayLike, ""] = 0.5,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it when either distribution may rule out what the other has: it is never infinite.

    $$JS(p, q) = (1 - w) \, KL(p \| m) + w \, KL(q \| m), \qquad m = (1 - w) p + w q$$

    At most $\log 2$, and symmetric at `weight=0.5`; its root is a metric. Wrong predictions
    that are sure pull less than with `kl`, which helps where the targets are wrong.

    Args:
        prediction: Predicted probabilities of the classes.
        target: Target probabilities of the classes.
        weight: The share of the target in the mixture.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats.

    Raises:
        ValueError: If the shapes differ, or the weight is a number outside 0 to 1.

    Example:
        >>> jensen_shannon([1.0, 0.0], [0.0, 1.0])
        Array(0.6931472, dtype=float32)

    References:
        Lin, *Divergence Measures Based on the Shannon Entropy*, 1991.
        Englesson and Azizpour, *Generalized Jensen-Shannon Divergence Loss*, 2021.
    """
    prediction, target = _keep(mask, 0, prediction, target)
    change = target - prediction
    mixture = (1 - weight) * prediction + weight * target
    from_prediction = _gap(prediction, mixture, weight * change)
    from_target = _gap(target, mixture, -(1 - weight) * change)
    return jnp.sum((1 - weight) * from_prediction + weight * from_target, axis=-1)


@loss(
    convex,
    nonnegative,
    bounded_gradient,
    symmetric,
    zero_at_match,
    prediction=distribution,
    target=distribution,
)
def total_variation(
    prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to report how much probability is in the wrong place: at most 1.

    $$TV(p, q) = \frac12 \sum_k |p_k - q_k|$$

    The largest difference of the two in the probability of any event. (Some leave out the 1/2.)

    Args:
        prediction: Predicted probabilities of the classes.
        target: Target probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The distance of each example, from 0 to 1.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> total_variation([0.5, 0.5, 0.0], [0.25, 0.5, 0.25])
        Array(0.25, dtype=float32)

    References:
        Levin, Peres and Wilmer, *Markov Chains and Mixing Times*, 2009.
    """
    prediction, target = _keep(mask, 0, prediction, target)
    return 0.5 * jnp.sum(numerics.absolute(prediction - target), axis=-1)


@jax.custom_jvp
def _root_difference(a: Array, b: Array) -> Array:
    """The difference of the roots; of close ones, their own difference would cancel."""
    total = jnp.sqrt(a) + jnp.sqrt(b)
    return (a - b) / jnp.where(total == 0, 1, total)


@_root_difference.defjvp
def _root_difference_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (a, b), (to_a, to_b) = primals, tangents
    slope_a, slope_b = (
        jnp.where(x == 0, 0, 0.5 / jnp.sqrt(jnp.where(x == 0, 1, x))) for x in (a, b)
    )
    return _root_difference(a, b), slope_a * to_a - slope_b * to_b


@loss(nonnegative, symmetric, zero_at_match, prediction=distribution, target=distribution)
def hellinger(
    prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it for a bounded metric between distributions that also minds the rare classes.

    $$H(p, q) = \sqrt{\frac12 \sum_k \left( \sqrt{p_k} - \sqrt{q_k} \right)^2}$$

    The distance; its square is what others call by the same name, and smooth at a match. A class
    of probability exactly 0 has an infinite slope, for which 0 is given.

    Args:
        prediction: Predicted probabilities of the classes.
        target: Target probabilities of the classes.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The distance of each example, from 0 to 1.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> hellinger([1.0, 0.0], [0.25, 0.75])
        Array(0.7071068, dtype=float32)

    References:
        Hellinger, *Neue Begründung der Theorie quadratischer Formen von unendlichvielen
        Veränderlichen*, 1909.
    """
    prediction, target = _keep(mask, 0, prediction, target)
    return numerics.norm(_root_difference(prediction, target)) * 0.5**0.5


def _normalized(amounts: Array) -> tuple[Array, Array]:
    """The shares of amounts, and their logarithms, also that of a share close to 1."""
    top = jnp.argmax(amounts, axis=-1, keepdims=True) == jnp.arange(amounts.shape[-1])
    rest = jnp.sum(jnp.where(top, 0, amounts), axis=-1, keepdims=True)
    total = jnp.max(amounts, axis=-1, keepdims=True) + rest
    shares = amounts / jnp.where(total == 0, 1, total)
    largest = top & (amounts > 0)
    odds = numerics.quotient(rest, jnp.where(largest, amounts, 1))
    return shares, jnp.where(largest, -jnp.log1p(odds), _log(shares))


@loss(log_prediction=log_probability, target=distribution, order=nonnegative_number)
def renyi(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    order: Real[ArrayLike, ""] = 0.5,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to choose how much the largest ratio counts: privacy bounds, tempered inference.

    $$D_\alpha(q \| p) = \frac{1}{\alpha - 1} \log \sum_k q_k^\alpha p_k^{1 - \alpha}$$

    Grows with the order. At order 1 it is `kl`, exactly, and the gradient passes through, also
    that in the order; below 1 it is finite unless nothing overlaps. The target is divided by its
    sum, whose rounding would else be divided by $\alpha - 1$.

    Args:
        log_prediction: Log-probabilities of the classes; -inf rules a class out.
        target: Target probabilities of the classes.
        order: The order, at least 0.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats.

    Raises:
        ValueError: If the shapes differ, or the order is a number below 0.

    Example:
        >>> renyi(jnp.log(jnp.array([0.25, 0.75])), [1.0, 0.0], order=2.0)
        Array(1.3862944, dtype=float32)

    References:
        Rényi, *On Measures of Entropy and Information*, 1961.
        van Erven and Harremoës, *Rényi Divergence and Kullback-Leibler Divergence*, 2014.
    """
    log_prediction, target = _keep(mask, 0, log_prediction, target)
    target, log_target = _normalized(target)
    power = order - 1
    ruled_out = (log_prediction == -jnp.inf) & (target > 0)
    ratio = _less(jnp.where(ruled_out, 0, target), log_target, log_prediction)
    mean = jnp.sum(target * ratio, axis=-1, keepdims=True)
    tilt = power * (ratio - mean)
    close = jnp.all((jnp.abs(tilt) < 1) & ~ruled_out | (target == 0), axis=-1)
    # A cumulant generating function over its argument: about 0, by its distance from the mean.
    tilt = jnp.where(close[..., None] & (target > 0), tilt, 0)
    spread = jnp.sum(
        target * jnp.square(jnp.where(target > 0, ratio - mean, 0)) * exp_excess_ratio(tilt),
        axis=-1,
    )
    near = mean[..., 0] + power * spread * log1p_ratio(jnp.square(power) * spread)
    logs = log_target + power * ratio
    out = jnp.where(power < 0, -jnp.inf, jnp.inf)
    logs = jnp.where(ruled_out, out, logs)
    divisor = jnp.where(power == 0, 1, power)
    far = jnp.where(power == 0, jnp.inf, numerics.logsumexp(logs) / divisor)
    return jnp.where(close, near, far)


def _power(p: Array, q: Array, logarithm: Array, order: Any) -> Array:
    """`q^a p^(1 - a)`, whose logarithm is only used where a power would leave the range."""
    ordinary = (p > 1e-30) & (q > 1e-30)
    base = jnp.where(ordinary, q, 1) / jnp.where(ordinary, p, 1)
    powers = jnp.where(ordinary, p, 1) * jnp.power(base, order)
    return jnp.where(ordinary, powers, jnp.exp(logarithm))


def _alpha_terms(log_p: Array, q: Array, order: Any) -> Array:
    """`(q^a p^(1 - a) - a q - (1 - a) p) / (a (a - 1))` where neither is 0; at least 0."""
    p, ratio = jnp.exp(log_p), jnp.log(q) - log_p
    tilt, rest = order * ratio, (order - 1) * ratio
    # A divided difference of the exponential, at 0, tilt and ratio, summed where all are close.
    close = (jnp.abs(tilt) < 1) & (jnp.abs(ratio) < 1)
    x, y = jnp.where(close, tilt, 0), jnp.where(close, ratio, 0)
    homogeneous, power, factor, series = jnp.ones_like(x), jnp.ones_like(y), 0.5, 0.5
    for n in range(1, 14):
        power = power * y
        homogeneous = x * homogeneous + power
        factor = factor / (n + 2)
        series = series + factor * homogeneous
    near = p * jnp.square(y) * series
    # Else with the divisor that is not close to 0 taken out, and the other one inside a ratio.
    high, divisor = order >= 0.5, jnp.where(order >= 0.5, order, order - 1)
    small = jnp.where(high, rest, tilt)
    weight, log_weight = jnp.where(high, q, p), jnp.where(high, jnp.log(q), log_p)
    gentle = jnp.abs(small) < 1
    tame = weight * ratio * expm1_ratio(jnp.where(gentle, small, 0))
    by = jnp.where(gentle, 1, jnp.where(high, order - 1, order))
    wild = (_power(p, q, log_weight + jnp.where(gentle, 0, small), order) - weight) / by
    return jnp.where(close, near, (jnp.where(gentle, tame, wild) + (p - q)) / divisor)


@jax.custom_jvp
def _alpha_divergence(log_p: Array, q: Array, order: Any) -> Array:
    no_p, no_q = log_p == -jnp.inf, q == 0
    both = ~no_p & ~no_q
    terms = _alpha_terms(jnp.where(both, log_p, 0), jnp.where(both, q, 1), order)
    only_p = jnp.where(order > 0, jnp.exp(log_p) / jnp.where(order > 0, order, 1), jnp.inf)
    only_q = jnp.where(order < 1, q / jnp.where(order < 1, 1 - order, 1), jnp.inf)
    return jnp.where(both, terms, jnp.where(no_p, jnp.where(no_q, 0, only_q), only_p))


@_alpha_divergence.defjvp
def _alpha_divergence_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (log_p, q, order), (to_log_p, to_q, to_order) = primals, tangents
    p = jnp.exp(log_p)
    both = (log_p != -jnp.inf) & (q != 0)
    safe_log_p, safe_q = jnp.where(both, log_p, 0), jnp.where(both, q, 1)
    log_q = jnp.log(safe_q)
    ratio = log_q - safe_log_p
    tilt, rest = order * ratio, (order - 1) * ratio
    gentle = jnp.abs(tilt) < 1
    tame = p * ratio * expm1_ratio(jnp.where(gentle, tilt, 0))
    mixed = _power(p, safe_q, safe_log_p + jnp.where(gentle, 0, tilt), order)
    wild = (mixed - p) / jnp.where(gentle, 1, order)
    by_p = jnp.where(both, -jnp.where(gentle, tame, wild), p / jnp.where(order > 0, order, 1))
    gentle = jnp.abs(rest) < 1
    tame = ratio * expm1_ratio(jnp.where(gentle, rest, 0))
    mixed = _power(p, safe_q, log_q + jnp.where(gentle, 0, rest), order) / safe_q
    wild = (mixed - 1) / jnp.where(gentle, 1, order - 1)
    by_q = jnp.where(both, jnp.where(gentle, tame, wild), 0)
    _, by_order = jax.jvp(
        lambda order: _alpha_terms(safe_log_p, safe_q, order), (order,), (to_order,)
    )
    return _alpha_divergence(log_p, q, order), (
        by_p * to_log_p + by_q * to_q + jnp.where(both, by_order, 0)
    )


@loss(
    nonnegative,
    log_prediction=extended,
    target=nonnegative_number,
)
def alpha(
    log_prediction: Real[ArrayLike, "*batch classes"],
    target: Real[ArrayLike, "*batch classes"],
    *,
    order: Real[ArrayLike, ""] = 0.5,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to choose between covering the target (order 1) and one mode of it (order 0).

    $$D_\alpha(q, p) = \sum_k \frac{q_k^\alpha p_k^{1 - \alpha} - \alpha q_k - (1 - \alpha) p_k}
      {\alpha (\alpha - 1)}$$

    Order 1 is `kl`, order 0 `reverse_kl`, exactly and with a gradient in the order; 1/2 is four
    times the squared `hellinger`; 2 is half of Pearson's chi-squared. The terms that vanish when
    both sum to 1 make each class count at least 0. (Amari's own parameter is $2 \alpha - 1$.)

    Args:
        log_prediction: Log-probabilities of the classes, or logarithms of amounts.
        target: Target probabilities, or amounts, of the classes.
        order: The order; any number.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> alpha(jnp.log(jnp.array([0.25, 0.75])), [0.5, 0.5], order=2.0)
        Array(0.16666667, dtype=float32)

    References:
        Amari, *Differential-Geometrical Methods in Statistics*, 1985.
        Cressie and Read, *Multinomial Goodness-of-Fit Tests*, 1984.
    """
    (target,) = _keep(mask, 0, target)
    (log_prediction,) = _keep(mask, -jnp.inf, log_prediction)
    order = jnp.full_like(target, order)
    return jnp.sum(_alpha_divergence(log_prediction, target, order), axis=-1)


@loss(nonnegative, convex, smooth)
def gaussian_kl(
    mean: Real[ArrayLike, "*batch dimensions"],
    log_variance: Real[ArrayLike, "*batch dimensions"],
    *,
    target_mean: Real[ArrayLike, ""]
    | Real[ArrayLike, "dimensions"]
    | Real[ArrayLike, "*batch dimensions"] = 0.0,
    target_log_variance: Real[ArrayLike, ""]
    | Real[ArrayLike, "dimensions"]
    | Real[ArrayLike, "*batch dimensions"] = 0.0,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Take it to keep a normal posterior close to its prior: variational autoencoders.

    $$KL(p \| q) = \frac12 \sum_k \left( \frac{\sigma_k^2}{s_k^2} - 1
      - \log \frac{\sigma_k^2}{s_k^2} + \frac{(\mu_k - m_k)^2}{s_k^2} \right)$$

    Between normal distributions with independent dimensions, summed over these (a mean over them
    would weaken it with their number). Without options the prior is standard normal. From the
    predicted to the target distribution, unlike `kl`: it is an expectation under the prediction.

    Args:
        mean: Predicted means $\mu$.
        log_variance: Logarithms of the predicted variances $\sigma^2$.
        target_mean: Means $m$ of the target.
        target_log_variance: Logarithms of its variances $s^2$.

    Returns:
        The divergence of each example in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> gaussian_kl([[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1e-4, 0.0]])
        Array([5.000000e-01, 2.500083e-09], dtype=float32)

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014.
    """
    distance = (mean - target_mean) * jnp.exp(-0.5 * target_log_variance)
    terms = exp_excess(log_variance - target_log_variance) + jnp.square(distance)
    return 0.5 * jnp.sum(terms, axis=-1)
