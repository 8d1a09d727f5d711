r"""Self-supervised: losses of several views of unlabelled examples, and against their collapse.

`negative_cosine`, `alignment`, `dino` and `swav` have one value an example. `koleo` has one an
example of a set, `(*batch, set, dim) -> (*batch, set)`, where `where` takes an example out of the
set. `barlow_twins`, `vicreg`, `sigreg`, `visreg` and `uniformity` are functions of statistics of a
set, and have one value a set, `(*batch, set, dim) -> (*batch)`: there `mask` takes an example out.
With `axis_name` these statistics are those of all devices of a mesh.

State goes in and comes out (`dino_center`), and so does randomness: directions and codes are
arguments.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order, the order of teaching.
# isort: off
from jaxloss.self_supervised._views import dino, dino_center, negative_cosine, sinkhorn_codes, swav
from jaxloss.self_supervised._redundancy import barlow_twins, vicreg
from jaxloss.self_supervised._gaussianity import sigreg, visreg
from jaxloss.self_supervised._spread import alignment, koleo, uniformity

HELPERS = ["dino_center", "sinkhorn_codes"]  # public, but not losses

__all__ = [
    "alignment",
    "barlow_twins",
    "dino",
    "dino_center",
    "koleo",
    "negative_cosine",
    "sigreg",
    "sinkhorn_codes",
    "swav",
    "uniformity",
    "vicreg",
    "visreg",
]

__getattr__, __dir__ = public_names(__name__, __all__)
