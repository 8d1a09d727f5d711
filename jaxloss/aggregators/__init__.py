"""Several gradients as one: weights that do not let one loss win at the expense of another.

Where losses pull against each other, the gradient of their sum belongs to the loudest. What is
here looks at the gradients, or at the course of the losses, and says how to add them up:

- **of the Gramian** (`upgrad`, `dual_projection`, `mgda`, `cagrad`, `pcgrad`, `aligned_mtl`,
  `imtl_g`, `nash`, `fair_grad`, `con_fig`, `krum`): functions from the inner products of the
  gradients, shape (m, m), to their weights, shape (m,);
- **with a memory** (`dwa`, `famo`, `gradnorm`, `relobralo`, `soft_adapt`, `random`, `grad_vac`):
  a `Balancer`, whose `update` maps a state and the losses, or the Gramian, to weights;
- **of the losses alone** (`uncertainty`, `imtl_l`, `geometric_mean`, `smooth_tchebycheff`): one
  number to differentiate, some with scales that are learned beside the parameters;
- **entry by entry** (`trimmed_mean`, `grad_drop`): functions of a stacked leaf.

The first two stand in a chain as `transforms.aggregate`, the last as
`transforms.aggregate_coordinates`, both on the stacked gradients of
`gradients.multi_value_and_grad(losses)`, which also takes a function of the Gramian itself. They
cost a backward pass a loss; balancers that need no Gramian cost nothing at the level of the losses,
as weights in `jaxloss.total`.

Everything is compiled, with no solver outside JAX, and every threshold is relative: gradients
scaled by 1e-6 give the same direction.
"""

from jaxloss.aggregators._balancers import Balancer, dwa, famo, random, relobralo, soft_adapt
from jaxloss.aggregators._coordinates import grad_drop, trimmed_mean
from jaxloss.aggregators._gradient_balancers import grad_vac, gradnorm
from jaxloss.aggregators._scalarizers import geometric_mean, imtl_l, smooth_tchebycheff, uncertainty
from jaxloss.aggregators._stacked import combine, cosines, gramian
from jaxloss.aggregators._surgery import krum, pcgrad
from jaxloss.aggregators._weightings import (
    aligned_mtl,
    cagrad,
    con_fig,
    dual_projection,
    fair_grad,
    imtl_g,
    mgda,
    nash,
    upgrad,
)

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
