"""The registry: every loss that `@loss` has decorated, as data.

The catalogue, the plots, the documentation and the tests read it.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from jaxloss._core.spec import LossSpec
from jaxloss.traits import Trait

__all__ = ["FAMILIES", "LossInfo", "all_losses", "info_of", "register"]

FAMILIES = (
    "regression",
    "robust",
    "classification",
    "divergence",
    "nll",
    "scoring",
    "ranking",
    "contrastive",
    "segmentation",
    "box",
    "image",
    "sequence",
    "policy",
    "value",
    "preference",
    "distillation",
    "router",
    "generative",
    "self_supervised",
)
"""The modules of `jaxloss` that hold losses, in teaching order; imported on first use."""


@dataclasses.dataclass(frozen=True)
class LossInfo:
    """What is known about one loss.

    Attributes:
        name: Its name below `jaxloss`, such as `regression.huber`, or the name of a user's loss.
        family: The module that it belongs to, such as `regression`; empty for a user's loss.
        function: The loss itself.
        summary: The first line of its docstring: what it is.
        when: The paragraph `When to use:` of its docstring.
        formula: Its equation, in LaTeX.
        signature: Its arguments, their axes and their defaults.
        traits: What holds for every input.
        spec: Its arguments and result as the decorator reads them.
    """

    name: str
    family: str
    function: Callable[..., Any]
    summary: str
    when: str
    formula: str
    signature: inspect.Signature
    traits: frozenset[Trait]
    spec: LossSpec = dataclasses.field(repr=False, compare=False)

    @property
    def data(self) -> tuple[str, ...]:
        """The names of the positional arguments."""
        return self.spec.data

    @property
    def options(self) -> tuple[str, ...]:
        """The names of its own options, without the keyword arguments that every loss takes."""
        return tuple(n for n in self.spec.arguments if n not in self.data)


_registry: dict[str, LossInfo] = {}


def register(function: Callable[..., Any], spec: LossSpec, traits: Iterable[Trait]) -> None:
    """Adds a loss; a second one of the same name replaces the first."""
    text = inspect.getdoc(function) or ""
    formula = re.search(r"\$\$(.*?)\$\$", text, re.DOTALL)
    when = re.search(r"^When to use:\s*(.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    module = function.__module__ or ""
    # A family may be a folder: `jaxloss.sequence._ctc` belongs to `sequence`.
    family = module.split(".")[1] if module.startswith("jaxloss.") else ""
    name = f"{family}.{function.__name__}" if family else f"{module}.{function.__qualname__}"
    _registry[name] = LossInfo(
        name=name,
        family=family,
        function=function,
        summary=text.partition("\n")[0],
        when=" ".join(when.group(1).split()) if when else "",
        formula=" ".join(formula.group(1).split()) if formula else "",
        signature=spec.signature,
        traits=frozenset(traits),
        spec=spec,
    )


def all_losses() -> list[LossInfo]:
    """Every registered loss in teaching order; families not yet in use are imported first."""
    for family in FAMILIES:
        importlib.import_module(f"jaxloss.{family}")
    order = {family: place for place, family in enumerate(FAMILIES)}
    return sorted(_registry.values(), key=lambda info: order.get(info.family, len(order)))


def info_of(function: Any) -> LossInfo | None:
    """The entry of a loss, or None for a function that `@loss` has not decorated."""
    return next((info for info in _registry.values() if info.function is function), None)
