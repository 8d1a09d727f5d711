"""The largest error of every loss, in units in the last place, beside Optax's on the same inputs.

Run it with `python -m tools.accuracy [name ...]`; it writes `docs/accuracy.md`. With parts of names
it measures only those losses, and keeps the other rows. The reference is the oracle of each row in
`tests/cases`, in 160 digits, at inputs all over the domain.
"""

import sys
from typing import Any

import cases
import mpmath
import numpy as np
from harness.accuracy import evaluation_of, own_evaluation, worst_errors

from tools import ROOT

sys.path.append(str(ROOT / "benchmarks"))
from optax_pairs import PAIRS
from timing import markdown, measured_before

TARGET = ROOT / "docs" / "accuracy.md"
HEADINGS = ["loss", "setting", "value", "gradient", "Optax's value", "Optax's gradient"]
INTRODUCTION = """# Accuracy

The largest error found, in units in the last place (ULP) of float32, of value and gradient, over
inputs all over the domain of each loss: errors from 1e-30 to 1e30, logits from nearly equal to
certain. The reference has 160 digits.

- One star: components of the gradient cancel by nature (a probability minus the label that it
  approaches). The unit is the last place of the largest component.
- Two stars: the inputs nearly cancel (two nearly equal logarithms, the difference of two rounded
  numbers). The unit is the change that one last place of the inputs makes, if that is larger.

Written by `python -m tools.accuracy`; the test suite holds every row to its bound.

"""

# Measured in float64 as well.
CLASSICS = (
    "regression.squared_error",
    "regression.huber",
    "regression.pseudo_huber",
    "regression.log_cosh",
    "classification.softmax_cross_entropy",
    "classification.sigmoid_cross_entropy",
    "classification.sigmoid_focal",
    "divergence.kl_logits",
    "nll.gaussian",
    "nll.poisson",
)
WIDE_HEADINGS = ["loss in float64", "setting", "value", "gradient"]
WIDE = """
## float64

The same for some losses in float64, in its units.

"""


def label(setting: cases.Setting) -> tuple[str, str]:
    """The name of a loss with its stars, and the kinds of its data and its options."""
    kinds = [
        f"{form.kind.lower()} {name}"
        for form, name in zip(setting.array_specs, setting.info.data, strict=True)
        if len(setting.info.spec.array_specs[name]) > 1
    ]
    options = [f"{name}={shown(option)}" for name, option in setting.given.items()]
    stars = " **" if setting.case.conditioned else "" if setting.by_component else " *"
    return f"`{setting.info.name}`{stars}", ", ".join([*kinds, *options])


def shown(option: Any) -> str:
    """An option as a cell of the table; of an array its shape."""
    if isinstance(option, cases.Batched):
        return "array [batch]"
    if isinstance(option, bool | int | float | str):
        return repr(option)
    return "a function" if callable(option) else f"array {list(np.shape(option))}"


def errors(worst: dict[str, tuple[float, Any]]) -> list[str]:
    """The errors of value and gradient as cells of the table."""
    return [f"{error:.1f}" if error < 1e4 else "over 10,000" for error, _ in worst.values()]


def measure(setting: cases.Setting) -> list[str]:
    """Our errors, and Optax's where it has the loss."""
    ours = errors(worst_errors(setting, own_evaluation(setting)))
    if setting.given or setting.info.name not in PAIRS:
        return [*ours, "", ""]
    theirs = evaluation_of(PAIRS[setting.info.name], setting)
    return ours + errors(worst_errors(setting, theirs))


def measure_wide(setting: cases.Setting) -> list[str]:
    """Our errors in float64."""
    with cases.x64(), mpmath.workdps(400):  # a loss of 1e-300, and a difference of it
        return errors(worst_errors(setting, own_evaluation(setting), wide=True))


def main(names: list[str]) -> None:
    """Measures the settings of the suite and writes the page."""
    known = {key: row[2:] for key, row in measured_before(TARGET, HEADINGS, 2).items()}
    rows = []
    for setting in cases.settings():
        key = label(setting)
        if key not in known or not names or any(name in setting.info.name for name in names):
            known[key] = measure(setting)
            print(*key, *known[key], sep=" | ", flush=True)
        rows.append([*key, *known[key]])
    known = {key: row[2:] for key, row in measured_before(TARGET, WIDE_HEADINGS, 2).items()}
    wide = []
    for setting in (s for s in cases.settings() if s.info.name in CLASSICS and not s.given):
        key = label(setting)
        if key not in known or not names or any(name in setting.info.name for name in names):
            known[key] = measure_wide(setting)
            print(*key, *known[key], sep=" | ", flush=True)
        wide.append([*key, *known[key]])
    tables = markdown(HEADINGS, rows), markdown(WIDE_HEADINGS, wide)
    TARGET.write_text(INTRODUCTION + f"\n{WIDE}".join(tables) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
