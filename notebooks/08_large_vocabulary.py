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
# # A large vocabulary: a language model without the array of logits
#
# **How much memory and time does a training step need without all logits in memory?** A small
# language model is trained on the docstrings of NumPy, SciPy and scikit-learn. Its vocabulary has
# more than 20,000 words, so that the logits, `[tokens, vocabulary]`, are the largest array of a
# step. The model is trained twice from the same start: with the cross-entropy of all logits, and
# with `linear`, which computes them in chunks. Memory, time and training curves are compared.

# %%
# Install from a clone of the repository: %pip install ".[demo]"
import collections
import pathlib
import re
import statistics
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import scipy
import sklearn

from jaxloss import linear
from jaxloss.classification import softmax_cross_entropy

# %% [markdown]
# ## The text
#
# Words and signs in order. All that occur only once become one word, `<unknown>`.

# %%
words = []
for package in (np, scipy, sklearn):
    for path in sorted(pathlib.Path(package.__file__).parent.rglob("*.py")):
        for text in re.findall(r'"""(.*?)"""', path.read_text(errors="ignore"), re.DOTALL):
            words += re.findall(r"\w+|[^\w\s]", text.lower())
counts = collections.Counter(words)
vocabulary = ["<unknown>", *sorted(word for word, n in counts.items() if n > 1)]
number = {word: i for i, word in enumerate(vocabulary)}
text = np.array([number.get(word, 0) for word in words], np.int32)
classes = len(vocabulary)
print(f"{len(text):,} words, {classes:,} of them different")

# %% [markdown]
# ## The model
#
# The embeddings of the eight previous words and one hidden layer. The last layer, of shape
# `(width, vocabulary)`, is part of the loss.

# %%
CONTEXT, DIM, WIDTH, BATCH, STEPS = 8, 32, 128, 1024, 40


def init_params(key):
    keys = jax.random.split(key, 3)
    normal = jax.random.normal
    return {
        "embedding": 0.1 * normal(keys[0], (classes, DIM)),
        "hidden": normal(keys[1], (CONTEXT * DIM, WIDTH)) / np.sqrt(CONTEXT * DIM),
        "head": normal(keys[2], (WIDTH, classes)) / np.sqrt(WIDTH),
        "bias": jnp.zeros(classes),
    }


def hidden_of(params, context):
    embedded = params["embedding"][context].reshape(len(context), -1)
    return jax.nn.gelu(embedded @ params["hidden"])


def naive(params, context, following):
    logits = hidden_of(params, context) @ params["head"] + params["bias"]
    return softmax_cross_entropy(logits, following, reduction="mean")


def fused(params, context, following, **options):
    hidden = hidden_of(params, context)
    return linear.softmax_cross_entropy(
        hidden, params["head"], following, bias=params["bias"], **options
    )


def least_memory(params, context, following):
    return fused(params, context, following, policy="least_memory")


LOSSES = {"naive": naive, "linear": fused, "linear, least memory": least_memory}

# %% [markdown]
# ## The memory of a step
#
# `linear.plan` gives it before anything runs; the compiled programs confirm it.

# %%
struct = jax.ShapeDtypeStruct
print(linear.plan(struct((BATCH, WIDTH), "float32"), struct((WIDTH, classes), "float32")))

windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)
order = np.random.default_rng(0).integers(0, len(windows), (STEPS + 1, BATCH))
batches = [(windows[i][:, :-1], windows[i][:, -1]) for i in order]

params = init_params(jax.random.key(0))
programs = {
    name: jax.jit(jax.value_and_grad(loss)).lower(params, *batches[0]).compile()
    for name, loss in LOSSES.items()
}
memory = {n: p.memory_analysis().temp_size_in_bytes / 2**20 for n, p in programs.items()}
for name, held in memory.items():
    print(f"{name:22} {held:6.0f} MiB of temporary memory")

# %% [markdown]
# ## The time of a step
#
# The three programs run in turn. The median of the ratios of the rounds does not depend much on
# other work of the machine.

# %%
times = {name: [] for name in programs}
for round_ in range(6):
    for name, program in programs.items():
        start = time.perf_counter()
        jax.block_until_ready(program(params, *batches[0]))
        if round_:  # the first one warms up
            times[name].append(time.perf_counter() - start)
ratios = {
    name: statistics.median(a / b for a, b in zip(mine, times["naive"], strict=True))
    for name, mine in times.items()
}
for name, ratio in ratios.items():
    print(f"{name:22} {ratio:.2f} of the time of all logits")

# %% [markdown]
# ## Training
#
# Adam, with the same batches in the same order: the two curves agree.

# %%
adam = optax.adam(3e-3)


def train(loss):
    @jax.jit
    def step(params, state, context, following):
        value, slopes = jax.value_and_grad(loss)(params, context, following)
        updates, state = adam.update(slopes, state)
        return optax.apply_updates(params, updates), state, value

    params = init_params(jax.random.key(0))
    state, curve = adam.init(params), []
    for batch in batches[:STEPS]:
        params, state, value = step(params, state, *batch)
        curve.append(float(value))
    return params, curve


params, curve = train(fused)
_, of_naive = train(naive)
print(f"the loss decreases from {curve[0]:.2f} to {curve[-1]:.2f} nats")
print(f"the two curves differ by at most {np.max(np.abs(np.subtract(curve, of_naive))):.1e}")

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
names = list(memory)
left.barh(names, list(memory.values()), color="C0")
left.set(title="temporary memory", xlabel="MiB")
left.invert_yaxis()
middle.barh(names, [ratios[n] for n in names], color="C1")
middle.set(title="time of a step", xlabel="of the naive one", yticks=[])
middle.invert_yaxis()
right.plot(of_naive, lw=4, alpha=0.4, label="naive")
right.plot(curve, lw=1.5, label="linear")
right.axhline(np.log(classes), ls=":", color="gray", label="uniform")
right.set(title="training loss", xlabel="step", ylabel="nats a word")
right.legend()
plt.show()

# %% [markdown]
# ## Metrics from the same pass
#
# `metrics=True` also returns accuracy and log-normalizers.

# %%
context, following = batches[STEPS]
value, metrics = fused(params, context, following, metrics=True)
print(f"held out: {value:.2f} nats, {jnp.mean(metrics.correct):.0%} of the next words right")

# %% [markdown]
# ## What we saw
#
# - `linear` needs less than 60 % of the memory, and with `policy="least_memory"` less than that.
# - The training curves agree to three digits or more.
# - The memory of `linear` does not grow with the number of tokens, so that its share decreases with
#   more tokens.

# %%
assert memory["linear"] < 0.6 * memory["naive"]
assert memory["linear, least memory"] < memory["linear"]
assert np.allclose(curve, of_naive, rtol=1e-3)
assert curve[-1] < curve[0] - 2
assert value < 0.8 * np.log(classes)
