"""What the classification losses promise one by one: digits, masks, ties, impossible classes."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.platforms import forms_of
from jax.scipy.special import logsumexp

import jaxloss.classification as jc

LOGITS = np.array([[1.0, -0.5, 0.25, 2.0], [0.0, 3.0, -1.0, 0.5]], np.float32)
LABELS = np.array([3, 0], np.int32)
WEIGHTS = np.array([0.5, 1.0, 2.0, 1.5], np.float32)
COUNTS = np.array([100.0, 30.0, 7.0, 1.0], np.float32)


def value_and_gradient(loss, *data, **options):
    function = jax.jit(lambda first: jnp.sum(loss(first, *data[1:], **options)))
    return function(jnp.asarray(data[0])), jax.jit(jax.grad(function))(jnp.asarray(data[0]))


# --- cross-entropy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([80.0, 0.0, 0.0], 3.6097026e-35),
        ([20.0, 0.0], 2.0611537e-09),
        ([1e30, 1e30, 1e30], np.log(3)),
        ([0.0, -np.inf, 1.0], np.log1p(np.e)),
        ([-1e4, 0.0], 1e4),
    ],
)
def test_cross_entropy_of_logits_has_all_its_digits(logits, expected):
    for labels in (0, np.eye(len(logits), dtype=np.float32)[0]):
        value, gradient = value_and_gradient(jc.softmax_cross_entropy, np.float32(logits), labels)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient[0], np.expm1(-expected), rtol=1e-5)
        assert jnp.all(jnp.isfinite(gradient))


def test_cross_entropy_of_half_precision_is_not_quantized():
    logits = jnp.asarray([9.0, 0.0, 1.0], jnp.bfloat16)
    np.testing.assert_allclose(jc.softmax_cross_entropy(logits, 0), 4.588e-4, rtol=1e-3)


def test_logits_shifted_by_ten_thousand_change_nothing():
    for labels in (LABELS, np.eye(4, dtype=np.float32)[LABELS]):
        expected = value_and_gradient(jc.softmax_cross_entropy, LOGITS, labels)
        got = value_and_gradient(jc.softmax_cross_entropy, LOGITS + np.float32(8192), labels)
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_array_equal(g, e)


@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "class_weights": WEIGHTS}],
    ids=str,
)
def test_class_ids_are_one_hot_distributions(options):
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    got = value_and_gradient(jc.softmax_cross_entropy, LOGITS, LABELS, **options)
    expected = value_and_gradient(jc.softmax_cross_entropy, LOGITS, one_hot, **options)
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=2e-6, atol=1e-7)


def test_smoothing_with_class_weights_is_that_of_torch():
    """torch.nn.functional.cross_entropy(weight=, label_smoothing=0.1, reduction="none")."""
    log_p = LOGITS - logsumexp(LOGITS, axis=-1, keepdims=True)
    own = WEIGHTS[LABELS] * -np.take_along_axis(log_p, LABELS[:, None], -1)[:, 0]
    expected = 0.9 * own + 0.1 / 4 * np.sum(WEIGHTS * -log_p, axis=-1)
    got = jc.softmax_cross_entropy(LOGITS, LABELS, class_weights=WEIGHTS, label_smoothing=0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # Its mean over class ids divides by the weights of the labels.
    mean = jc.softmax_cross_entropy(LOGITS, LABELS, weights=WEIGHTS[LABELS], reduction="mean")
    plain = jc.softmax_cross_entropy(LOGITS, LABELS, class_weights=WEIGHTS)
    np.testing.assert_allclose(mean, plain.sum() / WEIGHTS[LABELS].sum(), rtol=1e-6)


def test_a_smoothing_of_zero_is_none_also_when_traced():
    traced = jax.jit(lambda s: jc.softmax_cross_entropy(LOGITS, LABELS, label_smoothing=s))
    np.testing.assert_allclose(traced(0.0), jc.softmax_cross_entropy(LOGITS, LABELS), rtol=1e-6)


def test_a_masked_class_does_not_exist():
    dirty = np.array([[1.0, np.nan, 0.25, 2.0]], np.float32)
    clean = dirty[:, [0, 2, 3]]
    mask = np.array([True, False, True, True])
    for options in ({}, {"label_smoothing": 0.2}):
        got, gradient = value_and_gradient(
            jc.softmax_cross_entropy, dirty, np.array([3]), mask=mask, **options
        )
        expected, rest = value_and_gradient(
            jc.softmax_cross_entropy, clean, np.array([2]), **options
        )
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient[:, mask], rest, rtol=1e-5, atol=1e-7)
        assert gradient[0, 1] == 0
    assert jc.softmax_cross_entropy(dirty, [1], mask=mask) == jnp.inf


def test_ignored_labels_are_left_out():
    labels = jnp.asarray([3, -100])
    got, gradient = value_and_gradient(
        jc.softmax_cross_entropy, LOGITS, labels, where=labels != -100, reduction="mean"
    )
    np.testing.assert_allclose(got, jc.softmax_cross_entropy(LOGITS[0], 3), rtol=1e-6)
    assert jnp.all(gradient[1] == 0)
    assert jnp.isnan(jc.softmax_cross_entropy(LOGITS, labels)[1])


@pytest.mark.parametrize("options", [{}, {"class_weights": True}], ids=["plain", "class_weights"])
def test_class_ids_need_no_array_of_the_logits_size_but_the_gradient(options):
    rows, classes = 4, 50_000
    size = rows * classes * 4

    def loss(logits, labels, weights):
        named = {"class_weights": weights} if options else {}
        return jc.softmax_cross_entropy(logits, labels, reduction="mean", **named)

    shapes = [((rows, classes), "float32"), ((rows,), "int32"), ((classes,), "float32")]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    memory = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile().memory_analysis()
    assert size <= memory.output_size_in_bytes < 1.1 * size  # the gradient
    assert memory.temp_size_in_bytes < 0.1 * size


@pytest.mark.parametrize("options", [{}, {"class_weights": True}], ids=["plain", "class_weights"])
def test_smoothing_makes_no_one_hot_labels(options):
    """No array of the logits' size is computed from the labels alone, booleans apart."""

    def loss(labels, weights):
        named = {"class_weights": weights} if options else {}
        return jc.softmax_cross_entropy(jnp.zeros((3, 7)), labels, label_smoothing=0.1, **named)

    def sizes(jaxpr, known):
        for equation in jaxpr.eqns:
            inner = [p for p in equation.params.values() if hasattr(p, "jaxpr")]
            of_labels = all(v in known for v in equation.invars if hasattr(v, "count"))
            has_labels = any(v in known for v in equation.invars if hasattr(v, "count"))
            for sub in inner:
                start = [
                    mine
                    for mine, v in zip(sub.jaxpr.invars, equation.invars, strict=False)
                    if hasattr(v, "count") and v in known
                ]
                yield from sizes(sub.jaxpr, set(start))
            if of_labels and has_labels:
                known.update(equation.outvars)
                yield from (v.aval for v in equation.outvars if v.aval.shape[-1:] == (7,))

    jaxpr = jax.make_jaxpr(loss)(jnp.asarray([1, 2, 3]), jnp.ones(7)).jaxpr
    found = list(sizes(jaxpr, {jaxpr.invars[0]}))
    assert all(aval.dtype == bool for aval in found), found


