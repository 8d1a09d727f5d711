"""The rows of the classification family."""

import itertools

import numpy as np
from arithmetic import exp, expm1, log, sqrt

from cases import SIZES, Batched, Case

# Defaults, as rounded.
F05, F07, F01, F08, F02 = (float(np.float32(x)) for x in (0.05, 0.7, 0.1, 0.8, 0.2))


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


def negative_log_likelihood(log_probabilities, labels, class_weights=None):
    classes = len(log_probabilities)
    weights = [1] * classes if class_weights is None else class_weights
    terms = zip(weights, one_hot(labels, classes), log_probabilities, strict=True)
    return -sum(w * q * log_p for w, q, log_p in terms)


def multilabel_soft_margin(logits, labels, class_weights=None):
    classes = len(logits)
    weights = [1] * classes if class_weights is None else class_weights
    each = map(sigmoid_cross_entropy, logits, labels)
    return sum(w * term for w, term in zip(weights, each, strict=True)) / classes


def z_loss(logits):
    return log(sum(exp(logits))) ** 2


def perceptron(scores, labels, zero_one_labels=False):
    return max(0, -(2 * labels - 1 if zero_one_labels else labels) * scores)


def logistic(scores, labels, zero_one_labels=False):
    return log(1 + exp(-(2 * labels - 1 if zero_one_labels else labels) * scores))


def hinge_embedding(distances, labels, margin=1, zero_one_labels=False):
    return distances if labels == 1 else max(0, margin - distances)


def multiclass_perceptron(scores, labels):
    return max(scores) - scores[labels]


def multiclass_hinge(scores, labels, margin=1):
    return max(s + margin * (k != labels) for k, s in enumerate(scores)) - scores[labels]


def multi_margin(scores, labels, power=1, margin=1, class_weights=None):
    rivals = [s for k, s in enumerate(scores) if k != labels]
    weight = 1 if class_weights is None else class_weights[labels]
    return weight * sum(max(0, margin + s - scores[labels]) ** power for s in rivals) / len(scores)


def multilabel_margin(scores, labels, margin=1):
    total = 0
    for j, k in itertools.permutations(range(len(scores)), 2):
        total += labels[j] * (1 - labels[k]) * max(0, margin - (scores[j] - scores[k]))
    return total / len(scores)


def sparsemax(logits, labels):
    """The squared distance to the target less that to the nearest distribution, halved."""
    descending = sorted(logits, reverse=True)
    for k in range(1, len(logits) + 1):
        threshold = (sum(descending[:k]) - 1) / k
        if k == len(logits) or descending[k] <= threshold:
            break
    heights = [x - threshold for x in logits]
    target = one_hot(labels, len(logits))
    to_target = sum((h - q) ** 2 for h, q in zip(heights, target, strict=True))
    return (to_target - sum((h - max(0, h)) ** 2 for h in heights)) / 2


def sigmoid_sparsemax(logits, labels):
    sparse_plus = 0 if logits <= -1 else logits if logits >= 1 else (logits + 1) ** 2 / 4
    return sparse_plus - labels * logits + labels**2 - labels


def fenchel_young(scores, targets):
    return log(sum(exp(scores))) - sum(targets * scores)


def mean_over_labels(function, logits, labels, class_weights=None):
    classes = len(logits)
    exps = exp(logits)
    weights = [1] * classes if class_weights is None else class_weights
    terms = zip(weights, one_hot(labels, classes), exps / sum(exps), strict=True)
    return sum(w * q * function(p) for w, q, p in terms if q != 0)


def sigmoid_focal(logits, labels, gamma=2, alpha=None, label_smoothing=0):
    labels = (1 - label_smoothing) * labels + label_smoothing / 2
    yes, no = 1 / (1 + exp(-logits)), 1 / (1 + exp(logits))
    of_yes, of_no = -(no**gamma) * log(yes), -(yes**gamma) * log(no)
    on, off = (1, 1) if alpha is None else (alpha, 1 - alpha)
    return on * labels * of_yes + off * (1 - labels) * of_no


