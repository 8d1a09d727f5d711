"""What a type checker says of calls: right ones pass, each wrong one is an error of its own."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

pyright = pytest.importorskip("pyright", reason="pyright is in the dependency group `lint`")
FOLDER = pathlib.Path(__file__).parent / "typing"


def errors(name, folder):
    """Of a copy: `make types` leaves the wrong calls out, and so would pyright here."""
    copy = shutil.copy(FOLDER / name, folder)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    run = subprocess.run([*command, copy], capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)["generalDiagnostics"]
    return [
        (d["range"]["start"]["line"] + 1, d["message"]) for d in found if d["severity"] == "error"
    ]


@pytest.mark.slow
def test_right_calls_pass(tmp_path):
    assert errors("accepted.py", tmp_path) == []


@pytest.mark.slow
def test_every_wrong_call_is_rejected(tmp_path):
    lines = (FOLDER / "rejected.py").read_text().splitlines()
    wrong = [number for number, line in enumerate(lines, start=1) if line.startswith("jl.")]
    assert sorted({line for line, _ in errors("rejected.py", tmp_path)}) == wrong
