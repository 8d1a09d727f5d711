r"""The engine of losses behind a linear layer: logits exist for some rows, or some classes, only.

What a row needs to know of its logits is a few numbers: the top, the sum of the other classes'
exponentials, the label's own logit. They are found block by block of the vocabulary, merged, and,
where the vocabulary lies on several devices, merged across them. The gradient of each logit
follows from the same numbers and the logit itself, so a block may be thrown away and made again.

As on the shelf of classification, the label stays out of the sum: what is left of 1 + tiny when
the model is right is the tiny.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss import numerics
from jaxloss._memory.layout import accumulator_dtype
from jaxloss._memory.mesh import pcast_varying, shards, vma
from jaxloss.numerics._labels import take_label
from jaxloss.numerics._softmax_nll import exp_shifted, nll_from_gap


class Layer(NamedTuple):
    """What is static about a linear layer and its loss.

    Attributes:
        transposed: Whether the weight is `(vocabulary, dim)`.
        keep: Whether the logits of a chunk of rows exist as a whole.
        block: How many classes are computed at once, where it is not all of them.
        axis_name: The mesh axis over which the vocabulary is split, inside `shard_map`.
        metrics: Whether log-normalizers and predictions are wanted.
        smooth: Whether labels are smoothed.
    """

    transposed: bool = False
    keep: bool = True
    block: int | None = None
    axis_name: Any = None
    metrics: bool = False
    smooth: bool = False


# What all rows share, by name; what is not used is left out.
Shared = dict[str, Array]


def classes(layer: Layer, weight: Array) -> int:
    """How many classes the weight has, on this device."""
    return weight.shape[0 if layer.transposed else 1]


def dot(x: Array, y: Array, over: tuple[int, int], like: Array | None = None) -> Array:
    """A product of matrices with the sum in float32; of the sharding of `like` on Explicit axes."""
    explicit = like is not None and any(shards(a, i) > 1 for a in (x, y, like) for i in (0, 1))
    return lax.dot_general(
        x,
        y,
        (((over[0],), (over[1],)), ((), ())),
        preferred_element_type=accumulator_dtype(x.dtype),
        out_sharding=jax.typeof(like).sharding if explicit else None,
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def product(layer: Layer, hidden: Array, weight: Array) -> Array:
    """`hidden @ weight` in float32, whose cotangent is rounded to the dtype of its factors.

    Products of half-precision matrices are what an accelerator is fast at, in this direction too.
    """
    return dot(hidden, weight, (1, 1 if layer.transposed else 0))


@product.defjvp
def _product_jvp(layer: Layer, primals: Any, tangents: Any) -> Any:
    (hidden, weight), over = primals, (1, 1 if layer.transposed else 0)
    dims = (((over[0],), (over[1],)), ((), ()))
    out = product(layer, hidden, weight)
    change = lax.dot_general(tangents[0], weight, dims) + lax.dot_general(hidden, tangents[1], dims)
    return out, change.astype(out.dtype)


@jax.custom_jvp
def _saturated(x: Array) -> Array:
    return jnp.tanh(x)


@_saturated.defjvp
def _saturated_jvp(primals: Any, tangents: Any) -> Any:
    # 1 - tanh^2 is 0 from 9 on; this is not.
    (x,), (x_dot,) = primals, tangents
    exp = jnp.exp(-2 * numerics.absolute(x))
    return _saturated(x), 4 * exp / jnp.square(1 + exp) * x_dot


def scores(raw: Array, shared: Shared) -> Array:
    """Logits from products: bias, soft cap and temperature, in this order."""
    if "bias" in shared:
        raw = raw + shared["bias"].astype(raw.dtype)
    if "softcap" in shared:
        raw = shared["softcap"] * _saturated(raw / shared["softcap"])
    return raw / shared["temperature"] if "temperature" in shared else raw


class Sums(NamedTuple):
    """What a row knows of its logits; each of shape (rows,).

    Attributes:
        top: The largest logit.
        rest: The sum of exp(logit - top) over all classes but the label.
        label: The logit of the label.
        best: The first class of the top, if metrics are wanted.
        gaps: The weighted sum of top - logit over the possible classes, if labels are smoothed.
        weight: The sum of the weights of the possible classes.
        possible: How many classes are possible.
    """

    top: Array
    rest: Array
    label: Array
    best: Any = None
    gaps: Any = None
    weight: Any = None
    possible: Any = None


def _finite(top: Array) -> Array:
    return jnp.where(top == -jnp.inf, 0, top)


@jax.custom_jvp
def _others(x: Array, top: Array, is_label: Array) -> Array:
    """exp(x - top), and 0 at the label: one array that serves the sum and its gradient."""
    return jnp.where(is_label, 0, exp_shifted(x, top))


@_others.defjvp
def _others_jvp(primals: Any, tangents: Any) -> Any:
    out = _others(*primals)
    return out, out * (tangents[0] - tangents[1])


@jax.custom_jvp
def _pick(x: Array, place: Array, is_place: Array) -> Array:
    """The entry of each row at a place; 0 where that is outside."""
    inside = (place >= 0) & (place < x.shape[1])
    return jnp.where(inside, take_label(x, jnp.where(inside, place, 0)), 0)


@_pick.defjvp
def _pick_jvp(primals: Any, tangents: Any) -> Any:
    # Its transpose is a choice, which fuses with what comes next; that of taking is a scatter.
    return _pick(*primals), jnp.sum(jnp.where(primals[2], tangents[0], 0), axis=-1)


@jax.custom_jvp
def _gaps(x: Array, top: Array, weights: Array) -> tuple[Array, ...]:
    """The sums of weight times (top - x), of weights, and of 1 over the possible classes."""
    possible = x > -jnp.inf
    gaps = jnp.where(possible, weights * (top - x), 0)
    return numerics.fused_sums(gaps, jnp.where(possible, weights, 0), possible.astype(x.dtype))


@functools.partial(_gaps.defjvp, symbolic_zeros=True)
def _gaps_jvp(primals: Any, tangents: Any) -> Any:
    # From the logits again: what the sums are made of would be kept, an array each.
    x, top, weights = primals
    out, possible = _gaps(*primals), x > -jnp.inf
    to_gaps, to_weight = jnp.zeros_like(out[0]), jnp.zeros_like(out[1])
    for direction, sign in zip(tangents[:2], (-1, 1), strict=True):
        if not isinstance(direction, SymbolicZero):
            change = jnp.where(possible, sign * weights, 0) * direction
            to_gaps = to_gaps + jnp.sum(change, axis=-1)
    if not isinstance(tangents[2], SymbolicZero):
        gap = top - jnp.maximum(x, jnp.finfo(x.dtype).min)
        to_gaps = to_gaps + jnp.sum(jnp.where(possible, gap, 0) * tangents[2], axis=-1)
        to_weight = to_weight + jnp.sum(jnp.where(possible, tangents[2], 0), axis=-1)
    return out, (to_gaps, to_weight, jnp.zeros_like(out[2]))


def sums_of(
    layer: Layer,
    x: Array,
    place: Array,
    first: Any,
    weights: Array | None,
    top: Array | None = None,
    new: Array | None = None,
) -> Sums:
    """The numbers of a block of classes, relative to its own top or to another.

    Args:
        layer: What is static.
        x: Logits, `(rows, block)`.
        place: Where the labels are in the block; outside it, they are no class of it.
        first: The id of the first class of the block.
        weights: The weights of its classes.
        top: What exponentials are relative to.
        new: Which of its classes count: the others, of logit -inf, were in the block before.
    """
    is_label = place[:, None] == jnp.arange(x.shape[1], dtype=place.dtype)
    if new is not None:
        is_label &= new
        place = jnp.where(new[jnp.clip(place, 0, x.shape[1] - 1)], place, -1)
    if top is None:
        top = lax.stop_gradient(jnp.max(x, axis=-1, initial=-jnp.inf))
    base = _finite(top)[:, None]
    rest = jnp.sum(_others(x, base, is_label), axis=-1)
    label = _pick(x, place, is_label)
    best = gaps = weight = number = None
    if layer.metrics:
        ids = first + jnp.arange(x.shape[1], dtype=place.dtype)
        best = jnp.min(jnp.where(x == top[:, None], ids, jnp.iinfo(ids.dtype).max), axis=-1)
    if layer.smooth:
        every = jnp.ones(x.shape[1:], x.dtype) if weights is None else weights
        gaps, weight, number = _gaps(x, base, every)
    return Sums(top, rest, label, best, gaps, weight, number)


def _rescaled(sums: Sums, top: Array) -> Sums:
    """The same numbers relative to a top that is higher."""
    scale = jnp.where(sums.top == top, 1, jnp.exp(sums.top - _finite(top)))
    gaps = sums.gaps
    if gaps is not None:
        gaps = gaps + jnp.where(sums.weight == 0, 0, sums.weight * (top - _finite(sums.top)))
    return sums._replace(top=top, rest=sums.rest * scale, gaps=gaps)


def merged(sums: Sums, other: Sums) -> Sums:
    top = jnp.maximum(sums.top, other.top)
    best = sums.best
    if best is not None:
        best = jnp.where(sums.top >= other.top, best, other.best)
    left, right = _rescaled(sums, top), _rescaled(other, top)
    added = jax.tree.map(jnp.add, left._replace(best=None), right._replace(best=None))
    return added._replace(top=top, best=best)


def across(sums: Sums, axis_name: Any) -> Sums:
    """The numbers of the whole vocabulary: one collective for each, of one number a row."""
    top = lax.pmax(lax.stop_gradient(sums.top), axis_name)
    best = sums.best
    if best is not None:
        best = lax.pmin(jnp.where(sums.top == top, best, jnp.iinfo(best.dtype).max), axis_name)
    mine = _rescaled(sums, pcast_varying(top, vma(sums.top)))._replace(best=None, top=None)
    return lax.psum(mine, axis_name)._replace(top=top, best=best)


class Labels(NamedTuple):
    """What is known of the labels before any logit.

    Attributes:
        ids: The class of each row.
        first: The first class of this device.
        sound: Whether the id names a class.
        own: The weight of that class, if classes have weights.
    """

    ids: Array
    first: Any
    sound: Array
    own: Array | None


def _values(sums: Sums, labels: Labels, shared: Shared) -> tuple[Array, Array]:
    """The loss of each row, and its log-normalizer."""
    top = _finite(sums.top)
    gap = jnp.where(sums.label == jnp.inf, 0, top - sums.label)
    values, excess = nll_from_gap(sums.rest, gap)
    if labels.own is not None:
        values = labels.own * values
    if sums.gaps is not None:
        smoothing = shared["label_smoothing"]
        count = jnp.maximum(sums.possible, 1).astype(values.dtype)
        spread = (sums.gaps + excess * sums.weight) / count
        values = (1 - smoothing) * values + smoothing * spread
    normalizer = top + excess
    if "z_loss" in shared:
        values = values + shared["z_loss"] * jnp.square(normalizer)
    return values * jnp.where(labels.sound, 1, jnp.nan).astype(values.dtype), normalizer


def labels_of(layer: Layer, size: int, shared: Shared, ids: Array) -> Labels:
    """The labels among the `size` classes of each device."""
    first, total, own = 0, size, None
    if layer.axis_name is not None:
        first = lax.axis_index(layer.axis_name).astype(ids.dtype) * size
        total = size * lax.axis_size(layer.axis_name)
    if "class_weights" in shared:
        here = (ids >= first) & (ids < first + size)
        own = jnp.where(here, shared["class_weights"][jnp.where(here, ids - first, 0)], 0)
        own = own if layer.axis_name is None else lax.psum(own, layer.axis_name)
    return Labels(ids, first, (ids >= 0) & (ids < total), own)


def outcome(layer: Layer, sums: Sums, labels: Labels, shared: Shared) -> tuple[Array, Any]:
    """The loss of each row, and the metrics that are wanted."""
    values, normalizer = _values(sums, labels, shared)
    if not layer.metrics:
        return values, ()
    right = labels.sound & (sums.label == sums.top)
    # As floats, which hold the ids exactly: the zero tangent of an integer knows no mesh axes.
    found = normalizer, sums.best.astype(values.dtype), right.astype(values.dtype)
    return values, lax.stop_gradient(found)


def of_products(layer: Layer, raw: Array, shared: Shared, ids: Array) -> tuple[Array, Any]:
    """The losses of rows whose products with all classes are at hand."""
    labels = labels_of(layer, raw.shape[1], shared, ids)
    x, weights = scores(raw, shared), shared.get("class_weights")
    sums = sums_of(layer, x, ids - labels.first, labels.first, weights)
    sums = sums if layer.axis_name is None else across(sums, layer.axis_name)
    return outcome(layer, sums, labels, shared)