def test_probabilities_are_exact_at_zero_and_one():
    got, gradient = value_and_gradient(
        jc.binary_cross_entropy, np.float32([0, 1, 1, 0]), np.float32([0, 1, 0, 1])
    )
    np.testing.assert_array_equal(
        jc.binary_cross_entropy([0.0, 1.0, 1.0, 0.0], [0, 1, 0, 1]), [0, 0, np.inf, np.inf]
    )
    assert jnp.isinf(got)
    assert jnp.all(jnp.isfinite(gradient[:2]))
    _, gradient = value_and_gradient(jc.binary_cross_entropy, np.float32([1e-20]), np.float32([1]))
    np.testing.assert_allclose(gradient, -1e20, rtol=1e-6)
    np.testing.assert_array_equal(
        jc.categorical_cross_entropy([[1.0, 0.0], [0.0, 1.0]], [0, 0]), [0, np.inf]
    )
    assert jc.categorical_cross_entropy([1.0, 0.0], [1.0, 0.0]) == 0


def test_binary_labels_may_be_booleans():
    scores, labels = [0.5, -2.0], np.array([True, False])
    for loss in (jc.sigmoid_cross_entropy, jc.sigmoid_focal, jc.asymmetric, jc.sigmoid_sparsemax):
        np.testing.assert_array_equal(loss(scores, labels), loss(scores, [1.0, 0.0]))


def test_infinite_logits_that_are_right_cost_nothing():
    for loss in (jc.sigmoid_cross_entropy, jc.sigmoid_focal, jc.asymmetric, jc.sigmoid_sparsemax):
        value, gradient = value_and_gradient(
            loss, np.float32([np.inf, -np.inf]), np.float32([1, 0])
        )
        assert value == 0
        np.testing.assert_array_equal(gradient, [0, 0])
    np.testing.assert_array_equal(jc.logistic([np.inf, -np.inf], [1, 1]), [0, np.inf])


