r"""Value: losses of critics, which predict returns or the distribution of returns.

A scalar critic is trained with the losses of `jaxloss.regression` on targets from `policy.gae`,
`policy.lambda_returns` or a bootstrapped reward; those of this module are for critics that need
more: a bound on how far the value moves, quantiles, a categorical distribution, or an entropy
temperature. Targets are constants: wrap them in `jax.lax.stop_gradient`.

Errors of temporal differences are those losses on a target of one step:

    bootstrap = lambda value: rewards + discount * jnp.where(terminal, 0, value)
    at = lambda q, actions: jnp.take_along_axis(q, actions[..., None], -1)[..., 0]
    td_0 = bootstrap(next_values)
    sarsa = bootstrap(at(next_q, next_actions))
    q_learning = bootstrap(jnp.max(next_q, -1))
    double_q_learning = bootstrap(at(next_q, jnp.argmax(next_q_of_the_trained, -1)))
    soft_q_learning = bootstrap(temperature * jl.numerics.logsumexp(next_q / temperature))
    loss = jl.regression.huber(at(q, actions), jax.lax.stop_gradient(q_learning))

A step that was cut off, but is not terminal, keeps its bootstrap.

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
