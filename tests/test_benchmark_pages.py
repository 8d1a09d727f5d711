"""The numbers in the prose of `benchmarks/families.md` are those of its table."""

import pathlib
import re

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


def split_page(name):
    """The cells of the table's rows, and the prose, one paragraph or item each."""
    lines = (BENCHMARKS / f"{name}.md").read_text().splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    prose = "\n".join(line for line in lines if not line.startswith("|"))
    items = re.split(r"\n\n|\n(?=- )", prose)
    return [[cell.strip() for cell in row] for row in rows], [" ".join(i.split()) for i in items]


ROWS, ITEMS = split_page("families")
RATIOS = {row[0]: float(row[3]) for row in ROWS if re.fullmatch(r"\d+\.\d\d", row[3])}
MEMORY = {row[0]: row[4] for row in ROWS[1:]}
# "`box.giou` (1.26)", "`crps_logistic` 1.40", "`crps_student_t` (1.21; 126 MiB against 17)".
QUOTED = re.compile(r"`([\w.]+(?: ids)?)` \(?(\d+\.\d\d)(?:; (\d+) MiB against (\d+))?")
QUOTES = [match.groups() for item in ITEMS for match in QUOTED.finditer(item)]


def full_name(name):
    found = [n for n in RATIOS if n == name or n.endswith(f".{name}")]
    assert len(found) == 1, (name, found)
    return found[0]


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: quote[0])
def test_a_number_in_the_prose_is_that_of_the_row(quote):
    name, time, *memory = quote
    row = full_name(name)
    assert float(time) == RATIOS[row]
    if memory[0]:
        assert " / ".join(memory) == MEMORY[row]


def test_each_slower_row_is_explained():
    explained = {full_name(name) for name, *_ in QUOTES}
    slower = {name for name, ratio in RATIOS.items() if ratio > 1.1}
    assert slower <= explained, slower - explained
