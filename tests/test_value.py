"""Value losses: conventions of peers, distributions of targets at the ends of their support."""

import itertools
import re

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxloss as jl
from jaxloss import value

SUPPORT = np.linspace(-10, 10, 51)


def test_a_value_that_moved_too_far_has_gradient_zero():
    slope = jax.grad(value.clipped_value)(1.0, 0.0, 2.0, clip=0.5)
    assert slope == 0  # the clipped error, 1.5, is the larger one
    assert jax.grad(value.clipped_value)(1.0, 0.0, -2.0, clip=0.5) == 3.0


@pytest.mark.parametrize(
    ("v", "old", "target", "slope"),
    [
        # Both errors are rounded to -1e20; the clipped one is the larger, by 4.8.
        (5.0, 0.0, 1e20, 0.0),
        (5.0, 0.0, -1e20, 1e20),
        # The clipped value is the target but for the rounding of 0.2 + 3: it is the smaller error.
        (3.5, 3.0, 3.2, 0.3),
    ],
)
def test_the_larger_of_two_errors_is_found_where_they_are_rounded_alike(v, old, target, slope):
    got = jax.grad(value.clipped_value)(v, old, target)
    np.testing.assert_allclose(got, np.float32(slope), rtol=1e-6)


def test_a_nan_value_has_a_nan_gradient():
    assert np.isnan(jax.grad(value.clipped_value)(jnp.nan, 0.0, 2.0))


def test_one_quantile_and_one_target_are_the_huber_loss_halved():
    q, y = jnp.array([[0.3], [4.0]]), jnp.array([[0.0], [0.0]])
    expected = 0.5 * jnp.array([0.045, 3.5])
    np.testing.assert_allclose(value.quantile_huber(q, y), expected, rtol=1e-6)


def test_divided_by_a_small_delta_it_is_the_pinball_loss():
    q, y = jnp.array([[0.3]]), jnp.array([[1.0]])
    got = value.quantile_huber(q, y, levels=[0.9], delta=1e-6, divide_by_delta=True)
    np.testing.assert_allclose(got, [0.63], rtol=1e-5)


def test_two_hot_keeps_the_mean():
    targets = np.random.default_rng(0).uniform(-10, 10, 100)
    uneven = np.sort(np.random.default_rng(1).uniform(-10, 10, 21))
    for support in (SUPPORT, uneven):
        got = value.two_hot(targets, support)
        mean = np.float64(got) @ support
        np.testing.assert_allclose(mean, np.clip(targets, support[0], support[-1]), atol=1e-5)
        assert np.all(np.asarray(got) >= 0)
        np.testing.assert_allclose(np.sum(got, -1), 1, rtol=1e-6)
        assert np.all(np.sum(np.asarray(got) > 0, -1) <= 2)


@pytest.mark.parametrize("target", [0.1, -9.9, 10.0, 12.0, 60.0, -60.0])
def test_hl_gauss_is_right_far_outside_its_edges(target):
    sigma = 0.75 * 20 / 50
    with mpmath.workdps(50):
        # The tail on the far side of the target: there differences do not cancel.
        side = 1 if target > 0 else -1
        z = [side * (mpmath.mpf(float(np.float32(e))) - target) / sigma for e in SUPPORT]
        tail = [mpmath.erfc(-x / mpmath.sqrt(2)) for x in z]
        masses = [abs(b - a) for a, b in itertools.pairwise(tail)]
        expected = np.array([float(m / sum(masses)) for m in masses])
    got = value.hl_gauss(target, SUPPORT)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-6)


def test_projection_is_that_of_its_definition():
    generator = np.random.default_rng(0)
    p, moved = generator.dirichlet(np.ones(51), 3), 0.5 + 0.9 * SUPPORT
    expected = np.zeros((3, 51))
    width = SUPPORT[1] - SUPPORT[0]
    for j, z in enumerate(np.clip(moved, -10, 10)):
        for k, atom in enumerate(SUPPORT):
            expected[:, k] += p[:, j] * max(0.0, 1 - abs(z - atom) / width)
    np.testing.assert_allclose(value.project(p, moved, SUPPORT), expected, atol=1e-6)


def test_gumbel_regression_finds_the_log_mean_exp():
    targets = jnp.linspace(-1, 1, 9)
    best = jnp.log(jnp.mean(jnp.exp(targets)))
    slope = jax.grad(lambda p: value.gumbel(p, targets, reduction="mean"))(best)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: value.two_hot([0.0], [1.0]), r"`support` has shape \(1,\), expected \(bins,\)"),
        (lambda: value.hl_gauss([0.0], [[1.0]]), r"`edges` has shape \(1, 1\)"),
        (
            lambda: value.project([0.5, 0.5], [1.0], [0.0, 1.0]),
            r"`from_support` has shape \(1,\), expected \(2,\)",
        ),
    ],
)
def test_mistakes_are_answered(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_recipes_of_one_step_targets_are_those_of_a_loop():
    rng = np.random.default_rng(5)
    rewards, next_values = rng.normal(size=(2, 6)).astype(np.float32)
    q, next_q, next_q_of_the_trained = rng.normal(size=(3, 6, 3)).astype(np.float32)
    actions, next_actions = rng.integers(0, 3, (2, 6))
    given = {"jax": jax, "jnp": jnp, "jl": jl, "discount": 0.9, "temperature": 0.5}
    given |= {"rewards": rewards, "terminal": np.arange(6) % 3 == 2, "next_values": next_values}
    given |= {"q": q, "next_q": next_q, "next_q_of_the_trained": next_q_of_the_trained}
    given |= {"actions": jnp.asarray(actions), "next_actions": jnp.asarray(next_actions)}
    recipes = "".join(re.findall(r"^    (.*\n)", value.__doc__, re.MULTILINE))
    exec(recipes, given)
    best = np.argmax(next_q_of_the_trained, axis=-1)
    futures = {
        "td_0": next_values,
        "sarsa": [next_q[i, a] for i, a in enumerate(next_actions)],
        "q_learning": [max(row) for row in next_q],
        "double_q_learning": [next_q[i, a] for i, a in enumerate(best)],
        "soft_q_learning": [0.5 * np.log(np.sum(np.exp(row / 0.5))) for row in next_q],
    }
    for name, future in futures.items():
        expected = [
            r + 0.9 * f * (i % 3 != 2) for i, r, f in zip(range(6), rewards, future, strict=True)
        ]
        np.testing.assert_allclose(given[name], expected, rtol=1e-5, err_msg=name)
    errors = [q[i, a] - given["q_learning"][i] for i, a in enumerate(actions)]
    np.testing.assert_allclose(given["loss"], [huber(error) for error in errors], rtol=1e-5)


def huber(error):
    return 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
