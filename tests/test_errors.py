"""Errors are part of the interface: what is wrong, what was expected, what to write.

A row is a call that somebody will write, and the whole of the answer.
"""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss._core import peer_names, registry

classification, regression = jl.classification, jl.regression
CE, HUBER = "jaxloss.classification.softmax_cross_entropy", "jaxloss.regression.huber"
LOGITS, IDS = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0], np.int32)
VALUES = np.zeros(3, np.float32)
HUBER_TAKES = "It takes (prediction, target, *, delta, where, weights, reduction)."
CE_TAKES = (
    "It takes (logits, labels, *, mask, label_smoothing, class_weights, axis, where, weights, "
    "reduction)."
)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def ids(*shape):
    return np.zeros(shape, np.int32)


def cross_entropy(*args, **kwargs):
    return lambda: classification.softmax_cross_entropy(*args, **kwargs)


def huber(*args, **kwargs):
    return lambda: regression.huber(*args, **kwargs)


# --- shapes and dtypes --------------------------------------------------------------------------

SHAPES = {
    "classes along another axis": (
        cross_entropy(zeros(2, 10, 3), ids(2, 3)),
        f"{CE}: `labels` is int32 of shape (2, 3), expected integers of shape (2, 10), or real "
        "numbers of shape (2, 10, 3) to fit `logits`. If the classes of `logits` lie along axis 1, "
        "write `axis=1`.",
    ),
    "classes along the last axis": (
        cross_entropy(zeros(4, 3), ids(4), axis=0),
        f"{CE}: `labels` is int32 of shape (4,), expected integers of shape (3,), or real numbers "
        "of shape (4, 3) to fit `logits`, whose classes lie along axis 0. If the classes of "
        "`logits` lie along the last axis, leave `axis` out.",
    ),
    "the axis given is not tried again": (
        cross_entropy(zeros(2, 4, 4, 3), ids(2, 4, 4), axis=1),
        f"{CE}: `labels` is int32 of shape (2, 4, 4), expected integers of shape (2, 4, 3), or "
        "real numbers of shape (2, 4, 4, 3) to fit `logits`, whose classes lie along axis 1. If "
        "the classes of `logits` lie along the last axis, leave `axis` out.",
    ),
    "shapes are shown as they came": (
        cross_entropy(zeros(2, 3, 4), zeros(2, 4, 3), axis=1),
        f"{CE}: `labels` has shape (2, 4, 3), expected (2, 3, 4) to fit `logits`, whose classes "
        "lie along axis 1. Nothing is broadcast here: only a scalar is.",
    ),
    "several class axes": (
        cross_entropy(zeros(2, 3, 4, 5), zeros(2, 3, 5, 4), axis=(1, 3)),
        f"{CE}: `labels` has shape (2, 3, 5, 4), expected (2, 3, 4, 5) to fit `logits`, whose "
        "classes lie along the axes (1, 3). Nothing is broadcast here: only a scalar is.",
    ),
    "an axis that is not there": (
        cross_entropy(LOGITS, IDS, axis=7),
        f"{CE}: `axis` is 7, but `logits` has shape (4, 3): give an integer from -2 to 1, or a "
        "tuple of such integers, each once.",
    ),
    "class ids in a column": (
        cross_entropy(LOGITS, IDS[:, None]),
        f"{CE}: `labels` is int32 of shape (4, 1), expected integers of shape (4,), or real "
        "numbers of shape (4, 3) to fit `logits`. Nothing is broadcast here: write "
        "`jnp.squeeze(labels, -1)`.",
    ),
    "a target in a column": (
        huber(VALUES, VALUES[:, None]),
        f"{HUBER}: `target` has shape (3, 1), expected (3,) to fit `prediction`. Nothing is "
        "broadcast here: write `jnp.squeeze(target, -1)`.",
    ),
    "a mask of examples": (
        cross_entropy(LOGITS, IDS, mask=np.ones(4, bool)),
        f"{CE}: `mask` is bool of shape (4,), expected booleans of shape (4, 3), or booleans of "
        "shape (3,) to fit `logits`. Whole examples are left out by `where`.",
    ),
    "class weights as weights": (
        cross_entropy(LOGITS, IDS, weights=VALUES),
        f"{CE}: `weights` has shape (3,), expected (4,) to fit `logits`. Class weights are another "
        "argument: write `class_weights=`.",
    ),
    "class weights as weights of a loss without": (
        lambda: classification.generalized_cross_entropy(LOGITS, IDS, weights=VALUES),
        "jaxloss.classification.generalized_cross_entropy: `weights` has shape (3,), expected (4,) "
        "to fit `logits`. For one weight a class write `weights=weights[labels]`.",
    ),
    "weights of sequences": (
        huber(zeros(4, 5), zeros(4, 5), weights=zeros(4)),
        f"{HUBER}: `weights` has shape (4,), expected (4, 5) to fit `prediction`. Write "
        "`jnp.broadcast_to(weights[:, None], (4, 5))`.",
    ),
    "weights of sequences in a column": (
        huber(zeros(4, 5), zeros(4, 5), where=zeros(4, 1) == 0),
        f"{HUBER}: `where` has shape (4, 1), expected (4, 5) to fit `prediction`. Write "
        "`jnp.broadcast_to(where, (4, 5))`.",
    ),
    "weights in `jl.mean`": (
        lambda: jl.mean(zeros(4, 5), weights=zeros(4)),
        "jaxloss.mean: `weights` has shape (4,), expected (4, 5) to fit `values`. Write "
        "`jnp.broadcast_to(weights[:, None], (4, 5))`.",
    ),
    "swapped arguments": (
        cross_entropy(IDS, LOGITS),
        f"{CE}: `labels` is float32 of shape (4, 3), expected integers of shape (), or real "
        "numbers of shape (4,). Exchanged, the first two arguments would fit: it takes (logits, "
        "labels), in this order.",
    ),
    "one boolean for all classes": (
        cross_entropy(LOGITS, IDS, mask=False),
        f"{CE}: `mask` is bool of shape (), expected booleans of shape (4, 3), or booleans of "
        "shape (3,) to fit `logits`. It is not broadcast: write `jnp.full((4, 3), mask)`.",
    ),
    "one number for all classes": (
        cross_entropy(LOGITS, IDS, class_weights=2.0),
        f"{CE}: `class_weights` has shape (), expected (3,) to fit `logits`. It is not broadcast: "
        "write `jnp.full((3,), class_weights)`.",
    ),
    "a number for each example": (
        huber(VALUES, VALUES, delta=VALUES + 1),
        f"{HUBER}: `delta` has shape (3,), expected () to fit `prediction`. It is one number for "
        "all examples: for one an example, use `jax.vmap`.",
    ),
    "an axis that is a flag": (
        cross_entropy(LOGITS, IDS, axis=True),
        f"{CE}: `axis` is True, but `logits` has shape (4, 3): give an integer from -2 to 1, or a "
        "tuple of such integers, each once.",
    ),
    "an array in place of a word": (
        huber(VALUES, VALUES, reduction=VALUES),
        f"{HUBER}: `reduction` is an array of shape (3,), expected one of 'none', 'mean', 'sum', "
        "'parts'.",
    ),
    "a blank that is no class": (
        lambda: jl.sequence.ctc(LOGITS, [1], blank=3),
        "jaxloss.sequence.ctc: `blank` is 3, expected a class id from 0 to 2 (classes = 3): the "
        "blank is a class of the logits. If it is the last one, write `blank=2`.",
    ),
    "no classes": (
        cross_entropy(zeros(4, 0), IDS),
        f"{CE}: `logits` has shape (4, 0), but its `classes` axis must not be empty.",
    ),
}


