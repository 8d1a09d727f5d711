"""Losses over sets and of pairs have the frozen values and gradients of libraries of torch.

pytorch-metric-learning and lightly, if no other is named. `tests/oracles/make_set_losses.py` froze
them, in float64; no peer is needed here. Where a peer defines a loss otherwise, our expression
says how.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from harness.frozen import Frozen

from jaxloss import contrastive, self_supervised

pytestmark = pytest.mark.few

FROZEN = Frozen("set_losses")
INPUTS = FROZEN.inputs
LABELS = INPUTS["labels"].astype(np.int32)
SAME = (LABELS[:, None] == LABELS) & ~np.eye(8, dtype=bool)
POSITIVES, NEGATIVES = np.sum(SAME, axis=1), np.sum(LABELS[:, None] != LABELS, axis=1)
MARGIN = np.deg2rad(28.6)


def mean(loss, *, weights=None, **options):
    """The mean over a set, of a labelled loss."""
    return lambda x, *_: loss(x, LABELS, weights=weights, reduction="mean", **options)


def of_prototypes(loss, **options):
    prototypes = INPUTS["prototypes"]
    return lambda x, *_: loss(x, LABELS, prototypes=prototypes, reduction="mean", **options)


def info_nce_of_one(x, z, negatives):
    return contrastive.info_nce(x[:, None], z[:, None], negatives=negatives)


def of_two_views(x, z):
    """SimCLR's: the other view of an image is the only positive."""
    both, ids = jnp.concatenate([x, z]), jnp.tile(jnp.arange(8), 2)
    return contrastive.nt_xent(both, ids, temperature=0.5, reduction="mean")


def by_views(x):
    """Views come first in these libraries."""
    return jnp.moveaxis(jnp.asarray(x), 0, -2)


def swav(scores):
    codes = [self_supervised.sinkhorn_codes(x) for x in scores[:2]]
    return self_supervised.swav(by_views(scores), by_views(jnp.stack(codes)), reduction="mean")


def hypersphere(x, z):
    both = self_supervised.uniformity(x) + self_supervised.uniformity(z)
    return self_supervised.alignment(x, z, reduction="mean") + both / 2


# From the peer's name to our expression of its arguments, the one with a gradient first.
OURS = {
    "SupConLoss": (mean(contrastive.supervised_contrastive, weights=POSITIVES > 0), "x"),
    "MultiSimilarityLoss": (mean(contrastive.multi_similarity), "x"),
    "ArcFaceLoss": (of_prototypes(contrastive.arcface, margin=MARGIN), "x"),
    "CosFaceLoss": (of_prototypes(contrastive.cosface), "x"),
    "ProxyNCALoss": (of_prototypes(contrastive.proxy_nca), "x"),
    "ProxyAnchorLoss": (of_prototypes(contrastive.proxy_anchor), "x"),
    "TripletMarginLoss": (
        mean(contrastive.batch_triplet, margin=0.7, mining="all", weights=POSITIVES * NEGATIVES),
        "x",
    ),
    "BatchHardMiner": (
        mean(contrastive.batch_triplet, margin=0.7, weights=POSITIVES > 0),
        "x",
    ),
    # A cosine softmax without a margin.
    "NormalizedSoftmaxLoss": (of_prototypes(contrastive.cosface, margin=0.0, scale=10.0), "x"),
    # The mean is over anchors that have both a positive and a negative.
    "CircleLoss": (
        mean(contrastive.circle, detach_weights=True, weights=POSITIVES * NEGATIVES > 0),
        "x",
    ),
    # The mean is over pairs.
    "NTXentLoss": (mean(contrastive.nt_xent, weights=POSITIVES), "x"),
    "open_clip ClipLoss": (
        lambda x, z: contrastive.clip(x, z, reduction="mean"),
        "x",
        "z",
    ),
    "open_clip SigLipLoss": (
        lambda x, z: contrastive.siglip(x, z, reduction="mean"),
        "x",
        "z",
    ),
    "info_nce InfoNCE": (
        lambda x, z: contrastive.info_nce(x, z, reduction="mean"),
        "x",
        "z",
    ),
    # With negatives of its own, a query is not compared with the keys of others: a set of one.
    "info_nce InfoNCE, unpaired": (
        lambda x, z, n: jnp.mean(info_nce_of_one(x, z, jnp.broadcast_to(n, (8, *n.shape)))),
        "x",
        "z",
        "prototypes",
    ),
    "info_nce InfoNCE, paired": (
        lambda x, z, n: jnp.mean(info_nce_of_one(x, z, n)),
        "x",
        "z",
        "negatives",
    ),
    # Its scale of 20 is a temperature.
    "sentence-transformers MultipleNegativesRankingLoss": (
        lambda x, z: contrastive.info_nce(x, z, temperature=1 / 20, reduction="mean"),
        "x",
        "z",
    ),
    # It adds 1e-6 to each difference.
    "sentence-transformers ContrastiveLoss": (
        lambda x, z, y: contrastive.pair(x + 1e-6, z, y, margin=3.0, reduction="mean"),
        "x",
        "z",
        "matches",
    ),
    # The mean is over pairs.
    "sentence-transformers BatchSemiHardTripletLoss": (
        mean(contrastive.batch_triplet, margin=0.7, mining="semi_hard", weights=POSITIVES),
        "x",
    ),
    "sentence-transformers CoSENTLoss": (
        lambda s, y: contrastive.cosent(s, y, temperature=1 / 20),
        "similarity",
        "grades",
    ),
    "lightly NTXentLoss": (of_two_views, "x", "z"),
    "BarlowTwinsLoss": (self_supervised.barlow_twins, "x", "z"),
    "BarlowTwinsLoss, wide": (self_supervised.barlow_twins, "wide", "wide_view"),
    "VICRegLoss": (self_supervised.vicreg, "x", "z"),
    "VICRegLoss, wide": (self_supervised.vicreg, "wide", "wide_view"),
    "NegativeCosineSimilarity": (
        lambda x, z: self_supervised.negative_cosine(x, z, reduction="mean"),
        "x",
        "z",
    ),
    "DINOLoss": (
        lambda student, teacher, center: self_supervised.dino(
            by_views(student), by_views(teacher), center=center, reduction="mean"
        ),
        "student",
        "teacher",
        "center",
    ),
    "SwaVLoss": (swav, "scores"),
    "KoLeoLoss": (lambda x: self_supervised.koleo(x, reduction="mean"), "x"),
    "HypersphereLoss": (hypersphere, "x", "z"),
    "SIGReg": (lambda x, a: self_supervised.sigreg(x, directions=a), "x", "directions"),
    "VISRegLoss": (lambda x, a: self_supervised.visreg(x, directions=a), "x", "directions"),
}
# The peer evaluates quantiles, or knots, in single precision, or adds 1e-8 to each difference.
LOOSE = {"VISRegLoss": 1e-6, "SIGReg": 1e-6, "KoLeoLoss": 1e-6}


def test_every_frozen_loss_has_ours():
    assert set(OURS) == set(FROZEN.losses)


@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_the_peer(name):
    FROZEN.check(name, *OURS[name], rtol=LOOSE.get(name, 1e-9))
