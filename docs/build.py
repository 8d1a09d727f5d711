"""Builds the documentation: `make docs`, or `python docs/build.py`.

Written by hand: docs/*.md. From docstrings and signatures, by mkdocstrings with `runtime.py` beside
this file: a page for each loss and each module. From the catalogue and the notebooks, here: the
pages of the families, the guide, the notebooks, the navigation. A new loss appears by itself; a
public name without a docstring, or a link without a target, stops the build.
"""

import importlib
import importlib.util
import inspect
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import nbconvert
import nbformat
import numpy as np

import jaxloss as jl
from jaxloss._core import peer_names
from jaxloss.catalogue import LossInfo, _advice, _choose
from jaxloss.plot import _sections, _svg

ROOT = pathlib.Path(__file__).parents[1]
REPOSITORY = "https://github.com/jaxloss/jaxloss/blob/main"
EXTENSION, PICTURES = "runtime.py", "pictures"


class Page(NamedTuple):
    """A page of the site: its place in the navigation, its file, its text, and its pictures."""

    sections: tuple[str, ...]
    title: str
    path: str
    text: str
    pictures: dict[str, bytes] = {}  # noqa: RUF012  # of a NamedTuple, and never written to


# ── Losses: a page for each, and an index for each family ───────────────────────────────────────


def loss_pages() -> Iterator[Page]:
    """The index of all losses, then for each family its index and a page for each loss."""
    losses = [info for info in jl.catalogue.losses() if info.family]
    families = [
        (f, list(group)) for f, group in itertools.groupby(losses, lambda info: info.family)
    ]
    head = f"# All losses\n\n{len(losses)} losses in {len(families)} families.\n\n"
    listed = "\n\n".join(
        f"## [{heading(family)}]({family}/index.md)\n\n{title(family)}\n\n{tiles(group)}"
        for family, group in families
    )
    yield Page(("Losses",), "All losses", "losses/index.md", f"{head}{listed}\n")
    for family, group in families:
        place = ("Losses", heading(family))
        text = [f"# {heading(family)}", about(f"jaxloss.{family}"), grid(map(loss_cell, group))]
        text += helpers(family, {short(info) for info in group})
        yield Page(place, heading(family), f"losses/{family}/index.md", "\n\n".join(text))
        for info in group:
            page = f"losses/{family}/{short(info)}.md"
            yield Page(place, short(info), page, loss_page(info))


def helpers(family: str, losses: set[str]) -> list[str]:
    """The public names of a family that are not losses."""
    module = importlib.import_module(f"jaxloss.{family}")
    names = [name for name in public(module) if name not in losses]
    return [entry(f"jaxloss.{family}.{name}", getattr(module, name)) for name in names]


def loss_page(info: LossInfo) -> str:
    """The page of a loss, by mkdocstrings, under its name as it is written in code."""
    options = f"heading: jl.{info.name}\n      toc_label: {short(info)}"
    return f"::: jaxloss.{info.name}\n    options:\n      {options}\n"


def title(family: str) -> str:
    """The first line of the docstring of a family."""
    return documented(f"jaxloss.{family}").partition("\n")[0]


def heading(family: str) -> str:
    """The first words of that line."""
    return title(family).partition(":")[0].rstrip(".")


def short(info: LossInfo) -> str:
    """The name of a loss in its family."""
    return info.name.rpartition(".")[2]


def loss_cell(info: LossInfo) -> str:
    """A loss in the index of its family: name, picture and first line."""
    line = _sections.line(info)
    drawn = f"<div data-search-exclude>{_svg.picture(line)}</div>" if line else ""
    return f"#### [`{short(info)}`]({short(info)}.md)\n\n{drawn}\n\n{info.summary}"


def tiles(losses: Iterable[LossInfo], folder: str = "") -> str:
    """Small pictures of losses with their names, each a link to its page."""
    cells = []
    for info in losses:
        line = _sections.line(info)
        drawn = _svg.picture(line, 120, 60, labelled=False) if line else ""
        page = f"{folder}{info.family}/{short(info)}.html"
        name = short(info).replace("_", "_<wbr>")  # where it may be broken
        cells.append(f'<a class="tile" href="{page}">{drawn}<span>{name}</span></a>')
    return f'<div class="tiles" data-search-exclude>{"".join(cells)}</div>'


