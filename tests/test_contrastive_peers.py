"""Losses over sets have the frozen values and gradients of pytorch-metric-learning and lightly.

`tests/oracles/make_set_losses.py` froze them, in float64; no peer is needed here.
"""

import json
import pathlib

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import contrastive, self_supervised

pytestmark = pytest.mark.few

FROZEN = json.loads((pathlib.Path(__file__).parent / "oracles" / "set_losses.json").read_text())
INPUTS = {name: np.asarray(x) for name, x in FROZEN["inputs"].items()}
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
    assert set(OURS) == set(FROZEN["losses"])


@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_the_peer(name):
    function, first, *others = OURS[name]
    with cases.x64():
        rest = [jnp.asarray(INPUTS[n]) for n in others]
        of = jax.value_and_grad(lambda x: function(x, *rest))
        value, gradient = of(jnp.asarray(INPUTS[first]))
    expected, rtol = FROZEN["losses"][name], LOOSE.get(name, 1e-9)
    np.testing.assert_allclose(value, expected["value"], rtol=rtol)
    np.testing.assert_allclose(
        np.ravel(gradient), expected["gradient"], rtol=rtol, atol=rtol * np.max(np.abs(gradient))
    )
