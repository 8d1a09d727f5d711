"""The fused last layer on the compilers of TPU and GPU, beside a scan over chunks of tokens.

`python benchmarks/fused_compiled.py v5e` (or h100) prints the tables of `benchmarks/fused.peers.md`,
or the rows whose form has the word that follows. Nothing runs: see `benchmarks/accelerators.py`,
whose packages it needs.
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


def scan_of_divergences(hidden, weight, target_hidden, target_weight, chunks=16):
    """KL(q || p) of two layers, as it is often written."""

    @jax.checkpoint
    def of_chunk(hidden, target_hidden):
        both = (hidden, weight), (target_hidden, target_weight)
        log_p, log_q = (
            jax.nn.log_softmax(jnp.dot(h, w, preferred_element_type=jnp.float32)) for h, w in both
        )
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p))

    rows = [x.reshape(chunks, -1, x.shape[-1]) for x in (hidden, target_hidden)]
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


least = functools.partial(functools.partial, policy="least_memory")
PAIRS = {
    "KL, scan with checkpoint, 16 chunks": scan_of_divergences,
    "`linear.kl`, fastest": linear.kl,
    "`linear.kl`, least memory": least(linear.kl),
    "`linear.kl`, reverse, least memory": least(linear.kl, reverse=True),
    "`linear.kl`, least memory, `none`": least(linear.kl, reduction="none"),
    "`linear.generalized_jensen_shannon`, least memory": least(linear.generalized_jensen_shannon),
    "`linear.total_variation`, least memory": least(linear.total_variation),
}


def of_sizes(rows, dim, classes):
    """The forms, the shapes of their arguments, and what is differentiated: not the teacher."""
    one = (rows, dim), (dim, classes)
    yield FORMS, (*one, ("Int", rows)), (0, 1)
    yield PAIRS, (*one, *one), (0, 1)


def main():
    target, word = sys.argv[1], (*sys.argv[2:], "")[0]
    every = (
        (sizes, dtype, accelerators.Case(fused, None, *rest), name, form)
        for sizes, dtype in SIZES
        for forms, *rest in of_sizes(*sizes)
        for name, form in forms.items()
        if word in name and ("bfloat16" not in name or dtype == jnp.bfloat16)
    )
    for sizes, dtype, case, name, form in every:
        found = accelerators.measure(form, case, dtype, target)
        shape = f"{' x '.join(map(str, sizes))}, {np.dtype(dtype).name}"
        cells = [f"{found['temporaries']:.0f}", f"{found['bytes']:.0f}"]
        cycles = f"{found['cycles'] / 1e6:.0f}" if found["cycles"] else ""
        print("", shape, name, *cells, cycles, "", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