@pytest.mark.parametrize(
    "loss",
    [jc.hinge, jc.squared_hinge, jc.perceptron, jc.logistic, jc.hinge_embedding],
)
def test_signs_may_be_written_as_zero_and_one(loss):
    scores = np.float32([0.25, 0.5, 2.0])
    expected = loss(scores, [1, -1, 1])
    np.testing.assert_array_equal(loss(scores, [1, 0, 1], zero_one_labels=True), expected)
    assert np.isnan(loss(scores, [1, 0, 1])[1])
    assert np.isnan(loss(scores, [1, -1, 1], zero_one_labels=True)[1])


def test_negative_log_likelihood_after_log_softmax_is_the_cross_entropy():
    log_p = jax.nn.log_softmax(LOGITS)
    for labels in (LABELS, np.float32([[0.5, 0.5, 0, 0], [0, 0.25, 0.75, 0]])):
        for options in ({}, {"class_weights": WEIGHTS}):
            expected = jc.softmax_cross_entropy(LOGITS, labels, **options)
            got = jc.negative_log_likelihood(log_p, labels, **options)
            np.testing.assert_allclose(got, expected, rtol=1e-6)
    value, gradient = value_and_gradient(
        jc.negative_log_likelihood, np.float32([0, -np.inf]), np.float32([1, 0])
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, [-1, 0])


def test_z_loss_of_log_probabilities_is_nothing():
    np.testing.assert_allclose(jc.z_loss(jax.nn.log_softmax(LOGITS)), 0, atol=1e-12)
    value, gradient = value_and_gradient(jc.z_loss, np.float32([2.0, -np.inf]))
    np.testing.assert_array_equal(gradient, [4, 0])
    assert value == 4
    assert jc.z_loss([-np.inf, -np.inf]) == np.inf


# --- margins -----------------------------------------------------------------------------------


def test_the_digits_of_a_margin_just_missed():
    """1 + 0.1 - 1.0999999: the difference of the scores alone, rounded, would lose them."""
    scores = np.float32([1.0999999, 0.1])
    exact = 1 + (float(scores[1]) - float(scores[0]))
    np.testing.assert_allclose(jc.multiclass_hinge(scores, 0), exact, rtol=1e-6)
    np.testing.assert_allclose(jc.multi_margin(scores, 0), exact / 2, rtol=1e-6)
    np.testing.assert_allclose(jc.multilabel_margin(scores, [1, 0]), exact / 2, rtol=1e-6)


def derivatives_of_multi_margin(dtype, power, mask):
    """Value, change, gradient and its change, with infinite, NaN and equal scores; the program."""
    x = np.random.default_rng(0).normal(size=(6, 9))
    x[1, 2], x[2, 3], x[3, 4], x[4, 0], x[5] = -np.inf, np.inf, np.nan, -np.inf, 0
    ids = np.array([8, 3, 5, 6, 0, 1])

    def loss(x, margin):
        options = {"margin": margin, "power": power, "mask": mask}
        return jc.multi_margin(x, ids, reduction="none", **options)

    at = jnp.asarray(x, dtype), jnp.float32(0.5)
    moving = jnp.ones_like(at[0]) / 3, jnp.float32(2)
    gradient = jax.grad(lambda *at: jnp.sum(loss(*at)), (0, 1))
    step = jax.jit(lambda *at: (jax.jvp(loss, at, moving), jax.jvp(gradient, at, moving)))
    return jax.tree.leaves(step(*at)), str(jax.make_jaxpr(gradient)(*at))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("power", "masked"), [(1, False), (1, True), (2, False)])
def test_which_hinges_count_takes_a_byte_each_on_tpu(power, masked, dtype):
    of = dtype, power, np.arange(9) != 7 if masked else None
    expected, _ = derivatives_of_multi_margin(*of)
    for platform in ("cuda", "tpu"):
        with forms_of(platform):
            found, program = derivatives_of_multi_margin(*of)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-6)
        assert ("i8[6,9]" in program) == (platform == "tpu" and power == 1)
        # The entry at the label is read from what came, without the row.
        came = {jnp.float32: "f32", jnp.bfloat16: "bf16"}[dtype]
        assert bool(re.search(rf":{came}\[[\d,]*\] = gather\[", program)) == (platform == "tpu")


MARGINS = [jc.multiclass_perceptron, jc.multiclass_hinge, jc.multi_margin, jc.sparsemax]


