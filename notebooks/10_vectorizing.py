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
# # Vectorizing over examples, options and seeds
#
# **What can `vmap` do with a loss?** A loss is a pure function of arrays, and its options may be
# traced. One `vmap` gives the gradient of each example, two give fits for forty values of delta
# and eight seeds. The first is used to find wrong labels of digits, the second to choose the
# delta of the Huber loss for the progression of diabetes.

# %%
# Install from a clone of the repository: %pip install ".[demo]"
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import roc_auc_score

import jaxloss as jl
from jaxloss import transforms

# %% [markdown]
# ## Per-example gradients
#
# A tenth of the labels is wrong. After a few epochs, before the model memorizes labels, the
# gradient of each example is computed: `vmap` of `grad`.

# %%
digits = load_digits()
generator = np.random.default_rng(0)
images = jnp.asarray(digits.data / 16, jnp.float32)
wrong = generator.random(len(images)) < 0.1
another = (digits.target + generator.integers(1, 10, len(wrong))) % 10
labels = jnp.asarray(np.where(wrong, another, digits.target))


def logits_of(params, images):
    return jax.nn.relu(images @ params["in"]) @ params["out"]


def one_loss(params, image, label):
    return jl.classification.softmax_cross_entropy(logits_of(params, image), label)


def objective(params, images, labels):
    return jl.mean(jax.vmap(one_loss, (None, 0, 0))(params, images, labels))


init, step = transforms.make_train_step(objective, optax.adam(3e-3))
keys = jax.random.split(jax.random.key(0), 3)
params = {
    "in": jax.random.normal(keys[0], (64, 64)) * jnp.sqrt(2 / 64),
    "out": jax.random.normal(keys[1], (64, 10)) * jnp.sqrt(2 / 64),
}


@jax.jit
def train(params, key):
    def one_batch(carry, key):
        batch = jax.random.choice(key, len(images), (64,))
        return step(*carry, images[batch], labels[batch])[:2], None

    return jax.lax.scan(one_batch, (params, init(params)), jax.random.split(key, 200))[0][0]


params = train(params, keys[2])
gradients = jax.jit(jax.vmap(jax.grad(one_loss), (None, 0, 0)))(params, images, labels)
print(jax.tree.map(jnp.shape, gradients))
norms = jnp.sqrt(sum(jnp.sum(g**2, axis=(1, 2)) for g in jax.tree.leaves(gradients)))
found = roc_auc_score(wrong, norms)
print(f"AUC of the gradient norm as a detector of wrong labels: {found:.3f}")

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3), layout="constrained", width_ratios=(1, 1.4)
)
bins = np.linspace(0, float(norms.max()), 40)
left.hist(norms[~wrong], bins, color="#0072B2", alpha=0.7, label="right label", density=True)
left.hist(norms[wrong], bins, color="#D55E00", alpha=0.7, label="wrong label", density=True)
left.set(xlabel="norm of the gradient of one example", yticks=[], yscale="log")
left.legend(frameon=False)
worst = np.argsort(norms)[::-1][:10]
right.imshow(np.hstack([digits.images[i] for i in worst]), cmap="cividis")
right.set_xticks(4 + 8 * np.arange(10) - 0.5, [str(labels[i]) for i in worst])
right.set(title="the ten largest norms, with their labels", yticks=[])
right.tick_params(length=0)

# %% [markdown]
# The same gradients, clipped to one norm and summed, are used in private and in robust training:

# %%
limit = jnp.quantile(norms, 0.8)
factors = jnp.minimum(1, limit / norms)
clipped = jax.tree.map(lambda g: jnp.einsum("n,nij->ij", factors, g) / len(g), gradients)
share = jnp.sum(jnp.where(wrong, norms, 0)) / jnp.sum(norms)
share_clipped = jnp.sum(jnp.where(wrong, norms * factors, 0)) / jnp.sum(norms * factors)
print(f"wrong labels: {wrong.mean():.0%} of the examples, {share:.0%} of the gradient norms,")
print(f"{share_clipped:.0%} of the gradient norms after clipping")

# %% [markdown]
# ## Forty deltas, eight seeds, one compiled function
#
# A tenth of the training targets is corrupted, different ones for each seed. The fit is a
# function of delta and seed; two `vmap`s evaluate it on a grid.

# %%
diabetes = load_diabetes()
features = jnp.asarray(diabetes.data * 20, jnp.float32)
target = jnp.asarray(diabetes.target, jnp.float32)
traces = []


def fit_and_score(delta, seed):
    """The error on a clean third, after a fit to two thirds of which a tenth is corrupted."""
    traces.append("one more trace")
    split, noise = jax.random.split(jax.random.key(seed))
    rank = jax.random.permutation(split, len(target))
    training = rank >= len(target) // 3
    corrupted = training & (jax.random.uniform(noise, target.shape) < 0.1)
    observed = jnp.where(corrupted, target + 800, target)

    def cost(params):
        prediction = features @ params["slope"] + params["level"]
        return jl.regression.huber(
            prediction, observed, delta=delta, where=training, reduction="mean"
        )

    init, step = transforms.make_train_step(cost, optax.lbfgs())
    params = {"slope": jnp.zeros(features.shape[1]), "level": jnp.float32(150)}
    (params, _), _ = jax.lax.scan(
        lambda carry, _: (step(*carry)[:2], None), (params, init(params)), length=60
    )
    prediction = features @ params["slope"] + params["level"]
    return jl.regression.absolute_error(prediction, target, where=~training, reduction="mean")


deltas, seeds = jnp.logspace(0, 3.2, 40), jnp.arange(8)
table_of = jax.jit(jax.vmap(jax.vmap(fit_and_score, (None, 0)), (0, None)))
began = time.perf_counter()
table = np.asarray(table_of(deltas, seeds))
print(f"{table.size} fits, traced {len(traces)} time, in {time.perf_counter() - began:.1f} s")

figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
ax.semilogx(deltas, table, color="#7a7a7a", linewidth=0.6)
ax.semilogx(deltas, table.mean(1), color="#0072B2", linewidth=2.5, label="mean of 8 seeds")
ax.set(xlabel="delta, in the unit of the target", ylabel="held-out mean absolute error")
legend = ax.legend(frameon=False)

# %% [markdown]
# ## What we saw
#
# - The norm of the gradient of an example detects wrong labels with an AUC above 0.95. Clipping
#   reduces their share of the gradient.
# - The best delta has a held-out error more than 10 % below that of the largest delta, at which the
#   Huber loss is the squared error.
# - All 320 fits are one compiled function, traced once.

# %%
best = int(table.mean(1).argmin())
print(f"best delta {deltas[best]:.0f}: {table.mean(1)[best]:.1f}, largest: {table.mean(1)[-1]:.1f}")
assert found > 0.95
assert share_clipped < share
assert len(traces) == 1
assert table.mean(1)[best] < 0.9 * table.mean(1)[-1]  # the squared error
print("all conclusions hold")
