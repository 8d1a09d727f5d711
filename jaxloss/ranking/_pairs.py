"""Means of a function over the pairs of each list."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxloss.numerics._double_double import two_sum
from jaxloss.numerics._elementwise import linear_argument
from jaxloss.numerics._reductions import read_in_passes
from jaxloss.ranking._lists import Lists, of_pairs


class Pairs(NamedTuple):
    """The pairs of a loss: the function of their difference, and which pairs count."""

    function: Callable[..., Array]
    counted: Callable[[Lists], Array] = Lists.should_lead
    errors: bool = False

    def __call__(
        self, lists: Lists, number: Array, pair_weights: Array | None, *options: Any
    ) -> Float[Array, "*batch rows"]:
        """The part of each item in the mean over the pairs of its list."""
        counted = self.counted(lists)
        values = of_pairs(self.function, lists, counted, *options, errors=self.errors)
        if pair_weights is not None:
            values = values * linear_argument(jnp.where(counted, pair_weights, 0))
        # Divided before they are added: a sum may overflow where the mean does not.
        return jnp.sum(values / lists.of_rows(number), axis=lists.axis)


class _Number(NamedTuple):
    """The number of pairs of each item."""

    counted: Callable[[Lists], Array]

    def __call__(self, lists: Lists) -> Int[Array, "*batch rows"]:
        return jnp.sum(self.counted(lists.unshared()), axis=lists.axis, dtype=jnp.int32)


def mean_over_pairs(
    name: str,
    pairs: Pairs,
    lists: Lists,
    pair_weights: Array | None,
    chunk_size: int | None,
    *options: Any,
) -> Float[Array, "*batch"]:
    """The mean of a function of s_i - s_j, or of the errors s - y, over the pairs of each list."""
    chunks: Any = {"fun_name": f"jaxloss.ranking.{name}", "chunk_size": chunk_size}
    number = lists.sum_of_list(lists.map_rows(_Number(pairs.counted), separate=False, **chunks))
    number = jnp.maximum(number, 1).astype(lists.scores.dtype)
    parts = lists.map_rows(pairs, number, pair_weights, items=options, **chunks)
    return lists.mean_of_lists(parts)


def variance_of_errors(lists: Lists) -> Float[Array, "*batch"]:
    """The mean of ((s_i - s_j) - (y_i - y_j))^2 over all pairs, without an array of pairs.

    The first centre has a rounding error as large as that of the errors, so that the differences
    from it are centred once more.
    """
    errors = two_sum(lists.scores, -lists.relevance)
    number = lists.sum_of_list(lists.items.mask.astype(errors.hi.dtype))
    count = jnp.maximum(number, 1)
    centre = jax.lax.stop_gradient(lists.sum_of_list(errors.hi / count))
    hi, lo = map(read_in_passes, errors)
    off = jnp.where(lists.items.mask, (hi - centre) + lo, 0)
    off = off - lists.sum_of_list(off / count)
    return lists.mean_of_lists(2 * jnp.square(off) / jnp.maximum(number - 1, 1))
