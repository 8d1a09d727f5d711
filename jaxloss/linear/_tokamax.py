"""The fused loss of tokamax, which has a kernel for TPUs, where it can take the place of ours.

It saves memory, not time, and knows neither options nor forward mode: so it is asked for by name,
and whatever keeps it from being taken can be read.
"""

import importlib.util
from typing import Any

import jax
from jax import Array

from jaxloss.linear._arguments import Arguments


def why_not(
    call: Arguments, options: dict[str, Array | None], words: tuple[Any, ...], axis_name: Any
) -> str:
    """What keeps tokamax from computing this loss; empty if nothing does."""
    where, weights, reduction, metrics = words
    extras = {**options, "where": where, "weights": weights, "axis_name": axis_name}
    given = [name for name, value in extras.items() if value is not None]
    given += ["metrics"] * bool(metrics)
    if jax.default_backend() != "tpu":
        return f"its kernel is for TPUs, and this is a {jax.default_backend()}"
    if importlib.util.find_spec("tokamax") is None:
        return "it is not installed"
    if given:
        return f"it knows nothing of {', '.join(f'`{name}`' for name in given)}"
    if reduction not in ("mean", "sum"):
        return f'it reduces by "mean" or "sum", not {reduction!r}'
    return ""


def loss(call: Arguments, ids: Any, reduction: str) -> Array:
    """The loss by tokamax, which wants the weight as (dim, vocabulary)."""
    import tokamax  # type: ignore[import-not-found]  # not a dependency

    weight = call.weight.T if call.transposed else call.weight
    result = tokamax.linear_softmax_cross_entropy_loss(
        call.hidden, ids, weight, reduction=reduction, implementation="mosaic_tpu"
    )
    return result.astype(call.dtype)
