"""Gradients of losses: micro-batches, several losses, half precision, examples, curvature."""

import functools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss as jl
from jaxloss import aggregators, gradients
from jaxloss._core.reduction import Mean

pytestmark = pytest.mark.few

RNG = np.random.default_rng(0)
ROWS = 48
INPUTS = jnp.asarray(RNG.normal(size=(ROWS, 6)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, 3, ROWS))
NUMBERS = jnp.asarray(RNG.normal(size=ROWS), jnp.float32)
MASKS = {
    "none": np.ones((ROWS, 2), bool),
    "random": RNG.random((ROWS, 2)) < [0.7, 0.2],
    "first micro-batches empty": np.arange(ROWS)[:, None] >= [24, 36],
    "one row": np.arange(ROWS)[:, None] == [7, 40],
    "nothing": np.zeros((ROWS, 2), bool),
    "one term without anything": np.stack([RNG.random(ROWS) < 0.5, np.zeros(ROWS, bool)], 1),
}


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def parameters(dtype=np.float32):
    rng = np.random.default_rng(1)
    draw = {"hidden": (6, 8), "classes": (8, 3), "number": (8,)}
    return {k: jnp.asarray(rng.normal(size=s) * 0.5, dtype) for k, s in draw.items()}


def two_terms(params, inputs, labels, numbers, mask):
    """Two heads, whose masks differ, and so their denominators."""
    hidden = jnp.tanh(inputs @ params["hidden"])
    return {
        "class": jl.classification.softmax_cross_entropy(
            hidden @ params["classes"], labels, where=mask[:, 0], reduction="parts"
        ),
        "number": jl.regression.huber(
            hidden @ params["number"], numbers, where=mask[:, 1], reduction="parts"
        ),
    }


def one_term(params, inputs, labels, numbers, mask):
    return two_terms(params, inputs, labels, numbers, mask)["class"]


def close(got, expected, rtol=1e-6):
    """Relative to the largest entry: what is compared is a sum in another order."""
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (np.abs(b).max() + 1e-30))


# --- micro-batches ------------------------------------------------------------------------------


WEIGHTS = {"number": 0.3}


@functools.partial(jax.jit, static_argnums=0)
def accumulated(num_micro, params, *batch):
    oracle = gradients.accumulate_value_and_grad(two_terms, num_micro, weights=WEIGHTS)
    return oracle(params, *batch)


@jax.jit
def whole(params, *batch):
    def objective(params):
        terms = two_terms(params, *batch)
        return jl.total({"class": terms["class"], "number": (terms["number"], 0.3)})

    return jax.value_and_grad(objective, has_aux=True)(params)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(
    "num_micro", [1, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 8, 16))]
)
def test_micro_batches_are_the_whole_batch(num_micro, mask):
    batch = (INPUTS, TARGETS, NUMBERS, mask)
    got, expected = accumulated(num_micro, parameters(), *batch), whole(parameters(), *batch)
    close(got, expected)
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(got))


@pytest.mark.slow
def test_the_average_of_averages_is_another_gradient():
    """Why all this: what `optax.MultiSteps` adds up is wrong by much, and nothing says so."""
    mask = np.zeros((ROWS, 2), bool)
    mask[:12], mask[12:14], mask[24:27], mask[36:37] = True, True, True, True
    batch = (INPUTS, TARGETS, NUMBERS, mask)
    gradient = jax.jit(jax.grad(lambda p, *rows: one_term(p, *rows).value))
    tx = optax.MultiSteps(optax.sgd(1.0), 4)
    params = parameters()
    state = tx.init(params)
    for i in range(4):
        rows = [x[12 * i : 12 * (i + 1)] for x in batch]
        updates, state = tx.update(gradient(params, *rows), state, params)
    expected = gradient(params, *batch)
    _, exact = jax.jit(gradients.accumulate_value_and_grad(one_term, 4))(params, *batch)

    def error(got):
        apart = jax.tree.map(jnp.subtract, got, expected)
        return float(optax.tree.norm(apart) / optax.tree.norm(expected))

    assert error(jax.tree.map(jnp.negative, updates)) > 0.3
    assert error(exact) < 1e-6


