r"""CTC: the sum over the alignments of labels to frames, and its gradient.

An alignment is a path through a lattice of states. From the blank after n labels, or from label n,
each frame moves it to that blank, to that label again, or on to label n + 1; any other class leaves
the lattice.

- **Backward**: the mass of the right endings from every state, as pairs of mantissa and exponent,
  since magnitudes differ without bound. Only the odds of the moves are kept: two numbers for each
  frame and label.
- **Forward**: given the odds, the right alignments are a Markov chain. The probability of each
  state flows from frame to frame, and needs no exponents.
- **The wrong alignments** are summed where the right ones are likely. With $A$ the mass of the
  right ones and $D$ that of all others, the loss is $\log(1 + D / A)$, and the gradient is the
  share of the wrong ones in every class less that of the right ones: sums of positive terms, where
  `-log(A)` and `p - q` are rounding errors. A wrong alignment leaves the lattice at some frame, or
  ends too early. A batch without a likely example skips this.

A class that is masked with a large negative logit is not an exception. Where exponents become so
large that their sums would be rounded, the backward pass is computed with levels, see `Mass`.

Axes are frames, examples, slots. Slot n of the labels is label n; slot 0, where there is no label,
is used for the blank. Arrays over classes stay as they are given: examples, frames, classes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, PyTree

from jaxloss._core.typing import Arrays
from jaxloss.numerics._carry import carried
from jaxloss.numerics._double_double import exp_shifted
from jaxloss.sequence._scaled_floats import CERTAIN, ZERO, Mass, add, exponentials, shares

_LIKELY = 0.5  # the probability from which on the wrong alignments are summed


class _Lattice(NamedTuple):
    """The states that the labels of a batch define.

    Attributes:
        ids: The class of each slot.
        is_label: Whether the slot is that of a label.
        jumps: Whether label n + 1 can follow label n without a blank.
        is_last: Whether all labels have been emitted.
        counts: Which frames count; None is all.
    """

    ids: Int[Array, "examples slots"]
    is_label: Bool[Array, "examples slots"]
    jumps: Bool[Array, "examples slots"]
    is_last: Bool[Array, "examples slots"]
    counts: Bool[Array, "frames examples 1"] | None

    @property
    def at_start(self) -> Bool[Array, "examples slots"]:
        return jnp.broadcast_to(jnp.arange(self.ids.shape[1])[None, :] == 0, self.ids.shape)


def _lattice(
    labels: Int[Array, "examples tokens"],
    last: Int[Array, " examples"],
    counts: Bool[Array, "examples frames 1"] | None,
    blank: int,
) -> _Lattice:
    labels = jnp.pad(labels, ((0, 0), (1, 1)), constant_values=-1)
    own, following = labels[:, :-1], labels[:, 1:]
    ids = jnp.where(own < 0, blank, own)
    is_last = jnp.arange(ids.shape[1])[None, :] == last[:, None]
    return _Lattice(ids, own >= 0, own != following, is_last, _frames_first(counts))


class _Softmax(NamedTuple):
    """The softmax over the classes, before it is evaluated at a class."""

    logits: Float[Array, "examples frames classes"]
    top: Float[Array, "examples frames 1"]
    total: Float[Array, "examples frames 1"]

    @classmethod
    def of(cls, logits: Float[Array, "examples frames classes"]) -> "_Softmax":
        top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        top = jnp.where(top == -jnp.inf, 0, top)
        # Plain arithmetic, which XLA sums without an array of all classes. The exponent of a class
        # far below the top is rounded, but such a class is a small part of the sum.
        info = jnp.finfo(top.dtype)
        below = jnp.minimum(logits - jnp.minimum(top, info.max), info.tiny)  # not 0, as the top
        total = jnp.sum(jnp.exp(below), axis=-1, keepdims=True)
        return cls(logits, top, jnp.where(total == 0, 1, total))

    def everywhere(self) -> Float[Array, "examples frames classes"]:
        """The probabilities of all classes."""
        return exp_shifted(self.logits, self.top) / self.total

    def at(self, ids: Int[Array, "examples slots"], *, levels: bool) -> Mass:
        """The probabilities of the classes of all slots, frames first."""
        chosen = jnp.take_along_axis(self.logits, ids[:, None], axis=-1)
        return _frames_first(exponentials(chosen, self.top, self.total, levels=levels))


def _frames_first(tree: PyTree) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _next_slot(x: Array, beyond: float) -> Array:
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=beyond)


def _to_next_slot(x: Array) -> Array:
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))


def _if(counts: Array | None, new: Any, old: Any) -> Any:
    """The new state; the old one at frames that do not count."""
    if counts is None:
        return new
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), new, old)


class _Right(NamedTuple):
    """The right alignments of each example.

    Attributes:
        mass: Their probability; 0 if it underflows.
        nll: Its negative logarithm; inf if there is no alignment.
        posterior: The probability of each slot at each frame, given that the alignment is right;
            None if it is not needed.
    """

    mass: Float[Array, " examples"]
    nll: Float[Array, " examples"]
    posterior: Float[Array, "frames examples slots"] | None


def _right_alignments(lattice: _Lattice, softmax: _Softmax, *, keep: bool) -> _Right:
    def found(levels: bool) -> tuple[Mass, _Right]:
        chances = softmax.at(lattice.ids, levels=levels)
        mass, odds = _right_endings(lattice, chances, keep)
        posterior = _posterior(lattice, odds) if keep else None
        return mass, _Right(mass.plain, mass.negative_log, posterior)

    mass, right = found(levels=False)
    # Odds may be wrong where exponents are rounded. If the sum is not, no such state is likely.
    return lax.cond(jnp.any(mass.is_rounded), lambda: found(levels=True)[1], lambda: right)


def _right_endings(lattice: _Lattice, chances: Mass, keep: bool) -> tuple[Mass, Any]:
    """The mass of the right alignments; to be kept, the odds of their moves at each frame.

    These are the odds to go on from a blank, and to stay at a label.
    """
    jumps, dtype = lattice.jumps, chances.mantissa.dtype

    def step(endings: tuple[Mass, Mass], frame: Any) -> tuple[tuple[Mass, Mass], Any]:
        chance, chance_of_blank, counts, time = frame
        # A frame makes mantissas at most 6 times as large: 16 of them are far from an overflow.
        of_blank, of_label = lax.cond(time % 16 == 0, _normalized, lambda x: x, endings)
        pause, stay = of_blank.times(chance_of_blank), of_label.times(chance)
        go = _next_mass(stay)
        onward, odds_to_go = add(go, pause)
        either = jax.tree.map(lambda x, y: jnp.where(jumps, x, y), onward, pause)
        of_any, odds_to_stay = add(stay, either)
        odds = _if(counts, (odds_to_go, odds_to_stay), (0, CERTAIN))
        return _if(counts, (onward, of_any), endings), odds if keep else None

    exponent = jnp.where(lattice.is_last, 0, ZERO).astype(dtype)
    end = Mass(jnp.ones_like(exponent), exponent)
    if chances.level is not None:
        end = Mass(jnp.ones_like(exponent), jnp.zeros_like(exponent), exponent)
    # The blanks apart: a slice inside the loop is not vectorized, and takes as long as the rest.
    blanks = jax.tree.map(lambda x: x[..., :1], chances)
    frames = (chances, blanks, lattice.counts, jnp.arange(chances.mantissa.shape[0]))
    (right, _), odds = lax.scan(step, carried((end, end), frames), frames, reverse=True)
    return jax.tree.map(lambda x: x[:, 0], right).normalized(), odds


def _next_mass(mass: Mass) -> Mass:
    """The masses of the next slots; 0 after the last."""
    mantissa = _next_slot(mass.mantissa, 1)
    if mass.level is None:
        return Mass(mantissa, _next_slot(mass.exponent, ZERO))
    return Mass(mantissa, _next_slot(mass.exponent, 0), _next_slot(mass.level, ZERO))


def _normalized(masses: tuple[Mass, ...]) -> tuple[Mass, ...]:
    return tuple(mass.normalized() for mass in masses)


def _posterior(lattice: _Lattice, odds: Any) -> Array:
    """The probability of each slot at each frame, of the right alignments."""
    jumps = lattice.jumps

    def step(before: tuple[Array, Array], odds: Any) -> tuple[tuple[Array, Array], Array]:
        in_blank, in_label = before
        (going, pausing), (staying, moving) = map(shares, odds)
        move = in_label * moving
        label = in_label * staying + _to_next_slot((in_blank + jnp.where(jumps, move, 0)) * going)
        blank = in_blank * pausing + move * jnp.where(jumps, pausing, 1)
        return (blank, label), _with_blank(blank, label)

    start = lattice.at_start.astype(odds[0].dtype)
    start = carried((start, jnp.zeros_like(start)), odds)
    return lax.scan(step, start, odds)[1]


def _with_blank(blank: Array, label: Array) -> Array:
    """The labels, and in slot 0 the sum of the blanks."""
    total = jnp.sum(blank, axis=-1, keepdims=True)
    return jnp.where(jnp.arange(label.shape[-1])[None, :] == 0, total, label)


class _Leaving(NamedTuple):
    """How alignments leave the lattice, from terms that are all positive.

    Attributes:
        outside: Whether a class is neither the blank nor any label.
        part: The part that a label has in its class, which may come several times.
        ways: That part where the class leaves the lattice from label n.
        of_blank: The probability of the blank.
        of_label: The probabilities of the labels.
        of_leaving: The probability to leave from a label.
    """

    outside: Bool[Array, "examples 1 classes"]
    part: Float[Array, "examples slots"]
    ways: Float[Array, "examples slots slots"]
    of_blank: Float[Array, "frames examples 1"]
    of_label: Float[Array, "frames examples slots"]
    of_leaving: Float[Array, "frames examples slots"]


def _leaving(lattice: _Lattice, softmax: Array) -> _Leaving:
    ids, is_label, highest = lattice.ids, lattice.is_label, lax.Precision.HIGHEST
    classes = jnp.arange(softmax.shape[-1], dtype=ids.dtype)[None, None, :]
    one_hot = (ids[..., None] == classes).astype(softmax.dtype)
    slots_of_class = jnp.sum(one_hot, axis=1)
    slots = jnp.einsum("bnk,bk->bn", one_hot, slots_of_class, precision=highest)
    part = jnp.where(is_label, 1 / slots, 0)
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
    """The mass of the wrong alignments, and, to be kept, that of their endings from each state."""
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
    (wrong, _), endings = lax.scan(step, carried((end, end), frames), frames, reverse=True)
    return wrong[:, 0], endings


def _wrong_shares(
    lattice: _Lattice, leaving: _Leaving, endings: Any, likely: Array
) -> tuple[Array, Array]:
    """The share of the wrong alignments in each slot, and in each class outside the lattice.

    It is 0 for examples that are not likely.
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
    _, (share, both, gone) = lax.scan(step, carried(start, frames), frames)
    others = jnp.einsum("tbn,bnm->tbm", both, leaving.ways, precision=lax.Precision.HIGHEST)
    of_left = leaving.of_label * (leaving.part[None] * gone + others)
    share += jnp.where(lattice.at_start[None], leaving.of_blank * gone, of_left)
    return share, gone + jnp.sum(both, axis=-1, keepdims=True)


