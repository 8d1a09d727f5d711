"""Losses of reward models: of the scores of two responses, and of ranked ones."""

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import (
    extended,
    finite,
)
from jaxloss.ranking._lists import nll_of_order
from jaxloss.traits import convex, nonnegative, smooth


@loss(nonnegative, smooth, chosen=extended, rejected=extended, margin=finite, log_tie=finite)
def bradley_terry(
    chosen: Real[ArrayLike, "*batch"],
    rejected: Real[ArrayLike, "*batch"],
    *,
    margin: Real[ArrayLike, ""] | Real[ArrayLike, "*batch"] = 0.0,
    tied: Bool[ArrayLike, "*batch"] | None = None,
    log_tie: Real[ArrayLike, ""] = 0.0,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Bradley-Terry loss of a reward model: logistic loss of the difference of scores.

    When to use: a reward model, or any rating, from comparisons of two.

    $$\ell = -\log \sigma(s_c - s_r - m)$$

    With `tied` it is Davidson's model: with $d = s_c - s_r - m$ the outcomes are proportional to
    $e^{d/2}$ (chosen), $e^{-d/2}$ (rejected) and $\nu$ (tie).

    Args:
        chosen: Score of the preferred one.
        rejected: Score of the other.
        margin: By how much the scores should differ.
        tied: True where neither was preferred; if given, ties have a probability.
        log_tie: $\log \nu$, how likely ties are between equals.

    Returns:
        The loss of each pair in nats.

    Example:
        >>> bradley_terry([1.0, 2.0], [1.0, 0.0])
        Array([0.6931472, 0.126928 ], dtype=float32)

    References:
        Bradley and Terry, *Rank Analysis of Incomplete Block Designs*, 1952.
        Davidson, *On Extending the Bradley-Terry Model to Accommodate Ties*, 1970.
    """
    gap = chosen - rejected - margin
    if tied is None:
        return numerics.softplus(-gap)
    # Each relative to the outcome that was seen: its own share of the gradient would cancel.
    half = 0.5 * gap
    of_tie = numerics.softplus(numerics.log_cosh(half) + (math.log(2) - log_tie))
    of_order = numerics.logsumexp(jnp.stack([jnp.zeros_like(gap), -gap, log_tie - half], axis=-1))
    return jnp.where(tied, of_tie, of_order)


@loss(convex, nonnegative, smooth, scores=finite)
def plackett_luce(
    scores: Real[ArrayLike, "*batch items"],
    ranks: Int[ArrayLike, "*batch items"],
    *,
    mask: Bool[ArrayLike, "*batch items"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Plackett-Luce loss: negative log-probability of a ranking of several responses.

    When to use: preferences over more than two responses to a prompt.

    $$\ell = -\sum_i \log \frac{e^{s_{(i)}}}{\sum_{j \ge i} e^{s_{(j)}}}$$

    $s_{(1)}$ is the score of the response of the lowest rank. It is `ranking.list_mle` of
    ranks; with two responses it is `bradley_terry`.

    Args:
        scores: Scores, or implicit rewards, of the responses.
        ranks: The rank of each response, the best one lowest; ties are taken in order.
        mask: False leaves a response out.

    Returns:
        The loss of each list in nats.

    Example:
        >>> plackett_luce([[0.0, 0.0, 0.0]], [[1, 2, 3]])
        Array([1.7917595], dtype=float32)

    References:
        Plackett, *The Analysis of Permutations*, 1975.
    """
    return nll_of_order(scores, (ranks,), mask, None)[0]
