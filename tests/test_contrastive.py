"""Contrastive losses: ties, zero vectors, sets without partners, distances of one's own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arithmetic import to_exact, ulp_error
from cases import contrastive as exact_losses
from cases.contrastive import circle as exact_circle
from cases.contrastive import length
from cases.contrastive import triplet as exact_triplet

from jaxloss import contrastive

pytestmark = pytest.mark.few

ROOM = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 0, 1, 1, 1, 2], np.int32)


@pytest.mark.parametrize("options", [{}, {"power": 1.0}, {"power": 3.0}, {"distance": "squared"}])
def test_triplets_of_equal_and_distant_points_have_finite_derivatives(options):
    for point in (jnp.zeros(3), jnp.full(3, 2.0)):
        function = lambda x, p=point: contrastive.triplet(x, p, p, **options)
        assert function(point) == 1
        chex.assert_tree_all_finite((jax.grad(function)(point), jax.hessian(function)(point)))
    if "distance" not in options:
        assert contrastive.triplet([1e20, 0.0], [-3e20, 0.0], [0.0, 0.0], **options) == np.float32(
            3e20
        )


@pytest.mark.parametrize("options", [{}, {"swap": True}, {"distance": "squared"}])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6, 1e12])
def test_triplet_of_a_distant_anchor_keeps_the_difference_of_distances(options, size):
    """Of an anchor at 1e6 two distances of 1e6 have errors of 0.03 each: as large as this one."""
    draw = np.random.default_rng(0).normal(size=(3, 64, 5)).astype(np.float32)
    anchor, positive, negative = draw * np.float32([size, 1, 1])[:, None, None]
    got = contrastive.triplet(anchor, positive, negative, margin=0.0, **options)
    for row, value in enumerate(np.asarray(got)):
        a, p, n = (to_exact(x[row]) for x in (anchor, positive, negative))
        exact = exact_triplet(a, p, n, margin=0, **options)
        scale = length(p - n) * (length(a - p) + length(a - n) if "distance" in options else 1)
        assert abs(float(value) - exact) <= 3 * 2**-23 * max(scale, exact)


def test_triplet_takes_absolute_values():
    assert contrastive.triplet([0.0, 0.0], [3.0, 4.0], [1.0, 0.0], power=1.0) == 7
    assert np.isfinite(contrastive.triplet([0.0], [1.0], [2.0], power=3.0))


def test_triplet_with_a_distance_of_ones_own():
    def largest(x, y):
        return jnp.max(jnp.abs(x - y), axis=-1)

    got = contrastive.triplet([[0.0, 0.0]], [[3.0, 4.0]], [[1.0, 1.0]], distance=largest)
    assert got.tolist() == [4.0]
    with pytest.raises(ValueError, match="`distance` is 'manhattan', expected"):
        contrastive.triplet([0.0], [0.0], [0.0], distance="manhattan")


def test_close_directions_keep_their_digits():
    """1 - cosine of an angle of 1e-5 is 5e-11: the difference from 1 would be 0."""
    got = contrastive.cosine_embedding([1.0, 0.0], [1.0, 1e-5], 1)
    np.testing.assert_allclose(got, 5e-11, rtol=1e-5)
    assert contrastive.cosine_embedding([0.0, 0.0], [1.0, 0.0], 1) == 1
    zero = jnp.zeros(2)
    for label in (-1, 1):
        function = lambda x, y=label: contrastive.cosine_embedding(x, jnp.ones(2), y)
        chex.assert_tree_all_finite((jax.grad(function)(zero), jax.hessian(function)(zero)))


@pytest.mark.parametrize("chunk", [None, 20])
@pytest.mark.parametrize("name", ["info_nce", "clip", "siglip"])
def test_good_matches_of_many_dimensions_keep_their_digits(name, chunk):
    """On the diagonal of a product of matrices hundreds of roundings near 1 add up."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(48, 512)).astype(np.float32)
    y = (x + 0.3 * generator.normal(size=x.shape)).astype(np.float32)
    exact = getattr(exact_losses, name)(np.float64(x), np.float64(y), temperature=0.07)
    got = getattr(contrastive, name)(x, y, temperature=0.07, chunk_size=chunk)
    assert np.max(ulp_error(got, exact)) <= 8


