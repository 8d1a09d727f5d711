"""Value checks: off and absent by default; on, they raise with the values, wherever they run."""

import functools
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import jaxloss as jl

pytestmark = pytest.mark.few

LOGITS = jnp.zeros((4, 10))
GOOD, BAD = jnp.array([0, 1, 2, 9]), jnp.array([0, 1, 10, 3])
NAMED = (
    r"jaxloss\.classification\.softmax_cross_entropy: `labels` must be class ids from 0 to "
    r"classes - 1 \(classes = 10\), got 10 at flat index 2 of shape \(4,\)\."
)


def loss(logits, labels):
    return jl.classification.softmax_cross_entropy(logits, labels, reduction="mean")


def scanned(logits, labels):
    return jax.lax.scan(lambda c, row: (c + loss(logits, row), None), 0.0, labels[None])[0]


PLACES = {
    "eager": loss,
    "jit": jax.jit(loss),
    "grad": jax.grad(loss),
    "jit of grad": jax.jit(jax.grad(loss)),
    "scan": jax.jit(scanned),
    "grad of scan": jax.jit(jax.grad(scanned)),
    "remat": jax.jit(jax.grad(jax.checkpoint(loss))),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_label_outside_raises_with_its_value(place):
    with pytest.raises(ValueError, match=NAMED):
        jl.checked(PLACES[place])(LOGITS, BAD)
    jl.checked(PLACES[place])(LOGITS, GOOD)


def test_the_error_is_all_that_a_user_sees(caplog):
    with pytest.raises(ValueError, match=NAMED):
        jl.checked(jax.jit(loss))(LOGITS, BAD)
    assert not caplog.records


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_probabilities_given_as_logits_are_a_warning(wrap):
    logits, labels = jax.random.normal(jax.random.key(0), (4, 3)), jnp.array([0, 1, 2, 0])
    loss = wrap(lambda x, where: jl.classification.softmax_cross_entropy(x, labels, where=where))
    some = jnp.array([True, False, True, True])
    for where in (jnp.ones(4, bool), some):
        with pytest.warns(UserWarning, match="Give the scores before the softmax"):
            jl.checked(loss)(jax.nn.softmax(logits), where)
    for fine in (logits, jnp.eye(4, 3), jax.nn.log_softmax(logits), jnp.zeros((4, 3))):
        jl.checked(loss)(fine, some)  # a warning would be an error


def test_a_branch_that_is_not_taken_is_checked_under_vmap_alone():
    """JAX computes both branches there; the ways out are those of the docstring of `checks`."""
    logits, labels, is_known = jnp.zeros((2, 3)), jnp.array([1, 7]), jnp.array([True, False])
    loss = jl.classification.softmax_cross_entropy

    def of_one(logits, label, is_known):
        return jax.lax.cond(is_known, lambda: loss(logits, label), lambda: 0.0)

    expected = [np.float32(np.log(3)), 0]
    with pytest.raises(ValueError, match="got 7"):
        jl.checked(jax.jit(jax.vmap(of_one)))(logits, labels, is_known)
    harmless = jnp.where(is_known, labels, 0)
    in_turn = jax.jit(lambda *data: jax.lax.map(lambda one: of_one(*one), data))
    for step, given in (
        (jax.jit(jax.vmap(of_one)), (logits, harmless, is_known)),
        (in_turn, (logits, labels, is_known)),
        (jax.jit(lambda x, y, where: loss(x, y, where=where)), (logits, labels, is_known)),
    ):
        np.testing.assert_allclose(jl.checked(step)(*given), expected, rtol=1e-6)


def test_under_vmap_the_value_is_named():
    each = jax.vmap(jl.classification.softmax_cross_entropy)
    for run in (each, jax.jit(each)):
        with pytest.raises(ValueError, match=r"class ids from 0 to classes - 1 .*, got 10"):
            jl.checked(run)(LOGITS, BAD)


def test_the_context_works_around_compiled_code_and_toggles():
    step = jax.jit(loss)
    assert jnp.isnan(step(LOGITS, BAD))
    with pytest.raises(ValueError, match=NAMED), jl.checks():
        step(LOGITS, BAD)
    assert jnp.isnan(step(LOGITS, BAD))
    with jl.checks(), jl.checks(enabled=False):
        assert jnp.isnan(step(LOGITS, BAD))


def test_off_there_is_nothing_in_the_jaxpr():
    off = jax.make_jaxpr(loss)(LOGITS, BAD)
    assert not off.effects
    assert "callback" not in str(off)
    with jl.checks():
        assert "callback" in str(jax.make_jaxpr(loss)(LOGITS, BAD))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_chexify_and_checkify_see_the_checks():
    with pytest.raises(ValueError, match=NAMED) as caught, jl.checks():
        chex.chexify(jax.jit(loss), async_check=False)(LOGITS, BAD)
    assert "class ids from 0 to classes - 1 (classes = 10), got 10" in str(caught.value.__cause__)
    with jl.checks():
        chex.chexify(jax.jit(loss), async_check=False)(LOGITS, GOOD)
        error, _ = checkify.checkify(jax.jit(loss))(LOGITS, GOOD)
        assert error.get() is None


@pytest.mark.slow
def test_masked_entries_are_not_checked():
    where = jnp.array([True, True, False, True])
    with jl.checks():
        jax.jit(jl.classification.softmax_cross_entropy)(LOGITS, BAD, where=where)
        jl.regression.huber([1.0, jnp.nan], [0.0, 0.0], where=[True, False])
        shares = [[0.5, 0.5], [jnp.nan, 7.0]]
        jl.classification.categorical_cross_entropy(shares, [0, 1], where=[True, False])


@pytest.mark.slow
def test_probabilities_must_be_probabilities():
    with jl.checks():
        with pytest.raises(ValueError, match=r"`probabilities` must be between 0 and 1, got 1\.3"):
            jl.classification.binary_cross_entropy([0.5, 1.3], [1, 0])
        with pytest.raises(
            ValueError, match=r"`probabilities` must be nonneg.* sum to 1.*got 0\.8"
        ):
            jl.classification.categorical_cross_entropy([[0.5, 0.5], [0.4, 0.4]], [1, 0])
        with pytest.raises(ValueError, match=r"`labels` must be -1 or \+1 .*got 0 at"):
            jl.classification.hinge([0.5, 1.3], [1, 0])
        jl.classification.hinge([0.5, 1.3], [1, 0], zero_one_labels=True)


@pytest.mark.slow
def test_rows_rounded_to_bfloat16_still_sum_to_one():
    probabilities = jax.nn.softmax(jax.random.normal(jax.random.key(0), (64, 1000)))
    with jl.checks():
        jl.classification.categorical_cross_entropy(
            probabilities.astype(jnp.bfloat16), jnp.zeros(64, int)
        )


@pytest.mark.slow
def test_a_result_that_is_not_finite_is_named():
    with jl.checks(), pytest.raises(ValueError, match="`result` must be finite, got inf"):
        jl.classification.softmax_cross_entropy([0.0, -jnp.inf], 1)


def test_numeric_options_are_checked_at_once_or_when_they_run():
    with pytest.raises(ValueError, match=r"`delta` must be above 0, got -1\.0"):
        jl.regression.huber(0.0, 1.0, delta=-1.0)
    with pytest.raises(ValueError, match=r"`delta` must be above 0, got -1\.0"):
        jl.checked(jax.jit(jl.regression.huber))(0.0, 1.0, delta=jnp.float32(-1))
    assert np.isfinite(jax.jit(jl.regression.huber)(0.0, 1.0, delta=jnp.float32(-1)))


@pytest.mark.parametrize("give", [jnp.asarray, np.asarray, list])
def test_concrete_arrays_and_lists_are_in_range_like_numbers(give):
    level = give([10, 50, 90])
    expected = r"`level` must be between 0 and 1, got 10 at flat index 0 of shape \(3,\)\."
    with pytest.raises(ValueError, match=expected):
        jl.regression.quantiles(jnp.zeros((2, 3)), jnp.zeros(2), level=level)
    weight = give([1.0, -2.0, 1.0])
    with pytest.raises(ValueError, match=r"`class_weights` must be at least 0, got -2\.0 at"):
        jax.eval_shape(
            lambda x: jl.classification.softmax_cross_entropy(x, 0, class_weights=weight),
            jnp.zeros(3),
        )
    with pytest.raises(ValueError, match=r"`delta` must be above 0, got -1\.0"):
        jl.regression.huber(0.0, 1.0, delta=give([-1.0])[0])


@pytest.mark.slow
def test_an_option_with_an_entry_an_example_may_hold_anything_where_it_is_left_out():
    scale = jnp.array([1.0, -1.0])
    got = jl.robust.cauchy([1.0, 1.0], 0.0, scale=scale, where=[True, False], reduction="mean")
    np.testing.assert_allclose(got, jl.robust.cauchy(1.0, 0.0), rtol=1e-6)


def test_errors_that_are_not_ours_pass_through():
    def explode(x):
        jax.debug.callback(lambda x: 1 // 0, x)
        return x

    with pytest.raises(Exception, match="division"):
        jl.checked(jax.jit(explode))(1.0)


def test_an_array_size_in_the_mean_needs_no_value():
    assert jl.checked(jl.regression.squared_error)(jnp.zeros(0), jnp.zeros(0)).shape == (0,)


@pytest.mark.slow
def test_checks_do_not_ask_what_a_mask_leaves_out():
    mask = np.array([True, True, False])
    scores, relevance = np.array([1.0, 2.0, np.nan]), np.array([1.0, 0.0, -7.0])
    softmax = jax.jit(lambda mask: jl.ranking.softmax(scores, relevance, mask=mask))
    assert jnp.isfinite(jl.checked(softmax)(mask))
    with pytest.raises(ValueError, match="`(scores|relevance)` must be .* got (nan|-7.0)"):
        jl.checked(softmax)(~mask)
    shares, labels = np.full((1, 2, 2), 0.5), np.array([[0, 255]])
    dice = lambda mask: jl.segmentation.dice(shares, labels, mask=mask)
    assert jnp.isfinite(jl.checked(dice)(labels != 255))
    with pytest.raises(ValueError, match="`labels` must be class ids .* got 255"):
        jl.checked(dice)(labels == 255)


def test_a_number_for_an_array_option_is_seen_with_the_sizes():
    with pytest.raises(ValueError, match=r"`logit_lengths` .* frames \(frames = 2\), got 999"):
        jl.sequence.ctc(np.zeros((2, 3)), [1], logit_lengths=999)


@pytest.mark.slow
def test_nan_of_a_wrong_label_reaches_the_slope_where_a_hinge_is_flat():
    for loss, data in (
        (jl.ranking.margin, (9.0, 0.0, 0.5)),
        (jl.classification.multi_margin, ([9.0, 0.0, 0.0], 3)),
        (jl.classification.hinge, (9.0, 0.5)),
    ):
        value, slope = jax.value_and_grad(loss)(jnp.asarray(data[0]), *data[1:])
        assert jnp.isnan(value)
        assert jnp.all(jnp.isnan(slope))


# --- after a failure ------------------------------------------------------------------------------


@pytest.mark.slow
def test_after_a_failure_that_was_caught_the_next_call_is_clean():
    for place in ("jit", "grad of scan", "eager"):
        with pytest.raises(ValueError, match=NAMED):
            jl.checked(PLACES[place])(LOGITS, BAD)
        for run in PLACES.values():
            jl.checked(run)(LOGITS, GOOD)
    jax.effects_barrier()


def test_what_failed_first_is_the_reason_of_what_came_after():
    def step(labels):
        if not np.isfinite(jax.jit(loss)(LOGITS, labels)):
            raise FloatingPointError("a loss that is not finite")

    with pytest.raises(ValueError, match=NAMED) as caught:
        jl.checked(step)(BAD)
    assert isinstance(caught.value.__cause__, FloatingPointError)
    jl.checked(step)(GOOD)


def test_an_error_from_compiled_code_tells_where_the_loss_was_called():
    line = step_that_calls_a_loss.__code__.co_firstlineno + 1
    for run in (jax.jit(step_that_calls_a_loss), jax.jit(jax.grad(step_that_calls_a_loss))):
        expected = rf"got nan\. \(Called in .*test_checks.py, line {line}\.\)"
        with pytest.raises(ValueError, match=expected):
            jl.checked(run)(jnp.nan)


def step_that_calls_a_loss(prediction):
    return jl.regression.huber(prediction, 0.0)


def test_a_program_compiled_with_checks_raises_outside_them_too():
    with jl.checks():
        compiled = jax.jit(loss).lower(LOGITS, BAD).compile()
    with pytest.raises(Exception, match="class ids from 0 to classes - 1 .*got 10"):
        jax.block_until_ready((compiled(LOGITS, BAD), jax.effects_barrier()))
    jax.block_until_ready(compiled(LOGITS, GOOD))


def test_blocks_may_be_nested_and_each_raises_its_own():
    def outer(labels):
        with pytest.raises(ValueError, match=NAMED), jl.checks():
            jax.jit(loss)(LOGITS, BAD)
        return jax.jit(loss)(LOGITS, labels)

    jl.checked(outer)(GOOD)
    with pytest.raises(ValueError, match=NAMED):
        jl.checked(outer)(BAD)


@pytest.mark.slow
def test_on_eight_devices_a_failure_is_one_error_and_leaves_nothing_behind():
    script = pathlib.Path(__file__).parent / "meshes" / "checks_on_devices.py"
    flags = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    run = subprocess.run(
        [sys.executable, script], env=flags, capture_output=True, text=True, check=False
    )
    assert run.stdout.endswith("clean\n"), run.stdout + run.stderr
    assert "Traceback" not in run.stderr


# --- weights, and arguments in the wrong place ----------------------------------------------------


@pytest.mark.slow
def test_negative_weights_of_a_mean_are_named():
    weights = jnp.array([1.0, -1.0])
    for run in (jl.regression.huber, jax.jit(jl.regression.huber, static_argnames="reduction")):
        for reduction in ("mean", "parts"):
            expected = r"`weights` must be at least 0, got -1\.0 at flat index 1"
            with pytest.raises(ValueError, match=expected):
                jl.checked(run)([1.0, 2.0], 0.0, weights=weights, reduction=reduction)
        for reduction in ("none", "sum"):  # there a weight is a factor, an advantage say
            jl.checked(run)([1.0, 2.0], 0.0, weights=weights, reduction=reduction)
    jl.checked(jl.regression.huber)(
        [1.0, 2.0], 0.0, weights=weights, where=[True, False], reduction="mean"
    )


def test_swapped_arguments_are_seen_by_their_kinds():
    expected = r"`labels` must be between 0 and 1, got -1\.3 .*\. Are the arguments swapped\?"
    with pytest.raises(ValueError, match=expected):
        jl.checked(jl.classification.sigmoid_cross_entropy)(
            jnp.array([0, 1]), jnp.array([-1.3, 2.0])
        )
    expected = r"sum to 1 along the class axis, got 3\.0\. Integers of this shape are one-hot"
    with pytest.raises(ValueError, match=expected):
        jl.checked(jl.classification.softmax_cross_entropy)(jnp.zeros(3), jnp.array([1, 2, 0]))


@pytest.mark.parametrize("name", ["negative_log_likelihood", "multi_margin", "z_loss"])
def test_checkify_reads_the_gradient_of_what_takes_an_entry(name):
    """The transpose of a batched gather is a scatter, for which checkify raises an IndexError."""
    loss = getattr(jl.classification, name)
    labels = () if name == "z_loss" else (jnp.array([0, 1]),)
    slope = jax.grad(lambda x: jnp.sum(loss(x, *labels)))
    checked = checkify.checkify(slope, errors=checkify.all_checks)
    jax.eval_shape(lambda x: checked(x)[1], jax.ShapeDtypeStruct((2, 3), jnp.float32))


def test_checkify_reads_mining_in_chunks():
    """It cannot read a gather in a loop that is differentiated."""
    loss = functools.partial(jl.contrastive.batch_triplet, mining="semi_hard", chunk_size=2)
    slope = jax.grad(lambda x: jnp.sum(loss(x, jnp.array([0, 0, 1, 1, 2]))))
    checked = checkify.checkify(slope, errors=checkify.all_checks)
    jax.eval_shape(lambda x: checked(x)[1], jax.ShapeDtypeStruct((5, 3), jnp.float32))


def test_checkify_without_checks_of_indices_reads_top_k_kl():
    """With them it raises an IndexError: a law in tests/laws waits for JAX to mend it."""
    slope = jax.grad(lambda x, *of_teacher: jnp.sum(jl.distillation.top_k_kl(x, *of_teacher)))
    checked = checkify.checkify(slope, errors=checkify.all_checks - checkify.index_checks)
    teacher = jax.ShapeDtypeStruct((2, 1), jnp.float32), jax.ShapeDtypeStruct((2, 1), jnp.int32)
    jax.eval_shape(lambda *x: checked(*x)[1], jax.ShapeDtypeStruct((2, 3), jnp.float32), *teacher)
