"""Image losses: values of other libraries, bright smooth images, equal images, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.image import ms_ssim as oracle

from jaxloss import image

pytestmark = pytest.mark.few

PLACES = np.arange(24 * 20).reshape(24, 20)
FIRST = ((PLACES * 0.6180339887) % 1).round(3)
SECOND = (0.7 * FIRST + 0.3 * ((PLACES * 0.4142135) % 1)).round(3)
A, B = FIRST[..., None].astype(np.float32), SECOND[..., None].astype(np.float32)


def reference(x, y, constants=(1e-4, 9e-4)):
    """SSIM of each window, in float64."""
    weights = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    windows = [np.lib.stride_tricks.sliding_window_view(z, (11, 11)) for z in (x, y)]
    mean = lambda z: np.einsum("ijkl,kl->ij", z, weights)
    (p, q), (a, b) = map(mean, windows), windows
    a, b = a - p[..., None, None], b - q[..., None, None]
    means = (2 * p * q + constants[0]) / (p**2 + q**2 + constants[0])
    return means * (2 * mean(a * b) + constants[1]) / (mean(a * a) + mean(b * b) + constants[1])


def test_values_of_scikit_image():
    """0.26.0: `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`."""
    np.testing.assert_allclose(1 - image.ssim(A, B), 0.8857473932009573, rtol=1e-6)
    np.testing.assert_allclose(-image.psnr(A, B), 18.258316685757443, rtol=1e-5)


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_smooth_bright_images_keep_their_digits(peak):
    """As E[x^2] - E[x]^2 in float32, the variances of this image have no correct digit."""
    generator = np.random.default_rng(0)
    x = peak * np.float32(1 + 1e-4 * generator.normal(size=(16, 16)))
    y = np.float32(x + peak * np.float32(1e-4) * generator.normal(size=(16, 16)))
    got = image.ssim(x[..., None], y[..., None], data_range=peak, k2=1e-5)
    exact = reference(*map(np.float64, (x, y)), (np.square(0.01 * peak), np.square(1e-5 * peak)))
    np.testing.assert_allclose(got, 1 - exact.mean(), rtol=1e-5)


def test_nearly_equal_images_keep_the_digits_of_their_loss():
    step = np.float32(2.0**-16)
    got = image.ssim(A, A + step)
    exact = np.longdouble(1) - reference(
        FIRST.astype(np.float32).astype(np.longdouble),
        (A + step)[..., 0].astype(np.longdouble),
    )
    np.testing.assert_allclose(got, exact.mean(), rtol=1e-3)
    for loss in (image.ssim, small_ms_ssim):
        value, slope = jax.value_and_grad(loss)(A, A)
        assert value == 0
        np.testing.assert_array_equal(slope, 0)


def small_ms_ssim(x, y, **options):
    return image.ms_ssim(x, y, level_weights=[0.3, 0.7], size=5, **options)


def test_flat_images_differ_in_brightness_alone():
    x, y = jnp.full((11, 11, 2), 0.25), jnp.full((11, 11, 2), 0.75)
    expected = 1 - (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    np.testing.assert_allclose(image.ssim(x, y), expected, rtol=1e-6)
    zero = jnp.zeros((11, 11, 1))
    slope = jax.grad(image.ssim)(zero, zero)
    np.testing.assert_array_equal(slope, 0)


def test_same_is_valid_of_the_reflected_image():
    padded = [np.pad(x, [(5, 5), (5, 5), (0, 0)], mode="reflect") for x in (A, B)]
    got = image.ssim(A, B, padding="same")
    np.testing.assert_allclose(got, image.ssim(*padded), rtol=1e-6)


def test_each_unit_has_its_data_range():
    expected = image.ssim(A, B)
    np.testing.assert_allclose(image.ssim(255 * A, 255 * B, data_range=255), expected, rtol=1e-5)
    got = image.psnr(255 * A, 255 * B, data_range=255)
    np.testing.assert_allclose(got, image.psnr(A, B), rtol=1e-5)


def test_one_level_is_ssim_and_two_are_its_definition():
    np.testing.assert_allclose(
        image.ms_ssim(A, B, level_weights=[1.0]), image.ssim(A, B), rtol=2e-6
    )
    x, y = (np.kron(z, np.ones((2, 2)))[..., None] for z in (FIRST, SECOND))  # 48 x 40
    got = image.ms_ssim(x, y, level_weights=[0.0, 1.0])
    np.testing.assert_allclose(got, image.ssim(A, B), rtol=1e-5)


def test_five_levels_of_the_paper():
    """Finite, and 1 with gradient 0 for opposite images, of which a similarity is below 0."""
    x = np.kron(FIRST[:22, :20], np.ones((8, 9)))[..., None].astype(np.float32)  # 176 x 180
    value, slope = jax.jit(jax.value_and_grad(image.ms_ssim))(x, 1 - x)
    assert value == 1
    np.testing.assert_array_equal(slope, 0)
    with pytest.raises(ValueError, match="175 x 180 pixels, .* 11 on 5 levels needs 176"):
        image.ms_ssim(x[:175], x[:175])


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="10 x 20 pixels, but a window of 11 needs 11"):
        image.ssim(A[:10], B[:10])
    with pytest.raises(ValueError, match="`size` is 4, expected an odd number"):
        image.ssim(A, B, size=4)
    with pytest.raises(ValueError, match="`padding` is 'full', expected one of 'valid', 'same'"):
        image.ssim(A, B, padding="full")


@pytest.mark.parametrize("shape", [(20, 20), (8, 20, 20)])
def test_the_error_for_images_without_an_axis_of_channels_says_how_to_add_one(shape):
    x = np.ones(shape, np.float32)
    for loss in (image.ssim, small_ms_ssim):
        with pytest.raises(ValueError, match=r"`(image|prediction)\[\.\.\., None\]`"):
            loss(x, x)
    assert image.ssim(x[..., None], x[..., None]).shape == shape[:-2]


def test_the_gradient_is_the_same_beside_that_of_an_option():
    def loss(image_, sigma):
        return image.ssim(image_, B, sigma=sigma, size=7)

    alone = jax.grad(loss)(A, 1.5)
    beside, of_sigma = jax.grad(loss, (0, 1))(A, 1.5)
    np.testing.assert_allclose(alone, beside, rtol=1e-4, atol=1e-7)
    forward = jax.jvp(lambda sigma: loss(A, sigma), (1.5,), (1.0,))[1]
    np.testing.assert_allclose(of_sigma, forward, rtol=1e-4)
    assert of_sigma != 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["ssim", "same", "ms_ssim"])
def test_the_gradient_made_of_windows_is_that_of_the_value(name, masked):
    """Reverse mode has a rule; forward mode differentiates the value as it is written."""
    loss = {
        "ssim": image.ssim,
        "same": functools.partial(image.ssim, padding="same"),
        "ms_ssim": functools.partial(image.ms_ssim, level_weights=[0.3, 0.7]),
    }[name]
    keys = jax.random.split(jax.random.key(5), 5)
    x, y, x_dot, y_dot = (jax.random.uniform(key, (26, 24, 2)) for key in keys[:4])
    mask = jax.random.bernoulli(keys[4], 0.9, (26, 24)) if masked else None
    function = lambda x, y: loss(x, y, mask=mask)
    slope = jax.jit(lambda *d: jax.jvp(function, (x, y), d)[1])(x_dot, y_dot)
    of_x, of_y = jax.jit(jax.grad(function, (0, 1)))(x, y)
    np.testing.assert_allclose(jnp.vdot(of_x, x_dot) + jnp.vdot(of_y, y_dot), slope, rtol=1e-4)


def test_psnr_of_equal_images_has_gradient_0():
    value, slope = jax.value_and_grad(image.psnr)(A, A)
    assert value == -jnp.inf
    np.testing.assert_array_equal(slope, 0)
    # Its square would underflow.
    tiny = np.full((2, 2, 1), 1e-25, np.float32)
    np.testing.assert_allclose(image.psnr(tiny, 0 * tiny), -500, rtol=1e-6)


def test_total_variation_of_an_edge():
    edge = np.zeros((4, 6, 2), np.float32)
    edge[:, 3:] = 2.0
    for isotropic in (False, True):
        assert image.total_variation(edge, isotropic=isotropic) == 4 * 2 * 2
        slope = jax.grad(image.total_variation)(np.ones_like(edge), isotropic=isotropic)
        np.testing.assert_array_equal(slope, 0)
    both = jnp.array([[0.0, 3.0], [4.0, 7.0]])[..., None]
    np.testing.assert_allclose(image.total_variation(both, isotropic=True), 5 + 4 + 3)


@pytest.mark.slow
def test_ms_ssim_leaves_out_the_pixels_of_a_mask():
    generator = np.random.default_rng(2)
    x, y = generator.uniform(0, 1, (2, 4, 6, 6, 1)).astype(np.float32)
    mask = generator.random((4, 6, 6)) < 0.8
    options = {"level_weights": np.float32([0.4, 0.6]), "size": 3, "sigma": 0.75}
    loss = lambda x, y: image.ms_ssim(x, y, mask=mask, **options)
    expected = [
        oracle(*(z.astype(np.float64) for z in one[:2]), mask=one[2], **options)
        for one in zip(x, y, mask, strict=True)
    ]
    np.testing.assert_allclose(loss(x, y), expected, rtol=2e-6)
    hidden = [np.where(mask[..., None], z, np.nan) for z in (x, y)]
    np.testing.assert_array_equal(loss(*hidden), loss(x, y))
    slope = jax.grad(lambda x: jnp.sum(loss(x, y)))(jnp.asarray(hidden[0]))
    assert np.isfinite(slope).all()
    assert (slope[~mask] == 0).all()
