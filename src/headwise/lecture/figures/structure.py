"""Figures 1 and 3 to 7: the mechanism, drawn from a recorded run; every shape and every colour is that of a real tensor."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure
from torch import Tensor

from headwise.lecture.costs import projection
from headwise.lecture.figures.canvas import HEADS, QUIET, Canvas
from headwise.lecture.recording import Recording

SHOWN = 8  # heads that are drawn one by one; of more, the first


def mechanism(run: Recording) -> Figure:
    """Figure 1: from x to the output, all heads."""
    page, shown = Canvas(), _shown(run)
    page.heat((0.9, 3.2, 1.5, 2.6), run.x, "x", run.x.shape, rows=run.tokens)
    for i, (name, part) in enumerate((("Q", run.query), ("K", run.key), ("V", run.value))):
        bottom = 6.2 - 2.6 * i
        page.arrow((2.45, 4.5), (3.0, bottom + 0.8))
        weight = _weight(run, name)
        page.box((3.05, bottom + 0.5, 1.1, 0.6), f"$W_{name}$")
        page.text(3.6, bottom + 0.3, " × ".join(map(str, weight.shape)), 8, QUIET)
        page.arrow((4.2, bottom + 0.8), (4.65, bottom + 0.8))
        page.heat((4.7, bottom, 1.7, 1.6), _joined(part), f"${name}$", _joined(part).shape)
    height = 8.2 / len(shown)
    for place, head in enumerate(shown):
        bottom = 8.4 - (place + 1) * height
        middle, colour = bottom + 0.42 * height, HEADS[place % len(HEADS)]
        page.arrow((6.5, 4.5), (7.3, middle), colour=colour)
        page.heat((7.4, bottom + 0.1, 0.95 * height, 0.78 * height), run.weights[head], weights=True, colour=colour)
        page.arrow((7.5 + height, middle), (7.9 + height, middle), colour=colour)
        page.heat((8.0 + height, bottom + 0.1, 1.1, 0.78 * height), run.context[head], colour=colour)
        page.text(9.45 + height, middle, f"{head}", 9, colour)
        page.arrow((9.65 + height, middle), (11.35, 4.5), colour=colour)
    page.text(7.4 + 0.5 * height, 8.6, r"$\mathrm{softmax}(Q_h K_h^\top / \sqrt{d_h})$", 10)
    page.text(8.55 + height, 8.6, "$z_h$", 10)
    page.heat((11.4, 3.2, 1.4, 2.6), run.joined, "$[z_1 … z_h]$", run.joined.shape)
    page.arrow((12.85, 4.5), (13.15, 4.5))
    page.box((13.2, 4.2, 0.9, 0.6), "$W_O$")
    page.text(13.65, 4.0, " × ".join(map(str, projection(run.module, "out_proj").weight.mT.shape)), 8, QUIET)
    page.arrow((14.15, 4.5), (14.4, 4.5))
    page.heat((14.45, 3.2, 1.4, 2.6), run.output, "y", run.output.shape)
    return page.figure


def heads(run: Recording) -> Figure:
    """Figure 3: what every head looks at, what it contributes, and their sum."""
    page, shown = Canvas(), _shown(run)
    width = 14.4 / len(shown)
    for place, head in enumerate(shown):
        left, colour = 1.3 + place * width, HEADS[place % len(HEADS)]
        size = min(0.86 * width, 2.2)
        rows = run.tokens if place == 0 else ()
        page.heat(
            (left, 5.9, size, 2.2),
            run.weights[head],
            f"{head}",
            weights=True,
            colour=colour,
            rows=rows,
            columns=run.tokens,
        )
        page.arrow((left + size / 2, 4.9), (left + size / 2, 4.5), colour=colour)
        page.heat((left, 3.0, size, 1.4), run.contributions[head], colour=colour)
        page.arrow((left + size / 2, 2.9), (8.5, 2.2), colour=colour)
    page.text(8.5, 8.75, "$p_h = \\mathrm{softmax}(q_h k_h^\\top / \\sqrt{d_h})$", 11)
    page.text(0.65, 3.7, "$z_h W_O^h$", 11)
    page.heat((6.5, 0.5, 4.0, 1.6), run.output, "", run.output.shape)
    page.text(10.7, 1.3, "$y = \\sum_h z_h W_O^h + b_O$", 11, left=True)
    page.text(10.7, 0.8, f"max |Σ − y| = {run.difference:.1e}", 9, QUIET, left=True)
    return page.figure


def projections(run: Recording) -> Figure:
    """Figure 4: query, key and value of every head."""
    page, shown = Canvas(), _shown(run)
    width = 14.2 / len(shown)
    for i, (name, part) in enumerate((("q", run.query), ("k", run.key), ("v", run.value))):
        bottom = 6.2 - 2.7 * i
        page.text(0.5, bottom + 0.9, f"${name}_h$", 14)
        for place, head in enumerate(shown):
            of = head * len(part) // len(run.query)  # heads of keys and values may be shared
            colour, size = HEADS[place % len(HEADS)], min(0.86 * width, 2.4)
            rows = run.tokens if place == 0 else ()
            shape = part[of].shape if i == 2 or len(part) < len(run.query) else ""
            label = f"{head}" if i == 0 else ""
            page.heat((1.6 + place * width, bottom, size, 1.8), part[of], label, shape, colour=colour, rows=rows)
    return page.figure


def steps(run: Recording, head: int = 0) -> Figure:
    """Figure 5: all steps of one head."""
    page, tokens = Canvas(height=8), run.tokens
    group = head * len(run.key) // len(run.query)
    products = run.scores[head]
    row = [
        ("x", run.x, run.x.shape, False),
        ("$q_h$", run.query[head], run.query[head].shape, False),
        ("$k_h$", run.key[group], run.key[group].shape, False),
        ("$v_h$", run.value[group], run.value[group].shape, False),
    ]
    for i, (name, matrix, shape, _) in enumerate(row):
        page.heat((1.2 + 3.9 * i, 5.0, 2.4, 2.1), matrix, name, shape, rows=tokens if i == 0 else ())
    page.line((2.4, 7.55), (14.1, 7.55))
    for i, text in enumerate(("$W_Q^h$", "$W_K^h$", "$W_V^h$"), start=1):
        page.arrow((2.4 + 3.9 * i - 0.9, 7.55), (2.4 + 3.9 * i - 0.9, 7.15))
        page.text(2.4 + 3.9 * i - 0.4, 7.75, text, 10, QUIET)
    below = [
        ("$s = q k^\\top / \\sqrt{d_h}$", products, products.shape, False),
        ("$p = \\mathrm{softmax}(s)$", run.weights[head], run.weights[head].shape, True),
        ("$z_h = p v_h$", run.context[head], run.context[head].shape, False),
        ("$[z_1 … z_h] W_O + b_O$", run.output, run.output.shape, False),
    ]
    for i, (name, matrix, shape, weights) in enumerate(below):
        rows, columns = tokens if i == 0 else (), tokens if i < 2 else ()
        place = (1.2 + 3.9 * i, 1.1, 2.4, 2.1)
        page.heat(place, matrix, name, shape, weights=weights, rows=rows, columns=columns)
        if i:
            page.arrow((1.2 + 3.9 * i - 1.4, 2.15), (1.2 + 3.9 * i - 0.1, 2.15))
    return page.figure


def split(run: Recording) -> Figure:
    """Figure 6: x through W_Q, and the result cut into heads."""
    page, shown, whole = Canvas(height=8), _shown(run), _joined(run.query)
    page.heat((1.3, 5.0, 3.8, 2.0), run.x, "x", run.x.shape, rows=run.tokens)
    page.arrow((5.3, 6.0), (6.1, 6.0))
    page.box((6.2, 5.6, 1.6, 0.8), "$W_Q$")
    page.text(7.0, 5.35, " × ".join(map(str, _weight(run, "Q").shape)), 9, QUIET)
    page.arrow((7.9, 6.0), (8.7, 6.0))
    page.heat((8.8, 5.0, 6.0, 2.0), whole, "$Q = x W_Q + b_Q$", whole.shape)
    width = 14.2 / len(shown)
    for place, head in enumerate(shown):
        colour, size = HEADS[place % len(HEADS)], min(0.86 * width, 2.4)
        left, part = 1.3 + place * width, run.query[head]
        page.arrow((8.8 + 6 * (place + 0.5) / len(shown), 4.55), (left + size / 2, 3.1), colour=colour)
        page.heat((left, 0.9, size, 1.7), part, f"$q_{{{head}}}$", part.shape, colour=colour)
    return page.figure


def concatenation(run: Recording) -> Figure:
    """Figure 7: the heads' outputs, side by side, through W_O."""
    page, shown = Canvas(height=8), _shown(run)
    width = 14.2 / len(shown)
    for place, head in enumerate(shown):
        colour, size = HEADS[place % len(HEADS)], min(0.86 * width, 2.4)
        left = 1.3 + place * width
        page.heat((left, 5.6, size, 1.7), run.context[head], f"$z_{{{head}}}$", run.context[head].shape, colour=colour)
        page.arrow((left + size / 2, 5.1), (1.5 + 6 * (place + 0.5) / len(shown), 4.1), colour=colour)
    page.heat((1.5, 2.0, 6.0, 2.0), run.joined, "", run.joined.shape, rows=run.tokens)
    page.arrow((7.7, 3.0), (8.5, 3.0))
    page.box((8.6, 2.6, 1.6, 0.8), "$W_O$")
    page.text(9.4, 2.35, " × ".join(map(str, projection(run.module, "out_proj").weight.mT.shape)), 9, QUIET)
    page.arrow((10.3, 3.0), (11.1, 3.0))
    page.heat((11.2, 2.0, 3.8, 2.0), run.output, "y", run.output.shape)
    page.text(8.0, 0.7, f"$y = \\sum_h z_h W_O^h + b_O$      max |Σ − y| = {run.difference:.1e}", 12)
    return page.figure


FIGURES: dict[int, Callable[[Recording], Figure]] = {
    1: mechanism,
    3: heads,
    4: projections,
    5: steps,
    6: split,
    7: concatenation,
}


def _shown(run: Recording) -> range:
    return range(min(SHOWN, len(run.query)))


def _joined(part: Tensor) -> Tensor:
    return part.transpose(0, 1).flatten(1)


def _weight(run: Recording, name: str) -> Tensor:
    return projection(run.module, f"{name.lower()}_proj").weight.mT
