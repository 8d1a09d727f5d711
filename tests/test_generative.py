"""Generative losses: weights at both ends, directions of time, free nats, slopes that are 0."""

import re

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from arithmetic import ulp_error

import jaxloss
from jaxloss import generative

pytestmark = pytest.mark.few

LOG_SNR = np.concatenate([np.linspace(-80, 80, 65), [-20.0, 20.0]]).astype(np.float32)


def _min_snr(x):
    return min(mpmath.exp(x), mpmath.mpf(5))


def _edm(x):
    return 4 + mpmath.exp(x)


def _sigmoid(x):
    return mpmath.exp(x) / (1 + mpmath.exp(x - 2))


def _p2(x):
    return mpmath.exp(x) / (1 + mpmath.exp(x))


WEIGHTS = {  # the weight of the error of the sample
    "min_snr": (generative.min_snr_weight, _min_snr),
    "edm": (generative.edm_weight, _edm),
    "sigmoid": (generative.sigmoid_weight, _sigmoid),
    "p2": (generative.p2_weight, _p2),
}


@pytest.mark.parametrize("predicts", ["noise", "sample", "velocity"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_of_the_sample_is_that_of_noise_and_velocity_by_their_errors(name, predicts):
    weight, of_sample = WEIGHTS[name]
    factor = {
        "noise": lambda x: mpmath.exp(-x),
        "sample": lambda x: mpmath.mpf(1),
        "velocity": lambda x: 1 / (1 + mpmath.exp(x)),
    }[predicts]
    exact = [of_sample(mpmath.mpf(float(x))) * factor(mpmath.mpf(float(x))) for x in LOG_SNR]
    got = weight(LOG_SNR, predicts=predicts)
    assert np.max(ulp_error(got, np.asarray(exact, object))) < 8
    slope = jax.grad(lambda x: jnp.sum(weight(x, predicts=predicts)))(jnp.asarray(LOG_SNR))
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize(
    ("weight", "predicts", "ends"),
    [
        (generative.min_snr_weight, "noise", [1, 0]),
        (generative.min_snr_weight, "sample", [0, 5]),
        (generative.min_snr_weight, "velocity", [0, 0]),
        (generative.edm_weight, "velocity", [4, 1]),
        (generative.sigmoid_weight, "noise", [1, 0]),
        (generative.sigmoid_weight, "velocity", [0, 0]),
        (generative.p2_weight, "noise", [1, 0]),
        (generative.p2_weight, "sample", [0, 1]),
        (generative.p2_weight, "velocity", [0, 0]),
    ],
)
def test_weights_are_finite_where_there_is_only_noise_or_none(weight, predicts, ends):
    got = weight([-np.inf, np.inf], predicts=predicts)
    np.testing.assert_allclose(got, ends, rtol=1e-6)


def test_a_power_of_0_weights_all_noise_levels_alike():
    got = generative.p2_weight([-np.inf, 0.0, np.inf], gamma=0.0)
    np.testing.assert_array_equal(got, [1, 1, 1])


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match=r"min_snr_weight: `predicts` is 'epsilon', expected one"):
        generative.min_snr_weight(0.0, predicts="epsilon")


def test_the_velocity_recovers_sample_and_noise():
    sample, noise = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    alpha, sigma = np.float32(0.6), np.float32(0.8)
    mixed = alpha * sample + sigma * noise
    v = generative.velocity(sample, noise, alpha=alpha, sigma=sigma)
    np.testing.assert_allclose(alpha * mixed - sigma * v, sample, atol=1e-6)
    np.testing.assert_allclose(sigma * mixed + alpha * v, noise, atol=1e-6)


def test_an_error_of_the_sample_weighted_for_another_prediction_is_the_same_loss():
    """The same network, read as a predictor of noise or of velocity, has the same loss."""
    generator = np.random.default_rng(1)
    sample, noise, guess = generator.normal(size=(3, 5, 8)).astype(np.float32)
    log_snr = np.float32([-4, -1, 0, 1, 4])
    alpha = np.sqrt(1 / (1 + np.exp(-log_snr)))[:, None]
    sigma = np.sqrt(1 / (1 + np.exp(log_snr)))[:, None]
    mixed = alpha * sample + sigma * noise
    guesses = {
        "sample": (guess, sample),
        "noise": ((mixed - alpha * guess) / sigma, noise),
        "velocity": (
            (alpha * mixed - guess) / sigma,
            generative.velocity(sample, noise, alpha=alpha, sigma=sigma),
        ),
    }
    for weight, _ in WEIGHTS.values():
        of_sample, *others = (
            generative.denoising(*pair, weight=weight(log_snr, predicts=predicts))
            for predicts, pair in guesses.items()
        )
        for other in others:
            np.testing.assert_allclose(other, of_sample, rtol=2e-4)


def test_the_recipe_of_mean_flow_is_zero_at_the_mean_velocity():
    """For data of one point x, the mean velocity is (z - x) / t between any two times."""
    recipe = re.search(r"```python\n(.*?)```", generative.__doc__, re.DOTALL)[1]
    names = {"jax": jax, "jnp": jnp, "jaxloss": jaxloss}
    exec(recipe, names)
    rng = np.random.default_rng(0)
    sample, noise = rng.normal(size=(2, 5)).astype(np.float32)
    r, t = jnp.float32(0.2), jnp.float32(0.7)
    right = names["mean_flow"](lambda z, r, t: (z - sample) / t, sample, noise, r, t)
    np.testing.assert_allclose(right, 0, atol=1e-10)
    wrong = names["mean_flow"](lambda z, r, t: (z - sample) * t, sample, noise, r, t)
    assert wrong > 0.01


def test_the_two_directions_of_time_have_opposite_targets():
    sample, noise = np.float32([[1.0, 2.0], [0.5, -1.0]])
    to_sample, to_noise = (
        jax.jvp(mix, (0.3,), (1.0,))[1]
        for mix in (
            lambda t: (1 - t) * noise + t * sample,
            lambda t: (1 - t) * sample + t * noise,
        )
    )
    np.testing.assert_allclose(generative.flow_to_sample(sample, noise), to_sample)
    np.testing.assert_allclose(generative.flow_to_noise(sample, noise), to_noise)


def test_targets_of_different_shapes_are_refused():
    for target in (generative.flow_to_noise, generative.flow_to_sample):
        with pytest.raises(ValueError, match=r"`noise` has shape \(3,\), expected \(2,\)"):
            target(np.zeros(2), np.zeros(3))


def test_images_are_one_event():
    prediction, target = np.random.default_rng(2).normal(size=(2, 4, 8, 8, 3)).astype(np.float32)
    got = generative.denoising(prediction, target, axis=(-3, -2, -1), weight=np.arange(4.0))
    expected = np.arange(4) * np.mean((prediction - target) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_tokens_that_are_not_masked_have_no_gradient_whatever_they_hold():
    logits = jnp.zeros((3, 4)).at[1].set(jnp.nan)
    masked = np.array([True, False, True])
    value, slope = jax.value_and_grad(generative.masked_diffusion)(logits, [0, 1, 2], masked)
    np.testing.assert_allclose(value, 2 * np.log(4), rtol=1e-6)
    np.testing.assert_array_equal(slope[1], np.zeros(4))
    assert np.all(np.isfinite(slope))


def test_masked_diffusion_of_an_even_prediction_has_log_of_the_vocabulary_a_token():
    """Of 20 tokens a share of t is masked at time t, and the weight is 1 / t: as MDLM reports."""
    time = np.arange(1, 21) / 20
    masked = np.arange(20) < np.round(20 * time)[:, None]
    logits, labels = np.zeros((20, 20, 4), np.float32), np.zeros((20, 20), np.int32)
    got = generative.masked_diffusion(logits, labels, masked, weight=1 / time, average=True)
    np.testing.assert_allclose(got, np.log(4), rtol=1e-6)


def test_free_nats_have_no_gradient_and_the_others_keep_theirs():
    of = lambda mean, **options: generative.gaussian_vae_kl(mean, jnp.zeros(2), **options)
    mean = jnp.array([0.1, 2.0])
    assert of(mean, free_nats=3.0) == 3
    np.testing.assert_array_equal(jax.grad(of)(mean, free_nats=3.0), [0, 0])
    each = {"free_nats": 0.5, "free_per": "dimension"}
    assert of(mean, **each) == 2.5
    np.testing.assert_array_equal(jax.grad(of)(mean, **each), [0, 2])


def test_the_divergence_at_the_prior_has_its_curvature():
    hessian = jax.hessian(lambda x: generative.gaussian_vae_kl(x[0], x[1]))(jnp.zeros((2, 1)))
    np.testing.assert_allclose(hessian.reshape(2, 2), [[1, 0], [0, 0.5]])


def test_codes_and_inputs_have_gradients_of_opposite_sign_and_their_own_weight():
    of = lambda z, e: generative.vector_quantization(z, e, commitment=0.25)
    z, e = jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])
    of_inputs, of_codes = jax.grad(of, (0, 1))(z, e)
    np.testing.assert_allclose(of_inputs, 0.25 * z)
    np.testing.assert_allclose(of_codes, -z)


