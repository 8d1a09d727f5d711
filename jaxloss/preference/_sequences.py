"""Log-probabilities of responses, from those of their tokens."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.spec import ArrayLike


def sequence_log_probability(
    token_log_probs: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    num_segments: int | None = None,
    average: bool = False,
) -> Array:
    r"""The log-probability of each sequence, from those of its tokens.

    $$\log \pi(y \mid x) = \sum_t m_t \log \pi(y_t \mid x, y_{<t})$$

    Sums are taken in float32 or wider; a token that is masked may hold anything. DPO, KTO and CPO
    take the sum, SimPO, ORPO and IPO (as its authors recommend) the mean over tokens.

    Args:
        token_log_probs: `(*batch, length)`, log-probabilities of the tokens.
        mask: Booleans of the same shape, True for the tokens of the response.
        segments: Integers of the same shape, from 0 to `num_segments - 1`, the sequence of each
            token where a row holds several.
        num_segments: How many sequences a row holds.
        average: Whether to divide by the number of tokens.

    Returns:
        `(*batch)`, or with segments `(*batch, num_segments)`; 0 for a sequence without tokens.

    Raises:
        TypeError: If the mask is not boolean.
        ValueError: If shapes differ, or segments come without their number.

    Example:
        >>> sequence_log_probability([[-1.0, -2.0, -5.0]], mask=[[True, True, False]])
        Array([-3.], dtype=float32)
    """
    name = "jaxloss.preference.sequence_log_probability"
    x = jnp.asarray(token_log_probs)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    keep = jnp.ones(x.shape, bool) if mask is None else jnp.asarray(mask)
    if keep.dtype != jnp.bool_:
        raise TypeError(f"{name}: `mask` is {keep.dtype}, expected booleans: write `mask > 0`.")
    if keep.shape != x.shape:
        raise ValueError(f"{name}: `mask` has shape {keep.shape}, expected {x.shape}.")
    x = jnp.where(keep, x, 0)
    if segments is None:
        total, count = jnp.sum(x, axis=-1), jnp.sum(keep, axis=-1, dtype=jnp.int32)
    else:
        ids = jnp.asarray(segments)
        if num_segments is None or ids.shape != x.shape:
            message = (
                f"{name}: `segments` has shape {ids.shape} and `num_segments` is {num_segments}, "
                f"expected shape {x.shape} and the number of sequences in a row."
            )
            raise ValueError(message)
        of_row = jax.vmap(lambda v, i: jax.ops.segment_sum(v, i, num_segments=num_segments))
        flat = ids.reshape(-1, x.shape[-1])
        shape = (*x.shape[:-1], num_segments)
        total = of_row(x.reshape(flat.shape), flat).reshape(shape)
        count = of_row(keep.reshape(flat.shape).astype(jnp.int32), flat).reshape(shape)
    return total / jnp.maximum(count, 1).astype(total.dtype) if average else total
