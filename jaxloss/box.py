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

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.arguments import check_choice
from jaxloss._core.decorator import loss
from jaxloss._core.namespace import public_names
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import extended, places_along
from jaxloss.numerics._derivatives import by_gradient
from jaxloss.numerics._labels import take_label
from jaxloss.numerics._reductions import entries_of_short_axis
from jaxloss.numerics._softmax_dense import between_two_and_gradient
from jaxloss.traits import bounded, nonnegative, smooth, zero_at_match

__all__ = ["ciou", "diou", "distribution_focal", "giou", "iou"]

Format = Literal["xyxy", "cxcywh"]
Boxes = Float[Array, "*batch 4"]
Length = Float[Array, "*batch"]


class _Overlap(NamedTuple):
    """Lengths along one axis of two boxes, in a unit for that of the box around both.

    No area overflows or underflows so, and no ratio of areas depends on the unit of an axis.

    Attributes:
        shared: Where the boxes overlap.
        own: What only the prediction covers, and `other` what only the target covers.
        gap: The distance between the boxes, where they do not overlap.
        apart: The distance of the centres, with its sign.
        unit: The unit of the lengths, a power of 2, in which all numbers are divided by 4 first.
        inverse: 1 / unit.
    """

    shared: Length
    own: Length
    other: Length
    gap: Length
    apart: Length
    unit: Length
    inverse: Length

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


def _exceeds(x: Length, y: Length) -> Length:
    """1 where x is larger than y, 0 where it is smaller, 1/2 where they are equal."""
    return 0.5 * (1 + jnp.sign(x - y))


@jax.custom_jvp
def _overlap_length(a: Length, b: Length, c: Length, d: Length) -> Length:
    """The length that the intervals [a, b] and [c, d] share; negative where they are apart."""
    return jnp.minimum(b, d) - jnp.maximum(a, c)


# The derivatives of `jnp.minimum` divide by the number of arguments that are equal.
_overlap_length.defjvps(
    lambda a_dot, _, a, _b, c, _d: -_exceeds(a, c) * a_dot,
    lambda b_dot, _, _a, b, _c, d: _exceeds(d, b) * b_dot,
    lambda c_dot, _, a, _b, c, _d: -_exceeds(c, a) * c_dot,
    lambda d_dot, _, _a, b, _c, d: _exceeds(b, d) * d_dot,
)


def _unit_for(length: Length) -> tuple[Length, Length]:
    """A power of 2 for numbers up to a length, and 1 over it: products of four stay in range.

    It is one of five, so that nothing is divided, and constant under differentiation; 1 for 0.
    """
    step, of_dtype = 2 * jnp.finfo(length.dtype).maxexp // 5, length.dtype.type
    unit = inverse = of_dtype(1)
    for n in (-2, -1, 0, 1, 2):
        exceeds = length > (0 if n == -2 else 2.0 ** ((n - 0.5) * step))
        unit = jnp.where(exceeds, of_dtype(2.0 ** (n * step)), unit)
        inverse = jnp.where(exceeds, of_dtype(2.0 ** (-n * step)), inverse)
    return unit, inverse


def _along(a: Length, b: Length, c: Length, d: Length, format: Format) -> _Overlap:
    """The lengths along an axis, of the numbers of the prediction and those of the target."""
    a, b, c, d = (0.25 * x for x in (a, b, c, d))  # so that the box around both is finite
    if format == "cxcywh":  # corners relative to the centre of the target
        apart, sizes = a - c, (b, d)
        a, b, c, d = apart - 0.5 * b, apart + 0.5 * b, -0.5 * d, 0.5 * d
    else:
        apart, sizes = 0.5 * ((a - c) + (b - d)), (b - a, d - c)
    sizes = numerics.relu(sizes[0]), numerics.relu(sizes[1])
    length = _overlap_length(a, b, c, d)
    overlaps = length > 0
    own = jnp.where(overlaps, numerics.relu(c - a) + numerics.relu(b - d), sizes[0])
    other = jnp.where(overlaps, numerics.relu(a - c) + numerics.relu(d - b), sizes[1])
    both, gap = numerics.relu(length), numerics.relu(-length)
    unit, inverse = _unit_for(both + own + other + gap)
    both, own, other, gap, apart = (x * inverse for x in (both, own, other, gap, apart))
    return _Overlap(both, own, other, gap, apart, unit, inverse)


