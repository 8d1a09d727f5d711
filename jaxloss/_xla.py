"""What XLA on CPU computes first, what twice, and along which axis: hints that change no number.

It computes whatever is ready. The gradient of what is summed is ready before the sum, so that two
arrays of the size of the data are held and written where one place would serve both in turn. A
new array costs as much as the arithmetic: without these hints Huber's loss takes 1.4 times as
long, the Kullback-Leibler divergence twice. Arrays that stay in a core's cache cost nothing, and
a hint costs another loop. On GPUs, where one kernel does both, they do nothing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._memory.mesh import is_unsharded

_CACHED = 1 << 13  # numbers
_SHORT = 64  # turns of a loop
_WIDTHS = (*range(256, 4096, 8), *range(257, 4096, 2))


def fits_in_cache(tree: Any) -> bool:
    """Whether the arrays are so small that they stay in a core's cache."""
    return all(leaf.size <= _CACHED for leaf in jax.tree.leaves(tree))


def one_depending_on(x: Array) -> Array:
    """1, which is not known before x is."""
    if jax.default_backend() != "cpu":
        return jnp.ones_like(x)
    never = lax.ne(x, x) & lax.eq(lax.abs(x), lax.full_like(x, jnp.inf))  # XLA does not see it
    return lax.select(never, lax.full_like(x, 0), lax.full_like(x, 1))


def recompute(x: Any, of: Any = None) -> Any:
    """x, an array or a tree, so that what came of it is computed again, and need not be held.

    `of` is an array as large as what came of it, if x is not.
    """
    if fits_in_cache(x if of is None else of) or jax.default_backend() != "cpu":
        return x
    return lax.optimization_barrier(x)


@functools.cache
def _loops(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of so many numbers in which XLA on CPU makes vector instructions of its loops.

    It does so along the last axis, and often not where that is short (log cosh of [6400, 10] takes
    7 times as long as of [64000]), or where it is all there is to share out among the cores, and
    cannot be evenly (of [63999], 7 times as long).
    """
    size = math.prod(shape)
    done_by_one_core = len(shape) == 1 and size <= _CACHED
    if size < _WIDTHS[0] or done_by_one_core or (len(shape) > 1 and shape[-1] >= _SHORT):
        return shape
    width = next((n for n in _WIDTHS if size % n == 0), None)
    return (size // width, width) if width else (size,)


def with_vectorizable_shape(function: Callable[..., Array], *arrays: Array) -> Array:
    """A function of each element, of arrays of one shape, in loops that are quick."""
    shape = arrays[0].shape
    if not shape or not is_unsharded() or jax.default_backend() != "cpu":
        return function(*arrays)
    return function(*(x.reshape(_loops(shape)) for x in arrays)).reshape(shape)
