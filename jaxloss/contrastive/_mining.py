r"""Triplets of a batch: all of them, or the hard ones, in the memory of its pairs.

Every kind of mining makes the loss of an anchor a sum over its pairs,

$$\ell_i = \sum_p a_p (d_{ip} + m) - \sum_n c_n d_{in}$$

where $a_p$ is the number of triplets of positive loss that hold the positive $p$, and $c_n$ the
number of those that hold the negative $n$. The numbers are found by sorting, and are constants of
the gradient. No array of triplets exists.
"""

from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, SetReduction
from jaxloss.contrastive._sets import map_rows_of_set
from jaxloss.contrastive._similarities import Masks, whole
from jaxloss.domains import nonnegative_number
from jaxloss.numerics._ordered import iota, rows_at, sort
from jaxloss.numerics._pair_distances import farthest_and_nearest, squared_distances
from jaxloss.numerics._vectors import power_of_two_near
from jaxloss.traits import nonnegative

Mining = Literal["hard", "semi_hard", "all"]


class _Pairs(NamedTuple):
    """The pairs of one anchor with all columns; not differentiated."""

    distances: Float[Array, " columns"]
    positives: Bool[Array, " columns"]
    negatives: Bool[Array, " columns"]


class _Below(NamedTuple):
    """Of each bound: how many numbers are below it, or at it, and the least of the others."""

    number: Array
    following: Array


def _below(x: Array, bounds: Array, *, inclusive: bool) -> _Below:
    """Counts the numbers below each bound, or at it.

    `jnp.searchsorted` scatters, on which `checkify` raises an IndexError (JAX 0.10: `scatter_oob`
    knows no batching dimensions); and it cannot read a gather in a loop that is differentiated.
    """
    both = jnp.concatenate([x, bounds])
    is_bound = jnp.arange(both.shape[0]) >= x.shape[0]
    values, last, places = sort((both, is_bound == inclusive, iota(both)), num_keys=3)
    number = jnp.cumsum(last != inclusive, dtype=jnp.int32)
    following = lax.cummin(jnp.where(last == inclusive, jnp.inf, values), reverse=True)
    _, *found = sort((places, number, following), num_keys=1)  # back at their places
    return _Below(*(y[x.shape[0] :] for y in found))


def _semi_hard(pairs: _Pairs, margin: Array) -> tuple[Array, Array]:
    """Each positive with the nearest negative beyond it, or with the farthest if there is none."""
    near = jnp.where(pairs.negatives, pairs.distances, jnp.inf)
    number = jnp.sum(pairs.negatives, dtype=jnp.int32)
    farthest = jnp.max(jnp.where(pairs.negatives, pairs.distances, -jnp.inf))
    rank, chosen = _below(near, pairs.distances, inclusive=True)
    none = (rank >= number) & (number > 0)
    rank, chosen = jnp.where(none, number - 1, rank), jnp.where(none, farthest, chosen)
    is_active = pairs.positives & (pairs.distances + margin > chosen)
    of_active = jnp.where(is_active, rank, near.shape[0]).astype(near.dtype)
    up_to = _below(of_active, iota(near).astype(near.dtype), inclusive=True).number
    of_ranks = jnp.diff(up_to, prepend=0)
    return is_active, sort((jnp.argsort(near), of_ranks), num_keys=1)[1]


def _all(pairs: _Pairs, margin: Array) -> tuple[Array, Array]:
    """Each positive with each negative."""
    near = jnp.where(pairs.negatives, pairs.distances, jnp.inf)
    far = jnp.where(pairs.positives, pairs.distances + margin, -jnp.inf)
    of_positives = _below(near, pairs.distances + margin, inclusive=False).number
    of_negatives = near.shape[0] - _below(far, pairs.distances, inclusive=True).number
    return (
        jnp.where(pairs.positives, of_positives, 0),
        jnp.where(pairs.negatives, of_negatives, 0),
    )


_COUNTS = {"semi_hard": _semi_hard, "all": _all}


