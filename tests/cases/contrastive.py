"""The rows of the contrastive family."""

import numpy as np
from arithmetic import cos, exp, log, log1p, sin, sqrt

import jaxloss.contrastive  # noqa: F401 (files its losses)
from cases import Batched, Case, with_feature_mask


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


@with_feature_mask
def info_nce(query, key, temperature=0.1, negatives=None, chunk_size=None, where=None):
    inside = [i for i in range(len(query)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in query])
    for i in inside:
        masses = {j: exp(cosine(query[i], key[j]) / temperature) for j in inside}
        more = () if negatives is None else negatives if negatives.ndim == 2 else negatives[i]
        others = sum(exp(cosine(query[i], x) / temperature) for x in more)
        losses[i] = log((sum(masses.values()) + others) / masses[i])
    return losses


@with_feature_mask
def clip(left, right, temperature=0.07, chunk_size=None, where=None):
    inside = [i for i in range(len(left)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in left])
    for i in inside:
        masses = {j: exp(cosine(left[i], right[j]) / temperature) for j in inside}
        turned = {j: exp(cosine(left[j], right[i]) / temperature) for j in inside}
        of_left = log(sum(masses.values()) / masses[i])
        losses[i] = (of_left + log(sum(turned.values()) / turned[i])) / 2
    return losses


@with_feature_mask
def siglip(left, right, temperature=0.1, bias=-10, chunk_size=None, where=None):
    inside = [i for i in range(len(left)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in left])
    for i in inside:
        for j in inside:
            score = cosine(left[i], right[j]) / temperature + bias
            losses[i] += log1p(exp(-score if i == j else score))
    return losses


@with_feature_mask
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


@with_feature_mask
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


def _cosines(embeddings, labels, where):
    """For each example of a set, its cosines with those of its label, and with the others."""
    inside = [i for i in range(len(labels)) if where is None or where[i]]
    for i in inside:
        met = {j: cosine(embeddings[i], embeddings[j]) for j in inside if j != i}
        own = [s for j, s in met.items() if labels[j] == labels[i]]
        yield i, own, [s for j, s in met.items() if labels[j] != labels[i]]


@with_feature_mask
def supervised_contrastive(embeddings, labels, temperature=0.1, chunk_size=None, where=None):
    losses = np.array([0 * x[0] for x in embeddings])
    for i, own, others in _cosines(embeddings, labels, where):
        total = sum(exp(s / temperature) for s in own + others)
        for s in own:
            losses[i] += log(total / exp(s / temperature)) / len(own)
    return losses


@with_feature_mask
def multi_similarity(embeddings, labels, alpha=2, beta=50, base=0.5, chunk_size=None, where=None):
    losses = np.array([0 * x[0] for x in embeddings])
    for i, own, others in _cosines(embeddings, labels, where):
        losses[i] += log1p(sum([exp(-alpha * (s - base)) for s in own], 0 * alpha)) / alpha
        losses[i] += log1p(sum([exp(beta * (s - base)) for s in others], 0 * beta)) / beta
    return losses


@with_feature_mask
def hard_negative_info_nce(
    query,
    key,
    temperature=0.1,
    beta=0.5,
    detach_weights=False,
    chunk_size=None,
    where=None,
    *,
    fixed=None,
):
    inside = [i for i in range(len(query)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in query])
    still = {"query": query, "key": key, "temperature": temperature, "beta": beta}
    still |= (fixed or {}) if detach_weights else {}
    for i in inside:
        scores = {j: cosine(query[i], key[j]) / temperature for j in inside}
        of_weights = {
            j: still["beta"] * cosine(still["query"][i], still["key"][j]) / still["temperature"]
            for j in inside
            if j != i
        }
        mean = sum(exp(x) for x in of_weights.values()) / max(len(of_weights), 1)
        total = sum(exp(x + scores[j]) / mean for j, x in of_weights.items())
        losses[i] = log1p(total / exp(scores[i])) if of_weights else 0 * losses[i]
    return losses


@with_feature_mask
def binary_nce(query, key, temperature=1, chunk_size=None, where=None):
    inside = [i for i in range(len(query)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in query])
    for i in inside:
        for j in inside:
            score = sum(query[i] * key[j]) / temperature
            losses[i] += softplus(-score if i == j else score) / len(inside)
    return losses


def softplus(x):
    return x + log1p(exp(-x)) if x > 0 else log1p(exp(x))


def _class_nll(scores, label, mask):
    kept = [s for j, s in enumerate(scores) if mask is None or mask[j]]
    return log(sum(exp(s - scores[label]) for s in kept))


def arcface(embeddings, labels, prototypes=None, margin=0.5, scale=64, beyond="linear", mask=None):
    cosines = [cosine(embeddings, w) for w in prototypes]
    own = cosines[labels]
    moved = own * cos(margin) - sqrt(1 - own * own) * sin(margin)
    if beyond == "linear" and own < -cos(margin):
        moved = own - margin * sin(margin)
    cosines[labels] = moved
    return _class_nll([scale * c for c in cosines], labels, mask)


