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
# # Post-training: a model of characters, DPO, and GRPO with a verifiable reward
#
# **What does the denominator of the token losses change?** A small model learns the text of
# Python's own documentation, character by character. DPO teaches it to spell, from pairs of its
# own samples. GRPO teaches it to finish a clause in 40 characters, by a reward that a function
# verifies. Trainers divide the losses of tokens in five ways; all are tried.

# %%
# Install from a clone of the repository: %pip install ".[demo]"
import collections
import functools
import operator
import re
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxloss as jl
from jaxloss import gradients

# %% [markdown]
# ## The text and the model
#
# The prose of `pydoc_data.topics`, which ships with Python, in small letters, with spaces, commas
# and full stops. The model sees the 16 previous characters: embeddings and one hidden layer.

# %%
CONTEXT, LENGTH, END = 16, 40, "."
prose = " ".join(topics[name] for name in sorted(topics)).lower()
prose = re.sub(r"[^a-z.,]+", " ", prose)
prose = re.sub(r" ?([.,])[ .,]*", r"\1 ", prose)
letters = sorted(set(prose))
index = {letter: i for i, letter in enumerate(letters)}
text = np.array([index[letter] for letter in prose], np.int32)
counts = collections.Counter(re.findall(r"[a-z]+", prose))
known = {word for word, n in counts.items() if n > 2 and (len(word) > 1 or word == "a")}
starts = np.flatnonzero(text[CONTEXT - 1 : -LENGTH] == index[" "]) + CONTEXT
print(f"{len(text):,} characters, {len(letters)} different; {len(known):,} words")
print(prose[20_000:20_100])


def init_params(key, embedding=16, hidden=128):
    keys = jax.random.split(key, 3)
    inputs = CONTEXT * embedding
    return {
        "embedding": 0.3 * jax.random.normal(keys[0], (len(letters), embedding)),
        "hidden": jax.random.normal(keys[1], (inputs, hidden)) / np.sqrt(inputs),
        "output": jax.random.normal(keys[2], (hidden, len(letters))) / np.sqrt(hidden),
    }


def logits_of(params, context):
    seen = params["embedding"][context].reshape(*context.shape[:-1], -1)
    return jax.nn.gelu(seen @ params["hidden"]) @ params["output"]


def log_prob_of(params, context, token):
    return -jl.classification.softmax_cross_entropy(logits_of(params, context), token)


windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)


@functools.partial(jax.jit, static_argnums=2)
def pretrain(key, windows, steps=1500, batch=512):
    def loss(params, rows):
        logits = logits_of(params, rows[:, :-1])
        return jl.classification.softmax_cross_entropy(logits, rows[:, -1], reduction="mean")

    init, step = jl.transforms.make_train_step(
        loss, optax.adam(optax.cosine_decay_schedule(5e-3, steps))
    )

    def one(carry, key):
        params, state, value = step(*carry, windows[jax.random.choice(key, len(windows), (batch,))])
        return (params, state), value

    params = init_params(key)
    (params, _), values = jax.lax.scan(one, (params, init(params)), jax.random.split(key, steps))
    return params, values[-100:].mean()


base, nats = pretrain(jax.random.key(0), jnp.asarray(windows))
print(f"{nats:.2f} nats a character")

# %% [markdown]
# ## Samples
#
# A sample starts at the beginning of a word of the text and ends with a full stop, or after 40
# characters. What follows the full stop is padding.


# %%
@jax.jit
def sample(params, key, prompts):
    def one(carry, key):
        context, alive = carry
        logits = logits_of(params, context)
        token = jax.random.categorical(key, logits)
        seen = {
            "context": context, "token": token, "mask": alive,
            "log_prob": -jl.classification.softmax_cross_entropy(logits, token),
        }  # fmt: skip
        following = jnp.concatenate([context[:, 1:], token[:, None]], axis=1)
        return (following, alive & (token != index[END])), seen

    carry = (prompts, jnp.ones(len(prompts), bool))
    _, seen = jax.lax.scan(one, carry, jax.random.split(key, LENGTH))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), seen)  # (samples, length)


