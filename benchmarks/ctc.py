"""CTC beside Optax's: time, temporary memory and compile time of `value_and_grad` of the mean.

Run it with `python benchmarks/ctc.py [--rounds 9]`; it writes `benchmarks/ctc.md`. Both functions
are compiled for the same arrays and run in turn; a ratio is the median over the rounds of ours by
Optax's. Logits are noise; in rows marked "sure" they favour one right alignment by a large margin.
"""

import argparse
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import compile_all, interleaved, markdown, ratio

from jaxloss import sequence

ABOUT = """Value and gradient of the mean, then the value alone, as ratios of our time to
Optax's: medians over alternating runs; below 1 is faster. In rows marked "sure" the logits favour
one right alignment by a large margin; otherwise they are noise. Memory is the temporary memory of
the compiled programs.
"""
# (examples, frames, classes, labels), then the dtype, then whether the logits are sure
SETTINGS = [
    ((32, 500, 128, 100), jnp.float32, False),
    ((32, 500, 128, 100), jnp.bfloat16, False),
    ((32, 500, 128, 100), jnp.float32, True),
    ((32, 500, 1024, 100), jnp.float32, False),
    ((32, 500, 1024, 100), jnp.float32, True),
    ((1, 500, 128, 100), jnp.float32, False),
    ((8, 2000, 128, 200), jnp.float32, False),
    ((8, 2000, 128, 200), jnp.float32, True),
]


def ours(logits, labels):
    return sequence.ctc(logits, labels, reduction="mean")


def theirs(logits, labels):
    nothing = jnp.zeros(logits.shape[:2]), jnp.zeros(labels.shape)
    return jnp.mean(optax.ctc_loss(logits, nothing[0], labels, nothing[1]))


def arguments(shape, dtype, sure):
    examples, frames, classes, labels = shape
    generator = np.random.default_rng(0)
    ids = generator.integers(1, classes, (examples, labels))
    logits = generator.normal(size=(examples, frames, classes))
    if sure:
        path = np.zeros((examples, frames), int)
        path[:, 1 : 2 * labels : 2] = ids
        np.put_along_axis(logits, path[..., None], 20, axis=-1)
    return jnp.asarray(logits, dtype), jnp.asarray(ids, jnp.int32)


def compare(shape, dtype, sure, rounds):
    data = arguments(shape, dtype, sure)
    functions = [jax.value_and_grad(ours), jax.value_and_grad(theirs), ours, theirs]
    compiled, seconds = compile_all(functions, *data)
    mine, other, value, other_value = interleaved(compiled, *data, rounds=rounds)
    memory = [c.memory_analysis().temp_size_in_bytes / 2**20 for c in compiled]
    return [
        " x ".join(map(str, shape)),
        np.dtype(dtype).name + (", sure" if sure else ""),
        f"{ratio(mine, other):.2f}",
        f"{ratio(value, other_value):.2f}",
        f"{memory[0]:.0f} / {memory[1]:.0f}",
        f"{ratio(*seconds):.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    compile_all([ours, theirs], *arguments((2, 9, 4, 2), jnp.float32, False))  # imports, caches
    rows = []
    for setting in SETTINGS:
        rows.append(compare(*setting, rounds))
        print(*rows[-1], sep=" | ", flush=True)
    headings = [
        "examples x frames x classes x labels",
        "logits",
        "time",
        "of the value alone",
        "memory, MiB (ours / Optax)",
        "compile time",
    ]
    text = (
        f"# CTC\n\n{ABOUT}\n"
        f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}, "
    )
    text += f"jax {jax.__version__}, optax {optax.__version__}.\n\n"
    pathlib.Path(__file__).with_suffix(".md").write_text(f"{text}{markdown(headings, rows)}\n")


if __name__ == "__main__":
    main()
