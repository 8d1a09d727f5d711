r"""The cross-entropy of a linear layer, whose logits never exist as a whole."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.reduction import Mean, TypeOfReduction, reduce, total_weight
from jaxloss._memory.chunk_map import map_chunks
from jaxloss._memory.chunk_sum import ChunkedSum, Slopes, sum_chunks
from jaxloss._memory.layout import accumulator_dtype
from jaxloss._memory.mesh import pcast_varying, vma
from jaxloss.linear import _tokamax
from jaxloss.linear._arguments import Arguments, Chunk, Policy
from jaxloss.linear._blocked import losses, slopes
from jaxloss.linear._online_softmax import Layer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """What is known of each row besides its loss; no gradient passes it.

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
    labels: Any,
    *,
    bias: Any = None,
    transposed: bool = False,
    label_smoothing: Any = 0.0,
    class_weights: Any = None,
    softcap: Any = None,
    z_loss: Any = 0.0,
    temperature: Any = 1.0,
    where: Any = None,
    weights: Any = None,
    reduction: TypeOfReduction = "mean",
    metrics: bool = False,
    chunk_size: Chunk = None,
    policy: Policy = "fastest",
    axis_name: Any = None,
    implementation: Literal["xla", "tokamax", "auto"] = "xla",
) -> Any:
    r"""Take it for the last layer of a language model: the loss without an array of all logits.

    $$\ell(h, y) = -\log \frac{e^{z_y}}{\sum_k e^{z_k}}, \qquad
      z = \frac{1}{T}\, c \tanh\frac{W^\top h + b}{c}$$

    It is `classification.softmax_cross_entropy(hidden @ weight, labels)`, in value and gradient,
    and as exact: logits, sums and gradients are float32 for half-precision inputs too. "fastest"
    computes the logits of some tokens, their loss and their gradients in one go: 3 matrix products,
    2 if the layer is frozen. "least_memory" computes the logits twice, a block of the vocabulary
    at a time: 4 products. With `reduction="none"` the cotangents come later: 4 products as well.
    For second derivatives take `jvp` of `grad`, which stays in chunks.

    Args:
        hidden: `(..., dim)`.
        weight: `(dim, vocabulary)`.
        labels: Class ids, integers of shape `(...)`; one that names no class gives NaN.
        bias: `(vocabulary,)`; -inf makes a class impossible.
        transposed: Whether the weight is `(vocabulary, dim)`, as an embedding table is. Nothing
            is copied.
        label_smoothing: The share of each label that is spread evenly over the possible classes.
        class_weights: `(vocabulary,)`, how much each class counts.
        softcap: The $c$ that logits stay within.
        z_loss: What to add of the squared log-normalizer, which keeps it near 0.
        temperature: What logits are divided by, after the cap.
        where: Booleans of the labels' shape; False leaves a token out, whatever it holds.
        weights: Weights of the labels' shape; the mean is `sum(w * l) / sum(w)`.
        reduction: "mean", "sum", "parts" (an undivided `Mean`) or "none".
        metrics: Whether to return `Metrics` of each token as well, as `has_aux=True` expects.
        chunk_size: How many tokens to compute at once, or a pair of tokens and classes; chosen as
            `plan` says if not given.
        policy: "fastest" or "least_memory".
        axis_name: Inside `jax.shard_map`, the mesh axis over which `weight` is split along the
            vocabulary, and `bias` and `class_weights` with it. Devices exchange a few numbers a
            token; labels are ids of the whole vocabulary.
        implementation: "xla", which is described here; "tokamax", the kernel of that package for
            TPUs, if it is installed: less memory, no options, no forward mode; "auto", the latter
            where it can be taken. What keeps it from being taken is in the error of "tokamax".

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
    options = {
        "bias": call.a_class("bias", bias),
        "class_weights": call.a_class("class_weights", class_weights),
        "label_smoothing": call.number("label_smoothing", label_smoothing, off=0),
        "softcap": call.number("softcap", softcap, off=None, least=0),
        "z_loss": call.number("z_loss", z_loss, off=0),
        "temperature": call.number("temperature", temperature, off=1, least=0),
    }
    words = where, weights, reduction, metrics
    call.choose("implementation", implementation, ("xla", "tokamax", "auto"))
    if implementation != "xla":
        reason = _tokamax.why_not(call, options, words, axis_name)
        if not reason:
            return _tokamax.loss(call, call.a_row("labels", labels, "integers"), reduction)
        if implementation == "tokamax":
            message = f"{call.name}: tokamax cannot take this loss: {reason}."
            raise ValueError(f'{message} Write `implementation="auto"` to take it where it can.')
    return _evaluate(call, labels, options, words, chunk_size, policy, axis_name)


def log_probabilities(
    hidden: Any,
    weight: Any,
    labels: Any,
    *,
    bias: Any = None,
    transposed: bool = False,
    softcap: Any = None,
    temperature: Any = 1.0,
    where: Any = None,
    metrics: bool = False,
    chunk_size: Chunk = None,
    policy: Policy = "fastest",
    axis_name: Any = None,
) -> Any:
    r"""Take it where a loss needs the probability of each token: preferences, policy gradients.

    $$\log \mathrm{softmax}(W^\top h + b)_y$$

    One number a token, of which any function may follow: DPO adds up those of an answer, PPO
    compares them with older ones. Cotangents come later, so the logits are computed again for the
    gradients: 4 matrix products. They stay below 0 and exact where the model is sure.

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
    options = {
        "bias": call.a_class("bias", bias),
        "softcap": call.number("softcap", softcap, off=None, least=0),
        "temperature": call.number("temperature", temperature, off=1, least=0),
    }
    words = where, None, "none", metrics
    found = _evaluate(call, labels, options, words, chunk_size, policy, axis_name)
    return (0 - found[0], found[1]) if metrics else 0 - found  # not -0 for what is certain


