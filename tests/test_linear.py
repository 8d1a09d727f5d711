"""The fused last layer: the plain loss of the family, whatever part of its logits exists."""

import functools
import importlib
import importlib.machinery
import importlib.util
import re
import sys
import types

import cases
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from jax.test_util import check_grads

import jaxloss as jl
from jaxloss import distillation, linear
from jaxloss.classification import softmax_cross_entropy
from jaxloss.divergence import kl_logits
from jaxloss.linear._reference import reference as plain

pytestmark = pytest.mark.few

SLOW = pytest.mark.slow
POLICIES = pytest.mark.parametrize("policy", ["fastest", "least_memory"])
DIM = 6


def draw(rows=13, classes=37, dtype=jnp.float32, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    hidden = jnp.asarray(generator.normal(size=(rows, DIM)), dtype)
    weight = jnp.asarray(scale / DIM**0.5 * generator.normal(size=(DIM, classes)), dtype)
    return hidden, weight, jnp.asarray(generator.integers(0, classes, rows))


OPTIONS = {
    "plain": {},
    "bias": {"bias": np.linspace(-1, 1, 37, dtype=np.float32)},
    "softcap": {"softcap": np.float32(0.8)},
    "temperature": {"temperature": np.float32(0.6)},
    "z_loss": {"z_loss": np.float32(0.1)},
    "smoothing": {"label_smoothing": np.float32(0.2)},
    "class_weights": {"class_weights": np.linspace(0.5, 2, 37, dtype=np.float32)},
}
OPTIONS["all"] = functools.reduce(lambda a, b: a | b, OPTIONS.values())


@POLICIES
@pytest.mark.parametrize(
    "name", ["all", *(pytest.param(n, marks=SLOW) for n in OPTIONS if n != "all")]
)
@pytest.mark.parametrize("transposed", [False, pytest.param(True, marks=SLOW)])
def test_value_and_every_gradient_are_those_of_the_plain_loss(name, policy, transposed):
    """Blocks of 8 of 37 classes and chunks of 5 of 13 rows: neither divides."""
    hidden, weight, labels = draw()
    options = jax.tree.map(jnp.asarray, OPTIONS[name])
    where = jnp.arange(13) % 3 != 1
    weights = jnp.linspace(0.5, 2, 13)

    def ours(hidden, weight, weights, options):
        weight = weight.T if transposed else weight
        words = {"where": where, "weights": weights, "transposed": transposed}
        return 3.7 * linear.softmax_cross_entropy(
            hidden, weight, labels, chunk_size=(5, 8), policy=policy, **words, **options
        )

    def theirs(hidden, weight, weights, options):
        return 3.7 * plain(hidden, weight, labels, where=where, weights=weights, **options)

    got, expected = jax.jit(
        lambda *x: [jax.value_and_grad(f, (0, 1, 2, 3))(*x) for f in (ours, theirs)]
    )(hidden, weight, weights, options)
    chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("reduction", ["none", "sum", "parts"])
def test_reductions_are_those_of_every_loss(reduction):
    hidden, weight, labels = draw()
    weights, where = jnp.linspace(0.5, 2, 13), jnp.arange(13) % 3 != 1
    words = {"where": where, "weights": weights, "reduction": reduction}
    got = jax.jit(
        lambda: linear.softmax_cross_entropy(hidden, weight, labels, chunk_size=5, **words)
    )()
    expected = softmax_cross_entropy(hidden @ weight, labels, **words)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("classes", [1, 7, 9, 15, pytest.param(8, marks=SLOW), 17, 31])
def test_a_vocabulary_need_not_divide(classes, policy):
    """With blocks of 8: one class, one more or less than one or two blocks, a prime.

    The logits are all -1000 or so: a column that is only padding would show.
    """
    hidden, weight, labels = draw(classes=classes)
    bias = jnp.full(classes, -1e3)
    run = lambda f: jax.value_and_grad(f, (0, 1))(hidden, weight)
    got = jax.jit(
        lambda: run(
            lambda h, w: linear.softmax_cross_entropy(
                h, w, labels, bias=bias, chunk_size=(4, 8), policy=policy
            )
        )
    )()
    expected = run(lambda h, w: plain(h, w, labels, bias=bias))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_batches_of_any_rank_and_an_empty_one():
    hidden, weight, labels = draw(12)
    run = lambda h, y, **words: linear.softmax_cross_entropy(h, weight, y, **words)
    expected = run(hidden, labels)
    got = run(hidden.reshape(2, 3, 2, DIM), labels.reshape(2, 3, 2))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    values = run(hidden.reshape(3, 4, DIM), labels.reshape(3, 4), reduction="none")
    assert values.shape == (3, 4)
    one = run(hidden[0], labels[0], reduction="none")
    np.testing.assert_allclose(one, values[0, 0], rtol=1e-6)
    empty = jax.value_and_grad(lambda w: linear.softmax_cross_entropy(hidden[:0], w, labels[:0]))
    value, slope = empty(weight)
    assert value == 0
    assert np.all(slope == 0)


# --- exactness ---------------------------------------------------------------------------------


@pytest.mark.slow
@POLICIES
def test_a_confident_right_answer_keeps_its_digits(policy):
    """exp(-80) in value, and in the gradients of weight and bias."""
    weight = jnp.zeros((2, 9)).at[0, 3].set(80.0)
    hidden = jnp.array([[1.0, 0.0]])

    def loss(weight, bias):
        return linear.softmax_cross_entropy(
            hidden, weight, [3], bias=bias, chunk_size=(1, 4), policy=policy
        )

    value, (to_weight, to_bias) = jax.jit(jax.value_and_grad(loss, (0, 1)))(weight, jnp.zeros(9))
    tiny = np.exp(-80.0)
    np.testing.assert_allclose(value, 8 * tiny, rtol=1e-5)
    expected = np.where(np.arange(9) == 3, -8 * tiny, tiny)
    np.testing.assert_allclose(to_bias, expected, rtol=1e-5)
    np.testing.assert_allclose(to_weight[0], expected, rtol=1e-5)


@pytest.mark.slow
@POLICIES
def test_impossible_classes_and_labels(policy):
    """-inf through the bias: no probability, no gradient; as a label it costs inf."""
    hidden, weight, labels = draw(4, 9)
    labels = jnp.array([0, 1, 2, 8])
    bias = jnp.zeros(9).at[jnp.array([4, 5, 6, 7])].set(-jnp.inf)
    options = {"bias": bias, "chunk_size": (2, 4), "policy": policy, "label_smoothing": 0.1}
    ours = lambda w, y: linear.softmax_cross_entropy(hidden, w, y, **options)
    theirs = lambda w, y: plain(hidden, w, y, bias=bias, label_smoothing=0.1)
    for run in (jax.value_and_grad,):
        got, expected = jax.jit(lambda y, r=run: [r(f)(weight, y) for f in (ours, theirs)])(labels)
        chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
        assert np.all(np.asarray(got[1])[:, 4:8] == 0)
    assert ours(weight, labels.at[0].set(4)) == np.inf
    everything = jnp.full(9, -jnp.inf)
    value = linear.softmax_cross_entropy(
        hidden, weight, labels, bias=everything, policy=policy, chunk_size=(2, 4), reduction="none"
    )
    expected = softmax_cross_entropy(jnp.full((4, 9), -jnp.inf), labels)
    np.testing.assert_array_equal(value, expected)


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_extreme_offsets_cancel(offset, policy):
    hidden, weight, labels = draw(classes=16)
    options = {"chunk_size": (4, 4), "policy": policy}
    bias = jnp.full(16, offset)
    got = linear.softmax_cross_entropy(hidden, weight, labels, bias=bias, **options)
    expected = plain(hidden, weight, labels)
    np.testing.assert_allclose(got, expected, rtol=2e-3)  # the last place of a logit is 1e-3
    assert linear.softmax_cross_entropy(hidden, weight, labels, **options) == pytest.approx(
        float(expected), rel=1e-6
    )


@POLICIES
def test_the_slope_of_the_cap_does_not_vanish_early(policy):
    """1 - tanh(12)^2 is 0 in float32; the slope is 1.5e-10."""
    hidden, weight = jnp.array([[60.0]]), jnp.array([[1.0, 0.0]])
    cap = lambda w: linear.softmax_cross_entropy(
        hidden, w, [1], softcap=5.0, policy=policy, chunk_size=(1, 1)
    )
    slope = jax.grad(cap)(weight)[0, 0]
    exact = 60 * 4 * np.exp(-24.0) / (1 + np.exp(-24.0)) ** 2 / (1 + np.exp(-5.0))
    np.testing.assert_allclose(slope, exact, rtol=1e-5)


@POLICIES
def test_a_label_outside_is_nan_and_never_a_class(policy):
    hidden, weight, labels = draw()
    for label in (-1, -100, 37, 10**6):
        wrong = labels.at[5].set(label)
        values = linear.softmax_cross_entropy(
            hidden, weight, wrong, chunk_size=(4, 8), policy=policy, reduction="none"
        )
        assert np.isnan(values[5])
        assert np.isfinite(np.delete(values, 5)).all()
        run = jax.value_and_grad(linear.softmax_cross_entropy)
        value, slope = run(hidden, weight, wrong, chunk_size=(4, 8), policy=policy)
        assert np.isnan(value)
        assert np.isnan(slope[5]).all()
        assert np.isfinite(np.delete(slope, 5, 0)).all()
        kept = linear.softmax_cross_entropy(
            hidden, weight, wrong, where=wrong == labels, policy=policy
        )
        assert np.isfinite(kept)


@POLICIES
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_where_hides_whatever_a_row_holds(policy, bad):
    hidden, weight, labels = draw()
    where = jnp.arange(13) % 2 == 0
    dirty = jnp.where(where[:, None], hidden, bad)
    wrong = jnp.where(where, labels, -100)

    @jax.jit
    def run(hidden, labels):
        return jax.value_and_grad(
            lambda h, w: linear.softmax_cross_entropy(
                h, w, labels, where=where, chunk_size=(4, 8), policy=policy
            ),
            (0, 1),
        )(hidden, weight)

    chex.assert_trees_all_equal(run(dirty, wrong), run(hidden, labels))
    assert np.all(np.asarray(run(dirty, wrong)[1][0])[1::2] == 0)


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("scale", [1.0, 10.0, pytest.param(0.01, marks=SLOW), 100.0])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float32, marks=SLOW)])
def test_errors_are_those_of_rounding_the_result(policy, scale, dtype):
    """Against float64: the loss as exact as float32, gradients up to the rounding of their dtype.

    Deviations of the logits from 0.01 to 100; the error does not grow with the number of chunks.
    """
    hidden, weight, labels = draw(256, 64, dtype, scale=scale)
    with cases.x64():
        wide = [np.asarray(x.astype(jnp.float32), np.float64) for x in (hidden, weight)]
        true, slopes = jax.value_and_grad(plain, (0, 1))(*wide, labels)
        true, slopes = float(true), [np.asarray(s) for s in slopes]
    for chunk in ((256, 64), (8, 16)):
        run = functools.partial(linear.softmax_cross_entropy, chunk_size=chunk, policy=policy)
        value, got = jax.jit(jax.value_and_grad(run, (0, 1)))(hidden, weight, labels)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, true, rtol=3e-6)
        for slope, exact in zip(got, slopes, strict=True):
            assert slope.dtype == dtype
            error = np.linalg.norm(np.asarray(slope, np.float64) - exact) / np.linalg.norm(exact)
            # Logits are rounded at their size, and so is each p, by scale * eps of float32.
            assert error < 0.7 * float(jnp.finfo(dtype).eps) + 4e-7 * max(scale, 1)


