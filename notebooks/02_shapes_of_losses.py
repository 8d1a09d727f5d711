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
# # The shapes of losses
#
# **What does a loss do with an error?** Two curves describe it: the value, and the gradient,
# which is the influence of an example on the fit. This notebook plots both for several losses,
# and fits a constant under each to the food expenditure of 235 Belgian households (Engel, 1857).
# The data are skewed, so that the fits differ.

# %%
# Install from a clone of the repository: %pip install ".[notebooks]"
import functools

import jax
import jax.numpy as jnp
import numpy as np
from statsmodels.datasets import engel

import jaxloss as jl
from jaxloss import plot
from jaxloss.regression import absolute_error, expectile, huber, pinball, squared_error
from jaxloss.robust import barron, cauchy, tukey

# %% [markdown]
# ## Value and gradient
#
# The curves are computed from the functions and `jax.grad`, not from formulas.

# %%
axes = plot.compare([squared_error, absolute_error, huber, cauchy], over=(-4, 4))

# %% [markdown]
# The values look alike near 0. The gradients differ: that of the squared error grows in
# proportion to the error, that of the absolute error has a constant size, that of the Huber loss
# is bounded by delta, and that of the Cauchy loss decreases again for large errors.
#
# ## An option as a slider
#
# Barron's robust loss is the squared error at alpha = 2, the Charbonnier loss at 1, the Cauchy loss
# at 0 and the Geman-McClure loss at -2. The slider works without a kernel, and with arrow keys.

# %%
plot.slider(barron, over={"alpha": np.linspace(-2, 2, 17)}, x=(-5, 5))

# %% [markdown]
# ## The influence of an outlier
#
# The best constant is fitted to a sample and one more observation. The plot shows how far the fit
# moves as a function of that observation. The curve has the shape of the gradient.

# %%
tukey_3 = functools.partial(tukey, scale=3.0)
axes = plot.influence([squared_error, absolute_error, huber, tukey_3])

# %% [markdown]
# ## Losses of vectors
#
# A loss of a vector is a curve along a line through its inputs, here over the logit of the right
# class. `plot.section` has such a line for the losses of the catalogue.

# %%
axes = plot.section(jl.classification.softmax_cross_entropy)

# %% [markdown]
# ## On real data: the best constant under each loss
#
# The minimizer of a loss over a constant is the statistic that the loss estimates: the mean, the
# median, a quantile.

# %%
spent = jnp.asarray(engel.load_pandas().data["foodexp"].to_numpy(), jnp.float32)
grid = jnp.linspace(300.0, 1200.0, 9001)


@functools.partial(jax.jit, static_argnums=0)
def best_constant(loss):
    costs = jax.lax.map(lambda guess: loss(jnp.full_like(spent, guess), spent).mean(), grid)
    return grid[jnp.argmin(costs)]


best = {
    "squared error": best_constant(squared_error),
    "absolute error": best_constant(absolute_error),
    "quantile, level=0.9": best_constant(functools.partial(pinball, level=0.9)),
    "expectile, level=0.9": best_constant(functools.partial(expectile, level=0.9)),
    "tukey, scale=600": best_constant(functools.partial(tukey, scale=600.0)),
}
for name, value in best.items():
    print(f"{name:22} {value:7.1f} francs")

# %% [markdown]
# ## What we saw
#
# - The squared error estimates the mean, the absolute error the median, the pinball loss at level
#   0.9 the value that 90 % of the households do not exceed.
# - The households with the largest expenditure raise the mean above the median. Tukey's loss
#   ignores them: its fit is below the median.
# - The gradient of the squared error at an error of 1,000 is 2,000, that of the Huber loss is 1.

# %%
tolerance = 2 * float(grid[1] - grid[0])
assert abs(best["squared error"] - spent.mean()) < tolerance
assert abs(best["absolute error"] - jnp.median(spent)) < tolerance
assert np.mean(spent <= best["quantile, level=0.9"] + tolerance) >= 0.9
# The largest expenditures raise the mean most, the median less, and Tukey's fit not at all.
assert best["tukey, scale=600"] < best["absolute error"] < best["squared error"]
assert jax.grad(squared_error)(1e3, 0.0) == 2000
assert jax.grad(huber)(1e3, 0.0) == 1
print("all conclusions hold")
