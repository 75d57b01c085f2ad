"""A look in the terminal: all heads as a table, one head as a shaded grid, its steps with their values."""

from __future__ import annotations

from itertools import groupby

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headwise.explorer.look import Look, Step

SHADES = " ░▒▓█"
LEGEND = (
    "Means over queries. Entropy in nats: 0 = one key. Distance in keys. Alignment in nats: what the query tells about the key "
    "looked at (mutual information). First: the share of the first key. Partly = a third of the weight or more; "
    "spreads = nearly even. ★ = aligns best."
)


def show(look: Look, console: Console) -> None:
    """Prints the translation, every head, the best aligning head and its steps."""
    console.print(Text(look.sentence, "dim"), Text("→", "dim"), Text(look.translation, "bold"))
    console.print()
    console.print(_table(look))
    console.print(Text(LEGEND, "dim"))
    layer, head = look.layers[look.best_layer], look.layers[look.best_layer].heads[look.best_head]
    console.print()
    console.print(
        Text(f"{layer.address} head {look.best_head}", "bold"),
        Text(f"aligns best ({head.alignment:.2f} nats). Weights in %; a row is a query, a column a key."),
    )
    labels = [f"{query} → {after}" for query, after in zip(layer.query_tokens, look.predicted, strict=True)]
    for part in _grids(labels, layer.key_tokens, head.weights, console.width):
        console.print(part)
    console.print()
    console.print(
        Text("Its steps", "bold"), Text(f'at the query "{layer.query_tokens[look.step_query]}" (shapes: one sentence)')
    )
    console.print(_steps(look.steps, console.width))
    worst = max(layer.output_difference for layer in look.layers)
    check = f"Check: in all {len(look.layers)} modules the heads through W_O sum to the output, largest difference {worst:.1e}."
    console.print(Text(check))
    console.print(Text("Where a head looks is not yet why the model decides: attention is not explanation.", "dim"))


def _table(look: Look) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("attention", "layer", "head"):
        table.add_column(name, no_wrap=True)
    for name in ("entropy", "distance", "alignment", "first"):
        table.add_column(name, justify="right")
    table.add_column("seems to look at", no_wrap=True)
    for kind, layers in groupby(look.layers, key=lambda layer: layer.kind):
        for number, layer in enumerate(layers):
            for h, head in enumerate(layer.heads):
                chosen = layer is look.layers[look.best_layer] and h == look.best_head
                distance = "–" if head.distance is None else f"{head.distance:.2f}"
                numbers = (f"{head.entropy:.2f}", distance, f"{head.alignment:.2f}", f"{head.first:.0%}")
                place = (kind if number == h == 0 else "", str(number) if h == 0 else "", str(h))
                seems = f"{head.seems} ★" if chosen else head.seems
                last = h == len(layer.heads) - 1
                table.add_row(*place, *numbers, seems, style="bold green" if chosen else None, end_section=last)
    return table


def _grids(rows: list[str], columns: list[str], weights: list[list[float]], width: int) -> list[Table]:
    """The matrix as tables narrow enough for the terminal, keys left to right."""
    room = width - max(map(cell_len, rows)) - 3
    parts: list[list[int]] = [[]]
    used = 0
    for j, token in enumerate(columns):
        wide = max(4, cell_len(token)) + 1
        if parts[-1] and used + wide > room:
            parts.append([])
            used = 0
        parts[-1].append(j)
        used += wide
    return [_grid(rows, columns, weights, part) for part in parts]


def _grid(rows: list[str], columns: list[str], weights: list[list[float]], part: list[int]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("query \\ key", no_wrap=True, justify="right")
    for j in part:
        table.add_column(Text(columns[j]), no_wrap=True, min_width=4, justify="right")
    for label, row in zip(rows, weights, strict=True):
        table.add_row(Text(label), *(_cell(row[j]) for j in part))
    return table


def _cell(p: float) -> Text:
    shade = SHADES[min(int(p * len(SHADES)), len(SHADES) - 1)]
    level = 236 + round(p * 19)  # the terminal's grey ramp
    return Text(f"{shade}{100 * p:3.0f}", style=f"{'black' if p > 0.5 else 'white'} on color({level})")


def _steps(steps: list[Step], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "formula", "shape", "values at this query"):
        table.add_column(name, no_wrap=True)
    rows = [(step.name, step.formula, "×".join(map(str, step.shape))) for step in steps]
    room = width - sum(max(map(cell_len, column)) + 2 for column in zip(*rows, strict=True))
    for row, step in zip(rows, steps, strict=True):
        table.add_row(*row, _as_many_as_fit([f"{value:.3f}" for value in step.values], room))
    return table


def _as_many_as_fit(values: list[str], room: int) -> str:
    shown = "  ".join(values)
    while len(shown) > room and values:
        values = values[:-1]
        shown = "  ".join([*values, "…"])
    return shown
