"""Every loss on CPU beside the form that one would write: its value alone, and with the gradient.

Run it with `python benchmarks/cpu.py [name ...] [--rounds 9]`; it writes `benchmarks/cpu.md`, and
keeps the rows that were not measured and the text after the table. The losses, the arguments that
are differentiated and the other forms are those of `accelerators.py`, with fewer rows.
"""

import argparse
import pathlib
import platform
import zlib

import accelerators
import jax
import jax.numpy as jnp
import numpy as np
from timing import compile_all, interleaved, markdown, measured_before, ratio

import jaxloss as jl

MIB = 2**20
PATH = pathlib.Path(__file__).with_suffix(".md")
HEADINGS = ["loss", "value", "MiB", "value and gradient", "MiB"]
ABOUT = """The mean of each loss: time by that of the form one would write (Optax's where it exists,
else `jax.numpy`: [textbook.py](textbook.py)), medians over alternating runs, below 1 is faster;
and the temporary memory of both programs. Elementwise losses and those of one class or feature axis
take [4096, 1000], sets 1024 embeddings, boxes and short axes 65,536 rows, lists 1024 x 256.
"""
# The sizes of `accelerators.py`, less.
FEWER = {65536: 4096, 1 << 20: 1 << 16, 4096: 1024, 2048: 1024, 1024: 64, 256: 32, 64: 4, 8: 1}
# Forms that take minutes. Those that take more memory than there is are left out too.
LEFT_OUT = ("head: ", "ranking.unique_softmax", "sequence.ctc")


def fewer_rows():
    accelerators.ROWS = 4096
    accelerators.SIZES |= {"set": 1024, "pairs": 1024}
    batches = accelerators.BATCHES
    batches |= {axis: tuple(FEWER.get(n, n) for n in batch) for axis, batch in batches.items()}
    for special in accelerators.SPECIAL.values():
        if "batch" in special:
            special["batch"] = tuple(FEWER.get(n, n) for n in special["batch"])
    accelerators.NAMED["nll.beta_gaussian"] = (("variance", (4096, 1000)),)


def drawn(shape, domain, seed):
    """Numbers of a domain: the first kind of draw that all lie in it."""
    rng = np.random.default_rng(seed)
    if shape and shape[0] == "Int":
        return jnp.asarray(rng.integers(0, 2, shape[1:]), jnp.int32)
    if shape and shape[0] == "Bool":
        return jnp.asarray(rng.random(shape[1:]) < 0.5)
    normal, uniform = rng.normal(size=shape), rng.uniform(0.05, 0.95, shape)
    if domain is None:
        return jnp.asarray(normal, jnp.float32)
    if domain.normalized:
        return jax.nn.softmax(jnp.asarray(normal, jnp.float32))
    kinds = normal, uniform, -uniform, 1 + uniform, np.round(uniform), 2 * np.round(uniform) - 1
    context = {"log_input": True}
    found = (x for x in kinds if np.all(domain.test(jnp.asarray(x.flat[:64]), context)[0]))
    return jnp.asarray(next(found, uniform), jnp.float32)


def arguments(name, case):
    spec = {info.name: info.spec for info in jl.catalogue.losses()}[name.split()[0].strip(",")]
    forms = [spec.array_specs[each] for each in spec.data]
    found = []
    for i, shape in enumerate(case.data):
        kind = shape[0] if shape and isinstance(shape[0], str) else "Real"
        fitting = [f.domain for f in (forms[i] if i < len(forms) else ()) if f.kind == kind]
        seed = zlib.crc32(f"{name} {i}".encode())
        found.append(drawn(shape, fitting[0] if fitting else None, seed))
    return found


def measure(name, case, rounds):
    arrays, cells = arguments(name, case), []
    for with_gradient in (False, True):
        functions = []
        for loss in (case.ours, case.textbook):
            mean = lambda *x, loss=loss: jnp.mean(loss(*x).astype(jnp.float32))
            functions.append(
                jax.value_and_grad(mean, case.differentiated) if with_gradient else mean
            )
        programs, _ = compile_all(functions, *arrays)
        ours, other = interleaved(programs, *arrays, rounds=rounds)
        held = [p.memory_analysis().temp_size_in_bytes / MIB for p in programs]
        cells += [f"{ratio(ours, other):.2f}", " / ".join(f"{each:.0f}" for each in held)]
    jax.clear_caches()
    return [name, *cells]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="rows whose name holds one of these")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    fewer_rows()
    known = {
        name: case
        for name, case in accelerators.cases().items()
        if case.textbook and not name.startswith(LEFT_OUT) and "chunk" not in name
    }
    rows = measured_before(PATH, HEADINGS, 1)
    text = PATH.read_text().partition("\n## ")[2] if PATH.exists() else ""
    for name, case in known.items():
        if not options.names or any(part in name for part in options.names):
            try:
                rows[name,] = measure(name, case, options.rounds)
            except jax.errors.JaxRuntimeError as error:
                print(f"{name}: {str(error)[:200]}", flush=True)
                continue
            print(*rows[name,], sep=" | ", flush=True)
            table = markdown(HEADINGS, [rows[n,] for n in known if (n,) in rows])
            about = f"{ABOUT}\n{platform.machine()}, cpu, jax {jax.__version__}."
            end = f"\n## {text}" if text else ""
            PATH.write_text(f"# Every loss on CPU\n\n{about}\n\n{table}\n{end}")


if __name__ == "__main__":
    main()
