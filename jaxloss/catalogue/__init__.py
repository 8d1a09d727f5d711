"""The catalogue: every loss as data, registered by `@loss` when it is defined.

An entry has the facts: name, family, summary, advice and formula of the docstring, arguments,
traits. The README's table, the documentation and the tests read the same entries. `choose` adds
advice by task to the facts, and `compare` scores the fits of several losses on held-out data.
"""

import difflib
import html
from collections.abc import Iterable
from typing import Any

from jaxloss._core.namespace import public_names
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
    """Several entries; a table in a notebook, and one of text anywhere else."""

    __slots__ = ()

    _HEADINGS = ("loss", "what it is", "when to use it", "options", "traits")

    def _rows(self) -> list[tuple[str, ...]]:
        def traits(info: LossInfo) -> str:
            names = (name for name, trait in all_traits().items() if trait in info.traits)
            return ", ".join(names).replace("_", " ")

        return [(c.name, c.summary, c.when, ", ".join(c.options), traits(c)) for c in self]

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [f"| `{name}` | {' | '.join(rest)} |" for name, *rest in self._rows()]
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
    """Every loss: those of jaxloss, family by family in teaching order, then one's own.

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
        text: Only losses whose name, summary, advice or formula contains this text.

    Returns:
        Their entries; shown as a table in a notebook.

    Raises:
        ValueError: If there is no trait or no family of that name; it lists those there are.

    Example:
        >>> import jaxloss as jl
        >>> jl.catalogue.find("convex", "bounded_gradient", text="huber")[0].name
        'regression.huber'
    """
    known = all_traits()
    for trait in traits:
        if str(trait) not in known and trait not in known.values():
            raise ValueError(_no_such("trait", str(trait), known))
    every = all_losses()
    families = sorted({info.family for info in every} - {""})
    if family is not None and family not in families:
        raise ValueError(_no_such("family", family, families))
    wanted = {known[t] if isinstance(t, str) else t for t in traits}
    return LossTable(
        info
        for info in every
        if wanted <= info.traits
        and family in (None, info.family)
        and text.lower() in f"{info.name} {info.summary} {info.when} {info.formula}".lower()
    )


def _no_such(what: str, given: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(known), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"find: there is no {what} {given!r}, only {', '.join(known)}.{hint}"


__getattr__, __dir__ = public_names(__name__, __all__)
