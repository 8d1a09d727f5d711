"""Draws every loss of the catalogue into one picture, docs/images/losses.svg."""

import html
import math
import textwrap

import jaxloss as jl
from jaxloss.plot import _sections, _svg
from jaxloss.plot._lines import Subject
from jaxloss.plot._style import GREY
from tools import ROOT

COLUMNS, WIDTH, HEIGHT, CAPTION = 7, 108, 56, 20
LETTERS = 26  # in a line of a caption
TARGET = ROOT / "docs" / "images" / "losses.svg"


def subjects() -> list[Subject]:
    """What is drawn: each loss that is a curve along some line through its inputs."""
    found = [_sections.of(info) for info in jl.catalogue.losses() if info.family]
    return [subject for subject in found if subject]


def picture() -> str:
    """An SVG file: a cell for each loss with its value, its gradient and its name."""
    lines = [subject.sample(points=61) for subject in subjects()]
    rows = math.ceil(len(lines) / COLUMNS)
    cells = []
    for place, line in enumerate(lines):
        row, column = divmod(place, COLUMNS)
        frame = _svg.Frame([line], WIDTH, HEIGHT)
        axis = f'd="M6 {float(frame.y(0.0)):.1f}H{WIDTH - 6}" stroke="{GREY}" stroke-width="0.4"'
        names = textwrap.wrap(line.name.replace("_", " "), LETTERS)
        size = min(9.0, 1.75 * (WIDTH - 8) / max(map(len, names)))
        text = "".join(
            f'<text x="{WIDTH / 2:g}" y="{HEIGHT + 8 + 8 * below}" font-size="{size:.1f}">'
            f"{html.escape(name)}</text>"
            for below, name in enumerate(names)
        )
        cells.append(
            f'<svg x="{column * WIDTH}" y="{row * (HEIGHT + CAPTION)}" width="{WIDTH}" '
            f'height="{HEIGHT + CAPTION}"><path {axis}/>{_svg.strokes(frame, line)}{text}</svg>'
        )
    title = f"{len(lines)} losses, each with its gradient, drawn from the function and jax.grad"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * WIDTH} '
        f'{rows * (HEIGHT + CAPTION)}" role="img" aria-label="{title}" font-family="sans-serif" '
        f'text-anchor="middle" fill="{GREY}"><title>{title}</title>\n'
        + "\n".join(cells)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    TARGET.write_text(picture())
