"""Comparing losses by the same scores on held-out data.

The values of two losses cannot be compared. The predictions that they lead to can.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Comparison", "Score", "compare"]

Loss = Callable[..., Any]
Predict = Callable[[Any], Any]
Measure = Callable[[Any, Any], Any]


class Score(NamedTuple):
    """One score of one loss.

    Attributes:
        mean: The mean over the folds.
        behind: How much larger it is than that of the first loss, fold by fold, on average.
        margin: Half the width of the 95 % interval of `behind`; 0 for the first loss itself.
        folds: The score in each fold.
    """

    mean: float
    behind: float
    margin: float
    folds: np.ndarray


class Comparison(dict[str, dict[str, Score]]):
    """For each loss its scores; a table in a notebook, and one of text anywhere else."""

    def _rows(self) -> list[list[str]]:
        rows = []
        for place, (name, scores) in enumerate(self.items()):
            cells = [name]
            for score in scores.values():
                cells += [f"{score.mean:.4g}", _interval(score) if place else "-"]
            rows.append(cells)
        return rows

    def _heads(self) -> list[str]:
        first, scores = next(iter(self.items()))
        return ["loss", *(h for name in scores for h in (name, f"more than {first}"))]

    def markdown(self) -> str:
        """The table in Markdown."""
        heads = self._heads()
        rows = [heads, ["---"] * len(heads), *self._rows()]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"

        body = "".join(row(cells, "td") for cells in self._rows())
        return f"<table>{row(self._heads(), 'th')}{body}</table>"

    def __repr__(self) -> str:
        rows = [self._heads(), *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        pad = [[c.rjust(w) for c, w in zip(row, widths, strict=True)] for row in rows]
        return "\n".join("  ".join([row[0].strip().ljust(widths[0]), *row[1:]]) for row in pad)


def _interval(score: Score) -> str:
    low, high = score.behind - score.margin, score.behind + score.margin
    return f"{low:+.3g} to {high:+.3g}" if np.isfinite([low, high]).all() else "nan"


def _mean_absolute_error(prediction: Any, target: Any) -> Any:
    return np.mean(np.abs(np.asarray(prediction) - np.asarray(target)))


def _root_mean_squared_error(prediction: Any, target: Any) -> Any:
    return np.sqrt(np.mean(np.square(np.asarray(prediction) - np.asarray(target))))


def compare(
    losses: Sequence[Loss] | Mapping[str, Loss],
    fit: Callable[..., Predict],
    data: tuple[Any, Any],
    *,
    scores: Mapping[str, Measure] | None = None,
    folds: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    r"""Cross-validates several losses on the same folds, with the same scores.

    Scores are compared fold by fold. Folds share training data, so the usual standard error is
    too small; the intervals are those of Nadeau and Bengio, whose variance is
    $(1/k + n_\text{test} / n_\text{train}) s^2$.

    Args:
        losses: A list of losses, or a dict that names them; the others are compared with the
            first, the baseline.
        fit: `fit(loss, inputs, targets)` trains a model of yours and returns `predict(inputs)`.
        data: Inputs and targets: arrays, or trees of arrays with one row an example.
        scores: Named functions of predictions and targets that return a number, small when good;
            if None, mean absolute error and root mean squared error.
        folds: How many parts the data are divided into, each held out once.
        seed: Of the order in which they are divided.
        progress: Whether to show a bar, if tqdm is installed.

    Returns:
        A table: for each loss and score the mean, and the interval of the difference from the
        first. A fold whose score is NaN makes its row NaN; it is not left out.

    Raises:
        ValueError: If there are fewer than 2 folds, or more than examples, or the data do not have
            equally many rows.

    Example:
        >>> import jaxloss as jl, numpy as np
        >>> mean = lambda loss, x, t: lambda x: np.full(len(x), t.mean())
        >>> t = compare({"only": jl.regression.huber}, mean, (np.ones(8), np.ones(8)), folds=4)
        >>> t["only"]["mean absolute error"].mean
        0.0

    References:
        Nadeau and Bengio, *Inference for the Generalization Error*, 2003.
    """
    from jaxloss.plot._lines import title  # noqa: PLC0415  # not at `import jaxloss`

    if not isinstance(losses, Mapping):
        losses = {title(loss): loss for loss in losses}
    scores = scores or {
        "mean absolute error": _mean_absolute_error,
        "root mean squared error": _root_mean_squared_error,
    }
    sizes = sorted({len(leaf) for leaf in jax.tree.leaves(data)})
    if len(sizes) != 1:
        raise ValueError(f"compare: `data` has leaves of {sizes} rows, expected equally many.")
    if not 2 <= folds <= sizes[0]:
        message = f"compare: `folds` is {folds}, expected 2 to {sizes[0]}, the number of examples."
        raise ValueError(message)
    order = np.random.default_rng(seed).permutation(sizes[0])
    parts = np.array_split(order, folds)
    measured = {name: {score: [] for score in scores} for name in losses}
    jobs = [(k, name) for k in range(folds) for name in losses]
    for k, name in _bar(jobs) if progress else jobs:
        rest = np.concatenate(parts[:k] + parts[k + 1 :])
        inputs, targets = jax.tree.map(lambda leaf, rows=rest: leaf[rows], data)
        unseen, truth = jax.tree.map(lambda leaf, rows=parts[k]: leaf[rows], data)
        prediction = fit(losses[name], inputs, targets)(unseen)
        for score, measure in scores.items():
            measured[name][score].append(float(measure(prediction, truth)))
    baseline = next(iter(measured.values()))
    return Comparison(
        {
            name: {
                score: _summary(np.array(values), np.array(baseline[score]))
                for score, values in row.items()
            }
            for name, row in measured.items()
        }
    )


def _summary(values: np.ndarray, baseline: np.ndarray) -> Score:
    from scipy.stats import t as student  # noqa: PLC0415  # slow to import; jax depends on it

    count = len(values)
    behind = values - baseline
    # The parts differ by at most one row, so that test to training is 1 to count - 1.
    spread = math.sqrt((1 / count + 1 / (count - 1)) * behind.var(ddof=1))
    margin = float(student.ppf(0.975, count - 1)) * spread
    return Score(float(values.mean()), float(behind.mean()), margin, values)


def _bar(jobs: list[Any]) -> Iterable[Any]:
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415  # optional
    except ModuleNotFoundError:
        return jobs
    return tqdm(jobs, desc="folds x losses")
