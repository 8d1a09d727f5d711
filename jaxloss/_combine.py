r"""Several losses as one: named terms and their weights in, one number to differentiate out.

`total` has the shape that `has_aux=True` expects: a scalar for the gradient, and the terms
themselves for the log. A weight may be a number, a traced array, a parameter that is learned, or
an Optax schedule; changing its value compiles nothing again.
"""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxloss._core import reduction
from jaxloss._core.checks import are_on, check
from jaxloss._core.reduction import Mean
from jaxloss.domains import finite

_NAME = "jaxloss.total"
_TERM = "an array, a number or a `Mean`, bare or as a tuple `(values, weight)`"


def total(terms: Mapping[str, Any], step: Any = None) -> tuple[Array, dict[str, Array]]:
    r"""Adds up the means of named losses, each times its weight.

    $$\sum_k w_k \bar\ell_k$$

    The weight multiplies: with weight 0 a NaN term still makes the sum NaN, as it must, since the
    gradient is lost as well. A term that is only to be logged belongs into the log alone.

    Args:
        terms: For each name values, or a tuple `(values, weight)`; the weight is 1 if not given.
            Values are an array of any shape, of which the mean is taken; a scalar; or the `Mean`
            that `reduction="parts"` gives, which is divided here. A list is refused: it could
            be meant as a pair. A weight is a scalar, traced or learned if you like, or a
            schedule: a function of `step`.
        step: What schedules are given: the number of steps taken so far.

    Returns:
        The total, and a dict of the terms *before* weighting, in the order given. All are
        scalars: float32, or float64 for a term of float64.

    Raises:
        ValueError: If there are no terms, a weight is not a scalar, a schedule has no `step`, or
            a `Mean` holds more than one mean.
        TypeError: If `terms` is not a dict, or a term or a weight is not made of real numbers.

    Example:
        >>> total({"fit": jnp.array([1.0, 3.0]), "decay": (5.0, 0.1)})
        (Array(2.5, dtype=float32),
         {'fit': Array(2., dtype=float32), 'decay': Array(5., dtype=float32)})
    """
    if not isinstance(terms, Mapping):
        message = f"{_NAME}: `terms` is a {type(terms).__name__}, expected a dict that names terms."
        raise TypeError(message + ' Write `total({"fit": values, "decay": (values, 0.1)})`.')
    if not terms:
        raise ValueError(f"{_NAME}: `terms` is empty, expected at least one term.")
    unweighted, weighted = {}, []
    for name, term in terms.items():
        where = f"terms[{name!r}]"
        if isinstance(term, tuple) and len(term) != 2:
            message = f"{_NAME}: `{where}` is a tuple of {len(term)}, expected {_TERM}."
            raise TypeError(message)
        values, weight = term if isinstance(term, tuple) else (term, 1.0)
        value = scalar(_NAME, f"`{where}`", values)
        if are_on():
            check(_NAME, where, finite, value, {})
        unweighted[name] = value
        # The terms decide the precision, as data do in a loss; a weight has no say.
        weighted.append(_weight(where, weight, step).astype(value.dtype) * value)
    return functools.reduce(operator.add, weighted), unweighted


def scalar(fun_name: str, what: str, values: Any) -> Array:
    """One number, float32 or better: a `Mean` is divided, and of an array the mean is taken."""
    if not isinstance(values, Mean):
        return reduction.mean(_array(fun_name, what, values, _TERM))
    value = jnp.asarray(values.value)
    if value.ndim:
        message = (
            f"{fun_name}: {what} holds means of shape {value.shape}, expected one mean. Merge them "
            f"exactly: write `jax.tree.map(jnp.sum, mean)`."
        )
        raise ValueError(message)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def vector(fun_name: str, losses: Any) -> Array:
    """Several losses, a dict of what `scalar` takes or an array of shape (m,), as one array.

    A dict is taken in the order of its sorted names: the one that it has after any `jit`.
    """
    if isinstance(losses, Mapping):
        if not losses:
            raise ValueError(f"{fun_name}: there are no losses, expected at least one.")
        return jnp.stack(
            [scalar(fun_name, f"the loss {name!r}", losses[name]) for name in sorted(losses)]
        )
    if jnp.ndim(losses) != 1 or jnp.size(losses) == 0:
        came = f"shape {losses.shape}" if hasattr(losses, "shape") else type(losses).__name__
        message = f"{fun_name}: `losses` is {came}, expected a dict, or an array of shape (m,)."
        raise ValueError(message)
    array = _array(fun_name, "`losses`", jnp.asarray(losses), "real numbers")
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _weight(where: str, weight: Any, step: Any) -> Array:
    if callable(weight):
        if step is None:
            message = (
                f"{_NAME}: the weight of `{where}` is a schedule, but `step` was not given: "
                f"write `total(terms, step=step)`."
            )
            raise ValueError(message)
        weight = weight(step)
    array = _array(_NAME, f"`the weight of {where}`", weight, "a scalar, or a schedule of `step`")
    if array.ndim:
        message = (
            f"{_NAME}: the weight of `{where}` has shape {array.shape}, expected a scalar. The pair "
            f"is `(values, weight)`; weights of single examples go into the loss, as `weights=`."
        )
        raise ValueError(message)
    return array


def _array(fun_name: str, what: str, given: Any, expected: str) -> Array:
    try:
        array = None if isinstance(given, list | tuple) else jnp.asarray(given)
    except (TypeError, ValueError):
        array = None
    if array is None:
        raise TypeError(f"{fun_name}: {what} is a {type(given).__name__}, expected {expected}.")
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        raise TypeError(
            f"{fun_name}: {what} is {array.dtype}, expected {expected}, of real numbers."
        )
    return array
