"""Losses of boxes: values of torchvision, digits of close boxes, boxes without area, all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import box, classification
from jaxloss.numerics import _reductions

pytestmark = pytest.mark.few

PREDICTION = np.array(
    [[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 4.0, 5.0], [0.0, 0.0, 1.0, 1.0], [-1.0, -2.0, 3.0, 2.5]]
)
TARGET = np.array(
    [[1.0, 1.0, 3.0, 4.0], [1.5, 0.5, 3.5, 6.0], [2.0, 2.0, 4.0, 3.0], [-0.5, -1.0, 2.0, 2.0]]
)

# torchvision 0.29.2: values, and the gradient of their sum (its epsilon is 1e-7).
TORCHVISION = {
    "iou": ([0.8, 0.466666667, 1.0, 0.583333333], None),
    "giou": (
        [0.966666667, 0.557575761, 1.749999994, 0.583333336],
        [
            [-0.08777778, -0.08166667, -0.26333333, -0.16333333],
            [-0.20282828, 0.15838384, 0.20282828, -0.15838384],
            [0.02083333, 0.0, -0.08333333, -0.08333333],
            [-0.10416667, -0.09259259, 0.10416667, 0.09259259],
        ],
    ),
    "diou": (
        [0.880000002, 0.468259027, 1.409999998, 0.586781612],
        [
            [-0.0808, -0.0544, -0.22, -0.12],
            [-0.1419788, 0.09140835, 0.1419788, -0.1041472],
            [0.0312, 0.0184, -0.1, -0.08],
            [-0.09650911, -0.09863302, 0.11030222, 0.08483992],
        ],
    ),
    "ciou": (
        [0.880000002, 0.47072862, 1.411689459, 0.586781903],
        [
            [-0.0808, -0.0544, -0.22, -0.12],
            [-0.14466014, 0.09341935, 0.14466014, -0.1061582],
            [0.03645084, 0.01314916, -0.10525084, -0.07474916],
            [-0.09651138, -0.098631, 0.11030449, 0.0848379],
        ],
    ),
}
every_loss = pytest.mark.parametrize("name", TORCHVISION)


def as_centres(corners):
    low, high = corners[..., :2], corners[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


@every_loss
def test_values_and_gradients_of_torchvision(name):
    loss, (value, slope) = getattr(box, name), TORCHVISION[name]
    np.testing.assert_allclose(loss(PREDICTION, TARGET), value, rtol=1e-6)
    if slope is not None:
        got = jax.grad(lambda p: jnp.sum(loss(p, TARGET)))(jnp.float32(PREDICTION))
        np.testing.assert_allclose(got, slope, rtol=1e-4, atol=1e-6)


@every_loss
def test_centres_and_sizes_are_the_same_boxes(name):
    loss = getattr(box, name)
    got = loss(as_centres(PREDICTION), as_centres(TARGET), format="cxcywh")
    np.testing.assert_allclose(got, loss(PREDICTION, TARGET), rtol=1e-6)
    with pytest.raises(ValueError, match="`format` is 'xywh', expected one of 'xyxy', 'cxcywh'"):
        loss(PREDICTION, TARGET, format="xywh")


@every_loss
def test_a_nearly_perfect_box_keeps_its_digits(name):
    """The loss of a box that is off by 2**-20 of its side, far from the origin of its scale."""
    loss, step = getattr(box, name), np.float32(2.0**-20)
    got = loss([0.0, 0.0, 1.0 + step, 1.0], [0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(got, step / (1 + step), rtol=2e-6)


def jitted(name, format):
    loss = getattr(box, name)
    total = lambda p, t: jnp.sum(loss(p, t, format=format))
    derivatives = jax.value_and_grad(total, (0, 1))
    return jax.jit(lambda p, t: (*derivatives(p, t), jax.jvp(derivatives, (p, t), (t, p))[1]))


@every_loss
@pytest.mark.parametrize("format", ["xyxy", "cxcywh"])
def test_it_does_not_depend_on_the_unit(name, format):
    """Nor on that of one axis, if the loss is a ratio of areas: these overflow or underflow."""
    run, boxes = jitted(name, format), (np.float32(PREDICTION), np.float32(TARGET))
    value, slopes, _ = run(*boxes)
    units = [2.0**n for n in (-120, -80, -42, -40, 40, 42, 60, 100, 114)]
    pairs = [(unit, unit) for unit in units]
    if name in ("iou", "giou"):
        pairs += [(2.0**-80, 2.0**80), (2.0**100, 2.0**-100)]
    for pair in pairs:
        unit = np.float32(pair * 2)
        got, got_slopes, (_, curvature) = run(*(unit * x for x in boxes))
        np.testing.assert_allclose(got, value, rtol=1e-6)
        for ours, expected in zip(got_slopes, slopes, strict=True):
            np.testing.assert_allclose(unit * ours, expected, rtol=1e-5, atol=1e-6)
        # Boxes that move by their own size change the gradient by its own size.
        assert np.all(np.isfinite(curvature))
        swapped, *_ = run(*(unit * x for x in boxes[::-1]))
        np.testing.assert_allclose(got, swapped, rtol=1e-5)


@every_loss
def test_the_ends_of_float32_are_boxes(name):
    end = np.finfo(np.float32).max
    value, slopes, _ = jitted(name, "xyxy")(end * np.float32([[-1, -1, 1, 1]]), TARGET[:1])
    np.testing.assert_allclose(value, 1, rtol=0.3)
    assert np.all(np.isfinite(slopes[0]))
    assert np.all(np.isfinite(slopes[1]))


@pytest.mark.parametrize(("unit", "size"), [(1e30, 1e-30), (1.0, 1e-3), (1e-30, 1e-6)])
def test_the_shape_of_boxes_that_are_far_apart(unit, size):
    """It is that of the sizes as given, which are little or nothing beside the distance."""
    flat = np.float32([unit, unit, 2 * size * unit, size * unit])
    tall = np.float32([0.0, 0.0, size * unit, 2 * size * unit])
    run = [jitted(name, "cxcywh")(flat, tall)[0] for name in ("ciou", "diou")]
    shape = (np.arctan(2.0) - np.arctan(0.5)) ** 2 * 4 / np.pi**2
    np.testing.assert_allclose(run[0] - run[1], shape**2 / (1 + shape), rtol=1e-4)


@every_loss
@pytest.mark.parametrize("format", ["xyxy", "cxcywh"])
def test_boxes_without_area_are_finite(name, format):
    point, line = [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 1.0]
    unit, wrong = [0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 0.0, 0.0]
    zero = [0.0, 0.0, 0.0, 0.0]
    every = np.float32([point, line, unit, wrong, zero])
    prediction, target = (x.reshape(-1, 4) for x in np.broadcast_arrays(every[:, None], every))
    loss = getattr(box, name)
    run = jax.value_and_grad(lambda p, t: loss(p, t, format=format, reduction="sum"), (0, 1))
    with jax.debug_nans(True):
        total, slopes = run(prediction, target)
    assert np.isfinite(total)
    assert np.all(np.isfinite(slopes[0]))
    assert np.all(np.isfinite(slopes[1]))
    equal = [0, 1, 2, 4]
    np.testing.assert_array_equal(loss(every[equal], every[equal], format=format), 0)
    slope = jax.grad(lambda p: jnp.sum(loss(p, every[equal], format=format)))(every[equal])
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("format", ["xyxy", "cxcywh"])
def test_the_shape_of_a_tiny_box_has_a_finite_gradient(format):
    """The squares of the sine and the cosine of the angle between both shapes underflow."""
    large, tiny = jnp.array([-3.0, -0.6, 2.8, 2.2]), 1e-31 * jnp.array([-5.8, -4.1, 10.0, 8.5])
    value, slopes = jax.value_and_grad(lambda p, t: box.ciou(p, t, format=format), argnums=(0, 1))(
        large, tiny
    )
    assert np.isfinite(value)
    assert np.all(np.isfinite(slopes))


def test_boxes_that_are_apart():
    near, far = [3.0, 0.0, 4.0, 1.0], [30.0, 0.0, 31.0, 1.0]
    unit = jnp.array([0.0, 0.0, 1.0, 1.0])
    assert box.iou(unit, near) == box.iou(unit, far) == 1
    assert jnp.all(jax.grad(box.iou)(unit, jnp.array(near)) == 0)
    for loss in (box.giou, box.diou, box.ciou):
        assert 1 < loss(unit, near) < loss(unit, far) < 2
        slope = jax.grad(loss)(unit, jnp.array(near))
        assert slope[0] + slope[2] < 0  # to the right


def test_the_numbers_of_a_box_are_sums_on_tpu():
    x = jnp.array([[1.0, jnp.nan, -jnp.inf, 3e38], [0.1, 2.0, 2e-38, jnp.inf]])
    np.testing.assert_array_equal(jnp.stack(_reductions._masked_sums(x), axis=-1), x)
    step = jax.jit(jax.grad(lambda p: jnp.sum(box.iou(p, TARGET))))
    boxes = jax.ShapeDtypeStruct(PREDICTION.shape, jnp.bfloat16)
    for platform, is_sum in (("cpu", False), ("cuda", False), ("tpu", True)):
        text = str(jax.export.export(step, platforms=[platform])(boxes).mlir_module())
        assert ("stablehlo.reduce(" in text) == is_sum


def test_the_sums_have_the_derivatives_of_the_numbers(monkeypatch):
    monkeypatch.setattr(_reductions, "on_each", lambda _cpu, _gpu, tpu, *x: tpu(*x))

    def product(x):
        a, b, c, d = _reductions.entries_of_short_axis(x)
        return jnp.sum(a * b * c * d)

    x = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    slopes = [[24.0, 12.0, 8.0, 6.0]]
    np.testing.assert_array_equal(jax.jit(jax.grad(product))(x), slopes)
    np.testing.assert_array_equal(jax.jit(jax.jacfwd(product))(x), slopes)
    expected = np.outer(slopes, 1 / x) * (1 - np.eye(4))
    np.testing.assert_allclose(jax.jit(jax.hessian(product))(x)[0, :, 0], expected, rtol=1e-6)
    reverse = jax.jit(jax.jacrev(jax.grad(product)))(x)
    np.testing.assert_allclose(reverse[0, :, 0], expected, rtol=1e-6)


def test_the_matrix_of_all_pairs():
    pairs = jax.vmap(jax.vmap(box.giou, (None, 0)), (0, None))(PREDICTION, TARGET[:3])
    assert pairs.shape == (4, 3)
    np.testing.assert_allclose(pairs[2, 0], box.giou(PREDICTION[2], TARGET[0]), rtol=1e-6)


def test_the_factor_of_the_shape_is_constant():
    """Without that the gradient would differ from torchvision's, which is compared above."""
    flat, tall = jnp.array([0.0, 0.0, 2.0, 1.0]), jnp.array([0.0, 0.0, 1.0, 2.0])
    difference = (np.arctan(0.5) - np.arctan(2.0)) ** 2 * 4 / np.pi**2
    factor = difference / (box.iou(flat, tall) + difference)
    np.testing.assert_allclose(
        box.ciou(flat, tall), box.diou(flat, tall) + factor * difference, rtol=1e-6
    )


def test_the_distribution_of_a_whole_number_is_a_class():
    logits = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    got = box.distribution_focal(logits, jnp.arange(6.0))
    expected = classification.softmax_cross_entropy(logits, jnp.arange(6))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert jnp.isnan(box.distribution_focal(logits[0], 5.5))
    assert jnp.isnan(box.distribution_focal(logits[0], -0.5))


def test_distribution_focal_leaves_out_the_bins_of_a_mask():
    logits = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    target = np.array([0.0, 1.5, 2.25, 2.0], np.float32)
    mask = np.arange(6) < 4
    kept = box.distribution_focal(logits[:, :4], target)
    np.testing.assert_allclose(box.distribution_focal(logits, target, mask=mask), kept, rtol=1e-6)
    of_each = np.broadcast_to(mask, logits.shape)
    hidden = np.where(mask, logits, np.nan)
    np.testing.assert_allclose(box.distribution_focal(hidden, target, mask=of_each), kept, 1e-6)
    assert box.distribution_focal(logits[0], 3.5, mask=mask) == np.inf