@pytest.mark.parametrize(("call", "message"), SHAPES.values(), ids=SHAPES)
def test_a_shape_that_does_not_fit(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared
        call()
    assert str(caught.value) == message


DTYPES = {
    "class ids that are floats": (
        cross_entropy(LOGITS, zeros(4)),
        f"{CE}: `labels` is float32 of shape (4,), expected integers of shape (4,), or real "
        "numbers of shape (4, 3) to fit `logits`. Write `labels.astype(int)` if that is what its "
        "numbers mean.",
    ),
    "a mask of floats": (
        huber(VALUES, VALUES, where=VALUES),
        f"{HUBER}: `where` is float32 of shape (3,), expected booleans of shape (3,) to fit "
        "`prediction`. Write `where.astype(bool)` if that is what its numbers mean.",
    ),
    "a number for a boolean": (
        huber(VALUES, VALUES, where=1.0),
        f"{HUBER}: `where` is float64 of shape (), expected booleans of shape (3,) to fit "
        "`prediction`. Write `jnp.asarray(where, bool)` if that is what its numbers mean.",
    ),
    "a list of integers for booleans": (
        huber(VALUES, VALUES, where=[1, 0, 1]),
        f"{HUBER}: `where` is int64 of shape (3,), expected booleans of shape (3,) to fit "
        "`prediction`. Write `jnp.asarray(where, bool)` if that is what its numbers mean.",
    ),
    "a number in quotes": (
        huber(VALUES, VALUES, delta="1.5"),
        f"{HUBER}: `delta` holds text or dates (<U3), expected numbers. Write `delta=1.5`.",
    ),
    "no number": (
        lambda: jl.contrastive.info_nce(LOGITS, LOGITS, temperature=None),
        "jaxloss.contrastive.info_nce: `temperature` is None, expected numbers: leave it out for "
        "its default, 0.1.",
    ),
    "text for a flag": (
        lambda: classification.hinge(VALUES, VALUES, zero_one_labels="no"),
        "jaxloss.classification.hinge: `zero_one_labels` is 'no', expected True or False.",
    ),
    "an integer for a flag": (
        lambda: classification.hinge(VALUES, VALUES, zero_one_labels=1),
        "jaxloss.classification.hinge: `zero_one_labels` is 1, expected True or False. Write "
        "`zero_one_labels=True`.",
    ),
    "an array for a flag": (
        lambda: classification.hinge(VALUES, VALUES, zero_one_labels=VALUES > 0),
        "jaxloss.classification.hinge: `zero_one_labels` is an array of shape (3,), expected True "
        "or False.",
    ),
    "a float for an integer": (
        lambda: jl.sequence.ctc(LOGITS, [1], blank=1.0),
        "jaxloss.sequence.ctc: `blank` is 1.0, expected an integer. Write `blank=1`.",
    ),
    "text for an integer or None": (
        lambda: jl.segmentation.dice(zeros(2, 4, 4, 3), zeros(2, 4, 4, 3), spatial_axes="2"),
        "jaxloss.segmentation.dice: `spatial_axes` is '2', expected an integer or None.",
    ),
    "complex numbers": (
        huber(VALUES + 1j, VALUES),
        f"{HUBER}: `prediction` is complex64 of shape (3,), expected real numbers of shape (3,). "
        "Write `jnp.abs(prediction)`, or give its real and imaginary parts.",
    ),
    "text": (
        huber("one", VALUES),
        f"{HUBER}: `prediction` holds text or dates (<U3), expected numbers.",
    ),
    "text in an array": (
        huber(np.array(["a", "b", "c"]), VALUES),
        f"{HUBER}: `prediction` holds text or dates (<U1), expected numbers.",
    ),
    "nothing": (
        huber(None, VALUES),
        f"{HUBER}: `prediction` is None, of which no array can be made. Give an array, a number, "
        "or a list of numbers.",
    ),
    "a dict": (
        huber({"prediction": 1.0}, VALUES),
        f"{HUBER}: `prediction` is a dict, of which no array can be made. Give an array, a number, "
        "or a list of numbers.",
    ),
    "a key": (
        lambda: regression.huber(jax.random.key(0), 1.0),
        f"{HUBER}: `prediction` is key<fry> of shape (), expected real numbers of shape (). A PRNG "
        "key is not a number.",
    ),
    "a masked array": (
        huber(np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False]), VALUES),
        f"{HUBER}: `prediction` is a masked array, whose mask would be lost. Write "
        "`prediction.filled(0)`, and `where=~numpy.ma.getmaskarray(prediction)`.",
    ),
    "a traced flag": (
        lambda: jax.jit(classification.hinge)(VALUES, VALUES, zero_one_labels=True),
        "jaxloss.classification.hinge: `zero_one_labels` is traced, but it changes the program, so "
        "that its value must be known. Under `jax.jit` write `static_argnames='zero_one_labels'`.",
    ),
    "a traced axis": (
        lambda: jax.jit(classification.softmax_cross_entropy)(LOGITS, IDS, axis=1),
        f"{CE}: `axis` is traced, but it changes the program. Under `jax.jit` write "
        "`static_argnames='axis'`.",
    ),
}


