"""What the structure diagrams are drawn with: tensors as small heat maps, boxes and arrows, on a page of 16 x 8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import ArrayLike

WEIGHTS, VALUES = "viridis", "PuOr"  # 0 to 1, and around 0: both read by colour-blind eyes
INK, QUIET, PAPER = "#222222", "#666666", "#f3f3f3"
WIDTH, HEIGHT, UNIT = 16, 8, 0.8  # of the page, in units of so many inches: the shape of what a slide has for a figure
SMALL, LARGE = 11, 13  # points: on a slide of 1280 x 720, nothing is less than 14 px high
LETTERS = 9  # of a token that is written out
Length = int | float
Point = tuple[Length, Length]  # x, y
Place = tuple[Length, Length, Length, Length]  # left, bottom, width, height
HEADS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a", "#000000")


class Canvas:
    """A page; places are in its units, 16 wide and 8 high, y upwards."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH * UNIT, HEIGHT * UNIT))
        self.page = self.figure.add_axes((0, 0, 1, 1))
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
        ax = self.figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))
        values = np.ma.masked_invalid(np.asarray(matrix, dtype=float))
        most = float(np.abs(values).max()) or 1.0
        norm = Normalize(0, 1) if weights else TwoSlopeNorm(0, -most, most)
        ax.imshow(values, cmap=WEIGHTS if weights else VALUES, norm=norm, aspect="auto", interpolation="nearest")
        ax.set_facecolor("#dddddd")  # where nothing may be seen
        ax.set_xticks(range(len(columns)), _written(columns), rotation=90, fontsize=_size(columns, width))
        ax.set_yticks(range(len(rows)), _written(rows), fontsize=_size(rows, height))
        ax.tick_params(length=0, pad=3)
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=1.5)
        self.text(left + width / 2, bottom + height + 0.1, name, size=LARGE, bottom=True)
        shown = shape if isinstance(shape, str) else " × ".join(map(str, shape))
        self.text(left + width / 2, bottom - (1.15 if columns else 0.22), shown, colour=QUIET)

    def box(self, place: Place, text: str, below: Sequence[int]) -> None:
        """What is multiplied with, its shape below."""
        left, bottom, width, height = place
        style = "round,pad=0,rounding_size=0.12"
        self.page.add_patch(FancyBboxPatch((left, bottom), width, height, style, facecolor=PAPER, edgecolor=QUIET))
        self.text(left + width / 2, bottom + height / 2, text, size=LARGE)
        self.text(left + width / 2, bottom - 0.22, " × ".join(map(str, below)), colour=QUIET)

    def arrow(self, start: Point, end: Point, colour: str = QUIET) -> None:
        self.page.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, linewidth=1.4))

    def line(self, start: Point, end: Point, colour: str = QUIET, width: Length = 1.4) -> None:
        self.page.plot(*zip(start, end, strict=True), color=colour, linewidth=width, solid_capstyle="butt")

    def text(
        self, x: Length, y: Length, text: str, size: Length = SMALL, colour: str = INK, bottom: bool = False, left: bool = False
    ) -> None:
        """Formulas stand between dollars; tokens, which may hold any sign, are set as ticks."""
        across, along = "left" if left else "center", "bottom" if bottom else "center"
        self.page.text(x, y, text, fontsize=size, color=colour, ha=across, va=along, parse_math=True)


def _written(tokens: Sequence[str]) -> list[str]:
    return [token if len(token) <= LETTERS else f"{token[: LETTERS - 1]}…" for token in tokens]


def _size(tokens: Sequence[str], length: Length) -> Length:
    """Points: less than SMALL where so many tokens on so short a length would touch each other."""
    return min(SMALL, 72 * UNIT * length / max(1, len(tokens)))
