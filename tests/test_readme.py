"""The README is true: its snippets run in order, its comments are results, its table is current.

Run as a script it writes the table of losses anew.
"""

import importlib
import inspect
import itertools
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import cases
import jax.numpy as jnp
import numpy as np
import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"
TABLE = re.compile(r"(<!-- losses: .*? -->\n).*?(<!-- /losses -->)", re.DOTALL)


def table():
    """A row a shelf: what it is for, in the first line of its module, and its losses."""
    lines = ["| shelf | losses |", "| --- | --- |"]
    for family, losses in itertools.groupby(cases.losses(), lambda info: info.family):
        purpose = importlib.import_module(f"jaxloss.{family}").__doc__.partition("\n")[0]
        names = ", ".join(f"`{info.function.__name__}`" for info in losses)
        lines.append(f"| **{purpose.partition(':')[0]}**, `jl.{family}` | {names} |")
    return "\n".join(lines)


def counted():
    """What the second table says of each package, counted from the package itself."""
    import optax

    ours = cases.losses()
    theirs = [
        function
        for name, function in vars(optax.losses).items()
        if inspect.isfunction(function) and not name.startswith("_")
    ]
    functions = [[info.function for info in ours], theirs]

    def taking(word):
        return [sum(word in inspect.signature(f).parameters for f in group) for group in functions]

    def complete(function, formula):
        text = inspect.getdoc(function) or ""
        return all(re.search(part, text) for part in (formula, ">>>", "References"))

    parts = [sum("parts" in str(inspect.signature(f)) for f in group) for group in functions]
    whole = [
        sum(complete(f, formula) for f in group)
        for group, formula in zip(functions, (r"\$\$", r"math::|:math:|\$"), strict=True)
    ]
    return {
        "losses, or functions in `optax.losses`": [len(group) for group in functions],
        "take a mask, `where`": taking("where"),
        "take `weights`": taking("weights"),
        "give their mean undivided, to be added exactly": parts,
        "have formula, runnable example and reference": whole,
        "traits that are tested on drawn inputs": [sum(len(info.traits) for info in ours), 0],
    }


def row(name, values):
    return f"| {name} | {' | '.join(map(str, values))} |"


def test_counts_are_current():
    import optax

    text = README.read_text()
    if f"optax {optax.__version__} |" not in text:
        pytest.skip(f"the table is about another optax than the installed {optax.__version__}")
    for name, values in counted().items():
        assert row(name, values) in text, "run `make readme`"


def test_picture_is_one_file_that_needs_nothing_else():
    (path,) = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text())
    picture = ElementTree.fromstring((README.parent / path).read_text())
    assert picture.attrib["role"] == "img"
    assert len(picture.findall("{*}svg")) > 90
    assert {element.tag.partition("}")[2] for element in picture.iter()} <= {
        "svg",
        "title",
        "path",
        "text",
    }


def test_snippets_run_in_order(capsys, monkeypatch):
    import jaxloss as jl

    jl.catalogue.losses()  # loads the shelves, which register once
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    names = {"__name__": "readme"}
    for snippet in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "{'fit': '2.303', 'z': '0.000'}" in printed
    assert "must be class ids from 0 to classes - 1 (classes = 10), got 10" in printed


def test_results_in_comments_are_results(monkeypatch):
    import jaxloss as jl

    jl.catalogue.losses()  # loads the shelves, which register once
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    names, compared = {"__name__": "readme"}, 0
    for snippet in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
        for code, result in re.findall(
            r"^(\w[^#\n]*\)(?:\.dtype)?) +# (.*)$", snippet, re.MULTILINE
        ):
            if code.startswith("print"):
                continue
            value, told = eval(code, names), result.partition(":")[0]
            if told == "float32":
                assert value == jnp.float32
            else:
                expected = eval(told, {"nan": np.nan})
                np.testing.assert_allclose(value, expected, rtol=2e-3)
            compared += 1
    assert compared >= 7


def test_table_of_losses_is_current():
    written = TABLE.search(README.read_text()).group(0)
    assert table() in written, "run `make readme`"


if __name__ == "__main__":
    text = TABLE.sub(
        lambda found: f"{found.group(1)}{table()}\n{found.group(2)}", README.read_text()
    )
    for name, values in counted().items():
        text = re.sub(rf"^\| {re.escape(name)} \|.*$", row(name, values), text, flags=re.MULTILINE)
    README.write_text(text)
