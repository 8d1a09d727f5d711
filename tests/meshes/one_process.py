"""One of several processes that train the same small model; run by `test_distributed.py`.

On a cluster the same script runs with `jax.distributed.initialize()` and no arguments.
"""

import argparse
import functools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxloss import linear

ROWS, DIM, CLASSES, STEPS = 32, 8, 40, 5
SEQUENCES, LENGTH = 3, 16


def over_rows():
    """Rows over all devices: the data, a weight that all hold, and the loss."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(ROWS, DIM)).astype(np.float32)
    labels = generator.integers(0, CLASSES, ROWS).astype(np.int32)
    # Uneven: most of what counts is on the first device.
    where = np.arange(ROWS) < ROWS // 2 + 3
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))

    data = [spread(mesh, x, P("data")) for x in (hidden, labels, where)]
    weight = spread(mesh, generator.normal(size=(DIM, CLASSES)).astype(np.float32), P())

    def loss(weight, hidden, labels, where):
        return linear.softmax_cross_entropy(hidden, weight, labels, where=where, chunk_size=16)

    return data, weight, loss


def over_sequences_and_vocabulary():
    """Positions of the sequences over one axis of the mesh, the vocabulary over the other one."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(SEQUENCES, LENGTH, DIM)).astype(np.float32)
    tokens = generator.integers(0, CLASSES, (SEQUENCES, LENGTH)).astype(np.int32)
    # Shifted before the positions are sharded. The lengths are uneven: the last devices have one
    # sequence that counts, and padding of the others.
    labels = np.concatenate([tokens[:, 1:], np.zeros_like(tokens[:, :1])], axis=1)
    where = np.arange(LENGTH) < np.array([LENGTH, 9, 3])[:, None] - 1
    # The devices of a process are neighbours: processes share both axes if there are four of two.
    split = min(jax.device_count(), 2)
    shape = (split, jax.device_count() // split)
    mesh = jax.make_mesh(shape, ("vocabulary", "context"), axis_types=(AxisType.Auto,) * 2)
    of_weight, of_data = P(None, "vocabulary"), P(None, "context")
    data = [spread(mesh, x, of_data) for x in (hidden, labels, where)]
    weight = spread(mesh, generator.normal(size=(DIM, CLASSES)).astype(np.float32), of_weight)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(of_weight, *(of_data,) * 3), out_specs=P()
    )
    def loss(weight, hidden, labels, where):
        mean = linear.softmax_cross_entropy(
            hidden, weight, labels, where=where, axis_name="vocabulary", reduction="parts"
        )
        return mean.psum("context").value

    return data, weight, loss


def spread(mesh, x, spec):
    """A global array, of which each process makes its own part."""
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda i: x[i])


def train(parallel, die_at):
    """Trains on a mesh of all devices of all processes; returns the losses."""
    data, weight, loss = {"rows": over_rows, "both": over_sequences_and_vocabulary}[parallel]()
    adam = optax.adam(0.1)
    state = jax.jit(adam.init)(weight)

    @jax.jit
    def step(weight, state, *data):
        value, slope = jax.value_and_grad(loss)(weight, *data)
        updates, state = adam.update(slope, state)
        return optax.apply_updates(weight, updates), state, value

    losses = []
    for number in range(STEPS):
        if number == die_at:
            signal.raise_signal(signal.SIGKILL)
        weight, state, value = step(weight, state, *data)
        losses.append(float(value))
    return losses, float(jnp.linalg.norm(weight))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--parallel", choices=["rows", "both"], default="rows")
    parser.add_argument("--die-at", type=int, default=-1)
    options = parser.parse_args()
    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{options.port}",
            options.processes,
            options.process,
            heartbeat_timeout_seconds=10,
            initialization_timeout=60,
        )
    losses, norm = train(options.parallel, options.die_at)
    result = {"devices": jax.device_count(), "losses": losses, "norm": norm}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
