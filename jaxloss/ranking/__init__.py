r"""Ranking losses: functions of scores that put the items of a list in order.

The items lie along the last axis, or along `axis`; `scores` are the predicted order, `relevance` is
the right one. A list is one example with one value, so a mean is a mean over lists. `mask` takes
items out of a list, whatever they hold. With `segments` a row holds several lists: items with the
same id form a list, and the value of the row is the mean over its lists. A list without information
about order, because it is empty or its relevances are all 0 or all equal, has loss 0 and gradient 0
(a loss that differs says so); it counts in a mean, unless `where` leaves it out.

A pairwise loss is the *mean over the pairs of a list*. rax takes one mean over the pairs of all
lists, in which long lists dominate; here that is `weights=pair_count(relevance)`.

Pairwise losses, `unique_softmax` and `approx_ndcg` compare all pairs of items: their memory grows
with the square of the length of a row, or with `chunk_size` times the length. `softmax`,
`poly1_softmax` and `list_mle` sort instead, with or without segments: n log(n).

The pointwise losses of rax are `regression.squared_error` and
`classification.sigmoid_cross_entropy`.
"""

from jaxloss._core.namespace import public_names
from jaxloss.ranking._listwise import approx_ndcg, list_mle, poly1_softmax, softmax, unique_softmax
from jaxloss.ranking._pair_weights import dcg2_weights, dcg_weights, pair_count, relevance_weights
from jaxloss.ranking._pairwise import (
    margin,
    pairwise_hinge,
    pairwise_logistic,
    pairwise_quantile,
    pairwise_soft_zero_one,
    pairwise_squared_error,
)

HELPERS = [
    "pair_count",
    "relevance_weights",
    "dcg_weights",
    "dcg2_weights",
]  # public functions that are not losses

__all__ = [
    "approx_ndcg",
    "dcg2_weights",
    "dcg_weights",
    "list_mle",
    "margin",
    "pair_count",
    "pairwise_hinge",
    "pairwise_logistic",
    "pairwise_quantile",
    "pairwise_soft_zero_one",
    "pairwise_squared_error",
    "poly1_softmax",
    "relevance_weights",
    "softmax",
    "unique_softmax",
]

__getattr__, __dir__ = public_names(__name__, __all__)
