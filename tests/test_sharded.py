"""Meshes: eight devices made of one CPU, in a process of their own.

The checks stand in `meshes/eight_devices.py`; here each of them is a test.
"""

import ast
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parent / "meshes" / "eight_devices.py"
FORMS = [
    *(
        f"{name}-{layout}-{kind}"
        for name in ("plain", "chunked", "linear")
        for layout in ("data", "vocabulary", "both", "fsdp")
        for kind in ("auto", "explicit")
    ),
    *(f"{name}-{way}" for name in ("info_nce", "clip", "siglip") for way in ("ring", "gather")),
    "classes-auto",
    "classes-explicit",
    "vocabulary-parallel-fastest",
    "vocabulary-parallel-least_memory",
    "vocabulary-parallel-fastest-transposed",
]
NAMED = [
    function.name
    for function in ast.parse(SCRIPT.read_text()).body
    if isinstance(function, ast.FunctionDef)
    and any(getattr(d, "id", "") == "check" for d in function.decorator_list)
]


@functools.cache
def problems():
    """What went wrong in each check; the process has five minutes."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    return {line["check"]: line["problem"] for line in lines}


@pytest.mark.parametrize("check", [*FORMS, *NAMED])
def test_on_eight_devices(check):
    assert problems()[check] is None, problems()[check]


def test_every_check_is_a_test():
    assert set(problems()) == {*FORMS, *NAMED}


def test_the_snippets_of_the_page_on_meshes_run():
    page = (SCRIPT.parents[2] / "docs" / "meshes.md").read_text()
    names = {"__name__": "meshes"}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(snippet, "meshes.md", "exec"), names)
    assert names["loss"](*(names[n] for n in ("hidden", "weight", "labels")), names["labels"] == 0)
