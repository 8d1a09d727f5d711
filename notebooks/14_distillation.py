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
# # Distillation from a teacher of which sixteen words are stored
#
# **What becomes of the words that are not stored?** A teacher's distribution over a vocabulary is
# too large to store for each position, so that the likeliest words are stored alone. A student of
# a quarter of the size is trained on them in three ways, and on the full distribution and on the
# text for comparison. The text are the docstrings of scikit-learn.

# %%
# Install from a clone of the repository: %pip install ".[demo]"
import collections
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import sklearn

import jaxloss as jl

# %% [markdown]
# ## The text and the teacher
#
# The 499 most frequent words and signs; all others are one. Both models see the four previous
# words: embeddings, one hidden layer.

# %%
CONTEXT, CLASSES, STORED = 4, 500, 16
words = []
for path in sorted(pathlib.Path(sklearn.__file__).parent.rglob("*.py")):
    for text in re.findall(r'"""(.*?)"""', path.read_text(errors="ignore"), re.DOTALL):
        words += re.findall(r"\w+|[^\w\s]", text.lower())
frequent = [word for word, _ in collections.Counter(words).most_common(CLASSES - 1)]
number = {word: i + 1 for i, word in enumerate(frequent)}
text = np.array([number.get(word, 0) for word in words], np.int32)
windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)
windows = np.random.default_rng(0).permutation(windows)
held_out, training = jnp.asarray(windows[:2000]), jnp.asarray(windows[2000:])
print(f"{len(text):,} words")


def init_params(key, embedding, hidden):
    keys = jax.random.split(key, 3)
    inputs = CONTEXT * embedding
    return {
        "embedding": jax.random.normal(keys[0], (CLASSES, embedding)) / np.sqrt(embedding),
        "hidden": jax.random.normal(keys[1], (inputs, hidden)) * np.sqrt(2 / inputs),
        "output": jax.random.normal(keys[2], (hidden, CLASSES)) / np.sqrt(hidden),
        "bias": jnp.zeros(CLASSES),
    }


def logits_of(params, rows):
    seen = params["embedding"][rows[:, :CONTEXT]].reshape(len(rows), -1)
    return jax.nn.relu(seen @ params["hidden"]) @ params["output"] + params["bias"]


def cross_entropy(params, rows):
    logits = logits_of(params, rows)
    return jl.classification.softmax_cross_entropy(logits, rows[:, -1], reduction="mean")


@functools.partial(jax.jit, static_argnames=("loss", "score", "blocks"))
def fit(loss, score, params, data, held, key, blocks, rate=4e-3):
    """Blocks of 50 steps of Adam on batches of 256; a score of held-out data after each."""
    rates = optax.cosine_decay_schedule(rate, 50 * blocks)
    init, step = jl.transforms.make_train_step(loss, optax.adam(rates))

    def one(carry, key):
        rows = jax.random.choice(key, len(data[0]), (256,))
        return step(*carry, *(x[rows] for x in data))[:2], None

    def block(carry, key):
        carry, _ = jax.lax.scan(one, carry, jax.random.split(key, 50))
        return carry, score(carry[0], *held)

    (params, _), scores = jax.lax.scan(block, (params, init(params)), jax.random.split(key, blocks))
    return params, scores


start = init_params(jax.random.key(0), 32, 96)
teacher, curve = fit(
    cross_entropy, cross_entropy, start, (training,), (held_out,), jax.random.key(1), 16
)
print(f"teacher: {curve[-1]:.3f} nats a word on held-out text, of {np.log(CLASSES):.2f}")

# %% [markdown]
# ## What is stored
#
# For 40,000 windows: the sixteen likeliest next words with their log-probabilities.


# %%
@jax.jit
def store(rows):
    return jax.lax.top_k(jax.nn.log_softmax(logits_of(teacher, rows)), STORED)


seen = training[:40_000]
log_probs, ids = store(seen)
outside = 1 - jnp.exp(log_probs).sum(-1)
print(f"{STORED * 6} bytes a window in place of {CLASSES * 4:,};", end=" ")
print(f"mass that is not stored: {outside.mean():.0%} on average, up to {outside.max():.0%}")

# %% [markdown]
# ## Six students
#
# "bucket" takes all other words as one class; "renormalize" divides both distributions by their
# mass on the sixteen; "drop" leaves the others out of the sum. The last student has the text and
# the teacher, half of each.


# %%
def on_text(params, rows, *_):
    return cross_entropy(params, rows)


