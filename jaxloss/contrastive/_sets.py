r"""Contrastive losses over a whole set: every example is compared with all the others.

With `chunk_size`, a few rows of the square of similarities are computed at a time. A sum or a mean
then computes its gradients in the same loop, with as many matrix products as without chunks; one
value per example, and CLIP, take one more.
"""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import all_in_bfloat16
from jaxloss._core.spec import ArrayLike, SetReduction
from jaxloss._memory.deferred import map_rows
from jaxloss.contrastive._similarities import (
    Columns,
    Rows,
    columns_of,
    logits_of_rows,
    logits_with,
    rows_of,
    similarities_and_masks,
    sums_of_square,
    whole,
    whole_set,
)
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._online_logsumexp import ExpSum
from jaxloss.numerics._pair_distances import Vectors, product
from jaxloss.numerics._reductions import row_sum
from jaxloss.traits import nonnegative, scale_invariant


def map_rows_of_set(
    name: str, function: Any, chunk_size: int | None, columns: Any, rows: Any
) -> Any:
    """`function(columns, rows)` of all rows, `chunk_size` of them at a time; places come last."""
    fun_name, batch = f"jaxloss.contrastive.{name}", rows[0].ndim - 2
    return map_rows(fun_name, function, chunk_size, [*columns], rows, batch=batch)


def _info_nce_rows(shared: list[Any], own: list[Any]) -> Array:
    *of_columns, negatives = shared
    *of_rows, own_negatives, places = own
    columns, rows = Columns(*of_columns), Rows._make([*of_rows, places])
    logits, masks, match = logits_of_rows(columns, rows)
    others, more = masks.sum_of_others(logits, axis=-1), None
    if negatives is not None:
        more = logits_with(columns, rows, negatives)
    if own_negatives is not None:
        queries = numerics.normalize(rows.vectors) / columns.temperature
        more = product(queries[..., None, :], own_negatives)[..., 0, :]
    if more is not None:
        others = others.merge(ExpSum.of(more, jnp.ones_like(more, bool)))
    return others.nll(match)


@loss(nonnegative, scale_invariant, temperature=above_zero)
def info_nce(
    query: Real[ArrayLike, "*batch set dim"],
    key: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    negatives: Real[ArrayLike, "*batch negatives dim"]
    | Real[ArrayLike, "*batch set negatives dim"]
    | None = None,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""InfoNCE loss: softmax cross-entropy of each query over the keys of its set.

    When to use: two views or two modalities of the same examples, where each query should be more
    similar to its own key than to the other keys of the batch.

    $$\ell_i = -\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}, \qquad
      s_{ij} = \frac{\cos(q_i, k_j)}{\tau}$$

    The sum is over the keys of the set and over `negatives`, if these are given: a queue of
    earlier keys, or hard negatives of each query. The loss grows with the logarithm of their
    number, and two equal keys are negatives of each other. Only queries choose among keys; for a
    symmetric loss use `clip`. Vectors are normalized to length 1. The temperature divides the
    cosines (the scale of 20 in `sentence-transformers` is a temperature of 0.05).

    Args:
        query: Embeddings of the queries, one set per example of the batch.
        key: Embeddings of the keys; the key of a query has the same index.
        temperature: The divisor of the cosines; it may be learned.
        negatives: Embeddings of more negatives: the same for all queries, or each query's own.
        chunk_size: How many queries to compare with all keys at once, so that no array of all
            similarities exists. None compares all of them.
        mask: False leaves an entry out of the vectors of a pair, or of all vectors.
        where: False takes a query and its key out of the set.

    Returns:
        The loss of each query in nats.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> info_nce([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]], temperature=1.0)
        Array([0.3132617, 0.3132617], dtype=float32)

    References:
        van den Oord et al., *Representation Learning with Contrastive Predictive Coding*, 2018.
    """
    shared = own_negatives = None
    if negatives is not None and negatives.ndim == query.ndim:
        shared = whole_set(Vectors.directions(negatives, all_in_bfloat16()))
    elif negatives is not None:
        own_negatives = numerics.normalize(negatives)
    columns = [*columns_of(key, temperature, where), shared]
    rows = [*rows_of(query, key, where), own_negatives]
    return map_rows_of_set("info_nce", _info_nce_rows, chunk_size, columns, rows)


@loss(nonnegative, scale_invariant, temperature=above_zero)
def clip(
    left: Real[ArrayLike, "*batch set dim"],
    right: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""CLIP loss: the mean of InfoNCE from left to right and from right to left.

    When to use: aligning two modalities, such as images and their captions.

    $$\ell_i = -\tfrac12 \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
      -\tfrac12 \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}}, \qquad
      s_{ij} = \frac{\cos(x_i, z_j)}{\tau}$$

    Both directions share one square of similarities. Vectors are normalized to length 1. The paper
    learns $\log(1/\tau)$, starting at a $\tau$ of 0.07 and keeping it above 0.01: pass
    `temperature=jnp.exp(-log_scale)`.

    Args:
        left: Embeddings, one set per example of the batch.
        right: Embeddings of the matches; the match of a left vector has the same index.
        temperature: The divisor of the cosines; it may be learned.
        chunk_size: How many left vectors to compare with all right ones at once, so that no array
            of all similarities exists. None compares all of them.
        mask: False leaves an entry out of the vectors of a pair, or of all vectors.
        where: False takes a pair out of the set.

    Returns:
        The loss of each pair in nats.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> clip([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]], temperature=1.0)
        Array([0.4353238, 0.5469903], dtype=float32)

    References:
        Radford et al., *Learning Transferable Visual Models* (CLIP), 2021.
    """
    columns, rows = columns_of(right, temperature, where), rows_of(left, right, where)
    sums = sums_of_square("jaxloss.contrastive.clip", chunk_size, columns, rows)
    return 0.5 * (sums.rows.nll(sums.own) + sums.columns.nll(sums.own))


