"""Rows of the scoring rules: textbook formulas and double sums on one example."""

import mpmath
import numpy as np
import scipy.special
from arithmetic import DIGITS, erf, exp, is_exact, log, log1p, sqrt

from cases import Batched, Case
from cases.nll import circle, decades, either_sign, loggamma

MEMBERS, DIM = 4, 2


def number(x):
    """An exact number if its neighbours are."""
    return mpmath.mpf if is_exact(x) else float


def crps_gaussian(location, target, scale):
    z = (target - location) / scale
    density = exp(-(z**2) / 2) / sqrt(2 * circle(z))
    return scale * (z * erf(z / sqrt(number(z)(2))) + 2 * density - 1 / sqrt(circle(z)))


def crps_logistic(location, target, scale):
    z = abs(target - location) / scale  # the score is even
    return scale * (z + 2 * log1p(exp(-z)) - 1)


def crps_laplace(location, target, scale):
    z = abs(target - location) / scale
    return scale * (z + exp(-z) - number(z)(3) / 4)


def crps_log_normal(location, target, scale):
    two = number(scale)(2)
    below = lambda z: (1 + erf(z / sqrt(two))) / 2
    z = (log(target) - location) / scale
    mean = exp(location + scale**2 / 2)
    return target * (2 * below(z) - 1) - 2 * mean * (below(z - scale) - below(-scale / sqrt(two)))


def log_beta(a, b):
    return loggamma(a) + loggamma(b) - loggamma(a + b)


def within(z, n):
    """The probability of Student's t distribution between -z and z, for z >= 0."""
    near, far = z**2 / (n + z**2), n / (n + z**2)
    if not is_exact(z):
        return scipy.special.betainc(0.5, n / 2, near)
    outside = far ** (n / 2)
    half = number(z)(1) / 2
    if near > half:  # few degrees of freedom, or next to nothing outside
        if outside < mpmath.mpf(10) ** -DIGITS:
            return 1
        return 1 - mpmath.betainc(n / 2, half, 0, far, regularized=True)
    # A sum of positive terms: with many degrees of freedom others cancel.
    series = mpmath.hyp2f1(1, (n + 1) / 2, 3 * half, near)
    return 2 * z * far ** ((n + 1) / 2) / sqrt(n) / exp(log_beta(n / 2, half)) * series


def crps_student_t(location, target, scale, degrees_of_freedom):
    n, half = degrees_of_freedom, number(scale)(1) / 2
    z = abs(target - location) / scale
    center, mean = (
        exp(-log_beta(n / 2, half)),
        exp(log_beta(n - half, half) - log_beta(n / 2, half)),
    )
    density = center / sqrt(n) * (1 + z**2 / n) ** (-(n + 1) / 2)
    rest = 2 * (density * (n + z**2) - sqrt(n) * center * mean) / (n - 1)
    return scale * (z * within(z, n) + rest)


def dawid_sebastiani(location, target, scale):
    return ((target - location) / scale) ** 2 + 2 * log(scale)


def kept(members, mask):
    return [x for k, x in enumerate(members) if mask is None or mask[k]]


def ensemble(members, target, distance, fair, mask):
    """The mean distance to the target, less half that between members."""
    members = kept(members, mask)
    count = len(members)
    error = sum(distance(x, target) for x in members) / count
    pairs = sum(distance(x, other) for x in members for other in members)
    return error - pairs / (2 * count * (count - 1 if fair else count))


def crps_ensemble(members, target, fair=True, mask=None):
    return ensemble(members, target, lambda x, y: abs(x - y), fair, mask)


def length(x, y):
    total = sum((x - y) ** 2)
    return sqrt(total) if total > 0 else total


def energy_score(members, target, fair=True, mask=None):
    return ensemble(members, target, length, fair, mask)


def variogram_score(members, target, exponent=0.5, pair_weights=None, mask=None):
    total, members = 0, kept(members, mask)
    power = lambda x: exp(exponent * log(abs(x))) if x else abs(x)
    for a in range(len(target)):
        for b in range(len(target)):
            mean = sum(power(x[a] - x[b]) for x in members) / len(members)
            weight = 1 if pair_weights is None else pair_weights[a, b]
            total = total + weight * (power(target[a] - target[b]) - mean) ** 2
    return total


def pinball(error, level):
    return max((1 - level) * error, -level * error)


def crps_quantiles(prediction, target, level=None, mask=None):
    count = len(prediction)
    if level is None:
        level = [number(target)(2 * k + 1) / (2 * count) for k in range(count)]
    keep = [True] * count if mask is None else mask
    triples = zip(prediction, level, keep, strict=True)
    return 2 * sum(pinball(q - target, t) for q, t, kept in triples if kept) / sum(keep)


def interval_score(lower, upper, target, alpha=0.1):
    return upper - lower + 2 / alpha * (max(0, lower - target) + max(0, target - upper))


def weighted_interval_score(median, lower, upper, target, alpha=None, mask=None):
    """Twice the mean pinball loss of all quantiles."""
    count = len(lower)
    alpha = [number(target)(k + 1) / (count + 1) for k in range(count)] if alpha is None else alpha
    keep = [True] * count if mask is None else mask
    total = pinball(median - target, number(target)(1) / 2)
    for low, high, a, kept in zip(lower, upper, alpha, keep, strict=True):
        if kept:
            total = total + pinball(low - target, a / 2) + pinball(high - target, 1 - a / 2)
    return 2 * total / (2 * sum(keep) + 1)


def shares(probabilities, labels):
    if np.ndim(labels):
        return labels
    return [1 * (c == labels) for c in range(len(probabilities))]


