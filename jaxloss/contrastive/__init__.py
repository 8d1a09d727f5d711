r"""Contrastive losses: functions of the distances or cosines of embeddings.

Embeddings lie along the last axis. `triplet`, `cosine_embedding` and `pair` have one value per
triplet or pair, and the losses of one prototype a class (`arcface`, `cosface`, `proxy_nca`) one per
embedding. Most others are losses over a whole set, `(*batch, set, dim) -> (*batch, set)`:
every example of a set is an anchor, and is compared with all the others. There `where` takes an
example out of its set: it is neither anchor, nor positive, nor negative. Vectors may have any
length: cosines are as accurate at a length of 1e25 as at 1, and the zero vector has cosine 0 with
all others.

Similarities are in full precision. Embeddings that come in bfloat16 are multiplied as they are on
GPU and TPU, with sums in float32; of float32 embeddings the product takes six times as long on TPU,
and no tensor cores on GPU.

`matryoshka` makes any of them a loss of the first entries of its embeddings, too.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order.
# isort: off
from jaxloss.contrastive._pairs import cosine_embedding, pair, triplet
from jaxloss.contrastive._circle import circle
from jaxloss.contrastive._sets import clip, info_nce, nt_xent, siglip
from jaxloss.contrastive._labelled import multi_similarity, supervised_contrastive
from jaxloss.contrastive._mining import batch_triplet
from jaxloss.contrastive._prototypes import arcface, cosface, proxy_anchor, proxy_nca
from jaxloss.contrastive._negatives import binary_nce, hard_negative_info_nce
from jaxloss.contrastive._graded import cosent
from jaxloss.contrastive._matryoshka import matryoshka

HELPERS = ["matryoshka"]  # public, but not losses

__all__ = [
    "arcface",
    "batch_triplet",
    "binary_nce",
    "circle",
    "clip",
    "cosent",
    "cosface",
    "cosine_embedding",
    "hard_negative_info_nce",
    "info_nce",
    "matryoshka",
    "multi_similarity",
    "nt_xent",
    "pair",
    "proxy_anchor",
    "proxy_nca",
    "siglip",
    "supervised_contrastive",
    "triplet",
]

__getattr__, __dir__ = public_names(__name__, __all__)
