"""A look as a picture: the grid of all heads and the best aligning head large, on one colour scale."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import findSystemFonts, fontManager, get_font

from headwise.explorer.look import Look
from headwise.models.checkpoint.folder import write

COLOURS = "viridis"


class NoFont(Exception):
    """No installed font has the characters of the text."""


def save(look: Look, path: Path) -> None:
    """Writes a PNG or SVG, by the suffix. Raises NoFont where no installed font can write the tokens."""
    words = [look.sentence, look.translation, *look.predicted, *look.layers[0].query_tokens]
    save_figure(lambda: draw(look), path, "".join(words))


def save_figure(make: Callable[[], Figure], path: Path, text: str = "") -> None:
    """Draws with fonts that have the characters of ``text`` and writes PNG or SVG. Raises NoFont where there are none."""
    fonts = ["DejaVu Sans", *_font_for(text)]
    with rc_context({"font.family": fonts, "font.size": 9, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph .* missing")
        figure = make()
        FigureCanvasAgg(figure)
        write(path, lambda place: figure.savefig(place, format=path.suffix[1:], dpi=110))


def draw(look: Look) -> Figure:
    """All heads on the left, a row per layer; the best aligning head on the right."""
    figure = Figure(figsize=(16, 9), layout="constrained")
    left, right = figure.subfigures(1, 2)  # type: ignore[misc]
    figure.suptitle(f"{look.sentence}   →   {look.translation}", fontsize=14)
    _grid(look, left)
    _large(look, right)
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    figure.colorbar(scale, ax=right.axes, label="attention weight (one scale for all heads)", shrink=0.8)
    return figure


def _grid(look: Look, figure: SubFigure) -> None:
    axes = figure.subplots(len(look.layers), len(look.layers[0].heads), squeeze=False)
    figure.supxlabel("in every tile: key →", fontsize=9)
    figure.supylabel("in every tile: query ↓", fontsize=9)
    for row, layer in enumerate(look.layers):
        number = sum(other.kind == layer.kind for other in look.layers[:row])
        axes[row][0].set_ylabel(f"{layer.kind} {number}", rotation=0, ha="right", va="center")
        for h, head in enumerate(layer.heads):
            ax = axes[row][h]
            _tile(ax, head.weights)
            ax.set_xticks([])
            ax.set_yticks([])
            if row == 0:
                ax.set_title(f"head {h}", fontsize=9)
            if (row, h) == (look.best_layer, look.best_head):
                for spine in ax.spines.values():
                    spine.set(color="red", linewidth=2.5)


def _large(look: Look, figure: SubFigure) -> None:
    layer = look.layers[look.best_layer]
    head = layer.heads[look.best_head]
    ax = figure.subplots()
    _tile(ax, head.weights)
    ax.set_title(f"{layer.address}, head {look.best_head}: {head.alignment:.2f} nats of alignment", fontsize=10)
    ax.set_xticks(range(len(layer.key_tokens)), layer.key_tokens, rotation=60, ha="right", fontsize=11)
    labels = [f"{query} → {after}" for query, after in zip(layer.query_tokens, look.predicted, strict=True)]
    ax.set_yticks(range(len(labels)), labels, fontsize=11)
    ax.set_xlabel("key: what the encoder read", fontsize=11)
    ax.set_ylabel("query: what the decoder read → what it wrote next", fontsize=11)
    for spine in ax.spines.values():
        spine.set(color="red", linewidth=2.5)


def _tile(ax: Axes, weights: list[list[float]]) -> None:
    ax.imshow(weights, cmap=COLOURS, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")


def _font_for(text: str) -> list[str]:
    """The name of an installed font with the characters that matplotlib's own font lacks; nothing if it lacks none."""
    own = get_font(fontManager.findfont("DejaVu Sans")).get_charmap()
    missing = frozenset({ord(character) for character in text if not character.isspace()} - own.keys())
    return [_font_with(missing, tuple(sorted(findSystemFonts())))] if missing else []


@cache
def _font_with(missing: frozenset[int], paths: tuple[str, ...]) -> str:
    """The name of the first of these fonts that has the characters. Raises NoFont."""
    for path in paths:
        try:
            font = get_font(path)
        except (OSError, RuntimeError):  # a bitmap or a damaged font
            continue
        if missing <= font.get_charmap().keys():
            fontManager.addfont(path)
            return font.family_name
    some = "".join(map(chr, sorted(missing)[:8]))
    raise NoFont(f"no installed font has the characters {some}; on Debian or Ubuntu: apt-get install fonts-wqy-microhei")