@pytest.mark.slow
def test_one_mean_gives_one_value_and_aux_comes_stacked():
    def loss(params, inputs, labels, numbers, mask, *, scale):
        mean = one_term(params, inputs, labels, numbers, mask)
        return Mean(scale * mean.total, mean.weight), {"rows": inputs[:, 0]}

    batch = (INPUTS, TARGETS, NUMBERS, MASKS["random"])
    oracle = gradients.accumulate_value_and_grad(loss, 4, has_aux=True)
    (value, aux), grads = jax.jit(oracle)(parameters(), *batch, scale=jnp.float32(2.0))
    plain = jax.jit(jax.value_and_grad(lambda p: 2 * one_term(p, *batch).value))
    expected, slopes = plain(parameters())
    close((value, grads), (expected, slopes))
    np.testing.assert_array_equal(aux["rows"], INPUTS[:, 0].reshape(4, 12))


def test_schedules_and_traced_weights():
    schedule = optax.linear_schedule(0.0, 1.0, 10)
    batch = (INPUTS, TARGETS, NUMBERS, MASKS["random"])

    @jax.jit
    def values(step, weight):
        weights = {"number": schedule, "class": weight}
        oracle = gradients.accumulate_value_and_grad(two_terms, 4, weights=weights)
        return oracle(parameters(), *batch, step=step)[0]

    total, terms = values(5, 2.0)
    np.testing.assert_allclose(total, 2 * terms["class"] + 0.5 * terms["number"], rtol=1e-6)
    np.testing.assert_allclose(values(0, 1.0)[0], terms["class"], rtol=1e-6)


@pytest.mark.slow
def test_the_pass_that_counts_costs_nothing():
    """Dead code: the flops of two passes over four micro-batches are those of one."""
    batch = (INPUTS, TARGETS, NUMBERS, MASKS["random"])

    def flops(function):
        return jax.jit(function).lower(parameters(), *batch).compile().cost_analysis()["flops"]

    def counting(params, *batch):
        micro = jax.tree.map(lambda x: jnp.reshape(x, (4, 12, *x.shape[1:])), batch)

        def add(sums, rows):
            return jax.tree.map(lambda s, m: s + m.weight, sums, two_terms(params, *rows),
                                is_leaf=lambda x: isinstance(x, Mean)), None  # fmt: skip

        return jax.lax.scan(add, {"class": 0.0, "number": 0.0}, micro)[0]

    def forward(params, *batch):
        return jax.tree.map(lambda m: m.total, two_terms(params, *batch),
                            is_leaf=lambda x: isinstance(x, Mean))  # fmt: skip

    assert flops(counting) < 0.05 * flops(forward)
    micro = flops(gradients.accumulate_value_and_grad(two_terms, 1))
    plain = flops(lambda p, *b: jax.value_and_grad(lambda p: whole_total(p, *b))(p))
    assert micro < 1.1 * plain


def whole_total(params, *batch):
    return jl.total(two_terms(params, *batch))[0]


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_parameters_are_accumulated_in_float32(dtype):
    batch = (INPUTS, TARGETS, NUMBERS, MASKS["random"])
    oracle = jax.jit(gradients.accumulate_value_and_grad(one_term, 16))
    _, got = oracle(parameters(dtype), *batch)
    expected = jax.jit(jax.grad(lambda p: one_term(p, *batch).value))(parameters(dtype))
    chex.assert_trees_all_equal_dtypes(got, expected)
    close(got, expected, rtol=float(2 * jnp.finfo(dtype).eps))

    def ones(p, x):  # 4097 is 4096 in bfloat16
        return Mean(jnp.sum(p * x), jnp.float32(2.0**-12))

    _, slope = gradients.accumulate_value_and_grad(ones, 4096)(
        jnp.ones((), dtype), jnp.full(4096, 2.0**-12, jnp.float32)
    )
    assert slope == 1


