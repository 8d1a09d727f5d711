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
# The devices of each process: rows over all of them, or the vocabulary over two and the positions
# of the sequences over the others.
DEVICES = {"rows": 1, "both": 2}
PARALLEL = pytest.mark.parametrize("parallel", DEVICES)

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run(processes, parallel, die_at=None):
    """The exit code and the output of each process; whatever happens, none is left behind."""
    devices = DEVICES[parallel] if processes > 1 else 1
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    port, started = free_port(), []
    try:
        for number in range(processes):
            arguments = [f"--processes={processes}", f"--process={number}", f"--port={port}"]
            arguments.append(f"--parallel={parallel}")
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
def alone(parallel):
    ((code, out, err),) = run(1, parallel)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@PARALLEL
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_as_one(processes, parallel):
    for code, out, err in run(processes, parallel):
        assert code == 0, err[-2000:]
        result = json.loads(out.splitlines()[-1])  # gloo prints as well
        assert result["devices"] == processes * DEVICES[parallel]
        np.testing.assert_allclose(result["losses"], alone(parallel)["losses"], rtol=1e-5)
        np.testing.assert_allclose(result["norm"], alone(parallel)["norm"], rtol=1e-5)
    losses = alone(parallel)["losses"]
    assert losses[-1] < losses[0]


@PARALLEL
def test_a_process_that_dies_ends_the_others_with_an_error(parallel):
    """Within the time limit, by the runtime's heartbeat or the collective's broken connection."""
    (first, out, err), (second, _, _) = run(2, parallel, die_at=2)
    assert second == -9
    assert first != 0
    assert "losses" not in out, "it must not report a result"
    assert err
