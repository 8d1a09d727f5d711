"""The contract: `@loss` turns three lines of mathematics into a loss.

A body is written for clean arrays: floating, of one dtype, of shapes that fit. `@loss` reads the
annotations of the function and does the rest, once, for all losses. `_evaluate` is the whole of
it, step by step; each step is a module beside this one:

- `arguments`: names, conversion of what NumPy understands, numbers outside their range;
- `shapes`: shapes must agree, only a scalar is broadcast; `mismatch` writes the errors;
- `masking`: `where` and `mask` are applied to the inputs, so that nothing behind a False entry,
  NaN included, reaches value or gradient;
- `body`: the mathematics is called, and its result is converted;
- `labels`: a class id outside its range gives NaN, never another class;
- `checks`: inside `jaxloss.checks()` every argument is compared with its domain;
- `reduction`: `weights` and `reduction` are applied to the result;
- `registry`: traits, formula and signature are filed for the catalogue.

Half precision is computed in float32. All of this depends on shapes and dtypes only: compiled code
holds the body, and what `where`, `mask`, `weights` and invalid labels need.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, overload

import jax.numpy as jnp

from jaxloss._core import labels, masking, shapes
from jaxloss._core.arguments import ARRAYS, bind, check_options, convert, option, to_arrays
from jaxloss._core.body import evaluate_body
from jaxloss._core.checks import are_on, check, check_arguments
from jaxloss._core.dtypes import body_of
from jaxloss._core.reduction import TypeOfReduction, reduce
from jaxloss._core.registry import register
from jaxloss._core.spatial import merge_spatial_axes
from jaxloss._core.spec import LossSpec
from jaxloss._core.typing import ArrayLike
from jaxloss._memory.deferred import DeferredRows, materialize
from jaxloss._memory.mesh import unify_vma
from jaxloss._xla import fits_in_cache
from jaxloss.domains import Domain, finite
from jaxloss.traits import Trait

__all__ = ["ArrayLike", "loss"]

P = ParamSpec("P")


@overload
def loss(body: Callable[P, object], /) -> Callable[P, Any]: ...
@overload
def loss(
    *traits: Trait,
    reduction: TypeOfReduction = "none",
    elementwise: bool | None = None,
    **domains: Domain | list[Domain],
) -> Callable[[Callable[P, object]], Callable[P, Any]]: ...
def loss(
    *traits: Any,
    reduction: TypeOfReduction = "none",
    elementwise: bool | None = None,
    **domains: Any,
) -> Any:
    """Makes a function of predictions and targets a loss, with the whole contract of jaxloss.

    Args:
        *traits: What is true of the loss for every input, from `jaxloss.traits`.
        reduction: What the loss does when the caller gives no reduction.
        elementwise: Whether the body is a function of each element, so that it may be evaluated
            on arrays of another shape, in loops that the compiler vectorizes. If None, it is
            where the annotations of the data are all "*batch".
        **domains: For an argument, the values it may hold, from `jaxloss.domains`; a list where
            the annotation has alternatives, in its order.

    Returns:
        A decorator; or, as plain `@loss`, the decorated function.

    Raises:
        TypeError: If the annotations cannot be read as a loss.

    Example:
        >>> @loss
        ... def cubic(prediction, target, *, scale=1.0):
        ...     return jnp.abs((prediction - target) / scale) ** 3
        >>> cubic([1.0, 5.0], [3.0, jnp.nan], where=[True, False], reduction="mean")
        Array(8., dtype=float32)
    """
    if len(traits) == 1 and callable(traits[0]):
        return loss()(traits[0])

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        spec = LossSpec(body, domains, reduction, elementwise)

        @functools.wraps(body)
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            return _evaluate(spec, bind(spec, args, kwargs))

        evaluate.__signature__ = spec.signature  # type: ignore[attr-defined]  # for help()
        evaluate.__doc__ = spec.documentation()
        register(evaluate, spec, traits)
        return evaluate

    return decorate


def _evaluate(spec: LossSpec, given: dict[str, Any]) -> Any:
    """One call, from what the caller gave to the loss."""
    # Names, shapes and dtypes.
    came, layout = to_arrays(spec, given), None
    axis = given.get("axis", -1)
    if not isinstance(axis, int) or axis != -1:
        came, layout = shapes.move_axis(spec, came, axis)
    spatial_axes = option(spec, "spatial_axes", given.get("spatial_axes"))
    came = merge_spatial_axes(spec, came, spatial_axes)
    types = tuple((n, x.shape, x.dtype, isinstance(given[n], ARRAYS)) for n, x in came.items())
    batch, sizes, forms, dtype = shapes.plan(spec, types, jnp.result_type(float), layout)
    check_options(spec, given, came, sizes, forms)
    arrays = {
        n: convert(spec, n, x, forms[n], forms[n].shape(batch, sizes), dtype)
        for n, x in came.items()
    }

    # Inside `shard_map` a custom rule has derivatives of one type: all differ where one does.
    (arrays,) = unify_vma(arrays)

    # What is left out.
    result_shape, axis_name = spec.result.shape(batch, sizes), given.get("axis_name")
    arrays, where = masking.leave_out(spec, arrays, forms, result_shape, axis_name)
    weights = arrays.get("weights")

    # Values outside their domains.
    checking, sane, valid = are_on(), True, None
    context = given | sizes | {"where": where}
    if checking:
        sane = check_arguments(spec, arrays, came, forms, context)
    if spec.guarded:
        arrays, valid = labels.guard(spec, arrays, forms, context)

    # The mathematics.
    inputs = {n: arrays[n] if n in arrays else option(spec, n, given[n]) for n in spec.arguments}
    floats = (n for n in inputs if n in arrays and jnp.issubdtype(arrays[n].dtype, jnp.floating))
    with body_of({n: came[n] for n in floats}):
        values = evaluate_body(spec, inputs, batch, sizes, dtype)

    # The result.
    if isinstance(values, DeferredRows):
        if given["reduction"] != "none" and valid is None and not checking:
            return values.reduced(where, weights, given["reduction"])
        values = materialize(values)  # the checks and the NaN of invalid labels need the values
    if valid is not None:
        values = labels.nan_unless(values, valid)
    if checking:
        counted = values if where is None else jnp.where(where, values, 0)
        check(spec.name, "result", finite, counted, context, unless=~jnp.asarray(sane))
    cached = fits_in_cache(arrays)
    return reduce(values, where, weights, given["reduction"], cached=cached)
