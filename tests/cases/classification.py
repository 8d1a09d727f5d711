"""The rows of the classification shelf."""

import numpy as np
from arithmetic import exp, log

from cases import Batched, Case


def one_hot(labels, classes):
    return np.arange(classes) == labels if np.ndim(labels) == 0 else labels


def softmax_cross_entropy(logits, labels, label_smoothing=0, class_weights=None):
    exps = exp(logits)
    probabilities = exps / sum(exps)
    classes = len(logits)
    labels = (1 - label_smoothing) * one_hot(labels, classes) + label_smoothing / classes
    weights = [1] * classes if class_weights is None else class_weights
    return -sum(w * q * log(p) for w, q, p in zip(weights, labels, probabilities, strict=True))


def sigmoid_cross_entropy(logits, labels, label_smoothing=0, positive_weight=1):
    labels = (1 - label_smoothing) * labels + label_smoothing / 2
    yes, no = 1 / (1 + exp(-logits)), 1 / (1 + exp(logits))
    return -positive_weight * labels * log(yes) - (1 - labels) * log(no)


def binary_cross_entropy(probabilities, labels):
    return -labels * log(probabilities) - (1 - labels) * log(1 - probabilities)


def categorical_cross_entropy(probabilities, labels):
    one_hot_labels = one_hot(labels, len(probabilities))
    return -sum(q * log(p) for q, p in zip(one_hot_labels, probabilities, strict=True))


def hinge(scores, labels, zero_one_labels=False):
    return max(0, 1 - (2 * labels - 1 if zero_one_labels else labels) * scores)


def squared_hinge(scores, labels, zero_one_labels=False):
    return hinge(scores, labels, zero_one_labels) ** 2


WEIGHTS = np.array([0.5, 1.0, 2.0, 1.5], np.float32)

CASES = {
    "softmax_cross_entropy": Case(
        softmax_cross_entropy,
        options=(
            {},
            {"label_smoothing": 0.1},
            {"class_weights": WEIGHTS},
            {"label_smoothing": 0.2, "class_weights": WEIGHTS},
        ),
        # p - q vanishes at the optimum; with one class and no smoothing it never does.
        by_component=lambda s: s.forms[1].kind == "Int" and "label_smoothing" not in s.given,
    ),
    "sigmoid_cross_entropy": Case(
        sigmoid_cross_entropy,
        options=(
            {},
            {"label_smoothing": 0.1},
            {"positive_weight": 3.0},
            {"positive_weight": Batched(lambda g, batch: g.uniform(1, 2, batch).astype("f4"))},
        ),
        by_component=False,
    ),
    "binary_cross_entropy": Case(binary_cross_entropy, by_component=False),
    "categorical_cross_entropy": Case(categorical_cross_entropy),
    "hinge": Case(hinge),
    "squared_hinge": Case(squared_hinge),
}
