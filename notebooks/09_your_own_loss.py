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
# # Your own loss: from a formula to a tested function in the catalogue
#
# **What is needed before a new loss can be trusted?** The LINEX loss (Varian, 1975) is nearly
# exponential for errors of one sign and nearly linear for the other: for decisions in which an
# estimate that is too high is much worse than one that is too low. This notebook implements it
# with its formula, a numerically accurate form, one decorator and three checks, and then applies
# it to the food budget of Engel's households.

# %%
# Install from a clone of the repository: %pip install ".[notebooks]"
import functools
from typing import Unpack

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.test_util import check_grads
from jaxtyping import Float, Real
from statsmodels.datasets import engel

import jaxloss as jl
from jaxloss import plot
from jaxloss.domains import positive
from jaxloss.traits import convex, nonnegative, smooth, translation_invariant, zero_at_match

# %% [markdown]
# ## 1. The formula of the paper
#
# $$\ell(e) = e^{a e} - a e - 1$$


# %%
def naive(error, a=1.0):
    return jnp.exp(a * error) - a * error - 1


# %% [markdown]
# ## 2. Accuracy
#
# Near 0 the formula subtracts $1 + ae$ from a number that is nearly equal to it. In float32 no
# digit of the result is correct: at an error of 1e-4 the loss is 5e-9.

# %%
errors = jnp.logspace(-6, 0, 200, dtype=jnp.float32)
exact = np.asarray(errors, np.float64) ** 2 * sum(
    np.asarray(errors, np.float64) ** k / float(jax.scipy.special.factorial(k + 2))
    for k in range(20)
)
print(f"naive(1e-4) = {naive(jnp.float32(1e-4)):.3e}, the exact value is 5.000e-09")

# %% [markdown]
# Near 0 the value is therefore computed by its series. The derivative is `expm1`, which is accurate
# everywhere; a custom rule states it.


# %%
@jax.custom_jvp
def exp_minus_line(x):
    """exp(x) - x - 1, accurate near 0."""
    small = jnp.abs(x) < 0.5
    near = jnp.where(small, x, 0)
    series = 1 + near / 9 * (1 + near / 10)
    for k in range(8, 2, -1):
        series = 1 + near / k * series
    return jnp.where(small, near**2 / 2 * series, jnp.expm1(jnp.where(small, 1, x)) - x)


exp_minus_line.defjvps(lambda x_dot, _, x: jnp.expm1(x) * x_dot)


def relative_error(values):
    return np.abs(np.asarray(values, np.float64) / exact - 1) + 1e-9


figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.loglog(errors, relative_error(naive(errors)), color="#D55E00", label="formula of the paper")
ax.loglog(errors, relative_error(exp_minus_line(errors)), color="#0072B2", label="with the series")
ax.set(xlabel="error", ylabel="relative error of the loss")
legend = ax.legend(frameon=False)

# %% [markdown]
# ## 3. One decorator
#
# `@jl.loss` adds shapes, masks, weights, means, half precision, checks and error messages. The
# traits state what is true of the loss for every input; `a=positive` is the domain of the option.


# %%
@jl.loss(convex, nonnegative, smooth, translation_invariant, zero_at_match, a=positive)
def linex(
    prediction: Real[jl.ArrayLike, "*batch"],
    target: Real[jl.ArrayLike, "*batch"],
    *,
    a: Real[jl.ArrayLike, ""] = 1.0,
    **reduction: Unpack[jl.Reduction],
) -> Float[jax.Array, "*batch"]:
    r"""LINEX loss: nearly exponential in positive errors, nearly linear in negative ones.

    When to use: decisions for which too high is much worse than too low.

    $$\ell(e) = e^{a e} - a e - 1, \qquad e = p - t$$

    Args:
        prediction: What the model predicted.
        target: What was observed, in the same unit.
        a: The rate of the exponential growth, in the inverse of that unit.

    Returns:
        The loss of each example.

    Example:
        >>> linex([0.0, 1.0], [0.0, 0.0])
        Array([0.       , 0.7182818], dtype=float32)

    References:
        Varian, *A Bayesian Approach to Real Estate Assessment*, 1975.
    """
    return exp_minus_line(a * (prediction - target))


