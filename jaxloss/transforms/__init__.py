"""Gradient transformations for Optax, and a training step.

Each transformation is an `optax.GradientTransformationExtraArgs`: it accepts and forwards any extra
argument (`value`, `grad`, `value_fn`), its state keeps its dtypes under `jax.lax.scan`, and its
buffers can be donated. Optax is imported with this module, not with `jaxloss`.

- Links of a chain: `add_penalty`, `add_anchored_penalty`, `add_ema_penalty`.
- First links of a chain, on the stacked gradients of several losses: `aggregate`,
  `aggregate_coordinates`.
- Wrappers of an optimizer: `regularize`, `accumulate`, `dynamic_loss_scale`, `skip_nonfinite`;
  `loss_scale` and `tree_where` belong to the last two.
- `make_train_step` joins a loss and an optimizer.
"""

from jaxloss._core.namespace import public_names
from jaxloss.transforms._aggregate import (
    AggregateCoordinatesState,
    AggregateState,
    aggregate,
    aggregate_coordinates,
)
from jaxloss.transforms._anchor import (
    AddAnchoredPenaltyState,
    AddEmaPenaltyState,
    add_anchored_penalty,
    add_ema_penalty,
)
from jaxloss.transforms._common import tree_where
from jaxloss.transforms._guard import SkipNonfiniteState, skip_nonfinite
from jaxloss.transforms._loss_scale import DynamicLossScaleState, dynamic_loss_scale, loss_scale
from jaxloss.transforms._micro_batches import AccumulateState, accumulate
from jaxloss.transforms._penalty import AddPenaltyState, RegularizeState, add_penalty, regularize
from jaxloss.transforms._train_step import make_train_step

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
    "make_train_step",
    "regularize",
    "skip_nonfinite",
    "tree_where",
]

__getattr__, __dir__ = public_names(__name__, __all__)
