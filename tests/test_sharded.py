"""Meshes: eight devices made of one CPU. The checks are in `meshes/`."""

import pathlib
import re

import jax
import pytest
from meshes import eight_devices, guarantees

CHECKS = eight_devices.CHECKS | guarantees.CHECKS
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "meshes.md"


@pytest.mark.mesh
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_on_eight_devices(check):
    assert jax.device_count() == 8, "eight devices are made unless pytest is given -m 'not slow'"
    check()


@pytest.mark.mesh
@pytest.mark.slow
def test_the_snippets_of_the_page_on_meshes_run():
    names = {"__name__": "meshes"}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(snippet, "meshes.md", "exec"), names)
    assert names["loss"](*(names[n] for n in ("hidden", "weight", "labels")), names["labels"] == 0)


def test_the_page_has_a_row_for_each_guarantee():
    """And each row names a check that exists."""
    assert set(re.findall(r"\| `(\w+)` \|", PAGE.read_text())) == set(guarantees.CHECKS)
