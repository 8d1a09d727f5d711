"""Overlap losses: masks, ignored labels, absent classes, layouts, agreement of definitions."""

import cases.segmentation as oracles
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss import segmentation

pytestmark = pytest.mark.few

ALL = [
    segmentation.dice,
    segmentation.jaccard,
    segmentation.tversky,
    segmentation.focal_tversky,
    segmentation.generalized_dice,
]
every_loss = pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
CLASSES = 4


def image(seed=0, batch=(), classes=CLASSES):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), (*batch, 5, 6)).astype(np.float32)
    return jnp.asarray(probabilities), generator.integers(0, classes, (*batch, 5, 6))


@every_loss
def test_class_ids_are_one_hot_labels(loss):
    probabilities, labels = image(batch=(3,))
    soft = loss(probabilities, jax.nn.one_hot(labels, CLASSES))
    np.testing.assert_allclose(loss(probabilities, labels), soft, rtol=1e-6)
    as_ints = jax.nn.one_hot(labels, CLASSES, dtype=int)
    np.testing.assert_array_equal(loss(probabilities, as_ints), soft)


@every_loss
def test_a_masked_pixel_may_hold_anything(loss):
    probabilities, labels = image()
    mask = np.ones((5, 6), bool)
    mask[0, :4] = mask[3, 2] = False
    dirty = jnp.where(mask[..., None], probabilities, jnp.nan)
    ignored = np.where(mask, labels, 255)
    value, slope = jax.value_and_grad(lambda p: loss(p, ignored, mask=mask))(dirty)
    expected, clean = jax.value_and_grad(lambda p: loss(p, labels, mask=mask))(probabilities)
    assert value == expected
    np.testing.assert_array_equal(slope, clean)
    assert jnp.all(slope[~mask] == 0)
    cut = loss(probabilities[1:3], labels[1:3])
    rows = np.zeros((5, 6), bool)
    rows[1:3] = True
    np.testing.assert_allclose(loss(probabilities, labels, mask=rows), cut, rtol=1e-6)
    assert jl.checked(jax.jit(lambda p: loss(p, ignored, mask=mask)))(dirty) == pytest.approx(value)
    with pytest.raises(ValueError, match="`labels` must be class ids .* got 255"):
        jl.checked(loss)(probabilities, ignored)


@every_loss
def test_an_ignored_label_without_a_mask_is_seen(loss):
    probabilities, labels = image(batch=(2,))
    labels[0, 0, 0] = 255
    assert jnp.isnan(loss(probabilities, labels)[0])
    assert jnp.isfinite(loss(probabilities, labels)[1])


@every_loss
def test_an_image_of_which_nothing_is_left_has_loss_0(loss):
    probabilities, labels = image()
    value, slope = jax.value_and_grad(loss)(probabilities, labels, mask=np.zeros((5, 6), bool))
    assert value == 0
    assert jnp.all(slope == 0)
    one = image(classes=1)
    assert loss(*one, ignore_background=True) == 0


@every_loss
def test_perfect_and_opposite(loss):
    _, labels = image()
    right = jax.nn.one_hot(labels, CLASSES)
    options = {} if loss is segmentation.generalized_dice else {"smooth": 0.0}
    assert loss(right, labels, **options) == 0
    assert loss(right, (labels + 1) % CLASSES, **options) == 1
    assert loss(1e-6 + (1 - 4e-6) * right, labels, **options) < 1e-4
    slope = jax.grad(lambda p: loss(p, labels, **options))(right)
    assert jnp.all(jnp.isfinite(slope))


