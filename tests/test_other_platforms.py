"""The forms of a loss for GPU and TPU keep its digits, as that for CPU does; all run on CPU here.

No device is needed, see `harness.platforms`.
"""

import functools
import re

import cases
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import accuracy
from harness.platforms import forms_of
from harness.programs import BATCH

import jaxloss as jl
from jaxloss.image import _structure
from jaxloss.linear import _arguments, _stored_exps
from jaxloss.numerics import _vectors
from jaxloss.numerics._derivatives import by_gradient
from jaxloss.numerics._windows import along, along_in_reverse

# One loss of each form that differs; the others are of `make suite`.
QUICK = (
    "regression.cosine_distance",
    "classification.softmax_cross_entropy-int",
    "classification.sigmoid_focal",
    "divergence.kl_logits",
    "divergence.hellinger",
    "ranking.pairwise_logistic",
)


def first_settings():
    """Each loss once, with each form of its arguments."""
    found = {}
    for setting in cases.settings():
        found.setdefault((setting.info.name, tuple(setting.array_specs)), setting)
    return [
        pytest.param(s, id=str(s), marks=[] if str(s) in QUICK else pytest.mark.slow)
        for s in found.values()
    ]


@pytest.fixture(scope="module", params=["cuda", "tpu"])
def platform(request):
    with forms_of(request.param):
        yield request.param