def softmax_focal(logits, labels, gamma=2, label_smoothing=0, class_weights=None):
    classes = len(logits)
    labels = (1 - label_smoothing) * one_hot(labels, classes) + label_smoothing / classes
    return mean_over_labels(lambda p: -((1 - p) ** gamma) * log(p), logits, labels, class_weights)


def asymmetric(logits, labels, gamma_positive=1, gamma_negative=4, clip=F05):
    yes, no = 1 / (1 + exp(-logits)), 1 / (1 + exp(logits))
    clipped = max(0, yes - clip)
    of_no = -(clipped**gamma_negative) * log(min(1, no + clip)) if clipped > 0 else 0
    return -labels * no**gamma_positive * log(yes) + (1 - labels) * of_no


def generalized_cross_entropy(logits, labels, q=F07):
    return mean_over_labels(lambda p: -log(p) if q == 0 else -expm1(q * log(p)) / q, logits, labels)


def symmetric_cross_entropy(logits, labels, alpha=F01, beta=1, log_of_zero=-4):
    return mean_over_labels(
        lambda p: -alpha * log(p) - beta * (1 - p) * log_of_zero, logits, labels
    )


def poly1(logits, labels, epsilon=2):
    return mean_over_labels(lambda p: -log(p) + epsilon * (1 - p), logits, labels)


def bi_tempered(logits, labels, t1=F08, t2=1 + F02):
    """Textbook, with the normalizer found by bisection and Newton's method."""
    exp_t = lambda x: (
        exp(x) if t2 == 1 else (1 + (1 - t2) * x) ** (1 / (1 - t2)) if 1 + (1 - t2) * x > 0 else 0
    )
    sum_at = lambda normalizer: sum(exp_t(x - normalizer) for x in logits)
    low, high = max(logits), max(logits) + 1
    while sum_at(high) > 1:
        high = high + 2 * (high - low)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if sum_at(middle) > 1 else (low, middle)
    for _ in range(6):  # Newton, which doubles the digits
        low += (sum_at(low) - 1) / sum(exp_t(x - low) ** t2 for x in logits)
    value = 0
    for x, q in zip(logits, one_hot(labels, len(logits)), strict=True):
        p = exp_t(x - low)
        if t1 == 1:
            value += q * log(q / p) - q + p if q else p
        else:
            log_t1 = lambda x: (x ** (1 - t1) - 1) / (1 - t1)
            value += (p ** (2 - t1) - q ** (2 - t1)) / (2 - t1)
            value += q * (log_t1(q) - log_t1(p)) if q else 0
    return value


def logit_adjusted(logits, labels, class_counts, temperature=1):
    masses = class_counts**temperature * exp(logits)
    probabilities = masses / sum(masses)
    one_hot_labels = one_hot(labels, len(logits))
    return -sum(q * log(p) for q, p in zip(one_hot_labels, probabilities, strict=True))


def ldam(logits, labels, class_counts, max_margin=0.5, scale=30):
    margin = max_margin * sqrt(sqrt(min(class_counts) / class_counts[labels]))
    lowered = [scale * (x - margin * (k == labels)) for k, x in enumerate(logits)]
    exps = [exp(x) for x in lowered]
    return -log(exps[labels] / sum(exps))


def draw_distribution(generator, batch):
    return generator.dirichlet(np.ones(SIZES["classes"]), batch).astype(np.float32)


def draw_logits(generator, count):
    scale = 10.0 ** generator.uniform(-4, 4, (count, 1))
    return (scale * generator.normal(size=(count, SIZES["classes"]))).astype(np.float32)


def draw_cosines(generator, count):
    size = 10.0 ** generator.uniform(-4, 0, (count, 1))
    return (size * generator.uniform(-1, 1, (count, SIZES["classes"]))).astype(np.float32)


def with_class_ids(setting):
    """With distributions p - q vanishes at the optimum; with class ids it never does."""
    return setting.array_specs[1].kind == "Int"


