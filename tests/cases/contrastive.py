"""The rows of the contrastive family."""

import numpy as np
from arithmetic import exp, log, log1p, sqrt

import jaxloss.contrastive  # noqa: F401 (files its losses)
from cases import Batched, Case


def length(x):
    return sqrt(sum(x * x))


def cosine(x, y):
    return sum(x * y) / (length(x) * length(y))


def triplet(anchor, positive, negative, margin=1, power=2, swap=False, distance="norm", mask=None):
    if mask is not None:
        anchor, positive, negative = anchor[mask], positive[mask], negative[mask]

    def apart(x, y):
        if distance == "cosine":
            return 1 - cosine(x, y)
        total = sum(abs(x - y) ** power)
        return total if distance == "squared" else total ** (1 / power)

    negatives = [apart(anchor, negative)] + ([apart(positive, negative)] if swap else [])
    return max(0, apart(anchor, positive) - min(negatives) + margin)


def cosine_embedding(left, right, labels, margin=0, mask=None):
    if mask is not None:
        left, right = left[mask], right[mask]
    return 1 - cosine(left, right) if labels == 1 else max(0, cosine(left, right) - margin)


def pair(left, right, labels, margin=1):
    distance = length(left - right)
    return labels * distance**2 / 2 + (1 - labels) * max(0, margin - distance) ** 2 / 2


def info_nce(query, key, temperature=0.1, chunk_size=None, where=None):
    inside = [i for i in range(len(query)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in query])
    for i in inside:
        masses = {j: exp(cosine(query[i], key[j]) / temperature) for j in inside}
        losses[i] = log(sum(masses.values()) / masses[i])
    return losses


def clip(left, right, temperature=0.07, chunk_size=None, where=None):
    inside = [i for i in range(len(left)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in left])
    for i in inside:
        masses = {j: exp(cosine(left[i], right[j]) / temperature) for j in inside}
        turned = {j: exp(cosine(left[j], right[i]) / temperature) for j in inside}
        of_left = log(sum(masses.values()) / masses[i])
        losses[i] = (of_left + log(sum(turned.values()) / turned[i])) / 2
    return losses


def siglip(left, right, temperature=0.1, bias=-10, chunk_size=None, where=None):
    inside = [i for i in range(len(left)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in left])
    for i in inside:
        for j in inside:
            score = cosine(left[i], right[j]) / temperature + bias
            losses[i] += log1p(exp(-score if i == j else score))
    return losses


def nt_xent(embeddings, labels, temperature=0.07, chunk_size=None, where=None):
    inside = [i for i in range(len(labels)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in embeddings])
    for i in inside:
        masses = {
            j: exp(cosine(embeddings[i], embeddings[j]) / temperature) for j in inside if j != i
        }
        negatives = sum(masses[j] for j in masses if labels[j] != labels[i])
        positives = [masses[j] for j in masses if labels[j] == labels[i]]
        for mass in positives:
            losses[i] += log((mass + negatives) / mass) / len(positives)
    return losses


def circle(
    embeddings,
    labels,
    gamma=80,
    margin=0.4,
    detach_weights=False,
    references=None,
    reference_labels=None,
    where=None,
):
    inside = [i for i in range(len(labels)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in embeddings])
    for i in inside:
        met = [(embeddings[j], labels[j]) for j in inside if j != i]
        if references is not None:
            met = [*zip(references, reference_labels, strict=True)]
        of_matches = of_others = 0
        for other, label in met:
            s = cosine(embeddings[i], other)
            if label == labels[i]:
                of_matches += exp(gamma * max(0, 1 + margin - s) * (1 - margin - s))
            else:
                of_others += exp(gamma * max(0, s + margin) * (s - margin))
        losses[i] = log(1 + of_matches * of_others)
    return losses


def of_scale(*shape):
    """Vectors of unit scale, of which a whole example is then made tiny or huge."""

    def draw(generator, count):
        scale = 10.0 ** generator.uniform(-8, 8, (count, *[1] * len(shape)))
        return scale * generator.normal(size=(count, *shape))

    return draw


