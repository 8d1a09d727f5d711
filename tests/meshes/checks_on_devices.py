"""Checks on eight devices: a failure is one ValueError, and leaves nothing behind.

Run by tests/test_checks.py, in a process of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl

MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
LOGITS = jnp.zeros((16, 10))
GOOD = jnp.zeros(16, int)
BAD = GOOD.at[13].set(10)


def loss(logits, labels):
    return jl.classification.softmax_cross_entropy(logits, labels, reduction="mean")


def collective(logits, labels):
    return jax.lax.pmean(loss(logits, labels), "data")


def unchecked_collective(logits, labels):
    return jax.lax.pmean(loss(logits, labels)[None], "data")


BY_SHARD = P("data")
SHARDED = NamedSharding(MESH, BY_SHARD)
REPLICATED = NamedSharding(MESH, P())


def placed(where):
    return lambda logits, labels: loss(jax.device_put(logits, where), jax.device_put(labels, where))


PLACES = {
    "eager": loss,
    "jit": jax.jit(loss),
    "sharded": jax.jit(loss, in_shardings=(SHARDED, SHARDED)),
    "eager, sharded": placed(SHARDED),
    "eager, replicated": placed(REPLICATED),
    "shard_map": jax.jit(jax.shard_map(collective, mesh=MESH, in_specs=BY_SHARD, out_specs=P())),
    "shard_map without its own check": jax.jit(
        jax.shard_map(
            unchecked_collective,
            mesh=MESH,
            in_specs=BY_SHARD,
            out_specs=BY_SHARD,
            check_vma=False,
        )
    ),
    "grad of shard_map": jax.jit(
        jax.grad(jax.shard_map(collective, mesh=MESH, in_specs=BY_SHARD, out_specs=P()))
    ),
    "pmap": lambda logits, labels: jax.pmap(loss)(logits.reshape(8, 2, 10), labels.reshape(8, 2)),
}


def failure(run):
    try:
        jl.checked(run)(LOGITS, BAD)
    except ValueError as error:
        return str(error)
    return "no error"


assert jax.device_count() == 8
for name, run in PLACES.items():
    message = failure(run)
    expected = "`labels` must be class ids from 0 to classes - 1 (classes = 10), got 10"
    assert expected in message, f"{name}: {message}"
    for other in (name, "eager", "jit", "sharded", "shard_map"):
        value = jl.checked(PLACES[other])(LOGITS, GOOD)
        assert np.all(np.isfinite(value)), f"{other} after a failure of {name}"
    print(name)
print("clean")
