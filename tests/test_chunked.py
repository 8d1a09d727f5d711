"""Any additive loss in chunks: equal to the plain one, however it is split or transformed."""

import functools
import gc
import re
import weakref

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
from jaxloss import classification, linear, regression
from jaxloss._memory.layout import plan_split
from jaxloss.classification import softmax_cross_entropy

pytestmark = pytest.mark.few

DIM, CLASSES = 6, 11
POLICIES = pytest.mark.parametrize("policy", ["fastest", "least_memory"])


def head(weight, hidden, labels):
    return softmax_cross_entropy(hidden @ weight, labels)


def draw(rows, dtype=jnp.float32, seed=0):
    generator = np.random.default_rng(seed)
    weight = jnp.asarray(generator.normal(size=(DIM, CLASSES)), dtype)
    hidden = jnp.asarray(generator.normal(size=(rows, DIM)), dtype)
    return weight, hidden, jnp.asarray(generator.integers(0, CLASSES, rows))


def plain(weight, hidden, labels, reduction="mean", **words):
    return softmax_cross_entropy(hidden @ weight, labels, reduction=reduction, **words)


def both(ours, theirs, *arguments, argnums=(0, 1)):
    """Value and gradients of two functions, compiled once."""

    @jax.jit
    def run(*arguments):
        return [jax.value_and_grad(f, argnums)(*arguments) for f in (ours, theirs)]

    return run(*arguments)


SLOW = pytest.mark.slow


@POLICIES
@pytest.mark.parametrize(
    "rows", [9, 16, *(pytest.param(n, marks=SLOW) for n in (1, 7, 8, 15, 23, 24))]
)
def test_value_and_gradients_are_those_of_the_plain_loss(rows, policy):
    """With a chunk of 8: fewer rows, as many, one more, one less than two chunks, a prime."""
    weight, hidden, labels = draw(rows)
    generator = np.random.default_rng(1)
    where = jnp.asarray(generator.random(rows) < 0.7)
    weights = jnp.asarray(generator.uniform(0.5, 2, rows), jnp.float32)
    chunked = jl.chunked(head, 8, policy=policy)
    for words in ({}, {"where": where}, {"where": where, "weights": weights}):
        ours, theirs = both(
            lambda w, h: 3.7 * chunked(w, h, labels, **words),  # noqa: B023 (called at once)
            lambda w, h: 3.7 * plain(w, h, labels, **words),  # noqa: B023
            weight,
            hidden,
        )
        chex.assert_trees_all_close(ours, theirs, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "parts"])
def test_reductions_are_those_of_every_loss(reduction):
    weight, hidden, labels = draw(13)
    weights = jnp.arange(13.0)
    where = jnp.arange(13) % 3 > 0
    ours = jl.chunked(head, 4, reduction=reduction)
    got = jax.jit(ours)(weight, hidden, labels, where=where, weights=weights)
    expected = plain(weight, hidden, labels, reduction, where=where, weights=weights)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)
    assert type(got) is type(expected)


def test_values_a_row_take_any_cotangent():
    weight, hidden, labels = draw(13)
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=13), jnp.float32)
    values = jl.chunked(head, 4, reduction="none")
    ours, theirs = both(
        lambda w, h: jnp.vdot(values(w, h, labels), cotangent),
        lambda w, h: jnp.vdot(plain(w, h, labels, "none"), cotangent),
        weight,
        hidden,
    )
    chex.assert_trees_all_close(ours, theirs, rtol=2e-6, atol=1e-6)


@POLICIES
def test_gradients_flow_to_weights_and_through_the_normalizer(policy):
    weight, hidden, labels = draw(13)
    weights = jnp.linspace(0.5, 2, 13)
    chunked = jl.chunked(head, 4, policy=policy)
    ours, theirs = both(
        lambda u: chunked(weight, hidden, labels, weights=u),
        lambda u: plain(weight, hidden, labels, weights=u),
        weights,
        argnums=0,
    )
    chex.assert_trees_all_close(ours, theirs, rtol=2e-6, atol=1e-6)


