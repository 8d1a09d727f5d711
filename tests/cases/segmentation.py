"""The rows of the segmentation losses: counts of pixels, in loops."""

import mpmath
import numpy as np
from arithmetic import exp, is_exact, log

import jaxloss.segmentation  # noqa: F401 (its losses are in the catalogue before the suite is made)
from cases import SIZES, Batched, Case

CLASSES = SIZES["classes"]


def regions(probabilities, labels, mask):
    """For each class, the pairs (p, t) of the pixels that count."""
    height, width, classes = np.shape(probabilities)
    for c in range(classes):
        pairs = []
        for place in np.ndindex(height, width):
            if mask is None or mask[place]:
                t = labels[place][c] if np.ndim(labels) == 3 else 1 * (labels[place] == c)
                pairs.append((probabilities[place][c], t))
        yield pairs


def importance(class_weights, ignore_background, present=None):
    weights = [1] * CLASSES if class_weights is None else list(class_weights)
    if present is not None:
        weights = [w if is_there else 0 * w for w, is_there in zip(weights, present, strict=True)]
    return [0, *weights[1:]] if ignore_background else weights


def mean_over_classes(losses, class_weights, ignore_background, present=None):
    weights = importance(class_weights, ignore_background, present)
    total = sum(w * x for w, x in zip(weights, losses, strict=True))
    return total / sum(weights) if sum(weights) else 0 * total


def in_the_image(probabilities, labels, mask):
    """Whether each class has a pixel."""
    every = regions(probabilities, labels, mask)
    return [sum(t for _, t in pairs) > 0 for pairs in every]


def dice(
    probabilities, labels, mask=None, smooth=1, class_weights=None,
    ignore_background=False, present_only=False, squared=False,
):  # fmt: skip
    losses = []
    for pairs in regions(probabilities, labels, mask):
        overlap = sum(p * t for p, t in pairs)
        whole = sum(p**2 + t**2 if squared else p + t for p, t in pairs)
        losses.append(1 - (2 * overlap + smooth) / (whole + smooth))
    present = in_the_image(probabilities, labels, mask) if present_only else None
    return mean_over_classes(losses, class_weights, ignore_background, present)


def jaccard(probabilities, labels, **options):
    return tversky(probabilities, labels, alpha=1, beta=1, **options)


def tversky(
    probabilities, labels, alpha=0.3, beta=0.7, mask=None, smooth=1, class_weights=None,
    ignore_background=False, present_only=False, gamma=1,
):  # fmt: skip
    losses = []
    for pairs in regions(probabilities, labels, mask):
        both = sum(p * t for p, t in pairs)
        false = sum(p * (1 - t) for p, t in pairs)
        missed = sum((1 - p) * t for p, t in pairs)
        index = (both + smooth) / (both + alpha * false + beta * missed + smooth)
        losses.append((1 - index) if gamma == 1 else exp(log(1 - index) / gamma))
    present = in_the_image(probabilities, labels, mask) if present_only else None
    return mean_over_classes(losses, class_weights, ignore_background, present)


def focal_tversky(probabilities, labels, gamma=4 / 3, **options):
    return tversky(probabilities, labels, gamma=gamma, **options)


def generalized_dice(probabilities, labels, mask=None, class_weights=None, ignore_background=False):
    every = list(regions(probabilities, labels, mask))
    outer = importance(class_weights, ignore_background)
    sizes = [sum(t for _, t in pairs) for pairs in every]
    smallest = min([s for s, w in zip(sizes, outer, strict=True) if s > 0 and w > 0], default=1)
    weights = [w / (s if s > 0 else smallest) ** 2 for s, w in zip(sizes, outer, strict=True)]
    overlap = sum(w * sum(p * t for p, t in pairs) for w, pairs in zip(weights, every, strict=True))
    whole = sum(w * sum(p + t for p, t in pairs) for w, pairs in zip(weights, every, strict=True))
    return 1 - 2 * overlap / whole


