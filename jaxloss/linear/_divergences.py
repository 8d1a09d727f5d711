r"""Divergences of the softmaxes of two layers, for some rows and some classes at a time.

There are three passes over the logits of both layers. The first gives the sums of `Normalizers`.
The second adds up the terms of the divergence, and the means that its gradient needs. The third is
that of the gradient, which is explicit: with $a_k$ the derivative of the divergence with respect to
the probability $p_k$, that of the logit is $p_k (a_k - \sum_j p_j a_j)$. The $a_k$ are measured
from that of the likeliest class, so that nothing cancels where a probability is close to 1.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss import numerics
from jaxloss._core.typing import AxisName
from jaxloss.linear._blocks import Rows, Tiles
from jaxloss.linear._classes_outside import row_sums, sum_of_tangents
from jaxloss.linear._evaluate import Engine
from jaxloss.linear._layer import Head, Labels, Layer
from jaxloss.linear._online_softmax import Classes, logits_of
from jaxloss.linear._total_loss import Form, total_loss
from jaxloss.numerics._kl_terms import gaps_from_mixture
from jaxloss.numerics._softmax_pair import (
    Normalizers,
    Probabilities,
    kl_terms,
    normalizers_of,
    probabilities_of,
)

Kind = Literal["kl", "jensen_shannon", "total_variation"]


class Terms(NamedTuple):
    """The sums over some classes of the second pass; each of shape (rows,).

    Attributes:
        value: The divergence.
        mean_x: The sum of p times its slopes; None where the gradient does not need it.
        mean_z: The sum of q times its slopes.
    """

    value: Array
    mean_x: Array | None
    mean_z: Array

    def merge(self, other: "Terms") -> "Terms":
        """The sums over the classes of both."""
        return jax.tree.map(jnp.add, self, other)

    def psum(self, axis_name: AxisName) -> "Terms":
        """The sums over the classes of all devices."""
        return lax.psum(self, axis_name)

    def anchored(self) -> tuple[()]:
        """Nothing of it is needed for its derivatives."""
        return ()

    def variables(self) -> "Terms":
        """The entries of which derivatives are taken here; that of the value has its own rule."""
        return self._replace(value=None)

    def tangents(self, found: "Terms", zeros: "Terms") -> "Terms":
        """The tangents, from those of the variables."""
        return found._replace(value=zeros.value)


class PairSums(NamedTuple):
    """What two passes give of each row, in the place of `RowSums`."""

    normalizers: Normalizers
    terms: Terms

    def anchored(self) -> "PairSums":
        """What the third pass needs."""
        return self._replace(terms=self.terms._replace(value=None))

    def variables(self) -> Array:
        """What derivatives are taken of."""
        return self.terms.value

    def with_variables(self, variables: Array) -> "PairSums":
        """The inverse of `variables`."""
        return self._replace(terms=self.terms._replace(value=variables))


def _logits(head: Head, raw: tuple[Array, Array], classes: Classes) -> list[Array]:
    """The logits of both layers before they are divided by the temperature."""
    assert head.target_weight is not None
    heads = Head(head.weight, head.bias), Head(head.target_weight, head.target_bias)
    logits = [logits_of(one, x) for one, x in zip(heads, raw, strict=True)]
    if classes.is_new is None:
        return logits
    return [jnp.where(classes.is_new[None, :], x, -jnp.inf) for x in logits]


def _normalizers(
    _layer: Layer,
    head: Head,
    raw: tuple[Array, Array],
    classes: Classes,
    tops: tuple[Array, Array] | None = None,
) -> Normalizers:
    x, z = _logits(head, raw, classes)
    return normalizers_of(x, z, head.temperature, tops)


class _Slopes(NamedTuple):
    """Derivatives of a divergence with respect to p, q and beta, class by class; or None."""

    terms: Array
    p: Array | None
    q: Array
    beta: Array | None


def _slopes(kind: Kind, at: Probabilities, beta: Array | None) -> _Slopes:
    """The terms of a divergence and their derivatives, up to a constant of all classes."""
    if kind == "kl":
        terms = kl_terms(at.p, at.q, at.log_ratio, at.impossible)
        return _Slopes(terms, None, jnp.where(at.q == 0, 0, at.log_ratio), None)
    if kind == "total_variation":
        half = 0.5 * jnp.sign(at.p_minus_q)
        return _Slopes(0.5 * numerics.absolute(at.p_minus_q), half, -half, None)

    assert beta is not None
    from_p, from_q = gaps_from_mixture(at.p, at.q, -at.p_minus_q, beta)
    # Beyond 800 the smaller probability is 0, whose slope has no effect, and an infinity would.
    log_ratio = jnp.clip(jnp.where(at.impossible, -800, at.log_ratio), -800, 800)
    by_p = (1 - beta) * _log_over_mixture(log_ratio, beta)
    by_q = beta * _log_over_mixture(-log_ratio, 1 - beta)
    return _Slopes((1 - beta) * from_p + beta * from_q, by_p, by_q, from_q - from_p)


def _log_over_mixture(log_ratio: Array, share: Array) -> Array:
    """log(p / m) of the mixture m = (1 - share) p + share q, from log(q / p)."""
    far = log_ratio > 40
    near = -jnp.log1p(share * jnp.expm1(jnp.where(far, 0, log_ratio)))
    beyond = jnp.where(far, log_ratio, 0)
    return jnp.where(far, -beyond - jnp.log1p((1 - share) * jnp.expm1(-beyond)), near)


class _Centered(NamedTuple):
    """Probabilities of some classes, the terms of the divergence, and slopes from a reference."""

    at: Probabilities
    slopes: _Slopes


def _centered(
    kind: Kind,
    x: Array,
    z: Array,
    temperature: Array | None,
    beta: Array | None,
    sums: Normalizers,
) -> _Centered:
    """Slopes less that of the likeliest class.

    They are 0 there, also where a compiler rounds the two differently, as in a fused multiply-add.
    """
    at = probabilities_of(x, z, temperature, sums)
    slopes = _slopes(kind, at, beta)

    def less(slope: Array | None, side: str, x_top: Array, z_top: Array) -> Array | None:
        if slope is None:
            return None
        top = probabilities_of(x_top[..., None], z_top[..., None], temperature, sums)
        at_top = lax.stop_gradient(getattr(_slopes(kind, top, beta), side))
        is_top = (x == x_top[..., None]) & (z == z_top[..., None])
        return slope - jnp.where(is_top, lax.stop_gradient(slope), at_top)

    return _Centered(
        at,
        slopes._replace(
            p=less(slopes.p, "p", sums.top_x, sums.z_at_top),
            q=less(slopes.q, "q", sums.x_at_top, sums.top_z),
        ),
    )


def _times(probability: Array, slope: Array) -> Array:
    """The product; 0 where the probability is 0, whatever the slope."""
    return jnp.where(probability == 0, 0, probability * slope)


class _TermsOf(NamedTuple):
    """The second pass, in the place of `sums_of_block`."""

    kind: Kind

    def __call__(
        self,
        _layer: Layer,
        head: Head,
        raw: tuple[Array, Array],
        classes: Classes,
        _anchors: Any,
        known: Normalizers,
    ) -> Terms:
        x, z = _logits(head, raw, classes)
        at, slopes = _centered(self.kind, x, z, head.temperature, head.beta, known)
        mean_x = None if slopes.p is None else jnp.sum(_times(at.p, slopes.p), axis=-1)
        mean_z = jnp.sum(_times(at.q, slopes.q), axis=-1)
        return Terms(jnp.sum(slopes.terms, axis=-1), mean_x, mean_z)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _zero_with_gradient(
    _kind: Kind,
    x: Array,
    _z: Array,
    _temperature: Array | None,
    _beta: Array | None,
    _sums: PairSums,
) -> Array:
    """0, with the part of the gradient of the divergence that comes from some classes."""
    return jnp.zeros_like(x[..., 0])


# Not elementwise: the derivative is that of the divergence of all classes. Of it the sums are
# functions: their tangents are none.
@functools.partial(_zero_with_gradient.defjvp, symbolic_zeros=True)
def _zero_with_gradient_jvp(kind: Kind, primals: Any, tangents: Any) -> tuple[Array, Array]:
    x, z, temperature, beta, (sums, terms) = primals
    x_dot, z_dot, temperature_dot, beta_dot, _ = (
        None if isinstance(dot, SymbolicZero) else dot for dot in tangents
    )
    at, slopes = _centered(kind, x, z, temperature, beta, sums)
    by_x = at.p_minus_q
    if slopes.p is not None:
        by_x = _times(at.p, slopes.p - terms.mean_x[..., None])
    by_z = _times(at.q, slopes.q - terms.mean_z[..., None])
    total_dot = jnp.zeros_like(x[..., 0])
    for dot, slope, logits, top in (
        (x_dot, by_x, x, sums.top_x),
        (z_dot, by_z, z, sums.top_z),
    ):
        scaled = dot
        if temperature is not None:
            scaled = None if dot is None else dot / temperature
            if temperature_dot is not None:
                # A higher temperature moves each logit towards the largest.
                gap = logits - top[..., None]
                gap = jnp.where(jnp.isfinite(gap), gap, 0) / temperature
                moved = -gap * (temperature_dot / temperature)
                scaled = moved if scaled is None else scaled + moved
        if scaled is not None:
            total_dot = total_dot + jnp.sum(slope * scaled, axis=-1)
    if slopes.beta is not None and beta_dot is not None:
        total_dot = total_dot + jnp.sum(slopes.beta * beta_dot, axis=-1)
    return jnp.zeros_like(x[..., 0]), total_dot


class _Gradient(NamedTuple):
    """The part of a divergence that some classes give, in the place of `RowSums`."""

    value: Array

    def variables(self) -> Array:
        return self.value


class Divergence(NamedTuple):
    """The third pass, in the place of `sums_of_block`."""

    kind: Kind

    def __call__(
        self,
        _layer: Layer,
        head: Head,
        raw: tuple[Array, Array],
        classes: Classes,
        anchors: PairSums,
    ) -> _Gradient:
        """0, with the gradient of the divergence that comes from these classes."""
        x, z = _logits(head, raw, classes)
        return _Gradient(_zero_with_gradient(self.kind, x, z, head.temperature, head.beta, anchors))


def pair_sums(tiles: Tiles, head: Head, rows: Rows) -> PairSums:
    """The sums of each row over the whole vocabulary, in two passes."""
    sums = row_sums(tiles._replace(sums_of=_normalizers), head, rows)
    assert isinstance(tiles.sums_of, Divergence)
    of_terms = tiles._replace(sums_of=_TermsOf(tiles.sums_of.kind))
    return PairSums(sums, row_sums(of_terms, head, rows._replace(known=sums)))


def divergences_of(_head: Head, _labels: Labels, sums: PairSums) -> tuple[Array, Any]:
    """The divergence of each row."""
    return sums.terms.value, ()


def row_divergences(tiles: Tiles, head: Head, rows: Rows) -> tuple[Array, Any]:
    """The divergence of each row, as `row_losses`."""
    return _row_divergences(tiles, head, rows), ()


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _row_divergences(tiles: Tiles, head: Head, rows: Rows) -> Array:
    return pair_sums(tiles, head, rows).terms.value


# Not elementwise: the tangent is that of one more pass.
@functools.partial(_row_divergences.defjvp, symbolic_zeros=True)
def _row_divergences_jvp(
    tiles: Tiles, primals: tuple[Head, Rows], tangents: tuple[Head, Rows]
) -> tuple[Array, Array]:
    sums = pair_sums(tiles, *primals)
    found = sum_of_tangents(tiles, sums.anchored(), primals, tangents)
    return sums.terms.value, found


_TOTAL = functools.partial(total_loss, Form(pair_sums, divergences_of))
IN_BLOCKS = Engine(row_divergences, _TOTAL)
