"""Types that the parts of the contract share."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from jax import Array
from jax.typing import DTypeLike

__all__ = ["ArrayLike", "ArrayType", "Arrays", "AxisName", "Layout", "Shape", "Size"]

# Sizes are integers, symbolic dimensions of `jax.export`, or, where unknown, names of axes.
Size: TypeAlias = Any
Shape: TypeAlias = tuple[Size, ...]

Arrays: TypeAlias = tuple[Array, ...]  # of a rule for derivatives: its primals, or its tangents

AxisName: TypeAlias = str | tuple[str, ...]  # of a mesh, or of `vmap`

if TYPE_CHECKING:
    # A caller may pass whatever NumPy understands; the body receives the array made of it.
    ArrayLike = Any
else:

    class ArrayLike:
        """Anything that NumPy can make an array of: arrays, numbers, lists of numbers."""


@dataclasses.dataclass(frozen=True)
class ArrayType:
    """What is known of an array before its values.

    Attributes:
        name: The argument.
        shape: Its shape, with the event axis last.
        dtype: Its dtype.
        typed: Whether it came as an array: numbers and lists have no precision of their own.
    """

    name: str
    shape: Shape
    dtype: DTypeLike
    typed: bool

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)


class Layout(NamedTuple):
    """Where the caller has the event axis, for errors about shapes as they came.

    Attributes:
        axes: The axes that were moved to the end.
        shapes: The shape of each argument as it came.
    """

    axes: tuple[int, ...]
    shapes: Mapping[str, Shape]

    def __hash__(self) -> int:
        return hash((self.axes, tuple(self.shapes.items())))
