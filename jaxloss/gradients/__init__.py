"""Gradients of losses: functions shaped like `jax.value_and_grad`, for what it cannot do alone.

- `accumulate_value_and_grad`: micro-batches with the gradient of the whole batch, any masks;
- `multi_value_and_grad`, `value_and_gramian`: several losses at once, stacked or combined;
- `conflicts`: how far the gradients of several losses conflict, and at what cost;
- `scaled_value_and_grad`: for half precision, the loss itself unscaled;
- `per_example_value_and_grad`: a gradient an example, or their clipped mean in bounded memory;
- `gauss_newton_vp`: curvature of a loss through a model, as products with vectors.

A loss gives one number here, in any of the forms that losses have: a scalar, an array, of which
the mean is taken, or the `Mean` of `reduction="parts"`, which is divided. Parameters are any pytree
of floating-point arrays. Gradients have their dtypes, values are float32 or better, and everything
may be jitted, mapped and scanned.
"""

from jaxloss._core.namespace import public_names
from jaxloss.gradients._accumulation import accumulate_value_and_grad
from jaxloss.gradients._conflict import Conflicts, conflicts
from jaxloss.gradients._curvature import gauss_newton_vp
from jaxloss.gradients._multi_loss import multi_value_and_grad, value_and_gramian
from jaxloss.gradients._per_example import per_example_value_and_grad
from jaxloss.gradients._scaled import scaled_value_and_grad

__all__ = [
    "Conflicts",
    "accumulate_value_and_grad",
    "conflicts",
    "gauss_newton_vp",
    "multi_value_and_grad",
    "per_example_value_and_grad",
    "scaled_value_and_grad",
    "value_and_gramian",
]

__getattr__, __dir__ = public_names(__name__, __all__)
