"""Domains: the values that an argument may hold, as data.

`@loss(probabilities=unit_interval)` states one for an argument. The contract uses it for the
value checks, for the values put in place of masked entries, and, for class ids, to give NaN to an
id that is not a class.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxloss._core.namespace import public_names

__all__ = [
    "Domain",
    "above_one_half",
    "at_least_minus_one",
    "below_two",
    "class_ids",
    "decision_label",
    "distribution",
    "extended",
    "finite",
    "log_probability",
    "mean_or_its_log",
    "nonnegative_number",
    "nonpositive_number",
    "nonzero",
    "places_along",
    "positive",
    "sign",
    "sign_label",
    "unit_interval",
    "zero_or_one",
]

# The tests use operators only, so that they accept Python numbers as well as arrays.
Numbers = Any


class Domain(NamedTuple):
    """The values that an argument may hold.

    Attributes:
        meaning: Completes the sentence "must be ...".
        test: Maps the array and its context (the sizes of the named axes and the other
            arguments) to a boolean for each entry, or each row, and to the values to show in an
            error.
        fill: A value of the domain, put where `where` is False.
        guard: Whether a value outside gives NaN in value and gradient even with checks off.
        handles_invalid: Whether the body gives that NaN itself, which saves a pass over the data.
        axis_name: The axis whose entries are counted by class ids; empty for other domains.
        masked: The value of an entry that `mask` leaves out: a logit of -inf has probability 0.
            None is `fill`.
        normalized: Whether rows sum to 1 along the last axis; where `where` is False, rows are
            uniform.
    """

    meaning: str
    test: Callable[[Numbers, Mapping[str, Any]], tuple[Any, Any]]
    fill: float = 0.0
    guard: bool = False
    handles_invalid: bool = False
    axis_name: str = ""
    masked: float | None = None
    normalized: bool = False

    @property
    def masked_value(self) -> float:
        """The value of an entry that `mask` leaves out."""
        return self.fill if self.masked is None else self.masked


def _elementwise(
    meaning: str,
    holds: Callable[[Numbers], Any],
    *,
    fill: float = 0.0,
    guard: bool = False,
    masked: float | None = None,
) -> Domain:
    return Domain(meaning, lambda x, _: (holds(x), x), fill, guard, masked=masked)


def _sums_to_one(x: Array, _: Mapping[str, Any]) -> tuple[Array, Array]:
    total = jnp.sum(x, axis=-1)
    # Rows rounded to bfloat16 miss 1 by up to an epsilon of that type, which is not known here.
    return (jnp.abs(total - 1) < 1e-2) & jnp.all(x >= 0, axis=-1), total


finite = _elementwise("finite", lambda x: abs(x) < inf)
extended = _elementwise("a number or an infinity, not NaN", lambda x: x == x, masked=-inf)
positive = _elementwise("above 0", lambda x: (x > 0) & (x < inf), fill=1.0)
nonzero = _elementwise("a number other than 0", lambda x: (x != 0) & (abs(x) < inf), fill=1.0)
nonnegative_number = _elementwise("at least 0", lambda x: (x >= 0) & (x < inf))
nonpositive_number = _elementwise("at most 0", lambda x: (x <= 0) & (x > -inf))
at_least_minus_one = _elementwise("at least -1", lambda x: (x >= -1) & (x < inf))
above_one_half = _elementwise("above 1/2", lambda x: (x > 0.5) & (x < inf), fill=1.0)
below_two = _elementwise("at least 0 and below 2", lambda x: (x >= 0) & (x < 2))
unit_interval = _elementwise("between 0 and 1", lambda x: (x >= 0) & (x <= 1))
log_probability = _elementwise(
    "the log of a probability, at most 0", lambda x: x <= 1e-6, masked=-inf
)
distribution = Domain(
    "nonnegative and sum to 1 along the class axis", _sums_to_one, normalized=True
)


def class_ids(axis_name: str) -> Domain:
    """Integers that are indices along the axis `axis_name`."""
    return Domain(
        f"class ids from 0 to {axis_name} - 1",
        lambda x, context: ((x >= 0) & (x < context[axis_name]), x),
        guard=True,
        axis_name=axis_name,
    )


def places_along(axis_name: str) -> Domain:
    """Numbers from the first index of the axis `axis_name` to the last, also between them."""
    return Domain(
        f"between 0 and {axis_name} - 1",
        lambda x, context: ((x >= 0) & (x <= context.get(axis_name, inf) - 1), x),
    )


def _is_label(x: Numbers, context: Mapping[str, Any]) -> tuple[Any, Any]:
    no = 0 if context.get("zero_one_labels") else -1
    return (x == 1) | (x == no), x


sign_label = Domain(
    "-1 or +1 (or, with zero_one_labels=True, 0 or 1)", _is_label, fill=1.0, guard=True
)
decision_label = sign_label._replace(handles_invalid=True)
zero_or_one = _elementwise("0 or 1", lambda x: (x == 0) | (x == 1), guard=True)
sign = _elementwise("-1 or +1", lambda x: (x == 1) | (x == -1), fill=1.0, guard=True)


def _is_mean_or_log(x: Numbers, context: Mapping[str, Any]) -> tuple[Any, Any]:
    lowest = -inf if context.get("log_input", True) else 0
    return (abs(x) < inf) & (x >= lowest), x


mean_or_its_log = Domain("finite (or, with log_input=False, at least 0)", _is_mean_or_log, fill=1.0)


__getattr__, __dir__ = public_names(__name__, __all__)
