"""A plot with a slider for an option of a loss, in a notebook or on any web page."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.plot import _svg
from jaxloss.plot._lines import Line, elementwise, title, visible
from jaxloss.plot._style import GREY

_FRAMES, _POINTS = 25, 121
_WIDTH, _HEIGHT = 480, 260
_KEY = 28  # the height of the legend

# Runs on every move. It changes its own figure only, and defines no global name.
_ON_INPUT = (
    "var f=this.closest('figure'),k=JSON.parse(f.dataset.frames)[this.value];"
    "f.querySelector('.value').setAttribute('d',k[0]);"
    "f.querySelector('.gradient').setAttribute('d',k[1]);"
    "f.querySelector('output').textContent=k[2];"
    "f.querySelector('svg').setAttribute('aria-label',k[3]);"
    "this.setAttribute('aria-valuetext',k[2])"
)


class Slider:
    """A picture with a slider. Notebooks show it; `html` is the same for a web page.

    Attributes:
        html: One `<figure>` of inline SVG and a range input, about 50 kB.
    """

    def __init__(self, html: str, text: str):
        self.html = html
        self._text = text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self._text


def slider(
    loss: Callable[..., Any],
    over: Mapping[str, tuple[float, float] | Sequence[float]],
    *,
    x: tuple[float, float] | None = None,
    **given: Any,
) -> Slider:
    """Shows an elementwise loss and its gradient, with a slider for one option.

    All positions are computed at the call, from the function and `jax.grad`; afterwards neither
    Python nor a network is needed: it works in a notebook without a kernel, in one exported to
    HTML, and on any web page. The slider is a range input: arrow keys move it, and screen readers
    read the option and a description of the curve.

    Args:
        loss: A loss, or any function of two numbers.
        over: One option and its range: `{"delta": (0.1, 3.0)}` for 25 positions, evenly spaced
            in the logarithm if both ends are above 0 and a factor of 10 apart; or a list of at
            least three values.
        x: The range of the first argument; if None, one that its domain suggests.
        **given: Other options, and values for its other arguments.

    Returns:
        An object that notebooks show; its `html` is for web pages.

    Raises:
        ValueError: If the loss is not elementwise, or `over` is not one option with its range.
        TypeError: If the loss does not take the option.

    Example:
        >>> import jaxloss as jl
        >>> jl.plot.slider(jl.regression.huber, over={"delta": (0.1, 3.0)})
        <slider of huber: delta from 0.1 to 3>
    """
    fun_name = "plot.slider"
    if len(over) != 1:
        message = (
            f"{fun_name}: `over` has {len(over)} options, expected one: " + '{"delta": (0.1, 3.0)}.'
        )
        raise ValueError(message)
    (option, values), *_ = over.items()
    steps = _positions(fun_name, option, values)
    subject = elementwise(fun_name, loss, {**given, option: float(steps[0])})
    across = np.linspace(*(x or subject.over), _POINTS)

    def at(step: Any, place: Any) -> Any:
        return elementwise(fun_name, loss, {**given, option: step}).function(place)

    # The option is traced: all positions are one compiled function.
    values_and_slopes = jax.vmap(jax.value_and_grad(at, argnums=1), (None, 0))
    drawn = jax.jit(jax.vmap(values_and_slopes, (0, None)))(jnp.asarray(steps), jnp.asarray(across))
    lines = [
        Line(across, np.asarray(value), np.asarray(slope), title(loss, given), subject.variable)
        for value, slope in zip(*drawn, strict=True)
    ]
    name = title(loss, given)
    text = f"<slider of {name}: {option} from {steps[0]:.3g} to {steps[-1]:.3g}>"
    return Slider(_figure(name, option, steps, lines), text)


def _positions(fun_name: str, option: str, values: Any) -> np.ndarray:
    steps = np.asarray(values, float)
    if steps.ndim != 1 or len(steps) < 2 or not np.isfinite(steps).all():
        raise ValueError(
            f"{fun_name}: `over` gives {option} {values!r}, expected its two ends, or a list of "
            f"values."
        )
    if len(steps) > 2:
        return steps
    low, high = steps
    if low > 0 and high >= 10 * low:
        return np.geomspace(low, high, _FRAMES)
    return np.linspace(low, high, _FRAMES)


def _without_extremes(lines: list[Line]) -> list[Line]:
    """The lines that set the scale, without those that are many times as high as the median."""
    heights = [np.ptp(visible([line.value, line.slope])) for line in lines]
    limit = 4 * np.median(heights)
    return [line for line, height in zip(lines, heights, strict=True) if height <= limit]


def _figure(name: str, option: str, steps: np.ndarray, lines: list[Line]) -> str:
    frame = _svg.Frame(_without_extremes(lines), _WIDTH, _HEIGHT)
    texts = [f"{option} = {step:.3g}" for step in steps]
    words = [f"{text}: {_svg.describe(line)}" for text, line in zip(texts, lines, strict=True)]
    frames = [
        [frame.path(line.x, line.value), frame.path(line.x, line.slope), text, word]
        for line, text, word in zip(lines, texts, words, strict=True)
    ]
    start = len(steps) // 2
    key = "".join(
        f'<path d="M{6 + 90 * i} {_HEIGHT + 14}h26" stroke="{color}" stroke-width="2" '
        f'stroke-dasharray="{dash or "none"}"/>'
        f'<text x="{38 + 90 * i}" y="{_HEIGHT + 18}" fill="{GREY}">{what}</text>'
        for i, (what, color, dash) in enumerate(_svg.LINES)
    )
    low, high = float(lines[0].x[0]), float(lines[0].x[-1])
    scale = f"{lines[0].variable} from {low:.3g} to {high:.3g}"
    return (
        f'<figure data-frames="{html.escape(json.dumps(frames))}" '
        f'style="margin: 0; max-width: {_WIDTH}px; font: 13px sans-serif">'
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + _KEY}" '
        f'role="img" aria-label="{html.escape(words[start])}" style="width: 100%; height: auto">'
        f'<svg width="{_WIDTH}" height="{_HEIGHT}">{frame.backdrop()}'
        f"{_svg.strokes(frame, lines[start])}</svg>{key}"
        f'<text x="{_WIDTH - 6}" y="{_HEIGHT + 18}" text-anchor="end" fill="{GREY}">'
        f"{html.escape(scale)}</text></svg>"
        f'<label style="display: flex; gap: 1em; align-items: center">{html.escape(name)}'
        f'<input type="range" min="0" max="{len(steps) - 1}" value="{start}" step="1" '
        f'aria-label="{html.escape(option)}" aria-valuetext="{html.escape(texts[start])}" '
        f'style="flex: 1; min-width: 6em" oninput="{html.escape(_ON_INPUT)}">'
        f'<output style="min-width: 8em">{html.escape(texts[start])}</output></label></figure>'
    )
