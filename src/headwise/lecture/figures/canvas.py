"""What the structure diagrams are drawn with: tensors as small heat maps, boxes and arrows, on a page of 16 x 8."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from numpy.typing import ArrayLike

WEIGHTS, VALUES = "viridis", "PuOr"  # 0 to 1, and around 0: both read by colour-blind eyes
INK, QUIET, PAPER = "#222222", "#666666", "#f3f3f3"
WIDTH, HEIGHT, UNIT = 16, 8, 0.8  # of the page, in units of so many inches: the shape of what a slide has for a figure
SMALL, LARGE = 11, 13  # points: on a slide of 1280 x 720, nothing is less than 14 px high
POINTS = 72 * UNIT  # in a unit of the page
NUMBER = 2.3  # width of a number such as 0.25, by the size of its letters
LETTERS = 9  # of a token that is written out
Length = int | float
Point = tuple[Length, Length]  # x, y
Place = tuple[Length, Length, Length, Length]  # left, bottom, width, height
HEADS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a", "#000000")


class Canvas:
    """A page; places are in its units, 16 wide and 8 high, y upwards."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH * UNIT, HEIGHT * UNIT))
        self.page = self.figure.add_axes((0, 0, 1, 1), zorder=1)  # its letters stand on what is drawn in panels
        self.page.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self.page.axis("off")

    def heat(
        self,
        place: Place,
        matrix: ArrayLike,
        name: str = "",
        shape: Sequence[int] | str = "",
        *,
        weights: bool = False,
        colour: str = QUIET,
        rows: Sequence[str] = (),
        columns: Sequence[str] = (),
    ) -> None:
        """A matrix at (left, bottom, width, height), row 0 on top; its name above, its shape below."""
        left, bottom, width, height = place
        values = np.ma.masked_invalid(np.asarray(matrix, dtype=float))
        norm, colours = _scale(weights, float(np.abs(values).max()) or 1.0)
        ax = self._panel(place)
        ax.imshow(values, norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
        ax.set_facecolor("#dddddd")  # where nothing may be seen
        _label(ax.xaxis, columns, width, rotation=90)
        _label(ax.yaxis, rows, height)
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=1.5)
        self.text(left + width / 2, bottom + height + 0.1, name, size=LARGE, bottom=True)
        shown = shape if isinstance(shape, str) else " × ".join(map(str, shape))
        self.text(left + width / 2, bottom - (1.15 if columns else 0.22), shown, colour=QUIET)

    def largest(self, place: Place, weights: ArrayLike) -> None:
        """The largest weight of every row as a number, on the matrix at ``place``, if its cells have room for numbers."""
        left, bottom, width, height = place
        values = np.asarray(weights)
        across, along = width / values.shape[1], height / values.shape[0]
        if min(across / NUMBER, along) * POINTS < SMALL:
            return
        for row, column in enumerate(values.argmax(1)):
            weight = float(values[row, column])
            x, y = left + (column + 0.5) * across, bottom + height - (row + 0.5) * along
            self.text(x, y, f"{weight:.2f}", colour=INK if weight > 0.5 else "white")

    def keys(self, weights: bool = False) -> None:
        """What the colours mean, at the lower right: of values, by the largest in each panel; of weights, the same in all."""
        self._key(13.9, False, (r"$-\max|\cdot|$", "0", r"$\max|\cdot|$"))
        if weights:
            self._key(11.4, True, ("0", "", "1"))

    def box(self, place: Place, text: str, below: Sequence[int]) -> None:
        """What is multiplied with, its shape below."""
        left, bottom, width, height = place
        style = "round,pad=0,rounding_size=0.12"
        self.page.add_patch(FancyBboxPatch((left, bottom), width, height, style, facecolor=PAPER, edgecolor=QUIET))
        self.text(left + width / 2, bottom + height / 2, text, size=LARGE)
        self.text(left + width / 2, bottom - 0.22, " × ".join(map(str, below)), colour=QUIET)

    def arrow(self, *points: Point, colour: str = QUIET) -> None:
        """From the first point through the others to the last."""
        arrow = FancyArrowPatch(path=Path(points), arrowstyle="-|>", mutation_scale=12, color=colour, linewidth=1.4)
        self.page.add_patch(arrow)

    def line(self, *points: Point, colour: str = QUIET, width: Length = 1.4) -> None:
        self.page.plot(*zip(*points, strict=True), color=colour, linewidth=width, solid_capstyle="butt")

    def text(
        self, x: Length, y: Length, text: str, size: Length = SMALL, colour: str = INK, bottom: bool = False, left: bool = False
    ) -> None:
        """Formulas stand between dollars; tokens, which may hold any sign, are set as ticks."""
        across, along = "left" if left else "center", "bottom" if bottom else "center"
        self.page.text(x, y, text, fontsize=size, color=colour, ha=across, va=along, parse_math=True)

    def _key(self, left: Length, weights: bool, labels: Sequence[str]) -> None:
        width, scale = 1.6, ScalarMappable(*_scale(weights))
        bar = self.figure.colorbar(scale, self._panel((left, 0.5, width, 0.16)), orientation="horizontal", ticks=[])
        bar.outline.set(edgecolor=QUIET)
        for place, label in enumerate(labels):
            self.text(left + place * width / 2, 0.27, label, colour=QUIET)

    def _panel(self, place: Place) -> Axes:
        left, bottom, width, height = place
        return self.figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))


def _scale(weights: bool, most: float = 1.0) -> tuple[Normalize, str]:
    """Of weights, from 0 to 1; of values, from -most to most."""
    return (Normalize(0, 1), WEIGHTS) if weights else (Normalize(-most, most), VALUES)


def _label(axis: Axis, tokens: Sequence[str], length: Length, rotation: Length = 0) -> None:
    """As many tokens as have room: all, or every second, every third, ..."""
    every = max(1, ceil(SMALL * len(tokens) / (POINTS * length)))
    written = [token if len(token) <= LETTERS else f"{token[: LETTERS - 1]}…" for token in tokens]
    axis.set_tick_params(length=4 if every > 1 else 0, pad=1 if every > 1 else 3, color=QUIET)
    axis.set_ticks(range(0, len(tokens), every), written[::every], fontsize=SMALL, rotation=rotation)
