r"""Distillation: losses of a student's distribution over classes and that of its teacher.

Student and teacher are given as logits. The direction matters: the *forward* divergence
$KL(q \| p)$ of teacher $q$ and student $p$ makes the student cover all that the teacher does; the
*reverse* one, $KL(p \| q)$, makes it concentrate on what the teacher finds likely. Divergences of
near and far distributions keep their digits: no probability is formed where logits suffice.

Gradients go to both sets of logits. A teacher that is not trained is wrapped in
`jax.lax.stop_gradient`, or simply not differentiated with respect to.

Losses of hidden features need no function of their own. With `t = stop_gradient(teacher)`:
`regression.squared_error(student, t)` summed over features is the hint loss,
`regression.cosine_distance(student, t)` that of directions, and
`regression.squared_error(numerics.normalize(a), numerics.normalize(b))` of attention maps that of
attention transfer. From hidden states, without logits in memory: `linear.kl`.
"""

from typing import Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.arguments import check_choice
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import half_dtype
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss.divergence._logits import kl_of_logits, log_softmax_at
from jaxloss.domains import class_ids, extended, log_probability, positive, unit_interval
from jaxloss.numerics._kl_terms import gaps_from_mixture
from jaxloss.numerics._labels import is_any_label, take_labels
from jaxloss.numerics._reductions import row_sum
from jaxloss.numerics._softmax_kl import as_temperature
from jaxloss.numerics._softmax_sums import Pair, sum_over_classes
from jaxloss.traits import (
    bounded_gradient,
    nonnegative,
    shift_invariant,
    smooth,
    zero_at_match,
)

__all__ = [
    "acceptance",
    "generalized_jensen_shannon",
    "sampled_reverse_kl",
    "temperature_kl",
    "top_k_kl",
]