def written(samples):
    tokens, mask = np.asarray(samples["token"]), np.asarray(samples["mask"])
    return ["".join(letters[t] for t in row[m]) for row, m in zip(tokens, mask, strict=True)]


def spelling(sentence):
    """The share of words that occur in the text, without a last word that is cut off."""
    whole = sentence if sentence.endswith(END) else sentence.rpartition(" ")[0]
    words = re.findall(r"[a-z]+", whole)
    return sum(word in known for word in words) / max(len(words), 1)


def reward_of(sentence):
    """The reward of GRPO: the share of known words of a clause that is finished, else 0."""
    finished = sentence.endswith(END) and len(sentence.split()) >= 3
    return spelling(sentence) if finished else 0.0


def prompts_of(generator, number):
    return jnp.asarray(windows[generator.choice(starts, number) - CONTEXT][:, :-1])


held_out = prompts_of(np.random.default_rng(99), 500)


def judge(params):
    """Spelling, reward and length of 500 samples."""
    samples = sample(params, jax.random.key(99), held_out)
    sentences = written(samples)
    spelled, rewards = np.mean([(spelling(s), reward_of(s)) for s in sentences], axis=0)
    return {
        "spelling": float(spelled),
        "reward": float(rewards),
        "length": float(samples["mask"].sum() / len(sentences)),
    }


def show(name, params):
    print(f"{name:9}", "  ".join(f"{k} {v:.2f}" for k, v in judged[name].items()))
    examples = written(sample(params, jax.random.key(5), held_out[:3]))
    for prompt, sentence in zip(held_out[:3], examples, strict=True):
        print(f"{'':10}{''.join(letters[i] for i in prompt)}|{sentence}")


judged = {"base": judge(base)}
show("base", base)

# %% [markdown]
# ## DPO: pairs of samples, judged by spelling
#
# Two samples for each prompt; the one with more known words is chosen, equal pairs are left out
# with `where`. DPO takes sums over tokens: `sequence_log_probability`.


# %%
def total_log_prob(params, samples):
    log_prob = log_prob_of(params, samples["context"], samples["token"])
    return jl.preference.sequence_log_probability(log_prob, mask=samples["mask"])


def dpo(params, chosen, rejected, where):
    return jl.preference.dpo(
        total_log_prob(params, chosen),
        total_log_prob(params, rejected),
        chosen["reference"],
        rejected["reference"],
        beta=0.2,
        where=where,
        reduction="parts",
    )


generator = np.random.default_rng(0)
prompts = prompts_of(generator, 2048)
pair = [sample(base, jax.random.key(i), prompts) for i in (1, 2)]
for side in pair:
    side["reference"] = jax.jit(total_log_prob)(base, side)
scores = np.array([[spelling(s) for s in written(side)] for side in pair])
first = jnp.asarray(scores[0] > scores[1])


def pick(condition, a, b):
    return jnp.where(jnp.expand_dims(condition, range(1, a.ndim)), a, b)


chosen = jax.tree.map(functools.partial(pick, first), *pair)
rejected = jax.tree.map(functools.partial(pick, ~first), *pair)
differ = jnp.asarray(scores[0] != scores[1])

init, dpo_step = jl.transforms.make_train_step(dpo, optax.adam(2e-3))
aligned, state = base, init(base)
for _ in range(2):
    for rows in np.split(generator.permutation(2048), 8):
        batch = jax.tree.map(operator.itemgetter(rows), (chosen, rejected, differ))
        aligned, state, value = dpo_step(aligned, state, *batch)
judged["DPO"] = judge(aligned)
print(f"{int(differ.sum())} pairs differ; loss {value:.3f}, at the start {np.log(2):.3f}")
show("DPO", aligned)

# %% [markdown]
# ## GRPO: five denominators
#
# Eight samples for each prompt; the advantage of a sample is its reward relative to its group. A
# token has the clipped loss, and a penalty (k3) that keeps the model near the one that DPO gave.
# `token_mean` divides the sum over tokens: by the tokens of the batch (DAPO), of each sequence and
# then by the sequences (GRPO), by the sequences alone (LUSPO), by a fixed length as well
# (Dr. GRPO), or not at all. Each is a `Mean`, so that micro-batches add up.

