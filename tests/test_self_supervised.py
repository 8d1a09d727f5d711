"""Self-supervised losses: collapsed inputs, several devices, wide embeddings, both ends of a range."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxloss import numerics, self_supervised

pytestmark = pytest.mark.few

ROOM = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
OTHER = (ROOM + 0.3 * np.random.default_rng(1).normal(size=ROOM.shape)).astype(np.float32)
DIRECTIONS = np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32)

# Losses of a set, as functions of its embeddings.
OF_SETS = {
    "barlow_twins": lambda x, **how: self_supervised.barlow_twins(x, 0.7 * x[..., ::-1], **how),
    "vicreg": lambda x, **how: self_supervised.vicreg(x, 0.7 * x[..., ::-1], **how),
    "sigreg": lambda x, **how: self_supervised.sigreg(x, directions=DIRECTIONS, **how),
    "visreg": lambda x, **how: self_supervised.visreg(x, directions=DIRECTIONS, **how),
    "uniformity": self_supervised.uniformity,
    "koleo": lambda x, **how: mean_koleo(x, **how),
}
CROSSING = [*((name, {}) for name in OF_SETS), *((n, {"chunk_size": 2}) for n in list(OF_SETS)[:2])]


def mean_koleo(x, mask=None, axis_name=None):
    of = self_supervised.koleo(x, where=mask, axis_name=axis_name, reduction="parts")
    return of.value if axis_name is None else of.psum(axis_name).value


@pytest.mark.parametrize("name", OF_SETS)
def test_the_order_of_a_set_does_not_matter(name):
    got = OF_SETS[name](ROOM[::-1].copy())
    np.testing.assert_allclose(got, OF_SETS[name](ROOM), rtol=2e-5)


@pytest.mark.parametrize("name", OF_SETS)
def test_what_is_masked_may_hold_anything_and_the_rest_is_a_smaller_set(name):
    mask = np.arange(8) < 6
    dirty = np.where(mask[:, None], ROOM, np.float32(np.nan))
    value, slope = jax.value_and_grad(lambda x: OF_SETS[name](x, mask=mask))(jnp.asarray(dirty))
    expected, of_small = jax.value_and_grad(OF_SETS[name])(jnp.asarray(ROOM[:6]))
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(slope[:6], of_small, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(slope[6:], np.zeros((2, 5)))


@pytest.mark.parametrize("point", ["zeros", "one place", "a constant feature", "one example"])
@pytest.mark.parametrize("name", OF_SETS)
def test_what_has_collapsed_has_finite_derivatives(name, point):
    x = {
        "zeros": np.zeros((4, 5), np.float32),
        "one place": np.full((4, 5), 0.3, np.float32),
        "a constant feature": np.concatenate([ROOM[:, :4], np.ones((8, 1), np.float32)], axis=1),
        "one example": ROOM[:1],
    }[point]
    of = OF_SETS[name]
    value, slope = jax.value_and_grad(of)(jnp.asarray(x))
    curvature = jax.jvp(jax.grad(of), (jnp.asarray(x),), (jnp.ones_like(x),))[1]
    chex.assert_tree_all_finite((value, slope, curvature))


@pytest.mark.parametrize(("name", "how"), CROSSING)
def test_several_devices_have_the_loss_of_the_whole_set(name, how):
    mask = np.array([1, 1, 1, 0, 1, 1, 0, 1], bool)

    def mapped(x):
        of = lambda x, keep: OF_SETS[name](x, mask=keep, axis_name="d", **how)
        return jax.vmap(of, axis_name="d")(x.reshape(4, 2, 5), mask.reshape(4, 2))

    whole, slope = jax.value_and_grad(lambda x: OF_SETS[name](x, mask=mask))(jnp.asarray(ROOM))
    np.testing.assert_allclose(mapped(ROOM), np.full(4, whole), rtol=1e-5)
    got = jax.grad(lambda x: jnp.mean(mapped(x)))(jnp.asarray(ROOM))
    np.testing.assert_allclose(got, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["koleo", "uniformity"])
def test_a_set_is_split_over_devices_or_into_chunks(name):
    loss = getattr(self_supervised, name)
    with pytest.raises(ValueError, match=f"self_supervised.{name}: `chunk_size` is 2 with"):
        loss(ROOM, chunk_size=2, axis_name="d")


def test_equal_projections_on_two_devices_have_two_ranks():
    x = np.float32([[1.0], [0.0], [1.0], [1.0], [0.0], [2.0]])
    of = lambda x, **how: self_supervised.visreg(x, directions=[[1.0]], **how)
    got = jax.vmap(lambda x: of(x, axis_name="d"), axis_name="d")(x.reshape(3, 2, 1))
    np.testing.assert_allclose(got, np.full(3, of(x)), rtol=1e-5)


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_wide_embeddings_take_the_gram_matrices_and_are_the_same(name):
    """Of 8 examples in 40 dimensions 8 x 8 products; the same examples 6 times take 40 x 40."""
    wide = np.random.default_rng(3).normal(size=(8, 40)).astype(np.float32)
    of = OF_SETS[name]
    many = np.tile(wide, (6, 1))

    def sizes(x):
        jaxpr = jax.make_jaxpr(of)(x)
        return {v.aval.shape for eqn in jaxpr.eqns for v in eqn.outvars}

    assert (8, 8) in sizes(wide)
    assert (40, 40) not in sizes(wide)
    assert (40, 40) in sizes(many)
    if name == "barlow_twins":  # its statistics are biased ones: six copies have the same
        np.testing.assert_allclose(of(wide), of(many), rtol=1e-5)
        few, all_of_them = jax.grad(of)(jnp.asarray(wide)), jax.grad(of)(jnp.asarray(many))
        np.testing.assert_allclose(
            few, np.sum(np.reshape(all_of_them, (6, 8, 40)), 0), rtol=1e-3, atol=1e-5
        )


def test_views_that_agree_have_a_loss_of_the_size_of_epsilon():
    """1 - C would be rounding: each term is epsilon / (variance + epsilon), squared."""
    orthogonal = np.float32([[1, 1], [-1, 1], [1, -1], [-1, -1]])
    got = self_supervised.barlow_twins(orthogonal, orthogonal, epsilon=1e-5)
    np.testing.assert_allclose(got, 2 * (1e-5 / (1 + 1e-5)) ** 2, rtol=1e-5)
    assert self_supervised.barlow_twins(orthogonal, orthogonal, epsilon=0.0) == 0


def test_uncorrelated_features_of_unit_variance_have_no_vicreg():
    x = np.float32([[1, 1], [-1, 1], [1, -1], [-1, -1]]) * np.sqrt(np.float32(3 / 4))
    assert abs(self_supervised.vicreg(x, x, epsilon=0.0)) < 1e-6


def test_directions_of_any_length_are_the_same():
    scaled = DIRECTIONS * np.float32([1e-20, 1, 1e20, 2, 3, 4, 5])
    for loss in (self_supervised.sigreg, self_supervised.visreg):
        got = loss(ROOM, directions=scaled)
        np.testing.assert_allclose(got, loss(ROOM, directions=DIRECTIONS), rtol=1e-5)


def test_sigreg_of_many_normal_embeddings_is_small_and_of_collapsed_ones_grows_with_their_number():
    normal = np.random.default_rng(4).normal(size=(4096, 5)).astype(np.float32)
    assert self_supervised.sigreg(normal, directions=DIRECTIONS) < 1.5
    collapsed = [
        self_supervised.sigreg(np.zeros((n, 5), np.float32), directions=DIRECTIONS)
        for n in (100, 200)
    ]
    np.testing.assert_allclose(collapsed[1], 2 * collapsed[0], rtol=1e-5)
    with pytest.raises(ValueError, match="`knots` is 1, expected an integer of at least 2"):
        self_supervised.sigreg(normal, directions=DIRECTIONS, knots=1)


def test_sigreg_holds_no_array_of_all_angles():
    x, directions = jnp.zeros((256, 8)), jnp.ones((8, 64))
    of = jax.jit(jax.grad(lambda x: self_supervised.sigreg(x, directions=directions)))
    shapes = {
        v.aval.shape
        for eqn in jax.make_jaxpr(of)(x).eqns[0].params["jaxpr"].eqns
        for v in eqn.outvars
    }
    assert max(np.prod(shape) for shape in shapes) <= 256 * 64


def test_quantiles_of_the_normal_distribution_have_no_visreg():
    """In one dimension, up to what their own deviation is off 1."""
    quantiles = scipy.special.ndtri(np.arange(1, 10) / 10).astype(np.float32)
    x = (quantiles / np.std(quantiles))[:, None]
    got = self_supervised.visreg(x, directions=[[2.0]], shape=0.0)
    assert got < 1e-12
    expected = np.mean((x[:, 0] - quantiles) ** 2)
    got = self_supervised.visreg(x, directions=[[2.0]], scale=0.0, epsilon=1e-9)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_a_collapsed_visreg_still_pushes_apart():
    """Where all of a set nearly coincides, the gradient of the deviations does not vanish."""
    x = jnp.asarray(1e-6 * ROOM)
    slope = jax.grad(lambda x: self_supervised.visreg(x, directions=DIRECTIONS, shape=0.0))(x)
    assert np.linalg.norm(slope) > 0.1


# --- views -------------------------------------------------------------------------------------


def test_targets_have_no_gradient():
    of = lambda z: jnp.sum(self_supervised.negative_cosine(ROOM, z))
    np.testing.assert_array_equal(jax.grad(of)(jnp.asarray(OTHER)), np.zeros_like(OTHER))
    teacher, student = np.random.default_rng(5).normal(size=(2, 4, 2, 6)).astype(np.float32)
    of = lambda t, c: jnp.sum(self_supervised.dino(student, t, center=c))
    for slope in jax.grad(of, (0, 1))(jnp.asarray(teacher), jnp.zeros(6)):
        np.testing.assert_array_equal(slope, np.zeros(slope.shape))
    of = lambda q: jnp.sum(self_supervised.swav(student, q))
    np.testing.assert_array_equal(jax.grad(of)(jnp.full((4, 2, 6), 1 / 6)), np.zeros((4, 2, 6)))


def test_a_view_is_not_compared_with_itself():
    """Of two views of which only the own target is far off, the loss is that of the others."""
    student = np.float32([[9.0, 0.0], [0.0, 9.0]])
    teacher = student[::-1].copy()  # each is that of the other view
    got = self_supervised.dino(student, teacher, temperature=1.0, teacher_temperature=0.01)
    np.testing.assert_allclose(got, np.log1p(np.exp(-9.0)), rtol=1e-5)
    with pytest.raises(ValueError, match="`teacher` has 2 views and the predictions have 1"):
        self_supervised.dino(student[:1], teacher)


def test_a_teacher_of_any_size_is_the_same_in_compiled_code():
    """Its largest logit over the temperature is rounded, and so must be what is less it."""
    student = np.float32([[-3, -3, -1, -3], [0, -1, -1e3, 1], [0, 0, -1, -1e3]])
    teacher = np.float32([[0, -1, 1e10, 0], [-1e10, 0, -1e3, 1e3]])
    options = {"temperature": 0.5, "teacher_temperature": 0.4}
    got = jax.jit(lambda x, z: self_supervised.dino(x, z, **options))(student, teacher)
    np.testing.assert_allclose(got, 1002.4284, rtol=1e-6)


def test_a_centre_is_the_running_mean_of_all_devices():
    teacher = np.random.default_rng(6).normal(size=(4, 3, 2, 6)).astype(np.float32)
    center = np.zeros(6, np.float32)
    got = jax.vmap(
        lambda t: self_supervised.dino_center(center, t, momentum=0.9, axis_name="d"),
        axis_name="d",
    )(teacher)
    expected = 0.1 * np.mean(teacher, axis=(0, 1, 2))
    np.testing.assert_allclose(got, np.broadcast_to(expected, (4, 6)), rtol=1e-4, atol=1e-7)
    nothing = np.zeros((4, 3, 2), bool)
    got = self_supervised.dino_center(expected, teacher, where=nothing)
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match=r"`center` has shape \(5,\), expected \(6,\)"):
        self_supervised.dino_center(np.zeros(5), teacher)


def _sinkhorn(scores, epsilon, iterations):
    q = np.exp(np.float64(scores) / epsilon)
    for _ in range(iterations):
        q = q / q.sum(0, keepdims=True) / q.shape[1]
        q = q / q.sum(1, keepdims=True) / q.shape[0]
    return q * q.shape[0]


def test_codes_are_those_of_the_plain_iteration_and_sum_to_one():
    scores = np.random.default_rng(7).uniform(-1, 1, (12, 4)).astype(np.float32)
    got = self_supervised.sinkhorn_codes(scores, epsilon=0.3, iterations=3)
    np.testing.assert_allclose(got, _sinkhorn(scores, 0.3, 3), rtol=2e-5)
    many = self_supervised.sinkhorn_codes(scores, epsilon=0.3, iterations=200)
    np.testing.assert_allclose(np.sum(many, axis=0), np.full(4, 3), rtol=1e-4)


def test_codes_of_large_scores_are_finite_and_cross_devices():
    scores = np.random.default_rng(8).uniform(-1, 1, (8, 4)).astype(np.float32)
    keep = np.arange(8) < 7
    whole = self_supervised.sinkhorn_codes(scores, epsilon=1e-3, where=keep)
    assert np.all(np.isfinite(whole))
    np.testing.assert_allclose(np.sum(whole, axis=1), keep, rtol=1e-4)
    of = lambda x, keep: self_supervised.sinkhorn_codes(x, epsilon=1e-3, where=keep, axis_name="d")
    split = jax.vmap(of, axis_name="d")(scores.reshape(2, 4, 4), keep.reshape(2, 4))
    np.testing.assert_allclose(np.reshape(split, (8, 4)), whole, rtol=1e-3, atol=1e-5)


# --- spread ------------------------------------------------------------------------------------


def test_equal_embeddings_have_a_finite_koleo_and_one_alone_has_none():
    x = jnp.asarray(np.float32([[1, 0], [2, 0], [0, 1]]))
    got = self_supervised.koleo(x)
    np.testing.assert_allclose(got[:2], -np.log(1e-8), rtol=1e-5)
    slope = jax.grad(lambda x: jnp.sum(self_supervised.koleo(x)))(x)
    assert np.all(np.isfinite(slope))
    np.testing.assert_array_equal(self_supervised.koleo(x, where=[False, True, False]), [0, 0, 0])


@pytest.mark.parametrize("size", [1e-20, 0.3, 1e20])
def test_a_collapsed_koleo_has_no_gradient_in_compiled_code(size):
    """A fused multiply-add would find a distance between equal directions: their rounding."""
    row = np.random.default_rng(0).normal(size=32) * size
    x = jnp.asarray(np.broadcast_to(row, (64, 32)), jnp.float32)
    loss = lambda x: jnp.sum(self_supervised.koleo(x))
    lowered = jax.jit(jax.value_and_grad(loss)).lower(x)
    value, slope = lowered.compile({"xla_backend_optimization_level": 3})(x)  # as users do
    np.testing.assert_allclose(value, -64 * np.log(1e-8), rtol=1e-6)
    np.testing.assert_array_equal(slope, 0)


def test_koleo_moves_an_example_and_its_neighbour():
    x = jnp.asarray(np.float32([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]]))
    slope = jax.grad(lambda x: self_supervised.koleo(x)[0])(x)
    assert slope[0, 1] < 0 < slope[1, 1]  # gradient descent moves them apart
    np.testing.assert_array_equal(slope[2], [0, 0])


@pytest.mark.parametrize("apart", [1e-3, 1e-2, 1.0])
def test_uniformity_keeps_its_digits_where_a_set_has_nearly_collapsed(apart):
    x = (np.ones(5) + apart * ROOM).astype(np.float32)
    unit = np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True)
    squared = np.sum((unit[:, None] - unit) ** 2, axis=-1)[~np.eye(8, dtype=bool)]
    expected = np.log1p(np.mean(np.expm1(-2 * squared)))
    np.testing.assert_allclose(
        self_supervised.uniformity(x), expected, rtol=3e-4 if apart < 1e-2 else 1e-5
    )


def test_alignment_of_equal_directions_is_flat_at_every_power():
    x = jnp.asarray(np.float32([3.0, 4.0]))
    for power in (1.0, 2.0, 3.0):
        of = lambda x, p=power: self_supervised.alignment(x, jnp.float32([6.0, 8.0]), power=p)
        value, slope = jax.value_and_grad(of)(x)
        assert value == 0
        np.testing.assert_array_equal(slope, [0, 0])
    z = x + jnp.float32([4e-4, -3e-4])
    expected = 2 * numerics.cosine_distance(x, z)
    np.testing.assert_allclose(self_supervised.alignment(x, z), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sigreg", "visreg"])
def test_strict_promotion_in_float64(name):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        x, directions = jnp.ones((4, 3)), jnp.ones((3, 2))
        loss = getattr(self_supervised, name)
        step = jax.grad(lambda x: loss(x, directions=directions, mask=jnp.ones(4, bool)))
        assert jax.eval_shape(step, x).dtype == jnp.float64