def _siglip_rows(columns: list[Any], rows: list[Any]) -> Array:
    *columns, bias = columns
    logits, masks, own = logits_of_rows(Columns(*columns), Rows(*rows))
    negatives = jnp.sum(jnp.where(masks.others, numerics.softplus(logits + bias), 0), axis=-1)
    return negatives + numerics.softplus(-(own + bias).renormalized().hi)


@loss(nonnegative, scale_invariant, temperature=above_zero)
def siglip(
    left: Real[ArrayLike, "*batch set dim"],
    right: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    bias: Real[ArrayLike, ""] = -10.0,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Sigmoid loss of a set (SigLIP): sigmoid cross-entropy of each pair, match or not.

    When to use: two modalities with very large batches, since every pair is classified by itself
    and nothing is normalized over the batch.

    $$\ell_i = \log(1 + e^{-z_{ii}}) + \sum_{j \neq i} \log(1 + e^{z_{ij}}), \qquad
      z_{ij} = \frac{\cos(x_i, y_j)}{\tau} + b$$

    A set of $n$ pairs has $n - 1$ times as many mismatches as matches. The bias starts at -10 for
    that reason, and is learned with the temperature. The mean over the set is the loss of the
    paper.

    Args:
        left: Embeddings, one set per example of the batch.
        right: Embeddings of the matches; the match of a left vector has the same index.
        temperature: The divisor of the cosines; it may be learned.
        bias: The number added to every logit; it may be learned.
        chunk_size: How many left vectors to compare with all right ones at once, so that no array
            of all similarities exists. None compares all of them.
        mask: False leaves an entry out of the vectors of a pair, or of all vectors.
        where: False takes a pair out of the set.

    Returns:
        The loss of each left vector, summed over all right ones, in nats.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> siglip([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]], temperature=1.0, bias=0.0)
        Array([1.0064089, 1.0064089], dtype=float32)

    References:
        Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, 2023.
    """
    columns = [*columns_of(right, temperature, where), jnp.asarray(bias, right.dtype)]
    rows = rows_of(left, right, where)
    return map_rows_of_set("siglip", _siglip_rows, chunk_size, columns, rows)


def _nt_xent_rows(columns: list[Any], rows: list[Any]) -> Array:
    similarities, positives, negatives = similarities_and_masks(columns, rows)
    of_negatives = numerics.logsumexp(similarities, where=negatives)
    gaps = jnp.where(positives, of_negatives[..., None] - similarities, -jnp.inf)
    number = jnp.sum(positives, axis=-1, dtype=jnp.int32)
    total = row_sum(numerics.softplus(gaps))
    return total / jnp.maximum(number, 1).astype(total.dtype)


@loss(nonnegative, scale_invariant, temperature=above_zero)
def nt_xent(
    embeddings: Real[ArrayLike, "*batch set dim"],
    labels: Int[ArrayLike, "*batch set"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""NT-Xent loss: cross-entropy of each positive among the negatives, with cosines as logits.

    When to use: SimCLR, or sets with labels that say which examples belong together.

    $$\ell_i = \frac{1}{|P_i|} \sum_{p \in P_i}
      -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n : y_n \neq y_i} e^{s_{in}}}, \qquad
      s_{ij} = \frac{\cos(z_i, z_j)}{\tau}, \quad P_i = \{p \neq i : y_p = y_i\}$$

    Each positive is compared with the negatives only, not with the other positives (SupCon has all
    of them in its sum). For SimCLR, concatenate the two views of $n$ images and pass
    `labels=jnp.tile(jnp.arange(n), 2)`. An example without a positive has loss 0. `optax.ntxent`
    is the mean over pairs: `weights` equal to the number of positives of each example, with
    `reduction="mean"`; it is NaN if there is no pair.

    Args:
        embeddings: Embeddings, one set per example of the batch.
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
        >>> nt_xent([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [5, 5, 7], temperature=1.0)
        Array([0.3132617, 0.3132617, 0. ], dtype=float32)

    References:
        Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, 2020.
        Sohn, *Improved Deep Metric Learning with Multi-class N-pair Loss Objective*, 2016.
    """
    columns = [*columns_of(embeddings, temperature, where), whole(labels)]
    return map_rows_of_set(
        "nt_xent", _nt_xent_rows, chunk_size, columns, [embeddings, labels, where]
    )
