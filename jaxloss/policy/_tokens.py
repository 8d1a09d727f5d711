r"""By which denominator the losses of tokens are averaged.

Trainers use five: the tokens of the batch (DAPO, BNPO), of each sequence and then the sequences
(GRPO), the sequences alone (LUSPO), a fixed length times the sequences (Dr. GRPO), or none (a
sum). Each is a `Mean(total, weight)` whose parts are sums over tokens, so that micro-batches,
devices and packed rows add up to exactly the mean of the whole batch.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.helpers import flags
from jaxloss._core.reduction import Mean
from jaxloss._core.spec import ArrayLike

Denominator = Literal["token", "sequence", "sequence_sum"]


def _runs(mask: Array, segments: ArrayLike) -> Array:
    """The number of the sequence of each token: 0, 1, ... along a row."""
    if segments is None:
        return jnp.zeros(mask.shape, jnp.int32)
    ids = jnp.asarray(segments)
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.shape != mask.shape:
        message = (
            f"jaxloss.policy.token_weights: `segments` is {ids.dtype} of shape {ids.shape}, "
            f"expected integers of the mask's shape, {mask.shape}."
        )
        raise ValueError(message)
    begins = jnp.concatenate([jnp.zeros_like(ids[..., :1]), ids[..., 1:] != ids[..., :-1]], axis=-1)
    return jnp.cumsum(begins.astype(jnp.int32), axis=-1)


def _counts(mask: Array, segments: ArrayLike) -> Array:
    """How many tokens count in the sequence of each token."""
    length = mask.shape[-1]
    ids = _runs(mask, segments).reshape(-1, length)
    flat = mask.reshape(-1, length).astype(jnp.int32)
    of_row = jax.vmap(lambda m, i: jax.ops.segment_sum(m, i, num_segments=length)[i])
    return of_row(flat, ids).reshape(mask.shape)


def _first_of_sequence(mask: Array, segments: ArrayLike) -> Array:
    """Whether a token is the first one of its sequence that counts."""
    ids = _runs(mask, segments)
    rank = jnp.cumsum(mask.astype(jnp.int32), axis=-1)
    # The rank before the sequence began: the largest among tokens of earlier sequences.
    begins = jnp.concatenate([jnp.ones_like(mask[..., :1]), ids[..., 1:] != ids[..., :-1]], axis=-1)
    before = jnp.where(begins, rank - mask, 0)
    before = jax.lax.cummax(before, axis=mask.ndim - 1)
    return mask & (rank == before + 1)


def token_weights(
    mask: ArrayLike,
    *,
    per: Literal["token", "sequence"] = "token",
    segments: ArrayLike | None = None,
) -> Array:
    r"""Weights of tokens with which `reduction="parts"` is a mean of tokens or of sequences.

    $$w_t = 1 \quad (\text{token}), \qquad w_t = \frac{1}{|\text{sequence of } t|}
      \quad (\text{sequence})$$

    `loss(..., where=mask, weights=token_weights(mask, per="sequence"), reduction="parts")` is the
    mean over sequences of the means over their tokens, and its weight the number of sequences.
    A sum of tokens over a number of sequences is not a weighted mean: for that see `token_mean`.

    Args:
        mask: `(*batch, length)`, True for tokens that count.
        per: "token" or "sequence".
        segments: Integers of the mask's shape, the sequence of each token where a row holds
            several, one after the other.

    Returns:
        Weights of the mask's shape; 0 where the mask is False.

    Raises:
        TypeError: If the mask is not boolean.
        ValueError: If `per` is unknown or the segments do not fit.

    Example:
        >>> token_weights(jnp.array([[True, True, False], [True, False, False]]), per="sequence")
        Array([[0.5, 0.5, 0. ],
               [1. , 0. , 0. ]], dtype=float32)
    """
    mask = jnp.asarray(mask)
    (mask,) = flags("jaxloss.policy.token_weights", mask.shape, mask=mask)
    if per not in ("token", "sequence"):
        message = (
            f"jaxloss.policy.token_weights: `per` is {per!r}, expected 'token' or 'sequence'. A "
            f"sum over the tokens of a sequence is no weighted mean: write `token_mean(losses, "
            f"mask, per='sequence_sum')`."
        )
        raise ValueError(message)
    dtype = jnp.result_type(float)
    if per == "token":
        return mask.astype(dtype)
    return jnp.where(mask, 1 / jnp.maximum(_counts(mask, segments), 1).astype(dtype), 0)


def token_mean(
    losses: ArrayLike,
    mask: ArrayLike,
    *,
    per: Denominator = "token",
    segments: ArrayLike | None = None,
    length: int | None = None,
) -> Mean:
    r"""The mean of token losses by one of the denominators in use, undivided.

    | `per` | `length` | divided by | used by |
    | --- | --- | --- | --- |
    | "token" | None | number of tokens | DAPO, BNPO |
    | "sequence" | None | tokens of each sequence, then sequences | GRPO, SAPO |
    | "sequence_sum" | None | number of sequences | LUSPO |
    | "sequence_sum" | L | L times the number of sequences | Dr. GRPO |

    The sum over tokens (the fifth in use) is `.total` of "token". A sequence without a token that
    counts is not counted. Parts of micro-batches and devices add up: `sum(parts)`, `.psum(axis)`.

    Args:
        losses: `(*batch, length)`, the loss of each token; what is masked may hold anything.
        mask: Booleans of the same shape, True for tokens that count.
        per: "token", "sequence" or "sequence_sum".
        segments: Integers of the same shape, the sequence of each token where a row holds
            several, one after the other.
        length: A fixed length by which sums are divided as well, with "sequence_sum".

    Returns:
        `Mean(total, weight)`; `.value` divides.

    Raises:
        TypeError: If the mask is not boolean.
        ValueError: If shapes differ, `per` is unknown, or `length` comes without "sequence_sum".

    Example:
        >>> losses, mask = jnp.array([[1.0, 2.0], [3.0, jnp.nan]]), jnp.array([[1, 1], [1, 0]]) > 0
        >>> [float(token_mean(losses, mask, per=p).value) for p in ("token", "sequence")]
        [2.0, 2.25]
        >>> float(token_mean(losses, mask, per="sequence_sum", length=4).value)
        0.75
    """
    name = "jaxloss.policy.token_mean"
    if per not in ("token", "sequence", "sequence_sum"):
        expected = "'token', 'sequence' or 'sequence_sum'"
        raise ValueError(f"{name}: `per` is {per!r}, expected {expected}.")
    if length is not None and per != "sequence_sum":
        message = f"{name}: `length` is {length!r}, but it divides only with per='sequence_sum'."
        raise ValueError(message)
    losses = jnp.asarray(losses)
    losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
    (mask,) = flags(name, losses.shape, mask=mask)
    kept = jnp.where(mask, losses, 0)
    if per != "sequence_sum":
        weights = token_weights(mask, per=per, segments=segments).astype(losses.dtype)
        # Counted, not added up: the sum of 3 times 1/3 may not be 1.
        counted = mask if per == "token" else _first_of_sequence(mask, segments)
        count = jnp.sum(counted, dtype=jnp.int32)
        return Mean(jnp.sum(weights * kept), count.astype(losses.dtype))
    count = jnp.sum(_first_of_sequence(mask, segments), dtype=jnp.int32).astype(losses.dtype)
    return Mean(jnp.sum(kept), count * (1 if length is None else length))
