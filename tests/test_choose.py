"""Advice is compared with facts: traits, which are tested, and minimisers, which are computed."""

import html.parser
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl
from jaxloss.catalogue import _advice, _choose, _compare, choose, compare

GUIDE, ADVICE = _choose.guide(), _advice.load()
each = pytest.mark.parametrize("choice", GUIDE, ids=lambda c: f"{c.task}-{c.info.name}")


def names(choices):
    return [choice.info.name for choice in choices]


@each
def test_entries_use_the_words_of_the_advice(choice):
    assert choice.task in ADVICE.tasks
    assert set(choice.conditions) <= ADVICE.conditions.keys()
    assert choice.returns in ADVICE.returns
    for sentence in (choice.advice, choice.cost):
        assert sentence[0].isupper()
        assert sentence.endswith(".")


# Where a trait that must hold for every option is too much to ask, and which option it takes.
ONLY_WITH = {
    ("outliers", "robust.barron"): "alpha at most 1",
    ("wrong_labels", "classification.sigmoid_cross_entropy"): "label_smoothing, as the advice says",
}


@each
def test_advice_agrees_with_the_traits(choice):
    traits = {trait.name for trait in choice.info.traits}
    for condition in {"outliers", "wrong_labels"} & set(choice.conditions):
        if (condition, choice.info.name) not in ONLY_WITH:
            assert traits & {"bounded", "bounded_gradient"}, "nothing bounds what an error can do"
    if "calibration" in choice.conditions and choice.returns == "probabilities":
        assert "proper" in traits
    if choice.cost.startswith("Not convex") or "not convex" in choice.cost:
        assert "convex" not in traits
    elif "convex" in choice.advice:
        assert "convex" in traits
    if choice.cost.startswith("Not proper"):
        assert "proper" not in traits
    if choice.returns in ("mean", "median") and choice.task == "regression":
        assert "bounded" not in traits


def test_without_advice_of_its_own_an_entry_has_that_of_the_docstring():
    (choice,) = [c for c in GUIDE if c.info.name == "preference.simpo"]
    assert choice.advice == choice.info.when[0].upper() + choice.info.when[1:]
    assert len({c.advice for c in GUIDE}) == len(GUIDE)


def test_every_task_has_a_start_and_every_condition_an_answer():
    for task in ADVICE.tasks:
        assert choose(task=task)[0].conditions in ((), ("calibration",))
    answered = {condition for choice in GUIDE for condition in choice.conditions}
    assert answered | {"missing_targets"} == ADVICE.conditions.keys()
    assert {choice.returns for choice in GUIDE} == ADVICE.returns.keys()
    assert _choose.Conditions.__annotations__.keys() == ADVICE.conditions.keys()
    # A guide chooses: about half of the losses stand in it.
    assert 0.4 <= len(GUIDE) / len(jl.catalogue.losses()) <= 0.8


@pytest.mark.slow
def test_minimisers_are_as_stated():
    """Each `returns` of a regression, against the minimiser found on a skewed sample."""
    sample = np.random.default_rng(0).gamma(1.5, 1.0, 4001).astype(np.float32)
    observed, grid = jnp.asarray(sample), jnp.linspace(0.0, 6.0, 6001)

    def minimiser(loss):
        def cost(guess):
            return jnp.mean(loss(jnp.full(observed.shape, guess), observed))

        return float(grid[jnp.argmin(jax.lax.map(cost, grid))])

    truth = {
        "regression.squared_error": sample.mean(),
        "regression.absolute_error": np.median(sample),
        "regression.squared_log_error": np.expm1(np.log1p(sample).mean()),
        "nll.poisson": np.log(sample.mean()),
        "nll.tweedie_deviance": sample.mean(),
    }
    losses = {choice.info.name: choice.info for choice in choose(task="regression")}
    for name, expected in truth.items():
        assert minimiser(losses[name].function) == pytest.approx(float(expected), abs=4e-3), name
    at_three_quarters = minimiser(lambda p, t: jl.regression.pinball(p, t, level=0.75))
    assert at_three_quarters == pytest.approx(float(np.quantile(sample, 0.75)), abs=4e-3)


@pytest.mark.slow
def test_focal_losses_draw_probabilities_together():
    logits = jnp.linspace(-4, 4, 801)

    def best(focal, truth):
        cost = truth * focal(logits, jnp.ones(801)) + (1 - truth) * focal(logits, jnp.zeros(801))
        return float(jax.nn.sigmoid(logits[jnp.argmin(cost)]))

    assert 0.5 < best(jl.classification.sigmoid_focal, 0.8) < 0.75
    assert best(jl.classification.sigmoid_cross_entropy, 0.8) == pytest.approx(0.8, abs=2e-3)


def test_choose_narrows_by_task_condition_and_return():
    assert names(choose(task="regression", outliers=True))[:2] == [
        "regression.huber",
        "regression.absolute_error",
    ]
    assert names(choose(task="multiclass", imbalance=True, returns="probabilities")) == [
        "classification.logit_adjusted"
    ]
    assert names(choose(asymmetric_cost=True, returns="quantile")) == ["regression.pinball"]
    assert len(choose()) == len(GUIDE)
    assert choose(task="binary", outliers=False) == choose(task="binary")


def test_losses_for_more_conditions_come_first():
    found = choose(task="segmentation", imbalance=True, asymmetric_cost=True)
    assert names(found) == [
        "segmentation.tversky",
        "segmentation.dice",
        "segmentation.generalized_dice",
    ]


def test_missing_targets_are_left_out_with_where():
    for task in ADVICE.tasks:
        (only,) = choose(task=task, missing_targets=True)
        assert "`where`" in only.advice
        assert only.info == choose(task=task)[0].info


