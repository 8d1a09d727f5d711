"""`Mean`, `mean` and `sum`: exact, safe on nothing, and carried by every transformation."""

import functools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss import Mean
from jaxloss._core import reduction

pytestmark = pytest.mark.few


def test_the_mean_of_ten_million_equal_bfloat16_is_that_value():
    values = jnp.full(10**7, 0.1, jnp.bfloat16)
    got = jax.jit(jl.mean)(values)
    assert got.dtype == jnp.float32
    assert got.astype(jnp.bfloat16) == values[0]
    np.testing.assert_allclose(got, np.float32(values[0]), rtol=1.2e-7)


@pytest.mark.slow
def test_more_than_float32_can_count():
    where = jnp.ones(2**24 + 4, bool)
    parts = reduction.reduce(jnp.ones(where.shape), where, None, "parts")
    assert parts.weight == 2**24 + 4


def test_float16_squares_do_not_overflow():
    assert jl.regression.mean_squared_error(np.float16([300, 0, 0, 0]), 0) == 22500


@pytest.mark.slow
def test_micro_batches_merge_exactly_where_averages_of_averages_do_not():
    generator = np.random.default_rng(0)
    values = jnp.asarray(generator.normal(3, 1, (4, 64)), jnp.float32)
    where = jnp.asarray(generator.random((4, 64)) < np.array([[0.05], [0.3], [0.9], [0.0]]))
    whole = jl.mean(values, where=where)
    merged = functools.reduce(
        operator.add,
        (reduction.reduce(v, w, None, "parts") for v, w in zip(values, where, strict=True)),
    )
    np.testing.assert_allclose(merged.value, whole, rtol=1e-6)
    averaged = jnp.mean(jax.vmap(lambda v, w: jl.mean(v, where=w))(values, where))
    assert abs(averaged - whole) > 0.1 * whole


def test_the_builtin_sum_adds_means():
    assert sum([Mean(6.0, 2.0), Mean(1.0, 5.0)]).value == 1
    with pytest.raises(TypeError):
        Mean(1.0, 1.0) + 3.0


def test_jit_scan_grad_and_tree_carry_a_mean():
    x = jnp.arange(12.0).reshape(3, 4)
    step = lambda carry, row: (
        carry + jl.regression.squared_error(row, 1.0, reduction="parts"),
        None,
    )
    scanned, _ = jax.lax.scan(step, Mean(jnp.float32(0), jnp.float32(0)), x)
    np.testing.assert_allclose(scanned.value, np.mean((np.asarray(x) - 1) ** 2), rtol=1e-6)
    gradient = jax.jit(
        jax.grad(lambda x: jl.regression.squared_error(x, 1.0, reduction="parts").value)
    )(x)
    np.testing.assert_allclose(gradient, 2 * (x - 1) / 12, rtol=1e-6)
    halved = jax.tree.map(lambda leaf: leaf / 2, scanned)
    assert isinstance(halved, Mean)
    assert halved.value == scanned.value


def test_psum_weighs_devices_by_what_they_counted():
    values = jnp.array([[1.0, 2.0, 3.0], [7.0, jnp.nan, jnp.nan]])
    where = ~jnp.isnan(values)
    over_devices = jax.vmap(
        lambda v, w: reduction.reduce(v, w, None, "parts").psum("d").value, axis_name="d"
    )
    np.testing.assert_allclose(over_devices(values, where), [13 / 4, 13 / 4])


@pytest.mark.parametrize("take", [jl.mean, jl.sum])
def test_nothing_is_zero_with_gradient_zero(take):
    values = jnp.array([jnp.nan, 1.0])
    value, gradient = jax.value_and_grad(lambda v: take(v, where=jnp.zeros(2, bool)))(values)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    assert take(jnp.zeros(0)) == 0


def test_a_nan_that_counts_stays_visible():
    assert jnp.isnan(jl.mean([1.0, jnp.nan]))
    assert jnp.isnan(jl.mean([1.0, jnp.nan], weights=[1.0, 0.0]))
    assert jnp.isnan(Mean(jnp.nan, 0.0).value)


def test_weights_that_cancel_do_not_hide_a_total():
    assert jnp.isinf(jl.mean([1.0, 3.0], weights=[1.0, -1.0]))


def test_the_rule_for_weights_that_sum_to_zero_is_in_one_place():
    """`divide` is what every mean uses: nothing is 0, and what is left of a total is infinite."""
    totals, weights = (
        jnp.array([0.0, 2.0, -2.0, jnp.nan, 6.0]),
        jnp.array([0.0, 0.0, 0.0, 0.0, 3.0]),
    )
    expected = [0, np.inf, -np.inf, np.nan, 2]
    np.testing.assert_array_equal(reduction.divide(totals, weights), expected)
    np.testing.assert_array_equal(
        jax.vmap(lambda t, w: Mean(t, w).value)(totals, weights), expected
    )
    slopes = jax.vmap(jax.grad(reduction.divide), (0, 0))(totals, weights)
    np.testing.assert_allclose(slopes[jnp.array([0, 4])], [0, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("take", [jl.mean, jl.sum])
def test_sizes_may_be_symbolic_and_promotion_strict(take):
    (rows,) = jax.export.symbolic_shape("rows")
    struct = jax.ShapeDtypeStruct((rows, 3), "bfloat16")

    def of(values):
        return take(values), take(values, where=values > 0, weights=2 * values)

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        exported = jax.export.export(jax.jit(of))(struct)
    values = jnp.arange(12, dtype=jnp.bfloat16).reshape(4, 3)
    np.testing.assert_allclose(exported.call(values), of(values), rtol=1e-6)


def test_gradient_flows_to_weights():
    values, weights = jnp.array([1.0, 4.0]), jnp.array([1.0, 2.0])
    gradient = jax.grad(lambda w: jl.mean(values, weights=w))(weights)
    np.testing.assert_allclose(gradient, (values - 3.0) / 3.0, rtol=1e-6)


@chex.assert_max_traces(n=1)
def _traced(values, weights):
    return jl.mean(values, weights=weights)


def test_no_retrace_when_weights_change():
    jitted = jax.jit(_traced)
    jitted(jnp.ones(3), jnp.ones(3))
    jitted(jnp.ones(3), 2 * jnp.ones(3))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"where": [1.0, 0.0]}, TypeError, "`where` is float64 .*, expected booleans"),
        ({"where": [True]}, ValueError, r"`where` has shape \(1,\)"),
        ({"weights": [1j, 0]}, TypeError, "`weights` is complex128 .*, expected real numbers"),
        ({"weights": [1.0, 2.0, 3.0]}, ValueError, r"`weights` has shape \(3,\)"),
    ],
)
def test_wrong_words_are_refused(words, error, message):
    with pytest.raises(error, match=message):
        jl.mean([1.0, 2.0], **words)


@pytest.mark.parametrize(
    "loss",
    [
        jl.regression.huber,
        jl.divergence.kl,
        jl.divergence.kl_log,
        jl.divergence.generalized_kl,
    ],
)
def test_no_array_of_the_size_of_the_data_is_held_beside_the_gradient(loss):
    data = -jnp.ones((256, 256)), jnp.full((256, 256), 0.5)
    gradient = jax.jit(jax.value_and_grad(lambda *x: loss(*x, reduction="mean")))
    held = gradient.lower(*data).compile().memory_analysis().temp_size_in_bytes
    assert held < data[0].nbytes / 4
