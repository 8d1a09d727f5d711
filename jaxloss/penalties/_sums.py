"""The sum of a function of every leaf of a pytree, which every penalty is."""

import functools
import operator
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from jaxloss._core.arguments import as_array
from jaxloss._core.dtypes import accumulator_dtype, to_accumulator
from jaxloss._core.parameters import check_leaves, named_leaves

_REMEDY = "Leave it out: put None in its place, or mask it out (`add_penalty(..., mask=...)`)."


def sum_over_leaves(
    fun_name: str,
    function: Callable[[Array], Array],
    params: PyTree,
    *,
    rank: int = 0,
    axis: int | tuple[int, ...] = (),
) -> Array:
    """The sum of a function of every leaf, in float32 or float64."""
    remedy = f"expected floating-point parameters. {_REMEDY}"
    check_leaves(fun_name, params, jnp.floating, remedy)
    axes = axis if isinstance(axis, tuple) else (axis,)
    terms = [jnp.zeros((), jnp.float32)]
    for name, leaf in named_leaves("params", params):
        leaf = to_accumulator(as_array(fun_name, name, leaf))
        if leaf.ndim < rank or not all(-leaf.ndim <= a < leaf.ndim for a in axes):
            needed = f"at least {rank} axes" if leaf.ndim < rank else f"an axis {axis}"
            message = f"{fun_name}: `{name}` has shape {leaf.shape}, expected {needed}. {_REMEDY}"
            raise ValueError(message)
        terms.append(jnp.sum(function(leaf)))
    dtype = accumulator_dtype(*(term.dtype for term in terms))
    return functools.reduce(operator.add, [term.astype(dtype) for term in terms])