DEVICES = """
import jax, jax.numpy as jnp, numpy as np, functools, test_gradients as t
from jax.sharding import PartitionSpec as P
from jaxloss import gradients
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
assert len(jax.devices()) == 4
for mask in (t.MASKS["random"], t.MASKS["first micro-batches empty"]):
    batch = (t.INPUTS, t.TARGETS, t.NUMBERS, jnp.asarray(mask))
    expected = t.whole(t.parameters(), *batch)
    for check in (True, False):
        for num_micro in (1, 3):
            oracle = gradients.accumulate_value_and_grad(
                t.two_terms, num_micro, weights=t.WEIGHTS, axis_name="data"
            )
            across = jax.jit(jax.shard_map(
                oracle, mesh=mesh, in_specs=(P(), *[P("data")] * 4), out_specs=P(), check_vma=check
            ))
            t.close(across(t.parameters(), *batch), expected)
            text = across.lower(t.parameters(), *batch).compile().as_text()
            sums = sum("all-reduce(" in line for line in text.splitlines())
            assert sums <= 3, sums  # of weights, totals and gradients: none for each micro-batch
    oracle = gradients.accumulate_value_and_grad(
        t.two_terms, 3, weights=t.WEIGHTS, axis_name="data"
    )
    split = jax.tree.map(lambda x: x.reshape(4, 12, *x.shape[1:]), batch)
    mapped = jax.vmap(oracle, in_axes=(None, 0, 0, 0, 0), axis_name="data")(t.parameters(), *split)
    t.close(jax.tree.map(lambda x: x[0], mapped), expected)
    whole = jax.jit(gradients.accumulate_value_and_grad(t.two_terms, 4, weights=t.WEIGHTS))
    spread = [jax.device_put(x, jax.NamedSharding(mesh, P("data"))) for x in batch]
    t.close(whole(t.parameters(), *spread), expected)
print("equal on", len(jax.devices()))
"""


@pytest.mark.slow
def test_four_devices_give_the_gradient_of_one():
    """In a process of its own, since devices are counted once: shard_map, vmap, and a mesh."""
    flags = "--xla_force_host_platform_device_count=4"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", DEVICES],
        capture_output=True,
        text=True,
        check=False,
        env={"XLA_FLAGS": flags, "PYTHONPATH": "tests", "PATH": "", "JAX_PLATFORMS": "cpu"},
    )
    assert run.stdout.strip() == "equal on 4", run.stderr[-2000:]


@pytest.mark.parametrize(
    ("num_micro", "loss", "error", "message"),
    [
        (5, one_term, ValueError, "48 rows do not divide into 5 micro-batches. Pad them to 50"),
        (0, one_term, ValueError, "`num_micro` is 0, expected an integer of at least 1"),
        (2, lambda p, *b: one_term(p, *b).value, TypeError, 'expected a `Mean`.*reduction="parts"'),
        (2, lambda p, *b: {"a": 1.0}, TypeError, "the term 'a' is a float, expected a `Mean`"),
        (2, lambda p, *b: Mean(jnp.ones(2), jnp.ones(2)), ValueError, r"means of shape \(2,\)"),
        (2, lambda p, *b: (one_term(p, *b), 0), TypeError, "tuple of 2: write `has_aux=True`"),
    ],
)
def test_what_cannot_be_accumulated(num_micro, loss, error, message):
    with pytest.raises(error, match=f"accumulate_value_and_grad: .*{message}"):
        gradients.accumulate_value_and_grad(loss, num_micro)(
            parameters(), INPUTS, TARGETS, NUMBERS, MASKS["none"]
        )


def test_batches_that_do_not_fit():
    oracle = gradients.accumulate_value_and_grad(one_term, 2)
    with pytest.raises(ValueError, match=r"one number of rows.*48 in `batch\[0\]`, 4 in `batch\[1"):
        oracle(parameters(), INPUTS, TARGETS[:4], NUMBERS, MASKS["none"])
    with pytest.raises(ValueError, match=r"`batch\[1\]` is a scalar, .*is passed by keyword"):
        oracle(parameters(), INPUTS, 3)
    with pytest.raises(ValueError, match=r"`weights` names \['z'\], expected some of"):
        gradients.accumulate_value_and_grad(two_terms, 2, weights={"z": 1.0})(
            parameters(), INPUTS, TARGETS, NUMBERS, MASKS["none"]
        )