# %%
GROUP, MICRO = 8, 4
DENOMINATORS = {
    "DAPO": {"per": "token"},
    "GRPO": {"per": "sequence"},
    "LUSPO": {"per": "sequence_sum"},
    "Dr. GRPO": {"per": "sequence_sum", "length": LENGTH},
    "sum": None,
}


def policy_loss(params, rows, denominator):
    """The loss of rows of tokens, each a sequence or several, as a `Mean`."""
    log_prob = log_prob_of(params, rows["context"], rows["token"])
    options = {"where": rows["mask"], "reduction": "none"}
    losses = jl.policy.clipped(
        log_prob, rows["log_prob"], rows["advantage"], high=0.28, **options
    ) + 0.02 * jl.policy.kl_estimate(log_prob, rows["reference"], **options)
    if denominator is None:  # a sum has no weight of its own: each micro-batch counts a quarter
        return jl.Mean(jnp.sum(losses), 1 / MICRO)
    return jl.policy.token_mean(losses, rows["mask"], segments=rows["segments"], **denominator)


def experience(params, key, prompts):
    """Eight samples for each prompt, with advantages and the probabilities of the reference."""
    samples = sample(params, key, jnp.repeat(prompts, GROUP, axis=0))
    rewards = jnp.array([reward_of(s) for s in written(samples)])
    advantage = jl.policy.group_advantages(rewards.reshape(-1, GROUP)).reshape(-1, 1)
    samples["advantage"] = jnp.broadcast_to(advantage, samples["mask"].shape)
    samples["reference"] = reference_of(samples["context"], samples["token"])
    samples["segments"] = jnp.zeros(samples["mask"].shape, int)
    return samples, rewards.mean()


reference_of = jax.jit(functools.partial(log_prob_of, aligned))

# %% [markdown]
# ### Training
#
# Adam with the same rate: a constant factor of the loss has no effect, so that the three losses
# with one number for all tokens of a batch nearly agree. Two steps for each batch of samples.


# %%
def train(denominator, steps=30, prompts=16):
    loss = functools.partial(policy_loss, denominator=denominator)
    differentiate = gradients.accumulate_value_and_grad(loss, MICRO)
    optimizer = optax.adam(1.5e-3)

    @jax.jit
    def update(params, state, samples):
        def one(carry, _):
            params, state = carry
            _, grads = differentiate(params, samples)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(one, (params, state), length=2)[0]

    params, state, course = aligned, optimizer.init(aligned), []
    generator = np.random.default_rng(1)
    for i in range(steps):
        samples, reward = experience(params, jax.random.key(i), prompts_of(generator, prompts))
        params, state = update(params, state, samples)
        course.append((float(reward), float(samples["mask"].sum() / len(samples["mask"]))))
    return params, np.array(course)


models, courses = {}, {}
for name, denominator in DENOMINATORS.items():
    models[name], courses[name] = train(denominator)
    judged[name] = judge(models[name])
    show(name, models[name])

# %% [markdown]
# ### Packed rows and micro-batches
#
# Samples of different lengths are packed into rows, one after the other, so that fewer tokens are
# computed; `segments` says which sample a token belongs to. The rows are split into four
# micro-batches. The gradient of each loss is compared with that of the padded batch in one piece.


# %%
def packed(samples, width=2 * LENGTH):
    """Each sample in the first row that has space for it; the number of rows divides by four."""
    samples = jax.tree.map(np.asarray, samples)
    lengths, free, places = samples["mask"].sum(-1), [], []
    for length in lengths:
        row = next((i for i, space in enumerate(free) if space >= length), len(free))
        if row == len(free):
            free.append(width)
        places.append((row, width - free[row]))
        free[row] -= length
    rows = -(-len(free) // MICRO) * MICRO
    result = {name: np.zeros((rows, width, *x.shape[2:]), x.dtype) for name, x in samples.items()}
    for i, ((row, start), length) in enumerate(zip(places, lengths, strict=True)):
        for name, x in samples.items():
            result[name][row, start : start + length] = x[i, :length] if name != "segments" else i
    return jax.tree.map(jnp.asarray, result)


def in_one_piece(params, samples, name):
    mean = policy_loss(params, samples, DENOMINATORS[name])
    return mean.total if name == "sum" else mean.value


def apart(a, b):
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)) / optax.tree.norm(b))


