"""The rows of the segmentation losses: counts of pixels, in loops."""

import numpy as np

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


def importance(class_weights, ignore_background):
    weights = [1] * CLASSES if class_weights is None else list(class_weights)
    return [0, *weights[1:]] if ignore_background else weights


def mean_over_classes(losses, class_weights, ignore_background):
    weights = importance(class_weights, ignore_background)
    return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)


def dice(
    probabilities, labels, mask=None, smooth=1, class_weights=None,
    ignore_background=False, squared=False,
):  # fmt: skip
    losses = []
    for pairs in regions(probabilities, labels, mask):
        overlap = sum(p * t for p, t in pairs)
        whole = sum(p**2 + t**2 if squared else p + t for p, t in pairs)
        losses.append(1 - (2 * overlap + smooth) / (whole + smooth))
    return mean_over_classes(losses, class_weights, ignore_background)


def tversky(
    probabilities, labels, alpha=0.3, beta=0.7, mask=None, smooth=1, class_weights=None,
    ignore_background=False,
):  # fmt: skip
    losses = []
    for pairs in regions(probabilities, labels, mask):
        both = sum(p * t for p, t in pairs)
        false = sum(p * (1 - t) for p, t in pairs)
        missed = sum((1 - p) * t for p, t in pairs)
        index = (both + smooth) / (both + alpha * false + beta * missed + smooth)
        losses.append(1 - index)
    return mean_over_classes(losses, class_weights, ignore_background)


def generalized_dice(probabilities, labels, mask=None, class_weights=None, ignore_background=False):
    every = list(regions(probabilities, labels, mask))
    outer = importance(class_weights, ignore_background)
    sizes = [sum(t for _, t in pairs) for pairs in every]
    smallest = min([s for s, w in zip(sizes, outer, strict=True) if s > 0 and w > 0], default=1)
    weights = [w / (s if s > 0 else smallest) ** 2 for s, w in zip(sizes, outer, strict=True)]
    overlap = sum(w * sum(p * t for p, t in pairs) for w, pairs in zip(weights, every, strict=True))
    whole = sum(w * sum(p + t for p, t in pairs) for w, pairs in zip(weights, every, strict=True))
    return 1 - 2 * overlap / whole


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


EXTREMES = {"probabilities": confident}

CASES = {
    "dice": Case(
        dice,
        options=({}, {"smooth": 0.25}, {"squared": True}, *COMMON),
        extremes=EXTREMES,
        by_component=False,
    ),
    "tversky": Case(
        tversky,
        options=({}, {"alpha": 1.0, "beta": 0.25}, {"smooth": 0.25}, *COMMON),
        extremes=EXTREMES,
        by_component=False,
    ),
    "generalized_dice": Case(
        generalized_dice, options=({}, *COMMON), extremes=EXTREMES, by_component=False
    ),
}
