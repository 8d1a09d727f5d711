"""Contrastive losses with labels, prototypes and mined triplets: what the laws do not see."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import Mean, contrastive, numerics

pytestmark = pytest.mark.few

ROOM = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
LABELS = np.array([0, 0, 1, 1, 1, 2, 3, 3], np.int32)
PROTOTYPES = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)

OF_LABELS = {
    "supervised_contrastive": contrastive.supervised_contrastive,
    "multi_similarity": contrastive.multi_similarity,
    "hard": lambda x, y, **how: contrastive.batch_triplet(x, y, mining="hard", **how),
    "semi_hard": lambda x, y, **how: contrastive.batch_triplet(x, y, mining="semi_hard", **how),
    "all": lambda x, y, **how: contrastive.batch_triplet(x, y, mining="all", **how),
}
OF_KEYS = {
    "hard_negative_info_nce": contrastive.hard_negative_info_nce,
    "binary_nce": contrastive.binary_nce,
    "shared negatives": lambda x, y, **how: contrastive.info_nce(x, y, negatives=OTHER[:3], **how),
    "own negatives": lambda x, y, **how: contrastive.info_nce(
        x, y, negatives=np.stack([OTHER, ROOM[::-1]], axis=1), **how
    ),
}


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("name", [*OF_LABELS, *OF_KEYS])
def test_chunks_have_the_values_and_gradients_of_the_whole(name, reduction):
    second = LABELS if name in OF_LABELS else OTHER
    loss = OF_LABELS.get(name) or OF_KEYS[name]
    where = np.arange(8) != 4

    def of(x, **how):
        values = loss(x, second, where=where, reduction=reduction, **how)
        return jnp.sum(jnp.sin(values))  # of each value another slope

    whole = jax.value_and_grad(of)(jnp.asarray(ROOM))
    chunks = jax.value_and_grad(lambda x: of(x, chunk_size=3))(jnp.asarray(ROOM))
    chex.assert_trees_all_close(chunks, whole, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", OF_LABELS)
def test_what_has_collapsed_has_finite_derivatives(name):
    for x in (np.zeros((4, 3), np.float32), np.ones((4, 3), np.float32)):
        of = lambda x: jnp.sum(OF_LABELS[name](x, [0, 0, 1, 1]))
        curvature = jax.jvp(jax.grad(of), (jnp.asarray(x),), (jnp.ones_like(x),))[1]
        chex.assert_tree_all_finite((of(x), jax.grad(of)(jnp.asarray(x)), curvature))


@pytest.mark.parametrize("name", OF_LABELS)
def test_an_anchor_without_a_partner_has_no_loss_and_no_nan(name):
    alone = OF_LABELS[name](ROOM, np.arange(8, dtype=np.int32))
    together = OF_LABELS[name](ROOM, np.zeros(8, np.int32))
    assert np.all(np.isfinite(alone))
    assert np.all(np.isfinite(together))
    if name != "multi_similarity":  # which has a term of the negatives alone
        np.testing.assert_array_equal(alone, np.zeros(8))
    if name in ("hard", "semi_hard", "all"):
        np.testing.assert_array_equal(together, np.zeros(8))


def test_the_least_loss_of_an_anchor_with_two_positives_is_log_2():
    x = np.float32([[1, 0], [2, 0], [3, 0], [-1, 0]])
    got = contrastive.supervised_contrastive(x, [0, 0, 0, 1], temperature=0.05)
    np.testing.assert_allclose(got, [np.log(2)] * 3 + [0], rtol=1e-6)


def test_with_one_positive_each_supcon_is_nt_xent():
    labels = np.tile(np.arange(4, dtype=np.int32), 2)
    got = contrastive.supervised_contrastive(ROOM, labels, temperature=0.3)
    expected = contrastive.nt_xent(ROOM, labels, temperature=0.3)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_more_negatives_are_more_keys():
    """Queries against their keys and five more are queries of a larger set, whose rest is cut."""
    negatives = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    got = contrastive.info_nce(ROOM, OTHER, negatives=negatives, temperature=0.5)
    larger = contrastive.info_nce(
        np.concatenate([ROOM, negatives]), np.concatenate([OTHER, negatives]), temperature=0.5
    )
    np.testing.assert_allclose(got, larger[:8], rtol=1e-5)
    own = np.broadcast_to(negatives, (8, 5, 4))
    same = contrastive.info_nce(ROOM, OTHER, negatives=own, temperature=0.5)
    np.testing.assert_allclose(same, got, rtol=1e-6)


def test_without_sharpness_hard_negatives_are_negatives():
    got = contrastive.hard_negative_info_nce(ROOM, OTHER, beta=0.0, temperature=0.5)
    expected = contrastive.info_nce(ROOM, OTHER, temperature=0.5)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert contrastive.hard_negative_info_nce(ROOM[:1], OTHER[:1]).tolist() == [0]


# --- triplets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mining", ["hard", "semi_hard", "all"])
def test_no_array_of_triplets_exists(mining):
    n = 64
    x, y = jnp.zeros((n, 3)), jnp.arange(n) % 8
    of = jax.grad(lambda x: contrastive.batch_triplet(x, y, mining=mining, reduction="mean"))
    memory = jax.jit(of).lower(x).compile().memory_analysis()
    if memory is not None:
        assert memory.temp_size_in_bytes < 64 * n**2 * 4  # all triplets are n^3


@pytest.mark.parametrize("mining", ["hard", "semi_hard", "all"])
def test_a_distant_set_keeps_the_distances_of_its_members(mining):
    """At an offset of 1000 a distance from squared lengths has no digit left."""
    near = np.round(64 * ROOM) / 64
    of = lambda x: contrastive.batch_triplet(x, LABELS, mining=mining)
    np.testing.assert_allclose(of(near + np.float32(1024)), of(near), rtol=1e-5, atol=1e-6)
    got, expected = (
        jax.grad(lambda x: jnp.sum(of(x)))(jnp.asarray(x, jnp.float32)) for x in (near + 1024, near)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 1e-4, 0.0])
def test_the_hard_pairs_of_a_large_set_are_those_of_exact_distances(spread):
    """Of pairs much closer than their lengths a product of matrices cannot tell the nearest."""
    g = np.random.default_rng(3)
    places = g.integers(0, 5, 260)
    x = np.float32(g.normal(size=(5, 32))[places] + spread * g.normal(size=(260, 32)))
    labels, exact = places + 5 * g.integers(0, 3, 260), np.float64(x)
    apart = np.sqrt(np.sum(np.square(exact[:, None] - exact), axis=-1))
    same = labels[:, None] == labels
    far = np.max(np.where(same & ~np.eye(260, dtype=bool), apart, -np.inf), axis=-1)
    near = np.min(np.where(same, np.inf, apart), axis=-1)
    got = contrastive.batch_triplet(x, labels, margin=0.0)
    np.testing.assert_allclose(got, far - near, rtol=1e-5, atol=1e-6 * np.max(far))
    alone = contrastive.batch_triplet(x, np.arange(260), margin=1.0)
    np.testing.assert_array_equal(alone, 0)


def test_embeddings_of_any_size_have_distances():
    for size in (1e-25, 1e25):
        x = np.float32(size) * ROOM
        got = contrastive.batch_triplet(x, LABELS, margin=0.0) / np.float32(size)
        np.testing.assert_allclose(
            got, contrastive.batch_triplet(ROOM, LABELS, margin=0.0), rtol=1e-5
        )


def test_a_semi_hard_negative_is_the_nearest_beyond_the_positive():
    """Of negatives at 1, 3 and 9 a positive at 2 takes that at 3; one at 10 takes that at 9."""
    places = np.float32([[0], [2], [1], [3], [9]])
    got = contrastive.batch_triplet(places, [0, 0, 1, 1, 1], margin=4.0, mining="semi_hard")
    assert got[0] == 2 - 3 + 4
    places[1] = 10
    got = contrastive.batch_triplet(places, [0, 0, 1, 1, 1], margin=4.0, mining="semi_hard")
    assert got[0] == 10 - 9 + 4


# --- sums of exponentials ---------------------------------------------------------------------


def test_sums_of_exponentials_that_are_known_to_be_moderate_are_the_same():
    """A static sharpness tells how large exponents are; a traced one does not."""
    of = lambda x, s: jnp.sum(contrastive.multi_similarity(x, LABELS, alpha=s, beta=s))
    anchor = lambda x, s: contrastive.proxy_anchor(x, LABELS, prototypes=PROTOTYPES, scale=s)
    for loss in (of, anchor):
        for scale in (30.0, 3000.0):
            static = jax.value_and_grad(loss)(jnp.asarray(ROOM), scale)
            traced = jax.jit(jax.value_and_grad(loss))(jnp.asarray(ROOM), scale)
            chex.assert_trees_all_close(static, traced, rtol=1e-4, atol=1e-6)
            chex.assert_tree_all_finite(static)


# --- prototypes --------------------------------------------------------------------------------


def test_an_angle_with_its_margin_is_that_of_the_arc_cosine():
    angles = np.linspace(0.1, np.pi - 0.6, 20)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    got = contrastive.arcface(x, np.zeros(20, np.int32), prototypes=np.eye(2), scale=1.0)
    own, other = np.cos(angles + 0.5), np.sin(angles)
    np.testing.assert_allclose(got, np.log1p(np.exp(other - own)), rtol=1e-5)


def test_past_pi_the_loss_goes_on_to_rise():
    angles = np.linspace(np.pi - 0.49, np.pi - 0.01, 20)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    prototypes = np.float32([[1, 0], [0, -1e-30]])
    of = lambda x, **how: contrastive.arcface(
        x, np.zeros(len(x), np.int32), prototypes=prototypes, margin=0.5, scale=4.0, **how
    )
    assert np.all(np.diff(of(x)) > 0)
    own = np.cos(angles) - 0.5 * np.sin(0.5)
    expected = np.log1p(np.exp(4 * (-np.sin(angles) - own)))
    np.testing.assert_allclose(of(x), expected, rtol=1e-4)
    turned = np.cos(angles + 0.5)
    expected = np.log1p(np.exp(4 * (-np.sin(angles) - turned)))
    np.testing.assert_allclose(of(x, beyond="none"), expected, rtol=1e-4)


@pytest.mark.parametrize("x", [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
@pytest.mark.parametrize("loss", [contrastive.arcface, contrastive.cosface])
def test_a_cosine_of_1_has_a_finite_gradient_in_both_arguments(loss, x):
    """The arc cosine has an infinite slope there, and pytorch-metric-learning NaN."""
    of = lambda x, w: loss(x, 0, prototypes=w)
    x, w = jnp.asarray(x), jnp.eye(2)
    slopes = jax.grad(of, (0, 1))(x, w)
    curvature = jax.jvp(jax.grad(of, (0, 1)), (x, w), (jnp.ones(2), jnp.ones((2, 2))))[1]
    chex.assert_tree_all_finite((slopes, curvature))


def test_close_to_its_prototype_an_embedding_keeps_its_gradient():
    """At an angle of 1e-4 the cosine is 1 - 5e-9, which float32 rounds to 1: its sine would be 0."""
    x = jnp.float32([1.0, 1e-4])
    of = lambda x: contrastive.arcface(x, 0, prototypes=jnp.eye(2), scale=1.0)
    angle = 1e-4
    odds = np.exp(np.sin(angle) - np.cos(angle + 0.5))
    slope = odds / (1 + odds) * (np.cos(angle) + np.sin(angle + 0.5))
    np.testing.assert_allclose(jax.grad(of)(x)[1], slope, rtol=1e-4)


def test_without_margins_they_are_the_normalized_softmax():
    logits = 8 * numerics.normalize(ROOM) @ numerics.normalize(PROTOTYPES).T
    expected = -numerics.log_softmax(logits)[np.arange(8), LABELS]
    for loss in (contrastive.arcface, contrastive.cosface):
        got = loss(ROOM, LABELS, prototypes=PROTOTYPES, margin=0.0, scale=8.0)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    got = contrastive.proxy_nca(ROOM, LABELS, prototypes=PROTOTYPES, scale=4.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_class_that_is_not_in_the_set_still_repels():
    x = ROOM[:3]
    of = lambda w: contrastive.proxy_anchor(x, [0, 0, 0], prototypes=w, scale=4.0)
    slope = jax.grad(of)(jnp.asarray(PROTOTYPES))
    assert np.all(np.linalg.norm(slope[1:], axis=1) > 0)
    dirty = np.concatenate([x, np.full((1, 4), np.nan, np.float32)])
    got = contrastive.proxy_anchor(
        dirty, [0, 0, 0, -1], prototypes=PROTOTYPES, scale=4.0, mask=[True] * 3 + [False]
    )
    np.testing.assert_allclose(got, of(PROTOTYPES), rtol=1e-5)


# --- graded pairs ------------------------------------------------------------------------------


def _cosent(cosines, grades, temperature=0.05):
    gaps = (cosines[:, None] - cosines) / temperature
    return np.logaddexp(0, np.logaddexp.reduce(gaps[grades[:, None] < grades], initial=-np.inf))


@pytest.mark.parametrize("levels", [1, 2, 6, 1000])
def test_cosent_by_sorting_is_that_of_all_pairs_with_ties_left_out(levels):
    generator = np.random.default_rng(levels)
    cosines = generator.uniform(-1, 1, 300).astype(np.float32)
    grades = generator.integers(0, levels, 300).astype(np.float32)
    got = contrastive.cosent(cosines, grades)
    np.testing.assert_allclose(got, _cosent(np.float64(cosines), grades), rtol=2e-6)
    slope = jax.grad(lambda x: contrastive.cosent(x, grades))(jnp.asarray(cosines))
    assert np.all(np.isfinite(slope))
    np.testing.assert_allclose(np.sum(np.float64(slope)), 0, atol=1e-4)


def test_cosent_holds_no_array_of_all_comparisons():
    jaxpr = jax.make_jaxpr(contrastive.cosent)(jnp.zeros(1000), jnp.zeros(1000))
    assert max(v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars) <= 2000


# --- matryoshka --------------------------------------------------------------------------------


def test_a_nested_loss_is_the_sum_of_the_losses_of_its_first_entries():
    nested = contrastive.matryoshka(contrastive.info_nce, [2, 4], weights=[0.5, 1.0])
    negatives = OTHER[:3]
    expected = 0.5 * contrastive.info_nce(ROOM[:, :2], OTHER[:, :2], negatives=negatives[:, :2])
    expected += contrastive.info_nce(ROOM, OTHER, negatives=negatives)
    np.testing.assert_allclose(nested(ROOM, OTHER, negatives=negatives), expected, rtol=1e-6)
    where = np.arange(8) < 5
    parts = nested(ROOM, OTHER, negatives=negatives, where=where, reduction="parts")
    assert isinstance(parts, Mean)
    mean = nested(ROOM, OTHER, negatives=negatives, where=where, reduction="mean")
    np.testing.assert_allclose(parts.value, mean, rtol=1e-6)


def test_prototypes_are_cut_as_embeddings_are():
    nested = contrastive.matryoshka(contrastive.cosface, [2])
    got = nested(ROOM, LABELS, prototypes=PROTOTYPES)
    expected = contrastive.cosface(ROOM[:, :2], LABELS, prototypes=PROTOTYPES[:, :2])
    np.testing.assert_array_equal(got, expected)


def test_a_nested_loss_that_makes_no_sense_is_refused():
    with pytest.raises(TypeError, match="cosent has no argument whose last axis is `dim`"):
        contrastive.matryoshka(contrastive.cosent, [2])
    with pytest.raises(ValueError, match="`weights` has 1 entries, expected one for each size"):
        contrastive.matryoshka(contrastive.info_nce, [2, 4], weights=[1.0])
    with pytest.raises(ValueError, match=r"`query` has shape \(8, 4\), but `sizes` holds 5"):
        contrastive.matryoshka(contrastive.info_nce, [5])(ROOM, OTHER)


def test_a_value_from_differences_computes_no_product():
    """Only the gradient of the distances is that of a product of matrices."""
    of = lambda x: jnp.sum(contrastive.batch_triplet(x, LABELS, mining="all"))
    assert "dot_general" not in str(jax.make_jaxpr(of)(ROOM))
    assert "dot_general" in str(jax.make_jaxpr(jax.grad(of))(ROOM))
