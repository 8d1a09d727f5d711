"""Scoring rules: values of other libraries, limits, masked members, members that coincide."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from arithmetic import ulp_error
from cases import scoring as rows
from cases import x64
from harness.platforms import forms_of

from jaxloss import nll, regression, scoring
from jaxloss.numerics import _members, _reductions

pytestmark = pytest.mark.few

LOCATION = np.array([0.3, -1.2, 0.8, 1.6])
TARGET = np.array([0.7, -0.9, -0.2, 0.9])
SCALE = np.array([0.5, 1.5, 0.25, 2.0])
DEGREES = np.array([1.5, 3.0, 8.0, 50.0])
MEMBERS = np.array([[0.1, 1.2, -0.4, 0.9], [2.0, -1.0, 0.5, 0.25]])
OBSERVED = np.array([0.3, -0.7])

# scoringrules 0.10.0: values, and the gradients in location, target and scale by torch 2.14.1.
SCORINGRULES = {
    "crps_gaussian": [
        [0.2381124687, 0.3743996118, 0.8589561843, 0.5641452386],
        [-0.5762892, -0.15851942, 0.999936657, 0.273661303],
        [0.5762892, 0.15851942, -0.999936657, -0.273661303],
        [0.015193577, 0.217895857, -0.563921892, 0.186291163],
    ],
    "crps_logistic": [
        [0.2711006659, 0.5944166081, 0.759074964, 0.8335286217],
        [-0.379948962, -0.099667995, 0.96402758, 0.173235158],
        [0.379948962, 0.099667995, -0.96402758, -0.173235158],
        [0.238242162, 0.37634414, -0.819810464, 0.356132006],
    ],
    "crps_laplace": [
        [0.2496644821, 0.4030961296, 0.8170789097, 0.6093761794],
        [-0.550671036, -0.181269247, 0.981684361, 0.29531191],
        [0.550671036, 0.181269247, -0.981684361, -0.29531191],
        [0.058792135, 0.232476904, -0.658421806, 0.201328921],
    ],
    "crps_student_t": [  # gradients by central differences: 1.5, 3, 8 and 50 degrees of freedom
        [0.2698883962, 0.4354525901, 0.8417265577, 0.5678777503],
        [-0.46933567, -0.14572967, 0.99605023, 0.27219122],
        [0.46933567, 0.14572967, -0.99605023, -0.27219122],
        [0.16430826, 0.26115579, -0.61729468, 0.18867195],
        [-0.04044862, -0.02452832, 0.00234511, -7.557e-05],
    ],
    "crps_log_normal": [  # of the targets exp(TARGET), differentiated in TARGET
        [0.377125376, 0.1528106204, 1.1552669211, 4.3967009103],
        [-0.78337856, 0.088361427, 1.973945814, 5.069799027],
        [1.160503937, 0.064449193, -0.818678893, -0.673098116],
        [-0.035648711, 0.15227678, -0.781694705, 4.389382265],
    ],
}


@pytest.mark.parametrize("name", SCORINGRULES)
def test_values_and_gradients_of_scoringrules(name):
    loss = getattr(scoring, name)
    change = jnp.exp if name == "crps_log_normal" else lambda y: y
    total = lambda m, y, *rest: jnp.sum(loss(m, change(y), *rest))
    expected = SCORINGRULES[name]
    others = (SCALE, DEGREES)[: len(expected) - 3]
    np.testing.assert_allclose(loss(LOCATION, change(TARGET), *others), expected[0], rtol=2e-6)
    argnums = tuple(range(len(expected) - 1))
    got = jax.grad(total, argnums)(*map(jnp.float32, (LOCATION, TARGET, *others)))
    np.testing.assert_allclose(got, expected[1:], rtol=1e-5, atol=1e-6)


def test_ensembles_of_scoringrules():
    np.testing.assert_allclose(
        scoring.crps_ensemble(MEMBERS, OBSERVED), [0.13333333, 0.51666667], rtol=1e-6
    )
    np.testing.assert_allclose(
        scoring.crps_ensemble(MEMBERS, OBSERVED, fair=False), [0.25, 0.709375], rtol=1e-6
    )
    vectors = MEMBERS.reshape(4, 2)
    np.testing.assert_allclose(scoring.energy_score(vectors, OBSERVED), 0.7014578927908, rtol=1e-6)
    np.testing.assert_allclose(
        scoring.energy_score(vectors, OBSERVED, fair=False), 0.9232193120445, rtol=1e-6
    )
    np.testing.assert_allclose(
        scoring.variogram_score(vectors, OBSERVED), 0.0221588174120, rtol=1e-5
    )
    got = scoring.variogram_score(vectors, OBSERVED, exponent=1.5)
    np.testing.assert_allclose(got, 1.9573005791994, rtol=1e-5)


def test_intervals_and_classes_of_scoringrules():
    got = scoring.interval_score([-0.2, -0.1], [0.2, 1.0], OBSERVED, alpha=0.2)
    np.testing.assert_allclose(got, [1.4, 7.1], rtol=1e-6)
    ends = [-1.0, -0.3], [1.0, 0.2]
    got = scoring.weighted_interval_score(0.1, *ends, 0.3, alpha=[0.2, 0.5])
    np.testing.assert_allclose(got, 0.21, rtol=1e-6)
    got = scoring.ranked_probability([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], [0, 2])
    np.testing.assert_allclose(got, [0.3125, 0.1], rtol=1e-6)
    got = scoring.crps_quantiles([-1.0, 0.1, 1.0], 0.3, level=[0.25, 0.5, 0.75])
    np.testing.assert_allclose(got, 0.4, rtol=1e-6)


def test_far_and_near_errors_of_a_gaussian_keep_their_digits():
    score = np.float32([1e-30, 1e-20, 1e-8, 10.0, 1e10, 1e20, 1e30])
    slope = jax.vmap(jax.grad(scoring.crps_gaussian, (0, 2)), (0, None, None))
    in_location, in_scale = slope(score, jnp.float32(0), jnp.float32(1))
    near = score < 1
    exact = np.float64(score[near]) * np.sqrt(2 / np.pi)
    assert ulp_error(np.asarray(in_location)[near], exact).max() < 2
    np.testing.assert_array_equal(np.asarray(in_location)[~near], 1)
    at_median = (np.sqrt(2) - 1) / np.sqrt(np.pi)
    np.testing.assert_allclose(in_scale[near], at_median, rtol=1e-7)
    np.testing.assert_allclose(in_scale[~near], -1 / np.sqrt(np.pi), rtol=1e-7)
    # Where the error in standard deviations overflows, the score is the error.
    value, slopes = jax.value_and_grad(scoring.crps_gaussian, (0, 2))(1e30, 0.0, 1e-30)
    assert value == np.float32(1e30)
    np.testing.assert_allclose(slopes, [1, -1 / np.sqrt(np.pi)], rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["crps_gaussian", "crps_logistic", "crps_laplace", "crps_student_t"]
)
def test_without_spread_the_score_is_the_absolute_error(name):
    shape = {"degrees_of_freedom": 3.0} if name == "crps_student_t" else {}
    got = getattr(scoring, name)([1.0, 2.0], [4.0, -5.0], scale=1e-20, **shape)
    np.testing.assert_array_equal(got, regression.absolute_error([1.0, 2.0], [4.0, -5.0]))


def test_limits_of_the_degrees_of_freedom_of_student_t():
    error = np.float32([0.0, 1e-10, 0.3, 2.0, 7.0, 1e6])
    # One: the Cauchy distribution, of which the score is elementary.
    got = scoring.crps_student_t(0.0, error, scale=1.0, degrees_of_freedom=1.0)
    e = np.float64(error)
    expected = (2 * e * np.arctan(e) - np.log1p(e**2) + np.log(4)) / np.pi
    np.testing.assert_allclose(got, expected, rtol=4e-7)
    many = scoring.crps_student_t(0.0, error, scale=1.0, degrees_of_freedom=1e9)
    np.testing.assert_allclose(many, scoring.crps_gaussian(0.0, error, 1.0), rtol=4e-7)
    assert scoring.crps_student_t(0.0, 1.0, scale=1.0, degrees_of_freedom=0.5) == jnp.inf


@pytest.mark.parametrize("degrees", [1e10, 1e30, 3e38])
def test_student_t_with_all_degrees_of_freedom_is_a_gaussian(degrees):
    loss = lambda d: scoring.crps_student_t(0.0, 2.0, 1.0, d)
    value, slope = jax.value_and_grad(loss)(jnp.float32(degrees))
    np.testing.assert_allclose(value, scoring.crps_gaussian(0.0, 2.0, 1.0), rtol=1e-6)
    assert 0 <= slope < 1e-19


def test_gradient_in_the_degrees_of_freedom_keeps_its_digits():
    """With nu degrees of freedom it is about 1 / nu^2, far below the others."""
    at = np.float32([0.0, 0.4, 1.3, 1.9, 2.1, 3.0, 30.0, 1e8])
    many = np.float32([0.7, 1.0001, 2.0, 11.0, 3e3, 1e6])
    error, degrees = (x.ravel() for x in np.meshgrid(at, many))
    slope = jax.jit(jax.vmap(jax.grad(scoring.crps_student_t, 3), (None, 0, None, 0)))
    got = np.asarray(slope(0.0, error, 1.0, degrees))
    for g, e, n in zip(got, error, degrees, strict=True):
        with mpmath.workdps(60):
            step, e, n = mpmath.mpf(10) ** -25, mpmath.mpf(float(e)), mpmath.mpf(float(n))
            up, down = (rows.crps_student_t(0, e, mpmath.mpf(1), n + d) for d in (step, -step))
            exact = (up - down) / (2 * step)
            # It changes its sign once, about one standard deviation from the center.
            assert abs(g - exact) < 2e-6 * (abs(exact) + 0.03 / n**2), (e, n)


def test_curvature_of_student_t_is_that_of_its_gradient():
    at = jnp.array([0.3, 1.2, 2.5]), jnp.array([0.7, 1.0, 0.4]), jnp.array([1.5, 4.0, 30.0])
    total = lambda e, s, n: jnp.sum(scoring.crps_student_t(0.0, e, s, n))
    with x64():
        at = tuple(np.float64(x) for x in at)
        slope = jax.jit(jax.grad(total, (0, 1, 2)))
        curvature = jax.jit(jax.jacfwd(jax.grad(total, (0, 1, 2)), (0, 1, 2)))(*at)
        for k in range(3):
            up, down = ((*at[:k], at[k] + d, *at[k + 1 :]) for d in (1e-5, -1e-5))
            for j, (a, b) in enumerate(zip(slope(*up), slope(*down), strict=True)):
                got = np.diagonal(curvature[j][k])
                np.testing.assert_allclose(got, (a - b) / 2e-5, rtol=1e-6, atol=1e-9)


def test_a_narrow_log_normal_is_a_gaussian_about_its_median():
    scale = np.float32([1e-6, 1e-5])
    target = np.float32(1 + 2e-6)
    got = scoring.crps_log_normal(0.0, target, scale)
    expected = scoring.crps_gaussian(0.0, np.log(np.float64(target)), scale)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    # Very wide ones do not give NaN.
    value, slopes = jax.value_and_grad(scoring.crps_log_normal, (0, 1, 2))(-100.0, 2.0, 1.0)
    np.testing.assert_allclose(value, 2.0)
    assert np.all(np.isfinite(slopes))
    assert not np.any(np.isnan(scoring.crps_log_normal([0.0, 80.0], 1.0, scale=[30.0, 9.0])))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_form_of_a_log_normal_on_tpu_has_the_same_digits(dtype):
    rng = np.random.default_rng(0)
    scale, location = np.geomspace(1e-3, 5, 400), np.zeros(400)
    target = np.exp(rng.normal(size=400) * scale)
    location[-4:], scale[-5] = [-100, 80, np.nan, -np.inf], 30
    data = tuple(jnp.asarray(x, dtype) for x in (location, target, scale))

    def derivatives():
        total = lambda *data: jnp.sum(scoring.crps_log_normal(*data))
        slopes = jax.grad(total, (0, 1, 2))
        ones = tuple(map(jnp.ones_like, data))
        change = jax.jit(lambda *data: jax.jvp(slopes, data, ones))
        return scoring.crps_log_normal(*data), jax.tree.leaves(change(*data))

    value, changes = derivatives()
    with forms_of("tpu"):
        again, others = derivatives()
    np.testing.assert_allclose(again[:-5], value[:-5], rtol=2e-6)
    small = 1e-6 if dtype == jnp.float32 else 2.0**-8
    for a, b in zip((again, *others), (value, *changes), strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=4 * small, atol=small)


def double_sum(members, target, fair):
    count = len(members)
    pairs = np.abs(members[:, None] - members[None, :]).sum()
    return np.abs(members - target).mean() - pairs / (2 * count * (count - fair))


@pytest.mark.parametrize("fair", [True, False])
def test_the_sorted_ensemble_is_the_double_sum(fair):
    generator = np.random.default_rng(0)
    for count in (2, 3, 17, 100):
        members = generator.normal(size=count).astype(np.float32).round(1)  # with ties
        got = scoring.crps_ensemble(members, 0.3, fair=fair)
        expected = double_sum(np.float64(members), np.float64(np.float32(0.3)), fair)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_members_that_coincide_share_their_gradient():
    members = jnp.array([1.0, 4.0, 2.0, 4.0])
    slope = jax.grad(scoring.crps_ensemble)(members, 2.0)
    # Ranks 1, 3.5, 2, 3.5; of the member at the target the mean of both sides.
    np.testing.assert_allclose(slope, [0, 1 / 12, 1 / 12, 1 / 12], atol=1e-7)
    many = jnp.tile(members, 10)
    slope = jax.grad(scoring.crps_ensemble)(many, 2.0)
    np.testing.assert_allclose(slope[:4], slope[-4:])
    np.testing.assert_array_equal(jax.grad(scoring.crps_ensemble)(jnp.ones(5), 1.0), 0)
    same = jnp.ones((4, 3))
    for loss in (scoring.energy_score, scoring.variogram_score):
        value, slopes = jax.value_and_grad(loss, (0, 1))(same, jnp.ones(3))
        assert value == 0
        np.testing.assert_array_equal(slopes[0], 0)
        np.testing.assert_array_equal(slopes[1], 0)


def test_close_members_far_from_0_keep_their_digits():
    offset = np.float32(2.0**20)
    members = offset + np.float32([1.0, 1.125, 1.25, 1.5])
    got = scoring.crps_ensemble(members, offset + np.float32(1.1875))
    expected = double_sum(np.float64(members), float(offset) + 1.1875, True)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("fair", [True, False])
def test_one_member_is_a_point_forecast(fair):
    assert scoring.crps_ensemble([3.0], 1.0, fair=fair) == 2
    assert scoring.energy_score([[3.0, 4.0]], [0.0, 0.0], fair=fair) == 5
    mask = [True, False, False]
    assert scoring.crps_ensemble([3.0, jnp.nan, jnp.inf], 1.0, fair=fair, mask=mask) == 2


@pytest.mark.parametrize("fair", [True, False])
def test_a_masked_member_is_not_there(fair):
    generator = np.random.default_rng(1)
    members = generator.normal(size=(2, 5, 3)).astype(np.float32)
    target = generator.normal(size=(2, 3)).astype(np.float32)
    mask = np.array([True, False, True, True, False])
    dirty = jnp.where(mask[:, None], members, jnp.nan)
    for loss, options in (
        (scoring.energy_score, {"fair": fair}),
        (scoring.variogram_score, {}),
    ):
        total = jax.jit(jax.value_and_grad(functools.partial(loss, reduction="sum", **options)))
        got, slope = total(dirty, target, mask=mask)
        np.testing.assert_allclose(got, total(members[:, mask], target)[0], rtol=1e-5)
        assert np.all(np.isfinite(slope))
        assert np.all(slope[:, ~mask] == 0)
    got = scoring.crps_ensemble(dirty[..., 0], target[:, 0], mask=mask, fair=fair)
    expected = scoring.crps_ensemble(members[:, mask, 0], target[:, 0], fair=fair)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_unknown_target_leaves_the_spread_too():
    """Else a larger variance of the members would lower the loss where nothing is known."""
    members = jnp.array([[0.0, 1.0], [0.0, 5.0]])
    known = jnp.array([True, False])
    target = jnp.array([0.5, jnp.nan])
    mean = lambda x: scoring.crps_ensemble(x, target, where=known, reduction="mean")
    value, slope = jax.value_and_grad(mean)(members)
    np.testing.assert_allclose(value, scoring.crps_ensemble(members[0], 0.5))
    np.testing.assert_array_equal(slope[1], 0)


def test_the_fair_score_is_unbiased():
    """Its mean over ensembles is the CRPS of the distribution they are drawn from."""
    members = np.random.default_rng(2).normal(size=(40_000, 3)).astype(np.float32)
    got = scoring.crps_ensemble(members, jnp.full(40_000, 0.7), reduction="mean")
    np.testing.assert_allclose(got, scoring.crps_gaussian(0.0, 0.7, 1.0), atol=0.01)


def test_one_component_is_the_crps():
    got = scoring.energy_score(MEMBERS[..., None], OBSERVED[..., None])
    np.testing.assert_allclose(got, scoring.crps_ensemble(MEMBERS, OBSERVED), rtol=2e-6)


def test_quantiles_at_midpoints_are_an_ensemble():
    ordered = np.sort(MEMBERS, axis=-1)
    got = scoring.crps_quantiles(ordered, OBSERVED)
    np.testing.assert_allclose(got, [0.25, 0.709375], rtol=1e-6)


def test_the_weighted_interval_score_is_twice_the_mean_pinball_loss():
    quantiles = np.float32([-1.0, -0.4, 0.1, 0.7, 2.0])
    level = np.arange(1, 6) / 6
    got = scoring.weighted_interval_score(quantiles[2], quantiles[[0, 1]], quantiles[[4, 3]], 1.1)
    expected = 2 * regression.quantiles(quantiles, 1.1, level=level)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_ends_in_the_wrong_order_have_a_score_of_at_least_0():
    assert scoring.interval_score(1.0, -1.0, 0.0, alpha=0.5) == 6
    assert scoring.interval_score(1.0, -1.0, 0.0, alpha=1.0) == 2


def test_the_brier_score_of_two_classes_is_twice_the_squared_error():
    p = jnp.array([0.1, 0.6, 1.0])
    both = jnp.stack([1 - p, p], axis=-1)
    got = scoring.brier(both, jnp.array([0, 1, 0]))
    np.testing.assert_allclose(got, 2 * jnp.square(p - jnp.array([0.0, 1.0, 0.0])), rtol=1e-6)


def test_ranked_probability_counts_how_far_off_a_class_is():
    eye = jnp.eye(4)
    np.testing.assert_array_equal(scoring.ranked_probability(eye, jnp.zeros(4, int)), [0, 1, 2, 3])
    np.testing.assert_array_equal(scoring.brier(eye, jnp.zeros(4, int)), [0, 2, 2, 2])


def test_dawid_sebastiani_is_twice_the_likelihood():
    got = scoring.dawid_sebastiani(LOCATION, TARGET, SCALE)
    expected = 2 * nll.gaussian(LOCATION, TARGET, SCALE**2, full=False)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_memory_of_the_energy_score_does_not_grow_with_pairs_times_components():
    members, dim = 32, 4096
    run = jax.jit(jax.grad(scoring.energy_score))
    shapes = (jax.ShapeDtypeStruct(s, np.float32) for s in ((members, dim), (dim,)))
    used = run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert used < 8 * members * dim * 4


def test_ranks_counted_one_member_after_the_other_are_those_of_all_pairs():
    x = np.array([[3.0, -np.inf, 0.5, 0.5, 2.0, np.inf, -1.0, 0.5], [0.0] * 8], np.float32)
    in_pairs, in_turn = _members._below_in_pairs(x), _members._below_in_turn(jnp.asarray(x))
    np.testing.assert_array_equal(in_turn, in_pairs)
    np.testing.assert_array_equal(_members.ranks(jnp.asarray(x[1])), 4.5)


@pytest.mark.parametrize("classes", [2048, 2049])
def test_cumulative_sums_on_tpu_are_a_product_if_they_are_short(classes):
    x = jax.ShapeDtypeStruct((4, classes), np.float32)
    traced = jax.jit(_reductions.cumulative_sum).trace(x)
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        is_product = platform == "tpu" and classes == 2048
        assert ("dot_general" in text, "reduce_window" in text) == (is_product, not is_product)


def test_a_cumulative_sum_as_a_product_has_its_terms_in_order():
    x = np.random.default_rng(0).integers(-9, 9, (3, 40)).astype(np.float32)
    np.testing.assert_array_equal(_reductions._times_triangle(x), np.cumsum(x, axis=-1))