@loss(
    nonnegative,
    smooth,
    shift_invariant,
    zero_at_match,
    logits=extended,
    teacher_logits=extended,
    temperature=positive,
)
def temperature_kl(
    logits: Real[ArrayLike, "*batch classes"],
    teacher_logits: Real[ArrayLike, "*batch classes"],
    *,
    temperature: Real[ArrayLike, ""] = 1.0,
    reverse: bool = False,
    scale_by_square: bool = True,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Knowledge distillation: the Kullback-Leibler divergence of softened distributions.

    When to use: training a student on the logits of a teacher; a temperature of 2 to 5 gives the
    unlikely classes more weight.

    $$\ell = T^2\, KL(q \| p), \qquad
      p = \mathrm{softmax}(x / T), \quad q = \mathrm{softmax}(z / T)$$

    The factor $T^2$ keeps the size of the gradient when the temperature changes (Hinton et al.;
    the tutorials of torch). `scale_by_square=False` leaves it out, as `divergence.kl_logits`,
    `linear.kl` and TRL do. With `reverse` it is $T^2\, KL(p \| q)$.

    Args:
        logits: Scores of the student; -inf is a probability of 0.
        teacher_logits: Scores of the teacher.
        temperature: The number T by which both are divided.
        reverse: Whether the expectation is over the student's distribution.
        scale_by_square: Whether to multiply by the square of the temperature.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The loss of each example in nats; inf where one rules out what the other expects.

    Example:
        >>> temperature_kl([0.0, 0.0], [4e-6, 0.0], temperature=2.0)
        Array(2.e-12, dtype=float32)

    References:
        Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015.
        Gu et al., *MiniLLM: Knowledge Distillation of Large Language Models* (reverse), 2024.
    """
    expected, other = (logits, teacher_logits) if reverse else (teacher_logits, logits)
    value = kl_of_logits(other, expected, as_temperature(temperature, logits))
    return value * jnp.square(jnp.asarray(temperature, logits.dtype)) if scale_by_square else value


def _jensen_shannon(both: Pair, beta: Array) -> Array:
    from_p, from_q = gaps_from_mixture(both.p, both.q, -both.p_minus_q, beta)
    return (1 - beta) * from_p + beta * from_q


def _jensen_shannon_over_shares(both: Pair, beta: Array) -> Array:
    """The same over beta (1 - beta): the gap from p is of the order of beta squared."""
    from_p, from_q = gaps_from_mixture(both.p, both.q, -both.p_minus_q, beta)
    from_p, from_q = (
        jnp.where(share == 0, 0, gap / jnp.where(share == 0, 1, share))
        for gap, share in ((from_p, beta), (from_q, 1 - beta))
    )
    return from_p + from_q


@loss(
    nonnegative,
    smooth,
    shift_invariant,
    zero_at_match,
    logits=extended,
    teacher_logits=extended,
    beta=unit_interval,
    temperature=positive,
)
def generalized_jensen_shannon(
    logits: Real[ArrayLike, "*batch classes"],
    teacher_logits: Real[ArrayLike, "*batch classes"],
    *,
    beta: Real[ArrayLike, ""] = 0.5,
    temperature: Real[ArrayLike, ""] = 1.0,
    to_kl: bool = False,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Generalized Jensen-Shannon divergence of a student and its teacher.

    When to use: distillation on samples of the student itself (GKD), between the forward and the
    reverse divergence; it is bounded.

    $$\ell = \beta\, KL(q \| m) + (1 - \beta)\, KL(p \| m), \qquad m = \beta q + (1 - \beta) p$$

    p is the student and q the teacher, as in GKD, TRL and Liger; SDPO counts $\beta$ from the other
    end: write `1 - beta`. The formula gives 0 at $\beta = 0$ and 1. TRL and Liger return KL(q || p)
    and KL(p || q) there, by a case of their own: write `temperature_kl(..., reverse=...)`. With
    `to_kl` the divergence is divided by $\beta (1 - \beta)$, and tends to these two.

    Args:
        logits: Scores of the student; -inf is a probability of 0.
        teacher_logits: Scores of the teacher.
        beta: The share of the teacher in the mixture, from 0 to 1.
        temperature: The number by which all logits are divided.
        to_kl: Whether to divide by beta (1 - beta).
        mask: False takes a class out of an example (or out of all).

    Returns:
        The divergence of each example in nats; at most log 2 without `to_kl`.

    Example:
        >>> generalized_jensen_shannon([0.0, -1e9], [-1e9, 0.0])
        Array(0.6931472, dtype=float32)

    References:
        Agarwal et al., *On-Policy Distillation of Language Models* (GKD), 2024.
        Huszar, *How (not) to Train your Generative Model*, 2015.
    """
    scale, share = as_temperature(temperature, logits), jnp.asarray(beta, logits.dtype)
    term = _jensen_shannon_over_shares if to_kl else _jensen_shannon
    return sum_over_classes(term, logits, teacher_logits, scale, share)


Tail = Literal["bucket", "renormalize", "drop"]


@loss(
    logits=extended,
    teacher_log_probs=log_probability,
    teacher_ids=class_ids("classes"),
)
def top_k_kl(
    logits: Real[ArrayLike, "*batch classes"],
    teacher_log_probs: Real[ArrayLike, "*batch k"],
    teacher_ids: Int[ArrayLike, "*batch k"],
    *,
    tail: Tail = "bucket",
    mask: Bool[ArrayLike, "*batch k"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Kullback-Leibler divergence from a teacher of which only the k likeliest classes are stored.

    When to use: distillation from stored or remote teachers, whose full distribution over a
    vocabulary is too large.

    $$\ell = \sum_{i=1}^k q_i \log \frac{q_i}{p_{c_i}} + r, \qquad
      r = \Big(1 - \sum_i q_i\Big) \log \frac{1 - \sum_i q_i}{1 - \sum_i p_{c_i}}$$

    `tail` says what becomes of the other classes. "bucket": they are one class, as above (TRL's
    SDPO, verl); the student learns how much mass lies outside. "renormalize": both distributions
    are divided by their mass on the k classes (maxtext); mass outside is not seen. "drop": r = 0;
    the sum may be negative. `checkify` (JAX 0.10) raises an IndexError on the scatter of a batch:
    take `errors=checkify.all_checks - checkify.index_checks`.

    Args:
        logits: Scores of the student over all classes.
        teacher_log_probs: Log-probabilities of the teacher for its k classes, in any order.
        teacher_ids: The k classes, each once.
        tail: "bucket", "renormalize" or "drop".
        mask: False leaves an entry of the k out, where a teacher stored fewer.

    Returns:
        The divergence of each example in nats; NaN if an id names no class.

    Raises:
        ValueError: If k exceeds the number of classes.

    Example:
        >>> top_k_kl([0.0, 0.0, 0.0, 0.0], [-0.6931472], [2])  # log 2 - log 3 / 2
        Array(0.1438410, dtype=float32)

    References:
        Shum et al., *Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs*, 2025.
    """
    name = "jaxloss.distillation.top_k_kl"
    check_choice(name, "tail", tail, ("bucket", "renormalize", "drop"))
    classes, k = logits.shape[-1], teacher_ids.shape[-1]
    if k > classes:
        raise ValueError(
            f"{name}: `teacher_ids` has {k} classes an example, but `logits` has {classes}: "
            f"give each class at most once."
        )
    stored = jnp.ones(teacher_ids.shape, bool)
    if mask is not None:  # an example of which nothing is stored is left out, whatever it gives
        stored = mask | ~jnp.any(mask, axis=-1, keepdims=True)
    half = None if tail == "drop" else half_dtype("logits")  # there all logits have a gradient
    own = take_labels(logits, jnp.where(stored, teacher_ids, 0), half)
    own = jnp.where(stored, own, -jnp.inf)
    if tail == "drop":
        log_p = own - numerics.logsumexp(logits, axis=-1, keepdims=True)
        probability = jnp.exp(teacher_log_probs)
        # Where the teacher has nothing, infinities are not seen.
        log_ratio = jnp.where(probability == 0, 0, teacher_log_probs - log_p)
        return row_sum(probability * log_ratio)
    if tail == "bucket":
        is_stored = is_any_label(logits, jnp.where(stored, teacher_ids, classes))
        others = jnp.where(is_stored, -jnp.inf, logits)
        own = jnp.append(own, numerics.logsumexp(others, axis=-1, keepdims=True), axis=-1)
        mass = numerics.logsumexp(teacher_log_probs, axis=-1, keepdims=True)
        is_all = mass > -4 * jnp.finfo(mass.dtype).eps  # what is left is a rounding error
        rest = jnp.where(is_all, -jnp.inf, numerics.log1mexp(jnp.where(is_all, -1, mass)))
        teacher_log_probs = jnp.append(teacher_log_probs, rest, axis=-1)
    return kl_of_logits(own, teacher_log_probs, None)


def _half_distance(both: Pair) -> Array:
    return 0.5 * numerics.absolute(both.p_minus_q)


@loss(
    nonnegative,
    bounded_gradient,
    shift_invariant,
    zero_at_match,
    logits=extended,
    teacher_logits=extended,
    temperature=positive,
)
def acceptance(
    logits: Real[ArrayLike, "*batch classes"],
    teacher_logits: Real[ArrayLike, "*batch classes"],
    *,
    kind: Literal["total_variation", "log_overlap"] = "total_variation",
    temperature: Real[ArrayLike, ""] = 1.0,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Rejection rate of a draft model in speculative decoding, or minus the log of acceptance.

    When to use: training a draft model, whose samples a larger model accepts or rejects.

    $$\ell = \tfrac12 \sum_c |p_c - q_c| = 1 - \sum_c \min(p_c, q_c), \qquad
      \ell_{\log} = -\log \sum_c \min(p_c, q_c)$$

    A sample of the draft model is accepted with probability $\sum_c \min(p_c, q_c)$. The total
    variation has a small gradient where the two hardly overlap; the logarithm ("log_overlap") has
    not.

    Args:
        logits: Scores of the draft model.
        teacher_logits: Scores of the model that accepts or rejects.
        kind: "total_variation" or "log_overlap".
        temperature: The number by which all logits are divided.
        mask: False takes a class out of an example (or out of all).

    Returns:
        The rejection rate of each example, or minus the log of its acceptance rate in nats.

    Example:
        >>> acceptance([0.0, 0.0], [0.0, -100.0]), acceptance([0.0], [9.0], kind="log_overlap")
        (Array(0.5, dtype=float32), Array(0., dtype=float32))

    References:
        Leviathan et al., *Fast Inference from Transformers via Speculative Decoding*, 2023.
    """
    check_choice(
        "jaxloss.distillation.acceptance", "kind", kind, ("total_variation", "log_overlap")
    )
    scale = as_temperature(temperature, logits)
    rejected = sum_over_classes(_half_distance, logits, teacher_logits, scale)
    if kind == "total_variation":
        return rejected
    near = rejected < 0.5
    scores = [log_softmax_at(x, scale) for x in (logits, teacher_logits)]
    far = -numerics.logsumexp(jnp.minimum(*scores), axis=-1)
    return jnp.where(near, -jnp.log1p(-jnp.where(near, rejected, 0)), far)


@jax.custom_jvp
def _log_ratio_of_sample(log_prob: Array, teacher_log_prob: Array) -> Array:
    return log_prob - teacher_log_prob


# The gradient of an expectation over samples: the value times that of the log-probability.
_log_ratio_of_sample.defjvps(
    lambda log_prob_dot, value, *_: jax.lax.stop_gradient(value) * log_prob_dot, None
)


@loss(log_prob=log_probability, teacher_log_prob=log_probability)
def sampled_reverse_kl(
    log_prob: Real[ArrayLike, "*batch"],
    teacher_log_prob: Real[ArrayLike, "*batch"],
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Reverse Kullback-Leibler divergence, estimated at samples of the student.

    When to use: on-policy distillation, where the teacher scores the tokens that the student has
    sampled.

    $$\ell = \log p(x) - \log q(x), \qquad
      \nabla \ell := (\log p(x) - \log q(x))\, \nabla \log p(x), \qquad x \sim p$$

    The mean over samples of p estimates $KL(p \| q)$, and the mean of the gradient its gradient:
    since the samples depend on the parameters, it is not the gradient of the mean of the values.
    It is the policy gradient with the advantage $\log q - \log p$; subtract a baseline with
    `policy.reinforce`.

    Args:
        log_prob: Log-probability of a sample under the student that sampled it.
        teacher_log_prob: Its log-probability under the teacher; not differentiated.

    Returns:
        The log-ratio of each sample in nats, which may be negative.

    Example:
        >>> jax.value_and_grad(sampled_reverse_kl)(-1.0, -3.0)
        (Array(2., dtype=float32), Array(2., dtype=float32, weak_type=True))

    References:
        Agarwal et al., *On-Policy Distillation of Language Models* (GKD), 2024.
    """
    return _log_ratio_of_sample(log_prob, teacher_log_prob)


__getattr__, __dir__ = public_names(__name__, __all__)
