"""Meshes: eight devices made of one CPU. The checks are in `meshes/eight_devices.py`."""

import pathlib
import re

import jax
import pytest
from meshes import eight_devices

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "meshes.md"


@pytest.mark.mesh
@pytest.mark.slow
@pytest.mark.parametrize("check", eight_devices.CHECKS.values(), ids=eight_devices.CHECKS)
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