Form = Callable[[_Overlap, _Overlap], Length]


def _numbers(box: Boxes) -> tuple[Length, ...]:
    """Arrays of the batch, since an axis of 4 is too short for loops."""
    return entries_of_short_axis(box)


def _box_of(a: Length, b: Length, c: Length, d: Length) -> Boxes:
    # Chosen by place: XLA on CPU evaluates a concatenation with a branch for each number.
    place = lax.broadcasted_iota(jnp.int32, (*a.shape, 4), a.ndim)
    a, b, c, d = (jnp.expand_dims(x, -1) for x in (a, b, c, d))
    return jnp.where(place < 2, jnp.where(place == 0, a, b), jnp.where(place == 2, c, d))


# The gradient of a slice is padded with zeros: XLA evaluates those of all numbers for each number.
_numbers_in_reverse = jax.custom_vjp(_numbers)
_numbers_in_reverse.defvjp(lambda box: (_numbers(box), None), lambda _, bars: (_box_of(*bars),))


def _of_boxes(
    numbers: Callable[[Boxes], tuple[Length, ...]],
    form: Form,
    format: Format,
    prediction: Boxes,
    target: Boxes,
) -> Length:
    """A loss of the lengths along x and along y."""
    p, t = numbers(prediction), numbers(target)
    x, y = (_along(p[i], p[i + 2], t[i], t[i + 2], format) for i in (0, 1))
    return form(x, y)


@functools.cache  # one object each, so that eager calls compile once
def _by_gradient(form: Form, format: Format) -> Callable[[Boxes, Boxes], Length]:
    functions = (
        functools.partial(_of_boxes, numbers, form, format)
        for numbers in (_numbers, _numbers_in_reverse)
    )
    return by_gradient(*functions, event=(1, 1))


def _compared(name: str, form: Form, prediction: Boxes, target: Boxes, format: Format) -> Length:
    check_choice(f"jaxloss.box.{name}", "format", format, ("xyxy", "cxcywh"))
    return _by_gradient(form, format)(prediction, target)


def _areas(x: _Overlap, y: _Overlap) -> tuple[Length, Length]:
    """The area of the union that is not shared, and that which is: nothing is subtracted."""
    of_own = x.own * y.sizes[0] + x.shared * y.own
    of_other = x.other * y.sizes[1] + x.shared * y.other
    return of_own + of_other, x.shared * y.shared


@jax.custom_jvp
def _one_less_iou(x: _Overlap, y: _Overlap) -> Length:
    """1 - IoU; of two boxes without area 0 if they are equal, else 1."""
    outside, shared = _areas(x, y)
    union = outside + shared
    none = (x.differs | y.differs).astype(union.dtype)
    return jnp.where(union == 0, none, outside / jnp.where(union == 0, 1, union))


@_one_less_iou.defjvp
def _one_less_iou_jvp(lengths: Any, changes: Any) -> tuple[Length, Length]:
    # A full rule, of pairs of lengths. Terms of the derivatives that are equal are left out.
    outside, shared = _areas(*lengths)
    union = jnp.where(outside + shared == 0, 1, outside + shared)
    iou, out_dot = numerics.quotient(shared, union), jnp.zeros_like(union)
    for (x, y), x_dot in zip((lengths, lengths[::-1]), changes, strict=True):
        size, true_size = y.sizes
        of_shared = y.shared * numerics.quotient(x.own * size + x.other * true_size, union)
        inside = iou * (size * x_dot.own + true_size * x_dot.other)
        out_dot = out_dot + numerics.quotient(inside - of_shared * x_dot.shared, union)
    return _one_less_iou(*lengths), out_dot


def _ratio(part: Array, whole: Array) -> Array:
    return numerics.quotient(part, jnp.where(whole == 0, 1, whole))


def _one_less_giou(x: _Overlap, y: _Overlap) -> Length:
    covered = x.shared + x.own + x.other
    beside = x.gap * y.whole + covered * y.gap
    empty = (x.own * y.other + y.own * x.other) + beside  # the area of C outside the union
    return _one_less_iou(x, y) + _ratio(empty, x.whole * y.whole)


def _in_larger_unit(x: _Overlap, y: _Overlap) -> tuple[Length, Length]:
    """By what the lengths along each axis are multiplied to be in one unit: 1 or less."""
    return jnp.minimum(1, x.unit * y.inverse), jnp.minimum(1, y.unit * x.inverse)