@pytest.mark.parametrize("loss", MARGINS)
def test_impossible_classes(loss):
    value, gradient = value_and_gradient(loss, np.float32([0.25, -np.inf, 0.5]), 0)
    expected, rest = value_and_gradient(loss, np.float32([0.25, 0.5]), 0)
    share = 2 / 3 if loss is jc.multi_margin else 1  # its mean is over all classes
    np.testing.assert_allclose(value, share * expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[np.array([0, 2])], share * rest, rtol=1e-6)
    assert gradient[1] == 0
    assert loss([0.25, -np.inf, 0.5], 1) == jnp.inf


@pytest.mark.parametrize("loss", MARGINS[:3])
def test_ties_and_a_single_class(loss):
    value, gradient = value_and_gradient(loss, np.float32([1, 1, 1]), 0)
    assert jnp.all(jnp.isfinite(gradient))
    assert value == {jc.multiclass_perceptron: 0, jc.multiclass_hinge: 1}.get(loss, 2 / 3)
    assert loss([0.5], 0) == 0


def test_weston_and_watkins_count_every_rival():
    scores = [1.0, 0.5, 0.75, -1.0]
    np.testing.assert_allclose(jc.multiclass_hinge(scores, 0), 0.75)
    np.testing.assert_allclose(jc.multi_margin(scores, 0), (0.5 + 0.75) / 4)
    np.testing.assert_allclose(jc.multi_margin(scores, 0, power=2), (0.25 + 0.5625) / 4)
    with pytest.raises(ValueError, match="`power` is 3, expected one of 1, 2"):
        jc.multi_margin(scores, 0, power=3)
    with pytest.raises(ValueError, match="`margin` must be at least 0, got -1"):
        jc.multi_margin(scores, 0, margin=-1.0)


def test_multilabel_margin_of_extreme_labels():
    """torch's example: labels 3 and 0 are on."""
    scores = [0.1, 0.2, 0.4, 0.8]
    np.testing.assert_allclose(jc.multilabel_margin(scores, [1, 0, 0, 1]), 0.85, rtol=1e-6)
    assert jc.multilabel_margin(scores, [0, 0, 0, 0]) == 0
    assert jc.multilabel_margin(scores, [1, 1, 1, 1]) == 0
    np.testing.assert_allclose(jc.multilabel_margin([0.0, -np.inf], [1, 0]), 0)


# --- sparse ------------------------------------------------------------------------------------


def test_the_gradient_of_sparsemax_is_a_projection_less_the_label():
    logits = np.float32([0.5, 0.25, -3.0])
    _, gradient = value_and_gradient(jc.sparsemax, logits, 0)
    np.testing.assert_allclose(gradient, [0.625 - 1, 0.375, 0], rtol=1e-6)
    assert jc.sparsemax([1.0, 0.0, -1.0], 0) == 0
    two = np.float32([[0.75, 0.0], [-5.0, 0.0], [1e4, 1e4]])
    got = jc.sparsemax(two, [0, 0, 1])
    np.testing.assert_allclose(
        got, jc.sigmoid_sparsemax(two[:, 0] - two[:, 1], [1, 1, 0]), rtol=1e-6
    )


def test_the_gradient_of_sparsemax_at_its_threshold():
    """A label whose probability is 0, and would not be if its score rose by any amount."""
    _, gradient = value_and_gradient(jc.sparsemax, jnp.array([-0.5, 0.0, 0.0]), 0)
    np.testing.assert_array_equal(gradient, [-1, 0.5, 0.5])


def test_sparsemax_of_ids_is_that_of_one_hot_labels():
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    got = value_and_gradient(jc.sparsemax, LOGITS, LABELS)
    for g, e in zip(got, value_and_gradient(jc.sparsemax, LOGITS, one_hot), strict=True):
        np.testing.assert_array_equal(g, e)


def test_fenchel_young_is_the_cross_entropy_and_the_perceptron():
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    for max_fn, same in (
        (jax.nn.logsumexp, jc.softmax_cross_entropy),
        (jnp.max, jc.multiclass_perceptron),
    ):
        got = jc.fenchel_young(LOGITS, one_hot, max_fn=max_fn)
        np.testing.assert_allclose(got, same(LOGITS, LABELS), rtol=1e-5)


# --- functions of the nll -----------------------------------------------------------------

ROBUST = {
    "focal": (jc.softmax_focal, {"gamma": 0.0}, 1.0),
    "generalized": (jc.generalized_cross_entropy, {"q": 0.0}, 1.0),
    "symmetric": (jc.symmetric_cross_entropy, {"alpha": 1.0, "beta": 0.0}, 1.0),
    "poly1": (jc.poly1, {"epsilon": 0.0}, 1.0),
    "logit_adjusted": (jc.logit_adjusted, {"class_counts": [5, 5, 5, 5]}, 1.0),
    "ldam": (jc.ldam, {"class_counts": COUNTS, "max_margin": 0.0, "scale": 1.0}, 1.0),
}


