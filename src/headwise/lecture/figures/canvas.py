"""What the structure diagrams are drawn with: tensors as small heat maps, boxes and arrows, on a page of 16 x 9."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import ArrayLike

WEIGHTS, VALUES = "viridis", "PuOr"  # 0 to 1, and around 0: both read by colour-blind eyes
INK, QUIET, PAPER = "#222222", "#666666", "#f3f3f3"
Length = int | float
Point = tuple[Length, Length]  # x, y
Place = tuple[Length, Length, Length, Length]  # left, bottom, width, height
HEADS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a", "#000000")


class Canvas:
    """A page; places are in its units, 16 wide and 9 high, y upwards."""

    def __init__(self, width: Length = 16, height: Length = 9) -> None:
        self.figure = Figure(figsize=(width * 0.8, height * 0.8))
        self.width, self.height = width, height
        self.page = self.figure.add_axes((0, 0, 1, 1))
        self.page.set(xlim=(0, width), ylim=(0, height))
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
        ax = self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))
        values = np.ma.masked_invalid(np.asarray(matrix, dtype=float))
        most = float(np.abs(values).max()) or 1.0
        norm = Normalize(0, 1) if weights else TwoSlopeNorm(0, -most, most)
        ax.imshow(values, cmap=WEIGHTS if weights else VALUES, norm=norm, aspect="auto", interpolation="nearest")
        ax.set_facecolor("#dddddd")  # where nothing may be seen
        ax.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        ax.set_yticks(range(len(rows)), rows, fontsize=8)
        ax.tick_params(length=0, pad=2)
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=1.5)
        self.text(left + width / 2, bottom + height + 0.13, name, size=11, bottom=True)
        shown = shape if isinstance(shape, str) else " × ".join(map(str, shape))
        if shown:
            self.text(left + width / 2, bottom - (0.3 if not columns else 0.75), shown, size=9, colour=QUIET)

    def box(self, place: Place, text: str, colour: str = PAPER) -> None:
        left, bottom, width, height = place
        style = "round,pad=0,rounding_size=0.12"
        self.page.add_patch(FancyBboxPatch((left, bottom), width, height, style, facecolor=colour, edgecolor=QUIET))
        self.text(left + width / 2, bottom + height / 2, text, size=11)

    def arrow(self, start: Point, end: Point, text: str = "", colour: str = QUIET) -> None:
        self.page.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, linewidth=1.4))
        if text:
            self.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.13, text, size=9, bottom=True, colour=colour)

    def line(self, start: Point, end: Point) -> None:
        self.page.plot(*zip(start, end, strict=True), color=QUIET, linewidth=1.4)

    def text(
        self, x: Length, y: Length, text: str, size: Length = 10, colour: str = INK, bottom: bool = False, left: bool = False
    ) -> None:
        """Formulas stand between dollars; tokens, which may hold any sign, are set as ticks."""
        across, along = "left" if left else "center", "bottom" if bottom else "center"
        self.page.text(x, y, text, fontsize=size, color=colour, ha=across, va=along, parse_math=True)