@pytest.mark.parametrize(("call", "message"), DTYPES.values(), ids=DTYPES)
def test_a_kind_of_argument_that_does_not_fit(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


# --- names --------------------------------------------------------------------------------------

NAMES = {
    "targets": (
        huber(VALUES, targets=VALUES),
        f"{HUBER}: it has no argument `targets`. Write `target`, which comes second. {HUBER_TAKES}",
    ),
    "the names of Keras": (
        huber(y_pred=VALUES, y_true=VALUES),
        f"{HUBER}: it has no argument `y_pred`. Write `prediction`, which comes first. "
        f"{HUBER_TAKES}",
    ),
    "sample_weight": (
        cross_entropy(LOGITS, IDS, sample_weight=1.0),
        f"{CE}: it has no argument `sample_weight`. Write `weights=`. {CE_TAKES}",
    ),
    "weight, of classes": (
        cross_entropy(LOGITS, IDS, weight=1.0),
        f"{CE}: it has no argument `weight`. Write `class_weights=`. {CE_TAKES}",
    ),
    "weight, of examples": (
        huber(VALUES, VALUES, weight=1.0),
        f"{HUBER}: it has no argument `weight`. Write `weights=`. {HUBER_TAKES}",
    ),
    "ignore_index": (
        cross_entropy(LOGITS, IDS, ignore_index=-100),
        f"{CE}: it has no argument `ignore_index`. Write `where=labels != -100`. {CE_TAKES}",
    ),
    "from_logits": (
        cross_entropy(LOGITS, IDS, from_logits=True),
        f"{CE}: it has no argument `from_logits`. Its first argument is `logits`: leave it out. "
        f"{CE_TAKES}",
    ),
    "from_logits, of probabilities": (
        lambda: classification.binary_cross_entropy(VALUES, VALUES, from_logits=True),
        "jaxloss.classification.binary_cross_entropy: it has no argument `from_logits`. "
        "`jaxloss.classification.sigmoid_cross_entropy` takes logits. It takes (probabilities, "
        "labels, *, where, weights, reduction).",
    ),
    "dim": (
        cross_entropy(LOGITS, IDS, dim=1),
        f"{CE}: it has no argument `dim`. Write `axis=`. {CE_TAKES}",
    ),
    "pos_weight, of several classes": (
        cross_entropy(LOGITS, IDS, pos_weight=2.0),
        f"{CE}: it has no argument `pos_weight`. Write `class_weights=`. {CE_TAKES}",
    ),
    "clip_eps": (
        lambda: jl.policy.clipped(VALUES, VALUES, VALUES, clip_eps=0.2),
        "jaxloss.policy.clipped: it has no argument `clip_eps`. Write `low=` and `high=`. It takes "
        "(log_prob, old_log_prob, advantage, *, low, high, dual_clip, where, weights, reduction).",
    ),
    "epsilon": (
        huber(VALUES, VALUES, epsilon=1e-7),
        f"{HUBER}: it has no argument `epsilon`. Nothing is clipped or shifted here: leave it out. "
        f"{HUBER_TAKES}",
    ),
    "mask": (
        huber(VALUES, VALUES, mask=True),
        f"{HUBER}: it has no argument `mask`. `where`, of the result's shape, leaves examples out. "
        f"{HUBER_TAKES}",
    ),
    "a slip": (
        huber(VALUES, VALUES, wieghts=None),
        f"{HUBER}: it has no argument `wieghts`. Did you mean `weights`? {HUBER_TAKES}",
    ),
    "something else": (
        huber(VALUES, VALUES, colour=None),
        f"{HUBER}: it has no argument `colour`. {HUBER_TAKES}",
    ),
    "an option by position": (
        huber(VALUES, VALUES, 2.0),
        f"{HUBER}: 3 positional arguments were given, but it takes 2. Options are given by name: "
        f"write `delta=2.0`. {HUBER_TAKES}",
    ),
    "twice": (
        huber(VALUES, VALUES, target=VALUES),
        f"{HUBER}: `target` is given by position and by name. {HUBER_TAKES}",
    ),
    "missing": (huber(VALUES), f"{HUBER}: missing `target`. {HUBER_TAKES}"),
    "nothing": (huber(), f"{HUBER}: missing `prediction` and `target`. {HUBER_TAKES}"),
}


@pytest.mark.parametrize(("call", "message"), NAMES.values(), ids=NAMES)
def test_a_name_that_is_not_an_argument(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given", "meant"),
    [("avg", "mean"), ("batchmean", "mean"), ("meen", "mean"), (None, "none"), ("total", "sum")],
)
def test_a_reduction_that_is_not_one(given, meant):
    expected = (
        f"{HUBER}: `reduction` is {given!r}, expected one of 'none', 'mean', 'sum', 'parts'. Did "
        f"you mean {meant!r}?"
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared
        regression.huber(VALUES, VALUES, reduction=given)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("module", "name", "path"),
    [
        (jl, "huber", "regression.huber"),
        (jl, "mse", "regression.squared_error"),
        (jl, "cross_entropy", "classification.softmax_cross_entropy"),
        (jl, "regresion", "regression"),
    ],
)
def test_a_name_that_is_elsewhere(module, name, path):
    expected = f"module {module.__name__!r} has no attribute {name!r}: write jaxloss.{path}."
    with pytest.raises(AttributeError) as caught:
        getattr(module, name)
    assert str(caught.value) == expected


def test_every_loss_in_the_table_of_names_exists():
    """Except in the direction of what is not there yet: a path is a loss, or a function."""
    paths = set(peer_names.LOSSES.values())
    known = {info.name for info in registry.all_losses()}
    assert paths <= known, sorted(paths - known)


# --- own losses ---------------------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch):
    """A loss of a user's, whose body returns what a function makes of its prediction."""
    registry.all_losses()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))

    def make(result):
        @jl.loss
        def charge(prediction, target):
            return result(prediction)

        return charge

    return make


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (
            lambda x: (x, x),
            TypeError,
            "charge: its result is a tuple, expected an array of shape (3,). Return one value an "
            "example.",
        ),
        (
            lambda x: None,
            TypeError,
            "charge: its result is None, expected an array of shape (3,). Does it end without "
            "`return`?",
        ),
        (
            lambda x: "done",
            TypeError,
            "charge: its result is a str, expected an array of shape (3,). Return one value an "
            "example.",
        ),
        (
            lambda x: x.sum(),
            ValueError,
            "charge: its result has shape (), expected (3,). Return one value an example; "
            "`reduction` takes the mean.",
        ),
        (
            lambda x: 0.0,
            ValueError,
            "charge: its result has shape (), expected (3,). Return one value an example; "
            "`reduction` takes the mean.",
        ),
        (
            lambda x: x * 1j,
            TypeError,
            "charge: its result is complex64, expected real numbers. If it is complex, return "
            "`jnp.abs` or `jnp.real` of it.",
        ),
    ],
    ids=["tuple", "None", "text", "scalar", "number", "complex"],
)
def test_a_result_that_is_no_loss(own, result, error, message):
    with pytest.raises(error) as caught:
        own(result)(VALUES, VALUES)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "result",
    [
        lambda x: x > -1,
        lambda x: jnp.ones(x.shape, int),
        lambda x: jnp.ones(x.shape, jnp.bfloat16),
        lambda x: np.ones(x.shape),
        lambda x: jnp.ones(x.shape, jnp.float16),
    ],
    ids=["bool", "int", "bfloat16", "numpy", "float16"],
)
@pytest.mark.parametrize("reduction", ["none", "mean", "parts"])
def test_a_result_of_another_dtype_becomes_that_of_the_loss(own, result, reduction):
    got = own(result)(VALUES, VALUES, reduction=reduction)
    for leaf in jax.tree.leaves(got):
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type
    assert np.all(jax.tree.leaves(got)[0] == (3 if reduction == "parts" else 1))


def test_a_number_is_the_loss_of_one_example(own):
    assert own(lambda x: 2)(1.0, 1.0) == 2.0


# --- tracebacks ---------------------------------------------------------------------------------


def test_an_error_under_jit_has_one_cause_and_few_lines():
    @jax.jit
    def step(prediction, target):
        return regression.huber(prediction, target, reduction="mean")

    try:
        step(VALUES, zeros(4))
    except ValueError as error:
        text = "".join(traceback.format_exception(error))
    assert "chex" not in text
    assert "another exception" not in text
    assert "direct cause" not in text
    assert len(text.splitlines()) <= 22, text