@POLICIES
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_where_hides_whatever_a_row_holds(policy, bad):
    weight, hidden, labels = draw(13)
    where = jnp.arange(13) % 2 == 0
    dirty = jnp.where(where[:, None], hidden, bad)
    wrong = jnp.where(where, labels, -100)
    chunked = jl.chunked(head, 4, policy=policy)

    @jax.jit
    def run(hidden, labels):
        return jax.value_and_grad(lambda w, h: chunked(w, h, labels, where=where), (0, 1))(
            weight, hidden
        )

    (value, (to_weight, to_hidden)) = run(dirty, wrong)
    chex.assert_trees_all_equal((value, (to_weight, to_hidden)), run(hidden, labels))
    assert np.all(np.asarray(to_hidden)[1::2] == 0)


@pytest.mark.slow
@POLICIES
def test_nothing_that_counts_gives_zero_with_gradient_zero(policy):
    weight, hidden, labels = draw(7)
    chunked = jl.chunked(head, 4, policy=policy)
    for rows, where in ((0, None), (7, jnp.zeros(7, bool))):
        function = lambda w, h, y=labels[:rows], m=where: chunked(w, h, y, where=m)
        value, slopes = jax.value_and_grad(function, (0, 1))(weight, hidden[:rows])
        assert value == 0
        assert all(np.all(np.asarray(s) == 0) for s in slopes)


def test_a_nan_that_counts_stays_visible():
    weight, hidden, labels = draw(9)
    assert np.isnan(jl.chunked(head, 4)(weight, hidden.at[5].set(np.nan), labels))
    assert np.isnan(jl.chunked(head, 4)(weight, hidden, labels.at[8].set(CLASSES)))