def _value(right: _Right, wrong: Array) -> Array:
    """log(1 + wrong / right) where the right alignments are likely, else -log(right)."""
    likely = right.mass > _LIKELY
    odds = wrong / jnp.where(likely, right.mass, 1)
    return jnp.where(likely, jnp.log1p(odds), right.nll)


@functools.partial(jax.jit, static_argnums=4)  # op by op, it would take a minute to compile
def _value_and_gradient(
    logits: Array, labels: Array, last: Array, counts: Array | None, blank: int
) -> tuple[Array, Array]:
    logits, labels, last, counts = carried((logits, labels, last, counts))
    lattice, softmax = _lattice(labels, last, counts, blank), _Softmax.of(logits)
    right = _right_alignments(lattice, softmax, keep=True)
    likely = right.mass > _LIKELY
    examples, _, classes = logits.shape

    # Where the right alignments are not likely, the wrong ones count as 1, and as the softmax.
    def with_wrong() -> tuple[Array, ...]:
        leaving = _leaving(lattice, softmax.everywhere())
        wrong, endings = _wrong_endings(lattice, leaving, keep=True)
        share, left = _wrong_shares(lattice, leaving, endings, likely)
        left = jnp.where(likely[None, :, None], left, 1)
        outside = leaving.outside | ~likely[:, None, None]
        return jnp.where(likely, wrong, 1), share, left, outside

    def without() -> tuple[Array, ...]:
        zeros, everywhere = jnp.zeros_like(right.posterior), jnp.ones((examples, 1, classes), bool)  # type: ignore  # not None here
        ones = jnp.ones_like(right.mass), zeros, jnp.ones_like(zeros[..., :1]), everywhere
        return carried(ones, logits)

    wrong, share, left, outside = lax.cond(jnp.any(likely), with_wrong, without)
    gradient = jnp.where(outside, softmax.everywhere() * _frames_first(left), 0)
    share -= wrong[None, :, None] * right.posterior
    gradient += _of_classes(share, lattice.ids, classes)
    is_counted = (right.nll != jnp.inf)[:, None, None]
    is_counted = is_counted if counts is None else is_counted & counts
    return _value(right, wrong), jnp.where(is_counted, gradient, 0)