def _one_less_diou(x: _Overlap, y: _Overlap) -> Length:
    """With the squared distance of the centres over the squared diagonal around both boxes."""
    p, q = _in_larger_unit(x, y)
    distance = jnp.square(p * x.apart) + jnp.square(q * y.apart)
    diagonal = jnp.square(p * x.whole) + jnp.square(q * y.whole)
    return _one_less_iou(x, y) + _ratio(distance, diagonal)


def _in_own_unit(width: Length, height: Length) -> tuple[Length, Length]:
    """The sides of a box in a unit of its own."""
    _, inverse = _unit_for(jnp.maximum(width, height))
    return width * inverse, height * inverse


def _angle_between(x: _Overlap, y: _Overlap) -> Array:
    """The difference of arctan(width / height) of two boxes; 0 if one of them has no size."""
    p, q = _in_larger_unit(x, y)
    (width, height), (true_width, true_height) = (
        _in_own_unit(p * size, q * true_size)
        for size, true_size in zip(x.sizes, y.sizes, strict=True)
    )
    sine = true_width * height - width * true_height
    cosine = width * true_width + height * true_height
    zero = (sine == 0) & (cosine == 0)
    # In a unit of their own too, since the derivative of the angle squares both.
    _, inverse = _unit_for(jnp.maximum(jnp.abs(sine), jnp.abs(cosine)))
    sine, cosine = sine * inverse, cosine * inverse
    return jnp.where(zero, 0, jnp.arctan2(sine, jnp.where(zero, 1, cosine)))


def _one_less_ciou(x: _Overlap, y: _Overlap) -> Length:
    shape = (4 / math.pi**2) * jnp.square(_angle_between(x, y))
    factor = lax.stop_gradient(numerics.fraction(shape, _one_less_iou(x, y)))
    return _one_less_diou(x, y) + factor * shape


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
    return _compared("iou", _one_less_iou, prediction, target, format)


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
    return _compared("giou", _one_less_giou, prediction, target, format)


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
    return _compared("diou", _one_less_diou, prediction, target, format)


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
    return _compared("ciou", _one_less_ciou, prediction, target, format)


def _shares_of_bins(logits: Array, target: Array) -> Array:
    """What each bin has of a target: that below it and that above it have all."""
    bins = jnp.arange(logits.shape[-1], dtype=logits.dtype)
    apart = jnp.abs(target[..., None] - jnp.expand_dims(bins, range(target.ndim)))
    return numerics.relu(1 - apart)


def _bin_below(target: Array) -> tuple[Array, Array]:
    """The bin below the target, and how far the target is beyond it: 0 at a bin."""
    below = jnp.floor(target)
    return jnp.where(target >= 0, below, 0).astype(jnp.int32), target - below  # 0 for NaN


def _nll_and_gradient(logits: Array, target: Array) -> tuple[Array, Array]:
    shares = _shares_of_bins(logits, target)
    return between_two_and_gradient(logits, shares, *_bin_below(target))


@jax.custom_jvp
def _nll_of_bins(logits: Array, target: Array) -> Array:
    return _nll_and_gradient(logits, target)[0]


def _slope_in_target(logits: Array, target: Array) -> Array:
    """The logit below the target less that above it; 0 at a bin, where the loss has a kink."""
    place, beyond = _bin_below(target)
    is_beyond = beyond > 0
    change = take_label(logits, place) - take_label(logits, place + is_beyond.astype(place.dtype))
    return jnp.where(is_beyond, change, 0)


# A full rule: it reduces over the bins. The derivative in the target is a difference of two logits,
# where that of the cross-entropy needs the log-probabilities of all bins.
@functools.partial(_nll_of_bins.defjvp, symbolic_zeros=True)
def _nll_of_bins_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (logits, target), (logits_dot, target_dot) = primals, tangents
    value, gradient = _nll_and_gradient(logits, target)
    value_dot = jnp.zeros_like(value)
    if not isinstance(logits_dot, SymbolicZero):
        value_dot = jnp.sum(gradient * logits_dot, axis=-1)
    if not isinstance(target_dot, SymbolicZero):
        value_dot = value_dot + _slope_in_target(logits, target) * target_dot
    return value, value_dot


@loss(nonnegative, smooth, logits=extended, target=places_along("bins"))
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
    return _nll_of_bins(logits, target)


__getattr__, __dir__ = public_names(__name__, __all__)
