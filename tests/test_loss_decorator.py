"""`@loss` on a user's own function: the same rights, and errors that teach the way."""

import enum
import functools
import inspect
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal, Unpack

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from jax import Array
from jaxtyping import Bool, Float, Int, Real

import jaxloss as jl
from jaxloss._core import registry, shapes
from jaxloss.traits import convex

pytestmark = pytest.mark.few


@pytest.fixture
def tidy_catalogue(monkeypatch):
    """A loss defined in a test leaves the catalogue with it."""
    jl.catalogue.losses()  # imports the families, which register once
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


@pytest.fixture
def charge(tidy_catalogue):
    @jl.loss(convex)
    def charge(prediction, target, *, factor=3.0):
        """Under-prediction costs `factor` times as much."""
        error = target - prediction
        return jnp.maximum(factor * error, -error)

    return charge


def test_a_plain_function_gets_every_word(charge):
    assert str(inspect.signature(charge)).startswith("(prediction, target, *, factor=3.0, where:")
    got = charge([1.0, 2.0, jnp.nan], [2.0, 1.0, 0.0], where=[True, True, False], reduction="mean")
    assert got == 2.0
    with pytest.raises(ValueError, match="charge: `target`"):
        charge(jnp.zeros(3), jnp.zeros((3, 1)))
    assert jax.grad(lambda f: charge(1.0, 2.0, factor=f))(3.0) == 1.0


def test_bare_and_called_decorators_are_the_same(tidy_catalogue):
    @jl.loss
    def bare(prediction, target):
        return prediction - target

    @jl.loss()
    def called(prediction, target):
        return prediction - target

    assert bare(3, 1) == called(3, 1) == 2


def test_it_is_filed_with_its_traits(charge):
    info = jl.catalogue.find("convex", text="charge")[0]
    assert info.function is charge
    assert info.family == ""
    assert info.options == ("factor",)


def test_a_result_of_the_wrong_shape_is_named(tidy_catalogue):
    @jl.loss
    def summed(prediction, target):
        return jnp.sum(prediction - target)

    with pytest.raises(ValueError, match=r"summed: its result has shape \(\), expected \(3,\)"):
        summed(jnp.zeros(3), jnp.zeros(3))


def test_declarations_that_make_no_sense_are_refused(tidy_catalogue):
    with pytest.raises(TypeError, match=r"domain for \['nonsense'\]"):
        jl.loss(nonsense=jl.domains.positive)(lambda prediction, target: prediction)

    def scalar(prediction: Real[Array, "*batch"]) -> Float[Array, ""]:
        return prediction

    with pytest.raises(TypeError, match='its result must be annotated "\\*batch"'):
        jl.loss(scalar)


def test_jax_annotations_are_read_too(tidy_catalogue):
    @jl.loss(labels=jl.domains.class_ids("classes"))
    def zero_one(
        scores: Float[jax.typing.ArrayLike, "*batch classes"],
        labels: Int[jax.typing.ArrayLike, "*batch"],
        **reduction: Unpack[jl.AxisReduction],
    ) -> Float[Array, "*batch"]:
        return (jnp.argmax(scores, -1) != labels).astype(jnp.float32)

    np.testing.assert_array_equal(zero_one([[1.0, 2.0], [2.0, 1.0]], [1, 1]), [0, 1])
    np.testing.assert_array_equal(zero_one([[1.0, 2.0], [2.0, 1.0]], [1, 2]), [0, np.nan])
    with pytest.raises(TypeError, match=r"`labels` is float32 .* Write `labels.astype\(int\)`"):
        zero_one(jnp.zeros((2, 3)), jnp.zeros(2))
    with pytest.raises(TypeError, match="`scores` is int32"):
        zero_one(jnp.zeros((2, 3), int), jnp.zeros(2, int))


def test_scalars_stretch_and_nothing_else(charge):
    assert charge(0.0, jnp.zeros((2, 3))).shape == (2, 3)
    assert charge(jnp.zeros((2, 3)), 0).shape == (2, 3)
    assert charge(jnp.zeros(3), jnp.zeros(3), where=True, weights=2.0).shape == (3,)
    with pytest.raises(ValueError, match=r"squeeze\(prediction, -1\)|prediction|target"):
        charge(jnp.zeros((3, 1)), jnp.zeros(3))
    with pytest.raises(ValueError, match="Nothing is broadcast here"):
        charge(jnp.zeros((1, 3)), jnp.zeros((2, 3)))