def cosface(embeddings, labels, prototypes=None, margin=0.35, scale=64, mask=None):
    cosines = [cosine(embeddings, w) for w in prototypes]
    cosines[labels] -= margin
    return _class_nll([scale * c for c in cosines], labels, mask)


def proxy_nca(embeddings, labels, prototypes=None, scale=1, among_others=False, mask=None):
    scores = [-scale * (2 - 2 * cosine(embeddings, w)) for w in prototypes]
    if not among_others:
        return _class_nll(scores, labels, mask)
    others = sum(exp(s) for j, s in enumerate(scores) if j != labels and (mask is None or mask[j]))
    return log(others) - scores[labels]


def proxy_anchor(embeddings, labels, prototypes=None, margin=0.1, scale=32, mask=None):
    kept = [i for i in range(len(labels)) if mask is None or mask[i]]
    attraction, repulsion, present = 0 * embeddings[0][0], 0, 0
    for p, proxy in enumerate(prototypes):
        cosines = {i: cosine(embeddings[i], proxy) for i in kept}
        own = [exp(-scale * (cosines[i] - margin)) for i in kept if labels[i] == p]
        others = [exp(scale * (cosines[i] + margin)) for i in kept if labels[i] != p]
        present += bool(own)
        attraction += log1p(sum(own, 0 * scale))
        repulsion += log1p(sum(others, 0 * scale))
    return attraction / max(present, 1) + repulsion / len(prototypes)


@with_feature_mask
def batch_triplet(
    embeddings, labels, margin=1, mining="hard", distance="norm", chunk_size=None, where=None
):
    inside = [i for i in range(len(labels)) if where is None or where[i]]
    losses = np.array([0 * x[0] for x in embeddings])
    for i in inside:
        apart = {j: length(embeddings[i] - embeddings[j]) for j in inside if j != i}
        if distance == "squared":
            apart = {j: d**2 for j, d in apart.items()}
        own = [d for j, d in apart.items() if labels[j] == labels[i]]
        others = [d for j, d in apart.items() if labels[j] != labels[i]]
        if not own or not others:
            continue
        if mining == "hard":
            triplets = [(max(own), min(others))]
        elif mining == "all":
            triplets = [(p, n) for p in own for n in others]
        else:
            triplets = [(p, min([n for n in others if n > p], default=max(others))) for p in own]
        losses[i] += sum(max(0, p - n + margin) for p, n in triplets) / len(triplets)
    return losses


def cosent(cosines, similarity, temperature=0.05, mask=None, *, fixed=None):
    similarity = similarity if fixed is None else fixed["similarity"]  # only its order counts
    kept = [i for i in range(len(cosines)) if mask is None or mask[i]]
    pairs = [(i, j) for i in kept for j in kept if similarity[i] < similarity[j]]
    return log1p(
        sum([exp((cosines[i] - cosines[j]) / temperature) for i, j in pairs], 0 * cosines[0])
    )


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


GENERATOR = np.random.default_rng(5)
PROTOTYPES = GENERATOR.normal(size=(4, 5)).astype(np.float32)
NEGATIVES = Batched(lambda g, batch: g.normal(size=(*batch, 3, 5)).astype(np.float32))
OWN_NEGATIVES = Batched(lambda g, batch: g.normal(size=(*batch, 5, 2, 5)).astype(np.float32))
MASK = Batched(
    lambda g, batch: np.broadcast_to([True, False, True, True, True], (*batch, 5)).copy()
)


def class_ids(*shape):
    return lambda g, batch: g.integers(0, 4, (*batch, *shape)).astype(np.int32)


def kept_ids(g, batch):
    """Class ids that `OF_CLASSES` leaves."""
    return 2 * g.integers(0, 2, batch).astype(np.int32)


def cosines(generator, batch):
    return generator.uniform(-1, 1, (*batch, 5)).astype(np.float32)


def grades(generator, batch):
    """Similarities from 0 to 5, of which some are equal."""
    return generator.integers(0, 4, (*batch, 5)).astype(np.float32)


