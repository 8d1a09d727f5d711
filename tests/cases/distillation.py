"""Rows of the distillation family: oracles in plain Python on one example."""

import numpy as np
from arithmetic import exp, log

from cases import Batched, Case
from cases.divergence import MASK, NEAR_LOGITS, kl_of

K = 2


def softmax(logits, mask=None):
    mask = np.ones(len(logits), bool) if mask is None else mask
    kept = [x for x, keep in zip(logits, mask, strict=True) if keep]
    total = sum(exp(x) for x in kept)
    return [exp(x) / total for x in kept]


def both(logits, teacher_logits, temperature, mask):
    return softmax(logits / temperature, mask), softmax(teacher_logits / temperature, mask)


def divergence(p, q):
    """KL(q || p)."""
    return sum(kl_of(a, b) for a, b in zip(p, q, strict=True))


def temperature_kl(
    logits, teacher_logits, temperature=1.0, reverse=False, scale_by_square=True, mask=None
):
    p, q = both(logits, teacher_logits, temperature, mask)
    value = divergence(q, p) if reverse else divergence(p, q)
    return value * temperature**2 if scale_by_square else value


def generalized_jensen_shannon(
    logits, teacher_logits, beta=0.5, temperature=1.0, to_kl=False, mask=None
):
    p, q = both(logits, teacher_logits, temperature, mask)
    if to_kl and beta in (0, 1):
        return divergence(p, q) if beta == 0 else divergence(q, p)
    mixture = [(1 - beta) * a + beta * b for a, b in zip(p, q, strict=True)]
    value = beta * divergence(mixture, q) + (1 - beta) * divergence(mixture, p)
    return value / (beta * (1 - beta)) if to_kl else value


def top_k_kl(logits, teacher_log_probs, teacher_ids, tail="bucket", mask=None):
    kept = [j for j in range(len(teacher_ids)) if mask is None or mask[j]]
    p = softmax(logits)
    own = [p[teacher_ids[j]] for j in kept]
    q = [exp(teacher_log_probs[j]) for j in kept]
    if tail == "bucket":
        chosen = {teacher_ids[j] for j in kept}
        own = [*own, sum(x for c, x in enumerate(p) if c not in chosen)]
        q = [*q, 1 - sum(q)]
    if tail == "renormalize":
        own, q = ([x / sum(each) for x in each] for each in (own, q))
    return divergence(own, q)


def acceptance(logits, teacher_logits, kind="total_variation", temperature=1.0, mask=None):
    p, q = both(logits, teacher_logits, temperature, mask)
    overlap = sum(min(a, b) for a, b in zip(p, q, strict=True))
    return -log(overlap) if kind == "log_overlap" else 1 - overlap


# The ratio is a constant of the gradient, so the oracle takes it from undisturbed arguments.


def sampled_reverse_kl(log_prob, teacher_log_prob, *, fixed=None):
    at = {"log_prob": log_prob, "teacher_log_prob": teacher_log_prob} | (fixed or {})
    ratio = at["log_prob"] - at["teacher_log_prob"]
    return ratio + ratio * (log_prob - at["log_prob"])


def top_log_probs(generator, batch):
    """Of two classes of four, with a rest."""
    return np.log(generator.dirichlet(np.full(3, 3.0), batch)[..., :K]).astype(np.float32)


def top_ids(generator, batch):
    order = generator.permuted(np.broadcast_to(np.arange(4), (*batch, 4)), axis=-1)
    return order[..., :K].astype(np.int32)


def stored(generator, batch):
    return np.broadcast_to([True, False], (*batch, K)).copy()


def usual_logits(generator, count):
    return (2 * generator.normal(size=(count, 4))).astype(np.float32)


PAIR = {"logits": NEAR_LOGITS["logits"], "teacher_logits": NEAR_LOGITS["target_logits"]}

CASES = {
    "temperature_kl": Case(
        temperature_kl,
        ({}, {"temperature": 3.0, "reverse": True, "mask": MASK}, {"scale_by_square": False}),
        extremes=PAIR,
        ulp=(8, 8),
        by_component=False,
    ),
    "generalized_jensen_shannon": Case(
        generalized_jensen_shannon,
        # At 1/2 the two shares are the same.
        ({}, {"beta": 0.2}, {"beta": 0.1, "temperature": 2.0, "to_kl": True, "mask": MASK}),
        extremes=PAIR,
        ulp=(8, 8),
        by_component=False,
    ),
    "top_k_kl": Case(
        top_k_kl,
        (
            {},
            {"tail": "renormalize"},
            {"tail": "drop"},
            {"mask": Batched(stored)},
        ),
        draws={"teacher_log_probs": top_log_probs, "teacher_ids": top_ids},
        extremes={
            "logits": usual_logits,
            "teacher_log_probs": lambda g, n: top_log_probs(g, (n,)),
            "teacher_ids": lambda g, n: top_ids(g, (n,)),
        },
        ulp=(8, 8),
        by_component=False,
        conditioned=True,
    ),
    "acceptance": Case(
        acceptance,
        ({}, {"kind": "log_overlap", "temperature": 2.0, "mask": MASK}),
        extremes=PAIR,
        ulp=(8, 8),
        by_component=False,
    ),
    "sampled_reverse_kl": Case(sampled_reverse_kl, conditioned=True),
}