def test_mixed_precision_takes_the_wider_one():
    hidden, weight, labels = draw()
    half = weight.astype(jnp.bfloat16)
    run = jax.value_and_grad(linear.softmax_cross_entropy, (0, 1))
    _, slopes = run(hidden, half, labels)
    assert [s.dtype for s in slopes] == [jnp.float32, jnp.bfloat16]
    _, expected = run(hidden, half.astype(jnp.float32), labels)
    np.testing.assert_allclose(slopes[0], expected[0], rtol=1e-6, atol=1e-7)


# --- transformations ---------------------------------------------------------------------------


@pytest.mark.slow
@POLICIES
def test_every_derivative_is_that_of_the_plain_loss(policy):
    hidden, weight, labels = draw(7, 11)
    tangents = [jnp.asarray(np.random.default_rng(3).normal(size=x.shape), x.dtype)
                for x in (hidden, weight)]  # fmt: skip
    fused = functools.partial(linear.softmax_cross_entropy, chunk_size=(4, 4), policy=policy)

    def derivatives(loss, primals, tangents):
        f = lambda *x: loss(*x, labels)
        grad = jax.grad(f, (0, 1))
        along = lambda *x: jax.jvp(f, x, tangents)[1]
        return {
            "jvp": along(*primals),
            "linearize": jax.linearize(f, *primals)[1](*tangents),
            "jacfwd": jax.jacfwd(f, 1)(*primals),
            "remat": jax.grad(jax.checkpoint(f), (0, 1))(*primals),
            "forward over reverse": jax.jvp(grad, primals, tangents)[1],
            "reverse over forward": jax.grad(along, (0, 1))(*primals),
            "reverse over reverse": jax.grad(
                lambda *x: (
                    sum(jnp.sum(g * t) for g, t in zip(grad(*x), tangents, strict=True)) * f(*x)
                ),
                (0, 1),
            )(*primals),
            "hessian": jax.hessian(f, 1)(*primals),
        }

    got, expected = jax.jit(lambda p, t: [derivatives(f, p, t) for f in (fused, plain)])(
        (hidden, weight), tuple(tangents)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
@POLICIES
def test_it_maps_over_anything(policy):
    hidden, weight, labels = draw(7, 11)
    two = lambda x: jnp.stack([x, -x])
    fused = functools.partial(linear.softmax_cross_entropy, chunk_size=(4, 4), policy=policy)

    def run(loss):
        grad = jax.value_and_grad(lambda h, w: loss(h, w, labels), (0, 1))
        return [
            jax.vmap(grad, (None, 0))(hidden, two(weight)),
            jax.vmap(grad, (0, None))(two(hidden), weight),
            jax.vmap(grad)(two(hidden), two(weight)),
        ]

    got, expected = jax.jit(lambda: [run(f) for f in (fused, plain)])()
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@SLOW
@POLICIES
def test_derivatives_are_those_of_finite_differences(policy):
    with cases.x64():
        hidden, weight, labels = draw(7, 11, jnp.float64)
        function = lambda h, w: linear.softmax_cross_entropy(
            h, w, labels, chunk_size=(4, 4), policy=policy, softcap=2.0, label_smoothing=0.1
        )
        check_grads(jax.jit(function), (hidden, weight), order=2, modes=("fwd", "rev"))


def test_a_donated_step_of_sgd():
    hidden, weight, labels = draw(16, 64)
    loss = lambda w, h: linear.softmax_cross_entropy(h, w, labels, chunk_size=4)
    step = lambda w, h: w - 0.1 * jax.grad(loss)(w, h)
    donated = jax.jit(step, donate_argnums=0).lower(weight, hidden).compile()
    assert donated.memory_analysis().alias_size_in_bytes == weight.nbytes
    expected = jax.jit(step)(weight, hidden)
    np.testing.assert_allclose(donated(jnp.array(weight), hidden), expected, rtol=1e-6)


# --- metrics, log-probabilities, distillation --------------------------------------------------


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_metrics_are_those_of_the_logits(policy, reduction):
    hidden, weight, labels = draw(12)
    weight = weight.at[:, 20].set(weight[:, 3])  # a tie: the first of equals is predicted
    logits = hidden @ weight
    labels = labels.at[:5].set(jnp.argmax(logits, axis=-1)[:5]).reshape(3, 4)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(hidden):
        loss, metrics = linear.softmax_cross_entropy(
            hidden,
            weight,
            labels,
            chunk_size=(5, 8),
            policy=policy,
            reduction=reduction,
            metrics=True,
        )
        return jnp.sum(loss), metrics

    (_, metrics), _ = run(hidden.reshape(3, 4, DIM))
    normalizer = jax.nn.logsumexp(logits, axis=-1).reshape(3, 4)
    np.testing.assert_allclose(metrics.log_normalizer, normalizer, rtol=1e-5)
    np.testing.assert_array_equal(metrics.predicted, jnp.argmax(logits, -1).reshape(3, 4))
    np.testing.assert_array_equal(metrics.correct, metrics.predicted == labels)
    assert metrics.correct.sum() >= 5


def test_no_gradient_passes_the_metrics():
    hidden, weight, labels = draw()
    of = lambda w: linear.softmax_cross_entropy(hidden, w, labels, metrics=True)[1].log_normalizer
    assert np.all(jax.grad(lambda w: jnp.sum(of(w)))(weight) == 0)


def test_log_probabilities_take_any_cotangent():
    """A preference loss of sums over answers, as DPO has it."""
    hidden, weight, labels = draw(12)
    where = (jnp.arange(12) % 5 < 4).reshape(4, 3)

    def dpo(log_probabilities):
        chosen, rejected = jnp.split(jnp.sum(log_probabilities, axis=-1), 2)
        return jnp.mean(jax.nn.softplus(rejected - chosen))

    def ours(hidden, weight):
        return dpo(
            linear.log_probabilities(
                hidden.reshape(4, 3, DIM), weight, labels.reshape(4, 3), where=where, chunk_size=5
            )
        )

    def theirs(hidden, weight):
        log_p = jax.nn.log_softmax(hidden @ weight)[jnp.arange(12), labels].reshape(4, 3)
        return dpo(jnp.where(where, log_p, 0))

    got, expected = jax.jit(
        lambda: [jax.value_and_grad(f, (0, 1))(hidden, weight) for f in (ours, theirs)]
    )()
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
    certain = linear.log_probabilities(jnp.eye(1), jnp.array([[200.0, 0.0]]), [0])
    assert str(certain[0]) in ("0.0", "-0.0")


DIVERGENCES = {
    "kl": (linear.kl, kl_logits, {}),
    "reverse": (
        functools.partial(linear.kl, reverse=True),
        lambda x, target, **words: kl_logits(target, x, **words),
        {},
    ),
    "jensen-shannon": (
        linear.generalized_jensen_shannon,
        distillation.generalized_jensen_shannon,
        {"beta": np.float32(0.3)},
    ),
    "total variation": (linear.total_variation, distillation.acceptance, {}),
}


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("transposed", [False, True])
def test_divergences_between_two_heads(name, reduction, transposed, policy):
    """Those of the logits, in value and gradient, for all arrays and options.

    Blocks of 8 of 37 classes and chunks of 5 of 13 rows: neither divides.
    """
    fused, of_logits, options = DIVERGENCES[name]
    hidden, weight, _ = draw()
    target_hidden, target_weight, _ = draw(seed=4)
    target_hidden = jnp.concatenate([target_hidden, target_hidden[:, :2]], 1)
    target_weight = jnp.concatenate([target_weight, target_weight[:2]], 0)
    bias, where = jnp.linspace(-1, 1, 37), jnp.arange(13) % 4 > 0
    words = {"where": where, "weights": jnp.linspace(0.5, 2, 13), "reduction": reduction}
    cotangent = jnp.cos(jnp.arange(13)) if reduction == "none" else 3.7
    turn = (lambda w: w.T) if transposed else (lambda w: w)

    def ours(h, w, g, v, b, t, options):
        out = fused(
            h, turn(w), g, turn(v), bias=b, target_bias=-b, temperature=t, chunk_size=(5, 8),
            policy=policy, transposed=transposed, **words, **options,
        )  # fmt: skip
        return jnp.sum(cotangent * out)

    def theirs(h, w, g, v, b, t, options):
        out = of_logits(h @ w + b, g @ v - b, temperature=t, **words, **options)
        return jnp.sum(cotangent * out)

    arguments = hidden, weight, target_hidden, target_weight, bias, jnp.float32(1.7), options
    got, expected = jax.jit(
        lambda *x: [jax.value_and_grad(f, tuple(range(7)))(*x) for f in (ours, theirs)]
    )(*arguments)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["none", pytest.param("mean", marks=SLOW)])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_second_derivatives_of_divergences_in_blocks(name, reduction):
    fused, of_logits, options = DIVERGENCES[name]
    hidden, weight, _ = draw()
    target_hidden, target_weight, _ = draw(seed=4)
    primals = hidden, weight, target_hidden, target_weight, jnp.float32(1.7)
    tangents = jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), primals
    )
    cotangent = jnp.cos(jnp.arange(13)) if reduction == "none" else 3.7

    def ours(h, w, g, v, t):
        words = {"policy": "least_memory", "chunk_size": (5, 8), "reduction": reduction}
        return jnp.sum(cotangent * fused(h, w, g, v, temperature=t, **words, **options))

    def theirs(h, w, g, v, t):
        out = of_logits(h @ w, g @ v, temperature=t, reduction=reduction, **options)
        return jnp.sum(cotangent * out)

    got, expected = jax.jit(
        lambda: [jax.jvp(jax.grad(f, tuple(range(5))), primals, tangents) for f in (ours, theirs)]
    )()
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize(
    ("change", "lead"), [(1e-6, 0), (1e-2, 0), (3.0, 0), (1e-6, 10), (1e-2, 30), (3.0, 40)]
)
def test_near_and_confident_heads_keep_their_digits(name, temperature, change, lead):
    """To 8 units in the last place of a value, and in norm of a gradient.

    Changes below 1e-6 of a probability of exp(-10) need more digits than float64 has.
    """
    fused, of_logits, options = DIVERGENCES[name]
    generator = np.random.default_rng(0)
    student = generator.normal(size=(16, 100)).astype(np.float32)
    student[:, 70] += lead
    student[8:] = 0 if lead == 0 else student[8:]  # classes of all blocks have the largest logit
    teacher = (student + change * generator.normal(size=(16, 100))).astype(np.float32)
    one = jnp.eye(16)  # so that the weights are the logits

    def ours(w, v, reduction):
        words = {"temperature": temperature, "chunk_size": (16, 32), "policy": "least_memory"}
        return fused(one, w, one, v, reduction=reduction, **words, **options)

    got = ours(student, teacher, "none"), *jax.grad(ours, (0, 1))(student, teacher, "sum")
    with cases.x64():
        wide = [jnp.asarray(x, jnp.float64) for x in (student, teacher)]
        words = {"temperature": temperature} | {k: np.float64(v) for k, v in options.items()}
        exact = lambda x, z: of_logits(x, z, **words)
        slopes = jax.grad(lambda x, z: jnp.sum(exact(x, z)), (0, 1))(*wide)
        expected = [np.asarray(x) for x in (exact(*wide), *slopes)]
    unit = np.finfo(np.float32).eps
    np.testing.assert_allclose(got[0], expected[0], rtol=8 * unit)
    for gradient, true in zip(got[1:], expected[1:], strict=True):
        assert np.linalg.norm(gradient - true) < 8 * unit * np.linalg.norm(true)


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("name", DIVERGENCES)
def test_logits_of_neither_head_are_held(name, policy):
    """Four times the tokens take no more than their own hidden states and gradients."""
    fused, _, options = DIVERGENCES[name]
    words = {"chunk_size": (64, 256), "policy": policy} | options

    def held(rows):
        struct, dim, classes = jax.ShapeDtypeStruct, 8, 4096
        grad = jax.grad(lambda h, w, g, v: fused(h, w, g, v, **words), (0, 1))
        one = struct((rows, dim), "f4"), struct((dim, classes), "f4")
        return jax.jit(grad).lower(*one, *one).compile().memory_analysis().temp_size_in_bytes

    assert held(2048) - held(512) < 1536 * 8 * 4 * 4  # all logits would be 24 MiB more
    block = 256 if policy == "least_memory" else 4096
    assert held(512) < 20 * 64 * block * 4


