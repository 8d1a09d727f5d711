"""One style for all pictures: transparent, for light and dark pages.

The colours are those of Okabe and Ito, which can be distinguished with any colour blindness; lines
also differ in their dashes. Text and axes are grey, with a contrast of 4.3 to 1 on white and on
the background of dark pages.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#7a7a7a"
BLUE, VERMILLION = "#0072B2", "#D55E00"
COLORS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (2, 1)),
    (0, (6, 2, 1, 2)),
    (0, (1, 2)),
    (0, (9, 3)),
)

_RC: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.titlecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.labelsize": "medium",
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "font.size": 10.0,
}


def line_style(place: int) -> dict[str, Any]:
    """Colour and dashes of the line at a place among several."""
    return {"color": COLORS[place % len(COLORS)], "linestyle": DASHES[place % len(DASHES)]}


@contextlib.contextmanager
def axes(fun_name: str, ax: Any, count: int = 1) -> Iterator[Any]:
    """The axes to draw on: those given, or new ones in this style.

    Args:
        fun_name: The function that asks, for errors.
        ax: What the user gave: None, or as many axes as are needed.
        count: How many are needed, side by side.

    Yields:
        One axes, or an array of `count`.
    """
    try:
        import matplotlib.pyplot as plt  # noqa: PLC0415  # optional
    except ModuleNotFoundError as error:
        message = f"{fun_name} draws with matplotlib: `pip install 'jaxloss[plot]'`."
        raise ModuleNotFoundError(message, name="matplotlib") from error
    if ax is not None and np.size(ax) != count:
        message = f"{fun_name}: `ax` holds {np.size(ax)} axes, expected {count}."
        raise ValueError(message)
    # Not `rc_context`: in a notebook the first figure sets `interactive`, which that would undo.
    before = {name: plt.rcParams[name] for name in _RC}
    plt.rcParams.update(_RC)
    try:
        if ax is None:
            size = (5.6, 3.6) if count == 1 else (4.4 * count, 3.4)
            _, ax = plt.subplots(1, count, figsize=size, layout="constrained")
        yield ax if count == 1 else np.ravel(ax)
    finally:
        plt.rcParams.update(before)


def show_gaps(ax: "Axes", x: Any, values: Any) -> None:
    """Hatches where values are NaN or infinite: a line alone would hide it."""
    x, bad = np.asarray(x), ~np.isfinite(np.asarray(values, float))
    if not bad.any():
        return
    step = (x[1] - x[0]) / 2 if len(x) > 1 else 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bad, [0]])))
    for place, (start, stop) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
        ax.axvspan(
            x[start] - step,
            x[stop - 1] + step,
            facecolor="none",
            edgecolor=VERMILLION,
            hatch="///",
            linewidth=0,
            label="NaN or infinite" if place == 0 else None,
        )
