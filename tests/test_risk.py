"""Reductions that judge risk: definitions, limits, gradients that are weights, nothing, NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss import risk

pytestmark = pytest.mark.few

VALUES = np.float32([0.3, -1.2, 2.5, 0.9, 4.0, 0.1, 1.7])
WEIGHTS = np.float32([1.0, 0.5, 2.0, 1.5, 0.25, 1.0, 0.75])
WHERE = np.array([True, True, False, True, True, False, True])

REDUCTIONS = {
    "cvar": functools.partial(risk.cvar, level=0.7),
    "tilted": functools.partial(risk.tilted, t=0.8),
    "tilted down": functools.partial(risk.tilted, t=-3.0),
    "top_k": functools.partial(risk.top_k, k=3),
    "trimmed": functools.partial(risk.trimmed, upper=0.2, lower=0.15),
    "group_dro": lambda values, **options: risk.group_dro(
        values, jnp.arange(values.size).reshape(values.shape) % 2, jnp.zeros(2), **options
    )[0],
}
AT_LIMIT = {
    "cvar": functools.partial(risk.cvar, level=0.0),
    "tilted": functools.partial(risk.tilted, t=0.0),
    "top_k": functools.partial(risk.top_k, k=100),
    "trimmed": functools.partial(risk.trimmed, upper=0.0),
    "group_dro": lambda values, **options: risk.group_dro(
        values, jnp.zeros(values.shape, int), jnp.zeros(1), **options
    )[0],
}
every = pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS.keys())
every_limit = pytest.mark.parametrize("reduction", AT_LIMIT.values(), ids=AT_LIMIT.keys())


def cvar_by_definition(values, weights, level):
    """The minimum is at one of the values."""
    p = weights / weights.sum()
    return min(eta + (p * np.maximum(0, values - eta)).sum() / (1 - level) for eta in values)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_cvar_is_the_minimum_of_its_definition(level):
    got = risk.cvar(VALUES, level=level, weights=WEIGHTS)
    expected = cvar_by_definition(VALUES.astype(float), WEIGHTS.astype(float), level)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    got = risk.cvar(VALUES, level=level, where=WHERE)
    expected = cvar_by_definition(VALUES[WHERE].astype(float), np.ones(WHERE.sum()), level)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_cvar_of_all_levels_ends_at_the_maximum():
    level = jnp.linspace(0, 1, 21)
    got = jax.vmap(lambda level: risk.cvar(VALUES, level=level))(level)
    assert np.all(np.diff(got) >= -1e-6)
    np.testing.assert_allclose(got[0], VALUES.mean(), rtol=1e-6)
    assert got[-1] == 4
    slope = jax.grad(lambda level: risk.cvar(VALUES, level=level))(0.5)
    step = 1e-2
    ends = [risk.cvar(VALUES, level=0.5 + s) for s in (step, -step)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-3)


def test_tilted_is_its_definition_far_from_0():
    for t in (-50.0, -2.0, 0.3, 5.0, 80.0):
        x, w = VALUES.astype(float), WEIGHTS.astype(float)
        expected = np.log((w * np.exp(t * (x - 4))).sum() / w.sum()) / t + 4
        np.testing.assert_allclose(
            risk.tilted(VALUES, t=t, weights=WEIGHTS), expected, rtol=2e-6, atol=1e-6
        )
    assert risk.tilted([1e30, 3e30], t=1.0) == np.float32(3e30)


def test_tilted_is_exact_through_0():
    """Mean, half the variance and a sixth of the third moment are its derivatives at 0."""
    of = lambda t: risk.tilted(VALUES, t=t)
    x = VALUES.astype(float)
    apart = x - x.mean()
    np.testing.assert_allclose(of(0.0), x.mean(), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(of)(0.0), (apart**2).mean() / 2, rtol=1e-6)
    got = jax.grad(jax.grad(of))(0.0)
    np.testing.assert_allclose(got, 2 * (apart**3).mean() / 6, rtol=1e-5)
    for t in (1e-30, 1e-6, -1e-3, 0.2):
        weights = jax.grad(lambda v, t=t: risk.tilted(v, t=t))(VALUES)
        np.testing.assert_allclose(weights, jax.nn.softmax(t * VALUES), rtol=2e-6)


def test_top_k_and_trimmed_are_means_of_sorted_values():
    ordered = np.sort(VALUES)
    for k in (1, 3, 7, 9):
        np.testing.assert_allclose(risk.top_k(VALUES, k=k), ordered[-k:].mean(), rtol=1e-6)
    for out in (0, 1, 3):
        got = risk.trimmed(VALUES, upper=out / 7, lower=2 / 7)
        np.testing.assert_allclose(got, ordered[2 : 7 - out].mean(), rtol=1e-5)
    got = risk.top_k(VALUES, k=2, weights=WEIGHTS)
    np.testing.assert_allclose(got, (4 * 0.25 + 2.5 * 2) / 2.25, rtol=1e-6)
    got = risk.trimmed(VALUES, upper=0.0, lower=0.6)
    np.testing.assert_allclose(got, risk.cvar(VALUES, level=0.6), rtol=1e-5)


@every_limit
def test_at_its_limit_it_is_the_mean(reduction):
    for options in ({}, {"weights": WEIGHTS}, {"where": WHERE}):
        got, slope = jax.value_and_grad(functools.partial(reduction, **options))(VALUES)
        expected, of_mean = jax.value_and_grad(functools.partial(jl.mean, **options))(VALUES)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        np.testing.assert_allclose(slope, of_mean, rtol=1e-6, atol=1e-8)


@every
def test_the_gradient_is_a_weight_for_each_value(reduction):
    options = {"weights": WEIGHTS, "where": WHERE}
    slope = jax.grad(functools.partial(reduction, **options))(VALUES)
    np.testing.assert_allclose(jnp.sum(slope), 1, rtol=1e-5)
    assert np.all(slope >= -1e-7)
    assert np.all(slope[~WHERE] == 0)
    step = 1e-2
    for place in range(7):
        moved = np.eye(7, dtype=np.float32)[place] * np.float32(step)
        ends = [reduction(VALUES + m, **options) for m in (moved, -moved)]
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), slope[place], atol=2e-3)


@every
def test_gradients_in_the_weights_are_differences(reduction):
    of = lambda w: reduction(VALUES, weights=w)
    slope, step = jax.grad(of)(WEIGHTS), 1e-2
    for place in range(7):
        moved = np.eye(7, dtype=np.float32)[place] * np.float32(step)
        numeric = (of(WEIGHTS + moved) - of(WEIGHTS - moved)) / (2 * step)
        np.testing.assert_allclose(numeric, slope[place], atol=3e-3)


@every
def test_equal_values_share_the_gradient(reduction):
    values = np.float32([2.0, 1.0, 2.0, 0.0, 2.0, 1.0])
    value, slope = jax.value_and_grad(reduction)(np.ones(6, np.float32))
    np.testing.assert_allclose(value, 1, rtol=1e-6)
    np.testing.assert_allclose(slope, 1 / 6, rtol=1e-5)
    if reduction is not REDUCTIONS["group_dro"]:
        slope = np.asarray(jax.grad(reduction)(values))
        np.testing.assert_allclose(slope[[0, 2]], slope[4], rtol=1e-6)
        np.testing.assert_allclose(slope[1], slope[5], rtol=1e-6)


@every
def test_what_is_left_out_is_not_there(reduction):
    dirty = np.where(WHERE, VALUES, np.nan)
    value, slope = jax.value_and_grad(lambda v: reduction(v, where=WHERE))(dirty)
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))
    if reduction is not REDUCTIONS["group_dro"]:
        np.testing.assert_allclose(value, reduction(VALUES[WHERE]), rtol=1e-6)
    nothing = np.zeros(7, bool)
    value, slope = jax.value_and_grad(lambda v: reduction(v, where=nothing))(dirty)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


@every
def test_a_nan_that_counts_is_seen(reduction):
    assert np.isnan(reduction(np.where(WHERE, VALUES, np.nan)))


@every
def test_shapes_dtypes_and_transformations(reduction):
    grid = jnp.asarray(VALUES[:6]).reshape(2, 3)
    np.testing.assert_allclose(reduction(grid), reduction(grid.ravel()), rtol=1e-6)
    half = reduction(grid.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    both = jax.vmap(reduction)(jnp.stack([grid, 2 * grid]))
    np.testing.assert_allclose(both[0], jax.jit(reduction)(grid), rtol=1e-6)
    direction = jnp.arange(6.0).reshape(2, 3)
    _, forward = jax.jvp(reduction, (grid,), (direction,))
    np.testing.assert_allclose(forward, jnp.sum(jax.grad(reduction)(grid) * direction), rtol=1e-5)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.make_jaxpr(jax.grad(reduction))(grid)


def test_the_gradient_of_group_dro_holds_no_array_of_groups_and_values():
    n, count = 1 << 14, 32
    of = lambda x: risk.group_dro(x, jnp.arange(n) % count, jnp.zeros(count))[0]
    memory = jax.jit(jax.grad(of)).lower(jnp.ones(n)).compile().memory_analysis()
    if memory is not None:
        assert memory.temp_size_in_bytes < 4 * count * n / 2


def test_group_dro_moves_to_the_worst_group():
    groups, state = np.array([0, 0, 1, 1, 1, 2, 2]), jnp.zeros(4)
    means = np.array([VALUES[groups == g].mean() for g in range(3)])
    value, state = risk.group_dro(VALUES, groups, state, step_size=0.5)
    raw = np.exp(0.5 * np.array([*means, 0.0]))
    np.testing.assert_allclose(jnp.exp(state), raw / raw.sum(), rtol=1e-6)
    np.testing.assert_allclose(value, (raw[:3] / raw.sum() * means).sum(), rtol=1e-5)
    for _ in range(100):
        value, state = risk.group_dro(VALUES, groups, state, step_size=5.0)
    np.testing.assert_allclose(value, means.max(), rtol=1e-5)
    slope = jax.grad(lambda s: risk.group_dro(VALUES, groups, s)[0])(jnp.zeros(4))
    np.testing.assert_array_equal(slope, 0)


def test_a_group_that_is_none_is_seen():
    assert np.isnan(risk.group_dro([1.0, 2.0], [0, 5], jnp.zeros(2))[0])
    got = risk.group_dro([1.0, 2.0], [0, 5], jnp.zeros(1), where=[True, False])[0]
    assert got == 1
    with pytest.raises(ValueError, match=r"`groups` is int.* of shape \(3,\), expected 2 integers"):
        risk.group_dro([1.0, 2.0], [0, 1, 1], jnp.zeros(2))


def test_a_loss_and_a_risk_are_one_step():
    """The values of any loss; a far outlier does not move the trimmed fit."""
    x = jnp.linspace(-1, 1, 40)
    y = 2 * x + 1
    y = y.at[3].set(100.0)

    def loss(params):
        return risk.trimmed(jl.regression.squared_error(params[0] * x + params[1], y), upper=0.05)

    params = jnp.zeros(2)
    for _ in range(200):
        params = params - 0.3 * step(loss, params)
    np.testing.assert_allclose(params, [2, 1], atol=1e-3)


@functools.partial(jax.jit, static_argnums=0)
def step(loss, params):
    return jax.grad(loss)(params)
