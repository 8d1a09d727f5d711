r"""Connectionist temporal classification: a sequence of labels without their times.

The probability of a label sequence is a sum over its alignments to the frames. Three things here
are not usual:

- **The wrong alignments are summed too.** With $A$ the mass of the right alignments and $D$ that
  of all others, both sums of positive terms, the loss is $\log(1 + D / A)$. `-log(A)` of a sure
  and right model is the rounding error of $A$, of either sign; this keeps all digits, and so does
  the gradient, the share of the wrong alignments in every class less that of the right ones.
- **Numbers carry their own exponents.** A mass is a pair: mantissa and power of two. Nothing
  underflows, as in the log domain, but sums are sums: no logarithm is rounded at every frame.
- **Impossible is impossible.** A class of logit -inf has mass 0; no large number stands for it.
"""

# A mass is a NamedTuple of two arrays, and its items are slices of both: checkers take them for
# items of the tuple.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportIncompatibleMethodOverride=false

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss.contract import loss
from jaxloss.declaration import ArrayLike, Reduction
from jaxloss.domains import Domain, extended
from jaxloss.traits import bounded_gradient, nonnegative, shift_invariant, smooth

_LOG_2 = 0.6931471805599453
_NOTHING = -1e37  # the exponent of 0: below all others, and finite when two are added


class _Mass(NamedTuple):
    """Nonnegative numbers `mantissa * 2**exponent`, of any magnitude."""

    mantissa: Array
    exponent: Array

    def times(self, other: "_Mass") -> "_Mass":
        """The product, with its mantissa brought back to [1, 2)."""
        mantissa = self.mantissa * other.mantissa
        exponent = self.exponent + other.exponent
        bits, width, bias = _layout(mantissa.dtype)
        power = (lax.bitcast_convert_type(mantissa, bits) >> width) - bias
        power = jnp.where(mantissa > 0, power, 0)
        exponent = jnp.where(mantissa > 0, exponent + power.astype(exponent.dtype), _NOTHING)
        return _Mass(mantissa * _power_of_two(-power, mantissa.dtype), exponent)

    def where(self, condition: Array, other: "_Mass") -> "_Mass":
        """This one where the condition holds, else the other."""
        return _Mass(*(jnp.where(condition, x, y) for x, y in zip(self, other, strict=True)))

    def __getitem__(self, index: Any) -> "_Mass":
        return _Mass(self.mantissa[index], self.exponent[index])

    def scaled(self, exponent: Array) -> Array:
        """The number divided by `2**exponent`: 0 where it is too small to be told from 0."""
        power = jnp.clip(self.exponent - exponent, -1e4, 1e4).astype(jnp.int32)
        return self.mantissa * _power_of_two(power, self.mantissa.dtype)

    @property
    def plain(self) -> Array:
        """The number itself; 0 if it underflows."""
        return self.scaled(jnp.zeros_like(self.exponent))


def _layout(dtype: Any) -> tuple[Any, int, int]:
    """The integer type, the width of the mantissa and the bias of the exponent of a float."""
    return (jnp.int64, 52, 1023) if dtype == jnp.float64 else (jnp.int32, 23, 127)


def _power_of_two(power: Array, dtype: Any) -> Array:
    """Exactly `2**power`, 0 below the smallest; `jnp.exp2` is not exact, and much slower."""
    bits, width, bias = _layout(dtype)
    power = jnp.clip(power.astype(bits), -bias, bias)
    return lax.bitcast_convert_type((power + bias) << width, dtype)


def _sum(*masses: _Mass) -> _Mass:
    exponent = masses[0].exponent
    for mass in masses[1:]:
        exponent = jnp.maximum(exponent, mass.exponent)
    return _Mass(sum(mass.scaled(exponent) for mass in masses), exponent)


def _nothing(shape: tuple[int, ...], dtype: Any) -> _Mass:
    return _Mass(jnp.zeros(shape, dtype), jnp.full(shape, _NOTHING, dtype))


def _beside(mass: _Mass, *, ahead: int = 0, behind: int = 0) -> _Mass:
    """The masses with nothing put ahead of or behind their first axis."""
    pads = ((ahead, behind), *((0, 0) for _ in mass.mantissa.shape[1:]))
    exponent = jnp.pad(mass.exponent, pads, constant_values=_NOTHING)
    return _Mass(jnp.pad(mass.mantissa, pads), exponent)


