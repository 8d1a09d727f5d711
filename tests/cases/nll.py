"""The rows of the likelihood family: textbook densities, and draws over what they are used for."""

import mpmath
import numpy as np
import scipy.special
from arithmetic import cos, exp, is_exact, log

import jaxloss.nll  # noqa: F401 (its losses are in the catalogue before the suite is made)
from cases import Case


def circle(x):
    """pi, with as many digits as x has."""
    return +mpmath.pi if is_exact(x) else np.pi


def loggamma(x):
    """80 digits: more would take seconds, and differences at steps of 1e-30 need fewer."""
    if not is_exact(x):
        return scipy.special.gammaln(x)
    with mpmath.workdps(80):
        return mpmath.loggamma(x)


def gaussian(mean, target, variance=None, log_variance=None, full=True):
    variance = exp(log_variance) if variance is None else variance
    constant = log(2 * circle(mean)) / 2 if full else 0
    return (target - mean) ** 2 / (2 * variance) + log(variance) / 2 + constant


def beta_gaussian(mean, target, variance=None, log_variance=None, beta=0.5, full=True):
    number = mpmath.mpf if is_exact(mean) else float
    if variance is None:
        variance = exp(number(log_variance))
    likelihood = gaussian(mean, target, number(variance), full=full)
    return exp(beta * log(number(variance))) * likelihood


def laplace(location, target, scale):
    return log(2 * scale) + abs(target - location) / scale


def student_t(location, target, scale, degrees_of_freedom):
    n = degrees_of_freedom
    score = (target - location) / scale
    constant = loggamma(n / 2) - loggamma((n + 1) / 2) + log(n * circle(n)) / 2
    return log(scale) + constant + (n + 1) / 2 * log(1 + score**2 / n)


def poisson(prediction, target, log_input=True, full=True):
    rate = exp(prediction) if log_input else prediction
    seen = target * (prediction if log_input else log(prediction)) if target != 0 else 0
    if abs(target) < 1e-20:  # the derivative at 0
        seen = target * (prediction if log_input else log(prediction))
    return rate - seen + (loggamma(target + 1) if full else 0)


def negative_binomial(prediction, target, total_count, log_input=True):
    mean = exp(prediction) if log_input else prediction
    r, y = total_count, target
    surely = loggamma(r) + loggamma(y + 1) - loggamma(y + r)
    log_mean = prediction if log_input else log(mean)
    return surely + (r + y) * log(r + mean) - r * log(r) - y * log_mean


def gamma(mean, target, concentration):
    a = concentration
    rate = a / mean
    return loggamma(a) - a * log(rate) - (a - 1) * log(target) + rate * target


def tweedie_deviance(mean, target, power=1.5):
    m, y, p = mean, target, power
    if p == 1:
        return 2 * ((y * log(y / m) if y else 0) + m - y)
    if p == 2:
        return 2 * (y / m - 1 - log(y / m))
    of_target = y ** (2 - p) / ((1 - p) * (2 - p)) if y or p > 2 else 0
    return 2 * (of_target - y * m ** (1 - p) / (1 - p) + m ** (2 - p) / (2 - p))


def beta(alpha, target, beta):
    normalizer = loggamma(alpha) + loggamma(beta) - loggamma(alpha + beta)
    return normalizer - (alpha - 1) * log(target) - (beta - 1) * log(1 - target)


def von_mises(location, target, concentration):
    exact = is_exact(location)
    bessel = mpmath.besseli(0, concentration) if exact else np.i0(concentration)
    return log(2 * circle(location) * bessel) - concentration * cos(target - location)


def mixture(logits, losses, mask=None):
    if mask is not None:
        logits, losses = logits[mask], losses[mask]
    weights = exp(logits) / sum(exp(logits))
    return -log(sum(w * exp(-x) for w, x in zip(weights, losses, strict=True)))


def gaussian_mixture(means, target, variances, logits):
    losses = [gaussian(m, target, v) for m, v in zip(means, variances, strict=True)]
    return mixture(logits, np.array(losses))


KEPT = np.array([True, True, False, True, True])


# --- draws -------------------------------------------------------------------------------------


