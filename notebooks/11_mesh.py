# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One loss over eight devices
#
# **Is a loss over a mesh equal to the loss on one device, and what is sent?** One CPU provides
# eight devices, so that the notebook runs anywhere. The same loss is computed under `jit` from
# sharded arrays, and inside `shard_map`, where each device computes with its own shard. The
# compiled programs show what is sent. Background: `docs/meshes.md`.

# %%
# Install from a clone of the repository: %pip install ".[demo]"
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # before jax starts

import re

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxloss import contrastive, linear, sharded
from jaxloss.classification import softmax_cross_entropy

assert jax.device_count() == 8

# %% [markdown]
# ## Data, and the loss on one device
#
# 512 tokens, 1,024 classes; a third of the tokens is padding, which is on the last devices.

# %%
TOKENS, DIM, CLASSES = 512, 32, 1024
generator = np.random.default_rng(0)
hidden = jnp.asarray(generator.normal(size=(TOKENS, DIM)), jnp.float32)
weight = jnp.asarray(generator.normal(size=(DIM, CLASSES)) / np.sqrt(DIM), jnp.float32)
labels = jnp.asarray(generator.integers(0, CLASSES, TOKENS))
where = jnp.arange(TOKENS) < 340


def of_one_device(hidden, weight):
    return softmax_cross_entropy(hidden @ weight, labels, where=where, reduction="mean")


expected = jax.jit(jax.value_and_grad(of_one_device, (0, 1)))(hidden, weight)
print(f"the loss is {expected[0]:.6f}")

# %% [markdown]
# ## Under `jit`
#
# The tokens are split over `data`, the classes over `model`. The code is that of one device.

# %%
mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def place(x, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))


def fused(hidden, weight, labels, where):
    return linear.softmax_cross_entropy(hidden, weight, labels, where=where, chunk_size=128)


arrays = place(hidden, "data"), place(weight, None, "model"), place(labels, "data")
arrays += (place(where, "data"),)
program = jax.jit(jax.value_and_grad(fused, (0, 1))).lower(*arrays).compile()
under_jit = program(*arrays)


def sent(program):
    """The number of collectives of each kind in the compiled code, and the size of the largest."""
    found = {}
    for line in program.as_text().splitlines():
        match = re.search(r"= (.*?) (all-reduce|all-gather|collective-permute)\(", line)
        if match:
            sizes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            largest = max(int(np.prod([int(n) for n in s.split(",") if n] or [1])) for s in sizes)
            number, before = found.get(match[2], (0, 0))
            found[match[2]] = number + 1, max(before, largest)
    return found


print("collectives, and the entries of the largest:", sent(program))
print("sharding of the gradient of the weight:", under_jit[1][1].sharding.spec)

# %% [markdown]
# ## Inside `shard_map`
#
# Each device has 256 tokens and 256 classes. `axis_name` is the mesh axis over which the
# vocabulary is split. `reduction="parts"` and `psum` give the mean over all unmasked tokens,
# however they are distributed. The average of the means of the devices is another number:

# %%
SPECS = P("data"), P(None, "model"), P("data"), P("data")


def parts_of(hidden, weight, labels, where):
    return linear.softmax_cross_entropy(
        hidden, weight, labels, where=where, axis_name="model", reduction="parts", chunk_size=64
    )


def exact(*shard):
    return parts_of(*shard).psum("data").value


def mean_of_means(*shard):
    return jax.lax.pmean(parts_of(*shard).value, "data")


in_shards = {
    f.__name__: jax.jit(jax.shard_map(f, mesh=mesh, in_specs=SPECS, out_specs=P()))
    for f in (exact, mean_of_means)
}
for name, function in in_shards.items():
    print(f"{name:14} {function(hidden, weight, labels, where):.6f}")

slopes = jax.jit(jax.grad(in_shards["exact"], (0, 1)))
program_of_slopes = slopes.lower(hidden, weight, labels, where).compile()
print("collectives, and the entries of the largest:", sent(program_of_slopes))

# %% [markdown]
# ## A contrastive batch over all devices
#
# 256 pairs, 32 on each device, each with all 255 others as negatives. In the ring the shards of the
# second set are sent from device to device, and each device holds one at a time.

# %%
left = jnp.asarray(generator.normal(size=(256, 16)), jnp.float32)
right = left + jnp.asarray(generator.normal(size=(256, 16)), jnp.float32)
line = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def clip_over(strategy):
    return jax.shard_map(
        lambda x, y: sharded.clip(x, y, axis_name="data", temperature=0.2, strategy=strategy),
        mesh=line,
        in_specs=P("data"),
        out_specs=P(),
    )


def clip_of_one_device(x, y):
    return contrastive.clip(x, y, temperature=0.2, reduction="mean")


values = {
    "one device": clip_of_one_device,
    "ring": clip_over("ring"),
    "gather": clip_over("gather"),
}
memory = {}
for name, function in values.items():
    compiled = jax.jit(jax.value_and_grad(function, (0, 1))).lower(left, right).compile()
    values[name], slopes_of_clip = compiled(left, right)
    memory[name] = compiled.memory_analysis().temp_size_in_bytes / 1024
    print(f"{name:10} {values[name]:.6f} {memory[name]:6.0f} KiB per device", sent(compiled))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
counts = np.asarray(where).reshape(2, -1).sum(1)
axes[0].bar(["devices 0-3", "devices 4-7"], counts)
axes[0].set(title="unmasked tokens", ylabel="of 256")
axes[1].bar(list(memory), list(memory.values()), color="C1")
axes[1].set(title="CLIP: temporary memory per device", ylabel="KiB")
plt.show()

# %% [markdown]
# ## What we saw
#
# - Under `jit` and inside `shard_map` the loss and its gradients equal those of one device up to
#   rounding, and the compiled programs gather no logits, hidden states or weights.
# - The average of the means of the devices is another number.
# - CLIP over eight devices has the value of one device with "ring" and with "gather"; the ring
#   needs the least memory.

# %%
np.testing.assert_allclose(under_jit[0], expected[0], rtol=1e-5)
for got, true in zip(under_jit[1], expected[1], strict=True):
    np.testing.assert_allclose(got, true, rtol=1e-4, atol=1e-7)
assert "all-gather" not in sent(program)
assert "all-gather" not in sent(program_of_slopes)
np.testing.assert_allclose(
    in_shards["exact"](hidden, weight, labels, where), expected[0], rtol=1e-5
)
assert abs(in_shards["mean_of_means"](hidden, weight, labels, where) - expected[0]) > 1e-4
np.testing.assert_allclose(values["ring"], values["one device"], rtol=1e-5)
np.testing.assert_allclose(values["gather"], values["one device"], rtol=1e-5)
assert memory["ring"] < memory["gather"] < memory["one device"]
