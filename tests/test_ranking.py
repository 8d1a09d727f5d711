"""Ranking: lists in a row, masked items, ties, tails, weights of pairs, agreement with rax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.platforms import forms_of

import jaxloss as jl
from jaxloss import ranking

SCORES = np.array([[0.5, -1.0, 2.0, 0.25, 1.0], [3.0, 0.1, -0.7, 0.2, -2.0]], np.float32)
RELEVANCE = np.array([[1.0, 0.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 2.0, 4.0]], np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1]], bool)
SEGMENTS = np.array([[0, 0, 1, 1, 1], [2, 5, 2, 5, -5]])

LISTWISE = ["softmax", "poly1_softmax", "unique_softmax", "list_mle", "approx_ndcg"]
PAIRWISE = ["hinge", "logistic", "soft_zero_one", "squared_error", "quantile"]
SORTED = ["softmax", "poly1_softmax", "list_mle"]  # in n log(n), without `chunk_size`
EVERY = LISTWISE + [f"pairwise_{name}" for name in PAIRWISE]
every_loss = pytest.mark.parametrize("name", EVERY)


@functools.cache
def compiled(name):
    """The loss, compiled once for each shape."""
    return jax.jit(getattr(ranking, name))


@functools.cache
def derivatives(name):
    """The value, the gradients, and a product with the Hessian, of scores and relevance."""

    @jax.jit
    def everything(scores, relevance, **options):
        function = lambda s, y: jnp.sum(getattr(ranking, name)(s, y, **options))
        gradient = jax.grad(function, argnums=(0, 1))
        at = (scores, relevance)
        _, second = jax.jvp(gradient, at, tuple(map(jnp.ones_like, at)))
        return function(*at), *gradient(*at), *second

    return lambda s, y, **options: everything(np.float32(s), np.float32(y), **options)


# --- lists -------------------------------------------------------------------------------------


@every_loss
def test_segments_are_lists_of_their_own(name):
    loss = compiled(name)
    got = loss(SCORES, RELEVANCE, segments=SEGMENTS, mask=MASK)
    for row, ids in enumerate(SEGMENTS):
        lists = [(ids == i) & MASK[row] for i in np.unique(ids)]
        alone = [loss(SCORES[row][at], RELEVANCE[row][at]) for at in lists if at.any()]
        np.testing.assert_allclose(got[row], np.mean(alone), rtol=2e-6)
    one = loss(SCORES, RELEVANCE, segments=np.full((2, 5), 7))
    np.testing.assert_allclose(one, loss(SCORES, RELEVANCE), rtol=1e-6)


@every_loss
def test_gradients_of_segments_are_those_of_lists(name):
    gradient = jax.jit(jax.grad(getattr(ranking, name)))
    got = gradient(SCORES[0], RELEVANCE[0], segments=SEGMENTS[0])
    for at in (slice(0, 2), slice(2, 5)):
        alone = gradient(SCORES[0][at], RELEVANCE[0][at])
        np.testing.assert_allclose(got[at], alone / 2, rtol=2e-5, atol=1e-6)


@every_loss
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one list", "segments"])
def test_masked_items_are_not_there(name, segments):
    options = {"mask": MASK} if segments is None else {"mask": MASK, "segments": segments}
    clean = compiled(name)(SCORES, RELEVANCE, **options)
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        dirty = [np.where(MASK, x, bad).astype(np.float32) for x in (SCORES, RELEVANCE)]
        results = derivatives(name)(*dirty, **options)
        assert all(np.all(np.isfinite(r)) for r in results)
        assert all(np.all(np.asarray(r)[~MASK] == 0) for r in results[1:])
        np.testing.assert_array_equal(compiled(name)(*dirty, **options), clean)
    if segments is None:
        alone = compiled(name)(SCORES[1][MASK[1]], RELEVANCE[1][MASK[1]])
        np.testing.assert_allclose(clean[1], alone, rtol=1e-6)


def test_checks_see_the_items_that_are_kept_wherever_the_axis_is():
    dirty = np.where(MASK, SCORES, np.nan).astype(np.float32)
    with jl.checks():
        ranking.softmax(dirty.T, RELEVANCE.T, mask=MASK.T, axis=0)
        with pytest.raises(ValueError, match="`scores` must be .*got nan"):
            ranking.softmax(dirty.T, RELEVANCE.T, mask=~MASK.T, axis=0)


@every_loss
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one list", "segments"])
def test_lists_that_say_nothing_cost_nothing(name, segments):
    everything, nothing = np.ones((2, 5), bool), np.zeros((2, 5), bool)
    single = np.arange(5) == [[1], [3]]
    cases = [(SCORES, RELEVANCE, nothing), (SCORES, RELEVANCE, single)]
    if name == "pairwise_squared_error":  # it depends on differences of equals
        cases.append((np.ones((2, 5)), np.zeros((2, 5)), everything))
    elif name != "list_mle":  # it takes the order of ties as given
        cases.append((SCORES, np.zeros((2, 5)), everything))
    for scores, relevance, mask in cases:
        options = {"mask": mask} if segments is None else {"mask": mask, "segments": segments}
        value, to_scores, *others = derivatives(name)(scores, relevance, **options)
        assert value == 0
        assert np.all(to_scores == 0)
        assert all(np.all(np.isfinite(d)) for d in others)
        assert all(np.all(np.asarray(d)[~mask] == 0) for d in others)


@every_loss
@pytest.mark.parametrize("segments", [None, np.zeros((2, 0), int)])
def test_lists_without_items_cost_nothing(name, segments):
    empty = np.zeros((2, 0), np.float32)
    got = compiled(name)(empty, empty, segments=segments)
    np.testing.assert_array_equal(got, [0, 0])


@pytest.mark.parametrize("name", [n for n in EVERY if n != "list_mle"])
def test_the_order_of_the_items_does_not_matter(name):
    loss = compiled(name)
    shuffled = np.array([3, 0, 4, 2, 1])
    got = loss(SCORES[:, shuffled], RELEVANCE[:, shuffled])
    np.testing.assert_allclose(got, loss(SCORES, RELEVANCE), rtol=1e-6)


@every_loss
def test_derivatives_are_finite_at_ties_and_far_out(name):
    tied = np.ones_like(RELEVANCE)
    places = [(scale * SCORES, RELEVANCE) for scale in (0.0, 1e-20, 80.0, 1e4)] + [(SCORES, tied)]
    for scores, relevance in places:
        results = derivatives(name)(scores, relevance, mask=np.ones((2, 5), bool))
        assert all(np.all(np.isfinite(r)) for r in results)


# --- single losses -----------------------------------------------------------------------------


def test_impossible_items():
    scores = np.array([0.0, -np.inf, 0.0], np.float32)
    for loss in (ranking.softmax, ranking.poly1_softmax):
        for segments in (None, np.zeros(3, int)):
            function = lambda s, y, loss=loss, segments=segments: loss(s, y, segments=segments)
            got, gradient = jax.value_and_grad(function)(scores, jnp.array([1.0, 0.0, 0.0]))
            expected = np.log(2) + (0.5 if loss is ranking.poly1_softmax else 0)
            np.testing.assert_allclose(got, expected, rtol=1e-6)
            assert np.all(np.isfinite(gradient))
            assert function(scores, np.array([0.0, 1.0, 0.0])) == np.inf


def test_softmax_is_one_loss_with_and_without_segments():
    scores = np.array([60.0, 0.0, -30.0], np.float32)
    relevance = np.array([1.0, 0.0, 0.0], np.float32)
    for segments in (None, np.zeros(3, int)):
        got = ranking.softmax(scores, relevance, segments=segments)
        np.testing.assert_allclose(got, np.exp(-60.0), rtol=1e-6)


def test_a_derivative_by_relevance_and_score_misses_no_term():
    """The gradient by relevance is the nll; its own gradient has a term at the top score."""
    scores, relevance = jnp.array([2.0, 1.0, 0.0]), jnp.array([1.0, 0.5, 0.25])
    expected = jax.nn.softmax(scores) - jnp.eye(3)
    for segments in (None, jnp.zeros(3, int)):
        loss = lambda s, y, segments=segments: ranking.softmax(s, y, segments=segments)
        hessian = jax.jit(jax.jacfwd(jax.grad(loss, argnums=(0, 1))))(scores, relevance)
        np.testing.assert_allclose(hessian[1], expected, rtol=1e-5, atol=1e-6)


def test_a_key_breaks_ties_and_nothing_else():
    relevance = np.array([1.0, 1.0, 1.0, 0.0], np.float32)
    scores = np.array([3.0, 1.0, -2.0, 0.0], np.float32)
    loss = compiled("list_mle")
    kept = loss(scores, relevance)
    values = [loss(scores, relevance, key=jax.random.key(i)) for i in range(40)]
    assert len({round(float(v), 4) for v in values}) == 6  # the orders of three items
    assert min(values) < kept + 1e-5
    np.testing.assert_array_equal(values[0], loss(scores, relevance, key=jax.random.key(0)))
    distinct = np.array([4.0, 1.0, 3.0, 2.0], np.float32)
    np.testing.assert_array_equal(
        loss(scores, distinct, key=jax.random.key(1)), loss(scores, distinct)
    )


def test_a_batch_with_a_key_is_its_lists_with_that_key():
    key = jax.random.key(0)
    tied = np.ones_like(RELEVANCE)
    one = lambda s, y: ranking.list_mle(s, y, key=key)
    np.testing.assert_allclose(jax.vmap(one)(SCORES, tied), one(SCORES, tied), rtol=1e-6)


def test_pairs_far_apart_keep_their_digits():
    """The difference of 65.3 and 0.017 is rounded; exp(-65.283) is not to be 30 ULP off."""
    scores = np.array([65.3, 0.017], np.float32)
    gap = np.float64(scores[0]) - np.float64(scores[1])
    for loss in (ranking.pairwise_logistic, ranking.pairwise_soft_zero_one):
        got, gradient = jax.value_and_grad(loss)(jnp.asarray(scores), jnp.array([1.0, 0.0]))
        np.testing.assert_allclose(got, np.exp(-gap), rtol=3e-7)
        np.testing.assert_allclose(gradient, [-np.exp(-gap), np.exp(-gap)], rtol=3e-7)
    near = np.array([1 + 2.0**-20, 2.0**-26], np.float32)  # misses the margin by 2**-20 - 2**-26
    got = ranking.pairwise_hinge(near, np.array([1.0, 0.0]), margin=1 + 2.0**-19)
    np.testing.assert_allclose(got, 2.0**-20 + 2.0**-26, rtol=1e-6)


def test_a_perfect_order_is_not_quite_perfect_while_ranks_are_smooth():
    scores, relevance = np.array([90.0, 40.0, 0.0], np.float32), np.array([2.0, 1.0, 0.0])
    with jax.enable_x64(True):
        exact = ranking.approx_ndcg(scores.astype(np.float64), relevance)
    got = ranking.approx_ndcg(scores, relevance)
    assert 0 < got < 1e-15
    np.testing.assert_allclose(got, exact, rtol=1e-6)
    hard = ranking.approx_ndcg(scores, np.array([0.0, 0.0, 1.0]), temperature=0.01)
    np.testing.assert_allclose(hard, 0.5, rtol=1e-6)


def test_squared_error_is_twice_the_variance_of_the_errors():
    expected = 2 * np.var(SCORES - RELEVANCE, axis=-1, ddof=1)
    got = ranking.pairwise_squared_error(SCORES, RELEVANCE)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_mean_does_not_overflow_where_its_sum_does():
    scores = np.array([1.5e19, 0.0, 1.5e19, 0.0], np.float32)
    got = ranking.pairwise_squared_error(scores, np.zeros(4))
    np.testing.assert_allclose(got, 1.5e38, rtol=1e-6)


def test_margin_of_two():
    first, second = np.array([1.0, 1.0, 1.0]), np.array([0.5, 0.5, 1.0])
    np.testing.assert_allclose(
        ranking.margin(first, second, [1, -1, 1], margin=0.75), [0.25, 1.25, 0.75]
    )
    assert np.isnan(ranking.margin(1.0, 0.0, 0.5))
    gradient = jax.grad(ranking.margin)(1.0, 1.0, 1.0)
    assert gradient == -0.5  # the mid-point at the kink


# --- agreement with rax 0.4.0, frozen ------------------------------------------------------------

RAX = {
    "softmax": [10.3250942, 36.3366623],
    "poly1_softmax": [11.073019, 37.3092232],
    "unique_softmax": [18.9614468, 98.3619232],
    "list_mle": [6.0229158, 14.7754173],
}
RAX_MASKED = {
    "softmax": [10.3250942, 32.3249741],
    "poly1_softmax": [11.073019, 33.2961769],
    "unique_softmax": [18.9614468, 94.1721039],
    "list_mle": [6.0229158, 10.9842558],
}
RAX_MEAN_OVER_PAIRS = {
    "pairwise_hinge": 1.9194444,
    "pairwise_logistic": 1.5100729,
    "pairwise_soft_zero_one": 0.5919697,
    "pairwise_quantile": 1.4249998,
}


@pytest.mark.parametrize("name", RAX)
def test_listwise_losses_are_those_of_rax(name):
    loss = getattr(ranking, name)
    np.testing.assert_allclose(loss(SCORES, RELEVANCE), RAX[name], rtol=1e-6)
    np.testing.assert_allclose(loss(SCORES, RELEVANCE, mask=MASK), RAX_MASKED[name], rtol=1e-6)


@pytest.mark.parametrize("name", RAX_MEAN_OVER_PAIRS)
def test_weighted_by_their_pairs_pairwise_losses_have_the_mean_of_rax(name):
    weights = ranking.pair_count(RELEVANCE)
    got = getattr(ranking, name)(SCORES, RELEVANCE, weights=weights, reduction="mean")
    np.testing.assert_allclose(got, RAX_MEAN_OVER_PAIRS[name], rtol=1e-6)


def test_other_definitions_differ_from_rax_as_they_say():
    with_self = 4 / 5 * np.mean(ranking.pairwise_squared_error(SCORES, RELEVANCE))
    np.testing.assert_allclose(with_self, 9.6655998, rtol=1e-6)
    ndcg = 1 - ranking.approx_ndcg(SCORES, RELEVANCE, temperature=0.7, mask=MASK)
    np.testing.assert_allclose(ndcg, [0.6554238, 0.5346153], rtol=1e-6)


# --- weights of pairs ----------------------------------------------------------------------------

# Row 0 of the second list, times the length of the list.
RAX_WEIGHTS = [
    (ranking.dcg_weights, {}, [0, 7.5, 2.8466172, 5.5360537, 45.986042]),
    (ranking.dcg_weights, {"mask": MASK}, [0, 7.5, 0, 5.5360537, 42.6992569]),
    (
        ranking.dcg_weights,
        {"segments": [[0, 0, 1, 1, 1], [2, 5, 2, 5, 5]]},
        [0, 0, 1.8453512, 0, 0],
    ),
    (
        ranking.dcg_weights,
        {"top": 2, "normalize": True},
        [0, 0.8879527, 0.2959843, 0.3277169, 4.439764],
    ),
    (ranking.dcg2_weights, {}, [0, 1.9639466, 0.3466171, 5.5360537, 3.2867835]),
    (ranking.dcg2_weights, {"mask": MASK}, [0, 1.9639466, 0, 5.5360537, 5.1992564]),
    (
        ranking.dcg2_weights,
        {"top": 2, "normalize": True},
        [0, 0.2325189, 0.0360404, 0.3277169, 0.3173255],
    ),
]


@pytest.mark.parametrize(("weights", "options", "expected"), RAX_WEIGHTS)
def test_weights_of_pairs_are_those_of_rax_but_for_the_length_of_the_list(
    weights, options, expected
):
    got = weights(SCORES, RELEVANCE, **options)
    np.testing.assert_allclose(5 * got[1, 0], expected, rtol=2e-6)
    np.testing.assert_array_equal(got, np.swapaxes(got, -1, -2))


def test_normalized_weights_of_segments_are_those_of_their_lists():
    """rax 0.4.0 normalizes only the first item of each segment."""
    segments = np.array([2, 5, 2, 5, 5])
    for weights in (ranking.dcg_weights, ranking.dcg2_weights):
        got = weights(SCORES[1], RELEVANCE[1], normalize=True, segments=segments)
        for ids in (2, 5):
            at = segments == ids
            alone = weights(SCORES[1][at], RELEVANCE[1][at], normalize=True)
            np.testing.assert_allclose(got[np.ix_(at, at)], alone, rtol=1e-6)
        assert np.all(got[np.ix_(segments == 2, segments == 5)] == 0)


def test_weights_of_pairs_enter_the_mean_over_pairs():
    weights = ranking.relevance_weights(SCORES, RELEVANCE)
    got = ranking.pairwise_logistic(SCORES, RELEVANCE, pair_weights=weights)
    for row in range(2):
        costs = [
            (RELEVANCE[row, i] - RELEVANCE[row, j])
            * np.log1p(np.exp(SCORES[row, j] - SCORES[row, i]))
            for i in range(5)
            for j in range(5)
            if RELEVANCE[row, i] > RELEVANCE[row, j]
        ]
        np.testing.assert_allclose(got[row], np.mean(costs), rtol=1e-6)


def test_ranks_have_no_gradient_and_ties_no_nan():
    function = lambda s, y: jnp.sum(ranking.dcg2_weights(s, y, normalize=True, top=2) ** 2)
    for relevance in (RELEVANCE, np.zeros_like(RELEVANCE)):
        gradients = jax.grad(function, argnums=(0, 1))(jnp.zeros((2, 5)), jnp.asarray(relevance))
        assert np.all(gradients[0] == 0)
        assert np.all(np.isfinite(gradients[1]))


def test_masked_pairs_have_weight_0_and_whatever_they_hold_is_not_seen():
    dirty = [np.where(MASK, x, np.nan) for x in (SCORES, RELEVANCE)]
    both = MASK[:, :, None] & MASK[:, None, :]
    for weights in (ranking.relevance_weights, ranking.dcg_weights, ranking.dcg2_weights):
        got = weights(*dirty, mask=MASK)
        assert np.all(got[~both] == 0)
        assert np.all(np.isfinite(got))
    given = np.where(both, 1.0, np.nan)
    got = ranking.pairwise_hinge(*dirty, mask=MASK, pair_weights=given)
    np.testing.assert_array_equal(got, ranking.pairwise_hinge(*dirty, mask=MASK))


def test_pair_count_counts_pairs():
    np.testing.assert_array_equal(ranking.pair_count(RELEVANCE), [9, 9])
    np.testing.assert_array_equal(ranking.pair_count(RELEVANCE, mask=MASK), [9, 5])
    np.testing.assert_array_equal(ranking.pair_count([[1, 1], [0, 0]]), [0, 0])
    counts = ranking.pair_count([3, 2, 1, 0], segments=[0, 1, 0, 1])
    np.testing.assert_array_equal(counts, 2)  # of 6, those of 3 and 1 and of 2 and 0


def test_helpers_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"dcg_weights: `relevance` has shape \(2, 4\)"):
        ranking.dcg_weights(SCORES, RELEVANCE[:, :4])
    with pytest.raises(TypeError, match="dcg2_weights: `mask` is float32"):
        ranking.dcg2_weights(SCORES, RELEVANCE, mask=MASK.astype(np.float32))
    with pytest.raises(ValueError, match="`gain` is 'square', expected one of"):
        ranking.dcg_weights(SCORES, RELEVANCE, gain="square")
    with pytest.raises(ValueError, match="`gain` is 'linar'.*Did you mean 'linear'"):
        ranking.approx_ndcg(SCORES, RELEVANCE, gain="linar")
    with pytest.raises(ValueError, match=r"`pair_weights` has shape .* expected \(2, 5, 5\)"):
        ranking.pairwise_hinge(SCORES, RELEVANCE, pair_weights=np.ones((2, 5)))
    with pytest.raises(TypeError, match="`segments` is float32"):
        ranking.softmax(SCORES, RELEVANCE, segments=SCORES)


def test_half_precision_weights_are_float32():
    got = ranking.dcg_weights(jnp.asarray(SCORES, jnp.bfloat16), RELEVANCE)
    assert got.dtype == jnp.float32


# --- chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in EVERY if n not in SORTED])
def test_pairs_in_chunks_have_the_value_of_all_pairs_at_once(name):
    loss = getattr(ranking, name)
    generator = np.random.default_rng(3)
    scores, relevance = np.abs(np.float32(generator.normal(size=(2, 2, 3, 11))))
    mask, segments = generator.random((2, 3, 11)) < 0.8, generator.integers(0, 3, (2, 3, 11))
    pair_weights = np.float32(generator.random((2, 3, 11, 11)))

    def everything(chunk):
        def function(s, y, w):
            more = {"pair_weights": w} if name.startswith("pairwise") else {}
            weighted = loss(s, y, mask=mask, segments=segments, chunk_size=chunk, **more)
            return jnp.sum(weighted), (weighted, loss(s, y, mask=mask, chunk_size=chunk))

        return jax.value_and_grad(function, (0, 1, 2), has_aux=True)

    at = scores, relevance, pair_weights
    whole, *parts = (jax.jit(everything(chunk))(*at) for chunk in (None, 4, 40))
    for part in parts:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-6, 1e-6), part, whole)


@every_loss
def test_no_array_of_all_pairs_exists_with_chunks_or_after_sorting(name):
    loss, items = getattr(ranking, name), 1009  # not a multiple of the chunk
    chunks = {} if name in SORTED else {"chunk_size": 16}

    def function(scores, relevance, segments):
        return loss(scores, relevance, segments=segments, **chunks)

    struct = jax.ShapeDtypeStruct
    data = struct((items,), "f4"), struct((items,), "f4"), struct((items,), "i4")
    program = jax.jit(jax.value_and_grad(function, (0, 1))).lower(*data).compile()
    assert program.memory_analysis().temp_size_in_bytes < items * items  # were it of booleans


def test_a_squared_error_of_all_pairs_is_exact_around_a_far_centre():
    scores = np.float32([2.0**20, 2.0**20 + 0.125, 2.0**20 - 0.25, 2.0**20])
    gaps = np.subtract.outer(np.float64(scores), np.float64(scores))
    got = ranking.pairwise_squared_error(scores, np.zeros(4))
    np.testing.assert_allclose(got, np.sum(gaps**2) / 12, rtol=1e-6)


def test_errors_stay_on_the_chip_of_a_tpu():
    scores = jnp.asarray(SCORES).at[0, 1].set(jnp.nan).at[1, 0].set(2.0**24)
    data = scores, jnp.asarray(RELEVANCE)
    mask = np.broadcast_to(np.arange(SCORES.shape[-1]) != 2, SCORES.shape)

    def derivatives():
        loss = functools.partial(ranking.pairwise_squared_error, mask=mask)
        slopes = jax.grad(lambda *data: jnp.sum(loss(*data)), (0, 1))
        changes = lambda *data: jax.jvp(slopes, data, data[::-1])
        program = jax.jit(lambda *data: (loss(*data), jax.jvp(loss, data, data), changes(*data)))
        return jax.tree.leaves(program(*data)), str(jax.make_jaxpr(loss)(*data))

    expected, _ = derivatives()
    for platform, barriers in (("cuda", 0), ("tpu", 2)):
        with forms_of(platform):
            got, program = derivatives()
        assert program.count("optimization_barrier") == barriers
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_a_chunk_that_is_no_number_of_items_is_refused():
    with pytest.raises(
        TypeError, match=r"pairwise_hinge: `chunk_size` is 2.5, expected an integer or None"
    ):
        ranking.pairwise_hinge(SCORES, RELEVANCE, chunk_size=2.5)
    with pytest.raises(
        ValueError, match=r"pairwise_logistic: `chunk_size` is 0, expected at least 1"
    ):
        ranking.pairwise_logistic(SCORES, RELEVANCE, chunk_size=0)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("segments", [None, SEGMENTS])
def test_sorted_lists_lie_on_any_mesh(kind, segments):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType[kind],))
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    slopes = jax.grad(lambda s, r: ranking.list_mle(s, r, segments=segments, reduction="sum"))
    with jax.set_mesh(mesh):
        got = jax.jit(slopes)(*(jax.device_put(x, by_row) for x in (SCORES, RELEVANCE)))
    assert got.sharding.spec[0] == "data"
    np.testing.assert_allclose(got, slopes(SCORES, RELEVANCE), rtol=1e-5, atol=1e-6)


def list_mle_of_order(scores, order, d):
    """The loss of one list in float64, its gradient, and its second derivative times d."""
    value, gradient, product = 0.0, np.zeros_like(scores), np.zeros_like(scores)
    for i in range(len(order)):
        later = order[i:]
        shifted = scores[later] - np.max(scores[later])
        p = np.exp(shifted) / np.sum(np.exp(shifted))
        value += np.log(np.sum(np.exp(shifted))) - shifted[0]
        gradient[later] += p
        gradient[order[i]] -= 1
        product[later] += p * (d[later] - p @ d[later])
    return value, gradient, product


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_long_lists_are_summed_in_blocks(platform, monkeypatch):
    """Lists that begin and end inside of blocks, in one and in many, with items left out."""

    def chosen(*arguments, default, **platforms):
        return platforms.get(platform, default)(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    jax.clear_caches()
    random, size = np.random.default_rng(0), 90
    scores = (np.repeat([1, 30], size // 2) * random.standard_normal(size)).astype(np.float32)
    relevance, d = random.permutation(size).astype(np.float32), random.standard_normal(size)
    segments = np.repeat([0, 1, 2, 3], [60, 2, 27, 1])
    mask = random.random(size) < 0.8
    for keep, lists in (
        (np.ones(size, bool), 0 * segments),
        (mask, 0 * segments),
        (mask, segments),
    ):
        loss = functools.partial(
            ranking.list_mle, relevance=relevance, mask=keep, segments=lists, reduction="sum"
        )
        expected = 0.0, np.zeros(size), np.zeros(size)
        for number in np.unique(lists):
            inside = np.flatnonzero(keep & (lists == number))
            order = inside[np.argsort(-relevance[inside])]
            of_list = list_mle_of_order(scores.astype(np.float64), order, d)
            expected = tuple(a + b for a, b in zip(expected, of_list, strict=True))
        count = len(np.unique(lists[keep]))
        slopes = jax.value_and_grad(loss)
        (value, gradient), (_, product) = jax.jit(lambda x, t, f=slopes: jax.jvp(f, (x,), (t,)))(
            scores, d.astype(np.float32)
        )
        eps = np.finfo(np.float32).eps
        for got, wanted in zip((value, gradient), expected, strict=False):
            atol = 8 * eps * np.max(np.abs(wanted / count))
            np.testing.assert_allclose(got, wanted / count, rtol=0, atol=atol)
        # As many terms as items, each the difference of an entry of d and a mean of them.
        atol = size * eps * np.max(np.abs(d))
        np.testing.assert_allclose(product, expected[2] / count, rtol=0, atol=atol)
    jax.clear_caches()
