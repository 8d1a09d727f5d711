"""Rows of the boxes: areas of rectangles on one pair, and the two bins around a number."""

import math

import mpmath
import numpy as np
from arithmetic import exp, is_exact, log

from cases import Case
from cases.nll import circle


def corners(box, format):
    a, b, c, d = box
    return (a, b, c, d) if format == "xyxy" else (a - c / 2, b - d / 2, a + c / 2, b + d / 2)


def sizes(box):
    return max(0, box[2] - box[0]), max(0, box[3] - box[1])


def pair(prediction, target, format):
    """The two boxes, the smallest box around both, the areas of the intersection and the union."""
    p, t = corners(prediction, format), corners(target, format)
    inside = [*map(max, p[:2], t[:2]), *map(min, p[2:], t[2:])]
    around = [*map(min, p[:2], t[:2]), *map(max, p[2:], t[2:])]
    shared = math.prod(sizes(inside))
    return p, t, around, shared, math.prod(sizes(p)) + math.prod(sizes(t)) - shared


def iou(prediction, target, format="xyxy"):
    *_, shared, union = pair(prediction, target, format)
    return 1 - shared / union


def giou(prediction, target, format="xyxy"):
    *_, around, shared, union = pair(prediction, target, format)
    whole = math.prod(sizes(around))
    return 1 - shared / union + (whole - union) / whole


def diou(prediction, target, format="xyxy"):
    p, t, around, shared, union = pair(prediction, target, format)
    apart = sum((p[i] + p[i + 2] - t[i] - t[i + 2]) ** 2 / 4 for i in (0, 1))
    return 1 - shared / union + apart / sum(size**2 for size in sizes(around))


def angle(x):
    return mpmath.atan(x) if is_exact(x) else math.atan(x)


def shape_term(prediction, target, format):
    (w, h), (v, g) = (sizes(corners(box, format)) for box in (prediction, target))
    return 4 / circle(w) ** 2 * (angle(v / g) - angle(w / h)) ** 2


def ciou(prediction, target, format="xyxy", *, fixed=None):
    at = {"prediction": prediction, "target": target} | (fixed or {})
    term = shape_term(at["prediction"], at["target"], format)
    factor = term / (iou(at["prediction"], at["target"], format) + term)
    return diou(prediction, target, format) + factor * shape_term(prediction, target, format)


def distribution_focal(logits, target):
    below = min(int(target), len(logits) - 2)
    total = log(sum(exp(x) for x in logits))
    share = target - below
    return total - (1 - share) * logits[below] - share * logits[below + 1]


def boxes(g, batch):
    """Boxes about the origin, most pairs of which overlap."""
    low, high = -g.uniform(0.2, 1.5, (*batch, 2)), g.uniform(0.2, 1.5, (*batch, 2))
    return np.concatenate([low, high], axis=-1).astype(np.float32)


def boxes_of_all_sizes(g, count):
    """Pairs of one magnitude: nearly equal, overlapping, or apart."""
    same = np.random.default_rng(3)
    scale = 10.0 ** same.uniform(-6, 6, (count, 1))
    shared = boxes(same, (count,))
    change = 10.0 ** same.uniform(-6, 0.5, (count, 1))
    moved = shared + change * g.uniform(-0.5, 0.5, (count, 4))
    low, high = np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])
    high = np.maximum(high, 0.1)  # which is also a size
    return scale * np.concatenate([low, high], axis=-1)


def places(g, batch):
    return g.uniform(0, 4, batch).astype(np.float32)


OPTIONS = ({}, {"format": "cxcywh"})
DRAWS = {"prediction": boxes, "target": boxes}
EXTREMES = {"prediction": boxes_of_all_sizes, "target": boxes_of_all_sizes}
COMMON = {
    "options": OPTIONS,
    "draws": DRAWS,
    "extremes": EXTREMES,
    "by_component": False,
    "conditioned": True,  # differences of corners that are nearly equal
    "ulp": (8, 8),
}

CASES = {
    "iou": Case(iou, **COMMON),
    "giou": Case(giou, **COMMON),
    "diou": Case(diou, **COMMON),
    "ciou": Case(ciou, **COMMON),
    "distribution_focal": Case(
        distribution_focal,
        draws={"target": places},
        extremes={"target": lambda g, count: places(g, (count,))},
        by_component=False,
        conditioned=True,
    ),
}
