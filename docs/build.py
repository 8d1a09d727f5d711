"""Builds the documentation: `make docs`, or `python docs/build.py`.

What is written by hand stands in docs/*.md. Everything that can be known from the package is
generated here from the catalogue, docstrings and signatures: the guide, a page a shelf, a page a
module, the notebooks. Nothing is listed by hand, so that a new loss appears by itself; a public
name without a docstring, or a link that leads nowhere, stops the build.
"""

import base64
import importlib
import inspect
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import jaxloss as jl
from jaxloss.catalogue import LossInfo, _advice, _choose
from jaxloss.plot import _sections, _svg

ROOT = pathlib.Path(__file__).parents[1]
REPOSITORY = "https://github.com/jaxloss/jaxloss/blob/main"
SECTIONS = ("Args", "Attributes", "Yields", "Returns", "Raises", "Example", "References")


class Page(NamedTuple):
    """A page of the site: its place in the navigation, its file, its text, and its pictures."""

    section: str
    title: str
    path: str
    text: str
    pictures: dict[str, bytes] = {}  # noqa: RUF012  # of a NamedTuple, and never written to


# ── Docstrings ──────────────────────────────────────────────────────────────────────────────────


def sections(text: str) -> dict[str, str]:
    """A Google docstring, cut at its headings; what comes first has the key ""."""
    found, name = {"": []}, ""
    for line in text.splitlines():
        heading = re.fullmatch(r"(\w+):", line)
        if heading and heading[1] in SECTIONS:
            name = heading[1]
            found[name] = []
        else:
            found[name].append(line)
    return {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in found.items()}


def entries(text: str) -> list[tuple[str, str]]:
    """The entries of a section such as Args: names, and what is said about them."""
    found = re.findall(r"^(\S[^:\n]*): (.*(?:\n(?:[ ].*|))*)", text, re.MULTILINE)
    return [(name, " ".join(about.split())) for name, about in found]


def markdown(text: str) -> str:
    """A docstring as Markdown: the text, then a list, an example or a paragraph a section."""
    parts = []
    for name, body in sections(text).items():
        if name == "":
            parts.append(body)
            continue
        heading = f"**{'Arguments' if name == 'Args' else name}**"
        if name == "Example":
            parts.append(f"{heading}\n\n```pycon\n{body}\n```")
        elif name in ("Args", "Attributes", "Raises"):
            listed = "\n".join(f"- `{entry}`: {about}" for entry, about in entries(body))
            parts.append(f"{heading}\n\n{listed}")
        elif name == "References":
            works = "\n".join(f"- {' '.join(work.split())}" for work in works_of(body))
            parts.append(f"{heading}\n\n{works}")
        else:
            parts.append(f"{heading}\n\n{body}")
    return "\n\n".join(parts)


def works_of(body: str) -> list[str]:
    """The works of a section References: each ends in a year or a full stop at a line's end."""
    works = [""]
    for line in body.splitlines():
        works[-1] = f"{works[-1]} {line.strip()}".strip()
        if line.endswith("."):
            works.append("")
    return [work for work in works if work]


def signature(name: str, thing: Any) -> str:
    """How a function is called, an argument a line, as a block of code."""
    try:
        spec = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    lines, keyword_only = [], False
    for parameter in spec.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            lines.append("*")
        lines.append(str(parameter.replace(annotation=annotation(parameter))))
    result = spec.return_annotation
    arrow = "" if result is spec.empty or result is None else f" -> {shown(result)}"
    inside = "".join(f"\n    {line}," for line in lines)
    return f"```python\n{name}({inside}{chr(10) if lines else ''}){arrow}\n```\n"


def annotation(parameter: inspect.Parameter) -> Any:
    """The annotation of a parameter in a form that prints as one would write it."""
    if parameter.annotation is parameter.empty:
        return parameter.empty
    return type("_", (), {"__repr__": lambda self: shown(parameter.annotation)})()