def _of_classes(x: Array, ids: Array, classes: int) -> Array:
    """Sums the slots of one class: (frames, examples, slots) to (examples, frames, classes)."""
    frames, examples, _ = x.shape
    # Not by `vmap`: checkify cannot read a scatter with batch axes.
    zeros = jnp.zeros((examples, classes, frames), x.dtype)
    sums = zeros.at[jnp.arange(examples)[:, None], ids].add(jnp.transpose(x, (1, 2, 0)))
    return jnp.swapaxes(sums, 1, 2)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
@functools.partial(jax.jit, static_argnums=4)
def ctc_nll(
    logits: Float[Array, "examples frames classes"],
    labels: Int[Array, "examples tokens"],
    last: Int[Array, " examples"],
    counts: Bool[Array, "examples frames 1"] | None,
    blank: int,
) -> Float[Array, " examples"]:
    """The loss of each example.

    Labels are -1 after the last of them; `last` is their number, and `counts` says which frames
    count, if not all do.
    """
    logits, labels, last, counts = carried((logits, labels, last, counts))
    lattice, softmax = _lattice(labels, last, counts, blank), _Softmax.of(logits)
    right = _right_alignments(lattice, softmax, keep=False)
    wrong = lax.cond(
        jnp.any(right.mass > _LIKELY),
        lambda: _wrong_endings(lattice, _leaving(lattice, softmax.everywhere()), keep=False)[0],
        lambda: carried(jnp.zeros_like(right.mass), logits),
    )
    return _value(right, wrong)


@ctc_nll.defjvp
def _ctc_nll_jvp(blank: int, primals: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    # A full rule: value and gradient come from one pass over the lattice.
    value, gradient = _value_and_gradient(*primals, blank)
    value = _with_gradient(lax.stop_gradient(value), primals[0], gradient)
    return value, jnp.sum(gradient * tangents[0], axis=(1, 2))


@jax.custom_jvp
def _with_gradient(value: Array, logits: Array, gradient: Array) -> Array:
    """The value, with this gradient with respect to the logits if it is differentiated again."""
    del logits, gradient
    return value


_with_gradient.defjvps(
    None,
    lambda logits_dot, *primals: jnp.sum(primals[-1] * logits_dot, axis=(1, 2)),
    None,
)