def _softmax(logits: Array) -> _Mass:
    """The softmax along axis 1, as masses."""
    top = lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    shifted = jnp.where(logits == jnp.inf, 0, logits - top)
    back = shifted - logits
    lost = (logits - (shifted - back)) - (top + back)  # by rounding the difference
    lost = lax.stop_gradient(jnp.where(jnp.abs(lost) < 1, lost, 0))
    exponent = jnp.round(jnp.where(shifted > -jnp.inf, shifted, 0) * 1.4426950408889634)
    # log(2) in two parts, of which the first has few digits: its multiples are exact.
    rest = (shifted - exponent * 0.693359375) + exponent * 2.1219444005469057e-4 + lost
    mass = _Mass(jnp.exp(rest), jnp.where(shifted > -jnp.inf, exponent, _NOTHING))
    total = jnp.sum(mass.plain, axis=1, keepdims=True)
    return _Mass(mass.mantissa / jnp.where(total > 0, total, 1), mass.exponent)


class _Frame(NamedTuple):
    """The probabilities of one frame, or of all, frames first; labels have none at both ends.

    From a state one can stay, or go on to one or two labels; the probability of all the other
    classes is wanted without subtracting from 1. Of the classes but the blank, the two likeliest
    are kept apart: what is subtracted from the rest is then outweighed by one of those two.
    """

    blank: _Mass
    labels: _Mass
    likeliest: tuple[Array, Array]  # their class ids
    chance: tuple[Array, Array]  # their probabilities
    rest: Array  # the probability of all the others
    counts: Array

    def missed(self, j: int, labels: Array) -> tuple[Array, Array]:
        """Whether a blank after n labels, or label n, does not lead to the likely class j."""
        misses = labels != self.likeliest[j]
        return misses[1:], misses[1:] & misses[:-1]

    def leaving(self, labels: Array) -> tuple[Array, Array]:
        """The probability to leave the lattice from a blank after n labels, and from label n."""
        likely = (labels == self.likeliest[0]) | (labels == self.likeliest[1])
        unlikely = jnp.where(likely, 0, self.labels.plain)
        own, following = unlikely[:-1], unlikely[1:]
        jump = jnp.where(labels[1:] != labels[:-1], following, 0)
        missed = [self.missed(j, labels) for j in range(2)]
        blank, label = (
            jnp.where(missed[0][i], self.chance[0], 0) + jnp.where(missed[1][i], self.chance[1], 0)
            for i in range(2)
        )
        return blank + (self.rest - following), label + (self.rest - own - jump)


class _Passed(NamedTuple):
    """What the forward pass leaves: before each frame, the masses of the alignments so far."""

    blank: _Mass  # in a blank after n labels
    label: _Mass  # in label n
    alive: Array  # all of them
    missing: tuple[Array, Array]  # those that a likely class would end
    leave: Array  # those that end at the frame


def _frames(logits: Array, labels: Array, counts: Array, blank: int) -> tuple[Array, _Frame]:
    """The softmax of all frames, and what of it the lattice needs."""
    every = _softmax(logits)
    plain = every.plain
    ids = jnp.where(labels < 0, 0, labels)[None]
    of_labels = _Mass(*(jnp.take_along_axis(x, ids, axis=1) for x in every))
    of_labels = of_labels.where(labels >= 0, _nothing((), plain.dtype))
    classes = jnp.arange(plain.shape[1])[:, None]
    others = jnp.where(classes == blank, 0, plain)
    likeliest, chance = [], []
    for _ in range(2):
        likely = jnp.argmax(others, axis=1)
        is_it = (classes == likely[:, None]) & (classes != blank)
        likeliest.append(jnp.where(likely == blank, -2, likely))  # there is no other class left
        chance.append(jnp.sum(jnp.where(is_it, others, 0), axis=1))
        others = jnp.where(is_it, 0, others)
    rest = jnp.sum(others, axis=1)
    return plain, _Frame(every[:, blank], of_labels, tuple(likeliest), tuple(chance), rest, counts)


