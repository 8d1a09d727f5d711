# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "jax==0.10.2",
#   "numba==0.68.1",
#   "numpy==2.4.6",
#   "properscoring==0.1",
#   "scipy==1.17.1",
#   "scoringrules==0.10.0",
#   "torch==2.14.1",
# ]
# ///
"""Freezes scores of distributions and ensembles, and their gradients, into `score_losses.json`.

Run it as `make_set_losses.py` beside it. Both libraries take the observation first; scoringrules
runs on JAX if no other is said, and properscoring has a gradient of the Gaussian score alone.
"""

import functools

import jax.numpy as jnp
import numpy as np
import properscoring
import scoringrules
from freezing import freeze, of_jax, of_numpy, of_torch

PACKAGES = ("jax", "numba", "numpy", "properscoring", "scoringrules", "torch")


def inputs():
    """Arrays of few digits, so that the file stays small; parameters of a distribution are rows."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: np.round(rng.normal(size=shape), 2)
    above = lambda *shape: np.round(0.3 + rng.gamma(2.0, size=shape), 2)
    shares = rng.dirichlet(np.ones(4), 6)
    return {
        "target": normal(6), "amounts": above(6), "counts": rng.integers(0, 7, 6).astype(float),
        "chances": np.round(rng.uniform(0.05, 0.95, 6), 2),
        "yes": np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]),
        "location and scale": np.stack([normal(6), above(6)]),
        "location, scale and degrees": np.stack([normal(6), above(6), 1.5 + above(6)]),
        "degrees": 1.5 + above(6), "two amounts": np.stack([above(6), above(6)]), "rates": above(6),
        "mixture": np.stack([normal(6, 3), above(6, 3)]),
        "members": normal(6, 5), "equal members": np.array([[1.0, 1.0, 0.5], [2.0, 2.0, 2.0]]),
        "two targets": np.array([0.7, 2.0]),
        "vectors": normal(6, 5, 3), "vector": normal(6, 3),
        "ends": np.sort(normal(2, 6), axis=0), "median and ends": np.sort(normal(5, 6), axis=0),
        "quantiles": np.sort(normal(6, 4)), "shares": np.round(shares, 3),
        "labels": np.array([0, 2, 3, 1, 1, 0]),
    }  # fmt: skip


def score(name, **options):
    """The mean score of the parameters, which come first here."""
    function = functools.partial(getattr(scoringrules, name), backend="jax", **options)
    return lambda parameters, target: jnp.mean(function(target, *parameters))


def whole(name, **options):
    """As `score`, of one array that is not a stack of parameters."""
    of_parameters = score(name, **options)
    return lambda x, target: of_parameters((x,), target)


def log_student_t(p, target):
    return score("logs_t")((p[2], p[0], p[1]), target)


def crps_student_t(p, target, degrees):  # of which it has no gradient
    return score("crps_t")((degrees, *p), target)


def mixture(p, target):
    return score("logs_mixnorm")(p, target)


def weighted_interval(p, target):  # with numba; its other forms add the median, not its error
    median, lower, upper = p[2], p[1::-1].T, p[3:].T  # the narrow interval first
    alpha = np.array([0.5, 0.2])
    return np.mean(scoringrules.weighted_interval_score(target, median, lower, upper, alpha))


def quantiles(x, target):
    levels = jnp.array([0.1, 0.3, 0.6, 0.9])
    return jnp.mean(scoringrules.crps_quantile(target, x, levels, backend="jax"))


def ranked(p, labels):
    return jnp.mean(scoringrules.rps_score(1 + labels, p, backend="jax"))


def energy(estimator):  # whose gradient is NaN on JAX: of the distance of a member from itself
    of = functools.partial(scoringrules.es_ensemble, estimator=estimator, backend="torch")
    return lambda x, target: of(target, x).mean()


def proper_gaussian(p, target):
    value, gradient = properscoring.crps_gaussian(target, *p, grad=True)
    return float(np.mean(value)), gradient / target.size


def proper_ensemble(members, target):
    return np.mean(properscoring.crps_ensemble(target, members))


def proper_brier(chances, yes):
    return np.mean(properscoring.brier_score(yes, chances))


LINE = ("location and scale", "target")
MADE = {
    of_jax: {
        "crps_normal": (score("crps_normal"), *LINE),
        "crps_logistic": (score("crps_logistic"), *LINE),
        "crps_laplace": (score("crps_laplace"), *LINE),
        "crps_lognormal": (score("crps_lognormal"), "location and scale", "amounts"),
        "crps_t": (crps_student_t, *LINE, "degrees"),
        "crps_ensemble, nrg": (whole("crps_ensemble", estimator="nrg"), "members", "target"),
        "crps_ensemble, qd": (whole("crps_ensemble", estimator="qd"), "members", "target"),
        "crps_ensemble, fair": (whole("crps_ensemble", estimator="fair"), "members", "target"),
        "vs_ensemble": (whole("vs_ensemble"), "vectors", "vector"),
        "vs_ensemble, p=1": (whole("vs_ensemble", p=1.0), "vectors", "vector"),
        "interval_score": (score("interval_score", alpha=0.2), "ends", "target"),
        "crps_quantile": (quantiles, "quantiles", "target"),
        "brier_score": (whole("brier_score"), "chances", "yes"),
        "rps_score": (ranked, "shares", "labels"),
        "logs_normal": (score("logs_normal"), *LINE),
        "logs_laplace": (score("logs_laplace"), *LINE),
        "logs_t": (log_student_t, "location, scale and degrees", "target"),
        "logs_gamma": (score("logs_gamma"), "two amounts", "amounts"),
        "logs_beta": (score("logs_beta"), "two amounts", "chances"),
        "logs_poisson": (whole("logs_poisson"), "rates", "counts"),
        "logs_mixnorm": (mixture, "mixture", "target"),
    },
    of_torch: {
        "es_ensemble, nrg": (energy("nrg"), "vectors", "vector"),
        "es_ensemble, fair": (energy("fair"), "vectors", "vector"),
    },
    of_numpy: {
        "weighted_interval_score": (weighted_interval, "median and ends", "target"),
        "properscoring crps_gaussian": (proper_gaussian, *LINE),
        "properscoring crps_ensemble": (proper_ensemble, "members", "target"),
        "properscoring crps_ensemble, equal": (proper_ensemble, "equal members", "two targets"),
        "properscoring brier_score": (proper_brier, "chances", "yes"),
    },
}


if __name__ == "__main__":
    freeze("score_losses", PACKAGES, inputs(), MADE)
