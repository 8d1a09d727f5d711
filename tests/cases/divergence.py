"""The rows of the divergence family."""

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


def gaussian_kl(mean, log_variance, target_mean=0.0, target_log_variance=0.0, mask=None):
    if mask is not None:
        mean, log_variance = mean[mask], log_variance[mask]
    ratio = exp(log_variance - target_log_variance)
    distance = (mean - target_mean) ** 2 / exp(0 * mean + target_log_variance)
    return sum(ratio - 1 - log(ratio) + distance) / 2


def log_probabilities(generator, batch):
    logits = 1.5 * generator.normal(size=(*batch, 4))
    return (logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))).astype(np.float32)


def log_softmax(logits):
    top = np.max(logits, -1, keepdims=True)
    return logits - top - np.log(np.sum(np.exp(logits - top), -1, keepdims=True))


def softmax(logits):
    return np.exp(log_softmax(logits))


def near_and_far(map_logits, predicted, low=0.0, high=1.2):
    """Predictions and targets from undecided to sure: every other pair nearly equal."""

    def draw(generator, count):
        def scale():
            return 10.0 ** generator.uniform(low, high, (count, 1))

        far = scale() * generator.normal(size=(count, 4))
        generator, other = np.random.default_rng(8), generator
        near = scale() * generator.normal(size=(count, 4))  # the same for both
        if predicted:
            near += 10.0 ** other.uniform(-7, -1, (count, 1)) * other.normal(size=(count, 4))
        return map_logits(np.where(np.arange(count)[:, None] % 2, near, far))

    return draw


def near_and_far_shares(predicted):
    """Probabilities close to 0, to 1, and to each other."""

    def draw(generator, count):
        same = np.random.default_rng(8)
        small = 10.0 ** same.uniform(-6, -0.5, count)
        apart = 1 + predicted * 10.0 ** generator.uniform(-7, -1, count)
        from_0 = np.arange(count) % 4 < 2
        far = 10.0 ** np.where(
            from_0, generator.uniform(-30, -0.3, count), generator.uniform(-7, -0.3, count)
        )
        share = np.where(np.arange(count) % 2, small * apart, far)
        return np.where(from_0, share, 1 - share)

    return draw


def near_numbers(to):
    """Numbers far from and near to another."""

    def draw(generator, count):
        far = generator.normal(size=(count, 5)) * 10.0 ** generator.uniform(-9, 1, (count, 1))
        near = to + generator.normal(size=(count, 5)) * 10.0 ** generator.uniform(
            -7, -1, (count, 1)
        )
        return np.where(np.arange(count)[:, None] % 2, near, far)

    return draw


def positive(generator, batch):
    return np.exp(generator.normal(size=(*batch, 4))).astype(np.float32)


LOGS = {"log_prediction": log_probabilities, "log_target": log_probabilities}
NEAR_LOGS = {
    "log_prediction": near_and_far(log_softmax, predicted=True),
    "log_target": near_and_far(log_softmax, predicted=False),
}
NEAR = {
    "prediction": near_and_far(softmax, predicted=True),
    "target": near_and_far(softmax, predicted=False),
}
NEAR_AMOUNTS = {
    "log_prediction": near_and_far(lambda x: x, True, -3, 1.4),
    "target": near_and_far(np.exp, False, -3, 1.4),
}
NEAR_LOGITS = {
    "logits": near_and_far(lambda x: x, True, -3, 1.4),
    "target_logits": near_and_far(lambda x: x, False, -3, 1.4),
}
BOTH = NEAR_LOGS | NEAR
MASKED = ({}, {"mask": MASK})

# Near a match, a divergence of logarithms is made of their small differences, which a last place of
# the given numbers changes as much as what is left of them: there, that is the unit of the error.
CASES = {
    "kl": Case(kl, MASKED, LOGS, BOTH, by_component=False, conditioned=True),
    "kl_log": Case(kl_log, MASKED, LOGS, BOTH, by_component=False, conditioned=True),
    "kl_logits": Case(
        kl_logits,
        ({}, {"temperature": 3.0}, {"mask": MASK}),
        extremes=NEAR_LOGITS,
        ulp=(8, 8),
        by_component=False,
    ),
    "reverse_kl": Case(reverse_kl, MASKED, LOGS, BOTH, by_component=False, conditioned=True),
    "generalized_kl": Case(
        generalized_kl,
        MASKED,
        {"target": positive},
        extremes=NEAR_AMOUNTS,
        by_component=False,
        conditioned=True,
    ),
    "bernoulli_kl": Case(
        bernoulli_kl,
        extremes={
            "prediction": near_and_far_shares(predicted=True),
            "target": near_and_far_shares(predicted=False),
        },
        by_component=False,
    ),
    "jensen_shannon": Case(
        jensen_shannon, (*MASKED, {"weight": 0.2}), extremes=NEAR, by_component=False
    ),
    "total_variation": Case(total_variation, MASKED, extremes=NEAR),
    "hellinger": Case(hellinger, MASKED, extremes=NEAR, by_component=False),
    "renyi": Case(
        renyi,
        ({}, {"order": 1.0}, {"order": 2.0}, {"order": 0.25}, {"mask": MASK}),
        LOGS,
        BOTH,
        ulp=(8, 8),
        by_component=False,
        conditioned=True,
    ),
    "alpha_divergence": Case(
        alpha,
        ({}, {"order": 1}, {"order": 0}, {"order": 2.0}, {"order": -1.0}, {"mask": MASK}),
        LOGS | {"target": positive},
        BOTH,
        by_component=False,
        conditioned=True,
    ),
    "gaussian_kl": Case(
        gaussian_kl,
        (
            {},
            {"target_mean": 0.5, "mask": np.array([True, False, True, True, False])},
            {"target_log_variance": -1.0},
        ),
        extremes={"mean": near_numbers(to=0.5), "log_variance": near_numbers(to=-1.0)},
        by_component=False,
    ),
}
