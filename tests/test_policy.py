"""Policy losses and returns beside plain loops, and what the laws do not say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import policy

RNG = np.random.default_rng(0)
NEGATIVE = np.float32(-np.exp(RNG.normal(size=(2, 4, 6))))


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_a_clipped_ratio_has_gradient_zero_however_far_it_is(advantage, log_ratio):
    loss = lambda x: policy.clipped(x, 0.0, advantage, dual_clip=3.0)
    value, slope = jax.value_and_grad(loss)(log_ratio)
    bound = {(True, True): 1.2, (True, False): None, (False, True): 3.0, (False, False): 0.8}
    expected = bound[advantage > 0, log_ratio > 0]
    assert slope == 0
    np.testing.assert_allclose(value, -advantage * (0 if expected is None else expected), rtol=1e-6)


def test_a_masked_token_of_infinite_log_ratio_leaves_no_trace():
    x, old = jnp.array([-1.0, jnp.inf, jnp.nan]), jnp.array([-1.0, -jnp.inf, 0.0])
    where = jnp.array([True, False, False])
    for loss in (policy.clipped, policy.cispo, policy.soft_clipped):
        total = lambda x: loss(x, old, jnp.ones(3), where=where, reduction="mean")  # noqa: B023
        value, slope = jax.value_and_grad(total)(x)
        assert np.isfinite(value)
        np.testing.assert_array_equal(np.asarray(slope[1:]), 0)


def test_the_weights_of_cispo_and_reinforce_are_constants():
    slope = jax.grad(policy.cispo)(-1.0, -1.5, 2.0)
    np.testing.assert_allclose(slope, -2 * np.exp(0.5), rtol=1e-6)
    assert jax.grad(lambda w: policy.reinforce(-1.0, 2.0, weight=w))(3.0) == 0


def test_at_equal_policies_every_ratio_loss_has_the_policy_gradient():
    for loss in (policy.clipped, policy.cispo, policy.soft_clipped, policy.reinforce):
        old = () if loss is policy.reinforce else (-1.0,)
        np.testing.assert_allclose(jax.grad(loss)(-1.0, *old, -0.7), 0.7, rtol=1e-6)


def test_an_empty_sequence_has_loss_zero_and_gradient_zero():
    x = jnp.full((2, 3), jnp.nan)
    mask = jnp.zeros((2, 3), bool)
    loss = lambda x: jnp.sum(policy.clipped_sequence(x, x, jnp.ones(2), mask=mask))
    value, slope = jax.value_and_grad(loss)(x)
    assert value == 0
    np.testing.assert_array_equal(np.asarray(slope), 0)


def test_k3_of_a_policy_that_has_barely_moved_is_not_zero():
    r = np.float32(1e-4)
    np.testing.assert_allclose(policy.kl_estimate(0.0, r), np.expm1(1e-4) - 1e-4, rtol=1e-6)


# --- returns -------------------------------------------------------------------------------------


def backward(rewards, values, next_values, discount, trace, terminal, truncated):
    """Generalized advantages of one trajectory by the textbook loop."""
    advantage, found = 0.0, []
    for t in reversed(range(len(rewards))):
        future = 0.0 if terminal[t] else next_values[t]
        error = rewards[t] + discount * future - values[t]
        ends = terminal[t] or truncated[t]
        advantage = error + (0.0 if ends else discount * trace * advantage)
        found.append(advantage)
    return np.array(found[::-1])


@pytest.mark.parametrize("parallel", [False, True])
def test_gae_is_the_textbook_loop(parallel):
    rewards, values, after = RNG.normal(size=(3, 4, 50))
    terminal, truncated = RNG.random((2, 4, 50)) < 0.1
    got = policy.gae(
        rewards, values, after, discount=0.9, trace=0.8, terminal=terminal, truncated=truncated,
        parallel=parallel,
    )  # fmt: skip
    expected = [
        backward(r, v, n, 0.9, 0.8, e, c)
        for r, v, n, e, c in zip(rewards, values, after, terminal, truncated, strict=True)
    ]
    np.testing.assert_allclose(got.advantage, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(got.target, values + expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("parallel", [False, True])
def test_time_may_be_the_first_axis(parallel):
    rng = np.random.default_rng(5)
    rewards, values, later, p, q = rng.normal(size=(5, 3, 2, 7)).astype(np.float32)
    flags = {name: rng.random((3, 2, 7)) < 0.2 for name in ("terminal", "truncated")}
    flags["mask"] = rng.random((3, 2, 7)) < 0.8
    first = lambda x: np.moveaxis(x, -1, 0)
    given = {name: first(x) for name, x in flags.items()}
    for function, data in (
        (policy.gae, (rewards, values, later)),
        (policy.lambda_returns, (rewards, later)),
        (policy.vtrace, (p, q, rewards, values, later)),
    ):
        expected = function(*data, **flags, parallel=parallel)
        got = function(*map(first, data), **given, axis=0, parallel=parallel)
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, first(theirs), rtol=1e-6, atol=1e-6)


RETURNS = {policy.gae: 3, policy.lambda_returns: 2, policy.vtrace: 5}


@pytest.mark.parametrize("function", RETURNS)
def test_eager_returns_compile_once(function, count_compilations):
    data = RNG.normal(size=(RETURNS[function], 3, 9)).astype(np.float32)
    function(*data)
    with count_compilations() as compiled:
        function(*data)
    assert not compiled


@pytest.mark.parametrize("function", RETURNS)
@pytest.mark.parametrize("parallel", [None, False, True])
def test_returns_are_a_loop_on_cpu_and_a_scan_elsewhere(function, parallel):
    data = RNG.normal(size=(RETURNS[function], 3, 9)).astype(np.float32)
    traced = jax.jit(lambda *x: function(*x, parallel=parallel)).trace(*data)
    for platform in ("cpu", "cuda", "tpu"):
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
        loops = not parallel if parallel is not None else platform == "cpu"
        assert ("stablehlo.while" in lowered) == loops


def test_lambda_returns_are_the_targets_of_gae():
    rewards, values, after = RNG.normal(size=(3, 4, 20))
    terminal, truncated = RNG.random((2, 4, 20)) < 0.2
    ends = {"terminal": terminal, "truncated": truncated, "discount": 0.9, "trace": 0.7}
    # The targets of GAE are lambda-returns where the values are those of the next observations.
    values[:, 1:] = np.where(terminal | truncated, values, after)[:, :-1]
    after[:, :-1] = np.where((terminal | truncated)[:, :-1], after[:, :-1], values[:, 1:])
    got = policy.lambda_returns(rewards, after, **ends)
    np.testing.assert_allclose(got, policy.gae(rewards, values, after, **ends).target, atol=1e-5)


def test_segments_of_a_row_are_trajectories_of_their_own():
    rewards, values, after = RNG.normal(size=(3, 7))
    segments = np.array([3, 3, 3, 5, 5, 5, 5])
    packed = policy.gae(rewards, values, after, segments=segments).advantage
    apart = [policy.gae(rewards[s], values[s], after[s]).advantage for s in (slice(3), slice(3, 7))]
    np.testing.assert_allclose(packed, np.concatenate(apart), rtol=1e-6)


def test_padding_may_hold_anything():
    rewards, values, after = RNG.normal(size=(3, 6))
    mask = np.array([True, True, True, True, False, False])
    dirty = [np.where(mask, x, np.nan) for x in (rewards, values, after)]
    got = policy.gae(*dirty, mask=mask)
    expected = policy.gae(rewards[:4], values[:4], after[:4])
    np.testing.assert_allclose(got.advantage[:4], expected.advantage, rtol=1e-6)
    assert np.all(got.advantage[4:] == 0)
    slope = jax.grad(lambda v: jnp.sum(policy.gae(dirty[0], v, dirty[2], mask=mask).advantage))
    assert np.all(np.isfinite(slope(jnp.asarray(dirty[1], jnp.float32))))


def test_vtrace_on_its_own_trajectories_is_the_n_step_return():
    log_prob = NEGATIVE[0, 0]
    rewards, values, after = RNG.normal(size=(3, 6))
    after[:-1] = values[1:]
    got = policy.vtrace(log_prob, log_prob, rewards, values, after, discount=0.9)
    expected = policy.gae(rewards, values, after, discount=0.9, trace=1.0)
    np.testing.assert_allclose(got.target, expected.target, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.advantage, expected.advantage, rtol=1e-5, atol=1e-6)


def test_vtrace_is_the_recursion_of_the_paper():
    log_prob, old = NEGATIVE[:, 1]
    rewards, values, after = RNG.normal(size=(3, 6))
    ratio = np.exp(np.float64(log_prob) - old)
    excess, later = np.zeros(7), None
    for t in reversed(range(6)):
        error = min(1.0, ratio[t]) * (rewards[t] + 0.9 * after[t] - values[t])
        excess[t] = error + 0.9 * 0.8 * min(1.0, ratio[t]) * excess[t + 1]
    later = after + 0.8 * excess[1:]
    later[-1] = after[-1]
    advantage = np.minimum(1.0, ratio) * (rewards + 0.9 * later - values)
    got = policy.vtrace(log_prob, old, rewards, values, after, discount=0.9, trace=0.8)
    np.testing.assert_allclose(got.target, values + excess[:-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.advantage, advantage, rtol=1e-5, atol=1e-5)


def test_equal_rewards_have_advantage_exactly_zero():
    rewards = np.full((1, 3), 0.1, np.float32)
    for advantages in (
        policy.group_advantages(rewards, epsilon=0.0),
        policy.leave_one_out_advantages(rewards),
        policy.group_advantages(rewards[:, :1]),
    ):
        assert np.all(np.asarray(advantages) == 0)


def test_a_sample_that_is_masked_has_no_part_in_its_group():
    rewards = np.array([1.0, np.nan, 4.0, 2.5], np.float32)
    mask = np.array([True, False, True, True])
    for function in (policy.group_advantages, policy.leave_one_out_advantages):
        got = np.asarray(function(rewards, mask=mask))
        np.testing.assert_allclose(got[mask], function(rewards[mask]), rtol=1e-6)
        assert got[1] == 0


# --- tokens --------------------------------------------------------------------------------------

LOSSES = np.float32(RNG.normal(size=(3, 6)))
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]) > 0


def test_the_denominators_are_those_of_the_trainers():
    rows = [row[keep] for row, keep in zip(LOSSES, MASK, strict=True)][:2]
    expected = {
        ("token", None): np.concatenate(rows).mean(),
        ("sequence", None): np.mean([row.mean() for row in rows]),
        ("sequence_sum", None): np.mean([row.sum() for row in rows]),
        ("sequence_sum", 6): np.mean([row.sum() / 6 for row in rows]),
    }
    for (per, length), value in expected.items():
        got = policy.token_mean(LOSSES, MASK, per=per, length=length)
        np.testing.assert_allclose(got.value, value, rtol=1e-6)
        halves = [
            policy.token_mean(LOSSES[s], MASK[s], per=per, length=length)
            for s in (slice(1), slice(1, 3))
        ]
        np.testing.assert_allclose(sum(halves).value, value, rtol=1e-6)


@pytest.mark.parametrize("per", ["token", "sequence", "sequence_sum"])
def test_packed_rows_have_the_mean_of_rows_of_their_own(per):
    packed = np.concatenate([LOSSES[0, :4], LOSSES[1, :2], LOSSES[2]])
    keep = np.concatenate([MASK[0, :4], MASK[1, :2], MASK[2]])
    segments = np.repeat([4, 1, 2], [4, 2, 6])
    got = policy.token_mean(packed, keep, per=per, segments=segments)
    expected = policy.token_mean(LOSSES, MASK, per=per)
    np.testing.assert_allclose(
        (got.total, got.weight), (expected.total, expected.weight), rtol=1e-6
    )


def test_token_weights_make_parts_the_mean_of_sequences():
    log_prob, old, advantage = LOSSES - 2, LOSSES - 2.1, np.ones_like(LOSSES)
    weights = policy.token_weights(MASK, per="sequence")
    got = policy.clipped(log_prob, old, advantage, where=MASK, weights=weights, reduction="parts")
    values = policy.clipped(log_prob, old, advantage)
    np.testing.assert_allclose(
        got.value, policy.token_mean(values, MASK, per="sequence").value, rtol=1e-6
    )


def test_a_batch_of_no_tokens_is_zero_of_weight_zero():
    for per in ("token", "sequence", "sequence_sum"):
        parts = policy.token_mean(np.full((2, 3), np.nan), np.zeros((2, 3), bool), per=per)
        assert (parts.total, parts.weight, parts.value) == (0, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: policy.gae([1.0], [1.0, 2.0], [1.0]), r"gae: `values` has shape \(2,\), expected \(1,\)"),
        (lambda: policy.gae([1.0], [1.0], [1.0], discount=1.5), "`discount` must be between 0 and 1, got 1.5"),
        (lambda: policy.gae([1.0], [1.0], [1.0], terminal=[1.0]), "`terminal` is float32, expected booleans"),
        (lambda: policy.token_weights(MASK, per="sequence_sum"), "write `token_mean"),
        (lambda: policy.token_mean(LOSSES, MASK, per="batch"), "`per` is 'batch', expected 'token'"),
        (lambda: policy.token_mean(LOSSES, MASK, length=6), "divides only with per='sequence_sum'"),
        (lambda: policy.clipped_sequence(LOSSES, LOSSES, LOSSES), "clipped_sequence: `advantage`"),
        (lambda: policy.gae(LOSSES, LOSSES, LOSSES, axis=5), "`axis` is 5, expected an int from -2"),
    ],
)  # fmt: skip
def test_mistakes_are_answered(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_token_weights_are_as_precise_as_the_losses():
    """1 / 3 rounded to float32 is 1e-8 off in a mean of float64."""
    mask = np.ones((1, 3), bool)
    with jax.enable_x64(True):
        assert policy.token_weights(mask).dtype == np.float64
        weights = policy.token_weights(mask, per="sequence")
        mean = policy.token_mean(jnp.ones((1, 3)), mask, per="sequence").value
    np.testing.assert_array_equal(weights, 1 / 3)
    np.testing.assert_allclose(mean, 1.0, rtol=1e-15)