WEIGHTS = np.array([0.5, 1.0, 2.0, 1.5], np.float32)
COUNTS = np.array([100.0, 30.0, 7.0, 1.0], np.float32)

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
        by_component=lambda s: s.array_specs[1].kind == "Int" and "label_smoothing" not in s.given,
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
    "negative_log_likelihood": Case(
        negative_log_likelihood, options=({}, {"class_weights": WEIGHTS})
    ),
    "multilabel_soft_margin": Case(
        multilabel_soft_margin, options=({}, {"class_weights": WEIGHTS}), by_component=False
    ),
    "z_loss": Case(z_loss),
    "perceptron": Case(perceptron),
    "logistic": Case(logistic),
    "hinge_embedding": Case(hinge_embedding, options=({}, {"margin": 0.75})),
    "multiclass_perceptron": Case(multiclass_perceptron),
    "multiclass_hinge": Case(multiclass_hinge, options=({}, {"margin": 0.25})),
    "multi_margin": Case(
        multi_margin,
        options=({}, {"margin": 0.25}, {"class_weights": WEIGHTS}, {"power": 2}),
    ),
    "multilabel_margin": Case(
        multilabel_margin, options=({}, {"margin": 0.25}), by_component=False
    ),
    "sparsemax": Case(sparsemax, by_component=False),
    "sigmoid_sparsemax": Case(sigmoid_sparsemax, by_component=False),
    "fenchel_young": Case(
        fenchel_young,
        draws={"targets": draw_distribution},
        extremes={
            "scores": draw_logits,
            "targets": lambda generator, count: draw_distribution(generator, (count,)),
        },
        by_component=False,
    ),
    "sigmoid_focal": Case(
        sigmoid_focal,
        options=({}, {"gamma": 0.5}, {"alpha": 0.25}, {"gamma": 0.0}, {"label_smoothing": 0.1}),
        ulp=(16, 16),
        by_component=False,
    ),
    "softmax_focal": Case(
        softmax_focal,
        options=(
            {},
            {"gamma": 0.5},
            {"class_weights": WEIGHTS},
            {"gamma": 0.0},
            {"label_smoothing": 0.1, "class_weights": WEIGHTS},
        ),
        ulp=(16, 16),
        by_component=lambda s: with_class_ids(s) and "label_smoothing" not in s.given,
    ),
    "asymmetric": Case(
        asymmetric,
        options=({}, {"gamma_positive": 0.0}, {"gamma_negative": 2.5}, {"clip": 0.0}),
        ulp=(16, 16),
        by_component=False,
    ),
    "generalized_cross_entropy": Case(
        generalized_cross_entropy,
        options=({}, {"q": 0.0}, {"q": 1.0}),
        ulp=(4, 6),
        by_component=with_class_ids,
    ),
    "symmetric_cross_entropy": Case(
        symmetric_cross_entropy,
        options=({}, {"alpha": 0.0}, {"beta": 0.5}, {"log_of_zero": -9.25}),
        ulp=(4, 6),
        by_component=with_class_ids,
    ),
    "poly1": Case(poly1, options=({}, {"epsilon": -0.5}), by_component=with_class_ids),
    "bi_tempered": Case(
        bi_tempered,
        options=({}, {"t1": 0.5, "t2": 2.0}, {"t1": 1.0}, {"t2": 1.0}, {"t1": 0.5, "t2": 0.75}),
        ulp=(10, 5),
        by_component=False,  # for classes but the label's it changes its sign
    ),
    "logit_adjusted": Case(
        logit_adjusted,
        options=({"class_counts": COUNTS}, {"class_counts": COUNTS, "temperature": 1.5}),
        ulp=(4, 6),
        by_component=with_class_ids,
    ),
    "ldam": Case(
        ldam,
        options=(
            {"class_counts": COUNTS},
            {"class_counts": COUNTS, "max_margin": 0.25},
            {"class_counts": COUNTS, "scale": 2.0},
        ),
        extremes={"logits": draw_cosines},  # what they are meant to be
    ),
}
