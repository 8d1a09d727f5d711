"""The worst error of every loss, in units in the last place, beside Optax's on the same inputs.

Run it with `python benchmarks/accuracy.py`; it writes `docs/accuracy.md`. The reference is the
oracle of each row in `tests/cases`, in 160 digits, at inputs all over the domain.
"""

import pathlib
import sys

from optax_pairs import PAIRS
from timing import markdown

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import cases
from test_accuracy import worst_errors

TARGET = pathlib.Path(__file__).parents[1] / "docs" / "accuracy.md"
INTRODUCTION = """# Accuracy

The largest error found, in units in the last place of float32, of value and gradient, over inputs
all over the domain of each loss: errors from 1e-30 to 1e30, logits from indifferent to certain.
The reference has 160 digits. Where components of a gradient cancel by nature (a probability minus
the label it approaches), they are held to the last place of the largest; those rows bear a star.
Where the inputs nearly cancel (a match of logarithms, a rounded error), the unit is what one last
place of the inputs changes, if that is more; those rows bear two.
Written by `python benchmarks/accuracy.py`; the test suite holds every row to its bound.

"""


def shown(worst):
    return [f"{error:.1f}" if error < 1e4 else "over 10,000" for error, _ in worst.values()]


def main():
    rows = []
    for setting in cases.settings():
        peer = PAIRS.get(setting.info.name) if not setting.given else None
        theirs = ["", ""]
        if peer is not None:
            theirs = shown(worst_errors(setting, loss=lambda *data, peer=peer: peer(*data)))
        star = "" if setting.by_component else " *"
        star = " **" if setting.case.conditioned else star
        rows.append([f"`{setting}`{star}", *shown(worst_errors(setting)), *theirs])
        print(*rows[-1], sep=" | ", flush=True)
    headings = ["loss", "value", "gradient", "Optax's value", "Optax's gradient"]
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(INTRODUCTION + markdown(headings, rows) + "\n")


if __name__ == "__main__":
    main()
