"""Writes docs/coming_from.md and a page for each peer from tests/peers: `make readme`."""

import json
import pathlib
import re
import textwrap

import peers

from tools import ROOT

DOCS = ROOT / "docs"
COLUMNS = 88
WRITTEN = "<!-- Written by tools/coming_from.py from tests/peers: change the rows there. -->"
LEGEND = """
`yes_no`, `one_hot` and `pixel_on` hold 0 and 1; `sign` and `signs` hold -1 and 1. `padded_labels`
are `labels` of which some are -100; `ids_of_yes` lists the classes that are 1 in `yes_no`, padded
with -1. Rows of `probabilities`, `distribution` and `pixel_shares` sum to 1; `log_probabilities`
and `log_distribution` are their logarithms. `amount`, `forecast`, `rate`, `scale` and `variance`
are positive; `share` and `pixel_chance` are between 0 and 1; `over` holds 0 and 1.
"""
# The function that a row is about: the first one of the peer that is called in it.
CALLED = re.compile(
    r"(?:\bF|keras\.losses|optax\.losses|\brax|\brlax|\bmetrics|\bspecial|\bstats|spatial\.distance"
    r"|core_algos|\w+Trainer(?:\([^)]*\))?|\w+Function)"
    r"\.([a-zA-Z]\w*(?:\.(?:logpdf|logpmf))?)[(,]"
)


def function(row: peers.Row) -> str:
    """The name of the peer's function, or class, that a row is about."""
    return CALLED.search(row.theirs)[1]


def topic(row: peers.Row) -> str:
    """What rows about a function and about its class have in common: the name in snake case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", function(row)).lower()


def expression(code: str) -> str:
    """An expression, wrapped at spaces."""
    code = re.sub(r"(?<=[(\[]) |,? (?=[)\]])", "", code)  # lines of a row become one
    return textwrap.fill(
        code, COLUMNS, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def entry(row: peers.Row) -> str:
    """A row: their line, ours, and the difference."""
    code = f"```python\n{expression(row.theirs)}\n{expression(row.ours)}\n```"
    note = f"**Differs.** {row.note}" if row.truth else row.note
    return f"{code}\n\n{note}" if note else code


def peer_page(peer: peers.Peer, version: str) -> str:
    """All rows of a peer, under the names that are searched for."""
    parts = [f"# Coming from {peer.name}", WRITTEN, peer.about]
    parts.append(
        f"Each block shows a line of {peer.name} {version} and the same in jaxloss. "
        "[How they are compared](../coming_from.md)."
    )
    by_topic: dict[str, list[peers.Row]] = {}
    for row in peer.rows:
        by_topic.setdefault(topic(row), []).append(row)
    for rows in by_topic.values():
        names = list(dict.fromkeys(map(function, rows)))
        names += [peer.classes[name] for name in names if name in peer.classes]
        parts.append("## " + ", ".join(f"`{name}`" for name in names))
        parts += map(entry, rows)
    if peer.gaps:
        reasons: dict[str, list[str]] = {}
        for name, reason in peer.gaps.items():
            reasons.setdefault(reason, []).append(f"`{name}`")
        parts.append("## Without a counterpart")
        parts.append("\n".join(f"- {', '.join(n)}: {r}" for r, n in reasons.items()))
    return "\n\n".join(parts) + "\n"


def arrays(rows: list[peers.Row]) -> str:
    """The arrays that the rows name, those of one shape together."""
    used = set(re.findall(r"\w+", " ".join(row.theirs + " " + row.ours for row in rows)))
    kinds = {"f": "numbers", "i": "integers", "b": "booleans"}
    by_shape: dict[str, list[str]] = {}
    for name, x in peers.INPUTS.items():
        if name in used:
            shape = ", ".join(map(str, x.shape))
            by_shape.setdefault(f"{kinds[x.dtype.kind]} [{shape}]", []).append(f"`{name}`")
    lines = [f"| {kind} | {', '.join(names)} |" for kind, names in by_shape.items()]
    return "\n".join(["| shape | names |", "| --- | --- |", *lines])


def index_page(versions: dict[str, str]) -> str:
    """What is compared, and how."""
    rows = [row for peer in peers.PEERS.values() for row in peer.rows]
    differing = sum(bool(row.truth) for row in rows)
    table = ["| library | version | rows | of which differ |", "| --- | --- | --- | --- |"]
    for peer in peers.PEERS.values():
        link = f"[{peer.name}](coming_from/{peer.name}.md)"
        differ = sum(bool(row.truth) for row in peer.rows)
        table.append(f"| {link} | {versions[peer.name]} | {len(peer.rows)} | {differ} |")
    parts = [
        "# Coming from another library",
        WRITTEN,
        f"A page for each library lists its losses by name. Each of the {len(rows)} rows is an "
        "expression of that library and one of jaxloss. A test evaluates ours in float64 and "
        "compares it with the frozen result of theirs: value and, where the library has "
        "gradients, the gradient with respect to the predictions.",
        "\n".join(table),
        f"In the {differing} rows marked **Differs** the two values differ. There a test shows "
        "that ours follows the definition and theirs does not.",
        "In the rows, `import jaxloss as jl`. Three keyword arguments are the same in all losses: "
        '`where` removes examples, `weights` weights them, and `reduction` is `"none"` unless '
        'it is given as `"mean"`, `"sum"` or `"parts"`.',
        "## Arrays in the rows",
        LEGEND.strip(),
        arrays(rows),
    ]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[pathlib.Path, str]:
    """The text of each page."""
    versions = json.loads(peers.FROZEN.read_text())["versions"]
    found = {DOCS / "coming_from.md": index_page(versions)}
    for peer in peers.PEERS.values():
        found[DOCS / "coming_from" / f"{peer.name}.md"] = peer_page(peer, versions[peer.name])
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))
