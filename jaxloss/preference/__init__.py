r"""Preference: losses of pairs of responses of which one is preferred, and of single ones.

Most take log-probabilities of whole responses, one number a response, under the policy that is
trained and under a fixed reference policy; `sequence_log_probability` makes them of those of
tokens. Whether a method takes the sum over tokens or their mean is said in each docstring; it is
chosen there, by `average`, not in the loss. $c$ and $r$ are the log-ratios
$\log \pi / \pi_\text{ref}$ of the chosen and the rejected response.

Rewards are implicit, $\beta$ times a log-ratio; every loss applies $\beta$ itself, once.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order, the order of teaching.
# isort: off
from jaxloss.preference._sequences import sequence_log_probability
from jaxloss.preference._with_reference import apo_down, apo_zero, dpo, hinge_dpo, ipo, nca
from jaxloss.preference._without_reference import cpo, orpo, simpo
from jaxloss.preference._single import bco, kto
from jaxloss.preference._rewards import bradley_terry, plackett_luce

HELPERS = ["sequence_log_probability"]  # public, but not losses

__all__ = [
    "apo_down",
    "apo_zero",
    "bco",
    "bradley_terry",
    "cpo",
    "dpo",
    "hinge_dpo",
    "ipo",
    "kto",
    "nca",
    "orpo",
    "plackett_luce",
    "sequence_log_probability",
    "simpo",
]

__getattr__, __dir__ = public_names(__name__, __all__)
