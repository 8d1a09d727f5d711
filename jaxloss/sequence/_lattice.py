"""The lattice of CTC: its states, and what one frame changes in each recursion over them.

From the blank after n labels, or from label n, a frame moves an alignment to that blank, to that
label again, or on to label n + 1; any other class leaves the lattice. Axes are examples and slots:
slot n of the labels is label n; slot 0, where there is no label, is used for the blank. A state is
a pair: of the blanks, and of the labels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, PyTree

from jaxloss.numerics._double_double import exp_shifted
from jaxloss.sequence._scaled_floats import CERTAIN, ZERO, Mass, add, exponentials, shares


class Lattice(NamedTuple):
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


def lattice_of(
    labels: Int[Array, "examples tokens"],
    last: Int[Array, " examples"],
    counts: Bool[Array, "examples frames 1"] | None,
    blank: int,
) -> Lattice:
    labels = jnp.pad(labels, ((0, 0), (1, 1)), constant_values=-1)
    own, following = labels[:, :-1], labels[:, 1:]
    ids = jnp.where(own < 0, blank, own)
    is_last = jnp.arange(ids.shape[1], dtype=last.dtype)[None, :] == last[:, None]
    return Lattice(ids, own >= 0, own != following, is_last, frames_first(counts))


class Softmax(NamedTuple):
    """The softmax over the classes, before it is evaluated at a class."""

    logits: Float[Array, "examples frames classes"]
    top: Float[Array, "examples frames 1"]
    total: Float[Array, "examples frames 1"]

    @classmethod
    def of(cls, logits: Float[Array, "examples frames classes"]) -> "Softmax":
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
        return frames_first(exponentials(chosen, self.top, self.total, levels=levels))


def frames_first(tree: PyTree) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _next_slot(x: Array, beyond: float) -> Array:
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=beyond)


def _to_next_slot(x: Array) -> Array:
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))


def if_counted(counts: Array | None, new: Any, old: Any) -> Any:
    """The new state; the old one at frames that do not count."""
    if counts is None:
        return new
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), new, old)


# --- the right alignments -------------------------------------------------------------------------


def last_right(lattice: Lattice, dtype: DTypeLike, *, levels: bool) -> tuple[Mass, Mass]:
    """The mass of the right endings after the last frame."""
    scale = jnp.where(lattice.is_last, 0, ZERO).astype(dtype)
    one, zero = jnp.ones_like(scale), jnp.zeros_like(scale)
    end = Mass(one, zero, scale) if levels else Mass(one, scale)
    return end, end


def right_endings(
    lattice: Lattice, endings: tuple[Mass, Mass], chance: Mass, of_blank: Mass, counts: Any
) -> tuple[tuple[Mass, Mass], tuple[Array, Array]]:
    """The mass of the right endings from every state, one frame earlier, and the odds of the moves.

    These are the odds to go on from a blank, and to stay at a label.
    """
    pause, stay = endings[0].times(of_blank), endings[1].times(chance)
    go = _next_mass(stay)
    onward, odds_to_go = add(go, pause)
    either = jax.tree.map(lambda x, y: jnp.where(lattice.jumps, x, y), onward, pause)
    of_any, odds_to_stay = add(stay, either)
    odds = if_counted(counts, (odds_to_go, odds_to_stay), (0, CERTAIN))
    return if_counted(counts, (onward, of_any), endings), odds


def _next_mass(mass: Mass) -> Mass:
    """The masses of the next slots; 0 after the last."""
    mantissa = _next_slot(mass.mantissa, 1)
    if mass.level is None:
        return Mass(mantissa, _next_slot(mass.exponent, ZERO))
    return Mass(mantissa, _next_slot(mass.exponent, 0), _next_slot(mass.level, ZERO))


def posterior(
    lattice: Lattice, before: tuple[Array, Array], odds: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The probability of every state, one frame later, given that the alignment is right."""
    jumps, (in_blank, in_label) = lattice.jumps, before
    (going, pausing), (staying, moving) = map(shares, odds)
    move = in_label * moving
    label = in_label * staying + _to_next_slot((in_blank + jnp.where(jumps, move, 0)) * going)
    return in_blank * pausing + move * jnp.where(jumps, pausing, 1), label


