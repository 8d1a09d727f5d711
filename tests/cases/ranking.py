"""The rows of the ranking family: every oracle loops over the items that the mask keeps."""

import numpy as np
from arithmetic import exp, log

import jaxloss.ranking  # noqa: F401  (files its losses before the suite is parametrised)
from cases import Batched, Case


def keep(mask, *arrays):
    return (
        [[x for x, k in zip(a, mask, strict=True) if k] for a in arrays]
        if mask is not None
        else arrays
    )


def log_softmax(scores, of):
    return log(exp(scores[of]) / sum(exp(s) for s in scores))


def softmax(scores, relevance, mask=None):
    s, y = keep(mask, scores, relevance)
    return -sum(y[i] * log_softmax(s, i) for i in range(len(s)))


def poly1_softmax(scores, relevance, epsilon=1, mask=None):
    s, y = keep(mask, scores, relevance)
    target = sum(y[i] / sum(y) * exp(s[i]) / sum(exp(x) for x in s) for i in range(len(s)))
    return softmax(s, y) + epsilon * (1 - target) if len(s) else 0


def unique_softmax(scores, relevance, gain="exponential", mask=None):
    s, y = keep(mask, scores, relevance)
    gains = [2**x - 1 if gain == "exponential" else x for x in y]
    lesser = [[s[i]] + [s[j] for j in range(len(s)) if y[j] < y[i]] for i in range(len(s))]
    return -sum(g * log_softmax(among, 0) for g, among in zip(gains, lesser, strict=True))


def list_mle(scores, relevance, mask=None):
    s, y = keep(mask, scores, relevance)
    left = [s[i] for i in sorted(range(len(s)), key=lambda i: -y[i])]
    return -sum(log_softmax(left[i:], 0) for i in range(len(left)))


def pairwise(cost, ties=False):
    """The oracle of a pairwise loss, from the cost of differences of scores and of relevance."""

    def oracle(scores, relevance, mask=None, pair_weights=None, **options):
        items = range(len(scores)) if mask is None else np.flatnonzero(mask)
        pairs = [
            (i, j) for i in items for j in items if relevance[i] > relevance[j] or (ties and i != j)
        ]
        weight = (lambda i, j: 1) if pair_weights is None else (lambda i, j: pair_weights[i, j])
        total = sum(
            weight(i, j) * cost(scores[i] - scores[j], relevance[i] - relevance[j], **options)
            for i, j in pairs
        )
        return total / max(len(pairs), 1)

    return oracle


def pinball(s, y, level=0.5, squared=False):
    error = s - y
    return (1 - level if error > 0 else level) * (error**2 if squared else abs(error))


def approx_ndcg(scores, relevance, temperature=1, gain="exponential", mask=None):
    s, y = keep(mask, scores, relevance)
    gains = [2**x - 1 if gain == "exponential" else x for x in y]
    items = range(len(s))
    ranks = [
        1 + sum(1 / (1 + exp((s[i] - s[j]) / temperature)) for j in items if j != i) for i in items
    ]
    best = sum(
        g * log(2 + 0 * g) / log(2 + r + 0 * g) for r, g in enumerate(sorted(gains, reverse=True))
    )
    return (
        1 - sum(g * log(2 + 0 * r) / log(1 + r) for g, r in zip(gains, ranks, strict=True)) / best
        if len(s)
        else 0
    )


def margin(scores, rival_scores, sign, margin=0):
    return max(0, margin - sign * (scores - rival_scores))


def distinct(generator, batch):
    """Grades without ties: at a tie a loss may jump with the relevance."""
    return generator.permuted(
        np.broadcast_to(np.arange(5) * 0.7 + 0.1, (*batch, 5)), axis=-1
    ).astype("f4")


def signs(generator, batch):
    return np.where(generator.random(batch) < 0.5, -1, 1).astype("f4")


def rows(generator, count):
    """Lists from indifferent to certain."""
    scale = 10.0 ** generator.uniform(-4, 4, (count, 1))
    return (scale * generator.normal(size=(count, 5))).astype("f4")


def far(generator, count):
    magnitude = 10.0 ** generator.uniform(-30, 30, (count, 5))
    return (np.where(generator.random((count, 5)) < 0.5, -1, 1) * magnitude).astype("f4")


def grades(generator, count):
    return generator.uniform(0, 8, (count, 5)).astype("f4")


MASK = Batched(lambda g, batch: g.random((*batch, 5)) < 0.7)
PAIR_WEIGHTS = Batched(lambda g, batch: g.uniform(0.5, 2, (*batch, 5, 5)).astype("f4"))
LISTWISE = {
    "draws": {"relevance": distinct},
    "extremes": {"scores": rows, "relevance": grades},
    "by_component": False,  # p - q vanishes at the optimum
    "ulp": (4, 6),
}
PAIRWISE = ({}, {"mask": MASK}, {"pair_weights": PAIR_WEIGHTS})
ORDERED = LISTWISE | {"options": PAIRWISE}
FITTED = ORDERED | {"extremes": {"scores": far, "relevance": far}}

CASES = {
    "softmax": Case(softmax, options=({}, {"mask": MASK}), **LISTWISE | {"ulp": (4, 3)}),
    "poly1_softmax": Case(
        poly1_softmax,
        options=({}, {"epsilon": 0.5}, {"mask": MASK}),
        **LISTWISE | {"ulp": (4, 3)},
    ),
    "unique_softmax": Case(
        unique_softmax, options=({}, {"gain": "linear"}, {"mask": MASK}), **LISTWISE
    ),
    "list_mle": Case(list_mle, options=({}, {"mask": MASK}), **LISTWISE),
    "pairwise_hinge": Case(
        pairwise(lambda s, y, margin=1: max(0, margin - s)),
        **ORDERED | {"options": (*PAIRWISE, {"margin": 0.3})},
    ),
    "pairwise_logistic": Case(pairwise(lambda s, y: log(1 + exp(-s))), **ORDERED),
    "pairwise_soft_zero_one": Case(pairwise(lambda s, y: 1 / (1 + exp(s))), **ORDERED),
    "pairwise_squared_error": Case(pairwise(lambda s, y: (s - y) ** 2, ties=True), **FITTED),
    "pairwise_quantile": Case(
        pairwise(pinball), **FITTED | {"options": (*PAIRWISE, {"level": 0.8}, {"squared": True})}
    ),
    "approx_ndcg": Case(
        approx_ndcg,
        options=({}, {"temperature": 0.5}, {"gain": "linear"}, {"mask": MASK}),
        # Of two items of nearly one gain in the wrong order all but their difference cancels: there
        # a last place of the grades moves the loss by 14 of its own.
        **LISTWISE | {"ulp": (4, 6), "conditioned": True},
    ),
    "margin": Case(
        margin,
        options=({}, {"margin": 0.5}),
        draws={"sign": signs},
        extremes={"sign": lambda g, count: signs(g, (count,))},
    ),
}
