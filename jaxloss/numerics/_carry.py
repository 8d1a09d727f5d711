"""The first carry of a loop, of the type that its steps give."""

from typing import Any

from jaxloss._memory.mesh import pcast_varying, vma_of


def carried(start: Any, *others: Any) -> Any:
    """The carry, marked as different on every device on which what the steps read is.

    Inside `shard_map` a loop refuses a carry of constants that a step makes different.
    """
    return pcast_varying(start, vma_of(start, others))