@pytest.mark.parametrize("size", [1, 2])
def test_sets_without_positives_or_negatives_cost_nothing(size):
    x = jnp.asarray(ROOM[:size])
    for labels in (jnp.arange(size), jnp.zeros(size, int)):
        function = lambda x, y=labels: jnp.sum(contrastive.nt_xent(x, y))
        assert function(x) == 0
        assert np.all(jax.grad(function)(x) == 0)
    assert contrastive.info_nce(x[:1], x[:1]).tolist() == [0.0]


def test_nt_xent_weighed_by_positives_is_the_mean_over_pairs():
    cosines = ROOM @ ROOM.T / np.outer(*2 * [np.linalg.norm(ROOM, axis=1)])
    pairs = []
    for i in range(6):
        for p in range(6):
            if i != p and LABELS[i] == LABELS[p]:
                masses = np.exp(cosines[i] / 0.07)
                pairs.append(np.log1p(masses[LABELS[i] != LABELS].sum() / masses[p]))
    positives = (LABELS[:, None] == LABELS).sum(1) - 1
    got = contrastive.nt_xent(ROOM, LABELS, weights=positives, reduction="mean")
    np.testing.assert_allclose(got, np.mean(pairs), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_losses_of_directions_do_not_mind_the_length(scale):
    x = ROOM * np.float32(scale)
    np.testing.assert_allclose(
        contrastive.nt_xent(x, LABELS), contrastive.nt_xent(ROOM, LABELS), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        contrastive.info_nce(x, x[::-1]), contrastive.info_nce(ROOM, ROOM[::-1]), rtol=1e-4
    )


def test_the_temperature_can_be_learned():
    function = lambda t: jnp.sum(contrastive.info_nce(ROOM, ROOM[::-1], temperature=t))
    slope = jax.jit(jax.grad(function))(0.5)
    np.testing.assert_allclose(slope, (function(0.51) - function(0.49)) / 0.02, rtol=1e-2)
    with pytest.raises(ValueError, match="`temperature` must be above 0"):
        contrastive.nt_xent(ROOM, LABELS, temperature=0.0)


def test_no_array_of_all_pairs_and_dimensions():
    x = jnp.zeros((50, 70))
    for function in (
        lambda x: contrastive.info_nce(x, x),
        lambda x: contrastive.nt_xent(x, jnp.arange(50)),
    ):
        text = str(jax.make_jaxpr(jax.grad(lambda x, f=function: jnp.sum(f(x))))(x))
        assert "50,50,70" not in text


def test_circle_takes_the_weights_of_pairs_as_fixed_if_asked_to():
    def of(x, gradient, push):
        unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        s = unit @ unit.T
        same = LABELS[:, None] == LABELS
        matches = jnp.where(same & ~np.eye(6, dtype=bool), jnp.exp(8 * gradient * (0.75 - s)), 0)
        others = jnp.where(same, 0, jnp.exp(8 * push * (s - 0.25)))
        return jnp.sum(jnp.log1p(matches.sum(-1) * others.sum(-1)))

    unit = ROOM / np.linalg.norm(ROOM, axis=-1, keepdims=True)
    gradient, push = np.maximum(1.25 - unit @ unit.T, 0), np.maximum(unit @ unit.T + 0.25, 0)
    value, slope = jax.value_and_grad(
        lambda x: contrastive.circle(
            x, LABELS, gamma=8.0, margin=0.25, detach_weights=True, reduction="sum"
        )
    )(ROOM)
    expected, expected_slope = jax.value_and_grad(of)(ROOM, gradient, push)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-4, atol=1e-5)
    assert contrastive.circle(ROOM, LABELS)[5] == 0  # it has no match


def test_circle_against_references():
    """All of them are met, also at an example's own place, and none of its set."""
    draw = np.random.default_rng(0)
    references = draw.normal(size=(2, 7, 4)).astype(np.float32)
    theirs = draw.integers(0, 3, (2, 7)).astype(np.int32)
    sets, labels = np.stack([ROOM[:3], ROOM[3:]]), np.stack([LABELS[:3], LABELS[3:]])
    where = np.array([[True, False, True]] * 2)
    given = {"gamma": 4.0, "reference_labels": theirs, "where": where}
    got = contrastive.circle(sets, labels, references=references, **given)
    for i in range(2):
        expected = exact_circle(
            sets[i], labels[i], 4.0, references=references[i], reference_labels=theirs[i]
        )
        np.testing.assert_allclose(got[i], np.where(where[i], expected, 0), rtol=1e-5)
    with pytest.raises(ValueError, match="give `references` and `reference_labels` together"):
        contrastive.circle(ROOM, LABELS, references=ROOM)
    with pytest.raises(ValueError, match="`references` has shape"):
        contrastive.circle(ROOM, LABELS, references=ROOM[:, :3], reference_labels=LABELS)