def test_a_tiny_loss_keeps_its_digits():
    labels = jnp.array([[0, 1], [1, 0]])
    wrong = 2.0**-30
    right = jax.nn.one_hot(labels, 2)
    probabilities = right.at[0, 0, 1].set(wrong)
    got = segmentation.dice(probabilities, labels, smooth=0.0)
    np.testing.assert_allclose(got, wrong / 4 / 2, rtol=1e-6)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_tversky_of_one_half_is_dice(smooth):
    probabilities, labels = image()
    got = segmentation.tversky(probabilities, labels, alpha=0.5, beta=0.5, smooth=smooth)
    expected = segmentation.dice(probabilities, labels, smooth=2 * smooth)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_alpha_is_the_weight_of_false_pixels():
    everywhere, labels = jnp.ones((2, 2, 1)), jnp.array([[[1.0], [0.0]], [[0.0], [0.0]]])
    options = {"smooth": 0.0, "beta": 0.0}
    assert segmentation.tversky(everywhere, labels, alpha=1.0, **options) == 0.75
    assert segmentation.tversky(everywhere, labels, alpha=0.0, **options) == 0
    assert segmentation.tversky(labels, everywhere, alpha=0.0, beta=1.0, smooth=0.0) == 0.75


def test_with_smoothing_the_loss_of_an_absent_class_grows_with_its_pixels():
    labels = jnp.zeros((4, 4, 1))
    faint, loud = jnp.full((4, 4, 1), 0.01), jnp.full((4, 4, 1), 0.5)
    bare = lambda p: segmentation.dice(p, labels, smooth=0.0)
    assert bare(faint) == bare(loud) == 1
    assert bare(labels) == 0
    assert jnp.all(jax.grad(bare)(faint) == 0)
    assert segmentation.dice(faint, labels) < 0.2 < 0.8 < segmentation.dice(loud, labels)
    tiny = jnp.full((4, 4, 1), 1e-30)
    assert jnp.all(jnp.isfinite(jax.grad(bare)(tiny)))


def test_squared_is_best_at_soft_labels_and_plain_is_not():
    soft = image(1)[0]
    squared = lambda p: segmentation.dice(p, soft, squared=True)
    assert squared(soft) == 0
    np.testing.assert_allclose(jax.grad(squared)(soft), 0, atol=1e-7)
    assert segmentation.dice(soft, soft) > 0.1


