"""The documentation is complete, its snippets run, and its site needs nothing from outside.

The site is built once, in the slow tier, and then looked at twice: as text, and by a browser if one
is installed, which reports what it requested, what it could not render, and what is too wide.
"""

import functools
import html.parser
import http.server
import importlib.util
import inspect
import json
import pathlib
import queue
import re
import shutil
import subprocess
import threading

import cases
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import jaxloss as jl
from jaxloss._core import registry
from tools import accuracy

matplotlib.use("Agg")
ROOT = pathlib.Path(__file__).parents[1]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def load(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build():
    pytest.importorskip("nbconvert", reason="the site needs the group docs")
    return load("build")


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("griffe", reason="the site needs the group docs")
    return load("runtime")


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    pytest.importorskip("zensical", reason="the site needs the group docs")
    target = tmp_path_factory.mktemp("docs") / "build"
    build.main(target)
    return target / "site"


# An expression and, two spaces on, its result.
COMMENTED = re.compile(r"^( *[\w\[(][^=\n]*?(?:\([^#\n]*)?[)\]\w])  # (.+)$", re.MULTILINE)


def snippets(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)


PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_lists_and_code_are_read_as_such(page):
    """Python-Markdown reads what belongs to a list item where it is indented by four spaces."""
    markdown = pytest.importorskip("markdown", reason="the site needs the group docs")
    extensions = ["attr_list", "md_in_html", "tables", "pymdownx.superfences"]
    html = markdown.markdown(page.read_text(), extensions=extensions)
    source = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    tables = re.findall(r"^ *\|(?: *:?-+:? *\|)+ *$", source, re.MULTILINE)
    assert html.count("<table>") == len(tables)
    paragraphs = re.findall(r"<p>.*?</p>", html, re.DOTALL)
    unread = [p for p in paragraphs if re.search(r"\n *(?:[-*] \S|\|)|```", p)]
    assert not unread


def matches(value, comment):
    """Whether a value is the one in a comment, in which dots replace what is left out."""
    try:
        expected = eval(comment, {"nan": np.nan})
    except SyntaxError:
        return all(part in str(value) for part in comment.split("..."))
    if isinstance(expected, str):
        return value == expected
    np.testing.assert_allclose(jnp.asarray(value), expected, rtol=2e-3)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index.md", "tutorial.md", "token_means.md"])
def test_snippets_run_and_their_comments_are_results(name, monkeypatch, capsys):
    jl.catalogue.losses()  # imports the families, which register once
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    names, compared = {"__name__": name}, 0
    for snippet in snippets(name):
        exec(compile(snippet, name, "exec"), names)
        printed = capsys.readouterr().out
        for code, comment in COMMENTED.findall(snippet):
            if code.strip().startswith("print"):
                assert all(part.strip() in printed for part in comment.split("...")), comment
            else:
                assert matches(eval(code, names), comment), code
            compared += 1
    plt.close("all")
    assert compared >= (0 if name == "index.md" else 10)


def test_sections_of_docstrings_become_those_of_the_reference(runtime):
    text = """Title.

When to use: always.

Example:
    >>> 1 + 1
    2

References:
    A, *One*,
    long, 1999.
    B, 2000."""
    expected = """Title.

**When to use:** always.

Examples:
    >>> 1 + 1
    2

**References**

- A, *One*, long, 1999.
- B, 2000.

"""
    assert runtime.sections(text) == expected


def test_a_doctest_outside_a_section_is_an_example(runtime):
    text = "Title.\n\n>>> [1.0]\n[1.0]\n\nMore."
    assert runtime.sections(text) == "Title.\n\nExamples:\n    >>> [1.0]\n    [1.0]\n\nMore."


def test_signatures_are_those_of_run_time(runtime):
    spec = inspect.signature(jl.regression.huber)
    shown = {name: runtime.parameter(p) for name, p in spec.parameters.items()}
    assert list(shown) == ["prediction", "target", "delta", "where", "weights", "reduction"]
    assert str(shown["prediction"].annotation) == 'Real[ArrayLike, "*batch"]'
    assert shown["reduction"].default == "'none'"
    assert runtime.annotation(spec.return_annotation) == 'Float[Array, "*batch"]'


def test_names_of_losses_become_links_outside_code(runtime):
    info = jl.catalogue.of(jl.regression.huber)
    text = "`squared_error`, `huber`, `delta` and `robust.cauchy`\n>>> `squared_error`\n"
    expected = (
        "[`squared_error`][jaxloss.regression.squared_error], `huber`, `delta` and "
        "[`robust.cauchy`][jaxloss.robust.cauchy]\n>>> `squared_error`\n"
    )
    assert runtime.linked(text, info) == expected
    assert runtime.linked("`squared_error`") == "`squared_error`"


def test_picture_and_traits_are_behind_the_formula(runtime, monkeypatch):
    monkeypatch.setattr(runtime, "picture", lambda info: "<picture>\n")
    info = jl.catalogue.of(jl.regression.huber)
    text = runtime.illustrated(inspect.getdoc(info.function), info.name, info)
    formula, picture, arguments = (text.index(part) for part in ("$$", "<picture>", "Args:"))
    assert formula < picture < arguments
    assert all(trait.meaning in text for trait in info.traits)


def test_navigation_nests_the_sections(build):
    page = lambda title, *sections: build.Page(sections, title, f"{title}.md", "")
    listed = [page("home"), page("all", "Losses"), page("huber", "Losses", "Regression")]
    assert build.navigation([*listed, page("kl", "Losses", "Divergences")]) == (
        'nav:\n  - "home": home.md\n  - "Losses":\n      - "all": all.md\n'
        '      - "Regression":\n          - "huber": huber.md\n'
        '      - "Divergences":\n          - "kl": kl.md\n'
    )


def test_names_elsewhere_lead_to_what_is_in_the_package(build):
    text = build.names_page().text
    assert "| `huber_loss`, `HuberLoss`, `Huber` | [`jl.regression.huber`]" in text
    assert build.in_package("regression.huber")
    assert not build.in_package("not_yet.anything")
    with pytest.raises(SystemExit, match=r"jaxloss\.regression\.hubber, which does not exist"):
        build.in_package("regression.hubber")


def test_models_get_every_page_with_docstrings_in_place_of_directives(build):
    pages = [
        build.Page((), "jaxloss", "index.md", "# jaxloss\n"),
        build.Page(("Losses",), "huber", "losses/huber.md", "::: jaxloss.regression.huber\n"),
    ]
    files = build.for_models(pages)
    assert "- [huber](losses/huber.html)" in files["llms.txt"]
    assert "jaxloss.regression.huber(prediction:" in files["llms-full.txt"]
    assert ":::" not in files["llms-full.txt"]


# Words of other libraries, and a page that is among the first results for them.
SEARCHED = {
    "pos_weight": "losses/classification/sigmoid_cross_entropy.html",
    "ignore_index": "names.html",
    "from_logits": "coming_from/keras.html",
    "batchmean": "coming_from/torch.html",
    "pinball": "losses/regression/pinball.html",
    "DPO": "losses/preference/dpo.html",
}


def searched(site, queries):
    """The locations that the search of the site gives for each query, best first."""
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search*.js")
    script = ROOT / "tests" / "harness" / "search.js"
    command = [shutil.which("node"), script, worker, site / "search.json", *queries]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("node"), reason="the search of the site runs in node")