# --- transformations ---------------------------------------------------------------------------


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("rows", [9, pytest.param(8, marks=SLOW)])
def test_every_derivative_is_that_of_the_plain_loss(policy, rows):
    """Forward, linearize, Hessian-vector products three ways, the Hessian, remat."""
    weight, hidden, labels = draw(rows)
    tangent = jnp.asarray(np.random.default_rng(3).normal(size=weight.shape), jnp.float32)
    chunked = jl.chunked(head, 4, policy=policy)

    def derivatives(loss, w, t):
        f = lambda w: loss(w, hidden, labels)
        grad = jax.grad(f)
        return {
            "jvp": jax.jvp(f, (w,), (t,))[1],
            "linearize": jax.linearize(f, w)[1](t),
            "jacfwd": jax.jacfwd(f)(w),
            "remat": jax.grad(jax.checkpoint(f))(w),
            "forward over reverse": jax.jvp(grad, (w,), (t,))[1],
            "reverse over forward": jax.grad(lambda w: jax.jvp(f, (w,), (t,))[1])(w),
            "reverse over reverse": jax.grad(lambda w: jnp.sum(grad(w) * t))(w),
            "hessian": jax.hessian(f)(w),
        }

    got, expected = jax.jit(lambda w, t: [derivatives(f, w, t) for f in (chunked, plain)])(
        weight, tangent
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@POLICIES
def test_derivatives_are_those_of_finite_differences(policy):
    with cases.x64():
        weight, hidden, labels = draw(9, jnp.float64)
        chunked = jl.chunked(head, 4, policy=policy)
        function = jax.jit(lambda w, h: chunked(w, h, labels))
        check_grads(function, (weight, hidden), order=2, modes=("fwd", "rev"))


@pytest.mark.slow
@POLICIES
def test_it_maps_over_anything(policy):
    weight, hidden, labels = draw(9)
    weights = jnp.stack([weight, -weight])
    hiddens = jnp.stack([hidden, 2 * hidden])
    chunked = jl.chunked(head, 4, policy=policy)

    def run(loss):
        grad = jax.value_and_grad(lambda w, h: loss(w, h, labels), (0, 1))
        return [
            jax.vmap(grad, axes)(*arguments)
            for axes, arguments in (
                ((0, None), (weights, hidden)),
                ((None, 0), (weight, hiddens)),
                ((0, 0), (weights, hiddens)),
            )
        ]

    got, expected = jax.jit(lambda: [run(f) for f in (chunked, plain)])()
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_eager_jitted_and_undone_jit_agree():
    weight, hidden, labels = draw(9)
    function = jax.value_and_grad(lambda w: jl.chunked(head, 4)(w, hidden, labels))
    expected = plain(weight, hidden, labels)
    with jax.disable_jit():
        np.testing.assert_allclose(function(weight)[0], expected, rtol=1e-6)
    chex.assert_trees_all_close(function(weight), jax.jit(function)(weight), rtol=1e-6, atol=1e-7)


def test_it_is_inside_a_larger_loss_and_a_scan():
    weight, hidden, labels = draw(9)
    sgd = optax.sgd(0.5)

    def train(loss):
        function = lambda w: loss(w, hidden, labels) ** 2 + jnp.sum(w**2)

        def step(carry, _):
            w, state = carry
            updates, state = sgd.update(jax.grad(function)(w), state)
            return (optax.apply_updates(w, updates), state), function(w)

        return jax.lax.scan(step, (weight, sgd.init(weight)), length=5)

    got, expected = jax.jit(lambda: [train(jl.chunked(head, 4)), train(plain)])()
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_donated_step_updates_in_place():
    weight, hidden, labels = draw(16)
    step = lambda w, h: w - 0.1 * jax.grad(lambda w: jl.chunked(head, 4)(w, h, labels))(w)
    expected = jax.jit(step)(weight, hidden)
    donated = jax.jit(step, donate_argnums=0).lower(weight, hidden).compile()
    assert donated.memory_analysis().alias_size_in_bytes == weight.nbytes
    np.testing.assert_allclose(donated(jnp.array(weight), hidden), expected, rtol=1e-6)


@pytest.mark.slow
def test_checks_reach_inside():
    weight, hidden, labels = draw(9)
    step = jax.jit(jax.grad(lambda w, y: jl.chunked(head, 4)(w, hidden, y)))
    with pytest.raises(ValueError, match="`labels` must be class ids .*, got 11"):
        jl.checked(step)(weight, labels.at[3].set(CLASSES))
    chex.assert_tree_all_finite(jl.checked(step)(weight, labels))


# --- what a function may be --------------------------------------------------------------------


def test_shared_and_rows_are_pytrees_and_half_of_them_frozen():
    """Distillation between two heads: neither logits exist as a whole."""
    weight, hidden, _ = draw(13)
    frozen, other, _ = draw(13, seed=5)

    def distance(target, prediction):
        return jnp.sum(jnp.exp(target) * (target - prediction), axis=-1)

    def rows_loss(heads, rows):
        student, teacher = rows["student"] @ heads["student"], rows["teacher"] @ heads["teacher"]
        return distance(jax.nn.log_softmax(teacher), jax.nn.log_softmax(student))

    chunked = jl.chunked(rows_loss, 4)
    run = lambda loss: (
        lambda w, h: loss({"student": w, "teacher": frozen}, {"student": h, "teacher": other})
    )
    ours, theirs = both(run(chunked), run(lambda s, r: jnp.mean(rows_loss(s, r))), weight, hidden)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_embedding_table_is_shared_and_ids_are_rows():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)
    ids, target = jnp.array([0, 3, 3, 6, 1]), jnp.arange(5.0)
    loss = lambda table, i, t: regression.huber(jnp.sum(table[i], -1), t)
    ours, theirs = both(
        lambda e: jl.chunked(loss, 2)(e, ids, target),
        lambda e: jnp.mean(loss(e, ids, target)),
        table,
        argnums=0,
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_focal_loss_of_anchors_needs_no_shared():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(33, 4)), jnp.float32)
    labels = (logits > 1).astype(jnp.float32)
    loss = lambda _, x, y: jnp.sum(classification.sigmoid_focal(x, y), axis=-1)
    ours, theirs = both(
        lambda x: jl.chunked(loss, 8, reduction="sum")(None, x, labels),
        lambda x: classification.sigmoid_focal(x, labels, reduction="sum"),
        logits,
        argnums=0,
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@POLICIES
def test_closures_over_traced_arrays_have_gradients(policy):
    weight, hidden, labels = draw(9)

    def loss(weight, scale, labels, reduce):
        return reduce(lambda _, h, y: softmax_cross_entropy(h @ weight * scale, y + 0 * labels[0]))

    chunk = lambda f: jl.chunked(f, 4, policy=policy)(None, hidden, labels)
    whole = lambda f: jnp.mean(f(None, hidden, labels))
    for grad in (jax.value_and_grad, lambda f, n: lambda *x: jax.jvp(f, x, (x[0], x[1]))):
        run = lambda r, g=grad: g(lambda w, s: loss(w, s, labels, r), (0, 1))
        got, expected = jax.jit(lambda r=run: [r(chunk)(weight, 0.7), r(whole)(weight, 0.7)])()
        chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


def test_a_function_called_again_after_its_closure_changed_sees_the_change():
    box = [jnp.ones(())]
    chunked = jl.chunked(lambda _, x: x * box[0], 2)
    assert chunked(None, jnp.ones(4)) == 1
    box[0] = 2 * jnp.ones(())
    assert chunked(None, jnp.ones(4)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@POLICIES
def test_half_precision_is_added_up_in_float32(dtype, policy):
    """The error against float32 does not grow with the number of chunks."""
    weight, hidden, labels = draw(256, dtype)
    exact = jax.grad(plain, (0, 1))(*(x.astype(jnp.float32) for x in (weight, hidden)), labels)
    for size in (256, 1):
        chunked = jl.chunked(head, size, policy=policy)
        value, slopes = jax.jit(jax.value_and_grad(chunked, (0, 1)))(weight, hidden, labels)
        assert value.dtype == jnp.float32
        for slope, x, true in zip(slopes, (weight, hidden), exact, strict=True):
            assert slope.dtype == x.dtype == dtype
            error = np.linalg.norm(slope.astype(jnp.float32) - true) / np.linalg.norm(true)
            assert error < 2 * float(jnp.finfo(dtype).eps)


@pytest.mark.slow
def test_float64_stays():
    with cases.x64():
        weight, hidden, labels = draw(9, jnp.float64)
        ours, theirs = both(
            lambda w, h: jl.chunked(head, 4)(w, h, labels),
            lambda w, h: plain(w, h, labels),
            weight,
            hidden,
        )
        assert ours[0].dtype == jnp.float64
        chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-14)


# --- memory and work ---------------------------------------------------------------------------


def compiled(rows, argnums=(0, 1), policy="fastest", dim=32, classes=2048, size=64):
    struct = jax.ShapeDtypeStruct
    arguments = struct((dim, classes), "float32"), struct((rows, dim), "float32")
    chunked = jl.chunked(head, size, policy=policy)
    function = jax.jit(jax.value_and_grad(chunked, argnums))
    return function.lower(*arguments, struct((rows,), "int32")).compile()


def products(program):
    return len(re.findall(r" dot\(", program.as_text()))


@pytest.mark.parametrize(
    ("argnums", "policy", "expected"),
    [
        ((0, 1), "fastest", 3),
        (0, "fastest", 2),
        (1, "fastest", 2),
        ((0, 1), "least_memory", 4),
        (1, "least_memory", 3),
    ],
)
def test_matrix_products_are_as_few_as_promised(argnums, policy, expected):
    assert products(compiled(256, argnums, policy)) == expected


@pytest.mark.slow
@POLICIES
def test_memory_does_not_grow_with_the_rows(policy):
    """Past what the gradients of the rows take, and copies of the rows for "least_memory"."""
    few, many = (compiled(rows, policy=policy).memory_analysis() for rows in (1024, 8192))
    of_rows = 4 * 32 * (8192 - 1024)
    growth = many.temp_size_in_bytes - few.temp_size_in_bytes
    assert growth <= of_rows * (1 if policy == "fastest" else 2) + 2**16
    logits = 4 * 8192 * 2048
    assert many.temp_size_in_bytes < logits / 20


@pytest.mark.parametrize("policy", ["fastest", "least_memory"])
def test_no_array_of_all_rows_and_classes(policy):
    text = compiled(1024, policy=policy).as_text()
    sizes = [np.prod([int(n) for n in s.split(",")]) for s in re.findall(r"f32\[([\d,]+)\]", text)]
    assert max(sizes) < 1024 * 2048 / 8


@pytest.mark.slow
def test_second_derivatives_stay_in_chunks():
    weight, hidden, labels = (
        jax.ShapeDtypeStruct(s, t)
        for s, t in (((32, 2048), "float32"), ((1024, 32), "float32"), ((1024,), "int32"))
    )
    function = lambda w, h, y: jl.chunked(head, 64)(w, h, y)
    forward = lambda w, h, y: jax.jvp(jax.grad(lambda w: function(w, h, y)), (w,), (w,))[1]
    slope = lambda w, h, y: jax.jvp(lambda w: function(w, h, y), (w,), (jnp.ones_like(w),))[1]
    backward = jax.grad(slope)
    for product in (forward, backward):
        memory = jax.jit(product).lower(weight, hidden, labels).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 4 * 1024 * 2048 / 2


# --- the size ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "most", "shards", "expected"),
    [
        (0, 8, 1, (1, 1)),
        (5, 8, 1, (5, 1)),
        (16, 8, 1, (8, 2)),
        (1000, 256, 1, (200, 5)),
        (17, 8, 1, (6, 3)),
        (8192, 500, 1, (256, 32)),
        (64, 16, 8, (16, 4)),
        (40, 16, 8, (16, 3)),
        (40, 4, 8, (8, 5)),
    ],
)
def test_the_split_is_as_documented(rows, most, shards, expected):
    how = plan_split(rows, most, shards)
    assert (how.size, how.chunks) == expected
    assert 0 <= how.padding < max(how.chunks, 2) * shards