def first_of_families() -> list[LossInfo]:
    """Of each family the first loss that has a picture."""
    drawn = [i for i in jl.catalogue.losses() if i.family and _sections.line(i)]
    return list({info.family: info for info in reversed(drawn)}.values())[::-1]


def pictures() -> dict[str, str]:
    """For the page of each loss value and gradient along a line through its inputs."""
    found = {}
    for info in jl.catalogue.losses():
        line = _sections.line(info) if info.family else None
        if line is not None:
            drawn = _svg.picture(line, 420, 190)
            caption = f"{line.name}: value (solid) and gradient (dashed) over {line.variable}"
            inside = f"{drawn}<small>{caption}</small>"
            found[f"{info.name}.html"] = framed(inside)
    found["policy.gae.html"] = framed(weights_of_later_errors())
    return found


def framed(drawn: str) -> str:
    """A picture with its caption, as it is behind the formula."""
    return f'<div class="loss-picture" data-search-exclude>{drawn}</div>\n'


def weights_of_later_errors() -> str:
    """How much the error of each later step counts in an advantage, for three traces."""
    zero, traces = np.zeros(64, np.float32), {1.0: "", 0.95: "6 3", 0.8: "2 3"}

    def of_first(rewards: Any, trace: float) -> Any:
        return jl.policy.gae(rewards, zero, zero, trace=trace).advantage[0]

    def line(trace: float) -> _svg.Line:
        weights = np.asarray(jax.grad(of_first)(zero, trace))
        return _svg.Line(np.arange(64.0), weights, weights, f"trace {trace:g}", "steps")

    lines = [line(trace) for trace in traces]
    frame = _svg.Frame(lines, 420, 190)
    paths = "".join(
        f'<path class="value" d="{frame.path(each.x, each.value)}" stroke="{_svg.BLUE}" '
        f'fill="none" stroke-width="2" stroke-dasharray="{dash}"/>'
        for each, dash in zip(lines, traces.values(), strict=True)
    )
    caption = (
        "weight of the error of a step in the advantage, over its distance in steps: discount "
        "0.99, trace 1 (solid), 0.95 (dashed) and 0.8 (dotted)"
    )
    return (
        f'<svg viewBox="0 0 420 190" role="img" aria-label="{caption}">{frame.backdrop()}{paths}'
        f"</svg><small>{caption}</small>"
    )


def grid(cells: Iterable[str]) -> str:
    """Markdown in cells, as many in a row as fit."""
    inside = "".join(f'<div class="cell" markdown>\n\n{cell}\n\n</div>\n\n' for cell in cells)
    return f'<div class="grid-of-cells" markdown>\n\n{inside}</div>\n'


def about(module: str) -> str:
    """The docstring of a module, by mkdocstrings."""
    documented(module)
    return f"::: {module}\n    options:\n      members: []\n      show_root_heading: false"


def documented(name: str, thing: Any = None) -> str:
    """The docstring; without one there is no documentation to build."""
    text = inspect.getdoc(importlib.import_module(name) if thing is None else thing)
    if not text:
        raise SystemExit(f"docs: {name} has no docstring.")
    return text


# ── Modules around the losses ───────────────────────────────────────────────────────────────────


def module_pages() -> Iterator[Page]:
    """A page for the names of the package itself, and one for each module around the losses."""
    names = [name for name in jl.__all__ if name not in jl.FAMILIES]
    modules = {n: t for n in names if isinstance(t := getattr(jl, n), types.ModuleType)}
    top = [entry(f"jaxloss.{name}", getattr(jl, name)) for name in names if name not in modules]
    text = "\n\n".join(["# jaxloss", about("jaxloss"), *top])
    yield Page(("Reference",), "jaxloss", "reference/index.md", f"{text}\n")
    for name, module in modules.items():
        parts = [entry(f"jaxloss.{name}.{n}", getattr(module, n)) for n in public(module)]
        text = "\n\n".join([f"# jaxloss.{name}", about(f"jaxloss.{name}"), *parts])
        yield Page(("Reference",), f"jaxloss.{name}", f"reference/{name}.md", f"{text}\n")


