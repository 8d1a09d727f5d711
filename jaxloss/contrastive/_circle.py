r"""The circle loss: pairs weighted by their distance from a target."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import all_in_bfloat16
from jaxloss._core.spec import ArrayLike, SetReduction
from jaxloss.contrastive._similarities import Masks, whole
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._pair_distances import Vectors, inner_products
from jaxloss.traits import nonnegative, scale_invariant


@loss(nonnegative, scale_invariant, gamma=above_zero)
def circle(
    embeddings: Real[ArrayLike, "*batch set dim"],
    labels: Int[ArrayLike, "*batch set"],
    *,
    gamma: Real[ArrayLike, ""] = 80.0,
    margin: Real[ArrayLike, ""] = 0.4,
    detach_weights: bool = False,
    references: Real[ArrayLike, "*batch references dim"] | None = None,
    reference_labels: Int[ArrayLike, "*batch references"] | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Circle loss: cosines of matches above 1 - m, of others below m, weighted by their distance.

    When to use: metric learning with class labels, where pairs that are far from their target
    should have larger gradients than pairs that are close to it.

    $$\ell_i = \log\Bigl(1 +
      \sum_{p : y_p = y_i} e^{\gamma [1 + m - s_{ip}]_+ (1 - m - s_{ip})}
      \sum_{n : y_n \neq y_i} e^{\gamma [s_{in} + m]_+ (s_{in} - m)}\Bigr), \qquad
      s_{ij} = \cos(z_i, z_j)$$

    The target of a match is a cosine above $1 - m$, of any other pair below $m$; the brackets
    weight each pair by its distance from there. The gradient is that of this formula, as in keras.
    The paper and pytorch-metric-learning treat the brackets as constants in the gradient:
    `detach_weights=True`. An example without a match, or without any other, has loss 0. With
    `references`, such as embeddings of earlier batches, an example is compared with all of these
    and with none of its own set.

    Args:
        embeddings: Embeddings, one set per example of the batch.
        labels: Integers; examples with the same label belong together.
        gamma: How much the worst pairs dominate, above 0; the paper has 256 for faces.
        margin: How far cosines may stay from 1 and 0; the paper has 0.25 for faces.
        detach_weights: Whether the weights of pairs are constants in the gradient.
        references: What each example is compared with, instead of the others of its set.
        reference_labels: The labels of the references.
        mask: False leaves an entry out of the vector of an example, or of all vectors.
        where: False takes an example out of the set.

    Returns:
        The loss of each example.

    Raises:
        ValueError: If references come without labels, or labels without references.

    Example:
        >>> circle([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]], [5, 5, 7], gamma=1.0)
        Array([1.0898668, 1.8509016, 0.       ], dtype=float32)

    References:
        Sun et al., *Circle Loss: A Unified Perspective of Pair Similarity Optimization*, 2020.
    """
    if (references is None) != (reference_labels is None):
        message = "jaxloss.contrastive.circle: give `references` and `reference_labels` together."
        raise ValueError(message)
    places, columns_in_set = jnp.arange(labels.shape[-1], dtype=jnp.int32), where
    if references is None:
        references, reference_labels = embeddings, labels
    else:
        places, columns_in_set = jnp.full_like(places, -1), None  # no reference is left out
    columns = whole(references, -2)
    masks = Masks.of_rows(places, columns, where, whole(columns_in_set))
    positives, negatives = masks.by_label(labels, whole(reference_labels))
    sides = (Vectors.directions(x, all_in_bfloat16()) for x in (embeddings, columns))
    cosines = inner_products(*sides)
    weights = numerics.relu(1 + margin - cosines), numerics.relu(cosines + margin)
    if detach_weights:
        weights = jax.lax.stop_gradient(weights)
    matches = gamma * weights[0] * (1 - margin - cosines)
    others = gamma * weights[1] * (cosines - margin)
    return numerics.softplus(
        numerics.logsumexp(matches, where=positives) + numerics.logsumexp(others, where=negatives)
    )