def test_the_size_is_chosen_from_the_shapes():
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")
    plan = lambda *shape: jl.chunked(lambda w, x: jnp.sum(jnp.exp(x @ w), -1)).plan(
        struct(*shape[1:]), struct(shape[0], shape[1])
    )
    assert plan(8192, 512, 32768).chunk_size == 512  # 64 MiB of logits
    assert plan(8192, 512, 131072).chunk_size == 512  # as many as the weights
    assert plan(8192, 8, 131072).chunk_size == 128
    assert plan(100, 8, 16).chunk_size == 100
    assert str(plan(8192, 8, 131072)) == (
        "8192 rows as 64 x 128; the largest array of a chunk takes 64 of at most 64 MiB"
    )
    given = jl.chunked(lambda w, x: jnp.sum(x @ w, -1), 100).plan(struct(2, 4), struct(997, 2))
    assert str(given).startswith("997 rows as 10 x 100 (the last padded by 3); the largest")


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"chunk_size": 0}, ValueError, "`chunk_size` is 0, expected at least 1"),
        ({"chunk_size": 2.0}, TypeError, "`chunk_size` is 2.0, expected a number of rows"),
        ({"reduction": "avg"}, ValueError, "`reduction` is 'avg', expected one of 'none'"),
        ({"policy": "slow"}, ValueError, "`policy` is 'slow', expected one of 'fastest'"),
    ],
)
def test_wrong_options_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        jl.chunked(head, **arguments)


