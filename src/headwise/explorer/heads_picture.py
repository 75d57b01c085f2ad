"""All heads of a model as a picture: one number a panel, modules by heads, and the importance of all with intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from math import ceil, nan
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from headwise.explorer.heads import IMPORTANCE, Heads
from headwise.explorer.picture import COLOURS, save_figure
from headwise.explorer.tables import alike

PANELS = (IMPORTANCE, "entropy", "alignment", "distance", "diagonality", "first", "previous", "own", "next", "induction")
UNITS = {IMPORTANCE: "|d loss / d gate|", "entropy": "nats", "alignment": "nats", "distance": "positions"}
ACROSS = 5  # panels
NAMED = 120  # heads whose names can still be read
KINDS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito 2008, told apart by everybody


def save(heads: Heads, path: Path) -> None:
    """Writes a PNG or SVG, by the suffix."""
    save_figure(lambda: draw(heads), path)


def draw(heads: Heads) -> Figure:
    """A panel for each number, a row per module; below, where it was measured, importance in order."""
    names = [name for name in PANELS if name in heads.names]
    addresses = list(dict.fromkeys(head.address for head in heads.heads))
    rows = ceil(len(names) / ACROSS)
    tall = rows * max(1.6, 0.24 * len(addresses) + 0.8)
    ranked = IMPORTANCE in names
    figure = Figure(figsize=(16, tall + (3.6 if ranked else 0.6)), layout="constrained")
    figure.suptitle(f"{heads.title} (white: not defined)", fontsize=13)
    parts = figure.subfigures(1 + ranked, 1, height_ratios=[tall, 3.2][: 1 + ranked], squeeze=False)
    _panels(parts[0, 0], heads, names, addresses, rows)
    if ranked:
        _ranking(parts[1, 0].subplots(), heads)
    return figure


def _panels(figure: SubFigure, heads: Heads, names: Sequence[str], addresses: Sequence[str], rows: int) -> None:
    across = min(ACROSS, len(names))
    axes = figure.subplots(rows, across, squeeze=False)
    most = 1 + max(head.head for head in heads.heads)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for i, name in enumerate(names):
        ax = axes[i // across][i % across]
        values = np.full((len(addresses), most), nan)
        for head in heads.heads:
            if name in head.numbers:
                values[addresses.index(head.address), head.head] = head.numbers[name].mean
        shown = ax.imshow(values, cmap=COLOURS, aspect="auto", interpolation="nearest")
        figure.colorbar(shown, ax=ax, pad=0.02).formatter.set_useOffset(False)  # type: ignore[attr-defined]
        ax.set_title(f"{name} ({UNITS.get(name, 'share' if name != 'diagonality' else 'correlation')})", fontsize=10)
        ax.set_xticks(range(0, most, ceil(most / 12)))
        ax.set_yticks(range(len(addresses)), addresses if i % across == 0 else [""] * len(addresses), fontsize=8)
        if i + across >= len(names):
            ax.set_xlabel("head")


def _ranking(ax: Axes, heads: Heads) -> None:
    """Every head with its interval, the most important first, a colour for each kind of module."""
    ranked = [head for head in heads.by(IMPORTANCE) if IMPORTANCE in head.numbers]
    numbers = np.array([head.numbers[IMPORTANCE] for head in ranked])
    reach = np.nan_to_num(np.abs(numbers[:, 1:] - numbers[:, :1])).T  # down and up
    kinds = np.array([alike(head.address) for head in ranked])
    for kind, colour in zip(dict.fromkeys(alike(head.address) for head in heads.heads), cycle(KINDS), strict=False):
        (at,) = np.nonzero(kinds == kind)
        ax.errorbar(at, numbers[at, 0], yerr=reach[:, at], fmt="o", color=colour, ms=4, lw=1.2, label=kind)
    ax.set(xlim=(-1, len(ranked)), ylim=(0, None), ylabel="|d loss / d gate|, 95 % interval")
    ax.set_xlabel("heads, the most important first" + (": layer.head" if len(ranked) <= NAMED else ""))
    if len(ranked) <= NAMED:
        names = [f"{re.findall(r'[0-9]+', '0' + head.address)[-1]}.{head.head}" for head in ranked]
        ax.set_xticks(range(len(ranked)), names, rotation=90, fontsize=7)
    ax.legend(frameon=False)
