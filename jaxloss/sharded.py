r"""Losses inside `jax.shard_map`, where each device sees its own shard alone.

Under plain `jit` nothing of this is needed: give arrays with shardings to any loss, to `chunked`
or to `linear`, and the compiler moves what must be moved. These functions are for code that is
written for one device of a mesh: a vocabulary that is split over devices, and contrastive losses
over the batch of all devices. Their values and gradients are those of one device with all data.

`jax.shard_map` must check how values vary over the mesh, which it does unless
`check_vma=False`: that is how JAX knows that a gradient is to be added up over devices. Without
the check the gradients would be too large by the number of devices, so it is refused.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss import numerics
from jaxloss._core.helpers import fraction
from jaxloss._core.namespace import public_names
from jaxloss._core.reduction import TypeOfReduction, reduce
from jaxloss._core.spec import ArrayLike
from jaxloss._memory.mesh import pcast_varying, places_from, require_split, ring_scan, vma
from jaxloss.contrastive._similarities import (
    Masks,
    own_similarity,
    with_derivative_of,
)
from jaxloss.linear._layer import Head, Layer
from jaxloss.linear._online_softmax import losses_of_products
from jaxloss.numerics._double_double import DD
from jaxloss.numerics._labels import is_static_zero
from jaxloss.numerics._online_logsumexp import ExpSum
from jaxloss.numerics._pair_distances import product

__all__ = [
    "clip",
    "info_nce",
    "siglip",
    "softmax_cross_entropy",
]

Strategy = Literal["ring", "gather"]


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis_name: str,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: TypeOfReduction = "none",
) -> Any:
    r"""Softmax cross-entropy of logits whose classes are split over devices.

    When to use: vocabulary parallelism inside `shard_map`: three numbers a token are communicated.

    $$\ell(x, y) = -\log \frac{e^{x_y}}{\sum_k e^{x_k}}, \qquad k \text{ over all devices}$$

    It is `classification.softmax_cross_entropy` on the logits of all devices, as exact, and the
    same on all of them. With the last layer in front of it take
    `linear.softmax_cross_entropy(..., axis_name=)`, which has no logits of all tokens either.

    Two formulas of label smoothing are in use. Here, as in torch, Keras and Optax, the share
    $\epsilon$ of a label is spread over all V classes, that of the label included, which keeps
    $1 - \epsilon + \epsilon / V$. Megatron-LM spreads it over the other V - 1 classes, and the
    label keeps $1 - \epsilon$: for that write `label_smoothing=epsilon * V / (V - 1)`.

    Args:
        logits: `(..., classes of this device)`; devices hold blocks of one size, in order.
        labels: Class ids among all classes, integers of shape `(...)`.
        axis_name: The mesh axis over which classes are split.
        label_smoothing: The share of each label that is spread evenly over the possible classes
            of all devices.
        where: Booleans of the labels' shape; False leaves an example out, whatever it holds.
        weights: Weights of the labels' shape.
        reduction: Over the examples of this device: "none", "mean", "sum" or "parts", whose
            `Mean` crosses the axes of the batch with `.psum`.

    Returns:
        The loss of each example in nats; NaN if a class id names no class of any device.

    Raises:
        ValueError: If the logits are not split over the axis, labels do not fit, or
            `label_smoothing` is not between 0 and 1.
        TypeError: If labels are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> loss = lambda x, y: softmax_cross_entropy(x, y, axis_name="model")
        >>> split = jax.shard_map(loss, mesh=mesh, in_specs=(P(None, "model"), P()), out_specs=P())
        >>> split(jnp.array([[0.0, 0.0], [80.0, 0.0]]), jnp.array([1, 0]))
        Array([6.931472e-01, 1.804851e-35], dtype=float32)

    References:
        Shoeybi et al., *Megatron-LM: Training Multi-Billion Parameter Language Models*, 2019.
    """
    fun_name = "jaxloss.sharded.softmax_cross_entropy"
    logits, labels = _floats(fun_name, "logits", logits), jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{fun_name}: `labels` is {labels.dtype}, expected integers.")
    if labels.shape != logits.shape[:-1]:
        message = f"{fun_name}: `labels` has shape {labels.shape}, expected {logits.shape[:-1]}."
        raise ValueError(message)
    require_split(fun_name, "logits", logits, axis_name)
    if where is not None:
        logits, labels = jnp.where(where[..., None], logits, 0), jnp.where(where, labels, 0)
    layer = Layer(axis_name=axis_name)
    rows = logits.reshape(-1, logits.shape[-1])
    # The logits take the place of the weight, of which only the number of classes is read.
    head = Head(rows, label_smoothing=_smoothing(fun_name, label_smoothing, rows.dtype))
    values, _ = losses_of_products(layer, head, labels.reshape(-1), rows)
    return reduce(values.reshape(labels.shape), where, weights, reduction)


def info_nce(
    query: ArrayLike,
    key: ArrayLike,
    *,
    axis_name: str,
    temperature: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: TypeOfReduction = "mean",
    strategy: Strategy = "ring",
) -> Any:
    r"""InfoNCE over the set of all devices: `contrastive.info_nce` on a mesh.

    When to use: contrastive training with the keys of all devices as negatives, inside `shard_map`.

    $$\ell_i = -\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}, \qquad j \text{ over all devices}$$

    Args:
        query: `(set of this device, dim)`.
        key: `(set of this device, dim)`.
        axis_name: The mesh axis over which the set is split.
        temperature: How sharp the choice is; it may be learned.
        where: Booleans of this device's set; False takes a query and its key out of the whole set.
        weights: Weights of this device's set.
        reduction: Over all devices: "mean", "sum" and "parts" are the same on all of them; "none"
            gives the losses of this device.
        strategy: "ring" passes the keys on from device to device, and holds one shard; "gather" has
            all keys on every device, in one collective.

    Returns:
        The loss in nats.

    Raises:
        ValueError: If the arrays are not split over the axis, or their shapes differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> loss = lambda q, k: info_nce(q, k, axis_name="data", temperature=1.0)
        >>> jax.shard_map(loss, mesh=mesh, in_specs=P("data"), out_specs=P())(*2 * [jnp.eye(2)])
        Array(0.3132617, dtype=float32)

    References:
        van den Oord et al., *Representation Learning with Contrastive Predictive Coding*, 2018.
    """
    pair = _Pair("jaxloss.sharded.info_nce", query, key, where, axis_name, strategy)
    rows, _ = _nlls(pair, temperature)
    return pair.reduced(rows, weights, reduction)


def clip(
    left: ArrayLike,
    right: ArrayLike,
    *,
    axis_name: str,
    temperature: ArrayLike = 0.07,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: TypeOfReduction = "mean",
    strategy: Strategy = "ring",
) -> Any:
    r"""CLIP loss over the batch of all devices: `contrastive.clip` on a mesh.

    When to use: aligning two modalities with a batch that is split over devices, inside
    `shard_map`.

    $$\ell_i = -\tfrac12 \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
      -\tfrac12 \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}}, \qquad j \text{ over all devices}$$

    Args:
        left: `(set of this device, dim)`.
        right: `(set of this device, dim)`.
        axis_name: The mesh axis over which the set is split.
        temperature: How sharp the choice is; it may be learned.
        where: Booleans of this device's set; False takes a pair out of the whole set.
        weights: Weights of this device's set.
        reduction: As in `info_nce`.
        strategy: "ring" or "gather", as in `info_nce`.

    Returns:
        The loss in nats.

    Raises:
        ValueError: If the arrays are not split over the axis, or their shapes differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> loss = lambda x, z: clip(x, z, axis_name="data", temperature=1.0)
        >>> jax.shard_map(loss, mesh=mesh, in_specs=P("data"), out_specs=P())(*2 * [jnp.eye(2)])
        Array(0.3132617, dtype=float32)

    References:
        Radford et al., *Learning Transferable Visual Models* (CLIP), 2021.
        Cheng et al., *Breaking the Memory Barrier of Contrastive Loss* (the ring), 2024.
    """
    pair = _Pair("jaxloss.sharded.clip", left, right, where, axis_name, strategy)
    rows, columns = _nlls(pair, temperature)
    return pair.reduced(0.5 * (rows + columns), weights, reduction)


def siglip(
    left: ArrayLike,
    right: ArrayLike,
    *,
    axis_name: str,
    temperature: ArrayLike = 0.1,
    bias: ArrayLike = -10.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: TypeOfReduction = "mean",
    strategy: Strategy = "ring",
) -> Any:
    r"""SigLIP loss over the batch of all devices: `contrastive.siglip` on a mesh.

    When to use: as `clip`, with independent decisions for all pairs, inside `shard_map`.

    $$\ell_i = \log(1 + e^{-z_{ii}}) + \sum_{j \neq i} \log(1 + e^{z_{ij}}), \qquad
      j \text{ over all devices}$$

    Args:
        left: `(set of this device, dim)`.
        right: `(set of this device, dim)`.
        axis_name: The mesh axis over which the set is split.
        temperature: What cosines are divided by; it may be learned.
        bias: What is added to every logit; it may be learned.
        where: Booleans of this device's set; False takes a pair out of the whole set.
        weights: Weights of this device's set.
        reduction: As in `info_nce`.
        strategy: "ring" or "gather", as in `info_nce`.

    Returns:
        The loss in nats.

    Raises:
        ValueError: If the arrays are not split over the axis, or their shapes differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> loss = lambda x, z: siglip(x, z, axis_name="data", temperature=1.0, bias=0.0)
        >>> jax.shard_map(loss, mesh=mesh, in_specs=P("data"), out_specs=P())(*2 * [jnp.eye(2)])
        Array(1.0064089, dtype=float32)

    References:
        Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, 2023.
    """
    pair = _Pair("jaxloss.sharded.siglip", left, right, where, axis_name, strategy)
    scaled, bias = pair.left / temperature, jnp.asarray(bias, pair.left.dtype)

    def tile(state: Any, carry: Any, owner: Any, constants: Any) -> Any:
        x, mine, bias = constants
        entries, masks = pair.block(x, mine, carry, owner)
        costs = jnp.sum(jnp.where(masks.others, numerics.softplus(entries + bias), 0), axis=1)
        on_diagonal, values = state
        state = on_diagonal + masks.diagonal(entries), values + costs
        return state, carry

    nothing = lax.full_like(scaled[:, 0], 0)
    constants = (scaled, pair.inside, pcast_varying(bias, vma(scaled)))
    (on_diagonal, values), _ = pair.ring_scan(tile, (nothing, nothing), (), constants)
    own = pair.own_similarity(temperature, on_diagonal)
    matches = numerics.softplus(-(own + bias).renormalized().hi)
    return pair.reduced(matches + values, weights, reduction)


def _smoothing(fun_name: str, given: ArrayLike, dtype: Any) -> Array | None:
    """The share of the labels that is spread; None if it is the number 0."""
    if is_static_zero(given):
        return None
    x = fraction(fun_name, "label_smoothing", given).astype(dtype)
    if x.ndim:
        message = f"{fun_name}: `label_smoothing` has shape {x.shape}, expected a scalar."
        raise ValueError(message)
    return x


def _floats(fun_name: str, name: str, given: ArrayLike) -> Array:
    x = jnp.asarray(given)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{fun_name}: `{name}` is {x.dtype}, expected real numbers.")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class _Pair:
    """Two halves of a set that is split over devices, and how a device meets all of the right."""

    def __init__(
        self,
        fun_name: str,
        left: ArrayLike,
        right: ArrayLike,
        where: ArrayLike,
        axis_name: str,
        strategy: Strategy,
    ):
        left, right = _floats(fun_name, "left", left), _floats(fun_name, "right", right)
        if left.ndim != 2 or left.shape != right.shape:
            message = (
                f"{fun_name}: the arrays have shapes {left.shape} and {right.shape}, expected one."
            )
            raise ValueError(f"{message} Both are (set of this device, dim).")
        if strategy not in ("ring", "gather"):
            raise ValueError(
                f"{fun_name}: `strategy` is {strategy!r}, expected 'ring' or 'gather'."
            )
        require_split(fun_name, "left", left, axis_name)
        require_split(fun_name, "right", right, axis_name)
        self.where, self.axis_name, self.strategy = where, axis_name, strategy
        if where is not None:
            left, right = (jnp.where(where[:, None], x, 0) for x in (left, right))
        self.given = left, right
        self.left, self.right = numerics.normalize(left), numerics.normalize(right)
        inside = jnp.ones_like(self.left[:, 0], bool)
        self.inside = inside if where is None else inside & where

    def own_similarity(self, temperature: Array | float, on_diagonal: Array) -> DD:
        """The similarity of each pair, with the derivative of its entry on the diagonal."""
        own = own_similarity(*self.given, temperature)
        return own._replace(hi=with_derivative_of(on_diagonal, own.hi))

    def block(self, x: Array, mine: Array, carry: Any, owner: Any) -> tuple[Array, Masks]:
        """The square of this device's left and another's right."""
        y, inside = carry[:2]
        places = places_from(owner, self.left.shape[0], self.axis_name)
        return product(x, y), Masks.of_rows(places, y, mine, inside)

    def ring_scan(self, tile: Callable[..., Any], start: Any, extra: Any, constants: Any) -> Any:
        """Each device visits every shard, as in `jaxloss._memory.mesh.ring_scan`."""
        carry = (self.right, self.inside, *extra)
        if self.strategy == "gather":
            every = lax.all_gather(carry, self.axis_name, tiled=True)
            tile = jax.checkpoint(tile, prevent_cse=False)
            return tile(start, every, 0, constants)[0], ()
        state, carry = ring_scan(tile, start, carry, constants, self.axis_name)
        return state, carry[2:]

    def reduced(self, values: Array, weights: ArrayLike, reduction: TypeOfReduction) -> Any:
        """The losses of this device, or of all devices as one number."""
        if reduction == "none":
            return reduce(values, self.where, weights, "none")
        parts = reduce(values, self.where, weights, "parts").psum(self.axis_name)
        return {"parts": parts, "sum": parts.total, "mean": parts.value}[reduction]


def _at_own(pair: _Pair, x: Array, y: Array) -> tuple[Array, ExpSum]:
    """What each row of x has at its own place among the y of all devices, and elsewhere."""
    every, inside = lax.all_gather((y, pair.inside), pair.axis_name, tiled=True)
    entries, masks = pair.block(x, pair.inside, (every, inside), 0)
    return masks.diagonal(entries), masks.sum_of_others(entries, axis=-1)


def _nlls(pair: _Pair, temperature: Array | float) -> tuple[Array, Array]:
    """The negative log-probability of each entry of the diagonal in its row and in its column."""
    x = pair.left / temperature
    on_diagonal, rows, columns = (_gathered if pair.strategy == "gather" else _in_a_ring)(pair, x)
    own = pair.own_similarity(temperature, on_diagonal)
    return rows.nll(own), columns.nll(own)


def _gathered(pair: _Pair, x: Array) -> tuple[Array, ExpSum, ExpSum]:
    on_diagonal, rows = _at_own(pair, x, pair.right)
    return on_diagonal, rows, _at_own(pair, pair.right, x)[1]


def _in_a_ring(pair: _Pair, x: Array) -> tuple[Array, ExpSum, ExpSum]:
    def tile(state: Any, carry: Any, owner: Any, constants: Any) -> Any:
        (on_diagonal, of_rows), (x, mine) = state, constants
        y, inside, of_columns = carry
        entries, masks = pair.block(x, mine, (y, inside), owner)
        state = (
            on_diagonal + masks.diagonal(entries),
            of_rows.merge(masks.sum_of_others(entries, axis=1)),
        )
        return state, (y, inside, of_columns.merge(masks.sum_of_others(entries, axis=0)))

    nothing = lax.full_like(x[:, 0], 0)
    empty = ExpSum.over_nothing(nothing)
    (on_diagonal, of_rows), (of_columns,) = pair.ring_scan(
        tile, (nothing, empty), (empty,), (x, pair.inside)
    )
    return on_diagonal, of_rows, of_columns


__getattr__, __dir__ = public_names(__name__, __all__)
