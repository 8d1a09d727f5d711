"""Preference losses: identities between them, the ends of their domains, sums over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import preference

RNG = np.random.default_rng(0)
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = -np.exp(RNG.normal(size=(4, 8))).astype(np.float32)


def test_dpo_with_a_uniform_reference_is_cpo_and_bradley_terry():
    got = preference.dpo(CHOSEN, REJECTED, 0.0 * CHOSEN, 0.0 * REJECTED, beta=0.5)
    np.testing.assert_allclose(got, preference.cpo(CHOSEN, REJECTED, beta=0.5), rtol=1e-6)
    expected = preference.bradley_terry(0.5 * CHOSEN, 0.5 * REJECTED)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_alpha_divergence_tends_to_the_reverse_kl():
    pair = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
    for alpha in (0.0, 1e-7):
        got = preference.dpo(*pair, divergence="alpha", alpha=alpha)
        np.testing.assert_allclose(got, preference.dpo(*pair), rtol=1e-6)


def test_the_robust_loss_is_unbiased():
    """Its mean over labels of which a share is wrong is the loss of right labels."""
    pair, swapped = (
        (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED),
        (REJECTED, CHOSEN, REF_REJECTED, REF_CHOSEN),
    )
    options = {"label_smoothing": 0.2, "robust": True}
    got = 0.8 * preference.dpo(*pair, **options) + 0.2 * preference.dpo(*swapped, **options)
    np.testing.assert_allclose(got, preference.dpo(*pair), rtol=1e-5)


@pytest.mark.parametrize("chosen", [0.0, -1e-8, -1.0, -1e4])
def test_orpo_has_finite_values_and_gradients_up_to_certainty(chosen):
    value, slopes = jax.value_and_grad(preference.orpo, (0, 1))(chosen, -2.0)
    assert np.isfinite([value, *slopes]).all()


def test_orpo_of_a_rejected_response_that_is_certain_is_infinite():
    chosen = jnp.array([-3.0, -0.5, -1e-30, -0.5])
    got = preference.orpo(chosen, jnp.array([0.0, 0.0, 0.0, -0.0]))
    np.testing.assert_array_equal(got, np.inf)


def test_two_responses_under_plackett_luce_are_bradley_terry():
    scores = np.stack([CHOSEN, REJECTED], -1)
    got = preference.plackett_luce(scores, np.broadcast_to([1, 2], scores.shape))
    np.testing.assert_allclose(got, preference.bradley_terry(CHOSEN, REJECTED), rtol=1e-6)


def test_the_baseline_of_kto_is_bounded_below_and_constant():
    at = lambda kl: preference.kto(CHOSEN, CHOSEN > -1, kl=kl, reduction="sum")
    np.testing.assert_array_equal(at(-3.0), at(0.0))
    assert jax.grad(at)(0.5) == 0


def test_the_probabilities_of_the_outcomes_of_a_comparison_sum_to_one():
    a, b, tie = 0.3, -0.4, 0.2
    won = preference.bradley_terry(a, b, tied=False, log_tie=tie)
    lost = preference.bradley_terry(b, a, tied=False, log_tie=tie)
    neither = preference.bradley_terry(a, b, tied=True, log_tie=tie)
    np.testing.assert_allclose(np.exp(-np.array([won, lost, neither])).sum(), 1, rtol=1e-6)


def test_sums_over_tokens_ignore_padding_and_follow_segments():
    tokens = RNG.normal(size=(2, 6)).astype(np.float32)
    tokens[:, -1] = np.nan
    mask = np.arange(6) < 5
    mask = np.broadcast_to(mask, tokens.shape)
    segments = np.broadcast_to([0, 0, 1, 1, 1, 1], tokens.shape)
    whole = preference.sequence_log_probability(tokens, mask=mask)
    np.testing.assert_allclose(whole, tokens[:, :5].sum(-1), rtol=1e-6)
    packed = preference.sequence_log_probability(
        tokens, mask=mask, segments=segments, num_segments=3, average=True
    )
    expected = np.stack([tokens[:, :2].mean(-1), tokens[:, 2:5].mean(-1), np.zeros(2)], -1)
    np.testing.assert_allclose(packed, expected, rtol=1e-6)


def test_half_precision_tokens_are_added_in_float32():
    tokens = jnp.full((1, 4096), -0.01, jnp.bfloat16)
    got = preference.sequence_log_probability(tokens)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 4096 * float(tokens[0, 0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preference.sequence_log_probability([-1.0], mask=[1.0]), "expected booleans"),
        (
            lambda: preference.sequence_log_probability([-1.0], mask=[True, True]),
            r"`mask` has shape \(2,\), expected \(1,\)",
        ),
        (
            lambda: preference.sequence_log_probability([-1.0], segments=[0]),
            "`num_segments` is None",
        ),
        (lambda: preference.kto([0.0], [1.0], kl=0.0), "`desirable` is float.*booleans"),
        (lambda: preference.dpo([0.0], [0.0], [0.0, 1.0], [0.0]), "`reference_chosen` has shape"),
    ],
)
def test_mistakes_are_answered(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