def lovasz(errors, true):
    """The extension of the Jaccard loss, from sets that grow by the pixel of the next error."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    number = mpmath.mpf if is_exact(errors[0]) else float
    total, before = 0, 0
    for k in range(1, len(order) + 1):
        wrong = set(order[:k])
        # 1 - |T \ E| / |T u E|
        after = 1 - number(len(true - wrong)) / len(wrong | true)
        total = total + errors[order[k - 1]] * (after - before)
        before = after
    return total


def lovasz_softmax(
    probabilities, labels, mask=None, class_weights=None, ignore_background=False, present_only=True
):
    losses = []
    for pairs in regions(probabilities, labels, mask):
        errors = [abs(t - p) for p, t in pairs]
        losses.append(lovasz(errors, {i for i, (_, t) in enumerate(pairs) if t}))
    present = in_the_image(probabilities, labels, mask) if present_only else None
    return mean_over_classes(losses, class_weights, ignore_background, present)


def lovasz_hinge(logits, labels, mask=None):
    kept = [i for i in np.ndindex(*np.shape(logits)) if mask is None or mask[i]]
    true = [labels[i] == 1 for i in kept]
    errors = [1 - (logits[i] if t else -logits[i]) for i, t in zip(kept, true, strict=True)]
    largest = [max(0 * e, e) for e in errors]
    return lovasz(largest, {i for i, t in enumerate(true) if t})


def boundary(probabilities, distances, mask=None, class_weights=None, ignore_background=False):
    losses = [
        sum(p * d for p, d in pairs) / len(pairs)
        for pairs in regions(probabilities, distances, mask)
    ]
    return mean_over_classes(losses, class_weights, ignore_background)


def hausdorff(
    probabilities, labels, predicted_distances, true_distances, alpha=2, mask=None,
    class_weights=None, ignore_background=False,
):  # fmt: skip
    of_labels = regions(probabilities, labels, mask)
    of_distances = regions(predicted_distances, true_distances, mask)
    losses = []
    for pairs, distances in zip(of_labels, of_distances, strict=True):
        terms = [
            (p - t) ** 2 * sum(x**alpha for x in both)
            for (p, t), both in zip(pairs, distances, strict=True)
        ]
        losses.append(sum(terms) / len(terms))
    return mean_over_classes(losses, class_weights, ignore_background)


WEIGHTS = np.array([0.5, 1.0, 2.0, 1.5], np.float32)
COMMON = (
    {"mask": Batched(lambda g, batch: g.random((*batch, SIZES["height"], SIZES["width"])) < 0.7)},
    {"class_weights": WEIGHTS},
    {"ignore_background": True},
)


def confident(g, count):
    """Probabilities from sure to indifferent."""
    scale = 10.0 ** g.uniform(-1, 1.5, (count, 1, 1, 1))
    exps = np.exp(scale * g.normal(size=(count, SIZES["height"], SIZES["width"], CLASSES)))
    return exps / exps.sum(-1, keepdims=True)


def doubtful(g, count):
    """Probabilities of which no two are so near 0 or 1 that their errors are equal."""
    return g.dirichlet(np.ones(CLASSES), (count, SIZES["height"], SIZES["width"]))


EXTREMES = {"probabilities": confident}
PIXELS = (SIZES["height"], SIZES["width"])


def on_or_off(g, batch):
    return g.integers(0, 2, (*batch, *PIXELS)).astype(np.float32)


def margins(g, count):
    """Logits of several magnitudes, one an image, no two of which have the same error."""
    return 10.0 ** g.uniform(-2, 20, (count, 1, 1)) * g.normal(size=(count, *PIXELS))


def far(g, count):
    """Distances of several magnitudes, one an example."""
    scale = 10.0 ** g.uniform(-3, 3, (count, 1, 1, 1))
    return scale * np.abs(g.normal(size=(count, *PIXELS, CLASSES)))


def signed(g, count):
    return far(g, count) * g.choice([-1, 1], (count, *PIXELS, CLASSES))


PRESENT = {"present_only": True}

CASES = {
    "dice": Case(
        dice,
        options=({}, {"smooth": 0.25}, {"squared": True}, PRESENT, *COMMON),
        extremes=EXTREMES,
        by_component=False,
    ),
    "jaccard": Case(
        jaccard,
        options=({}, PRESENT | {"smooth": 0.25} | COMMON[0] | COMMON[1]),
        extremes=EXTREMES,
        by_component=False,
    ),
    "tversky": Case(
        tversky,
        options=({}, {"alpha": 1.0, "beta": 0.25}, {"smooth": 0.25}, *COMMON),
        extremes=EXTREMES,
        by_component=False,
    ),
    "focal_tversky": Case(
        focal_tversky,
        options=({}, PRESENT | {"gamma": 0.75, "alpha": 1.0, "beta": 0.25} | COMMON[0]),
        extremes=EXTREMES,
        by_component=False,
        ulp=(6, 8),
    ),
    "generalized_dice": Case(
        generalized_dice, options=({}, *COMMON), extremes=EXTREMES, by_component=False
    ),
    "lovasz_softmax": Case(
        lovasz_softmax,
        options=({}, {"present_only": False} | COMMON[0], COMMON[1]),
        extremes={"probabilities": doubtful},
        by_component=False,
    ),
    "lovasz_hinge": Case(
        lovasz_hinge,
        options=({}, COMMON[0]),
        draws={"labels": on_or_off},
        extremes={"logits": margins, "labels": lambda g, count: on_or_off(g, (count,))},
        by_component=False,
    ),
    "boundary": Case(
        boundary,
        options=({}, COMMON[0] | COMMON[1]),
        extremes=EXTREMES | {"distances": signed},
        by_component=False,
        conditioned=True,  # inside and outside nearly cancel
    ),
    "hausdorff": Case(
        hausdorff,
        options=({}, {"alpha": 1.5} | COMMON[0]),
        extremes=EXTREMES | {"predicted_distances": far, "true_distances": far},
        by_component=False,
        ulp=(8, 8),
    ),
}
