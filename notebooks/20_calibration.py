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
# # What label smoothing, focal loss and logit adjustment do to calibration
#
# **Can the probabilities still be believed?** A network is trained for long on noisy digits. Label
# smoothing and the focal loss are said to calibrate it, logit adjustment to help rare classes. Each
# moves the probabilities in a direction that can be predicted from its formula; one temperature,
# fitted afterwards, moves them back.

# %%
# Install from a clone of the repository: %pip install ".[demo]"
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxloss as jl
from jaxloss import classification, plot

# %% [markdown]
# ## Noisy digits, and frequent and rare classes
#
# Of 1,797 images 600 are for training, 300 to fit a temperature, the others for the test. In the
# second experiment the training classes are not alike frequent: from 60 images of zeros to 6 of
# nines. The test classes are balanced.

# %%
digits = load_digits()
generator = np.random.default_rng(0)
order = generator.permutation(len(digits.target))
images = digits.data[order] / 16 + 0.4 * generator.normal(size=digits.data.shape)
images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(digits.target[order])
training, fitting, test = slice(0, 600), slice(600, 900), slice(900, None)
wanted = np.round(60 * 0.1 ** (np.arange(10) / 9)).astype(int)
classes = digits.target[order][:600]
rank = np.array([np.sum(classes[:i] == classes[i]) for i in range(600)])
is_kept = jnp.asarray(rank < wanted[classes])
counts = jnp.asarray(np.bincount(classes[is_kept], minlength=10))
print("training images of each class in the second experiment:", counts)


