"""Losses of masks, classes, lists, errors and generative models have the frozen values of peers.

So have their gradients. `tests/oracles/make_family_losses.py` froze them, in float64; no peer is
needed here. Where a peer defines a loss otherwise, our expression says how.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.frozen import Frozen

from jaxloss import classification, generative, ranking, robust, segmentation

pytestmark = pytest.mark.few

FROZEN = Frozen("family_losses")
INPUTS = FROZEN.inputs
LABELS = INPUTS["labels"].astype(np.int32)
PRESENT = np.stack([np.any(c == LABELS, axis=(1, 2)) for c in range(3)], axis=-1).astype(float)
FAKE, REGION = INPUTS["fake"], INPUTS["region"]


def of_masks(loss, **options):
    return lambda p: loss(p, LABELS, reduction="mean", **options)


def each_class(loss, weight, power=1.0, **options):
    """The mean over images of a power of the mean over classes, of the loss times a weight."""

    def of(p):
        each = [loss(p, LABELS, class_weights=jnp.eye(3)[c], **options) for c in range(3)]
        return jnp.mean(jnp.mean(jnp.stack(each, axis=-1) * weight, axis=-1) ** power)

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


def batch_dice(p):
    return segmentation.dice(p, LABELS, smooth=0.5, spatial_axes=3)


def softmax_focal(weights):
    """The mean over classes, too, all but one of which have 0."""
    return lambda x: classification.softmax_focal(x, LABELS, class_weights=weights).mean() / 3


def of_classes(loss, **options):
    return lambda x, y: loss(x, y.astype(np.int32), **options).mean()


def class_balanced(x, y):
    weights = classification.class_balanced_weights(jnp.array([50, 20, 1, 5.0]), beta=0.99)
    return of_classes(classification.softmax_cross_entropy, class_weights=weights)(x, y)


def of_errors(loss):
    return lambda x, y: loss(x, y, reduction="mean")


def lambda_rank(x, y):
    """The sum over all pairs, with the weights of a normalized gain."""
    weights = ranking.dcg_weights(x, y, normalize=True)
    each = ranking.pairwise_logistic(x, y, pair_weights=weights)
    return jnp.sum(each * ranking.pair_count(y))


def flow_matching(velocity, noise, sample, _):
    target = generative.flow_to_sample(sample, noise)
    return generative.denoising(velocity, target, reduction="mean")


CLASSES, LISTS, ERRORS = ("rows", "classes"), ("lists", "grades"), ("mean", "log_variance")
FLOW = ("velocity", "mean", "log_variance", "times")
TEMPERED = of_classes(classification.bi_tempered, t1=0.7, t2=1.4)
LOOSE = {"allRank rankNet": 1e-6}  # its sum is in single precision
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
    "torch kl_divergence": (
        lambda m: generative.gaussian_vae_kl(m, INPUTS["log_variance"], reduction="mean"),
        "mean",
    ),
    "smp TverskyLoss, gamma": (
        each_class(segmentation.tversky, PRESENT, 0.75, **TVERSKY, **DICE),
        "shares",
    ),
    # The sigmoid loss of each class against the others.
    "smp FocalLoss": (
        lambda x: classification.sigmoid_focal(
            x, jax.nn.one_hot(LABELS, 3), alpha=0.25, reduction="mean"
        ),
        "logits",
    ),
    # Their means are over classes, too.
    "monai FocalLoss, softmax": (softmax_focal(None), "logits"),
    "kornia focal_loss": (softmax_focal([0.75, 0.25, 0.25]), "logits"),
    "torchvision sigmoid_focal_loss": (
        lambda x, y: classification.sigmoid_focal(x, y, alpha=0.25, reduction="mean"),
        "scores",
        "on",
    ),
    "fvcore sigmoid_focal_loss": (
        lambda x, y: classification.sigmoid_focal(x, y, alpha=0.3, gamma=1.5, reduction="mean"),
        "scores",
        "on",
    ),
    "timm AsymmetricLossMultiLabel": (
        lambda x, y: classification.asymmetric(x, y, reduction="mean"),
        "rows",
        "rows on",
    ),
    "timm PolyCrossEntropy": (of_classes(classification.poly1, epsilon=1.5), *CLASSES),
    "timm LabelSmoothingCrossEntropy": (
        of_classes(classification.softmax_cross_entropy, label_smoothing=0.1),
        *CLASSES,
    ),
    "balanced_loss cross_entropy": (class_balanced, *CLASSES),
    "pytorch-toolbelt bi_tempered_logistic_loss": (TEMPERED, *CLASSES),
    "jax-bitempered-loss": (TEMPERED, *CLASSES),
    "kornia charbonnier_loss": (of_errors(robust.charbonnier), *ERRORS),
    "kornia cauchy_loss": (of_errors(robust.cauchy), *ERRORS),
    "kornia geman_mcclure_loss": (of_errors(robust.geman_mcclure), *ERRORS),
    "kornia welsch_loss": (of_errors(robust.welsch), *ERRORS),
    # The relevances are logits.
    "allRank listNet": (
        lambda x, y: ranking.softmax(x, jax.nn.softmax(y), reduction="mean"),
        *LISTS,
    ),
    "allRank listMLE": (lambda x, y: ranking.list_mle(x, y, reduction="mean"), *LISTS),
    # Of the index itself, which is to be large.
    "allRank approxNDCGLoss": (
        lambda x, y: ranking.approx_ndcg(x, y, temperature=0.1, reduction="mean") - 1,
        *LISTS,
    ),
    "allRank rankNet": (
        lambda x, y: ranking.pairwise_logistic(
            x, y, weights=ranking.pair_count(y), reduction="mean"
        ),
        *LISTS,
    ),
    "allRank lambdaLoss": (lambda_rank, *LISTS),
    # Of the mean over entries. Samples are at time 1.
    "torchcfm ConditionalFlowMatcher": (flow_matching, *FLOW),
    "torchcfm TargetConditionalFlowMatcher": (flow_matching, *FLOW),
}


def test_every_frozen_loss_has_ours():
    assert set(OURS) == set(FROZEN.losses)


@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_the_peer(name):
    FROZEN.check(name, *OURS[name], rtol=LOOSE.get(name, 1e-8))
