"""How to choose a loss: by task, by condition, by what the fit returns.

The advice is data, in `advice.toml`, one entry a task and loss. What a loss *is* (convex, bounded,
proper) comes from the catalogue, whose traits are tested; a test compares the two.
"""

import difflib
import html
from collections.abc import Mapping
from typing import NamedTuple, TypedDict, Unpack

from jaxloss._core.registry import LossInfo, all_losses
from jaxloss.catalogue import _advice

__all__ = ["Choice", "Choices", "Conditions", "choose", "guide"]


class Choice(NamedTuple):
    """A loss for a task, and when to use it.

    Attributes:
        task: What is predicted.
        info: The loss, as the catalogue has it.
        conditions: The conditions that it is for.
        returns: What the fit is.
        advice: When to use it.
        cost: What it costs.
    """

    task: str
    info: LossInfo
    conditions: tuple[str, ...]
    returns: str
    advice: str
    cost: str

    @property
    def picture(self) -> str:
        """Value and gradient along a line through its inputs, as inline SVG; empty if unknown."""
        from jaxloss.plot import _sections, _svg  # noqa: PLC0415  # not at `import jaxloss`

        line = _sections.line(self.info)
        return _svg.picture(line) if line else ""

    @property
    def facts(self) -> str:
        """The tested traits in words."""
        return ", ".join(sorted(trait.name.replace("_", " ") for trait in self.info.traits))


class Choices(tuple[Choice, ...]):
    """Several choices; a table with pictures in a notebook, and text anywhere else."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        style = ' style="text-align: left; vertical-align: top; min-width: 12em"'
        heads = ("loss", "value and gradient", "when to use it, and what it costs")
        returns = _advice.load().returns
        rows = [
            (
                f"<code>{c.info.name}</code><br>${html.escape(c.info.formula)}$",
                f'<div style="min-width: 240px">{c.picture}</div>',
                f"<p>{html.escape(c.advice)}</p><p><em>But:</em> {html.escape(c.cost)}</p>"
                f"<small>Returns {returns[c.returns]}. Tested: {c.facts or 'nothing'}.</small>",
            )
            for c in self
        ]
        body = "".join(
            f"<tr>{''.join(f'<td{style}>{cell}</td>' for cell in row)}</tr>" for row in rows
        )
        return f"<table><tr>{''.join(f'<th{style}>{h}</th>' for h in heads)}</tr>{body}</table>"

    def __repr__(self) -> str:
        return "\n".join(f"{c.info.name}\n    {c.advice}\n    But: {c.cost}" for c in self)


class Conditions(TypedDict, total=False):
    """Properties of the data, or of what errors cost."""

    outliers: bool
    wrong_labels: bool
    imbalance: bool
    heavy_tails: bool
    calibration: bool
    asymmetric_cost: bool
    missing_targets: bool


def guide() -> Choices:
    """Every entry of the advice, task by task."""
    losses = {info.name: info for info in all_losses()}

    def choice(entry: _advice.Entry) -> Choice:
        info = losses[entry.loss]
        when = entry.when or info.when[:1].upper() + info.when[1:]
        return Choice(entry.task, info, entry.conditions, entry.returns, when, entry.cost)

    return Choices(map(choice, _advice.load().entries))


def choose(
    *, task: str | None = None, returns: str | None = None, **conditions: Unpack[Conditions]
) -> Choices:
    """Finds a loss by the task, by conditions, and by what the fit should be.

    Args:
        task: "regression", "binary", "multiclass", "multilabel", "probabilistic", "ranking",
            "segmentation", "sequence", "contrastive", "preference" or "policy"; if None, any.
        returns: What the fit is: "mean", "centre", "median", "quantile", "expectile",
            "probabilities", "scores", "distribution", "overlap", "embeddings" or "policy"; if
            None, any.
        **conditions: `outliers`, `wrong_labels`, `imbalance`, `heavy_tails`, `calibration`,
            `asymmetric_cost` or `missing_targets`, each as `=True`. Losses for more of them
            come first.

    Returns:
        The choices in the order in which to try them; with formulas and pictures in a notebook.

    Raises:
        ValueError: If there is no such task or return value, or no advice for the combination;
            the message lists what there is.
        TypeError: If there is no such condition.

    Example:
        >>> import jaxloss as jl
        >>> jl.catalogue.choose(task="regression", outliers=True)[0].info.name
        'regression.huber'
    """
    advice = _advice.load()
    _known("task", task, advice.tasks)
    _known("returns", returns, advice.returns)
    for name in conditions:
        if name not in advice.conditions:
            known = ("task", "returns", *advice.conditions)
            raise TypeError(_unknown("it has no argument", name, known))
    asked = {name for name, is_asked in conditions.items() if is_asked}
    every = guide()
    if "missing_targets" in asked:
        every = _with_missing(every)
    found = [c for c in every if task in (None, c.task) and returns in (None, c.returns)]
    if asked:
        found = [c for c in found if asked & set(c.conditions)]
        found.sort(key=lambda c: -len(asked & set(c.conditions)))
    if not found:
        of_task = (c for c in _with_missing(every) if task in (None, c.task))
        about = ", ".join(sorted({name for c in of_task for name in c.conditions}))
        raise ValueError(
            f"choose: there is no advice for this combination. For task={task!r} there is advice "
            f"about {about}; `returns` may be left out."
        )
    return Choices(found)


def _with_missing(every: Choices) -> Choices:
    """The guide, and for the first loss of each task what to do about missing targets."""
    first = {c.task: c for c in reversed(every)}
    missing = _advice.load().missing_targets
    added = [
        c._replace(conditions=("missing_targets",), advice=missing["when"], cost=missing["cost"])
        for c in first.values()
    ]
    return Choices([*every, *reversed(added)])


def _known(what: str, value: object, known: Mapping[str, str]) -> None:
    if value is not None and value not in known:
        raise ValueError(_unknown(f"there is no {what}", value, tuple(known)))


def _unknown(what: str, value: object, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"choose: {what} {value!r}, only {', '.join(known)}.{hint}"