def test_the_generator_of_a_certain_discriminator_still_learns():
    slope = jax.grad(generative.non_saturating_generator)(-100.0)
    assert slope == -1


# --- slopes ------------------------------------------------------------------------------------


def _discriminator(params, x):
    return jnp.sum(params["out"] * jnp.tanh(params["in"] @ x))


def _params():
    generator = np.random.default_rng(4)
    draw = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
    return {"in": draw(6, 3), "out": draw(6)}


def test_penalties_are_those_of_analytic_slopes():
    params = _params()
    real, fake = np.random.default_rng(5).normal(size=(2, 4, 3)).astype(np.float32)
    share = np.float32([0.0, 1.0, 0.25, 0.5])

    def slopes(x):
        hidden = np.tanh(x @ np.asarray(params["in"]).T)
        return ((1 - hidden**2) * np.asarray(params["out"])) @ np.asarray(params["in"])

    score = lambda x: _discriminator(params, x)
    of = lambda x: 0.5 * np.sum(slopes(x) ** 2, axis=-1)
    np.testing.assert_allclose(generative.r1(score, real), of(real), rtol=1e-5)
    np.testing.assert_allclose(generative.r2(score, fake), of(fake), rtol=1e-5)
    between = share[:, None] * real + (1 - share[:, None]) * fake
    excess = np.linalg.norm(slopes(between), axis=-1) - 1
    got = generative.wgan_gp(score, real, fake, share)
    np.testing.assert_allclose(got, excess**2, rtol=1e-4)
    got = generative.wgan_gp(score, real, fake, share, one_sided=True, target=2.0)
    np.testing.assert_allclose(got, np.maximum(excess - 1, 0) ** 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["r1", "wgan_gp"])
