r"""CTC: the sum over the alignments of labels to frames, and its gradient.

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

On CPU levels and wrong alignments have passes of their own, which a batch that needs none skips. On
GPU and TPU the time of a frame is that of starting its kernels: there all recursions in one
direction are one loop.

Axes are frames, examples, slots; see `_lattice`. Arrays over classes stay as they are given:
examples, frames, classes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from jaxloss._core.typing import Arrays
from jaxloss.numerics._carry import Loop, carried, in_few_kernels, split_as_first
from jaxloss.numerics._labels import is_split
from jaxloss.sequence import _lattice
from jaxloss.sequence._lattice import Lattice, Moves, Softmax, by_slot, frames_first
from jaxloss.sequence._scaled_floats import Mass, exponentials

_LIKELY = 0.5  # the probability from which on the wrong alignments are summed


class _Right(NamedTuple):
    """The right alignments of each example.

    Attributes:
        mass: Their probability; 0 if it underflows.
        nll: Its negative logarithm; inf if there is no alignment.
    """

    mass: Float[Array, " examples"]
    nll: Float[Array, " examples"]

    @classmethod
    def of(cls, mass: Mass) -> "_Right":
        return cls(mass.plain, mass.negative_log)

    @property
    def is_likely(self) -> Bool[Array, " examples"]:
        return self.mass > _LIKELY


class _Found(NamedTuple):
    """What is computed of a batch.

    Attributes:
        right: The right alignments.
        wrong: The mass of the wrong ones; 1 where the right ones are not likely.
        gradient: The gradient of every example; None if it is not asked for.
    """

    right: _Right
    wrong: Float[Array, " examples"]
    gradient: Any  # Float[Array, "examples frames classes"]


def _product(subscripts: str, x: Array, y: Array) -> Array:
    return jnp.einsum(subscripts, x, y, precision=lax.Precision.HIGHEST)


def _of_wrong(softmax: Array, leaving: Array, inside: Array, gone: Array) -> Array:
    """The mass, in each class, of the alignments that leave at a frame or have left before."""
    return softmax * (_product("tbn,bnk->btk", inside, leaving) + frames_first(gone))


# --- CPU: a pass for each recursion, if it is needed ----------------------------------------------


def _normalized(masses: tuple[Mass, Mass]) -> tuple[Mass, ...]:
    return tuple(mass.normalized() for mass in masses)


def _right_endings(lattice: Lattice, chances: Mass, keep: bool) -> tuple[Mass, Any]:
    """The mass of the right alignments, and, to be kept, the odds of their moves at each frame."""

    def step(endings: Any, frame: Any) -> tuple[Any, Any]:
        chance, of_blank, counts, time = frame
        # A frame makes mantissas at most 6 times as large: 16 of them are far from an overflow.
        endings = lax.cond(time % 16 == 0, _normalized, lambda x: x, endings)
        endings, odds = _lattice.right_endings(lattice, endings, chance, of_blank, counts)
        return endings, odds if keep else None

    end = _lattice.last_right(lattice, chances.mantissa.dtype, levels=chances.level is not None)
    # The blanks apart: a slice inside the loop is not vectorized, and takes as long as the rest.
    blanks = jax.tree.map(lambda x: x[..., :1], chances)
    frames = (chances, blanks, lattice.counts, jnp.arange(chances.mantissa.shape[0]))
    (right, _), odds = lax.scan(step, carried(end, frames), frames, reverse=True)
    return jax.tree.map(lambda x: x[:, 0], right).normalized(), odds


def _posterior(lattice: Lattice, odds: Any) -> Array:
    """The probability of each slot at each frame, of the right alignments."""

    def step(before: Any, odds: Any) -> tuple[Any, Array]:
        after = _lattice.posterior(lattice, before, odds)
        return after, by_slot(after)

    start = carried(_lattice.first(lattice, odds[0].dtype), odds)
    return lax.scan(step, start, odds)[1]


def _right_alignments(lattice: Lattice, softmax: Softmax, keep: bool) -> tuple[_Right, Any]:
    """The right alignments, and, to be kept, the probability of each slot at each frame."""

    def found(levels: bool) -> tuple[Mass, Any]:
        mass, odds = _right_endings(lattice, softmax.at(lattice.ids, levels=levels), keep)
        return mass, (_Right.of(mass), _posterior(lattice, odds) if keep else None)

    mass, right = found(levels=False)
    # Odds may be wrong where exponents are rounded. If the sum is not, no such state is likely.
    return lax.cond(jnp.any(mass.is_rounded), lambda: found(levels=True)[1], lambda: right)


def _wrong_endings(lattice: Lattice, moves: Moves, keep: bool) -> tuple[Array, Any]:
    """The mass of the wrong alignments, and, to be kept, that of their endings from each state."""

    def step(endings: Any, moves: Moves) -> tuple[Any, Any]:
        return _lattice.wrong_endings(lattice, endings, moves), endings if keep else None

    end = carried(_lattice.last_wrong(lattice, moves.label.dtype), moves)
    (wrong, _), endings = lax.scan(step, end, moves, reverse=True)
    return wrong[:, 0], endings


def _wrong_shares(lattice: Lattice, moves: Moves, endings: Any) -> tuple[Array, ...]:
    """The wrong alignments in each slot; inside the lattice before each frame; and gone."""

    def step(before: Any, frame: Any) -> tuple[Any, Any]:
        after, stay, (inside, gone) = _lattice.wrong_shares(lattice, before, *frame)
        return after, (by_slot(stay), inside, gone)

    blank, label = _lattice.first(lattice, moves.label.dtype)
    start = carried((blank, label, jnp.zeros_like(label[:, :1])), moves)
    return lax.scan(step, start, (moves, endings))[1]


def _one_by_one(lattice: Lattice, softmax: Softmax, *, keep: bool) -> _Found:
    right, posterior = _right_alignments(lattice, softmax, keep)
    likely, classes = right.is_likely, softmax.logits.shape[-1]

    def with_wrong() -> tuple[Array, ...]:
        everywhere = softmax.everywhere()
        leaving = _lattice.leaving_classes(lattice, classes, everywhere.dtype)
        chosen = frames_first(jnp.take_along_axis(everywhere, lattice.ids[:, None], axis=-1))
        leave = _product("btk,bnk->tbn", everywhere, leaving)
        labels = jnp.where(lattice.is_label, chosen, 0)
        moves = Moves(chosen[..., :1], labels, leave, lattice.counts)
        mass, endings = _wrong_endings(lattice, moves, keep)
        mass = jnp.where(likely, mass, 1)
        if not keep:
            return (mass,)
        stay, inside, gone = _wrong_shares(lattice, moves, endings)
        of_slots = jnp.where(likely[None, :, None], stay, 0) - mass[None, :, None] * posterior
        of_wrong = _of_wrong(everywhere, leaving, inside, gone)
        return mass, of_slots, jnp.where(likely[:, None, None], of_wrong, everywhere)

    def without() -> tuple[Array, ...]:
        ones = jnp.ones_like(right.mass)
        return carried((ones, -posterior, softmax.everywhere()) if keep else (ones,), softmax)

    wrong, *parts = lax.cond(jnp.any(likely), with_wrong, without)
    if not keep:
        return _Found(right, wrong, None)
    of_slots, gradient = parts
    return _Found(right, wrong, gradient + _of_classes(of_slots, lattice.ids, classes))


def _of_classes(x: Array, ids: Array, classes: int) -> Array:
    """Sums the slots of one class: (frames, examples, slots) to (examples, frames, classes)."""
    if is_split(ids):  # a scatter needs the split of its result given
        return _product_with_classes(x, ids, classes)
    frames, examples, _ = x.shape
    # Not by `vmap`: checkify cannot read a scatter with batch axes.
    zeros = jnp.zeros((examples, classes, frames), x.dtype)
    sums = zeros.at[jnp.arange(examples)[:, None], ids].add(jnp.transpose(x, (1, 2, 0)))
    return jnp.swapaxes(sums, 1, 2)


def _product_with_classes(x: Array, ids: Array, classes: int) -> Array:
    one_hot = ids[..., None] == jnp.arange(classes, dtype=ids.dtype)[None, None, :]
    return _product("tbn,bnk->btk", x, one_hot.astype(x.dtype))


# --- GPU and TPU: all recursions of a direction in one loop ---------------------------------------


def _at_once(lattice: Lattice, softmax: Softmax, *, keep: bool, loop: Loop) -> _Found:
    everywhere, classes = softmax.everywhere(), softmax.logits.shape[-1]
    leaving = _lattice.leaving_classes(lattice, classes, everywhere.dtype)
    ids = lattice.ids[:, None]
    # The blanks apart: of a slice in the loop, XLA on TPU would lay out all arrays anew.
    chosen = tuple(jnp.take_along_axis(softmax.logits, x, axis=-1) for x in (ids, ids[..., :1]))
    logits = frames_first((*chosen, softmax.top, softmax.total))
    frames = logits, _product("btk,bnk->tbn", everywhere, leaving), lattice.counts
    # A loop over a symbolic number of frames cannot be unrolled.
    unroll = loop.unroll if isinstance(softmax.logits.shape[1], int) else 1
    scan = functools.partial(lax.scan, unroll=unroll)

    def read(frame: Any) -> tuple[Mass, Mass, Moves]:
        (chosen, of_blank, top, total), leave, counts = frame
        chance, blank = (exponentials(x, top, total, levels=True) for x in (chosen, of_blank))
        labels = jnp.where(lattice.is_label, chance.plain, 0)
        return chance, blank, Moves(blank.plain, labels, leave, counts)

    def backward(endings: Any, frame: Any) -> tuple[Any, Any]:
        (right, wrong), (chance, blank, moves) = endings, read(frame)
        earlier, odds = _lattice.right_endings(lattice, right, chance, blank, moves.counts)
        kept = loop.join((*odds, *wrong)) if keep else None
        return (_normalized(earlier), _lattice.wrong_endings(lattice, wrong, moves)), kept

    dtype = everywhere.dtype
    end = _lattice.last_right(lattice, dtype, levels=True), _lattice.last_wrong(lattice, dtype)
    ((mass, _), (wrong, _)), kept = scan(backward, carried(end, frames), frames, reverse=True)
    right = _Right.of(jax.tree.map(lambda x: x[:, 0], mass))
    likely, wrong = right.is_likely, jnp.where(right.is_likely, wrong[:, 0], 1)
    if not keep:
        return _Found(right, wrong, None)

    def forward(before: Any, frame: Any) -> tuple[Any, Any]:
        frame, (go, stay, *endings) = frame
        right = _lattice.posterior(lattice, before[0], (go, stay))
        shares = _lattice.wrong_shares(lattice, before[1], read(frame)[2], tuple(endings))
        after, stay, (inside, gone) = shares
        of_slots = jax.tree.map(
            lambda s, r: jnp.where(likely[:, None], s, 0) - wrong[:, None] * r, stay, right
        )
        return (right, after), (by_slot(of_slots), inside, gone)

    blank, label = _lattice.first(lattice, dtype)
    start = carried(((blank, label), (blank, label, jnp.zeros_like(label[:, :1]))), frames)
    of_slots, inside, gone = scan(forward, start, (frames, kept))[1]
    of_wrong = _of_wrong(everywhere, leaving, inside, gone)
    gradient = _product_with_classes(of_slots, lattice.ids, classes)
    return _Found(right, wrong, gradient + jnp.where(likely[:, None, None], of_wrong, everywhere))


# Made once: eager calls compile once.
_FORMS = {
    keep: tuple(functools.partial(form, keep=keep) for form in (_one_by_one, _at_once))
    for keep in (False, True)
}


def _value(right: _Right, wrong: Array) -> Array:
    """log(1 + wrong / right) where the right alignments are likely, else -log(right)."""
    odds = wrong / jnp.where(right.is_likely, right.mass, 1)
    return jnp.where(right.is_likely, jnp.log1p(odds), right.nll)


@functools.partial(jax.jit, static_argnums=4)  # op by op, it would take a minute to compile
def _value_and_gradient(
    logits: Array, labels: Array, last: Array, counts: Array | None, blank: int
) -> tuple[Array, Array]:
    lattice, softmax = _lattice.lattice_of(labels, last, counts, blank), Softmax.of(logits)
    right, wrong, gradient = in_few_kernels(*_FORMS[True], lattice, softmax)
    is_counted = (right.nll != jnp.inf)[:, None, None]
    is_counted = is_counted if counts is None else is_counted & counts
    return _value(right, wrong), jnp.where(is_counted, gradient, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
@functools.partial(jax.jit, static_argnums=4)
def _ctc_nll(
    logits: Array, labels: Array, last: Array, counts: Array | None, blank: int
) -> Float[Array, " examples"]:
    lattice, softmax = _lattice.lattice_of(labels, last, counts, blank), Softmax.of(logits)
    right, wrong, _ = in_few_kernels(*_FORMS[False], lattice, softmax)
    return _value(right, wrong)


@_ctc_nll.defjvp
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


def ctc_nll(
    logits: Float[Array, "examples frames classes"],
    labels: Int[Array, "examples tokens"],
    last: Int[Array, " examples"],
    counts: Bool[Array, "examples frames 1"] | None,
    blank: int,
) -> Float[Array, " examples"]:
    """The loss of each example.

    Labels are -1 after the last of them; `last` is their number, and `counts` says which frames
    count, if not all do. All arrays are split over devices as the examples of the logits are.
    """
    arrays = split_as_first(logits, labels, last, counts)
    return _ctc_nll(*carried(arrays), blank)
