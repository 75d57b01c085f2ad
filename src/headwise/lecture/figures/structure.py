"""Figures 1 and 3 to 7: the mechanism, drawn from a recorded run; every shape and every colour is that of a real tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure
from torch import Tensor

from headwise.lecture.costs import projection
from headwise.lecture.figures.canvas import HEADS, LARGE, QUIET, WIDTH, Canvas
from headwise.lecture.recording import Recording

SHOWN = 8  # heads that are drawn one by one; of more, the first
_ATTENTION = r"\mathrm{softmax}(q_i k_i^\top / \sqrt{d_h})"  # h is the number of heads, and i is one of them


def mechanism(run: Recording) -> Figure:
    """Figure 1: from x to the output, all heads."""
    page, shown, middle = Canvas(), _shown(run), 3.8
    page.heat((1.0, 2.5, 1.4, 2.6), run.x, "$x$", run.x.shape, rows=run.tokens)
    for place, (name, part) in enumerate((("Q", run.query), ("K", run.key), ("V", run.value))):
        bottom = 5.6 - 2.55 * place
        page.arrow((2.45, middle), (3.0, bottom + 0.75))
        page.box((3.05, bottom + 0.45, 1.1, 0.6), f"$W_{name}$", _weight(run, name).shape)
        page.arrow((4.2, bottom + 0.75), (4.65, bottom + 0.75))
        page.heat((4.7, bottom, 1.6, 1.5), _joined(part), f"${name}$", _joined(part).shape)
    page.line((6.38, 7.1), (6.48, 7.1), (6.48, 0.5), (6.38, 0.5))  # a head reads all three
    pitch = 7.3 / len(shown)
    height = min(0.85 * pitch, 1.5)
    for place, head in enumerate(shown):
        centre, colour = 7.45 - (place + 0.5) * pitch, HEADS[place]
        page.arrow((6.5, middle), (7.2, centre), colour=colour)
        page.heat((7.25, centre - height / 2, 0.95, height), run.weights[head], weights=True, colour=colour)
        page.arrow((8.27, centre), (8.63, centre), colour=colour)
        page.heat((8.7, centre - height / 2, 1.15, height), run.context[head], colour=colour)
        page.text(10.2, centre, f"$i = {head}$", LARGE, colour)
        page.arrow((10.55, centre), (11.35, middle), colour=colour)
    page.text(7.4, 7.72, f"$p_i = {_ATTENTION}$", LARGE)
    page.text(9.27, 7.72, "$z_i$", LARGE)
    _count(page, run, 10.2, 7.72)
    page.heat((11.4, 2.5, 1.4, 2.6), run.joined, f"${_all_of_them(run)}$", run.joined.shape)
    page.arrow((12.85, middle), (13.15, middle))
    page.box((13.2, middle - 0.3, 0.95, 0.6), "$W_O$", _output_weight(run).shape)
    page.arrow((14.2, middle), (14.5, middle))
    page.heat((14.55, 2.5, 1.4, 2.6), run.output, "$y$", run.output.shape)
    page.keys(weights=True)
    return page.figure


def heads(run: Recording) -> Figure:
    """Figure 3: what every head looks at, what it contributes, and their sum."""
    page = Canvas()
    for head, colour, left, width in _side_by_side(run):
        rows, centre = () if head else run.tokens, left + width / 2
        place = (left, 5.1, width, 1.9)
        page.heat(place, run.weights[head], f"$i = {head}$", weights=True, colour=colour, rows=rows, columns=run.tokens)
        page.arrow((centre, 4.15), (centre, 3.8), colour=colour)
        page.heat((left, 2.45, width, 1.3), run.contributions[head], colour=colour)
        page.text(left - 0.6, 3.1, "" if head else "$z_i W_O^i$", LARGE)
        page.arrow((centre, 2.4), (8.5, 1.9), colour=colour)
    _count(page, run, 0.5, 7.22)
    page.text(8.5, 7.72, f"$p_i = {_ATTENTION}$", LARGE)
    page.heat((6.0, 0.45, 5.0, 1.35), run.output, "", run.output.shape)
    page.text(3.5, 1.35, f"${_sum(run)}$", LARGE, left=True)
    page.text(3.5, 0.75, f"max |Σ − y| = {run.difference:.1e}", colour=QUIET, left=True)
    page.keys(weights=True)
    return page.figure


def projections(run: Recording) -> Figure:
    """Figure 4: query, key and value of every head."""
    page = Canvas()
    for place, (name, part) in enumerate((("q", run.query), ("k", run.key), ("v", run.value))):
        bottom = 5.75 - 2.35 * place
        for head, colour, left, width in _side_by_side(run, 1.5):
            of = head * len(part) // len(run.query)  # heads of keys and values may be shared
            rows, label = () if head else run.tokens, f"$i = {head}$" if place == 0 else ""
            page.text(left - 1.2, bottom + 0.82, "" if head else f"${name}_i$", LARGE)
            page.heat((left, bottom, width, 1.65), part[of], label, part[of].shape, colour=colour, rows=rows)
    _count(page, run, 0.5, 7.62)
    page.keys()
    return page.figure


def steps(run: Recording, head: int = 0) -> Figure:
    """Figure 5: all steps of one head."""
    page, height, colour = Canvas(), 2.0, HEADS[head]
    group = head * len(run.key) // len(run.query)
    x, q, k, v = 1.1, 5.4, 9.2, 13.0  # left edges above
    s, p, z, y = 1.1, 5.4, 9.7, 13.15  # and below
    page.heat((x, 4.95, 3.6, height), run.x, "$x$", run.x.shape, rows=run.tokens)
    for left, name, part in ((q, "q", run.query[head]), (k, "k", run.key[group]), (v, "v", run.value[group])):
        page.heat((left, 4.95, 2.9, height), part, f"${name}_i$", part.shape, colour=colour)
        page.arrow((left + 0.4, 7.5), (left + 0.4, 7))
        page.text(left + 0.8, 7.25, f"$W_{name.upper()}^i$", LARGE, QUIET)
    page.line((x + 2.4, 7), (x + 2.4, 7.5), (v + 0.4, 7.5))
    page.text(k + 1.45, 7.75, f"$i = {head}$", LARGE, colour)
    page.arrow((k + 0.4, 4.85), (k + 0.4, 4.2), (s + 0.4, 4.2), (s + 0.4, 3.45))
    page.line((q + 0.4, 4.85), (q + 0.4, 4.2))
    page.arrow((v + 0.4, 4.85), (v + 0.4, 4.2), (z + 2.2, 4.2), (z + 2.2, 3.45))
    scores, weights = (s, 1.4, 3.6, height), (p, 1.4, 3.6, height)
    name, shape = r"$s_i = q_i k_i^\top / \sqrt{d_h}$", run.scores[head].shape
    page.heat(scores, run.scores[head], name, shape, colour=colour, rows=run.tokens, columns=run.tokens)
    page.arrow((s + 3.7, 2.4), (p - 0.1, 2.4))
    name = r"$p_i = \mathrm{softmax}(s_i)$"
    page.heat(weights, run.weights[head], name, shape, weights=True, colour=colour, columns=run.tokens)
    page.largest(weights, run.weights[head])
    page.arrow((p + 3.7, 2.4), (z - 0.1, 2.4))
    page.heat((z, 1.4, 2.75, height), run.context[head], "$z_i = p_i v_i$", run.context[head].shape, colour=colour)
    page.arrow((z + 2.85, 2.4), (y - 0.1, 2.4))
    page.heat((y, 1.4, 2.75, height), run.output, f"$y = {_all_of_them(run)} W_O + b_O$", run.output.shape)
    page.keys(weights=True)
    return page.figure


def split(run: Recording) -> Figure:
    """Figure 6: x through W_Q, and the result cut into heads."""
    page, whole = Canvas(), _joined(run.query)
    page.heat((1.1, 5.3, 4.0, 2.1), run.x, "$x$", run.x.shape, rows=run.tokens)
    page.arrow((5.2, 6.35), (6.0, 6.35))
    page.box((6.1, 5.95, 1.5, 0.8), "$W_Q$", _weight(run, "Q").shape)
    page.arrow((7.7, 6.35), (8.5, 6.35))
    page.heat((8.6, 5.3, 7.3, 2.1), whole, "$Q = x W_Q + b_Q$")
    page.text(15.5, 7.65, " × ".join(map(str, whole.shape)), colour=QUIET)
    block = 7.3 / len(run.query)
    for head, colour, left, width in _side_by_side(run):
        start, part, rows = 8.6 + head * block, run.query[head], () if head else run.tokens
        page.line((start, 5.2), (start + block, 5.2), colour=colour, width=5)
        page.arrow((start + block / 2, 5.1), (left + width / 2, 3.6), colour=colour)
        page.heat((left, 1.2, width, 1.9), part, f"$q_{{{head}}}$", part.shape, colour=colour, rows=rows)
    _count(page, run, 0.5, 3.31)
    page.keys()
    return page.figure


def concatenation(run: Recording) -> Figure:
    """Figure 7: the heads' outputs, side by side, through W_O."""
    page, block = Canvas(), 7.0 / len(run.query)
    for head, colour, left, width in _side_by_side(run):
        start, part, rows = 1.1 + head * block, run.context[head], () if head else run.tokens
        page.heat((left, 5.6, width, 1.8), part, f"$z_{{{head}}}$", part.shape, colour=colour, rows=rows)
        page.arrow((left + width / 2, 5.15), (start + block / 2, 4.15), colour=colour)
        page.line((start, 4.05), (start + block, 4.05), colour=colour, width=5)
    _count(page, run, 0.5, 7.62)
    page.heat((1.1, 1.85, 7.0, 2.1), run.joined, "", run.joined.shape, rows=run.tokens)
    page.arrow((8.2, 2.9), (8.95, 2.9))
    page.box((9.05, 2.5, 1.5, 0.8), "$W_O$", _output_weight(run).shape)
    page.arrow((10.65, 2.9), (11.4, 2.9))
    page.heat((11.5, 1.85, 4.4, 2.1), run.output, "$y$", run.output.shape)
    page.text(8.0, 0.65, f"${_sum(run)}$      max |Σ − y| = {run.difference:.1e}", LARGE)
    page.keys()
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


