"""Compares value, gradient, jaxpr and optimized HLO of every setting of the suite with saved ones.

`tools/snapshot.py save FILE [--no-compile]` saves them; `tools/snapshot.py compare FILE` prints the
settings that differ, and where jaxprs differ compares HLO and numbers.
"""

import hashlib
import pathlib
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))

import cases
import jax
import jax.numpy as jnp
import numpy as np

# Names of settings that have changed since a file was saved: (pattern, replacement).
RENAMED = (
    (r"^likelihood\.", "nll."),
    (r"^regression\.quantile(?=-|$|')", "regression.pinball"),
    (r"^divergence\.alpha(?=-|$|')", "divergence.alpha_divergence"),
    (r"^robust\.general(?=-|$|')", "robust.barron"),
    (r"(?<!label)-smoothing\b", "-smooth"),
    (r"-chunk\b", "-chunk_size"),
)


Functions = tuple[Callable[..., Any], list[jax.Array]]


def renamed(name: str) -> str:
    """The present name of a setting."""
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return name


def functions(setting: cases.Setting) -> Functions:
    """A function that returns value and gradients of a setting, and its data."""
    data, options = setting.data(), setting.options()
    at = setting.floating()

    def gradients(*data):
        def total(*floating):
            replaced = dict(zip(at, floating, strict=True))
            every = [replaced.get(i, x) for i, x in enumerate(data)]
            return setting.loss(*every, reduction="mean", **options)

        return jax.value_and_grad(total, tuple(range(len(at))))(*(data[i] for i in at))

    def both(*data):
        return setting.loss(*data, reduction="none", **options), gradients(*data)

    return both, [jnp.asarray(x) for x in data]


def jaxpr_hash(f: Callable[..., Any], data: list[jax.Array]) -> str:
    """A hash of the jaxpr without addresses and names of functions."""
    text = re.sub(r" at 0x[0-9a-f]+", "", str(jax.make_jaxpr(f)(*data)))
    names = "name|jvp|jvp_jaxpr_fun|fwd|bwd|jvp_jaxpr_thunk|callback|debug_info"
    return _hash(re.sub(rf"({names})=[^\s\]]+(<[^>]*>)?", "", text))


def hlo_hash(compiled: jax.stages.Compiled) -> str:
    """A hash of the optimized HLO without metadata and names."""
    text = re.sub(r", metadata=\{[^}]*\}", "", compiled.as_text())
    text = re.sub(r"(FileNames|FunctionNames|FileLocations|StackFrames)\n(.*\n)*?\n", "", text)
    return _hash(re.sub(r"%?[\w.-]+", "", text))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def difference(new: Any, old: Any) -> str:
    """Whether two trees of arrays hold the same numbers, else how far they are apart in ULP."""
    pairs = list(zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))
    if all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
        return "same"
    apart = [
        np.abs(np.float64(a) - b) / np.maximum(np.spacing(np.abs(np.float32(b))), 1e-45)
        for a, b in pairs
    ]
    return f"differ by {max(np.max(x, initial=0) for x in apart):.1f} ULP"


def snapshot(setting: cases.Setting, *, compiles: bool) -> dict[str, Any]:
    """Hash of the jaxpr, and if asked for hash of the HLO and results."""
    f, data = functions(setting)
    entry = {"jaxpr": jaxpr_hash(f, data)}
    if compiles:
        compiled = jax.jit(f).lower(*data).compile()
        entry |= {"hlo": hlo_hash(compiled), "out": jax.tree.map(np.asarray, compiled(*data))}
    return entry


def named() -> Iterator[tuple[str, cases.Setting]]:
    """The settings by unique names: a prime for each repetition."""
    seen = set()
    for setting in cases.settings():
        name = str(setting)
        while name in seen:
            name += "'"
        seen.add(name)
        yield name, setting


def compare(old: dict[str, dict[str, Any]]) -> None:
    """Prints what differs from saved entries."""
    for name, setting in named():
        before = old.pop(name, None)
        if before is None:
            print(f"{name}: new")
        elif snapshot(setting, compiles=False)["jaxpr"] != before["jaxpr"]:
            if "out" not in before:
                print(f"{name}: jaxpr differs")
                continue
            now = snapshot(setting, compiles=True)
            hlo = "same" if now["hlo"] == before["hlo"] else "differs"
            numbers = difference(now["out"], before["out"])
            print(f"{name}: jaxpr differs; HLO {hlo}; numbers {numbers}", flush=True)
    for name in old:
        print(f"{name}: gone")


def main(mode: str, file: str, *options: str) -> None:
    """Saves or compares."""
    path = pathlib.Path(file)
    if mode == "compare":
        saved = pickle.loads(path.read_bytes())
        compare({renamed(name): entry for name, entry in saved.items()})
    else:
        compiles = "--no-compile" not in options
        found = {name: snapshot(setting, compiles=compiles) for name, setting in named()}
        path.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
