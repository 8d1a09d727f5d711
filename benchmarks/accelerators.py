"""What the compilers of TPU and GPU make of each loss, beside the form that one would write.

    make accelerators                      all rows, into benchmarks/accelerators.md
    make tpu                               the rows of LIMITS and the meshes: fails if worse
    python benchmarks/accelerators.py --target v5e --dtype float32 --only softmax

XLA compiles ahead of time for a device that is only described: nothing runs, and no accelerator
is needed. Of the compiled program this reports the HBM traffic (each fusion reads its operands and
writes its result; loops times their trip counts), temporary memory, kernels and, for TPU, the
cycles of the static schedule. It is a compiler's word, not a clock's: it does not see how well a
kernel uses a core, the choice of matrix-product kernels on GPU (autotuning does not run), or caches.

It needs `jax[tpu]` for TPU and `jax-cuda12-plugin`, `jax-cuda12-pjrt` (without their dependencies)
for GPU: the dependency group `accelerators`. Without them it says so.
"""

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses as ol
from hlo import Program
from jax import nn
from jax.experimental import topologies
from jax.scipy import special
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl

HERE = pathlib.Path(__file__).parent
MIB = 2**20
ROWS, CLASSES = 65536, 1000
TARGETS = {"v5e": ("libtpu", "TPU v5e"), "h100": ("jax_cuda12_plugin", "H100")}


class Case(NamedTuple):
    """A loss beside its textbook form, and what both are given.

    Attributes:
        ours: A loss of this library, one number an example.
        textbook: Optax's, or the formula in `jnp` as one would write it; None if there is none.
        data: Shapes, and "int" in front of those of integers.
        differentiated: How many of the arguments, from the first.
    """

    ours: Callable[..., Any]
    textbook: Callable[..., Any] | None
    data: tuple[Any, ...]
    differentiated: int = 1


def one_hot(ids, like):
    return nn.one_hot(ids, like.shape[-1], dtype=like.dtype)


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def clip(x, y):
    logits, ids = unit(x) @ unit(y).T / 0.07, jnp.arange(len(x))
    each = ol.softmax_cross_entropy_with_integer_labels
    return (each(logits, ids) + each(logits.T, ids)) / 2


def siglip(x, y):
    logits = unit(x) @ unit(y).T / 0.1 - 10
    return -jnp.sum(nn.log_sigmoid((2 * jnp.eye(len(x)) - 1) * logits), -1)


def info_nce(x, y):
    logits = unit(x) @ unit(y).T / 0.1
    return ol.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(x)))


def generalized_cross_entropy(x, y, q=0.7):
    return (1 - jnp.take_along_axis(nn.softmax(x), y[:, None], 1)[:, 0] ** q) / q


def student_t(mean, target, scale, df):
    z = (target - mean) / scale
    return (
        special.gammaln(df / 2)
        - special.gammaln((df + 1) / 2)
        + 0.5 * jnp.log(df * jnp.pi)
        + jnp.log(scale)
        + (df + 1) / 2 * jnp.log1p(z * z / df)
    )


def von_mises(mean, target, concentration):
    normalizer = jnp.log(2 * jnp.pi * special.i0e(concentration))
    return -concentration * (jnp.cos(target - mean) - 1) + normalizer


def dice(p, y):
    y = nn.one_hot(y, p.shape[-1])
    over = (-3, -2)
    both = jnp.sum(p * y, over)
    return jnp.mean(1 - (2 * both + 1) / (jnp.sum(p, over) + jnp.sum(y, over) + 1), -1)


def approx_ndcg(s, y):
    rank = 0.5 + jnp.sum(nn.sigmoid((s[..., None, :] - s[..., :, None]) / 0.1), -1)
    gain = 2**y - 1
    ideal = -jnp.sort(-gain, -1) / jnp.log2(2.0 + jnp.arange(y.shape[-1]))
    return -jnp.sum(gain / jnp.log2(1 + rank), -1) / jnp.sum(ideal, -1)


def kl_logits(x, t):
    return ol.kl_divergence_with_log_targets(nn.log_softmax(x), nn.log_softmax(t))


def ctc(x, y):
    return ol.ctc_loss(x, jnp.zeros(x.shape[:2]), y, jnp.zeros(y.shape))


def robust(x, t):
    return jnp.log1p(0.5 * jnp.square(x - t))


def head(hidden, weight, ids):
    return ol.softmax_cross_entropy_with_integer_labels(hidden @ weight, ids)


def plain_head(hidden, weight, ids):
    return jl.classification.softmax_cross_entropy(hidden @ weight, ids)


