"""For the tests and the doctests alike: a light compiler, little memory, and what `make test` runs."""

import collections
import ctypes
import gc
import importlib.metadata
import importlib.util
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

QUICK = "not slow"  # the `-m` of `make test`
CHECK = "not slow or mesh"  # that of `make check`
TESTS = pathlib.Path(__file__).parent / "tests"
FAMILIES = tuple(path.stem for path in (TESTS / "cases").glob("[a-z]*.py"))


# Its classes are subclasses of Keras's, which few have installed.
collect_ignore = (
    [] if importlib.util.find_spec("keras") else ["jaxloss/integrations/_keras_loss.py"]
)


def is_quick(config):
    """Whether this is `make test`, which leaves out what the full tier asks besides.

    Every loss is held to the laws in both tiers. A file of tests named after a family of losses
    (tests/test_nll.py) is of the full tier, and so are the examples in docstrings, but for those of
    the contract.
    """
    return config.option.markexpr == QUICK


def pytest_addoption(parser):
    parser.addoption("--costs", action="store_true", help="say where the CPU seconds go")


def pytest_configure(config):
    """Of one CPU eight devices are made, for the tests of meshes; `make test` leaves those out."""
    if not is_quick(config):
        import jax

        jax.config.update("jax_num_cpu_devices", 8)
    if config.option.costs:
        config.pluginmanager.register(Costs(), "costs")


def is_left_out(path):
    """Whether a file holds the tests of one family of losses, or doctests outside the contract."""
    place = path.relative_to(TESTS.parent).parts
    if place[0] == "jaxloss":
        return place[1] != "_core"
    return len(place) == 2 and place[1].removeprefix("test_").startswith(FAMILIES)


def pytest_ignore_collect(collection_path, config):
    """What `make test` leaves out is not imported; a file named on the command line is run."""
    named = {pathlib.Path(arg.split("::")[0]).resolve() for arg in config.args}
    if is_quick(config) and collection_path.suffix == ".py" and collection_path not in named:
        return is_left_out(collection_path) or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Of a test marked `few`, all but `make suite` run the first and the last set of parameters."""
    if config.option.markexpr not in (QUICK, CHECK):
        return
    of_test = {}
    for item in items:
        if item.get_closest_marker("few") and not item.get_closest_marker("slow"):
            of_test.setdefault((item.path, item.originalname), []).append(item)
    left = {id(item) for same in of_test.values() for item in same[1:-1]}
    items[:] = [item for item in items if id(item) not in left]


def pytest_collection_finish():
    """Of what is here now, nothing becomes garbage: looking for it again and again takes time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def resident():
    """The memory of this process, in megabytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6


allowed = MEGABYTES


def group(item):
    """The name of the tests that share compiled programs with this one."""
    mark = item and item.get_closest_marker("xdist_group")
    return mark and mark.args


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Compiled programs of past tests are of little use to the next: when they are many they go.

    They go between groups, so that no test compiles again what the one before it did. What stays
    although they went is no reason to let the next ones go at once.
    """
    global allowed
    if sys.platform == "linux" and group(item) != group(nextitem) and resident() > allowed:
        import jax

        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
        allowed = max(MEGABYTES, resident() + 300)


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
    """Says at the end where the CPU seconds went, in the process that sees all reports."""

    def __init__(self):
        self.spent = collections.Counter()
        self.of_losses = collections.Counter()

    def pytest_runtest_logreport(self, report):
        seconds = dict(report.user_properties).get("cpu_seconds", 0) if report.when == "call" else 0
        test, _, parameters = report.nodeid.partition("@")[0].partition("[")
        for place in (test.split("::")[0], test):
            self.spent[place] += seconds
        if test.startswith("tests/laws"):
            self.of_losses[parameters.split("-")[0].rstrip("]")] += seconds

    def pytest_terminal_summary(self, terminalreporter):
        for title, spent, most in (
            ("CPU seconds", self.spent, 60),
            ("CPU seconds of losses in tests/laws", self.of_losses, 40),
        ):
            terminalreporter.section(title)
            for place, seconds in spent.most_common(most):
                terminalreporter.line(f"{seconds:8.1f}  {place}")