def _evaluate(
    call: Arguments,
    labels: Any,
    options: dict[str, Array | None],
    words: tuple[Any, Any, TypeOfReduction, bool],
    chunk_size: Chunk,
    policy: Policy,
    axis_name: Any,
) -> Any:
    where, weights, reduction, metrics = words
    call.choose("reduction", reduction, ("none", "mean", "sum", "parts"))
    ids = call.a_row("labels", labels, "integers")
    where, weights = call.a_row("where", where, "booleans"), call.a_row("weights", weights, "")
    call.on_axis(axis_name)
    shared = {"weight": call.weight} | {n: x for n, x in options.items() if x is not None}
    smooth = "label_smoothing" in shared
    layer = Layer(call.transposed, axis_name=axis_name, metrics=metrics, smooth=smooth)
    how, layer = call.split(layer, chunk_size, policy)

    if where is not None and weights is not None:
        weights = jnp.where(where, weights, 0)
    mask = jnp.ones(call.rows, bool) if where is None and how.padding else where
    rows = {"hidden": call.hidden, "ids": ids, "mask": mask, "factors": weights}
    rows = {name: x for name, x in rows.items() if x is not None}
    weight_of_mean = total_weight((call.rows,), where, weights, call.dtype)
    if reduction == "mean":
        # Inside the loop, so that the gradients come out of it as they are to be returned.
        shared["scale"] = 1 / jnp.where(weight_of_mean == 0, 1, weight_of_mean)
    shared, rows = _on_axes(shared, rows, axis_name)
    if reduction == "none":
        result, found = _each(layer, how, shared, rows)
        result = result.reshape(call.batch)
    else:
        result, found = _sum(layer, how, shared, rows)
    if reduction == "parts":
        result = Mean(result, weight_of_mean)
    if not metrics:
        return result
    normalizer, predicted, correct = (x.reshape(call.batch) for x in found)
    return result, Metrics(normalizer, predicted.astype(jnp.int32), correct > 0)


