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
# # Self-supervised learning: what keeps embeddings from collapse
#
# **Do VICReg and SIGReg keep embeddings from collapse, and are those of use?** An encoder learns
# digits without labels: two views of an image, moved and noisy, shall have the same embedding. By
# itself that is solved by a constant. A linear classifier on few labels measures what the encoder
# has learned. Last, labels are used: a metric of two dimensions, by triplets.

# %%
# Install from a clone of the repository: %pip install ".[demo]"
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import jaxloss as jl
from jaxloss import self_supervised

# %% [markdown]
# ## Views and encoder
#
# A view is the image moved by up to one pixel, brighter or darker, with noise. The losses see the
# output of a projector behind the embedding, as is usual.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images = jnp.asarray(digits.data[order] / 16, jnp.float32)
labels = digits.target[order]
split = len(labels) // 3
test, training = slice(0, split), slice(split, None)
unlabelled = images[training]


def view(key, images):
    move, light, noise = jax.random.split(key, 3)
    padded = jnp.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    corners = jax.random.randint(move, (len(images), 2), 0, 3)
    cut = jax.vmap(lambda x, c: jax.lax.dynamic_slice(x, c, (8, 8)))(padded, corners)
    bright = jax.random.uniform(light, (len(images), 1), minval=0.7, maxval=1.3)
    return bright * cut.reshape(-1, 64) + 0.1 * jax.random.normal(noise, images.shape)


def layers(key, *sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"weight": jax.random.normal(k, (n, m)) * np.sqrt(2 / n), "bias": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply(layers, x):
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
    return x @ layers[-1]["weight"] + layers[-1]["bias"]


def project(params, x):
    return apply(params["projector"], jax.nn.relu(apply(params["encoder"], x)))


# %% [markdown]
# ## Three losses
#
# "views alone" is the distance of the two views. VICReg adds that each feature varies and that no
# two are correlated. SIGReg asks that the embeddings are normal in random directions.


# %%
def distance(left, right):
    return jl.regression.mean_squared_error(left, right, reduction="none").mean()


def views_alone(left, right, _):
    return distance(left, right)


def vicreg(left, right, _):
    return self_supervised.vicreg(left, right)


def sigreg(left, right, key):
    directions = jax.random.normal(key, (left.shape[-1], 64))
    normal = [self_supervised.sigreg(side, directions=directions) for side in (left, right)]
    return 0.95 * distance(left, right) + 0.05 * sum(normal) / 2


LOSSES = {"views alone": views_alone, "VICReg": vicreg, "SIGReg": sigreg}


@functools.partial(jax.jit, static_argnums=0)
def train(loss, key, steps=800):
    def objective(params, key):
        rows, one, two, directions = jax.random.split(key, 4)
        batch = unlabelled[jax.random.choice(rows, len(unlabelled), (128,), replace=False)]
        sides = [project(params, view(k, batch)) for k in (one, two)]
        return loss(*sides, directions)

    init, step = jl.transforms.make_train_step(
        objective, optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    )
    encoder, projector = jax.random.split(key)
    params = {"encoder": layers(encoder, 64, 256, 64), "projector": layers(projector, 64, 128, 32)}

    def one(carry, key):
        params, state, _ = step(*carry, key)
        return (params, state), project(params, unlabelled[:500]).std(0).mean()

    keys = jax.random.split(jax.random.key(1), steps)
    (params, _), spread = jax.lax.scan(one, (params, init(params)), keys)
    return params, spread


def probe(features):
    """The accuracy of a linear classifier on five labels a class."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-3)
    rows = np.concatenate([np.flatnonzero(labels[training] == k)[:5] for k in range(10)]) + split
    model = LogisticRegression(max_iter=2000).fit(features[rows], labels[rows])
    return float(model.score(features[test], labels[test]))


accuracy, spreads = {"pixels": probe(np.asarray(images))}, {}
for name, loss in LOSSES.items():
    params, spreads[name] = train(loss, jax.random.key(0))
    embedding = np.asarray(apply(params["encoder"], images))
    accuracy[name] = probe(embedding)
    print(f"{name:12} standard deviation {spreads[name][-1]:.1e}", end=", ")
    print(f"accuracy from five labels a class {accuracy[name]:.1%}")
print(f"{'pixels':12} accuracy from five labels a class {accuracy['pixels']:.1%}")

# %% [markdown]
# ## With labels: triplets in two dimensions
#
# Each image of a batch is an anchor. "hard" mining takes its farthest positive and its nearest
# negative, "all" every pair of both.


# %%
@functools.partial(jax.jit, static_argnums=0)
def metric(mining, steps=600):
    def objective(params, key):
        batch = jax.random.choice(key, len(unlabelled), (128,), replace=False)
        z = apply(params, unlabelled[batch])
        ids = jnp.asarray(labels[training])[batch]
        return jl.contrastive.batch_triplet(z, ids, margin=1.0, mining=mining, reduction="mean")

    init, step = jl.transforms.make_train_step(objective, optax.adam(1e-3))
    params = layers(jax.random.key(0), 64, 256, 2)
    keys = jax.random.split(jax.random.key(1), steps)
    carry = (params, init(params))
    (params, _), _ = jax.lax.scan(lambda c, k: (step(*c, k)[:2], None), carry, keys)
    return params


planes, neighbours = {}, {}
for mining in ("hard", "all"):
    planes[mining] = z = np.asarray(apply(metric(mining), images))
    nearest = KNeighborsClassifier(5).fit(z[training], labels[training])
    neighbours[mining] = float(nearest.score(z[test], labels[test]))
    print(f"{mining:5} accuracy of neighbours in two dimensions {neighbours[mining]:.1%}")

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
palette = {"views alone": "#D55E00", "VICReg": "#0072B2", "SIGReg": "#009E73", "pixels": "#7a7a7a"}
for name, spread in spreads.items():
    left.semilogy(spread, color=palette[name], label=name)
left.set(title="standard deviation of the projected features", xlabel="step")
left.legend(frameon=False)
middle.barh(list(accuracy), list(accuracy.values()), color=[palette[n] for n in accuracy])
middle.set(title="accuracy from five labels a class", xlim=(0, 1))
middle.invert_yaxis()
z = planes["hard"]
for k in range(10):
    rows = np.flatnonzero(labels[test] == k)
    right.scatter(*z[test][rows].T, s=5, color=f"C{k}")
    right.annotate(str(k), z[test][rows].mean(0), fontsize=14, ha="center", va="center")
right.set(title="held-out digits, triplets with hard mining", xticks=[], yticks=[])
for ax in (left, middle, right):
    ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## What we saw
#
# - The distance of two views alone is minimized by a constant: the standard deviation of the
#   projected features falls below 0.001.
# - VICReg and SIGReg keep it near 1. From five labels a class, a linear classifier on their
#   embeddings is more than 3 points better than on the collapsed ones.
# - On images of 8 x 8 pixels that is no better than the same classifier on the pixels: what is
#   shown here is what prevents collapse, not that digits need an encoder.
# - With labels, triplets place ten classes in two dimensions so that neighbours classify more than
#   85 % of the held-out digits.

# %%
assert spreads["views alone"][-1] < 1e-3
assert spreads["VICReg"][-1] > 0.5
assert spreads["SIGReg"][-1] > 0.5
assert min(accuracy["VICReg"], accuracy["SIGReg"]) > accuracy["views alone"] + 0.03
assert neighbours["hard"] > 0.85
print("all conclusions hold")
