"""jaxloss, the loss library of JAX.

A loss is a pure function that maps predictions and targets to one number an example; everything
else (masks, means, memory, meshes, optimizers, checks, pictures) is written once, around all
losses. The losses stand on shelves, `jaxloss.regression.huber`; `jaxloss.catalogue.cards()`
lists them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxloss import (
    catalogue,
    classification,
    domains,
    numerics,
    penalties,
    reduction,
    regression,
    traits,
)
from jaxloss.checks import checked, checks
from jaxloss.combine import total
from jaxloss.contract import loss
from jaxloss.declaration import AxisReduction, Reduction, SetReduction
from jaxloss.reduction import Mean, mean, sum

if TYPE_CHECKING:
    from jaxloss import transforms

__version__ = "0.1.0"

__all__ = [
    "ArrayLike",
    "AxisReduction",
    "Mean",
    "Reduction",
    "SetReduction",
    "catalogue",
    "checked",
    "checks",
    "classification",
    "domains",
    "loss",
    "mean",
    "numerics",
    "penalties",
    "reduction",
    "regression",
    "sum",
    "total",
    "traits",
    "transforms",
]


def __getattr__(name: str) -> Any:
    # Optax is imported with the transforms alone, so that `import jaxloss` stays quick.
    if name == "transforms":
        return importlib.import_module("jaxloss.transforms")
    message = f"module 'jaxloss' has no attribute {name!r}"
    raise AttributeError(message)
