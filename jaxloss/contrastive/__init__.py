r"""Contrastive: losses of embeddings, vectors of which only the distances count.

Embeddings lie along the last axis. Triplets and pairs are judged one by one; the others are losses
over a whole batch, of shape `(*batch, set, dim) -> (*batch, set)`: every example of a set is an
anchor and meets all the others. There `where` takes an example out of its set: it is neither
anchor, nor positive, nor negative. Cosines are of any vectors, long or short: what is far outside
the unit sphere loses no digit, and the zero vector is at a right angle to all others.
"""

# The catalogue lists the losses in this order, in which they are taught.
# isort: off
from jaxloss.contrastive._pairs import cosine_embedding, pair, triplet
from jaxloss.contrastive._circle import circle
from jaxloss.contrastive._sets import clip, info_nce, nt_xent, siglip

__all__ = ["circle", "clip", "cosine_embedding", "info_nce", "nt_xent", "pair", "siglip", "triplet"]