def _on_axes(shared: dict[str, Array], rows: dict[str, Array], axis_name: Any) -> Any:
    """Marks what differs between the devices of a mesh, before the loop.

    Over the axis of the vocabulary only that differs from which a device makes its logits: its
    gradient is a part of the whole. What follows the sums over all classes is the same everywhere.
    """
    local = {"hidden", "weight", "bias", "class_weights", "temperature", "softcap"}
    axes = frozenset().union(*(vma(x) for x in (*shared.values(), *rows.values())))
    names = {axis_name} if isinstance(axis_name, str) else {*(axis_name or ())}

    def marked(tree: dict[str, Array]) -> dict[str, Array]:
        return {n: pcast_varying(x, axes if n in local else axes - names) for n, x in tree.items()}

    return marked(shared), marked(rows)


def _hidden_and_ids(rows: dict[str, Array]) -> tuple[Array, Array]:
    """What a chunk holds where it counts, and zeros elsewhere."""
    mask = rows.get("mask")
    if mask is None:
        return rows["hidden"], rows["ids"]
    hidden = jnp.where(mask[:, None], rows["hidden"], jnp.zeros((), rows["hidden"].dtype))
    return hidden, jnp.where(mask, rows["ids"], 0)


def _each(layer: Layer, how: Any, shared: dict[str, Array], rows: dict[str, Array]) -> Any:
    """The loss of each row, to be differentiated with cotangents that come later."""
    names, row_names = list(shared), list(rows)

    def of_chunk(leaves: Any, row_leaves: Any) -> Any:
        chunk_size = dict(zip(row_names, row_leaves, strict=True))
        every = dict(zip(names, leaves, strict=True))
        values, aux = losses(layer, every, *_hidden_and_ids(chunk_size))
        return reduce(values, chunk_size.get("mask"), chunk_size.get("factors"), "none"), aux

    return map_chunks(of_chunk, how, list(shared.values()), list(rows.values()))


def _sum(layer: Layer, how: Any, shared: dict[str, Array], rows: dict[str, Array]) -> Any:
    """The sum of the losses, whose gradients are computed with it."""
    names, row_names = list(shared), list(rows)

    def term(leaves: Any, row_leaves: Any) -> Any:
        chunk_size = dict(zip(row_names, row_leaves, strict=True))
        every = dict(zip(names, leaves, strict=True))
        values, aux = losses(layer, every, *_hidden_and_ids(chunk_size))
        value = reduce(values, chunk_size.get("mask"), chunk_size.get("factors"), "sum")
        return every.get("scale", 1) * value, aux

    def with_slopes(_: Any, leaves: Any, row_leaves: Any, wanted: Slopes) -> Any:
        chunk_size = dict(zip(row_names, row_leaves, strict=True))
        mask, factors = chunk_size.get("mask"), chunk_size.get("factors")
        sums = {n: s for n, s in zip(names, wanted.shared, strict=True) if s is not None}
        hidden, ids = _hidden_and_ids(chunk_size)
        counts = jnp.ones_like(ids, accumulator_dtype(hidden.dtype)) if factors is None else factors
        counts = counts if mask is None else jnp.where(mask, counts, 0)
        every = dict(zip(names, leaves, strict=True))
        scale = every.get("scale", 1)
        to_scale = sums.pop("scale", None)
        values, aux, sums, to_hidden = slopes(layer, every, hidden, ids, scale * counts, sums)
        if mask is not None:
            to_hidden = jnp.where(mask[:, None], to_hidden, 0)
        value = reduce(values, mask, factors, "sum")
        if to_scale is not None:
            sums["scale"] = to_scale + value
        to_rows = {"hidden": to_hidden, "factors": scale * reduce(values, mask, None, "none")}
        found = [to_rows.get(name) for name in row_names]
        return scale * value, aux, [sums.get(name) for name in names], found

    return sum_chunks(
        ChunkedSum(term, how, with_slopes), list(shared.values()), list(rows.values())
    )