def chunked_head(hidden, weight, ids):
    rows = jl.chunked(lambda w, h, y: jl.classification.softmax_cross_entropy(h @ w, y))
    return rows(weight, hidden, ids, reduction="mean")


def linear_head(hidden, weight, ids, **options):
    return jl.linear.softmax_cross_entropy(hidden, weight, ids, reduction="mean", **options)


def in_chunks(loss):
    return functools.partial(loss, chunk_size=512)


X, IDS = (ROWS, CLASSES), ("int", ROWS)
PAIR, LABELLED = (X, X), (X, IDS)
SET = ((4096, 512), (4096, 512))
HEAD = ((8192, 2048), (2048, 131072), ("int", 8192))
# What `--check` asserts on TPU, in float32: HBM bytes beside those of the textbook form.
LIMITS = {
    "regression.squared_error": 1.01,
    "regression.huber": 1.01,
    "regression.log_cosh": 1.01,
    "regression.cosine_distance": 1.05,
    "classification.softmax_cross_entropy ids": 1.01,
    "classification.softmax_cross_entropy distributions": 1.01,
    "classification.sigmoid_cross_entropy": 1.01,
    "classification.hinge": 1.01,
    "classification.generalized_cross_entropy ids": 1.01,
    "divergence.kl": 1.01,
    "nll.von_mises": 1.01,
    "segmentation.dice": 1.01,
}
# How hidden states and weight lie on a mesh of 4 x 4 devices.
LAYOUTS = {
    "rows": (P("data"), P()),
    "vocabulary": (P(), P(None, "model")),
    "rows and vocabulary": (P("data"), P(None, "model")),
}


def cases() -> dict[str, Case]:
    re_, cl, dv, nll, rk, co = (
        jl.regression, jl.classification, jl.divergence, jl.nll, jl.ranking, jl.contrastive,
    )  # fmt: skip
    ids = ol.softmax_cross_entropy_with_integer_labels
    return {
        "regression.squared_error": Case(re_.squared_error, ol.squared_error, PAIR),
        "regression.absolute_error": Case(re_.absolute_error, lambda x, t: jnp.abs(x - t), PAIR),
        "regression.huber": Case(re_.huber, ol.huber_loss, PAIR),
        "regression.log_cosh": Case(re_.log_cosh, ol.log_cosh, PAIR),
        "regression.cosine_distance": Case(re_.cosine_distance, ol.cosine_distance, PAIR),
        "robust.cauchy": Case(jl.robust.cauchy, robust, PAIR),
        "classification.softmax_cross_entropy ids": Case(cl.softmax_cross_entropy, ids, LABELLED),
        "classification.softmax_cross_entropy distributions": Case(
            cl.softmax_cross_entropy, ol.softmax_cross_entropy, PAIR
        ),
        "classification.sigmoid_cross_entropy": Case(
            cl.sigmoid_cross_entropy, ol.sigmoid_binary_cross_entropy, PAIR
        ),
        "classification.sigmoid_focal": Case(cl.sigmoid_focal, ol.sigmoid_focal_loss, PAIR),
        "classification.hinge": Case(cl.hinge, ol.hinge_loss, PAIR),
        "classification.multiclass_hinge": Case(
            cl.multiclass_hinge, ol.multiclass_hinge_loss, LABELLED
        ),
        "classification.multiclass_perceptron": Case(
            cl.multiclass_perceptron, ol.multiclass_perceptron_loss, LABELLED
        ),
        "classification.poly1 ids": Case(
            cl.poly1,
            lambda x, y: ol.poly_loss_cross_entropy(x, one_hot(y, x), epsilon=1.0),
            LABELLED,
        ),
        "classification.poly1 distributions": Case(
            cl.poly1, lambda x, y: ol.poly_loss_cross_entropy(x, y, epsilon=1.0), PAIR
        ),
        "classification.generalized_cross_entropy ids": Case(
            cl.generalized_cross_entropy, generalized_cross_entropy, LABELLED
        ),
        "classification.sparsemax ids": Case(cl.sparsemax, ol.multiclass_sparsemax_loss, LABELLED),
        "classification.bi_tempered ids": Case(cl.bi_tempered, None, LABELLED),
        "divergence.kl": Case(dv.kl, ol.kl_divergence, PAIR),
        "divergence.kl_log": Case(dv.kl_log, ol.kl_divergence_with_log_targets, PAIR),
        "divergence.kl_logits": Case(dv.kl_logits, kl_logits, PAIR),
        "divergence.generalized_kl": Case(dv.generalized_kl, ol.generalized_kl_divergence, PAIR),
        "nll.student_t": Case(nll.student_t, student_t, (X, X, X, X)),
        "nll.von_mises": Case(nll.von_mises, von_mises, (X, X, X)),
        "ranking.softmax": Case(
            rk.softmax, lambda s, y: ol.ranking_softmax_loss(s, y, reduce_fn=None), PAIR
        ),
        "ranking.approx_ndcg": Case(rk.approx_ndcg, approx_ndcg, ((256, 256), (256, 256))),
        "contrastive.triplet": Case(co.triplet, ol.triplet_margin_loss, (X, X, X), 3),
        "contrastive.info_nce": Case(co.info_nce, info_nce, SET, 2),
        "contrastive.clip": Case(co.clip, clip, SET, 2),
        "contrastive.siglip": Case(co.siglip, siglip, SET, 2),
        "contrastive.nt_xent": Case(co.nt_xent, ol.ntxent, ((2048, 512), ("int", 2048))),
        "segmentation.dice": Case(
            jl.segmentation.dice, dice, ((64, 128, 128, 21), ("int", 64, 128, 128))
        ),
        "contrastive.info_nce, chunk_size=512": Case(in_chunks(co.info_nce), info_nce, SET, 2),
        "contrastive.clip, chunk_size=512": Case(in_chunks(co.clip), clip, SET, 2),
        "head: softmax_cross_entropy": Case(plain_head, head, HEAD, 2),
        "head: chunked": Case(chunked_head, head, HEAD, 2),
        "head: linear": Case(linear_head, head, HEAD, 2),
        "head: linear, policy='least_memory'": Case(
            functools.partial(linear_head, policy="least_memory"), head, HEAD, 2
        ),
        "sequence.ctc": Case(jl.sequence.ctc, ctc, ((64, 500, 128), ("int", 64, 100))),
    }


