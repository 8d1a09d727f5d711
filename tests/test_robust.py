"""The special cases of the general robust loss, and the far ends of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arithmetic import exact_map, exp, ulp_error

from jaxloss import regression, robust

ERRORS = jnp.array([0.0, 1e-12, 1e-3, 0.7, 1.0, 3.0, 40.0, 1e8, 1e15])
SPECIAL = {2.0: None, 1.0: "charbonnier", 0.0: "cauchy", -2.0: "geman_mcclure", -jnp.inf: "welsch"}


def total(z, alpha, scale=1.0):
    return jnp.sum(robust.barron(z, jnp.zeros_like(z), alpha=alpha, scale=scale))


def half_square(z, target):
    return 0.5 * jnp.square(z - target)


@jax.jit
def general_and_slopes(alphas):
    return jax.vmap(lambda alpha: jax.value_and_grad(total)(ERRORS, alpha))(alphas)


def test_general_is_the_special_loss():
    values, slopes = general_and_slopes(jnp.array(list(SPECIAL)))
    for (alpha, name), value, slope in zip(SPECIAL.items(), values, slopes, strict=True):
        special = getattr(robust, name) if name else half_square
        expected, expected_slope = jax.value_and_grad(
            lambda z, special=special: jnp.sum(special(z, jnp.zeros_like(z)))
        )(ERRORS)
        np.testing.assert_allclose(value, expected, rtol=2e-6, err_msg=str(alpha))
        np.testing.assert_allclose(slope, expected_slope, rtol=2e-6, atol=1e-37, err_msg=str(alpha))


def test_the_slope_in_alpha_is_that_of_differences():
    with jax.enable_x64(True):
        z = jnp.array([0.0, 1e-3, 0.5, 2.0, 30.0, 1e5])
        loss = jax.jit(jax.vmap(lambda alpha: robust.barron(z, 0.0, alpha=alpha)))
        alphas = jnp.array([1.0, 0.0, -2.0, 1.7, -40.0, 2.6])
        _, slopes = jax.jvp(loss, (alphas,), (jnp.ones_like(alphas),))
        differences = (loss(alphas + 1e-5) - loss(alphas - 1e-5)) / 2e-5
        np.testing.assert_allclose(slopes, differences, rtol=1e-5, atol=1e-9)


def test_all_derivatives_are_finite():
    alphas = jnp.array([2.0, 1.0, 0.0, -2.0, -jnp.inf, -1e30, 1.9999999, 2.0000002])
    gradient = lambda *x: jnp.stack(jax.grad(total, argnums=(0, 1, 2))(*x))
    hessian = jax.jacfwd(gradient, argnums=(0, 1, 2))
    every = jax.vmap(
        jax.vmap(lambda z, alpha: (gradient(z, alpha, 2.0), hessian(z, alpha, 2.0)), (0, None)),
        (None, 0),
    )
    for x in jax.tree.leaves(jax.jit(every)(ERRORS[:7], alphas)):
        assert np.all(np.isfinite(x)), np.argwhere(~np.isfinite(x))


def test_the_slope_in_alpha_at_2_points_the_right_way():
    slope = jax.jit(jax.grad(total, argnums=1))(jnp.array([3.0]), 2.0)
    nearby = (total(jnp.array([3.0]), 2.0) - total(jnp.array([3.0]), 1.999)) / 1e-3
    assert slope > nearby > 0


@pytest.mark.parametrize("name", ["cauchy", "geman_mcclure", "welsch", "tukey", "charbonnier"])
def test_gross_errors_and_small_scales_stay_finite(name):
    def loss(error, scale):
        return getattr(robust, name)(error, 0.0, scale=scale)

    errors = jnp.array([1e30, -1e30, 0.0, 1e-30])
    scales = jnp.array([1.0, 1e-3, 1e-15, 1e-15])
    every = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1))))(errors, scales)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(loss)), (0, None)))(errors, 1.0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((every, second)))


def test_the_tail_of_welsch_keeps_its_digits():
    """A square near 70 is rounded by 4e-6, which is 30 last places of its exponential."""
    errors = np.linspace(2, 12, 64, dtype=np.float32)
    got = jax.vmap(jax.grad(robust.welsch), (0, None))(errors, 0.0)
    exact = exact_map(lambda z: z * exp(-(z**2) / 2), errors)
    assert np.max(ulp_error(got, exact)) < 6


def test_all_have_the_curvature_of_half_a_square():
    for name in ("charbonnier", "cauchy", "geman_mcclure", "welsch", "tukey", "barron"):
        assert jax.jit(jax.grad(jax.grad(getattr(robust, name))))(0.0, 0.0) == 1


def test_charbonnier_is_pseudo_huber_without_its_unit():
    expected = regression.pseudo_huber(ERRORS[:7], 0.0, delta=0.5) / 0.25
    np.testing.assert_allclose(robust.charbonnier(ERRORS[:7], 0.0, scale=0.5), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "scale"), [("cauchy", 1.69), ("welsch", 2.11), ("tukey", 4.685)])
def test_the_scale_said_to_keep_95_percent_does(name, scale):
    e = jnp.linspace(-12, 12, 20001)
    density = jnp.exp(-e * e / 2) / jnp.sum(jnp.exp(-e * e / 2))
    gradient = jax.vmap(jax.grad(lambda x: getattr(robust, name)(x, 0.0, scale=scale)))
    # The mean slope of the gradient, by parts: E[psi'] = E[e psi].
    efficiency = jnp.sum(density * e * gradient(e)) ** 2 / jnp.sum(density * gradient(e) ** 2)
    np.testing.assert_allclose(efficiency, 0.95, atol=2e-3)


def test_a_scale_of_0_is_refused():
    with pytest.raises(ValueError, match="`scale` must be above 0"):
        robust.cauchy(0.0, 0.0, scale=0.0)


@pytest.mark.parametrize("z", [1.5e9, 1e12, 1e200])
def test_large_errors_in_float64(z):
    with jax.enable_x64(True):
        zero, z = jnp.zeros((), jnp.float64), jnp.asarray(z, jnp.float64)
        barron = lambda z, zero: robust.barron(z, zero, alpha=jnp.zeros((), jnp.float64))
        for loss in (robust.cauchy, barron):
            value, slope = jax.value_and_grad(loss)(z, zero)
            np.testing.assert_allclose(value, 2 * np.log(z) - np.log(2), rtol=1e-15)
            np.testing.assert_allclose(slope, 2 / z, rtol=1e-15)


@pytest.mark.parametrize("alpha", [-2.0, 0.0, 1.0, 2.0])
def test_the_second_derivative_of_barron_in_the_tail(alpha):
    def second(z, alpha):
        return jax.grad(jax.grad(robust.barron))(z, 0.0, alpha=alpha)

    for z in (12.0, 20.0, 1e3):
        np.testing.assert_allclose(jax.jit(second)(z, alpha), second(z, alpha), 2e-4, 1e-8)


@pytest.mark.parametrize("z", [jnp.inf, -jnp.inf])
def test_an_infinite_error_has_the_limits_of_barron(z):
    """Value, slope in z, slope in alpha: of a negative alpha all finite, and all derivatives."""
    sign = np.sign(z)
    expected = {
        3.0: (np.inf, z, np.inf),
        2.0: (np.inf, z, np.inf),
        1.5: (np.inf, z, np.inf),
        1.0: (np.inf, sign, np.inf),
        0.5: (np.inf, 0, np.inf),
        0.0: (np.inf, 0, np.inf),
        -0.25: (9, 0, 32),
        -2.0: (2, 0, 0.5),
        -1e30: (1, 0, 0),
        -np.inf: (1, 0, 0),
    }
    alphas = jnp.asarray(list(expected))
    loss = lambda z, alpha: robust.barron(z, 0.0, alpha=alpha)
    every = jax.vmap(jax.value_and_grad(loss, (0, 1)), (None, 0))
    value, (in_z, in_alpha) = jax.jit(every)(z, alphas)
    for got, right in zip(
        (value, in_z, in_alpha), zip(*expected.values(), strict=True), strict=True
    ):
        np.testing.assert_allclose(got, right, rtol=1e-6)
    second = jax.jit(jax.vmap(jax.hessian(loss, (0, 1)), (None, 0)))(z, alphas[alphas < 0])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(second))
    for alpha in SPECIAL:  # as Python numbers
        got = jax.value_and_grad(loss)(jnp.asarray(z), float(alpha))
        np.testing.assert_allclose(got, expected[float(alpha)][:2], rtol=1e-6)


@pytest.mark.parametrize("name", ["geman_mcclure", "welsch", "tukey"])
def test_bounded_losses_have_no_slope_at_an_infinite_error(name):
    loss = getattr(robust, name)
    for z in (jnp.inf, -jnp.inf):
        assert np.isfinite(loss(z, 0.0))
        assert jax.grad(loss)(z, 0.0) == jax.grad(jax.grad(loss))(z, 0.0) == 0
