"""jaxloss, the loss library of JAX.

A loss is a pure function that maps predictions and targets to one number an example; everything
else (masks, means, memory, meshes, optimizers, checks, pictures) is written once, around all
losses. The losses stand on shelves, `jaxloss.regression.huber`; `jaxloss.catalogue.cards()`
lists them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxloss import catalogue, domains, numerics, penalties, reduction, traits
from jaxloss._typing import ArrayLike
from jaxloss.checks import checked, checks
from jaxloss.chunked import chunked
from jaxloss.combine import total
from jaxloss.contract import loss
from jaxloss.declaration import AxisReduction, Reduction, SetReduction
from jaxloss.reduction import Mean, mean, sum

if TYPE_CHECKING:
    from jaxloss import (
        aggregators,
        classification,
        contrastive,
        divergence,
        gradients,
        likelihood,
        linear,
        plot,
        ranking,
        regression,
        robust,
        segmentation,
        sequence,
        sharded,
        transforms,
    )

__version__ = "0.1.0"

__all__ = [
    "ArrayLike",
    "AxisReduction",
    "Mean",
    "Reduction",
    "SetReduction",
    "aggregators",
    "catalogue",
    "checked",
    "checks",
    "chunked",
    "classification",
    "contrastive",
    "divergence",
    "domains",
    "gradients",
    "likelihood",
    "linear",
    "loss",
    "mean",
    "numerics",
    "penalties",
    "plot",
    "ranking",
    "reduction",
    "regression",
    "robust",
    "segmentation",
    "sequence",
    "sharded",
    "sum",
    "total",
    "traits",
    "transforms",
]

# Imported when they are first asked for, so that `import jaxloss` costs little more than jax.
SHELVES = (
    "regression",
    "robust",
    "classification",
    "divergence",
    "likelihood",
    "ranking",
    "contrastive",
    "segmentation",
    "sequence",
)
AROUND = ("aggregators", "gradients", "linear", "plot", "sharded", "transforms")


def __getattr__(name: str) -> Any:
    if name in (*SHELVES, *AROUND):
        return importlib.import_module(f"jaxloss.{name}")
    message = f"module 'jaxloss' has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
