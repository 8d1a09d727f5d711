"""The line of a loss: its values and slopes along a path through its inputs, for small pictures."""

import functools
from typing import Any

from jaxloss._core.registry import LossInfo
from jaxloss.plot._lines import Line, Subject, elementwise
from jaxloss.plot._paths import OPTIONS, PATHS


def of(info: LossInfo) -> Subject | None:
    """The loss along its line: elementwise ones in their first argument; None if it has none."""
    spec, options = info.spec, OPTIONS.get(info.name, {})
    forms = {name: spec.array_specs[name][0] for name in info.data}
    path = PATHS.get(", ".join(_signature(name, form.event) for name, form in forms.items()))
    if path is None:
        whole = any(form.event for form in forms.values()) or spec.result.event
        return None if whole else elementwise("plot.section", info.function, options)
    row = (0,) * len(spec.result.event)  # of a loss over a set, that of the first example

    def along(x: Any) -> Any:
        return info.function(**path.data(x), **options)[row]

    return Subject(along, info.function.__name__, path.variable, path.over)


@functools.cache
def line(info: LossInfo) -> Line | None:
    """The loss sampled along its line, for small pictures; cached, so that it is compiled once."""
    subject = of(info)
    return subject.sample(points=121) if subject else None


def _signature(name: str, event: tuple[str, ...]) -> str:
    return f"{name}[{' '.join(event)}]" if event else name