def test_classes_along_another_axis_are_recognized():
    images = jnp.zeros((2, 10, 3))
    with pytest.raises(
        ValueError,
        match=r"expected integers of shape \(2, 10\), .* lie along axis 1, write `axis=1`",
    ):
        jl.classification.softmax_cross_entropy(images, jnp.zeros((2, 3), int))
    assert jl.classification.softmax_cross_entropy(
        images, jnp.zeros((2, 3), int), axis=1
    ).shape == (2, 3)


def test_an_eager_loop_plans_once(charge):

    charge(jnp.zeros(3), jnp.zeros(3))
    before = shapes.plan.cache_info()
    charge(jnp.ones(3), jnp.ones(3))
    after = shapes.plan.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_no_tracer_leaks(charge):
    with jax.checking_leaks():
        jax.jit(jax.grad(lambda x: charge(x, 1.0, where=True, reduction="mean")))(jnp.float32(0))


def test_strict_promotion_is_no_trouble(charge):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        got = jl.regression.huber(jnp.zeros((2, 3), jnp.bfloat16), np.ones((2, 3)), where=True)
        chex.assert_shape(got, (2, 3))


def test_find_and_tables(charge):
    with pytest.raises(
        ValueError, match="no trait 'bounded_gradiant', only convex.*'bounded_gradient'"
    ):
        jl.catalogue.find("bounded_gradiant")
    with pytest.raises(
        ValueError, match="no family 'regresion', only .* Did you mean 'regression'"
    ):
        jl.catalogue.find(family="regresion")
    table = jl.catalogue.find(family="regression")
    assert "<table>" in table._repr_html_()
    assert "regression.huber" in repr(table)
    assert {c.family for c in table} == {"regression"}
    assert all(
        c.traits >= {jl.traits.convex, jl.traits.smooth}
        for c in jl.catalogue.find("convex", "smooth")
    )


class _Mode(enum.StrEnum):
    FAST = "fast"


class _Count(enum.IntEnum):
    TWO = 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": _Mode.FAST, "count": _Count.TWO, "choice": None},
        {"mode": np.str_("fast"), "count": np.array(2), "flag": np.array(True)},
        {"count": jnp.array(2), "flag": jnp.array(True), "levels": [1], "choice": "one"},
        {"choice": np.True_},
    ],
)
def test_options_of_equal_meaning_are_accepted(tidy_catalogue, options):
    @jl.loss
    def scaled(
        prediction,
        target,
        *,
        mode: str = "fast",
        count: int | None = 2,
        flag: bool = True,
        levels: Sequence[int] = (1, 2),
        choice: Literal["one", True, None] = "one",
    ):
        assert (mode, count, flag) == ("fast", 2, True)
        assert levels[0] == 1
        assert choice in ("one", True, None)
        return count * (prediction - target)

    assert scaled(3.0, 1.0, **options) == 4


def test_the_number_of_spatial_axes_may_be_an_integer_of_numpy():
    x = jnp.full((2, 4, 4, 3), 0.5)
    with_axes = functools.partial(jl.segmentation.dice, x, x)
    np.testing.assert_array_equal(with_axes(spatial_axes=np.int64(2)), with_axes(spatial_axes=2))


# --- every form of declaration, under flags and transformations -----------------------------------
#
# Bodies of jaxloss are held to the same by the laws over the catalogue; these are about what the
# contract adds.


def cubic_body(prediction, target, *, scale=1.0):
    return jnp.abs((prediction - target) / scale) ** 3


def elementwise_body(
    prediction: Real[jl.ArrayLike, "*batch"],
    target: Real[jl.ArrayLike, "*batch"],
    *,
    scale: Real[jl.ArrayLike, ""] | Real[jl.ArrayLike, "*batch"] = 1.0,
    **reduction: Unpack[jl.Reduction],
) -> Float[Array, "*batch"]:
    return cubic_body(prediction, target, scale=scale)