@pytest.mark.slow
@POLICIES
def test_the_same_head_has_no_divergence_from_itself(policy):
    hidden, weight, _ = draw()
    loss = functools.partial(linear.kl, policy=policy, chunk_size=(5, 8))
    value, slope = jax.value_and_grad(loss)(hidden, weight, hidden, weight)
    assert value == 0
    assert np.all(slope == 0)


@pytest.mark.slow
def test_classes_that_are_impossible_have_no_divergence():
    """A logit of -inf, in all of a block, or in one of the two heads."""
    hidden, weight, _ = draw(9, 24)
    target, target_weight, _ = draw(9, 24, seed=4)
    bias = jnp.zeros(24).at[8:16].set(-jnp.inf)
    for name, (fused, of_logits, options) in DIVERGENCES.items():
        for target_bias in (bias, 0 * jnp.arange(24.0)):
            if name == "kl" and target_bias is not bias:
                continue  # it is infinite
            run = lambda w, v, b=target_bias, f=fused, o=options: f(
                hidden, w, target, v, bias=bias, target_bias=b, chunk_size=(4, 8),
                policy="least_memory", **o,
            )  # fmt: skip
            plain_of = lambda w, v, b=target_bias, f=of_logits, o=options: f(
                hidden @ w + bias, target @ v + b, reduction="mean", **o
            )
            got, expected = (
                jax.value_and_grad(f, (0, 1))(weight, target_weight) for f in (run, plain_of)
            )
            chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


