# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "allRank==1.4.3",
#   "balanced-loss==0.1.1",
#   "fvcore==0.1.5.post20221221",
#   "jax==0.10.2",
#   "jax-bitempered-loss==0.0.2",
#   "kornia==0.9.0",
#   "kornia-rs==0.2.0",
#   "monai==1.6.1",
#   "numpy==2.4.6",
#   "pytorch-toolbelt==0.8.0",
#   "scipy==1.17.1",
#   "segmentation-models-pytorch==0.6.0",
#   "timm==1.0.31",
#   "torch==2.14.1",
#   "torchcfm==1.0.7",
#   "torchvision==0.29.1",
# ]
# ///
"""Freezes losses of masks, classes, lists, errors and generative models, and their gradients.

They are written to `family_losses.json`. Run it as `make_set_losses.py` beside it; the versions of
torch that allRank asks for are older.
"""

import numpy as np
import torch
from freezing import freeze, import_alone, mock_modules, of_jax, of_torch

# Imported by what follows, and not needed: replaced first, so that those imports come late (E402).
mock_modules("gcsfs", "gcsfs.core", "pkg_resources")

import balanced_loss  # noqa: E402
import fvcore.nn  # noqa: E402
import jax_bitempered_loss.loss  # noqa: E402
import kornia  # noqa: E402
import monai.losses as monai  # noqa: E402
import timm.loss  # noqa: E402
import torchcfm  # noqa: E402
import torchvision  # noqa: E402
from allrank.models import losses as allrank  # noqa: E402
from monai.metrics.utils import distance_transform_edt  # noqa: E402
from pytorch_toolbelt.losses import bitempered_loss as toolbelt  # noqa: E402

smp = {
    name: import_alone("segmentation-models-pytorch", f"segmentation_models_pytorch.losses.{name}")
    for name in ("dice", "focal", "jaccard", "lovasz", "tversky")
}

PACKAGES = (
    "allRank", "balanced-loss", "fvcore", "jax", "jax-bitempered-loss", "kornia", "monai", "numpy",
    "pytorch-toolbelt", "segmentation-models-pytorch", "timm", "torch", "torchcfm", "torchvision",
)  # fmt: skip


def signed_map(mask):
    outside, inside = (distance_transform_edt(torch.from_numpy(m)[None])[0] for m in (~mask, mask))
    return np.zeros(mask.shape) if not mask.any() else (outside * ~mask - (inside - 1) * mask)


def plain_map(mask):
    sums = sum(distance_transform_edt(torch.from_numpy(m)[None])[0] for m in (~mask, mask))
    return np.asarray(sums) if mask.any() and not mask.all() else np.zeros(mask.shape)


def inputs():
    """Arrays of few digits, so that the file stays small; classes come last, as here."""
    rng = np.random.default_rng(0)
    labels = np.array([[[0, 0, 1, 1, 2]] * 2 + [[0, 1, 1, 2, 2]] * 2, [[0, 0, 0, 1, 1]] * 4])
    logits = np.round(rng.normal(size=(2, 4, 5, 3)), 2)
    shares = np.round(np.exp(logits) / np.sum(np.exp(logits), -1, keepdims=True), 3)
    masks = np.moveaxis(labels[..., None] == np.arange(3), -1, 1)
    found = np.moveaxis(shares, -1, 1) > 0.5

    def maps(function, regions):
        each = [[np.asarray(function(mask)) for mask in image] for image in regions]
        return np.moveaxis(np.array(each), 1, -1)

    return {
        "labels": labels, "logits": logits, "shares": shares,
        "region": (labels == 1).astype(float), "margins": np.round(rng.normal(size=(2, 4, 5)), 2),
        "signed": maps(signed_map, masks), "true_map": maps(plain_map, masks),
        "found_map": maps(plain_map, found),
        "scores": np.round(rng.normal(size=12), 2), "fake": np.round(rng.normal(size=12), 2),
        "mean": np.round(rng.normal(size=(4, 3)), 2),
        "log_variance": np.round(rng.normal(size=(4, 3)), 2),
        "on": rng.integers(0, 2, 12).astype(float), "classes": np.array([0, 3, 1, 1, 2, 0]),
        "rows": np.round(2 * rng.normal(size=(6, 4)), 2),
        "rows on": rng.integers(0, 2, (6, 4)).astype(float),
        "lists": np.round(rng.normal(size=(3, 5)), 2),
        "grades": np.stack([rng.permutation(5) for _ in range(3)]).astype(float),
        "velocity": np.round(rng.normal(size=(4, 3)), 2), "times": np.array([0.1, 0.4, 0.7, 0.9]),
    }  # fmt: skip