def classes_body(
    logits: Real[jl.ArrayLike, "*batch classes"],
    labels: Int[jl.ArrayLike, "*batch"] | Real[jl.ArrayLike, "*batch classes"],
    *,
    mask: Bool[jl.ArrayLike, "*batch classes"] | Bool[jl.ArrayLike, "classes"] | None = None,
    class_weights: Real[jl.ArrayLike, "classes"] | None = None,
    **reduction: Unpack[jl.AxisReduction],
) -> Float[Array, "*batch"]:
    log_p = jax.nn.log_softmax(logits)
    if labels.ndim == logits.ndim:
        return -jnp.sum(jnp.where(labels == 0, 0, labels * log_p), axis=-1)
    return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def set_body(
    left: Real[jl.ArrayLike, "*batch set dim"],
    labels: Int[jl.ArrayLike, "*batch set"],
    *,
    where: Bool[jl.ArrayLike, "*batch set"] | None = None,
    **reduction: Unpack[jl.SetReduction],
) -> Float[Array, "*batch set"]:
    same = (labels[..., :, None] == labels[..., None, :]).astype(left.dtype)
    return jnp.sum(same * (left @ jnp.swapaxes(left, -1, -2)), axis=-1)


@pytest.fixture(scope="module")
def forms():
    """One loss of each form."""
    before = dict(registry._registry) if jl.catalogue.losses() else {}
    yield {
        "plain": jl.loss(scale=jl.domains.positive)(cubic_body),
        "elementwise": jl.loss(scale=jl.domains.positive)(elementwise_body),
        "classes": jl.loss(
            logits=jl.domains.extended,
            labels=[jl.domains.class_ids("classes"), jl.domains.distribution],
        )(classes_body),
        "set": jl.loss(set_body),
    }
    registry._registry.clear()
    registry._registry.update(before)


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


