r"""Distillation between two linear layers, the logits of neither of which exist as a whole."""

import functools
from typing import Any, NamedTuple

from jax import Array

from jaxloss._core.reduction import TypeOfReduction
from jaxloss._core.spec import ArrayLike
from jaxloss._memory.chunked import chunked
from jaxloss.divergence import kl_logits
from jaxloss.linear._arguments import Arguments
from jaxloss.linear._online_softmax import Head, Layer, logits_of, product


def kl(
    hidden: Any,
    weight: Any,
    target_hidden: Any,
    target_weight: Any,
    *,
    bias: ArrayLike = None,
    target_bias: Any = None,
    transposed: bool = False,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: TypeOfReduction = "mean",
    chunk_size: int | None = None,
) -> Any:
    r"""Kullback-Leibler divergence of the softmaxes of two linear layers, without their logits.

    When to use: distillation of one language model into another.

    $$KL(q \| p), \qquad p = \mathrm{softmax}\frac{W^\top h + b}{T}, \quad
      q = \mathrm{softmax}\frac{V^\top g + c}{T}$$

    It is `divergence.kl_logits(hidden @ weight, target_hidden @ target_weight)`, as exact; the
    two models may have different dimensions, not different vocabularies. The factor $T^2$ of
    distillation is not in it. The teacher has a gradient too; `jax.lax.stop_gradient` on its
    arguments saves its two matrix products.

    Args:
        hidden: `(..., dim)`.
        weight: `(dim, vocabulary)`.
        target_hidden: `(..., target_dim)`, of the same tokens.
        target_weight: `(target_dim, vocabulary)`.
        bias: `(vocabulary,)`.
        target_bias: `(vocabulary,)`.
        transposed: Whether both weights are `(vocabulary, dim)`.
        temperature: What both logits are divided by.
        where: Booleans of shape `(...)`; False leaves a token out, whatever it holds.
        weights: Weights of shape `(...)`; the mean is `sum(w * l) / sum(w)`.
        reduction: "mean", "sum", "parts" (an undivided `Mean`) or "none".
        chunk_size: How many tokens to compute at once; by default as `plan` chooses.

    Returns:
        The divergence in nats, a scalar unless `reduction` says otherwise.

    Raises:
        ValueError: If shapes do not fit or an option is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> kl(jnp.eye(2), jnp.zeros((2, 2)), jnp.eye(2), jnp.array([[2e-6, 0.0], [0.0, 0.0]]))
        Array(2.5e-13, dtype=float32)

    References:
        Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015.
    """
    fun_name = "jaxloss.linear.kl"
    student = Arguments(fun_name, hidden, weight, transposed)
    teacher = Arguments(fun_name, target_hidden, target_weight, transposed, "target_")
    if teacher.batch != student.batch:
        came, expected = (*teacher.batch, "dim"), (*student.batch, "dim")
        student.refuse("target_hidden", came, f"{expected} to fit `hidden`")
    if teacher.vocabulary != student.vocabulary:
        expected = f"{student.vocabulary} classes as `weight`"
        student.refuse("target_weight", teacher.weight.shape, expected)
    if isinstance(chunk_size, tuple):
        raise TypeError(f"{fun_name}: `chunk_size` is {chunk_size!r}, expected a number of tokens.")
    layer = Layer(transposed)
    heads = _Heads(
        Head(student.weight, student.per_class("bias", bias)),
        Head(teacher.weight, student.per_class("target_bias", target_bias)),
        student.number("temperature", temperature, off=None, above=0),
    )
    size = student.tiles(layer, chunk_size, "fastest").rows.size
    loss = chunked(_kl_of_rows(layer), size, reduction=reduction)
    where, weights = student.mask("where", where), student.per_row("weights", weights)
    result = loss(heads, student.hidden, teacher.hidden, where=where, weights=weights)
    return result.reshape(student.batch) if reduction == "none" else result


class _Heads(NamedTuple):
    """The layers of a student and a teacher."""

    student: Head
    teacher: Head
    temperature: Array | None


@functools.cache  # so that `chunked` gets the same function again, and compiles it once
def _kl_of_rows(layer: Layer) -> Any:
    def of_rows(heads: _Heads, hidden: Array, target_hidden: Array) -> Array:
        logits, target = (
            logits_of(head, product(layer, x, head.weight))
            for head, x in ((heads.student, hidden), (heads.teacher, target_hidden))
        )
        return kl_logits(logits, target, temperature=heads.temperature)

    return of_rows