@pytest.mark.parametrize("setting", first_settings())
def test_the_forms_of_gpu_and_tpu_keep_the_digits(platform, setting, is_light):
    rows = 1 if setting.set_axes else 8
    bounds = tuple((2 if is_light else 1) * bound for bound in setting.case.ulp)
    loss = functools.partial(setting.loss, **setting.options(BATCH), reduction="none")
    worst = accuracy.worst_errors(
        setting,
        accuracy.evaluation_of(loss, setting),
        rows=range(0, accuracy.DRAWN, accuracy.DRAWN // rows),
        bounds=bounds,
    )
    for (kind, (error, where)), bound in zip(worst.items(), bounds, strict=True):
        assert error <= bound, f"for {platform} the {kind} is {error:.1f} ULP off at {where}"


def test_the_derivative_of_another_platform_is_computed_apart(platform):
    x = np.ones((4, 6), np.float32)
    step = jax.grad(lambda x, y: jl.classification.sigmoid_focal(x, y, reduction="sum"))
    holds_barrier = "optimization_barrier" in str(jax.make_jaxpr(step)(x, x))
    assert holds_barrier == (platform == "cuda")


def gradient_of_sum(loss, *arrays):
    return jax.grad(lambda x: loss(x, *arrays, reduction="sum"))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_of_half_precision_logits_are_rounded_once(platform, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 40)) * np.geomspace(0.1, 40, 64)[:, None]
    x[0, 3], x[1], x[2, 5:] = -np.inf, 0, 1e-6
    x[3], x[3, 0] = 1e-6, 30
    x = jnp.asarray(x, dtype)
    ids = rng.integers(0, 40, 64)
    found = gradient_of_sum(jl.classification.softmax_cross_entropy, ids)(x)
    assert found.dtype == dtype
    exact = np.exp(np.float64(x) - np.max(np.float64(x), -1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    at_label = ids[:, None] == np.arange(40)
    others = np.where(at_label, -np.where(at_label, 0, exact).sum(-1, keepdims=True), 0)
    exact = np.where(at_label, others, exact)
    info = jnp.finfo(dtype)
    bound = np.maximum(np.abs(exact) * float(info.eps), float(info.smallest_subnormal)) / 2
    assert np.all(np.abs(np.float64(found) - exact) <= 1.01 * bound + 1e-37)


def test_infinite_logits_in_half_precision_share_the_gradient(platform):
    x = jnp.asarray([[np.inf, 1, -np.inf, np.inf], [-np.inf] * 3 + [2]], jnp.bfloat16)
    found = gradient_of_sum(jl.classification.softmax_cross_entropy, np.array([0, 3]))(x)
    np.testing.assert_array_equal(np.float32(found), [[-0.5, 0, 0, 0.5], [0, 0, 0, 0]])


def test_half_precision_takes_fewer_operations_on_tpu(platform):
    # There products that take the gradient compute it again, if it takes few operations.
    ids, hidden, weight = np.zeros(4, int), np.ones((4, 8)), np.ones((8, 40))
    loss, linear = jl.classification.softmax_cross_entropy, jl.linear.softmax_cross_entropy

    def operations(dtype):
        x, y, w = (jnp.asarray(x, dtype) for x in (hidden @ weight, hidden, weight))
        steps = gradient_of_sum(loss, ids), gradient_of_sum(linear, w, ids)
        programs = (jax.jit(f).lower(x) for f, x in zip(steps, (x, y), strict=True))
        return [program.as_text().count("stablehlo.subtract") for program in programs]

    fewer = [a < b for a, b in zip(*map(operations, (jnp.bfloat16, jnp.float32)), strict=True)]
    assert fewer == [platform == "tpu"] * 2


OF_VECTORS = {
    "info_nce": lambda x, y: jl.contrastive.info_nce(x, y, negatives=jnp.eye(5, 6, dtype=x.dtype)),
    "info_nce-chunks": lambda x, y: jl.contrastive.info_nce(x, y, chunk_size=8),
    "clip-chunks": lambda x, y: jl.contrastive.clip(x, y, chunk_size=8),
    "binary_nce": lambda x, y: jl.contrastive.binary_nce(x, y, temperature=1e4),
    "circle": lambda x, y: jl.contrastive.circle(x, np.arange(20) // 3),
    "cosface": lambda x, y: jl.contrastive.cosface(x, np.arange(20) % 7, prototypes=y[:7]),
    "proxy_anchor": lambda x, y: jl.contrastive.proxy_anchor(
        x, np.arange(20) % 7, prototypes=y[:7]
    ),
    "koleo": lambda x, y: jl.self_supervised.koleo(x),
    "siglip": jl.contrastive.siglip,
    "hard_negative_info_nce": jl.contrastive.hard_negative_info_nce,
    "nt_xent": lambda x, y: jl.contrastive.nt_xent(x, np.arange(20) // 3),
    "supervised_contrastive": lambda x, y: jl.contrastive.supervised_contrastive(
        x, np.arange(20) // 3
    ),
    "multi_similarity": lambda x, y: jl.contrastive.multi_similarity(x, np.arange(20) // 3),
    "arcface": lambda x, y: jl.contrastive.arcface(x, np.arange(20) % 7, prototypes=y[:7]),
    "proxy_nca": lambda x, y: jl.contrastive.proxy_nca(x, np.arange(20) % 7, prototypes=y[:7]),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("cosface", "clip-chunks") else pytest.mark.slow)
        for name in OF_VECTORS
    ],
)
def test_bfloat16_embeddings_have_the_loss_and_gradient_of_float32(platform, name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 6))
    x, y = x.copy(), (x + 0.3 * y)
    if name != "binary_nce":  # cosines are those of vectors of any length
        x[0], x[1], x[2] = x[0] * 1e30, x[1] * 1e-30, 0
    halves = [jnp.asarray(x, jnp.bfloat16) for x in (x, y)]

    def mean(x, y):
        return jnp.mean(OF_VECTORS[name](x, y))

    value, slopes = jax.value_and_grad(mean, (0, 1))(*halves)
    exact, exact_slopes = jax.value_and_grad(mean, (0, 1))(*(x.astype("float32") for x in halves))
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    for slope, exact_slope in zip(slopes, exact_slopes, strict=True):
        assert slope.dtype == jnp.bfloat16
        exact_slope = exact_slope.astype(jnp.bfloat16).astype("float32")
        size = jnp.max(jnp.abs(exact_slope), -1, keepdims=True)
        assert jnp.all(jnp.abs(slope.astype("float32") - exact_slope) <= size / 256)


@pytest.mark.parametrize("name", ["circle", pytest.param("info_nce", marks=pytest.mark.slow)])
def test_bfloat16_embeddings_have_the_second_derivative_of_float32(platform, name):
    """In a scan too, which forgets the rule of the products: its formula must be right."""
    rng = np.random.default_rng(0)
    x, y, x_dot = (jnp.asarray(x, jnp.bfloat16) for x in rng.normal(size=(3, 20, 6)))
    x = x.at[2].set(0)

    def mean(x, y):
        return jnp.mean(OF_VECTORS[name](x, y))

    def scanned(x, y):
        twice = [jnp.stack([x, x]) for x in (x, y)]  # what is the same in each turn moves out
        return jax.lax.scan(lambda sum, x: (sum + mean(*x), None), 0.0, twice)[0] / 2

    @jax.jit
    def changes(x, y, x_dot):
        slopes = [jax.grad(function) for function in (mean, scanned)]
        return [jax.jvp(f, (x, y), (x_dot, 0 * y))[1].astype("float32") for f in slopes]

    exact, _ = changes(*(x.astype("float32") for x in (x, y, x_dot)))
    for found in changes(x, y, x_dot):
        size = jnp.max(jnp.abs(exact))
        np.testing.assert_allclose(found, exact, rtol=0, atol=size / 100)


def test_bfloat16_embeddings_without_dimensions_are_orthogonal(platform):
    x = jnp.zeros((4, 0), jnp.bfloat16)
    found = jl.contrastive.binary_nce(x, x)
    np.testing.assert_array_equal(found, jl.contrastive.binary_nce(*[x.astype("float32")] * 2))


def test_products_of_bfloat16_embeddings_are_one_product_of_them(platform):
    """Not one of float32, which takes six on TPU and no tensor cores on GPU."""
    x = np.ones((4, 3))
    given = {"embeddings": x, "prototypes": x}
    kinds = {
        "bfloat16": dict.fromkeys(given, jnp.bfloat16),
        "float32": {"embeddings": jnp.bfloat16, "prototypes": jnp.float32},
        "int32": {"embeddings": jnp.bfloat16, "prototypes": jnp.int32},
    }
    found = []
    for kind, dtypes in kinds.items():
        embeddings, prototypes = (jnp.asarray(x, dtypes[name]) for name, x in given.items())
        loss = functools.partial(jl.contrastive.cosface, labels=np.arange(4), prototypes=prototypes)
        program = str(jax.make_jaxpr(loss)(embeddings))
        products = re.findall(r"dot_general\[.*?\] (\w+) (\w+)", program, re.DOTALL)
        assert len(products) == 1, kind
        short = re.search(rf"\b{products[0][0]}:bf16", program) is not None
        found.append(short)
    assert found == [True, False, False]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "weighted"), [(300, False), (2100, True)])