def public(module: types.ModuleType) -> list[str]:
    """The public names of a module: those of `__all__`, else those defined in it."""

    def is_own(thing: Any) -> bool:
        own = getattr(thing, "__module__", "").startswith(module.__name__)
        return own and (callable(thing) or hasattr(thing, "meaning"))

    names = getattr(module, "__all__", None)
    return names or [n for n, thing in vars(module).items() if n[0] != "_" and is_own(thing)]


def entry(name: str, thing: Any) -> str:
    """One public name: what mkdocstrings makes of a function or class; of a value its meaning."""
    if inspect.isclass(thing) or inspect.isroutine(thing):
        documented(name, thing)
        return f"::: {name}\n    options:\n      heading_level: 2"
    meaning = getattr(thing, "meaning", f"A {type(thing).__name__}.").capitalize()
    return f"## {name.rpartition('.')[2]} {{ #{name} }}\n\n{meaning}"


# ── The guide, the notebooks, and what is only copied ───────────────────────────────────────────


def guide_page() -> Page:
    """How to choose a loss: the same lines, facts and pictures as `catalogue.choose`."""
    advice = _advice.load()
    terms = advice.conditions | advice.returns
    parts = [
        "# How to choose a loss",
        "Start at the task. The first loss of each task is the default; the others are for the "
        "conditions that are named below them. `jaxloss.catalogue.choose` gives the same answers:",
        '```python\njl.catalogue.choose(task="regression", outliers=True)\n```',
        "For missing targets use `where`, whatever the loss. Between two losses that both fit, "
        "decide on held-out data by a score that is neither of them: "
        "[`catalogue.compare`][jaxloss.catalogue.compare].",
        '??? note "Terms of the guide"\n\n'
        + "\n".join(f"    - `{name}`: {about}" for name, about in terms.items()),
    ]
    for task, group in itertools.groupby(_choose.guide(), lambda choice: choice.task):
        parts.append(f"## {task} {{ #{task} }}\n\nWhat is predicted: {advice.tasks[task]}.")
        parts.append(grid(map(choice_cell, group)))
    return Page((), "How to choose", "choosing.md", "\n\n".join(parts) + "\n")


def choice_cell(choice: _choose.Choice) -> str:
    """A line of the guide with the picture and the formula of its loss."""
    info = choice.info
    conditions = ", ".join(name.replace("_", " ") for name in choice.conditions)
    returned = _advice.load().returns[choice.returns]
    tags = f"{f'for: {conditions} · ' if conditions else ''}returns {returned}"
    tested = choice.facts or "no trait holds for every input"
    return (
        f"#### [`{info.name}`](losses/{info.family}/{short(info)}.md)\n\n"
        f"<div data-search-exclude>{choice.picture}</div>\n\n"
        f"$$\n{info.formula}\n$$\n\n{choice.advice}\n\n*But:* {choice.cost}\n\n"
        f'<p class="tags">{tags}<br>tested: {tested}</p>'
    )


def names_page() -> Page:
    """What losses of other libraries are called here."""
    by_loss: dict[str, list[str]] = {}
    for name, path in peer_names.LOSSES.items():
        by_loss.setdefault(path, []).append(f"`{name}`")
    rows = [(", ".join(names), path) for path, names in by_loss.items()]
    parts = [names_table(rows)]
    for title, entries in tomllib.loads((ROOT / "docs" / "names.toml").read_text()).items():
        present = [(name, path) for name, path in entries.items() if in_package(path)]
        if present:
            parts += [f"## {title}", names_table(present)]
    page = copied(ROOT / "docs" / "names.md", "names.md")
    return page._replace(text=page.text.replace("<!-- losses -->", "\n\n".join(parts)))


def in_package(path: str) -> bool:
    """Whether the family of a name is in the package; if it is, the name must be in it."""
    family, _, name = path.partition(".")
    if importlib.util.find_spec(f"jaxloss.{family}") is None:
        return False
    if not hasattr(importlib.import_module(f"jaxloss.{family}"), name):
        raise SystemExit(f"docs: docs/names.toml names jaxloss.{path}, which does not exist.")
    return True


def names_table(rows: list[tuple[str, str]]) -> str:
    """Names elsewhere, and links to what they are here."""
    lines = [f"| {names} | [`jl.{path}`][jaxloss.{path}] |" for names, path in rows]
    return "\n".join(["| elsewhere | in jaxloss |", "| --- | --- |", *lines])