def logits_of(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


@functools.partial(jax.jit, static_argnums=0)
def train(loss, key, where, steps=500):
    """Logits of all images after training on those that count."""
    first, second, batches = jax.random.split(key, 3)
    params = {
        "in": jax.random.normal(first, (64, 128)) * jnp.sqrt(2 / 64),
        "out": jax.random.normal(second, (128, 10)) * jnp.sqrt(2 / 128),
    }

    def objective(params, rows):
        logits = logits_of(params, images[training][rows])
        return loss(logits, labels[training][rows], where=where[rows], reduction="mean")

    init, step = jl.transforms.make_train_step(objective, optax.adam(2e-3))

    def one(carry, key):
        return step(*carry, jax.random.choice(key, 600, (128,), replace=False))[:2], None

    carry = (params, init(params))
    (params, _), _ = jax.lax.scan(one, carry, jax.random.split(batches, steps))
    return logits_of(params, images)


# %% [markdown]
# ## Scores
#
# Accuracy; the cross-entropy, a proper score; and the gap, mean confidence minus accuracy, which
# is positive for a network that is too confident. The temperature is the number by which logits
# are divided that has the least cross-entropy on the images set apart for it. Means of three seeds.


# %%
def scores(logits, temperature=1.0):
    logits, y = logits[..., test, :] / temperature, labels[test]
    y = jnp.broadcast_to(y, logits.shape[:-1])
    return {
        "accuracy": jnp.mean(logits.argmax(-1) == y),
        "cross-entropy": classification.softmax_cross_entropy(logits, y, reduction="mean"),
        "gap": jnp.mean(jax.nn.softmax(logits).max(-1)) - jnp.mean(logits.argmax(-1) == y),
    }


@jax.jit
def fitted_temperature(logits):
    y = jnp.broadcast_to(labels[fitting], logits[..., fitting, 0].shape)

    def objective(log_temperature):
        scaled = logits[..., fitting, :] / jnp.exp(log_temperature)
        return classification.softmax_cross_entropy(scaled, y, reduction="mean")

    init, step = jl.transforms.make_train_step(objective, optax.lbfgs())
    start = jnp.zeros(())
    carry = (start, init(start))
    (end, _), _ = jax.lax.scan(lambda c, _: (step(*c)[:2], None), carry, length=20)
    return jnp.exp(end)


keys = jax.random.split(jax.random.key(0), 3)


def run(loss, where):
    logits = jax.lax.map(lambda key: train(loss, key, where), keys)
    temperature = fitted_temperature(logits)
    row = scores(logits) | {"temperature": temperature}
    after = scores(logits, temperature)
    row |= {"then cross-entropy": after["cross-entropy"], "then gap": after["gap"]}
    return logits, {name: float(value) for name, value in row.items()}


def show(table):
    headings = next(iter(table.values()))
    print(f"{'':18}" + "".join(f"{heading:>20}" for heading in headings))
    for name, row in table.items():
        print(f"{name:18}" + "".join(f"{value:20.3f}" for value in row.values()))


LOSSES = {
    "cross-entropy": classification.softmax_cross_entropy,
    "smoothing 0.05": functools.partial(classification.softmax_cross_entropy, label_smoothing=0.05),
    "smoothing 0.2": functools.partial(classification.softmax_cross_entropy, label_smoothing=0.2),
    "focal, gamma 2": functools.partial(classification.softmax_focal, gamma=2.0),
    "focal, gamma 5": functools.partial(classification.softmax_focal, gamma=5.0),
}
everything = jnp.ones(600, bool)
logits, table = {}, {}
for name, loss in LOSSES.items():
    logits[name], table[name] = run(loss, everything)
show(table)

# %% [markdown]
# ## Rare classes
#
# Logit adjustment adds the logarithm of the class frequencies to the logits *in training*, so that
# the logits themselves are those of balanced classes. The same can be done after training with
# the cross-entropy: subtract the logarithm of the frequencies.

# %%
adjusted = functools.partial(classification.logit_adjusted, class_counts=counts)
imbalanced, rare = {}, {}
logits["imbalanced"], imbalanced["cross-entropy"] = run(LOSSES["cross-entropy"], is_kept)
logits["adjusted"], imbalanced["logit adjustment"] = run(adjusted, is_kept)
afterwards = logits["imbalanced"] - jnp.log(counts)
imbalanced["afterwards"] = {name: float(v) for name, v in scores(afterwards).items()}
for name, row in zip(
    imbalanced, (logits["imbalanced"], logits["adjusted"], afterwards), strict=True
):
    right = row[:, test].argmax(-1) == labels[test]
    rare[name] = float(jl.mean(right.astype(float), where=(labels[test] >= 7) & (right > -1)))
    print(
        f"{name:17} accuracy {imbalanced[name]['accuracy']:.3f}, of the three rarest classes "
        f"{rare[name]:.3f}, cross-entropy {imbalanced[name]['cross-entropy']:.3f}, "
        f"gap {imbalanced[name]['gap']:+.3f}"
    )

# %%
figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
y = np.broadcast_to(labels[test], (3, len(labels[test])))
for ax, name in zip(axes, ("cross-entropy", "smoothing 0.2", "focal, gamma 5"), strict=False):
    plot.calibration(np.asarray(jax.nn.softmax(logits[name][:, test])), y, ax=ax)
    ax.set_title(f"{name}: gap {table[name]['gap']:+.2f}")
names = list(table)
axes[3].barh(names, [table[n]["cross-entropy"] for n in names], color="#D55E00", label="as trained")
axes[3].barh(
    names, [table[n]["then cross-entropy"] for n in names], height=0.4, color="#0072B2",
    label="with a temperature",
)  # fmt: skip
axes[3].set(title="cross-entropy of the test, in nats")
axes[3].set_ylim(6, -0.6)
axes[3].legend(frameon=False, loc="lower right")

# %% [markdown]
# ## What we saw
#
# - Trained to the end by cross-entropy, the network is too confident, by more than 5 points. Label
#   smoothing of 0.2 makes it too modest, by more than 10; a focal loss is between them. Neither
#   calibrates by itself: the right amount depends on the data.
# - One temperature, fitted on 300 images, brings the gap of every loss below 4 points. The
#   cross-entropy of the smoothed network stays above that of the plain one: smoothing has removed
#   what distinguishes its certain predictions from uncertain ones, which no temperature restores.
# - Logit adjustment raises the accuracy of the three rarest classes by more than 3 points. So does
#   the subtraction of the logarithm of the frequencies afterwards.

# %%
gaps = {name: row["gap"] for name, row in table.items()}
assert gaps["cross-entropy"] > 0.05
assert gaps["smoothing 0.2"] < -0.1
assert gaps["smoothing 0.2"] < gaps["focal, gamma 5"] < gaps["focal, gamma 2"]
assert gaps["focal, gamma 2"] < gaps["cross-entropy"]
assert max(abs(row["then gap"]) for row in table.values()) < 0.04
then = {name: row["then cross-entropy"] for name, row in table.items()}
assert then["smoothing 0.2"] > then["cross-entropy"] + 0.05
assert rare["logit adjustment"] > rare["cross-entropy"] + 0.03
assert rare["afterwards"] > rare["cross-entropy"] + 0.03
print("all conclusions hold")
