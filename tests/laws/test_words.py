"""The catalogue: rows, names, docstrings, signatures."""

import importlib
import inspect
import pathlib
import re

import cases
import pytest

import jaxloss as jl
import laws
from laws import LAWS, law


@law()
def test_every_loss_has_a_row(info):
    assert info.name in cases.rows(), f"tests/cases/{info.family}.py has no {info.name}"


@law()
def test_every_loss_can_be_reached(info):
    module = importlib.import_module(f"jaxloss.{info.family}")
    name = info.name.removeprefix(f"{info.family}.")
    assert getattr(module, name, None) is info.function
    assert name in module.__all__


@law()
def test_docstring_is_complete(info):
    text = inspect.getdoc(info.function)
    first, _, rest = text.partition("\n\n")
    assert "\n" not in first, "the first line is one line"
    assert first.endswith("."), "the first line is a sentence"
    assert re.match(r"When to use: \S", rest), "the second paragraph begins `When to use:`"
    assert "$$" in rest, "the equation is missing"
    sections = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert sections == ["Args", "Returns", "Raises", "Example", "References"]
    arguments = text.split("\nArgs:")[1].split("\nReturns:")[0]
    described = re.findall(r"^    (\w+): ", arguments, re.MULTILINE)
    assert described == list(info.signature.parameters), "Args names each parameter, in order"
    example = text.split("\nExample:")[1].split("\nReferences:")[0]
    assert 1 <= example.count(">>>") + example.count("...") <= 4


@law()
def test_signature_shows_every_argument(info):
    parameters = inspect.signature(info.function).parameters
    assert {"where", "weights", "reduction"} <= set(parameters)
    for name in info.data:
        assert parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    for name in (*info.options, "where", "weights", "reduction"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert "ArrayLike" in str(inspect.signature(info.function))


def test_every_row_has_a_loss():
    assert set(cases.rows()) <= {info.name for info in cases.losses()}


def test_every_trait_has_a_check():
    from harness import traits

    assert set(traits.CHECKS) == set(jl.traits.all_traits())


def test_everything_public_in_a_family_is_a_loss_or_a_helper():
    filed = {info.function for info in cases.losses()}
    for family in sorted({info.family for info in cases.losses()}):
        module = importlib.import_module(f"jaxloss.{family}")
        public = {
            name: value
            for name, value in vars(module).items()
            if inspect.isfunction(value)
            and value.__module__.startswith(module.__name__)
            and not name.startswith("_")
        }
        loose = [name for name, value in public.items() if value not in filed]
        assert sorted(loose) == sorted(getattr(module, "HELPERS", [])), (
            f"{family}: {loose} are public but no losses: put @loss before them, "
            f"or name them in HELPERS of the module"
        )


def test_the_laws_of_a_loss_are_asked_in_one_worker(request):
    """So that its program is compiled once: pytest-xdist reads the group behind an @."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("one process asks all")
    assert "@" in request.node.nodeid, "pytest-xdist does not know the groups of this pytest"


def test_the_laws_listed_are_the_laws_tested():
    found = set()
    for path in pathlib.Path(laws.__file__).parent.glob("test_*.py"):
        found |= set(
            re.findall(r"^@law\(.*\)\n(?:@.*\n)*def test_(\w+)\(", path.read_text(), re.MULTILINE)
        )
    assert found == set(LAWS)