def _forward(labels: Array, frames: _Frame) -> _Passed:
    shape, dtype = labels[1:].shape, frames.rest.dtype
    start = jnp.broadcast_to(jnp.arange(shape[0])[:, None] == 0, shape)
    none, one = _nothing((), dtype), _Mass(jnp.ones((), dtype), jnp.zeros((), dtype))
    jumps = labels[1:-1] != labels[:-2]

    def step(masses: tuple[_Mass, _Mass], frame: _Frame) -> tuple[Any, _Passed]:
        in_blank, in_label = masses
        blank = _sum(in_blank, in_label).times(frame.blank)
        jump = in_label[:-1].where(jumps, none)
        label = _sum(in_label[1:], in_blank[:-1], jump).times(frame.labels[1:-1])
        label = _beside(label, ahead=1)
        plain = in_blank.plain, in_label.plain
        missing = [
            sum(
                jnp.sum(jnp.where(m, x, 0), axis=0)
                for m, x in zip(frame.missed(j, labels), plain, strict=True)
            )
            for j in range(2)
        ]
        leave = sum(
            jnp.sum(x * y, axis=0) for x, y in zip(plain, frame.leaving(labels), strict=True)
        )
        alive = jnp.sum(plain[0] + plain[1], axis=0)
        passed = _Passed(*masses, alive, tuple(missing), jnp.where(frame.counts, leave, 0))
        return (blank.where(frame.counts, in_blank), label.where(frame.counts, in_label)), passed

    return lax.scan(step, (one.where(start, none), _nothing(shape, dtype)), frames)[1]


def _weigh(passed: _Passed, is_last: Array) -> tuple[_Mass, Array]:
    """The mass of the right alignments, and that of all others."""
    ends = [
        _Mass(
            jnp.sum(jnp.where(is_last, x.mantissa[-1], 0), axis=0),
            jnp.max(jnp.where(is_last, x.exponent[-1], _NOTHING), axis=0),
        )
        for x in (passed.blank, passed.label)
    ]
    unfinished = jnp.where(is_last, 0, passed.blank[-1].plain + passed.label[-1].plain)
    return _sum(*ends), jnp.sum(passed.leave, axis=0) + jnp.sum(unfinished, axis=0)


def _value(right: _Mass, wrong: Array) -> Array:
    """log(1 + wrong / right): inf if there is no right alignment."""
    feasible, plain = right.mantissa > 0, right.plain
    sure = wrong < plain
    odds = jnp.where(sure, wrong, 0) / jnp.where(sure, plain, 1)
    surprise = jnp.log(jnp.where(sure | ~feasible, 1, wrong + plain))
    surprise -= jnp.log(jnp.where(feasible, right.mantissa, 1)) + right.exponent * _LOG_2
    return jnp.where(feasible, jnp.where(sure, jnp.log1p(odds), surprise), jnp.inf)