# --- memory and work ---------------------------------------------------------------------------


def compiled(rows, argnums=(0, 1), classes=4096, dim=32, **options):
    struct = jax.ShapeDtypeStruct
    function = lambda h, w, y: linear.softmax_cross_entropy(h, w, y, **options)
    function = jax.value_and_grad(function, argnums) if argnums != () else function
    arguments = struct((rows, dim), "f4"), struct((dim, classes), "f4"), struct((rows,), "i4")
    return jax.jit(function).lower(*arguments).compile()


@pytest.mark.parametrize("classes", [16384, pytest.param(16000, marks=SLOW)])
def test_log_probabilities_with_least_memory_hold_no_copy_of_a_gradient(classes):
    """Whether blocks divide the classes or not: the gradient of the weight is the result itself."""

    def total(hidden, weight, labels):
        words = {"policy": "least_memory", "chunk_size": (512, 256)}
        return jnp.sum(linear.log_probabilities(hidden, weight, labels, **words))

    struct = jax.ShapeDtypeStruct
    arguments = struct((512, 128), "f4"), struct((128, classes), "f4"), struct((512,), "i4")
    program = jax.jit(jax.grad(total, (0, 1))).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < 1.5 * 512 * 256 * 4 * 2


@pytest.mark.parametrize(("argnums", "expected"), [((), 1), (0, 2), (1, 2), ((0, 1), 3)], ids=str)
def test_matrix_products_are_as_few_as_promised(argnums, expected):
    text = compiled(512, argnums, chunk_size=128).as_text()
    assert len(re.findall(r" dot\(", text)) == expected