# --- the wrong alignments -------------------------------------------------------------------------


class Moves(NamedTuple):
    """The probabilities of what a frame may do.

    Attributes:
        blank: The probability of the blank.
        label: The probabilities of the labels.
        leave: The probability to leave from a label.
        counts: Whether the frame counts; None is yes.
    """

    blank: Float[Array, "*frames examples 1"]
    label: Float[Array, "*frames examples slots"]
    leave: Float[Array, "*frames examples slots"]
    counts: Bool[Array, "*frames examples 1"] | None


def leaving_classes(
    lattice: Lattice, classes: int, dtype: DTypeLike
) -> Float[Array, "examples slots classes"]:
    """1 for the classes that leave the lattice from label n, 0 for its own, the next, the blank."""
    ids, every = lattice.ids, jnp.arange(classes, dtype=lattice.ids.dtype)[None, None, :]
    following = _next_slot(jnp.where(lattice.is_label, ids, -1), -1)
    stays = (
        (every == ids[..., None]) | (every == following[..., None]) | (every == ids[:, :1, None])
    )
    return (~stays).astype(dtype)


def last_wrong(lattice: Lattice, dtype: DTypeLike) -> tuple[Array, Array]:
    """The mass of the wrong endings after the last frame."""
    end = jnp.where(lattice.is_last, 0, jnp.ones((), dtype))
    return end, end


def wrong_endings(
    lattice: Lattice, endings: tuple[Array, Array], moves: Moves
) -> tuple[Array, Array]:
    """The mass of the wrong endings from every state, one frame earlier."""
    jumps, (of_blank, of_label, leave, counts) = lattice.jumps, moves
    pause, stay = endings[0] * of_blank, endings[1] * of_label
    go = _next_slot(stay, 0)
    blank = pause + go + (leave + jnp.where(jumps, of_label, 0))
    label = stay + pause + jnp.where(jumps, go, 0) + leave
    return if_counted(counts, (blank, label), endings)


def wrong_shares(
    lattice: Lattice, before: tuple[Array, ...], moves: Moves, endings: tuple[Array, Array]
) -> tuple[tuple[Array, ...], tuple[Array, Array], tuple[Array, Array]]:
    """The wrong alignments after a frame; those that have not left; those inside and gone before.

    `before` is their mass in every state, and the mass that has left.
    """
    jumps, (blank, label, gone) = lattice.jumps, before
    of_blank, of_label, leave, counts = moves
    both, from_blank = blank + label, jnp.where(jumps, of_label, 0)
    leaves = jnp.sum(both * leave + blank * from_blank, axis=-1, keepdims=True)
    onward = _to_next_slot(blank + jnp.where(jumps, label, 0))
    after = both * of_blank, (label + onward) * of_label, gone + leaves
    stay = after[0] * endings[0], after[1] * endings[1] + blank * from_blank
    return if_counted(counts, after, before), stay, (both, gone)


# --- both -----------------------------------------------------------------------------------------


def first(lattice: Lattice, dtype: DTypeLike) -> tuple[Array, Array]:
    """All mass before the first frame: no label, no blank."""
    nothing = jnp.zeros_like(lattice.ids, dtype)  # split over devices as the labels are
    return jnp.where(jnp.arange(nothing.shape[1])[None, :] == 0, 1, nothing), nothing


def by_slot(state: tuple[Array, Array]) -> Array:
    """The labels, and in slot 0 the sum of the blanks."""
    blank, label = state
    total = jnp.sum(blank, axis=-1, keepdims=True)
    return jnp.where(jnp.arange(label.shape[-1])[None, :] == 0, total, label)
