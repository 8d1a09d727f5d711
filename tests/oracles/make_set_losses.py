# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "info-nce-pytorch==0.1.4",
#   "jax==0.10.2",
#   "lightly==1.6.0",
#   "numpy==2.4.6",
#   "open-clip-torch==3.3.0",
#   "pytorch-metric-learning==2.9.0",
#   "sentence-transformers==6.2.0",
#   "torch==2.14.1",
#   "torchvision==0.29.1",
# ]
# ///
"""Freezes losses over sets, and their gradients, of libraries of torch into `set_losses.json`.

Run it where the versions above are installed: `uv run tests/oracles/make_set_losses.py`, or with
the interpreter of an environment into which pip has installed them (all but torch, torchvision and
jax without their dependencies: what else they need is replaced by mocks). Nothing of ours is
imported.
"""

from unittest import mock

import info_nce
import numpy as np
import torch
from freezing import freeze, import_alone, mock_modules, of_torch
from lightly import loss as lightly
from lightly.loss import lejepa_loss, visreg_loss
from lightly.loss.hypersphere_loss import HypersphereLoss
from pytorch_metric_learning import distances, losses, miners, reducers

for name in ("util", "base", "base.losses", "base.losses.merged_forward",
             "sentence_transformer.model"):  # fmt: skip
    mock_modules(f"sentence_transformers.{name}")
cosent, pairs_of_two, ranking, semi_hard = (
    import_alone(
        "sentence-transformers", f"sentence_transformers.sentence_transformer.losses.{name}"
    )
    for name in ("cosent", "contrastive", "multiple_negatives_ranking", "batch_semi_hard_triplet")
)
open_clip = import_alone("open_clip_torch", "open_clip.loss")

PACKAGES = (
    "info-nce-pytorch", "lightly", "numpy", "open-clip-torch", "pytorch-metric-learning",
    "sentence-transformers", "torch",
)  # fmt: skip


def inputs():
    """Arrays of few digits, so that the file stays small."""
    rng = np.random.default_rng(0)
    shapes = {
        "x": (8, 5), "z": (8, 5), "prototypes": (4, 5), "student": (3, 8, 6), "teacher": (2, 8, 6),
        "center": (6,), "directions": (5, 7), "wide": (4, 12), "wide_view": (4, 12),
    }  # fmt: skip
    found = {name: np.round(rng.normal(size=shape), 3) for name, shape in shapes.items()}
    found["scores"] = np.round(rng.uniform(-1, 1, (3, 8, 6)), 3)
    found["negatives"] = np.round(rng.normal(size=(8, 3, 5)), 3)
    found["similarity"] = np.round(rng.uniform(-1, 1, 10), 2)
    return found | {
        "labels": np.array([0, 0, 1, 1, 1, 2, 3, 3]),
        "matches": np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]),
        "grades": np.array([0.0, 0.5, 1.0, 0.5, 0.2, 0.8, 1.0, 0.0, 0.2, 0.9]),
    }


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


def softmax_of_cosines(x, labels, prototypes):
    loss = losses.NormalizedSoftmaxLoss(4, 5, temperature=0.1)
    return with_weight(loss, "W", prototypes.T)(x, labels)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def clip(x, z):
    return open_clip.ClipLoss()(unit(x), unit(z), 1 / 0.07)


def siglip(x, z):
    return open_clip.SigLipLoss()(unit(x), unit(z), 10.0, -10.0)


def by_mode(mode):
    return lambda x, z, negatives: info_nce.InfoNCE(negative_mode=mode)(x, z, negatives)


def multiple_negatives(x, z):
    cosines = lambda a, b: unit(a) @ unit(b).T
    loss = ranking.MultipleNegativesRankingLoss(torch.nn.Identity(), similarity_fct=cosines)
    return loss.compute_loss_from_embeddings([x, z], None)


def of_pairs(x, z, matches):
    metric = pairs_of_two.SiameseDistanceMetric.EUCLIDEAN
    loss = pairs_of_two.ContrastiveLoss(torch.nn.Identity(), metric, margin=3.0)
    return loss.compute_loss_from_embeddings([x, z], matches)


def semi_hard_triplets(x, labels):
    metric = semi_hard.BatchHardTripletLossDistanceFunction.eucledian_distance
    loss = semi_hard.BatchSemiHardTripletLoss(torch.nn.Identity(), metric, margin=0.7)
    return loss.compute_loss_from_embeddings([x], labels)


def graded(similarity, grades):
    loss = cosent.CoSENTLoss(torch.nn.Identity(), 20.0, lambda x, _: x)
    return loss.compute_loss_from_embeddings([similarity, similarity], grades)


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
    "NormalizedSoftmaxLoss": (softmax_of_cosines, "x", "labels", "prototypes"),
    "CircleLoss": (lambda x, labels: losses.CircleLoss()(x, labels), "x", "labels"),
    "NTXentLoss": (lambda x, labels: losses.NTXentLoss(0.07)(x, labels), "x", "labels"),
    "open_clip ClipLoss": (clip, "x", "z"),
    "open_clip SigLipLoss": (siglip, "x", "z"),
    "info_nce InfoNCE": (lambda x, z: info_nce.InfoNCE()(x, z), "x", "z"),
    "info_nce InfoNCE, unpaired": (by_mode("unpaired"), "x", "z", "prototypes"),
    "info_nce InfoNCE, paired": (by_mode("paired"), "x", "z", "negatives"),
    "sentence-transformers MultipleNegativesRankingLoss": (multiple_negatives, "x", "z"),
    "sentence-transformers ContrastiveLoss": (of_pairs, "x", "z", "matches"),
    "sentence-transformers BatchSemiHardTripletLoss": (semi_hard_triplets, "x", "labels"),
    "sentence-transformers CoSENTLoss": (graded, "similarity", "grades"),
    "lightly NTXentLoss": (lambda x, z: lightly.NTXentLoss(temperature=0.5)(x, z), "x", "z"),
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


if __name__ == "__main__":
    freeze("set_losses", PACKAGES, inputs(), {of_torch: MADE})
