"""Scores have the frozen values and gradients of scoringrules and properscoring.

`tests/oracles/make_score_losses.py` froze them, in float64; neither is needed here. Where a peer
defines a score otherwise, our expression says how. The gradient of `vs_ensemble` with a power
below 1 is NaN: of the distance of a component from itself.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from harness.frozen import Frozen

from jaxloss import nll, regression, scoring

pytestmark = pytest.mark.few

FROZEN = Frozen("score_losses")


def of_rows(loss, **options):
    """Of parameters that are rows of one array, the first before the target."""
    return lambda p, y: loss(p[0], y, *p[1:], reduction="mean", **options)


def of(loss, **options):
    return lambda x, y: loss(x, y, reduction="mean", **options)


def ids(loss):
    return lambda p, labels: loss(p, labels.astype(np.int32), reduction="mean")


def gaussian(p, y):
    """Of a standard deviation."""
    return nll.gaussian(p[0], y, p[1] ** 2, reduction="mean")


def gamma(p, y):
    """Of shape and rate."""
    return nll.gamma(p[0] / p[1], y, p[0], reduction="mean")


def mixture(p, y):
    """Of standard deviations, with equal weights."""
    return nll.gaussian_mixture(p[0], y, p[1] ** 2, jnp.zeros_like(p[0]), reduction="mean")


def weighted_interval(p, y):
    lower, upper, alpha = p[1::-1].T, p[3:].T, jnp.array([0.5, 0.2])
    return scoring.weighted_interval_score(p[2], lower, upper, y, alpha=alpha, reduction="mean")


def interval(p, y):
    return scoring.interval_score(*p, y, alpha=0.2, reduction="mean")


def quantiles(x, y):
    return scoring.crps_quantiles(x, y, level=[0.1, 0.3, 0.6, 0.9], reduction="mean")


LINE = ("location and scale", "target")
OURS = {
    "crps_normal": (of_rows(scoring.crps_gaussian), *LINE),
    "crps_logistic": (of_rows(scoring.crps_logistic), *LINE),
    "crps_laplace": (of_rows(scoring.crps_laplace), *LINE),
    "crps_lognormal": (of_rows(scoring.crps_log_normal), "location and scale", "amounts"),
    "crps_t": (
        lambda p, y, degrees: scoring.crps_student_t(p[0], y, p[1], degrees, reduction="mean"),
        *LINE,
        "degrees",
    ),
    "crps_ensemble, nrg": (of(scoring.crps_ensemble, fair=False), "members", "target"),
    "crps_ensemble, qd": (of(scoring.crps_ensemble, fair=False), "members", "target"),
    "crps_ensemble, fair": (of(scoring.crps_ensemble), "members", "target"),
    "es_ensemble, nrg": (of(scoring.energy_score, fair=False), "vectors", "vector"),
    "es_ensemble, fair": (of(scoring.energy_score), "vectors", "vector"),
    "vs_ensemble": (of(scoring.variogram_score), "vectors", "vector"),
    "vs_ensemble, p=1": (of(scoring.variogram_score, exponent=1.0), "vectors", "vector"),
    "interval_score": (interval, "ends", "target"),
    "weighted_interval_score": (weighted_interval, "median and ends", "target"),
    "crps_quantile": (quantiles, "quantiles", "target"),
    # Of the probability of one event.
    "brier_score": (of(regression.squared_error), "chances", "yes"),
    "rps_score": (ids(scoring.ranked_probability), "shares", "labels"),
    "logs_normal": (gaussian, *LINE),
    "logs_laplace": (of_rows(nll.laplace), *LINE),
    "logs_t": (of_rows(nll.student_t), "location, scale and degrees", "target"),
    "logs_gamma": (gamma, "two amounts", "amounts"),
    "logs_beta": (of_rows(nll.beta), "two amounts", "chances"),
    "logs_poisson": (of(nll.poisson, log_input=False), "rates", "counts"),
    "logs_mixnorm": (mixture, "mixture", "target"),
    "properscoring crps_gaussian": (of_rows(scoring.crps_gaussian), *LINE),
    "properscoring crps_ensemble": (of(scoring.crps_ensemble, fair=False), "members", "target"),
    "properscoring crps_ensemble, equal": (
        of(scoring.crps_ensemble, fair=False),
        "equal members",
        "two targets",
    ),
    "properscoring brier_score": (of(regression.squared_error), "chances", "yes"),
}


def test_every_frozen_loss_has_ours():
    assert set(OURS) == set(FROZEN.losses)


@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_the_peer(name):
    FROZEN.check(name, *OURS[name], rtol=1e-9)
