r"""Boxes: losses of the overlap between a predicted and a true box, for detection.

Boxes are aligned: `(*batch, 4)` against `(*batch, 4)`, one loss a pair. The matrix of all pairs is

    pairs = jax.vmap(jax.vmap(box.giou, (None, 0)), (0, None))(predictions, targets)

of shape `(predictions, targets)`; `optax.assignment.hungarian_algorithm` finds the best matches.
`format` is "xyxy", two corners, or "cxcywh", the centre and the sizes, in any unit.

Two boxes are compared by the lengths that they share and do not share along each axis, so that
areas are sums of products of lengths, and nothing cancels: a nearly perfect box keeps the digits
of its loss, and no epsilon is added. A box without area, or with corners in the wrong order, has
an IoU of 0 with all others, and finite gradients. Gradients are 0 where the boxes are equal.
"""

import math
from typing import Literal, NamedTuple, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.arguments import check_choice
from jaxloss._core.decorator import loss
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.classification import softmax_cross_entropy
from jaxloss.domains import Domain, extended
from jaxloss.traits import bounded, nonnegative, smooth, zero_at_match

__all__ = ["ciou", "diou", "distribution_focal", "giou", "iou"]

Format = Literal["xyxy", "cxcywh"]
Length = Float[Array, "*batch"]


class _Overlap(NamedTuple):
    """Lengths along one axis of two boxes.

    Attributes:
        shared: Where the boxes overlap.
        own: What only the prediction covers, and `other` what only the target covers.
        gap: The distance between the boxes, where they do not overlap.
        apart: The distance of the centres, with its sign.
    """

    shared: Length
    own: Length
    other: Length
    gap: Length
    apart: Length

    @property
    def whole(self) -> Length:
        """The size of the smallest box around both."""
        return self.shared + self.own + self.other + self.gap

    @property
    def sizes(self) -> tuple[Length, Length]:
        return self.shared + self.own, self.shared + self.other

    @property
    def differs(self) -> Bool[Array, "*batch"]:
        return (self.own != 0) | (self.other != 0) | (self.gap != 0) | (self.apart != 0)


def _along(a: Length, b: Length, c: Length, d: Length, format: Format) -> _Overlap:
    """The lengths along an axis, of the numbers of the prediction and those of the target."""
    if format == "cxcywh":  # corners relative to the centre of the target
        apart = a - c
        a, b, c, d = apart - 0.5 * b, apart + 0.5 * b, -0.5 * d, 0.5 * d
    else:
        apart = 0.5 * ((a - c) + (b - d))
    sizes = numerics.relu(b - a), numerics.relu(d - c)
    length = jnp.minimum(b, d) - jnp.maximum(a, c)
    overlaps = length > 0
    own = jnp.where(overlaps, numerics.relu(c - a) + numerics.relu(b - d), sizes[0])
    other = jnp.where(overlaps, numerics.relu(a - c) + numerics.relu(d - b), sizes[1])
    return _Overlap(numerics.relu(length), own, other, numerics.relu(-length), apart)


def _overlaps(
    name: str, prediction: Array, target: Array, format: Format
) -> tuple[_Overlap, _Overlap]:
    """The lengths along x and along y: arrays of the batch, since an axis of 2 is no vector."""
    check_choice(f"jaxloss.box.{name}", "format", format, ("xyxy", "cxcywh"))
    a, b, c, d = (
        [box[..., i] for i in places] for box in (prediction, target) for places in ((0, 1), (2, 3))
    )
    return _along(a[0], b[0], c[0], d[0], format), _along(a[1], b[1], c[1], d[1], format)


def _one_less_iou(x: _Overlap, y: _Overlap) -> Array:
    """1 - IoU; of two boxes without area 0 if they are equal, else 1."""
    # The parts of the two areas outside the intersection: nothing is subtracted.
    of_own = x.own * y.sizes[0] + x.shared * y.own
    of_other = x.other * y.sizes[1] + x.shared * y.other
    outside, shared = of_own + of_other, x.shared * y.shared
    empty = outside + shared == 0
    return jnp.where(empty & (x.differs | y.differs), 1, numerics.fraction(outside, shared))


