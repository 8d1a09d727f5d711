r"""Value: losses of critics, which predict returns or the distribution of returns.

A scalar critic is trained with the losses of `jaxloss.regression` on targets from `policy.gae`,
`policy.lambda_returns` or a bootstrapped reward; those of this module are for critics that need
more: a bound on how far the value moves, quantiles, a categorical distribution, or an entropy
temperature. Targets are constants: wrap them in `jax.lax.stop_gradient`.

A categorical critic is trained with `classification.softmax_cross_entropy` on the distribution
that `two_hot`, `hl_gauss` or `project` makes of a target.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order.
# isort: off
from jaxloss.value._critics import clipped_value, gumbel, quantile_huber
from jaxloss.value._actor import exponential_advantage, temperature
from jaxloss.value._categorical import hl_gauss, project, two_hot

HELPERS = ["hl_gauss", "project", "two_hot"]  # public, but not losses

__all__ = [
    "clipped_value",
    "exponential_advantage",
    "gumbel",
    "hl_gauss",
    "project",
    "quantile_huber",
    "temperature",
    "two_hot",
]

__getattr__, __dir__ = public_names(__name__, __all__)