CLASS_IDS = np.arange(6).reshape(2, 3) % 4
CALLS = {
    "plain": ("plain", (draw(2, 3), draw(2, 3)), {"scale": 2.0}),
    "elementwise": ("elementwise", (draw(2, 3), draw(2, 3)), {"scale": np.float32(2)}),
    "elementwise, long": ("elementwise", (draw(6400, 2), draw(6400, 2)), {"scale": 2.0}),
    "elementwise, scalar": ("elementwise", (draw(2, 3), 1.0), {}),
    "ids": ("classes", (draw(2, 3, 4), CLASS_IDS), {}),
    "distributions": ("classes", (draw(2, 3, 4), np.full((2, 3, 4), 0.25)), {}),
    "axis": ("classes", (draw(2, 4, 3), CLASS_IDS), {"axis": 1}),
    "several axes": ("classes", (draw(2, 2, 3, 2), CLASS_IDS), {"axis": (1, 3)}),
    "mask": ("classes", (draw(2, 3, 4), CLASS_IDS), {"mask": draw(2, 3, 4) > -1}),
    "mask of classes": ("classes", (draw(2, 3, 4), CLASS_IDS), {"mask": np.arange(4) < 3}),
    "set": ("set", (draw(2, 3, 4), CLASS_IDS % 2), {}),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
REDUCED = [
    pytest.param({}, marks=pytest.mark.slow),
    pytest.param({"reduction": "mean"}, marks=pytest.mark.slow),
    pytest.param({"where": True, "reduction": "parts"}, marks=pytest.mark.slow),
    {"weights": 2.0, "where": True, "reduction": "mean"},
]


def value_and_grad(loss, data, options):
    def total(first):
        return jnp.sum(jax.tree.leaves(loss(first, *data[1:], **options))[0])

    return jax.value_and_grad(total)(jnp.asarray(data[0]))


@pytest.mark.slow
@every_call
@pytest.mark.parametrize("words", REDUCED, ids=str)
def test_strict_dtypes_and_ranks_change_nothing(forms, call, words):
    name, data, options = call
    expected = value_and_grad(forms[name], data, options | words)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        chex.assert_trees_all_equal(value_and_grad(forms[name], data, options | words), expected)


@pytest.mark.slow
@pytest.mark.parametrize("words", REDUCED, ids=str)
def test_checks_and_invalid_labels_work_under_strict_promotion(forms, words):
    labels = np.array([0, 7, -1])
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        value, slope = value_and_grad(forms["classes"], (draw(3, 4), labels), words)
        assert jnp.isnan(value)
        assert jnp.isnan(slope[1:]).all()
        jl.checked(forms["classes"])(draw(3, 4), labels % 4, **words)


@every_call
def test_one_number_is_a_weight_of_all_and_one_boolean_a_mask_of_all(forms, call):
    name, data, options = call
    loss = functools.partial(forms[name], *data, **options, reduction="none")
    plain = loss()
    chex.assert_trees_all_equal(loss(weights=2.0), 2 * plain)
    chex.assert_trees_all_equal(loss(weights=2, where=True), 2 * plain)
    chex.assert_trees_all_equal(loss(where=False), 0 * plain)
    chex.assert_trees_all_equal(loss(where=np.False_, weights=jnp.float32(2)), 0 * plain)
    with pytest.raises(TypeError, match=r"`where` is float64 of shape \(\), expected booleans"):
        loss(where=1.0)


@every_call
@pytest.mark.parametrize("words", REDUCED, ids=str)
def test_a_program_with_symbolic_sizes_is_exported(forms, call, words):
    """Value and gradient of any number of rows, and of classes where the body allows it."""
    name, data, options = call
    scope = jax.export.SymbolicScope()
    arrays = [np.asarray(x) for x in data]
    options = dict(options)
    mask = options.pop("mask", None)
    arrays += [] if mask is None or mask.ndim == 1 else [mask]

    def symbolic(x):
        names = ", ".join([*"ab"[: min(x.ndim, 1)], *map(str, x.shape[1:])])
        sizes = jax.export.symbolic_shape(names, scope=scope) if x.ndim else ()
        return jax.ShapeDtypeStruct(sizes, jax.dtypes.canonicalize_dtype(x.dtype))

    def function(first, second, *masks):
        mine = options | words | ({"mask": masks[0] if masks else mask} if mask is not None else {})
        return value_and_grad(forms[name], (first, second), mine)

    exported = jax.export.export(jax.jit(function))(*map(symbolic, arrays))
    arrays = [x.astype(jax.dtypes.canonicalize_dtype(x.dtype)) for x in arrays]
    # Programs of known size are evaluated in loops of another order.
    chex.assert_trees_all_close(exported.call(*arrays), function(*arrays), rtol=1e-5, atol=1e-6)


@every_call
def test_a_third_eager_call_compiles_nothing(forms, call):
    name, data, options = call
    data = [jnp.asarray(x) for x in data]
    where = jnp.ones((2, 3) if name != "elementwise" else data[0].shape, bool)

    def run():
        for words in ({"reduction": "mean"}, {"where": where, "reduction": "mean"}):
            value = value_and_grad(forms[name], data, options | words)
        return value

    assert compilations(run) == 0
    assert compilations(lambda: jax.jit(lambda x: x + 1)(1.0)) == 1


def test_lists_of_traced_numbers_are_arrays(forms):
    got = jax.jit(forms["plain"])([1.0, 2.0], [2.0, jnp.float32(4)])
    np.testing.assert_array_equal(got, [1.0, 8.0])


def test_memory_order_and_width_of_numpy_arrays_do_not_matter(forms):
    prediction, target = draw(2, 3), draw(2, 3)
    expected = forms["elementwise"](prediction, target)
    for dtype in (">f4", ">f8", np.longdouble):
        got = forms["elementwise"](prediction.astype(dtype), target.astype(dtype), scale=1)
        np.testing.assert_array_equal(got, expected)
    for dtype in (">i4", ">i8", ">i2", np.uint8, np.int8):
        got = forms["classes"](draw(2, 3, 4).astype(">f4"), CLASS_IDS.astype(dtype))
        np.testing.assert_array_equal(got, forms["classes"](draw(2, 3, 4), CLASS_IDS))
    with pytest.raises(TypeError, match="`prediction` is complex128 of shape"):
        forms["elementwise"](prediction.astype(np.clongdouble), target)


# --- labels ---------------------------------------------------------------------------------------

WRAPPING = {
    "int64": np.array([1, 2**32 + 1, -(2**63)], np.int64),
    "uint64": np.array([1, 2**32 + 1, 2**64 - 1], np.uint64),
    "uint32": np.array([1, 2**32 - 1, 2**31], np.uint32),
    "list": [1, 2**32 + 1, -(2**32) + 1],
    "big-endian": np.array([1, 2**32 + 1, 2**40], ">i8"),
}


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.slow
@pytest.mark.parametrize("labels", WRAPPING.values(), ids=WRAPPING)
def test_ids_are_compared_before_they_are_narrowed(forms, labels):
    logits = draw(3, 4)

    def loss(logits):
        return forms["classes"](logits, labels)

    for run in (loss, jax.jit(loss)):
        assert np.isnan(run(logits)).tolist() == [False, True, True]
        with pytest.raises(ValueError, match=f"got {int(labels[1])} at flat index 1"):
            jl.checked(run)(logits)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(loss(x))))(logits)
    assert np.isnan(slope).all(axis=-1).tolist() == [False, True, True]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("labels", WRAPPING.values(), ids=WRAPPING)