def _gradient(
    labels: Array, is_last: Array, blank: int, plain: Array, frames: _Frame, passed: _Passed
) -> Array:
    """At each frame and class: the share of the wrong alignments less that of the right ones.

    The masses of right endings are as in the forward pass; those of wrong endings, one less the
    other, are summed from positive terms and need no exponents.
    """
    right, wrong = _weigh(passed, is_last)
    feasible, dtype = right.mantissa > 0, plain.dtype
    total = jnp.where(feasible, right.plain + wrong, 1)
    scale = jnp.where(feasible, wrong / (total * jnp.where(feasible, right.mantissa, 1)), 0)
    none, one = _nothing((), dtype), _Mass(jnp.ones((), dtype), jnp.zeros((), dtype))
    jumps = labels[1:] != labels[:-1]

    def share(mass: _Mass, right_end: _Mass, wrong_end: Array) -> Array:
        whole = _Mass(mass.mantissa * right_end.mantissa, mass.exponent + right_end.exponent)
        return mass.plain * wrong_end / total - scale * whole.scaled(right.exponent)

    def step(ends: Any, at: tuple[_Frame, _Passed]) -> tuple[Any, Any]:
        frame, before = at
        right_blank, right_label, wrong_blank, wrong_label = ends
        of_blank, of_labels = frame.blank, frame.labels[:-1]
        pause, stay = right_blank.times(of_blank), right_label.times(of_labels)
        go = _beside(stay[1:], behind=1)
        wrong_pause, wrong_stay = wrong_blank * of_blank.plain, wrong_label * of_labels.plain
        wrong_go = jnp.pad(wrong_stay[1:], ((0, 1), (0, 0)))
        leave_blank, leave_label = frame.leaving(labels)
        ends = (
            _sum(pause, go).times(one).where(frame.counts, right_blank),
            _sum(stay, pause, go.where(jumps, none)).times(one).where(frame.counts, right_label),
            jnp.where(frame.counts, wrong_pause + wrong_go + leave_blank, wrong_blank),
            jnp.where(
                frame.counts,
                wrong_stay + wrong_pause + jnp.where(jumps, wrong_go, 0) + leave_label,
                wrong_label,
            ),
        )
        # These are the endings before the frame: they tell what passed through the frame before.
        through_blank = jnp.sum(share(before.blank, ends[0], ends[2]), axis=0)
        return ends, (through_blank, share(before.label, ends[1], ends[3])[1:])

    end, wrong_end = one.where(is_last, none), jnp.where(is_last, 0, jnp.ones((), dtype))
    start = (end, end, wrong_end, wrong_end)
    _, (of_blank, of_labels) = lax.scan(step, start, (frames, passed), reverse=True)

    before = jnp.cumsum(passed.leave, axis=0) - passed.leave
    ids, classes = labels[1:-1], jnp.arange(plain.shape[1])[:, None]
    ended = (before + passed.alive)[:, None]
    likely = jnp.zeros((), bool)
    for j in range(2):
        is_it = classes == frames.likeliest[j][:, None]
        ended = jnp.where(is_it & ~likely, (before + passed.missing[j])[:, None], ended)
        likely = likely | is_it
    ended = jnp.where(classes == blank, before[:, None], ended)
    kept = (ids == frames.likeliest[0][:-1, None]) | (ids == frames.likeliest[1][:-1, None])
    of_labels = of_labels[1:] - jnp.where(kept, 0, passed.label[1:, 1:].plain) / total
    gradient = (plain * ended)[:-1] / total + _sum_of_class(of_labels, ids, plain.shape[1])
    gradient += jnp.where(classes == blank, of_blank[1:, None], 0)
    return jnp.where(frames.counts[:-1, None] & feasible, gradient, 0)


def _sum_of_class(x: Array, ids: Array, classes: int) -> Array:
    """Sums labels of one class: (frames, labels, examples) to (frames, classes, examples)."""
    one_hot = (ids[:, None] == jnp.arange(classes)[:, None]).astype(x.dtype)
    return jnp.einsum("tnb,nkb->tkb", x, one_hot, precision=lax.Precision.HIGHEST)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _surprise(logits: Array, labels: Array, is_last: Array, counts: Array, blank: int) -> Array:
    """The loss; axes are frames, classes or labels, examples."""
    _, frames = _frames(logits, labels, counts, blank)
    return _value(*_weigh(_forward(labels, frames), is_last))