def test_stored_exponentials_give_the_gradients_of_the_logits(
    platform, transposed, rows, weighted, monkeypatch
):
    # Several chunks and several blocks; the last rows are confident.
    monkeypatch.setattr(_arguments, "_BUDGET", 1)
    chunks = []

    def counted(*arguments, form=_stored_exps.chunk_value_and_grad):
        chunks.append(arguments)
        return form(*arguments)

    monkeypatch.setattr(_stored_exps, "chunk_value_and_grad", counted)
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(rows, 4)) * np.geomspace(0.1, 60, rows)[:, None]
    weight, ids = rng.normal(size=(4, 1536)), rng.integers(0, 1536, rows)
    ids[-9:] = np.argmax(hidden[-9:] @ weight, -1)
    hidden, weight = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(weight, jnp.bfloat16)
    hidden = hidden.at[5].set(jnp.nan)
    where = np.arange(rows) != 5
    weights = rng.uniform(size=rows) if weighted else None
    options = {"where": where, "weights": weights, "transposed": transposed}
    given = weight.T if transposed else weight

    def loss(hidden, weight):
        return jl.linear.softmax_cross_entropy(hidden, weight, ids, metrics=True, **options)

    step = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (value, metrics), (hidden_bar, weight_bar) = step(hidden, given)
    assert bool(chunks) == (platform == "tpu")
    x = np.float64(hidden) @ np.float64(weight)
    np.testing.assert_array_equal(metrics.predicted[where], np.argmax(x, -1)[where])
    factors = np.where(where, 1 if weights is None else weights, 0)
    factors = factors / factors.sum()
    x = np.where(where[:, None], x, 0)
    top = x.max(-1, keepdims=True)
    exps = np.exp(x - top)
    at_label = np.zeros_like(exps, bool)
    at_label[np.arange(rows), ids] = True
    rest = np.where(at_label, 0, exps).sum(-1)
    gap = top[:, 0] - x[at_label]
    nll = np.where(gap == 0, np.log1p(rest), gap + np.log(exps.sum(-1)))
    np.testing.assert_allclose(value, np.sum(nll * factors), rtol=1e-5)
    slopes = np.where(at_label, -rest[:, None], exps) / exps.sum(-1, keepdims=True)
    slopes *= factors[:, None]
    known, weight = np.nan_to_num(np.float64(hidden)), np.float64(weight)
    wanted = slopes @ weight.T, known.T @ slopes
    sizes = abs(slopes) @ abs(weight).T, abs(known).T @ abs(slopes)
    found = hidden_bar, weight_bar.T if transposed else weight_bar
    for each, exact, size in zip(found, wanted, sizes, strict=True):
        error = np.abs(np.float64(each) - exact)
        assert np.all(error <= 2.0**-8 * (size + np.abs(exact)) + 1e-37)