def _count(page: Canvas, run: Recording, x: float, y: float) -> None:
    """How many of the heads are drawn, where not all are."""
    if len(run.query) > SHOWN:
        page.text(x, y, f"{SHOWN} / {len(run.query)}", LARGE)


def _side_by_side(run: Recording, start: float = 1.1) -> Iterator[tuple[int, str, float, float]]:
    """Each head that is drawn, its colour, and the left edge and width of its place between ``start`` and the page's right."""
    shown = _shown(run)
    pitch = (WIDTH - 0.1 - start) / len(shown)
    width = min(pitch - 0.13, 4.0)
    for head in shown:
        yield head, HEADS[head], start + (head + 0.5) * pitch - width / 2, width


def _all_of_them(run: Recording) -> str:
    last = len(run.query) - 1
    return f"[z_0 … z_{{{last}}}]" if last else "z_0"


def _sum(run: Recording) -> str:
    """Over all heads, more than are drawn as they may be."""
    return rf"y = \sum_{{i=0}}^{{{len(run.query) - 1}}} z_i W_O^i + b_O"


def _joined(part: Tensor) -> Tensor:
    return part.transpose(0, 1).flatten(1)


def _weight(run: Recording, name: str) -> Tensor:
    return projection(run.module, f"{name.lower()}_proj").weight.mT


def _output_weight(run: Recording) -> Tensor:
    return projection(run.module, "out_proj").weight.mT