def _ratio(part: Array, whole: Array) -> Array:
    return numerics.quotient(part, jnp.where(whole == 0, 1, whole))


def _distance_term(x: _Overlap, y: _Overlap) -> Array:
    """The squared distance of the centres over the squared diagonal around both boxes."""
    distance = jnp.square(x.apart) + jnp.square(y.apart)
    return _ratio(distance, jnp.square(x.whole) + jnp.square(y.whole))


@loss(nonnegative, bounded, zero_at_match)
def iou(
    prediction: Real[ArrayLike, "*batch 4"],
    target: Real[ArrayLike, "*batch 4"],
    *,
    format: Format = "xyxy",
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""IoU loss: 1 less the intersection over the union of two boxes.

    When to use: boxes that overlap already; elsewhere its gradient is 0, see `giou` and `ciou`.

    $$\ell = 1 - \frac{|A \cap B|}{|A \cup B|}$$

    UnitBox takes $-\log \mathrm{IoU}$ instead: `-jnp.log1p(-iou(...))`.

    Args:
        prediction: The predicted boxes.
        target: The true boxes.
        format: "xyxy", two corners, or "cxcywh", the centre and the sizes.

    Returns:
        The loss of each pair, from 0 to 1.

    Example:
        >>> iou([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0])
        Array(0.6666667, dtype=float32)

    References:
        Yu et al., *UnitBox: An Advanced Object Detection Network*, 2016.
    """
    return _one_less_iou(*_overlaps("iou", prediction, target, format))


@loss(nonnegative, bounded, zero_at_match)
def giou(
    prediction: Real[ArrayLike, "*batch 4"],
    target: Real[ArrayLike, "*batch 4"],
    *,
    format: Format = "xyxy",
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Generalized IoU loss: the IoU loss plus the empty part of the box around both.

    When to use: box regression from any start, as in DETR: it has a gradient where boxes are apart.

    $$\ell = 1 - \mathrm{IoU}(A, B) + \frac{|C| - |A \cup B|}{|C|}$$

    with the smallest box $C$ around both.

    Args:
        prediction: The predicted boxes.
        target: The true boxes.
        format: "xyxy", two corners, or "cxcywh", the centre and the sizes.

    Returns:
        The loss of each pair, from 0 to 2.

    Example:
        >>> giou([0.0, 0.0, 1.0, 1.0], [3.0, 0.0, 4.0, 1.0])
        Array(1.5, dtype=float32)

    References:
        Rezatofighi et al., *Generalized Intersection over Union*, 2019.
    """
    x, y = _overlaps("giou", prediction, target, format)
    covered = x.shared + x.own + x.other
    beside = x.gap * y.whole + covered * y.gap
    empty = (x.own * y.other + y.own * x.other) + beside  # the area of C outside the union
    return _one_less_iou(x, y) + _ratio(empty, x.whole * y.whole)


@loss(nonnegative, bounded, zero_at_match)
def diou(
    prediction: Real[ArrayLike, "*batch 4"],
    target: Real[ArrayLike, "*batch 4"],
    *,
    format: Format = "xyxy",
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Distance IoU loss: the IoU loss plus the squared distance of the centres.

    When to use: instead of `giou`, for faster convergence: the gradient moves the centre directly.

    $$\ell = 1 - \mathrm{IoU}(A, B) + \frac{\rho^2}{c^2}$$

    with the distance $\rho$ of the centres and the diagonal $c$ of the smallest box around both.

    Args:
        prediction: The predicted boxes.
        target: The true boxes.
        format: "xyxy", two corners, or "cxcywh", the centre and the sizes.

    Returns:
        The loss of each pair, from 0 to 2.

    Example:
        >>> diou([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0])
        Array(1.2, dtype=float32)

    References:
        Zheng et al., *Distance-IoU Loss*, 2020.
    """
    x, y = _overlaps("diou", prediction, target, format)
    return _one_less_iou(x, y) + _distance_term(x, y)


def _angle_between(x: _Overlap, y: _Overlap) -> Array:
    """The difference of arctan(width / height) of two boxes; 0 if one of them has no size."""
    (width, true_width), (height, true_height) = x.sizes, y.sizes
    sine = true_width * height - width * true_height
    cosine = width * true_width + height * true_height
    zero = (sine == 0) & (cosine == 0)
    return jnp.where(zero, 0, jnp.arctan2(sine, jnp.where(zero, 1, cosine)))


@loss(nonnegative, zero_at_match)
def ciou(
    prediction: Real[ArrayLike, "*batch 4"],
    target: Real[ArrayLike, "*batch 4"],
    *,
    format: Format = "xyxy",
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Complete IoU loss: the distance IoU loss plus a term of the aspect ratio.

    When to use: box regression where the shape of the box matters, too; the default of YOLO.

    $$\ell = 1 - \mathrm{IoU} + \frac{\rho^2}{c^2} + \alpha v, \qquad
      v = \frac{4}{\pi^2} \left( \arctan \frac{w_t}{h_t} - \arctan \frac{w}{h} \right)^2, \quad
      \alpha = \frac{v}{1 - \mathrm{IoU} + v}$$

    The factor $\alpha$ is constant under differentiation, as in torchvision and ultralytics.

    Args:
        prediction: The predicted boxes.
        target: The true boxes.
        format: "xyxy", two corners, or "cxcywh", the centre and the sizes.

    Returns:
        The loss of each pair, from 0 to 3.

    Example:
        >>> ciou([0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 2.0])
        Array(0.76291835, dtype=float32)

    References:
        Zheng et al., *Enhancing Geometric Factors in Model Learning and Inference for Object
        Detection and Instance Segmentation*, 2021.
    """
    x, y = _overlaps("ciou", prediction, target, format)
    of_iou = _one_less_iou(x, y)
    shape = (4 / math.pi**2) * jnp.square(_angle_between(x, y))
    factor = lax.stop_gradient(numerics.fraction(shape, of_iou))
    return of_iou + _distance_term(x, y) + factor * shape


_place = Domain(
    "between 0 and bins - 1",
    lambda x, context: ((x >= 0) & (x <= context.get("bins", math.inf) - 1), x),
)


@loss(nonnegative, smooth, logits=extended, target=_place)
def distribution_focal(
    logits: Real[ArrayLike, "*batch bins"],
    target: Real[ArrayLike, "*batch"],
    *,
    mask: Bool[ArrayLike, "*batch bins"]
    | Bool[ArrayLike, "bins"]
    | None = None,  # applied by the contract
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Distribution focal loss (DFL): cross-entropy of the two bins around a target.

    When to use: distances to the sides of a box that are predicted as distributions over bins, as
    in YOLO v8 and GFL.

    $$\ell = -(k + 1 - y) \log p_k - (y - k) \log p_{k+1}, \qquad k = \lfloor y \rfloor, \quad
      p = \mathrm{softmax}(x)$$

    The prediction is the mean of the distribution, `jax.nn.softmax(logits) @ jnp.arange(bins)`. The
    last bin may be the target, which implementations with an index of the next bin get wrong.

    Args:
        logits: Scores of the bins, for the distances 0, 1, 2, ...
        target: The true distance in bins, from 0 to the number of bins less 1.
        mask: False takes a bin out of an example, or of all; inf where the target is in it.

    Returns:
        The loss of each distance in nats; NaN if a target is outside the bins.

    Example:
        >>> distribution_focal([[0.0, 0.0, -100.0]], [0.25])
        Array([0.6931472], dtype=float32)

    References:
        Li et al., *Generalized Focal Loss*, 2020.
    """
    bins = jnp.arange(logits.shape[-1], dtype=logits.dtype)
    target = jnp.where((target >= 0) & (target <= bins.size - 1), target, jnp.nan)
    apart = jnp.abs(target[..., None] - jnp.expand_dims(bins, range(target.ndim)))
    return softmax_cross_entropy(logits, numerics.relu(1 - apart))


__getattr__, __dir__ = public_names(__name__, __all__)