def first(x):
    """Classes and channels come before pixels in these libraries."""
    return torch.moveaxis(x, -1, 1)


def one_hot(labels):
    return first(torch.nn.functional.one_hot(labels, 3).double())


def monai_of(name, **options):
    return lambda p, y: getattr(monai, name)(**options)(first(p), one_hot(y))


def patches(criterion):
    loss = monai.PatchAdversarialLoss(criterion=criterion, no_activation_leastsq=True)
    generator = lambda x, _: loss(x, True, False)
    discriminator = lambda x, fake: loss(x, True, True) + loss(fake, False, True)
    return generator, discriminator


def smp_of(module, name, **options):
    make = getattr(smp[module], name)
    # Classes are summed over a batch: one image at a time.
    return lambda p, y: torch.stack(
        [make("multiclass", from_logits=False, **options)(first(p[i : i + 1]), y[i : i + 1])
         for i in range(len(p))]
    ).mean()  # fmt: skip


def lovasz(p, y):
    return smp["lovasz"].LovaszLoss("multiclass", per_image=True)(first(p), y)


def divergence(mean, log_variance):
    normal = torch.distributions.Normal
    posterior = normal(mean, torch.exp(0.5 * log_variance))
    prior = normal(torch.zeros_like(mean), torch.ones_like(mean))
    return torch.distributions.kl_divergence(posterior, prior).sum(-1).mean()


def hausdorff(p, y):
    return monai.HausdorffDTLoss(include_background=True)(first(p), one_hot(y))


def of_elements(function, **options):
    return lambda x, y: function(x, y, **options).mean()


def focal_tversky(p, y):
    return smp_of("tversky", "TverskyLoss", smooth=0.5, alpha=0.3, beta=0.7, gamma=0.75)(p, y)


def binary_focal(x, y):  # of each class
    return smp["focal"].FocalLoss("multiclass", alpha=0.25)(first(x), y)


def class_balanced(x, y):
    loss = balanced_loss.Loss(
        "cross_entropy", samples_per_class=[50, 20, 1, 5], beta=0.99, class_balanced=True
    )
    return loss(x, y)


def tempered(x, y):
    return toolbelt.bi_tempered_logistic_loss(x, y, 0.7, 1.4, num_iters=60)


def jax_tempered(x, y):
    labels = (y[:, None] == np.arange(4)).astype(x.dtype)
    return jax_bitempered_loss.loss.bi_tempered_logistic_loss(
        x, labels, 0.7, 1.4, num_iters=60
    ).mean()


def lambda_rank(scores, grades):
    return allrank.lambdaLoss(
        scores, grades, weighing_scheme="lambdaRank_scheme", reduction_log="natural"
    )


def flow_matching(matcher):
    """The squared error of a velocity; samples are at time 1."""

    def of(velocity, noise, sample, times):
        times = times[:, None]
        place = matcher.compute_mu_t(noise, sample, times)
        place = place + matcher.compute_sigma_t(times) * noise
        return (
            (velocity - matcher.compute_conditional_flow(noise, sample, times, place)) ** 2
        ).mean()

    return of


