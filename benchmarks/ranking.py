"""Pairwise ranking losses on a long list: time and memory, whole and in chunks.

Run it with `python benchmarks/ranking.py [--rounds 5]`; it writes `benchmarks/ranking.md`. All
functions are `value_and_grad`, compiled for the same list and run in turn; a ratio is the median
over the rounds of the time of a function by that of the naive form in `jnp`.
"""

import argparse
import pathlib
import platform

import jax
import jax.numpy as jnp
from timing import compile_all, interleaved, markdown, ratio

from jaxloss import ranking

ABOUT = """Value and gradient of pairwise ranking losses. "naive" is the usual form in `jnp`,
which compares all pairs at once; "chunk" rows compare so many items with all others at a time.
Time is the ratio to the naive form, the median over alternating runs; below 1 is faster.
"""
ITEMS = 10_000


def naive(cost):
    def loss(scores, relevance):
        pairs = relevance[:, None] > relevance[None, :]
        costs = jnp.where(pairs, cost(scores[:, None] - scores[None, :]), 0)
        return jnp.sum(costs) / jnp.sum(pairs)

    return loss


def naive_squared_error(scores, relevance):
    errors = scores - relevance
    return jnp.sum(jnp.square(errors[:, None] - errors[None, :])) / (ITEMS * (ITEMS - 1))


NAIVE = {
    "pairwise_hinge": naive(lambda gap: jnp.maximum(0, 1 - gap)),
    "pairwise_logistic": naive(lambda gap: jax.nn.softplus(-gap)),
    "pairwise_squared_error": naive_squared_error,
}


def compare(name, data, rounds):
    functions = {"naive": NAIVE[name]}
    for chunk in (None, 1024, 128):
        label = f"`{name}`" + (f", chunk {chunk}" if chunk else "")
        functions[label] = lambda s, y, chunk_size=chunk: getattr(ranking, name)(
            s, y, chunk_size=chunk_size
        )
    if name == "pairwise_squared_error":  # linear in the number of items: chunks change nothing
        functions = dict(list(functions.items())[:2])
    programs, _ = compile_all(map(jax.value_and_grad, functions.values()), *data)
    times = interleaved(programs, *data, rounds=rounds)
    rows = []
    for label, program, mine in zip(functions, programs, times, strict=True):
        memory = program.memory_analysis().temp_size_in_bytes / 2**20
        rows.append([label, f"{ratio(mine, times[0]):.3g}", f"{memory:.3g}"])
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    keys = jax.random.split(jax.random.key(0))
    scores = jax.random.normal(keys[0], (ITEMS,))
    relevance = jax.random.randint(keys[1], (ITEMS,), 0, 5).astype(scores.dtype)
    rows = [row for name in NAIVE for row in compare(name, (scores, relevance), rounds)]
    text = f"# One list of {ITEMS:,} items\n\n{ABOUT}\n{platform.machine()}, two cores, "
    text += f"{jax.devices()[0].device_kind}, jax {jax.__version__}, float32.\n\n"
    headings = ["", "time by the naive form's", "temporary memory, MiB"]
    text += markdown(headings, rows) + "\n"
    pathlib.Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
