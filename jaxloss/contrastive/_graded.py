"""The loss of pairs whose similarity is graded: CoSENT."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._double_double import exp_shifted
from jaxloss.numerics._ordered import in_order, iota, max_of_later, nan_of, sort, sum_of_later
from jaxloss.traits import convex, nonnegative, shift_invariant, smooth


@jax.jit  # so that an eager call compiles its loops once
def _gaps_to_less_similar(scores: Array, similarity: Array, keep: Array) -> Array:
    """For each pair the log of the sum of exp(score - own score) over the less similar ones.

    In the order of decreasing similarity, where all less similar pairs come later; -inf for a pair
    without any.
    """
    places = iota(scores)
    is_out, ordered, order = sort((~keep, -similarity, places), num_keys=3)
    scores, size = in_order(scores, order), scores.shape[-1]
    is_in = ~is_out
    is_followed = is_in & (places < size - 1) & ~jnp.roll(is_out, -1, axis=-1)
    # Sums over each pair and all that come later, relative to the largest of them.
    still = lax.stop_gradient(scores)
    top = jnp.where(is_in, max_of_later(jnp.where(is_in, still, -jnp.inf), is_followed), 0)
    factor = jnp.where(is_followed, jnp.exp(jnp.roll(top, -1, axis=-1) - top), 0)
    term = jnp.where(is_in, exp_shifted(jnp.where(is_in, scores, 0), top), 0)
    total = sum_of_later(lax.stop_gradient(factor), term)
    log_total = top + jnp.log(jnp.where(is_in, total, 1))
    # Of pairs of one similarity all have what is behind the last of them.
    is_tie = is_followed & (ordered == jnp.roll(ordered, -1, axis=-1))
    behind = jnp.where(is_followed & ~is_tie, jnp.roll(log_total, -1, axis=-1), 0)
    copied = is_tie.astype(scores.dtype)
    log_behind = sum_of_later(copied, behind)
    has_behind = sum_of_later(copied, (is_followed & ~is_tie).astype(scores.dtype)) > 0
    return jnp.where(has_behind, log_behind - scores, -jnp.inf)


@loss(convex, nonnegative, shift_invariant, smooth, temperature=above_zero)
def cosent(
    cosines: Real[ArrayLike, "*batch pairs"],
    similarity: Real[ArrayLike, "*batch pairs"],
    *,
    temperature: Real[ArrayLike, ""] = 0.05,
    mask: Bool[ArrayLike, "*batch pairs"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""CoSENT loss: the cosines of pairs are to have the order of their graded similarities.

    When to use: pairs of sentences with a degree of similarity (STS); only its order is used.

    $$\ell = \log\Bigl(1 + \sum_{i, j :\, y_i < y_j} e^{(c_i - c_j) / \tau}\Bigr)$$

    A comparison of pairs with pairs, by sorting: $n \log n$ in time and $n$ in memory. Pairs of
    equal similarity are not compared. The cosines come in as they are, such as
    `numerics.cosine_similarity(left, right)`; sentence-transformers multiplies by 20, which is the
    temperature here.

    Args:
        cosines: The predicted similarity of each pair.
        similarity: The true one, on any scale.
        temperature: The divisor of the cosines.
        mask: False takes a pair out.

    Returns:
        The loss of each list of pairs; 0 if all are equally similar.

    Example:
        >>> cosent([0.5, 0.5, 0.5], [0.1, 0.9, 0.9])  # log(1 + 2)
        Array(1.0986123, dtype=float32)

    References:
        Li and Li, *AnglE-optimized Text Embeddings* (which gives it as the baseline), 2023.
        Su, *CoSENT*, 2022.
    """
    keep = jnp.ones(cosines.shape, bool) if mask is None else mask
    top = lax.stop_gradient(jnp.max(cosines, axis=-1, where=keep, initial=-jnp.inf, keepdims=True))
    shifted = (cosines - jnp.where(top == -jnp.inf, 0, top)) / temperature
    gaps = _gaps_to_less_similar(shifted, lax.stop_gradient(similarity), keep)
    return numerics.softplus(numerics.logsumexp(gaps)) + nan_of(cosines, similarity)