def notebook_pages() -> Iterator[Page]:
    """An index of the executed notebooks, and a page for each; their pictures become files."""
    found, cells = [], []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = converted(path)
        name, first = re.match(r"# ([^\n]*)\n\n(.*?)\n\n", text, re.DOTALL).groups()
        shown = f"![A picture of the notebook]({next(iter(pictures))})" if pictures else ""
        cells.append(f"#### [{name}]({path.stem}.md)\n\n{shown}\n\n{first}")
        page = f"notebooks/{path.stem}.md"
        found.append(Page(("Notebooks",), name, page, relinked(text, path, page), pictures))
    intro = "# Notebooks\n\nEach asks one question of real data and asserts its conclusions.\n\n"
    yield Page(("Notebooks",), "All notebooks", "notebooks/index.md", intro + grid(cells))
    yield from found


def converted(path: pathlib.Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name of file."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        if "colab" in cell.metadata.get("tags", []):  # a link here, whose picture is elsewhere
            badge = cell.cell_type == "markdown"
            cell.source = re.sub(r"!\[(.*?)\]\(.*?\)", r"\1", cell.source) if badge else ""
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    exporter = nbconvert.MarkdownExporter()
    names = {"unique_key": path.stem, "output_files_dir": ""}
    text, resources = exporter.from_notebook_node(notebook, names)
    text = re.sub(r"<table.*?</table>", with_formulas, text, flags=re.DOTALL)
    return text.strip() + "\n", dict(resources["outputs"])


def with_formulas(table: re.Match[str]) -> str:
    """An HTML table in one line, whose formulas are marked as Markdown's are."""
    formula = r'<span class="arithmatex">\\(\1\\)</span>'
    return re.sub(r"\$(.+?)\$", formula, table[0].replace("\n", " "))


# The pages written by hand or by tools, in the order of the navigation.
SLIDER, VERSION, TILES = "<!-- slider -->", "<!-- version -->", "<!-- tiles -->"
BEGINNING = ("index.md", "tutorial.md")
COMING_FROM = re.findall(
    r"\(coming_from/([\w-]+)\.md\)", (ROOT / "docs" / "coming_from.md").read_text()
)
PRACTICE = (
    "frameworks.md",
    "replacements.md",
    "optax.md",
    "token_means.md",
    "meshes.md",
    "accelerators.md",
    "accuracy.md",
)


def copied(path: pathlib.Path, name: str, *sections: str, title: str = "") -> Page:
    """A page that is in the repository as it is shown."""
    text = path.read_text()
    title = title or re.search(r"^# (.*)", text, re.MULTILINE)[1]
    text = text.replace(VERSION, jl.__version__)
    if TILES in text:
        text = text.replace(TILES, tiles(first_of_families(), "losses/"))
    if SLIDER in text:
        over = {"alpha": np.linspace(-2.0, 2.0, 17)}
        text = text.replace(SLIDER, jl.plot.slider(jl.robust.barron, over, x=(-5.0, 5.0)).html)
    return Page(sections, title, name, relinked(text, path, name))


def relinked(text: str, source: pathlib.Path, name: str) -> str:
    """Links between files of the repository, made links of the site, or to the repository."""

    def link(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = (source.parent / path).resolve()
        if re.match(r"[a-z]+:|/", path) or not target.exists():
            return match[0]
        inside = target.relative_to(ROOT).as_posix()
        page = re.sub(r"^notebooks/(.*)\.(ipynb|py)$", r"notebooks/\1.md", inside)
        page = {"README.md": "index.md"}.get(page, page).removeprefix("docs/")
        if page == inside and not re.match(r"((benchmarks|notebooks)/)?[^/]*\.md$", page):
            return f"]({REPOSITORY}/{inside}{anchor})"
        page = page if inside.startswith("notebooks") else page.lower()
        return f"]({os.path.relpath(page, pathlib.PurePosixPath(name).parent)}{anchor})"

    return re.sub(r"\]\(([^()\s#]+)(#[^()\s]*)?\)", link, text)


def pages() -> Iterator[Page]:
    """The site in the order of its navigation."""
    docs = ROOT / "docs"
    for name in BEGINNING:
        yield copied(docs / name, name)
    yield guide_page()
    yield from loss_pages()
    yield from notebook_pages()
    yield copied(docs / "coming_from.md", "coming_from.md", "Coming from")
    for peer in COMING_FROM:
        name = f"coming_from/{peer}.md"
        yield copied(docs / name, name, "Coming from", title=peer)
    yield names_page()._replace(sections=("Coming from",))
    for name in PRACTICE:
        yield copied(docs / name, name, "Practice")
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        if len(path.suffixes) > 1:  # a part of another page, such as accelerators.head.md
            continue
        yield copied(path, f"benchmarks/{path.name.lower()}", "Benchmarks")
    yield from module_pages()
    yield copied(ROOT / "CONTRIBUTING.md", "contributing.md", "Project")
    yield copied(ROOT / "CHANGELOG.md", "changelog.md", "Project")


def navigation(listed: list[Page]) -> str:
    """The key `nav` of the configuration."""
    lines, above = ["nav:"], ()
    for page in listed:
        for depth, section in enumerate(page.sections):
            if page.sections[: depth + 1] != above[: depth + 1]:
                lines.append(f"{'    ' * depth}  - {json.dumps(section)}:")
        above = page.sections
        lines.append(f"{'    ' * len(above)}  - {json.dumps(page.title)}: {page.path}")
    return "\n".join(lines) + "\n"


def without_formulas(file: pathlib.Path) -> None:
    """Takes LaTeX out of the index of the search, which shows it as it is."""
    index = json.loads(file.read_text())
    for item in index["items"]:
        item["text"] = re.sub(r"\\\[.*?\\\]|\\\(.*?\\\)", "", item["text"], flags=re.DOTALL)
    file.write_text(json.dumps(index))


def for_models(listed: list[Page]) -> dict[str, str]:
    """The files llms.txt, a list of the pages, and llms-full.txt, their text."""
    parts = [f"# jaxloss\n\n> {documented('jaxloss').partition(chr(10))[0]}"]
    for section, group in itertools.groupby(listed, lambda page: (*page.sections, "Start")[0]):
        lines = [f"- [{p.title}]({p.path.removesuffix('.md')}.html)" for p in group]
        parts.append(f"## {section}\n\n" + "\n".join(lines))
    full = "\n\n".join(re.sub(r"<svg.*?</svg>", "", page.text, flags=re.DOTALL) for page in listed)
    full = re.sub(r"^::: (\S+)\n(?: {4}.*\n?)*", in_full, full, flags=re.MULTILINE)
    return {"llms.txt": "\n\n".join(parts) + "\n", "llms-full.txt": full}


def in_full(directive: re.Match[str]) -> str:
    """Signature and docstring in place of what mkdocstrings would show."""
    module, _, name = directive[1].rpartition(".")
    thing = getattr(importlib.import_module(module), name) if module else jl
    text = documented(directive[1], thing)
    if not inspect.isroutine(thing):
        return f"`{directive[1]}`\n\n{text}\n"
    return f"```python\n{directive[1]}{inspect.signature(thing)}\n```\n\n{text}\n"


def main(target: pathlib.Path = ROOT / "build") -> None:
    """Writes the sources of the site to `target/docs` and builds it to `target/site`."""
    shutil.rmtree(target, ignore_errors=True)
    for folder in ("katex", "assets", "images"):
        shutil.copytree(ROOT / "docs" / folder, target / "docs" / folder)
    shutil.copy(ROOT / "docs" / EXTENSION, target)
    (target / PICTURES).mkdir()
    for name, text in pictures().items():
        (target / PICTURES / name).write_text(text)
    listed = list(pages())
    for page in listed:
        file = target / "docs" / page.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page.text)
        for name, picture in page.pictures.items():
            (file.parent / name).write_bytes(picture)
    (target / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text() + navigation(listed))
    builder = pathlib.Path(sys.executable).with_name("zensical")
    command = [str(builder), "build", "--strict", "--clean", "--config-file", "mkdocs.yml"]
    if subprocess.run(command, cwd=target).returncode:
        raise SystemExit("docs: the strict build failed; the first lines above say where.")
    without_formulas(target / "site" / "search.json")
    for name, text in for_models(listed).items():
        (target / "site" / name).write_text(text)
    print(f"docs: {len(listed)} pages in {target / 'site'}")


if __name__ == "__main__":
    main()
