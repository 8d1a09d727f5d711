"""Says whether a tag fits the version: `python -m tools.release v0.1.0`.

The version is written in `pyproject.toml`; `CITATION.cff`, `conda/recipe.yaml` and the changelog name
it as well.
"""

import re
import sys
import tomllib

from tools import ROOT


def version() -> str:
    """The version of the project."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def dependencies() -> list[str]:
    """What the project needs at run time, as `name >=bound`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [text.replace(">=", " >=") for text in project["dependencies"]]


def mistakes(tag: str | None = None) -> list[str]:
    """What does not fit the version, or the tag of a release."""
    ours, found = version(), []
    for name, pattern in (
        ("CITATION.cff", r"^version: (\S+)$"),
        ("conda/recipe.yaml", r'^  version: "(\S+)"$'),
    ):
        written = re.search(pattern, (ROOT / name).read_text(), re.MULTILINE)
        if written is None or written[1] != ours:
            found.append(f"{name} does not name version {ours}")
    recipe = (ROOT / "conda/recipe.yaml").read_text()
    found += [f"conda/recipe.yaml lacks {d!r}" for d in dependencies() if f"- {d}\n" not in recipe]
    if tag is not None:
        if tag != f"v{ours}":
            found.append(f"the tag is {tag}, the version {ours}")
        if not re.search(rf"^## \[?{re.escape(ours)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M):
            found.append(f"CHANGELOG.md has no heading for {ours}")
    return found


if __name__ == "__main__":
    if found := mistakes(sys.argv[1]):
        sys.exit("\n".join(found))
    print(f"{sys.argv[1]} is ready")
