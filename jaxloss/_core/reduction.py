r"""From one number an example to one number: sums and means that merge exactly.

A mean is a pair, the weighted sum of the values and the sum of the weights, and it is divided
once, at the end. Micro-batches, hosts and masked entries therefore never lead to an average of
averages:

$$\frac{\sum_i w_i \ell_i}{\sum_i w_i}
  = \frac{\sum_b \sum_{i \in b} w_i \ell_i}{\sum_b \sum_{i \in b} w_i}$$

A mean over nothing is 0, with gradient 0. A NaN in an entry that counts stays visible. Weights
that sum to 0 although some are not 0 give an infinite mean, or NaN: it is not defined.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxloss._core.arguments import as_array
from jaxloss._core.typing import Shape
from jaxloss._core.validate import where_and_weights
from jaxloss._xla import one_depending_on

__all__ = [
    "Mean",
    "TypeOfReduction",
    "divide",
    "mean",
    "reduce",
    "sum",
    "to_values",
    "total_weight",
]

TypeOfReduction = Literal["none", "mean", "sum", "parts"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean that is not divided yet, so that it can be added and crosses devices exactly.

    Every loss returns one with `reduction="parts"`. It is a pytree: `jit`, `scan`, `grad` and
    `jax.tree` carry it.

    Attributes:
        total: The weighted sum of the values.
        weight: The sum of the weights: without weights, how many values counted.

    Example:
        >>> (Mean(6.0, 2.0) + Mean(1.0, 5.0)).value
        Array(1., dtype=float32, weak_type=True)
    """

    total: Any
    weight: Any

    def __add__(self, other: "Mean") -> "Mean":
        """The mean over both sets of values: exact, unlike the mean of two means."""
        if not isinstance(other, Mean):
            return NotImplemented
        return Mean(self.total + other.total, self.weight + other.weight)

    def __radd__(self, other: object) -> "Mean":
        """Lets the builtin `sum` start from its 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def psum(self, axis_name: str | tuple[str, ...]) -> "Mean":
        """The mean over all devices of a mapped axis: uneven counts a device are weighed right."""
        return Mean(jax.lax.psum(self.total, axis_name), jax.lax.psum(self.weight, axis_name))

    @property
    def value(self) -> Array:
        """`total / weight`.

        Over nothing, where both are 0, it is 0, and so is its gradient. Where weights of both
        signs sum to 0 and the total does not, it is infinite.
        """
        return divide(self.total, self.weight)


def divide(total: Any, weight: Any) -> Array:
    """The one rule by which a sum becomes a mean: see `Mean.value`."""
    nothing = jnp.logical_and(jnp.equal(weight, 0), jnp.equal(total, 0))
    quotient = total / jnp.where(nothing, 1, weight)
    return jnp.where(nothing, 0, quotient)


def total_weight(
    shape: Shape, where: Array | None, weights: Array | None, dtype: DTypeLike
) -> Array:
    """What a mean divides by: the sum of the weights, or how many values count."""
    if weights is not None:
        weight = jnp.sum(weights)
    elif where is not None:
        # Counted in integers: float32 cannot count past 2**24.
        weight = jnp.sum(jnp.broadcast_to(where, shape), dtype=jnp.int32)
    else:
        size = math.prod(shape)
        weight = jnp.asarray(float(size) if isinstance(size, int) else size)  # or symbolic
    return weight.astype(dtype)


@jax.custom_jvp
def _total(values: Array) -> Array:
    """The sum of all values; its gradient waits for it, so that the values are freed first."""
    return jnp.sum(values)


@_total.defjvp
def _total_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    total = _total(*primals)
    return total, one_depending_on(total) * jnp.sum(tangents[0])


def reduce(
    values: Array,
    where: Array | None,
    weights: Array | None,
    reduction: TypeOfReduction,
    *,
    cached: bool = False,
) -> Any:
    """The one implementation of `where`, `weights` and `reduction`, for all losses.

    Args:
        values: One value an example.
        where: Booleans of their shape, or a scalar.
        weights: Weights of their shape, or a scalar.
        reduction: "none", "mean", "sum" or "parts".
        cached: Whether all that the values are made of stays in a core's cache, so that nothing
            need be freed early.

    Returns:
        The values, a scalar, or a `Mean`.
    """
    if where is not None:
        values = jnp.where(where, values, 0)
    if weights is not None:
        weights = jnp.broadcast_to(weights, values.shape)
        if where is not None:
            weights = jnp.where(where, weights, 0)
        values = weights * values
    if reduction == "none":
        return values
    total = jnp.sum(values) if cached else _total(values)
    if reduction == "sum":
        return total
    size = math.prod(values.shape)
    if reduction == "mean" and where is None and weights is None and isinstance(size, int):
        return total / float(max(size, 1))  # as `Mean.value`, in fewer steps to trace
    weight = total_weight(values.shape, where, weights, total.dtype)
    parts = Mean(total, weight)
    return parts if reduction == "parts" else parts.value


def to_values(
    fun_name: str, values: Any, where: Any, weights: Any
) -> tuple[Array, Array | None, Array | None]:
    """What a function of values was given: values in float32 or better, `where` and `weights`."""
    values = jnp.asarray(as_array(fun_name, "values", values))
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        message = f"{fun_name}: `values` is {values.dtype}, expected real numbers."
        raise TypeError(f"{message} Write `jnp.abs(values)`, or give its real and imaginary parts.")
    # Half precision is summed in float32: 256 + 1 is 256 in bfloat16.
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.result_type(float))
    values = values.astype(jnp.float32) if jnp.finfo(values.dtype).bits < 32 else values
    where, weights = where_and_weights(
        fun_name, values.shape, values.dtype, where, weights, leader="values"
    )
    return values, where, weights


def mean(values: Any, *, where: Any = None, weights: Any = None) -> Array:
    r"""Takes the mean of values that count: 0 over nothing, accumulated in float32 or better.

    $$\frac{\sum_i w_i x_i}{\sum_i w_i}$$

    Args:
        values: Any shape; all axes are averaged.
        where: Booleans of the values' shape; what is False is left out, NaN included.
        weights: Weights of the values' shape. They multiply: a NaN with weight 0 stays a NaN;
            leave it out with `where`.

    Returns:
        A scalar; float32 for half precision and integers.

    Example:
        >>> mean([1.0, 2.0, jnp.nan], where=[True, True, False])
        Array(1.5, dtype=float32)
    """
    return reduce(*to_values("jaxloss.mean", values, where, weights), "mean")


def sum(values: Any, *, where: Any = None, weights: Any = None) -> Array:
    r"""Adds up the values that count: 0 over nothing, accumulated in float32 or better.

    $$\sum_i w_i x_i$$

    Args:
        values: Any shape; all axes are added.
        where: Booleans of the values' shape; what is False is left out, NaN included.
        weights: Weights of the values' shape.

    Returns:
        A scalar; float32 for half precision and integers.

    Example:
        >>> sum([1.0, 2.0, jnp.nan], where=[True, True, False], weights=[1.0, 3.0, 1.0])
        Array(7., dtype=float32)
    """
    return reduce(*to_values("jaxloss.sum", values, where, weights), "sum")