# --- several losses -----------------------------------------------------------------------------


def three_losses(params, scale=1.0):
    hidden = jnp.tanh(INPUTS @ params["hidden"])
    return {  # in an order that is not that of the names
        "small": scale * jl.penalties.l2(params),
        "number": jl.regression.squared_error(
            hidden @ params["number"], NUMBERS, reduction="parts"
        ),
        "class": jl.classification.softmax_cross_entropy(hidden @ params["classes"], TARGETS),
    }


@jax.jit
def by_hand(params):
    names = ("class", "number", "small")
    grads = [jax.grad(lambda p, k=k: jl.total({k: three_losses(p)[k]})[0])(params) for k in names]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)


@pytest.mark.slow
@pytest.mark.parametrize("jacobian", ["map", "vmap"])
def test_gradients_come_stacked_in_the_order_of_the_names(jacobian):
    oracle = gradients.multi_value_and_grad(three_losses, jacobian=jacobian)
    values, stacked = jax.jit(oracle)(parameters())
    assert list(values) == list(oracle(parameters())[0]) == ["class", "number", "small"]
    terms = jax.jit(lambda p: jl.total(three_losses(p))[1])(parameters())
    close(values, terms)
    close(stacked, by_hand(parameters()), rtol=3e-6)


@pytest.mark.parametrize(
    "jacobian", ["map", pytest.param("vmap", marks=pytest.mark.slow), "stream"]
)
def test_a_weighting_combines_them_and_streaming_gives_the_same(jacobian):
    stacked = by_hand(parameters())
    matrix = aggregators.gramian(stacked)
    flat = np.concatenate([np.reshape(x, (3, -1)) for x in jax.tree.leaves(stacked)], 1)
    np.testing.assert_allclose(matrix, flat @ flat.T, rtol=1e-5)
    expected = aggregators.combine(aggregators.upgrad(matrix), stacked)

    def with_aux(params):
        return three_losses(params), "aux" and jnp.float32(7)

    oracle = gradients.multi_value_and_grad(
        with_aux, aggregators.upgrad, jacobian=jacobian, has_aux=True
    )
    (values, aux), got = jax.jit(oracle)(parameters())
    close(got, expected, rtol=2e-5)
    assert (aux, len(values)) == (7, 3)
    both = gradients.value_and_gramian(three_losses, jacobian=jacobian)
    close(jax.jit(both)(parameters())[1], matrix, rtol=2e-6)


@pytest.mark.slow
def test_streaming_needs_the_memory_of_one_gradient():
    """Eight losses of a large model: eight gradients, against one and a little."""

    def losses(params, x):
        hidden = x
        for w in params:
            hidden = jnp.tanh(hidden @ w)
        return jnp.stack([jnp.mean((hidden - k) ** 2) for k in range(8)])

    params = [jnp.zeros((256, 256)) for _ in range(4)]
    one = 4 * 256 * 256 * 4

    def memory(jacobian):
        oracle = gradients.multi_value_and_grad(losses, aggregators.upgrad, jacobian=jacobian)
        compiled = jax.jit(oracle).lower(params, jnp.zeros((16, 256))).compile()
        return compiled.memory_analysis().temp_size_in_bytes / one

    assert memory("map") > 7.5
    assert memory("stream") < 3


@pytest.mark.slow
def test_losses_may_be_an_array_and_the_gradient_is_not_differentiated_through_weights():
    def losses(p, x):
        return jnp.stack([p @ x, -p[0], p[1] ** 2])

    p, x = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    values, stacked = gradients.multi_value_and_grad(losses)(p, x)
    np.testing.assert_array_equal(values, [11, -1, 4])
    np.testing.assert_array_equal(stacked, [[3, 4], [-1, 0], [0, 4]])

    def weights(matrix):
        return jnp.diagonal(matrix)

    def combined(p):
        return gradients.multi_value_and_grad(losses, weights)(p, x)[1]

    np.testing.assert_array_equal(jax.jacobian(combined)(p), [[0, 0], [0, 16 * 2]])


