r"""The engine of CTC: the sum over the alignments of labels to frames, and its gradient.

An alignment walks a lattice: from the blank after n labels, or from label n, each frame takes it
to that blank, to that label again, or on to label n + 1. Its other classes leave the lattice.

- **Backward**, the masses of the right endings of every state: pairs of mantissa and exponent,
  as they differ by any magnitude. All that is kept of them is the odds of the moves: two numbers
  for each frame and label.
- **Forward**, given these odds, the right alignments are a Markov chain: the probability to be in
  a state at a frame flows from frame to frame. It needs no exponents: what underflows is nothing.
- **The wrong alignments** are summed where the right ones are likely. With $A$ the mass of the
  right ones and $D$ that of all others, the loss is $\log(1 + D / A)$, and the gradient the share
  of the wrong ones in every class less that of the right ones: sums of positive terms, where
  `-log(A)` and `p - q` are what rounding left. A wrong one leaves the lattice at some frame, or
  ends too early. A batch without a likely example skips all that.

Axes are frames, examples, slots. Slot n of the labels is label n; slot 0, where no label is,
serves the blank. The big arrays, of classes, stay as they come: examples, frames, classes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss.numerics._softmax_nll import exp_shifted
from jaxloss.sequence._scaled_floats import CERTAIN, NOTHING, Mass, add, exponentials, shares

_LOG_2 = 0.6931471805599453
_LIKELY = 0.5  # from where on the wrong alignments are summed


class _Lattice(NamedTuple):
    """What the frames and labels of a batch mean for its alignments."""

    ids: Array  # (examples, slots): the class of each slot
    is_label: Array  # (examples, slots)
    jumps: Array  # (examples, slots): label n + 1 can follow label n without a blank
    is_last: Array  # (examples, slots): all labels are out
    chance: Mass  # (frames, examples, slots): the softmax at each slot
    counts: Array | None  # (frames, examples, 1): which frames do; None is all

    @property
    def at_start(self) -> Array:
        return jnp.broadcast_to(jnp.arange(self.ids.shape[1]) == 0, self.ids.shape)


def _lattice(
    logits: Array, labels: Array, last: Array, counts: Array | None, blank: int
) -> tuple[_Lattice, Any]:
    """The lattice, and the softmax of all classes, for whoever wants to hold it."""
    top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    top = jnp.where(top == -jnp.inf, 0, top)
    # Plain arithmetic, which XLA sums without an array of all classes. The exponent of a class
    # far below the top is rounded, but then the class is a small part of the sum.
    info = jnp.finfo(top.dtype)
    below = jnp.minimum(logits - jnp.minimum(top, info.max), info.tiny)  # not 0: that is the top's
    plain = jnp.exp(below)
    total = jnp.sum(plain, axis=-1, keepdims=True)
    total = jnp.where(total > 0, total, 1)
    labels = jnp.pad(labels, ((0, 0), (1, 1)), constant_values=-1)
    own, following = labels[:, :-1], labels[:, 1:]
    ids = jnp.where(own < 0, blank, own)
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=-1)
    chance = _frames_first(exponentials(chosen, top, total))
    is_last = jnp.arange(ids.shape[1]) == last[:, None]
    counts = _frames_first(counts)
    lattice = _Lattice(ids, own >= 0, own != following, is_last, chance, counts)
    return lattice, lambda: exp_shifted(logits, top) / total


def _frames_first(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _next_slot(x: Array, beyond: float) -> Array:
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=beyond)


def _to_next_slot(x: Array) -> Array:
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))


def _if(counts: Array | None, new: Any, old: Any) -> Any:
    """What a frame that does not count leaves as it is."""
    if counts is None:
        return new
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), new, old)


def _right_endings(lattice: _Lattice, keep: bool) -> tuple[Mass, Any]:
    """The mass of the right alignments; to keep, the odds of their moves at each frame.

    The odds to go on from a blank, and from a label, those to stay there.
    """
    jumps, dtype = lattice.jumps, lattice.chance.mantissa.dtype

    def step(endings: tuple[Mass, Mass], frame: Any) -> tuple[tuple[Mass, Mass], Any]:
        chance, chance_of_blank, counts, time = frame
        # A frame makes mantissas at most 6 times as large: 16 of them are far from an overflow.
        of_blank, of_label = lax.cond(time % 16 == 0, _normalized, lambda x: x, endings)
        pause, stay = of_blank.times(chance_of_blank), of_label.times(chance)
        go = Mass(_next_slot(stay.mantissa, 1), _next_slot(stay.exponent, NOTHING))
        onward, odds_to_go = add(go, pause)
        either = Mass(*(jnp.where(jumps, x, y) for x, y in zip(onward, pause, strict=True)))
        of_any, odds_to_stay = add(stay, either)
        odds = _if(counts, (odds_to_go, odds_to_stay), (0, CERTAIN))
        return _if(counts, (onward, of_any), endings), odds if keep else None

    ones = jnp.ones(jumps.shape, dtype)
    end = Mass(ones, jnp.where(lattice.is_last, 0, NOTHING).astype(dtype))
    # The blanks apart: a slice inside the loop is not vectorized, and takes as long as the rest.
    blanks = Mass(*(x[..., :1] for x in lattice.chance))
    frames = (lattice.chance, blanks, lattice.counts, jnp.arange(len(blanks.mantissa)))
    (right, _), odds = lax.scan(step, (end, end), frames, reverse=True)
    return Mass(*(x[:, 0] for x in right)).normalized(), odds


def _normalized(masses: tuple[Mass, ...]) -> tuple[Mass, ...]:
    return tuple(mass.normalized() for mass in masses)


def _posterior(lattice: _Lattice, odds: Any) -> Array:
    """The probability of each slot at each frame, given that the alignment is right."""
    jumps = lattice.jumps

    def step(before: tuple[Array, Array], odds: Any) -> tuple[tuple[Array, Array], Array]:
        in_blank, in_label = before
        (going, pausing), (staying, moving) = map(shares, odds)
        move = in_label * moving
        label = in_label * staying + _to_next_slot((in_blank + jnp.where(jumps, move, 0)) * going)
        blank = in_blank * pausing + move * jnp.where(jumps, pausing, 1)
        return (blank, label), _with_blank(blank, label)

    start = lattice.at_start.astype(odds[0].dtype)
    return lax.scan(step, (start, jnp.zeros_like(start)), odds)[1]


def _with_blank(blank: Array, label: Array) -> Array:
    """The labels, and in slot 0 the sum of the blanks."""
    total = jnp.sum(blank, axis=-1, keepdims=True)
    return jnp.where(jnp.arange(label.shape[-1]) == 0, total, label)


class _Leaving(NamedTuple):
    """How alignments leave the lattice, from terms that are all positive."""

    outside: Array  # (examples, 1, classes): neither the blank nor any label
    part: Array  # (examples, slots): of the label in its class, which may come several times
    ways: Array  # (examples, slots, slots): that part where, from label n, the class leaves
    of_blank: Array  # (frames, examples, 1): the probability of the blank
    of_label: Array  # (frames, examples, slots): those of the labels
    of_leaving: Array  # (frames, examples, slots): that to leave from a label


def _leaving(lattice: _Lattice, softmax: Array) -> _Leaving:
    ids, is_label, highest = lattice.ids, lattice.is_label, lax.Precision.HIGHEST
    one_hot = (ids[..., None] == jnp.arange(softmax.shape[-1])).astype(softmax.dtype)
    slots_of_class = jnp.sum(one_hot, axis=1)
    part = is_label / jnp.einsum("bnk,bk->bn", one_hot, slots_of_class, precision=highest)
    outside = slots_of_class[:, None] == 0
    following = _next_slot(jnp.where(is_label, ids, -1), -1)
    leaves = (ids[:, :, None] != ids[:, None]) & (following[:, :, None] != ids[:, None])
    ways = jnp.where(leaves, part[:, None], 0)
    chosen = _frames_first(jnp.take_along_axis(softmax, ids[:, None], axis=-1))
    of_label = jnp.where(is_label, chosen, 0)
    rest = _frames_first(jnp.sum(jnp.where(outside, softmax, 0), axis=-1, keepdims=True))
    others = jnp.einsum("tbm,bnm->tbn", of_label, ways, precision=highest)
    return _Leaving(outside, part, ways, chosen[..., :1], of_label, rest + others)


def _wrong_endings(lattice: _Lattice, leaving: _Leaving, keep: bool) -> tuple[Array, Any]:
    """The mass of the wrong alignments; to keep, that of their endings from each state."""
    jumps = lattice.jumps

    def step(endings: tuple[Array, Array], frame: Any) -> tuple[tuple[Array, Array], Any]:
        of_blank, of_label, leave, counts = frame
        pause, stay = endings[0] * of_blank, endings[1] * of_label
        go = _next_slot(stay, 0)
        blank = pause + go + (leave + jnp.where(jumps, of_label, 0))
        label = stay + pause + jnp.where(jumps, go, 0) + leave
        return _if(counts, (blank, label), endings), endings if keep else None

    end = jnp.where(lattice.is_last, 0, jnp.ones((), leaving.of_label.dtype))
    frames = (leaving.of_blank, leaving.of_label, leaving.of_leaving, lattice.counts)
    (wrong, _), endings = lax.scan(step, (end, end), frames, reverse=True)
    return wrong[:, 0], endings


def _wrong_shares(
    lattice: _Lattice, leaving: _Leaving, endings: Any, likely: Array
) -> tuple[Array, Array]:
    """The share of the wrong alignments in each slot, and in each class outside the lattice.

    Of the examples that are not likely, it is 0.
    """
    jumps = lattice.jumps

    def step(before: tuple[Array, ...], frame: Any) -> tuple[tuple[Array, ...], Any]:
        blank, label, gone = before
        of_blank, of_label, leave, counts, (wrong_blank, wrong_label) = frame
        both, from_blank = blank + label, jnp.where(jumps, of_label, 0)
        leaves = jnp.sum(both * leave + blank * from_blank, axis=-1, keepdims=True)
        onward = _to_next_slot(blank + jnp.where(jumps, label, 0))
        after = both * of_blank, (label + onward) * of_label, gone + leaves
        share = after[1] * wrong_label + blank * from_blank
        share = _with_blank(after[0] * wrong_blank, share)
        return _if(counts, after, before), (share, both, gone)

    start = (lattice.at_start & likely[:, None]).astype(leaving.of_label.dtype)
    start = (start, jnp.zeros_like(start), jnp.zeros_like(start[:, :1]))
    frames = (leaving.of_blank, leaving.of_label, leaving.of_leaving, lattice.counts, endings)
    _, (share, both, gone) = lax.scan(step, start, frames)
    others = jnp.einsum("tbn,bnm->tbm", both, leaving.ways, precision=lax.Precision.HIGHEST)
    of_left = leaving.of_label * (leaving.part * gone + others)
    share += jnp.where(lattice.at_start, leaving.of_blank * gone, of_left)
    return share, gone + jnp.sum(both, axis=-1, keepdims=True)


def _value(right: Mass, wrong: Array) -> Array:
    """log(1 + wrong / right) where that is likely, else -log(right): inf if there is none."""
    likely = right.plain > _LIKELY
    odds = wrong / jnp.where(likely, right.plain, 1)
    surprise = -(jnp.log(right.mantissa) + right.exponent * _LOG_2)
    surprise = jnp.where(right.exponent > NOTHING / 2, surprise, jnp.inf)
    return jnp.where(likely, jnp.log1p(odds), surprise)


@functools.partial(jax.jit, static_argnums=4)  # op by op, they would take a minute to compile
def _value_and_gradient(
    logits: Array, labels: Array, last: Array, counts: Array | None, blank: int
) -> tuple[Array, Array]:
    lattice, softmax = _lattice(logits, labels, last, counts, blank)
    right, odds = _right_endings(lattice, keep=True)
    posterior = _posterior(lattice, odds)
    likely = right.plain > _LIKELY

    # Where the right alignments are not likely, the wrong ones count as one, and as the softmax.
    def with_wrong() -> tuple[Array, ...]:
        leaving = _leaving(lattice, softmax())
        wrong, endings = _wrong_endings(lattice, leaving, keep=True)
        share, left = _wrong_shares(lattice, leaving, endings, likely)
        left = jnp.where(likely[:, None], left, 1)
        return jnp.where(likely, wrong, 1), share, left, leaving.outside | ~likely[:, None, None]

    def without() -> tuple[Array, ...]:
        zeros, every = jnp.zeros_like(posterior), jnp.ones((len(logits), 1, logits.shape[-1]), bool)
        return jnp.ones_like(right.mantissa), zeros, jnp.ones_like(zeros[..., :1]), every

    wrong, share, left, outside = lax.cond(jnp.any(likely), with_wrong, without)
    gradient = jnp.where(outside, softmax() * _frames_first(left), 0)
    share -= wrong[:, None] * posterior
    gradient += _of_classes(share, lattice.ids, logits.shape[-1])
    is_counted = (right.exponent > NOTHING / 2)[:, None, None]
    is_counted = is_counted if counts is None else is_counted & counts
    return _value(right, wrong), jnp.where(is_counted, gradient, 0)


def _of_classes(x: Array, ids: Array, classes: int) -> Array:
    """Sums the slots of one class: (frames, examples, slots) to (examples, frames, classes)."""

    def of_example(x: Array, ids: Array) -> Array:
        return jnp.zeros((classes, len(x)), x.dtype).at[ids].add(x.T)

    return jnp.swapaxes(jax.vmap(of_example, (1, 0))(x, ids), 1, 2)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
@functools.partial(jax.jit, static_argnums=4)
def ctc_nll(logits: Array, labels: Array, last: Array, counts: Array | None, blank: int) -> Array:
    """The loss of each example.

    Logits are (examples, frames, classes), labels (examples, slots), -1 after the last of them;
    counts, (examples, frames, 1), says which frames do, if not all.
    """
    lattice, softmax = _lattice(logits, labels, last, counts, blank)
    right, _ = _right_endings(lattice, keep=False)
    wrong = lax.cond(
        jnp.any(right.plain > _LIKELY),
        lambda: _wrong_endings(lattice, _leaving(lattice, softmax()), keep=False)[0],
        lambda: jnp.zeros_like(right.mantissa),
    )
    return _value(right, wrong)


@ctc_nll.defjvp
def _ctc_nll_jvp(blank: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    value, gradient = _value_and_gradient(*primals, blank)
    # The value by its name, and not by how it was found: differentiated again, it has this slope.
    return _sloping(lax.stop_gradient(value), primals[0], gradient), jnp.sum(
        gradient * tangents[0], axis=(1, 2)
    )


@jax.custom_jvp
def _sloping(value: Array, logits: Array, gradient: Array) -> Array:
    """The value, with this gradient with respect to the logits."""
    return value


@_sloping.defjvp
def _sloping_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _sloping(*primals), jnp.sum(primals[2] * tangents[1], axis=(1, 2))
