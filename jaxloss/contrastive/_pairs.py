r"""Contrastive losses of single triplets and pairs."""

from collections.abc import Callable
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import positive as above_zero
from jaxloss.domains import sign_label, unit_interval
from jaxloss.numerics._distance_gap import gap_of_distances
from jaxloss.numerics._elementwise import linear_argument, power_or_zero
from jaxloss.traits import nonnegative, scale_invariant

_Distance = Literal["norm", "squared", "cosine"] | Callable[[Any, Any], Any]


def _norm(x: Float[Array, "*batch dim"], power: float | Array) -> Float[Array, "*batch"]:
    """The p-norm, of entries of any size; the zero vector has gradient 0."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    scaled = numerics.absolute(x / jnp.where(size == 0, 1, size))
    total = jnp.sum(power_or_zero(scaled, power), axis=-1)
    return size[..., 0] * power_or_zero(total, 1 / power)


def _distance(x: Array, y: Array, distance: _Distance, power: float | Array) -> Array:
    if distance == "norm":
        return _norm(x - y, power)
    if distance == "cosine":
        return numerics.cosine_distance(x, y)
    if not callable(distance):
        message = (
            f'jaxloss.contrastive.triplet: `distance` is {distance!r}, expected "norm", "squared", '
            f'"cosine", or a function of two arrays of embeddings.'
        )
        raise ValueError(message)
    return distance(x, y)


def _gap(
    anchor: Array,
    positive: Array,
    negative: Array,
    distance: _Distance,
    power: float | Array,
    swap: bool,
) -> Array:
    """The distance of the positive from the anchor less that of the negative."""
    is_norm = distance == "norm" and isinstance(power, int | float) and power == 2
    if not is_norm and distance != "squared":
        far = _distance(anchor, negative, distance, power)
        if swap:
            far = jnp.minimum(far, _distance(positive, negative, distance, power))
        return _distance(anchor, positive, distance, power) - far

    def gap(x: Array, y: Array, z: Array) -> Array:
        difference, close, far = gap_of_distances(x, y, z)
        return difference if is_norm else difference * (close + far)

    from_anchor = gap(anchor, positive, negative)
    return jnp.maximum(from_anchor, gap(positive, anchor, negative)) if swap else from_anchor


@loss(nonnegative, power=above_zero)
def triplet(
    anchor: Real[ArrayLike, "*batch dim"],
    positive: Real[ArrayLike, "*batch dim"],
    negative: Real[ArrayLike, "*batch dim"],
    *,
    margin: Real[ArrayLike, ""] = 1.0,
    power: Real[ArrayLike, ""] = 2.0,
    swap: bool = False,
    distance: _Distance = "norm",
    mask: Bool[ArrayLike, "*batch dim"] | Bool[ArrayLike, "dim"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Triplet loss: hinge on the difference of two distances from an anchor.

    When to use: only relative similarity is known, an anchor being closer to one example than to
    another.

    $$\ell(a, p, n) = \max\left(0,\; d(a, p) - d(a, n) + m\right), \qquad
      d(x, y) = \Bigl(\sum_i |x_i - y_i|^q\Bigr)^{1/q}$$

    A triplet that keeps the margin has gradient 0, so hard triplets must be chosen as training
    goes on. Equal points have gradient 0. The difference of two Euclidean distances is computed
    from the difference of the two points, and is accurate however far the anchor is. Nothing is
    added inside the root: `torch` adds 1e-6 to every difference, and `optax` to the sum of powers.
    The latter has no absolute values, so that $q = 1$ is a signed sum there and $q = 3$ often NaN.

    Args:
        anchor: Embeddings.
        positive: Embeddings that should be close to the anchors.
        negative: Embeddings that should be further from them.
        margin: By how much further, in the unit of the distance.
        power: The order of the norm: 2 for Euclidean, 1 for Manhattan distance.
        swap: Whether the distance of the negative is the smaller one of those to the anchor and to
            the positive.
        distance: "norm", "squared" (Euclidean), "cosine" (1 less the cosine, from 0 to 2); or a
            function of two arrays `(*batch, dim)` that returns `(*batch)`.
        mask: False leaves a feature out of an example, or of all examples.

    Returns:
        The loss of each triplet, in the unit of the distance.

    Raises:
        ValueError: If `distance` is neither one of these names nor a function, or if the function
            returns another shape.

    Example:
        >>> triplet([0.0, 0.0], [3.0, 4.0], [0.0, 5.5])
        Array(0.5, dtype=float32)

    References:
        Schroff et al., *FaceNet: A Unified Embedding for Face Recognition*, 2015.
        Balntas et al., *Learning Local Feature Descriptors with Triplets* (swap), 2016.
    """
    return numerics.relu(_gap(anchor, positive, negative, distance, power, swap) + margin)


