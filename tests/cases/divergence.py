"""The rows of the divergence shelf."""

import mpmath
import numpy as np
from arithmetic import exp, is_exact, log, sqrt

import jaxloss.divergence  # noqa: F401  (files its losses)
from cases import Case

MASK = np.array([True, True, False, True])


def number(x):
    """A constant in the kind of number of the oracle's arguments."""
    return mpmath.mpf(x) if is_exact(x) else x


def pairs(prediction, target, mask=None):
    kept = [True] * len(target) if mask is None else mask
    return [(p, q) for p, q, keep in zip(prediction, target, kept, strict=True) if keep]


def kl_of(p, q):
    """KL(q || p) of one class."""
    return q * log(q / p) if q else 0 * p


def kl(log_prediction, target, mask=None):
    return sum(q * (log(q) - p) for p, q in pairs(log_prediction, target, mask))


def kl_log(log_prediction, log_target, mask=None):
    return kl(log_prediction, exp(log_target), mask)


def reverse_kl(log_prediction, target, mask=None):
    return sum(exp(p) * (p - log(q)) for p, q in pairs(log_prediction, target, mask))


def kl_logits(logits, target_logits, temperature=1.0, mask=None):
    kept = pairs(logits / temperature, target_logits / temperature, mask)
    log_p, log_q = ([x[i] - log(sum(exp(y[i]) for y in kept)) for x in kept] for i in (0, 1))
    return sum(exp(b) * (b - a) for a, b in zip(log_p, log_q, strict=True))


def generalized_kl(log_prediction, target, mask=None):
    return sum(q * log(q) - q * p - q + exp(p) for p, q in pairs(log_prediction, target, mask))


def bernoulli_kl(prediction, target):
    return kl_of(prediction, target) + kl_of(1 - prediction, 1 - target)


def jensen_shannon(prediction, target, weight=0.5, mask=None):
    value = 0
    for p, q in pairs(prediction, target, mask):
        mixture = (1 - weight) * p + weight * q
        value += (1 - weight) * kl_of(mixture, p) + weight * kl_of(mixture, q)
    return value


def total_variation(prediction, target, mask=None):
    return sum(abs(p - q) for p, q in pairs(prediction, target, mask)) / 2


def hellinger(prediction, target, mask=None):
    return sqrt(sum((sqrt(p) - sqrt(q)) ** 2 for p, q in pairs(prediction, target, mask)) / 2)


def renyi(log_prediction, target, order=0.5, mask=None):
    kept = pairs(log_prediction, target, mask)
    total = sum(q for _, q in kept)
    if abs(order - 1) < 1e-12:
        return sum(q / total * (log(q / total) - p) for p, q in kept)
    power = order - 1
    return log(sum(q / total * exp(power * (log(q / total) - p)) for p, q in kept)) / power


def alpha(log_prediction, target, order=0.5, mask=None):
    value = 0
    for p, q in pairs(log_prediction, target, mask):
        if order == 1:
            value += q * (log(q) - p) - q + exp(p)
        elif order == 0:
            value += exp(p) * (p - log(q)) + q - exp(p)
        else:
            mixed = exp(order * log(q) + (1 - order) * p)
            value += (mixed - order * q - (1 - order) * exp(p)) / (order * (order - 1))
    return value


def gaussian_kl(mean, log_variance, target_mean=0.0, target_log_variance=0.0):
    ratio = exp(log_variance - target_log_variance)
    distance = (mean - target_mean) ** 2 / exp(0 * mean + target_log_variance)
    return sum(ratio - 1 - log(ratio) + distance) / 2


def log_probabilities(generator, batch):
    logits = 1.5 * generator.normal(size=(*batch, 4))
    return (logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))).astype(np.float32)


def sharp_log_probabilities(generator, count):
    """From undecided to sure; not close to each other, where rounding sums to what is left."""
    logits = 10.0 ** generator.uniform(0, 1.2, (count, 1)) * generator.normal(size=(count, 4))
    top = np.max(logits, -1, keepdims=True)
    return logits - top - np.log(np.sum(np.exp(logits - top), -1, keepdims=True))


def sharp(generator, count):
    return np.exp(sharp_log_probabilities(generator, count))


def sharp_log_amounts(generator, count):
    return generator.normal(size=(count, 4)) * 10.0 ** generator.uniform(-3, 1.4, (count, 1))


def amounts(generator, count):
    return np.exp(sharp_log_amounts(generator, count))


def near_and_far_logits(generator, count):
    return sharp_log_amounts(generator, count)


def positive(generator, batch):
    return np.exp(generator.normal(size=(*batch, 4))).astype(np.float32)


LOGS = {"log_prediction": log_probabilities, "log_target": log_probabilities}
SHARP_LOGS = {"log_prediction": sharp_log_probabilities, "log_target": sharp_log_probabilities}
SHARP = {"prediction": sharp, "target": sharp}
FAR = SHARP_LOGS | SHARP
MASKED = ({}, {"mask": MASK})

CASES = {
    "kl": Case(kl, MASKED, LOGS, FAR, by_component=False),
    "kl_log": Case(kl_log, MASKED, LOGS, FAR, ulp=(8, 4), by_component=False),
    "kl_logits": Case(
        kl_logits,
        ({}, {"temperature": 2.0}, {"mask": MASK}),
        extremes={"logits": near_and_far_logits, "target_logits": near_and_far_logits},
        ulp=(8, 10),
        by_component=False,
    ),
    # Its terms have both signs, and half of what they hold may cancel.
    "reverse_kl": Case(reverse_kl, MASKED, LOGS, FAR, ulp=(12, 4), by_component=False),
    "generalized_kl": Case(
        generalized_kl,
        MASKED,
        {"target": positive},
        extremes={"log_prediction": sharp_log_amounts, "target": amounts},
        ulp=(8, 4),
        by_component=False,
    ),
    "bernoulli_kl": Case(bernoulli_kl, by_component=False),
    "jensen_shannon": Case(
        jensen_shannon, (*MASKED, {"weight": 0.2}), extremes=SHARP, by_component=False
    ),
    "total_variation": Case(total_variation, MASKED, extremes=SHARP),
    "hellinger": Case(hellinger, MASKED, extremes=SHARP, by_component=False),
    "renyi": Case(
        renyi,
        ({}, {"order": 1.0}, {"order": 2.0}, {"order": 0.25}, {"mask": MASK}),
        LOGS,
        FAR,
        # The logarithm of a sum that may be close to 1, and exponents of a few tens.
        ulp=(20, 20),
        by_component=False,
    ),
    "alpha": Case(
        alpha,
        ({}, {"order": 1}, {"order": 0}, {"order": 2.0}, {"order": -1.0}, {"mask": MASK}),
        LOGS | {"target": positive},
        FAR,
        ulp=(8, 4),
        by_component=False,
    ),
    "gaussian_kl": Case(
        gaussian_kl,
        ({}, {"target_mean": 0.5}, {"target_log_variance": -1.0}),
        extremes={
            "log_variance": lambda g, n: g.normal(size=(n, 5)) * 10.0 ** g.uniform(-9, 1, (n, 1))
        },
        by_component=False,
    ),
}
