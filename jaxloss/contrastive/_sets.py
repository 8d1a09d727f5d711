r"""Contrastive losses over a whole batch: every example meets all the others.

With `chunk_size`, rows of the square of similarities are computed as they are needed, a few hundred at a
time. A sum or a mean then has its gradients made on the way, and takes no more products of matrices
than with the square; one value an example, and CLIP, take one more.
"""

from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, SetReduction
from jaxloss._memory.deferred import map_rows
from jaxloss.contrastive._similarities import (
    by_rows_and_columns,
    directed,
    others_of_rows,
    own_similarity,
    own_with_slope,
    product,
    surprise,
)
from jaxloss.domains import positive as above_zero
from jaxloss.traits import nonnegative, scale_invariant


def _by_rows(name: str, function: Any, chunk_size: int | None, shared: Any, rows: list[Any]) -> Any:
    """A function of rows of the square, some at a time; the first of `rows` are embeddings."""
    fun_name, batch = f"jaxloss.contrastive.{name}", rows[0].ndim - 2
    return map_rows(fun_name, function, chunk_size, shared, rows, batch=batch)


def _is_own(places: Array, size: int) -> Array:
    """Where rows of these places have their diagonal."""
    return places[:, None] == jnp.arange(size, dtype=places.dtype)


def _seen(counts: Array | None, inside: Array | None) -> Array | None:
    """The pairs of rows that count and what is inside; None is all."""
    if counts is None or inside is None:
        return None
    return counts[..., :, None] & inside[..., None, :]


def _choices(shared: Any, rows: Any) -> Array:
    """The surprise of some queries at their own keys."""
    (keys, temperature, inside), (queries, own_keys, counts, places) = shared, rows
    logits = product(directed(queries, temperature), keys)
    own, lost = own_similarity(queries, own_keys, temperature)
    own = own_with_slope(logits, jnp.broadcast_to(places, own.shape), own)
    is_own = _is_own(places, logits.shape[-1])
    return surprise(own, lost, others_of_rows(logits, is_own, _seen(counts, inside)))


@loss(nonnegative, scale_invariant, temperature=above_zero)
def info_nce(
    query: Real[ArrayLike, "*batch set dim"],
    key: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    chunk_size: int | None = None,
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Take it for two views or two modalities: each query has to pick its own key from the batch.

    $$\ell_i = -\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}, \qquad
      s_{ij} = \frac{\cos(q_i, k_j)}{\tau}$$

    A cross-entropy over the batch: it grows with the logarithm of the batch's size, and two equal
    keys are each other's negatives. Only queries choose; add the loss with the arguments changed
    for one that is symmetric. Vectors are brought to length 1 here; divide by the temperature, do
    not multiply (`sentence-transformers`' scale of 20 is a temperature of 0.05).

    Args:
        query: Embeddings, a set an example of the batch.
        key: Embeddings, of which the one at a query's own place is right.
        temperature: How sharp the choice is; it may be learned.
        chunk_size: How many queries to compare at once, so that the square of similarities does not
            exist; all of them if not given.
        where: False takes a query and its key out of the set.

    Returns:
        The loss of each query in nats.

    Raises:
        ValueError: If the shapes differ, or the temperature is a number that is not above 0.

    Example:
        >>> info_nce([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]], temperature=1.0)
        Array([0.3132617, 0.3132617], dtype=float32)

    References:
        van den Oord et al., *Representation Learning with Contrastive Predictive Coding*, 2018.
    """
    shared = [numerics.normalize(key), temperature, where]
    rows = [query, lax.stop_gradient(key), where]
    return _by_rows("info_nce", _choices, chunk_size, shared, rows)


@loss(nonnegative, scale_invariant, temperature=above_zero)
def clip(
    left: Real[ArrayLike, "*batch set dim"],
    right: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
    chunk_size: int | None = None,
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Take it to align two modalities, pictures and their captions: each side picks the other.

    $$\ell_i = -\tfrac12 \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
      -\tfrac12 \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}}, \qquad
      s_{ij} = \frac{\cos(x_i, z_j)}{\tau}$$

    `info_nce` in both directions, from one square of similarities. Vectors are brought to length
    1 here. The paper learns $\log(1/\tau)$, started at a $\tau$ of 0.07 and kept above 0.01:
    give `temperature=jnp.exp(-log_scale)`.

    Args:
        left: Embeddings, a set an example of the batch.
        right: Embeddings, of which the one at the same place belongs to each of the left.
        temperature: How sharp the choice is; it may be learned.
        chunk_size: How many of the left to compare with all of the right at once, so that the square
            of similarities does not exist; all of them if not given.
        where: False takes a pair out of the set.

    Returns:
        The loss of each pair in nats.

    Raises:
        TypeError: If the chunk is not an integer.
        ValueError: If the shapes differ, or the temperature is a number that is not above 0.

    Example:
        >>> clip([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]], temperature=1.0)
        Array([0.4353238, 0.5469903], dtype=float32)

    References:
        Radford et al., *Learning Transferable Visual Models* (CLIP), 2021.
    """
    if chunk_size is not None:
        fun_name = "jaxloss.contrastive.clip"
        return by_rows_and_columns(fun_name, chunk_size, left, right, temperature, where)
    own, lost = own_similarity(left, right, temperature)
    logits = product(directed(left, temperature), numerics.normalize(right))
    places = jnp.arange(logits.shape[-1])
    own = own_with_slope(logits, jnp.broadcast_to(places, own.shape), own)
    is_own, seen = _is_own(places, places.size), _seen(where, where)
    of_rows = surprise(own, lost, others_of_rows(logits, is_own, seen))
    of_columns = others_of_rows(jnp.swapaxes(logits, -1, -2), is_own, seen)
    return 0.5 * (of_rows + surprise(own, lost, of_columns))


