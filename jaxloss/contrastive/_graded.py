"""The loss of pairs whose similarity is graded: CoSENT."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss._xla import not_folded
from jaxloss.domains import positive as above_zero
from jaxloss.ranking._lists import nan_of
from jaxloss.traits import convex, nonnegative, shift_invariant, smooth


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
    keys = ~keep, lax.stop_gradient(similarity)
    places = lax.broadcasted_iota(jnp.int32, cosines.shape, cosines.ndim - 1)
    is_out, ordered, order = lax.sort(not_folded((*keys, places)), num_keys=2)
    top = lax.stop_gradient(jnp.max(cosines, axis=-1, where=keep, initial=-jnp.inf, keepdims=True))
    shifted = cosines - jnp.where(top == -jnp.inf, 0, top)
    scores = jnp.take_along_axis(shifted / temperature, order, axis=-1)
    # For each pair, the log of the sum of exp(score) over the pairs before its ties.
    is_tie = (ordered == jnp.roll(ordered, 1, axis=-1)) & (places > 0)
    first = lax.cummax(jnp.where(is_tie, 0, places), axis=places.ndim - 1)
    below = lax.cumlogsumexp(jnp.where(is_out, -jnp.inf, scores), axis=scores.ndim - 1)
    below = jnp.take_along_axis(below, jnp.maximum(first - 1, 0), axis=-1)
    gaps = jnp.where((first > 0) & ~is_out, below - scores, -jnp.inf)
    return numerics.softplus(numerics.logsumexp(gaps)) + nan_of(cosines, similarity)