@every_loss
def test_weights_and_background(loss):
    probabilities, labels = image()
    ignored = loss(probabilities, labels, ignore_background=True)
    weights = jnp.array([0.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(
        loss(probabilities, labels, class_weights=weights), ignored, rtol=1e-6
    )
    both = loss(probabilities, labels, class_weights=weights + 1, ignore_background=True)
    np.testing.assert_allclose(both, ignored, rtol=1e-6)
    assert ignored != loss(probabilities, labels)
    slope = jax.grad(lambda w: loss(probabilities, labels, class_weights=w))(weights + 1)
    assert jnp.all(jnp.isfinite(slope))
    assert abs(jnp.sum(slope)) > 0


def test_each_class_by_one_hot_weights():
    probabilities, labels = image(batch=(3,))
    each = jax.vmap(
        lambda w: segmentation.dice(probabilities, labels, class_weights=w), out_axes=-1
    )(jnp.eye(CLASSES))
    assert each.shape == (3, CLASSES)
    np.testing.assert_allclose(
        jnp.mean(each, -1), segmentation.dice(probabilities, labels), rtol=1e-6
    )


def test_an_absent_class_has_the_weight_of_the_smallest_present_one():
    probabilities, labels = image(2)
    labels = np.where(labels == 3, 0, labels)
    got = segmentation.generalized_dice(probabilities, labels)
    np.testing.assert_allclose(got, oracles.generalized_dice(probabilities, labels), rtol=1e-5)
    sure = jax.nn.one_hot(labels, CLASSES)
    assert segmentation.generalized_dice(sure, labels) == 0
    slope = jax.grad(segmentation.generalized_dice)(probabilities, labels)
    assert jnp.all(jnp.isfinite(slope))
    assert jnp.all(slope[..., 3] > 0)


def test_generalized_dice_does_not_depend_on_the_size_of_the_image():
    probabilities, labels = image(3)
    tiled = jnp.tile(probabilities, (8, 8, 1)), np.tile(labels, (8, 8))
    np.testing.assert_allclose(
        segmentation.generalized_dice(*tiled),
        segmentation.generalized_dice(probabilities, labels),
        rtol=1e-5,
    )


@every_loss
def test_volumes_and_points_are_images_of_other_ranks(loss):
    """Batches of two volumes: each has one loss, that of its voxels in any order."""
    volume, labels = image(4, batch=(2, 3))
    mask = np.random.default_rng(0).random(labels.shape) < 0.7
    weights = jnp.arange(1.0, CLASSES + 1)
    for truth in (labels, jax.nn.one_hot(labels, CLASSES)):
        one_slice = truth.shape[4:]
        got = loss(volume, truth, spatial_axes=3, mask=mask, class_weights=weights)
        assert got.shape == (2,)
        as_image = loss(
            volume.reshape(2, 15, 6, CLASSES),
            truth.reshape(2, 15, 6, *one_slice),
            mask=mask.reshape(2, 15, 6),
            class_weights=weights,
        )
        np.testing.assert_array_equal(got, as_image)
        points = loss(
            volume.reshape(2, -1, CLASSES),
            truth.reshape(2, -1, *one_slice),
            mask=mask.reshape(2, -1),
            class_weights=weights,
            spatial_axes=1,
        )
        np.testing.assert_allclose(points, got, rtol=1e-6)
    one = loss(volume[0], labels[0], spatial_axes=3, reduction="mean")
    np.testing.assert_allclose(one, loss(volume, labels, spatial_axes=3)[0], rtol=1e-6)
    each = [loss(v, y) for v, y in zip(volume, labels, strict=True)]
    np.testing.assert_array_equal(loss(volume, labels, spatial_axes=2), each)


@every_loss
def test_volumes_that_do_not_fit_are_refused_as_they_came(loss):
    volume, labels = image(4, batch=(2, 3))
    with pytest.raises(ValueError, match=r"`labels`.* \(2, 3, 6\), expected \(2, 3, 5, 6\)"):
        loss(volume, labels[:, :, 0], spatial_axes=3)
    with pytest.raises(ValueError, match=r"`mask`.* \(2, 3, 5, 1\), expected \(2, 3, 5, 6\)"):
        loss(volume, labels, mask=np.ones((2, 3, 5, 1), bool), spatial_axes=3)
    with pytest.raises(ValueError, match="`spatial_axes` is 5, .* from 1 to 4"):
        loss(volume, labels, spatial_axes=5)
    with pytest.raises(ValueError, match="`spatial_axes` is 0"):
        loss(volume, labels, spatial_axes=0)


@every_loss
@pytest.mark.parametrize("shape", [(8, 64, 48), (64, 28, 28), (2, 3, 64, 48)])
def test_a_width_is_not_taken_for_a_class_axis(loss, shape):
    """Maps without a class axis, or with the classes first, whose labels have the same shape."""
    maps = jnp.full(shape, 0.5)
    with pytest.raises(ValueError, match=f"{shape[-1]} classes.*no class axis.*spatial_axes=2"):
        loss(maps, maps)
    assert loss(maps, maps, spatial_axes=2).shape == shape[:-3]
    assert loss(maps[..., None], maps[..., None], spatial_axes=2).shape == shape[:-2]


@every_loss
def test_a_class_axis_that_may_be_one_is_not_refused(loss):
    small, labels = image(classes=CLASSES)
    loss(small[:2, :3], jax.nn.one_hot(labels[:2, :3], CLASSES))
    many, labels = image(classes=150)
    loss(many, labels)  # ids have no class axis, so that the one of the predictions is the last


@every_loss
def test_export_with_symbolic_sizes(loss):
    batch, height, width = jax.export.symbolic_shape("b, h, w")
    probabilities = jax.ShapeDtypeStruct((batch, height, width, 3), np.float32)
    labels = jax.ShapeDtypeStruct((batch, height, width), np.int32)
    gradient = jax.grad(lambda p, y: loss(p, y, reduction="mean"))
    for truth in (labels, probabilities):
        exported = jax.export.export(jax.jit(gradient))(probabilities, truth)
    p, y = image(batch=(2,), classes=3)
    y = jax.nn.one_hot(y, 3)
    np.testing.assert_allclose(exported.call(p, y), gradient(p, y), rtol=1e-6)


@every_loss
def test_promotion_is_explicit(loss):
    probabilities, labels = image(batch=(2,))
    options = {"class_weights": jnp.ones(CLASSES), "mask": jnp.ones((2, 5, 6), bool)}
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for truth in (jnp.asarray(labels), jax.nn.one_hot(labels, CLASSES)):
            jax.make_jaxpr(jax.grad(lambda p: jnp.sum(loss(p, truth))))(probabilities)  # noqa: B023
            jax.make_jaxpr(jax.grad(lambda p: jnp.sum(loss(p, truth, **options))))(  # noqa: B023
                probabilities
            )


@every_loss
def test_shapes_that_do_not_fit_are_refused(loss):
    probabilities, labels = image()
    with pytest.raises(ValueError, match="`mask`.*expected"):
        loss(probabilities, labels, mask=np.ones((6, 5), bool))
    with pytest.raises(TypeError, match="`mask` is float32.*booleans"):
        loss(probabilities, labels, mask=np.ones((5, 6), np.float32))
    with pytest.raises(ValueError, match="`class_weights`.*expected"):
        loss(probabilities, labels, class_weights=np.ones(3))
    with pytest.raises(TypeError, match="`labels` is float32"):
        loss(probabilities, labels.astype(np.float32))


def binary_map(seed=0, shape=(5, 6)):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape).astype(np.float32), generator.random(shape) < 0.4


def test_jaccard_follows_from_dice():
    probabilities, labels = image()
    for c in range(CLASSES):
        only = {"class_weights": jnp.eye(CLASSES)[c], "smooth": 0.0}
        d = segmentation.dice(probabilities, labels, **only)
        got = segmentation.jaccard(probabilities, labels, **only)
        np.testing.assert_allclose(got, 2 * d / (1 + d), rtol=1e-6)
    got = segmentation.tversky(probabilities, labels, alpha=1.0, beta=1.0)
    np.testing.assert_allclose(segmentation.jaccard(probabilities, labels), got, rtol=1e-6)


def test_focal_tversky_of_gamma_1_is_tversky():
    probabilities, labels = image()
    got = segmentation.focal_tversky(probabilities, labels, gamma=1.0)
    np.testing.assert_allclose(got, segmentation.tversky(probabilities, labels), rtol=1e-6)
    right = jax.nn.one_hot(labels, CLASSES)
    value, slope = jax.value_and_grad(segmentation.focal_tversky)(right, labels, smooth=0.0)
    assert value == 0
    assert jnp.all(jnp.isfinite(slope))


@pytest.mark.parametrize("loss", ALL[:-1], ids=lambda loss: loss.__name__)
def test_classes_that_are_not_in_the_image_can_be_left_out(loss):
    probabilities, labels = image(2)
    labels = np.where(labels == 3, 0, labels)
    got, slope = jax.value_and_grad(lambda p: loss(p, labels, present_only=True))(probabilities)
    expected = loss(probabilities, labels, class_weights=jnp.array([1.0, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert jnp.all(slope[..., 3] == 0)
    empty = jnp.zeros((5, 6, 1))
    assert loss(probabilities[..., :1], empty, present_only=True) == 0


def test_a_batch_is_an_image_with_one_more_axis():
    """One ratio over the batch, as MONAI's `batch=True` and Keras."""
    probabilities, labels = image(batch=(3,))
    got = segmentation.dice(probabilities, labels, spatial_axes=3)
    tall = segmentation.dice(probabilities.reshape(15, 6, CLASSES), labels.reshape(15, 6))
    np.testing.assert_allclose(got, tall, rtol=1e-6)
    assert got.shape == ()


def test_lovasz_of_certain_predictions_is_the_jaccard_loss():
    _, labels = image(0)
    _, guess = image(1)
    certain = jax.nn.one_hot(guess, CLASSES)
    for present_only in (True, False):
        got = segmentation.lovasz_softmax(certain, labels, present_only=present_only)
        expected = segmentation.jaccard(certain, labels, smooth=0.0, present_only=present_only)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert segmentation.lovasz_softmax(jax.nn.one_hot(labels, CLASSES), labels) == 0


def test_lovasz_of_an_absent_class_is_its_largest_probability():
    probabilities, labels = image(2)
    labels = np.where(labels == 3, 0, labels)
    only = {"class_weights": jnp.eye(CLASSES)[3], "present_only": False}
    got, slope = jax.value_and_grad(segmentation.lovasz_softmax)(probabilities, labels, **only)
    assert got == jnp.max(probabilities[..., 3])
    assert jnp.sum(slope) == 1
    assert (
        segmentation.lovasz_softmax(probabilities, labels, class_weights=only["class_weights"]) == 0
    )


def test_lovasz_hinge_is_0_with_a_margin_and_the_largest_error_without_a_region():
    scores, region = binary_map()
    signs = np.where(region, 1.0, -1.0)
    assert segmentation.lovasz_hinge(signs * (1 + np.abs(scores)), region) == 0
    nothing = np.zeros_like(region)
    got = segmentation.lovasz_hinge(scores, nothing)
    np.testing.assert_allclose(got, 1 + scores.max(), rtol=1e-6)
    # Two classes by their margins, at predictions of -1 and 1: twice the Jaccard loss.
    guess = np.where(binary_map(3)[1], 1.0, -1.0)
    union, both = ((guess > 0) | region).sum(), ((guess > 0) & region).sum()
    got = segmentation.lovasz_hinge(guess, region)
    np.testing.assert_allclose(got, 2 * (1 - both / union), rtol=1e-6)


@pytest.mark.parametrize("loss", ["lovasz_softmax", "lovasz_hinge"])
def test_masked_pixels_of_lovasz_are_not_there(loss):
    if loss == "lovasz_softmax":
        x, labels = image()
        ignored = np.int32(255)
    else:
        x, labels = binary_map()
        x, labels, ignored = jnp.asarray(x), labels.astype(np.float32), np.float32(255)
    loss = getattr(segmentation, loss)
    mask = np.zeros((5, 6), bool)
    mask[1:3] = True
    keep = mask.reshape(5, 6, *(1,) * (x.ndim - 2))
    dirty = jnp.where(keep, x, jnp.nan)
    unknown = np.where(mask, labels, ignored)
    got, slope = jax.value_and_grad(lambda z: loss(z, unknown, mask=mask))(dirty)
    expected, clean = jax.value_and_grad(loss)(x[1:3], labels[1:3])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(slope[1:3], clean, rtol=1e-6)
    assert jnp.all(slope[~mask] == 0)
    assert jnp.isnan(loss(x, unknown))


def test_the_gradients_of_lovasz_are_one_sort_for_all_classes():
    """No loop over the classes, and no scatter."""
    text = str(jax.make_jaxpr(jax.grad(segmentation.lovasz_softmax))(*image()))
    assert text.count(" sort[") == 2
    assert "scatter" not in text
    assert "while" not in text


def test_the_boundary_loss_is_least_on_the_true_region():
    inside = np.zeros((5, 6, 1), bool)
    inside[1:4, 2:5] = True
    distance = np.where(inside, -1.0, 2.0)
    best = segmentation.boundary(inside.astype(float), distance)
    np.testing.assert_allclose(best, -9 / 30, rtol=1e-6)
    slope = jax.grad(segmentation.boundary)(jnp.full((5, 6, 1), 0.5), distance)
    np.testing.assert_allclose(slope, distance / 30, rtol=1e-6)
    mask = inside[..., 0]
    assert segmentation.boundary(inside.astype(float), distance, mask=mask) == -1


def test_the_hausdorff_loss_grows_with_the_distance_of_an_error():
    true = np.zeros((1, 5, 1), np.float32)
    true[0, 0] = 1
    distance = np.arange(5.0).reshape(1, 5, 1)
    wrong = [
        segmentation.hausdorff(
            true + np.eye(5)[k].reshape(1, 5, 1), true, np.zeros_like(true), distance
        )
        for k in range(1, 5)
    ]
    np.testing.assert_allclose(wrong, np.arange(1, 5.0) ** 2 / 5, rtol=1e-6)
    value, slope = jax.value_and_grad(segmentation.hausdorff)(
        jnp.asarray(true), true, np.zeros_like(true), distance, alpha=0.5
    )
    assert value == 0
    assert jnp.all(jnp.isfinite(slope))
