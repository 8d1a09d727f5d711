r"""Several losses as one: the weighted sum of named terms.

`total` returns what `has_aux=True` expects: a scalar to differentiate, and the terms themselves to
log. A weight may be a number, a traced array, a learned parameter or an Optax schedule; changing
its value compiles nothing again.
"""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxloss._core import reduction
from jaxloss._core.arguments import as_array
from jaxloss._core.checks import are_on, check
from jaxloss._core.dtypes import accumulator_dtype, to_accumulator
from jaxloss._core.parameters import real_array
from jaxloss._core.reduction import Mean
from jaxloss._core.spec import ArrayLike
from jaxloss.domains import finite

_NAME = "jaxloss.total"
_TERM = "an array, a number or a `Mean`, bare or as a tuple `(values, weight)`"


def total(terms: Mapping[str, Any], step: Any = None) -> tuple[Array, dict[str, Array]]:
    r"""Weighted sum of the means of named losses.

    When to use: an objective of several terms, differentiated with `has_aux=True`, whose terms
    are logged one by one.

    $$\sum_k w_k \bar\ell_k$$

    The weight multiplies: a term that is NaN makes the sum NaN even with weight 0, because its
    gradient is NaN as well. A quantity that is only logged does not belong among the terms.

    Args:
        terms: For each name values, or a tuple `(values, weight)`; the default weight is 1.
            Values are an array of any shape, of which the mean is taken; a scalar; or the `Mean`
            of `reduction="parts"`, which is divided here. A list is refused, because it could be
            meant as a pair. A weight is a scalar, possibly traced or learned, or a schedule: a
            function of `step`.
        step: The argument of schedules: the number of steps so far.

    Returns:
        The total, and a dict of the terms *before* weighting, in the given order. All are
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
        # The dtype of a product is that of its term; the dtype of the weight does not matter.
        weighted.append(_weight(where, weight, step).astype(value.dtype) * value)
    dtype = accumulator_dtype(*(term.dtype for term in weighted))
    return functools.reduce(operator.add, [x.astype(dtype) for x in weighted]), unweighted


def scalar(fun_name: str, what: str, values: ArrayLike) -> Array:
    """One number, float32 or float64: a `Mean` is divided, of an array the mean is taken."""
    if not isinstance(values, Mean):
        return reduction.mean(real_array(fun_name, what, values, _TERM))
    dtype = accumulator_dtype(jnp.result_type(values.total))
    parts = (jnp.asarray(x).astype(dtype) for x in (values.total, values.weight))
    value = Mean(*parts).value
    if value.ndim:
        message = (
            f"{fun_name}: {what} holds means of shape {value.shape}, expected one mean. Merge them "
            f"exactly: write `jax.tree.map(jnp.sum, mean)`."
        )
        raise ValueError(message)
    return value


def vector(fun_name: str, losses: ArrayLike) -> Array:
    """Several losses as one array: a dict of what `scalar` accepts, or an array of shape (m,).

    The losses of a dict are ordered by name: the order that they have after any `jit`.
    """
    if isinstance(losses, Mapping):
        if not losses:
            raise ValueError(f"{fun_name}: there are no losses, expected at least one.")
        values = [scalar(fun_name, f"the loss {name!r}", losses[name]) for name in sorted(losses)]
        dtype = accumulator_dtype(*(value.dtype for value in values))
        return jnp.stack([value.astype(dtype) for value in values])
    array = as_array(fun_name, "losses", losses)
    if array.ndim != 1 or array.size == 0:
        message = (
            f"{fun_name}: `losses` has shape {array.shape}, expected a dict, or an array of shape "
            f"(m,)."
        )
        raise ValueError(message)
    return to_accumulator(real_array(fun_name, "`losses`", array, "real numbers"))


def _weight(where: str, weight: Any, step: Any) -> Array:
    if callable(weight):
        if step is None:
            message = (
                f"{_NAME}: the weight of `{where}` is a schedule, but `step` was not given: "
                f"write `total(terms, step=step)`."
            )
            raise ValueError(message)
        weight = weight(step)
    expected = "a scalar, or a schedule of `step`"
    array = real_array(_NAME, f"`the weight of {where}`", weight, expected)
    if array.ndim:
        message = (
            f"{_NAME}: the weight of `{where}` has shape {array.shape}, expected a scalar. The "
            f"pair is `(values, weight)`; weights of examples go into the loss, as `weights=`."
        )
        raise ValueError(message)
    return array
