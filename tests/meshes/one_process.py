"""One of several processes that train the same small model; run by `test_distributed.py`.

On a cluster the same script runs with `jax.distributed.initialize()` and no arguments.
"""

import argparse
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


def train(die_at):
    """Trains on a mesh of all devices of all processes; returns the losses."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(ROWS, DIM)).astype(np.float32)
    labels = generator.integers(0, CLASSES, ROWS).astype(np.int32)
    # Uneven: most of what counts is on the first device.
    where = np.arange(ROWS) < ROWS // 2 + 3
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))

    def spread(x, spec):
        """A global array, of which each process makes its own part."""
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda i: x[i])

    data = [spread(x, P("data")) for x in (hidden, labels, where)]
    weight = spread(generator.normal(size=(DIM, CLASSES)).astype(np.float32), P())
    adam = optax.adam(0.1)
    state = jax.jit(adam.init)(weight)

    @jax.jit
    def step(weight, state, hidden, labels, where):
        loss = lambda w: linear.softmax_cross_entropy(hidden, w, labels, where=where, chunk_size=16)
        value, slope = jax.value_and_grad(loss)(weight)
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
    losses, norm = train(options.die_at)
    result = {"devices": jax.device_count(), "losses": losses, "norm": norm}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
