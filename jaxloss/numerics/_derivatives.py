"""Derivative rules of any function: by its gradient, or sharing nothing with the value on GPU."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero

from jaxloss._memory.mesh import is_unsharded
from jaxloss._xla import chosen_once, fits_in_cache, on_each, on_gpu, unshared_on_gpu

T = TypeVar("T")


def _first(x: Array, *_others: Any) -> Array:
    return x


def is_moving(tangent: Any) -> bool:
    return not isinstance(tangent, SymbolicZero)


def unshared_copy(tree: T, copy: int = 1) -> T:
    """A copy of arrays; what is computed from it shares nothing with the originals on GPU.

    Nor with what is computed from copies of another number.
    """
    return tree if fits_in_cache(tree) else unshared_on_gpu(tree, copy)


def with_copies(x: Array) -> tuple[Array, Array, Array]:
    """An array, a copy for another sum in the same pass, and one for the gradient."""
    return x, unshared_copy(x, 1), unshared_copy(x, 2)


def each_of_choice(where: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """x and y, between which value and derivatives choose; on CPU that is computed for all once."""
    return chosen_once(where, x, y)


def sharing_more_on_tpu(few: Callable[..., T], many: Callable[..., T], *arguments: Any) -> T:
    """A value and a slope; on TPU by the second form, in which they share more arrays.

    XLA on TPU writes one or two arrays that both are computed from, and has a kernel for each,
    which read them. If there are more, it computes all in one kernel.
    """
    return few(*arguments) if fits_in_cache(arguments) else on_each(few, few, many, *arguments)


def jvp_of_moving(
    function: Callable[..., Array], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Any]:
    """`jax.jvp` in the arguments whose tangents are not symbolic zeros: the others take no part."""
    places = [i for i, tangent in enumerate(tangents) if is_moving(tangent)]

    def of_moving(*some: Array) -> Array:
        every = list(primals)
        for i, x in zip(places, some, strict=True):
            every[i] = x
        return function(*every)

    moving, changes = ([x[i] for i in places] for x in (primals, tangents))
    return jax.jvp(of_moving, moving, changes)


def _jvp_of_each(
    function: Callable[..., Array], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Any]:
    """The same; on GPU the derivatives in different arguments share nothing.

    Their copies are from 2: the first is `unshared_copy`.
    """
    none = [SymbolicZero(jax.typeof(x)) for x in primals]
    found = [
        jvp_of_moving(
            function, unshared_on_gpu(primals, i + 2), (*none[:i], tangent, *none[i + 1 :])
        )
        for i, tangent in enumerate(tangents)
        if is_moving(tangent)
    ]
    return found[0][0], functools.reduce(operator.add, (change for _, change in found))


@functools.lru_cache(maxsize=4096)
def separate_derivative(function: Callable[..., Array], each: bool = False) -> Callable[..., Array]:
    """The function, whose derivative shares nothing with its value in programs for GPU.

    The arithmetic is done twice, in one kernel. XLA on GPU would compute what value and derivative
    share, such as the mask of a branch, in a kernel of its own, write it and read everything again
    (`benchmarks/accelerators.md`: binary focal loss moves 2875 MiB so, and 750 with this). With
    `each`, the derivatives in different arguments share nothing either: those of pairs, which are
    sums over different axes.
    """

    def value_again(_value: Array, *arrays: Array) -> Array:
        return function(*arrays)

    separated = jax.custom_jvp(lambda *arrays: function(*arrays))

    # A full rule, since it is the rule of any function.
    @functools.partial(separated.defjvp, symbolic_zeros=True)
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Any]:
        if not any(isinstance(x, Tracer) for x in primals):
            return jvp_of_moving(function, primals, tangents)  # eager: nothing is fused anyway
        if each:
            value, value_dot = _jvp_of_each(function, primals, tangents)
        else:
            value, value_dot = jvp_of_moving(function, unshared_on_gpu(primals), tangents)
        return on_gpu(value_again, _first, value, *primals), value_dot

    @functools.wraps(function)
    def of_arrays(*arrays: Array) -> Array:
        return function(*arrays) if fits_in_cache(arrays) else separated(*arrays)

    return of_arrays


def by_gradient(
    function: Callable[..., Array],
    in_reverse: Callable[..., Array],
    event: tuple[int, ...],
    at_once: int | None = None,
) -> Callable[..., Array]:
    """The function, one number an example; its derivative is its gradient times the tangent.

    The gradient is that of `in_reverse`, the same function, which may have rules for reverse mode
    alone (`jax.custom_vjp`): where JAX would transpose the derivative into sums of padded arrays.
    Derivatives of all orders exist in both modes.

    Args:
        function: A function of arrays; what comes after those of `event` are options.
        in_reverse: The same function for reverse mode.
        event: The number of event axes of each array, which come last; the batch is that of the
            result.
        at_once: How many entries of an array TPU takes at a time, so that what is between arguments
            and gradients stays on the chip; None for all.
    """
    by_rule = jax.custom_jvp(function)

    # A full rule, since it is the rule of any function.
    @functools.partial(by_rule.defjvp, symbolic_zeros=True)
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Any]:
        arrays, options = primals[: len(event)], primals[len(event) :]
        moving = [i for i in range(len(event)) if is_moving(tangents[i])]

        def value_and_slopes(*arrays: Array) -> tuple[Array, list[Array]]:
            value, vjp_fn = jax.vjp(lambda *x: in_reverse(*x, *options), *arrays)
            slopes = vjp_fn(jnp.ones_like(value))
            return value, [slopes[i] for i in moving]

        size = _group_size(at_once, arrays, event, options)
        value, slopes = _in_groups_on_tpu(value_and_slopes, size, event[0], arrays)
        changes = [
            jnp.sum(slope * tangents[i], axis=tuple(range(-event[i], 0)))
            for i, slope in zip(moving, slopes, strict=True)
        ]
        if any(map(is_moving, tangents[len(event) :])):
            still = (SymbolicZero(jax.typeof(x)) for x in arrays)
            changes.append(jvp_of_moving(function, primals, (*still, *tangents[len(event) :]))[1])
        return value, functools.reduce(operator.add, changes)

    return by_rule


def _group_size(
    at_once: int | None, arrays: Any, event: tuple[int, ...], options: Any
) -> int | None:
    """How many examples a group has; None if all are one."""
    batch, of_one = arrays[0].shape[: -event[0]], arrays[0].shape[-event[0] :]
    if at_once is None or any(jnp.ndim(x) > 1 for x in options):  # a mask has a batch too
        return None
    if not all(isinstance(n, int) for n in (*batch, *of_one)) or not is_unsharded(*arrays):
        return None
    number, most = math.prod(batch), max(1, at_once // max(1, math.prod(of_one)))
    if number < 4 * most or not any(isinstance(x, Tracer) for x in arrays):
        return None
    return max(n for n in range(1, most + 1) if number % n == 0)


def _in_groups_on_tpu(
    function: Callable[..., Any], size: int | None, event: int, arrays: tuple[Array, ...]
) -> Any:
    """`function(*arrays)`; on TPU of some examples at a time."""
    if size is None:
        return function(*arrays)
    batch = arrays[0].shape[:-event]

    def in_groups(*arrays: Array) -> Any:
        groups = [x.reshape(-1, size, *x.shape[len(batch) :]) for x in arrays]
        found = lax.map(lambda group: function(*group), groups)
        return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[2:]), found)

    return on_each(function, function, in_groups, *arrays)
