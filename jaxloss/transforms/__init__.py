"""Losses for Optax: gradient transformations that live in `optax.chain`, and a step around them.

Optax is imported with this module, not with `jaxloss`. What is here is a real
`optax.GradientTransformationExtraArgs`: it takes and forwards any extra argument (`value`, `grad`,
`value_fn`), its state keeps its dtypes under `jax.lax.scan`, and its buffers can be donated.
"""

from jaxloss.transforms.minimize import minimize
from jaxloss.transforms.penalty import AddPenaltyState, add_penalty

__all__ = ["AddPenaltyState", "add_penalty", "minimize"]
