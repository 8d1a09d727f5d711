"""Losses in Keras, in the three boosting libraries, in scikit-learn and SciPy, trained by each."""

import functools
import importlib
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

import jaxloss as jl
from jaxloss import integrations

needs = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None,
        reason=f"{name} is not installed: `make integrations` installs it",
    )
    for name in ("keras", "xgboost", "lightgbm", "catboost")
}
# CatBoost compiles Python objectives with it where it can.
without_numba = pytest.mark.filterwarnings("ignore:Failed to import numba")


@functools.cache
def diabetes():
    """442 patients: ten measurements, and the progress of their disease in units of 100."""
    x, y = map(np.asarray, load_diabetes(return_X_y=True))
    return x.astype(np.float32), (y / 100).astype(np.float32)


@jl.loss
def quartic(prediction, target):
    """A user's own loss; its second derivative is 12 (p - t)**2."""
    return (prediction - target) ** 4


# --- derivatives -----------------------------------------------------------------------------------


def test_derivatives_of_a_users_loss_are_exact():
    p, t, w = np.array([[0, 1, 3], [1, 1, 1], [1, 2, 0.5]], np.float32)
    got = integrations.boosting(quartic).derivatives(p, t, w)
    np.testing.assert_allclose(got.gradient, w * 4 * (p - t) ** 3)
    np.testing.assert_allclose(got.curvature, w * np.maximum(12 * (p - t) ** 2, 1e-6))


@pytest.mark.slow
def test_with_classes_the_curvature_is_the_diagonal_of_the_hessian():
    logits = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    labels = np.arange(7) % 3
    loss = functools.partial(jl.classification.softmax_cross_entropy, label_smoothing=0.1)
    got = integrations.boosting(
        jl.classification.softmax_cross_entropy, label_smoothing=0.1
    ).derivatives(logits, labels.astype(np.float64))
    hessians = jax.vmap(jax.hessian(loss))(logits, labels)
    np.testing.assert_allclose(got.gradient, jax.vmap(jax.grad(loss))(logits, labels), rtol=1e-5)
    diagonal = np.diagonal(hessians, axis1=1, axis2=2)
    np.testing.assert_allclose(got.curvature, diagonal, rtol=1e-5)


def test_where_the_loss_is_not_convex_the_curvature_has_a_floor():
    objective = integrations.boosting(jl.robust.welsch, floor=0.01)
    _, curvature = objective.sklearn([0.0, 0.0], [0.0, 3.0])
    assert curvature[0] > 0.5
    assert curvature[1] == np.float32(0.01)


def test_a_piecewise_linear_loss_has_a_constant_curvature():
    _, curvature = integrations.boosting(jl.regression.pinball, level=0.9).sklearn([0, 1], [1, 0])
    np.testing.assert_array_equal(curvature, [1, 1])


def test_objectives_are_compiled_once(count_compilations):
    objective = integrations.boosting(jl.regression.huber)
    x = np.arange(3, dtype=np.float32)
    objective.sklearn(x, x + 1)
    with count_compilations() as compiled:
        objective.sklearn(x, x + 2, x + 1)
    assert not compiled


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (jnp.square, {}, "expected a loss such as"),
        (
            jl.regression.huber,
            {"epsilon": 1.0},
            "regression.huber has no option `epsilon`; .*delta",
        ),
        (jl.regression.huber, {"weights": 1.0}, "`weights` is given by the other library"),
        (jl.nll.gaussian, {}, "nll.gaussian takes mean, "),
        (jl.contrastive.info_nce, {}, "compares the examples of a whole batch"),
    ],
)
def test_what_is_no_loss_of_two_arguments_is_refused(loss, options, message):
    with pytest.raises(TypeError, match=message):
        integrations.boosting(loss, **options)


def test_a_class_axis_needs_several_outputs():
    objective = integrations.boosting(jl.classification.softmax_cross_entropy)
    with pytest.raises(ValueError, match="class axis, but the model has one output"):
        objective.sklearn([0, 1], [0.0, 1.0])


@pytest.mark.parametrize(
    ("make", "module"), [("keras", "keras"), ("scorer", "sklearn.metrics")], ids=str
)
def test_a_library_that_is_not_installed_is_named(monkeypatch, make, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=f"integrations.{make} needs .*pip install"):
        getattr(integrations, make)(jl.regression.huber)


