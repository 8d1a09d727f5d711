"""What the divergences do at zeros and infinities, near a match, and at their special orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import classification, divergence
from jaxloss.numerics import _renyi

P = jnp.array([0.1, 0.2, 0.3, 0.4])
Q = jnp.array([0.4, 0.1, 0.25, 0.25])
NONE = -jnp.inf


def slopes(function, *arguments):
    """Value, gradients and one second derivative in all arguments."""
    numbers = tuple(range(len(arguments)))

    @jax.jit
    def every(*arguments):
        gradient = jax.grad(function, argnums=numbers)
        ones = tuple(jnp.ones_like(x) for x in arguments)
        return function(*arguments), gradient(*arguments), jax.jvp(gradient, arguments, ones)[1]

    return every(*(jnp.asarray(x, jnp.float32) for x in arguments))


@pytest.mark.parametrize(
    ("name", "prediction", "target", "expected"),
    [
        ("kl", [0.0, NONE], [1.0, 0.0], 0.0),
        ("kl", [-1.0, NONE, -1.0], [0.0, 0.0, 1.0], 1.0),
        ("kl_log", [0.0, NONE], [0.0, NONE], 0.0),
        ("kl_log", [-1.0, -2.0], [0.0, NONE], 1.0),
        ("kl_logits", [0.0, NONE, 0.0], [0.0, NONE, NONE], np.log(2)),
        ("kl_logits", [0.0, 0.0], [1e4, NONE], np.log(2)),
        ("reverse_kl", [0.0, NONE], [1.0, 0.0], 0.0),
        ("reverse_kl", [0.0, NONE], [0.5, 0.5], np.log(2)),
        ("generalized_kl", [NONE, 0.0], [0.0, 0.0], 1.0),
        ("generalized_kl", [-200.0, 0.0], [1.0, 1.0], 199.0),
        ("jensen_shannon", [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], np.log(2)),
        ("jensen_shannon", [1.0, 0.0], [1.0, 0.0], 0.0),
        ("hellinger", [1.0, 0.0], [0.0, 1.0], 1.0),
        ("hellinger", [1.0, 0.0], [1.0, 0.0], 0.0),
        ("total_variation", [1.0, 0.0], [0.0, 1.0], 1.0),
        ("renyi", [0.0, NONE], [0.5, 0.5], np.log(2)),
        ("renyi", [-1.0, NONE], [1.0, 0.0], 1.0),
        ("alpha_divergence", [0.0, NONE], [1.0, 0.0], 0.0),
        ("alpha_divergence", [NONE, 0.0], [1.0, 0.0], 4.0),
        ("bernoulli_kl", 1.0, 1.0, 0.0),
        ("bernoulli_kl", 0.5, 0.0, np.log(2)),
        ("bernoulli_kl", 1e-30, 0.0, 1e-30),
    ],
)
def test_zeros_cost_nothing_and_all_derivatives_are_finite(name, prediction, target, expected):
    value, *derivatives = slopes(getattr(divergence, name), prediction, target)
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-37)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(derivatives))


@pytest.mark.parametrize(
    ("name", "prediction", "target", "options"),
    [
        ("kl", [0.0, NONE], [0.5, 0.5], {}),
        ("kl_log", [0.0, NONE], [-0.7, -0.7], {}),
        ("kl_logits", [0.0, NONE], [0.0, 0.0], {}),
        ("reverse_kl", [-0.7, -0.7], [1.0, 0.0], {}),
        ("generalized_kl", [0.0, NONE], [0.5, 0.5], {}),
        ("bernoulli_kl", 1.0, 0.5, {}),
        ("renyi", [0.0, NONE], [0.5, 0.5], {"order": 1.0}),
        ("renyi", [0.0, NONE], [0.5, 0.5], {"order": 2.0}),
        ("alpha_divergence", [0.0, NONE], [0.5, 0.5], {"order": 1.0}),
        ("alpha_divergence", [-0.7, -0.7], [1.0, 0.0], {"order": 0.0}),
    ],
)
def test_what_is_ruled_out_costs_inf(name, prediction, target, options):
    assert getattr(divergence, name)(prediction, target, **options) == np.inf


@pytest.mark.parametrize("apart", [1e-1, 1e-4, 1e-7, 1e-12])
def test_kl_of_nearly_equal_logits_keeps_its_digits(apart):
    logits = jnp.array([0.0, 0.5 * apart, 0.0])
    target = jnp.array([apart, 0.0, 0.0])
    a, b = np.float64(logits), np.float64(target)
    q = np.exp(b) / np.sum(np.exp(b))
    d = (b - a) - np.sum(q * (b - a))
    expected = np.log1p(np.sum(q * np.where(abs(d) < 1e-3, d * d / 2 - d**3 / 6, np.expm1(-d) + d)))
    value, (slope, _), _ = slopes(divergence.kl_logits, logits, target)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, q * np.expm1(-(d + expected)), rtol=1e-5, atol=1e-6 * apart)


def test_the_slope_in_the_temperature_is_that_of_differences_also_with_a_mask():
    logits, target, mask = [1.0, 2.0, 3.0], [2.0, 1.0, 0.0], [True, True, False]
    for options in ({}, {"mask": mask}):
        loss = lambda t, o=options: divergence.kl_logits(logits, target, temperature=t, **o)
        difference = (loss(2.01) - loss(1.99)) / 0.02
        np.testing.assert_allclose(jax.grad(loss)(2.0), difference, rtol=1e-3)


def test_all_forms_of_kl_agree():
    logits, others = jnp.array([1.0, -2.0, 0.5, 3.0]), jnp.array([0.0, 1.0, -1.0, 2.0])
    log_p, log_q = jax.nn.log_softmax(logits / 2), jax.nn.log_softmax(others / 2)
    expected = divergence.kl_logits(logits, others, temperature=2.0)
    for value in (
        divergence.kl(log_p, jnp.exp(log_q)),
        divergence.kl_log(log_p, log_q),
        divergence.reverse_kl(log_q, jnp.exp(log_p)),
        divergence.generalized_kl(log_p, jnp.exp(log_q)),
        divergence.renyi(log_p, jnp.exp(log_q), order=1.0),
        divergence.alpha_divergence(log_p, jnp.exp(log_q), order=1.0),
        divergence.alpha_divergence(log_q, jnp.exp(log_p), order=0.0),
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_orders_with_a_name():
    log_p = jnp.log(P)
    squared = divergence.hellinger(P, Q) ** 2
    np.testing.assert_allclose(divergence.alpha_divergence(log_p, Q), 4 * squared, rtol=1e-5)
    renyi = -2 * jnp.log1p(-squared)
    np.testing.assert_allclose(divergence.renyi(log_p, Q), renyi, rtol=1e-5)
    chi_squared = jnp.sum((Q - P) ** 2 / P)
    np.testing.assert_allclose(
        divergence.alpha_divergence(log_p, Q, order=2.0), chi_squared / 2, rtol=1e-5
    )
    half = jnp.array([0.5, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(divergence.renyi(log_p, half, order=0.0), -np.log(0.3), rtol=1e-6)


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 1.001, 1.5, 2.0, 5.0])
def test_the_gradient_of_renyi_in_a_target_of_0_is_its_one_sided_slope(order):
    """That of the formula above order 1; 0 at order 0, and where the slope is infinite."""
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.6, 0.0])
    slope = jax.grad(lambda q: divergence.renyi(np.log(p), q, order=order))(jnp.float32(q))
    mass = np.sum(q**order * p ** (1 - order), where=q > 0)
    inside = q[:2] ** (order - 1) * p[:2] ** (1 - order) / mass - 1
    if order != 1:
        np.testing.assert_allclose(slope[:2], order / (order - 1) * inside, rtol=2e-3, atol=1e-6)
    expected = -order / (order - 1) if order > 1 else 0
    np.testing.assert_allclose(slope[2], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["renyi", "alpha_divergence"])
def test_the_slope_in_the_order_is_that_of_differences(name):
    with jax.enable_x64(True):
        log_p, q = jnp.log(jnp.asarray(P, jnp.float64)), jnp.asarray(Q, jnp.float64)
        loss = jax.jit(jax.vmap(lambda order: getattr(divergence, name)(log_p, q, order=order)))
        orders = jnp.array(
            [1.0, 0.5, 0.01, 0.999999, 2.0, 7.0] + [0.0] * (name == "alpha_divergence")
        )
        _, slope = jax.jvp(loss, (orders,), (jnp.ones_like(orders),))
        difference = (loss(orders + 1e-5) - loss(orders - 1e-5)) / 2e-5
        np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-7)


def test_a_masked_class_does_not_exist():
    mask = jnp.array([True, False, True, True])
    kept = jnp.array([0, 2, 3])
    for name in (
        "kl",
        "kl_log",
        "reverse_kl",
        "generalized_kl",
        "renyi",
        "alpha_divergence",
        "kl_logits",
    ):
        loss = getattr(divergence, name)
        target = jnp.log(Q) if name in ("kl_log", "kl_logits") else Q
        got = loss(jnp.log(P), target, mask=mask)
        np.testing.assert_allclose(got, loss(jnp.log(P)[kept], target[kept]), rtol=1e-6)
        gradient = jax.grad(lambda x, loss=loss, t=target: loss(x, t, mask=mask))(
            jnp.log(P).at[1].set(jnp.nan)
        )
        assert np.all(np.isfinite(gradient))
        assert gradient[1] == 0
    for name in ("jensen_shannon", "hellinger", "total_variation"):
        loss = getattr(divergence, name)
        np.testing.assert_allclose(loss(P, Q, mask=mask), loss(P[kept], Q[kept]), rtol=1e-6)


def test_bernoulli_kl_gradients_like_the_cross_entropy():
    expected = jax.grad(classification.binary_cross_entropy)(0.3, 0.8)
    np.testing.assert_allclose(jax.grad(divergence.bernoulli_kl)(0.3, 0.8), expected, rtol=1e-6)


def test_jensen_shannon_of_close_distributions_keeps_its_digits():
    value = divergence.jensen_shannon([0.5, 0.5], [0.5 + 2**-20, 0.5 - 2**-20])
    np.testing.assert_allclose(value, 2.0**-41, rtol=1e-5)


def test_gaussian_kl_is_that_of_its_distributions():
    value = divergence.gaussian_kl(
        [1.0, 2.0], [0.5, -1.0], target_mean=[0.0, 1.0], target_log_variance=-0.5
    )
    ratio = np.exp([1.0, -0.5])
    expected = 0.5 * np.sum(ratio - 1 - np.log(ratio) + np.exp(0.5))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert divergence.gaussian_kl([0.0], [1e-30]) == 0
    np.testing.assert_allclose(divergence.gaussian_kl([0.0], [1e-10]), 2.5e-21, rtol=1e-6)


def test_options_outside_their_domain_are_refused():
    with pytest.raises(ValueError, match="`order` must be at least 0"):
        divergence.renyi([0.0], [1.0], order=-1.0)
    with pytest.raises(ValueError, match="`temperature` must be above 0"):
        divergence.kl_logits([0.0], [1.0], temperature=0.0)
    with pytest.raises(ValueError, match="`weight` must be between 0 and 1"):
        divergence.jensen_shannon([1.0], [1.0], weight=1.5)


def test_a_mask_makes_no_nan_on_the_way():
    logits, mask = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[True, True, False]])

    def total(logits):
        return jnp.sum(divergence.kl_logits(logits, 2 * logits + 1, mask=mask))

    jax.config.update("jax_debug_nans", True)
    try:
        assert np.all(np.isfinite(jax.grad(total)(logits)))
    finally:
        jax.config.update("jax_debug_nans", False)


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0])
def test_renyi_has_the_gradient_of_the_target_where_the_largest_tie(order):
    target, prediction = np.array([0.4, 0.4, 0.2]), np.array([0.2, 0.3, 0.5])

    def exact(target):
        share = target / target.sum()
        ratio = np.log(share / prediction)
        if order == 1:
            return share @ ratio
        return np.log(share @ np.exp((order - 1) * ratio)) / (order - 1)

    steps = 1e-6 * np.eye(3)
    expected = [(exact(target + step) - exact(target - step)) / 2e-6 for step in steps]
    gradient = jax.grad(divergence.renyi, argnums=1)(
        jnp.log(jnp.float32(prediction)), jnp.float32(target), order=order
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_the_sums_of_renyi_by_one_reduction_have_the_digits_of_two_passes():
    amounts = np.float32(10.0) ** np.random.default_rng(0).uniform(-9, 0, (8, 1000))
    amounts = np.float32(amounts)
    amounts[:2, 7] = 1e6  # the others are less than a last place of the largest
    amounts[2, 5:9] = amounts[2].max()
    for form in (_renyi._rest_by_reduction, _renyi._rest_by_passes):
        largest, rest = jax.jit(form)(amounts)
        np.testing.assert_array_equal(largest[:, 0], amounts.max(-1))
        expected = np.sort(np.float64(amounts), -1)[:, :-1].sum(-1)
        np.testing.assert_allclose(rest[:, 0], expected, rtol=1e-6)
    rest = jax.jit(_renyi._rest_by_reduction)(amounts)[1]
    np.testing.assert_allclose(rest[:, 0], expected, rtol=1e-7)
