"""For the tests and the doctests alike: a light compiler, little memory, and what is left to the suite."""

import ctypes
import gc
import importlib.metadata
import os
import pathlib
import resource
import sys
import time

import pytest

# Compilation is most of the time of the suite. Without optimizations of LLVM, and without the
# emitters of fusions (JAX 0.11 has no others), it takes a fifth of it; XLA's own passes run as ever.
# Whoever sets XLA_FLAGS, were it to nothing, decides himself: `make suite` compiles as users do.
LIGHT = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib") < "0.11":
    LIGHT.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(LIGHT))

MEGABYTES = 1150

# What costs more CPU time than this is left to `make suite`, as is what bears the mark `slow`. It is
# measured, not guessed: `make costs` runs all and writes the list. Laws are not on it.
SECONDS = 0.3
COSTLY = pathlib.Path(__file__).parent / "tests" / "costly.txt"


def pytest_addoption(parser):
    parser.addoption("--costs", action="store_true", help="write tests/costly.txt")


def pytest_configure(config):
    """Of one CPU eight devices are made, for the tests of meshes; `make test` leaves those out."""
    if config.option.markexpr != "not slow":
        import jax

        jax.config.update("jax_num_cpu_devices", 8)
    if config.option.costs:
        config.pluginmanager.register(Costs(), "costs")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks what was measured to be costly."""
    costly = set() if config.option.costs else set(COSTLY.read_text().splitlines())
    for item in items:
        if item.nodeid in costly and not hasattr(getattr(item, "function", None), "law"):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Of what is here now, nothing becomes garbage: looking for it again and again takes time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def resident():
    """The memory of this process, in megabytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Compiled programs of past tests are of little use to the next: when they are many they go."""
    if sys.platform == "linux" and resident() > MEGABYTES:
        import jax

        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system


def cpu_seconds():
    """Of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Files the CPU time of a test with its report."""
    start = cpu_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append(("cpu_seconds", round(cpu_seconds() - start, 3)))


class Costs:
    """Writes the list of costly tests at the end, in the process that sees all reports."""

    def __init__(self):
        self.costly = set()

    def pytest_runtest_logreport(self, report):
        spent = dict(report.user_properties).get("cpu_seconds", 0) if report.when == "call" else 0
        if spent > SECONDS:
            self.costly.add(report.nodeid.rsplit("@", 1)[0])

    def pytest_sessionfinish(self, session):
        if not hasattr(session.config, "workerinput"):
            laws = {line for line in self.costly if line.startswith("tests/laws/")}
            COSTLY.write_text("\n".join(sorted(self.costly - laws)) + "\n")
