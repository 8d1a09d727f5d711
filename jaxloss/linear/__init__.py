r"""Losses of a linear layer whose logits of all tokens and classes never exist.

`hidden @ weight` is the largest array of a language model's training step. Here it is computed
for some tokens, or some classes, at a time, together with what the gradients need of it.
"""

from jaxloss._core.namespace import public_names
from jaxloss.linear._arguments import Plan, plan
from jaxloss.linear._cross_entropy import Metrics, log_probabilities, softmax_cross_entropy
from jaxloss.linear._distillation import generalized_jensen_shannon, kl, total_variation
from jaxloss.linear._statistics import Statistics, statistics

__all__ = [
    "Metrics",
    "Plan",
    "Statistics",
    "generalized_jensen_shannon",
    "kl",
    "log_probabilities",
    "plan",
    "softmax_cross_entropy",
    "statistics",
    "total_variation",
]

__getattr__, __dir__ = public_names(__name__, __all__)