def test_the_table_of_losses_shows_what_each_is_and_when_to_use_it():
    huber = jl.catalogue.of(jl.regression.huber)
    assert huber.when
    for text in (jl.catalogue.losses().markdown(), jl.catalogue.losses()._repr_html_()):
        assert huber.summary in text
        assert huber.when in text
    assert huber in jl.catalogue.find(text=huber.when)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"task": "classification"}, ValueError, "no task 'classification', only regression, bin"),
        ({"task": "rankin"}, ValueError, "Did you mean 'ranking'"),
        ({"returns": "average"}, ValueError, "no returns 'average', only mean, centre"),
        ({"outlier": True}, TypeError, "no argument 'outlier'.*missing_targets.*mean 'outliers'"),
        ({"task": "ranking", "calibration": True}, ValueError, "advice about missing_targets, o"),
        ({"task": "binary", "returns": "mean"}, ValueError, "`returns` may be left out"),
    ],
)
def test_a_wrong_word_lists_the_right_ones(words, error, message):
    with pytest.raises(error, match=message):
        choose(**words)


class Tags(html.parser.HTMLParser):
    """How often each tag is opened; that each is closed is asserted."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_choices_render_with_formula_picture_advice_and_cost():
    found = choose(task="regression", asymmetric_cost=True)
    text = found._repr_html_()
    tags = Tags(text)
    assert tags.seen.count("tr") == 1 + len(found)
    assert tags.seen.count("svg") == len(found)
    assert "tau" in text
    assert "zero at match" in text
    assert repr(found).splitlines()[0] == "regression.pinball"
    assert repr(found).count("But: ") == 2


@pytest.mark.slow
def test_choosing_needs_no_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import jaxloss as jl\n"
        "print(jl.catalogue.choose(task='binary')._repr_html_().count('<svg'))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert int(printed) == len(choose(task="binary"))


def fit_constant(loss, inputs, targets):
    """The best constant on a grid."""
    grid = jnp.linspace(-5.0, 15.0, 2001)
    costs = jax.vmap(lambda guess: jnp.mean(loss(jnp.full(targets.shape, guess), targets)))(grid)
    return lambda unseen: np.full(len(unseen), grid[jnp.argmin(costs)])


@pytest.fixture(scope="module")
def skewed():
    generator = np.random.default_rng(1)
    targets = generator.normal(size=100).astype(np.float32)
    targets[generator.random(100) < 0.1] += 30
    return np.zeros((100, 2)), targets


def test_compare_uses_the_same_folds_and_scores(skewed):
    targets = skewed[1]
    losses = {"squared": jl.regression.squared_error, "absolute": jl.regression.absolute_error}
    scores = {
        "mean": lambda p, t: np.abs(p - t).mean(),
        "typical": lambda p, t: np.median(np.abs(p - t)),
    }
    table = compare(losses, fit_constant, skewed, folds=10, scores=scores, progress=False)
    parts = np.array_split(np.random.default_rng(0).permutation(100), 10)
    expected = []
    for part in parts:
        rest = np.delete(targets, part)
        median = np.median(rest)
        expected.append(np.abs(targets[part] - median).mean())
    np.testing.assert_allclose(table["absolute"]["mean"].folds, expected, atol=0.02)
    typical = table["absolute"]["typical"]
    assert typical.behind + typical.margin < 0
    assert (table["squared"]["mean"].behind, table["squared"]["mean"].margin) == (0, 0)


def test_interval_is_that_of_nadeau_and_bengio():
    values, baseline = np.array([1.0, 2.0, 4.0]), np.array([0.5, 1.0, 1.5])
    score = _compare._summary(values, baseline)
    differences = np.array([0.5, 1.0, 2.5])
    assert score.behind == pytest.approx(differences.mean())
    # 4.302653 is the 97.5 % quantile of Student's t with 2 degrees of freedom.
    expected = 4.302653 * np.sqrt((1 / 3 + 1 / 2) * differences.var(ddof=1))
    assert score.margin == pytest.approx(expected, rel=1e-6)


def test_comparison_is_a_table(skewed):
    losses = [jl.regression.squared_error, jl.regression.huber]
    scores = {"worst": lambda p, t: np.abs(p - t).max()}
    table = compare(losses, fit_constant, skewed, folds=4, scores=scores)
    head, first, second = str(table).splitlines()
    assert head.split() == ["loss", "worst", "more", "than", "squared_error"]
    assert first.split()[0] == "squared_error"
    assert first.endswith("-")
    assert " to " in second
    assert Tags(table._repr_html_()).seen.count("tr") == 3
    assert table.markdown().count("\n") == 3


@pytest.mark.slow
def test_a_nan_score_is_shown(skewed):
    table = compare(
        {"first": jl.regression.huber, "broken": jl.regression.huber},
        fit_constant,
        skewed,
        folds=3,
        progress=False,
        scores={"score": lambda p, t: np.nan},
    )
    assert str(table).count("nan") == 3


@pytest.mark.parametrize(
    ("data", "folds", "message"),
    [
        ((np.ones(4), np.ones(5)), 2, r"leaves of \[4, 5\] rows"),
        ((np.ones(4), np.ones(4)), 5, "`folds` is 5, expected 2 to 4"),
        ((np.ones(4), np.ones(4)), 1, "`folds` is 1"),
    ],
)
def test_data_that_cannot_be_cut(data, folds, message):
    with pytest.raises(ValueError, match=message):
        compare([jl.regression.huber], fit_constant, data, folds=folds)
