"""Rows of the policy family: oracles in plain Python on one action, or one sequence."""

import numpy as np
from arithmetic import exp, expm1, log

from cases import Batched, Case


def _sigmoid(x):
    return 1 / (1 + exp(-x))


def clipped(log_prob, old_log_prob, advantage, low=0.2, high=0.2, dual_clip=None):
    ratio = exp(log_prob - old_log_prob)
    value = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if dual_clip is not None and advantage < 0:
        value = max(value, dual_clip * advantage)
    return -value


def soft_clipped(
    log_prob, old_log_prob, advantage, positive_temperature=1.0, negative_temperature=1.05
):
    temperature = positive_temperature if advantage > 0 else negative_temperature
    change = expm1(log_prob - old_log_prob)
    return -4 / temperature * _sigmoid(temperature * change) * advantage


def clipped_sequence(
    log_probs, old_log_probs, advantage, mask=None, low=3e-4, high=4e-4, mean="ratio"
):
    keep = np.ones(len(log_probs), bool) if mask is None else np.asarray(mask)
    log_ratios = [a - b for a, b, k in zip(log_probs, old_log_probs, keep, strict=True) if k]
    if not log_ratios:
        return 0 * advantage
    if mean == "geometric":
        worse = advantage < 0
        bounded = [max(r, -low) if worse else min(r, high) for r in log_ratios]
        return -advantage * exp(sum(bounded) / len(bounded))
    ratio = exp(sum(log_ratios) / len(log_ratios))
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def kl_estimate(log_prob, reference_log_prob, order=3):
    log_ratio = reference_log_prob - log_prob
    return {1: -log_ratio, 2: log_ratio**2 / 2, 3: expm1(log_ratio) - log_ratio}[order]


def entropy(logits, mask=None):
    logits = logits if mask is None else [x for x, keep in zip(logits, mask, strict=True) if keep]
    total = sum(exp(x) for x in logits)
    return -sum(exp(x) / total * (x - log(total)) for x in logits)


# The weight is a constant of the gradient, so the oracle takes it from undisturbed arguments.


def reinforce(log_prob, advantage, weight=1.0, *, fixed=None):
    return -(weight if fixed is None else fixed.get("weight", weight)) * advantage * log_prob


def cispo(log_prob, old_log_prob, advantage, low=1.0, high=4.0, *, fixed=None):
    at = {"log_prob": log_prob, "old_log_prob": old_log_prob, "low": low, "high": high}
    at |= fixed or {}
    ratio = exp(at["log_prob"] - at["old_log_prob"])
    return -min(max(ratio, 1 - at["low"]), 1 + at["high"]) * advantage * log_prob


def log_probability(generator, batch):
    return -np.exp(generator.normal(size=batch)).astype(np.float32)


def log_probabilities(generator, batch):
    return -np.exp(0.3 * generator.normal(size=(*batch, 5))).astype(np.float32)


def near_one(generator, batch):
    """Sequences whose mean ratio is inside of the bounds of some examples, outside of others'."""
    return log_probabilities(np.random.default_rng(11), batch) + np.float32(
        3e-4 * generator.normal(size=(*batch, 5))
    )


def far_log_probability(generator, count):
    """From 1e-8 to 200 below 0: ratios from exp(-200) to exp(80)."""
    return (-(10.0 ** generator.uniform(-8, 1.9, count))).astype(np.float32)


def advantage(generator, count):
    sign = np.where(generator.random(count) < 0.5, -1, 1)
    return (sign * 10.0 ** generator.uniform(-3, 3, count)).astype(np.float32)


DRAWS = {"log_prob": log_probability, "old_log_prob": log_probability}
EXTREMES = {
    "log_prob": far_log_probability,
    "old_log_prob": far_log_probability,
    "reference_log_prob": far_log_probability,
    "advantage": advantage,
}
TOKENS = np.array([True, True, False, True, False])

CASES = {
    "clipped": Case(
        clipped,
        options=({}, {"low": 0.1, "high": 0.28}, {"dual_clip": 1.5}),
        draws=DRAWS,
        extremes=EXTREMES,
    ),
    "reinforce": Case(
        reinforce,
        options=(
            {},
            {"weight": Batched(lambda g, batch: np.exp(g.normal(size=batch)).astype("f"))},
        ),
        draws={"log_prob": log_probability},
        extremes=EXTREMES,
    ),
    "cispo": Case(
        cispo,
        options=({}, {"low": 0.2, "high": 0.28}),
        draws=DRAWS,
        extremes=EXTREMES,
    ),
    "soft_clipped": Case(
        soft_clipped,
        options=({}, {"positive_temperature": 0.5, "negative_temperature": 2.0}),
        draws=DRAWS,
        extremes=EXTREMES,
        # At a ratio of 60 the gradient changes by 120 places with one of the inputs.
        conditioned=lambda example: example["log_prob"] - example["old_log_prob"] > 1,
    ),
    "clipped_sequence": Case(
        clipped_sequence,
        options=(
            {},
            {"mask": Batched(lambda g, batch: np.broadcast_to(TOKENS, (*batch, 5)).copy())},
            {"mean": "geometric", "low": 0.4, "high": 0.4},
        ),
        draws={"log_probs": near_one, "old_log_probs": near_one},
        extremes={
            "log_probs": lambda g, n: near_one(g, (n,)),
            "old_log_probs": lambda g, n: near_one(g, (n,)),
        },
        conditioned=True,
    ),
    "kl_estimate": Case(
        kl_estimate,
        options=({}, {"order": 1}, {"order": 2}),
        draws={"log_prob": log_probability, "reference_log_prob": log_probability},
        extremes=EXTREMES,
        conditioned=True,
    ),
    "entropy": Case(
        entropy,
        options=({}, {"mask": np.array([True, False, True, True])}),
        extremes={
            "logits": lambda g, n: (
                10.0 ** g.uniform(-3, 1.5, (n, 1)) * g.normal(size=(n, 4))
            ).astype("f")
        },
        by_component=False,
        conditioned=True,
    ),
}
