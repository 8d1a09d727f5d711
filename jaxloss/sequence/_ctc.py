r"""Connectionist temporal classification: labels of a sequence, without their times.

The probability of a label sequence is a sum over its alignments to the frames. Three things differ
from other implementations; `_alignments` and `_scaled_floats` have the details:

- **A confident, right model keeps its digits.** The wrong alignments are summed as well, since
  `-log` of a probability close to 1 is a rounding error, of either sign.
- **Numbers carry their own exponents.** Nothing underflows, as in the log domain, but sums are
  sums: no logarithm is rounded at every frame.
- **Impossible is impossible.** A class of logit -inf has probability 0; no large number is used in
  for it. Where users mask with -1e9 or the smallest float instead, results are as exact.
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


def _counted(mask: ArrayLike, lengths: Any, size: int) -> Any:
    """Which frames or labels count; None if all of them do."""
    if mask is not None and lengths is not None:
        message = "jaxloss.sequence.ctc: give a mask or lengths, not both."
        raise ValueError(message)
    if lengths is not None:
        lengths = jnp.asarray(lengths)[..., None]
        places = jnp.arange(size, dtype=lengths.dtype)
        return places.reshape((1,) * (lengths.ndim - 1) + (-1,)) < lengths
    return None if mask is None else jnp.asarray(mask)


def _is_class(labels: ArrayLike, context: Mapping[str, Any]) -> tuple[Any, Any]:
    """Whether labels are classes; padding, and examples that `where` leaves out, always pass."""
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
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    blank: int = 0,
    infeasible: Literal["inf", "zero"] = "inf",
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""CTC loss: -log of the probability of a label sequence, summed over its alignments.

    When to use: speech, handwriting and other sequence recognition, if the labels are in order but
    their times in the input are not known.

    $$\ell(x, y) = -\log \sum_{a \,:\, \mathrm{collapse}(a) = y} \prod_t
      \frac{e^{x_{t, a_t}}}{\sum_k e^{x_{t, k}}}$$

    An alignment $a$ has a class at every frame; it collapses to $y$ when repetitions are merged
    and then blanks are removed. Two equal labels in a row therefore need a blank between them.
    Frames are independent given the input, and confident models put each label into one frame.

    Other libraries differ. `torch` takes log-probabilities instead of logits, frames first, and its
    mean divides by the label lengths first (here: `weights=1 / label_lengths` and the sum over
    examples). `optax` and `keras` return about 1e5 in place of infinity and of every larger loss,
    with gradient 0; `keras` treats label 0 as padding.

    The loss is inf only if there is no alignment, as with more labels than frames or a class of
    logit -inf; its gradient is then 0. A class that is masked with a large negative number, such as
    -1e9 or the smallest float, is possible: if every alignment needs it the loss is that large, at
    most the largest float, and the gradient is that of the alignments that need it least.

    Args:
        logits: Scores of the classes at each frame; -inf makes one impossible.
        labels: Class ids, in order, without blanks. Masked ones may hold anything.
        logit_mask: False skips a frame, at any place; it may hold NaN.
        logit_lengths: How many frames count, from the first; instead of a mask.
        label_mask: False skips a label, at any place.
        label_lengths: How many labels count, from the first; instead of a mask.
        mask: False leaves a class out of an example, or of all examples, whatever its logits hold.
        blank: The class id of the blank.
        infeasible: The loss of an example without an alignment: "inf", or "zero". Its gradient is
            0 in both cases.

    Returns:
        The loss of each example in nats, at least 0; NaN if a label that counts is not a class, or
        is the blank.

    Raises:
        ValueError: If a mask and lengths are both given, or the blank is not a class.

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
        last = classes - 1
        raise ValueError(
            f"jaxloss.sequence.ctc: `blank` is {blank}, expected a class id from 0 to {last} "
            f"(classes = {classes}): the blank is a class of the logits. If it is the last one, "
            f"write `blank={last}`."
        )
    counts = _counted(logit_mask, logit_lengths, size)
    if counts is not None:
        logits = jnp.where(counts[..., None], logits, 0)
    mask = _counted(label_mask, label_lengths, labels.shape[-1])
    last = jnp.full(batch, labels.shape[-1], jnp.int32)
    if mask is not None:
        # Labels that count are moved to the front, in their order.
        order = jnp.argsort(~mask, axis=-1, stable=True)
        labels = jnp.take_along_axis(jnp.where(mask, labels, -1), order, axis=-1)
        last = jnp.sum(mask, axis=-1, dtype=jnp.int32)

    count = math.prod(batch)
    values = ctc_nll(
        logits.reshape(count, size, classes),
        labels.reshape(count, labels.shape[-1]),
        last.reshape(count),
        None if counts is None else counts.reshape(count, size, 1),
        blank,
    ).reshape(batch)
    return jnp.where(values == jnp.inf, 0, values) if infeasible == "zero" else values
