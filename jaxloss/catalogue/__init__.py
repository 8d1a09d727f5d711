"""The catalogue: every loss as data, registered by `@loss` when it is defined.

An entry holds the facts: name, family, first line and formula of the docstring, arguments, traits.
The README's table, the documentation and the tests read the same entries. `choose` adds advice to
the facts, and `compare` scores the fits of several losses on held-out data.
"""

import html
from collections.abc import Iterable
from typing import Any

from jaxloss._core.registry import LossInfo, all_losses, info_of
from jaxloss.catalogue._choose import Choice, Choices, choose
from jaxloss.catalogue._compare import Comparison, Score, compare
from jaxloss.traits import Trait, all_traits

__all__ = [
    "Choice",
    "Choices",
    "Comparison",
    "LossInfo",
    "LossTable",
    "Score",
    "choose",
    "compare",
    "find",
    "losses",
    "of",
]


class LossTable(tuple[LossInfo, ...]):
    """Several cards; a table in a notebook, and one of text anywhere else."""

    __slots__ = ()

    _HEADINGS = ("loss", "when to take it", "options", "traits")

    def _rows(self) -> list[tuple[str, str, str, str]]:
        def traits(info: LossInfo) -> str:
            return ", ".join(t for t in all_traits() if all_traits()[t] in info.traits)

        return [(c.name, c.summary, ", ".join(c.options), traits(c)) for c in self]

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [f"| `{n}` | {s} | {o} | {t.replace('_', ' ')} |" for n, s, o, t in self._rows()]
        head = f"| {' | '.join(self._HEADINGS)} |\n|{' --- |' * len(self._HEADINGS)}"
        return "\n".join([head, *rows])

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            style = ' style="text-align: left"'
            return "<tr>" + "".join(f"<{tag}{style}>{cell}</{tag}>" for cell in cells) + "</tr>"

        rows = [
            row([f"<code>{name}</code>", *(html.escape(text) for text in rest)], "td")
            for name, *rest in self._rows()
        ]
        return f"<table>{row(self._HEADINGS, 'th')}{''.join(rows)}</table>"

    def __repr__(self) -> str:
        width = max((len(c.name) for c in self), default=0)
        return "\n".join(f"{c.name:{width}}  {c.summary}" for c in self)


def losses() -> LossTable:
    """Every loss: those of jaxloss, shelf by shelf in teaching order, then one's own.

    Example:
        >>> import jaxloss as jl
        >>> len(jl.catalogue.losses()) > 10
        True
    """
    return LossTable(all_losses())


def of(loss: Any) -> LossInfo | None:
    """The entry of a loss, or None for a function that `@loss` has not decorated.

    Example:
        >>> import jaxloss as jl
        >>> jl.catalogue.of(jl.regression.huber).options
        ('delta',)
    """
    return info_of(loss)


def find(*traits: Trait | str, family: str | None = None, text: str = "") -> LossTable:
    """Finds the losses that have all the traits given.

    Args:
        *traits: Traits, or their names.
        family: Only losses of this module.
        text: Only losses whose name, first line or formula holds this text.

    Returns:
        Their cards; shown as a table in a notebook.

    Raises:
        ValueError: If there is no trait or no shelf of that name; it lists those there are.

    Example:
        >>> import jaxloss as jl
        >>> jl.catalogue.find("convex", "bounded_gradient", text="huber")[0].name
        'regression.huber'
    """
    known = all_traits()
    for trait in traits:
        if str(trait) not in known and trait not in known.values():
            message = f"find: there is no trait {trait!r}; there are {', '.join(known)}."
            raise ValueError(message)
    every = all_losses()
    families = sorted({info.family for info in every} - {""})
    if family is not None and family not in families:
        message = f"find: there is no shelf {family!r}; there are {', '.join(families)}."
        raise ValueError(message)
    wanted = {known[t] if isinstance(t, str) else t for t in traits}
    return LossTable(
        info
        for info in every
        if wanted <= info.traits
        and family in (None, info.family)
        and text.lower() in f"{info.name} {info.summary} {info.formula}".lower()
    )