def _matches(shared: Any, rows: Any) -> Array:
    """What some of the left pay for their own and for all others of the right."""
    (right, temperature, bias, inside), (left, own_right, counts, places) = shared, rows
    logits = product(directed(left, temperature), right)
    own, lost = own_similarity(left, own_right, temperature)
    own = own_with_slope(logits, jnp.broadcast_to(places, own.shape), own)
    others, seen = ~_is_own(places, logits.shape[-1]), _seen(counts, inside)
    others = others if seen is None else others & seen
    costs = jnp.sum(jnp.where(others, numerics.softplus(logits + bias), 0), axis=-1)
    return costs + numerics.softplus(-(own + bias) - lost)


@loss(nonnegative, scale_invariant, temperature=above_zero)
def siglip(
    left: Real[ArrayLike, "*batch set dim"],
    right: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    bias: Real[ArrayLike, ""] = -10.0,
    chunk_size: int | None = None,
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Take it for two modalities and huge batches: every pair decides on its own, match or not.

    $$\ell_i = \log(1 + e^{-z_{ii}}) + \sum_{j \neq i} \log(1 + e^{z_{ij}}), \qquad
      z_{ij} = \frac{\cos(x_i, y_j)}{\tau} + b$$

    Nothing is normalized over the batch, so that it may be computed in any pieces. A set has many
    more pairs that do not match than pairs that do; the bias starts at -10 to say so, and is
    learned with the temperature. The mean over the set is the loss of the paper.

    Args:
        left: Embeddings, a set an example of the batch.
        right: Embeddings, of which the one at the same place belongs to each of the left.
        temperature: What cosines are divided by; it may be learned.
        bias: What is added to every logit; it may be learned.
        chunk_size: How many of the left to compare with all of the right at once.
        where: False takes a pair out of the set.

    Returns:
        The loss of each of the left, of its decisions on all of the right, in nats.

    Raises:
        TypeError: If the chunk is not an integer.
        ValueError: If the shapes differ, or the temperature is a number that is not above 0.

    Example:
        >>> siglip([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]], temperature=1.0, bias=0.0)
        Array([1.0064089, 1.0064089], dtype=float32)

    References:
        Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, 2023.
    """
    shared = [numerics.normalize(right), temperature, bias, where]
    rows = [left, lax.stop_gradient(right), where]
    return _by_rows("siglip", _matches, chunk_size, shared, rows)


def _positives(shared: Any, rows: Any) -> Array:
    """The mean surprise of some examples at their positives."""
    embeddings, labels, temperature, inside = shared
    anchors, mine, counts, places = rows
    similar = product(numerics.normalize(anchors), embeddings) / temperature
    same = mine[..., :, None] == labels[..., None, :]
    seen = _seen(counts, inside)
    others = jnp.ones_like(same) if seen is None else seen
    negatives = numerics.logsumexp(similar, where=others & ~same)
    positives = others & same & ~_is_own(places, labels.shape[-1])
    surprise = numerics.softplus(jnp.where(positives, negatives[..., None] - similar, -jnp.inf))
    number = jnp.sum(positives, axis=-1, dtype=jnp.int32)
    return jnp.sum(surprise, axis=-1) / jnp.maximum(number, 1).astype(similar.dtype)


@loss(nonnegative, scale_invariant, temperature=above_zero)
def nt_xent(
    embeddings: Real[ArrayLike, "*batch set dim"],
    labels: Int[ArrayLike, "*batch set"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
    chunk_size: int | None = None,
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Take it when labels say which examples of a batch belong together: SimCLR, or with classes.

    $$\ell_i = \frac{1}{|P_i|} \sum_{p \in P_i}
      -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n : y_n \neq y_i} e^{s_{in}}}, \qquad
      s_{ij} = \frac{\cos(z_i, z_j)}{\tau}, \quad P_i = \{p \neq i : y_p = y_i\}$$

    Each positive meets the negatives alone, not the other positives (SupCon has all of them in
    its sum). For SimCLR's two views of $n$ images, put one behind the other and take
    `labels=jnp.tile(jnp.arange(n), 2)`. An example without a positive costs 0; `optax.ntxent`
    averages over pairs, which is `weights` equal to the number of positives of each example and
    `reduction="mean"`, and is NaN if there is none.

    Args:
        embeddings: A set an example of the batch.
        labels: Any integers; what has the same one belongs together.
        temperature: How sharp the choice is; it may be learned.
        chunk_size: How many examples to compare with all others at once.
        where: False takes an example out of the set.

    Returns:
        The loss of each example in nats.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If the labels do not fit, or the temperature is a number that is not above 0.

    Example:
        >>> nt_xent([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [5, 5, 7], temperature=1.0)
        Array([0.3132617, 0.3132617, 0. ], dtype=float32)

    References:
        Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, 2020.
        Sohn, *Improved Deep Metric Learning with Multi-class N-pair Loss Objective*, 2016.
    """
    shared = [numerics.normalize(embeddings), labels, temperature, where]
    rows = [embeddings, labels, where]
    return _by_rows("nt_xent", _positives, chunk_size, shared, rows)
