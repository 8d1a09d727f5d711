r"""Contrastive losses over a whole batch: every example meets all the others."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._softmax import surprise_of_class
from jaxloss.contract import loss
from jaxloss.declaration import ArrayLike, SetReduction
from jaxloss.domains import positive as above_zero
from jaxloss.traits import nonnegative, scale_invariant


def _similarities(x: Array, y: Array, temperature: Any) -> Array:
    """The cosines between two sets, `(*batch, set, set)`, divided by the temperature.

    As a product of matrices, so that nothing of size `(set, set, dim)` exists. In full precision:
    accelerators would round to bfloat16, and a cosine that is 0.4 % off is, at a temperature of
    0.07, a probability that is 6 % off.
    """
    x, y = numerics.normalize(x), numerics.normalize(y)
    cosines = jnp.einsum("...id,...jd->...ij", x, y, precision=jax.lax.Precision.HIGHEST)
    return cosines / temperature


def _in_set(where: Array | None, shape: tuple[int, ...]) -> Array:
    return jnp.ones(shape, bool) if where is None else where


@loss(nonnegative, scale_invariant, temperature=above_zero)
def info_nce(
    query: Real[ArrayLike, "*batch set dim"],
    key: Real[ArrayLike, "*batch set dim"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
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
    logits = _similarities(query, key, temperature)
    size = logits.shape[-1]
    if where is not None:
        # A query that is left out sees its own key, so that nothing infinite is made of it.
        seen = where[..., None, :] | jnp.eye(size, dtype=bool)
        logits = jnp.where(seen, logits, -jnp.inf)
    return surprise_of_class(logits, jnp.broadcast_to(jnp.arange(size), logits.shape[:-1]))


@loss(nonnegative, scale_invariant, temperature=above_zero)
def nt_xent(
    embeddings: Real[ArrayLike, "*batch set dim"],
    labels: Int[ArrayLike, "*batch set"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
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
    similar = _similarities(embeddings, embeddings, temperature)
    counts = _in_set(where, labels.shape)
    others = counts[..., None, :] & counts[..., :, None]
    same = labels[..., None, :] == labels[..., :, None]
    negatives = numerics.logsumexp(similar, where=others & ~same)
    positives = others & same & ~jnp.eye(labels.shape[-1], dtype=bool)
    surprise = numerics.softplus(jnp.where(positives, negatives[..., None] - similar, -jnp.inf))
    number = jnp.sum(positives, axis=-1, dtype=jnp.int32)
    return jnp.sum(surprise, axis=-1) / jnp.maximum(number, 1).astype(similar.dtype)
