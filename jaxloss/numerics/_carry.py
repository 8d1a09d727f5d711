"""Loops: the first carry, of the type that its steps give; several recursions in one loop."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._memory.mesh import pcast_varying, split_as, vma_of
from jaxloss._xla import on_each

T = TypeVar("T")


class Loop(NamedTuple):
    """How a loop is written for a compiler.

    Attributes:
        unroll: How many steps its body has.
        join: Joins what a step keeps, arrays of one shape.
    """

    unroll: int
    join: Callable[[tuple[Any, ...]], Any]


# On GPU a step can't write its carry over the one that it reads, in other places, and copies it; of
# two steps, one does. What is kept is one array, written by one kernel.
_ON_GPU = Loop(2, jnp.stack)
_ON_TPU = Loop(1, tuple)


def in_few_kernels(apart: Callable[..., T], together: Callable[..., T], *arguments: Any) -> T:
    """Evaluates recursions apart on CPU, and elsewhere by `together(*arguments, loop=...)`.

    On CPU a loop takes the time of its arithmetic, and one that is not needed may be left out. On
    GPU and TPU a step takes the time to start its kernels, and a conditional in it copies the
    carry.

    Give the same functions in each call.
    """
    return on_each(*_forms(apart, together), *arguments)


@functools.cache
def _forms(apart: Callable[..., T], together: Callable[..., T]) -> tuple[Callable[..., T], ...]:
    """One object each, so that eager calls compile once."""
    return apart, *(functools.partial(together, loop=loop) for loop in (_ON_GPU, _ON_TPU))


def carried(start: Any, *others: Any) -> Any:
    """The carry, marked as different on every device on which what the steps read is.

    Inside `shard_map` a loop refuses a carry of constants that a step makes different.
    """
    return pcast_varying(start, vma_of(start, others))


def split_as_first(first: Array, *others: Any) -> Any:
    """All arrays, each split over devices along its first axis as the first one is, else whole.

    On a mesh with Explicit axes a loop refuses a carry whose split changes in a step.
    """
    return jax.tree.map(lambda x: split_as(x, first), (first, *others))
