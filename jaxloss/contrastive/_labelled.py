r"""Losses over a set whose labels say which examples belong together."""

from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, SetReduction
from jaxloss.contrastive._sets import map_rows_of_set
from jaxloss.contrastive._similarities import columns_of, similarities_and_masks, whole
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._softmax import is_moderate, log1p_sum_exp
from jaxloss.numerics._softmax_dense import softmax_cross_entropy_dense
from jaxloss.traits import nonnegative, scale_invariant


def _supervised_rows(columns: list[Any], rows: list[Any]) -> Array:
    similarities, positives, negatives = similarities_and_masks(columns, rows)
    among_others = jnp.where(positives | negatives, similarities, -jnp.inf)
    total = softmax_cross_entropy_dense(among_others, positives.astype(similarities.dtype))
    number = jnp.sum(positives, axis=-1, dtype=jnp.int32)
    return total / jnp.maximum(number, 1).astype(total.dtype)


@loss(nonnegative, scale_invariant, temperature=above_zero)
def supervised_contrastive(
    embeddings: Real[ArrayLike, "*batch set dim"],
    labels: Int[ArrayLike, "*batch set"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Supervised contrastive loss (SupCon): each positive is to be chosen among all others.

    When to use: embeddings of labelled examples, with several examples of a class in each batch.

    $$\ell_i = \frac{1}{|P_i|} \sum_{p \in P_i}
      -\log \frac{e^{s_{ip}}}{\sum_{j \neq i} e^{s_{ij}}}, \qquad
      s_{ij} = \frac{\cos(z_i, z_j)}{\tau}, \quad P_i = \{p \neq i : y_p = y_i\}$$

    The form with the sum outside of the logarithm, $L_{out}$, which the paper prefers. The other
    positives are in the denominator, so that the least loss of an anchor with $k$ positives is
    $\log k$; `nt_xent` leaves them out. An anchor without a positive has loss 0, and counts in the
    mean: `weights=has_positive` leaves it out of the mean and in the denominators of the others,
    as pytorch-metric-learning does. The authors' code multiplies by $\tau / 0.07$.

    Args:
        embeddings: Embeddings, one set per example of the batch; of any length.
        labels: Integers; examples with the same label belong together.
        temperature: The divisor of the cosines; it may be learned.
        chunk_size: How many examples to compare with all others at once, so that no array of all
            similarities exists. None compares all of them.
        mask: False leaves an entry out of the vector of an example, or of all vectors.
        where: False takes an example out of the set.

    Returns:
        The loss of each example in nats.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> embeddings = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]
        >>> supervised_contrastive(embeddings, [5, 5, 7], temperature=1.0)
        Array([0.3132617, 0.3132617, 0.       ], dtype=float32)

    References:
        Khosla et al., *Supervised Contrastive Learning*, 2020.
    """
    columns = [*columns_of(embeddings, temperature, where), whole(labels)]
    rows = [embeddings, labels, where]
    return map_rows_of_set("supervised_contrastive", _supervised_rows, chunk_size, columns, rows)


class _MultiSimilarity(NamedTuple):
    """The loss of some rows; whether the exponents of both sums are known to be moderate."""

    of_positives: bool
    of_negatives: bool

    def __call__(self, columns: list[Any], rows: list[Any]) -> Array:
        *columns, alpha, beta, base = columns
        cosines, positives, negatives = similarities_and_masks(columns, rows)
        gap = cosines - base
        near = log1p_sum_exp(-alpha * gap, where=positives, moderate=self.of_positives) / alpha
        return near + log1p_sum_exp(beta * gap, where=negatives, moderate=self.of_negatives) / beta


@loss(nonnegative, scale_invariant, alpha=above_zero, beta=above_zero)
def multi_similarity(
    embeddings: Real[ArrayLike, "*batch set dim"],
    labels: Int[ArrayLike, "*batch set"],
    *,
    alpha: Real[ArrayLike, ""] = 2.0,
    beta: Real[ArrayLike, ""] = 50.0,
    base: Real[ArrayLike, ""] = 0.5,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Multi-similarity loss: soft hinges on the cosines of all positives and of all negatives.

    When to use: metric learning with labels, as `circle`: hard pairs dominate by themselves, and
    positives and negatives have a sharpness of their own.

    $$\ell_i = \frac1\alpha \log\Bigl(1 + \sum_{p \in P_i} e^{-\alpha (s_{ip} - \lambda)}\Bigr)
      + \frac1\beta \log\Bigl(1 + \sum_{n \in N_i} e^{\beta (s_{in} - \lambda)}\Bigr), \qquad
      s_{ij} = \cos(z_i, z_j)$$

    All pairs count, as in pytorch-metric-learning without a miner; the paper first drops pairs
    that are easier than the hardest pair of the other kind by a margin.

    Args:
        embeddings: Embeddings, one set per example of the batch; of any length.
        labels: Integers; examples with the same label belong together.
        alpha: The sharpness for positives.
        beta: The sharpness for negatives.
        base: The cosine above which positives, and below which negatives, have little loss.
        chunk_size: How many examples to compare with all others at once; None for all of them.
        mask: False leaves an entry out of the vector of an example, or of all vectors.
        where: False takes an example out of the set.

    Returns:
        The loss of each example; that of one without positives or negatives has the other term.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> multi_similarity([[1.0, 0.0], [2.0, 0.0]], [5, 5], alpha=1.0)
        Array([0.474077, 0.474077], dtype=float32)

    References:
        Wang et al., *Multi-Similarity Loss with General Pair Weighting*, 2019.
    """
    columns = [*columns_of(embeddings, 1.0, where), whole(labels), alpha, beta, base]
    rows = [embeddings, labels, where]
    function = _MultiSimilarity(is_moderate(-alpha, base), is_moderate(beta, base))
    return map_rows_of_set("multi_similarity", function, chunk_size, columns, rows)