def test_search_finds_the_words_of_others_and_ranks_a_loss_above_its_other_forms(site):
    forms = {"softmax_cross_entropy", "info_nce", "clip", "siglip", "kl", "total_variation"}
    found = searched(site, [*SEARCHED, *sorted(forms)])
    for word, page in SEARCHED.items():
        assert any(place.startswith(page) for place in found[word][:5]), (word, found[word])
    for name in forms:
        places = found[name]
        first = next(i for i, place in enumerate(places) if place.endswith(f"/{name}.html"))
        others = ("reference/sharded.html", "reference/linear.html")
        assert not any(place.startswith(others) for place in places[:first]), (name, places)


def test_search_shows_no_formulas(build, tmp_path):
    file = tmp_path / "search.json"
    file.write_text(json.dumps({"items": [{"text": r"A \(x\) and \[y \\ z\] B"}]}))
    build.without_formulas(file)
    assert json.loads(file.read_text())["items"][0]["text"].split() == ["A", "and", "B"]


def test_links_between_files_become_links_of_the_site(build):
    source = ROOT / "docs" / "tutorial.md"
    links = {
        "coming_from.md#torch": "coming_from.md#torch",
        "../CONTRIBUTING.md": "contributing.md",
        "../notebooks/04_quantiles.ipynb": "notebooks/04_quantiles.md",
        "../README.md": "index.md",
        "images/losses.svg": "images/losses.svg",
        "../tests/cases/regression.py": f"{build.REPOSITORY}/tests/cases/regression.py",
        "https://example.org/a": "https://example.org/a",
        "losses/index.md": "losses/index.md",
    }
    for link, expected in links.items():
        assert build.relinked(f"[a]({link})", source, "tutorial.md") == f"[a]({expected})"
    from_notebook = build.relinked(
        "[a](../docs/tutorial.md)", ROOT / "notebooks/x.py", "notebooks/x.md"
    )
    assert from_notebook == "[a](../tutorial.md)"