@pytest.mark.parametrize(("loss", "options", "factor"), ROBUST.values(), ids=ROBUST)
def test_their_common_limit_is_the_cross_entropy(loss, options, factor):
    expected = value_and_gradient(jc.softmax_cross_entropy, LOGITS, LABELS)
    got = value_and_gradient(loss, LOGITS, LABELS, **options)
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, factor * e, rtol=2e-6)


NLLS = [jc.softmax_focal, jc.generalized_cross_entropy, jc.symmetric_cross_entropy, jc.poly1]


@pytest.mark.parametrize("loss", NLLS)
def test_distributions_give_the_mean_over_labels(loss):
    labels = np.float32([0.25, 0.0, 0.75, 0.0])
    each = [loss(LOGITS[0], k) for k in range(4)]
    np.testing.assert_allclose(loss(LOGITS[0], labels), np.dot(labels, each), rtol=1e-6)


@pytest.mark.parametrize("loss", NLLS)
def test_no_derivative_is_nan_however_sure(loss):
    rows = jnp.asarray([[0.0, 0.0], [200.0, 0.0], [-200.0, 0.0], [-jnp.inf, 0.0]])
    for labels in (1, np.float32([0.0, 1.0])):

        @jax.jit
        @jax.vmap
        def derivatives(x, labels=labels):
            function = lambda x: loss(x, labels)
            return jax.grad(function)(x), jax.hessian(function)(x)

        for derivative in derivatives(rows):
            assert jnp.all(jnp.isfinite(derivative)), derivative


@pytest.mark.parametrize("loss", NLLS)
def test_second_derivatives_know_that_the_nll_depends_on_the_logits(loss):
    """Where the label is on top as well: the gradient is multiplied by a function of the loss."""

    @jax.jit
    @jax.vmap
    def derivatives(label):
        function = lambda x: loss(x, label)
        of_value = jax.grad(lambda x: jax.value_and_grad(function)(x)[0])
        x = jnp.asarray(LOGITS[0])
        return jax.hessian(function)(x), jax.grad(function)(x), of_value(x)

    hessians, gradients, of_values = derivatives(jnp.arange(4))
    np.testing.assert_allclose(hessians, jnp.swapaxes(hessians, -1, -2), atol=1e-6)
    np.testing.assert_allclose(hessians.sum(-1), 0, atol=1e-6)  # a shift changes nothing
    # The value that comes with a gradient has the same gradient.
    np.testing.assert_allclose(of_values, gradients, rtol=1e-5, atol=1e-7)


def test_focal_derivatives_are_finite_for_every_gamma():
    """keras and older optax: (1 - p)**(gamma - 1) at p = 1."""

    @jax.jit
    @jax.vmap
    def derivatives(logit, label, gamma):
        function = lambda x, g: jc.sigmoid_focal(x, label, gamma=g)
        slopes = jax.grad(function, argnums=(0, 1))(logit, gamma)
        return (*slopes, jax.grad(jax.grad(function))(logit, gamma))

    grid = np.meshgrid([0.0, 19.0, 200.0, -200.0, 1e4, -1e4], [0.0, 1.0, 0.5], [0.0, 0.5, 1.0, 2.0])
    for derivative in derivatives(*(np.float32(x.ravel()) for x in grid)):
        assert jnp.all(jnp.isfinite(derivative)), derivative


def test_focal_keeps_its_digits_where_keras_clips():
    value, gradient = value_and_gradient(
        jc.sigmoid_focal, np.float32([15, -50]), np.float32([1, 1])
    )
    exact = np.exp(-15 * 3) * np.exp(3e-7 * 2)  # about sigma(-15)**2 softplus(-15)
    np.testing.assert_allclose(jc.sigmoid_focal(15.0, 1), exact, rtol=1e-5)
    np.testing.assert_allclose(gradient[1], -1, rtol=1e-6)
    np.testing.assert_allclose(value, 50, rtol=1e-6)


def test_the_derivative_in_q_is_exact_at_the_cross_entropy():
    def at(q):
        return jc.generalized_cross_entropy(np.float32([0.0, 0.0]), 0, q=q)

    nll = np.log(2)
    np.testing.assert_allclose(jax.grad(at)(0.0), -(nll**2) / 2, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(at)(1e-6), -(nll**2) / 2, rtol=1e-5)
    for q in (0.3, 0.9):  # either side of where the series ends
        exact = -(0.5**q) * np.log(0.5) / q - (1 - 0.5**q) / q**2
        np.testing.assert_allclose(jax.grad(at)(q), exact, rtol=1e-5)
    np.testing.assert_allclose(jc.generalized_cross_entropy([-np.inf, 0.0], 0, q=0.5), 2)