def test_wrong_rows_are_refused():
    weight, hidden, labels = draw(9)
    chunked = jl.chunked(head, 4)
    for arguments, words, error, message in (
        ((weight, hidden, labels[:8]), {}, ValueError, r"`rows\[1\]` has shape \(8,\), expected"),
        ((weight, hidden, jnp.int32(3)), {}, ValueError, r"`rows\[1\]` has shape \(\), expected"),
        ((weight,), {}, ValueError, "no rows were given"),
        (
            (weight, hidden, labels),
            {"where": jnp.ones(9)},
            TypeError,
            "`where` must be boolean, got float32: write `where > 0`",
        ),
        (
            (weight, hidden, labels),
            {"weights": jnp.ones((9, 1))},
            ValueError,
            r"`weights` has shape \(9, 1\), expected \(9,\)",
        ),
        (({"w": "text"}, hidden, labels), {}, TypeError, r"`shared\['w'\]` is a str"),
    ):
        with pytest.raises(error, match=message):
            chunked(*arguments, **words)


def test_one_boolean_and_one_number_count_for_all_rows():
    data = draw(9)
    for reduction in ("mean", "parts"):
        chunked = jl.chunked(head, 4, reduction=reduction)
        found = chunked(*data, where=np.True_, weights=2)
        chex.assert_trees_all_equal(found, chunked(*data, weights=np.full(9, 2)))
    assert jl.chunked(head, 4)(*data, where=False) == 0


