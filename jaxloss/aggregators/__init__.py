"""Aggregators: rules that combine the gradients of several losses into one update.

Where the gradients of several losses conflict, the longest dominates their sum. The rules here
compute weights from the gradients, or from the history of the losses:

- **Weightings** (`upgrad`, `dual_projection`, `mgda`, `cagrad`, `pcgrad`, `aligned_mtl`, `imtl_g`,
  `nash`, `fair_grad`, `con_fig`, `krum`) are functions from the Gramian of the gradients, of shape
  (m, m), to their weights, of shape (m,).
- **Balancers** (`dwa`, `famo`, `gradnorm`, `relobralo`, `soft_adapt`, `random`, `grad_vac`) have a
  state: `update` maps it and the losses, or the Gramian, to weights and the next state.
- **Scalarizations** (`uncertainty`, `imtl_l`, `geometric_mean`, `smooth_tchebycheff`) are functions
  from the losses to one number to differentiate, some with learned scales.
- **Coordinate-wise rules** (`trimmed_mean`, `grad_drop`) are functions of a stacked leaf.

`transforms.aggregate` makes a link of a chain from a weighting or a balancer,
`transforms.aggregate_coordinates` from a coordinate-wise rule. Both act on the stacked gradients of
`gradients.multi_value_and_grad(losses)`, which also accepts a weighting itself, and need a backward
pass for each loss. Balancers that need no Gramian can weight the losses instead, in
`jaxloss.total`, with one backward pass.

All rules are compiled, without a solver outside JAX, and every threshold is relative: gradients
scaled by 1e-6 give the same direction.
"""

from jaxloss._core.namespace import public_names
from jaxloss.aggregators._balancers import Balancer, dwa, famo, random, relobralo, soft_adapt
from jaxloss.aggregators._coordinates import grad_drop, trimmed_mean
from jaxloss.aggregators._equal_progress import aligned_mtl, con_fig, fair_grad, imtl_g, nash
from jaxloss.aggregators._gradient_balancers import grad_vac, gradnorm
from jaxloss.aggregators._scalarizers import geometric_mean, imtl_l, smooth_tchebycheff, uncertainty
from jaxloss.aggregators._stacked import combine, cosines, gramian
from jaxloss.aggregators._surgery import krum, pcgrad
from jaxloss.aggregators._weightings import cagrad, dual_projection, mgda, upgrad

__all__ = [
    "Balancer",
    "aligned_mtl",
    "cagrad",
    "combine",
    "con_fig",
    "cosines",
    "dual_projection",
    "dwa",
    "fair_grad",
    "famo",
    "geometric_mean",
    "grad_drop",
    "grad_vac",
    "gradnorm",
    "gramian",
    "imtl_g",
    "imtl_l",
    "krum",
    "mgda",
    "nash",
    "pcgrad",
    "random",
    "relobralo",
    "smooth_tchebycheff",
    "soft_adapt",
    "trimmed_mean",
    "uncertainty",
    "upgrad",
]

__getattr__, __dir__ = public_names(__name__, __all__)