@pytest.mark.parametrize(
    ("loss", "options", "power"),
    [
        (jc.generalized_cross_entropy, {}, np.float32(0.7)),
        (jc.generalized_cross_entropy, {"q": 1.0}, 1),
        (jc.symmetric_cross_entropy, {"alpha": 0.0, "log_of_zero": -1.0}, 1),
        (jc.bi_tempered, {"t2": 1.0}, 1 - np.float32(0.8)),
    ],
)
def test_a_hopeless_label_gradients_with_all_its_digits(loss, options, power):
    """By p to a power, where -log p is so large that its last place is many of the power's."""
    gaps = np.float32(70.0 + np.sqrt(np.arange(40)))
    rows = np.stack([-gaps, 0 * gaps + np.float32(0.1)], axis=-1)
    exact = -np.exp(np.float64(power) * (np.float64(rows[:, 0]) - np.float64(rows[:, 1])))
    for labels in (0, np.float32([1, 0])):
        gradients = jax.jit(jax.vmap(jax.grad(lambda x, y=labels: loss(x, y, **options))))(rows)
        np.testing.assert_allclose(gradients[:, 0], exact, rtol=5e-7)


def test_asymmetric_forgives_what_is_below_the_clip():
    value, gradient = value_and_gradient(
        jc.asymmetric, np.float32([-3.0, -9.0]), np.float32([0, 0])
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, [0, 0])
    focal = jc.sigmoid_focal([2.0, 0.5], [0, 1], gamma=3.0)
    same = jc.asymmetric([2.0, 0.5], [0, 1], gamma_positive=3.0, gamma_negative=3.0, clip=0.0)
    np.testing.assert_allclose(same, focal, rtol=1e-6)
    np.testing.assert_allclose(jc.asymmetric(200.0, 0), -np.log(0.05) * 0.95**4, rtol=1e-6)
    np.testing.assert_allclose(jc.asymmetric(200.0, 0, clip=0.0), 200, rtol=1e-6)


# --- imbalance ---------------------------------------------------------------------------------


