"""Time, temporary memory and compile time of `value_and_grad` of the mean, beside Optax's.

Run it with `python benchmarks/speed.py [name ...] [--sizes ...]`; it writes `benchmarks/speed.md`,
and keeps the rows that were not measured and the text after the table. Each row is a comparison in
one process: both functions are compiled for the same arrays and run in turn. The ratio is the
median over the rounds of ours by Optax's: below 1 ours is faster. Compile times include tracing.
"""

import argparse
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
from optax_pairs import INPUTS, PAIRS, draw
from timing import compile_all, interleaved, keep_memory, markdown, measured_before, ratio

import jaxloss as jl

PATH = pathlib.Path(__file__).with_suffix(".md")
ABOUT = """Value and gradient of the mean of each loss that Optax also has. Time and compile time
are ratios of ours to Optax's, medians over alternating runs; below 1 is faster. Memory is the
temporary memory of the compiled programs. Sizes are small [64, 10], middle [8192, 1000] and large
[4096, 32768].
"""
HEADINGS = ["loss", "size", "dtype", "time", "memory, MiB (ours / Optax)", "compile time"]
SIZES = {"small": (64, 10), "middle": (8192, 1000), "large": (4096, 32768)}


def arguments(name, rows, columns, dtype):
    """Data of a row of the table at a size."""
    generator = np.random.default_rng(0)
    data = [draw(kind, generator, rows, columns) for kind in INPUTS[name]]
    return [jnp.asarray(x, dtype) if x.dtype == np.float32 else jnp.asarray(x) for x in data]


def mean_of(function):
    return jax.value_and_grad(lambda first, *rest: jnp.mean(function(first, *rest)))


def compare(name, size, dtype):
    family, loss = name.partition("-")[0].split(".")
    function = getattr(getattr(jl, family), loss)
    ours = jax.value_and_grad(lambda *data: function(*data, reduction="mean"))
    theirs = mean_of(PAIRS[f"{family}.{loss}"])
    data = arguments(name, *SIZES[size], dtype)
    compiled, seconds = compile_all([ours, theirs], *data, rounds=3)
    rounds, calls = {"small": (25, 200), "middle": (15, 1), "large": (5, 1)}[size]
    times = interleaved(compiled, *data, rounds=rounds, calls=calls)
    memory = [c.memory_analysis().temp_size_in_bytes / 2**20 for c in compiled]
    return [
        name,
        size,
        np.dtype(dtype).name,
        f"{ratio(*times):.2f}",
        f"{memory[0]:.0f} / {memory[1]:.0f}",
        f"{ratio(*seconds):.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names of losses; all by default")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    options = parser.parse_args()
    names = [n for n in INPUTS if any(part in n for part in options.names or [""])]
    keep_memory()
    rows = measured_before(PATH, HEADINGS, 3)
    for name in names:
        for size in options.sizes:
            for dtype in (jnp.float32, jnp.bfloat16):
                row = compare(name, size, dtype)
                rows[tuple(row[:3])] = row
                print(*row, sep=" | ", flush=True)
    text = (
        f"# Speed beside Optax\n\n{ABOUT}\n{platform.machine()}, {jax.devices()[0].device_kind}, "
    )
    text += f"jax {jax.__version__}.\n\n"
    order = list(INPUTS)
    place = lambda row: (order.index(row[0]), list(SIZES).index(row[1]), row[2] != "float32")
    _, heading, closing = PATH.read_text().partition("\n## ")
    table = markdown(HEADINGS, sorted(rows.values(), key=place))
    PATH.write_text(f"{text}{table}\n{heading}{closing}")


if __name__ == "__main__":
    main()
