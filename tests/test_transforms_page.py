"""The page `docs/optax.md`: its snippets run in order, and the names in it exist."""

import inspect
import pathlib
import re

import pytest

import jaxloss as jl
from jaxloss import aggregators, gradients, transforms

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "optax.md"

FUNCTIONS = [
    function
    for module in (aggregators, gradients, transforms, jl.penalties)
    for name in getattr(module, "__all__", dir(module))
    if inspect.isfunction(function := getattr(module, name))
    and name[0] != "_"
    and function.__module__.startswith(module.__name__)
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_docstrings_have_every_part(function):
    text = inspect.getdoc(function)
    missing = [part for part in ("Args:", "Returns:", "Example:", "$$") if part not in text]
    assert not missing, f"{function.__name__}: write {missing}"
    assert len(text.splitlines()[0]) <= 100
    advised = text.splitlines()[2].startswith("When to use: ")
    assert advised or function.__name__ in gradients.__all__, "the second paragraph is the advice"
    described = [p for p in inspect.signature(function).parameters.values() if p.kind < 4]
    for parameter in described:
        assert f"{parameter.name}:" in text, f"{function.__name__}: describe `{parameter.name}`"


@pytest.mark.slow
def test_snippets_run_in_order():
    names = {"__name__": "page"}
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) >= 9
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert names["value"].dtype == "float32"
    assert (names["kept"]["w"] == names["params"]["w"]).all()
    assert names["statistics"]["mean"] == 2
    assert names["cosines"].shape == (2, 2)
    assert set(names["mean_of_clipped"]) == {"w", "b"}


def test_names_in_backticks_exist():
    known = {
        *jl.__all__, *aggregators.__all__, *gradients.__all__, *transforms.__all__,
        *dir(jl.penalties),
    }  # fmt: skip
    modules = re.findall(r"\b(gradients|transforms|aggregators|penalties)\.(\w+)", PAGE.read_text())
    for module, name in modules:
        assert hasattr(getattr(jl, module), name), f"{module}.{name}"
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE.read_text(), re.MULTILINE)
    assert {name.strip("`") for row in rows for name in row.split(", ")} <= known
