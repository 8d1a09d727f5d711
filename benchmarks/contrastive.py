"""Contrastive losses in chunks: time and memory beside the naive forms.

Run it with `python benchmarks/contrastive.py [CLIP SigLIP InfoNCE] [--sizes 4096 8192 16384]`; it
writes `benchmarks/contrastive.md`, and keeps the rows that were not measured. All functions are
`value_and_grad` of the mean for both sets and the temperature, run in turn; a ratio is the median
over the rounds, with the ratio of the shortest times in brackets.
"""

import argparse
import os
import pathlib
import platform

import jax
import jax.numpy as jnp
import optax
from timing import compile_all, interleaved, markdown, measured_before, ratio

from jaxloss import contrastive

MIB = 2**20


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def naive_clip(x, y, t):
    """The usual form: two cross-entropies, of the logits and of their transpose."""
    logits = unit(x) @ unit(y).T / t
    labels = jnp.arange(len(x))
    loss = optax.softmax_cross_entropy_with_integer_labels
    return (loss(logits, labels).mean() + loss(logits.T, labels).mean()) / 2


def naive_siglip(x, y, t):
    logits = unit(x) @ unit(y).T / t - 10
    signs = 2 * jnp.eye(len(x)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=-1).mean()


def naive_info_nce(x, y, t):
    logits = unit(x) @ unit(y).T / t
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(x))).mean()


def ours(loss, **options):
    return lambda x, y, t: loss(x, y, temperature=t, reduction="mean", **options)


FAMILIES = {
    "CLIP": (naive_clip, contrastive.clip),
    "SigLIP": (naive_siglip, contrastive.siglip),
    "InfoNCE": (naive_info_nce, contrastive.info_nce),
}


ABOUT = """Value and gradient of the mean for both sets and the temperature. "naive" is the usual
form in `jnp`, which holds the square matrix of similarities; "chunk" rows compute so many of its
rows at a time. Time is the ratio to the naive form, the median over alternating runs, with the
ratio of the shortest times in brackets; below 1 is faster. MiB is the temporary memory of the
compiled program, also as a fraction of that of the naive form.
"""
SIZES = {4096: 256, 8192: 512, 16384: 512}
CHUNKS = (512, 256, 128)
PATH = pathlib.Path(__file__).with_suffix(".md")
HEADINGS = ["", "set", "time by the naive form's (of the shortest)", "MiB", "of the naive's"]


def compare(name, size, rounds):
    naive, loss = FAMILIES[name]
    shape = (size, SIZES[size])
    keys = jax.random.split(jax.random.key(0), 2)
    data = [jax.random.normal(key, shape) for key in keys] + [jnp.float32(0.07)]
    forms = {f"{name}, naive": naive}
    if size < max(SIZES):  # takes minutes and the memory of a second naive form
        forms[f"`{loss.__name__}`"] = ours(loss)
    for chunk in CHUNKS:
        forms[f"`{loss.__name__}`, chunk {chunk}"] = ours(loss, chunk_size=chunk)
    programs, _ = compile_all([jax.value_and_grad(f, (0, 1, 2)) for f in forms.values()], *data)
    times = interleaved(programs, *data, rounds=rounds)
    memory = programs[0].memory_analysis().temp_size_in_bytes
    rows = []
    for form, program, mine in zip(forms, programs, times, strict=True):
        own = program.memory_analysis().temp_size_in_bytes
        shortest = min(mine) / min(times[0])
        rows.append([
            form, " x ".join(map(str, shape)), f"{ratio(mine, times[0]):.2f} ({shortest:.2f})",
            f"{own / MIB:.0f}", f"1/{memory / own:.1f}",
        ])  # fmt: skip
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def place(row):
    """Families in order, then sizes, then forms as they came."""
    of_family = [name.lower() in row[0].lower().replace("_", "") for name in FAMILIES]
    return of_family[::-1], int(row[1].split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of CLIP, SigLIP, InfoNCE; all by default")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load, rows = os.getloadavg()[0], measured_before(PATH, HEADINGS, 2)
    for name in options.names or FAMILIES:
        for size in options.sizes:
            rows |= {tuple(row[:2]): row for row in compare(name, size, options.rounds)}
    text = (
        f"# Contrastive losses in chunks\n\n{ABOUT}\n"
        f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax "
        f"{jax.__version__}, optax {optax.__version__}; load {load:.1f} when it began.\n\n"
    )
    PATH.write_text(text + markdown(HEADINGS, sorted(rows.values(), key=place)) + "\n")


if __name__ == "__main__":
    main()
