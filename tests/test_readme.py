"""The README is true: its snippets run in order, its comments are results, its table is current.

Run as a script it writes the table of losses anew.
"""

import importlib
import itertools
import pathlib
import re

import cases
import jax.numpy as jnp
import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"
TABLE = re.compile(r"(<!-- losses: .*? -->\n).*?(<!-- /losses -->)", re.DOTALL)


def table():
    """A row a shelf: what it is for, in the first line of its module, and its losses."""
    lines = ["| shelf | losses |", "| --- | --- |"]
    for shelf, cards in itertools.groupby(cases.losses(), lambda card: card.shelf):
        purpose = importlib.import_module(f"jaxloss.{shelf}").__doc__.partition("\n")[0]
        names = ", ".join(f"`{card.function.__name__}`" for card in cards)
        lines.append(f"| **{purpose.partition(':')[0]}**, `jl.{shelf}` | {names} |")
    return "\n".join(lines)


def test_snippets_run_in_order(capsys, monkeypatch):
    import jaxloss as jl

    jl.catalogue.cards()  # loads the shelves, which register once
    monkeypatch.setattr(jl.catalogue, "_registry", dict(jl.catalogue._registry))
    names = {"__name__": "readme"}
    for snippet in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "{'fit': '2.303', 'z': '0.000'}" in printed
    assert "must be class ids from 0 to classes - 1 (classes = 10), got 10" in printed


def test_results_in_comments_are_results(monkeypatch):
    import jaxloss as jl

    jl.catalogue.cards()  # loads the shelves, which register once
    monkeypatch.setattr(jl.catalogue, "_registry", dict(jl.catalogue._registry))
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
    README.write_text(text)
