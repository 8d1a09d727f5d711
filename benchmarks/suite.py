"""CPU seconds that one more loss takes in `make test` and in `make check`.

Run it with `python benchmarks/suite.py [family.name ...]`. In a copy of the project each loss is
added once more, under another name, with its row; the tests that meet it are run, and pytest tells
their CPU seconds. Goals: 2 and 6.
"""

import argparse
import inspect
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from timing import markdown

import jaxloss as jl

ROOT = pathlib.Path(__file__).parents[1]
HIDDEN = shutil.ignore_patterns(".git", ".venv", ".*_cache", "build", "dist", "__pycache__")
TYPICAL = [
    "regression.huber",
    "robust.welsch",
    "classification.sigmoid_focal",
    "classification.z_loss",
    "divergence.jensen_shannon",
    "ranking.list_mle",
    "contrastive.nt_xent",
    "preference.simpo",
]


def add(folder: pathlib.Path, name: str) -> str:
    """Adds the loss again to the project in `folder`; returns its new name."""
    family, short = name.split(".")
    function = inspect.unwrap(getattr(getattr(jl, family), short))
    source = pathlib.Path(function.__code__.co_filename).relative_to(ROOT)
    again = f"{short}_again"
    file = folder / source
    text = inspect.getsource(function).replace(f"def {short}(", f"def {again}(", 1)
    lines = file.read_text().splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if line.startswith("__getattr__")), len(lines))
    file.write_text("".join([*lines[:end], "\n\n", text, "\n\n", *lines[end:]]))
    init = folder / "jaxloss" / family / "__init__.py"
    public = init if init.exists() else init.parent.with_suffix(".py")
    if init.exists():
        module = ".".join(source.with_suffix("").parts)
        text = init.read_text().replace(
            "\n__all__ = [", f"\nfrom {module} import {again}\n\n__all__ = [", 1
        )
        init.write_text(text)
    public.write_text(public.read_text().replace("__all__ = [", f'__all__ = [\n    "{again}",', 1))
    with (folder / "tests/cases" / f"{family}.py").open("a") as cases:
        cases.write(f'\nCASES["{again}"] = CASES["{short}"]\n')
    return f"{family}.{again}"


def seconds(folder: pathlib.Path, name: str, tier: str) -> float:
    """CPU seconds of the tests of the laws that meet a loss."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "--costs"]
    run = subprocess.run(
        [*command, "-m", tier, "tests/laws", "-k", name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    spent = re.findall(rf"^ +([0-9.]+)  {re.escape(name)}$", run.stdout, re.MULTILINE)
    if run.returncode or not spent:
        raise RuntimeError(f"{name} in {tier!r}:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return float(spent[0])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=TYPICAL, metavar="family.name")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "project"
        shutil.copytree(ROOT, folder, ignore=HIDDEN)
        for name in parser.parse_args().names:
            again = add(folder, name)
            spent = [seconds(folder, again, tier) for tier in ("not slow", "not slow or mesh")]
            rows.append([f"`{name}`", *(f"{x:.1f}" for x in spent)])
    print(markdown(["one more loss like", "`make test`", "`make check`"], rows))


if __name__ == "__main__":
    main()