def device(target: str) -> Any:
    if target == "h100":
        config = (HERE / "h100.pbtxt").read_text()
        topology = topologies.get_topology_desc(
            "h100", "cuda", target_config=config, topology="1x1x1"
        )
    else:
        topology = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu")
    return topology.devices[0]


def measure(loss: Callable[..., Any], case: Case, dtype: Any, target: str) -> dict[str, Any]:
    """Compiles value and gradient of the mean, and reads the program."""
    sharding = SingleDeviceSharding(device(target))
    arguments = [
        jax.ShapeDtypeStruct(shape[1:], jnp.int32, sharding=sharding)
        if shape[0] == "int"
        else jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for shape in case.data
    ]
    jax.clear_caches()
    start = time.process_time()
    step = jax.value_and_grad(
        lambda *x: jnp.mean(loss(*x).astype(jnp.float32)), tuple(range(case.differentiated))
    )
    platform = "cuda" if target == "h100" else "tpu"
    lowered = jax.jit(step).trace(*arguments).lower(lowering_platforms=(platform,))
    compiled = lowered.compile()
    program = Program(compiled.as_text())
    return {
        "has_barriers": "optimization_barrier" in lowered.as_text(),
        "bytes": program.bytes / MIB,
        "temporaries": compiled.memory_analysis().temp_size_in_bytes / MIB,
        "kernels": program.kernels,
        "cycles": program.cycles,
        "compile": time.process_time() - start,
        "unknown_loops": program.unknown_loops,
    }


def mesh_row(layout: str) -> dict[str, Any]:
    """The collectives of `linear` on a described mesh of 4 x 4 devices, of which none is here."""
    devices = topologies.get_topology_desc(topology_name="v5e:4x4", platform="tpu").devices
    mesh = Mesh(np.reshape(devices, (4, 4)), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    hidden, weight = (NamedSharding(mesh, spec) for spec in LAYOUTS[layout])
    ids = NamedSharding(mesh, P(*LAYOUTS[layout][0][:1]))
    rows, dim, classes = 4096, 256, 8192
    arguments = (
        jax.ShapeDtypeStruct((rows, dim), jnp.float32, sharding=hidden),
        jax.ShapeDtypeStruct((dim, classes), jnp.float32, sharding=weight),
        jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=ids),
    )
    step = jax.jit(jax.value_and_grad(functools.partial(linear_head, chunk_size=512), (0, 1)))
    lowered = step.trace(*arguments).lower(lowering_platforms=("tpu",))
    program = Program(lowered.compile().as_text())
    return {
        "name": f"mesh: linear, {layout} split",
        "host_devices": jax.device_count(),
        "has_barriers": "optimization_barrier" in lowered.as_text(),
        "runs": dict(program.collectives),
        "bytes": dict(program.collective_bytes),
        "weight_bytes": 4 * dim * classes,
        "logits_bytes": 4 * rows * classes,
    }


