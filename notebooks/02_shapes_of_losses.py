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
# **What does a loss do to an error?** Everything it will ever do is in two curves: its value says
# what an error costs, its gradient says how hard that error pulls. We look at them, then let them
# loose on the food expenditure of 235 Belgian households (Engel, 1857), which is skewed enough to
# tell the losses apart.

# %%
# On Colab, install first: %pip install "jaxloss[notebooks]"
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
# Nothing below is drawn from a formula: the curves are the function and its `jax.grad`.

# %%
axes = plot.compare([squared_error, absolute_error, huber, cauchy], over=(-4, 4))

# %% [markdown]
# On the left all look like bowls of one kind or another. On the right they part: the squared error
# pulls ever harder, the absolute error always alike, Huber's no harder than delta, and Cauchy's
# lets go again.
#
# ## An option under your thumb
#
# The general robust loss goes from the squared error (alpha = 2) over Charbonnier's (1) and
# Cauchy's (0) to Geman and McClure's (-2). The slider works without a kernel; arrow keys move it.

# %%
plot.slider(barron, over={"alpha": np.linspace(-2, 2, 17)}, x=(-5, 5))

# %% [markdown]
# ## What an outlier can do
#
# The best constant is fitted to a sample, one more observation moves from left to right, and the
# picture shows how far it pulls the fit. It is the gradient again, as a consequence.

# %%
tukey_3 = functools.partial(tukey, scale=3.0)
axes = plot.influence([squared_error, absolute_error, huber, tukey_3])

# %% [markdown]
# ## Losses of vectors
#
# A cross-entropy has no single curve. Along a telling line through its inputs, here the logit of
# the right class, it has one; `plot.section` knows such a line for every loss of the catalogue.

# %%
axes = plot.section(jl.classification.softmax_cross_entropy)

# %% [markdown]
# ## On real data: what a loss makes of the same households
#
# The best constant under a loss is *what the loss returns*: mean, median, quantile. The choice of
# a loss is the choice of a question.

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

# %%
tolerance = 2 * float(grid[1] - grid[0])
assert abs(best["squared error"] - spent.mean()) < tolerance
assert abs(best["absolute error"] - jnp.median(spent)) < tolerance
assert np.mean(spent <= best["quantile, level=0.9"] + tolerance) >= 0.9
# The tail of rich households lifts the mean, hardly the median, and Tukey's fit not at all.
assert best["tukey, scale=600"] < best["absolute error"] < best["squared error"]
assert jax.grad(squared_error)(1e3, 0.0) == 2000
assert jax.grad(huber)(1e3, 0.0) == 1
print("the mean, the median, and what lies between them are all questions of the loss")
