"""The check of words finds what may not be used, and nothing else."""

import pytest

from tools import words


@pytest.mark.parametrize(
    "text",
    [
        "The surprise of a label.",
        "x = softmax_surprise(logits)",
        "Take it when errors are normal.",
        "Every example pulls with the same force.",
        "A shelf of losses.",
        "Several cards",
        "what the model says",
        "`e` stands for the error",
        "The function is told the axis.",
        "jl.likelihood.gaussian",
        "regression.quantile(x)",
    ],
)
def test_finds_words_that_may_not_be_used(text):
    (found, *_) = words.find(f"fine\n{text}\n")
    assert found.line == 2
    assert found.instead


@pytest.mark.parametrize(
    "text",
    [
        "Before a pull request, read the standard.",
        "I understand: it is a stand-in, standalone.",
        "regression.quantiles, discard, cardinality, doors, remind, costs",
        "tweedie_half_deviance and nll.gaussian",
    ],
)
def test_leaves_other_words(text):
    assert not list(words.find(text))


def test_reads_code_prose_and_data():
    names = {path.relative_to(words.ROOT).as_posix() for path in words.files()}
    read = {"README.md", "jaxloss/regression.py", "docs/tutorial.md", "notebooks/01_quickstart.py"}
    assert read | {"tests/peers/torch.toml", ".ci/run"} <= names
