"""Losses of several views of an example, and what their targets are made of."""

import functools
from typing import Unpack

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.dtypes import came_in_half
from jaxloss._core.helpers import flags, floats
from jaxloss._core.parameters import check_count
from jaxloss._core.spec import ArrayLike, AxisReduction, Reduction
from jaxloss._core.typing import AxisName
from jaxloss.domains import distribution
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._elementwise import uncontracted
from jaxloss.numerics._online_logsumexp import ExpSum, finite_top
from jaxloss.numerics._reductions import read_in_passes
from jaxloss.numerics._softmax_dense import softmax_cross_entropy_dense
from jaxloss.self_supervised._statistics import over_devices
from jaxloss.traits import bounded, nonnegative, scale_invariant, smooth


@loss(bounded, scale_invariant)
def negative_cosine(
    prediction: Real[ArrayLike, "*batch dim"],
    target: Real[ArrayLike, "*batch dim"],
    *,
    mask: Bool[ArrayLike, "*batch dim"]
    | Bool[ArrayLike, "dim"]
    | None = None,  # applied by the contract
    **reduction: Unpack[AxisReduction],
) -> Float[Array, "*batch"]:
    r"""Negative cosine of a prediction and a target that is not differentiated: SimSiam, BYOL.

    When to use: self-supervised training with a predictor on one branch, and a stopped gradient
    or a running mean of the parameters on the other.

    $$\ell = -\cos(p, \mathrm{sg}[z])$$

    The gradient of the target is 0 by definition: without it the two branches collapse. For a
    symmetric loss take the mean of both directions. BYOL has $2 - 2 \cos$: twice
    `regression.cosine_distance(p, lax.stop_gradient(z))`, which has all digits near a match.

    Args:
        prediction: What the predictor makes of one view.
        target: The embedding of the other view; not differentiated.
        mask: False leaves an entry out of the vectors of an example, or of all examples.

    Returns:
        The loss of each example, from -1 to 1; 0 for the zero vector.

    Example:
        >>> negative_cosine([[3.0, 4.0]], [[2.0, 0.0]])
        Array([-0.6], dtype=float32)

    References:
        Chen and He, *Exploring Simple Siamese Representation Learning*, 2021.
        Grill et al., *Bootstrap Your Own Latent*, 2020.
    """
    return -numerics.cosine_similarity(prediction, lax.stop_gradient(target))


def _across_views(
    targets: Float[Array, "*batch targets classes"],
    logits: Float[Array, "*batch views classes"],
    mask: Bool[Array, "*#batch 1 classes"] | None,
) -> Float[Array, "*batch"]:
    """The mean cross-entropy of each view with the target of each other view.

    That of a view with all its targets is one cross-entropy, with their sum.
    """
    number, views = targets.shape[-2], logits.shape[-2]
    others = (~jnp.eye(number, views, dtype=bool)).astype(targets.dtype)[..., None]
    others = jnp.expand_dims(others, tuple(range(1, targets.ndim - 1)))
    # Not a product of matrices, which XLA would write: few views have a target.
    terms = (targets[..., t, None, :] * others[t] for t in range(number))
    of_view = functools.reduce(jnp.add, terms)
    if mask is not None:
        logits, of_view = jnp.where(mask, logits, -jnp.inf), jnp.where(mask, of_view, 0)
    total = jnp.sum(softmax_cross_entropy_dense(logits, of_view), axis=-1)
    return total / max(number * views - min(number, views), 1)


def _check_views(fun_name: str, name: str, targets: Array, logits: Array) -> None:
    number, views = targets.shape[-2], logits.shape[-2]
    if number > views or views < 2:
        raise ValueError(
            f"{fun_name}: `{name}` has {number} views and the predictions have {views}, expected "
            f"at least 2 of the latter, the first of which are the views of `{name}`."
        )


