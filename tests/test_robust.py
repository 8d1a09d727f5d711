"""The special cases of the general robust loss, and the far ends of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import regression, robust

ERRORS = jnp.array([0.0, 1e-12, 1e-3, 0.7, 1.0, 3.0, 40.0, 1e8, 1e15])
SPECIAL = {2.0: None, 1.0: "charbonnier", 0.0: "cauchy", -2.0: "geman_mcclure", -jnp.inf: "welsch"}


def total(z, alpha, scale=1.0):
    return jnp.sum(robust.general(z, jnp.zeros_like(z), alpha=alpha, scale=scale))


@pytest.mark.parametrize("alpha", SPECIAL)
@pytest.mark.parametrize("traced", [False, True])
def test_general_is_the_special_loss(alpha, traced):
    special = lambda z: (
        jnp.sum(z * z / 2) if alpha == 2 else jnp.sum(getattr(robust, SPECIAL[alpha])(z, jnp.zeros_like(z)))
    )
    option = jnp.float32(alpha) if traced else alpha
    value, slope = jax.value_and_grad(total)(ERRORS, option)
    expected, expected_slope = jax.value_and_grad(special)(ERRORS)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(slope, expected_slope, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("alpha", [1.0, 0.0, -2.0, 1.7, -40.0, 2.6])
def test_the_slope_in_alpha_is_that_of_differences(alpha):
    with jax.enable_x64(True):
        z = jnp.array([0.0, 1e-3, 0.5, 2.0, 30.0, 1e5])
        f = lambda a: robust.general(z, 0.0, alpha=a)
        slope = jax.jacfwd(f)(jnp.float64(alpha))
        difference = (f(jnp.float64(alpha + 1e-5)) - f(jnp.float64(alpha - 1e-5))) / 2e-5
        np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("alpha", [2.0, 1.0, 0.0, -2.0, -jnp.inf, jnp.inf, -1e30, 1.9999999])
def test_all_derivatives_are_finite(alpha):
    z = ERRORS[:6]
    values = jax.value_and_grad(total, argnums=(0, 1, 2))(z, jnp.float32(alpha), jnp.float32(2.0))
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(values))
    second = jax.jacfwd(jax.grad(total, argnums=(0, 1, 2)), argnums=(0, 1, 2))(
        z, jnp.float32(alpha), jnp.float32(2.0)
    )
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(second))


def test_the_slope_in_alpha_at_2_points_the_right_way():
    slope = jax.grad(total, argnums=1)(jnp.array([3.0]), 2.0)
    nearby = (total(jnp.array([3.0]), 2.0) - total(jnp.array([3.0]), 1.999)) / 1e-3
    assert slope > nearby > 0


@pytest.mark.parametrize("name", ["cauchy", "geman_mcclure", "welsch", "tukey", "charbonnier"])
def test_gross_errors_and_small_scales_stay_finite(name):
    loss = getattr(robust, name)
    for error, scale in [(1e30, 1.0), (-1e30, 1e-5), (0.0, 1e-25), (1e-30, 1e-25)]:
        derivatives = jax.grad(loss, argnums=0), jax.grad(lambda e, t, scale: loss(e, t, scale=scale), 2)
        assert np.isfinite(loss(error, 0.0, scale=scale))
        assert np.isfinite(derivatives[0](error, 0.0, scale=scale))
        assert np.isfinite(derivatives[1](error, 0.0, scale))
        assert np.isfinite(jax.grad(derivatives[0])(error, 0.0))


def test_all_have_the_curvature_of_half_a_square():
    for name in ("charbonnier", "cauchy", "geman_mcclure", "welsch", "tukey", "general"):
        assert jax.grad(jax.grad(getattr(robust, name)))(0.0, 0.0) == 1


def test_charbonnier_is_pseudo_huber_without_its_unit():
    expected = regression.pseudo_huber(ERRORS[:7], 0.0, delta=0.5) / 0.25
    np.testing.assert_allclose(robust.charbonnier(ERRORS[:7], 0.0, scale=0.5), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "scale"), [("cauchy", 1.69), ("welsch", 2.11), ("tukey", 4.685)])
def test_the_scale_said_to_keep_95_percent_does(name, scale):
    e = jnp.linspace(-12, 12, 20001)
    density = jnp.exp(-e * e / 2) / jnp.sum(jnp.exp(-e * e / 2))
    pull = jax.vmap(jax.grad(lambda x: getattr(robust, name)(x, 0.0, scale=scale)))
    # The mean slope of the pull, by parts: E[psi'] = E[e psi].
    efficiency = jnp.sum(density * e * pull(e)) ** 2 / jnp.sum(density * pull(e) ** 2)
    np.testing.assert_allclose(efficiency, 0.95, atol=2e-3)


def test_a_scale_of_0_is_refused():
    with pytest.raises(ValueError, match="`scale` must be above 0"):
        robust.cauchy(0.0, 0.0, scale=0.0)
