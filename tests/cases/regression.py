"""The rows of the regression losses."""

import numpy as np
from arithmetic import cosh, log, sqrt

from cases import Batched, Case

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95], np.float32)


def squared_error(prediction, target):
    return (prediction - target) ** 2


def absolute_error(prediction, target):
    return abs(prediction - target)


def huber(prediction, target, delta=1.0):
    error = abs(prediction - target)
    return error**2 / 2 if error <= delta else delta * (error - delta / 2)


def smooth_l1(prediction, target, beta=1.0):
    error = abs(prediction - target)
    return error**2 / (2 * beta) if error < beta else error - beta / 2


def pseudo_huber(prediction, target, delta=1.0):
    return delta**2 * (sqrt(1 + ((prediction - target) / delta) ** 2) - 1)


def log_cosh(prediction, target):
    error = abs(prediction - target)
    return log(cosh(error)) if error < 300 else error - log(0 * error + 2)


def pinball(prediction, target, level=0.5):
    error = prediction - target
    return max((1 - level) * error, -level * error)


def quantiles(prediction, target, level=None, mask=None):
    count = len(prediction)
    level = [(k + 0.5) / count for k in range(count)] if level is None else level
    keep = [True] * count if mask is None else mask
    each = [pinball(p, target, q) for p, q, k in zip(prediction, level, keep, strict=True) if k]
    return sum(each) / len(each)


def cosine_distance(prediction, target, mask=None):
    if mask is not None:
        prediction, target = prediction[mask], target[mask]
    lengths = sqrt(sum(prediction**2)) * sqrt(sum(target**2))
    return 1 - sum(prediction * target) / lengths


def expectile(prediction, target, level=0.5):
    error = prediction - target
    return abs(level - (error >= 0)) * error**2


def epsilon_insensitive(prediction, target, epsilon=0.1):
    return max(0, abs(prediction - target) - epsilon)


def squared_epsilon_insensitive(prediction, target, epsilon=0.1):
    return epsilon_insensitive(prediction, target, epsilon) ** 2


def squared_log_error(prediction, target):
    return (log(1 + prediction) - log(1 + target)) ** 2


def absolute_percentage_error(prediction, target):
    return abs((prediction - target) / target)


def symmetric_absolute_percentage_error(prediction, target):
    return 2 * abs(prediction - target) / (abs(prediction) + abs(target))


def levels(generator, batch):
    return generator.uniform(0.01, 0.99, batch).astype(np.float32)


def vectors(generator, count):
    """Vectors of any length, most at a wide angle; those of one example are about as long."""
    return generator.normal(size=(count, 5)) * 10.0 ** np.linspace(-15, 15, count)[:, None]


CASES = {
    "squared_error": Case(squared_error),
    "absolute_error": Case(absolute_error),
    "huber": Case(huber, options=({}, {"delta": 0.4})),
    "smooth_l1": Case(smooth_l1, options=({}, {"beta": 0.4}, {"beta": 0})),
    "pseudo_huber": Case(pseudo_huber, options=({}, {"delta": 0.4})),
    "log_cosh": Case(log_cosh),
    "pinball": Case(pinball, options=({}, {"level": 0.9}, {"level": Batched(levels)})),
    "expectile": Case(expectile, options=({}, {"level": 0.9}, {"level": Batched(levels)})),
    "epsilon_insensitive": Case(epsilon_insensitive, options=({}, {"epsilon": 0.5})),
    "squared_epsilon_insensitive": Case(
        squared_epsilon_insensitive, options=({}, {"epsilon": 0.5})
    ),
    "squared_log_error": Case(squared_log_error),
    "absolute_percentage_error": Case(absolute_percentage_error),
    "symmetric_absolute_percentage_error": Case(symmetric_absolute_percentage_error),
    "quantiles": Case(quantiles, options=({}, {"level": LEVELS, "mask": LEVELS > 0.1}), ulp=(6, 6)),
    "cosine_distance": Case(
        cosine_distance,
        options=({}, {"mask": np.array([True, True, False, True, True])}),
        extremes={"prediction": vectors, "target": vectors},
        ulp=(4, 8),
        by_component=False,
    ),
    "mean_squared_error": Case(squared_error),
    "mean_absolute_error": Case(absolute_error),
}
