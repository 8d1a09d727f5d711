"""Losses of embeddings whose distribution is to be the standard normal: SIGReg and VISReg.

Both look at projections on directions that are passed in: they are drawn anew at each step, the
same on all devices, and their randomness is the caller's.
"""

import functools
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import ndtri
from jaxtyping import Bool, Float, Real

from jaxloss import numerics
from jaxloss._core.decorator import loss
from jaxloss._core.parameters import check_count
from jaxloss._core.spec import ArrayLike, Reduction
from jaxloss._core.typing import AxisName
from jaxloss._memory.mesh import ring_scan
from jaxloss.domains import nonnegative_number
from jaxloss.domains import positive as above_zero
from jaxloss.numerics._derivatives import separate_derivative
from jaxloss.numerics._reductions import in_one_reduction
from jaxloss.self_supervised._statistics import Sample
from jaxloss.traits import nonnegative


def _projections(axis: int, x: Array, units: Array) -> Array:
    """The embeddings on unit vectors, of which the set is along this axis: -2 or -1."""
    places = "...ic,cj->...ij" if axis == -2 else "...ic,cj->...ji"
    return jnp.einsum(places, x, units, precision=lax.Precision.HIGHEST)


@jax.checkpoint
def _at_knot(projections: Array, keep: Array, knot: Array) -> tuple[Array, Array]:
    angles = knot * projections
    cosine, sine = jnp.where(keep, jnp.cos(angles), 0), jnp.where(keep, jnp.sin(angles), 0)
    return jnp.sum(cosine, axis=-2), jnp.sum(sine, axis=-2)


def _one_by_one(x: Array, units: Array, keep: Array, knots: Array) -> tuple[Array, Array]:
    at_knot = functools.partial(_at_knot, _projections(-2, x, units), keep[..., None])
    return lax.map(at_knot, knots)


def _sums_at_knots(projections: Array, keep: Array, knots: Array) -> Array:
    knots = knots.reshape(*(1 for _ in projections.shape[:-1]), -1, 1)
    angles = projections[..., None, :] * knots
    sums = (jnp.sum(f(angles), -1, where=keep[..., None, None, :]) for f in (jnp.cos, jnp.sin))
    return jnp.moveaxis(jnp.stack(tuple(sums)), -1, 1)


# The derivative computes the angles again, from projections that are not those of the sums.
_sums = jax.checkpoint(separate_derivative(_sums_at_knots), prevent_cse=False)


def _at_once(x: Array, units: Array, keep: Array, knots: Array) -> tuple[Array, Array]:
    cosine, sine = _sums(_projections(-1, x, units), keep, knots)
    return cosine, sine


@jax.jit  # so that an eager call compiles its loop once
def _characteristic(x: Array, units: Array, keep: Array, knots: Array) -> tuple[Array, Array]:
    """The sums over a set of the cosine and the sine of each knot times each projection.

    One knot after the other, and again for the gradient: all angles would take the memory of the
    projections times the knots. On GPU and TPU the angles exist only in the kernels of the sums and
    of the gradient, which read the projections once for all knots.
    """
    return in_one_reduction(_one_by_one, _at_once, x, units, keep, knots)