@pytest.mark.parametrize(
    ("options", "mebibytes"),
    [
        ({"chunk_size": 128}, 2.6),  # 128 x 4096 logits, once
        ({"chunk_size": (1024, 256), "policy": "least_memory"}, 2.6),
        ({"chunk_size": 128, "label_smoothing": 0.1}, 10.2),
    ],
    ids=str,
)
def test_memory_is_that_of_one_chunk(options, mebibytes):
    """Whatever the number of rows: the gradients of the rows are the only other array."""
    for rows in (1024, 8192):
        temporary = compiled(rows, **options).memory_analysis().temp_size_in_bytes
        assert temporary < mebibytes * 2**20, (rows, temporary / 2**20)


def test_second_derivatives_stay_in_chunks():
    struct = jax.ShapeDtypeStruct
    grad = jax.grad(lambda w, h, y: linear.softmax_cross_entropy(h, w, y, chunk_size=64))
    product = lambda w, h, y: jax.jvp(lambda w: grad(w, h, y), (w,), (w,))[1]
    arguments = struct((32, 4096), "f4"), struct((2048, 32), "f4"), struct((2048,), "i4")
    memory = jax.jit(product).lower(*arguments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2048 * 4096 * 4 / 3


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "line"),
    [
        (
            (2048, 512, 32768),
            "f4",
            {},
            "1024 x 32768 at a time: 128 MiB instead of 256 (within twice the weight)",
        ),
        (
            (2048, 512, 32768),
            "bfloat16",
            {},
            "512 x 32768 at a time: 64 MiB instead of 256 (within 64 MiB)",
        ),
        (
            (2048, 512, 131072),
            "f4",
            {},
            "1024 x 131072 at a time: 512 MiB instead of 1.02e+03 (within twice the weight)",
        ),
        (
            (8192, 64, 32768),
            "f4",
            {"policy": "least_memory"},
            "2048 x 1024 at a time: 8 MiB instead of 1.02e+03 (2048 tokens at most)",
        ),
        (
            (16384, 2048, 131072),
            "bfloat16",
            {"policy": "least_memory"},
            "8192 x 1024 at a time: 32 MiB instead of 8.19e+03 (8192 tokens at most)",
        ),
        (
            (512, 2048, 131072),
            "bfloat16",
            {"policy": "least_memory"},
            "512 x 4096 at a time: 8 MiB instead of 256 (all tokens at once)",
        ),
        (
            (100, 8, 50),
            "f4",
            {"chunk_size": 30},
            "20 x 50 at a time: 0.00381 MiB instead of 0.0191 "
            "(as given, or less to divide the tokens)",
        ),
        (
            (100, 8, 50),
            "f4",
            {"chunk_size": 300},
            "100 x 50 at a time: 0.0191 MiB instead of 0.0191 (all tokens at once)",
        ),
        (
            (2**20, 8, 2**20),
            "f4",
            {"chunk_size": 2**20},
            "1024 x 1048576 at a time: 4.1e+03 MiB instead of 4.19e+06 "
            "(below 2^31 logits, which int32 indices reach)",
        ),
    ],
    ids=str,
)
def test_the_plan_says_what_is_held(shape, dtype, options, line):
    rows, dim, classes = shape
    structs = [jax.ShapeDtypeStruct(s, dtype) for s in ((rows, dim), (dim, classes))]
    plan = linear.plan(*structs, **options)
    assert str(plan) == f"logits of {rows} x {classes}, {line}"


