"""A table of the lecture: what every way of showing it is made from."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from headwise.lecture.experiments.results import Interval

Cell = str | int | float | Interval | None


@dataclass(frozen=True)
class Table:
    """columns: their keys in the words' "terms". rows: a cell that is text is looked up there, too, where it is a key.

    grouped: columns that say something of several rows: what stands under each other there and is the same is one cell.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    grouped: tuple[str, ...] = ()

    def groups(self) -> list[list[Sequence[Cell]]]:
        """Rows that share what is grouped; without that, each row by itself."""
        places, found = [self.columns.index(name) for name in self.grouped], list[list[Sequence[Cell]]]()
        for row in self.rows:
            if places and found and all(row[place] == found[-1][0][place] for place in places):
                found[-1].append(row)
            else:
                found.append([row])
        return found

    def pages(self, most: int) -> Iterator[Table]:
        """Of at most so many rows each, or of one group that is longer."""
        page = list[Sequence[Cell]]()
        for group in self.groups():
            if page and len(page) + len(group) > most:
                yield replace(self, rows=page)
                page = []
            page = [*page, *group]
        yield replace(self, rows=page)

    def markdown(self, terms: Mapping[str, str]) -> str:
        rows = [[terms.get(name, name) for name in self.columns], ["---"] * len(self.columns)]
        for group in self.groups():
            for place, row in enumerate(group):
                repeated = self.grouped if place else ()
                named = zip(self.columns, row, strict=True)
                rows.append(["" if name in repeated else _said(cell, terms).replace("|", "\\|") for name, cell in named])
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def html(self, terms: Mapping[str, str]) -> str:
        """Columns of numbers are of the class "number"; of an interval, the limits are small."""
        kinds = [' class="number"' if all(map(_counts, column)) else "" for column in zip(*self.rows, strict=True)]
        header = [f"<th{kind}>{escape(terms.get(name, name))}</th>" for name, kind in zip(self.columns, kinds, strict=True)]
        lines = [f"<tr>{''.join(header)}</tr>"]
        for group in self.groups():
            for place, row in enumerate(group):
                cells = list[str]()
                for name, kind, cell in zip(self.columns, kinds, row, strict=True):
                    if name not in self.grouped:
                        cells.append(f"<td{kind}>{_html(cell, terms)}</td>")
                    elif place == 0:
                        cells.append(f'<td{kind} rowspan="{len(group)}">{_html(cell, terms)}</td>')
                lines.append(f"<tr>{''.join(cells)}</tr>")
        return f"<table>{''.join(lines)}</table>"

    def csv(self) -> str:
        """The numbers themselves, under keys; a column of intervals becomes three."""
        file = io.StringIO()
        columns = list(zip(*self.rows, strict=True))
        wide = {place for place, column in enumerate(columns) if any(isinstance(cell, Interval) for cell in column)}
        header = [
            part
            for place, name in enumerate(self.columns)
            for part in ((name, f"{name}_low", f"{name}_high") if place in wide else (name,))
        ]
        rows = [[part for place, cell in enumerate(row) for part in _parts(cell, place in wide)] for row in self.rows]
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
        return file.getvalue()


def _parts(cell: Cell, wide: bool) -> tuple[Cell, ...]:
    if isinstance(cell, Interval):
        return tuple(cell)
    return (cell, None, None) if wide else (cell,)


def _counts(cell: Cell) -> bool:
    """A shape, which is text, counts, too."""
    return not isinstance(cell, str) or cell[:1].isdigit()


def _html(cell: Cell, terms: Mapping[str, str]) -> str:
    text = escape(_said(cell, terms))
    return re.sub(r"\[.*\]", r"<small>\g<0></small>", text) if isinstance(cell, Interval) else text


def _said(cell: Cell, terms: Mapping[str, str]) -> str:
    match cell:
        case None:
            return "–"
        case str():
            return terms.get(cell, cell)
        case float() if math.isnan(cell):
            return "–"
        case int():
            return f"{cell:,}"
        case Interval():
            return _said_interval(cell)
        case _ if math.isnan(cell):  # of a single head: there are no two to compare
            return "–"
        case _ if cell != 0 and abs(cell) < 1e-3:
            return f"{cell:.1e}"
        case _:
            return f"{cell:,.3f}" if abs(cell) < 10 else f"{cell:,.1f}"


def _said_interval(found: Interval) -> str:
    """With two digits of its half width, four decimals at most: 0.36 [-1.0, 1.7]."""
    half = (found.high - found.low) / 2
    if not half > 0:  # one seed, or all seeds alike
        return f"{found.mean:,.0f}" if found.mean.is_integer() else f"{found.mean:,.4g}"
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 4)
    mean, low, high = (f"{number:,.{decimals}f}" for number in found)
    return f"{mean} [{low}, {high}]"