def cosine(a, b):
    return float(optax.tree.vdot(a, b) / optax.tree.norm(a) / optax.tree.norm(b))


prompts = prompts_of(np.random.default_rng(7), 64)
samples, _ = experience(models["DAPO"], jax.random.key(7), prompts)
# One step away from the model that sampled, so that ratios are not all 1.
noise = optax.tree.random_like(jax.random.key(0), models["DAPO"])
nearby = jax.tree.map(lambda x, e: x + 0.01 * e, models["DAPO"], noise)
rows = packed(samples)
print(f"{samples['mask'].size:,} tokens padded, {rows['mask'].size:,} packed,", end=" ")
print(f"{int(samples['mask'].sum()):,} count")

whole, errors = {}, {}
for name, denominator in DENOMINATORS.items():
    loss = functools.partial(policy_loss, denominator=denominator)
    whole[name] = jax.jit(jax.grad(in_one_piece), static_argnums=2)(nearby, samples, name)
    _, in_pieces = jax.jit(gradients.accumulate_value_and_grad(loss, MICRO))(nearby, rows)
    errors[name] = apart(in_pieces, whole[name])
    print(
        f"{name:9} norm {optax.tree.norm(whole[name]):10.4f}, cosine with DAPO "
        f"{cosine(whole[name], whole['DAPO']):.3f}, packed in four pieces: error {errors[name]:.0e}"
    )


# %% [markdown]
# Where the denominator is a weighted mean of tokens, the loss needs no `token_mean`: the weights
# are given to the loss itself.

# %%
by_weights = jl.policy.kl_estimate(
    log_prob_of(nearby, rows["context"], rows["token"]),
    rows["reference"],
    where=rows["mask"],
    weights=jl.policy.token_weights(rows["mask"], per="sequence", segments=rows["segments"]),
    reduction="parts",
)
print(f"mean over {by_weights.weight:.0f} sequences of their mean KL: {by_weights.value:.3f} nats")

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
palette = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "black")
colors = dict(zip(DENOMINATORS, palette, strict=True))
for name, course in courses.items():
    for ax, values in zip(axes, course.T, strict=False):
        ax.plot(values, color=colors[name], label=name, linestyle=":" if name == "sum" else "-")
axes[0].set(title="reward of the samples", xlabel="batch", ylim=(0, 1))
axes[0].legend(frameon=False, ncols=2, loc="lower right")
axes[1].set(title="length of the samples", xlabel="batch", ylim=(0, LENGTH))
names, shown = list(judged), ["#bbb", "#888", *palette]
axes[2].barh(names, [judged[n]["spelling"] for n in names], color=shown)
axes[2].set(title="share of known words, held-out prompts", xlim=(0, 1))
axes[2].invert_yaxis()
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## What we saw
#
# - DPO from pairs of the model's own samples raises the share of known words by more than 0.1. The
#   samples become longer: the rule does not ask for an end.
# - GRPO raises the reward by more than 0.4 with every denominator, by short clauses of common
#   words: the reward is verified, and no more than what it verifies is learned.
# - Four of the five gradients are multiples of each other on one batch; with Adam their training
#   differs by little. The mean over sequences has another direction: tokens of short samples
#   weigh more.
# - Packed rows in four micro-batches give the gradient of the whole batch to 1e-6, for each of
#   the five.

# %%
assert judged["DPO"]["spelling"] > judged["base"]["spelling"] + 0.1
assert all(judged[name]["reward"] > judged["DPO"]["reward"] + 0.4 for name in DENOMINATORS)
assert max(errors.values()) < 1e-6
directions = {name: cosine(grads, whole["DAPO"]) for name, grads in whole.items()}
assert directions.pop("GRPO") < 0.95
assert min(directions.values()) > 0.9999
assert by_weights.weight == len(samples["mask"])
print("all conclusions hold")
