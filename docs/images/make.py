"""Draws every loss of the catalogue into one picture, docs/images/losses.svg: `make readme`."""

import html
import math
import pathlib
import textwrap

import jaxloss as jl
from jaxloss.plot import _sections, _svg
from jaxloss.plot._style import GREY

COLUMNS, WIDTH, HEIGHT, WORDS = 10, 108, 56, 20
LETTERS = 26  # in a line below a picture
TARGET = pathlib.Path(__file__).with_name("losses.svg")


def main() -> None:
    """Each loss in a cell: its value, its gradient, its name."""
    subjects = [(info, _sections.of(info)) for info in jl.catalogue.losses() if info.family]
    lines = [subject.sample(points=61) for _, subject in subjects if subject]
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
            f'<svg x="{column * WIDTH}" y="{row * (HEIGHT + WORDS)}" width="{WIDTH}" '
            f'height="{HEIGHT + WORDS}"><path {axis}/>{_svg.strokes(frame, line)}{text}</svg>'
        )
    words = f"{len(lines)} losses, each with its gradient, drawn from the function and jax.grad"
    TARGET.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * WIDTH} '
        f'{rows * (HEIGHT + WORDS)}" role="img" aria-label="{words}" font-family="sans-serif" '
        f'text-anchor="middle" fill="{GREY}"><title>{words}</title>\n'
        + "\n".join(cells)
        + "\n</svg>\n"
    )
    print(f"{TARGET.name}: {words}")


if __name__ == "__main__":
    main()
