"""The advice of `advice.toml`, as data."""

import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Advice", "Entry", "load"]


class Entry(NamedTuple):
    """When to use a loss for a task, and what it costs.

    Without `when`, the docstring of the loss has the advice.
    """

    task: str
    loss: str
    conditions: tuple[str, ...]
    returns: str
    cost: str
    when: str = ""


class Advice(NamedTuple):
    """All entries, and the words that they use, each with its meaning."""

    tasks: Mapping[str, str]
    conditions: Mapping[str, str]
    returns: Mapping[str, str]
    entries: tuple[Entry, ...]
    missing_targets: Mapping[str, str]


@functools.cache
def load() -> Advice:
    """Reads the file, once."""
    text = importlib.resources.files("jaxloss.catalogue").joinpath("advice.toml").read_text()
    data = tomllib.loads(text)
    entries = (
        Entry(**entry | {"conditions": tuple(entry["conditions"])}) for entry in data["advice"]
    )
    return Advice(
        data["tasks"],
        data["conditions"],
        data["returns"],
        tuple(entries),
        data["missing_targets"],
    )
