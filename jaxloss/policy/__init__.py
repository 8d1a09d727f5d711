r"""Policy: losses of reinforcement learning and of post-training, one number per action or token.

`log_prob` is the log-probability of the action that was taken (of the token that was sampled)
under the policy that is trained, `old_log_prob` the one under the policy that sampled it, and
`advantage` how much better the action was than expected. Ratios of probabilities are formed in
log space and bounded before they are exponentiated, so that a ratio that is clipped has gradient
exactly 0 and never overflows. `where` leaves padding out before anything is computed, whatever
the padding holds.

Losses are minimized: each is minus the objective of its paper. None differentiates an advantage
by intention; wrap it in `jax.lax.stop_gradient` where it depends on the parameters.

The functions beside the losses compute advantages and returns (`gae`, `lambda_returns`,
`vtrace`, `group_advantages`, `leave_one_out_advantages`) and say by which denominator the loss of
tokens is averaged (`token_weights`, `token_mean`).
"""

# In teaching order, which is the order of the catalogue.
from jaxloss._core.namespace import public_names

# isort: off
from jaxloss.policy._ratios import (
    cispo,
    clipped,
    clipped_sequence,
    reinforce,
    soft_clipped,
)
from jaxloss.policy._regularizers import entropy, kl_estimate
from jaxloss.policy._advantages import group_advantages, leave_one_out_advantages
from jaxloss.policy._returns import Returns, gae, lambda_returns, vtrace
from jaxloss.policy._tokens import token_mean, token_weights

HELPERS = [  # public, but not losses
    "gae",
    "group_advantages",
    "lambda_returns",
    "leave_one_out_advantages",
    "token_mean",
    "token_weights",
    "vtrace",
]

__all__ = [
    "Returns",
    "cispo",
    "clipped",
    "clipped_sequence",
    "entropy",
    "gae",
    "group_advantages",
    "kl_estimate",
    "lambda_returns",
    "leave_one_out_advantages",
    "reinforce",
    "soft_clipped",
    "token_mean",
    "token_weights",
    "vtrace",
]

__getattr__, __dir__ = public_names(__name__, __all__)
