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

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss._rounding import two_sum
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
        field = lax.bitcast_convert_type(mantissa, bits) >> width  # the exponent plus the bias
        power = jnp.where(mantissa > 0, (field - bias).astype(exponent.dtype) + exponent, _NOTHING)
        inverse = lax.bitcast_convert_type((2 * bias - field) << width, mantissa.dtype)
        return _Mass(mantissa * inverse, power)

    def where(self, condition: Array, other: "_Mass") -> "_Mass":
        """This one where the condition holds, else the other."""
        return _Mass(*(jnp.where(condition, x, y) for x, y in zip(self, other, strict=True)))

    def slots(self, start: int | None, stop: int | None) -> "_Mass":
        """Some of the labels, which lie along the last axis."""
        return _Mass(*(x[..., start:stop] for x in self))

    def scaled(self, exponent: Array) -> Array:
        """The number divided by `2**exponent`: 0 where it is too small to be told from 0."""
        return self.mantissa * _power_of_two(self.exponent - exponent)

    @property
    def plain(self) -> Array:
        """The number itself; 0 if it underflows."""
        return self.mantissa * _power_of_two(self.exponent)


def _layout(dtype: Any) -> tuple[Any, int, int]:
    """The integer type, the width of the mantissa and the bias of the exponent of a float."""
    return (jnp.int64, 52, 1023) if dtype == jnp.float64 else (jnp.int32, 23, 127)


def _power_of_two(power: Array) -> Array:
    """Exactly `2**power`, 0 below the smallest; `jnp.exp2` is not exact, and much slower."""
    bits, width, bias = _layout(power.dtype)
    field = (jnp.clip(power, -bias, bias) + bias).astype(bits)
    return lax.bitcast_convert_type(field << width, power.dtype)


def _sum(*masses: _Mass) -> _Mass:
    exponent = masses[0].exponent
    for mass in masses[1:]:
        exponent = jnp.maximum(exponent, mass.exponent)
    total = functools.reduce(jnp.add, [mass.scaled(exponent) for mass in masses])
    return _Mass(total, exponent)


def _nothing(shape: tuple[int, ...], dtype: Any) -> _Mass:
    return _Mass(jnp.zeros(shape, dtype), jnp.full(shape, _NOTHING, dtype))


def _beside(mass: _Mass, *, ahead: int = 0, behind: int = 0) -> _Mass:
    """The masses with nothing put ahead of or behind their last axis."""
    pads = ((0, 0), (ahead, behind))
    exponent = jnp.pad(mass.exponent, pads, constant_values=_NOTHING)
    return _Mass(jnp.pad(mass.mantissa, pads), exponent)


def _exponentials(logits: Array, top: Array) -> _Mass:
    """exp(logits - top): for infinite logits, 1 and nothing."""
    shifted, lost = two_sum(logits, -top)
    shifted = jnp.where(logits == jnp.inf, 0, shifted)
    exponent = jnp.round(jnp.where(shifted > -jnp.inf, shifted, 0) * 1.4426950408889634)
    # log(2) in two parts, of which the first has few digits: its multiples are exact.
    rest = (shifted - exponent * 0.693359375) + exponent * 2.1219444005469057e-4
    rest = rest + jnp.where(jnp.abs(lost) < 1, lost, 0)
    return _Mass(jnp.exp(rest), jnp.where(shifted > -jnp.inf, exponent, _NOTHING))