def test_ids_are_compared_before_they_are_narrowed_in_double_precision(forms, labels):
    test_ids_are_compared_before_they_are_narrowed(forms, labels)
    if isinstance(labels, np.ndarray):  # ids that a program is given, and not its constants
        native = labels.astype(labels.dtype.newbyteorder("="))
        got = jax.jit(forms["classes"])(draw(3, 4), native)
        assert np.isnan(got).tolist() == [False, True, True]


def test_ids_of_a_set_that_would_be_mixed_up_are_refused(forms):
    embeddings, labels = draw(2, 4), np.array([1, 2**32 + 1])
    with pytest.raises(ValueError, match=r"`labels` holds ids that int32 cannot hold .*unique"):
        forms["set"](embeddings, labels)
    numbered = np.unique(labels, return_inverse=True)[1]
    expected = forms["set"](embeddings, np.array([0, 1]))
    np.testing.assert_array_equal(forms["set"](embeddings, numbered), expected)
    unsigned = np.array([2**31, 2**31 + 1], np.uint32)
    np.testing.assert_array_equal(forms["set"](embeddings, unsigned), expected)


@pytest.mark.usefixtures("x64")
def test_ids_of_a_set_may_have_64_bits_where_jax_has_them(forms):
    embeddings = draw(2, 4)
    expected = forms["set"](embeddings, np.array([0, 1]))
    for labels in (np.array([1, 2**32 + 1]), np.array([1, 2**64 - 1], np.uint64)):
        np.testing.assert_array_equal(forms["set"](embeddings, labels), expected)


# --- the mask of an event -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("labels", [CLASS_IDS, np.full((2, 3, 4), 0.25)], ids=["ids", "real"])
def test_what_a_mask_leaves_out_may_hold_anything(forms, labels):
    """Value, gradient and checks are those of the classes that are left."""
    mask = np.ones((2, 3, 4), bool)
    mask[..., 1] = False
    logits, labels = draw(2, 3, 4), labels.copy()
    kept = np.where(mask, logits, -np.inf).astype(np.float32)
    if labels.ndim == 3:
        labels[..., 1], labels[..., 0] = 0, 0.5
    else:
        labels[labels == 1] = 0
    expected = value_and_grad(forms["classes"], (kept, labels), {})
    for anything in (np.nan, np.inf, 7.0):
        dirty, dirty_labels = np.where(mask, logits, anything).astype(np.float32), labels
        if labels.ndim == 3:
            dirty_labels = np.where(mask, labels, anything)
        for given in (mask, mask[0, 0]):
            options = {"mask": given}
            got = value_and_grad(forms["classes"], (dirty, dirty_labels), options)
            chex.assert_trees_all_equal(got, expected)
            assert np.all(np.asarray(got[1])[..., 1] == 0)
            jl.checked(forms["classes"])(dirty, dirty_labels, **options)


