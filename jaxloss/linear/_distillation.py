r"""Distillation between two linear layers, neither of whose logits exist as a whole."""

from typing import Any

from jax import Array

from jaxloss._core.reduction import TypeOfReduction
from jaxloss._memory.chunked import chunked
from jaxloss.divergence import kl_logits
from jaxloss.linear._arguments import Arguments, Chunk, planned
from jaxloss.linear._online_softmax import Layer, product


def kl(
    hidden: Any,
    weight: Any,
    target_hidden: Any,
    target_weight: Any,
    *,
    bias: Any = None,
    target_bias: Any = None,
    transposed: bool = False,
    temperature: Any = 1.0,
    where: Any = None,
    weights: Any = None,
    reduction: TypeOfReduction = "mean",
    chunk_size: Chunk = None,
) -> Any:
    r"""Take it to teach a language model the distributions of another, with neither's logits.

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
        chunk_size: How many tokens to compute at once; chosen as `plan` says if not given.

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
    layer = Layer(transposed)
    if isinstance(chunk_size, tuple):
        raise TypeError(f"{fun_name}: `chunk_size` is {chunk_size!r}, expected a number of tokens.")
    student.split(layer, chunk_size, "fastest")
    how, _ = planned(student.rows, student.weight, layer, chunk_size, "fastest", student.pieces)
    heads = {
        "student": (student.weight, student.a_class("bias", bias)),
        "teacher": (teacher.weight, student.a_class("target_bias", target_bias)),
        "temperature": student.number("temperature", temperature, off=None, least=0),
    }

    def of_rows(heads: Any, hidden: Array, target_hidden: Array) -> Array:
        logits = _logits(layer, hidden, *heads["student"])
        target = _logits(layer, target_hidden, *heads["teacher"])
        return kl_logits(logits, target, temperature=heads["temperature"])

    loss = chunked(of_rows, how.size, reduction=reduction)
    where, weights = (
        student.a_row("where", where, "booleans"),
        student.a_row("weights", weights, ""),
    )
    result = loss(heads, student.hidden, teacher.hidden, where=where, weights=weights)
    return result.reshape(student.batch) if reduction == "none" else result


def _logits(layer: Layer, hidden: Array, weight: Array, bias: Array | None) -> Array:
    raw = product(layer, hidden, weight)
    return raw if bias is None else raw + bias
