"""A notebook and its script agree; it was executed without an error, and is small.

The slow tier executes the scripts; each ends in assertions of its conclusions.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tools import notebooks

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(NOTEBOOKS.glob("*.py"))
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
KILOBYTES = 400


def cells_of_script(script):
    """Kind and source of each cell of a percent script."""
    text = script.read_text().split("# %%", 1)[1]
    cells = []
    for chunk in ("# %%" + text).split("\n# %%"):
        head, _, body = chunk.removeprefix("# %%").partition("\n")
        if head.strip() == "[markdown]":
            lines = [re.sub("^# ?", "", line) for line in body.strip().splitlines()]
            cells.append(("markdown", "\n".join(lines)))
        else:
            cells.append(("code", body.strip()))
    return cells


def cells(script, of_colab=False):
    every = json.loads(script.with_suffix(".ipynb").read_text())["cells"]
    return [cell for cell in every if notebooks.is_of_colab(cell) == of_colab]


def outputs(script):
    code = [cell for cell in cells(script) if cell["cell_type"] == "code"]
    return [output for cell in code for output in cell["outputs"]]


def test_there_are_notebooks():
    assert len(SCRIPTS) >= 7


@each
def test_pair_is_in_step(script):
    of_notebook = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells(script)]
    assert of_notebook == cells_of_script(script), f"run `make notebooks`: {script.stem}"


@each
def test_was_executed_in_order_without_an_error(script):
    counts = [c["execution_count"] for c in cells(script) if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(script) if output["output_type"] == "error"]


@each
def test_shows_pictures_and_is_small(script):
    kinds = [kind for output in outputs(script) for kind in output.get("data", {})]
    drawn = len(re.findall(r"plt\.subplots|= plot\.(?!slider)\w+\((?!.*ax=)", script.read_text()))
    assert kinds.count("image/png") >= max(drawn, 1)
    size = script.with_suffix(".ipynb").stat().st_size
    assert size < KILOBYTES * 1000, f"{script.stem}.ipynb has {size} bytes"
    # A progress bar in a notebook is a widget, which only a live kernel can show.
    assert "application/vnd.jupyter.widget-view+json" not in kinds


@each
def test_gives_the_command_that_installs_it_from_a_clone(script):
    beginning = script.read_text().partition("import")[0]
    assert re.search(r'pip install "\.\[(demo|notebooks)\]"', beginning)


@each
def test_opens_in_colab(script):
    badge, install = ("".join(cell["source"]) for cell in cells(script, of_colab=True))
    assert (
        f"colab.research.google.com/github/jaxloss/jaxloss/blob/main/notebooks/{script.stem}.ipynb"
        in badge
    )
    expected = [cell["source"] for cell in notebooks.first_cells(script)]
    assert [badge, install] == expected, f"run `make notebooks`: {script.stem}"
    extra = re.search(r'pip install "\.\[(\w+)\]"', script.read_text())[1]
    assert f'"jaxloss[{extra}] @ git+https://github.com/jaxloss/jaxloss"' in install


@each
def test_ends_in_conclusions_in_prose_and_asserts_them(script):
    (*_, (_, prose), (_, code)) = cells_of_script(script)
    assert prose.startswith("## What we saw\n\n"), "write the conclusions as prose"
    assert len(prose.split()) > 30, "write the conclusions as prose"
    assert re.search(r"^assert |assert_", code, re.MULTILINE), "assert the conclusions"
    headings = re.findall(r"^# #+ .*", script.read_text(), re.MULTILINE)
    assert len(headings) >= 4


@pytest.mark.slow
@each
def test_script_runs(script, tmp_path):
    subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        check=True,
        timeout=600,
    )
