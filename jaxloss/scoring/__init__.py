r"""Proper scoring rules: losses of a predicted distribution and the value that was observed.

A rule is proper if no prediction has a smaller expected score than the true distribution, so that
it rewards calibration and sharpness together. All of them are negatively oriented: smaller is
better. The continuous ranked probability score (CRPS) is in the unit of the target,

$$\mathrm{CRPS}(F, y) = \int (F(x) - 1\{x \ge y\})^2\,dx = E|X - y| - \tfrac12 E|X - X'|$$

and is the absolute error of a forecast without spread. The distribution is given by its parameters
(`crps_gaussian` and others), by an ensemble of samples (`crps_ensemble`, `energy_score`,
`variogram_score`), by quantiles or intervals (`crps_quantiles`, `interval_score`,
`weighted_interval_score`), or by probabilities of classes (`brier`, `ranked_probability`). The
logarithmic score is in `jaxloss.nll` and `jaxloss.classification`.

Unknown targets are left out with `where`: neither the error nor the spread of such an example
contributes, so that a model gains nothing from a large variance there. `mask` leaves out members
of an ensemble.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order.
# isort: off
from jaxloss.scoring._parametric import (
    crps_gaussian,
    crps_laplace,
    crps_logistic,
    dawid_sebastiani,
)
from jaxloss.scoring._log_normal import crps_log_normal
from jaxloss.scoring._student_t import crps_student_t
from jaxloss.scoring._ensembles import crps_ensemble, energy_score, variogram_score
from jaxloss.scoring._quantiles import crps_quantiles, interval_score, weighted_interval_score
from jaxloss.scoring._classes import brier, ranked_probability

__all__ = [
    "brier",
    "crps_ensemble",
    "crps_gaussian",
    "crps_laplace",
    "crps_log_normal",
    "crps_logistic",
    "crps_quantiles",
    "crps_student_t",
    "dawid_sebastiani",
    "energy_score",
    "interval_score",
    "ranked_probability",
    "variogram_score",
    "weighted_interval_score",
]

__getattr__, __dir__ = public_names(__name__, __all__)