def test_logit_adjustment_is_the_balanced_softmax():
    masses = COUNTS * np.exp(LOGITS[0].astype(np.float64))
    expected = -np.log(masses / masses.sum())
    got = [jc.logit_adjusted(LOGITS[0], k, class_counts=COUNTS) for k in range(4)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    frequencies = jc.logit_adjusted(LOGITS, LABELS, class_counts=COUNTS / COUNTS.sum())
    np.testing.assert_allclose(
        frequencies, jc.logit_adjusted(LOGITS, LABELS, class_counts=COUNTS), rtol=1e-5
    )


def test_a_class_that_never_occurs_is_impossible():
    counts = np.float32([3, 0, 5, 1])
    value, gradient = value_and_gradient(jc.logit_adjusted, LOGITS, LABELS, class_counts=counts)
    assert jnp.isfinite(value)
    np.testing.assert_array_equal(gradient[:, 1], [0, 0])
    assert jc.logit_adjusted(LOGITS[0], 1, class_counts=counts) == jnp.inf
    to_counts = jax.grad(lambda n: jc.logit_adjusted(LOGITS[0], 0, class_counts=n))(counts)
    assert jnp.all(jnp.isfinite(to_counts))


def test_ldam_asks_the_rarest_class_for_the_largest_lead():
    got = [jc.ldam([0.0, 0.0], k, class_counts=[1, 16], scale=2.0) for k in (0, 1)]
    np.testing.assert_allclose(got, np.log1p(np.exp([2 * 0.5, 2 * 0.25])), rtol=1e-6)


def test_class_balanced_weights():
    even = jc.class_balanced_weights([1, 7, 90], beta=0.0)
    np.testing.assert_allclose(even, [1, 1, 1], rtol=1e-6)
    counts = np.array([1.0, 10.0, 1000.0])
    inverse = 0.0001 / -np.expm1(counts * np.log1p(-0.0001))
    got = jc.class_balanced_weights(counts)
    np.testing.assert_allclose(got, inverse / inverse.mean(), rtol=1e-6)
    got = jc.class_balanced_weights([4, 0, 2], beta=1.0)
    np.testing.assert_allclose(got, np.array([0.25, 0, 0.5]) / 0.375, rtol=1e-6)
    traced = jax.jit(lambda beta: jc.class_balanced_weights(counts, beta=beta))
    expected = jc.class_balanced_weights(counts, beta=0.875)
    np.testing.assert_allclose(traced(0.875), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="`beta` must be between 0 and 1"):
        jc.class_balanced_weights(counts, beta=1.5)
    with pytest.raises(ValueError, match="has shape"):
        jc.class_balanced_weights(1.0)


# --- labels ------------------------------------------------------------------------------------


def test_smoothed_labels_give_the_smoothed_loss():
    mask = np.array([True, False, True, True])
    for given in (LABELS, np.eye(4, dtype=np.float32)[LABELS]):
        smoothed = jc.smooth_labels(given, 0.2, classes=4, mask=mask)
        np.testing.assert_allclose(smoothed.sum(-1), 1, rtol=1e-6)
        assert np.all(smoothed[:, 1] == 0)
        expected = jc.softmax_cross_entropy(LOGITS, LABELS, mask=mask, label_smoothing=0.2)
        got = jc.softmax_cross_entropy(LOGITS, smoothed, mask=mask)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_smooth_labels_at_its_edges():
    assert np.all(np.isnan(jc.smooth_labels([-100, 7], 0.1, classes=4)))
    np.testing.assert_array_equal(jc.smooth_labels(1, 0.0, classes=2), [0, 1])
    each = jc.smooth_labels([0, 0], [0.0, 1.0], classes=2)
    np.testing.assert_array_equal(each, [[1, 0], [0.5, 0.5]])
    nothing = jc.smooth_labels([1.0, 0.0], 0.5, mask=[False, False])
    np.testing.assert_array_equal(nothing, [0.5, 0])
    with pytest.raises(ValueError, match="class ids need `classes`"):
        jc.smooth_labels([1, 0], 0.1)
    with pytest.raises(ValueError, match="does not fit"):
        jc.smooth_labels([1.0, 0.0], 0.1, mask=[True, True, False])
    with pytest.raises(ValueError, match="not one number an example"):
        jc.smooth_labels([1.0, 0.0], [0.1, 0.2])


def test_a_scan_differentiated_twice_in_reverse_is_the_plain_loss():
    """Partial evaluation of a scan drops custom rules: the formula alone must be right as well."""
    rows = jnp.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    labels = jnp.array([0, 0])

    def in_a_scan(logits):
        step = lambda _, row: (None, jc.softmax_cross_entropy(*row))
        return jnp.sum(jax.lax.scan(step, None, (logits, labels))[1])

    def squared_slope(loss):
        def slope(logits):
            value, gradient = jax.vjp(loss, logits)
            return jnp.sum(gradient(value)[0] ** 2)

        return jax.grad(slope)(rows)

    whole = lambda logits: jc.softmax_cross_entropy(logits, labels, reduction="sum")
    np.testing.assert_allclose(squared_slope(in_a_scan), squared_slope(whole), rtol=1e-5)


def test_a_learned_weight_times_the_loss_has_the_right_mixed_derivative():
    def weighted(weight, logits):
        return weight * jc.softmax_cross_entropy(logits, 0)

    logits = jnp.array([2.0, 1.0, 0.0])
    mixed = jax.jacfwd(jax.grad(weighted), argnums=1)(1.0, logits)
    expected = jax.nn.softmax(logits) - jnp.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_positive_weights_may_be_one_number_one_a_label_or_one_a_decision():
    labels = np.float32(LOGITS > 0)
    of = lambda weight: jc.sigmoid_cross_entropy(LOGITS, labels, positive_weight=weight)
    expected = np.where(labels, WEIGHTS, 1) * np.asarray(jc.sigmoid_cross_entropy(LOGITS, labels))
    for weight in (WEIGHTS, np.broadcast_to(WEIGHTS, LOGITS.shape)):
        np.testing.assert_allclose(of(weight), expected, rtol=1e-6)
    np.testing.assert_allclose(of(np.ones(4)), of(1.0))
    with pytest.raises(ValueError, match=r"`positive_weight` has shape \(2,\).*one weight a label"):
        of([1.0, 2.0])


def test_what_a_mask_leaves_out_is_not_read():
    mask = np.array([True, False, True, True])
    shares = np.array([0.5, 0.25, 0.0, 0.25], np.float32)
    expected = jc.softmax_cross_entropy(LOGITS[0, mask], shares[mask])
    dirty = [np.where(mask, x, np.nan).astype(np.float32) for x in (LOGITS[0], shares)]
    for logits, labels in ((LOGITS[0], shares), dirty):
        got = jc.softmax_cross_entropy(logits, labels, mask=mask)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert jc.softmax_cross_entropy(LOGITS[0], 1, mask=mask) == np.inf  # a class that is out


def test_generalized_cross_entropy_of_hopeless_logits_has_a_gradient_at_q_0():
    logits, labels = jnp.array([-1e10, 1.0, -1e30]), jnp.array([0.2, 0.5, 0.3])
    slope = jax.jit(jax.grad(lambda x: jc.generalized_cross_entropy(x, labels, q=0.0)))(logits)
    np.testing.assert_allclose(slope, [-0.2, 0.5, -0.3], rtol=1e-6)


@pytest.mark.slow
def test_at_temperature_0_the_tempered_softmax_is_a_projection():
    """Classes below it have probability 0, of which the power 0 counts for nothing."""
    x = np.float64([[0.3, 0.1, -0.2], [1.0, 0.9, -30.0], [2.0, 0.0, -1.0], [0.0, 0.0, -5.0]])
    levels = [(np.sum(np.sort(x)[:, -n:], 1, keepdims=True) - 1) / n for n in (1, 2, 3)]
    p = np.maximum(x - np.max(levels, axis=0), 0)
    loss = lambda x: jc.bi_tempered(x, jnp.ones(4, int), t1=0.0, t2=0.0)
    value, vjp_fn = jax.vjp(jax.jit(loss), np.float32(x))
    missed = p - np.eye(3)[1]
    np.testing.assert_allclose(value, np.sum(missed**2, 1) / 2, rtol=1e-6)
    possible = p > 0
    mean = np.sum(missed * possible, 1, keepdims=True) / np.sum(possible, 1, keepdims=True)
    (slope,) = vjp_fn(jnp.ones(4))
    np.testing.assert_allclose(slope, np.where(possible, missed - mean, 0), atol=1e-6)


def test_the_normalizer_of_many_classes_has_converged():
    """At temperature 0, where Newton's method takes most steps: more than 10 here."""
    logits = 0.1 * np.random.default_rng(0).normal(size=50_000)
    largest = np.sort(np.float64(np.float32(logits)))[::-1]
    thresholds = (np.cumsum(largest) - 1) / np.arange(1, len(largest) + 1)
    p = np.maximum(largest - thresholds[largest > thresholds][-1], 0)
    expected = 0.5 * (np.sum(p**2) - 2 * p[0] + 1)
    got = jc.bi_tempered(np.float32(logits), np.argmax(logits), t1=0.0, t2=0.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_bi_tempered_of_logits_whose_multiples_overflow():
    """The product of t2 - 1 and a distance of logits is beyond the largest float."""
    far, t2 = np.float64([3e37, 1e38, 3e38]), 6.0
    x = np.stack([np.zeros(3), -far], axis=-1).astype(np.float32)
    p = ((t2 - 1) * far) ** (-1 / (t2 - 1))  # of the second class
    loss = jax.jit(lambda x, label: jc.bi_tempered(x, label, t1=0.0, t2=t2))
    np.testing.assert_allclose(loss(x, np.zeros(3, int)), p**2, rtol=2e-5)
    np.testing.assert_allclose(loss(x, np.ones(3, int)), (1 - p) ** 2, rtol=1e-6)


def test_bi_tempered_of_finite_logits_is_never_nan():
    """A class of probability 0 has loss 0 under a label of 0, also where its slope is infinite."""
    sizes = np.float32([0, 1, -10, 1e20, -1e20, 1e38, -1e38])
    x = np.stack([a.ravel() for a in np.meshgrid(sizes, sizes, [0.0, -1e38])], axis=-1)
    labels = np.argmax(x, axis=-1)
    loss = lambda x, t1, t2: jnp.sum(jc.bi_tempered(x, labels, t1=t1, t2=t2))
    of = jax.jit(jax.value_and_grad(loss, (0, 2)))
    for t1, t2 in itertools.product((0.5, 1.5), (0.3, 1.0, 1.2, 6.0)):
        assert all(np.all(np.isfinite(y)) for y in jax.tree.leaves(of(x, t1, t2))), (t1, t2)


def test_bi_tempered_without_a_class_is_that_of_the_others():
    logits = np.float32([[0.5, -1.0, 2.0, 0.25], [3.0, 0.1, -0.7, 0.2]])
    mask = np.array([True, False, True, True])
    for labels, kept in (
        (np.array([0, 3]), np.array([0, 2])),
        (np.full((2, 4), 1 / 3), np.full((2, 3), 1 / 3)),
    ):
        got = jc.bi_tempered(logits, labels, mask=mask, t1=0.5, t2=2.0)
        alone = jc.bi_tempered(logits[:, mask], kept, t1=0.5, t2=2.0)
        np.testing.assert_allclose(got, alone, rtol=1e-6)
