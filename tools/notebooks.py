"""The first cells of the notebooks in Colab: `python -m tools.notebooks`, a part of `make notebooks`.

A badge that opens the notebook there, and a cell that installs the library where it is missing. The
address is that of the sources in `pyproject.toml`; the scripts beside the notebooks have neither.
"""

import pathlib
import re
import tomllib

import nbformat

ROOT = pathlib.Path(__file__).parents[1]
COLAB = "https://colab.research.google.com"
TAG = "colab"
INSTALL = """\
# Colab has JAX, but not this library.
import importlib.util

if importlib.util.find_spec("jaxloss") is None:
    %pip install --quiet "jaxloss[{extra}] @ git+{source}"
"""


def source() -> str:
    """The address of the repository."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]


def in_colab(name: str) -> str:
    """The address at which Colab opens a notebook of the repository."""
    repository = source().replace("https://github.com", f"{COLAB}/github")
    return f"{repository}/blob/main/notebooks/{name}.ipynb"


def first_cells(script: pathlib.Path) -> list[nbformat.NotebookNode]:
    """The badge and the installation, for the notebook of a script."""
    extra = re.search(r'pip install "\.\[(\w+)\]"', script.read_text())[1]
    badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({in_colab(script.stem)})"
    install = INSTALL.format(extra=extra, source=source()).strip()
    about = {"metadata": {"tags": [TAG]}}
    return [
        nbformat.v4.new_markdown_cell(badge, id="colab-badge", **about),
        nbformat.v4.new_code_cell(install, id="colab-install", **about),
    ]


def is_of_colab(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell is one of those."""
    return TAG in cell["metadata"].get("tags", [])


def main() -> None:
    """Puts the cells behind the title of each notebook."""
    for script in sorted((ROOT / "notebooks").glob("*.py")):
        path = script.with_suffix(".ipynb")
        notebook = nbformat.read(path, as_version=4)
        title, *others = [cell for cell in notebook.cells if not is_of_colab(cell)]
        notebook.cells = [title, *first_cells(script), *others]
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