IN_SET = Batched(lambda g, batch: g.random((*batch, 5)) < 0.7)
ENTRIES = Batched(lambda g, batch: g.random((*batch, 5, 5)) < np.array([0.6, 1, 0.6, 1, 0.6]))
SOME = {"where": IN_SET, "mask": ENTRIES}
SHARED = {"where": IN_SET, "mask": KEPT}
OF_CLASSES = Batched(lambda g, batch: g.random((*batch, 4)) < np.array([1, 0.6, 1, 0.6]))

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
        options=({"gamma": 4.0}, {"gamma": 4.0, "margin": 0.25}, SOME | {"gamma": 4.0}),
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
        options=(
            {},
            {"temperature": 0.5, "chunk_size": 2},
            SOME,
            {"temperature": 0.5, "negatives": NEGATIVES},
            {"temperature": 0.5, "negatives": OWN_NEGATIVES, "chunk_size": 2},
        ),
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
            SOME,
            SHARED | {"chunk_size": 2},
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
            SOME,
            SHARED | {"chunk_size": 2},
        ),
        extremes={"left": SET, "right": SET},
        ulp=(4, 5),
        by_component=False,
    ),
    "nt_xent": Case(
        nt_xent,
        options=({}, {"temperature": 0.5, "chunk_size": 2}, SOME),
        extremes={"embeddings": SET},
        ulp=(4, 5),
        by_component=False,
        conditioned=sharp,
    ),
    "supervised_contrastive": Case(
        supervised_contrastive,
        options=({}, {"temperature": 0.5, "chunk_size": 2}, SOME),
        extremes={"embeddings": SET},
        ulp=(4, 5),
        by_component=False,
        conditioned=sharp,
    ),
    "multi_similarity": Case(
        multi_similarity,
        options=(
            {"beta": 10.0},
            {"alpha": 3.0, "beta": 20.0, "base": 0.3, "chunk_size": 2},
            SHARED | {"beta": 10.0},
        ),
        extremes={"embeddings": SET},
        by_component=False,
        conditioned=True,
    ),
    "hard_negative_info_nce": Case(
        hard_negative_info_nce,
        options=(
            {"temperature": 0.5},
            {"temperature": 0.5, "beta": 1.0, "chunk_size": 2, "detach_weights": True},
            SOME | {"temperature": 0.5},
        ),
        extremes={"query": SET, "key": SET},
        by_component=False,
        conditioned=True,
    ),
    "binary_nce": Case(
        binary_nce,
        options=({}, {"temperature": 2.0, "chunk_size": 2}, SOME),
        by_component=False,
        extremes=dict.fromkeys(("query", "key"), lambda g, count: g.normal(size=(count, 5, 5))),
        conditioned=True,
    ),
    "arcface": Case(
        arcface,
        options=(
            {"prototypes": PROTOTYPES, "scale": 8.0},
            {"prototypes": PROTOTYPES, "scale": 4.0, "margin": 1.2, "mask": OF_CLASSES},
            {
                "prototypes": PROTOTYPES,
                "scale": 4.0,
                "margin": 1.2,
                "beyond": "none",
                "mask": OF_CLASSES,
            },
        ),
        draws={"labels": kept_ids},
        extremes={"embeddings": VECTOR, "labels": lambda g, count: kept_ids(g, (count,))},
        by_component=False,
        conditioned=True,
    ),
    "cosface": Case(
        cosface,
        options=(
            {"prototypes": PROTOTYPES, "scale": 8.0},
            {"prototypes": PROTOTYPES, "scale": 4.0, "margin": 0.1, "mask": OF_CLASSES},
        ),
        draws={"labels": kept_ids},
        extremes={"embeddings": VECTOR, "labels": lambda g, count: kept_ids(g, (count,))},
        by_component=False,
        conditioned=True,
    ),
    "proxy_nca": Case(
        proxy_nca,
        options=(
            {"prototypes": PROTOTYPES},
            {"prototypes": PROTOTYPES, "scale": 3.0, "among_others": True, "mask": OF_CLASSES},
        ),
        draws={"labels": kept_ids},
        extremes={"embeddings": VECTOR, "labels": lambda g, count: kept_ids(g, (count,))},
        by_component=False,
        conditioned=True,
    ),
    "proxy_anchor": Case(
        proxy_anchor,
        options=(
            {"prototypes": PROTOTYPES, "scale": 8.0},
            {"prototypes": PROTOTYPES, "scale": 4.0, "margin": 0.3, "mask": MASK},
        ),
        draws={"labels": class_ids(5)},
        extremes={"embeddings": SET},
        by_component=False,
        conditioned=True,
    ),
    "batch_triplet": Case(
        batch_triplet,
        options=(
            {},
            {"mining": "semi_hard", "margin": 0.5, "chunk_size": 2},
            SOME | {"mining": "all"},
            {"mining": "all", "distance": "squared", "chunk_size": 2},
        ),
        extremes={"embeddings": lambda g, count: g.normal(size=(count, 5, 5))},
        by_component=False,
        conditioned=True,
    ),
    "cosent": Case(
        cosent,
        options=({"temperature": 0.5}, {"temperature": 0.2, "mask": MASK}),
        draws={"cosines": cosines, "similarity": grades},
        extremes={
            "cosines": lambda g, count: cosines(g, (count,)),
            "similarity": lambda g, count: grades(g, (count,)),
        },
        by_component=False,
        conditioned=True,
    ),
}
