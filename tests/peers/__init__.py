"""What each loss of a peer is here: rows of data, a file a peer.

A row is two expressions with one value and one gradient. `tests/oracles/make_peers.py` evaluates
the peer's expression, with the peer installed, and freezes the result into
`tests/oracles/peers.json`; `tests/test_peers.py` evaluates ours and compares; and
`tools/coming_from.py` writes the pages `docs/coming_from*` from the same rows.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import tomllib
from collections.abc import Mapping

import numpy as np

from peers.inputs import INPUTS

NAMES = (
    "torch", "keras", "optax", "rax", "rlax", "trl", "verl", "liger-kernel", "scikit-learn", "scipy",
)  # fmt: skip
FOLDER = pathlib.Path(__file__).parent
FROZEN = FOLDER.parent / "oracles" / "peers.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """One expression of a peer, and ours.

    Attributes:
        theirs: What is written there.
        ours: What is written here: it has the same value and the same gradient, unless `truth`
            is given.
        note: The difference between the two, for the reader of the page.
        truth: Where the two differ, the value by its definition, in NumPy: ours must have it,
            theirs must not.
        rtol: The relative tolerance, where the peer adds a small constant of its own.
    """

    theirs: str
    ours: str
    note: str = ""
    truth: str = ""
    rtol: float = 1e-9

    @property
    def inputs(self) -> str:
        """A hash of the numbers that the peer is given."""
        names = set(re.findall(r"\w+", self.theirs)) | {self.argument}
        used = {name: np.round(x * 1.0, 9).tolist() for name, x in INPUTS.items() if name in names}
        return hashlib.sha256(json.dumps(used).encode()).hexdigest()[:8]

    @functools.cached_property
    def argument(self) -> str:
        """The input to differentiate by: the first that our first loss is given."""
        of_ours = re.compile(r"jl\.|jax\.grad\(.*jl\.")
        for call in ast.walk(ast.parse(self.ours)):
            if isinstance(call, ast.Call) and of_ours.match(ast.unparse(call.func)):
                for node in (node for argument in call.args for node in ast.walk(argument)):
                    name = node.id if isinstance(node, ast.Name) else ""
                    if name in INPUTS and INPUTS[name].dtype == float:
                        return name
        raise ValueError(f"{self.ours!r} has no input to differentiate by")


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes:
        name: Its name on the package index.
        about: Its conventions, and how they differ, in Markdown.
        rows: What is compared.
        gaps: Public names and options that have no row, each with the reason.
        classes: Classes of the peer that its functions are, by the name of the function.
    """

    name: str
    about: str
    rows: tuple[Row, ...]
    gaps: Mapping[str, str]
    classes: Mapping[str, str]


def one_line(text: str) -> str:
    """A wrapped text on one line."""
    return " ".join(text.split())


def read(name: str) -> Peer:
    """The data of a peer."""
    data = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    least = data.get("rtol", 0.0)
    rows = []
    for entry in data["rows"]:
        rtol = max(entry.pop("rtol", Row.rtol), least)
        rows.append(Row(**{key: one_line(text) for key, text in entry.items()}, rtol=rtol))
    gaps = {key: one_line(reason) for key, reason in data.get("gaps", {}).items()}
    return Peer(name, data["about"].strip(), tuple(rows), gaps, data.get("classes", {}))


PEERS = {name: read(name) for name in NAMES}


def cotangent(value):
    """The gradient is that of a sum in which no two values have the same weight."""
    return np.arange(1.0, 1 + np.size(value)).reshape(np.shape(value))
