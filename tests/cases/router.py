"""Rows of the router family: oracles in plain Python on one sequence, or one query."""

import numpy as np
from arithmetic import erfc, exp, log, sqrt

from cases import Batched, Case

TOKENS = 5


def load_balance(probabilities, expert_ids, mask=None, scale="one"):
    experts, k = len(probabilities[0]), len(expert_ids[0])
    kept = [t for t in range(len(expert_ids)) if mask is None or mask[t]]
    if not kept:
        return 0 * probabilities[0][0]
    total = 0
    for e in range(experts):
        sent = sum(int(i == e) for t in kept for i in expert_ids[t])
        share = sent / (len(kept) * (1 if scale == "k" else k))
        total += share * sum(probabilities[t][e] for t in kept) / len(kept)
    return experts * total


def _squared_variation(amounts):
    mean = sum(amounts) / len(amounts)
    return sum((x / mean - 1) ** 2 for x in amounts) / len(amounts)


def importance_cv(gates, mask=None):
    kept = [row for t, row in enumerate(gates) if mask is None or mask[t]]
    return _squared_variation([sum(row[e] for row in kept) for e in range(len(gates[0]))])


def load_cv(logits, noisy_logits, k=1, noise_scale=1.0, mask=None, *, fixed=None):
    noisy = noisy_logits if fixed is None else fixed.get("noisy_logits", noisy_logits)
    loads = [0] * len(logits[0])
    for t in range(len(logits)):
        if mask is not None and not mask[t]:
            continue
        order = sorted(noisy[t], reverse=True)
        for e in range(len(loads)):
            threshold = order[k] if noisy[t][e] >= order[k - 1] else order[k - 1]
            loads[e] += erfc(-(logits[t][e] - threshold) / noise_scale / sqrt(2.0)) / 2
    return _squared_variation(loads)


def indexer_kl(attention, logits, mask=None, *, fixed=None):
    attention = attention if fixed is None else fixed.get("attention", attention)
    kept = [j for j in range(len(logits)) if mask is None or mask[j]]
    total = log(sum(exp(logits[j]) for j in kept))
    return sum(attention[j] * (log(attention[j]) - logits[j] + total) for j in kept)


def ids(generator, batch):
    """Two different experts of four a token."""
    order = generator.permuted(np.broadcast_to(np.arange(4), (*batch, TOKENS, 4)), axis=-1)
    return order[..., :2].astype(np.int32)


def probabilities(generator, batch):
    return generator.dirichlet(np.ones(4), (*batch, TOKENS)).astype(np.float32)


def scores(generator, batch):
    return generator.normal(size=(*batch, TOKENS, 4)).astype(np.float32)


def attention(generator, batch):
    """Over five keys, of which the third has none, so that it may be masked."""
    drawn = generator.dirichlet(np.ones(4), batch)
    return np.insert(drawn, 2, 1e-6, axis=-1).astype(np.float32)


def over_tokens(keep):
    return Batched(lambda g, batch: np.broadcast_to(keep, (*batch, len(keep))).copy())


MASK = over_tokens([True, True, False, True, True])

CASES = {
    "load_balance": Case(
        load_balance,
        options=({}, {"mask": MASK, "scale": "k"}),
        draws={"probabilities": probabilities, "expert_ids": ids},
        extremes={
            "probabilities": lambda g, n: probabilities(g, (n,)),
            "expert_ids": lambda g, n: ids(g, (n,)),
        },
    ),
    "importance_cv": Case(
        importance_cv,
        options=({}, {"mask": MASK}),
        draws={"gates": probabilities},
        extremes={"gates": lambda g, n: probabilities(g, (n,))},
        by_component=False,
        conditioned=True,
    ),
    "load_cv": Case(
        load_cv,
        options=({}, {"k": 2, "noise_scale": 0.5, "mask": MASK}),
        draws={"logits": scores, "noisy_logits": scores},
        extremes={
            "logits": lambda g, n: scores(g, (n,)),
            "noisy_logits": lambda g, n: scores(g, (n,)),
        },
        ulp=(16, 16),
        by_component=False,
        conditioned=True,
    ),
    "indexer_kl": Case(
        indexer_kl,
        options=({}, {"mask": MASK}),
        draws={"attention": attention, "logits": lambda g, b: g.normal(size=(*b, 5)).astype("f")},
        extremes={
            "attention": lambda g, n: attention(g, (n,)),
            "logits": lambda g, n: g.normal(size=(n, 5)).astype("f"),
        },
        by_component=False,
        conditioned=True,
    ),
}
