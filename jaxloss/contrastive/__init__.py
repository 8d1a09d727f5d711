r"""Contrastive losses: functions of the distances or cosines of embeddings.

Embeddings lie along the last axis. `triplet`, `cosine_embedding` and `pair` have one value per
triplet or pair. The others are losses over a whole set, `(*batch, set, dim) -> (*batch, set)`:
every example of a set is an anchor, and is compared with all the others. There `where` takes an
example out of its set: it is neither anchor, nor positive, nor negative. Vectors may have any
length: cosines are as accurate at a length of 1e25 as at 1, and the zero vector has cosine 0 with
all others.
"""

from jaxloss._core.namespace import public_names

# The catalogue lists the losses in this order.
# isort: off
from jaxloss.contrastive._pairs import cosine_embedding, pair, triplet
from jaxloss.contrastive._circle import circle
from jaxloss.contrastive._sets import clip, info_nce, nt_xent, siglip

__all__ = ["circle", "clip", "cosine_embedding", "info_nce", "nt_xent", "pair", "siglip", "triplet"]

__getattr__, __dir__ = public_names(__name__, __all__)