@loss(nonnegative, upper=above_zero)
def sigreg(
    embeddings: Real[ArrayLike, "*batch set dim"],
    *,
    directions: Real[ArrayLike, "dim directions"],
    knots: int = 17,
    upper: Real[ArrayLike, ""] = 3.0,
    mask: Bool[ArrayLike, "*batch set"] | None = None,
    axis_name: AxisName | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""SIGReg: the Epps-Pulley statistic of random projections against the standard normal.

    When to use: beside a prediction loss, in place of the tricks against collapse (LeJEPA): linear
    in time and memory, with bounded gradients.

    $$\ell = \frac{n}{K} \sum_{k=1}^K \int_{-T}^T e^{-t^2 / 2} \left|
      \frac1n \sum_b e^{i t \langle a_k, z_b \rangle} - e^{-t^2 / 2} \right|^2 \mathrm{d}t$$

    The integral is a trapezoidal sum over `knots` points of its right half, times 2. On several
    devices the means of cosine and sine are means over all of them, and $n$ is the number of all
    examples. LeJEPA adds 0.05 of it to 0.95 of the prediction loss.

    Args:
        embeddings: Embeddings, one set per example of the batch.
        directions: A direction $a_k$ a column, of any length: such as
            `jax.random.normal(key, (dim, 1024))`, with the same key on all devices.
        knots: How many points the integral has from 0 to T.
        upper: The end T of the integral.
        mask: False takes an example out of the set.
        axis_name: Mesh axes over which the set is split, inside `shard_map`.

    Returns:
        The statistic of each set; with `axis_name` that of all devices.

    Raises:
        ValueError: If `knots` is below 2.

    Example:
        >>> import jax
        >>> directions = jax.random.normal(jax.random.key(0), (2, 64))
        >>> print(f"{sigreg([[0.0, 0.0]] * 10, directions=directions):.3f}")  # collapsed
        4.020

    References:
        Balestriero and LeCun, *LeJEPA: Provable and Scalable Self-Supervised Learning*, 2025.
        Epps and Pulley, *A Test for Normality Based on the Empirical Characteristic Function*,
        1983.
    """
    knots = check_count("jaxloss.self_supervised.sigreg", "knots", knots, least=2)
    sample, x = Sample(mask, axis_name), embeddings
    step = jnp.asarray(upper, x.dtype) / (knots - 1)
    places = jnp.arange(knots)
    points = places.astype(x.dtype) * step
    window = jnp.exp(-jnp.square(points) / 2)
    is_end = (places == 0) | (places == knots - 1)
    weights = window * jnp.where(is_end, step, 2 * step)
    keep = jnp.ones(x.shape[:-1], bool) if mask is None else mask
    sums = _characteristic(x, numerics.normalize(directions, axis=0), keep, points)
    number = sample.number(x)
    total = jnp.maximum(number, 1)[None, ..., None]
    cosine, sine = (sample.over_devices(s) / total for s in sums)
    errors = jnp.square(cosine - jnp.expand_dims(window, range(1, cosine.ndim))) + jnp.square(sine)
    return number * jnp.einsum("t,t...k->...", weights, errors) / directions.shape[-1]


def _ranks(x: Array) -> Array:
    """The place of each entry in the order of its column, from 0."""
    order = jnp.argsort(x, axis=-2)
    return jnp.argsort(order, axis=-2)


def _ranks_of_all_devices(x: Array, axis_name: AxisName) -> Array:
    """The place of each entry in the order of its column of all devices.

    Of equal entries, those of earlier devices come first.
    """
    columns = jnp.swapaxes(x, -1, -2)
    place = functools.partial(jnp.vectorize, signature="(n),(m)->(m)")
    before, until = (
        place(functools.partial(jnp.searchsorted, side=side)) for side in ("left", "right")
    )
    own = _ranks(x)

    def tile(state: Array, carry: Array, owner: Array, constants: Any) -> Any:
        columns, own, me = constants
        others = jnp.where(owner < me, until(carry, columns), before(carry, columns))
        return state + jnp.where(owner == me, own, jnp.swapaxes(others, -1, -2)), carry

    constants = columns, own, lax.axis_index(axis_name)
    start = lax.full_like(own, 0)
    return ring_scan(tile, start, jnp.sort(columns, axis=-1), constants, axis_name)[0]


@loss(
    nonnegative,
    centre=nonnegative_number,
    scale=nonnegative_number,
    shape=nonnegative_number,
    epsilon=above_zero,
)
def visreg(
    embeddings: Real[ArrayLike, "*batch set dim"],
    *,
    directions: Real[ArrayLike, "dim directions"],
    centre: Real[ArrayLike, ""] = 1.0,
    scale: Real[ArrayLike, ""] = 1.0,
    shape: Real[ArrayLike, ""] = 1.0,
    epsilon: Real[ArrayLike, ""] = 1e-4,
    mask: Bool[ArrayLike, "*batch set"] | None = None,
    axis_name: AxisName | None = None,
    **reduction: Unpack[Reduction],
) -> Float[Array, "*batch"]:
    r"""VISReg: mean, deviation and shape of embeddings are to be those of the standard normal.

    When to use: as `sigreg`; where embeddings have collapsed, its term of deviations still has a
    gradient.

    $$\ell = \frac1d \sum_i \bigl(\mu_c\, m_i^2 + \mu_s\, (1 - \sigma_i)^2\bigr)
      + \mu_h\, \frac{1}{n K} \sum_{k, b} \Bigl(p_{(b) k}
        - \Phi^{-1}\bigl(\tfrac{b}{n + 1}\bigr)\Bigr)^2, \qquad
      p = \frac{z - m}{\mathrm{sg}[\sigma] + \epsilon}\, A$$

    The last term compares the sorted projections with quantiles: a sliced Wasserstein distance.
    Deviations $\sigma$ are biased ones, and constants of the gradient there. It is the
    regularizer: the paper adds 0.9 of it to 0.1 of the prediction loss, with equal weights of its
    terms. In the paper each device has a set of its own, and its own directions; with `axis_name`
    the statistics and the order are those of all devices, which have the same directions.

    Args:
        embeddings: Embeddings, one set per example of the batch.
        directions: A direction a column of $A$, of any length.
        centre: The weight of the squared means.
        scale: The weight of the deviations.
        shape: The weight of the projections.
        epsilon: Added to deviations, by which projections are divided.
        mask: False takes an example out of the set.
        axis_name: Mesh axes over which the set is split, inside `shard_map`. Sorted projections
            are passed on from one device to the next.

    Returns:
        The loss of each set; with `axis_name` that of all devices.

    Example:
        >>> visreg([[1.0], [-1.0], [3.0]], directions=[[1.0]], scale=0.0, shape=0.0)
        Array(1., dtype=float32)

    References:
        Wu et al., *VISReg*, 2026.
    """
    sample, x = Sample(mask, axis_name), embeddings
    mean, centred = sample.mean(x), sample.centred(x)
    deviation = numerics.sqrt(sample.variance(centred))
    still = lax.stop_gradient(deviation)[..., None, :] + epsilon
    projections = _projections(-2, centred / still, numerics.normalize(directions, axis=0))
    number = sample.number(x)
    # What is left out comes last, and has a quantile that is not used.
    keep = jnp.ones_like(projections, bool) if mask is None else mask[..., None] & True
    still = lax.stop_gradient(jnp.where(keep, projections, jnp.inf))
    place = _ranks(still) if axis_name is None else _ranks_of_all_devices(still, axis_name)
    share = (place + 1).astype(x.dtype) / (number + 1)[..., None, None]
    quantiles = ndtri(jnp.where(keep, share, 0.5))
    squares = jnp.mean(jnp.square(jnp.where(keep, projections - quantiles, 0)), axis=-1)
    of_shape = sample.over_devices(jnp.sum(squares, axis=-1)) / jnp.maximum(number, 1)
    of_centre = jnp.mean(jnp.square(mean), axis=-1)
    of_scale = jnp.mean(jnp.square(1 - deviation), axis=-1)
    return centre * of_centre + scale * of_scale + shape * of_shape
