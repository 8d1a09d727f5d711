"""Scores of probabilities of classes."""

from typing import Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Real

from jaxloss._core.decorator import loss
from jaxloss._core.spec import ArrayLike, AxisReduction
from jaxloss.domains import class_ids, unit_interval
from jaxloss.numerics._labels import is_label
from jaxloss.numerics._reductions import cumulative_sum
from jaxloss.traits import convex, nonnegative, proper, smooth


def _error(probabilities: Array, labels: Array) -> Array:
    """The probabilities less those of the labels, which are ids or distributions."""
    if labels.ndim == probabilities.ndim:
        return probabilities - labels
    valid = (labels >= 0) & (labels < probabilities.shape[-1])
    chosen = is_label(probabilities, labels).astype(probabilities.dtype)
    return probabilities - jnp.where(valid[..., None], chosen, jnp.nan)  # one sum over all entries


@loss(
    convex,
    nonnegative,
    smooth,
    proper,
    probabilities=unit_interval,
    labels=[class_ids("classes")._replace(handles_invalid=True), unit_interval],
)
def brier(
    probabilities: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Brier score: the squared distance of the probabilities from the label.

    When to use: probabilities of classes that must be calibrated, where `softmax_cross_entropy`
    is dominated by labels of very small probability; it is bounded.

    $$\ell(p, y) = \sum_c (p_c - 1\{c = y\})^2$$

    The sum over all classes, from 0 to 2, as Brier defined it; for two classes it is twice the
    squared error of the probability of one of them, `regression.squared_error(p, event)`, which is
    often given the same name.

    Args:
        probabilities: The predicted probability of each class; `jax.nn.softmax(logits)`.
        labels: Class ids, or the true share of each class.
        mask: False leaves a class out of an example, or of all examples; as the label it counts 0.

    Returns:
        The score of each example, from 0 to 2; NaN if a class id names no class.

    Example:
        >>> brier([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], [0, 2])
        Array([0.375, 0. ], dtype=float32)

    References:
        Brier, *Verification of Forecasts Expressed in Terms of Probability*, 1950.
    """
    squares = jnp.square(_error(probabilities, labels))
    return jnp.sum(squares if mask is None else jnp.where(mask, squares, 0), axis=-1)


@loss(
    convex,
    nonnegative,
    smooth,
    proper,
    probabilities=unit_interval,
    labels=[class_ids("classes"), unit_interval],
)
def ranked_probability(
    probabilities: Real[ArrayLike, "*batch classes"],
    labels: Int[ArrayLike, "*batch"] | Real[ArrayLike, "*batch classes"],
    *,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Ranked probability score: squared distance of cumulative probabilities, for ordered classes.

    When to use: classes that have an order, such as grades or bins of a number, where a near miss
    should cost less than a far one.

    $$\ell(p, y) = \sum_{k=1}^{K-1} \Big( \sum_{c \le k} p_c - 1\{y \le k\} \Big)^2$$

    The CRPS of the class number. Some divide by $K - 1$. It is also the squared earth mover's
    distance of Hou et al.

    Args:
        probabilities: The predicted probability of each class, in order.
        labels: Class ids, or the true share of each class.
        mask: False leaves a class out of an example, or of all examples; as the label it counts 0.

    Returns:
        The score of each example, from 0 to the number of classes less 1; NaN if a class id names
        no class.

    Example:
        >>> ranked_probability([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], [0, 2])
        Array([0.3125, 0. ], dtype=float32)

    References:
        Epstein, *A Scoring System for Probability Forecasts of Ranked Categories*, 1969.
        Hou, Yu and Samaras, *Squared Earth Mover's Distance-based Loss*, 2016.
    """
    squares = jnp.square(cumulative_sum(_error(probabilities, labels))[..., :-1])
    if mask is not None:  # the sum up to the last of the classes that are left is no term
        kept = jnp.cumsum(mask, axis=-1, dtype=jnp.int32)
        squares = jnp.where((mask & (kept < kept[..., -1:]))[..., :-1], squares, 0)
    return jnp.sum(squares, axis=-1)