@_surprise.defjvp
def _surprise_jvp(blank: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, labels, is_last, counts = primals
    plain, frames = _frames(logits, labels, counts, blank)
    passed = _forward(labels, frames)
    gradient = _gradient(labels, is_last, blank, plain, frames, passed)
    return _value(*_weigh(passed, is_last)), jnp.sum(gradient * tangents[0][:-1], axis=(0, 1))


def _counted(mask: Any, lengths: Any, size: int) -> Any:
    """Which frames or labels count, or None: all of them."""
    if mask is not None and lengths is not None:
        message = "jaxloss.sequence.ctc: give a mask or lengths, not both."
        raise ValueError(message)
    if lengths is not None:
        return jnp.arange(size) < jnp.asarray(lengths)[..., None]
    return None if mask is None else jnp.asarray(mask)


def _is_class(labels: Any, context: Mapping[str, Any]) -> tuple[Any, Any]:
    """Padding, and the examples that `where` leaves out, may hold anything."""
    fits = (labels >= 0) & (labels < context["classes"]) & (labels != context["blank"])
    counted = _counted(context["label_mask"], context["label_lengths"], labels.shape[-1])
    for which in (counted, context["where"]):
        if which is not None:
            which = jnp.asarray(which)
            fits |= ~(which if which is counted else which[..., None])
    return fits, labels


_labels = Domain("class ids other than the blank, from 0 to classes - 1", _is_class, guard=True)


def _up_to(axis: str) -> Domain:
    return Domain(
        f"lengths from 0 to {axis}",
        lambda x, context: ((x >= 0) & (x <= context[axis]), x),
        guard=True,
    )


@loss(
    nonnegative,
    smooth,
    bounded_gradient,
    shift_invariant,
    logits=extended,
    labels=_labels,
    logit_lengths=_up_to("frames"),
    label_lengths=_up_to("tokens"),
)
def ctc(
    logits: Real[ArrayLike, "*batch frames classes"],
    labels: Int[ArrayLike, "*batch tokens"],
    *,
    logit_mask: Bool[ArrayLike, "*batch frames"] | None = None,
    logit_lengths: Int[ArrayLike, "*batch"] | None = None,
    label_mask: Bool[ArrayLike, "*batch tokens"] | None = None,
    label_lengths: Int[ArrayLike, "*batch"] | None = None,
    blank: int = 0,
    infeasible: Literal["inf", "zero"] = "inf",
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Take it to train a recognizer on label sequences whose times in the input are not known.

    $$\ell(x, y) = -\log \sum_{a \,:\, \mathrm{collapse}(a) = y} \prod_t
      \frac{e^{x_{t, a_t}}}{\sum_k e^{x_{t, k}}}$$

    An alignment $a$ names a class at every frame; it collapses to $y$ when repetitions are merged
    and then blanks removed. Two equal labels in a row therefore need a blank between them. Frames
    are taken as independent given the input, and sure models put labels into single frames.

    Peers differ: these are logits, while `torch` takes log-probabilities, frames first, and its
    mean divides by the label lengths first (that is `weights=1 / label_lengths` and the sum over
    examples). Without a right alignment `optax` and `keras` give about 1e5, their stand-in for
    infinity, and so they do for every larger loss, with gradient 0; `keras` reads 0 as padding.

    Args:
        logits: Scores of the classes at each frame; -inf makes one impossible.
        labels: Class ids, in order, without blanks. What is masked may hold anything.
        logit_mask: False skips a frame, wherever it is: it may hold NaN.
        logit_lengths: How many frames count, from the first; instead of a mask.
        label_mask: False skips a label, wherever it is.
        label_lengths: How many labels count, from the first; instead of a mask.
        blank: The class id that stands for no label.
        infeasible: What an example without a right alignment costs: "inf", or "zero". Its
            gradient is 0 either way.

    Returns:
        The loss of each example in nats, at least 0; NaN if a label that counts names no class,
        or the blank.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If shapes do not fit, a mask and lengths are both given, or the blank is no
            class.

    Example:
        >>> ctc([[0.0, 0.0], [0.0, 0.0]], [1])
        Array(0.287682, dtype=float32)
        >>> ctc([[0.0, 17.0], [0.0, 17.0]], [1])
        Array(1.7139082e-15, dtype=float32)

    References:
        Graves et al., *Connectionist Temporal Classification*, 2006.
    """
    *batch, size, classes = logits.shape
    if not 0 <= blank < classes:
        message = f"jaxloss.sequence.ctc: `blank` is {blank}, expected 0 to {classes - 1}."
        raise ValueError(message)
    counts = _counted(logit_mask, logit_lengths, size)
    counts = jnp.ones((*batch, size), bool) if counts is None else counts
    logits = jnp.where(counts[..., None], logits, 0)
    mask = _counted(label_mask, label_lengths, labels.shape[-1])
    last = jnp.full(batch, labels.shape[-1])
    if mask is not None:
        # Labels that count move to the front, whatever the gaps.
        order = jnp.argsort(~mask, axis=-1, stable=True)
        labels = jnp.take_along_axis(jnp.where(mask, labels, -1), order, axis=-1)
        last = jnp.sum(mask, axis=-1)

    def to_columns(x: Array, axes: int, pads: tuple[tuple[int, int], ...], fill: Any) -> Array:
        """Examples last, so that neighbours in memory are independent; and padding in front."""
        x = jnp.moveaxis(x.reshape(math.prod(batch), *x.shape[x.ndim - axes :]), 0, -1)
        return jnp.pad(x, (*pads, (0, 0)), constant_values=fill)

    columns = to_columns(labels, 1, ((1, 1),), -1)
    is_last = jnp.arange(len(columns) - 1)[:, None] == last.reshape(-1)
    values = _surprise(
        to_columns(logits, 2, ((0, 1), (0, 0)), 0),
        columns,
        is_last,
        to_columns(counts, 1, ((0, 1),), False),
        blank,
    ).reshape(batch)
    return jnp.where(values == jnp.inf, 0, values) if infeasible == "zero" else values
