"""Sums relative to the largest entry, in the pass that finds it: against NumPy in float64.

On CPU the losses take two passes; here the reduction for GPU and TPU runs on CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.numerics import _online_sums as online
from jaxloss.numerics import _rivals, _softmax_pair
from jaxloss.numerics._double_double import DD
from jaxloss.numerics._online_pair import pair_sums
from jaxloss.numerics._softmax_pair import normalizers_of

random = np.random.default_rng(0)
ROWS = {
    "drawn": random.normal(size=(4, 37)).astype(np.float32) * 4,
    "ascending": np.linspace(-30, 3, 37, dtype=np.float32)[None],
    "descending": np.linspace(3, -30, 37, dtype=np.float32)[None],
    "ties": np.float32([[1, 2, 2, 0, 2], [5, 5, 5, 5, 5]]),
    "one": np.float32([[3]]),
    "infinite": np.float32([[-np.inf, 1, -np.inf, 0], [np.inf, 1, np.inf, -np.inf]]),
    "impossible": np.float32([[-np.inf] * 3]),
    "largest": np.float32([[3e38, -3e38, 0], [-3.4e38, -3.4e38, -np.inf]]),
    "certain": np.float32([[20, 0, 0], [0, 90, 0]]),
}


def exact(x):
    """The largest entry and exp(x - top) in float64; inf - inf counts as 0."""
    top = x.max(-1, keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.where(x == top, 0, top - x)
    exps = np.where(top == -np.inf, 0, np.exp(-gap))
    return top[..., 0], gap, exps


@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_the_sum_without_one_of_the_largest_has_all_digits(x):
    top, rest = jax.jit(online.top_and_rest)(x)
    expected_top, _, exps = exact(x)
    ordered = np.sort(exps, -1)[..., :-1]
    np.testing.assert_array_equal(top, expected_top)
    np.testing.assert_allclose(rest, ordered.sum(-1), rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_the_sum_of_the_gaps(x):
    top, rest, gap = jax.jit(online.top_rest_and_gap)(x)
    _, of_rows, exps = exact(x)
    np.testing.assert_array_equal((top, rest), online.top_and_rest(x))
    expected = np.where(exps == 0, 0, exps * np.where(exps == 0, 0, of_rows)).sum(-1)
    np.testing.assert_allclose(gap, expected, rtol=2e-6, atol=1e-35)  # of subnormal exponentials


def test_the_derivative_of_the_sum_of_the_gaps_holds_the_largest_entry_fixed():
    x = jnp.array([0.3, 2.0, -1.0, 1.5])
    ours = lambda x: online.top_rest_and_gap(x)[2]
    held = lambda x: jnp.sum(jnp.exp(x - 2.0) * (2.0 - x))
    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(held)(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_the_sums_of_what_is_counted(x):
    counted = np.arange(x.shape[-1]) % 3 != 1
    other = random.normal(size=x.shape).astype(np.float32)
    top, total, (of_other,) = jax.jit(online.top_and_sum)(x, counted, (other,))
    expected_top, _, exps = exact(x)
    np.testing.assert_array_equal(top, expected_top)
    expected = np.where(counted, exps, 0).sum(-1)
    np.testing.assert_allclose(total, expected, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(of_other, other.astype(np.float64).sum(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_the_sums_with_weights(x):
    weights = random.uniform(size=x.shape).astype(np.float32)
    weights[x == -np.inf] = 0
    found = jax.jit(online.weighted_sums)(x, weights)
    top, gap, _ = exact(x)
    at_top = (x == top[..., None]) & (top > -np.inf)[..., None]
    np.testing.assert_array_equal(found.top, top)
    np.testing.assert_allclose(found.at_top, np.where(at_top, weights, 0).sum(-1), rtol=1e-6)
    np.testing.assert_allclose(found.below, np.where(at_top, 0, weights).sum(-1), rtol=1e-6)
    with np.errstate(over="ignore"):  # a gap of 6e38 is infinite in float32
        gap = np.where(weights == 0, 0, gap).astype(np.float32)
    np.testing.assert_allclose(found.gaps, (weights * gap.astype(np.float64)).sum(-1), rtol=2e-6)


def test_a_label_of_an_impossible_class_has_no_finite_loss():
    x = np.float32([[-np.inf, 0, 1], [-np.inf, -np.inf, -np.inf]])
    weights = np.float32([[0.5, 0.5, 0], [0, 1, 0]])
    found = online.weighted_sums(jnp.asarray(x), jnp.asarray(weights))
    assert np.all(np.isposinf(found.gaps))
    np.testing.assert_array_equal(found.below, [1, 1])


def test_a_logit_that_is_nan_is_seen_wherever_it_is():
    for place in range(5):
        x = jnp.zeros(5).at[place].set(jnp.nan)
        zero = jnp.zeros(5)
        found = online.top_and_rest(x)[1], online.top_and_sum(x, x == 0, ())[1]
        pairs = pair_sums(x, zero, (zero, x)), pair_sums(zero, x, (x, zero))
        for each in (*found, *(sums.excess for sums in pairs)):
            assert np.isnan(each)


def test_low_words_decide_between_equal_high_words():
    x = DD(jnp.float32([[1, 1, 0]]), jnp.float32([[-2e-8, 3e-8, 0]]))
    found = online.weighted_sums(x, jnp.float32([[1, 0, 0]]))
    assert found.top.lo == np.float32(3e-8)
    np.testing.assert_allclose(found.rest, np.exp(-5e-8) + np.exp(-1 - 3e-8), rtol=1e-6)
    np.testing.assert_allclose(found.gaps, 5e-8, rtol=1e-6)


def test_a_sum_over_the_first_axis():
    x = ROWS["drawn"]
    for of_columns, of_rows in zip(
        online.top_and_rest(jnp.asarray(x), 0), online.top_and_rest(jnp.asarray(x.T)), strict=True
    ):
        np.testing.assert_allclose(of_columns, of_rows, rtol=1e-6)


@pytest.mark.parametrize("name", ["drawn", "ties", "certain"])
def test_the_formula_has_the_derivatives_of_a_constant_top(name):
    # Inside a scan that is differentiated twice, JAX does not use the rules of the losses.
    x = jnp.asarray(ROWS[name][0])
    exps = np.asarray(exact(ROWS[name][:1])[2][0], np.float32)
    counted, weights = np.arange(x.size) % 2 == 0, np.linspace(0, 1, x.size, dtype=np.float32)

    def sums(x):
        rest, total = online.top_and_rest(x)[1], online.top_and_sum(x, counted, ())[1]
        return rest, total, online.weighted_sums(x, weights).gaps

    for derivative in (jax.jacfwd, jax.jacrev):
        of_rest, of_total, of_gaps = jax.jit(derivative(sums))(x)
        np.testing.assert_allclose(of_rest, exps, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(of_total, exps * counted, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(of_gaps, -weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_the_exponentials_below_the_top_with_weights(x):
    weights = random.uniform(size=x.shape).astype(np.float32)
    found = jax.jit(online.weighted_exps)(x, weights)
    _, gap, exps = exact(x)
    expected = np.where(gap == 0, 0, weights * exps).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)


def test_other_sums_come_with_the_rest():
    x = ROWS["drawn"]
    more = random.normal(size=(2, *x.shape)).astype(np.float32)
    top, rest, *sums = jax.jit(online.top_and_rest, static_argnums=1)(x, -1, tuple(more))
    for found, expected in zip((top, rest), online.top_and_rest(x), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(sums, more.astype(np.float64).sum(-1), rtol=1e-5, atol=1e-6)


def test_rivals_that_tie_share_the_gradient_in_both_forms(monkeypatch):
    scores, labels = jnp.float32([[3, 1, 3, 0], [0, 2, 5, 1]]), jnp.array([1, 1])
    for form in (_rivals._by_passes, _rivals._online):
        monkeypatch.setattr(_rivals, "in_one_reduction", lambda *a, form=form: form(*a[2:]))
        slopes = jax.grad(lambda x: _rivals.rival_and_own(x, labels)[0].sum())(scores)
        np.testing.assert_array_equal(slopes, [[0.5, 0, 0.5, 0], [0, 0, 1, 0]])


def pair(name):
    """A row and another, which is close, far or the same row in another order."""
    x = ROWS[name]
    noise = np.random.default_rng(1).normal(size=x.shape)
    close = x + np.where(np.isfinite(x), 1e-4 * noise, 0)
    return [(x, z.astype(np.float32)) for z in (close, x[:, ::-1], np.minimum(x, 1), noise)]


@pytest.mark.parametrize("name", [name for name in ROWS if name != "largest"])
def test_the_sums_of_two_softmaxes(name):
    for x, z in pair(name):
        found = jax.jit(pair_sums)(x, z, (z, x))
        (top_x, _, exp_x), (top_z, _, exp_z) = exact(x), exact(z)
        np.testing.assert_array_equal((found.top_x, found.top_z), (top_x, top_z))
        for rest, exps in ((found.rest_x, exp_x), (found.rest_z, exp_z)):
            np.testing.assert_allclose(rest, np.sort(exps)[..., :-1].sum(-1), 1e-6, 1e-37)
        # All digits of each difference: those of their sum are lost where terms cancel.
        terms = exp_x - exp_z
        error = np.abs(found.excess - terms.sum(-1))
        assert np.all(error <= 4e-7 * np.abs(terms).sum(-1)), (x, z)
        for at_top, own, other in zip(found.more, (x, z), (z, x), strict=True):
            is_top = own == own.max(-1, keepdims=True)
            np.testing.assert_array_equal(at_top, np.where(is_top, other, -np.inf).max(-1))


def test_the_sums_of_two_softmaxes_of_double_words():
    x, z = pair("drawn")[0]
    lo_x, lo_z = (np.float32(1e-8) * np.sign(np.sin(np.arange(37))), np.zeros(37, np.float32))
    words = [DD(y, np.broadcast_to(lo, y.shape)) for y, lo in ((x, lo_x), (z, lo_z))]
    found = jax.jit(pair_sums)(*words, (z, x))
    (*_, exp_x), (*_, exp_z) = (exact(np.float64(y.hi) + y.lo) for y in words)
    terms = exp_x - exp_z
    assert np.all(np.abs(found.excess - terms.sum(-1)) <= 4e-7 * np.abs(terms).sum(-1))


@pytest.mark.parametrize("scale", [1e4, 1e7, 2e38])
def test_a_temperature_keeps_the_digits_of_large_logits(scale):
    # Quotients are rounded by more than 1 where their differences decide, or are too large.
    x, z = (y + np.float32(scale) for y in pair("drawn")[0])
    x, z = (np.append(y, [[0.9 * scale]] * 4, -1).astype(np.float32) for y in (x, z))
    temperature = jnp.float32(0.3)
    found = jax.jit(_softmax_pair._normalizers_online)(x, z, temperature)
    for row, rest in ((x, found.rest_x), (z, found.rest_z)):
        gaps = (row.astype(np.float64) - row.max(-1, keepdims=True)) / float(temperature)
        np.testing.assert_allclose(rest, np.exp(gaps).sum(-1) - 1, 1e-6, 1e-37)


@pytest.mark.parametrize("mask", [-np.inf, -1e9])
def test_classes_masked_in_one_softmax_do_not_round_the_excess(mask):
    # The masked ones come first, or are a part of their own; one of them is likely in the other.
    x = np.full((1, 5000), -12, np.float32)
    x[:, 0], x[:, -10:] = 1, 2
    z = np.where(np.arange(5000) < 4990, mask, x + 0.01).astype(np.float32)
    exact_excess = 1 * np.exp(-1.0) + 4989 * np.exp(-14.0)
    for a, b, expected in ((x, z, exact_excess), (z, x, -exact_excess)):
        found = jax.jit(pair_sums)(a, b, (b, a)).excess
        np.testing.assert_allclose(found, [expected], rtol=3e-6)
        parts = [normalizers_of(a[:, i], b[:, i], None) for i in (np.s_[:4990], np.s_[4990:])]
        np.testing.assert_allclose(parts[0].merge(parts[1]).excess, [expected], rtol=3e-6)


def test_the_derivative_of_the_sums_of_two_softmaxes_holds_the_largest_entries_fixed():
    x, z = jnp.array([0.3, 2.0, -1.0, 1.5]), jnp.array([0.25, 2.5, 3.0, -4.0])
    ours = lambda x, z: jnp.stack(pair_sums(x, z, (z, x))[2:5])
    exps = lambda y, top: jnp.exp(y - top)
    held = lambda x, z: jnp.stack(
        [
            jnp.sum(exps(x, 2.0)) - 1,
            jnp.sum(exps(z, 3.0)) - 1,
            jnp.sum(exps(x, 2.0)) - jnp.sum(exps(z, 3.0)),
        ]
    )
    for found, expected in zip(
        jax.jacrev(ours, (0, 1))(x, z), jax.jacrev(held, (0, 1))(x, z), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