def test_functions_that_give_something_else_are_refused():
    weight, hidden, labels = draw(9)
    mean = lambda w, h, y: jnp.mean(head(w, h, y))
    with pytest.raises(ValueError, match=r"gives \(\) for a chunk of 3 rows.*Did it reduce\?"):
        jl.chunked(mean, 4)(weight, hidden, labels)
    with pytest.raises(ValueError, match=r"expected shape \(3,\), one loss a row"):
        jl.chunked(lambda w, h, y: (h, y), 4)(weight, hidden, labels)
    with pytest.raises(TypeError, match="gives int32, expected floating-point losses"):
        jl.chunked(lambda w, h, y: y, 4)(weight, hidden, labels)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_size():
    weight, hidden, labels = draw(24)
    run = functools.partial(jax.jit(plain), weight, hidden, labels)
    for size in (1, 3, 8, 24):
        ours = jax.jit(jl.chunked(head, size))
        np.testing.assert_allclose(ours(weight, hidden, labels), run(), rtol=1e-6)
        assert ours(weight, hidden, labels) == ours(weight, hidden, labels)


def pairs_of(everything, scores, relevance):
    """What each item of a list pays for the items that should be below it."""
    others, grades = everything
    ordered = relevance[:, None] > grades[None, :]
    return jnp.sum(jnp.where(ordered, jl.numerics.softplus(others - scores[:, None]), 0), axis=1)


@pytest.mark.slow
def test_the_pairs_of_a_list_need_no_square():
    """The loss over pairs of the family of ranking, and 10,000 items in a hundredth of 800 MiB."""
    generator = np.random.default_rng(0)
    scores = jnp.asarray(generator.normal(size=50), jnp.float32)
    relevance = jnp.asarray(generator.integers(0, 4, 50))
    number = jnp.sum(relevance[:, None] > relevance[None, :])

    def ours(scores, size=16):
        loss = jl.chunked(pairs_of, size, reduction="sum")
        return loss((scores, relevance), scores, relevance) / number

    theirs = lambda scores: jl.ranking.pairwise_logistic(scores, relevance)
    chex.assert_trees_all_close(*both(ours, theirs, scores, argnums=0), rtol=1e-5, atol=1e-6)
    many, grades = jax.ShapeDtypeStruct((10_000,), "f4"), jnp.zeros(10_000, int)
    loss = jl.chunked(pairs_of, 128, reduction="sum")
    slope = jax.jit(jax.grad(lambda s: loss((s, grades), s, grades)))
    memory = slope.lower(many).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * 4 * 10_000 * 10_000 / 100