MASKS, SCORES = ("shares", "labels"), ("scores", "fake")
FLOW = ("velocity", "mean", "log_variance", "times")
ERRORS, CLASSES, LISTS = ("mean", "log_variance"), ("rows", "classes"), ("lists", "grades")
DICE = {"smooth_nr": 0.5, "smooth_dr": 0.5}
# The argument with a gradient comes first.
MADE = {
    "monai DiceLoss": (monai_of("DiceLoss", **DICE), *MASKS),
    "monai DiceLoss, batch": (monai_of("DiceLoss", batch=True, **DICE), *MASKS),
    "monai DiceLoss, squared_pred": (monai_of("DiceLoss", squared_pred=True, **DICE), *MASKS),
    "monai DiceLoss, jaccard": (monai_of("DiceLoss", jaccard=True, **DICE), *MASKS),
    "monai DiceLoss, no background": (
        monai_of("DiceLoss", include_background=False, **DICE), *MASKS,
    ),
    "monai TverskyLoss": (monai_of("TverskyLoss", alpha=0.3, beta=0.7, **DICE), *MASKS),
    "monai GeneralizedDiceLoss": (
        monai_of("GeneralizedDiceLoss", smooth_nr=0, smooth_dr=0), *MASKS,
    ),
    "monai BoundaryLoss": (monai_of("BoundaryLoss", include_background=True), *MASKS),
    "monai HausdorffDTLoss": (hausdorff, *MASKS),
    "smp DiceLoss": (smp_of("dice", "DiceLoss", smooth=0.5), *MASKS),
    "smp JaccardLoss": (smp_of("jaccard", "JaccardLoss", smooth=0.5), *MASKS),
    "smp TverskyLoss": (smp_of("tversky", "TverskyLoss", smooth=0.5, alpha=0.3, beta=0.7), *MASKS),
    "smp LovaszLoss": (lovasz, "logits", "labels"),
    "kornia lovasz_softmax_loss": (
        lambda x, y: kornia.losses.lovasz_softmax_loss(first(x), y), "logits", "labels",
    ),
    "kornia lovasz_hinge_loss": (
        lambda x, y: kornia.losses.lovasz_hinge_loss(x[:, None], y), "margins", "region",
    ),
    "kornia tversky_loss": (
        lambda x, y: kornia.losses.tversky_loss(first(x), y, alpha=0.3, beta=0.7, eps=0.0),
        "logits", "labels",
    ),
    "monai PatchAdversarialLoss, least squares": (patches("least_squares")[1], *SCORES),
    "monai PatchAdversarialLoss, least squares, generator": (patches("least_squares")[0], *SCORES),
    "monai PatchAdversarialLoss, hinge": (patches("hinge")[1], *SCORES),
    "monai PatchAdversarialLoss, bce": (patches("bce")[1], *SCORES),
    "monai PatchAdversarialLoss, bce, generator": (patches("bce")[0], *SCORES),
    "torch kl_divergence": (divergence, "mean", "log_variance"),
    "smp TverskyLoss, gamma": (focal_tversky, *MASKS),
    "smp FocalLoss": (binary_focal, "logits", "labels"),
    "monai FocalLoss, softmax": (
        lambda x, y: monai.FocalLoss(use_softmax=True)(first(x), one_hot(y)), "logits", "labels",
    ),
    "kornia focal_loss": (
        lambda x, y: kornia.losses.focal_loss(first(x), y, alpha=0.25, reduction="mean"),
        "logits", "labels",
    ),
    "torchvision sigmoid_focal_loss": (
        of_elements(torchvision.ops.sigmoid_focal_loss), "scores", "on",
    ),
    "fvcore sigmoid_focal_loss": (
        of_elements(fvcore.nn.sigmoid_focal_loss, alpha=0.3, gamma=1.5), "scores", "on",
    ),
    "timm AsymmetricLossMultiLabel": (
        lambda x, y: timm.loss.AsymmetricLossMultiLabel(reduction="mean")(x, y), "rows", "rows on",
    ),
    "timm PolyCrossEntropy": (lambda x, y: timm.loss.PolyCrossEntropy(1.5)(x, y), *CLASSES),
    "timm LabelSmoothingCrossEntropy": (
        lambda x, y: timm.loss.LabelSmoothingCrossEntropy(0.1)(x, y), *CLASSES,
    ),
    "balanced_loss cross_entropy": (class_balanced, *CLASSES),
    "pytorch-toolbelt bi_tempered_logistic_loss": (tempered, *CLASSES),
    "kornia charbonnier_loss": (of_elements(kornia.losses.charbonnier_loss), *ERRORS),
    "kornia cauchy_loss": (of_elements(kornia.losses.cauchy_loss), *ERRORS),
    "kornia geman_mcclure_loss": (of_elements(kornia.losses.geman_mcclure_loss), *ERRORS),
    "kornia welsch_loss": (of_elements(kornia.losses.welsch_loss), *ERRORS),
    "allRank listNet": (lambda x, y: allrank.listNet(x, y, eps=0.0), *LISTS),
    "allRank listMLE": (lambda x, y: allrank.listMLE(x, y, eps=0.0), *LISTS),
    "allRank approxNDCGLoss": (lambda x, y: allrank.approxNDCGLoss(x, y, alpha=10.0), *LISTS),
    "allRank rankNet": (allrank.rankNet, *LISTS),
    "allRank lambdaLoss": (lambda_rank, *LISTS),
    "torchcfm ConditionalFlowMatcher": (
        flow_matching(torchcfm.ConditionalFlowMatcher(sigma=0.0)), *FLOW,
    ),
    "torchcfm TargetConditionalFlowMatcher": (
        flow_matching(torchcfm.TargetConditionalFlowMatcher(sigma=0.0)), *FLOW,
    ),
}  # fmt: skip


OF_JAX = {"jax-bitempered-loss": (jax_tempered, *CLASSES)}


if __name__ == "__main__":
    freeze("family_losses", PACKAGES, inputs(), {of_torch: MADE, of_jax: OF_JAX})
