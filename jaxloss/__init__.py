"""jaxloss, the loss library of JAX.

A loss is a pure function that maps predictions and targets to one number an example; everything
else (masks, means, memory, meshes, optimizers, checks, pictures) is written once, around all
losses. Losses are grouped by family, as in `jaxloss.regression.huber`;
`jaxloss.catalogue.losses()` lists them.
"""

import functools
import importlib
import importlib.metadata
from typing import TYPE_CHECKING

from jaxloss import catalogue, domains, numerics, penalties, traits
from jaxloss._combine import total
from jaxloss._core.checks import checked, checks
from jaxloss._core.decorator import loss
from jaxloss._core.namespace import public_names
from jaxloss._core.reduction import Mean, mean, sum
from jaxloss._core.registry import FAMILIES
from jaxloss._core.spec import AxisReduction, Reduction, SetReduction
from jaxloss._core.typing import ArrayLike
from jaxloss._memory.chunked import chunked

if TYPE_CHECKING:
    from jaxloss import (
        aggregators,
        box,
        classification,
        contrastive,
        distillation,
        divergence,
        generative,
        gradients,
        image,
        integrations,
        linear,
        nll,
        plot,
        policy,
        preference,
        ranking,
        regression,
        risk,
        robust,
        router,
        scoring,
        segmentation,
        self_supervised,
        sequence,
        sharded,
        transforms,
        value,
    )

    __version__: str

__all__ = [
    "ArrayLike",
    "AxisReduction",
    "Mean",
    "Reduction",
    "SetReduction",
    "aggregators",
    "box",
    "catalogue",
    "checked",
    "checks",
    "chunked",
    "classification",
    "contrastive",
    "distillation",
    "divergence",
    "domains",
    "generative",
    "gradients",
    "image",
    "integrations",
    "linear",
    "loss",
    "mean",
    "nll",
    "numerics",
    "penalties",
    "plot",
    "policy",
    "preference",
    "ranking",
    "regression",
    "risk",
    "robust",
    "router",
    "scoring",
    "segmentation",
    "self_supervised",
    "sequence",
    "sharded",
    "sum",
    "total",
    "traits",
    "transforms",
    "value",
]

# Made on first use, so that `import jaxloss` costs little more than `import jax`.
_LAZY = {
    name: functools.partial(importlib.import_module, f"jaxloss.{name}")
    for name in (
        *FAMILIES,
        *("aggregators", "gradients", "integrations", "linear", "plot", "risk"),
        *("sharded", "transforms"),
    )
}

__getattr__, __dir__ = public_names(
    __name__,
    __all__,
    lazy=_LAZY | {"__version__": functools.partial(importlib.metadata.version, "jaxloss")},
)
