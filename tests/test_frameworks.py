"""The page `docs/frameworks.md`: each snippet alone, in a process of its own, in its framework."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each snippet is a process; `make integrations` runs them

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "frameworks.md"
OTHERS = (
    "flax", "equinox", "haiku", "keras", "xgboost", "clu", "metrax", "tunix", "sklearn", "scipy"
)  # fmt: skip
# The newest release of tunix, 0.1.7, has no `WeightedMetric`, and needs transformers and 24 others.
NOT_RELEASED = ("tunix",)


def snippets():
    """Of each snippet its heading, the other packages that it imports, and its text."""
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            used = [o for o in OTHERS if re.search(rf"^(import|from) {o}\b", code, re.MULTILINE)]
            missing = [o for o in used if importlib.util.find_spec(o) is None]
            reason = f"{', '.join(missing)} is not installed: `make integrations` installs it"
            if set(missing) <= set(NOT_RELEASED):
                reason = f"{', '.join(missing)}: no release has what the snippet imports"
            skip = pytest.mark.skipif(bool(missing), reason=reason)
            yield pytest.param(code, id="-".join([heading, *used]), marks=skip)


@pytest.mark.parametrize("code", list(snippets()))
def test_a_snippet_runs_alone_and_fits(code):
    limits = {"clu": 0.5, "metrax": 0.5, "tunix": 0.5, "nnx.Metric": 0.5, "xgboost": 0.05}
    expected = next((v for word, v in limits.items() if word in code), 1e-3)
    code += f"\nassert abs(float(loss)) <= {expected}, float(loss)\n"
    # Its scikit-learn interface makes xgboost import what it does not install.
    if not re.search(r"^(import|from) sklearn\b", code, re.MULTILINE):
        code = f"import sys\n\nsys.modules['sklearn'] = None\n{code}"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XLA_FLAGS": ""},
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_every_framework_has_a_snippet():
    names = " ".join(str(parameter.id) for parameter in snippets())
    for other in OTHERS:
        assert other in names
