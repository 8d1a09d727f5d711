"""The tables of `docs/accelerators.md` are those of `benchmarks/accelerators.md`."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TARGETS = ("TPU v5e, float32", "TPU v5e, bfloat16", "H100, float32", "H100, bfloat16")


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def measured(column=1):
    """Of each target the ratio of bytes of each row, empty where there is no textbook form.

    In the tables of half precision column 2 is the ratio to that form in float32, where it is given.
    """
    found = {}
    for section in (ROOT / "benchmarks/accelerators.md").read_text().split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        if title in TARGETS:
            rows = [cells(line) for line in text.splitlines() if line.startswith("| `")]
            found[title] = {row[0].strip("`"): row[column] for row in rows}
    return found


def rows_that_hold_more(target):
    """How many rows have over 1 MiB more of temporaries than their textbook form."""
    column = 4 if "bfloat16" in target else 3
    held = [cell.split(" / ") for cell in measured(column)[target].values() if " / " in cell]
    return sum(float(ours) > float(theirs) + 1 for ours, theirs in held)


def tables():
    page = (ROOT / "docs/accelerators.md").read_text().split("\n")
    rows = [cells(line) for line in page if line.startswith("| ")]
    return [row for row in rows if len(row) in (5, 7)]


def full_name(label, names):
    """The row that a label of the page means: `dice`, or `poly1` with its kind of labels."""
    name = (
        label.replace("`", "")
        .replace(", class ids", " ids")
        .replace(", distributions", " distributions")
    )
    found = [n for n in names if re.fullmatch(rf"(.*\.)?{re.escape(name)}( ids)?", n)]
    assert len(found) == 1, (label, found)
    return found[0]


@pytest.mark.parametrize("row", [r for r in tables() if r[0].startswith("`")], ids=lambda r: r[0])
def test_a_row_of_the_page_is_that_of_the_benchmark(row):
    ratios = measured()
    name = full_name(row[0], ratios["H100, float32"])
    assert row[1:] == [ratios[target].get(name, "") for target in TARGETS]


@pytest.mark.parametrize("row", [r for r in tables() if r[0] in TARGETS], ids=lambda r: r[0])
def test_the_counts_of_the_page_are_those_of_the_benchmark(row):
    found = measured()[row[0]].values()
    ratios = [float(ratio) for ratio in found if ratio]
    below, above = sum(r <= 1.05 for r in ratios), sum(r > 1.25 for r in ratios)
    of_float32 = above
    if "bfloat16" in row[0]:
        wide = measured(2)[row[0]].values()
        both = [float(w or r) for r, w in zip(found, wide, strict=True) if r]
        of_float32 = sum(min(pair) > 1.25 for pair in zip(ratios, both, strict=True))
    more = rows_that_hold_more(row[0])
    counts = len(found), len(ratios), below, above, of_float32, more
    assert row[1:] == [str(n) for n in counts]
