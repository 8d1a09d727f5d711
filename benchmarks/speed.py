"""Time, temporary memory and compile time of `value_and_grad` of the mean, beside Optax's.

Run it with `python benchmarks/speed.py [name ...] [--sizes ...]`; it writes `benchmarks/speed.md`,
where what was not measured, and what stands behind the table, stay as they were. Each row is a
comparison in one process: both functions compiled for the same arrays and run in turn; the ratio is
the median over the rounds of ours by Optax's. Below 1 we are faster. Compile times include tracing.
"""

import argparse
import pathlib
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np
from optax_pairs import PAIRS
from timing import compile_all, interleaved, keep_memory, markdown, measured_before, ratio

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import cases

PATH = pathlib.Path(__file__).with_suffix(".md")
HEADINGS = ["loss", "size", "dtype", "time", "memory, MiB (ours / Optax)", "compile time"]
SIZES = {"small": (64, 10), "middle": (8192, 1000), "large": (4096, 32768)}


def arguments(setting, rows, columns, dtype):
    """Data of a loss at a size: elementwise losses get rows x columns examples."""
    elementwise = not any(form.event for form in setting.array_specs)
    generator = np.random.default_rng(0)
    cases.SIZES["classes"] = columns
    cases.OTHER_SIZE = columns
    batch = (rows, columns) if elementwise else (rows,)
    data = [cases.draw(form, generator, batch) for form in setting.array_specs]
    return [jnp.asarray(x, dtype) if x.dtype == np.float32 else jnp.asarray(x) for x in data]


def mean_of(function):
    return jax.value_and_grad(lambda first, *rest: jnp.mean(function(first, *rest)))


def compare(setting, size, dtype):
    ours = jax.value_and_grad(lambda *data: setting.loss(*data, reduction="mean"))
    data = arguments(setting, *SIZES[size], dtype)
    compiled, seconds = compile_all([ours, mean_of(PAIRS[setting.info.name])], *data, rounds=3)
    rounds, calls = {"small": (25, 200), "middle": (15, 1), "large": (5, 1)}[size]
    mine, theirs = interleaved(compiled, *data, rounds=rounds, calls=calls)
    memory = [c.memory_analysis().temp_size_in_bytes / 2**20 for c in compiled]
    return [
        str(setting),
        size,
        np.dtype(dtype).name,
        f"{ratio(mine, theirs):.2f}",
        f"{memory[0]:.0f} / {memory[1]:.0f}",
        f"{ratio(*seconds):.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names of losses; all by default")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    options = parser.parse_args()
    settings = [
        s
        for s in cases.settings()
        if s.info.name in PAIRS
        and not s.given
        and any(name in str(s) for name in options.names or [""])
    ]
    keep_memory()
    rows = measured_before(PATH, HEADINGS, 3)
    for setting in settings:
        for size in options.sizes:
            for dtype in (jnp.float32, jnp.bfloat16):
                row = compare(setting, size, dtype)
                rows[tuple(row[:3])] = row
                print(*row, sep=" | ", flush=True)
    text = f"# Speed beside Optax\n\n{platform.machine()}, {jax.devices()[0].device_kind}, "
    text += f"jax {jax.__version__}; ratios, ours by Optax's.\n\n"
    order = [str(s) for s in cases.settings()]
    place = lambda row: (order.index(row[0]), list(SIZES).index(row[1]), row[2] != "float32")
    _, heading, closing = PATH.read_text().partition("\n## ")
    table = markdown(HEADINGS, sorted(rows.values(), key=place))
    PATH.write_text(f"{text}{table}\n{heading}{closing}")


if __name__ == "__main__":
    main()
