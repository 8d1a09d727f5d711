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
# # Robust regression
#
# **Which observations determine a fit?** Two well-known data sets: Engel's food expenditure,
# where a few households with a large income determine the line of least squares, and Brownlee's
# stack-loss data, 21 days of a chemical plant, four of which the literature considers outliers.

# %%
# Install from a clone of the repository: %pip install ".[notebooks]"
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from statsmodels.datasets import engel, stackloss

import jaxloss as jl
from jaxloss import transforms

# %% [markdown]
# ## One fitting function for all losses
#
# A linear model is fitted by L-BFGS. The loss is an argument; its `delta` or `scale` is traced,
# so that a new value does not recompile. With a small delta the Huber loss is close to the
# absolute error but has a continuous gradient, which L-BFGS needs.


# %%
def linear(params, inputs):
    return inputs @ params["slope"] + params["level"]


def fit(loss, inputs, targets, start=None, steps=200):
    """The parameters of least mean loss, started at least squares or at `start`.

    The columns are scaled to standard deviation 1 during the optimization.
    """
    centre, spread = inputs.mean(0), inputs.std(0)
    scaled = (inputs - centre) / spread
    init, step = transforms.make_train_step(
        lambda p: loss(linear(p, scaled), targets, reduction="mean"), optax.lbfgs()
    )
    if start is None:
        *slope, level = jnp.linalg.lstsq(jnp.c_[scaled, jnp.ones(len(scaled))], targets)[0]
        params = {"slope": jnp.stack(slope), "level": level}
    else:
        params = {"slope": start["slope"] * spread, "level": linear(start, centre)}
    (params, _), _ = jax.lax.scan(
        lambda carry, _: (step(*carry)[:2], None), (params, init(params)), length=steps
    )
    slope = params["slope"] / spread
    return {"slope": slope, "level": params["level"] - slope @ centre}


squared = jax.jit(functools.partial(fit, jl.regression.squared_error))


@jax.jit
def fit_huber(inputs, targets, delta):
    return fit(functools.partial(jl.regression.huber, delta=delta), inputs, targets)


@jax.jit
def fit_tukey(inputs, targets, scale, start):
    return fit(functools.partial(jl.robust.tukey, scale=scale), inputs, targets, start)


# %% [markdown]
# ## Engel: food and income
#
# A few households with a large income spend less on food than the trend of the others. They lower
# the slope of the line of least squares. For the median line only the side of the line matters on
# which a household lies, not its distance.

# %%
households = engel.load_pandas().data
income = jnp.asarray(households[["income"]].to_numpy(), jnp.float32)
food = jnp.asarray(households["foodexp"].to_numpy(), jnp.float32)

lines = {"squared": squared(income, food), "huber, delta=100": fit_huber(income, food, 100.0)}
lines["huber, delta=1: medians"] = fit_huber(income, food, 1.0)
for name, line in lines.items():
    print(f"{name:26} food = {line['level']:6.1f} + {line['slope'][0]:.4f} income")

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.plot(income[:, 0], food, "o", color="#7a7a7a", markersize=3, alpha=0.6)
ends = jnp.array([[300.0], [5000.0]])
for (name, line), color in zip(lines.items(), ("#D55E00", "#009E73", "#0072B2"), strict=True):
    ax.plot(ends[:, 0], linear(line, ends), color=color, label=name)
ax.set(xlabel="income, Belgian francs a year", ylabel="food", ylim=(0, 2600))
legend = ax.legend(frameon=False)

# %% [markdown]
# Koenker and Hallock report 147.48 + 0.4852 income for the mean and 81.48 + 0.5602 income for the
# median line.
#
# ## Stack loss: four outliers among 21 days
#
# The first fit is least squares. An outlier that determines the fit does not have a large
# residual, so that the residuals show almost nothing. The second fit is the median. The third is
# Tukey's loss, which is not convex and therefore starts at the median fit: three fits, each with
# a scale of three robust standard deviations of the residuals of the fit before it.

# %%
plant = stackloss.load_pandas().data
conditions = jnp.asarray(plant[["AIRFLOW", "WATERTEMP", "ACIDCONC"]].to_numpy(), jnp.float32)
lost = jnp.asarray(plant["STACKLOSS"].to_numpy(), jnp.float32)


def spread_of(residuals):
    """The median absolute residual, scaled to the standard deviation if errors are normal."""
    return 1.4826 * jnp.median(jnp.abs(residuals))


by_squares = squared(conditions, lost)
before = lost - linear(by_squares, conditions)
medians = fit_huber(conditions, lost, 0.02)
robust = medians
for _ in range(3):
    scale = 3 * spread_of(lost - linear(robust, conditions))
    robust = fit_tukey(conditions, lost, scale, robust)
final = lost - linear(robust, conditions)
suspects = np.flatnonzero(np.abs(final / spread_of(final)) > 3) + 1
for name, params in {"squares": by_squares, "medians": medians, "Tukey": robust}.items():
    slopes = ", ".join(f"{slope:.3f}" for slope in params["slope"])
    print(f"by {name:8} slopes {slopes}; level {params['level']:.1f}")
print("residuals above 3 robust standard deviations on days", suspects)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for ax, residuals, name in ((left, before, "by squares"), (right, final, "by Tukey's loss")):
    ax.axhspan(-3, 3, color="#56B4E9", alpha=0.2)
    ax.plot(np.arange(1, 22), residuals / spread_of(residuals), "o", color="#0072B2")
    ax.set(title=name, xlabel="day")
for day in suspects:
    place = (day, final[day - 1] / spread_of(final))
    right.annotate(str(day), place, (4, 4), textcoords="offset points")
label = left.set_ylabel("residual / robust standard deviation")

# %% [markdown]
# ## Comparison by one score
#
# The values of different losses cannot be compared. `catalogue.compare` cross-validates the fits
# with the same score, here the median absolute error of a held-out day.


# %%
def train(loss, inputs, targets):
    params = fit(loss, inputs, targets)
    return lambda unseen: linear(params, unseen)


table = jl.catalogue.compare(
    {
        "squared": jl.regression.squared_error,
        "huber, delta=1": functools.partial(jl.regression.huber, delta=1.0),
    },
    train,
    (np.asarray(conditions), np.asarray(lost)),
    scores={"median absolute error": lambda p, t: np.median(np.abs(np.asarray(p) - t))},
    folds=7,
    progress=False,
)
table

# %% [markdown]
# ## What we saw
#
# - The lines of the Engel data agree with the published ones.
# - The fit by Tukey's loss shows the four outliers of the stack-loss data, days 1, 3, 4 and 21,
#   as residuals above 3 robust standard deviations. In the residuals of least squares at most one
#   day is above 3.

# %%
published = {"squared": (147.4754, 0.4852), "huber, delta=1: medians": (81.4822, 0.5602)}
for name, (level, slope) in published.items():
    np.testing.assert_allclose(lines[name]["level"], level, rtol=5e-3)
    np.testing.assert_allclose(lines[name]["slope"][0], slope, rtol=5e-3)
np.testing.assert_allclose(by_squares["slope"], [0.7156, 1.2953, -0.1521], atol=1e-3)
assert set(suspects) == {1, 3, 4, 21}, "the outliers reported in the literature"
assert np.sum(np.abs(before / spread_of(before)) > 3) <= 1, "least squares shows at most one"
print("all conclusions hold")