@pytest.mark.parametrize(
    ("losses", "words", "error", "message"),
    [
        (lambda p: {}, {}, ValueError, "there are no losses"),
        (lambda p: p[0], {}, ValueError, r"`losses` has shape \(\), expected a dict, or an array"),
        (lambda p: (p[0], p[1]), {}, TypeError, "tuple of 2: write `has_aux=True`"),
        (lambda p: {"a": 1j * p}, {}, TypeError, "the loss 'a' is complex64"),
        (lambda p: p, {"jacobian": "forward"}, ValueError, "'forward', expected 'map', 'vmap'"),
        (lambda p: p, {"jacobian": "stream"}, ValueError, "pass a weighting, .*upgrad"),
        (lambda p: p, {"weighting": jnp.sum}, ValueError, r"gave shape \(\), expected \(2,\)"),
    ],
)
def test_what_is_not_several_losses(losses, words, error, message):
    with pytest.raises(error, match=f"multi_value_and_grad: .*{message}"):
        gradients.multi_value_and_grad(losses, **words)(jnp.ones(2))


@pytest.mark.slow
def test_conflicts_are_counted_and_their_cost_is_given():
    def losses(p):
        return {"up": jnp.sum(p), "down": -2 * p[0], "flat": 0 * p[1], "right": p[1] ** 2}

    found = gradients.conflicts(losses, jnp.array([1.0, 1.0]))
    assert found.names == ("down", "flat", "right", "up")
    np.testing.assert_allclose(found.norms, [2, 0, 2, 2**0.5], rtol=1e-6)
    half = 0.5**0.5
    expected = [[1, 0, 0, -half], [0, 0, 0, 0], [0, 0, 1, half], [-half, 0, half, 1]]
    np.testing.assert_allclose(found.cosines, expected, atol=1e-6)
    assert found.count == 1
    text = str(found)
    assert "1 of 6 pairs conflict." in text
    assert "This look took" in text
    many = gradients.conflicts(three_losses, parameters())
    assert 2 < many.flops[0] / many.flops[1] < 8  # two passes a loss, beside two


# --- half precision -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_scale_is_in_the_gradients_and_never_in_the_value():
    def loss(params):
        return jnp.float16(5) * params["w"] ** 2, {"seen": params["w"]}

    params = {"w": jnp.float16(1)}
    oracle = gradients.scaled_value_and_grad(loss, jnp.float32(2.0**12), has_aux=True)
    (value, aux), grads = jax.jit(oracle)(params)
    assert (value, value.dtype, aux["seen"]) == (5, jnp.float32, 1)
    assert (grads["w"], grads["w"].dtype) == (40960, jnp.float16)
    oracle = gradients.scaled_value_and_grad(loss, 2.0**20, has_aux=True)  # as a loss it overflows
    (value, _), grads = oracle(params)
    assert value == 5
    assert jnp.isinf(grads["w"])


def test_gradients_that_would_vanish_in_float16_survive():
    def loss(w, x):
        half = (x * w).astype(jnp.float16)
        return 1e-6 * jnp.sum(half.astype(jnp.float32) * 1e-3)

    w, x = jnp.float32(1), jnp.ones(2, jnp.float16)
    _, plain = gradients.scaled_value_and_grad(loss, 1.0)(w, x)
    _, scaled = gradients.scaled_value_and_grad(loss, 2.0**16)(w, x)
    assert plain == 0
    np.testing.assert_allclose(scaled / 2.0**16, 2e-9, rtol=1e-2)