VECTOR, SET = of_scale(5), of_scale(5, 5)
KEPT = np.array([True, False, True, True, True])


def about(size):
    """Points at about this distance from the origin, and so from each other."""
    return lambda generator, count: size * generator.normal(size=(count, 5))


def sharp(example):
    """Whether cosines are divided by a temperature of 0.07 or 0.1.

    Near 1, a last place of the embeddings then is 10 or 14 of a loss, and more of several.
    """
    return "temperature" not in example


IN_SET = Batched(lambda g, batch: g.random((*batch, 5)) < 0.7)

CASES = {
    "triplet": Case(
        triplet,
        options=(
            {},
            {"margin": 3.0, "mask": KEPT},
            {"power": 1.0},
            {"power": 3.0},
            {"swap": True},
            {"distance": "squared"},
            {"distance": "cosine"},
        ),
        # Where two distances agree, their difference has few digits: the positives are far away
        # (of random directions, two cosines may still agree).
        extremes={"anchor": about(0.1), "positive": about(3.0), "negative": about(0.3)},
        ulp=(6, 3),
        by_component=False,
        # The difference of two cosines may nearly be the margin: at the worst draw, 9 off, a last
        # place of the inputs moves the loss by 6 of its own.
        conditioned=lambda example: example.get("distance") == "cosine",
    ),
    "circle": Case(
        circle,
        options=({"gamma": 4.0}, {"gamma": 4.0, "margin": 0.25}, {"gamma": 4.0, "where": IN_SET}),
        extremes={"embeddings": SET},
        ulp=(4, 4),
        by_component=False,
        # An exponent has a slope of up to 4 (2.4 + 1.6) = 16 in a cosine: at the worst draw, 10
        # off, a last place of the inputs moves the gradient by 3 of its own.
        conditioned=True,
    ),
    "cosine_embedding": Case(
        cosine_embedding,
        options=({}, {"margin": 0.3, "mask": KEPT}),
        extremes={"left": VECTOR, "right": VECTOR},
        ulp=(6, 3),
        by_component=False,
        # The cosine of a pair that does not match, less the margin: a last place of an embedding
        # changes it by that of 1, however small the difference is.
        conditioned=lambda example: example.get("margin", 0) != 0 and example["labels"] != 1,
    ),
    "pair": Case(
        pair,
        options=({}, {"margin": 4.0}),
        extremes={"left": VECTOR, "right": VECTOR},
        ulp=(3, 2),
        by_component=False,
    ),
    "info_nce": Case(
        info_nce,
        options=({}, {"temperature": 0.5, "chunk_size": 2}, {"where": IN_SET}),
        extremes={"query": SET, "key": SET},
        ulp=(5, 4),
        by_component=False,
        conditioned=sharp,
    ),
    "clip": Case(
        clip,
        options=(
            {},
            {"temperature": 0.5, "chunk_size": 2},
            {"where": IN_SET},
            {"where": IN_SET, "chunk_size": 2},
        ),
        extremes={"left": SET, "right": SET},
        # 14 at the worst draw, a loss of 0.3: logits of 9.9, of what is no match, are entries of a
        # product of matrices and 1.6 of their last places off, 50 of the loss's, times their share.
        ulp=(16, 4),
        by_component=False,
        conditioned=sharp,
    ),
    "siglip": Case(
        siglip,
        options=(
            {},
            {"temperature": 0.5, "bias": -1.0, "chunk_size": 2},
            {"where": IN_SET},
            {"where": IN_SET, "chunk_size": 2},
        ),
        extremes={"left": SET, "right": SET},
        ulp=(4, 5),
        by_component=False,
    ),
    "nt_xent": Case(
        nt_xent,
        options=({}, {"temperature": 0.5, "chunk_size": 2}, {"where": IN_SET}),
        extremes={"embeddings": SET},
        ulp=(4, 5),
        by_component=False,
        conditioned=sharp,
    ),
}
