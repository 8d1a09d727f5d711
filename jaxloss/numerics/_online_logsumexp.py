"""Sums of exponentials that are computed part by part: one pass over what does not exist at once.

Blocks of a vocabulary, blocks of a square of similarities, shards on several devices: each part is
summed relative to its own largest entry, and two sums are merged relative to the larger of the two.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from jaxloss._memory.mesh import pcast_varying, vma
from jaxloss._xla import on_each, recompute_on_gpu
from jaxloss.numerics._double_double import DD, exp_shifted
from jaxloss.numerics._online_sums import finite_top, top_and_sum
from jaxloss.numerics._reductions import in_one_reduction
from jaxloss.numerics._softmax import exp_below
from jaxloss.numerics._softmax_nll import nll_from_gap


class ExpSum(NamedTuple):
    """The sum exp(top) * rest of the exponentials of some entries.

    Attributes:
        top: The largest entry so far, whether it is summed or not; not differentiated.
        rest: The sum of exp(entry - top) over the entries that are summed.
    """

    top: Float[Array, "*rows"]
    rest: Float[Array, "*rows"]

    @classmethod
    def of(
        cls,
        entries: Float[Array, "..."],
        counted: Bool[Array, "..."],
        top: Array | None = None,
        axis: int = -1,
        to_half: bool = False,
    ) -> "ExpSum":
        """The sum along an axis of the counted entries, none of which exceeds the top.

        The top is that of all entries if it is not given. `to_half` says that the cotangents of the
        entries are rounded to half precision: then those do without the rounding error of the
        difference on TPU, where the products that take them compute them again.
        """
        if top is None:
            return cls(*_top_and_sum(axis, to_half, entries, counted))
        top = lax.stop_gradient(top)
        return cls(top, sum_of_exps(axis, entries, counted, finite_top(top), to_half))

    @classmethod
    def with_terms(cls, entries: Array, counted: Array, axis: int = -1) -> tuple["ExpSum", Array]:
        """The sum of the counted entries, relative to the largest of all, and its terms."""
        top, total, terms = _term_forms(axis)[0](entries, counted)
        return cls(top, total), terms

    @classmethod
    def over_nothing(cls, like: Array) -> "ExpSum":
        """The sum over no entries, of an array's shape."""
        return cls(lax.full_like(like, -jnp.inf), lax.full_like(like, 0))

    def scale_to(self, top: Array) -> Array:
        """exp(self.top - top), for a top that is not smaller."""
        same = self.top == top
        # The rounding error of a difference of 20 would be 8 units in the last place.
        lower, upper = (jnp.where(same, 0, x) for x in (self.top, top))
        return jnp.where(same, 1, exp_shifted(lower, upper))

    def relative_to(self, top: Array) -> "ExpSum":
        """The same sum relative to a top that is not smaller."""
        return ExpSum(top, self.rest * self.scale_to(top))

    def merge(self, more: "ExpSum") -> "ExpSum":
        """The sum over the entries of both."""
        top = jnp.maximum(self.top, more.top)
        return ExpSum(top, self.relative_to(top).rest + more.relative_to(top).rest)

    def nll(self, own: DD) -> Array:
        """-log of the softmax of an entry among itself and these; the top is at least the entry."""
        return nll_from_gap(self.rest, (self.top - own.hi) - own.lo)[0]

    def psum(self, axis_name: Any) -> "ExpSum":
        """The sum over the entries of all devices: two collectives of one number a row."""
        top = lax.pmax(lax.stop_gradient(self.top), axis_name)
        local = self.relative_to(pcast_varying(top, vma(self.top)))
        return ExpSum(top, lax.psum(local.rest, axis_name))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _top_and_sum(
    axis: int,
    to_half: bool,  # noqa: ARG001  # see its rule
    entries: Array,
    counted: Array,
) -> tuple[Array, Array]:
    """The largest entry along an axis, and the sum of exp(entry - top) over the counted entries."""
    return _with_terms(axis, entries, counted)[:2]


# A full rule: it reduces. The top is a constant.
@_top_and_sum.defjvp
def _top_and_sum_jvp(axis: int, to_half: bool, primals: Any, tangents: Any) -> Any:
    top, rest, terms = _with_terms(axis, *primals)
    if to_half:
        terms = on_each(_first, _first, _terms_of_half(axis), terms, *primals, finite_top(top))
    return (top, rest), (jnp.zeros_like(top), jnp.sum(terms * tangents[0], axis))


def _with_terms(axis: int, entries: Array, counted: Array) -> tuple[Array, Array, Array]:
    return in_one_reduction(*_term_forms(axis), entries, counted)


@functools.cache
def _term_forms(axis: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """One object each, so that eager calls compile once."""

    def by_passes(entries: Array, counted: Array) -> tuple[Array, Array, Array]:
        top = lax.stop_gradient(jnp.max(entries, axis, initial=-jnp.inf))
        terms, total = _terms_and_sum(axis, entries, counted, finite_top(top))
        return top, total, terms

    def online(entries: Array, counted: Array) -> tuple[Array, Array, Array]:
        top, total, () = top_and_sum(entries, counted, (), axis)
        again = recompute_on_gpu(finite_top(top))
        return top, total, _terms_and_sum(axis, entries, counted, again)[0]

    return by_passes, online


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 4, 5))
def sum_of_exps(
    axis: int,
    entries: Float[Array, "..."],
    counted: Bool[Array, "..."],
    top: Float[Array, "..."],
    to_half: bool = False,  # noqa: ARG001  # see its rule
    exp: Callable[..., Array] = exp_shifted,
) -> Float[Array, "..."]:
    """The sum of exp(entry - top) along an axis over the entries that are counted.

    None of these exceeds the top, which is a constant under differentiation, and not -inf.
    """
    return _terms_and_sum(axis, entries, counted, top, exp)[1]


@sum_of_exps.defjvp
def _sum_of_exps_jvp(
    axis: int, to_half: bool, exp: Callable[..., Array], primals: Any, tangents: Any
) -> tuple[Array, Array]:
    # A full rule: one array of terms serves the sum and its gradient; XLA on GPU would write it, so
    # that it is computed again there. The top is a constant.
    terms, total = _terms_and_sum(axis, *primals, exp=exp)
    on_tpu = _terms_of_half(axis) if to_half else _first
    terms = on_each(_first, _again(axis, exp), on_tpu, terms, *primals)
    return total, jnp.sum(terms * tangents[0], axis)


def _first(terms: Array, *_primals: Array) -> Array:
    return terms


@functools.cache
def _again(axis: int, exp: Callable[..., Array]) -> Callable[..., Array]:
    def terms(_terms: Array, entries: Array, counted: Array, top: Array) -> Array:
        return _terms_and_sum(axis, entries, counted, recompute_on_gpu(top), exp)[0]

    return terms


@functools.cache
def _terms_of_half(axis: int) -> Callable[..., Array]:
    def terms(_terms: Array, entries: Array, counted: Array, top: Array) -> Array:
        return jnp.where(counted, exp_below(entries, jnp.expand_dims(top, axis)), 0)

    return terms


def _terms_and_sum(
    axis: int,
    entries: Array,
    counted: Array,
    top: Array,
    exp: Callable[..., Array] = exp_shifted,
) -> tuple[Array, Array]:
    top = jnp.expand_dims(top, axis)
    # An entry that is not counted may exceed the top: it must not overflow.
    terms = jnp.where(counted, exp(jnp.where(counted, entries, top), top), 0)
    return terms, jnp.sum(terms, axis)
