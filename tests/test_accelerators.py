"""What depends on a mesh is read from the types of the arrays, never from the devices of the host.

Each program is compiled for 4 x 4 described TPU devices by a process that has one CPU device. That
needs the TPU compiler: the dependency group `accelerators`.
"""

import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxloss._memory.mesh import is_unsharded, possible_shards

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "accelerators.py"
spec = importlib.util.spec_from_file_location("hlo", SCRIPT.with_name("hlo.py"))
hlo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hlo)
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the TPU compiler, is not installed: `make tpu` installs it",
)


@pytest.mark.parametrize(("kind", "pieces"), [(AxisType.Auto, 16), (AxisType.Explicit, 4)])
def test_a_described_mesh_is_seen_without_its_devices(kind, pieces):
    mesh = AbstractMesh((4, 4), ("data", "model"), axis_types=(kind,) * 2)
    split = NamedSharding(mesh, P(None, "model"))
    seen = []

    def look(weight):
        seen.append((possible_shards(weight, 1), is_unsharded(weight)))
        return weight

    jax.make_jaxpr(look)(jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=split))
    assert seen == [(pieces, False)]


@needs_compiler
@pytest.mark.parametrize("layout", ["rows", "vocabulary", "rows and vocabulary"])
def test_one_host_device_compiles_the_collectives_of_sixteen(layout):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), "--mesh", layout]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    program = json.loads(done.stdout.splitlines()[-1])
    assert program["host_devices"] == 1
    assert not program["has_barriers"]
    # The largest logits and the sums of each row in the parts of the vocabulary, no logits.
    assert program["bytes"].get("all-gather", 0) <= program["logits_bytes"] // 1000, program
    # The gradient of the weight once, and a few numbers a row.
    reduced = program["bytes"].get("all-reduce", 0)
    assert reduced <= program["weight_bytes"] + program["logits_bytes"] // 100, program


@pytest.mark.parametrize("is_switch", [False, True])
def test_the_dearest_branch_of_a_conditional_counts(is_switch):
    def cheap(x):
        return x[0]

    def dear(x):
        return jnp.sort(x @ x, axis=1)[0]

    def program(*branches):
        def choose(which, x):
            if is_switch:
                return jax.lax.switch(which, branches, x)
            return jax.lax.cond(which == 1, *branches, x)

        compiled = jax.jit(choose).lower(0, jnp.zeros((256, 256))).compile()
        text = compiled.as_text()
        assert "conditional(" in text
        return hlo.Program(text)

    orders = [program(*order) for order in itertools.permutations([cheap, dear])]
    alone = hlo.Program(jax.jit(dear).lower(jnp.zeros((256, 256))).compile().as_text())
    assert orders[0].bytes == orders[1].bytes
    assert orders[0].kernels == orders[1].kernels
    assert alone.bytes <= orders[0].bytes < 1.5 * alone.bytes


def test_a_slice_that_is_fetched_moves_the_slice():
    # As the compiler writes it.
    text = """ENTRY %main (x: f32[4096,512]) -> f32[1024,512] {
  %x = f32[4096,512]{1,0} parameter(0)
  %start = ((f32[4096,512]{1,0}), f32[1024,512]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:1024], [0:512]}
  ROOT %done = f32[1024,512]{1,0:S(1)} slice-done(%start)
}"""
    assert hlo.Program(text).bytes == 1024 * 512 * 4
