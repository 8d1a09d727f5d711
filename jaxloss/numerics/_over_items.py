"""Functions of rows that meet all items, whose gradient is one sum over the pairs on GPU."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero

from jaxloss._xla import fits_in_cache, on_gpu
from jaxloss.numerics._derivatives import is_moving, jvp_of_moving, unshared_copy

# From what rows have, what items have, and the axis of the items in arrays of pairs: -1, or -2 if
# the rows are along the last.
Function = Callable[[Any, Any, int], Array]


class _OverItems(NamedTuple):
    """The function of the different arrays that rows and items have.

    Attributes:
        function: Gives one number a row.
        tree: The structure of what rows and items have.
        indices: Of each leaf, which of the arrays it is; None if it is a number.
        numbers: The leaves that are numbers; None for arrays.
        row_leaves: How many leaves belong to rows.
    """

    function: Function
    tree: Any
    indices: tuple[int | None, ...]
    numbers: tuple[Any, ...]
    row_leaves: int

    def __call__(self, *arrays: Array) -> Array:
        return self.of_pairs(arrays, {}, {}, -1)

    def of_pairs(
        self, arrays: tuple[Array, ...], rows: dict[int, Array], items: dict[int, Array], axis: int
    ) -> Array:
        """The function, with other arrays in the place of some that rows or items have."""
        leaves = [
            number if i is None else (rows if place < self.row_leaves else items).get(i, arrays[i])
            for place, (i, number) in enumerate(zip(self.indices, self.numbers, strict=True))
        ]
        of_rows, of_items = jax.tree.unflatten(self.tree, leaves)
        return self.function(of_rows, of_items, axis)

    def of_both(self) -> set[int]:
        """The arrays that rows and items have."""
        rows, items = (
            {i for i in part if i is not None}
            for part in (self.indices[: self.row_leaves], self.indices[self.row_leaves :])
        )
        return rows & items

    def _change_of_rows(self, arrays: Any, dots: dict[int, Array], axis: int) -> Array:
        return self._change(lambda moved: self.of_pairs(arrays, moved, {}, axis), arrays, dots)

    def _change_of_items(self, arrays: Any, dots: dict[int, Array], axis: int) -> Array:
        return self._change(lambda moved: self.of_pairs(arrays, {}, moved, axis), arrays, dots)

    @staticmethod
    def _change(function: Callable[..., Array], arrays: Any, dots: dict[int, Array]) -> Array:
        """The change of a function of arrays of the shape of their tangents."""
        spread = {
            i: arrays[i] if arrays[i].ndim == dot.ndim else _of_pairs(arrays[i])
            for i, dot in dots.items()
        }
        return jax.jvp(function, (spread,), (dots,))[1]

    def jvp_on_gpu(self, primals: Any, tangents: Any) -> tuple[Array, Array]:
        """Value and derivative, which share nothing.

        The gradient of a score is a sum over the pairs in which it is that of the row, and over
        those in which it is that of the item: sums over different axes, two kernels and a third for
        what they add up to. Here the latter pairs are computed once more with rows and items
        swapped, and both depend on one array of pairs: its cotangent, a sum, is reduced once. An
        array of pairs among the arguments is read in one order: beside it the sums share nothing.
        """
        moving = {i for i, tangent in enumerate(tangents) if is_moving(tangent)}
        both = self.of_both()
        dots, found = {i: tangents[i] for i in sorted(moving & both)}, []
        if dots and all(x.ndim <= max(primals[i].ndim for i in both) for x in primals):
            arrays = tuple(unshared_copy(x, 2) if i in both else x for i, x in enumerate(primals))
            wide = {i: _of_pairs(dot) for i, dot in dots.items()}
            found += [
                self._change_of_rows(arrays, wide, -1),
                self._change_of_items(arrays, wide, -2),
            ]
        elif dots:
            found = [
                self._change_of_rows(unshared_copy(primals, 2), dots, -1),
                self._change_of_items(unshared_copy(primals, 3), dots, -1),
            ]
        none = [SymbolicZero(jax.typeof(x)) for x in primals]
        for i in sorted(moving - both):
            alone = (*none[:i], tangents[i], *none[i + 1 :])
            found.append(jvp_of_moving(self, unshared_copy(primals, i + 4), alone)[1])
        return self(*primals), functools.reduce(operator.add, found)


def _of_pairs(x: Array) -> Array:
    return jnp.broadcast_to(x[..., None], (*x.shape, x.shape[-1]))


@functools.lru_cache(maxsize=4096)
def _with_rule(function: _OverItems) -> Callable[..., Array]:
    by_rule = jax.custom_jvp(lambda *arrays: function(*arrays))

    # A full rule, since it is the rule of any function.
    @functools.partial(by_rule.defjvp, symbolic_zeros=True)
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Any]:
        if not any(isinstance(x, Tracer) for x in primals):
            return jvp_of_moving(function, primals, tangents)  # eager: nothing is fused anyway
        places = [i for i, tangent in enumerate(tangents) if is_moving(tangent)]

        def all_tangents(some: list[Array]) -> tuple[Any, ...]:
            every: list[Any] = [SymbolicZero(jax.typeof(x)) for x in primals]
            for i, tangent in zip(places, some, strict=True):
                every[i] = tangent
            return tuple(every)

        return on_gpu(
            lambda x, some: function.jvp_on_gpu(x, all_tangents(some)),
            lambda x, some: jvp_of_moving(function, x, all_tangents(some)),
            primals,
            [tangents[i] for i in places],
        )

    return by_rule


def over_items(function: Function, rows: Any, items: Any) -> Array:
    """`function(rows, items, -1)`: one number a row, such as a sum over the items.

    An array that rows and items share has the shape of the result.

    Args:
        function: Closes over no array, and is equal between calls: an eager call compiles it once.
            It takes arrays of pairs in the place of arrays of rows or of items.
        rows: A tree of arrays and numbers.
        items: Another.
    """
    leaves, tree = jax.tree.flatten((rows, items))
    arrays = list({id(x): x for x in leaves if isinstance(x, Array)}.values())
    places = {id(x): i for i, x in enumerate(arrays)}
    indices = tuple(places.get(id(x)) for x in leaves)
    numbers = tuple(None if isinstance(x, Array) else x for x in leaves)
    of_arrays = _OverItems(function, tree, indices, numbers, len(jax.tree.leaves(rows)))
    return (of_arrays if fits_in_cache(arrays) else _with_rule(of_arrays))(*arrays)
