"""Rows of the preference family: oracles in plain Python on one pair, response or list."""

import numpy as np
from arithmetic import exp, expm1, log, log1p

from cases import Batched, Case


def softplus(x):
    return x + log1p(exp(-x)) if x > 0 else log1p(exp(x))


def sigmoid(x):
    return exp(-softplus(-x))


def dpo(
    chosen,
    rejected,
    reference_chosen,
    reference_rejected,
    beta=0.1,
    label_smoothing=0.0,
    robust=False,
    margin=0.0,
    divergence="reverse_kl",
    alpha=0.5,
):
    score = {
        "reverse_kl": lambda x: x,
        "forward_kl": lambda x: -exp(-x),
        "jensen_shannon": lambda x: -softplus(-x),
        "alpha": lambda x: -expm1(-alpha * x) / alpha,
    }[divergence]
    z = beta * (score(chosen - reference_chosen) - score(rejected - reference_rejected)) - margin
    if robust:
        kept = (1 - label_smoothing) * softplus(-z) - label_smoothing * softplus(z)
        return kept / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * softplus(-z) + label_smoothing * softplus(z)


def _gap(chosen, rejected, reference_chosen, reference_rejected):
    return (chosen - reference_chosen) - (rejected - reference_rejected)


def ipo(chosen, rejected, reference_chosen, reference_rejected, beta=0.1):
    return (_gap(chosen, rejected, reference_chosen, reference_rejected) - 1 / (2 * beta)) ** 2


def hinge_dpo(chosen, rejected, reference_chosen, reference_rejected, beta=0.1):
    return max(0, 1 - beta * _gap(chosen, rejected, reference_chosen, reference_rejected))


def simpo(chosen, rejected, beta=2.0, gamma=1.0):
    return softplus(gamma - beta * (chosen - rejected))


def cpo(chosen, rejected, beta=0.1, label_smoothing=0.0):
    z = beta * (chosen - rejected)
    return (1 - label_smoothing) * softplus(-z) + label_smoothing * softplus(z)


def orpo(chosen, rejected, weight=0.1):
    odds = exp(rejected - chosen) * expm1(chosen) / expm1(rejected)
    return -chosen + weight * log1p(odds)


def kto(
    log_ratio,
    desirable,
    kl=None,
    beta=0.1,
    desirable_weight=1.0,
    undesirable_weight=1.0,
    *,
    fixed=None,
):
    z = beta * (log_ratio - max(0, kl if fixed is None else fixed.get("kl", kl)))
    return desirable_weight * sigmoid(-z) if desirable else undesirable_weight * sigmoid(z)


def apo_zero(chosen_ratio, rejected_ratio, beta=0.1):
    return sigmoid(-beta * chosen_ratio) + sigmoid(beta * rejected_ratio)


def apo_down(chosen_ratio, rejected_ratio, beta=0.1):
    return sigmoid(beta * chosen_ratio) + sigmoid(-beta * (chosen_ratio - rejected_ratio))


def nca(chosen_ratio, rejected_ratio, beta=0.1):
    good, bad = beta * chosen_ratio, beta * rejected_ratio
    return softplus(-good) + softplus(good) / 2 + softplus(bad) / 2


def bco(chosen_ratio, rejected_ratio, shift=0.0, beta=0.1, *, fixed=None):
    shift = shift if fixed is None else fixed.get("shift", shift)
    return softplus(shift - beta * chosen_ratio) + softplus(beta * rejected_ratio - shift)


def bradley_terry(chosen, rejected, margin=0.0, tied=None, log_tie=0.0):
    gap = chosen - rejected - margin
    if tied is None:
        return softplus(-gap)
    total = exp(gap / 2) + exp(-gap / 2) + exp(log_tie)
    return log(total) - (log_tie if tied else gap / 2)


def plackett_luce(scores, ranks, mask=None):
    keep = range(len(scores)) if mask is None else [i for i in range(len(scores)) if mask[i]]
    order = sorted(keep, key=lambda i: ranks[i])
    ordered = [scores[i] for i in order]
    return sum(log(sum(exp(x) for x in ordered[i:])) - ordered[i] for i in range(len(ordered)))


def negative(generator, batch):
    return -np.exp(generator.normal(size=batch)).astype(np.float32)


def far(generator, count):
    """Log-probabilities of responses from -1e-3 to -300."""
    return (-(10.0 ** generator.uniform(-3, 2.5, count))).astype(np.float32)


def mean_log_probability(generator, count):
    """Mean log-probabilities of tokens from -1e-6, nearly certain, to -30."""
    return (-(10.0 ** generator.uniform(-6, 1.5, count))).astype(np.float32)


PAIR = dict.fromkeys(("chosen", "rejected", "reference_chosen", "reference_rejected"), far)
PAIR |= {"chosen_ratio": far, "rejected_ratio": far, "log_ratio": far}
FLAGS = Batched(lambda g, batch: g.random(batch) < 0.5)
MASK = Batched(
    lambda g, batch: np.broadcast_to([True, True, False, True, True], (*batch, 5)).copy()
)


def ranks(generator, batch):
    return generator.permuted(np.broadcast_to(np.arange(5), (*batch, 5)), axis=-1).astype(np.int32)


def pairs(oracle, *options):
    return Case(oracle, options=({}, *options), extremes=PAIR, conditioned=True, by_component=False)


CASES = {
    "dpo": pairs(
        dpo,
        {"beta": 0.5, "label_smoothing": 0.1, "margin": 0.3},
        {"label_smoothing": 0.2, "robust": True},
        {"divergence": "forward_kl"},
        {"divergence": "jensen_shannon"},
        {"divergence": "alpha", "alpha": 0.3},
    ),
    "ipo": pairs(ipo, {"beta": 0.5}),
    "hinge_dpo": pairs(hinge_dpo, {"beta": 0.5}),
    "simpo": pairs(simpo, {"beta": 1.5, "gamma": 0.5}),
    "cpo": pairs(cpo, {"beta": 0.5, "label_smoothing": 0.1}),
    "orpo": Case(
        orpo,
        options=({}, {"weight": 0.5}),
        draws={"chosen": negative, "rejected": negative},
        extremes={"chosen": mean_log_probability, "rejected": mean_log_probability},
        ulp=(4, 6),
        conditioned=True,
    ),
    "kto": Case(
        kto,
        options=({"kl": 0.3}, {"kl": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}),
        extremes=PAIR,
        conditioned=True,
    ),
    "apo_zero": pairs(apo_zero, {"beta": 0.5}),
    "apo_down": pairs(apo_down, {"beta": 0.5}),
    "nca": pairs(nca, {"beta": 0.5}),
    "bco": pairs(bco, {"beta": 0.5, "shift": 0.3}),
    "bradley_terry": pairs(bradley_terry, {"margin": 0.5}, {"tied": FLAGS, "log_tie": 0.3}),
    "plackett_luce": Case(
        plackett_luce,
        options=({}, {"mask": MASK}),
        draws={"ranks": ranks},
        by_component=False,
    ),
}