@pytest.mark.slow
def test_no_other_library_is_imported_before_it_is_used():
    code = (
        "import sys, jaxloss; jaxloss.integrations.boosting(jaxloss.regression.huber);"
        "print([m for m in ('keras', 'xgboost', 'lightgbm', 'catboost', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- XGBoost, LightGBM, CatBoost -------------------------------------------------------------------


@needs["xgboost"]
def test_xgboost_trains_as_with_its_own_objective():
    xgboost = importlib.import_module("xgboost")

    x, y = diabetes()
    weights = np.linspace(0.5, 2, len(y))
    data = xgboost.DMatrix(x, y, weight=weights)
    objective = integrations.boosting(jl.regression.squared_error)
    # Ours is the square of the error, theirs half of it: the Newton step is the same.
    words = {"max_depth": 3, "eta": 0.3, "base_score": 0.0, "lambda": 0.0, "min_child_weight": 0}
    words |= {"seed": 0, "nthread": 1}
    theirs = xgboost.train(words | {"objective": "reg:squarederror"}, data, 20)
    history = {}
    ours = xgboost.train(
        words,
        data,
        20,
        obj=objective.dataset,
        custom_metric=objective.xgboost_metric,
        evals=[(data, "train")],
        evals_result=history,
        verbose_eval=False,
    )
    np.testing.assert_allclose(ours.predict(data), theirs.predict(data), rtol=1e-3, atol=1e-3)
    got = history["train"]["regression.squared_error"][-1]
    np.testing.assert_allclose(got, objective.mean(ours.predict(data), y, weights), rtol=1e-4)


@needs["xgboost"]
def test_xgboost_trains_classes():
    xgboost = importlib.import_module("xgboost")

    x, y = load_iris(return_X_y=True)
    objective = integrations.boosting(jl.classification.softmax_cross_entropy)
    data = xgboost.DMatrix(x, y)
    words = {"num_class": 3, "base_score": 0.0, "max_depth": 2, "nthread": 1}
    model = xgboost.train(words, data, 20, obj=objective.dataset)
    logits = model.predict(data, output_margin=True)
    assert np.mean(np.argmax(logits, axis=-1) == y) > 0.97


@needs["lightgbm"]
def test_lightgbm_trains_intervals_with_coverage():
    lightgbm = importlib.import_module("lightgbm")

    generator = np.random.default_rng(0)
    x = generator.uniform(size=(2000, 1))
    y = generator.exponential(size=2000) * (1 + x[:, 0])
    predictions = {}
    for level in (0.1, 0.9):
        objective = integrations.boosting(jl.regression.pinball, level=level)
        model = lightgbm.LGBMRegressor(
            objective=objective.sklearn, n_estimators=300, learning_rate=0.2, num_leaves=4, n_jobs=1,
            verbose=-1,
        )  # fmt: skip
        predictions[level] = model.fit(x, y).predict(x)
    inside = np.mean((predictions[0.1] <= y) & (y <= predictions[0.9]))
    assert 0.76 < inside < 0.84


@needs["lightgbm"]
def test_lightgbm_trains_as_with_its_own_objective():
    lightgbm = importlib.import_module("lightgbm")

    x, y = load_breast_cancer(return_X_y=True)
    data = lightgbm.Dataset(x, y, free_raw_data=False)
    objective = integrations.boosting(jl.classification.sigmoid_cross_entropy)
    words = {"num_leaves": 7, "verbose": -1, "num_threads": 1, "boost_from_average": False}
    theirs = lightgbm.train(words | {"objective": "binary"}, data, 15)
    history = {}
    ours = lightgbm.train(
        words | {"objective": objective.dataset},
        data,
        15,
        valid_sets=[data],
        feval=objective.lightgbm_metric,
        callbacks=[lightgbm.record_evaluation(history)],
    )
    raw = theirs.predict(x, raw_score=True)
    np.testing.assert_allclose(ours.predict(x), raw, rtol=2e-3, atol=2e-3)
    got = history["training"]["classification.sigmoid_cross_entropy"][-1]
    np.testing.assert_allclose(got, objective.mean(ours.predict(x), y), rtol=1e-4)


@needs["lightgbm"]
def test_focal_loss_on_few_positives_ranks_them_first():
    lightgbm = importlib.import_module("lightgbm")

    generator = np.random.default_rng(1)
    x = generator.normal(size=(4000, 5))
    y = (x[:, 0] + x[:, 1] + 0.5 * generator.normal(size=4000) > 3.2).astype(float)
    assert 0 < np.mean(y) < 0.03
    objective = integrations.boosting(jl.classification.sigmoid_focal, gamma=2.0)
    model = lightgbm.LGBMRegressor(
        objective=objective.sklearn, n_estimators=60, num_leaves=7, n_jobs=1, verbose=-1
    )
    scores = model.fit(x[:3000], y[:3000]).predict(x[3000:])
    order = np.argsort(-scores)
    positives = int(np.sum(y[3000:]))
    assert np.mean(y[3000:][order[:positives]]) > 0.5


@needs["catboost"]
@without_numba
def test_catboost_trains_as_with_its_own_objective():
    catboost = importlib.import_module("catboost")

    x, y = diabetes()
    objective = integrations.boosting(jl.regression.squared_error).catboost
    words = {"iterations": 15, "depth": 3, "learning_rate": 0.3, "boost_from_average": False}
    words |= {"leaf_estimation_iterations": 1, "leaf_estimation_method": "Newton", "verbose": 0}
    words |= {"random_seed": 0, "thread_count": 1, "bootstrap_type": "No", "l2_leaf_reg": 0}
    words |= {"allow_writing_files": False, "random_strength": 0}
    theirs = catboost.CatBoostRegressor(**words, loss_function="RMSE").fit(x, y)
    ours = catboost.CatBoostRegressor(**words, loss_function=objective, eval_metric=objective).fit(
        x, y
    )
    spread = np.std(y)
    assert np.max(np.abs(ours.predict(x) - theirs.predict(x))) < 0.05 * spread
    assert np.mean((ours.predict(x) - y) ** 2) < 0.6 * spread**2


@needs["catboost"]
@without_numba
def test_catboost_trains_classes():
    catboost = importlib.import_module("catboost")

    x, y = load_iris(return_X_y=True)
    objective = integrations.boosting(jl.classification.softmax_cross_entropy).catboost
    model = catboost.CatBoostClassifier(
        iterations=10, depth=2, learning_rate=0.5, loss_function=objective, eval_metric="MultiClass",
        classes_count=3, verbose=0, thread_count=1, random_seed=0, allow_writing_files=False,
    )  # fmt: skip
    logits = model.fit(x, y).predict(x, prediction_type="RawFormulaVal")
    assert np.mean(np.argmax(logits, axis=-1) == y) > 0.9


# --- scikit-learn and SciPy ------------------------------------------------------------------------


def test_scores_are_minus_the_weighted_mean():
    from sklearn.linear_model import LinearRegression

    x, y = diabetes()
    weights = np.linspace(0, 1, len(y))
    model = LinearRegression().fit(x, y)
    score = integrations.scorer(jl.regression.huber, delta=0.5)
    got = score(model, x, y, sample_weight=weights)
    expected = jl.regression.huber(
        model.predict(x), y, delta=0.5, weights=weights, reduction="mean"
    )
    np.testing.assert_allclose(got, -expected, rtol=1e-6)


@pytest.mark.slow
def test_scores_of_classes_and_probabilities():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GridSearchCV

    x, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(x, y)
    score = integrations.scorer(
        jl.classification.categorical_cross_entropy, response="predict_proba"
    )
    np.testing.assert_allclose(score(model, x, y), -log_loss(y, model.predict_proba(x)), rtol=1e-5)
    search = GridSearchCV(model, {"C": [1e-4, 1.0]}, scoring=score, cv=3).fit(x, y)
    assert search.best_params_ == {"C": 1.0}


@pytest.mark.slow
def test_scipy_minimizes_in_float64_whatever_jax_is_set_to():
    from scipy.optimize import minimize

    x, y = (v.astype(np.float64) for v in diabetes())

    def loss(parameters, penalty):
        fit = x @ parameters["weight"] + parameters["bias"]
        mean = jl.regression.squared_error(fit, y, reduction="parts")
        return mean.value + penalty * jnp.sum(parameters["weight"] ** 2)

    start = {"weight": np.zeros(10, np.float32), "bias": 0.0}
    objective = integrations.scipy(loss, start)
    result = minimize(
        objective, objective.start, args=(1e-3,), jac=True, hessp=objective.hessp,
        method="trust-ncg", options={"gtol": 1e-12},
    )  # fmt: skip
    centred = x - np.mean(x, axis=0)
    solved = np.linalg.solve(
        centred.T @ centred + 1e-3 * len(y) * np.eye(10), centred.T @ (y - np.mean(y))
    )
    found = objective.tree(result.x)
    assert result.x.dtype == np.float64
    np.testing.assert_allclose(found["weight"], solved, rtol=1e-7)
    assert jnp.asarray(0.5).dtype == np.float32


def test_scipy_wants_one_number():
    objective = integrations.scipy(lambda x: jl.regression.huber(x, 0.0), np.zeros(3))
    with pytest.raises(
        ValueError, match=r'shape \(3,\), expected one number: give reduction="mean"'
    ):
        objective(objective.start)


# --- Keras -----------------------------------------------------------------------------------------

KERAS = """
import os
os.environ["KERAS_BACKEND"] = "jax"
import keras, numpy as np, jaxloss as jl
keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)
"""


def run_keras(code):
    """A process of its own: Keras reads its backend when it is imported."""
    environment = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": ""}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERAS + code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@needs["keras"]
def test_keras_has_the_numbers_of_its_own_losses():
    run_keras("""
def close(ours, theirs, y, p, **words):
    for reduction in ("sum_over_batch_size", "sum", "mean_with_sample_weight", None):
        ours.reduction = theirs.reduction = reduction
        np.testing.assert_allclose(ours(y, p, **words), theirs(y, p, **words), rtol=2e-5, atol=1e-6)
integrate = jl.integrations.keras
y, p = generator.normal(size=(2, 8, 3)).astype("float32")
for words in ({}, {"sample_weight": generator.uniform(size=8)}):
    close(integrate(jl.regression.huber, delta=0.7), keras.losses.Huber(0.7), y, p, **words)
    close(integrate(jl.regression.squared_error), keras.losses.MeanSquaredError(), y, p, **words)
    labels = generator.integers(0, 3, 8)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ours = integrate(jl.classification.softmax_cross_entropy)
    for form in (labels, labels[:, None], labels.astype("float32")):
        close(ours, sparse, form, p, **words)
    dense = keras.losses.CategoricalCrossentropy(from_logits=True)
    close(ours, dense, np.eye(3)[labels], p, **words)
    flat, column = (labels > 0).astype("float32"), p[:, :1]
    binary = keras.losses.BinaryCrossentropy(from_logits=True)
    close(integrate(jl.classification.sigmoid_cross_entropy), binary, flat[:, None], column, **words)
    ours, theirs = integrate(jl.classification.sigmoid_cross_entropy), type(binary)(from_logits=True)
    np.testing.assert_allclose(ours(flat, column), theirs(flat, column), rtol=1e-5)
""")


@needs["keras"]
def test_keras_fits_saves_and_loads_a_model(tmp_path):
    path = str(tmp_path / "model.keras")
    out = run_keras(f"""
x = generator.normal(size=(256, 4)).astype("float32")
y = x @ np.float32([1, -2, 0.5, 0]) + 0.1 * generator.standard_t(1.5, size=256).astype("float32")
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("adam", loss=jl.integrations.keras(jl.robust.welsch, scale=1.0))
model.optimizer.learning_rate = 0.05
history = model.fit(x, y, sample_weight=np.ones(256), epochs=60, batch_size=64, verbose=0).history
np.testing.assert_allclose(model.layers[0].kernel[:, 0], [1, -2, 0.5, 0], atol=0.1)
assert history["loss"][-1] < 0.2 * history["loss"][0]
model.save({path!r})
""")
    out = run_keras(f"""
model = keras.models.load_model({path!r}, custom_objects=jl.integrations.keras_objects())
print(model.loss.get_config()["loss"], model.loss.get_config()["options"], model.loss.name)
""")
    assert out.split() == ["robust.welsch", "{'scale':", "1.0}", "welsch"]


@needs["keras"]
def test_keras_masks_whatever_the_prediction_holds_and_mixes_precision():
    run_keras("""
keras.config.set_dtype_policy("mixed_bfloat16")
tokens = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
model = keras.Sequential([
    keras.Input((4,)), keras.layers.Embedding(4, 8, mask_zero=True), keras.layers.Dense(4)])
model.compile("sgd", loss=jl.integrations.keras(jl.classification.softmax_cross_entropy))
assert np.isfinite(model.fit(tokens, tokens, verbose=0).history["loss"][0])

loss = jl.integrations.keras(jl.classification.softmax_cross_entropy)
import jax.numpy as jnp
from keras.src import backend
logits = jnp.asarray(generator.normal(size=(2, 4, 4)), "float32")
bad = logits.at[0, 2:].set(jnp.nan)
backend.set_keras_mask(bad, jnp.asarray(tokens != 0))
expected = jl.classification.softmax_cross_entropy(logits, tokens, where=tokens != 0, reduction="mean")
np.testing.assert_allclose(loss(tokens, bad), expected, rtol=1e-6)
""")


@needs["keras"]
def test_keras_on_another_backend_is_refused(monkeypatch):
    keras = importlib.import_module("keras")

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="runs on 'torch', expected 'jax'"):
        integrations.keras(jl.regression.huber)
