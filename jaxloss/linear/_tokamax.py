"""The fused loss of tokamax, which has a kernel for TPUs, in the place of ours.

It saves memory, not time, and has neither options nor forward mode: it is used on request only.
"""

import importlib
import importlib.util
from typing import Any

from jax import Array

from jaxloss.linear._arguments import Arguments


def check(fun_name: str, options: dict[str, Any], metrics: bool, reduction: str) -> None:
    """Raises if tokamax cannot compute this loss."""
    given = [name for name, x in options.items() if name != "weight" and x is not None]
    given += ["metrics"] if metrics else []
    reason = ""
    if importlib.util.find_spec("tokamax") is None:
        reason = "it is not installed"
    elif given:
        reason = f"it has no {', '.join(f'`{name}`' for name in given)}"
    elif reduction not in ("mean", "sum"):
        reason = f'it reduces by "mean" or "sum", not {reduction!r}'
    if reason:
        message = f"{fun_name}: tokamax cannot compute this loss: {reason}."
        raise ValueError(f'{message} Write `implementation="xla"`.')


def loss(call: Arguments, ids: Any, reduction: str) -> Array:
    """The loss by tokamax, which takes the weight as (dim, vocabulary)."""
    tokamax = importlib.import_module("tokamax")  # not a dependency

    weight = call.weight.T if call.transposed else call.weight
    result = tokamax.linear_softmax_cross_entropy_loss(
        call.hidden, ids, weight, reduction=reduction, implementation="mosaic_tpu"
    )
    return result.astype(call.dtype)
