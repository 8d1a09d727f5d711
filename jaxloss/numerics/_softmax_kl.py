r"""The Kullback-Leibler divergence of two softmaxes, with all digits however close they are.

No logarithms of close probabilities are subtracted: $\log(q / p)$ is the difference of the logits
plus the logarithm of the ratio of the two sums of exponentials, which is known from the sum of
their differences (`_softmax_pair`). Each class counts $p - q$ more, which sums to 0, so that no
term is negative. On GPU and TPU both logits are read once for these sums, and once for the
divergence and the gradient; on CPU the exponentials are kept in arrays.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss._xla import barrier, on_cpu, recompute_off_cpu, written_on_cpu
from jaxloss.numerics._double_double import DD, two_quotient, two_sum
from jaxloss.numerics._reductions import row_sum
from jaxloss.numerics._softmax import subtract_weighted_mean, without_largest
from jaxloss.numerics._softmax_pair import (
    difference_of_exps,
    elements_of,
    kl_terms,
    normalizers_of_rows,
    probabilities_from,
    probabilities_of,
    top_of,
)


def exponents(logits: Array, temperature: Array | None) -> DD:
    """Logits less the largest, over the temperature (None: 1); an infinite logit as it is."""
    top = top_of(logits)
    top = jnp.where(jnp.isfinite(top), top, 0)
    finite = jnp.isfinite(logits)  # the rounding error of an infinity would be NaN
    below = two_sum(jnp.where(finite, logits, top), -top)
    if temperature is not None:
        scaled = two_quotient(below.hi, temperature)
        below = DD(scaled.hi, scaled.lo + below.lo / temperature)
    return DD(jnp.where(finite, below.hi, logits), below.lo)


def as_temperature(temperature: ArrayLike, logits: Array) -> Array | None:
    """The temperature in the dtype of the logits; None if it is the Python number 1."""
    is_one = isinstance(temperature, int | float) and temperature == 1
    return None if is_one else jnp.asarray(temperature, logits.dtype)


class Comparison(NamedTuple):
    """Two softmaxes, p and q, of each row.

    Attributes:
        p: softmax(logits / temperature).
        q: softmax(target_logits / temperature).
        log_ratio: log(q / p); 0 where the logit of q is -inf.
        p_minus_q: Their difference.
        kl: KL(q || p), without the class axis.
    """

    p: Array
    q: Array
    log_ratio: Array
    p_minus_q: Array
    kl: Array


def _compare_by_passes(
    logits: Array, target_logits: Array, temperature: Array | None
) -> Comparison:
    """Both logits are read for the sums, and once more for the divergence and the rest."""
    data = logits, target_logits, temperature
    sums = recompute_off_cpu(normalizers_of_rows(*data))
    value, last = (probabilities_of(*data, rows) for rows in (sums, recompute_off_cpu(sums)))
    kl = jnp.sum(kl_terms(value.p, value.q, value.log_ratio, value.impossible), axis=-1)
    return Comparison(last.p, last.q, last.log_ratio, last.p_minus_q, kl)


def compare_with_arrays(
    logits: Array, target_logits: Array, temperature: Array | None
) -> Comparison:
    """Exponentials are written; what else a pass needs is computed again, from tops of its own."""
    data = logits, target_logits, temperature
    first = top_of(logits), top_of(target_logits)
    second = barrier(first)
    e = elements_of(*data, first)
    exps = {"exp_x": written_on_cpu(e.exp_x), "exp_z": written_on_cpu(e.exp_z)}
    rest_x, rest_z = (
        without_largest(jnp.sum(exp, axis=-1, keepdims=True), exp, -1) for exp in exps.values()
    )
    excess = row_sum(difference_of_exps(elements_of(*data, second)._replace(**exps)))
    of_classes = elements_of(*data, barrier(second))._replace(**exps)
    c = probabilities_from(of_classes, rest_x, rest_z, excess[..., None])
    kl = row_sum(kl_terms(c.p, c.q, c.log_ratio, c.impossible))
    return Comparison(c.p, c.q, c.log_ratio, c.p_minus_q, kl)


def tangents_of_exponents(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The tangents of both logits over the temperature, from those of logits and temperature."""
    *both, temperature = primals
    x_dot, z_dot, temperature_dot = tangents
    if temperature is None:
        return x_dot, z_dot
    # A higher temperature moves each logit towards 0; one of -inf stays where it is.
    decrease = temperature_dot / temperature
    x_dot, z_dot = (
        (change - jnp.where(jnp.isinf(x), 0, x) * decrease) / temperature
        for x, change in zip(both, (x_dot, z_dot), strict=True)
    )
    return x_dot, z_dot


@jax.custom_jvp
def compare_softmaxes(logits: Array, target_logits: Array, temperature: Array | None) -> Comparison:
    """p, q, log(q / p), p - q and KL(q || p), each with all digits where p is close to q.

    On CPU, where an exponential takes longer than to read it from memory, arrays are kept.
    """
    return on_cpu(compare_with_arrays, _compare_by_passes, logits, target_logits, temperature)


# A full rule: it reduces over the classes.
@compare_softmaxes.defjvp
def _compare_softmaxes_jvp(primals: Any, tangents: Any) -> tuple[Comparison, Comparison]:
    found = compare_softmaxes(*primals)
    x_dot, z_dot = tangents_of_exponents(primals, tangents)
    # The divergence is rounded, the more the larger it is; the mean, subtracted twice, is not.
    kl = found.kl[..., None]
    counts = (kl < jnp.inf) & (found.q > 0)  # a class of q = 0 may have an infinite ratio
    above = subtract_weighted_mean(jnp.where(counts, found.log_ratio, 0), found.q, -1)
    above = jnp.where(kl < jnp.inf, above, found.log_ratio - kl)
    by_target = jnp.where(found.q == 0, 0, found.q * above)
    of_p = subtract_weighted_mean(x_dot, found.p, -1)
    of_q = subtract_weighted_mean(z_dot, found.q, -1)
    p_dot, q_dot = found.p * of_p, found.q * of_q
    return found, Comparison(
        p_dot,
        q_dot,
        jnp.where(found.q == 0, 0, of_q - of_p),
        p_dot - q_dot,
        jnp.sum(found.p_minus_q * x_dot + by_target * z_dot, axis=-1),
    )
