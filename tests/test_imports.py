"""The floors of the package: which module may import which, and what may be known where.

Read from the source, so that an import inside a function counts.
"""

import ast
import importlib.metadata
import pathlib
import re

import pytest

import jaxloss as jl
from jaxloss._core import namespace, registry

ROOT = pathlib.Path(jl.__file__).parent
FILES = {
    ".".join(["jaxloss", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}
PACKAGES = {name for name, path in FILES.items() if path.stem == "__init__"}


def only_for_types(tree):
    """The lines of `if TYPE_CHECKING:`, which run nowhere."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            lines |= {
                n.lineno for part in node.body for n in ast.walk(part) if hasattr(n, "lineno")
            }
    return lines


def imports(name, *, at_import=False):
    """The modules of jaxloss that a module imports; at import, or also inside functions."""
    tree = ast.parse(FILES[name].read_text())
    skipped, found = only_for_types(tree), set()
    if at_import:
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda)]
        skipped |= {
            n.lineno for f in functions for n in ast.walk(f) if n is not f and hasattr(n, "lineno")
        }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.lineno not in skipped:
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
        elif isinstance(node, ast.Import) and node.lineno not in skipped:
            found |= {alias.name for alias in node.names}
    return {module for module in found if module in FILES} - {name}


def test_imports_have_no_circles():
    """A module may import its package only if that does not import it back: a circle of files."""
    graph = {name: imports(name, at_import=True) for name in FILES}
    finished, path = set(), []

    def visit(name):
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in finished:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            path.pop()
            finished.add(name)

    for name in FILES:
        visit(name)


# Mathematics: what `@loss` has in the catalogue, and the functions of the same folders.
MATHEMATICS = tuple(f"jaxloss.{family}" for family in registry.FAMILIES)
ALLOWED = ("jaxloss.numerics", "jaxloss._core", "jaxloss.domains", "jaxloss.traits", *MATHEMATICS)
# A loss over a set is computed a chunk of rows at a time; its body says so.
ROWS = {"jaxloss._memory.deferred"}
# The square of similarities is computed in chunks that are whole on every device; a set over several
# devices is passed on in a ring.
PENDING_IMPORTS = {
    "jaxloss.contrastive._similarities": {"jaxloss._memory.layout", "jaxloss._memory.mesh"},
    "jaxloss.self_supervised._gaussianity": {"jaxloss._memory.mesh"},
    "jaxloss.self_supervised._spread": {"jaxloss._memory.mesh"},
}


@pytest.mark.parametrize(
    "name", [name for name in FILES if ".".join(name.split(".")[:2]) in MATHEMATICS]
)
def test_mathematics_imports_numerics_the_contract_and_itself(name):
    other = {module for module in imports(name) if not within(module, ALLOWED)} - ROWS
    assert other <= PENDING_IMPORTS.get(name, set())


def within(module, packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("name", [name for name in FILES if within(name, ("jaxloss.numerics",))])
def test_numerics_imports_itself_hints_to_the_compiler_and_types_of_arrays(name):
    below = ("jaxloss._xla", "jaxloss._memory.mesh", "jaxloss._core.namespace")
    allowed = ("jaxloss.numerics", *below)
    assert all(within(module, allowed) for module in imports(name))


PLATFORM = re.compile(
    r"default_backend|local_devices|jax\.devices|device_count|platform_dependent"
    r"|[\"'](cpu|gpu|cuda|rocm|tpu)[\"']|JAX_PLATFORMS|\.platform\b"
)


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"jaxloss._xla"}))
def test_only_one_file_knows_a_platform(name):
    tree = ast.parse(FILES[name].read_text())
    documentation = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    lines = FILES[name].read_text().splitlines()
    code = [
        f"{number}: {line}"
        for number, line in enumerate(lines, start=1)
        if number not in documentation and PLATFORM.search(line.partition("  # ")[0])
    ]
    assert not code


PUBLIC = [name for name in FILES if not any(part.startswith("_") for part in name.split("."))]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_shows_its_public_names_only(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == dir(module)
    for public in module.__all__:
        assert not public.startswith("_")
        assert hasattr(module, public)


def test_every_family_completes_in_an_editor():
    """At run time by `dir`, and for a type checker by an import that it alone reads."""
    text = (ROOT / "__init__.py").read_text()
    for_checkers = text[text.index("if TYPE_CHECKING:") : text.index("__version__: str")]
    for family in registry.FAMILIES:
        assert family in dir(jl)
        assert f"        {family},\n" in for_checkers


# --- the names that a public module answers to ----------------------------------------------------


@pytest.fixture
def answers():
    return namespace.public_names(
        "jaxloss.regression",
        ["squared_error", "huber"],
        lazy={"made": lambda: "on first use"},
        renamed={"quantile": namespace.Renamed("regression.pinball", "0.3")},
    )


def test_dir_is_sorted_and_complete(answers):
    assert answers[1]() == ["huber", "squared_error"]


def test_an_old_name_gives_the_new_thing_with_a_warning(answers):
    message = (
        r"^jaxloss\.regression\.quantile is deprecated and will be removed in jaxloss 0\.3: write "
        r"jaxloss\.regression\.pinball\.$"
    )
    with pytest.warns(DeprecationWarning, match=message) as caught:
        assert answers[0]("quantile") is jl.regression.pinball
    assert caught[0].filename == __file__  # the line of whoever used it


def test_what_is_made_on_first_use_is_made(answers):
    assert answers[0]("made") == "on first use"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mse", ": write jaxloss.regression.squared_error."),
        ("softmax_cross_entropy", ": write jaxloss.classification.softmax_cross_entropy."),
        ("hubre", ": write jaxloss.regression.huber."),
        ("nothing_like_it", ""),
        ("_mse", ""),
    ],
)
def test_a_name_that_is_not_there_is_answered(answers, name, hint):
    with pytest.raises(AttributeError) as caught:
        answers[0](name)
    assert str(caught.value) == f"module 'jaxloss.regression' has no attribute {name!r}{hint}"


def test_the_version_is_that_of_the_package():
    assert jl.__version__ == importlib.metadata.version("jaxloss")
    assert "__version__" not in dir(jl)