class _Frames(NamedTuple):
    """The probabilities of all frames, frames first; labels have none at both ends.

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
        misses = labels != self.likeliest[j][..., None]
        return misses[..., 1:], misses[..., 1:] & misses[..., :-1]

    def leaving(self, labels: Array) -> tuple[Array, Array]:
        """The probability to leave the lattice from a blank after n labels, and from label n."""
        likely = labels == self.likeliest[0][..., None]
        likely |= labels == self.likeliest[1][..., None]
        unlikely = jnp.where(likely, 0, self.labels.plain)
        own, following = unlikely[..., :-1], unlikely[..., 1:]
        jump = jnp.where(labels[:, 1:] != labels[:, :-1], following, 0)
        missed = [self.missed(j, labels) for j in range(2)]
        blank, label = (
            sum(jnp.where(m[i], c[..., None], 0) for m, c in zip(missed, self.chance, strict=True))
            for i in range(2)
        )
        rest = self.rest[..., None]
        return blank + (rest - following), label + (rest - own - jump)


class _Passed(NamedTuple):
    """Before each frame, the masses of the alignments so far."""

    blank: _Mass  # in a blank after n labels
    label: _Mass  # in label n


# Inside the scans there is little more than the recursion; what else is made of its states is
# made at once of all.


def _frames(logits: Array, labels: Array, counts: Array, blank: int) -> tuple[Array, _Frames]:
    """The softmax of all frames, and what of it the lattice needs."""
    top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    plain = _exponentials(logits, top).plain
    total = jnp.sum(plain, axis=-1, keepdims=True)
    total = jnp.where(total > 0, total, 1)
    plain = plain / total

    def of(chosen: Array) -> _Mass:
        mass = _exponentials(chosen, top)
        return _Mass(mass.mantissa / total, mass.exponent)

    ids = jnp.where(labels < 0, 0, labels)[None]
    of_labels = of(jnp.take_along_axis(logits, ids, axis=-1))
    of_labels = of_labels.where(labels >= 0, _nothing((), plain.dtype))
    classes = jnp.arange(plain.shape[-1])
    others = jnp.where(classes == blank, -1, plain)
    likeliest, chance = [], []
    for _ in range(2):
        # Not argmax, which takes ten times as long as two of these reductions.
        most = jnp.max(others, axis=-1)
        likely = jnp.min(jnp.where(others == most[..., None], classes, len(classes)), axis=-1)
        likeliest.append(jnp.where(most < 0, -2, likely))  # there is no other class left
        chance.append(jnp.maximum(most, 0))
        others = jnp.where(classes == likely[..., None], -1, others)
    rest = jnp.sum(jnp.maximum(others, 0), axis=-1)
    of_blank = of(logits[..., blank, None])
    return plain, _Frames(of_blank, of_labels, tuple(likeliest), tuple(chance), rest, counts)


def _forward(
    labels: Array, frames: _Frames, leaving: tuple[Array, Array], keep: bool
) -> tuple[_Passed, Array, Any]:
    """The masses after all frames, those that turn wrong at each, and, to keep, before each."""
    shape, dtype = labels[:, 1:].shape, frames.rest.dtype
    start = jnp.broadcast_to(jnp.arange(shape[-1]) == 0, shape)
    none, one = _nothing((), dtype), _Mass(jnp.ones((), dtype), jnp.zeros((), dtype))
    jumps = labels[:, 1:-1] != labels[:, :-2]

    def step(before: _Passed, frame: Any) -> tuple[_Passed, Any]:
        in_blank, in_label = before
        of_blank, of_labels, leave_blank, leave_label, counts = frame
        leave = jnp.sum(in_blank.plain * leave_blank + in_label.plain * leave_label, axis=-1)
        blank = _sum(in_blank, in_label).times(of_blank)
        jump = in_label.slots(None, -1).where(jumps, none)
        label = _sum(in_label.slots(1, None), in_blank.slots(None, -1), jump).times(of_labels)
        label = _beside(label, ahead=1)
        after = _Passed(blank.where(counts, in_blank), label.where(counts, in_label))
        return after, (jnp.where(counts[:, 0], leave, 0), before if keep else None)

    empty = _Passed(one.where(start, none), _nothing(shape, dtype))
    every = (frames.blank, frames.labels.slots(1, -1), *leaving, frames.counts)
    last, (leave, passed) = lax.scan(step, empty, every)
    return last, leave, passed


def _weigh(last: _Passed, leave: Array, is_last: Array) -> tuple[_Mass, Array]:
    """The mass of the right alignments, and that of all others."""
    ends = [
        _Mass(
            jnp.sum(jnp.where(is_last, mass.mantissa, 0), axis=-1),
            jnp.max(jnp.where(is_last, mass.exponent, _NOTHING), axis=-1),
        )
        for mass in last
    ]
    unfinished = jnp.where(is_last, 0, last[0].plain + last[1].plain)
    return _sum(*ends), jnp.sum(leave, axis=0) + jnp.sum(unfinished, axis=-1)


def _value(right: _Mass, wrong: Array) -> Array:
    """log(1 + wrong / right): inf if there is no right alignment."""
    feasible, plain = right.mantissa > 0, right.plain
    sure = wrong < plain
    odds = jnp.where(sure, wrong, 0) / jnp.where(sure, plain, 1)
    surprise = jnp.log(jnp.where(sure | ~feasible, 1, wrong + plain))
    surprise -= jnp.log(jnp.where(feasible, right.mantissa, 1)) + right.exponent * _LOG_2
    return jnp.where(feasible, jnp.where(sure, jnp.log1p(odds), surprise), jnp.inf)


@functools.partial(jax.jit, static_argnums=4)  # op by op, they would take a minute to compile
def _value_and_gradient(
    logits: Array, labels: Array, is_last: Array, counts: Array, blank: int
) -> tuple[Array, Array]:
    """The gradient, at each frame and class: the share of the wrong alignments less the right.

    The masses of right endings are as in the forward pass; those of wrong endings, one less the
    other, are summed from positive terms and need no exponents.
    """
    plain, frames = _frames(logits, labels, counts, blank)
    leaving, dtype = frames.leaving(labels), plain.dtype
    last, leave, passed = _forward(labels, frames, leaving, keep=True)
    right, wrong = _weigh(last, leave, is_last)
    feasible = right.mantissa > 0
    total = jnp.where(feasible, right.plain + wrong, 1)[:, None]
    scale = jnp.where(feasible, wrong / jnp.where(feasible, right.mantissa, 1), 0)[:, None] / total
    none, one = _nothing((), dtype), _Mass(jnp.ones((), dtype), jnp.zeros((), dtype))
    jumps = labels[:, 1:] != labels[:, :-1]

    def share(mass: _Mass, right_end: _Mass, wrong_end: Array) -> Array:
        whole = _Mass(mass.mantissa * right_end.mantissa, mass.exponent + right_end.exponent)
        return mass.plain * wrong_end / total - scale * whole.scaled(right.exponent[:, None])

    def step(ends: Any, at: Any) -> tuple[Any, tuple[Array, Array]]:
        right_blank, right_label, wrong_blank, wrong_label = ends
        (of_blank, of_labels, leave_blank, leave_label, counts), before = at
        # What passed through the frame: what came there, and these endings from there on.
        pause, stay = right_blank.times(of_blank), right_label.times(of_labels)
        go = _beside(stay.slots(1, None), behind=1)
        wrong_pause, wrong_stay = wrong_blank * of_blank.plain, wrong_label * of_labels.plain
        wrong_go = jnp.pad(wrong_stay[:, 1:], ((0, 0), (0, 1)))
        wrong_from_label = wrong_stay + wrong_pause + jnp.where(jumps, wrong_go, 0) + leave_label
        ends = (
            _sum(pause, go).times(one).where(counts, right_blank),
            _sum(stay, pause, go.where(jumps, none)).times(one).where(counts, right_label),
            jnp.where(counts, wrong_pause + wrong_go + leave_blank, wrong_blank),
            jnp.where(counts, wrong_from_label, wrong_label),
        )
        # With the endings before the frame, what passed through the frame before.
        through_blank = jnp.sum(share(before.blank, ends[0], ends[2]), axis=-1)
        return ends, (through_blank, share(before.label, ends[1], ends[3])[:, 1:])

    end, wrong_end = one.where(is_last, none), jnp.where(is_last, 0, jnp.ones((), dtype))
    every = (frames.blank, frames.labels.slots(None, -1), *leaving, frames.counts)
    start = (end, end, wrong_end, wrong_end)
    _, (of_blank, of_labels) = lax.scan(step, start, (every, passed), reverse=True)

    in_blank, in_label = passed.blank.plain, passed.label.plain
    before = jnp.cumsum(leave, axis=0) - leave
    ids, classes = labels[:, 1:-1], jnp.arange(plain.shape[-1])
    ended = (before + jnp.sum(in_blank + in_label, axis=-1))[..., None]
    likely = jnp.zeros((), bool)
    for j in range(2):
        by_blank, by_label = frames.missed(j, labels)
        missing = jnp.where(by_blank, in_blank, 0) + jnp.where(by_label, in_label, 0)
        is_it = classes == frames.likeliest[j][..., None]
        ended = jnp.where(is_it & ~likely, (before + jnp.sum(missing, axis=-1))[..., None], ended)
        likely = likely | is_it
    ended = jnp.where(classes == blank, before[..., None], ended)
    kept = ids == frames.likeliest[0][:-1, :, None]
    kept |= ids == frames.likeliest[1][:-1, :, None]
    of_labels = of_labels[1:] - jnp.where(kept, 0, in_label[1:, :, 1:]) / total
    gradient = (plain * ended)[:-1] / total + _sum_of_class(of_labels, ids, plain.shape[-1])
    gradient += jnp.where(classes == blank, of_blank[1:, :, None], 0)
    return _value(right, wrong), jnp.where(counts[:-1] & feasible[:, None], gradient, 0)


def _sum_of_class(x: Array, ids: Array, classes: int) -> Array:
    """Sums labels of one class: (frames, examples, labels) to (frames, examples, classes)."""
    one_hot = (ids[..., None] == jnp.arange(classes)).astype(x.dtype)
    return jnp.einsum("tbn,bnk->tbk", x, one_hot, precision=lax.Precision.HIGHEST)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
@functools.partial(jax.jit, static_argnums=4)
def _surprise(logits: Array, labels: Array, is_last: Array, counts: Array, blank: int) -> Array:
    """The loss; axes are frames, examples, classes or labels."""
    _, frames = _frames(logits, labels, counts, blank)
    last, leave, _ = _forward(labels, frames, frames.leaving(labels), keep=False)
    return _value(*_weigh(last, leave, is_last))


@_surprise.defjvp
def _surprise_jvp(blank: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    logits, labels, is_last, counts = primals
    value, gradient = _value_and_gradient(logits, labels, is_last, counts, blank)
    # The value by its name, and not by how it was found: differentiated again, it has this slope.
    return _sloping(lax.stop_gradient(value), logits[:-1], gradient), jnp.sum(
        gradient * tangents[0][:-1], axis=(0, 2)
    )


@jax.custom_jvp
def _sloping(value: Array, logits: Array, gradient: Array) -> Array:
    """The value, with this gradient with respect to the logits."""
    return value


@_sloping.defjvp
def _sloping_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _sloping(*primals), jnp.sum(primals[2] * tangents[1], axis=(0, 2))


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

    count = math.prod(batch)
    labels = jnp.pad(labels.reshape(count, labels.shape[-1]), ((0, 0), (1, 1)), constant_values=-1)
    is_last = jnp.arange(labels.shape[-1] - 1) == last.reshape(count, 1)
    # Frames in front, and one more that does not count: it closes the lattice.
    logits = jnp.moveaxis(logits.reshape(count, size, classes), 0, 1)
    counts = jnp.moveaxis(counts.reshape(count, size, 1), 0, 1)
    logits, counts = (jnp.pad(x, ((0, 1), (0, 0), (0, 0))) for x in (logits, counts))
    values = _surprise(logits, labels, is_last, counts, blank).reshape(batch)
    return jnp.where(values == jnp.inf, 0, values) if infeasible == "zero" else values
