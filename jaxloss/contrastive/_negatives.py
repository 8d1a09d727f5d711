r"""Losses of queries and keys that treat the negatives otherwise than InfoNCE does."""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import all_in_bfloat16
from jaxloss._core.spec import ArrayLike, SetReduction
from jaxloss.contrastive._sets import map_rows_of_set
from jaxloss.contrastive._similarities import (
    Columns,
    Masks,
    Rows,
    columns_of,
    logits_of_rows,
    rows_of,
    whole,
)
from jaxloss.domains import nonnegative_number
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._pair_distances import Vectors, inner_products
from jaxloss.traits import nonnegative, scale_invariant


def _hard_rows(columns: list[Any], rows: list[Any], detach_weights: bool = False) -> Array:
    *columns, beta = columns
    logits, masks, own = logits_of_rows(Columns(*columns), Rows(*rows))
    others = masks.others
    number = masks.number_of_others[..., None].astype(logits.dtype)
    total = numerics.logsumexp(beta * logits, where=others, keepdims=True)
    total = jnp.where(number == 0, 0, total - jnp.log(jnp.maximum(number, 1)))
    log_weights = beta * logits - total
    log_weights = lax.stop_gradient(log_weights) if detach_weights else log_weights
    negatives = numerics.logsumexp(logits + log_weights, where=others)
    return numerics.softplus((negatives - own.hi) - own.lo)


def _hard_rows_detached(columns: list[Any], rows: list[Any]) -> Array:
    return _hard_rows(columns, rows, detach_weights=True)


@loss(nonnegative, scale_invariant, temperature=above_zero, beta=nonnegative_number)
def hard_negative_info_nce(
    query: Real[ArrayLike, "*batch set dim"],
    key: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    beta: Real[ArrayLike, ""] = 0.5,
    detach_weights: bool = False,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""InfoNCE with weights on hard negatives: the more similar a negative, the more it counts.

    When to use: InfoNCE whose easy negatives no longer teach anything, with clean pairs: a false
    negative is a hard one.

    $$\ell_i = -\log \frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j \neq i} w_{ij} e^{s_{ij}}}, \qquad
      w_{ij} = \frac{e^{\beta s_{ij}}}{\frac{1}{n - 1} \sum_{k \neq i} e^{\beta s_{ik}}}, \quad
      s_{ij} = \frac{\cos(q_i, k_j)}{\tau}$$

    The weights have mean 1, and with $\beta = 0$ the loss is `info_nce`. It is that of Robinson et
    al. without their correction for false negatives, and that of Radenovic et al. with
    $\alpha = 1$. Weights are differentiated, as in the authors' code; `detach_weights` makes them
    constants of the gradient.

    Args:
        query: Embeddings of the queries, one set per example of the batch.
        key: Embeddings of the keys; the key of a query has the same index.
        temperature: The divisor of the cosines; it may be learned.
        beta: How much hard negatives dominate.
        detach_weights: Whether the weights are constants in the gradient.
        chunk_size: How many queries to compare with all keys at once; None for all of them.
        mask: False leaves an entry out of the vectors of a pair, or of all vectors.
        where: False takes a query and its key out of the set.

    Returns:
        The loss of each query in nats.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> x = [[1.0, 0.0], [0.0, 2.0]]
        >>> hard_negative_info_nce(x, x, temperature=1.0)
        Array([0.3132617, 0.3132617], dtype=float32)

    References:
        Robinson et al., *Contrastive Learning with Hard Negative Samples*, 2021.
        Radenovic et al., *Filtering, Distillation, and Hard Negatives* (HN-NCE), 2023.
    """
    columns = [*columns_of(key, temperature, where), jnp.asarray(beta, key.dtype)]
    of_rows = _hard_rows_detached if detach_weights else _hard_rows
    rows = rows_of(query, key, where)
    return map_rows_of_set("hard_negative_info_nce", of_rows, chunk_size, columns, rows)


def _binary_rows(columns: list[Any], rows: list[Any]) -> Array:
    keys, in_set, temperature = columns
    queries, rows_in_set, places = rows
    masks = Masks.of_rows(places, keys.values, rows_in_set, in_set)
    logits = inner_products(Vectors.of(queries, keys.in_bfloat16), keys) / temperature
    negatives = jnp.sum(jnp.where(masks.others, numerics.softplus(logits), 0), axis=-1)
    number = 1 + masks.number_of_others
    positive = numerics.softplus(-masks.diagonal(logits))
    return (positive + negatives) / number.astype(logits.dtype)


@loss(nonnegative, temperature=above_zero)
def binary_nce(
    query: Real[ArrayLike, "*batch set dim"],
    key: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 1.0,
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Binary noise-contrastive loss: sigmoid cross-entropy of each inner product, match or not.

    When to use: critics whose inner product is to be a log-ratio of densities, as in contrastive
    reinforcement learning.

    $$\ell_i = \frac1n \Bigl(\log(1 + e^{-s_{ii}}) + \sum_{j \neq i} \log(1 + e^{s_{ij}})\Bigr),
      \qquad s_{ij} = \frac{\langle q_i, k_j \rangle}{\tau}$$

    Inner products, not cosines: the lengths of the vectors are learned. The mean is over all keys,
    so that the positive has a share of $1 / n$; `siglip` is the sum, of cosines with a bias.
    Contrastive RL divides by the root of the dimension: `temperature=dim**0.5`.

    Args:
        query: Embeddings of the queries (states and actions), one set per example of the batch.
        key: Embeddings of the keys (goals); the key of a query has the same index.
        temperature: The divisor of the inner products.
        chunk_size: How many queries to compare with all keys at once; None for all of them.
        mask: False leaves an entry out of the vectors of a pair, or of all vectors.
        where: False takes a query and its key out of the set.

    Returns:
        The loss of each query in nats, a mean over keys.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> binary_nce([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]])
        Array([0.3708673, 0.4100376], dtype=float32)

    References:
        Eysenbach et al., *Contrastive Learning as Goal-Conditioned Reinforcement Learning*, 2022.
    """
    keys = Vectors.of(whole(key, -2), all_in_bfloat16())
    columns = [keys, whole(where), jnp.asarray(temperature, key.dtype)]
    return map_rows_of_set("binary_nce", _binary_rows, chunk_size, columns, [query, where])
