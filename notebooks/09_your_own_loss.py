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
# # A loss of your own: from an idea to a tested, catalogued function
#
# **What does it take to trust a loss that nobody has written yet?** We want the LINEX loss (Varian,
# 1975): almost exponential for errors to one side, almost linear to the other, for decisions where
# too low is a nuisance and too high a disaster. It takes a formula, a look at its numbers, one
# decorator, and three checks. Then it sets the food budget of Engel's households.

# %%
# On Colab, install first: %pip install "jaxloss[notebooks]"
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
# ## 1. The formula, as it stands in the paper
#
# $$\ell(e) = e^{a e} - a e - 1$$


# %%
def naive(error, a=1.0):
    return jnp.exp(a * error) - a * error - 1


# %% [markdown]
# ## 2. Its numbers
#
# Near 0 it subtracts 1 and $ae$ from something that is almost $1 + ae$. In float32 nothing is left:
# at an error of 1e-4 the loss should be 5e-9.

# %%
errors = jnp.logspace(-6, 0, 200, dtype=jnp.float32)
exact = np.asarray(errors, np.float64) ** 2 * sum(
    np.asarray(errors, np.float64) ** k / float(jax.scipy.special.factorial(k + 2))
    for k in range(20)
)
print(f"naive(1e-4) = {naive(jnp.float32(1e-4)):.3e}, and it should be 5.000e-09")

# %% [markdown]
# So the value needs another form near 0: the series. The derivative is `expm1`, which is exact
# everywhere, and we say so.


# %%
@jax.custom_jvp
def exponential_minus_line(x):
    """exp(x) - x - 1, exact near 0."""
    small = jnp.abs(x) < 0.5
    near = jnp.where(small, x, 0)
    series = 1 + near / 9 * (1 + near / 10)
    for k in range(8, 2, -1):
        series = 1 + near / k * series
    return jnp.where(small, near**2 / 2 * series, jnp.expm1(jnp.where(small, 1, x)) - x)


@exponential_minus_line.defjvp
def _(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return exponential_minus_line(x), jnp.expm1(x) * tangent


def off(values):
    return np.abs(np.asarray(values, np.float64) / exact - 1) + 1e-9


figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.loglog(errors, off(naive(errors)), color="#D55E00", label="as in the paper")
ax.loglog(errors, off(exponential_minus_line(errors)), color="#0072B2", label="with the series")
ax.set(xlabel="error", ylabel="relative error of the loss")
legend = ax.legend(frameon=False)

# %% [markdown]
# ## 3. One decorator
#
# `@jl.loss` adds shapes, masks, weights, means, half precision, checks and errors. What is true of
# the loss for every input is claimed by its traits; `a=positive` is what the option may be.


# %%
@jl.loss(convex, nonnegative, smooth, translation_invariant, zero_at_match, a=positive)
def linex(
    prediction: Real[jl.ArrayLike, "*batch"],
    target: Real[jl.ArrayLike, "*batch"],
    *,
    a: Real[jl.ArrayLike, ""] = 1.0,
    **reduction: Unpack[jl.Reduction],
) -> Float[jax.Array, "*batch"]:
    r"""Take it when too high is a disaster and too low a nuisance.

    $$\ell(e) = e^{a e} - a e - 1, \qquad e = p - t$$

    Args:
        prediction: What the model says.
        target: What was observed, in the same unit.
        a: How fast the cost of too high grows, in one over that unit.

    Returns:
        The loss of each example.

    Raises:
        ValueError: If the shapes differ, or a is a number not above 0.

    Example:
        >>> linex([0.0, 1.0], [0.0, 0.0])
        Array([0.       , 0.7182818], dtype=float32)

    References:
        Varian, *A Bayesian Approach to Real Estate Assessment*, 1975.
    """
    return exponential_minus_line(a * (prediction - target))


print(linex([0.0, jnp.nan], [1.0, 2.0], where=[True, False], reduction="mean"))
try:
    linex(jnp.zeros((3, 1)), jnp.zeros(3))
except ValueError as error:
    print(error)

# %% [markdown]
# ## 4. Three checks
#
# An oracle in plain Python, derivatives against differences, and each trait on drawn inputs. In the
# library these are one row of a table, and the suite does the rest.

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
# ## 5. It is in the catalogue, and has its pictures

# %%
jl.catalogue.find("convex", "smooth", text="disaster")

# %%
plot.slider(linex, over={"a": (0.2, 2.0)}, x=(-3, 3))

# %% [markdown]
# ## 6. At work
#
# A household of Engel's commits itself to a food budget before the year begins; what is committed
# too much costs exponentially. The best budget under LINEX has a closed form,
# $-\frac1a \log \operatorname{mean} e^{-a t}$: `a` moves it from the mean down to the minimum. It
# is traced, so that all budgets are one compiled call.

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

# %%
assert off(naive(errors)).max() > 1 > 1e-5 > off(exponential_minus_line(errors)).max()
np.testing.assert_allclose(budgets, closed_form, rtol=1e-3)
assert budgets[0] > 0.99 * spent.mean()
assert jl.catalogue.of(linex).options == ("a",)
print("a formula, a look at its numbers, one decorator, three checks: a loss like any other")
