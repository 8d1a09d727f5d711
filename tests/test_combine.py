"""`total`: named terms and weights in, one scalar and the unweighted terms out."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss._combine import total
from jaxloss._core.reduction import Mean

VALUES = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def is_strong_float32(x):
    return isinstance(x, jax.Array) and (x.shape, x.dtype, x.weak_type) == ((), jnp.float32, False)


# --- the sum ------------------------------------------------------------------------------------


def test_every_kind_of_term_is_weighed_and_logged_unweighted():
    value, terms = total(
        {
            "rows": (VALUES, 0.5),
            "number": 3,
            "parts": (Mean(jnp.float32(6.0), jnp.float32(4.0)), jnp.float32(2.0)),
            "scalar": (jnp.float32(7.0), True),
        }
    )
    assert list(terms) == ["rows", "number", "parts", "scalar"]
    chex.assert_trees_all_close(
        terms, {"rows": VALUES.mean(), "number": 3.0, "parts": 1.5, "scalar": 7.0}, rtol=1e-6
    )
    np.testing.assert_allclose(value, 0.5 * VALUES.mean() + 3 + 2 * 1.5 + 7, rtol=1e-6)


def test_it_is_the_sum_written_by_hand_bit_for_bit():
    a, b, c = (jnp.float32(x) for x in (0.1, 0.7, 0.3))
    value, _ = total({"a": a, "b": (b, 0.1), "c": (c, jnp.float32(3.3))})
    assert value == a + 0.1 * b + jnp.float32(3.3) * c


def test_a_mean_is_divided_once_and_nothing_costs_nothing():
    mask = np.arange(12).reshape(3, 4) < 5

    def objective(x, mask):
        rows = zip(x, mask, strict=True)
        return total({"fit": sum(Mean(jnp.sum(jnp.where(m, v, 0)), m.sum()) for v, m in rows)})[0]

    objective = jax.jit(jax.value_and_grad(objective))
    np.testing.assert_allclose(objective(VALUES, mask)[0], VALUES[mask].mean(), rtol=1e-6)
    value, gradient = objective(VALUES, np.zeros_like(mask))
    assert value == 0
    assert not gradient.any()
    assert total({"fit": jnp.zeros((0, 3))})[0] == 0


@pytest.mark.parametrize(
    "term",
    [jnp.bfloat16(1.5), jnp.full((300,), 1.5, jnp.bfloat16), np.float64(1.5), 1.5, [1, 2],
     Mean(jnp.bfloat16(3), jnp.bfloat16(2)), Mean(3, 2)],
    ids=["bf16", "bf16 rows", "numpy", "number", "integers", "bf16 mean", "number mean"],
)  # fmt: skip
def test_everything_is_a_strong_float32_scalar(term):
    term = jnp.array(term) if isinstance(term, list) else term
    value, terms = total({"a": (term, jnp.bfloat16(2)), "b": (1, 2)})
    assert is_strong_float32(value)
    assert all(map(is_strong_float32, terms.values()))
    assert terms["a"] == 1.5


@pytest.mark.usefixtures("x64")
def test_float64_terms_stay_and_float64_weights_have_no_say():
    value, terms = total({"a": (jnp.float32(0.1), np.float64(0.1))})
    assert is_strong_float32(value)
    value, terms = total({"a": (jnp.float64(0.1), 0.1)})
    assert value.dtype == terms["a"].dtype == jnp.float64
    assert value == 0.1 * 0.1


# --- weights ------------------------------------------------------------------------------------


def test_gradients_flow_to_terms_and_to_learned_weights():
    def objective(x, log_variance):
        weight = jnp.exp(-log_variance)
        return total({"fit": (x**2, weight), "size": log_variance})

    gradients, terms = jax.jit(jax.grad(objective, (0, 1), has_aux=True))(VALUES, 0.5)
    w = np.exp(-0.5)
    np.testing.assert_allclose(gradients[0], w * 2 * VALUES / VALUES.size, rtol=1e-5)
    np.testing.assert_allclose(gradients[1], 1 - w * (VALUES**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["fit"], (VALUES**2).mean(), rtol=1e-6)


def test_a_schedule_is_asked_for_the_weight_of_the_step():
    def warm_up(step):
        return jnp.minimum(step / 10, 1.0)

    at = jax.jit(lambda step: total({"a": (2.0, warm_up), "b": 1.0}, step=step))
    assert [float(at(step)[0]) for step in (0, 5, 20)] == [1.0, 2.0, 3.0]
    assert at(0)[1] == {"a": 2.0, "b": 1.0}


def test_a_new_weight_compiles_nothing():
    traced = []

    @jax.jit
    def objective(x, weight, step):
        traced.append(1)
        return total({"a": (x, weight), "b": (1.0, lambda step: step * weight)}, step=step)[0]

    assert [objective(2.0, w, step) for w, step in [(0.0, 0), (0.5, 1), (1.0, 2)]] == [0, 1.5, 4]
    assert len(traced) == 1


def test_weight_zero_does_not_hide_a_nan():
    value, terms = total({"fit": 1.0, "broken": (jnp.nan, 0)})
    assert jnp.isnan(value)
    assert jnp.isnan(terms["broken"])
    assert terms["fit"] == 1


# --- inside transformations ---------------------------------------------------------------------


def test_scan_carries_it_and_vmap_is_a_loop():
    def objective(x, weight):
        return total({"fit": (x**2, weight), "size": jnp.abs(x).astype(jnp.bfloat16)})

    def body(carry, x):
        return objective(x, carry[0] * 0), None

    jax.eval_shape(functools.partial(jax.lax.scan, body), objective(VALUES[0], 1.0), VALUES)
    weights = np.arange(3, dtype=np.float32)
    mapped = jax.jit(jax.vmap(objective))(VALUES, weights)
    looped = [jax.jit(objective)(*pair) for pair in zip(VALUES, weights, strict=True)]
    stacked = jax.tree.map(lambda *leaf: np.stack(leaf), *looped)
    chex.assert_trees_all_close(mapped, stacked, rtol=1e-6)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ([1.0, 2.0], TypeError, "jaxloss.total: `terms` is a list, expected a dict"),
        ({}, ValueError, "jaxloss.total: `terms` is empty"),
        ({"fit": (1.0, 2.0, 3.0)}, TypeError, "`terms['fit']` is a tuple of 3, expected"),
        ({"fit": [1.0, 2.0]}, TypeError, "`terms['fit']` is a list, expected .* as a tuple"),
        ({"fit": None}, TypeError, "`terms['fit']` is a NoneType, expected"),
        ({"fit": "low"}, TypeError, "`terms['fit']` is a str, expected"),
        ({"fit": (jnp.sum, 1.0)}, TypeError, "`terms['fit']` is a .*unction, expected"),
        ({"fit": 1j}, TypeError, "`terms['fit']` is complex64, .* real"),
        ({"fit": Mean(np.ones(2), np.ones(2))}, ValueError, r"means of shape \(2,\).*tree.map"),
        ({"fit": (1.0, "high")}, TypeError, r"the weight of terms\['fit'\]` is a str, expected"),
        ({"fit": (1.0, None)}, TypeError, "is a NoneType, expected a scalar, or a schedule"),
        ({"fit": (0.5, VALUES)}, ValueError, r"has shape \(3, 4\), expected a scalar.*`weights=`"),
        ({"fit": (1.0, lambda step: step)}, ValueError, "but `step` was not given: write `total"),
    ],
)
def test_what_is_wrong_is_named(terms, error, message):
    message = re.sub(r"\['(\w+)'\]`", r"\\['\1'\\]`", message)
    with pytest.raises(error, match=message):
        total(terms)


def test_a_schedule_must_give_a_scalar():
    with pytest.raises(ValueError, match=r"weight of `terms\['a'\]` has shape \(1,\)"):
        total({"a": (1.0, lambda step: jnp.ones(1))}, step=0)


def test_with_checks_on_the_term_that_broke_is_named():
    terms = {"fit": 1.0, "margin": (jnp.array([1.0, jnp.inf]), 0.1)}
    total(terms)
    with jl.checks(), pytest.raises(ValueError, match=r"total: `terms\['margin'\]` must be finite"):
        total(terms)