def shown(hint: Any) -> str:
    """An annotation as one would write it."""
    text = hint if isinstance(hint, str) else inspect.formatannotation(hint)
    return re.sub(
        r"\b(?:typing|collections\.abc|jaxloss(?:\.\w+)*|jax(?:lib)?\.\w+)\.", "", str(text)
    )


# ── Shelves ─────────────────────────────────────────────────────────────────────────────────────


def shelf_pages() -> Iterator[Page]:
    """One page a shelf: its law, then every loss in teaching order."""
    losses = [info for info in jl.catalogue.losses() if info.family]
    rows = []
    for family, group in itertools.groupby(losses, lambda info: info.family):
        listed = list(group)
        module = importlib.import_module(f"jaxloss.{family}")
        title, _, law = documented(module, family).partition("\n")
        heading = title.partition(":")[0].rstrip(".")
        body = "\n\n".join(loss(info, losses) for info in listed)
        text = f"# {heading}\n\n{title}\n\n{linked(law.strip(), listed, family)}\n\n{body}\n"
        rows.append((family, heading, title, listed))
        yield Page("Losses", heading, f"losses/{family}.md", text)
    table = "\n\n".join(
        f"## [{heading}]({family}.md)\n\n{title}\n\n"
        + ", ".join(f"[`{short(c)}`]({family}.md#{short(c)})" for c in listed)
        for family, heading, title, listed in rows
    )
    head = f"# All losses\n\n{len(losses)} losses on {len(rows)} shelves, and one convention.\n\n"
    yield Page("Losses", "All losses", "losses/index.md", head + table + "\n")


def short(info: LossInfo) -> str:
    """The name of a loss on its shelf."""
    return info.name.rpartition(".")[2]


def loss(info: LossInfo, losses: list[LossInfo]) -> str:
    """The entry of one loss."""
    about, heading, rest = documented(info.function, info.name).partition("\n\nArgs:")
    facts = " · ".join(
        f'<abbr title="{trait.meaning}">{trait.name.replace("_", " ")}</abbr>'
        for trait in sorted(info.traits)
    )
    tested = f'<p class="facts">Tested on drawn inputs: {facts}</p>' if facts else ""
    return "\n\n".join(
        [
            f"## {short(info)} {{ #{short(info)} }}",
            linked(about, losses, info.family),
            picture(info),
            signature(f"jaxloss.{info.name}", info.function),
            linked(markdown((heading + rest).strip()), losses, info.family),
            tested,
        ]
    )


def picture(info: LossInfo) -> str:
    """Value and gradient of a loss along a telling line."""
    line = _sections.line(info)
    if line is None:
        return ""
    drawn = _svg.picture(line, 420, 190)
    caption = f"{line.name}: value (solid) and gradient (dashed) over {line.variable}"
    return f'<div class="loss-picture">{drawn}<small>{caption}</small></div>'


def linked(text: str, losses: list[LossInfo], family: str) -> str:
    """Names of losses in backticks lead to them; code blocks stay as they are."""
    places = {info.name: info for info in losses}
    places |= {short(info): info for info in losses if info.family == family}

    def link(match: re.Match[str]) -> str:
        info = places.get(match[1].removeprefix("jaxloss."))
        return f"[`{match[1]}`]({info.family}.md#{short(info)})" if info else match[0]

    pieces = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    return "".join(
        p if p.startswith("```") else re.sub(r"(?<!\[)`([\w.]+)`", link, p) for p in pieces
    )


# ── Modules around the losses ───────────────────────────────────────────────────────────────────


def documented(thing: Any, name: str) -> str:
    """The docstring; without one there is no documentation to build."""
    text = inspect.getdoc(thing)
    if not text:
        raise SystemExit(f"docs: {name} has no docstring.")
    return text


