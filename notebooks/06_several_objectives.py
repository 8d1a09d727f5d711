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
# # Several objectives: ways to combine two losses
#
# **Which trade-off does each way of combining two conflicting losses reach?** A network encodes the
# digits of scikit-learn in three numbers. From this code one head classifies the digit and another
# reconstructs the image. Three numbers are not enough for both.

# %%
# Install from a clone of the repository: %pip install ".[demo]"
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxloss as jl
from jaxloss import aggregators, gradients, transforms

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images = jnp.asarray(digits.data[order] / 16, jnp.float32)
labels = jnp.asarray(digits.target[order])
held_out, training = slice(0, 360), slice(360, None)


def init_params(key):
    shapes = {
        "encoder": [(64, 128), (128, 3)],
        "class": [(3, 64), (64, 10)],
        "image": [(3, 128), (128, 64)],
    }
    return {
        name: [
            jax.random.normal(jax.random.fold_in(key, 10 * i + j), shape) / shape[0] ** 0.5
            for j, shape in enumerate(pair)
        ]
        for i, (name, pair) in enumerate(shapes.items())
    }


def two_layers(weights, x):
    return jnp.tanh(x @ weights[0]) @ weights[1]


def outputs(params, x):
    code = jnp.tanh(two_layers(params["encoder"], x))
    return two_layers(params["class"], code), jnp.tanh(two_layers(params["image"], code))


def losses(params, x, y):
    logits, drawing = outputs(params, x)
    return {
        "class": jl.classification.softmax_cross_entropy(logits, y, reduction="mean"),
        "image": jl.regression.mean_squared_error(drawing, x),
    }


# %% [markdown]
# ## Do they conflict?
#
# At one point, `gradients.conflicts` returns the norm of the gradient of each loss, the cosines
# between the gradients, and the time of this computation.

# %%
params = init_params(jax.random.key(0))
print(gradients.conflicts(losses, params, images[training], labels[training]))

# %% [markdown]
# At the initial parameters the gradients agree. They conflict later, as the cosines below show.
#
# ## Three ways to combine
#
# - a **sum** with fixed weights, one run for each choice of the weights: `jaxloss.total`;
# - **uncertainty**: the weights are parameters and are learned;
# - **UPGrad** and **Nash**: the first link of the Optax chain receives the stacked gradients and
#   combines them into a direction in which no loss increases. Its state holds the cosines.


# %%
def train(differentiate, head, seed, steps=800):
    """Final losses, held-out accuracy, and the state of the chain at every step."""
    params = {"model": init_params(jax.random.key(seed)), "log_variances": jnp.zeros(2)}
    optimizer = optax.chain(head, optax.adam(2e-3))

    def step(carry, key):
        params, state = carry
        batch = jax.random.randint(key, (128,), 360, len(labels))
        grads = differentiate(params, images[batch], labels[batch])
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), state[0]

    (params, _), states = jax.lax.scan(
        step, (params, optimizer.init(params)), jax.random.split(jax.random.key(seed), steps)
    )
    end = losses(params["model"], images[training], labels[training])
    logits, _ = outputs(params["model"], images[held_out])
    right = jnp.mean(jnp.argmax(logits, axis=-1) == labels[held_out])
    return end["class"], end["image"], right, states


def of_sum(weight):
    def loss(params, x, y):
        terms = losses(params["model"], x, y)
        return jl.total({"class": (terms["class"], weight), "image": (terms["image"], 1 - weight)})

    return lambda *args: jax.grad(loss, has_aux=True)(*args)[0]


def of_uncertainty(params, x, y):
    return jax.grad(
        lambda p: aggregators.uncertainty(losses(p["model"], x, y), p["log_variances"])
    )(params)


def stacked(params, x, y):
    oracle = gradients.multi_value_and_grad(lambda p: losses(p["model"], x, y), jacobian="vmap")
    return oracle(params)[1]


def mean_over_seeds(differentiate, head):
    def both(seed):
        return train(differentiate, head, seed)

    *scores, states = jax.vmap(both)(jnp.arange(2))
    return [score.mean() for score in scores], states


cosines = {}
weights = (0.03, 0.1, 0.25, 0.5, 0.9)
scores, _ = jax.jit(jax.vmap(lambda w: mean_over_seeds(of_sum(w), optax.identity())))(
    jnp.array(weights)
)
ends = {f"sum {w}": [float(x) for x in ends] for w, *ends in zip(weights, *scores, strict=True)}
heads = {
    "uncertainty": (of_uncertainty, optax.identity()),
    "UPGrad": (stacked, transforms.aggregate(aggregators.upgrad, 2)),
    "Nash": (stacked, transforms.aggregate(aggregators.nash, 2)),
}
for name, (differentiate, head) in heads.items():
    scores, states = jax.jit(lambda d=differentiate, h=head: mean_over_seeds(d, h))()
    ends[name] = [float(score) for score in scores]
    if isinstance(states, transforms.AggregateState):
        cosines[name] = np.asarray(states.cosines[:, :, 0, 1].mean(0))
print(f"{'':12} {'class':>8} {'image':>8} {'held out':>9}")
for name, (of_class, of_image, right) in ends.items():
    print(f"{name:12} {of_class:8.4f} {of_image:8.4f} {right:9.1%}")

# %% [markdown]
# ## The trade-off, and the angle between the gradients

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
front = np.array([ends[name][:2] for name in ends if name.startswith("sum")])
left.plot(*front.T, "o-", color="#999999", label="sum, other weights")
styles = {
    "sum 0.5": ("s", "#000000"),
    "uncertainty": ("D", "#E69F00"),
    "UPGrad": ("^", "#0072B2"),
    "Nash": ("v", "#009E73"),
}
for name, (marker, color) in styles.items():
    left.plot(*ends[name][:2], marker, color=color, markersize=9, label=name)
left.set(title="final losses", xlabel="loss of the class, nats", ylabel="error of the image")
left.legend(frameon=False)


def smooth(course, window=25):
    return np.convolve(course, np.ones(window) / window, "valid")


for name, course in cosines.items():
    right.plot(smooth(course), color=styles[name][1], label=name)
right.axhline(0, color="#999999", linewidth=1)
right.set(title="cosine between the two gradients", xlabel="step")
right.legend(frameon=False)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## What we saw
#
# - The gradients conflict in more than 20 % of the steps.
# - UPGrad, whose direction increases neither loss, reaches lower values of both losses than the
#   equal sum. In the same number of steps none of the sums is better in both.
# - Nash, which does not depend on the units of the losses, reconstructs the images better and
#   classifies worse.
# - Aggregators of gradients need no search for weights, but one backward pass for each loss.
#   Learned uncertainty needs one backward pass in all.

# %%
conflicting = float(np.mean(cosines["UPGrad"] < 0))
print(f"the gradients conflict in {conflicting:.0%} of the steps under UPGrad")
assert conflicting > 0.2
assert ends["UPGrad"][1] < 0.95 * ends["sum 0.5"][1]
assert ends["UPGrad"][0] < ends["sum 0.5"][0]
for weight in weights:
    of_class, of_image, _ = ends[f"sum {weight}"]
    assert of_class > ends["UPGrad"][0] or of_image > ends["UPGrad"][1]
assert ends["Nash"][1] < ends["UPGrad"][1]
assert ends["sum 0.9"][1] > 1.5 * ends["sum 0.1"][1]
assert ends["sum 0.03"][0] > 2 * ends["sum 0.5"][0]
print("all conclusions hold")
