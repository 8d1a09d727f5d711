"""What a caller may pass where an array is meant."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # A caller may pass whatever NumPy understands; the body receives the array made of it.
    ArrayLike = Any
else:

    class ArrayLike:
        """Anything that NumPy can make an array of: arrays, numbers, lists of numbers."""
