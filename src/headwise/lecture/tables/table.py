"""A table of the lecture: what every way of showing it is made from."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """columns: their keys in the words' "terms". rows: a cell that is text is looked up there, too, where it is a key."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def said(self, terms: dict[str, str]) -> list[list[str]]:
        """Header and rows as text, in the language of the terms."""
        return [[terms.get(name, name) for name in self.columns]] + [[_said(cell, terms) for cell in row] for row in self.rows]

    def markdown(self, terms: dict[str, str]) -> str:
        header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in self.said(terms))
        return "".join(f"| {' | '.join(row)} |\n" for row in (header, ["---"] * len(header), *rows))

    def csv(self) -> str:
        """The numbers themselves, under keys."""
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.columns, *self.rows])
        return file.getvalue()


def _said(cell: Cell, terms: dict[str, str]) -> str:
    match cell:
        case None:
            return "–"
        case str():
            return terms.get(cell, cell)
        case int():
            return f"{cell:,}"
        case _ if cell != 0 and abs(cell) < 1e-3:
            return f"{cell:.1e}"
        case _:
            return f"{cell:,.3f}" if abs(cell) < 10 else f"{cell:,.1f}"
