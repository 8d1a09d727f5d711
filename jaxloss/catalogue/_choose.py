"""How to choose a loss: by task, by trouble, by what the fit returns.

The judgement stands in `jaxloss/_judgement.py`, a plain list to be argued about line by line. What
a loss *is* (convex, bounded, proper) comes from the catalogue, whose traits are tested; a test
holds the two against each other.
"""

import difflib
import html
from typing import Any, NamedTuple, TypedDict, Unpack

from jaxloss._core.registry import LossInfo, all_losses
from jaxloss.catalogue._advice import JUDGEMENT, MISSING, RETURNS, TASKS, TROUBLES


class Choice(NamedTuple):
    """A loss, and why one would take it.

    Attributes:
        task: What is predicted, one of `TASKS`.
        card: The loss, as the catalogue knows it.
        troubles: What it is good against, of `TROUBLES`.
        returns: What the fit is, one of `RETURNS`.
        advice: When to take it.
        cost: What that costs.
    """

    task: str
    info: LossInfo
    troubles: tuple[str, ...]
    returns: str
    advice: str
    cost: str

    @property
    def picture(self) -> str:
        """Value and gradient along a telling line, as inline SVG; empty if there is none."""
        from jaxloss.plot import _sections, _svg

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
        heads = ("loss", "value and gradient", "when to take it, and what it costs")
        rows = [
            (
                f"<code>{c.info.name}</code><br>${html.escape(c.info.formula)}$",
                f'<div style="min-width: 240px">{c.picture}</div>',
                f"<p>{html.escape(c.advice)}</p><p><em>But:</em> {html.escape(c.cost)}</p>"
                f"<small>Returns {RETURNS[c.returns]}. Tested: {c.facts or 'nothing'}.</small>",
            )
            for c in self
        ]
        body = "".join(
            f"<tr>{''.join(f'<td{style}>{cell}</td>' for cell in row)}</tr>" for row in rows
        )
        return f"<table><tr>{''.join(f'<th{style}>{h}</th>' for h in heads)}</tr>{body}</table>"

    def __repr__(self) -> str:
        return "\n".join(f"{c.info.name}\n    {c.advice}\n    But: {c.cost}" for c in self)


class Troubles(TypedDict, total=False):
    """What may be the matter with the data, or with what errors cost."""

    outliers: bool
    wrong_labels: bool
    imbalance: bool
    heavy_tails: bool
    calibration: bool
    asymmetric_cost: bool
    missing_targets: bool


def guide() -> Choices:
    """Every line of the judgement, task by task."""
    losses = {info.name: info for info in all_losses()}
    choices = []
    for entry in JUDGEMENT.strip().split("\n\n"):
        head, advice, cost = entry.splitlines()
        task, _, rest = head.partition(": ")
        name, troubles, returns = rest.split("; ")
        choices.append(Choice(task, losses[name], _words(troubles), returns, advice, cost))
    return Choices(choices)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(", ") if word)


def choose(
    *, task: str | None = None, returns: str | None = None, **troubles: Unpack[Troubles]
) -> Choices:
    """Finds a loss by the task, by what is the matter, and by what the fit should be.

    Args:
        task: "regression", "binary", "multiclass", "multilabel", "probabilistic", "ranking",
            "segmentation", "sequence" or "contrastive"; if None, any.
        returns: What the fit is: "mean", "centre", "median", "quantile", "expectile",
            "probabilities", "scores", "distribution", "overlap" or "embeddings"; if None, any.
        **troubles: `outliers`, `wrong_labels`, `imbalance`, `heavy_tails`, `calibration`,
            `asymmetric_cost` or `missing_targets`, each as `=True`. Of several, what helps
            against most of them comes first.

    Returns:
        The choices in the order in which to try them; with formulas and pictures in a notebook.

    Raises:
        ValueError: If there is no such task or return value, or nothing is said about the
            combination; the message lists what there is.
        TypeError: If there is no such trouble.

    Example:
        >>> import jaxloss as jl
        >>> jl.catalogue.choose(task="regression", outliers=True)[0].card.name
        'regression.huber'
    """
    _known("task", task, TASKS)
    _known("returns", returns, RETURNS)
    for name in troubles:
        if name not in TROUBLES:
            raise TypeError(_unknown("takes no", name, ("task", "returns", *TROUBLES)))
    asked = {name for name, whether in troubles.items() if whether}
    every = guide()
    if "missing_targets" in asked:
        every = _with_missing(every)
    found = [c for c in every if task in (None, c.task) and returns in (None, c.returns)]
    if asked:
        found = [c for c in found if asked & set(c.troubles)]
        found.sort(key=lambda c: -len(asked & set(c.troubles)))
    if not found:
        about = sorted(
            {t for c in _with_missing(every) if task in (None, c.task) for t in c.troubles}
        )
        message = f"choose: nothing is said about that; for task={task!r} there is advice on "
        raise ValueError(f"{message}{', '.join(about)}, and `returns` may be left out.")
    return Choices(found)


def _with_missing(every: Choices) -> Choices:
    """The guide, and for the loss that begins each task what to do about missing targets."""
    first = {c.task: c for c in reversed(every)}
    advice, cost = MISSING
    added = [
        c._replace(troubles=("missing_targets",), advice=advice, cost=cost) for c in first.values()
    ]
    return Choices([*every, *reversed(added)])


def _known(what: str, value: Any, known: dict[str, str]) -> None:
    if value is not None and value not in known:
        raise ValueError(_unknown(f"there is no {what}", value, tuple(known)))


def _unknown(what: str, value: Any, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"choose: {what} {value!r}, only {', '.join(known)}.{hint}"
