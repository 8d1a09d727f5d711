"""Value, gradient, jaxpr and optimized HLO of every setting of the suite: saved, or compared with what was saved.

    python tools/snapshot.py save FILE [--no-compile]
    python tools/snapshot.py compare FILE
"""

import hashlib
import pathlib
import pickle
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))

import jax
import jax.numpy as jnp
import numpy as np

import cases

# Names of settings that have changed since a file was saved: (pattern, replacement).
RENAMED = (
    (r"^likelihood\.", "nll."),
    (r"^regression\.quantile(?=-|$|')", "regression.pinball"),
    (r"^divergence\.alpha(?=-|$|')", "divergence.alpha_divergence"),
    (r"^robust\.general(?=-|$|')", "robust.barron"),
    (r"(?<!label)-smoothing\b", "-smooth"),
    (r"-chunk\b", "-chunk_size"),
)


def renamed(name):
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return name


def functions(setting):
    data, options = setting.data(), setting.options()
    at = setting.floating()

    def values(*data):
        return setting.loss(*data, reduction="none", **options)

    def gradients(*data):
        def total(*floating):
            replaced = dict(zip(at, floating, strict=True))
            every = [replaced.get(i, x) for i, x in enumerate(data)]
            return setting.loss(*every, reduction="mean", **options)

        return jax.value_and_grad(total, tuple(range(len(at))))(*(data[i] for i in at))

    return (lambda *data: (values(*data), gradients(*data))), [jnp.asarray(x) for x in data]


def normal(text):
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    text = re.sub(r"(name|jvp|jvp_jaxpr_fun|fwd|bwd|jvp_jaxpr_thunk|callback|debug_info)=[^\s\]]+(<[^>]*>)?", "", text)
    return text


def hlo(compiled):
    text = re.sub(r", metadata=\{[^}]*\}", "", compiled.as_text())
    text = re.sub(r"(FileNames|FunctionNames|FileLocations|StackFrames)\n(.*\n)*?\n", "", text)
    return hashlib.sha256(re.sub(r"%?[\w.-]+", "", text).encode()).hexdigest()


def main():
    mode, file = sys.argv[1:3]
    compile_ = "--no-compile" not in sys.argv
    old = pickle.load(open(file, "rb")) if mode == "compare" else {}
    old = {renamed(name): entry for name, entry in old.items()}
    found, worse = {}, 0
    for setting in cases.settings():
        f, data = functions(setting)
        name = str(setting)
        while name in found:
            name += "'"
        jaxpr = normal(str(jax.make_jaxpr(f)(*data)))
        entry = found[name] = {"jaxpr": hashlib.sha256(jaxpr.encode()).hexdigest()}
        if mode == "save":
            if compile_:
                compiled = jax.jit(f).lower(*data).compile()
                entry["hlo"] = hlo(compiled)
                entry["out"] = jax.tree.map(np.asarray, compiled(*data))
            continue
        before = old.get(name)
        if before is None:
            print(f"{name}: new")
            continue
        if before["jaxpr"] == entry["jaxpr"]:
            continue
        if "out" not in before:
            print(f"{name}: jaxpr differs")
            continue
        compiled = jax.jit(f).lower(*data).compile()
        out = jax.tree.map(np.asarray, compiled(*data))
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(before["out"]), strict=True))
        ulp = max(float(np.max(np.abs(np.asarray(a, np.float64) - b) / np.maximum(np.spacing(np.abs(np.asarray(b, np.float32))), 1e-45), initial=0)) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(before["out"]), strict=True))
        print(f"{name}: jaxpr differs; HLO {'same' if hlo(compiled) == before['hlo'] else 'differs'}; numbers {'same' if same else f'differ by {ulp:.1f} ULP'}")
    if mode == "save":
        pickle.dump(found, open(file, "wb"))
    for name in old.keys() - found.keys():
        print(f"{name}: gone")


main()
