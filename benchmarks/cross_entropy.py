"""The softmax cross-entropy of given logits, and of logits that are a product.

Run it with `python benchmarks/cross_entropy.py [leaf | intermediate]`; it writes
`benchmarks/cross_entropy.md`. All functions are `value_and_grad` of the mean, compiled for the
same arrays and run in turn; a ratio is the median over the rounds. The floor for given logits is
`2 * logits`, which reads and writes them once; the floor for a product is the three matrix products
of value and gradients. Memory is the temporary memory of our program and of Optax's.

The allocator keeps freed arrays of up to 31 MiB, so that the time of fresh pages is not measured;
larger arrays are always fresh.
"""

import argparse
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import compile_all, interleaved, keep_memory, markdown, ratio

from jaxloss.classification import softmax_cross_entropy

LEAVES = [(8192, 1000), (4096, 32768)]
ABOUT = """Value and gradient of the mean. "by Optax's time" is the ratio of our time to Optax's,
"by the floor" the ratio to the cheapest program with the same inputs and outputs; both are
medians over alternating runs. Memory is the temporary memory of the compiled programs, ours and
Optax's.
"""
INTERMEDIATE = (2048, 512, 32768)  # tokens, dimension, vocabulary
HEADINGS = ["labels", "shape", "dtype", "by Optax's time", "by the floor", "memory, MiB"]


def ours(logits, labels):
    return softmax_cross_entropy(logits, labels, reduction="mean")


def theirs(logits, labels):
    whole = labels.ndim < logits.ndim
    loss = optax.softmax_cross_entropy_with_integer_labels if whole else optax.softmax_cross_entropy
    return loss(logits, labels).mean()


def draw_labels(kind, rows, classes, dtype):
    generator = np.random.default_rng(1)
    if kind == "class ids":
        return jnp.asarray(generator.integers(0, classes, rows), jnp.int32)
    return jax.nn.softmax(jax.random.normal(jax.random.key(1), (rows, classes))).astype(dtype)


def row(functions, arguments, floor, label, shape, dtype, rounds):
    compiled, _ = compile_all([*functions, floor], *arguments)
    mine, optaxs, least = interleaved(compiled, *arguments, rounds=rounds)
    memory = [c.memory_analysis().temp_size_in_bytes / 2**20 for c in compiled[:2]]
    times = f"{ratio(mine, optaxs):.2f}", f"{ratio(mine, least):.2f}"
    shape = " x ".join(map(str, shape))
    cells = [label, shape, np.dtype(dtype).name, *times, "{:.0f} / {:.0f}".format(*memory)]
    print(*cells, sep=" | ", flush=True)
    return cells


def leaf(kind, rows, classes, dtype):
    logits = (2 * jax.random.normal(jax.random.key(0), (rows, classes))).astype(dtype)
    arguments = logits, draw_labels(kind, rows, classes, dtype)
    functions = [jax.value_and_grad(f) for f in (ours, theirs)]
    rounds = 25 if rows * classes < 2**24 else 5
    floor = lambda logits, labels: 2 * logits
    return row(functions, arguments, floor, kind, (rows, classes), dtype, rounds)


def intermediate(kind, dtype):
    tokens, dimension, vocabulary = INTERMEDIATE
    hidden = jax.random.normal(jax.random.key(0), (tokens, dimension)).astype(dtype)
    weight = (jax.random.normal(jax.random.key(2), (dimension, vocabulary)) / 16).astype(dtype)
    arguments = hidden, weight, draw_labels(kind, tokens, vocabulary, dtype)

    def of_factors(loss):
        return jax.value_and_grad(lambda h, w, labels: loss(h @ w, labels), argnums=(0, 1))

    def products(h, w, labels):
        logits = h @ w
        return logits @ w.T, h.T @ logits

    functions = [of_factors(f) for f in (ours, theirs)]
    return row(functions, arguments, products, kind, INTERMEDIATE, dtype, 5)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="leaf, intermediate; both by default")
    parts = parser.parse_args().parts or ["leaf", "intermediate"]
    keep_memory()
    kinds = [(k, d) for k in ("class ids", "distributions") for d in (jnp.float32, jnp.bfloat16)]
    text = f"# The softmax cross-entropy\n\n{ABOUT}\n"
    text += f"{platform.machine()}, {jax.devices()[0].device_kind}, "
    text += f"jax {jax.__version__}, optax {optax.__version__}.\n"
    if "leaf" in parts:
        rows = [leaf(kind, *shape, dtype) for shape in LEAVES for kind, dtype in kinds]
        text += "\n## Given logits; the floor is `2 * logits`\n\n"
        text += markdown(HEADINGS, rows) + "\n"
    if "intermediate" in parts:
        rows = [intermediate(kind, dtype) for kind, dtype in kinds]
        text += "\n## Logits that are a product, tokens x dimension x vocabulary; "
        text += "the floor is three products\n\n" + markdown(HEADINGS, rows) + "\n"
    if len(parts) == 2:
        pathlib.Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
