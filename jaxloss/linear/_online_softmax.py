r"""The logits of a linear layer and their sums, for some rows and some classes at a time.

The loss of a row depends on a few numbers: the largest logit, the sum of the other classes'
exponentials, the label's own logit. They are computed block by block of the vocabulary, merged,
and, if the vocabulary lies on several devices, merged over those. The gradient of a logit depends
on the same numbers and on the logit itself, so a block of logits can be discarded and computed
again.

The label is left out of the sum, as in `numerics._softmax_nll`: of 1 + tiny, a confident correct
prediction, the tiny is what counts.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float, Int

from jaxloss import numerics
from jaxloss._core.typing import AxisName
from jaxloss._memory.layout import accumulator_dtype
from jaxloss._memory.mesh import shards
from jaxloss.linear._layer import Head, Labels, Layer, labels_of
from jaxloss.numerics._labels import take_label
from jaxloss.numerics._online_logsumexp import ExpSum, finite_top
from jaxloss.numerics._softmax_nll import nll_from_gap
from jaxloss.numerics._vectors import power_of_two_near

# --- products ------------------------------------------------------------------------------------


def dot(x: Array, y: Array, over: tuple[int, int], like: Array | None = None) -> Array:
    """The product of two matrices, summed in float32, sharded as `like` on Explicit axes."""
    return lax.dot_general(
        x,
        y,
        (((over[0],), (over[1],)), ((), ())),
        preferred_element_type=accumulator_dtype(x.dtype),
        out_sharding=_explicit_sharding(x, y, like),
    )


def _explicit_sharding(x: Array, y: Array, like: Array | None) -> Any:
    explicit = like is not None and any(shards(a, i) > 1 for a in (x, y, like) for i in (0, 1))
    return jax.typeof(like).sharding if explicit else None


def rounded_dot(x: Array, y: Array, over: tuple[int, int], like: Array | None = None) -> Array:
    """`dot` with a cotangent in float32, which is rounded to the dtype of the other factor.

    The product of half-precision matrices is the one that accelerators are fast at. In float16
    the cotangents of a large vocabulary would vanish: they are divided by a power of 2.
    """
    if jnp.float16 in (x.dtype, y.dtype):
        return _scaled_dot(over, _explicit_sharding(x, y, like), x, y)
    dtype = min(x.dtype, y.dtype, key=lambda dtype: jnp.finfo(dtype).bits)
    return dot(x.astype(dtype), y.astype(dtype), over, like)


def _mixed_dot(over: tuple[int, int], out_sharding: Any, x: Array, y: Array) -> Array:
    return lax.dot_general(
        x,
        y,
        (((over[0],), (over[1],)), ((), ())),
        preferred_element_type=jnp.float32,
        out_sharding=out_sharding,
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _scaled_dot(over: tuple[int, int], out_sharding: Any, x: Array, y: Array) -> Array:
    total = jnp.ones((), jnp.float32)
    factors = []
    for factor in (x, y):
        if factor.dtype != jnp.float16:
            # Near 2^6 the largest entry leaves 20 binary places below it to the others.
            unit = power_of_two_near(jnp.max(jnp.abs(factor), initial=0)) / 64
            total, factor = total * unit, (factor / unit).astype(jnp.float16)
        factors.append(factor)
    return total * _mixed_dot(over, out_sharding, *factors)


@_scaled_dot.defjvp
def _scaled_dot_jvp(
    over: Any, out_sharding: Any, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> Any:
    # Not elementwise. The tangents are not rounded: rounding to a scale cannot be transposed.
    (x, y), (x_dot, y_dot) = primals, tangents
    both = functools.partial(_mixed_dot, over, out_sharding)
    return _scaled_dot(over, out_sharding, x, y), both(x_dot, y) + both(x, y_dot)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def product(layer: Layer, hidden: Array, weight: Array) -> Array:
    """`hidden @ weight` in float32, whose cotangent is rounded to bfloat16 if its factors are."""
    return dot(hidden, weight, (1, 1 - layer.class_axis))


@product.defjvp
def _product_jvp(
    layer: Layer, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    # Not elementwise. In float16 a cotangent could vanish, so the transpose keeps float32.
    (hidden, weight), (hidden_dot, weight_dot) = primals, tangents
    dims = (((1,), (1 - layer.class_axis,)), ((), ()))
    out = product(layer, hidden, weight)
    dtype = jnp.float32 if out.dtype != hidden.dtype == jnp.float16 else None
    both = functools.partial(lax.dot_general, dimension_numbers=dims, preferred_element_type=dtype)
    return out, (both(hidden_dot, weight) + both(hidden, weight_dot)).astype(out.dtype)


@jax.custom_jvp
def _tanh(x: Array) -> Array:
    return jnp.tanh(x)


@_tanh.defjvp
def _tanh_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # 1 - tanh^2 is 0 from 9 on in float32; this is not.
    (x,), (x_dot,) = primals, tangents
    exp = jnp.exp(-2 * numerics.absolute(x))
    return _tanh(x), 4 * exp / jnp.square(1 + exp) * x_dot


def logits_of(head: Head, raw: Array) -> Array:
    """Logits from products: bias, soft cap and temperature, in this order."""
    if head.bias is not None:
        raw = raw + head.bias.astype(raw.dtype)[None, :]
    if head.softcap is not None:
        raw = head.softcap * _tanh(raw / head.softcap)
    return raw if head.temperature is None else raw / head.temperature


# --- the sums of a row ---------------------------------------------------------------------------


class Smoothing(NamedTuple):
    """The sums of label smoothing over the possible classes; each of shape (rows,).

    Attributes:
        gaps: The weighted sum of top - logit.
        weight: The sum of the weights.
        possible: The number of classes.
    """

    gaps: Array
    weight: Array
    possible: Array


class RowSums(NamedTuple):
    """The numbers of a row from which its loss is computed; each of shape (rows,).

    Attributes:
        others: The sum of the exponentials of all classes but the label.
        label: The logit of the label; 0 as long as it has not been seen.
        smoothing: The sums of label smoothing, or None.
        best: The first class of the largest logit, or None. It is a float, which holds the id
            exactly: the zero tangent of an integer has no mesh axes.
    """

    others: ExpSum
    label: Array
    smoothing: Smoothing | None = None
    best: Array | None = None

    def smoothing_relative_to(self, top: Array) -> Smoothing | None:
        """The sums of label smoothing relative to a top that is not smaller."""
        if self.smoothing is None:
            return None
        gaps, weight, possible = self.smoothing
        more = weight * (top - finite_top(self.others.top))
        return Smoothing(gaps + jnp.where(weight == 0, 0, more), weight, possible)

    def merge(self, other: "RowSums") -> "RowSums":
        """The numbers of the classes of both."""
        others = self.others.merge(other.others)
        smoothing = jax.tree.map(
            jnp.add,
            self.smoothing_relative_to(others.top),
            other.smoothing_relative_to(others.top),
        )
        best = None
        if self.best is not None:
            best = jnp.where(self.others.top >= other.others.top, self.best, other.best)  # type: ignore  # not None here
        return RowSums(others, self.label + other.label, smoothing, best)

    def psum(self, axis_name: AxisName) -> "RowSums":
        """The numbers of the whole vocabulary: one collective for each, of one number a row."""
        others = self.others.psum(axis_name)
        best = self.best
        if best is not None:
            local = self.others.top == others.top
            best = lax.pmin(jnp.where(local, best, jnp.inf), axis_name)
        label, smoothing = lax.psum((self.label, self.smoothing_relative_to(others.top)), axis_name)
        return RowSums(others, label, smoothing, best)

    def anchored(self) -> Array:
        """What the second pass needs: the tops."""
        return self.others.top

    def variables(self) -> "RowSums":
        """What derivatives are taken of: the sums, without the top and the ids."""
        return self._replace(others=self.others.rest, best=None)

    def with_variables(self, variables: "RowSums") -> "RowSums":
        """The inverse of `variables`."""
        return variables._replace(others=ExpSum(self.others.top, variables.others), best=self.best)  # type: ignore[arg-type]

    def tangents(self, found: "RowSums", zeros: "RowSums") -> "RowSums":
        """The tangents of the sums, from those of the variables."""
        others = zeros.others._replace(rest=found.others)
        return found._replace(others=others, best=zeros.best)


@jax.custom_jvp
def pick(x: Array, place: Array, is_place: Array) -> Array:  # noqa: ARG001  # see its rule
    """The entry of each row at a place; 0 if the place is negative."""
    return jnp.where(place < 0, 0, take_label(x, jnp.maximum(place, 0)))


@pick.defjvp
def _pick_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # The transpose is a choice, which fuses with what follows; that of a gather is a scatter.
    return pick(*primals), jnp.sum(jnp.where(primals[2], tangents[0], 0), axis=-1)


@jax.custom_jvp
def _smoothing_sums(x: Array, top: Array, weights: Array) -> Smoothing:
    possible = x > -jnp.inf
    gaps = jnp.where(possible, weights * (top - jnp.where(possible, x, top)), 0)
    return Smoothing(
        *numerics.fused_sums(gaps, jnp.where(possible, weights, 0), possible.astype(x.dtype))
    )


@functools.partial(_smoothing_sums.defjvp, symbolic_zeros=True)
def _smoothing_sums_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Smoothing, Smoothing]:
    # From the logits again: the terms of the sums would be kept, an array each.
    x, top, weights = primals
    out, possible = _smoothing_sums(*primals), x > -jnp.inf
    gaps_dot, weight_dot = jnp.zeros_like(out.gaps), jnp.zeros_like(out.weight)
    for direction, sign in zip(tangents[:2], (-1, 1), strict=True):
        if not isinstance(direction, SymbolicZero):
            change = jnp.where(possible, sign * weights, 0) * direction
            gaps_dot = gaps_dot + jnp.sum(change, axis=-1)
    if not isinstance(tangents[2], SymbolicZero):
        gap = top - jnp.where(possible, x, top)
        gaps_dot = gaps_dot + jnp.sum(gap * tangents[2], axis=-1)
        weight_dot = weight_dot + jnp.sum(jnp.where(possible, tangents[2], 0), axis=-1)
    return out, Smoothing(gaps_dot, weight_dot, jnp.zeros_like(out.possible))


class Classes(NamedTuple):
    """The classes of a block of logits.

    Attributes:
        ids: Their ids among the classes of all devices.
        place: The place of each row's label among them, -1 if it is not there.
        is_new: Which of them count; the others were in the block before. None if all count.
    """

    ids: Int[Array, " classes"]
    place: Int[Array, " rows"]
    is_new: Bool[Array, " classes"] | None


def sums_of_block(
    layer: Layer,
    head: Head,
    raw: Float[Array, "rows classes"],
    classes: Classes,
    top: Array | None = None,
) -> RowSums:
    """The sums of a block of classes, relative to the largest logit in it or to a given top."""
    x = logits_of(head, raw)
    if classes.is_new is not None:
        x = jnp.where(classes.is_new[None, :], x, -jnp.inf)
    places = jnp.arange(x.shape[1], dtype=classes.place.dtype)
    is_label = classes.place[:, None] == places[None, :]
    others = ExpSum.of(x, ~is_label, top, to_half=layer.to_half)
    smoothing = best = None
    if head.label_smoothing is not None:
        weights = jnp.ones(x.shape[1], x.dtype)
        weights = weights if head.class_weights is None else head.class_weights
        smoothing = _smoothing_sums(x, finite_top(others.top)[:, None], weights[None, :])
    if layer.metrics:
        best = _best(x, others.top, classes)
    return RowSums(others, pick(x, classes.place, is_label), smoothing, best)


def sums_and_exps(
    layer: Layer, raw: Float[Array, "rows classes"], classes: Classes
) -> tuple[RowSums, Array]:
    """`sums_of_block` of logits that are products alone, and the exponentials that are summed."""
    places = jnp.arange(raw.shape[1], dtype=classes.place.dtype)
    is_label = classes.place[:, None] == places[None, :]
    others, exps = ExpSum.with_terms(raw, ~is_label)
    best = _best(raw, others.top, classes) if layer.metrics else None
    return RowSums(others, pick(raw, classes.place, is_label), best=best), exps


def _best(x: Array, top: Array, classes: Classes) -> Array:
    """The first class of the largest logit."""
    at_top = x == top[:, None]
    return jnp.min(jnp.where(at_top, classes.ids.astype(x.dtype)[None, :], jnp.inf), axis=-1)


def losses_of(head: Head, labels: Labels, sums: RowSums) -> tuple[Array, Any]:
    """The loss of each row, and the metrics that are wanted: log-normalizer, best, correct."""
    top = finite_top(sums.others.top)
    gap = jnp.where(sums.label == jnp.inf, 0, top - sums.label)
    values, log_total = nll_from_gap(sums.others.rest, gap)
    if labels.weight is not None:
        values = labels.weight * values
    if head.label_smoothing is not None and sums.smoothing is not None:
        gaps, weight, possible = sums.smoothing
        spread = (gaps + log_total * weight) / jnp.maximum(possible, 1).astype(values.dtype)
        values = (1 - head.label_smoothing) * values + head.label_smoothing * spread
    normalizer = top + log_total
    if head.z_loss is not None:
        values = values + head.z_loss * jnp.square(normalizer)
    values = values * jnp.where(labels.valid, 1, jnp.nan).astype(values.dtype)
    if sums.best is None:
        return values, ()
    correct = labels.valid & (sums.label == sums.others.top)
    return values, lax.stop_gradient((normalizer, sums.best, correct.astype(values.dtype)))


def all_classes(layer: Layer, head: Head, labels: Labels) -> Classes:
    """The classes of this device as one block."""
    ids = jnp.arange(layer.num_classes(head.weight), dtype=labels.ids.dtype)
    return Classes(labels.first + ids, labels.ids, None)


def losses_of_products(layer: Layer, head: Head, ids: Array, raw: Array) -> tuple[Array, Any]:
    """The losses of rows whose products with all classes are given."""
    labels = labels_of(layer, head, ids)
    sums = sums_of_block(layer, head, raw, all_classes(layer, head, labels))
    sums = sums if layer.axis_name is None else sums.psum(layer.axis_name)
    return losses_of(head, labels, sums)