print(linex([0.0, jnp.nan], [1.0, 2.0], where=[True, False], reduction="mean"))
try:
    linex(jnp.zeros((3, 1)), jnp.zeros(3))
except ValueError as error:
    print(error)

# %% [markdown]
# ## 4. Three checks
#
# The values are compared with an oracle in plain Python, the derivatives with finite differences,
# and each trait is tested on drawn inputs. For a loss of the library the suite does this, given
# one row of a table.

# %%
generator = np.random.default_rng(0)
prediction, target = generator.normal(size=(2, 1000)).astype(np.float32)
oracle = [np.exp(2 * e) - 2 * e - 1 for e in prediction - target]
np.testing.assert_allclose(linex(prediction, target, a=2.0), oracle, rtol=1e-4, atol=1e-6)
check_grads(functools.partial(linex, a=2.0), (0.3, -0.2), order=2, rtol=2e-2)
other = generator.normal(size=1000).astype(np.float32)
chord = (linex(prediction, target) + linex(other, target)) / 2
assert jnp.all(linex((prediction + other) / 2, target) <= chord + 1e-5), "convex"
assert jnp.all(linex(prediction, target) >= 0), "nonnegative"
shifted = linex(prediction + 1, target + 1)
np.testing.assert_allclose(shifted, linex(prediction, target), rtol=1e-3, atol=1e-5)
assert linex(target, target).sum() == 0, "zero at match"

# %% [markdown]
# ## 5. Catalogue and plots

# %%
jl.catalogue.find("convex", "smooth", text="exponential")

# %%
plot.slider(linex, over={"a": (0.2, 2.0)}, x=(-3, 3))

# %% [markdown]
# ## 6. Application
#
# A household decides on a food budget before the year begins, and a budget that is too high is
# penalized exponentially. The optimal budget under LINEX has a closed form, $-\frac1a \log
# \operatorname{mean} e^{-a t}$: with growing `a` it goes from the mean to the minimum. `a` is
# traced, so that all budgets are computed in one compiled call.

# %%
spent = jnp.asarray(engel.load_pandas().data["foodexp"].to_numpy() / 1000, jnp.float32)
strictness = jnp.logspace(-2, 1.5, 40)


@jax.jit
@jax.vmap
def budget(a):
    def cost(guess):
        return linex(guess, spent, a=a, reduction="mean")

    def step(guess, _):  # Newton's
        return guess - jax.grad(cost)(guess) / jax.hessian(cost)(guess), None

    return jax.lax.scan(step, jnp.min(spent), length=60)[0]


budgets = budget(strictness)
closed_form = -jax.vmap(lambda a: jax.nn.logsumexp(-a * spent) - jnp.log(len(spent)))(strictness)
closed_form = closed_form / strictness

figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.semilogx(strictness, budgets, color="#0072B2", label="best budget")
for name, value in {"mean": spent.mean(), "minimum": spent.min()}.items():
    ax.axhline(value, color="#7a7a7a", linewidth=0.8)
    ax.annotate(name, (0.011, value), (0, 3), textcoords="offset points", color="#7a7a7a")
labels = ax.set(xlabel="a, per 1000 francs", ylabel="budget, 1000 francs", ylim=(0.2, 0.7))

# %% [markdown]
# ## What we saw
#
# - The formula of the paper has a relative error above 1 near 0 in float32; the series has one
#   below 1e-5.
# - The budgets found by Newton's method agree with the closed form. For small `a` the budget is the
#   mean.
# - The decorated function has the arguments, checks and catalogue entry of any other loss.

# %%
assert relative_error(naive(errors)).max() > 1 > 1e-5 > relative_error(exp_minus_line(errors)).max()
np.testing.assert_allclose(budgets, closed_form, rtol=1e-3)
assert budgets[0] > 0.99 * spent.mean()
assert jl.catalogue.of(linex).options == ("a",)
print("all conclusions hold")