# --- faults that were ---------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_that_cancel_give_what_the_plain_mean_gives():
    """Of total 10.4 and weight 0 the plain mean is infinite; the division in the loop is not."""
    weight, hidden, labels = draw(9)
    weights = jnp.zeros(9).at[:2].set(jnp.array([1.0, -1.0]))
    expected = plain(weight, hidden, labels, weights=weights)
    assert np.isinf(expected)
    for policy in ("fastest", "least_memory"):
        assert (
            jl.chunked(head, 4, policy=policy)(weight, hidden, labels, weights=weights) == expected
        )
        nothing = jl.chunked(head, 4, policy=policy)(weight, hidden, labels, weights=0 * weights)
        assert nothing == 0


def exact_gradients(weight, hidden, labels):
    """Those of the mean cross-entropy, in NumPy's float64."""
    weight, hidden = (np.asarray(x.astype(jnp.float32), np.float64) for x in (weight, hidden))
    logits = hidden @ weight
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    p[np.arange(len(hidden)), np.asarray(labels)] -= 1
    p /= len(hidden)
    return hidden.T @ p, p @ weight.T


def float16_error(got, exact):
    """The error in norm beyond the rounding to float16, whose least number is 2^-24."""
    least = np.sqrt(exact.size) * 2.0**-25
    error = np.linalg.norm(np.asarray(got, np.float64) - exact)
    return max(0, error - least) / np.linalg.norm(exact)


def many_tokens(rows=2**14, classes=512):
    generator = np.random.default_rng(0)
    weight = jnp.asarray(generator.normal(size=(DIM, classes)) / DIM**0.5, jnp.float16)
    hidden = jnp.asarray(generator.normal(size=(rows, DIM)), jnp.float16)
    return weight, hidden, jnp.asarray(generator.integers(0, classes, rows))


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("scale", [1.0, 2.0**15])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_mean_of_many_rows_does_not_vanish_in_float16(policy, scale, weighted):
    """Divided in the chunk, the gradients of 16,384 rows were 1.5 % off, without the scale lost."""
    weight, hidden, labels = many_tokens()
    words = {"weights": jnp.full(len(labels), 1 / len(labels))} if weighted else {}
    loss = jl.chunked(head, 1024, policy=policy, reduction="sum" if weighted else "mean")
    run = jl.gradients.scaled_value_and_grad(lambda x: loss(*x, labels, **words), scale)
    _, got = jax.jit(run)((weight, hidden))
    for gradient, exact in zip(got, exact_gradients(weight, hidden, labels), strict=True):
        assert gradient.dtype == jnp.float16
        assert float16_error(gradient, scale * exact) < 1e-3


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("chunk_size", [4, None])
def test_a_symbolic_number_of_rows_is_exported(policy, reduction, chunk_size):
    weight, hidden, labels = draw(9)
    chunked = jl.chunked(head, chunk_size, policy=policy, reduction=reduction)
    run = jax.jit(jax.value_and_grad(lambda w, h, y: jnp.sum(chunked(w, h, y)), (0, 1)))
    (rows,) = jax.export.symbolic_shape("rows")
    structs = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((DIM, CLASSES), "f4"), ((rows, DIM), "f4"), ((rows,), labels.dtype))
    ]
    exported = jax.export.export(run)(*structs)
    for count in (1, 8, 9):
        arguments = weight, hidden[:count], labels[:count]
        chex.assert_trees_all_close(
            exported.call(*arguments), run(*arguments), rtol=1e-5, atol=1e-6
        )


@pytest.mark.slow
@POLICIES
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_an_eager_call_compiles_once(policy, reduction):
    weight, hidden, labels = draw(9)
    make = lambda: jl.chunked(head, 4, policy=policy, reduction=reduction)
    value = lambda w: jnp.sum(make()(w, hidden, labels))
    assert compilations(lambda: value(weight)) == 0
    assert compilations(lambda: jax.grad(value)(weight)) == 0
    assert compilations(lambda: jax.jvp(value, (weight,), (weight,))) == 0


@pytest.mark.slow
def test_a_function_that_is_gone_leaves_no_program():
    weight, hidden, labels = draw(9)
    function = lambda w, h, y: head(w, h, y)
    jl.chunked(function, 4)(weight, hidden, labels)
    gone = weakref.ref(function)
    del function
    gc.collect()
    assert gone() is None


