"""Losses for Optax: gradient transformations that live in `optax.chain`, and a step around them.

Optax is imported with this module, not with `jaxloss`. What is here is a real
`optax.GradientTransformationExtraArgs`: it takes and forwards any extra argument (`value`, `grad`,
`value_fn`), its state keeps its dtypes under `jax.lax.scan`, and its buffers can be donated.

- Links of a chain: `add_penalty`, `add_anchored_penalty`, `add_ema_penalty`.
- Heads of a chain on the stacked gradients of several losses: `aggregate`,
  `aggregate_coordinates`.
- Wrappers of an optimizer: `regularize`, `accumulate`, `dynamic_loss_scale`, `skip_nonfinite`;
  with `loss_scale` and `select` beside the last two.
- `minimize`: a loss and an optimizer as a step.
"""

from jaxloss.transforms._common import select
from jaxloss.transforms.anchor import (
    AddAnchoredPenaltyState,
    AddEmaPenaltyState,
    add_anchored_penalty,
    add_ema_penalty,
)
from jaxloss.transforms.guard import SkipNonfiniteState, skip_nonfinite
from jaxloss.transforms.heads import (
    AggregateCoordinatesState,
    AggregateState,
    aggregate,
    aggregate_coordinates,
)
from jaxloss.transforms.loss_scale import DynamicLossScaleState, dynamic_loss_scale, loss_scale
from jaxloss.transforms.micro_batches import AccumulateState, accumulate
from jaxloss.transforms.penalty import AddPenaltyState, RegularizeState, add_penalty, regularize
from jaxloss.transforms.step import minimize

__all__ = [
    "AccumulateState",
    "AddAnchoredPenaltyState",
    "AddEmaPenaltyState",
    "AddPenaltyState",
    "AggregateCoordinatesState",
    "AggregateState",
    "DynamicLossScaleState",
    "RegularizeState",
    "SkipNonfiniteState",
    "accumulate",
    "add_anchored_penalty",
    "add_ema_penalty",
    "add_penalty",
    "aggregate",
    "aggregate_coordinates",
    "dynamic_loss_scale",
    "loss_scale",
    "minimize",
    "regularize",
    "select",
    "skip_nonfinite",
]
