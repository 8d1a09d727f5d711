"""What the compilers of TPU and GPU make of each loss, beside the form that one would write.

    make accelerators                      all rows, into benchmarks/accelerators.md
    python benchmarks/accelerators.py      the same; a run that was stopped goes on where it was
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
import hashlib
import importlib.util
import itertools
import json
import os
import pathlib
import re
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
import textbook
from hlo import Program
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl

HERE = pathlib.Path(__file__).parent
MIB = 2**20
# The rows of earlier runs. Each is compiled again only if its program has changed.
KEPT = HERE.parent / "build" / "accelerators.jsonl"
PAGE = HERE / "accelerators.md"
DTYPES = ("float32", "bfloat16")
TARGETS = {"v5e": ("libtpu", "TPU v5e"), "h100": ("jax_cuda12_plugin", "H100")}


class Case(NamedTuple):
    """A loss beside its textbook form, and what both are given.

    Attributes:
        ours: A loss of this library, one number an example.
        textbook: Optax's, or the formula in `jnp` as one would write it; None if there is none.
        data: Shapes; the kind of number comes first if it is not "Real".
        differentiated: The places of the arguments that have a gradient.
    """

    ours: Callable[..., Any]
    textbook: Callable[..., Any] | None
    data: tuple[Any, ...]
    differentiated: tuple[int, ...] = (0,)


def head(hidden, weight, ids):
    return ol.softmax_cross_entropy_with_integer_labels(hidden @ weight, ids)


def head_in_chunks(rows, hidden, weight, ids):
    """The mean over all rows, some at a time: what one writes who cannot hold all logits."""
    hidden, ids = hidden.reshape(-1, rows, hidden.shape[1]), ids.reshape(-1, rows)

    @jax.checkpoint
    def add(total, chunk):
        return total + jnp.sum(head(chunk[0], weight, chunk[1])), None

    total, _ = jax.lax.scan(add, jnp.zeros((), hidden.dtype), (hidden, ids))
    return total / ids.size


def plain_head(hidden, weight, ids):
    return jl.classification.softmax_cross_entropy(hidden @ weight, ids)


def chunked_head(hidden, weight, ids):
    rows = jl.chunked(lambda w, h, y: jl.classification.softmax_cross_entropy(h @ w, y))
    return rows(weight, hidden, ids)


def linear_head(hidden, weight, ids, **options):
    return jl.linear.softmax_cross_entropy(hidden, weight, ids, reduction="mean", **options)


ROWS, CLASSES = 65536, 1000
# The sizes of event axes; the other shapes of data are in front of them.
SIZES = {
    "levels": 16, "components": 16, "members": 32, "bins": 16, "n": 64, "m": 64, "k": 64,
    "height": 128, "width": 128, "channels": 3, "experts": 64, "views": 8, "teacher_views": 2,
    "coded_views": 2, "prototypes": 3000, "set": 4096, "pairs": 4096, "frames": 500, "length": 1000,
}  # fmt: skip
BATCHES = {
    "levels": (1 << 20,), "components": (1 << 20,), "members": (1 << 20,), "bins": (1 << 20,),
    "n": (4096,), "height": (64,), "tokens": (64,), "4": (1 << 20,), "frames": (64,), "set": (),
    "pairs": (), "views": (256,), "coded_views": (256,),
}  # fmt: skip
# Where a name alone does not tell the sizes.
SPECIAL: dict[str, dict[str, Any]] = {
    "scoring.energy_score": {"batch": (4096,), "dim": 16},
    "scoring.variogram_score": {"batch": (4096,), "dim": 16},
    "image.": {"height": 256, "width": 256, "batch": (64,)},
    "segmentation.": {"classes": 21},
    "segmentation.lovasz_hinge": {"batch": (1024,)},
    "sequence.ctc": {"classes": 128, "tokens": 100},
    "router.": {"batch": (8,), "tokens": 8192, "k": 2},
    "router.indexer_kl": {"batch": (ROWS,)},
    "generative.masked_diffusion": {"tokens": 1024},
    "self_supervised.dino": {"classes": 8192},
    "contrastive.nt_xent": {"set": 2048},
    "contrastive.batch_triplet": {"set": 1024},
    "classification.multilabel_margin": {"classes": 64},
    # So many that arrays of pairs and of items do not stay in a cache.
    **{
        name: {"batch": (4096,), "items": 256}
        for name in (
            "preference.plackett_luce",
            "ranking.approx_ndcg",
            "ranking.list_mle",
            "ranking.pairwise",
            "ranking.unique_softmax",
        )
    },
}
PROTOTYPES = ("prototypes", (8192, 512))
DIRECTIONS = ("directions", (512, 256))
# Arguments beside the data, given by name: arrays, or numbers.
NAMED: dict[str, tuple[tuple[str, Any], ...]] = {
    "classification.logit_adjusted": (("class_counts", (CLASSES,)),),
    "classification.ldam": (("class_counts", (CLASSES,)),),
    "contrastive.arcface": (PROTOTYPES,),
    "contrastive.cosface": (PROTOTYPES,),
    "contrastive.proxy_nca": (PROTOTYPES,),
    "contrastive.proxy_anchor": (PROTOTYPES,),
    "nll.beta_gaussian": (("variance", (ROWS, CLASSES)),),
    "value.temperature": (("target_entropy", -2.0),),
    "preference.kto": (("kl", 0.3),),
    "generative.lecam": (("real_mean", 0.2), ("fake_mean", 0.1)),
    "self_supervised.sigreg": (DIRECTIONS,),
    "self_supervised.visreg": (DIRECTIONS,),
}
# Arguments that a model predicts: those of these names, from the first on, are differentiated.
PREDICTED = {
    "query", "key", "left", "right", "embeddings", "anchor", "positive", "negative", "real", "fake",
    "chosen", "rejected", "chosen_ratio", "rejected_ratio", "mean", "log_variance", "inputs",
    "codes", "prototypes", "lower", "upper", "median", "means", "variances",
}  # fmt: skip
# Losses that are compiled behind what gives their argument as well.
BEHIND = {
    "classification.categorical_cross_entropy ids": jax.nn.softmax,
    "classification.negative_log_likelihood ids": jax.nn.log_softmax,
}
# Losses that are compiled in chunks as well, and how many examples a chunk has.
CHUNKED = {"contrastive.cosface": 1024, "image.ssim": 4}
# Dtypes that the other form refuses: Optax's rule of sparsemax gives a gradient of another dtype.
REFUSED = {("classification.sparsemax ids", "bfloat16")}
HEAD = ((8192, 2048), (2048, 131072), ("Int", 8192))
# What `--check` asserts in float32: HBM bytes beside those of the textbook form.
LIMITS = {
    "v5e": {
        "regression.squared_error": 1.0,
        "regression.huber": 1.0,
        "regression.log_cosh": 1.0,
        "regression.cosine_distance": 1.001,
        "classification.softmax_cross_entropy ids": 0.751,
        "classification.softmax_cross_entropy distributions": 0.715,
        "classification.sigmoid_cross_entropy": 1.0,
        "classification.hinge": 1.0,
        "classification.generalized_cross_entropy ids": 0.43,
        "classification.multiclass_hinge": 1.001,
        "classification.multi_margin": 1.001,
        "distillation.top_k_kl": 0.36,
        "divergence.renyi": 1.21,
        "ranking.list_mle": 1.01,
        "ranking.pairwise_squared_error": 1.001,
        "contrastive.triplet": 0.901,
        "divergence.kl": 1.0,
        "divergence.kl_logits": 0.779,
        "nll.student_t": 1.001,
        "nll.von_mises": 1.001,
        "segmentation.dice ids": 1.001,
        "box.giou": 0.61,
        "image.ssim": 0.11,
        "contrastive.pair": 1.001,
        "divergence.hellinger": 1.001,
        "divergence.jensen_shannon": 1.0,
        "divergence.reverse_kl": 1.0,
        "scoring.crps_ensemble": 0.5,
        "scoring.energy_score": 1.03,
        "scoring.ranked_probability ids": 0.18,
        "scoring.variogram_score": 1.01,
        "sequence.ctc": 0.81,
        "head: softmax_cross_entropy": 1.001,
        "head: linear, policy='least_memory'": 0.25,
    },
    "h100": {
        "classification.asymmetric": 1.0,
        "classification.multi_margin": 1.02,
        "classification.softmax_cross_entropy ids": 0.51,
        "classification.softmax_cross_entropy distributions": 0.72,
        "contrastive.info_nce": 0.84,
        "classification.multilabel_soft_margin": 0.51,
        "classification.sigmoid_focal": 0.08,
        "contrastive.pair": 1.01,
        "divergence.hellinger": 1.01,
        "divergence.jensen_shannon": 1.0,
        "divergence.kl_logits": 0.563,
        "divergence.reverse_kl": 1.0,
        "image.psnr": 1.01,
        "image.ssim": 0.98,
        "nll.poisson": 1.0,
        "policy.soft_clipped": 1.0,
        "preference.orpo": 0.41,
        "contrastive.proxy_anchor": 1.25,
        "ranking.approx_ndcg": 1.15,
        "ranking.pairwise_hinge": 0.05,
        "ranking.pairwise_logistic": 0.03,
        "ranking.unique_softmax": 0.16,
        "regression.cosine_distance": 1.001,
        "router.importance_cv": 0.67,
        "router.load_cv": 0.81,
        "scoring.energy_score": 0.84,
        "scoring.variogram_score": 0.56,
        "segmentation.tversky ids": 1.02,
        "self_supervised.sigreg": 0.14,
        "sequence.ctc": 1.06,
        "value.clipped_value": 1.0,
    },
}
# Losses whose form for TPU has barriers of its own; in the others one would be a hint for CPU.
BARRIERS_ON_TPU = {
    "classification.multi_margin",
    "distillation.top_k_kl",
    "divergence.kl_logits",
    "divergence.renyi",
    "head: linear, policy='least_memory'",
    "image.ssim",
    "ranking.list_mle",
    "ranking.pairwise_squared_error",
}
# How hidden states and weight lie on a mesh of 4 x 4 devices.
LAYOUTS = {
    "rows": (P("data"), P()),
    "vocabulary": (P(), P(None, "model")),
    "rows and vocabulary": (P("data"), P(None, "model")),
}


def shape_of(name: str, form: Any, batch: tuple[int, ...], sizes: dict[str, int]) -> Any:
    """Shape and kind of an argument in one of its forms."""
    event = [int(axis) if axis.isdigit() else sizes[axis] for axis in form.event]
    return ((form.kind,) if form.kind != "Real" else ()) + (*batch, *event)


def cases_of(info: Any) -> dict[str, Case]:
    """A loss with each form of its arguments."""
    spec, found = info.spec, {}
    forms = [spec.array_specs[name] for name in spec.data]
    events = {axis for each in forms for form in each for axis in form.event}
    is_set = "set" in events or info.family == "contrastive"
    sizes = dict.fromkeys(events, CLASSES) | {"dim": 512 if is_set else CLASSES} | SIZES
    batch = (ROWS,) if events else (ROWS, CLASSES)
    for axis in BATCHES:
        if axis in events:
            batch = BATCHES[axis]
            break
    for prefix, special in SPECIAL.items():
        if info.name.startswith(prefix):
            batch = special.get("batch", batch)
            sizes |= {axis: size for axis, size in special.items() if axis != "batch"}
    named = NAMED.get(info.name, ())
    for chosen in itertools.product(*forms):
        data = [shape_of(info.name, form, batch, sizes) for form in chosen]
        data += [value for _, value in named if isinstance(value, tuple)]
        names = [*spec.data, *(word for word, value in named if isinstance(value, tuple))]
        at = [i for i, word in enumerate(names) if word in PREDICTED]
        kinds = [form.kind for form, each in zip(chosen, forms, strict=True) if len(each) > 1]
        suffix = {"Int": " ids", "Real": " distributions"}[kinds[0]] if kinds else ""
        numbers = {word: value for word, value in named if not isinstance(value, tuple)}
        found[info.name + suffix] = Case(
            functools.partial(called_by_name, info.function, len(spec.data), names, numbers),
            textbook.FORMS.get(info.name + suffix),
            tuple(data),
            tuple(at if 0 in at else (0, *at)),
        )
    return found


def called_by_name(
    loss: Callable[..., Any], count: int, names: list[str], numbers: dict[str, Any], *data: Any
) -> Any:
    keywords = dict(zip(names[count:], data[count:], strict=True))
    return loss(*data[:count], **keywords, **numbers, reduction="none")


def by_chunks(loss: Callable[..., Any], chunk_size: int, *data: Any) -> Any:
    """A loss of the first two arguments, some rows at a time; all rows share the others."""
    rows = jl.chunked(lambda shared, *rows: loss(*rows, *shared), chunk_size)
    return rows(data[2:], *data[:2])


def behind(given_by: Callable[..., Any], loss: Any, logits: Any, labels: Any) -> Any:
    return loss(given_by(logits), labels)


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for info in jl.catalogue.losses():
        found |= cases_of(info)
    for name, given_by in BEHIND.items():
        ours, other = (
            functools.partial(behind, given_by, form)
            for form in (found[name].ours, found[name].textbook)
        )
        behind_it = found[name]._replace(ours=ours, textbook=other)
        found[f"{name}, after {given_by.__name__}"] = behind_it
    for name, size in CHUNKED.items():
        plain = found[name]
        by_rows = functools.partial(by_chunks, plain.ours, size)
        found[f"{name}, chunked by {size}"] = plain._replace(ours=by_rows)
    for name in ("info_nce", "clip"):
        plain = found[f"contrastive.{name}"]
        # The mean in the call: without it, values are computed before their gradient is.
        words: dict[str, Any] = {"chunk_size": 1024, "reduction": "mean"}
        chunked = functools.partial(getattr(jl.contrastive, name), **words)
        found[f"contrastive.{name}, chunk_size=1024"] = plain._replace(ours=chunked)
    # Heads in chunks are beside a scan, in chunks that take about the same memory.
    heads = {
        "softmax_cross_entropy": (plain_head, head),
        "linear": (linear_head, head),
        "chunked": (chunked_head, functools.partial(head_in_chunks, 1024)),
        "linear, policy='least_memory'": (
            functools.partial(linear_head, policy="least_memory"),
            functools.partial(head_in_chunks, 512),
        ),
    }
    return found | {f"head: {name}": Case(*forms, HEAD, (0, 1)) for name, forms in heads.items()}


@functools.cache
def device(target: str) -> Any:
    if target == "h100":
        config = (HERE / "h100.pbtxt").read_text()
        topology = topologies.get_topology_desc(
            "h100", "cuda", target_config=config, topology="1x1x1"
        )
    else:
        topology = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu")
    return topology.devices[0]


def lower(loss: Callable[..., Any], case: Case, dtype: Any, target: str) -> Any:
    """Value and gradient of the mean, traced for a described device."""
    sharding = SingleDeviceSharding(device(target))
    kinds = {"Int": jnp.int32, "Bool": jnp.bool_}
    arguments = [
        jax.ShapeDtypeStruct(shape[1:], kinds[shape[0]], sharding=sharding)
        if shape and shape[0] in kinds
        else jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for shape in case.data
    ]
    step = jax.value_and_grad(
        lambda *x: jnp.mean(loss(*x).astype(jnp.float32)), case.differentiated
    )
    platform = "cuda" if target == "h100" else "tpu"
    return jax.jit(step).trace(*arguments).lower(lowering_platforms=(platform,))


def measure(
    loss: Callable[..., Any], case: Case, dtype: Any, target: str, before: Any = None
) -> dict[str, Any]:
    """Compiles value and gradient of the mean, and reads the program.

    `before` is what an earlier run found; it is returned if the program is the same.
    """
    jax.clear_caches()
    start = time.process_time()
    lowered = lower(loss, case, dtype, target)
    text = lowered.as_text()
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    if before and before["digest"] == digest:
        return before
    compiled = lowered.compile()
    seconds = time.process_time() - start
    program = Program(compiled.as_text())
    return {
        "digest": digest,
        "has_barriers": has_barriers(text),
        "bytes": program.bytes / MIB,
        "temporaries": compiled.memory_analysis().temp_size_in_bytes / MIB,
        "kernels": program.kernels,
        "cycles": program.cycles,
        "compile": seconds,
        "unknown_loops": program.unknown_loops,
    }


def has_barriers(text: str) -> bool:
    """Whether a program holds barriers of arrays; one of a scalar costs nothing."""
    return bool(re.search(r"optimization_barrier.*tensor<\d", text))


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
        "target": "v5e",
        "dtype": "float32",
        "host_devices": jax.device_count(),
        "has_barriers": has_barriers(lowered.as_text()),
        "runs": dict(program.collectives),
        "bytes": dict(program.collective_bytes),
        "weight_bytes": 4 * dim * classes,
        "logits_bytes": 4 * rows * classes,
    }


def mesh_table(kept: dict[tuple[str, str, str], dict[str, Any]], written: dict[str, str]) -> str:
    """The collectives of each layout that is kept, or that the page already has."""
    lines = ["| `linear`, 4096 x 256 x 8192 | collectives a device: runs, MiB |", "| --- | --- |"]
    for layout in LAYOUTS:
        if r := kept.get((f"mesh: linear, {layout} split", "v5e", "float32")):
            each = (f"{kind} {n}, {r['bytes'][kind] / MIB:.2f}" for kind, n in r["runs"].items())
            lines.append(f"| {layout} split | {'; '.join(each)} |")
        elif f"{layout} split" in written:
            lines.append(written[f"{layout} split"])
    return "\n".join(lines)


def written_lines() -> dict[str, dict[str, str]]:
    """The rows of the page as it is: by heading, then by the first cell."""
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines() if PAGE.exists() else []:
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| "):
            found.setdefault(heading, {})[line.split(" | ")[0].strip("|` ")] = line
    return found


def page() -> str:
    """The page of all rows, in the order of the catalogue.

    A row that is not kept is that of the page as it is: its program was compiled elsewhere.
    """
    kept, known, written = earlier(), cases(), written_lines()
    parts = [(HERE / "accelerators.head.md").read_text().rstrip()]
    for target, (_, title) in TARGETS.items():
        for dtype in DTYPES:
            heading = f"{title}, {dtype}"
            lines = written.get(heading, {})
            lines |= {r["name"]: line_of(r) for r in kept.values() if is_of(r, target, dtype)}
            rows = [lines[name] for name in known if name in lines]
            if rows:
                missing = len(known) - len(rows)
                note = f"\n\n{missing} rows were not compiled." if missing else ""
                parts.append("\n".join([f"## {heading}\n", *table(dtype), *rows]) + note)
    heading = "Meshes, TPU v5e 4 x 4, float32"
    parts.append(f"## {heading}\n\n{mesh_table(kept, written.get(heading, {}))}")
    return "\n\n".join(parts) + "\n"


def is_of(r: dict[str, Any], target: str, dtype: str) -> bool:
    return (r["target"], r["dtype"]) == (target, dtype) and "ours" in r


def is_installed(target: str) -> bool:
    module, title = TARGETS[target]
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"{title}: its compiler is not installed; see the group `accelerators`.")
    return found


def rows_of(target: str, dtype: str, only: str) -> None:
    """Compiles the rows of a target. Each is printed, and kept in KEPT, as soon as it is known."""
    kept = earlier()
    for name, case in cases().items():
        if only not in name:
            continue
        try:
            found = row(name, case, target, dtype, kept.get((name, target, dtype)))
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        if found != kept.get((name, target, dtype)):
            keep(found)
        print(line_of(found), flush=True)


def keep(found: dict[str, Any]) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("a") as file:
        file.write(json.dumps(found) + "\n")


def earlier() -> dict[tuple[str, str, str], dict[str, Any]]:
    """The rows of earlier runs; the last of each name counts."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return {(r["name"], r["target"], r["dtype"]): r for r in map(json.loads, lines)}


