"""Several processes on JAX's own runtime train the same model as one; one that dies ends all."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parent / "meshes" / "one_process.py"
SECONDS = 120

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run(processes, die_at=None):
    """The exit code and the output of each process; whatever happens, none is left behind."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    port, started = free_port(), []
    try:
        for number in range(processes):
            arguments = [f"--processes={processes}", f"--process={number}", f"--port={port}"]
            if die_at is not None and number == processes - 1:
                arguments.append(f"--die-at={die_at}")
            started.append(
                subprocess.Popen(
                    [sys.executable, SCRIPT, *arguments],
                    env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
        outputs = [process.communicate(timeout=SECONDS) for process in started]
        codes = [process.returncode for process in started]
        return [(code, *output) for code, output in zip(codes, outputs, strict=True)]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@functools.cache
def alone():
    ((code, out, err),) = run(1)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_as_one(processes):
    for code, out, err in run(processes):
        assert code == 0, err[-2000:]
        result = json.loads(out.splitlines()[-1])  # gloo prints as well
        assert result["devices"] == processes
        np.testing.assert_allclose(result["losses"], alone()["losses"], rtol=1e-5)
        np.testing.assert_allclose(result["norm"], alone()["norm"], rtol=1e-5)
    assert alone()["losses"][-1] < alone()["losses"][0]


def test_a_process_that_dies_ends_the_others_with_an_error():
    """Within the time limit, by the runtime's heartbeat or the collective's broken connection."""
    (first, out, err), (second, _, _) = run(2, die_at=2)
    assert second == -9
    assert first != 0
    assert "losses" not in out, "it must not report a result"
    assert err