def test_inner_constants_of_a_function_may_change():
    """Not in the text of its jaxpr: a new program is compiled."""
    box = [jnp.ones(2)]
    function = lambda _, x: jax.jit(lambda x: x * box[0][0])(x)
    loss = jl.chunked(function, 2)
    assert loss(None, jnp.ones(4)) == 1
    box[0] = 2 * jnp.ones(2)
    assert loss(None, jnp.ones(4)) == 2


@pytest.mark.slow
def test_keys_are_rows():
    keys = jax.random.split(jax.random.key(0), 11)
    noise = jax.vmap(lambda key: jax.random.normal(key))
    loss = lambda w, x, keys: (x @ w) * noise(keys)
    weight, hidden, _ = draw(11)
    where = jnp.arange(11) % 3 > 0
    plain = lambda w: jnp.where(where, loss(w, hidden, keys), 0)
    of_rows = lambda w: jl.chunked(loss, 4, reduction="none")(w, hidden, keys, where=where)
    of_mean = lambda w: jl.chunked(loss, 4)(w, hidden, keys, where=where)
    both = lambda w: (of_rows(w), jax.value_and_grad(of_mean)(w))
    mean = lambda w: jl.mean(loss(w, hidden, keys), where=where)
    expected = plain(weight[:, 0]), jax.value_and_grad(mean)(weight[:, 0])
    chex.assert_trees_all_close(jax.jit(both)(weight[:, 0]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_function_of_its_own_number_of_rows():
    """It was measured on 2 and 3 rows, of which it cannot make 5."""
    function = lambda w, x: jnp.sum(x.reshape(5, -1) @ w, axis=1)
    assert jl.chunked(function)(jnp.ones((2, 3)), jnp.ones((5, 2))) == 6


def test_padding_stays_in_the_domain_of_the_function():
    """A row of zeros, whose logarithm has no gradient, made that of the weight NaN."""
    loss = jl.chunked(lambda w, x: jnp.log(x @ w), 4)
    x = jnp.arange(1.0, 11.0).reshape(5, 2)
    got = jax.grad(lambda w: loss(w, x))(jnp.ones(2))
    np.testing.assert_allclose(got, jax.grad(lambda w: jnp.mean(jnp.log(x @ w)))(jnp.ones(2)), 1e-6)


def test_a_traced_size_is_answered_with_static_argnames():
    weight, hidden, labels = draw(9)
    with pytest.raises(TypeError, match='traced array.*static_argnames="chunk_size"'):
        jax.jit(lambda n: jl.chunked(head, n)(weight, hidden, labels))(4)


@POLICIES
@pytest.mark.parametrize("chunk_size", [(4, 8), (5, 7)], ids=["divides", "overlaps"])
def test_what_is_allocated_and_not_yet_written_is_never_read(monkeypatch, policy, chunk_size):
    """GPU and TPU allocate what is written in full later: here that memory holds NaN."""
    generator = np.random.default_rng(0)
    hidden, weight = (generator.normal(size=s).astype(np.float32) for s in ((12, 5), (5, 32)))
    labels = generator.integers(0, 32, 12)

    def ours(hidden, weight):
        words = {"chunk_size": chunk_size, "policy": policy, "reduction": "mean"}
        of_head = linear.softmax_cross_entropy(hidden, weight, labels, **words)
        in_chunks = jl.chunked(head, chunk_size[0], policy=policy)
        return of_head + 2 * in_chunks(weight, hidden, labels)

    theirs = lambda hidden, weight: 3 * plain(weight, hidden, labels)
    fill = lambda shape, dtype: jnp.full(shape, jnp.nan if dtype == jnp.float32 else 7, dtype)
    monkeypatch.setattr(jax.lax, "empty", fill)
    jax.clear_caches()
    got, expected = both(ours, theirs, hidden, weight)
    jax.clear_caches()
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