def mesh_table() -> str:
    lines = ["| `linear`, 4096 x 256 x 8192 | collectives a device: runs, MiB |", "| --- | --- |"]
    for layout in LAYOUTS:
        r = in_own_process("--mesh", layout)
        each = (f"{kind} {n}, {r['bytes'][kind] / MIB:.2f}" for kind, n in r["runs"].items())
        lines.append(f"| {layout} split | {'; '.join(each)} |")
    return "\n".join(lines)


def is_installed(target: str) -> bool:
    module, title = TARGETS[target]
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"{title}: its compiler is not installed; see the group `accelerators`.")
    return found


def rows_of(target: str, dtype: str, only: str) -> str:
    """The table of a target; each row is printed as soon as it is known."""
    rows = []
    for name in cases():
        if only not in name:
            continue
        try:
            rows.append(in_own_process("--row", name, "--target", target, "--dtype", dtype))
        except RuntimeError as error:
            print(error, flush=True)
            continue
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    return table(rows)


def in_own_process(*arguments: str) -> dict[str, Any]:
    """What this script prints as JSON; a fresh process has compiled nothing before."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def check() -> int:
    """Compiles the rows of LIMITS and the meshes for TPU; prints each, and counts what is worse."""
    if not is_installed("v5e"):
        return 0
    passed = failed = 0
    for name, limit in LIMITS.items():
        found = row(name, "v5e", "float32")
        ours, other = found["ours"], found["textbook"]
        ratio = ours["bytes"] / other["bytes"]
        holds = ratio <= limit and ours["temporaries"] <= other["temporaries"] + 1
        holds = holds and not ours["has_barriers"]
        print(f"{'ok' if holds else 'WORSE'}: {name}: {ratio:.3f} of the bytes, at most {limit}")
        passed, failed = passed + holds, failed + (not holds)
    for layout in LAYOUTS:
        found = mesh_row(layout)
        holds = not found["has_barriers"] and not found["runs"].get("all-gather")
        # The gradient of the weight once, and the sums of each row.
        reduced = found["bytes"].get("all-reduce", 0)
        holds = holds and reduced <= found["weight_bytes"] + found["logits_bytes"] // 100
        print(f"{'ok' if holds else 'WORSE'}: {found['name']}: {found['runs']} {found['bytes']}")
        passed, failed = passed + holds, failed + (not holds)
    print(f"{passed} passed, {failed} failed")
    return failed


def row(name: str, target: str, dtype: str) -> dict[str, Any]:
    case = cases()[name]
    found = {"name": name, "target": target, "dtype": dtype}
    found["ours"] = measure(case.ours, case, jnp.dtype(dtype), target)
    if case.textbook is not None:
        found["textbook"] = measure(case.textbook, case, jnp.dtype(dtype), target)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| loss | HBM bytes, ours / textbook | MiB moved | temporaries, MiB | kernels | cycles |"
        " compile, CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        ours, other = r["ours"], r.get("textbook")

        def both(key: str, form: str = "{:.0f}", ours: Any = ours, other: Any = other) -> str:
            beside = f" / {form.format(other[key])}" if other else ""
            return form.format(ours[key]) + beside

        ratio = f"{ours['bytes'] / other['bytes']:.2f}" if other else ""
        cycles = f"{ours['cycles'] / other['cycles']:.2f}" if other and other["cycles"] else ""
        lines.append(
            f"| `{r['name']}` | {ratio} | {both('bytes')} | {both('temporaries')} | "
            f"{both('kernels')} | {cycles} | {both('compile', '{:.1f}')} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--row", help="one row, as JSON: each runs in a process of its own")
    parser.add_argument("--mesh", choices=LAYOUTS, help="one mesh, as JSON")
    parser.add_argument("--check", action="store_true", help="fails if a row is worse than LIMITS")
    options = parser.parse_args()
    targets = options.target or list(TARGETS)
    dtypes = options.dtype or ["float32", "bfloat16"]
    if options.row:
        print(json.dumps(row(options.row, targets[0], dtypes[0])))
        return
    if options.mesh:
        print(json.dumps(mesh_row(options.mesh)))
        return
    if options.check:
        sys.exit(bool(check()))
    parts = [
        f"## {TARGETS[target][1]}, {dtype}\n\n{rows_of(target, dtype, options.only)}"
        for target in targets
        for dtype in dtypes
        if is_installed(target)
    ]
    if not options.only and len(parts) == 4:
        parts.append(f"## Meshes, TPU v5e 4 x 4, float32\n\n{mesh_table()}")
        top = (HERE / "accelerators.head.md").read_text()
        (HERE / "accelerators.md").write_text(top + "\n" + "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