def test_a_discriminator_that_is_flat_has_finite_derivatives_of_every_order(name):
    """The slope is 0: the norm is not differentiable there, and a naive one gives NaN."""

    def penalty(params):
        score = lambda x: _discriminator(params, x)
        x = jnp.ones((2, 3))
        if name == "r1":
            return jnp.sum(generative.r1(score, x))
        return jnp.sum(generative.wgan_gp(score, x, x, jnp.array([0.0, 1.0])))

    params = _params() | {"out": jnp.zeros(6)}
    assert penalty(params) == (0 if name == "r1" else 2)
    chex.assert_tree_all_finite(jax.grad(penalty)(params))
    chex.assert_tree_all_finite(jax.jvp(jax.grad(penalty), (params,), (_params(),))[1])


def test_a_penalty_depends_on_one_example_and_its_condition():
    real = np.random.default_rng(6).normal(size=(3, 2, 2)).astype(np.float32)
    score = lambda x, scale: scale * jnp.sum(x**2)
    scales = np.float32([1.0, 2.0, 3.0])
    got = generative.r1(score, real, scales)
    np.testing.assert_allclose(got, 2 * scales**2 * np.sum(real**2, axis=(1, 2)), rtol=1e-5)


def test_functions_and_shapes_that_do_not_fit_are_refused():
    x = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"r1: the discriminator gives shape \(2,\) for one"):
        generative.r1(lambda x: x, x)
    with pytest.raises(ValueError, match=r"`share` has shape \(2,\), expected \(3,\)"):
        generative.wgan_gp(jnp.sum, x, x, np.zeros(2))