def on_all(params, rows, *_):
    return jl.distillation.temperature_kl(
        logits_of(params, rows), logits_of(teacher, rows), reduction="mean"
    )


def on_stored(params, rows, log_probs, ids, *, tail):
    logits = logits_of(params, rows)
    return jl.distillation.top_k_kl(logits, log_probs, ids, tail=tail, reduction="mean")


def on_both(*args):
    return 0.5 * on_stored(*args, tail="bucket") + 0.5 * on_text(*args)


losses = {"text": on_text, "full teacher": on_all} | {
    tail: functools.partial(on_stored, tail=tail) for tail in ("bucket", "renormalize", "drop")
}
losses["bucket + text"] = on_both


def score(params, rows, teacher_logits, stored_ids):
    """Nats a word, divergence from the teacher, and the mass outside the stored words."""
    logits = logits_of(params, rows)
    own = jnp.take_along_axis(jax.nn.softmax(logits), stored_ids, axis=-1)
    return {
        "nats": cross_entropy(params, rows),
        "kl": jl.distillation.temperature_kl(logits, teacher_logits, reduction="mean"),
        "outside": 1 - own.sum(-1),
    }


held_log_probs, held_ids = store(held_out)
held = (held_out, logits_of(teacher, held_out), held_ids)
student = init_params(jax.random.key(2), 8, 24)
sizes = [sum(x.size for x in jax.tree.leaves(params)) for params in (student, teacher)]
print(f"students have {sizes[0]:,} parameters, {sizes[0] / sizes[1]:.2f} of the teacher")
courses, data = {}, (seen, log_probs, ids)
for name, loss in losses.items():
    _, courses[name] = fit(loss, score, student, data, held, jax.random.key(3), 20, 1e-2)
final = {name: jax.tree.map(lambda x: np.asarray(x[-1]), c) for name, c in courses.items()}
mass = np.asarray(1 - jnp.exp(held_log_probs).sum(-1))
print(f"{'':14} nats a word   KL to the teacher   mass outside (teacher {mass.mean():.2f})")
for name, row in final.items():
    print(f"{name:14} {row['nats']:11.3f} {row['kl']:19.3f} {row['outside'].mean():14.2f}")

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.7), layout="constrained")
palette = ("#7a7a7a", "black", "#0072B2", "#D55E00", "#CC79A7", "#009E73")
steps = 50 * np.arange(1, 21)
for (name, course), color in zip(courses.items(), palette, strict=True):
    left.plot(steps, course["kl"], color=color, label=name)
    if name in ("bucket", "renormalize"):
        right.scatter(mass, final[name]["outside"], color=color, s=3, alpha=0.4, label=name)
left.set(title="divergence from the teacher, held out", xlabel="step", ylabel="nats", yscale="log")
left.set_ylim(0.06, 4)
left.legend(frameon=False, ncols=2, loc="lower left")
middle.barh(list(final), [row["nats"] for row in final.values()], color=palette)
middle.axvline(curve[-1], linestyle=":", color="black")
middle.set(title="cross-entropy of held-out text (dotted: teacher)", xlabel="nats a word")
middle.invert_yaxis()
right.plot([0, 1], [0, 1], color="gray", linestyle=":")
right.set(title="mass outside the stored words", xlabel="teacher", ylabel="student")
right.legend(frameon=False, markerscale=4)
for ax in (left, middle, right):
    ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## What we saw
#
# - With the others as one class ("bucket") the student gives them as much mass as the teacher does,
#   but does not learn which of them are likely. The text adds that: bucket and text together come
#   closer to the teacher, and to the text, than each alone.
# - Renormalized, the loss does not depend on the mass outside the stored words: the student gives
#   them nearly all of it, and its divergence from the teacher is more than twice that of "bucket".
# - "drop" has no term for the other words, and is minimized by giving them nothing.

# %%
assert sizes[0] <= 0.25 * sizes[1]
assert abs(final["bucket"]["outside"].mean() - mass.mean()) < 0.05
assert final["renormalize"]["kl"] > 2 * final["bucket"]["kl"]
assert final["renormalize"]["outside"].mean() > 0.8
assert final["drop"]["outside"].mean() < mass.mean() - 0.05
assert final["bucket + text"]["kl"] < min(final["bucket"]["kl"], final["text"]["kl"])
assert final["bucket + text"]["nats"] < min(final["bucket"]["nats"], final["text"]["nats"])
print("all conclusions hold")
