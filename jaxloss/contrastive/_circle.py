r"""The circle loss: pairs that are further from where they should be pull harder."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, SetReduction
from jaxloss.contrastive._similarities import product
from jaxloss.domains import positive as above_zero
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
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Take it when labels say what belongs together, and far-off pairs should pull the harder.

    $$\ell_i = \log\Bigl(1 +
      \sum_{p : y_p = y_i} e^{\gamma [1 + m - s_{ip}]_+ (1 - m - s_{ip})}
      \sum_{n : y_n \neq y_i} e^{\gamma [s_{in} + m]_+ (s_{in} - m)}\Bigr), \qquad
      s_{ij} = \cos(z_i, z_j)$$

    A match is wanted at a cosine above $1 - m$, others below $m$; the brackets weigh each pair by
    how far it is from there. The gradient is that of this formula, as in keras. The paper and
    pytorch-metric-learning take the brackets as fixed in the gradient: `detach_weights=True`. An
    example without a match, or without any other, costs 0. With `references`, embeddings of
    earlier batches say, an example meets all of these and none of its own set.

    Args:
        embeddings: A set an example of the batch.
        labels: Any integers; what has the same one belongs together.
        gamma: How sharply the worst pairs are picked out, above 0; the paper has 256 for faces.
        margin: How far cosines may stay from 1 and 0; the paper has 0.25 for faces.
        detach_weights: Whether the gradient takes the weights of the pairs as fixed.
        references: What each example is compared with, in place of the others of its set.
        reference_labels: Their labels.
        where: False takes an example out of the set.

    Returns:
        The loss of each example.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If the labels do not fit, references come without labels, or gamma is a number
            that is not above 0.

    Example:
        >>> circle([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]], [5, 5, 7], gamma=1.0)
        Array([1.0898668, 1.8509016, 0.       ], dtype=float32)

    References:
        Sun et al., *Circle Loss: A Unified Perspective of Pair Similarity Optimization*, 2020.
    """
    if (references is None) != (reference_labels is None):
        message = "jaxloss.contrastive.circle: give `references` and `reference_labels` together."
        raise ValueError(message)
    in_set = jnp.ones(labels.shape, bool) if where is None else where
    met, labels_met, others = references, reference_labels, in_set[..., :, None]
    if references is None:
        met, labels_met = embeddings, labels
        others = others & in_set[..., None, :] & ~jnp.eye(labels.shape[-1], dtype=bool)
    cosines = product(numerics.normalize(embeddings), numerics.normalize(met))
    same = labels[..., :, None] == jnp.asarray(labels_met)[..., None, :]
    pull, push = numerics.relu(1 + margin - cosines), numerics.relu(cosines + margin)
    if detach_weights:
        pull, push = jax.lax.stop_gradient((pull, push))
    of_matches = numerics.logsumexp(gamma * pull * (1 - margin - cosines), where=others & same)
    of_others = numerics.logsumexp(gamma * push * (cosines - margin), where=others & ~same)
    return numerics.softplus(of_matches + of_others)
