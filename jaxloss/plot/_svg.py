"""Small inline pictures in plain SVG: for tables, for the documentation, and for the slider.

They need neither matplotlib nor a script nor a network, and have a text for screen readers.
"""

import html

import numpy as np

from jaxloss.plot._lines import Line, visible
from jaxloss.plot._style import BLUE, GREY, VERMILLION

WIDTH, HEIGHT = 240, 120
_MARGIN = 6
_STROKE = 'fill="none" stroke-width="2" stroke-linejoin="round"'
LINES = (("value", BLUE, ""), ("gradient", VERMILLION, "5 3"))


class Frame:
    """The rectangle of a picture: maps data to pixels."""

    def __init__(self, lines: list[Line], width: float = WIDTH, height: float = HEIGHT):
        """Chooses the range from the values and slopes of all lines."""
        self.width, self.height = width, height
        self.left, self.right = float(lines[0].x[0]), float(lines[0].x[-1])
        self.low, self.high = visible([y for line in lines for y in (line.value, line.slope)])

    def x(self, x: np.ndarray | float) -> np.ndarray:
        share = (np.asarray(x) - self.left) / (self.right - self.left)
        return _MARGIN + share * (self.width - 2 * _MARGIN)

    def y(self, y: np.ndarray | float) -> np.ndarray:
        share = (np.asarray(y) - self.low) / (self.high - self.low)
        return self.height - _MARGIN - share * (self.height - 2 * _MARGIN)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        """The attribute `d` of a line; it is interrupted where y is not finite."""
        steps, pen = [], "M"
        down = np.clip(self.y(y), -self.height, 2 * self.height)
        for across, value, known in zip(self.x(x), down, np.isfinite(y), strict=True):
            if known:
                steps.append(f"{pen}{across:.1f} {value:.1f}")
            pen = "L" if known else "M"
        return "".join(steps)

    def backdrop(self, labelled: bool = True) -> str:
        """The axes y = 0 and x = 0, and labelled grid lines at a few round values."""
        axes = f"M{_MARGIN} {float(self.y(0.0)):.1f}H{self.width - _MARGIN}"
        if self.left < 0 < self.right:
            axes += f"M{float(self.x(0.0)):.1f} {_MARGIN}V{self.height - _MARGIN}"
        rounds = [
            y
            for y in _round_values(self.low, self.high)
            if labelled and y != 0 and self.y(y) > 12  # its label is above it, in the picture
        ]
        grid = "".join(f"M{_MARGIN} {float(self.y(y)):.1f}H{self.width - _MARGIN}" for y in rounds)
        texts = "".join(
            f'<text x="{_MARGIN}" y="{float(self.y(y)) - 2:.1f}">{y:g}</text>' for y in rounds
        )
        return (
            f'<path d="{axes}" fill="none" stroke="{GREY}" stroke-width="0.8"/>'
            f'<path d="{grid}" fill="none" stroke="{GREY}" stroke-width="0.3"/>'
            f'<g fill="{GREY}" font-size="9" font-family="sans-serif">{texts}</g>'
        )


def _round_values(low: float, high: float) -> list[float]:
    """Three to seven multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10((high - low) / 3))
    step = next(power * m for m in (5, 2, 1) if (high - low) / (power * m) >= 3)
    return [float(k * step) for k in range(int(np.ceil(low / step)), int(high // step) + 1)]


def strokes(frame: Frame, line: Line) -> str:
    """Value and gradient of one line, the gradient in front."""
    return "".join(
        f'<path class="{what}" d="{frame.path(line.x, y)}" stroke="{color}" {_STROKE}'
        + (f' stroke-dasharray="{dash}"/>' if dash else "/>")
        for (what, color, dash), y in zip(LINES, (line.value, line.slope), strict=True)
    )


def describe(line: Line) -> str:
    """What a picture shows, in words."""
    low, high = float(line.x[0]), float(line.x[-1])
    ends = [f"{float(y):.3g}" for y in (line.value[0], line.value[-1])]
    steepest = np.abs(line.slope[np.isfinite(line.slope)])
    slope = f"; steepest slope {float(steepest.max()):.3g}" if steepest.size else ""
    return (
        f"{line.name} (solid) and its gradient (dashed) over {line.variable} from {low:.3g} to "
        f"{high:.3g}: the value is {ends[0]} on the left and {ends[1]} on the right{slope}."
    )


def picture(
    line: Line, width: float = WIDTH, height: float = HEIGHT, *, labelled: bool = True
) -> str:
    """One loss and its gradient, as an `<svg>` to put into a page; small ones have no numbers."""
    frame, words = Frame([line], width, height), html.escape(describe(line))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" aria-label="{words}" '
        f'style="max-width: 100%"><title>{words}</title>'
        f"{frame.backdrop(labelled)}{strokes(frame, line)}</svg>"
    )