def test_one_boolean_and_one_number_count_for_all_rows():
    data = jnp.ones((13, 6)), jnp.ones((6, 37)), jnp.arange(13)
    mean = functools.partial(linear.softmax_cross_entropy, *data, reduction="parts")
    found = mean(where=np.True_, weights=2)
    chex.assert_trees_all_equal(found, mean(weights=np.full(13, 2)))
    assert mean(where=False).value == 0


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": jnp.ones((5, 37))}, ValueError, r"`hidden` has shape .* \(\.\.\., 5\) to fit"),
        ({"weight": jnp.ones((37, 6))}, ValueError, r"Write `transposed=True`"),
        ({"weight": jnp.ones(6)}, ValueError, r"`weight` has shape \(6,\)"),
        ({"labels": jnp.ones(13)}, TypeError, r"`labels` is float32, expected integers"),
        ({"labels": jnp.ones((13, 1), int)}, ValueError, r"`labels` has shape .* \(13,\) to fit"),
        ({"where": jnp.ones(13)}, TypeError, r"`where` is float32, expected booleans"),
        ({"weights": jnp.ones(12)}, ValueError, r"`weights` has shape \(12,\)"),
        ({"bias": jnp.ones(36)}, ValueError, r"`bias` has shape \(36,\), expected \(37,\)"),
        ({"temperature": 0.0}, ValueError, r"`temperature` must be above 0, got 0.0"),
        ({"softcap": -1.0}, ValueError, r"`softcap` must be above 0, got -1.0"),
        ({"z_loss": jnp.ones(2)}, ValueError, r"`z_loss` has shape \(2,\), expected a scalar"),
        ({"reduction": "avg"}, ValueError, r"`reduction` is 'avg', expected one of 'none'"),
        ({"policy": "slow"}, ValueError, r"`policy` is 'slow', expected one of 'fastest'"),
        ({"chunk_size": 0}, ValueError, r"`chunk_size` is 0, expected at least 1"),
        ({"chunk_size": 2.5}, TypeError, r"`chunk_size` is 2.5, expected a number of rows or None"),
        ({"axis_name": "model"}, ValueError, r"there is no mesh axis 'model' here"),
        ({"hidden": jnp.ones((13, 6), complex)}, TypeError, r"`hidden` is complex64"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_refused_with_a_remedy(change, error, message):
    hidden, weight, labels = draw()
    arguments = {"hidden": hidden, "weight": weight, "labels": labels} | change
    with pytest.raises(error, match=f"jaxloss.linear.softmax_cross_entropy: .*{message}"):
        linear.softmax_cross_entropy(**arguments)


def test_bad_heads_are_refused():
    hidden, weight, _ = draw()
    with pytest.raises(ValueError, match=r"`target_hidden` has shape \(12, 'dim'\)"):
        linear.kl(hidden, weight, hidden[:12], weight)
    with pytest.raises(ValueError, match="`target_weight` has shape .* 37 classes as `weight`"):
        linear.kl(hidden, weight, hidden, weight[:, :36])
    with pytest.raises(ValueError, match=r"`target_hidden` has shape .* to fit `target_weight`"):
        linear.kl(hidden, weight, hidden[:, :3], weight)
    with pytest.raises(ValueError, match="`beta` must be from 0 to 1, got 1.5"):
        linear.generalized_jensen_shannon(hidden, weight, hidden, weight, beta=1.5)
    with pytest.raises(ValueError, match="`policy` is 'least', expected one of 'fastest'"):
        linear.total_variation(hidden, weight, hidden, weight, policy="least")
    with pytest.raises(ValueError, match="there is no mesh axis 'model' here"):
        linear.kl(hidden, weight, hidden, weight, axis_name="model")


def test_of_a_square_weight_only_transposed_tells_the_layout():
    hidden, weight, labels = draw(classes=DIM)
    for transposed in (False, True):
        turned = weight.T if transposed else weight
        got = linear.softmax_cross_entropy(hidden, weight, labels, transposed=transposed)
        np.testing.assert_allclose(got, plain(hidden, turned, labels), rtol=1e-6)


def test_more_logits_than_int32_indices_reach():
    """2^17 tokens times 2^16 classes: only a chunk exists, and its size is below 2^31."""
    struct = jax.ShapeDtypeStruct
    arguments = struct((2**17, 2), "f4"), struct((2, 2**16), "f4"), struct((2**17,), "i4")
    loss = lambda h, w, y: linear.softmax_cross_entropy(h, w, y, chunk_size=2**17)
    shapes = re.findall(r"f32\[([\d,]+)\]", str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*arguments)))
    sizes = [int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes]
    assert 2**29 < max(sizes) < 2**31


def test_tokamax_is_called_for_the_plain_loss_alone(monkeypatch):
    hidden, weight, labels = draw()
    run = functools.partial(
        linear.softmax_cross_entropy, hidden, weight, labels, implementation="tokamax"
    )
    calls = []

    def kernel(x, labels, weights, *, reduction, implementation):
        calls.append((x.shape, weights.shape, reduction, implementation))
        return jnp.bfloat16(1)

    fake = types.ModuleType("tokamax")
    fake.__spec__ = importlib.machinery.ModuleSpec("tokamax", None)
    fake.linear_softmax_cross_entropy_loss = kernel
    monkeypatch.setitem(sys.modules, "tokamax", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: sys.modules[name])
    with pytest.raises(ValueError, match="it is not installed"):
        run()
    monkeypatch.setitem(sys.modules, "tokamax", fake)
    with pytest.raises(ValueError, match="it has no `softcap`, `where`"):
        run(softcap=3.0, where=labels > 0)
    with pytest.raises(ValueError, match="not 'none'"):
        run(reduction="none")
    assert not calls
    got = run(reduction="sum")
    assert got.dtype == jnp.float32
    turned = linear.softmax_cross_entropy(
        hidden, weight.T, labels, transposed=True, implementation="tokamax"
    )
    assert turned == 1
    shapes = (13, DIM), (DIM, 37)
    assert calls == [(*shapes, "sum", "mosaic_tpu"), (*shapes, "mean", "mosaic_tpu")]