def decades(low, high):
    """Positive numbers, evenly over decades."""
    return lambda g, count: 10.0 ** g.uniform(low, high, count)


def either_sign(low, high):
    return lambda g, count: g.choice([-1, 1], count) * 10.0 ** g.uniform(low, high, count)


def counts(high):
    """Integers, zeros among them."""
    return lambda g, count: np.floor(10.0 ** g.uniform(-0.5, high, count))


def positive(g, batch):
    return np.exp(g.normal(size=batch)).astype(np.float32)


def shares(g, batch):
    return g.uniform(0.05, 0.95, batch).astype(np.float32)


def angles(from_right_angle):
    """Angles, every other pair of which is almost a multiple of a right angle apart."""

    def draw(g, count):
        same = np.random.default_rng(11)
        near = same.uniform(-3, 3, count)
        if from_right_angle:
            near += 0.5 * np.pi * same.integers(-3, 4, count) + 10.0 ** g.uniform(-7, -1, count)
        return np.where(np.arange(count) % 2, near, g.uniform(-3, 3, count))

    return draw


LINE = {"mean": either_sign(-10, 10), "target": either_sign(-10, 10)}
PLACE = {"location": either_sign(-10, 10), "target": either_sign(-10, 10)}

CASES = {
    "gaussian": Case(
        gaussian,
        options=({}, {"full": False}),
        extremes=LINE | {"variance": decades(-30, 30)},
        by_component=False,
    ),
    "beta_gaussian": Case(
        beta_gaussian,
        # An integer variance is taken as fixed: in it, the gradient is not that of the value.
        options=(
            {"variance": 2},
            {"variance": 2, "full": False},
            {"log_variance": 1, "beta": 0.8},
        ),
        extremes=LINE,
    ),
    "laplace": Case(laplace, extremes=PLACE | {"scale": decades(-25, 25)}, by_component=False),
    "student_t": Case(
        student_t,
        ulp=(4, 8),
        extremes=PLACE | {"scale": decades(0, 9), "degrees_of_freedom": decades(-0.3, 8)},
        by_component=False,
    ),
    "poisson": Case(
        poisson,
        ulp=(8, 8),
        options=({}, {"log_input": False}, {"full": False}),
        draws={"prediction": positive},
        extremes={"prediction": decades(0, 1.9), "target": counts(7)},
        by_component=False,  # exp(x) - y cancels at the optimum
    ),
    "negative_binomial": Case(
        negative_binomial,
        ulp=(8, 8),
        options=({}, {"log_input": False}),
        draws={"prediction": positive},
        extremes={
            "prediction": decades(-8, 1.9),
            "target": counts(6),
            "total_count": decades(-6, 6),
        },
        by_component=False,
    ),
    "gamma": Case(
        gamma,
        ulp=(8, 4),
        extremes={
            "mean": decades(-15, 15),
            "target": decades(-15, 15),
            "concentration": decades(-3, 8),
        },
        by_component=False,
    ),
    "tweedie_deviance": Case(
        tweedie_deviance,
        ulp=(8, 8),
        options=({}, {"power": 1.2}, {"power": 3.0}),
        extremes={"mean": decades(-4, 4), "target": decades(-4, 4)},
    ),
    "beta": Case(
        beta,
        ulp=(8, 4),
        draws={"target": shares},
        extremes={"alpha": decades(-6, 6), "target": shares, "beta": decades(-6, 6)},
        by_component=False,
    ),
    "von_mises": Case(
        von_mises,
        ulp=(8, 8),
        extremes={
            "location": angles(from_right_angle=False),
            "target": angles(from_right_angle=True),
            "concentration": decades(-6, 6),
        },
    ),
    "mixture": Case(
        mixture,
        options=({}, {"mask": KEPT}),
        extremes={"losses": lambda g, count: 10.0 ** g.uniform(0, 2, (count, 5))},
        by_component=False,
    ),
    "gaussian_mixture": Case(
        gaussian_mixture,
        ulp=(4, 8),
        extremes={
            "means": lambda g, count: g.normal(size=(count, 5)),
            "target": lambda g, count: g.normal(size=count),
            "variances": lambda g, count: 10.0 ** g.uniform(-0.5, 3, (count, 5)),
        },
        by_component=False,
    ),
}
