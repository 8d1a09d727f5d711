r"""Divergences between the softmaxes of two linear layers, whose logits never exist as a whole.

"fastest" has all classes of some tokens at once, and a divergence of their logits. `_divergences`
has some classes at a time: with the least memory, and where the vocabulary is split over devices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxloss._core.arguments import check_choice
from jaxloss._core.reduction import TypeOfReduction
from jaxloss._core.spec import ArrayLike
from jaxloss._core.typing import AxisName
from jaxloss._memory.chunked import chunked
from jaxloss.distillation import acceptance
from jaxloss.distillation import generalized_jensen_shannon as jensen_shannon_of_logits
from jaxloss.divergence import kl_logits
from jaxloss.linear._arguments import Arguments, ChunkSize, Policy
from jaxloss.linear._blocks import Rows, Tiles
from jaxloss.linear._divergences import IN_BLOCKS, Divergence, Kind
from jaxloss.linear._evaluate import evaluate
from jaxloss.linear._layer import Head, Layer
from jaxloss.linear._online_softmax import logits_of, product


def kl(
    hidden: Any,
    weight: Any,
    target_hidden: Any,
    target_weight: Any,
    *,
    reverse: bool = False,
    bias: ArrayLike = None,
    target_bias: Any = None,
    transposed: bool = False,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: TypeOfReduction = "mean",
    chunk_size: ChunkSize = None,
    policy: Policy = "fastest",
    axis_name: AxisName | None = None,
) -> Any:
    r"""Kullback-Leibler divergence of the softmaxes of two linear layers, without their logits.

    When to use: distillation of one language model into another.

    $$KL(q \| p), \qquad p = \mathrm{softmax}\frac{W^\top h + b}{T}, \quad
      q = \mathrm{softmax}\frac{V^\top g + c}{T}$$

    It is `divergence.kl_logits(hidden @ weight, target_hidden @ target_weight)`, as exact; the
    two models may have different dimensions, not different vocabularies. With `reverse` it is
    $KL(p \| q)$. The factor $T^2$ of distillation is not in it. The teacher has a gradient too:
    `jax.lax.stop_gradient` on its arguments says that it is not trained.

    Args:
        hidden: `(..., dim)`.
        weight: `(dim, vocabulary)`.
        target_hidden: `(..., target_dim)`, of the same tokens.
        target_weight: `(target_dim, vocabulary)`.
        reverse: Whether the expectation is over the distribution of `hidden` and `weight`.
        bias: `(vocabulary,)`.
        target_bias: `(vocabulary,)`.
        transposed: Whether both weights are `(vocabulary, dim)`.
        temperature: What both logits are divided by.
        where: Booleans of shape `(...)`; False leaves a token out, whatever it holds.
        weights: Weights of shape `(...)`; the mean is `sum(w * l) / sum(w)`.
        reduction: "mean", "sum", "parts" (an undivided `Mean`) or "none".
        chunk_size: How many tokens to compute at once, or a pair of tokens and classes; by default
            as `plan` chooses.
        policy: "fastest" holds the logits of some tokens, of both layers, and takes 6 matrix
            products. "least_memory" holds those of some classes of these tokens, and no gradient
            but the result; it takes 10. A teacher that is not trained saves 2 of either.
        axis_name: Inside `shard_map`, the mesh axis over which the vocabulary of both layers is
            split; with either policy the products are those of the least memory. The result is
            the same on all devices.

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
        Gu et al., *MiniLLM: Knowledge Distillation of Large Language Models* (reverse), 2024.
    """
    pair = _Pair("jaxloss.linear.kl", hidden, weight, target_hidden, target_weight, transposed)
    pair.read(bias, target_bias, temperature)
    form = _Form(_reverse_kl if reverse else _kl, "kl", reverse)
    return pair.loss(form, where, weights, reduction, chunk_size, policy, axis_name)


def generalized_jensen_shannon(
    hidden: Any,
    weight: Any,
    target_hidden: Any,
    target_weight: Any,
    *,
    beta: ArrayLike = 0.5,
    bias: ArrayLike = None,
    target_bias: Any = None,
    transposed: bool = False,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: TypeOfReduction = "mean",
    chunk_size: ChunkSize = None,
    policy: Policy = "fastest",
    axis_name: AxisName | None = None,
) -> Any:
    r"""Generalized Jensen-Shannon divergence of the softmaxes of two linear layers.

    When to use: distillation on samples of the student itself (GKD), from hidden states.

    $$\beta\, KL(q \| m) + (1 - \beta)\, KL(p \| m), \qquad m = \beta q + (1 - \beta) p$$

    p is the softmax of `hidden` and `weight`, and q that of the target, as in `kl`. It is
    `distillation.generalized_jensen_shannon` of both logits, as exact; that function says which
    convention of beta other libraries have.

    Args:
        hidden: `(..., dim)`.
        weight: `(dim, vocabulary)`.
        target_hidden: `(..., target_dim)`, of the same tokens.
        target_weight: `(target_dim, vocabulary)`.
        beta: The share of the target in the mixture, from 0 to 1; 0 at both ends.
        bias: `(vocabulary,)`.
        target_bias: `(vocabulary,)`.
        transposed: Whether both weights are `(vocabulary, dim)`.
        temperature: What both logits are divided by.
        where: As in `kl`.
        weights: As in `kl`.
        reduction: As in `kl`.
        chunk_size: As in `kl`.
        policy: As in `kl`.
        axis_name: As in `kl`.

    Returns:
        The divergence in nats, a scalar unless `reduction` says otherwise.

    Raises:
        ValueError: If shapes do not fit or an option is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> one, other = jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])
        >>> generalized_jensen_shannon(jnp.eye(1), one, jnp.eye(1), other)
        Array(0.6931472, dtype=float32)

    References:
        Agarwal et al., *On-Policy Distillation of Language Models* (GKD), 2024.
    """
    fun_name = "jaxloss.linear.generalized_jensen_shannon"
    pair = _Pair(fun_name, hidden, weight, target_hidden, target_weight, transposed)
    pair.read(bias, target_bias, temperature, beta)
    form = _Form(_jensen_shannon, "jensen_shannon")
    return pair.loss(form, where, weights, reduction, chunk_size, policy, axis_name)


def total_variation(
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
    chunk_size: ChunkSize = None,
    policy: Policy = "fastest",
    axis_name: AxisName | None = None,
) -> Any:
    r"""Total variation distance of the softmaxes of two linear layers.

    When to use: training a draft model for speculative decoding, from hidden states.

    $$\tfrac12 \sum_k |p_k - q_k|$$

    It is `distillation.acceptance` of both logits, the rate at which the model of the target
    rejects what the other one proposes; p and q as in `kl`.

    Args:
        hidden: `(..., dim)`.
        weight: `(dim, vocabulary)`.
        target_hidden: `(..., target_dim)`, of the same tokens.
        target_weight: `(target_dim, vocabulary)`.
        bias: `(vocabulary,)`.
        target_bias: `(vocabulary,)`.
        transposed: Whether both weights are `(vocabulary, dim)`.
        temperature: What both logits are divided by.
        where: As in `kl`.
        weights: As in `kl`.
        reduction: As in `kl`.
        chunk_size: As in `kl`.
        policy: As in `kl`.
        axis_name: As in `kl`.

    Returns:
        The distance, from 0 to 1, a scalar unless `reduction` says otherwise.

    Raises:
        ValueError: If shapes do not fit or an option is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> uniform, certain = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, -99.0]])
        >>> total_variation(jnp.eye(1), uniform, jnp.eye(1), certain)
        Array(0.5, dtype=float32)

    References:
        Leviathan et al., *Fast Inference from Transformers via Speculative Decoding*, 2023.
    """
    fun_name = "jaxloss.linear.total_variation"
    pair = _Pair(fun_name, hidden, weight, target_hidden, target_weight, transposed)
    pair.read(bias, target_bias, temperature)
    form = _Form(_total_variation, "total_variation")
    return pair.loss(form, where, weights, reduction, chunk_size, policy, axis_name)


class _Heads(NamedTuple):
    """The layers of a student and a teacher, and the options of the divergence."""

    student: Head
    teacher: Head
    temperature: Array | None
    beta: Array | None = None


def _kl(heads: _Heads, logits: Array, target: Array) -> Array:
    return kl_logits(logits, target, temperature=heads.temperature)


def _reverse_kl(heads: _Heads, logits: Array, target: Array) -> Array:
    return kl_logits(target, logits, temperature=heads.temperature)


def _jensen_shannon(heads: _Heads, logits: Array, target: Array) -> Array:
    beta, temperature = heads.beta, heads.temperature
    return jensen_shannon_of_logits(logits, target, beta=beta, temperature=temperature)


def _total_variation(heads: _Heads, logits: Array, target: Array) -> Array:
    return acceptance(logits, target, temperature=heads.temperature)


class _Form(NamedTuple):
    """A divergence.

    Attributes:
        of_logits: From the layers and the logits of some tokens.
        kind: The one of some classes at a time.
        swapped: Whether that takes the teacher first.
    """

    of_logits: Callable[[_Heads, Array, Array], Array]
    kind: Kind
    swapped: bool = False


class _Pair:
    """The arguments of a divergence of two layers, checked."""

    heads: _Heads

    def __init__(
        self,
        fun_name: str,
        hidden: Any,
        weight: Any,
        target_hidden: Any,
        target_weight: Any,
        transposed: bool,
    ):
        """Checks that the layers have the same tokens and classes."""
        self.student = student = Arguments(fun_name, hidden, weight, transposed)
        self.teacher = teacher = Arguments(
            fun_name, target_hidden, target_weight, transposed, "target_"
        )
        if teacher.batch != student.batch:
            came, expected = (*teacher.batch, "dim"), (*student.batch, "dim")
            student.refuse("target_hidden", came, f"{expected} to fit `hidden`")
        if teacher.vocabulary != student.vocabulary:
            expected = f"{student.vocabulary} classes as `weight`"
            student.refuse("target_weight", teacher.weight.shape, expected)

    def read(
        self, bias: ArrayLike, target_bias: ArrayLike, temperature: ArrayLike, beta: Any = None
    ) -> None:
        """Reads the options."""
        student = self.student
        self.heads = _Heads(
            Head(student.weight, student.per_class("bias", bias)),
            Head(self.teacher.weight, student.per_class("target_bias", target_bias)),
            student.number("temperature", temperature, off=None, above=0),
            student.number("beta", beta, off=None, within=(0, 1)),
        )

    def loss(
        self,
        form: _Form,
        where: ArrayLike,
        weights: ArrayLike,
        reduction: TypeOfReduction,
        chunk_size: ChunkSize,
        policy: Policy,
        axis_name: AxisName | None,
    ) -> Any:
        """The divergence of the rows."""
        student = self.student
        check_choice(student.fun_name, "reduction", reduction, ("none", "mean", "sum", "parts"))
        layer = Layer(student.transposed, axis_name)
        tiles = student.tiles(layer, chunk_size, policy)
        mask, weights = student.mask("where", where), student.per_row("weights", weights)
        if policy == "fastest" and axis_name is None:
            loss = chunked(_of_rows(layer, form.of_logits), tiles.rows.size, reduction=reduction)
            hidden = student.hidden, self.teacher.hidden
            result = loss(self.heads, *hidden, where=mask, weights=weights)
        else:
            result = self._in_blocks(form, tiles, policy, mask, weights, reduction)
        return result.reshape(student.batch) if reduction == "none" else result

    def _in_blocks(
        self,
        form: _Form,
        tiles: Tiles,
        policy: Policy,
        mask: Array | None,
        weights: Array | None,
        reduction: TypeOfReduction,
    ) -> Any:
        """The divergence from some classes at a time."""
        layers = [(self.heads.student, self.student), (self.heads.teacher, self.teacher)]
        (first, of_first), (second, of_second) = layers[::-1] if form.swapped else layers
        for arguments in (self.student, self.teacher):
            arguments.check_axis(tiles.layer.axis_name)
        head = Head(
            first.weight,
            first.bias,
            temperature=self.heads.temperature,
            target_weight=second.weight,
            target_bias=second.bias,
            beta=self.heads.beta,
        )
        rows = Rows(
            of_first.hidden, jnp.zeros(self.student.rows, jnp.int32), mask, of_second.hidden
        )
        if policy == "fastest":
            tiles = tiles._replace(block=None)
        tiles = tiles._replace(sums_of=Divergence(form.kind))
        return evaluate(IN_BLOCKS, tiles, reduction, head, rows, weights)[0]


@functools.cache  # so that `chunked` gets the same function again, and compiles it once
def _of_rows(layer: Layer, divergence: Callable[[_Heads, Array, Array], Array]) -> Any:
    def of_rows(heads: _Heads, hidden: Array, target_hidden: Array) -> Array:
        logits, target = (
            logits_of(head, product(layer, x, head.weight))
            for head, x in ((heads.student, hidden), (heads.teacher, target_hidden))
        )
        return divergence(heads, logits, target)

    return of_rows
