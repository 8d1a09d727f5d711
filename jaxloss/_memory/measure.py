"""How large the arrays are that a function makes of its rows, read from its jaxpr."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax

__all__ = ["FEW_ROWS", "bytes_a_row", "inner_jaxprs"]

FEW_ROWS = 128  # rows by which a function of a symbolic number of rows is measured


def inner_jaxprs(jaxpr: Any) -> Iterator[Any]:
    """The jaxprs inside a jaxpr, at any depth."""
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield inner
                    yield from inner_jaxprs(getattr(inner, "jaxpr", inner))


def bytes_a_row(fn: Any, shared: Any, rows: Any, count: int) -> int | None:
    """The size of the largest array that the function makes of `count` rows, per row.

    An array has rows if an axis is a multiple of their number. None if a size is symbolic.
    """
    count = count if isinstance(count, int) else FEW_ROWS
    some = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), rows)
    jaxpr = jax.make_jaxpr(fn)(shared, *some).jaxpr
    every = [jaxpr, *(getattr(inner, "jaxpr", inner) for inner in inner_jaxprs(jaxpr))]
    sizes = list(_sizes(every, max(count, 1)))
    return max([1, *sizes]) if all(isinstance(size, int) for size in sizes) else None


def _sizes(jaxprs: Iterable[Any], count: int) -> Iterator[int]:
    """The bytes per row of every array that jaxprs make of `count` rows."""
    for equation in (equation for jaxpr in jaxprs for equation in jaxpr.eqns):
        for x in equation.outvars:
            shape, dtype = getattr(x.aval, "shape", ()), getattr(x.aval, "dtype", None)
            if any(n % count == 0 for n in shape):
                yield x.aval.size * getattr(dtype, "itemsize", 0) // count