@pytest.mark.slow
def test_training_with_optax_is_that_of_the_plain_loss():
    hidden, weight, labels = draw(24, 16)
    adam = optax.adam(0.1)

    def train(loss):
        def step(carry, _):
            weight, state = carry
            value, slope = jax.value_and_grad(lambda w: loss(hidden, w, labels))(weight)
            updates, state = adam.update(slope, state)
            return (optax.apply_updates(weight, updates), state), value

        return jax.lax.scan(step, (weight, adam.init(weight)), length=10)[1]

    fused = functools.partial(linear.softmax_cross_entropy, chunk_size=8)
    got, expected = jax.jit(lambda: [train(fused), train(plain)])()
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert got[-1] < got[0]


# --- faults that were ---------------------------------------------------------------------------


@pytest.mark.slow
@POLICIES
def test_ids_are_compared_before_they_are_narrowed(policy):
    """2^32 is class 0 of int32, and so is the smallest int64."""
    hidden, weight, labels = draw()
    with cases.x64():
        for label in (2**32, -(2**63), 2**32 + 5, -1, 37):
            wrong = np.asarray(labels, np.int64)
            wrong[5] = label
            values = linear.softmax_cross_entropy(
                hidden, weight, wrong, chunk_size=(4, 8), policy=policy, reduction="none"
            )
            assert np.isnan(values[5])
            assert np.isfinite(np.delete(values, 5)).all()
    for dtype in (np.uint8, np.int8, np.uint32):
        got = linear.softmax_cross_entropy(hidden, weight, labels.astype(dtype), policy=policy)
        np.testing.assert_allclose(got, plain(hidden, weight, labels), rtol=1e-6)


@POLICIES
def test_weights_that_cancel_give_what_the_plain_mean_gives(policy):
    hidden, weight, labels = draw()
    weights = jnp.zeros(13).at[:2].set(jnp.array([1.0, -1.0]))
    run = functools.partial(linear.softmax_cross_entropy, hidden, weight, labels, policy=policy)
    expected = plain(hidden, weight, labels, weights=weights)
    assert np.isinf(expected)
    assert run(weights=weights) == expected
    assert run(weights=0 * weights) == 0


def exact_gradients(hidden, weight, labels):
    """Those of the mean cross-entropy, in NumPy's float64."""
    hidden, weight = (np.asarray(x.astype(jnp.float32), np.float64) for x in (hidden, weight))
    logits = hidden @ weight
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    p[np.arange(len(hidden)), np.asarray(labels)] -= 1
    p /= len(hidden)
    return p @ weight.T, hidden.T @ p


def float16_error(got, exact):
    """The error in norm beyond that of the rounding to float16, whose least number is 2^-24."""
    least = np.sqrt(exact.size) * 2.0**-25
    error = np.linalg.norm(np.asarray(got, np.float64) - exact)
    return max(0, error - least) / np.linalg.norm(exact)


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("scale", [1.0, 2.0**15])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_mean_of_many_tokens_does_not_vanish_in_float16(policy, scale, weighted):
    """The gradients of 16,384 tokens, divided in the chunk, were up to 42 % off."""
    hidden, weight, labels = draw(2**14, 512, jnp.float16)
    words = {"weights": jnp.full(len(labels), 1 / len(labels))} if weighted else {}
    words |= {"reduction": "sum" if weighted else "mean", "policy": policy}
    loss = lambda x: linear.softmax_cross_entropy(*x, labels, chunk_size=(1024, 128), **words)
    run = jl.gradients.scaled_value_and_grad(loss, scale)
    _, got = jax.jit(run)((hidden, weight))
    for gradient, exact in zip(got, exact_gradients(hidden, weight, labels), strict=True):
        assert gradient.dtype == jnp.float16
        assert float16_error(gradient, scale * exact) < 5e-4  # half a unit in the last place


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("scale", [1.0, 2.0**15])
def test_a_mean_of_divergences_does_not_vanish_in_float16(scale, policy):
    hidden, weight, _ = draw(2**14, 512, jnp.float16)
    target, target_weight, _ = draw(2**14, 512, jnp.float16, seed=1)
    loss = lambda x: linear.kl(*x, target, target_weight, chunk_size=(1024, 128), policy=policy)
    _, got = jax.jit(jl.gradients.scaled_value_and_grad(loss, scale))((hidden, weight))
    with cases.x64():
        wide = [jnp.asarray(x, jnp.float64) for x in (hidden, weight, target, target_weight)]
        mean = lambda h, w: jl.mean(kl_logits(h @ w, wide[2] @ wide[3]))
        exact = jax.grad(mean, (0, 1))(*wide[:2])
        for gradient, true in zip(got, exact, strict=True):
            assert float16_error(gradient, scale * np.asarray(true)) < 5e-4


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("chunk_size", [4, None])
def test_symbolic_rows_and_classes_are_exported(policy, reduction, chunk_size):
    hidden, weight, labels = draw()

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def run(hidden, weight, labels):
        loss = linear.softmax_cross_entropy(
            hidden, weight, labels, policy=policy, reduction=reduction, chunk_size=chunk_size
        )
        return jnp.sum(loss)

    rows, classes = jax.export.symbolic_shape("rows, classes")
    struct = jax.ShapeDtypeStruct
    for columns in (37, classes):
        exported = jax.export.export(run)(
            struct((rows, DIM), "f4"), struct((DIM, columns), "f4"), struct((rows,), labels.dtype)
        )
        for count in (1, 13):
            arguments = hidden[:count], weight, labels[:count]
            chex.assert_trees_all_close(
                exported.call(*arguments), run(*arguments), rtol=1e-5, atol=1e-6
            )


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_an_eager_call_compiles_once(policy, reduction):
    hidden, weight, labels = draw()
    value = lambda w: jnp.sum(
        linear.softmax_cross_entropy(
            hidden, w, labels, chunk_size=(4, 8), policy=policy, reduction=reduction
        )
    )
    assert compilations(lambda: value(weight)) == 0
    assert compilations(lambda: jax.grad(value)(weight)) == 0
    assert compilations(lambda: jax.jvp(value, (weight,), (weight,))) == 0