def test_micro_batches_take_a_scale():
    """The gradient of a mean over a million tokens is below the least number of float16."""

    def loss(w, x):
        return Mean(jnp.sum(w * x) * 2.0**-10, jnp.float32(2.0**17))

    w, x = jnp.float16(2), jnp.arange(8.0)
    scaled = jax.jit(lambda s: gradients.accumulate_value_and_grad(loss, 4, scale=s)(w, x))
    (value, none), (same, got) = scaled(1.0), scaled(2.0**15)
    assert (value, same) == (56 * 2.0**-29,) * 2
    assert (none, got, got.dtype) == (0, 28 * 2.0**-14, jnp.float16)
    with pytest.raises(ValueError, match=r"`scale` has shape \(2,\), expected a scalar"):
        gradients.accumulate_value_and_grad(loss, 4, scale=jnp.ones(2))


def test_a_mean_is_divided_and_mistakes_are_named():
    value, grad = gradients.scaled_value_and_grad(lambda p: Mean(p * 6, 3.0), 8.0)(jnp.float32(1))
    assert (value, grad) == (2, 16)
    with pytest.raises(ValueError, match=r"`scale` has shape \(2,\)"):
        gradients.scaled_value_and_grad(lambda p: p, jnp.ones(2))
    with pytest.raises(TypeError, match="the loss is int32, expected floating"):
        gradients.scaled_value_and_grad(lambda p: 3, 1.0)(1.0)
    with pytest.raises(TypeError, match="expected a pair, as `has_aux` says"):
        gradients.scaled_value_and_grad(lambda p: p, 1.0, has_aux=True)(1.0)


# --- examples -----------------------------------------------------------------------------------


def example_loss(params, x, label, number, *, scale=1.0):
    hidden = jnp.tanh(x @ params["hidden"])
    cross = jl.classification.softmax_cross_entropy(hidden @ params["classes"], label)
    return scale * cross + (hidden @ params["number"] - number) ** 2


@pytest.mark.parametrize(
    "chunk", [None, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 48, 100))]
)
def test_examples_one_by_one_are_a_loop(chunk):
    batch, single = (INPUTS, TARGETS, NUMBERS), jax.jit(jax.value_and_grad(example_loss))
    oracle = gradients.per_example_value_and_grad(example_loss, chunk_size=chunk)
    got = jax.jit(oracle)(parameters(), *batch)
    loop = [single(parameters(), *(x[i] for x in batch)) for i in range(ROWS)]
    close(got, jax.tree.map(lambda *rows: jnp.stack(rows), *loop), rtol=3e-6)


@pytest.mark.parametrize(
    "chunk", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (None, 1))]
)
def test_clipped_means_are_a_loop(chunk):
    batch, single = (INPUTS, TARGETS, NUMBERS), jax.jit(jax.value_and_grad(example_loss))
    total, clipped = jax.tree.map(jnp.zeros_like, parameters()), 0
    for i in range(ROWS):
        _, grad = single(parameters(), *(x[i] for x in batch))
        norm = optax.tree.norm(grad)
        clipped += bool(norm > 4)
        total = jax.tree.map(lambda t, g, n=norm: t + g * min(1, 4 / n) / ROWS, total, grad)
    assert 10 < clipped < ROWS
    oracle = gradients.per_example_value_and_grad(example_loss, clip=4.0, chunk_size=chunk)
    values, got = jax.jit(oracle)(parameters(), *batch)
    close(got, total, rtol=3e-6)
    assert values.shape == (ROWS,)


def test_clipping_is_bounded_in_memory_and_traced():
    params = {"w": jnp.zeros((256, 64))}

    def loss(params, x):
        return jnp.sum(jnp.tanh(x @ params["w"]))

    def memory(**words):
        oracle = jax.jit(gradients.per_example_value_and_grad(loss, **words))
        compiled = oracle.lower(params, jnp.zeros((64, 256))).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (256 * 64 * 4)

    assert memory(clip=1.0, chunk_size=4) < 8
    assert memory(clip=1.0) > 32

    @jax.jit
    def length(clip):
        oracle = gradients.per_example_value_and_grad(lambda p, x: p @ x, clip=clip)
        return jnp.linalg.norm(oracle(jnp.zeros(2), jnp.array([[3.0, 4.0], [3.0, 4.0]]))[1])

    np.testing.assert_allclose([length(1.0), length(2.5), length(9.0)], [1, 2.5, 5], rtol=1e-6)


