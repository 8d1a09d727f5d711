"""The fused last layer on the compilers of TPU and GPU, beside a scan over chunks of tokens.

`python benchmarks/fused_compiled.py v5e` (or h100) prints the tables of `benchmarks/fused.peers.md`.
Nothing runs: see `benchmarks/accelerators.py`, whose packages it needs.
"""

import functools
import sys

import accelerators  # first: it says what JAX may look for
import jax
import jax.numpy as jnp
import numpy as np
from optax.losses import softmax_cross_entropy_with_integer_labels as optax_loss

from jaxloss import linear


def scan_with_checkpoint(hidden, weight, labels, chunks=16):
    """What is often written by hand: 4 matrix products, and the weight's gradient in its dtype."""

    @jax.checkpoint
    def of_chunk(hidden, labels):
        logits = jnp.dot(hidden, weight, preferred_element_type=jnp.float32)
        return optax_loss(logits, labels).sum()

    rows = hidden.reshape(chunks, -1, hidden.shape[-1]), labels.reshape(chunks, -1)
    add = lambda total, chunk: (total + of_chunk(*chunk), None)
    return jax.lax.scan(add, jnp.zeros(()), rows)[0] / len(hidden)


fused = linear.softmax_cross_entropy
FORMS = {
    "scan with checkpoint, 16 chunks": scan_with_checkpoint,
    "`linear`, least memory": functools.partial(fused, policy="least_memory"),
    "`linear`, fastest": fused,
    "`linear`, fastest, sums in bfloat16": functools.partial(fused, accumulator_dtype=jnp.bfloat16),
    "`log_probabilities`": linear.log_probabilities,
    "`log_probabilities`, least memory": functools.partial(
        linear.log_probabilities, policy="least_memory"
    ),
}
SIZES = [
    ((8192, 2048, 131072), jnp.bfloat16),
    ((8192, 2048, 131072), jnp.float32),
    ((16384, 4096, 152064), jnp.bfloat16),
]


def main():
    target = sys.argv[1]
    for (rows, dim, classes), dtype in SIZES:
        case = accelerators.Case(fused, None, ((rows, dim), (dim, classes), ("Int", rows)), (0, 1))
        for name, form in FORMS.items():
            if "bfloat16" in name and dtype != jnp.bfloat16:
                continue
            found = accelerators.measure(form, case, dtype, target)
            shape = f"{rows} x {dim} x {classes}, {np.dtype(dtype).name}"
            cells = [f"{found['temporaries']:.0f}", f"{found['bytes']:.0f}"]
            cycles = f"{found['cycles'] / 1e6:.0f}" if found["cycles"] else ""
            print("", shape, name, *cells, cycles, "", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