@pytest.mark.slow
@POLICIES
def test_an_eager_divergence_compiles_once(policy):
    hidden, weight, _ = draw()
    loss = functools.partial(linear.kl, chunk_size=(4, 8), policy=policy)
    assert compilations(lambda: loss(hidden, weight, hidden, weight)) == 0


@pytest.mark.slow
@POLICIES
def test_no_nan_on_the_way_to_a_finite_loss(policy):
    """An impossible class, eagerly and compiled: `jax_debug_nans` has nothing to report."""
    hidden, weight, labels = draw(classes=37)
    labels, bias = labels % 30, jnp.zeros(37).at[30:].set(-jnp.inf)
    options = {"bias": bias, "policy": policy, "label_smoothing": 0.1, "metrics": True}
    for reduction in ("mean", "none"):
        run = lambda w: jnp.sum(
            linear.softmax_cross_entropy(hidden, w, labels, reduction=reduction, **options)[0]  # noqa: B023
        )
        with jax.debug_nans(True):
            for function in (run, jax.grad(run), jax.jit(jax.grad(run))):
                assert np.isfinite(np.sum(function(weight)))


def test_a_traced_size_is_answered_with_static_argnames():
    hidden, weight, labels = draw()
    run = lambda n: linear.softmax_cross_entropy(hidden, weight, labels, chunk_size=n)
    for make in (lambda n: n, lambda n: (n, 8)):
        with pytest.raises(TypeError, match='traced array.*static_argnames="chunk_size"'):
            jax.jit(lambda n, make=make: run(make(n)))(4)


@pytest.mark.slow
def test_float8_is_computed_in_bfloat16():
    hidden, weight, labels = draw()
    small = weight.astype(jnp.float8_e4m3fn)
    got = linear.softmax_cross_entropy(hidden, small, labels)
    np.testing.assert_allclose(got, plain(hidden, small.astype(jnp.float32), labels), rtol=1e-6)
    half = linear.softmax_cross_entropy(small.T[:, :6], small, jnp.zeros(37, int), reduction="none")
    assert half.dtype == jnp.float32


def test_a_vocabulary_of_none_is_refused():
    hidden, weight, labels = draw()
    with pytest.raises(ValueError, match=r"`weight` has shape \(6, 0\), expected at least one"):
        linear.softmax_cross_entropy(hidden, weight[:, :0], labels)
    with pytest.raises(ValueError, match=r"`weight` has shape \(6, 0\), of no classes at all"):
        linear.plan(hidden, weight[:, :0])


def test_the_plan_prints_in_a_notebook():
    hidden, weight, _ = draw()
    plan = linear.plan(hidden, weight)
    assert repr(plan) == str(plan)
    assert plan._repr_html_() == f"<code>{plan}</code>"


def temporaries(rows, classes, dtype, reduction):
    """MiB that the gradient holds beside its results, with the least memory and 64 features."""
    struct = jax.ShapeDtypeStruct
    function = lambda h, w, y: jnp.sum(
        linear.softmax_cross_entropy(
            h, w, y, chunk_size=(256, 256), policy="least_memory", transposed=True,
            reduction=reduction,
        )
    )  # fmt: skip
    arguments = struct((rows, 64), dtype), struct((classes, 64), dtype), struct((rows,), "i4")
    program = jax.jit(jax.grad(function, (0, 1))).lower(*arguments)
    return program.compile().memory_analysis().temp_size_in_bytes / 2**20


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_least_memory_holds_neither_logits_nor_a_second_gradient_of_the_weight(reduction):
    """0.6 and 0.8 MiB here. A copy of the gradient is 8 MiB, the logits are 128."""
    assert temporaries(1024, 32768, "float32", reduction) < 1


def test_the_least_memory_holds_no_second_gradient_of_many_rows():
    """1.4 MiB here. A copy of the gradient of the hidden states is 8 MiB."""
    assert temporaries(32768, 1024, "float32", "mean") < 2


@pytest.mark.parametrize(("reduction", "most"), [("mean", 10), ("none", 2)])
def test_the_least_memory_in_half_precision_holds_no_copy_of_the_weight(reduction, most):
    """8.6 and 1.2 MiB here, of which "mean" has 8 for the gradient, which XLA on CPU adds up in
    place in float32 alone. A copy of the weight is 4 MiB, in float32 8.
    """
    assert temporaries(1024, 32768, "bfloat16", reduction) < most


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_gradient_of_the_weight_is_added_up_in_the_dtype_that_is_asked_for(reduction):
    """In bfloat16 half of the accumulator, and an error that grows with the number of chunks."""
    rows, dim, classes = 512, 16, 4096
    hidden, weight = (
        jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) / 4
        for i, shape in enumerate([(rows, dim), (dim, classes)])
    )
    labels = jax.random.randint(jax.random.key(2), (rows,), 0, classes)

    def compiled(**options):
        loss = lambda w: jnp.sum(
            linear.softmax_cross_entropy(
                hidden, w, labels, chunk_size=16, reduction=reduction, **options
            )
        )
        return jax.jit(jax.grad(loss)).lower(weight).compile()

    wide, narrow = compiled(), compiled(accumulator_dtype=jnp.bfloat16)
    exact, rounded = (np.asarray(p(weight), np.float64) for p in (wide, narrow))
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-3 < error < 2e-2
    assert wide(weight).dtype == narrow(weight).dtype == jnp.bfloat16


def test_an_accumulator_that_cannot_hold_the_gradient_is_refused():
    hidden, weight, labels = draw()
    with pytest.raises(ValueError, match=r"`accumulator_dtype` is bfloat16, expected float32 for"):
        linear.softmax_cross_entropy(hidden, weight, labels, accumulator_dtype=jnp.bfloat16)
    half = weight.astype(jnp.bfloat16)
    with pytest.raises(ValueError, match=r"is float16, expected float32 or bfloat16 for a weight"):
        linear.softmax_cross_entropy(
            hidden.astype(half.dtype), half, labels, accumulator_dtype="float16"
        )
    same = linear.softmax_cross_entropy(hidden, weight, labels, accumulator_dtype=jnp.float32)
    assert same == linear.softmax_cross_entropy(hidden, weight, labels)
