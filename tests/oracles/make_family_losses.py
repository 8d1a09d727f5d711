# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "kornia==0.9.0",
#   "kornia-rs",
#   "monai==1.6.1",
#   "numpy==2.4.6",
#   "pytorch-msssim==1.0.0",
#   "scipy==1.17.1",
#   "segmentation-models-pytorch==0.6.0",
#   "sentence-transformers==6.2.0",
#   "torch==2.13.0",
# ]
# ///
"""Freezes losses of masks, images, discriminators and pairs, and their gradients, of torch.

They are written to `family_losses.json`. Run it as `make_set_losses.py` beside it. Of two of the
libraries the files of the losses are imported alone, without what their packages depend on.
"""

import importlib
import importlib.metadata
import json
import pathlib
import sys
import types
import warnings
from unittest import mock

import numpy as np
import torch


def import_alone(name):
    """A module without the `__init__` of its parents, and with a stand-in for their models."""
    path = pathlib.Path(
        importlib.metadata.distribution(PACKAGES[name.split(".")[0]]).locate_file("")
    )
    *parents, _ = name.split(".")
    for place in range(1, len(parents) + 1):
        parent = ".".join(parents[:place])
        sys.modules[parent] = types.ModuleType(parent)
        sys.modules[parent].__path__ = [str(path.joinpath(*parents[:place]))]
    return importlib.import_module(name)


PACKAGES = {
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "sentence_transformers": "sentence-transformers",
}
smp = {
    name: import_alone(f"segmentation_models_pytorch.losses.{name}")
    for name in ("dice", "jaccard", "lovasz", "tversky")
}
for name in ("util", "base", "base.losses", "base.losses.merged_forward",
             "sentence_transformer.model"):  # fmt: skip
    sys.modules[f"sentence_transformers.{name}"] = mock.MagicMock(__spec__=None)
cosent = import_alone("sentence_transformers.sentence_transformer.losses.cosent")

# These import what is replaced above.
import kornia  # noqa: E402
import monai.losses as monai  # noqa: E402
import pytorch_msssim  # noqa: E402
from monai.metrics.utils import distance_transform_edt  # noqa: E402

VERSIONS = (
    "kornia", "monai", "numpy", "pytorch-msssim", "segmentation-models-pytorch",
    "sentence-transformers", "torch",
)  # fmt: skip
torch.set_default_dtype(torch.float64)


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
        "image": np.round(rng.uniform(size=(2, 9, 8, 2)), 2),
        "view": np.round(rng.uniform(size=(2, 9, 8, 2)), 2),
        "wide": np.round(rng.uniform(size=(1, 48, 48, 1)), 2),
        "scores": np.round(rng.normal(size=12), 2), "fake": np.round(rng.normal(size=12), 2),
        "similarity": np.round(rng.uniform(-1, 1, 10), 2),
        "grades": np.array([0.0, 0.5, 1.0, 0.5, 0.2, 0.8, 1.0, 0.0, 0.2, 0.9]),
        "mean": np.round(rng.normal(size=(4, 3)), 2),
        "log_variance": np.round(rng.normal(size=(4, 3)), 2),
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


def pairs(similarity, grades):
    loss = cosent.CoSENTLoss(torch.nn.Identity(), 20.0, lambda x, _: x)
    return loss.compute_loss_from_embeddings([similarity, similarity], grades)


def lovasz(p, y):
    return smp["lovasz"].LovaszLoss("multiclass", per_image=True)(first(p), y)


def divergence(mean, log_variance):
    normal = torch.distributions.Normal
    posterior = normal(mean, torch.exp(0.5 * log_variance))
    prior = normal(torch.zeros_like(mean), torch.ones_like(mean))
    return torch.distributions.kl_divergence(posterior, prior).sum(-1).mean()


def hausdorff(p, y):
    return monai.HausdorffDTLoss(include_background=True)(first(p), one_hot(y))


MASKS, IMAGES, SCORES = ("shares", "labels"), ("image", "view"), ("scores", "fake")
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
    "kornia ssim_loss": (
        lambda x, y: kornia.losses.ssim_loss(first(x), first(y), 5, reduction="mean"), *IMAGES,
    ),
    "kornia psnr_loss": (
        lambda x, y: kornia.losses.psnr_loss(first(x)[:1], first(y)[:1], 1.0), *IMAGES,
    ),
    "kornia total_variation": (lambda x: kornia.losses.total_variation(first(x)).sum(-1).mean(), "image"),
    "pytorch-msssim ssim": (
        lambda x, y: pytorch_msssim.ssim(first(x), first(y), data_range=1, win_size=5), *IMAGES,
    ),
    "pytorch-msssim ms_ssim": (
        lambda x: pytorch_msssim.ms_ssim(
            first(x), first(x.detach().flip(1) * 0.1 + x.detach() * 0.9), data_range=1, win_size=3
        ),
        "wide",
    ),
    "monai PatchAdversarialLoss, least squares": (patches("least_squares")[1], *SCORES),
    "monai PatchAdversarialLoss, least squares, generator": (patches("least_squares")[0], *SCORES),
    "monai PatchAdversarialLoss, hinge": (patches("hinge")[1], *SCORES),
    "monai PatchAdversarialLoss, bce": (patches("bce")[1], *SCORES),
    "monai PatchAdversarialLoss, bce, generator": (patches("bce")[0], *SCORES),
    "sentence-transformers CoSENTLoss": (pairs, "similarity", "grades"),
    "torch kl_divergence": (divergence, "mean", "log_variance"),
}  # fmt: skip


def frozen():
    """Value and gradient of each."""
    arrays, found = inputs(), {}
    for name, (function, *names) in MADE.items():
        tensors = [torch.from_numpy(arrays[n].copy()) for n in names]
        tensors[0].requires_grad_()
        # Some convert to single precision.
        with (
            warnings.catch_warnings(),
            mock.patch.object(torch.Tensor, "float", lambda x: x.double()),
        ):
            warnings.simplefilter("ignore")
            value = function(*tensors)
        gradient = torch.autograd.grad(value, tensors[0])[0]
        found[name] = {
            "value": float(f"{value.item():.12g}"),
            "gradient": [float(f"{g:.9g}") for g in gradient.reshape(-1).tolist()],
        }
    return found


if __name__ == "__main__":
    content = {
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "inputs": {name: x.tolist() for name, x in inputs().items()},
        "losses": frozen(),
    }
    target = pathlib.Path(__file__).with_name("family_losses.json")
    target.write_text(json.dumps(content, separators=(",", ":")) + "\n")
