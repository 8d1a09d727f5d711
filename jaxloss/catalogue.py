"""The catalogue: every loss as data, filed by `@loss` when it is defined.

A card holds the facts: name, shelf, first line and formula of the docstring, arguments, traits.
The README's table, the documentation and the tests read the same cards, so none can drift.
`choose` adds judgement to the facts, and `compare` lets data decide.
"""

import dataclasses
import html
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from jaxloss.choosing import Choice, Choices, choose
from jaxloss.comparing import Comparison, Score, compare
from jaxloss.traits import Trait, all_traits

if TYPE_CHECKING:
    from jaxloss.declaration import Declaration

__all__ = [
    "Card",
    "Cards",
    "Choice",
    "Choices",
    "Comparison",
    "Score",
    "cards",
    "choose",
    "compare",
    "find",
    "of",
    "register",
]


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known about one loss.

    Attributes:
        name: How it is called below `jaxloss`, `regression.huber`, or a user's own name.
        shelf: The module or folder it stands in, `regression`; empty for one's own.
        function: The loss itself.
        summary: The first line of its docstring: when to take it.
        formula: Its equation, in LaTeX.
        signature: Its arguments, their axes and their defaults.
        traits: What holds for every input.
        declaration: How the contract read it.
    """

    name: str
    shelf: str
    function: Callable[..., Any]
    summary: str
    formula: str
    signature: inspect.Signature
    traits: frozenset[Trait]
    declaration: "Declaration" = dataclasses.field(repr=False, compare=False)

    @property
    def data(self) -> tuple[str, ...]:
        """The names of the positional arguments."""
        return self.declaration.data

    @property
    def options(self) -> tuple[str, ...]:
        """The names of its own keywords, the words every loss takes left out."""
        return tuple(n for n in self.declaration.arguments if n not in self.data)


_registry: dict[str, Card] = {}


def _all() -> list[Card]:
    """Every card; shelves that nobody has used yet are imported first."""
    package = importlib.import_module("jaxloss")
    for shelf in package.SHELVES:
        importlib.import_module(f"jaxloss.{shelf}")
    order = {shelf: place for place, shelf in enumerate(package.SHELVES)}
    return sorted(_registry.values(), key=lambda card: order.get(card.shelf, len(order)))


def register(function: Callable[..., Any], declared: "Declaration", traits: Any) -> None:
    """Files a loss; a second one of the same name takes the place of the first."""
    text = inspect.getdoc(function) or ""
    formula = re.search(r"\$\$(.*?)\$\$", text, re.DOTALL)
    module = function.__module__ or ""
    # A shelf may be a folder: `jaxloss.sequence.ctc` stands on the shelf `sequence`.
    shelf = module.split(".")[1] if module.startswith("jaxloss.") else ""
    name = f"{shelf}.{function.__name__}" if shelf else f"{module}.{function.__qualname__}"
    _registry[name] = Card(
        name=name,
        shelf=shelf,
        function=function,
        summary=text.partition("\n")[0],
        formula=" ".join(formula.group(1).split()) if formula else "",
        signature=declared.signature,
        traits=frozenset(traits),
        declaration=declared,
    )


class Cards(tuple[Card, ...]):
    """Several cards; a table in a notebook, and one of text anywhere else."""

    __slots__ = ()

    _HEADINGS = ("loss", "when to take it", "options", "traits")

    def _rows(self) -> list[tuple[str, str, str, str]]:
        def traits(card: Card) -> str:
            return ", ".join(t for t in all_traits() if all_traits()[t] in card.traits)

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


def cards() -> Cards:
    """Every loss: those of jaxloss, shelf by shelf in teaching order, then one's own.

    Example:
        >>> import jaxloss as jl
        >>> len(jl.catalogue.cards()) > 10
        True
    """
    return Cards(_all())


def of(loss: Any) -> Card | None:
    """The card of a loss, or None for a function that `@loss` has not seen.

    Example:
        >>> import jaxloss as jl
        >>> jl.catalogue.of(jl.regression.huber).options
        ('delta',)
    """
    return next((card for card in _registry.values() if card.function is loss), None)


def find(*traits: Trait | str, shelf: str | None = None, text: str = "") -> Cards:
    """Finds the losses that have all the traits given.

    Args:
        *traits: Traits, or their names.
        shelf: Only losses of this module.
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
    every = _all()
    shelves = sorted({card.shelf for card in every} - {""})
    if shelf is not None and shelf not in shelves:
        message = f"find: there is no shelf {shelf!r}; there are {', '.join(shelves)}."
        raise ValueError(message)
    wanted = {known[t] if isinstance(t, str) else t for t in traits}
    return Cards(
        card
        for card in every
        if wanted <= card.traits
        and shelf in (None, card.shelf)
        and text.lower() in f"{card.name} {card.summary} {card.formula}".lower()
    )
