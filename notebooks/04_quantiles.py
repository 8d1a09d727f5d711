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
# # Quantiles and honest intervals
#
# **How sure is a prediction, and is it as sure as it says?** Rich households differ in what they
# spend on food more than poor ones do. An interval of one width for all is honest on average and
# wrong for everyone; quantiles learn the width. We fit both to Engel's data, hold out each
# household once, and count.

# %%
# On Colab, install first: %pip install "jaxloss[notebooks]"
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from statsmodels.datasets import engel

import jaxloss as jl
from jaxloss import plot, transforms

households = engel.load_pandas().data
income = jnp.asarray(households["income"].to_numpy() / 1000, jnp.float32)
food = jnp.asarray(households["foodexp"].to_numpy() / 1000, jnp.float32)

# %% [markdown]
# ## Seven levels in one loss
#
# `regression.quantiles` is the mean of the quantile loss over levels; the model says one line a
# level. It is convex but has kinks, so plain Adam with a step that shrinks to nothing is enough.

# %%
levels = jnp.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])


def lines(params, income):
    """A prediction for each household and level."""
    return params["level"] + params["slope"] * income[:, None]


def fit(objective, params, steps=3000):
    init, step = transforms.make_train_step(
        objective, optax.adam(optax.cosine_decay_schedule(0.03, steps))
    )
    (params, _), _ = jax.lax.scan(
        lambda carry, _: (step(*carry)[:2], None), (params, init(params)), length=steps
    )
    return params


def quantile_lines(income, food, known):
    """Lines fitted to the households that are known: `where` leaves the others out."""

    def objective(params):
        return jl.regression.quantiles(
            lines(params, income), food, level=levels, where=known, reduction="mean"
        )

    start = jnp.zeros(len(levels))
    return fit(objective, {"level": start, "slope": start + 0.5})


def normal_band(income, food, known):
    """A line and one variance for all, by maximum likelihood."""

    def objective(params):
        mean = params["level"] + params["slope"] * income
        return jl.nll.gaussian(
            mean, food, log_variance=params["log_variance"], where=known, reduction="mean"
        )

    start = {"level": 0.0, "slope": 0.5, "log_variance": -3.0}
    return fit(objective, jax.tree.map(jnp.float32, start))


everyone = jnp.ones(len(food), bool)
fitted = jax.jit(quantile_lines)(income, food, everyone)
for level, slope, start in zip(levels, fitted["slope"], fitted["level"], strict=True):
    print(f"level {level:.2f}: food = {1000 * start:6.1f} + {slope:.4f} income")

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.plot(income, food, "o", color="#7a7a7a", markersize=3, alpha=0.6)
ends = jnp.array([0.35, 3.0])
for level, line in zip(levels, lines(fitted, ends).T, strict=True):
    ax.plot(ends, line, color="#0072B2", linewidth=2.5 if level == 0.5 else 1)
    ax.annotate(f"{level:.2f}", (ends[1], line[1]), (3, -3), textcoords="offset points")
axes = ax.set(xlabel="income, 1000 francs a year", ylabel="food", xlim=(0.3, 3.2), ylim=(0, 2.1))

# %% [markdown]
# ## Each household is held out once
#
# Twenty folds are twenty masks, so that the cross-validation is one `vmap` over `where`: no data
# are copied, and everything is compiled once.

# %%
folds = 20
fold_of = jnp.asarray(np.random.default_rng(0).permutation(len(food)) % folds)
known = fold_of != jnp.arange(folds)[:, None]
by_fold = jax.jit(jax.vmap(quantile_lines, (None, None, 0)))(income, food, known)
unseen = jnp.take_along_axis(
    jax.vmap(lines, (0, None))(by_fold, income), fold_of[None, :, None], axis=0
)[0]
normal = jax.jit(jax.vmap(normal_band, (None, None, 0)))(income, food, known)
spread = jnp.exp(normal["log_variance"] / 2)[fold_of]
middle = normal["level"][fold_of] + normal["slope"][fold_of] * income
of_normal = middle[:, None] + spread[:, None] * jax.scipy.stats.norm.ppf(levels)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
share = jnp.broadcast_to(levels, unseen.shape)
plot.calibration(share, food[:, None] <= unseen, ax=left)
plot.calibration(share, food[:, None] <= of_normal, ax=right)
left.set(title="quantiles", xlabel="level", ylabel="share of households below")
axes = right.set(title="one normal width for all", xlabel="level", ylabel="")

# %% [markdown]
# ## Honest for whom?
#
# The share of households inside the 90 % interval, for the poorer, middle and richer third. One
# width for all is far too wide for the poor and too narrow for the rich.

# %%
third = np.searchsorted(np.quantile(income, [1 / 3, 2 / 3]), income)


def inside(bounds):
    within = np.asarray((bounds[:, 0] <= food) & (food <= bounds[:, -1]))
    return np.array([within[third == t].mean() for t in range(3)])


coverage = {"quantiles": inside(unseen), "one normal width": inside(of_normal)}
for name, shares in coverage.items():
    print(f"{name:18}", "  ".join(f"{s:.0%}" for s in shares), "(poorer, middle, richer)")
pinball = {
    name: float(jl.regression.quantiles(bounds, food, level=levels, reduction="mean"))
    for name, bounds in (("quantiles", unseen), ("one normal width", of_normal))
}
print({name: round(value, 4) for name, value in pinball.items()}, "held-out quantile loss")

# %% [markdown]
# ## What we saw

# %%
published = [0.3434, 0.4018, 0.4741, 0.5602, 0.6440, 0.6863, 0.7091]
np.testing.assert_allclose(fitted["slope"], published, atol=5e-3)
assert np.all(np.diff(fitted["slope"]) > 0), "the richer, the wider"
assert np.abs(coverage["quantiles"] - 0.9).max() < 0.07
assert coverage["one normal width"][0] > 0.97
assert coverage["one normal width"][2] < 0.85
assert pinball["quantiles"] < pinball["one normal width"]
print("the quantiles are honest for poor and rich; one width for all is honest for nobody")
