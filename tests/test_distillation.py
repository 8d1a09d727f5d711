"""Distillation losses: their limits, their identities with other losses, what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.platforms import forms_of

from jaxloss import distillation, divergence, policy
from jaxloss.numerics import _labels

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (2 * RNG.normal(size=(5, 8)).astype(np.float32) for _ in range(2))
LOG_Q = np.asarray(jax.nn.log_softmax(TEACHER))


def test_temperature_kl_is_kl_logits_times_the_square_of_the_temperature():
    plain = divergence.kl_logits(STUDENT, TEACHER, temperature=3.0)
    got = distillation.temperature_kl(STUDENT, TEACHER, temperature=3.0)
    np.testing.assert_allclose(got, 9 * plain, rtol=1e-6)
    got = distillation.temperature_kl(
        STUDENT, TEACHER, temperature=3.0, reverse=True, scale_by_square=False
    )
    np.testing.assert_array_equal(got, divergence.kl_logits(TEACHER, STUDENT, temperature=3.0))


@pytest.mark.parametrize(("beta", "reverse"), [(0.0, False), (1.0, True), (1e-6, False)])
def test_generalized_jensen_shannon_tends_to_both_divergences(beta, reverse):
    got = distillation.generalized_jensen_shannon(STUDENT, TEACHER, beta=beta, to_kl=True)
    expected = distillation.temperature_kl(STUDENT, TEACHER, reverse=reverse)
    np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_generalized_jensen_shannon_of_nearly_equal_logits_keeps_its_digits():
    got = distillation.generalized_jensen_shannon([0.0, 0.0], [2e-6, 0.0])
    np.testing.assert_allclose(got, 1.25e-13, rtol=1e-5)  # x^2 / 32


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "drop"])
def test_top_k_of_all_classes_is_the_divergence(tail):
    ids = np.broadcast_to(np.arange(8), (5, 8))
    got = distillation.top_k_kl(STUDENT, LOG_Q, ids, tail=tail)
    np.testing.assert_allclose(got, divergence.kl_logits(STUDENT, TEACHER), rtol=1e-5)


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "drop"])
def test_entries_that_are_not_stored_may_hold_anything(tail):
    ids = np.argsort(-LOG_Q, axis=-1)[:, :3]
    top = np.take_along_axis(LOG_Q, ids, -1)
    mask = np.array([True, True, True, False, False])
    padded = np.concatenate([top, np.full((5, 2), np.nan, np.float32)], -1)
    padded_ids = np.concatenate([ids, np.full((5, 2), -7)], -1)
    mask = np.broadcast_to(mask, padded.shape)

    def total(logits, *teacher, **options):
        return jnp.sum(distillation.top_k_kl(logits, *teacher, tail=tail, **options))

    got = jax.value_and_grad(total)(jnp.asarray(STUDENT), padded, padded_ids, mask=mask)
    expected = jax.value_and_grad(total)(jnp.asarray(STUDENT), top, ids)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def derivatives_of_top_k(dtype, tail, mask):
    """Value, change, gradient and its change, with infinite and NaN logits; the program."""
    x = jnp.asarray(STUDENT, dtype)
    x = x.at[0, 1].set(-jnp.inf).at[1, 6].set(jnp.nan).at[2, 0].set(-jnp.inf)
    ids = np.argsort(-LOG_Q, axis=-1)[:, 2:6]
    teacher = jnp.asarray(np.take_along_axis(LOG_Q, ids, -1), dtype)
    ids[4, :2] = 7  # one class twice
    teacher_ids = jnp.where(jnp.arange(5)[:, None] == 3, ids - 8, ids) if mask is None else ids

    def loss(*x):
        return distillation.top_k_kl(*x, teacher_ids, tail=tail, mask=mask)

    at = x, teacher
    moving = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape).astype(dtype), at)
    gradient = jax.grad(lambda *at: jnp.sum(loss(*at)), (0, 1))
    step = jax.jit(lambda *at: (jax.jvp(loss, at, moving), jax.jvp(gradient, at, moving)))
    return jax.tree.leaves(step(*at)), str(jax.make_jaxpr(gradient)(*at))


@pytest.mark.parametrize(
    ("tail", "dtype", "masked"),
    [
        ("bucket", jnp.float32, False),
        ("bucket", jnp.bfloat16, True),
        ("renormalize", jnp.float32, True),
        ("drop", jnp.bfloat16, False),
    ],
)
def test_stored_classes_are_compared_on_tpu(tail, dtype, masked, monkeypatch):
    of = dtype, tail, np.arange(20).reshape(5, 4) % 7 != 2 if masked else None
    expected, _ = derivatives_of_top_k(*of)
    for platform, most in (("cuda", 32), ("tpu", 32), ("tpu", 31)):
        monkeypatch.setattr(_labels, "_MOST_COMPARISONS", most)  # of 4 of 8 classes
        with forms_of(platform):
            found, program = derivatives_of_top_k(*of)
        for a, b in zip(found, expected, strict=True):
            tolerance = 2e-5 if a.dtype == jnp.float32 else 2.0**-7
            np.testing.assert_allclose(
                np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance / 10
            )
        assert ("scatter" in program) == ((platform, most) != ("tpu", 32))


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "drop"])
@pytest.mark.parametrize(("platform", "most"), [("cuda", 24), ("tpu", 24), ("tpu", 23)])
def test_gradients_at_stored_classes_are_rounded_once(platform, most, tail, monkeypatch):
    monkeypatch.setattr(_labels, "_MOST_COMPARISONS", most)  # of 3 of 8 classes
    ids = np.argsort(-LOG_Q, axis=-1)[:, :3]
    logits = jnp.asarray(STUDENT, jnp.bfloat16)

    teacher = np.take_along_axis(LOG_Q, ids, -1), ids
    loss = lambda x: distillation.top_k_kl(x, *teacher, tail=tail, reduction="sum")
    with forms_of(platform):
        step = jax.jit(jax.grad(loss))
        got, exact = step(logits), step(logits.astype(jnp.float32))
        program = str(jax.make_jaxpr(step)(logits))
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))
    scattered = re.findall(r"(\w+)\[[\d,]*\] = scatter-add", program)
    dtype = "f32" if tail == "drop" else "bf16"
    assert scattered == ([] if (platform, most) == ("tpu", 24) else [dtype])


@pytest.mark.parametrize("split", [("data", None), (None, "data")])
def test_stored_classes_lie_on_any_mesh(split):
    student, log_q = STUDENT[:4], LOG_Q[:4]
    ids = np.argsort(-log_q, axis=-1)[:, :3]
    data = student, np.take_along_axis(log_q, ids, -1), ids
    step = jax.value_and_grad(lambda *x: distillation.top_k_kl(*x, reduction="sum"))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    specs = [jax.sharding.PartitionSpec(*x) for x in (split, split[:1], split[:1])]
    put = (jax.sharding.NamedSharding(mesh, spec) for spec in specs)
    with jax.set_mesh(mesh):
        got = jax.jit(step)(*map(jax.device_put, data, put))
    assert got[1].sharding.spec == specs[0]
    for a, b in zip(got, step(*data), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_id_out_of_range_gives_nan():
    ids = np.array([[0, 1], [0, 8]])
    got = distillation.top_k_kl(STUDENT[:2], LOG_Q[:2, :2], ids)
    assert np.isfinite(got[0])
    assert np.isnan(got[1])


def test_a_teacher_with_more_classes_than_the_student_is_refused():
    with pytest.raises(ValueError, match="`teacher_ids` has 9 classes an example, but `logits`"):
        distillation.top_k_kl(STUDENT, np.zeros((5, 9)), np.zeros((5, 9), int))
    with pytest.raises(ValueError, match="tail"):
        distillation.top_k_kl(STUDENT, LOG_Q, np.zeros((5, 8), int), tail="rest")


def test_log_overlap_is_the_log_of_acceptance_near_and_far():
    for scale in (1e-3, 1.0, 20.0):
        p, q = (scale * x for x in (STUDENT, TEACHER))
        shares = np.minimum(
            *(np.exp(x - np.logaddexp.reduce(x, -1)[:, None]) for x in np.float64((p, q)))
        )
        accepted = shares.sum(-1)
        np.testing.assert_allclose(distillation.acceptance(p, q), 1 - accepted, rtol=1e-4)
        got = distillation.acceptance(p, q, kind="log_overlap")
        np.testing.assert_allclose(got, -np.log(accepted), rtol=1e-4)


def test_sampled_reverse_kl_is_a_policy_gradient_whose_advantage_is_the_log_ratio():
    log_p, log_q = jnp.array([-0.5, -2.0]), jnp.array([-1.0, -0.5])
    got = jax.grad(lambda x: jnp.sum(distillation.sampled_reverse_kl(x, log_q)))(log_p)
    expected = jax.grad(lambda x: jnp.sum(policy.reinforce(x, log_q - log_p)))(log_p)
    np.testing.assert_array_equal(got, expected)


def test_over_all_samples_the_estimate_and_its_gradient_are_exact():
    logits, log_q = jnp.asarray(STUDENT[0]), LOG_Q[0]

    def estimate(logits):
        log_p = jax.nn.log_softmax(logits)
        each = distillation.sampled_reverse_kl(log_p, log_q)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_p)) * each)

    def exact(logits):
        return distillation.temperature_kl(logits, log_q, reverse=True)

    for a, b in zip(*(jax.value_and_grad(f)(logits) for f in (estimate, exact)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