def test_circle_of_a_sharp_gamma_is_finite():
    x = jnp.asarray([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    function = lambda x: jnp.sum(contrastive.circle(x, [0, 0, 1], gamma=1000.0))
    value, slope = jax.value_and_grad(function)(x)
    # Of 0 and 1: 2.4 * 1.6 * 1000 for the match, and 1.4 * 0.6 * 1000 or, at -1, 0 for the other.
    np.testing.assert_allclose(value, 3840 + 840 + 3840, rtol=1e-6)
    chex.assert_tree_all_finite(slope)


def test_triplet_of_squares_that_overflow_knows_which_is_larger():
    function = lambda p, n: contrastive.triplet([0.0], p, n, distance="squared")
    near, far = jnp.array([2e20]), jnp.array([3e20])
    assert function(near, far) == 0
    assert function(far, near) == np.inf
    assert function(near, near) == 1
    assert np.all(np.isfinite(jax.grad(function)(near, far)))
    assert np.all(np.isfinite(jax.grad(function)(far, near)))


def test_a_pair_without_a_feature_is_that_of_the_others():
    left, right = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    mask, labels = np.array([True, True, False, True, False]), np.array([1, 0, 0])
    got = contrastive.pair(left, right, labels, margin=4.0, mask=mask)
    alone = contrastive.pair(left[:, mask], right[:, mask], labels, margin=4.0)
    np.testing.assert_allclose(got, alone, rtol=1e-6)


def test_mask_of_entries_leaves_them_out_of_keys_queries_and_negatives():
    query, key = np.random.default_rng(3).normal(size=(2, 4, 5)).astype(np.float32)
    negatives = np.random.default_rng(3).normal(size=(3, 5)).astype(np.float32)
    mask = np.array([True, False, True, True, False])
    expected = contrastive.info_nce(query[:, mask], key[:, mask], negatives=negatives[:, mask])
    hidden = [np.where(mask, x, np.nan) for x in (query, key, negatives)]
    for chunk_size in (None, 2):
        got = contrastive.info_nce(
            *hidden[:2], negatives=hidden[2], mask=mask, chunk_size=chunk_size
        )
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    of_each = np.broadcast_to(mask, query.shape).copy()
    of_each[1] = False
    others = np.array([True, False, True, True])
    got = contrastive.clip(*hidden[:2], mask=of_each)
    expected = contrastive.clip(query[others][:, mask], key[others][:, mask])
    assert got[1] == 0
    np.testing.assert_allclose(got[others], expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [contrastive.arcface, contrastive.cosface, contrastive.proxy_nca])
def test_mask_of_classes_hides_their_prototypes(loss):
    embeddings, prototypes = np.random.default_rng(3).normal(size=(2, 4, 5)).astype(np.float32)
    labels, mask = np.array([0, 1, 1, 0]), np.array([True, True, False, True])
    expected = loss(embeddings, [0, 1, 1, 0], prototypes=prototypes[mask])
    hidden = jnp.asarray(np.where(mask[:, None], prototypes, np.nan))
    for mask_of in (mask, np.broadcast_to(mask, (4, 4))):

        def mean(x, w, mask=mask_of):
            return loss(x, labels, prototypes=w, mask=mask, reduction="mean")

        got = loss(embeddings, labels, prototypes=hidden, mask=mask_of)
        np.testing.assert_allclose(got, expected, rtol=2e-6)
        slopes = jax.grad(mean, (0, 1))(jnp.asarray(embeddings), hidden)
        assert np.isfinite(slopes[0]).all()
        assert (slopes[1][2] == 0).all()
        assert np.isfinite(slopes[1]).all()
    assert loss(embeddings[0], 2, prototypes=hidden, mask=mask) == np.inf
