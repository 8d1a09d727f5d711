r"""Softmax cross-entropy of a linear layer, whose logits never exist as a whole."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxloss._core.arguments import check_choice
from jaxloss._core.reduction import TypeOfReduction
from jaxloss._core.spec import ArrayLike
from jaxloss._core.typing import AxisName
from jaxloss._memory.chunk_sum import ChunkedSum, Wanted, sum_chunks
from jaxloss._xla import on_each
from jaxloss.linear import _stored_exps, _tokamax
from jaxloss.linear._arguments import Arguments, ChunkSize, Policy
from jaxloss.linear._blocks import Rows, Tiles, where_rows
from jaxloss.linear._classes_outside import row_losses, row_sums
from jaxloss.linear._evaluate import Engine, evaluate
from jaxloss.linear._layer import Head, Layer
from jaxloss.linear._online_softmax import losses_of
from jaxloss.linear._rows_outside import chunk_losses, chunk_value_and_grad
from jaxloss.linear._stored_exps import tiles_with_stored_exps
from jaxloss.linear._total_loss import Form, total_loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """What is known of each row besides its loss; it has no gradient.

    Attributes:
        log_normalizer: The log of the sum of the exponentials of its logits.
        predicted: The class of the largest logit, the first one of several.
        correct: Whether the label's logit is the largest.
    """

    log_normalizer: Array
    predicted: Array
    correct: Array


def softmax_cross_entropy(
    hidden: Any,
    weight: Any,
    labels: ArrayLike,
    *,
    bias: ArrayLike = None,
    transposed: bool = False,
    label_smoothing: ArrayLike = 0.0,
    class_weights: Any = None,
    softcap: ArrayLike | None = None,
    z_loss: Array | float = 0.0,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: TypeOfReduction = "mean",
    metrics: bool = False,
    chunk_size: ChunkSize = None,
    policy: Policy = "fastest",
    accumulator_dtype: DTypeLike | None = None,
    axis_name: AxisName | None = None,
    implementation: Literal["xla", "tokamax"] = "xla",
) -> Any:
    r"""Softmax cross-entropy of a linear layer, without an array of all logits.

    When to use: the last layer of a language model, or of any model with many classes.

    $$\ell(h, y) = -\log \frac{e^{z_y}}{\sum_k e^{z_k}}, \qquad
      z = \frac{1}{T}\, c \tanh\frac{W^\top h + b}{c}$$

    It is `classification.softmax_cross_entropy(hidden @ weight, labels)`, in value and gradient,
    and as exact: logits, sums and gradients are float32 for half-precision inputs too. "fastest"
    computes the logits of some tokens, their loss and their gradients at once: 3 matrix products,
    2 if the layer is frozen; it holds the gradients until the backward pass. "least_memory"
    computes the logits twice, a block of the vocabulary at a time: 4 products, and between the
    passes a few numbers a token. With `reduction="none"` the cotangents come later: 4 products as
    well. For second derivatives use `jvp` of `grad`, which stays in chunks.

    Args:
        hidden: `(..., dim)`.
        weight: `(dim, vocabulary)`.
        labels: Class ids, integers of shape `(...)`; one that names no class gives NaN, and with
            `jaxloss.checks()` an error that says which, unless `where` leaves it out.
        bias: `(vocabulary,)`; -inf makes a class impossible.
        transposed: Whether the weight is `(vocabulary, dim)`, as an embedding table is. Nothing
            is copied. Of a square weight nothing else tells it.
        label_smoothing: The share of each label that is spread evenly over the possible classes;
            for the formula of Megatron-LM see `sharded.softmax_cross_entropy`.
        class_weights: `(vocabulary,)`, how much each class counts.
        softcap: The $c$ that logits stay within.
        z_loss: What to add of the squared log-normalizer, which keeps it near 0.
        temperature: What logits are divided by, after the cap.
        where: Booleans of the labels' shape; False leaves a token out, whatever it holds.
        weights: Weights of the labels' shape; the mean is `sum(w * l) / sum(w)`.
        reduction: "mean", "sum", "parts" (an undivided `Mean`) or "none".
        metrics: Whether to return `Metrics` of each token as well, as `has_aux=True` expects.
        chunk_size: How many tokens to compute at once, or a pair of tokens and classes; by default
            as `plan` chooses. On TPU, for a bfloat16 weight without options, the default is not to
            keep logits: their exponentials are kept in bfloat16, of at most 4 `dim` tokens, and
            the sums are of those in float32.
        policy: "fastest" or "least_memory".
        accumulator_dtype: The dtype in which "fastest" adds up the gradient of the weight over
            chunks of tokens; by default float32. Of a bfloat16 weight, `jnp.bfloat16` holds half as
            much, and rounds with every chunk.
        axis_name: Inside `jax.shard_map`, the mesh axis over which `weight` is split along the
            vocabulary, and `bias` and `class_weights` with it. Devices exchange a few numbers a
            token; labels are ids of the whole vocabulary.
        implementation: "xla", which is described here; or "tokamax", the kernel of that package
            for TPUs, if it is installed: less memory, no options, no forward mode.

    Returns:
        The loss, a scalar in nats unless `reduction` says otherwise; or the pair of it and
        `Metrics`.

    Raises:
        ValueError: If shapes do not fit, an option is out of range, or the weight is not split
            over `axis_name`.
        TypeError: If labels are not integers or `where` is not boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> softmax_cross_entropy(jnp.eye(2), jnp.array([[80.0, 0.0], [0.0, 0.0]]), [0, 1])
        Array(0.3465736, dtype=float32)

    References:
        Hsu et al., *Liger Kernel: Efficient Triton Kernels for LLM Training*, 2024.
        Wijmans et al., *Cut Your Losses in Large-Vocabulary Language Models*, 2024.
        Shoeybi et al., *Megatron-LM* (the vocabulary split over devices), 2019.
    """
    call = Arguments("jaxloss.linear.softmax_cross_entropy", hidden, weight, transposed)
    head = Head(
        call.weight,
        bias=call.per_class("bias", bias),
        class_weights=call.per_class("class_weights", class_weights),
        label_smoothing=call.number("label_smoothing", label_smoothing, off=0),
        softcap=call.number("softcap", softcap, off=None, above=0),
        z_loss=call.number("z_loss", z_loss, off=0),
        temperature=call.number("temperature", temperature, off=1, above=0),
    )
    check_choice(call.fun_name, "implementation", implementation, ("xla", "tokamax"))
    if implementation == "tokamax":
        options = head._asdict() | {"where": where, "weights": weights, "axis_name": axis_name}
        options["accumulator_dtype"] = accumulator_dtype
        _tokamax.check(call.fun_name, options, metrics, reduction)
        return _tokamax.loss(call, call.labels("labels", labels), reduction)
    layer = Layer(transposed, axis_name, metrics)
    accumulator = call.accumulator("accumulator_dtype", accumulator_dtype)
    return _loss(
        call, layer, head, labels, where, weights, reduction, chunk_size, policy, accumulator
    )


def log_probabilities(
    hidden: Any,
    weight: Any,
    labels: ArrayLike,
    *,
    bias: ArrayLike = None,
    transposed: bool = False,
    softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    metrics: bool = False,
    chunk_size: ChunkSize = None,
    policy: Policy = "fastest",
    axis_name: AxisName | None = None,
) -> Any:
    r"""Log-probability of each label under the softmax of a linear layer.

    When to use: losses that need the probability of each token, such as preference losses and
    policy gradients.

    $$\log \mathrm{softmax}(W^\top h + b)_y$$

    One number a token, of which any function may follow: DPO adds up those of an answer, PPO
    compares them with older ones. Cotangents come later, so the logits are computed again for the
    gradients: 4 matrix products. The numbers stay below 0 and exact where the model is confident.

    Args:
        hidden: `(..., dim)`.
        weight: `(dim, vocabulary)`.
        labels: Class ids, integers of shape `(...)`; one that names no class gives NaN.
        bias: `(vocabulary,)`; -inf makes a class impossible.
        transposed: Whether the weight is `(vocabulary, dim)`.
        softcap: What logits stay within.
        temperature: What logits are divided by, after the cap.
        where: Booleans of the labels' shape; the others are 0, with gradient 0.
        metrics: Whether to return `Metrics` of each token as well.
        chunk_size: As in `softmax_cross_entropy`.
        policy: As in `softmax_cross_entropy`.
        axis_name: As in `softmax_cross_entropy`.

    Returns:
        The log-probability of each label, `(...)`; or the pair of it and `Metrics`.

    Raises:
        ValueError: If shapes do not fit or an option is out of range.
        TypeError: If labels are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> log_probabilities(jnp.eye(2), jnp.array([[80.0, 0.0], [0.0, 0.0]]), [0, 1])
        Array([-1.804851e-35, -6.931472e-01], dtype=float32)

    References:
        Rafailov et al., *Direct Preference Optimization*, 2023.
    """
    call = Arguments("jaxloss.linear.log_probabilities", hidden, weight, transposed)
    head = Head(
        call.weight,
        bias=call.per_class("bias", bias),
        softcap=call.number("softcap", softcap, off=None, above=0),
        temperature=call.number("temperature", temperature, off=1, above=0),
    )
    layer = Layer(transposed, axis_name, metrics)
    found = _loss(call, layer, head, labels, where, None, "none", chunk_size, policy)
    return (0 - found[0], found[1]) if metrics else 0 - found  # not -0 for what is certain


def _loss(
    call: Arguments,
    layer: Layer,
    head: Head,
    labels: ArrayLike,
    where: ArrayLike,
    weights: ArrayLike,
    reduction: TypeOfReduction,
    chunk_size: ChunkSize,
    policy: Policy,
    accumulator: np.dtype | None = None,
) -> Any:
    check_choice(call.fun_name, "reduction", reduction, ("none", "mean", "sum", "parts"))
    rows = Rows(call.hidden, call.labels("labels", labels), call.mask("where", where))
    weights = call.per_row("weights", weights)
    is_plain = all(option is None for option in head[1:])  # no other argument takes the cotangent
    layer = layer._replace(to_half=is_plain and head.weight.dtype.itemsize == 2)
    call.check_axis(layer.axis_name)
    call.check_labels(rows.ids, rows.mask, layer.axis_name)
    tiles = call.tiles(layer, chunk_size, policy)._replace(accumulator=accumulator)
    tiles = tiles._replace(is_given=chunk_size is not None)
    if policy == "fastest" and reduction == "none":
        tiles = tiles._replace(block=None)
    engine = _ENGINES[policy]
    result, found = evaluate(engine, tiles, reduction, head, rows, weights)
    result = result.reshape(call.batch) if reduction == "none" else result
    if not layer.metrics:
        return result
    normalizer, predicted, correct = (x.reshape(call.batch) for x in found)
    return result, Metrics(normalizer, predicted.astype(jnp.int32), correct > 0)


class _Chunk(NamedTuple):
    """The rows of a chunk, and what their losses are multiplied by."""

    rows: Rows
    factors: Array

    def counted(self, real: Array | None) -> Array | None:
        """Which rows count; None if all do."""
        masks = [mask for mask in (self.rows.mask, real) if mask is not None]
        return functools.reduce(jnp.logical_and, masks) if masks else None


def _sum_of_chunks(tiles: Tiles, head: Head, rows: Rows, factors: Array) -> tuple[Array, Any]:
    """The sum of the losses times their factors, whose gradients are computed with it."""
    plain = _sum_by(chunk_value_and_grad, tiles)
    stored = None if tiles.is_given else tiles_with_stored_exps(tiles, head, rows)
    if stored is None:
        return plain(head, rows, factors)
    on_tpu = _sum_by(_stored_exps.chunk_value_and_grad, stored)
    return on_each(plain, plain, on_tpu, head, rows, factors)


@functools.lru_cache(maxsize=1024)
def _sum_by(chunk_value_and_grad: Callable[..., Any], tiles: Tiles) -> Callable[..., Any]:
    """One object for each, so that eager calls compile once."""

    def value(head: Head, chunk: _Chunk, real: Array | None) -> tuple[Array, Any]:
        values, aux = chunk_losses(tiles.layer, head, chunk.rows.visible(), chunk.rows.ids)
        return jnp.sum(where_rows(chunk.counted(real), values * chunk.factors)), aux

    def value_and_grad(head: Head, chunk: _Chunk, real: Array | None, wanted: Wanted) -> Any:
        counted = chunk.counted(real)
        factors = where_rows(counted, chunk.factors)
        values, aux, sums, hidden_bar = chunk_value_and_grad(
            tiles, head, chunk.rows.visible(), chunk.rows.ids, factors, wanted.sums
        )
        rows_bar = Rows(where_rows(counted, hidden_bar), *chunk.rows[1:])
        found = _Chunk(rows_bar, where_rows(counted, values))
        return jnp.sum(where_rows(counted, values * factors)), aux, sums, found

    program = ChunkedSum(tiles.rows, value, value_and_grad, tiles.dtype_of_sums)
    return lambda head, rows, factors: sum_chunks(program, head, _Chunk(rows, factors))


_LEAST_MEMORY = Form(row_sums, losses_of)
_ENGINES = {
    "fastest": Engine(row_losses, _sum_of_chunks),
    "least_memory": Engine(row_losses, functools.partial(total_loss, _LEAST_MEMORY)),
}
