r"""Ranking: losses of scores that put the items of a list in order.

The items lie along the last axis, or along `axis`; `scores` say how the model orders them,
`relevance` how they should be ordered. A list is one example: its losses are one number, so a
mean is a mean over lists. `mask` takes items out of a list, whatever they hold. With `segments`
a row holds several lists: items with the same id form a list, nothing crosses between lists, and
the number of the row is the mean over its lists. A list that says nothing about order, because it
is empty or its relevances are all 0 or all equal, costs 0 with gradient 0 (where a loss differs
there, it says so); it still counts in a mean, unless `where` leaves it out.

A pairwise loss is the *mean over the pairs of a list*. rax takes one mean over the pairs of all
lists together, so that long lists decide; that mean is `weights=pair_count(relevance)` here.
Pairwise losses, and all losses with segments, take memory that grows with the square of a list.

The pointwise losses of rax are `regression.squared_error` and
`classification.sigmoid_cross_entropy`.
"""

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

HELPERS = ["pair_count", "relevance_weights", "dcg_weights", "dcg2_weights"]  # public, no losses

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