@pytest.mark.slow
def test_a_row_that_is_masked_altogether_is_left_out(forms):
    mask = np.ones((2, 3, 4), bool)
    mask[0, 1] = False
    logits = draw(2, 3, 4)
    logits[0, 1] = np.nan
    options = {"mask": mask}
    parts = forms["classes"](logits, CLASS_IDS, reduction="parts", **options)
    assert parts.weight == 5
    value, slope = value_and_grad(
        forms["classes"], (logits, CLASS_IDS), options | {"reduction": "mean"}
    )
    np.testing.assert_allclose(value, parts.value, rtol=1e-6)
    assert np.all(np.asarray(slope)[0, 1] == 0)
    assert np.all(np.isfinite(slope))
    assert forms["classes"](logits, CLASS_IDS, **options)[0, 1] == 0
    nothing = forms["classes"](logits, CLASS_IDS, mask=np.zeros(4, bool), reduction="parts")
    assert (nothing.total, nothing.weight) == (0, 0)


def test_a_label_that_is_masked_is_impossible(forms):
    assert forms["classes"](draw(4), 1, mask=np.arange(4) != 1) == np.inf


# --- several class axes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_several_axes_are_one_axis(forms):
    """Class ids count along the flat axis, in the order in which the axes are given."""
    logits = draw(2, 3, 4, 5)
    flat = np.moveaxis(logits, (3, 1), (-2, -1)).reshape(2, 4, 15)
    labels = np.arange(8).reshape(2, 4)
    for spelled in ((3, 1), (-1, -3)):
        got = forms["classes"](logits, labels, axis=spelled)
        np.testing.assert_array_equal(got, forms["classes"](flat, labels))
    shares = np.full(logits.shape, 1 / 15, np.float32)
    mask = logits > -1
    got = forms["classes"](logits, shares, axis=(3, 1), mask=mask, class_weights=np.ones((5, 3)))
    flat_mask = np.moveaxis(mask, (3, 1), (-2, -1)).reshape(2, 4, 15)
    expected = forms["classes"](flat, np.full(flat.shape, 1 / 15, np.float32), mask=flat_mask)
    np.testing.assert_array_equal(got, expected)


# --- elementwise ----------------------------------------------------------------------------------


def shapes_in_program(loss, *data):
    return str(jax.make_jaxpr(loss)(*data))


def test_an_elementwise_body_is_evaluated_in_a_shape_that_the_compiler_vectorizes(tidy_catalogue):
    x = jnp.ones((6400, 3))
    declared = jl.loss(elementwise=True)(cubic_body)
    refused = jl.loss(elementwise=False)(elementwise_body)
    annotated, plain = jl.loss(elementwise_body), jl.loss(cubic_body)
    for loss, vectorized in ((declared, True), (annotated, True), (plain, False), (refused, False)):
        assert ("f32[75,256]" in shapes_in_program(loss, x, x)) is vectorized
        assert loss(x, 0.0).shape == x.shape
    with pytest.raises(TypeError, match="`elementwise=True`, but its annotations have the axes"):
        jl.loss(elementwise=True)(classes_body)


# --- what jaxloss leaves alone --------------------------------------------------------------------


@pytest.mark.slow
def test_importing_jaxloss_changes_nothing_outside_it():
    code = (
        "import logging, sys, warnings, jax\n"
        "def state():\n"
        "    loggers = {n: (list(l.filters), list(l.handlers), l.level)\n"
        "               for n, l in logging.root.manager.loggerDict.items()\n"
        "               if hasattr(l, 'level') and n.startswith('jax')}\n"
        "    return loggers, dict(jax.config.values)\n"
        "before = state()\n"
        "import jaxloss as jl\n"
        "import jaxloss.regression, jaxloss.classification, jaxloss._core.checks\n"
        "after = state()\n"
        "assert before[1] == after[1]\n"
        "assert all(not filters for filters, _, _ in after[0].values()), after[0]\n"
        "assert {n: after[0][n] for n in before[0]} == before[0]\n"
        "assert 'chex' not in sys.modules and 'matplotlib' not in sys.modules\n"
        "assert 'jaxloss.plot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_chex_switches_do_not_switch_off_shape_errors(forms):
    chex.disable_asserts()
    try:
        with pytest.raises(ValueError, match="Nothing is broadcast here"):
            forms["elementwise"](np.zeros((3, 1)), np.zeros(3))
    finally:
        chex.enable_asserts()
