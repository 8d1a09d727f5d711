"""For the tests and the doctests alike: a light compiler, and no memory kept for what is done."""

import gc
import importlib.metadata
import os
import resource

import pytest

# Compilation is most of the time of the suite. Without optimizations of LLVM, and without the
# emitters of fusions (JAX 0.11 has no others), it takes a fifth of it; XLA's own passes run as ever.
# Whoever sets XLA_FLAGS, were it to nothing, decides himself: `make suite` compiles as users do.
LIGHT = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib") < "0.11":
    LIGHT.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(LIGHT))

MEGABYTES = 1000


def pytest_collection_finish():
    """Of what is here now, nothing becomes garbage: looking for it again and again takes time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def resident():
    """The memory of this process, in megabytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6


def group(item):
    """What belongs together, because it shares programs: a file, unless a mark says else."""
    mark = item.get_closest_marker("xdist_group")
    return mark.args[0] if mark else item.location[0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Compiled programs of one group are of little use to the next: they go when they are many."""
    done = nextitem is None or group(nextitem) != group(item)
    if done and os.path.exists("/proc/self/statm") and resident() > MEGABYTES:
        import jax

        jax.clear_caches()
        gc.collect()
