"""Domains: the values that an argument may hold, as data.

`@loss(probabilities=unit_interval)` states one for an argument. From it come the value checks,
the harmless value put where `where` is False, and, for class ids, the NaN that a label outside
gets instead of another class.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class Domain(NamedTuple):
    """The values that an argument may hold.

    Attributes:
        meaning: Completes the sentence "must be ...".
        test: Maps the array and its context (the sizes of the named axes and the other
            arguments) to what holds, and to what an error should show.
        fill: A value of the domain, put where `where` is False.
        guard: Whether a value outside gives NaN in value and gradient even with checks off.
        handles_invalid: Whether the loss sees to that itself: each pass over the data counts.
    """

    meaning: str
    test: Callable[[Any, Mapping[str, Any]], tuple[Any, Any]]
    fill: float = 0.0
    guard: bool = False
    handles_invalid: bool = False


def _elementwise(
    meaning: str, holds: Callable[[Any], Any], *, fill: float = 0.0, guard: bool = False
) -> Domain:
    return Domain(meaning, lambda x, context: (holds(x), x), fill, guard)


def _sums_to_one(x: Array, context: Mapping[str, Any]) -> tuple[Array, Array]:
    total = jnp.sum(x, axis=-1)
    # Rows rounded to bfloat16 miss 1 by up to an epsilon of that type, which is not known here.
    return (jnp.abs(total - 1) < 1e-2) & jnp.all(x >= 0, axis=-1), total


# The tests are written with operators alone, so that they also judge plain Python numbers.
finite = _elementwise("finite", lambda x: abs(x) < inf)
extended = _elementwise("a number or an infinity, not NaN", lambda x: x == x)
positive = _elementwise("above 0", lambda x: (x > 0) & (x < inf), fill=1.0)
nonzero = _elementwise("a number other than 0", lambda x: (x != 0) & (abs(x) < inf), fill=1.0)
nonnegative_number = _elementwise("at least 0", lambda x: (x >= 0) & (x < inf))
nonpositive_number = _elementwise("at most 0", lambda x: (x <= 0) & (x > -inf))
at_least_minus_one = _elementwise("at least -1", lambda x: (x >= -1) & (x < inf))
below_two = _elementwise("at least 0 and below 2", lambda x: (x >= 0) & (x < 2))
unit_interval = _elementwise("between 0 and 1", lambda x: (x >= 0) & (x <= 1))
log_probability = _elementwise("the log of a probability, at most 0", lambda x: x <= 1e-6)
distribution = Domain("nonnegative and sum to 1 along the class axis", _sums_to_one)


def class_ids(axis_name: str) -> Domain:
    """Integers that name one of the classes of the axis `axis_name`."""
    return Domain(
        f"class ids from 0 to {axis_name} - 1",
        lambda x, context: ((x >= 0) & (x < context[axis_name]), x),
        guard=True,
    )


def _is_label(x: Any, context: Mapping[str, Any]) -> tuple[Any, Any]:
    no = 0 if context.get("zero_one_labels") else -1
    return (x == 1) | (x == no), x


sign_label = Domain(
    "-1 or +1 (or, with zero_one_labels=True, 0 or 1)", _is_label, fill=1.0, guard=True
)
decision_label = sign_label._replace(handles_invalid=True)


sign = _elementwise("-1 or +1", lambda x: (x == 1) | (x == -1), fill=1.0, guard=True)


def _is_mean_or_log(x: Any, context: Mapping[str, Any]) -> tuple[Any, Any]:
    lowest = -inf if context.get("log_input", True) else 0
    return (abs(x) < inf) & (x >= lowest), x


mean_or_its_log = Domain("finite (or, with log_input=False, at least 0)", _is_mean_or_log, fill=1.0)