def test_accuracy_page_lists_every_setting():
    written = accuracy.measured_before(accuracy.TARGET, accuracy.HEADINGS, 2)
    missing = {accuracy.label(setting) for setting in cases.settings()} ^ set(written)
    assert not missing, "run `python -m tools.accuracy <name of the loss>`"


def test_every_public_name_is_documented(build):
    """The pages of the package name all that `__all__` names, each with a docstring."""
    for name in jl.__all__:
        thing = getattr(jl, name)
        assert inspect.getdoc(thing), f"jaxloss.{name} has no docstring"
        if inspect.ismodule(thing):
            for inner in build.public(thing):
                value = getattr(thing, inner)
                if inspect.isroutine(value) or inspect.isclass(value):
                    assert inspect.getdoc(value), f"jaxloss.{name}.{inner} has no docstring"


def test_functions_of_a_family_that_are_no_losses_are_on_its_page(build):
    losses = {build.short(info) for info in jl.catalogue.losses() if info.family == "ranking"}
    assert "::: jaxloss.ranking.pair_count\n" in "\n".join(build.helpers("ranking", losses))


def test_a_name_without_a_docstring_stops_the_build(build, monkeypatch):
    def bare():
        pass

    monkeypatch.setattr(jl.plot, "__all__", [*jl.plot.__all__, "bare"])
    monkeypatch.setattr(jl.plot, "bare", bare, raising=False)
    with pytest.raises(SystemExit, match=r"jaxloss\.plot\.bare has no docstring"):
        list(build.module_pages())