@loss(nonnegative, scale_invariant, labels=sign_label)
def cosine_embedding(
    left: Real[ArrayLike, "*batch dim"],
    right: Real[ArrayLike, "*batch dim"],
    labels: Real[ArrayLike, "*batch"],
    *,
    margin: Real[ArrayLike, ""] = 0.0,
    mask: Bool[ArrayLike, "*batch dim"] | Bool[ArrayLike, "dim"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Cosine embedding loss: cosine distance of matches, hinge on the cosine of other pairs.

    When to use: pairs known to match or not, if only the direction of an embedding counts.

    $$\ell(x, z, y) = \begin{cases} 1 - \cos(x, z) & y = 1 \\
      \max(0, \cos(x, z) - m) & y = -1 \end{cases}$$

    As in `torch`, except that it adds 1e-12 to the squared lengths.

    Args:
        left: Embeddings.
        right: Embeddings.
        labels: +1 for a match, -1 for none; anything else gives NaN.
        margin: The cosine below which a pair that does not match has loss 0, from -1 to 1.
        mask: False leaves a feature out of an example, or of all examples.

    Returns:
        The loss of each pair, from 0 to 2.

    Example:
        >>> cosine_embedding([[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [3.0, 4.0]], [1, -1])
        Array([1., 1.], dtype=float32)

    References:
        Wang et al., *Learning Fine-grained Image Similarity with Deep Ranking*, 2014.
    """
    cosine = numerics.cosine_similarity(left, right)
    apart = numerics.relu(cosine - margin)
    # Products, not `jnp.where`, so that a label that is NaN gives NaN.
    return 0.5 * ((1 + labels) * numerics.cosine_distance(left, right) + (1 - labels) * apart)


@loss(nonnegative, labels=unit_interval)
def pair(
    left: Real[ArrayLike, "*batch dim"],
    right: Real[ArrayLike, "*batch dim"],
    labels: Real[ArrayLike, "*batch"],
    *,
    margin: Real[ArrayLike, ""] = 1.0,
    mask: Bool[ArrayLike, "*batch dim"] | Bool[ArrayLike, "dim"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Contrastive loss of a pair: half the squared distance, or half the squared hinge on it.

    When to use: pairs known to match or not, where the others should be at least `margin` apart.

    $$\ell(x, z, y) = \tfrac12 y\, d^2 + \tfrac12 (1 - y) \max(0, m - d)^2, \qquad
      d = \lVert x - z \rVert$$

    In the paper $Y = 0$ is a match; here, as in most libraries, a match is 1. tensorflow-addons has
    no factors 1/2, pytorch-metric-learning no squares. At two equal points that do not match, the
    gradient is 0.

    Args:
        left: Embeddings.
        right: Embeddings.
        labels: 1 for a match, 0 for none, or the probability of a match.
        margin: The distance beyond which a pair that does not match has loss 0.
        mask: False leaves a feature out of an example, or of all examples.

    Returns:
        The loss of each pair, in the squared unit of the distance.

    Example:
        >>> pair([[0.0, 0.0], [0.0, 0.0]], [[0.3, 0.4], [0.3, 0.4]], [1, 0])
        Array([0.125, 0.125], dtype=float32)

    References:
        Hadsell et al., *Dimensionality Reduction by Learning an Invariant Mapping*, 2006.
    """
    labels = linear_argument(labels)
    apart = numerics.relu(margin - numerics.distance(left, right))
    together = numerics.squared_distance(left, right)
    return 0.5 * (labels * together + (1 - labels) * jnp.square(apart))
