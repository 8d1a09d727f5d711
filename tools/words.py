"""Finds words that may not be used: `make lint`. Prints each with what to write instead.

The words of this project are those of the field, in plain technical English: what a reader can look
up elsewhere. CONTRIBUTING.md says how; this list keeps out what was there before.
"""

import pathlib
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PLACES = ("jaxloss", "tests", "docs", "notebooks", "benchmarks", "tools", ".ci")
FILES = ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", "mkdocs.yml")
KINDS = {".py", ".md", ".toml", ".css", ".js", ""}
SKIPPED = {pathlib.Path(__file__).name, "test_words.py", "katex.min.js", "katex.min.css", "LICENSE"}

# A pattern, in any case, and what to write instead.
WORDS = {
    # prose
    r"surprises?|surprised|surprising(ly)?": "nll, or: the negative log-probability",
    r"takes? it (when|to|for|if|as|where|in)": "When to use: ...",
    r"what rounding took": "the low-order word",
    r"nobody|leads? nobody": "a sentence with a subject",
    r"comes? home": "returns to its owner",
    r"(is|are|be|was|were|been) told": "is given, or: reads",
    r"minds|listens?|luggage": "a verb that says what is computed",
    r"(at|through|in) the door|_door": "on entry, or: in the contract",
    r"shelf|shelves": "family, or: module",
    r"cards?": "entry, or: LossInfo",
    r"pull(s|ed|ing)?(?! requests?)": "gradient, or: vjp_fn",
    r"models? says?|says? the model": "predicted",
    r"stands|stand(?![ -](in|for|alone))": "is",
    r"loss(es)? costs?": "the loss is",
    r"labels: arraylike (class|integers|numbers)": "what they are: any array-like is accepted",
    r"told": "given",
    r"knows (three|two) more words": "keyword arguments",
    # private names that were replaced
    r"(two_|softmax_)?surprise_\w+": "softmax_nll and its kin",
    r"entry_at|even_over_possible|is_off": "take_label, uniform_over_finite, is_static_zero",
    r"expm1_ratio|exp_excess|log1p_excess": "exprel, expm1_minus_x, x_minus_log1p",
    r"power_gap|(?<!tweedie_)half_deviance": "boxcox_difference, tweedie_half_deviance",
    r"in_long_loops|in_one_pass|one_after": "with_vectorizable_shape, variadic_reduce",
    # public names that were replaced
    r"(jl|jaxloss)\.likelihood": "jl.nll",
    r"regression\.quantile(?!s)": "regression.pinball",
    r"divergence\.alpha(?!_)": "divergence.alpha_divergence",
    r"robust\.general": "robust.barron",
    r"transforms\.(minimize|select)": "transforms.make_train_step, transforms.tree_where",
    r"aggregators\.config": "aggregators.con_fig",
}
PATTERNS = {
    re.compile(rf"(?<![A-Za-z])(?:{word})(?![A-Za-z])", re.IGNORECASE): instead
    for word, instead in WORDS.items()
}


class Finding(NamedTuple):
    """A word in a line of a file."""

    line: int
    word: str
    instead: str


def find(text: str) -> Iterator[Finding]:
    """The words in a text that may not be used."""
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, instead in PATTERNS.items():
            for match in pattern.finditer(line):
                yield Finding(number, match[0], instead)


def files() -> Iterator[pathlib.Path]:
    """The texts of the project: code, prose and data."""
    yield from (ROOT / name for name in FILES)
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            folders = path.relative_to(ROOT / place).parent.parts
            hidden = any(folder.startswith((".", "__")) for folder in folders)
            if path.is_file() and path.suffix in KINDS and path.name not in SKIPPED and not hidden:
                yield path


def main() -> int:
    """Prints the findings; the exit status is 1 if there are any."""
    count = 0
    for path in files():
        for found in find(path.read_text()):
            count += 1
            place = f"{path.relative_to(ROOT)}:{found.line}"
            print(f'{place}: "{found.word}": write {found.instead}')
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
