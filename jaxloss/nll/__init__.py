r"""Negative log-likelihoods: a network predicts the parameters of a distribution of the target.

The loss is minus the logarithm of the density, or of the probability of a count, at the target. The
target comes second, as everywhere. The location of the distribution comes first; its other
parameters follow the target, best given by name. All have the shape of the target, or are scalars.
Losses are in nats and include every constant of the density, so that those of different
distributions can be compared. Densities may exceed 1, so these losses may be negative.

Nothing is clamped and no epsilon is added: a variance of 1e-10 is used as 1e-10. Parameters that
must be positive are made so by the caller, with `jax.nn.softplus`, or by their logarithm where a
loss accepts it.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order, in which they are taught.
# isort: off
from jaxloss.nll._real import beta_gaussian, gaussian, laplace, student_t
from jaxloss.nll._counts import negative_binomial, poisson
from jaxloss.nll._positive import gamma, tweedie_deviance
from jaxloss.nll._bounded import beta, von_mises
from jaxloss.nll._mixtures import gaussian_mixture, mixture

__all__ = [
    "beta",
    "beta_gaussian",
    "gamma",
    "gaussian",
    "gaussian_mixture",
    "laplace",
    "mixture",
    "negative_binomial",
    "poisson",
    "student_t",
    "tweedie_deviance",
    "von_mises",
]

__getattr__, __dir__ = public_names(__name__, __all__)