def in_own_process(*arguments: str) -> dict[str, Any]:
    """What this script prints as JSON; a fresh process has compiled nothing before."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def check() -> int:
    """Compiles the rows of LIMITS and the meshes for TPU; prints each, and counts what is worse."""
    passed = failed = 0
    known = cases()
    for target in filter(is_installed, LIMITS):
        for name, limit in LIMITS[target].items():
            found = row(name, known[name], target, "float32")
            ours, other = found["ours"], found["textbook"]
            ratio = ours["bytes"] / other["bytes"]
            holds = round(ratio, 3) <= limit
            if target == "v5e":
                holds = holds and ours["temporaries"] <= other["temporaries"] + 1
                holds = holds and (name in BARRIERS_ON_TPU or not ours["has_barriers"])
            verdict = "ok" if holds else "WORSE"
            print(f"{verdict}: {target} {name}: {ratio:.3f} of the bytes, at most {limit}")
            passed, failed = passed + holds, failed + (not holds)
    if not is_installed("v5e"):
        return failed
    for layout in LAYOUTS:
        found = mesh_row(layout)
        # The largest logits and the sums of each row in the parts of the vocabulary, no logits.
        gathered = found["bytes"].get("all-gather", 0)
        holds = not found["has_barriers"] and gathered <= found["logits_bytes"] // 1000
        # The gradient of the weight once, and the sums of each row.
        reduced = found["bytes"].get("all-reduce", 0)
        holds = holds and reduced <= found["weight_bytes"] + found["logits_bytes"] // 100
        print(f"{'ok' if holds else 'WORSE'}: {found['name']}: {found['runs']} {found['bytes']}")
        passed, failed = passed + holds, failed + (not holds)
    print(f"{passed} passed, {failed} failed")
    return failed


def row(name: str, case: Case, target: str, dtype: str, before: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "target": target, "dtype": dtype}
    before = before or {}
    of = case, jnp.dtype(dtype), target
    found["ours"] = measure(case.ours, *of, before.get("ours"))
    if case.textbook is None:
        return found
    if (name, dtype) not in REFUSED:
        found["textbook"] = measure(case.textbook, *of, before.get("textbook"))
    other = found.get("textbook")
    if dtype != "float32" and not (other and found["ours"]["bytes"] <= 1.05 * other["bytes"]):
        wide = functools.partial(in_float32, case.textbook)
        found["in float32"] = measure(wide, *of, before.get("in float32"))
    return found


def in_float32(loss: Callable[..., Any], *arrays: Any) -> Any:
    """The loss of arrays in half precision, as one writes it whose sums should have all digits."""
    floating = (jnp.issubdtype(x.dtype, jnp.floating) for x in arrays)
    return loss(*(x.astype("float32") if f else x for x, f in zip(arrays, floating, strict=True)))


def table(dtype: str) -> tuple[str, str]:
    """The head of a table.

    Rows of half precision above 1.05 also have the ratio to the textbook form that converts first.
    """
    ratios = "HBM bytes, ours / textbook | "
    ratios += "/ textbook in float32 | " if dtype != "float32" else ""
    first = f"| loss | {ratios}MiB moved | temporaries, MiB | kernels | cycles | compile, CPU s |"
    return first, "| " + "--- | " * (first.count("|") - 2) + "--- |"


def line_of(r: dict[str, Any]) -> str:
    """A row of the table."""
    ours, other = r["ours"], r.get("textbook")

    def both(key: str, form: str = "{:.0f}") -> str:
        beside = f" / {form.format(other[key])}" if other else ""
        return form.format(ours[key]) + beside

    ratio = f"{ours['bytes'] / other['bytes']:.2f}" if other else ""
    if r["dtype"] != "float32":
        wide = r.get("in float32")
        ratio += f" | {ours['bytes'] / wide['bytes']:.2f}" if wide else " |"
    cycles = f"{ours['cycles'] / other['cycles']:.2f}" if other and other["cycles"] else ""
    return (
        f"| `{r['name']}` | {ratio} | {both('bytes')} | {both('temporaries')} | "
        f"{both('kernels')} | {cycles} | {both('compile', '{:.1f}')} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--mesh", choices=LAYOUTS, help="one mesh, as JSON")
    parser.add_argument(
        "--page", action="store_true", help="write the rows that are kept, and those of the page"
    )
    parser.add_argument("--check", action="store_true", help="fails if a row is worse than LIMITS")
    options = parser.parse_args()
    targets = options.target or list(TARGETS)
    dtypes = options.dtype or DTYPES
    if options.mesh:
        print(json.dumps(mesh_row(options.mesh)))
        return
    if options.check:
        sys.exit(bool(check()))
    if not options.page:
        for target in filter(is_installed, targets):
            for dtype in dtypes:
                print(f"{TARGETS[target][1]}, {dtype}", *table(dtype), sep="\n", flush=True)
                rows_of(target, dtype, options.only)
    is_all = not (options.only or options.target or options.dtype)
    if is_all and not options.page and is_installed("v5e"):
        for layout in LAYOUTS:
            keep(in_own_process("--mesh", layout))
    if options.page or is_all:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
