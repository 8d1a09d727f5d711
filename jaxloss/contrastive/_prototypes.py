r"""Losses of embeddings and one learned direction a class: classifiers of cosines, and proxies.

The directions are an option of the loss, `prototypes`, of shape `(classes, dim)`: all examples
share them, and they have gradients as the embeddings do. Both may have any length.
"""

import functools
import itertools
import math
from typing import Literal, Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import all_in_bfloat16
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss.domains import class_ids
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._labels import is_label, take_label
from jaxloss.numerics._pair_distances import Vectors, inner_products
from jaxloss.numerics._reductions import along_either
from jaxloss.numerics._softmax import is_moderate, log1p_sum_exp
from jaxloss.numerics._softmax_nll import softmax_nll
from jaxloss.traits import nonnegative, scale_invariant


def _cosines(embeddings: Array, prototypes: Array) -> Array:
    """The cosines of all embeddings, at any batch, with all prototypes."""
    in_bfloat16 = all_in_bfloat16()
    rows, columns = (
        Vectors.directions(x, in_bfloat16) for x in (jnp.atleast_2d(embeddings), prototypes)
    )
    cosines = inner_products(rows, columns)
    return cosines.reshape(*embeddings.shape[:-1], prototypes.shape[0])


def _used(prototypes: Array, mask: Array | None) -> Array:
    """The prototypes, with 0 for a class that `mask` takes out of all examples: it may hold NaN."""
    if mask is None or mask.ndim == 1:  # a mask that is shared is applied by the contract
        return prototypes
    return jnp.where(jnp.any(mask, axis=tuple(range(mask.ndim - 1)))[:, None], prototypes, 0)


def _nll(logits: Array, labels: Array, mask: Array | None) -> Array:
    return softmax_nll(logits if mask is None else jnp.where(mask, logits, -jnp.inf), labels)


def _own(prototypes: Array, labels: Array) -> Array:
    """The direction of the prototype of each label."""
    one_hot = is_label(prototypes[:, 0], labels).astype(prototypes.dtype)
    directions = numerics.normalize(prototypes)
    return jnp.einsum("...c,cd->...d", one_hot, directions, precision=lax.Precision.HIGHEST)


