# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "lightly==1.6.0",
#   "numpy==2.4.6",
#   "pytorch-metric-learning==2.9.0",
#   "torch==2.13.0",
# ]
# ///
"""Freezes losses over sets, and their gradients, of two libraries of torch into `set_losses.json`.

Run it where the versions above are installed: `uv run tests/oracles/make_set_losses.py`, or with
the interpreter of an environment into which pip has installed them (without their dependencies,
if torchvision cannot be imported there: it is not used). Nothing of ours is imported.
"""

import importlib.machinery
import importlib.metadata
import json
import pathlib
import sys
from unittest import mock

import numpy as np
import torch

for part in ("", ".transforms", ".transforms.functional", ".transforms.v2", ".models", ".datasets",
             ".io", ".ops", ".models.vision_transformer", ".datasets.vision"):  # fmt: skip
    name = f"torchvision{part}"
    sys.modules[name] = mock.MagicMock(
        __spec__=importlib.machinery.ModuleSpec(name, None), __version__="0.28.0", __path__=[]
    )

from lightly import loss as lightly  # noqa: E402
from lightly.loss import lejepa_loss, visreg_loss  # noqa: E402
from lightly.loss.hypersphere_loss import HypersphereLoss  # noqa: E402
from pytorch_metric_learning import distances, losses, miners, reducers  # noqa: E402

VERSIONS = ("lightly", "pytorch-metric-learning", "torch", "numpy")
torch.set_default_dtype(torch.float64)


def inputs():
    """Arrays of few digits, so that the file stays small."""
    rng = np.random.default_rng(0)
    shapes = {
        "x": (8, 5), "z": (8, 5), "prototypes": (4, 5), "student": (3, 8, 6), "teacher": (2, 8, 6),
        "center": (6,), "directions": (5, 7), "wide": (4, 12), "wide_view": (4, 12),
    }  # fmt: skip
    found = {name: np.round(rng.normal(size=shape), 3) for name, shape in shapes.items()}
    found["scores"] = np.round(rng.uniform(-1, 1, (3, 8, 6)), 3)
    return found | {"labels": np.array([0, 0, 1, 1, 1, 2, 3, 3])}


def with_weight(loss, name, weight):
    """The loss with its own parameter set, without a gradient."""
    getattr(loss, name).data = weight.clone()
    return loss


def triplet(**options):
    """A triplet loss of distances as they are, with the mean over all triplets."""
    return losses.TripletMarginLoss(
        margin=0.7,
        distance=distances.LpDistance(normalize_embeddings=False),
        reducer=reducers.MeanReducer(),
        **options,
    )


def hardest(x, labels):
    miner = miners.BatchHardMiner(distance=distances.LpDistance(normalize_embeddings=False))
    return triplet()(x, labels, miner(x, labels))


def dino(student, teacher, center):
    loss = lightly.DINOLoss(output_dim=6, teacher_temp=0.04, student_temp=0.1)
    loss.center.data = center.reshape(1, 1, -1)
    return loss([*teacher], [*student])


def sigreg(x, directions):
    loss = lejepa_loss.SIGReg(num_vectors=7)
    units = directions / directions.norm(dim=0)
    for name in ("t", "phi", "weights"):  # these are made in single precision
        setattr(loss, name, getattr(loss, name).double())
    with mock.patch.object(loss, "_generate_unit_vectors", return_value=units):
        return loss(x)


def visreg(x, directions):
    with mock.patch.object(torch, "randn", return_value=directions):
        shape = visreg_loss.visreg_shape_loss(x, 7)
    return visreg_loss.visreg_center_loss(x) + visreg_loss.visreg_scale_loss(x) + shape


# The argument with a gradient comes first.
MADE = {
    "SupConLoss": (lambda x, labels: losses.SupConLoss(temperature=0.1)(x, labels), "x", "labels"),
    "MultiSimilarityLoss": (
        lambda x, labels: losses.MultiSimilarityLoss(2, 50, 0.5)(x, labels), "x", "labels",
    ),
    "ArcFaceLoss": (
        lambda x, labels, w: with_weight(losses.ArcFaceLoss(4, 5), "W", w.T)(x, labels),
        "x", "labels", "prototypes",
    ),
    "CosFaceLoss": (
        lambda x, labels, w: with_weight(losses.CosFaceLoss(4, 5), "W", w.T)(x, labels),
        "x", "labels", "prototypes",
    ),
    "ProxyNCALoss": (
        lambda x, labels, w: with_weight(losses.ProxyNCALoss(4, 5), "proxies", w)(x, labels),
        "x", "labels", "prototypes",
    ),
    "ProxyAnchorLoss": (
        lambda x, labels, w: with_weight(losses.ProxyAnchorLoss(4, 5), "proxies", w)(x, labels),
        "x", "labels", "prototypes",
    ),
    "TripletMarginLoss": (lambda x, labels: triplet()(x, labels), "x", "labels"),
    "BatchHardMiner": (hardest, "x", "labels"),
    "BarlowTwinsLoss": (lambda x, z: lightly.BarlowTwinsLoss()(x, z), "x", "z"),
    "BarlowTwinsLoss, wide": (
        lambda x, z: lightly.BarlowTwinsLoss()(x, z), "wide", "wide_view",
    ),
    "VICRegLoss": (lambda x, z: lightly.VICRegLoss()(x, z), "x", "z"),
    "VICRegLoss, wide": (lambda x, z: lightly.VICRegLoss()(x, z), "wide", "wide_view"),
    "NegativeCosineSimilarity": (
        lambda x, z: lightly.NegativeCosineSimilarity()(x, z), "x", "z",
    ),
    "DINOLoss": (dino, "student", "teacher", "center"),
    "SwaVLoss": (
        lambda scores: lightly.SwaVLoss()([*scores[:2]], [*scores[2:]])[0], "scores",
    ),
    "KoLeoLoss": (lambda x: lightly.KoLeoLoss()(x), "x"),
    "HypersphereLoss": (lambda x, z: HypersphereLoss(t=2.0)(x, z), "x", "z"),
    "SIGReg": (sigreg, "x", "directions"),
    "VISRegLoss": (visreg, "x", "directions"),
}  # fmt: skip


def frozen():
    """Value and gradient of each."""
    arrays, found = inputs(), {}
    for name, (function, *names) in MADE.items():
        tensors = [torch.from_numpy(arrays[n].copy()) for n in names]
        tensors[0].requires_grad_()
        value = function(*tensors)
        (gradient,) = torch.autograd.grad(value, tensors[0])
        found[name] = {
            "value": float(f"{value.item():.12g}"),
            "gradient": [float(f"{g:.10g}") for g in gradient.reshape(-1).tolist()],
        }
    return found


if __name__ == "__main__":
    content = {
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "inputs": {name: x.tolist() for name, x in inputs().items()},
        "losses": frozen(),
    }
    target = pathlib.Path(__file__).with_name("set_losses.json")
    target.write_text(json.dumps(content, separators=(",", ":")) + "\n")