class _OfAnchors(NamedTuple):
    """The loss of some anchors, as `map_rows` calls it."""

    mining: Mining
    squared: bool

    def __call__(self, columns: list[Any], rows: list[Any]) -> Array:
        every, centre, power, in_set, column_labels, margin = columns
        anchors, labels, rows_in_set, places = rows
        masks = Masks.of_rows(places, every, rows_in_set, in_set)
        positives, negatives = masks.by_label(labels, column_labels)
        if self.mining == "hard":
            return self._hard(anchors, every, centre, power, margin, positives, negatives)
        distances = squared_distances(anchors, every, centre)
        if self.squared:
            distances = distances * jnp.square(power)
        else:
            distances = numerics.sqrt(distances) * power
        count = _COUNTS[self.mining]
        for _ in range(distances.ndim - 1):
            count = jax.vmap(count, (0, None))
        still = lax.stop_gradient(_Pairs(distances, positives, negatives))
        counts = count(still, lax.stop_gradient(margin))
        of_positives, of_negatives = (x.astype(distances.dtype) for x in counts)
        # Both counts add up to the number of triplets, so that a common distance may be subtracted.
        nearest = jnp.min(still.distances, -1, where=negatives, initial=jnp.inf, keepdims=True)
        distances = distances - jnp.where(nearest < jnp.inf, nearest, 0)
        total = jnp.sum((of_positives - of_negatives) * distances + of_positives * margin, axis=-1)
        number = jnp.sum(positives, axis=-1, dtype=jnp.int32)
        if self.mining == "all":
            number = number * jnp.sum(negatives, axis=-1, dtype=jnp.int32)
        return total / jnp.maximum(number, 1).astype(total.dtype)

    def _hard(
        self,
        anchors: Array,
        every: Array,
        centre: Array,
        power: Array,
        margin: Array,
        positives: Array,
        negatives: Array,
    ) -> Array:
        """The farthest positive with the nearest negative."""
        places = farthest_and_nearest(anchors, every, centre, positives, negatives)
        between = numerics.squared_distance if self.squared else numerics.distance
        unit = jnp.square(power) if self.squared else power
        far, near = (between(anchors, rows_at(every, place)) * unit[..., 0] for place in places)
        has_both = jnp.any(positives, axis=-1) & jnp.any(negatives, axis=-1)
        return jnp.where(has_both & ~(far + margin <= near), (far - near) + margin, 0)


@loss(nonnegative, margin=nonnegative_number)
def batch_triplet(
    embeddings: Real[ArrayLike, "*batch set dim"],
    labels: Int[ArrayLike, "*batch set"],
    *,
    margin: Real[ArrayLike, ""] = 1.0,
    mining: Mining = "hard",
    distance: Literal["norm", "squared"] = "norm",
    chunk_size: int | None = None,
    mask: Bool[ArrayLike, "*batch set dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    where: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[SetReduction],
) -> Float[Array, "*batch set"]:
    r"""Triplet loss of a labelled set: each example is an anchor, its triplets are mined.

    When to use: metric learning with labels, where triplets are to be chosen in the batch.

    $$\ell_i = \frac{1}{|T_i|} \sum_{(p, n) \in T_i} \max(0,\; d_{ip} - d_{in} + m), \qquad
      d_{ij} = \lVert z_i - z_j \rVert$$

    `mining` says which pairs $T_i$ of a positive and a negative an anchor has. "hard": its
    farthest positive with its nearest negative (batch hard). "semi_hard": each positive with the
    nearest negative that is farther away, or else with the farthest negative, as in FaceNet and
    tensorflow-addons. "all": every pair (batch all). The memory is that of all pairs of examples,
    or of `chunk_size` anchors with all examples; triplets are counted by sorting.

    The mean is over all $T_i$, with loss 0 or not: pytorch-metric-learning's mean is over those
    of positive loss, and its "semihard" miner takes every negative within the margin. An anchor
    without a positive or without a negative has loss 0.

    Args:
        embeddings: Embeddings, one set per example of the batch; used as they are.
        labels: Integers; examples with the same label belong together.
        margin: By how much negatives should be farther away, in the unit of the distance.
        mining: "hard", "semi_hard" or "all".
        distance: "norm", or "squared" for its square (FaceNet).
        chunk_size: How many anchors to compare with all examples at once; None for all of them.
        mask: False leaves an entry out of the vector of an example, or of all vectors.
        where: False takes an example out of the set.

    Returns:
        The loss of each anchor, in the unit of the distance.

    Raises:
        TypeError: If `chunk_size` is not a static integer or None.
        ValueError: If `chunk_size` is below 1.

    Example:
        >>> batch_triplet([[0.0], [1.0], [1.5]], [5, 5, 7])
        Array([0.5, 1.5, 0. ], dtype=float32)

    References:
        Hermans et al., *In Defense of the Triplet Loss for Person Re-Identification*, 2017.
        Schroff et al., *FaceNet: A Unified Embedding for Face Recognition*, 2015.
    """
    size = jnp.max(jnp.abs(embeddings), axis=(-2, -1), keepdims=True, initial=0)
    power = power_of_two_near(jnp.where(size == 0, 1, size))
    scaled = embeddings / power
    centre = lax.stop_gradient(jnp.mean(scaled, axis=-2, keepdims=True))
    margin = jnp.asarray(margin, scaled.dtype)
    columns = [whole(scaled, -2), centre, power, whole(where), whole(labels), margin]
    function = _OfAnchors(mining, distance == "squared")
    return map_rows_of_set("batch_triplet", function, chunk_size, columns, [scaled, labels, where])