LISTS = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
PAIRS = {
    "approx_ndcg": {"temperature": 0.7},
    "unique_softmax": {},
    "pairwise_hinge": {"margin": 0.3},
    "pairwise_logistic": {"pair_weights": np.linspace(0, 2, 108, dtype=np.float32)},
    "pairwise_quantile": {"level": 0.3},
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("segments", [None, np.arange(18).reshape(3, 6) % 2])
def test_all_pairs_have_the_derivatives_of_pairs_in_chunks(platform, name, segments):
    # In chunks the derivatives of rows and of items are sums over different axes.
    options = {key: jnp.asarray(x) for key, x in PAIRS[name].items()}
    if "pair_weights" in options:
        options["pair_weights"] = options["pair_weights"].reshape(3, 6, 6)
    at = (jnp.asarray(LISTS[0]), jnp.asarray(abs(LISTS[1])), options)
    where = {"mask": np.arange(18).reshape(3, 6) != 4, "segments": segments}

    def everything(chunk_size):
        def loss(scores, relevance, options):
            call = functools.partial(getattr(jl.ranking, name), chunk_size=chunk_size)
            values = call(scores, relevance, **where, **options)
            return jnp.sum(values * jnp.arange(1, 4)), values

        gradient = jax.grad(lambda *x: loss(*x)[0], (0, 1, 2))
        dot = jax.tree.map(jnp.cos, at)
        values, values_dot = jax.jvp(lambda *x: loss(*x)[1], at, dot)
        return values, values_dot, *jax.jvp(gradient, at, dot)

    whole, chunks = jax.jit(everything, static_argnums=0)(None), jax.jit(lambda: everything(4))()
    for found, expected in zip(*map(jax.tree.leaves, (whole, chunks)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_the_gradient_of_pairs_is_one_sum_over_the_last_axis_on_gpu(platform, name):
    step = gradient_of_sum(getattr(jl.ranking, name), abs(LISTS[1]))
    text = jax.jit(step).lower(LISTS[0]).as_text()
    of_pairs = r"applies stablehlo.add across dimensions = \[{}\] : \(tensor<3x6x6xf32>"
    assert bool(re.search(of_pairs.format(1), text)) == (platform == "tpu")
    assert re.search(of_pairs.format(2), text)


def test_beside_weights_of_pairs_the_derivatives_of_rows_and_items_share_nothing(platform):
    # They are sums over different axes: XLA on GPU would write all pairs.
    loss = functools.partial(jl.ranking.pairwise_logistic, pair_weights=np.ones((3, 6, 6)))
    text = jax.jit(gradient_of_sum(loss, abs(LISTS[1]))).lower(LISTS[0]).as_text()
    exps = len(re.findall(r"stablehlo.exponential .*tensor<3x6x6xf32>", text))
    assert exps == (6 if platform == "cuda" else 3)  # of the value and of each derivative


@pytest.mark.parametrize("name", PAIRS)
def test_a_score_that_is_no_number_is_seen_in_the_gradient_of_its_list(platform, name):
    scores = LISTS[0].copy()
    scores[1, 2] = np.nan
    found = gradient_of_sum(getattr(jl.ranking, name), abs(LISTS[1]))(scores)
    np.testing.assert_array_equal(np.isnan(found).sum(-1), [0, 6, 0])


def special_rows():
    x, y = np.random.default_rng(1).normal(size=(2, 12, 7))
    y[1], y[2], y[3] = x[1], -x[2], x[3] * (1 + 1e-4 * y[3])
    x[4] = y[5] = x[6] = y[6] = 0
    x[7], y[7], x[8], y[8] = 1e30 * x[7], 1e-30 * y[7], 1e38 * x[8], 1e-15 * y[8]
    x[9, 0], x[10, 1], y[11] = np.nan, np.inf, 2 * x[11]
    return np.float32(x), np.float32(y)


@pytest.mark.parametrize("place", [0, 1])
def test_the_distance_of_rows_in_one_kernel_is_that_by_norms(platform, place):
    at, change = special_rows(), [np.cos(np.nan_to_num(x / 1e3)) for x in special_rows()]

    def everything(one, other):
        def distance(x):
            rows = (x, other) if place == 0 else (other, x)
            return jl.numerics.cosine_distance(*rows)

        gradient = jax.grad(lambda x: jnp.sum(distance(x)))
        value, value_dot = jax.jvp(distance, (one,), (change[place],))
        return value, value_dot, *jax.jvp(gradient, (one,), (change[place],))

    found = jax.jit(everything)(at[place], at[1 - place])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_vectors, "fits_in_kernel", lambda x, axis: False)
        expected = jax.jit(lambda *x: everything(*x))(at[place], at[1 - place])
    for each, wanted in zip(found, expected, strict=True):
        for row, wanted_row in zip(np.array(each), np.array(wanted), strict=True):
            size = np.max(np.abs(wanted_row), initial=0)
            np.testing.assert_allclose(row, wanted_row, rtol=1e-3, atol=2e-6 * size + 1e-14)
    value, _, slope, _ = map(np.array, found)
    if platform == "cuda":  # the other form has rounding errors for opposite rows
        np.testing.assert_array_equal(value[[1, 2, 4, 5, 6]], [0, 2, 1, 1, 1])
        np.testing.assert_array_equal(slope[[1, 2, 4, 5, 6]], 0)


def test_only_the_slope_of_a_distance_is_selected_on_gpu(platform):
    # XLA would end the kernel at a select, a clamp or a barrier of arrays of rows before that.
    x, y = special_rows()
    loss = lambda x: jnp.sum(jl.regression.cosine_distance(x, y))
    text = jax.jit(jax.grad(loss)).lower(x).as_text()
    selects = re.findall(r"stablehlo.(?:select|clamp|optimization_barrier).*tensor<12x7xf32>", text)
    assert (len(selects) == 1) == (platform == "cuda"), selects


def value_and_gradients(loss, x, z, temperature=None):
    options = {} if temperature is None else {"temperature": temperature}
    return jax.jit(jax.value_and_grad(functools.partial(loss, **options), (0, 1)))(x, z)


@pytest.fixture(params=["cpu", "cuda", "tpu"])
def every_form(request):
    with forms_of(request.param):
        yield request.param


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_beside_an_infinite_logit_no_class_is_close(every_form, temperature):
    x, z = jnp.array([1.0, 2.0, jnp.inf, 0.5]), jnp.array([1.2, 2.0, 3.0, 0.5])
    value, (x_bar, _) = value_and_gradients(jl.divergence.kl_logits, x, z, temperature)
    assert value == np.inf
    q = np.exp(np.float64(z) / temperature)
    q /= q.sum()
    expected = (np.array([0, 0, 1, 0]) - q) / temperature
    np.testing.assert_allclose(x_bar, expected, rtol=1e-6)
    value, _ = value_and_gradients(jl.distillation.acceptance, x, z, temperature)
    np.testing.assert_allclose(value, 1 - q[2], rtol=1e-6)


@pytest.mark.parametrize("loss", [jl.divergence.kl_logits, jl.distillation.temperature_kl])
def test_a_masked_class_that_the_target_gives_nothing_leaves_gradients_finite(every_form, loss):
    x, z = jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([0.0, 1.0, -200.0])
    value, gradients = value_and_gradients(loss, x, z)
    expected, without = value_and_gradients(loss, x[:2], z[:2])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for bar, other in zip(gradients, without, strict=True):
        np.testing.assert_allclose(bar, [*other, 0], rtol=1e-6)


def test_images_are_taken_in_groups_on_tpu():
    """So that windows stay on the chip; values, derivatives and NaN are those of all at once."""
    whole, weights = _structure._ssim_by_gradient, _structure._window(3, jnp.float32(1.5))
    in_groups = by_gradient(
        functools.partial(_structure._ssim, along),
        functools.partial(_structure._ssim, along_in_reverse),
        (3, 3),
        at_once=2 * 6 * 5 * 2,
    )
    x, y, moving = np.random.default_rng(0).random((3, 2, 5, 6, 5, 2)).astype(np.float32)
    x[1, 2, 3, 3] = np.nan
    options = weights, jnp.float32(1e-4), jnp.float32(9e-4)

    def derivatives(loss):
        mean = lambda x, y: jnp.sum(loss(x, y, *options) * jnp.arange(10.0).reshape(2, 5))
        gradient = jax.grad(mean, (0, 1))
        step = jax.jit(lambda *at: (loss(*at, *options), jax.jvp(gradient, at, (moving, moving))))
        return step(x, y), str(jax.make_jaxpr(jax.grad(mean))(x, y))

    expected, _ = derivatives(whole)
    for platform, loops in (("cuda", False), ("tpu", True)):
        with forms_of(platform):
            found, program = derivatives(in_groups)
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
        assert ("scan[" in program) == loops