def test_an_example_without_a_gradient_is_not_divided_by_zero():
    oracle = gradients.per_example_value_and_grad(lambda p, x: p * x, clip=1.0)
    values, grad = oracle(jnp.float32(2.0), jnp.array([0.0, 4.0]))
    np.testing.assert_array_equal(values, [0, 8])
    assert grad == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"chunk_size": 0}, "`chunk_size` is 0, expected"),
        ({"clip": jnp.ones(2)}, r"`clip` has shape \(2,\)"),
    ],
)
def test_wrong_options_of_examples(words, message):
    with pytest.raises(ValueError, match=f"per_example_value_and_grad: {message}"):
        gradients.per_example_value_and_grad(example_loss, **words)


# --- curvature ----------------------------------------------------------------------------------


LOSSES = {
    jl.classification.softmax_cross_entropy: TARGETS,
    jl.regression.squared_error: jnp.stack([NUMBERS, -NUMBERS, NUMBERS**2], 1),
    functools.partial(jl.regression.log_cosh): jnp.stack([NUMBERS] * 3, 1),
    functools.partial(jl.classification.softmax_cross_entropy, reduction="parts"): TARGETS,
}


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "targets"), LOSSES.items())
def test_of_a_linear_model_it_is_the_hessian(loss, targets):
    def model(params, inputs):
        return inputs @ params["w"] + params["b"]

    params = {"w": parameters()["hidden"][:, :3], "b": jnp.zeros(3)}
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def objective(flat):
        return jl.total({"loss": loss(model(unravel(flat), INPUTS), targets)})[0]

    hessian = jax.jit(jax.hessian(objective))(flat)

    @jax.jit
    def products(vectors):
        product = gradients.gauss_newton_vp(loss, model, params, (INPUTS, targets))
        return jax.lax.map(lambda v: jax.flatten_util.ravel_pytree(product(unravel(v)))[0], vectors)

    close(products(jnp.eye(flat.size)), hessian, rtol=3e-6)


@pytest.mark.slow
def test_of_a_network_it_is_psd_and_the_fisher_information_of_the_model():
    def model(params, inputs):
        return jnp.tanh(inputs @ params["hidden"]) @ params["classes"]

    params = {k: parameters()[k] for k in ("hidden", "classes")}
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    product = gradients.gauss_newton_vp(
        jl.classification.softmax_cross_entropy, model, params, (INPUTS, TARGETS)
    )
    matrix = jax.jit(jax.vmap(lambda v: jax.flatten_util.ravel_pytree(product(unravel(v)))[0]))(
        jnp.eye(flat.size)
    )
    assert np.linalg.eigvalsh(matrix)[0] > -1e-6
    logits = model(params, INPUTS)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def score(flat, label):
        def loss(flat, x):
            return jl.classification.softmax_cross_entropy(model(unravel(flat), x), label)

        return gradients.per_example_value_and_grad(loss)(flat, INPUTS)[1]

    scores = score(flat, jnp.arange(3))
    fisher = jnp.einsum("nk,kni,knj->ij", jax.nn.softmax(logits), scores, scores) / ROWS
    close(matrix, fisher, rtol=1e-5)
    with pytest.raises(ValueError, match="the vector is .*expected one structure"):
        product(flat)


def test_a_sum_over_a_batch_is_that_over_its_micro_batches():
    x = jnp.arange(6.0)

    def loss(p, x):
        return jl.Mean(jnp.sum(jnp.square(p * x)), 1 / 3)

    value, slope = jl.gradients.accumulate_value_and_grad(loss, 3)(2.0, x)
    np.testing.assert_allclose(value, 4 * 55, rtol=1e-6)
    np.testing.assert_allclose(slope, 4 * 55, rtol=1e-6)
