"""Losses of masks, images, discriminators and pairs have the values and gradients of peers in torch.

`tests/oracles/make_family_losses.py` froze them, in float64; no peer is needed here. Where a peer
defines a loss otherwise, the expression of ours says how.
"""

import json
import pathlib

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import contrastive, generative, image, segmentation

pytestmark = pytest.mark.few

FROZEN = json.loads((pathlib.Path(__file__).parent / "oracles" / "family_losses.json").read_text())
INPUTS = {name: np.asarray(x) for name, x in FROZEN["inputs"].items()}
LABELS = INPUTS["labels"].astype(np.int32)
PRESENT = np.stack([np.any(c == LABELS, axis=(1, 2)) for c in range(3)], axis=-1).astype(float)
VIEW, FAKE, GRADES, REGION = (INPUTS[name] for name in ("view", "fake", "grades", "region"))


def of_masks(loss, **options):
    return lambda p: loss(p, LABELS, reduction="mean", **options)


def each_class(loss, weight, **options):
    """The sum over images and classes of the loss times a weight, over the number of both."""

    def of(p):
        each = [loss(p, LABELS, class_weights=jnp.eye(3)[c], **options) for c in range(3)]
        return jnp.sum(jnp.stack(each, axis=-1) * weight) / weight.size

    return of


def lovasz(x, **options):
    return segmentation.lovasz_softmax(jax.nn.softmax(x), LABELS, reduction="mean", **options)


def of_discriminator(loss, factor=1.0, function=lambda x: x):
    return lambda x: factor * loss(function(x), function(FAKE), reduction="mean")


def of_generator(loss, factor=1.0):
    return lambda x: factor * loss(x, reduction="mean")


def boundary(p):
    return segmentation.boundary(p, INPUTS["signed"], reduction="mean")


def hausdorff(p):
    maps = INPUTS["found_map"], INPUTS["true_map"]
    return segmentation.hausdorff(p, LABELS, *maps, reduction="mean")


def changed(x):
    """The view of an image that the peer was given."""
    return jax.lax.stop_gradient(0.9 * x + 0.1 * x[:, ::-1])


def batch_dice(p):
    return segmentation.dice(p, LABELS, smooth=0.5, spatial_axes=3)


DICE, TVERSKY = {"smooth": 0.5}, {"alpha": 0.3, "beta": 0.7}
# From the peer's name to our expression of the argument with a gradient.
OURS = {
    "monai DiceLoss": (of_masks(segmentation.dice, **DICE), "shares"),
    "monai DiceLoss, batch": (batch_dice, "shares"),
    "monai DiceLoss, squared_pred": (of_masks(segmentation.dice, squared=True, **DICE), "shares"),
    # Its constant is added to twice the overlap.
    "monai DiceLoss, jaccard": (of_masks(segmentation.jaccard, smooth=0.25), "shares"),
    "monai DiceLoss, no background": (
        of_masks(segmentation.dice, ignore_background=True, **DICE),
        "shares",
    ),
    "monai TverskyLoss": (of_masks(segmentation.tversky, **TVERSKY, **DICE), "shares"),
    "monai GeneralizedDiceLoss": (of_masks(segmentation.generalized_dice), "shares"),
    "monai BoundaryLoss": (boundary, "shares"),
    "monai HausdorffDTLoss": (hausdorff, "shares"),
    # A class that is not in an image has loss 0, and counts in the mean.
    "smp DiceLoss": (each_class(segmentation.dice, PRESENT, smooth=1.0), "shares"),
    "smp JaccardLoss": (each_class(segmentation.jaccard, PRESENT, smooth=0.5), "shares"),
    "smp TverskyLoss": (each_class(segmentation.tversky, PRESENT, **TVERSKY, **DICE), "shares"),
    "smp LovaszLoss": (lovasz, "logits"),
    "kornia lovasz_softmax_loss": (
        lambda x: lovasz(x, present_only=False),
        "logits",
    ),
    "kornia lovasz_hinge_loss": (
        lambda x: segmentation.lovasz_hinge(x, REGION, reduction="mean"),
        "margins",
    ),
    "kornia tversky_loss": (
        lambda x: segmentation.tversky(
            jax.nn.softmax(x), LABELS, smooth=0.0, present_only=True, reduction="mean", **TVERSKY
        ),
        "logits",
    ),
    "kornia ssim_loss": (
        lambda x: 0.5 * image.ssim(x, VIEW, size=5, padding="same", reduction="mean"),
        "image",
    ),
    "kornia psnr_loss": (lambda x: image.psnr(x[0], VIEW[0]), "image"),
    "kornia total_variation": (lambda x: image.total_variation(x, reduction="mean"), "image"),
    "pytorch-msssim ssim": (
        lambda x: 1 - image.ssim(x, VIEW, size=5, reduction="mean"),
        "image",
    ),
    "pytorch-msssim ms_ssim": (
        lambda x: 1 - image.ms_ssim(x, changed(x), size=3, reduction="mean"),
        "wide",
    ),
    "monai PatchAdversarialLoss, least squares": (
        of_discriminator(generative.least_squares_discriminator, 2.0),
        "scores",
    ),
    "monai PatchAdversarialLoss, least squares, generator": (
        of_generator(generative.least_squares_generator, 2.0),
        "scores",
    ),
    "monai PatchAdversarialLoss, hinge": (
        of_discriminator(generative.hinge_discriminator, function=jnp.tanh),
        "scores",
    ),
    "monai PatchAdversarialLoss, bce": (
        of_discriminator(generative.non_saturating_discriminator),
        "scores",
    ),
    "monai PatchAdversarialLoss, bce, generator": (
        of_generator(generative.non_saturating_generator),
        "scores",
    ),
    "sentence-transformers CoSENTLoss": (
        lambda s: contrastive.cosent(s, GRADES, temperature=1 / 20),
        "similarity",
    ),
    "torch kl_divergence": (
        lambda m: generative.gaussian_vae_kl(m, INPUTS["log_variance"], reduction="mean"),
        "mean",
    ),
}
# The window of the peer is made in single precision.
LOOSE = {
    "pytorch-msssim ssim": 1e-5,
    "pytorch-msssim ms_ssim": 1e-5,
}


def test_every_frozen_loss_has_ours():
    assert set(OURS) == set(FROZEN["losses"])


@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_the_peer(name):
    function, argument = OURS[name]
    with cases.x64():
        value, gradient = jax.value_and_grad(function)(jnp.asarray(INPUTS[argument]))
    expected, rtol = FROZEN["losses"][name], LOOSE.get(name, 1e-8)
    np.testing.assert_allclose(value, expected["value"], rtol=rtol)
    np.testing.assert_allclose(
        np.ravel(gradient), expected["gradient"], rtol=rtol, atol=rtol * np.max(np.abs(gradient))
    )