@loss(nonnegative, scale_invariant, labels=class_ids("classes"), scale=above_zero)
def arcface(
    embeddings: Real[ArrayLike, "*batch dim"],
    labels: Int[ArrayLike, "*batch"],
    *,
    prototypes: Real[ArrayLike, "classes dim"],
    margin: Real[ArrayLike, ""] = 0.5,
    scale: Real[ArrayLike, ""] = 64.0,
    beyond: Literal["linear", "none"] = "linear",
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""ArcFace: softmax cross-entropy of scaled cosines, with a margin added to the label's angle.

    When to use: recognition of many classes (faces, products) by nearest neighbours of embeddings.

    $$\ell = -\log \frac{e^{s \cos(\theta_y + m)}}
      {e^{s \cos(\theta_y + m)} + \sum_{j \neq y} e^{s \cos \theta_j}}, \qquad
      \cos \theta_j = \cos(x, w_j)$$

    Past $\theta + m = \pi$ the cosine would rise again. `beyond="linear"` then takes
    $\cos \theta - m \sin m$, as the authors' code and pytorch-metric-learning do; "none" keeps the
    cosine. No arc cosine is taken, whose derivative is infinite where an embedding has the
    direction of its prototype: the sine is the length of what is left beside that direction, and
    the gradient there is that of the cosine.

    Args:
        embeddings: Embeddings, of any length.
        labels: The class of each.
        prototypes: One direction a class; learned.
        margin: The angle $m$ in radians; pytorch-metric-learning has 28.6 degrees.
        scale: The factor $s$ of all cosines.
        beyond: What is taken past $\pi$: "linear" or "none".
        mask: False takes a class out of an example, or out of all.

    Returns:
        The loss of each embedding in nats.

    Example:
        >>> arcface([[2.0, 0.0]], [0], prototypes=[[1.0, 0.0], [0.0, 1.0]], scale=1.0)
        Array([0.34768546], dtype=float32)

    References:
        Deng et al., *ArcFace: Additive Angular Margin Loss for Deep Face Recognition*, 2019.
    """
    margin, prototypes = jnp.asarray(margin, embeddings.dtype), _used(prototypes, mask)
    units, own = numerics.normalize(embeddings), _own(prototypes, labels)
    cosine = jnp.sum(units * own, axis=-1)
    sine = numerics.norm(units - cosine[..., None] * own)
    moved = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
    if beyond == "linear":
        is_beyond = cosine < jnp.cos(math.pi - margin)
        moved = jnp.where(is_beyond, cosine - margin * jnp.sin(margin), moved)
    cosines = _cosines(embeddings, prototypes)
    with_margin = jnp.where(is_label(cosines, labels), moved[..., None], cosines)
    return _nll(scale * with_margin, labels, mask)


@loss(nonnegative, scale_invariant, labels=class_ids("classes"), scale=above_zero)
def cosface(
    embeddings: Real[ArrayLike, "*batch dim"],
    labels: Int[ArrayLike, "*batch"],
    *,
    prototypes: Real[ArrayLike, "classes dim"],
    margin: Real[ArrayLike, ""] = 0.35,
    scale: Real[ArrayLike, ""] = 64.0,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""CosFace: softmax cross-entropy of scaled cosines, with a margin taken off the label's.

    When to use: as `arcface`; the margin is one of cosines, and the loss is simpler.

    $$\ell = -\log \frac{e^{s (\cos \theta_y - m)}}
      {e^{s (\cos \theta_y - m)} + \sum_{j \neq y} e^{s \cos \theta_j}}, \qquad
      \cos \theta_j = \cos(x, w_j)$$

    With a margin of 0 it is the normalized softmax.

    Args:
        embeddings: Embeddings, of any length.
        labels: The class of each.
        prototypes: One direction a class; learned.
        margin: What is subtracted from the cosine of the label.
        scale: The factor $s$ of all cosines.
        mask: False takes a class out of an example, or out of all.

    Returns:
        The loss of each embedding in nats.

    Example:
        >>> cosface([[2.0, 0.0]], [0], prototypes=[[1.0, 0.0], [0.0, 1.0]], scale=1.0)
        Array([0.42005536], dtype=float32)

    References:
        Wang et al., *CosFace: Large Margin Cosine Loss for Deep Face Recognition*, 2018.
    """
    cosines = _cosines(embeddings, _used(prototypes, mask))
    with_margin = jnp.where(is_label(cosines, labels), cosines - margin, cosines)
    return _nll(scale * with_margin, labels, mask)


@loss(scale_invariant, labels=class_ids("classes"), scale=above_zero)
def proxy_nca(
    embeddings: Real[ArrayLike, "*batch dim"],
    labels: Int[ArrayLike, "*batch"],
    *,
    prototypes: Real[ArrayLike, "classes dim"],
    scale: Real[ArrayLike, ""] = 1.0,
    among_others: bool = False,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Proxy-NCA: softmax cross-entropy of minus the squared distances to one proxy a class.

    When to use: metric learning without pairs or mining, with a learned proxy for each class.

    $$\ell = -\log \frac{e^{-s\, d(x, w_y)}}{\sum_{j} e^{-s\, d(x, w_j)}}, \qquad
      d(x, w) = \lVert \hat x - \hat w \rVert^2 = 2 - 2 \cos(x, w)$$

    The sum is over all proxies, as in pytorch-metric-learning and ProxyNCA++ (whose temperature of
    1/9 is `scale=9`). In the paper it is over those of the other classes, `among_others=True`, and
    the loss may be negative.

    Args:
        embeddings: Embeddings, of any length.
        labels: The class of each.
        prototypes: The proxies, one a class, of any length; learned.
        scale: The factor of the squared distances.
        among_others: Whether the sum leaves the proxy of the label out.
        mask: False takes a class out of an example, or out of all.

    Returns:
        The loss of each embedding in nats.

    Example:
        >>> proxy_nca([[2.0, 0.0]], [0], prototypes=[[1.0, 0.0], [0.0, 1.0]])
        Array([0.1269280], dtype=float32)

    References:
        Movshovitz-Attias et al., *No Fuss Distance Metric Learning using Proxies*, 2017.
        *ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component Analysis*, 2020.
    """
    logits = 2 * scale * _cosines(embeddings, _used(prototypes, mask))
    if not among_others:
        return _nll(logits, labels, mask)
    logits = logits if mask is None else jnp.where(mask, logits, -jnp.inf)
    others = numerics.logsumexp(logits, where=~is_label(logits, labels))
    return others - take_label(logits, labels)


def _of_proxies(
    moderate: bool,
    in_bfloat16: bool,
    axis: int,
    embeddings: Array,
    labels: Array,
    prototypes: Array,
    margin: Array,
    scale: Array,
    mask: Array | None,
) -> Array:
    """The proxy-anchor loss from cosines whose examples lie along an axis, -1 or -2."""
    sides = [Vectors.directions(x, in_bfloat16) for x in (embeddings, prototypes)]
    cosines = inner_products(*(sides if axis == -2 else sides[::-1]))
    classes, other = jnp.arange(prototypes.shape[0], dtype=labels.dtype), -3 - axis
    of_sets = range(labels.ndim - 1)
    is_own = jnp.expand_dims(labels, other) == jnp.expand_dims(classes, (*of_sets, axis))
    counted = True if mask is None else jnp.expand_dims(mask, other)
    positives, negatives = is_own & counted, ~is_own & counted
    near, far = -scale * (cosines - margin), scale * (cosines + margin)
    of_positives = log1p_sum_exp(near, axis, where=positives, moderate=moderate)
    of_negatives = log1p_sum_exp(far, axis, where=negatives, moderate=moderate)
    present = jnp.sum(jnp.any(positives, axis), axis=-1, dtype=jnp.int32)
    total = jnp.sum(of_positives, axis=-1)
    attraction = total / jnp.maximum(present, 1).astype(total.dtype)
    return attraction + jnp.mean(of_negatives, axis=-1)


# One object each, so that eager calls compile once.
_FORMS = {
    of: functools.partial(_of_proxies, *of) for of in itertools.product((True, False), repeat=2)
}


@loss(nonnegative, scale_invariant, labels=class_ids("classes"), scale=above_zero)
def proxy_anchor(
    embeddings: Real[ArrayLike, "*batch set dim"],
    labels: Int[ArrayLike, "*batch set"],
    *,
    prototypes: Real[ArrayLike, "classes dim"],
    margin: Real[ArrayLike, ""] = 0.1,
    scale: Real[ArrayLike, ""] = 32.0,
    mask: Bool[ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""Proxy-anchor loss: each proxy is an anchor, and meets all examples of a set.

    When to use: as `proxy_nca`, where relations within a batch should weight the examples: the
    hardest ones of each class dominate.

    $$\ell = \frac{1}{|P^+|} \sum_{p \in P^+} \log\Bigl(1 + \sum_{y_i = p}
        e^{-s (\cos(x_i, w_p) - m)}\Bigr)
      + \frac{1}{|P|} \sum_{p \in P} \log\Bigl(1 + \sum_{y_i \neq p}
        e^{s (\cos(x_i, w_p) + m)}\Bigr)$$

    $P$ are all proxies, $P^+$ those whose class is in the set. One number a set: its sums are over
    examples, inside the logarithms.

    Args:
        embeddings: Embeddings, one set per example of the batch; of any length.
        labels: The class of each.
        prototypes: The proxies, one a class, of any length; learned.
        margin: How far cosines should be above and below 0.
        scale: The sharpness $s$.
        mask: False takes an example out of the set.

    Returns:
        The loss of each set; 0 for one without examples.

    Example:
        >>> proxy_anchor([[2.0, 0.0]], [0], prototypes=[[1.0, 0.0], [0.0, 1.0]], scale=1.0)
        Array(0.7133522, dtype=float32)

    References:
        Kim et al., *Proxy Anchor Loss for Deep Metric Learning*, 2020.
    """
    moderate = is_moderate(-scale, margin)  # and of the negatives: scale * (cosine + margin)
    scale, margin = (jnp.asarray(x, embeddings.dtype) for x in (scale, margin))
    form = _FORMS[moderate, all_in_bfloat16()]
    return along_either(form, embeddings, labels, prototypes, margin, scale, mask)
