"""Statistics of the softmax of a linear layer: those of the logits, whatever part of these exists."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from arithmetic import ulp_error
from compilations import compilations

import jaxloss as jl
from jaxloss import linear
from jaxloss.linear._reference import statistics as plain
from jaxloss.linear._statistics import OUTPUTS

pytestmark = pytest.mark.few

SLOW = pytest.mark.slow
POLICIES = pytest.mark.parametrize("policy", ["fastest", "least_memory"])
DIM, CLASSES, K = 6, 37, 4
NUMBERS = ("log_probability", "log_normalizer", "entropy", "sum_of_squares", "mean_logit")


def draw(rows=13, classes=CLASSES, dtype=jnp.float32, seed=0):
    generator = np.random.default_rng(seed)
    hidden = jnp.asarray(generator.normal(size=(rows, DIM)), dtype)
    weight = jnp.asarray(generator.normal(size=(DIM, classes)), dtype)
    return hidden, weight, jnp.asarray(generator.integers(0, classes, rows))


def everything(hidden, weight, labels, function=linear.statistics, **options):
    return function(hidden, weight, labels, outputs=OUTPUTS, top_k=K, **options)


def split(found):
    """What has a gradient, and what has none."""
    ids = {f: getattr(found, f) for f in ("predicted", "correct", "top_ids")}
    return found._replace(**dict.fromkeys(ids)), ids


def weighted(found):
    """A number that depends on every entry, with cotangents of both signs."""
    leaves = jax.tree.leaves(split(found)[0])
    return sum(jnp.sum(jnp.cos(1.0 + jnp.arange(x.size)).reshape(x.shape) * x) for x in leaves)


OPTIONS = {
    "bias": np.linspace(-1, 1, CLASSES, dtype=np.float32),
    "softcap": np.float32(1.5),
    "temperature": np.float32(0.6),
}


@POLICIES
@pytest.mark.parametrize("transposed", [False, pytest.param(True, marks=SLOW)])
def test_values_and_gradients_are_those_of_the_logits(policy, transposed):
    """Blocks of 8 of 37 classes and chunks of 5 of 13 rows: neither divides."""
    hidden, weight, labels = draw()
    where = jnp.arange(13) % 4 != 1

    def run(function, hidden, weight, options):
        turn = function is linear.statistics and transposed
        words = {"chunk_size": (5, 8), "policy": policy} if function is linear.statistics else {}
        weight = weight.T if turn else weight
        words |= {"transposed": turn, "where": where} | options
        return everything(hidden, weight, labels, function, **words)

    def both(hidden, weight, options):
        return [
            (split(run(f, hidden, weight, options)),
             jax.grad(lambda *x, f=f: weighted(run(f, *x)), (0, 1, 2))(hidden, weight, options))
            for f in (linear.statistics, plain)
        ]  # fmt: skip

    got, expected = jax.jit(both)(hidden, weight, OPTIONS)
    chex.assert_trees_all_equal(got[0][1], expected[0][1])
    chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=5e-6)


@SLOW
@POLICIES
def test_every_derivative_is_that_of_the_logits(policy):
    hidden, weight, labels = draw(7, 11)
    generator = np.random.default_rng(3)
    tangents = tuple(jnp.asarray(generator.normal(size=x.shape), x.dtype) for x in (hidden, weight))

    def derivatives(function, **words):
        values = lambda *x: split(everything(*x, labels, function, **words))[0]
        number = lambda *x: weighted(everything(*x, labels, function, **words))
        grad = jax.grad(number, (0, 1))
        primals = hidden, weight
        return {
            "jvp": jax.jvp(values, primals, tangents)[1],
            "jacfwd": jax.jacfwd(number, 1)(*primals),
            "vmap": jax.vmap(grad, (0, None))(jnp.stack([hidden, -hidden]), weight),
            "remat": jax.grad(jax.checkpoint(number), (0, 1))(*primals),
            "forward over reverse": jax.jvp(grad, primals, tangents)[1],
            "reverse over forward": jax.grad(
                lambda *x: jax.jvp(number, x, tangents)[1], (0, 1)
            )(*primals),
            "in a scan": jax.grad(
                lambda h: jnp.sum(
                    jax.grad(
                        lambda h: jax.lax.scan(lambda c, x: (c + number(x, weight), None), 0.0,
                                               h[None])[0]
                    )(h) ** 2
                )
            )(hidden),
        }  # fmt: skip

    words = {"chunk_size": (4, 4), "policy": policy}
    got, expected = jax.jit(lambda: (derivatives(linear.statistics, **words), derivatives(plain)))()
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=3e-5)


# --- exactness ---------------------------------------------------------------------------------

LOGITS = np.asarray(
    [
        np.r_[80.0, np.zeros(8)],
        np.r_[20.0, np.random.default_rng(0).normal(size=8)],
        1e-3 * np.random.default_rng(1).normal(size=9),
        np.zeros(9),
        np.r_[5.0, 5.0, np.random.default_rng(2).normal(size=7)],
        3 * np.random.default_rng(3).normal(size=9),
        30 * np.random.default_rng(4).normal(size=9),
        1e4 + np.random.default_rng(5).normal(size=9),
        np.r_[0.0, -70 * np.ones(8)],
        np.r_[1e-4, np.zeros(8)],
    ],
    np.float32,
)
IDS = np.array([0, 0, 1, 2, 1, 4, int(LOGITS[6].argmax()), 3, 5, 0])


def exact(logits, label):
    """Each statistic of a row and its derivative with respect to the logits, in mpmath."""
    x = [mpmath.mpf(float(v)) for v in logits]
    total = mpmath.log(sum(map(mpmath.exp, x)))
    log_p = [v - total for v in x]
    p = [mpmath.exp(v) for v in log_p]
    entropy, squares = -sum(a * b for a, b in zip(p, log_p, strict=True)), sum(a * a for a in p)
    best = sorted(range(len(x)), key=lambda k: (-x[k], k))
    of_class = lambda k: (log_p[k], [int(j == k) - p[j] for j in range(len(x))])
    found = {
        "log_probability": of_class(label),
        "log_normalizer": (total, p),
        "entropy": (entropy, [-a * (b + entropy) for a, b in zip(p, log_p, strict=True)]),
        "sum_of_squares": (squares, [2 * a * (a - squares) for a in p]),
        "mean_logit": (sum(x) / len(x), [mpmath.mpf(1) / len(x)] * len(x)),
    }
    return found | {f"top {j}": of_class(best[j]) for j in range(3)}


@SLOW
@POLICIES
def test_all_digits_are_right_from_the_certain_to_the_uniform(policy):
    """The hidden states are rows of the identity: the logits are the weight, not rounded.

    Values to 4 units in the last place, and gradients to 4 of the largest component of the row:
    at the top that is exp(-80) times a number of 80 classes, and at uniform logits 1e-4.
    """
    want = [exact(x, y) for x, y in zip(LOGITS, IDS, strict=True)]

    def of(weight):
        found = linear.statistics(
            jnp.eye(len(LOGITS)), weight, IDS, outputs=OUTPUTS, top_k=3, policy=policy,
            chunk_size=(4, 4),
        )  # fmt: skip
        numbers = {name: getattr(found, name) for name in NUMBERS}
        return numbers | {f"top {j}": found.top_log_probabilities[:, j] for j in range(3)}

    slopes = lambda w: jax.jacrev(lambda w: jax.tree.map(jnp.sum, of(w)))(w)
    values, gradients = jax.jit(lambda w: (of(w), slopes(w)))(LOGITS)
    for name, got in values.items():
        value = np.array([row[name][0] for row in want], object)
        assert ulp_error(np.asarray(got), value).max() < 4, name
        gradient = np.array([row[name][1] for row in want], object)
        largest = np.abs(gradient).max(axis=-1, keepdims=True).astype(np.float64)
        error = np.abs(np.asarray(gradients[name], np.float64) - gradient).astype(np.float64)
        unit = np.spacing(np.maximum(largest, 2.0**-126).astype(np.float32))
        assert (error / unit).max() < 4, name


@SLOW
@POLICIES
def test_half_precision_is_computed_in_float32(policy):
    hidden, weight, labels = draw(dtype=jnp.bfloat16)
    found = everything(hidden, weight, labels, policy=policy)
    wide = everything(hidden.astype(jnp.float32), weight.astype(jnp.float32), labels, plain)
    for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(wide), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)


@POLICIES
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_where_hides_whatever_a_token_holds(policy, bad):
    hidden, weight, labels = draw()
    where = jnp.arange(13) % 2 == 0
    dirty, wrong = jnp.where(where[:, None], hidden, bad), jnp.where(where, labels, -100)

    @jax.jit
    def run(hidden, labels):
        of = lambda h, w: everything(h, w, labels, where=where, chunk_size=(4, 8), policy=policy)
        return of(hidden, weight), jax.grad(lambda *x: weighted(of(*x)), (0, 1))(hidden, weight)

    chex.assert_trees_all_equal(run(dirty, wrong), run(hidden, labels))
    for x in jax.tree.leaves(run(dirty, wrong)[0]):
        assert not np.any(np.asarray(x)[1::2])


@SLOW
@POLICIES
def test_a_label_outside_is_nan_in_its_log_probability_alone(policy):
    hidden, weight, labels = draw()
    of = lambda w, y: everything(hidden, w, y, chunk_size=(4, 8), policy=policy)
    names = "entropy", "log_probability"
    slope = lambda y, name: jax.grad(lambda w: jnp.sum(getattr(of(w, y), name)))(weight)
    for label in (-1, -100, CLASSES, 10**6):
        wrong = labels.at[5].set(label)
        found = of(weight, wrong)
        assert np.isnan(found.log_probability[5])
        assert not found.correct[5]
        assert np.isfinite(np.delete(found.log_probability, 5)).all()
        assert np.isfinite(found.entropy).all()
        of_entropy, of_log_probability = (slope(wrong, name) for name in names)
        assert np.isfinite(of_entropy).all()
        assert np.isnan(of_log_probability).all()


@SLOW
@POLICIES
def test_impossible_classes_do_not_count(policy):
    """-inf through the bias: no probability, no gradient, not in the mean of the logits."""
    hidden, weight, _ = draw(4, 9)
    labels, bias = jnp.array([0, 1, 2, 8]), jnp.zeros(9).at[4:8].set(-jnp.inf)
    of = lambda h, w, y, b: everything(h, w, y, bias=b, policy=policy, chunk_size=(2, 4))
    few = [0, 1, 2, 3, 8]
    run = lambda w, y, b: (
        of(hidden, w, y, b),
        jax.grad(lambda w: weighted(of(hidden, w, y, b)))(w),
    )
    got, slope = jax.jit(run)(weight, labels, bias)
    expected, slope_of_few = run(weight[:, few], jnp.array([0, 1, 2, 4]), jnp.zeros(5))
    ids = lambda x: x._replace(predicted=None, top_ids=None)
    chex.assert_trees_all_close(ids(got), ids(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.top_ids, np.array(few)[expected.top_ids])
    np.testing.assert_allclose(slope[:, few], slope_of_few, rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(slope)[:, 4:8] == 0)


def test_ties_go_to_the_first_class():
    weight = jnp.array([[1.0, 3.0, 0.0, 3.0, 3.0, 2.0]])
    for words in ({}, {"policy": "least_memory", "chunk_size": (1, 4)}):
        found = linear.statistics(
            jnp.eye(1), weight, [3], outputs=("predicted", "correct", "log_probability"), top_k=4,
            **words,
        )  # fmt: skip
        assert (found.predicted[0], bool(found.correct[0])) == (1, True)
        assert found.top_ids[0].tolist() == [1, 3, 4, 5]
        np.testing.assert_allclose(found.log_probability[0], found.top_log_probabilities[0, 1])


@SLOW
@POLICIES
def test_all_classes_may_be_the_top(policy):
    hidden, weight, _ = draw(5, 11)
    found = linear.statistics(
        hidden, weight, outputs=(), top_k=11, policy=policy, chunk_size=(2, 4)
    )
    total = jax.nn.logsumexp(found.top_log_probabilities, axis=-1)
    np.testing.assert_allclose(total, 0, atol=1e-6)
    np.testing.assert_array_equal(np.sort(found.top_ids, -1), np.arange(11)[None].repeat(5, 0))


# --- what is asked for, memory and work ----------------------------------------------------------


def test_what_is_not_asked_for_is_none():
    hidden, weight, labels = draw()
    found = linear.statistics(hidden, weight, outputs=("entropy",))
    assert [f for f, x in found._asdict().items() if x is not None] == ["entropy"]
    expected = jl.policy.entropy(hidden @ weight)
    np.testing.assert_allclose(found.entropy, expected, rtol=1e-5)
    default = linear.statistics(hidden.reshape(13, 1, DIM), weight, labels[:, None])
    assert default.log_probability.shape == default.entropy.shape == (13, 1)
    got = linear.log_probabilities(hidden, weight, labels)
    np.testing.assert_allclose(default.log_probability[:, 0], got, rtol=1e-5)


def compiled(rows, classes, dim=32, **options):
    struct = jax.ShapeDtypeStruct
    number = lambda h, w, y: weighted(everything(h, w, y, **options))
    arguments = struct((rows, dim), "f4"), struct((dim, classes), "f4"), struct((rows,), "i4")
    return jax.jit(jax.grad(number, (0, 1))).lower(*arguments).compile()


def test_all_outputs_take_four_matrix_products():
    text = compiled(512, 4096, chunk_size=128).as_text()
    assert len(re.findall(r" dot\(", text)) == 4


@SLOW
def test_memory_is_that_of_one_block():
    """Neither the tokens nor the classes add to it, but for one row and the gradients."""
    words = {"policy": "least_memory", "chunk_size": (256, 512)}
    held = lambda rows, classes: (
        compiled(rows, classes, dim=8, **words).memory_analysis().temp_size_in_bytes
    )
    block = 256 * 512 * 4
    small, wide, long = held(1024, 4096), held(1024, 32768), held(8192, 4096)
    assert small < 6 * block
    assert wide - small < 4 * 8 * (32768 - 4096) * 4  # copies of the weight, [8, classes]
    assert long - small < 2 * (8192 - 1024) * (8 + 20) * 4  # the rows, and their sums


@SLOW
def test_an_eager_call_compiles_once():
    hidden, weight, labels = draw()
    value = lambda w: weighted(everything(hidden, w, labels, chunk_size=(4, 8)))
    for run in (value, jax.grad(value)):
        assert compilations(functools.partial(run, weight)) == 0


@SLOW
@POLICIES
def test_symbolic_rows_are_exported(policy):
    hidden, weight, labels = draw()
    run = jax.jit(lambda h, w, y: everything(h, w, y, policy=policy, chunk_size=(4, 8)))
    (rows,) = jax.export.symbolic_shape("rows")
    struct = jax.ShapeDtypeStruct
    shapes = struct((rows, DIM), "f4"), struct((DIM, CLASSES), "f4"), struct((rows,), labels.dtype)
    exported = jax.export.export(run)(*shapes)
    for count in (1, 13):
        arguments = hidden[:count], weight, labels[:count]
        chex.assert_trees_all_close(
            exported.call(*arguments), run(*arguments), rtol=1e-5, atol=1e-6
        )


@SLOW
@POLICIES
def test_no_nan_on_the_way(policy):
    hidden, weight, labels = draw()
    bias = jnp.zeros(CLASSES).at[30:].set(-jnp.inf)
    run = lambda w: weighted(
        linear.statistics(
            hidden, w, labels % 30, outputs=OUTPUTS, top_k=K, bias=bias, policy=policy
        )
    )
    with jax.debug_nans(True):
        for function in (run, jax.grad(run), jax.jit(jax.grad(run))):
            assert np.isfinite(np.sum(function(weight)))


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"outputs": ("entropy", "surprisal")}, ValueError, "`outputs` has 'surprisal', expected"),
        ({"outputs": ("top_ids",)}, ValueError, "Write `top_k=`"),
        ({"outputs": "entropy"}, TypeError, r"Write `outputs=\('entropy',\)`"),
        ({"outputs": ()}, ValueError, "`outputs` is empty and `top_k` is None"),
        ({"labels": None}, ValueError, "`labels` is None, but 'log_probability' is wanted"),
        ({"top_k": 38}, ValueError, "`top_k` is 38, expected 1 to 37, the number of classes"),
        ({"top_k": 0}, ValueError, "`top_k` is 0, expected 1 to 37"),
        ({"top_k": 2.0}, TypeError, "`top_k` is 2.0, expected an int"),
        ({"labels": jnp.zeros((13, 1), int)}, ValueError, r"`labels` has shape \(13, 1\)"),
        ({"weight": jnp.ones((37, 6))}, ValueError, "Write `transposed=True`"),
        ({"axis_name": "model"}, ValueError, "there is no mesh axis 'model' here"),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_remedy(words, error, message):
    hidden, weight, labels = draw()
    arguments = {"hidden": hidden, "weight": weight, "labels": labels} | words
    with pytest.raises(error, match=f"jaxloss.linear.statistics: .*{message}"):
        linear.statistics(**arguments)


def test_more_classes_than_a_float_counts_are_refused():
    struct = jax.ShapeDtypeStruct
    run = lambda h, w: linear.statistics(h, w, outputs=("predicted",))
    with pytest.raises(ValueError, match=r"33554432 classes, expected at most 16777216"):
        jax.eval_shape(run, struct((2, 1), "f4"), struct((1, 2**25), "f4"))


@pytest.mark.parametrize("function", [linear.statistics, linear.softmax_cross_entropy])
def test_checks_say_which_label_of_padding_was_not_masked(function):
    hidden, weight, labels = draw(4)
    wrong = labels.reshape(2, 2).at[1, 0].set(-100)
    run = lambda **words: function(hidden.reshape(2, 2, DIM), weight, wrong, **words)
    message = r"`labels` must be class ids from 0 to classes - 1 \(classes = 37\), got -100 at flat"
    with pytest.raises(ValueError, match=message + r" index 2 of shape \(2, 2\)"), jl.checks():
        jax.jit(run)()
    with jl.checks():
        run(where=wrong >= 0)