class Links(html.parser.HTMLParser):
    """What a page refers to, what it would load, and the anchors that it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(given.get("href", ""))
        elif given.get("src"):
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def parsed(site):
    return {path.resolve(): Links(path) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site, parsed):
    outside = re.compile(r"^(https?:)?//")
    for path, page in parsed.items():
        assert not [address for address in page.loads if outside.match(address)], path
    for style in site.rglob("*.css"):
        fetched = re.findall(r"(?:@import\s+|url\()['\"]?(?:https?:)?//[^'\")]*", style.read_text())
        assert not fetched, style


@pytest.mark.slow
def test_no_link_is_broken(parsed):
    for path, page in parsed.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            address, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", address) or (not address and not anchor):
                continue
            target = (path.parent / address).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in parsed:
                assert anchor in parsed[target].anchors, f"{path.name}: {link}"


@pytest.mark.slow
def test_every_loss_has_its_page_and_the_guide_its_choices(site, parsed):
    for info in jl.catalogue.losses():
        if info.family:
            name = info.function.__name__
            path = (site / "losses" / info.family / f"{name}.html").resolve()
            assert f"jaxloss.{info.name}" in parsed[path].anchors
            text = path.read_text()
            positions = [text.index(part) for part in ("<h1", "where", "arithmatex", "Returns:")]
            assert positions == sorted(positions), name
            index = parsed[(site / "losses" / info.family / "index.html").resolve()]
            assert f"{name}.html" in index.links
    guide = (site / "choosing.html").read_text()
    assert guide.count('class="cell"') == len(jl.catalogue.choose())


# Opens every page at two widths in a frame and writes down what it saw.
LOOK = """<!doctype html><title>look</title><body></body><script>
function move(slider) {  // as an arrow key would
  const figure = slider.closest("figure");
  const now = () => [".value", ".gradient"].map((s) => figure.querySelector(s).getAttribute("d"))
    .concat(figure.querySelector("output").textContent, slider.getAttribute("aria-valuetext"));
  const before = now();
  slider.stepUp();
  slider.dispatchEvent(new Event("input"));
  return { before, after: now() };
}
async function look(page, width) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = page;
  document.body.append(frame);
  await new Promise((done) => frame.addEventListener("load", done));
  const { document: inside, performance } = frame.contentWindow;
  const all = (selector) => inside.querySelectorAll(selector);
  const seen = {
    page, width, wide: inside.documentElement.scrollWidth,
    formulas: all(".arithmatex").length, rendered: all(".arithmatex .katex").length,
    errors: all(".katex-error").length,
    pictures: [...all("img")].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    moved: [...all("input[type=range]")].map(move),
  };
  frame.remove();
  return seen;
}
(async () => {
  const seen = [];
  for (const page of PAGES) for (const width of [390, 1280]) seen.push(await look(page, width));
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
})();
</script>"""


@pytest.fixture(scope="module")
def seen(site, tmp_path_factory):
    """What a browser saw on each page, at 390 and at 1280 pixels."""
    if BROWSER is None:
        pytest.skip("no chromium on PATH: `apt-get install chromium` to look at the site")
    pages = [str(path.relative_to(site)) for path in sorted(site.rglob("*.html"))]
    pages = [page for page in pages if page != "404.html"]
    (site / "look.html").write_text(LOOK.replace("PAGES", json.dumps(pages)))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Site, site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        profile = tmp_path_factory.mktemp("browser")
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        flags += "--disable-background-networking --disable-component-update --disable-sync "
        flags += f"--disable-dev-shm-usage --remote-debugging-port=0 --user-data-dir={profile}"
        address = f"http://127.0.0.1:{server.server_port}/look.html"
        command = [BROWSER, *flags.split(), address]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return json.loads(Site.reports.get(timeout=240))
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()


class Site(http.server.SimpleHTTPRequestHandler):
    """Serves the site, and takes the report of the browser."""

    reports = queue.Queue()

    def __init__(self, site, *args):
        super().__init__(*args, directory=str(site))

    def do_POST(self):
        self.reports.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.mark.slow
def test_no_request_leaves_the_machine(seen):
    requests = [request for view in seen for request in view["requests"]]
    assert requests
    assert not [request for request in requests if not request.startswith("http://127.0.0.1:")]


@pytest.mark.slow
def test_formulas_are_rendered_and_pictures_are_there(seen):
    assert sum(view["formulas"] for view in seen) > 100
    for view in seen:
        assert view["rendered"] == view["formulas"], view["page"]
        assert view["errors"] == 0, view["page"]
        assert not view["pictures"], view["page"]


@pytest.mark.slow
def test_a_slider_moves_the_picture_and_says_so(seen):
    moved = [slider for view in seen for slider in view["moved"]]
    assert len(moved) >= 4
    for slider in moved:
        assert all(a != b for a, b in zip(slider["before"], slider["after"], strict=True))
        assert slider["after"][2] == slider["after"][3]


@pytest.mark.slow
def test_nothing_is_wider_than_the_window(seen):
    too_wide = {v["page"]: v["wide"] for v in seen if v["wide"] > v["width"]}
    assert not too_wide
