r"""Penalties (regularizers): pure functions from a parameter pytree to one number.

A penalty is *added* to a loss: `total({"fit": values, "decay": (l2(params), 1e-4)})`, or, without
a change of the loss, `jaxloss.transforms.add_penalty(l2, 1e-4)` in front of an optimizer. It is a
sum over all leaves, not a mean. None leaves are skipped, and the penalty of an empty tree is 0.
Half precision is summed in float32; gradients have the dtype of each leaf.

To leave biases out, pass only the other leaves, or use the `mask` of `add_penalty`.
"""

from jaxloss._core.namespace import public_names
from jaxloss.penalties._elementwise import (
    elastic_net,
    group_lasso,
    huber_penalty,
    l1,
    l2,
    total_variation,
)
from jaxloss.penalties._matrices import nuclear_norm, orthogonality, spectral_norm

__all__ = [
    "elastic_net",
    "group_lasso",
    "huber_penalty",
    "l1",
    "l2",
    "nuclear_norm",
    "orthogonality",
    "spectral_norm",
    "total_variation",
]

__getattr__, __dir__ = public_names(__name__, __all__)