def public(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """The public names of a module: those of `__all__`, else those defined in it."""
    names = getattr(module, "__all__", None)
    for name in names or vars(module):
        thing = getattr(module, name)
        own = getattr(thing, "__module__", "").startswith(module.__name__)
        shown = callable(thing) or hasattr(thing, "meaning")  # a trait or a domain says its own
        if names or (not name.startswith("_") and shown and own):
            yield name, thing


def module_pages() -> Iterator[Page]:
    """One page for each module around the losses, and one for the names of the package itself."""
    top = []
    for name in jl.__all__:
        thing = getattr(jl, name)
        if name in jl.FAMILIES:
            continue
        if isinstance(thing, types.ModuleType):
            parts = [entry(f"jaxloss.{name}.{n}", t) for n, t in public(thing)]
            text = f"# jaxloss.{name}\n\n{documented(thing, name)}\n\n" + "\n\n".join(parts)
            yield Page("Reference", f"jaxloss.{name}", f"reference/{name}.md", text)
        else:
            top.append(entry(f"jaxloss.{name}", thing))
    text = f"# jaxloss\n\n{documented(jl, 'jaxloss')}\n\n" + "\n\n".join(top)
    yield Page("Reference", "jaxloss", "reference/index.md", text)


def entry(name: str, thing: Any) -> str:
    """One public name: a function, a class with its methods, or a value."""
    head = f"## {name.rpartition('.')[2]} {{ #{name} }}"
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return f"{head}\n\n{getattr(thing, 'meaning', f'A {type(thing).__name__}.').capitalize()}"
    parts = [head]
    if inspect.isroutine(thing) or "__init__" in vars(thing):
        parts.append(signature(name, thing))
    parts.append(markdown(documented(thing, name)))
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if member.startswith("_") or not isinstance(value, property | types.FunctionType):
                continue
            parts.append(f"### {member} {{ #{name}.{member} }}")
            if inspect.isfunction(value):
                parts.append(signature(member, value))
            parts.append(markdown(documented(value, f"{name}.{member}")))
    return "\n\n".join(parts)


# ── The guide, the notebooks, and what is only copied ───────────────────────────────────────────


def guide_page() -> Page:
    """How to choose a loss: the same lines, facts and pictures as `catalogue.choose`."""
    advice = _advice.load()
    words = [f"`{n}`: {about}" for n, about in (advice.conditions | advice.returns).items()]
    parts = [
        "# How to choose a loss",
        "Start at the task. The first card of each is the one to begin with; the others are for "
        "when something is the matter. `jaxloss.catalogue.choose` gives the same answers:",
        '```python\njl.catalogue.choose(task="regression", outliers=True)\n```',
        "Whatever the task, targets that are missing are a matter of `where`, not of the loss. "
        "And when two losses seem right, let data decide by a score that is neither: "
        "[`catalogue.compare`](reference/catalogue.md#jaxloss.catalogue.compare).",
        '??? note "The words of the guide"\n\n' + "\n".join(f"    - {word}" for word in words),
    ]
    for task, group in itertools.groupby(_choose.guide(), lambda choice: choice.task):
        parts.append(f"## {task} {{ #{task} }}\n\nWhat is predicted: {advice.tasks[task]}.")
        parts.append(f'<div class="choices" markdown>\n\n{"".join(map(choice_card, group))}</div>')
    return Page("", "How to choose", "choosing.md", "\n\n".join(parts) + "\n")


def choice_card(choice: _choose.Choice) -> str:
    """A line of the guide with the picture and the formula of its loss."""
    info = choice.info
    conditions = ", ".join(name.replace("_", " ") for name in choice.conditions)
    returns = f"returns {_advice.load().returns[choice.returns]}"
    tags = f"for {conditions} · {returns}" if conditions else returns
    tested = choice.facts or "no trait holds for every input"
    return (
        f'<div class="choice" markdown>\n\n'
        f"#### [`{info.name}`](losses/{info.family}.md#{short(info)})\n\n"
        f"{choice.picture}\n\n$$\n{info.formula}\n$$\n\n{choice.advice}\n\n*But:* {choice.cost}\n\n"
        f'<p class="tags">{tags}<br>tested: {tested}</p>\n\n'
        f"</div>\n\n"
    )


def notebook_pages() -> Iterator[Page]:
    """The executed notebooks as pages; their pictures become files."""
    rows = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        parts: list[str] = []
        pictures: dict[str, bytes] = {}
        for cell in cells:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(source)
                continue
            parts.append(f"```python\n{source}\n```")
            parts += [output(o, path.stem, pictures) for o in cell["outputs"]]
        title = re.match(r"# (.*)", parts[0])[1]
        rows.append(f"- [{title}]({path.stem}.md)")
        text = relinked("\n\n".join(parts) + "\n", path, f"notebooks/{path.stem}.md")
        yield Page("Notebooks", title, f"notebooks/{path.stem}.md", text, pictures)
    intro = "# Notebooks\n\nEach asks one question of real data, and asserts what it concludes.\n\n"
    yield Page("Notebooks", "All notebooks", "notebooks/index.md", intro + "\n".join(rows) + "\n")


def output(cell: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> str:
    """One output of a cell: a picture, which is added to `pictures`, a table, or text."""
    data = cell.get("data", {})
    if "image/png" in data:
        name = f"{stem}_{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![What the cell above draws]({name})"
    if "text/html" in data:
        table = re.sub(r"\$(.+?)\$", MATHEMATICS, "".join(data["text/html"]).replace("\n", " "))
        return f'<div class="output">{table}</div>'
    if cell.get("name") == "stderr":
        return ""
    text = "".join(cell.get("text", data.get("text/plain", ""))).rstrip()
    return f'<div class="output" markdown>\n\n```text\n{text}\n```\n\n</div>'


MATHEMATICS = r'<span class="arithmatex">\(\1\)</span>'
# The pages written by hand or by other scripts, in the order of the navigation.
SLIDER = "<!-- slider -->"
BEGINNING = ("index.md", "tutorial.md")
PRACTICE = ("coming_from.md", "optax.md", "meshes.md", "accuracy.md")


def copied(path: pathlib.Path, section: str, name: str) -> Page:
    """A page that stands in the repository as it is."""
    text = path.read_text()
    title = re.search(r"^# (.*)", text, re.MULTILINE)[1]
    if SLIDER in text:
        over = {"alpha": np.linspace(-2.0, 2.0, 17)}
        text = text.replace(SLIDER, jl.plot.slider(jl.robust.barron, over, x=(-5.0, 5.0)).html)
    return Page(section, title, name, relinked(text, path, name))


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
    for name in BEGINNING:
        yield copied(ROOT / "docs" / name, "", name)
    yield guide_page()
    *families, overview = shelf_pages()
    yield from (overview, *families)
    *notebooks, overview = notebook_pages()
    yield from (overview, *notebooks)
    for name in PRACTICE:
        if (ROOT / "docs" / name).exists():
            yield copied(ROOT / "docs" / name, "Practice", name)
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        yield copied(path, "Benchmarks", f"benchmarks/{path.name.lower()}")
    *modules, overview = module_pages()
    yield from (overview, *modules)
    yield copied(ROOT / "CONTRIBUTING.md", "Project", "contributing.md")
    yield copied(ROOT / "CHANGELOG.md", "Project", "changelog.md")


def navigation(listed: list[Page]) -> str:
    """The key `nav` of the configuration."""
    lines = ["nav:"]
    for section, group in itertools.groupby(listed, lambda page: page.section):
        indent = "  "
        if section:
            lines.append(f"  - {section}:")
            indent = "      "
        lines += [f"{indent}- {json.dumps(page.title)}: {page.path}" for page in group]
    return "\n".join(lines) + "\n"


def main(target: pathlib.Path = ROOT / "build") -> None:
    """Writes the sources of the site to `target/docs` and builds it to `target/site`."""
    shutil.rmtree(target, ignore_errors=True)
    for folder in ("katex", "assets", "images"):
        shutil.copytree(ROOT / "docs" / folder, target / "docs" / folder)
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
    print(f"docs: {len(listed)} pages in {target / 'site'}")


if __name__ == "__main__":
    main()
