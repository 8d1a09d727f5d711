"""What all integrations need: the entry of a loss, labels as it takes them, clear refusals."""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from jaxloss._core.registry import LossInfo, info_of


def imported(name: str, *, of: str, package: str) -> ModuleType:
    """A module of another library, or an error that says what to install."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"jaxloss.integrations.{of} needs {package}, which is not installed: "
            f"pip install {package}"
        ) from error


def entry(loss: Callable[..., Any], options: Mapping[str, Any], *, of: str) -> LossInfo:
    """What is known about a loss that takes a prediction and a target."""
    info = info_of(loss)
    if info is None:
        shown = getattr(loss, "__qualname__", repr(loss))
        raise TypeError(
            f"jaxloss.integrations.{of}: `loss` is {shown}, expected a loss such as "
            "jaxloss.regression.huber, or a function under @jaxloss.loss."
        )
    if len(info.data) != 2:
        raise TypeError(
            f"jaxloss.integrations.{of}: {info.name} takes {', '.join(info.data)}; expected a loss "
            "of one prediction and one target. Fix the others: write a function of two arguments "
            "under @jaxloss.loss that calls it."
        )
    if info.spec.result.event:
        raise TypeError(
            f"jaxloss.integrations.{of}: {info.name} compares the examples of a whole batch with "
            "each other; expected a loss of one example."
        )
    taken = [n for n in ("where", "weights", "reduction") if n in options]
    if taken:
        raise TypeError(
            f"jaxloss.integrations.{of}: `{taken[0]}` is given by the other library, with each "
            "batch: leave it out."
        )
    unknown = sorted(set(options) - set(info.signature.parameters))
    if unknown:
        raise TypeError(
            f"jaxloss.integrations.{of}: {info.name} has no option `{unknown[0]}`; its options are "
            f"{', '.join(info.options) or 'none'}."
        )
    return info


def _takes_ids(info: LossInfo, prediction: Any, target: Any) -> bool:
    """Whether the target is class ids, by the forms that the loss declares and by rank."""
    forms = info.spec.array_specs[info.data[1]]
    of_ids = [form for form in forms if form.kind == "Int"]
    return bool(of_ids) and (len(of_ids) == len(forms) or target.ndim < prediction.ndim)


def as_declared(info: LossInfo, prediction: Any, target: Any) -> tuple[Any, Any]:
    """Prediction and target in the shapes and dtypes that the loss declares.

    Other libraries carry class ids as floats, and a column of numbers beside a vector: a last axis
    of size 1 that only one of both has is taken away, and ids become integers.
    """
    event = len(info.spec.array_specs[info.data[0]][0].event)
    if event == 0 and abs(prediction.ndim - target.ndim) == 1:
        longer = prediction if prediction.ndim > target.ndim else target
        if longer.shape[-1] == 1:
            prediction, target = (x[..., 0] if x is longer else x for x in (prediction, target))
    only_ids = all(form.kind == "Int" for form in info.spec.array_specs[info.data[1]])
    column = target.ndim == prediction.ndim and target.shape[-1] == 1
    if event and column and (only_ids or prediction.shape[-1] != 1):
        target = target[..., 0]
    if _takes_ids(info, prediction, target):
        target = target.astype(jnp.int32)
    return prediction, target
