r"""Divergences: how far a predicted distribution is from a target distribution.

The classes lie along the last axis, or along `axis`, and are summed over: one number an example,
in nats. $p$ is the prediction and $q$ the target. Divergences that may be infinite take the
logarithm of the prediction, from `jax.nn.log_softmax` for example; bounded ones take probabilities.
Nothing is clipped: $0 \log 0$ is 0, also for a logarithm of -inf, and a class of predicted
probability 0 that the target has gives inf. `mask` takes classes out of an example.

The direction matters where the model cannot match the target: $KL(q \| p)$ (`kl`) covers all of
the target, $KL(p \| q)$ (`reverse_kl`) fits one part of it; the others lie between the two.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order, in which they are taught.
# isort: off
from jaxloss.divergence._kullback_leibler import kl, kl_log, reverse_kl
from jaxloss.divergence._logits import kl_logits
from jaxloss.divergence._generalized import bernoulli_kl, gaussian_kl, generalized_kl
from jaxloss.divergence._bounded import hellinger, jensen_shannon, total_variation
from jaxloss.divergence._renyi_alpha import alpha_divergence, renyi

__all__ = [
    "alpha_divergence",
    "bernoulli_kl",
    "gaussian_kl",
    "generalized_kl",
    "hellinger",
    "jensen_shannon",
    "kl",
    "kl_log",
    "kl_logits",
    "renyi",
    "reverse_kl",
    "total_variation",
]

__getattr__, __dir__ = public_names(__name__, __all__)