def brier(probabilities, labels, mask=None):
    keep = [True] * len(probabilities) if mask is None else mask
    triples = zip(probabilities, shares(probabilities, labels), keep, strict=True)
    return sum((p - t) ** 2 for p, t, kept in triples if kept)


def ranked_probability(probabilities, labels, mask=None):
    truth = shares(probabilities, labels)
    if mask is not None:
        keep = [k for k, kept in enumerate(mask) if kept]
        probabilities, truth = [probabilities[k] for k in keep], [truth[k] for k in keep]
    return sum((sum(probabilities[:k]) - sum(truth[:k])) ** 2 for k in range(1, len(probabilities)))


# --- draws -------------------------------------------------------------------------------------


def normal(*shape):
    return lambda g, batch: (1.5 * g.normal(size=(*batch, *shape))).astype(np.float32)


def at_scales(*shape):
    """Normal numbers of all magnitudes, one magnitude an example: the same for all arguments."""

    def draw(g, count):
        scale = 10.0 ** np.random.default_rng(5).uniform(-10, 10, (count, *(1,) * len(shape)))
        return scale * g.normal(size=(count, *shape))

    return draw


def amounts(g, count):
    """Amounts, every other one of which is close to the median."""
    same = np.random.default_rng(11)
    location, scale = same.uniform(-20, 20, count), 10.0 ** same.uniform(-4, 0.5, count)
    near = location + scale * g.normal(size=count) * 2
    return np.exp(np.where(np.arange(count) % 2, near, g.uniform(-20, 20, count)))


def locations(_, count):
    return np.random.default_rng(11).uniform(-20, 20, count)


def log_scales(_, count):
    same = np.random.default_rng(11)
    same.uniform(-20, 20, count)
    return 10.0 ** same.uniform(-4, 0.5, count)


def near_or_far(g, count):
    """Errors of any size; every other one of the size of the scale."""
    scale = 10.0 ** np.random.default_rng(7).uniform(-20, 20, count)
    near = scale * g.normal(size=count) * 2
    return np.where(np.arange(count) % 2, near, either_sign(-20, 20)(g, count))


OUT = np.array([True, True, False, True])
WEIGHTS = np.array([[0.0, 0.5], [1.5, 0.0]], np.float32)
ALPHAS = np.array([0.1, 0.5, 0.2, 0.9, 0.05], np.float32)
PARAMETRIC = {
    "location": near_or_far,
    "target": near_or_far,
    "scale": lambda g, count: 10.0 ** np.random.default_rng(7).uniform(-20, 20, count),
}
VECTORS = {"members": normal(MEMBERS, DIM), "target": normal(DIM)}
FAR_VECTORS = {"members": at_scales(MEMBERS, DIM), "target": at_scales(DIM)}


CASES = {
    "crps_gaussian": Case(crps_gaussian, extremes=PARAMETRIC, by_component=False),
    "crps_logistic": Case(crps_logistic, extremes=PARAMETRIC, by_component=False),
    "crps_laplace": Case(crps_laplace, extremes=PARAMETRIC, by_component=False),
    "crps_log_normal": Case(
        crps_log_normal,
        draws={"scale": lambda g, batch: g.uniform(0.1, 1.5, batch).astype(np.float32)},
        extremes={"location": locations, "target": amounts, "scale": log_scales},
        by_component=False,
        conditioned=True,
        ulp=(8, 8),
    ),
    "crps_student_t": Case(
        crps_student_t,
        draws={"degrees_of_freedom": lambda g, batch: g.uniform(1.2, 9, batch).astype(np.float32)},
        extremes=PARAMETRIC | {"degrees_of_freedom": decades(-0.2, 6)},
        by_component=False,
        conditioned=True,  # the slope in the degrees of freedom changes its sign
        ulp=(8, 8),
    ),
    "dawid_sebastiani": Case(dawid_sebastiani, extremes=PARAMETRIC, by_component=False),
    "crps_ensemble": Case(
        crps_ensemble,
        options=({}, {"fair": False}, {"mask": OUT}),
        draws={"members": normal(MEMBERS)},
        extremes={"members": at_scales(MEMBERS), "target": at_scales()},
        by_component=False,
    ),
    "energy_score": Case(
        energy_score,
        options=({}, {"fair": False}, {"mask": OUT}),
        draws=VECTORS,
        extremes=FAR_VECTORS,
        by_component=False,
        conditioned=True,  # the fair score, a difference, may be 0
        ulp=(8, 8),
    ),
    "variogram_score": Case(
        variogram_score,
        options=({}, {"exponent": 1.5, "pair_weights": WEIGHTS, "mask": OUT}),
        draws=VECTORS,
        extremes=FAR_VECTORS,
        by_component=False,
        conditioned=True,
        ulp=(8, 8),
    ),
    "crps_quantiles": Case(
        crps_quantiles,
        options=(
            {},
            {"level": np.array([0.1, 0.2, 0.5, 0.8, 0.9], np.float32), "mask": np.arange(5) != 3},
        ),
        ulp=(6, 6),
    ),
    "interval_score": Case(
        interval_score,
        options=(
            {},
            {"alpha": Batched(lambda g, batch: g.uniform(0.1, 0.9, batch).astype(np.float32))},
        ),
    ),
    "weighted_interval_score": Case(
        weighted_interval_score, options=({}, {"alpha": ALPHAS, "mask": np.arange(5) != 1})
    ),
    "brier": Case(brier, options=({}, {"mask": OUT})),
    "ranked_probability": Case(ranked_probability, options=({}, {"mask": OUT}), conditioned=True),
}
