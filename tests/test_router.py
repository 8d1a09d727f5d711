"""Router losses: the scales in use, balance, masks, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import router

RNG = np.random.default_rng(0)
PROBABILITIES = RNG.dirichlet(np.ones(4), (8,)).astype(np.float32)
IDS = np.argsort(-PROBABILITIES, axis=-1)[:, :2].astype(np.int32)


@pytest.mark.parametrize(("scale", "expected"), [("one", 1.0), ("k", 2.0)])
def test_an_even_spread_costs_what_the_scale_says(scale, expected):
    ids = np.array([[0, 1], [2, 3]])
    even = np.full((2, 4), 0.25, np.float32)
    np.testing.assert_allclose(router.load_balance(even, ids, scale=scale), expected, rtol=1e-6)


def test_counts_have_no_gradient_and_probabilities_that_of_their_share():
    slope = jax.grad(router.load_balance)(jnp.asarray(PROBABILITIES), IDS)
    shares = np.bincount(IDS.ravel(), minlength=4) / IDS.size
    expected = np.broadcast_to(4 * shares / 8, (8, 4))
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_over_devices_the_product_comes_last():
    mapped = jax.vmap(
        lambda p, i: router.load_balance(p, i, axis_name="d"), axis_name="d"
    )(PROBABILITIES.reshape(4, 2, 4), IDS.reshape(4, 2, 2))  # fmt: skip
    whole = router.load_balance(PROBABILITIES, IDS)
    np.testing.assert_allclose(mapped, np.full(4, whole), rtol=1e-6)


@pytest.mark.parametrize(
    "loss", [router.importance_cv, lambda p, **how: router.load_cv(p, p, **how)]
)
def test_a_masked_token_may_hold_anything(loss):
    dirty = np.concatenate([PROBABILITIES, np.full((1, 4), np.nan, np.float32)])
    mask = np.arange(9) < 8
    total = lambda p: loss(p, mask=mask)
    value, slope = jax.value_and_grad(total)(jnp.asarray(dirty))
    np.testing.assert_allclose(value, loss(PROBABILITIES), rtol=1e-6)
    assert np.all(np.asarray(slope[-1]) == 0)


def test_a_sequence_without_tokens_costs_nothing():
    mask = np.zeros(8, bool)
    assert router.load_balance(PROBABILITIES, IDS, mask=mask) == 0
    assert router.importance_cv(PROBABILITIES, mask=mask) == 0


def test_an_expert_id_out_of_range_gives_nan():
    ids = IDS.copy()
    ids[3, 1] = 4
    assert np.isnan(router.load_balance(PROBABILITIES, ids))


def test_k_has_to_leave_an_expert_out():
    with pytest.raises(ValueError, match="`k` is 4, expected 1 to 3"):
        router.load_cv(PROBABILITIES, PROBABILITIES, k=4)
