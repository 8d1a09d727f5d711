"""CTC: all alignments counted one by one, sure and hopeless models, padding, bad labels."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.sequence import ctc


def by_counting(logits, labels, blank=0):
    """The sum over all alignments: every path, collapsed and compared."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    right = 0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        merged = [k for k, before in zip(path, (None, *path), strict=False) if k != before]
        if [k for k in merged if k != blank] == list(labels):
            right += np.prod([p[t, k] for t, k in enumerate(path)])
    return -np.log(right) if right else np.inf


@pytest.mark.parametrize("labels", [[], [1], [1, 2], [2, 2], [1, 2, 1], [2, 2, 2], [1, 1, 2]])
def test_value_counts_every_alignment(labels):
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    got = ctc(logits, np.array(labels, np.int32))
    np.testing.assert_allclose(got, by_counting(logits.astype(float), labels), rtol=1e-6)


def test_lengths_masks_and_cut_arrays_agree():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(3, 6, 4)).astype(np.float32)
    labels = generator.integers(1, 4, (3, 3)).astype(np.int32)
    frames, tokens = np.array([6, 4, 0]), np.array([3, 1, 0])
    cut = [ctc(logits[i, : frames[i]], labels[i, : tokens[i]]) for i in range(3)]
    dirty, padded = logits.copy(), labels.copy()
    for i in range(3):
        dirty[i, frames[i] :], padded[i, tokens[i] :] = np.nan, -1
    in_frames, in_tokens = np.arange(6) < frames[:, None], np.arange(3) < tokens[:, None]

    def by_lengths(x):
        return ctc(x, padded, logit_lengths=frames, label_lengths=tokens)

    def by_masks(x):
        return ctc(x, padded, logit_mask=in_frames, label_mask=in_tokens)

    for function in (by_lengths, by_masks):
        value, pull = jax.vjp(function, jnp.asarray(dirty))
        np.testing.assert_allclose(value, cut, rtol=1e-6)
        (gradient,) = pull(jnp.ones(3))
        assert np.all(np.asarray(gradient)[~in_frames] == 0)
        assert np.all(np.isfinite(gradient))


def test_gaps_in_masks_close():
    logits = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    got = ctc(
        logits,
        [1, 9, 2],
        logit_mask=[True, False, True, True, False],
        label_mask=[True, False, True],
    )
    np.testing.assert_allclose(got, ctc(logits[[0, 2, 3]], [1, 2]), rtol=1e-6)


def test_sure_and_right_costs_the_mass_of_the_wrong_alignments():
    value, gradient = jax.value_and_grad(ctc)(jnp.asarray([[0.0, 17.0], [0.0, 17.0]]), [1])
    exact = np.exp(-34.0)
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[exact, -exact]] * 2, rtol=1e-6)


def test_a_huge_loss_is_not_clamped():
    value, gradient = jax.value_and_grad(ctc)(jnp.asarray([[2e5, 0.0]] * 3), [1])
    np.testing.assert_allclose(value, 2e5 - np.log(3), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1 / 3, -1 / 3]] * 3, rtol=1e-5)


def test_without_an_alignment_the_loss_is_inf_or_zero_and_the_gradient_zero():
    logits = jnp.zeros((2, 3))
    for labels in ([1, 2, 1], [1, 1]):  # too many; a repetition needs a blank between
        for choice, value in (("inf", np.inf), ("zero", 0)):
            function = lambda x, y=labels, c=choice: ctc(x, y, infeasible=c)
            assert function(logits) == value
            assert np.all(jax.grad(function)(logits) == 0)
    with pytest.raises(ValueError, match="`infeasible` is 'nan'.*'inf', 'zero'"):
        ctc(logits, [1], infeasible="nan")


def test_impossible_classes_are_impossible():
    """-inf for a class that is not needed changes nothing; for one that is, the loss is inf."""
    logits = jnp.asarray([[0.0, 1.0, 2.0, -jnp.inf]] * 3)
    value, gradient = jax.value_and_grad(ctc)(logits, [1, 2])
    np.testing.assert_allclose(value, ctc(logits[:, :3], [1, 2]), rtol=1e-6)
    chex.assert_tree_all_finite(gradient)
    assert np.all(gradient[:, 3] == 0)
    assert ctc(logits, [3]) == np.inf
    assert np.all(jax.grad(ctc)(logits, [3]) == 0)


@pytest.mark.parametrize("label", [-1, 0, 4, 10**6])
def test_a_label_that_counts_must_name_a_class(label):
    logits = jnp.zeros((2, 3, 4))
    function = lambda x: ctc(x, [[1, label], [1, 2]])
    value, pull = jax.vjp(function, logits)
    (gradient,) = pull(jnp.ones(2))
    assert np.isnan(value[0])
    assert np.isfinite(value[1])
    assert np.any(np.isnan(gradient[0]))
    assert np.all(np.isfinite(gradient[1]))
    hidden = ctc(logits, [[1, label], [1, 2]], label_mask=[[True, False], [True, True]])
    assert np.all(np.isfinite(hidden))


def test_wrong_arguments_are_refused():
    logits = jnp.zeros((3, 4))
    with pytest.raises(ValueError, match="`blank` is 4, expected 0 to 3"):
        ctc(logits, [1], blank=4)
    with pytest.raises(ValueError, match="not both"):
        ctc(logits, [1], label_mask=[True], label_lengths=1)


def test_long_sequences_keep_their_digits():
    """1000 frames in float32, against float64: a log-domain recursion is 1000 times worse."""
    generator = np.random.default_rng(3)
    logits = 2 * generator.normal(size=(1000, 8)).astype(np.float32)
    labels = generator.integers(1, 8, 60)
    value, gradient = jax.jit(jax.value_and_grad(ctc))(logits, labels)
    with jax.enable_x64(True):
        wide, exact = jax.jit(jax.value_and_grad(ctc))(logits.astype(np.float64), labels)
    np.testing.assert_allclose(value, wide, rtol=1e-6)
    np.testing.assert_allclose(gradient, exact, atol=2e-5)


def test_functions_of_the_loss_have_the_right_second_derivative():
    logits = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
    loss = lambda x: ctc(x, [1, 2])
    value, slope, curvature = loss(logits), jax.grad(loss)(logits), jax.hessian(loss)(logits)
    got = jax.jit(jax.hessian(lambda x: loss(x) ** 2))(logits)
    expected = 2 * (value * curvature + np.multiply.outer(slope, slope))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