@loss(nonnegative, smooth, temperature=above_zero, teacher_temperature=above_zero)
def dino(
    student: Real[ArrayLike, "*batch views classes"],
    teacher: Real[ArrayLike, "*batch teacher_views classes"],
    *,
    center: Real[ArrayLike, "classes"] | None = None,
    temperature: Real[ArrayLike, ""] = 0.1,
    teacher_temperature: Real[ArrayLike, ""] = 0.04,
    mask: Bool[ArrayLike, "*batch classes"] | Bool[ArrayLike, "classes"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""DINO: the student's views are to predict the teacher's centred distribution of the others.

    When to use: self-distillation of vision transformers from several crops, with a teacher that
    is a running mean of the student.

    $$\ell = \frac{1}{|V|} \sum_{(t, v) \in V} -\sum_k q_{tk} \log p_{vk}, \qquad
      q_t = \mathrm{softmax}\Bigl(\frac{x_t - c}{\tau_t}\Bigr), \quad
      p_v = \mathrm{softmax}\Bigl(\frac{s_v}{\tau}\Bigr)$$

    $V$ are the pairs of different views: the first views of the student are those of the teacher.
    The teacher and the centre are constants of the gradient. The centre is state: it comes in
    here, and `dino_center` gives the next one.

    Args:
        student: Scores of all views: first those that the teacher sees, too, then small crops.
        teacher: Scores of the teacher for the first views.
        center: What is subtracted from the teacher's scores; None for nothing.
        temperature: The student's.
        teacher_temperature: The teacher's, which is lower; 0.04 to 0.07.
        mask: False takes a class out of all views of an example, or of all examples.

    Returns:
        The loss of each example in nats, the mean over pairs of views.

    Raises:
        ValueError: If the student has fewer than two views, or fewer than the teacher.

    Example:
        >>> dino([[0.0, 0.0], [0.0, 0.0]], [[0.3, 0.1]])
        Array(0.6931472, dtype=float32)

    References:
        Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, 2021.
    """
    _check_views("jaxloss.self_supervised.dino", "teacher", teacher, student)
    centred = (
        teacher if center is None else teacher - jnp.expand_dims(center, range(teacher.ndim - 1))
    )
    mask = None if mask is None else mask[..., None, :]
    # Of unrounded quotients the largest may exceed the maximum of rounded ones, by far.
    scaled, logits = (
        uncontracted(centred / teacher_temperature),
        uncontracted(student / temperature),
    )
    targets = lax.stop_gradient(numerics.softmax(scaled, where=mask))
    return _across_views(targets, logits, mask)


def dino_center(
    center: ArrayLike,
    teacher: ArrayLike,
    *,
    momentum: ArrayLike = 0.9,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Array:
    r"""The next centre of `dino`: a running mean of the teacher's scores.

    $$c' = m\, c + (1 - m)\, \frac{1}{n} \sum x$$

    Args:
        center: `(classes,)`, the centre so far; zeros at first.
        teacher: `(*batch, classes)`, the teacher's scores of all views.
        momentum: The share of the centre so far.
        where: Booleans `(*batch)`; False leaves scores out.
        axis_name: Mesh axes over which the batch is split, inside `shard_map`.

    Returns:
        The centre `(classes,)`, not differentiated; unchanged by no scores.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> dino_center([0.0, 0.0], [[1.0, 3.0], [3.0, 1.0]], momentum=0.5)
        Array([1., 1.], dtype=float32)

    References:
        Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, 2021.
    """
    name = "jaxloss.self_supervised.dino_center"
    (teacher,), (center,) = floats(name, teacher=teacher), floats(name, center=center)
    if center.shape != teacher.shape[-1:]:
        message = f"{name}: `center` has shape {center.shape}, expected {teacher.shape[-1:]}."
        raise ValueError(message)
    keep = jnp.ones(teacher.shape[:-1], bool) if where is None else where
    (keep,) = flags(name, teacher.shape[:-1], where=keep)
    axes = tuple(range(teacher.ndim - 1))
    total = over_devices(jnp.sum(jnp.where(keep[..., None], teacher, 0), axis=axes), axis_name)
    number = over_devices(jnp.sum(keep, dtype=jnp.int32), axis_name).astype(total.dtype)
    moved = momentum * center + (1 - momentum) * (total / jnp.maximum(number, 1))
    return lax.stop_gradient(jnp.where(number == 0, center, moved))


@loss(nonnegative, smooth, codes=distribution, temperature=above_zero)
def swav(
    logits: Real[ArrayLike, "*batch views prototypes"],
    codes: Real[ArrayLike, "*batch coded_views prototypes"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    mask: Bool[ArrayLike, "*batch prototypes"] | Bool[ArrayLike, "prototypes"] | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""SwAV: each view is to predict the codes of the others, their assignments to prototypes.

    When to use: self-supervised training by clustering while training, with small batches.

    $$\ell = \frac{1}{|V|} \sum_{(i, v) \in V} -\sum_k q_{ik} \log p_{vk}, \qquad
      p_v = \mathrm{softmax}\Bigl(\frac{x_v}{\tau}\Bigr)$$

    $V$ are the pairs of different views: the first views are those that have codes. Codes come
    from `sinkhorn_codes`, over the batch of all devices and a queue; they are constants of the
    gradient.

    Args:
        logits: Cosines of all views with the prototypes: first the views that have codes.
        codes: The codes of the first views, distributions over prototypes.
        temperature: The divisor of the cosines.
        mask: False takes a prototype out of all views of an example, or of all examples.

    Returns:
        The loss of each example in nats, the mean over pairs of views.

    Raises:
        ValueError: If there are fewer than two views, or fewer than codes.

    Example:
        >>> swav([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0]])
        Array(0.6931472, dtype=float32)

    References:
        Caron et al., *Unsupervised Learning of Visual Features by Contrasting Cluster
        Assignments*, 2020.
    """
    _check_views("jaxloss.self_supervised.swav", "codes", codes, logits)
    mask = None if mask is None else mask[..., None, :]
    scaled = uncontracted(logits / temperature)
    if not came_in_half("logits"):  # of these, what TPU fetches to the chip is half as large
        scaled = read_in_passes(scaled)
    return _across_views(lax.stop_gradient(codes), scaled, mask)


def _log_total(x: Array, axis_name: AxisName | None) -> Array:
    """The logarithm of the sum of exponentials over the set, on all devices."""
    sums = ExpSum.of(x, jnp.ones(x.shape, bool), axis=-2)
    sums = sums if axis_name is None else sums.psum(axis_name)
    return (finite_top(sums.top) + jnp.log(sums.rest))[..., None, :]


def sinkhorn_codes(
    scores: ArrayLike,
    *,
    epsilon: ArrayLike = 0.05,
    iterations: int = 3,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Array:
    r"""Codes of SwAV: assignments of a set to prototypes, each of which gets an equal share.

    $$q = \mathrm{diag}(u)\, e^{x / \epsilon}\, \mathrm{diag}(v), \qquad
      \sum_k q_{ik} = 1, \quad \sum_i q_{ik} \approx \frac{n}{K}$$

    In log space: at scores of 1 and an epsilon of 0.01 the exponential is infinite in float32.

    Args:
        scores: `(*batch, set, prototypes)`, cosines of the examples with the prototypes.
        epsilon: The smaller, the closer codes are to one prototype each.
        iterations: How often both sums are set; the sum over prototypes comes last.
        where: Booleans `(*batch, set)`; False leaves an example out, and gives it codes of 0.
        axis_name: Mesh axes over which the set is split, inside `shard_map`.

    Returns:
        Codes of the shape of `scores`, not differentiated.

    Raises:
        ValueError: If `iterations` is below 1.

    Example:
        >>> sinkhorn_codes([[1.0, 0.0], [0.0, 1.0]], epsilon=0.01).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    References:
        Cuturi, *Sinkhorn Distances: Lightspeed Computation of Optimal Transport*, 2013.
        Caron et al., *Unsupervised Learning of Visual Features by Contrasting Cluster
        Assignments*, 2020.
    """
    name = "jaxloss.self_supervised.sinkhorn_codes"
    iterations = check_count(name, "iterations", iterations)
    x = lax.stop_gradient(uncontracted(floats(name, scores=scores)[0] / epsilon))
    if where is not None:
        (keep,) = flags(name, x.shape[:-1], where=where)
        x = jnp.where(keep[..., None], x, -jnp.inf)
    for _ in range(iterations):
        shares = x - _log_total(x, axis_name)
        x = numerics.log_softmax(shares)
    return jnp.exp(x)
