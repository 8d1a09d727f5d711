"""Writes the tables of README.md: the losses by family, and the counts beside Optax."""

import importlib
import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import optax

import jaxloss as jl
from tools import ROOT

README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- losses: .*? -->\n).*?(<!-- /losses -->)", re.DOTALL)


def losses() -> list[jl.catalogue.LossInfo]:
    """The losses of the package."""
    return [info for info in jl.catalogue.losses() if info.family]


def table() -> str:
    """A row for each family: the first words of its module, and its losses."""
    lines = ["| family | losses |", "| --- | --- |"]
    for family, group in itertools.groupby(losses(), lambda info: info.family):
        heading = importlib.import_module(f"jaxloss.{family}").__doc__.partition("\n")[0]
        names = ", ".join(f"`{info.function.__name__}`" for info in group)
        lines.append(f"| **{heading.partition(':')[0].rstrip('.')}**, `jl.{family}` | {names} |")
    return "\n".join(lines)


def counts() -> dict[str, list[int]]:
    """The rows of the second table, counted from the two packages."""
    ours = losses()
    theirs = [
        function
        for name, function in vars(optax.losses).items()
        if inspect.isfunction(function) and not name.startswith("_")
    ]
    functions = [[info.function for info in ours], theirs]

    def taking(argument: str) -> list[int]:
        return [sum(argument in inspect.signature(f).parameters for f in fs) for fs in functions]

    def complete(function: Callable[..., Any], formula: str) -> bool:
        text = inspect.getdoc(function) or ""
        return all(re.search(part, text) for part in (formula, ">>>", "References"))

    return {
        "losses, or functions in `optax.losses`": [len(fs) for fs in functions],
        "take a mask, `where`": taking("where"),
        "take `weights`": taking("weights"),
        "return sum and weight of a mean, for exact merging": [
            sum("parts" in str(inspect.signature(f)) for f in fs) for fs in functions
        ],
        "have formula, runnable example and reference": [
            sum(complete(f, formula) for f in fs)
            for fs, formula in zip(functions, (r"\$\$", r"math::|:math:|\$"), strict=True)
        ],
        "traits that are tested on drawn inputs": [sum(len(info.traits) for info in ours), 0],
    }


def row(name: str, values: list[int]) -> str:
    """A row of the second table."""
    return f"| {name} | {' | '.join(map(str, values))} |"


def current(text: str) -> str:
    """The text of the README with both tables brought up to date."""
    text = TABLE.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", text)
    for name, values in counts().items():
        text = re.sub(rf"^\| {re.escape(name)} \|.*$", row(name, values), text, flags=re.MULTILINE)
    return re.sub(r"\| optax [\d.]+ \|", f"| optax {optax.__version__} |", text)


if __name__ == "__main__":
    README.write_text(current(README.read_text()))
