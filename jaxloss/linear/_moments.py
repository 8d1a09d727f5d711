r"""Sums over the logits of a row that give its statistics, for some classes at a time.

The largest logit is left out of the sum of exponentials and added at the end: of a confident
prediction, 1 + tiny, the tiny is the entropy and the negative log-probability. Two sums, those of
the entropy and of the squared probabilities, have derivatives in which terms cancel. Each of them
is held twice: as a number without derivative, and as another function of the logits whose
derivative is a sum of terms of one sign.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from jaxloss import _xla, numerics
from jaxloss._core.typing import AxisName
from jaxloss._memory.mesh import pcast_varying, vma
from jaxloss.linear._layer import Head, Layer
from jaxloss.linear._online_softmax import Classes, logits_of, pick
from jaxloss.numerics._double_double import exp_shifted
from jaxloss.numerics._online_logsumexp import ExpSum, finite_top
from jaxloss.numerics._reductions import variadic_reduce


class Anchors(NamedTuple):
    """What the second pass knows of each row from the first.

    Attributes:
        top: The largest logit.
        best: Its class, as a float.
        top_ids: `(rows, k)`, the classes of the k largest logits, as floats; or None.
    """

    top: Array
    best: Array
    top_ids: Array | None


class Moments(NamedTuple):
    """The sums of a row over some classes; each of shape (rows,). None where it is not wanted.

    With e = exp(logit - top). Variables are differentiated, with the top of the anchors as a
    constant; numbers are not. Variables are functions of the logits with these derivatives, also
    where JAX does not use the rule of `row_sums`, in a scan that it differentiates twice.

    Attributes:
        anchors: Not differentiated.
        excess: A variable: the sum of e over all classes but the best.
        top: A variable: the logit of the best class.
        label: A variable: the logit of the label; 0 as long as it has not been seen.
        gaps: A number: the sum of e (top - logit).
        gaps_and_total: A variable: the sum of e (top - logit + 1).
        squares: A number: the sum of e^2.
        spread: A number: the sum of e (1 - e).
        half_spread: A variable: the sum of e (1 - e / 2).
        logits: A variable: the sum of the logits that are not -inf.
        possible: A number: how many there are.
        top_logits: A variable: `(rows, k)`, the k largest logits.
    """

    anchors: Anchors
    excess: Array
    top: Array
    label: Array
    gaps: Array | None = None
    gaps_and_total: Array | None = None
    squares: Array | None = None
    spread: Array | None = None
    half_spread: Array | None = None
    logits: Array | None = None
    possible: Array | None = None
    top_logits: Array | None = None

    def rise(self) -> Array:
        """0, with the derivative of the largest logit."""
        finite = jnp.isfinite(self.anchors.top)
        top = jnp.where(finite, self.top, 0)
        return top - lax.stop_gradient(top)

    def relative_to(self, top: Array, wins: Array) -> "Moments":
        """The sums relative to a top that is not smaller; `wins`: whether it is their own.

        The excess of one that does not win is the sum over all of its classes.
        """
        same = self.anchors.top == top
        drop = jnp.where(same, 0, top - jnp.where(same, 0, self.anchors.top))
        scale = ExpSum(self.anchors.top, self.excess).scale_to(top)
        total = self.excess + jnp.exp(self.rise())
        nothing = scale == 0
        changed: dict[str, Array | None] = {
            "excess": jnp.where(wins, self.excess, jnp.where(nothing, 0, scale * total))
        }
        drop = jnp.where(nothing, 0, drop)
        if self.gaps is not None and self.gaps_and_total is not None:
            changed |= {
                "gaps": scale * (self.gaps + drop * (1 + self.excess)),
                "gaps_and_total": scale * (self.gaps_and_total + drop * total),
            }
        if self.squares is not None and self.spread is not None and self.half_spread is not None:
            less = jnp.where(nothing, 1, -jnp.expm1(-drop))  # 1 - scale
            changed |= {
                "squares": jnp.square(scale) * self.squares,
                "spread": scale * (self.spread + less * self.squares),
                "half_spread": scale * (scale * self.half_spread + less * total),
            }
        return self._replace(**changed)

    def largest(self) -> tuple[Array, Array] | None:
        """The largest logits and their classes, if they are wanted."""
        if self.top_logits is None or self.anchors.top_ids is None:
            return None
        return self.top_logits, self.anchors.top_ids

    def merge(self, other: "Moments") -> "Moments":
        """The sums over the classes of both."""
        (a, b), tops = (self, other), (self.anchors.top, other.anchors.top)
        wins = tops[0] > tops[1]
        wins |= (tops[0] == tops[1]) & (a.anchors.best < b.anchors.best)
        top = jnp.maximum(*tops)
        best = jnp.where(wins, a.anchors.best, b.anchors.best)
        top_logits, top_ids = None, None
        if (first := a.largest()) is not None and (second := b.largest()) is not None:
            both = (jnp.concatenate(x, axis=-1) for x in zip(first, second, strict=True))
            top_logits, top_ids = _largest(*both, k=first[0].shape[-1])
        added = jax.tree.map(
            jnp.add, a.relative_to(top, wins).sums(), b.relative_to(top, ~wins).sums()
        )
        return added._replace(
            anchors=Anchors(top, best, top_ids),
            top=jnp.where(wins, self.top, other.top),
            top_logits=top_logits,
        )

    def sums(self) -> "Moments":
        """The entries that are added; None for the others."""
        return self._replace(anchors=None, top=None, top_logits=None)

    def psum(self, axis_name: AxisName) -> "Moments":
        """The sums over the classes of all devices."""
        here = self.anchors
        top = lax.pmax(lax.stop_gradient(here.top), axis_name)
        is_top = here.top == pcast_varying(top, vma(here.top))
        best = lax.pmin(jnp.where(is_top, here.best, jnp.inf), axis_name)
        mine = here.best == pcast_varying(best, vma(here.best))
        local = self.relative_to(pcast_varying(top, vma(here.top)), mine)
        top_logits, top_ids = None, None
        if (mine_top := self.largest()) is not None:
            devices, place = lax.axis_size(axis_name), lax.axis_index(axis_name)
            own = jnp.arange(devices)[:, None] == place
            # The sum of what one device has and zeros: the same on all devices by its type, which
            # the result of a gather is not.
            every = (lax.psum(jnp.where(own, x[..., None, :], 0), axis_name) for x in mine_top)
            k = mine_top[0].shape[-1]
            top_logits, top_ids = _largest(*(x.reshape(-1, devices * k) for x in every), k=k)
        best_logit = jnp.where(mine, self.top, 0)
        added, best_logit = lax.psum((local.sums(), best_logit), axis_name)
        anchors = Anchors(top, best, top_ids)
        return added._replace(anchors=anchors, top=best_logit, top_logits=top_logits)

    def anchored(self) -> Anchors:
        """What the second pass needs."""
        return self.anchors

    def variables(self) -> "Moments":
        """The entries of which derivatives are taken."""
        return self._replace(anchors=None, gaps=None, squares=None, spread=None, possible=None)

    def tangents(self, found: "Moments", zeros: "Moments") -> "Moments":
        """The tangents, from those of the variables."""
        return found._replace(
            **{f: getattr(zeros, f) for f in ("anchors", "gaps", "squares", "spread", "possible")}
        )


def _larger(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """The larger of two logits with its class; of equal ones the first class."""
    first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] < b[1])) | (a[0] != a[0])
    return tuple(jnp.where(first, x, y) for x, y in zip(a, b, strict=True))


def _largest_each(terms: tuple[Array, ...]) -> tuple[Array, ...]:
    x, ids = terms
    top = jnp.max(x, axis=-1)
    return top, jnp.min(jnp.where(x == top[..., None], ids, jnp.inf), axis=-1)


def _top_and_best(x: Array, ids: Array) -> tuple[Array, Array]:
    """The largest logit of each row, and its class."""
    ids = jnp.broadcast_to(ids.astype(x.dtype), x.shape)
    top, best = variadic_reduce((x, ids), (-jnp.inf, jnp.inf), _larger, _largest_each)
    return top, best


def _largest(x: Array, ids: Array, *, k: int) -> tuple[Array, Array]:
    """The k largest logits of each row, and their classes."""
    top, places = lax.top_k(x, k)
    return top, jnp.take_along_axis(ids, places, axis=-1)


class Wanted(NamedTuple):
    """Which sums are wanted: a function of a block of logits, in the place of `sums_of_block`.

    Attributes:
        entropy: Those of the entropy.
        squares: Those of the sum of the squared probabilities.
        logits: Those of the mean logit.
        top_k: How many of the largest logits.
    """

    entropy: bool = False
    squares: bool = False
    logits: bool = False
    top_k: int = 0

    def __call__(
        self,
        layer: Layer,  # noqa: ARG002  # as `sums_of_block` has it
        head: Head,
        raw: Float[Array, "rows classes"],
        classes: Classes,
        anchors: Anchors | None = None,
    ) -> Moments:
        """The sums over a block of classes, relative to its own largest logit or to the anchors."""
        x = logits_of(head, raw)
        if classes.is_new is not None:
            x = jnp.where(classes.is_new[None, :], x, -jnp.inf)
        places = jnp.arange(x.shape[1], dtype=classes.place.dtype)
        is_label = classes.place[:, None] == places[None, :]
        label = pick(x, classes.place, is_label)
        if anchors is None:
            has_inf = head.bias is not None or classes.is_new is not None
            return self._first_pass(x, classes, label, has_inf)
        at_best = classes.ids.astype(x.dtype)[None, :] == anchors.best[:, None]
        top = finite_top(anchors.top)[:, None]
        variables = _variables(self, x, top, at_best)
        top_logits = None
        if anchors.top_ids is not None:
            top_logits = _pick_several(x, _places(anchors.top_ids, classes))
        return variables._replace(label=label, top_logits=top_logits)

    def _first_pass(self, x: Array, classes: Classes, label: Array, has_inf: bool) -> Moments:
        top, best = lax.stop_gradient(_top_and_best(x, classes.ids))
        shift = finite_top(top)[:, None]
        # Written once: XLA on CPU would compute it for each of the sums, and does not vectorize the
        # sum of what is not arithmetic, such as a choice.
        at_best = classes.ids.astype(x.dtype)[None, :] == best[:, None]
        others = _xla.barrier(jnp.where(at_best, 0, exp_shifted(x, shift)))
        excess = _sum(others)
        found, gap = {}, _gap(x, shift, has_inf=has_inf)

        def sum_of_products(products: Array) -> Array:
            # XLA on CPU writes the factors of a large sum of products to memory, and computes them
            # one by one; of a choice it writes the products.
            return _sum(products if _is_small(x) else jnp.where(at_best, 0, products))

        if self.entropy:
            found["gaps"] = sum_of_products(others * gap)
            found["gaps_and_total"] = found["gaps"] + 1 + excess
        if self.squares:
            found["squares"] = 1 + _sum(jnp.square(others))
            # Not `_complement`, whose sum XLA on CPU does not vectorize. A gap that the entropy
            # shared would be written.
            again = _gap(x, _xla.recompute(shift, x), has_inf=has_inf)
            found["spread"] = sum_of_products(others * -jnp.expm1(-again))
            found["half_spread"] = found["spread"] + found["squares"] / 2
        if self.logits:
            possible = x > -jnp.inf if has_inf else None
            found["logits"] = _sum(x if possible is None else jnp.where(possible, x, 0))
            count = jnp.full_like(top, x.shape[1])
            found["possible"] = count if possible is None else _sum(possible.astype(x.dtype))
        top_ids = top_logits = None
        if self.top_k:
            top_logits, places = lax.top_k(x, self.top_k)
            top_ids = lax.stop_gradient(classes.ids.astype(x.dtype)[places])
        anchors = Anchors(top, best, top_ids)
        largest = pick(x, _places(best[:, None], classes)[:, 0], at_best)
        return Moments(anchors, excess, largest, label, top_logits=top_logits, **found)


_SMALL = 1 << 25  # entries of a block of logits: `benchmarks/fused.py`


def _is_small(x: Array) -> bool:
    return isinstance(x.size, int) and x.size <= _SMALL


def _sum(x: Array) -> Array:
    return jnp.sum(x, axis=-1)


def _gap(x: Array, top: Array, *, has_inf: bool = True) -> Array:
    """top - x; of -inf not so large that exp(-gap) gap would be 0 times infinity."""
    gap = top - x
    return jnp.minimum(gap, -2 * math.log(float(jnp.finfo(x.dtype).tiny))) if has_inf else gap


def _complement(gap: Array) -> Array:
    """1 - exp(-gap), with all digits of a small gap."""
    return -numerics.expm1(-gap)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _variables(wanted: Wanted, x: Array, top: Array, at_best: Bool[Array, "..."]) -> Moments:
    """The variables of a block as functions of its logits, relative to a top that is a constant."""
    exps = exp_shifted(x, top)
    gaps = half = logits = None
    if wanted.entropy:
        gaps = jnp.sum(exps * _gap(x, top) + exps, axis=-1)
    if wanted.squares:
        half = jnp.sum(exps * (1 - exps / 2), axis=-1)
    if wanted.logits:
        logits = jnp.sum(jnp.where(x > -jnp.inf, x, 0), axis=-1)
    return Moments(
        None,  # type: ignore[arg-type]  # of the variables alone
        excess=jnp.sum(jnp.where(at_best, 0, exps), axis=-1),
        top=jnp.sum(jnp.where(at_best, x, 0), axis=-1),
        label=None,  # type: ignore[arg-type]  # the caller puts it in
        gaps_and_total=gaps,
        half_spread=half,
        logits=logits,
    )


# Not elementwise: a rule, so that each derivative is one product of the exponentials, and nothing
# but the logits is kept.
@_variables.defjvp
def _variables_jvp(
    wanted: Wanted, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Moments, Moments]:
    (x, top, at_best), x_dot = primals, tangents[0]
    out = _variables(wanted, *primals)
    exps = exp_shifted(x, top)

    def along(slope: Array) -> Array:
        return jnp.sum(slope * x_dot, axis=-1)

    gaps = half = logits = None
    if wanted.entropy:
        gaps = along(exps * _gap(x, top))
    if wanted.squares:
        half = along(exps * _complement(_gap(x, top)))
    if wanted.logits:
        logits = jnp.sum(jnp.where(x > -jnp.inf, x_dot, 0), axis=-1)
    return out, out._replace(
        excess=along(jnp.where(at_best, 0, exps)),
        top=jnp.sum(jnp.where(at_best, x_dot, 0), axis=-1),
        gaps_and_total=gaps,
        half_spread=half,
        logits=logits,
    )


def _places(ids: Array, classes: Classes) -> Array:
    """The places of class ids, given as floats, in a block; -1 of what is not there."""
    wanted = ids.astype(classes.ids.dtype)
    places = jnp.searchsorted(classes.ids, wanted)  # ids ascend
    places = jnp.minimum(places, classes.ids.size - 1)
    inside = classes.ids[places] == wanted
    inside = inside if classes.is_new is None else inside & classes.is_new[places]
    return jnp.where(inside, places, -1)


def _pick_several(x: Array, places: Array) -> Array:
    """The entries of each row at some places; 0 where a place is negative."""
    taken = jnp.take_along_axis(x, jnp.maximum(places, 0), axis=-1)
    return jnp.where(places < 0, 0, taken)
