r"""Connectionist temporal classification: a sequence of labels without their times.

The probability of a label sequence is a sum over its alignments to the frames. Three things here
are not usual; `_alignments` and `_masses` say how they are done:

- **A sure and right model keeps its digits.** There the wrong alignments are summed as well, as
  `-log` of a mass close to 1 is its rounding error, of either sign.
- **Numbers carry their own exponents.** Nothing underflows, as in the log domain, but sums are
  sums: no logarithm is rounded at every frame.
- **Impossible is impossible.** A class of logit -inf has mass 0; no large number stands for it.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import Domain, extended
from jaxloss.sequence._alignments import ctc_nll
from jaxloss.traits import bounded_gradient, nonnegative, shift_invariant, smooth


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
    if counts is not None:
        logits = jnp.where(counts[..., None], logits, 0)
    mask = _counted(label_mask, label_lengths, labels.shape[-1])
    last = jnp.full(batch, labels.shape[-1])
    if mask is not None:
        # Labels that count move to the front, whatever the gaps.
        order = jnp.argsort(~mask, axis=-1, stable=True)
        labels = jnp.take_along_axis(jnp.where(mask, labels, -1), order, axis=-1)
        last = jnp.sum(mask, axis=-1)

    count = math.prod(batch)
    values = ctc_nll(
        logits.reshape(count, size, classes),
        labels.reshape(count, labels.shape[-1]),
        last.reshape(count),
        None if counts is None else counts.reshape(count, size, 1),
        blank,
    ).reshape(batch)
    return jnp.where(values == jnp.inf, 0, values) if infeasible == "zero" else values
