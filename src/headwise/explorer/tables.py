"""Tables of heads and of models for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isnan

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from headwise.explorer.compare import Comparison
from headwise.explorer.heads import IMPORTANCE, Head, Heads
from headwise.models.checkpoint.folder import printable
from headwise.tasks.quality import Number

ORDER = (IMPORTANCE, "entropy", "alignment", "distance", "diagonality", "first", "previous", "own", "next")
ORDER += ("induction", "duplicate", "spread", "top_mass")
LEGEND = (
    "Means over all queries. Entropy and alignment (what the query tells about the key) in nats, distance and spread in "
    "positions, diagonality a correlation of query and key positions, the others shares of weight; where a head looks is not "
    "yet what it is worth. All are defined in: python -m pydoc headwise.insight.measuring.statistics."
)
LOSS = "Importance, |d loss / d gate|: how much the loss of an example changes with the head's gate; 95 % over examples."
NO_LOSS = "No importance: the lines do not say what the model should answer, or its heads have no gates."


def table(*columns: str, title: str | None = None) -> Table:
    """Without lines; the first column is never cut, for a name that is cut cannot be used."""
    made = Table(*columns, box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    if columns:
        made.columns[0].no_wrap = True
    return made


def plain(name: str) -> str:
    """A name of a folder, in which nothing is obeyed."""
    return escape(printable(name))


def alike(address: str) -> str:
    """What modules have in common that differ in the number of their layer."""
    return re.sub(r"\b\d+\b", "*", address)


def heads(found: Heads, sort: str | None, width: int) -> Group:
    """All heads, a line each, by one of their numbers (None = as they stand in the model), and as many numbers as fit."""
    rows = list(found.heads) if sort is None else found.by(sort)
    names = [*dict.fromkeys([*([sort] if sort else []), *ORDER, *found.names])]
    names = [name for name in names if name in found.names]
    room = width - max(len(head.address) for head in rows) - len("  head")
    shown = list[str]()
    for name in names:
        room -= _width(name)
        if room < 0:
            break
        shown.append(name)
    lines = table("attention", "head", title=plain(found.title))
    lines.columns[1].justify = "right"
    for name in shown:
        lines.add_column(name, justify="right", no_wrap=True)
    for head in rows:
        lines.add_row(Text(head.address), str(head.head), *(_cell(head, name) for name in shown))
    more = f"Not shown: {', '.join(names[len(shown) :])}." if len(shown) < len(names) else ""
    return Group(lines, *(Text(line, "dim") for line in (LOSS if found.labelled else NO_LOSS, LEGEND, more) if line))


def _width(name: str) -> int:
    return len("  ") + max(len(name), len("0.0123 (0.0123–0.0123)") if name == IMPORTANCE else len("-0.123"))


def _cell(head: Head, name: str) -> str:
    number = head.numbers.get(name)
    if number is None or isnan(number.mean):
        return "–"
    if name != IMPORTANCE or isnan(number.low):
        return f"{number.mean:z.3f}" if name != IMPORTANCE else f"{number.mean:.3g}"
    return f"{number.mean:.3g} ({number.low:.3g}–{number.high:.3g})"


def comparison(found: Comparison, names: Sequence[str]) -> Table:
    """Both models' numbers and their difference."""
    made, (first, second) = table("", *map(plain, names), "difference"), (found.first, found.second)
    for column in made.columns[1:]:
        column.justify = "right"
    made.add_row("model", plain(first.model), plain(second.model), "")
    for name in ("heads", "parameters", "bytes"):
        one, other = getattr(first, name), getattr(second, name)
        made.add_row(name, f"{one:,}", f"{other:,}", f"{100 * (other / one - 1):+.1f} %")
    for name in [name for name in first.quality if name in second.quality]:
        ends = (_number(side.quality[name]) for side in (first, second))
        made.add_row(name, *ends, _number(found.differences[name], "+") if name in found.differences else "")
    if found.seconds is not None and found.slower is not None:
        times = (f"{1e3 * seconds:,.1f} ms" for seconds in found.seconds)
        made.add_row("forward pass", *times, f"{100 * (found.slower - 1):+.1f} % (median)")
    return made


def matches(found: Comparison, names: Sequence[str]) -> Table:
    """Which head is which."""
    made = table("attention", *(f"head of {plain(name)}" for name in names), "parameters alike", "attention alike")
    for column in made.columns[1:]:
        column.justify = "right"
    for match in found.matches:
        heads = ("–" if head is None else str(head) for head in (match.first, match.second))
        alike = ("–" if share is None else f"{share:.3f}" for share in (match.parameters, match.attention))
        made.add_row(Text(match.address), *heads, *alike)
    return made


def _number(number: Number, sign: str = "") -> str:
    digits = 2 if abs(number.mean) >= 10 else 3
    low, high = (f"{end:.{digits}f}" for end in number[1:])
    return f"{number.mean:{sign}.{digits}f} ({low} to {high})"
