"""The README is true: its snippets run in order, comments are results, tables are current."""

import re
import xml.etree.ElementTree as ElementTree

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss as jl
from jaxloss._core import registry
from tools import poster, readme

TEXT = readme.README.read_text()
REMEDY = "run `make readme`"
# A call and, behind two spaces and `#`, its result.
COMMENTED = re.compile(r"^(\w[^#\n]*\)(?:\.dtype)?) +# (.*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def keep_registry(monkeypatch):
    """Losses that a snippet defines are forgotten."""
    jl.catalogue.losses()  # imports the families, which register once
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


def test_counts_are_current():
    if f"optax {optax.__version__} |" not in TEXT:
        pytest.skip(f"the table is about another optax than the installed {optax.__version__}")
    for name, values in readme.counts().items():
        assert readme.row(name, values) in TEXT, REMEDY


def test_table_of_losses_is_current():
    assert readme.table() in TEXT, REMEDY


def test_tool_changes_only_what_is_out_of_date():
    outdated = TEXT.replace(readme.table(), "| family | losses |")
    outdated = re.sub(r"(take `weights` \|) \d+ ", r"\1 0 ", outdated)
    assert outdated != TEXT
    assert readme.current(outdated) == readme.current(TEXT)


def test_poster_shows_every_loss_and_needs_no_other_file():
    (path,) = re.findall(r"!\[.*?\]\((.*?)\)", TEXT)
    assert readme.README.parent / path == poster.TARGET
    picture = ElementTree.fromstring(poster.TARGET.read_text())
    assert picture.attrib["role"] == "img"
    tags = {element.tag.partition("}")[2] for element in picture.iter()}
    assert tags <= {"svg", "title", "path", "text"}
    shown = ["".join(cell.itertext()).replace(" ", "") for cell in picture.findall("{*}svg")]
    drawn = [subject.name.replace("_", "") for subject in poster.subjects()]
    assert shown == [name.replace(" ", "") for name in drawn], REMEDY


@pytest.mark.slow
def test_snippets_run_and_their_comments_are_results(capsys):
    names, compared = {"__name__": "readme"}, 0
    for snippet in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
        for code, comment in COMMENTED.findall(snippet):
            if code.startswith("print"):
                continue
            value, result = eval(code, names), comment.partition(":")[0]
            if result == "float32":
                assert value == jnp.float32
            else:
                np.testing.assert_allclose(value, eval(result, {"nan": np.nan}), rtol=2e-3)
            compared += 1
    printed = capsys.readouterr().out
    assert "{'fit': '2.303', 'z': '0.000'}" in printed
    assert "must be class ids from 0 to classes - 1 (classes = 10), got 10" in printed
    assert compared >= 7
