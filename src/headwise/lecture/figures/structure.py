"""Figures 1 and 3 to 7: the mechanism, drawn from a recorded run; every shape and every colour is that of a real tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure
from torch import Tensor

from headwise.lecture.costs import projection
from headwise.lecture.figures.canvas import HEADS, LARGE, QUIET, WIDTH, Canvas
from headwise.lecture.recording import Recording

SHOWN = 8  # heads that are drawn one by one; of more, the first


def mechanism(run: Recording) -> Figure:
    """Figure 1: from x to the output, all heads."""
    page, shown, middle = Canvas(), _shown(run), 3.8
    page.heat((1.0, 2.5, 1.4, 2.6), run.x, "$x$", run.x.shape, rows=run.tokens)
    for i, (name, part) in enumerate((("Q", run.query), ("K", run.key), ("V", run.value))):
        bottom = 5.6 - 2.55 * i
        page.arrow((2.45, middle), (3.0, bottom + 0.75))
        page.box((3.05, bottom + 0.45, 1.1, 0.6), f"$W_{name}$", _weight(run, name).shape)
        page.arrow((4.2, bottom + 0.75), (4.65, bottom + 0.75))
        page.heat((4.7, bottom, 1.6, 1.5), _joined(part), f"${name}$", _joined(part).shape)
    pitch = 7.3 / len(shown)
    height = min(0.85 * pitch, 1.5)
    for place, head in enumerate(shown):
        centre, colour = 7.4 - (place + 0.5) * pitch, HEADS[place]
        page.arrow((6.4, middle), (7.2, centre), colour=colour)
        page.heat((7.3, centre - height / 2, 0.95, height), run.weights[head], weights=True, colour=colour)
        page.arrow((8.35, centre), (8.75, centre), colour=colour)
        page.heat((8.85, centre - height / 2, 1.15, height), run.context[head], colour=colour)
        page.text(10.25, centre, f"{head}", LARGE, colour)
        page.arrow((10.45, centre), (11.35, middle), colour=colour)
    page.text(7.78, 7.72, r"$\mathrm{softmax}(Q_h K_h^\top / \sqrt{d_h})$", LARGE)
    page.text(9.43, 7.72, "$z_h$", LARGE)
    page.heat((11.4, 2.5, 1.4, 2.6), run.joined, f"${_all_of_them(run)}$", run.joined.shape)
    page.arrow((12.85, middle), (13.15, middle))
    page.box((13.2, middle - 0.3, 0.95, 0.6), "$W_O$", _output_weight(run).shape)
    page.arrow((14.2, middle), (14.5, middle))
    page.heat((14.55, 2.5, 1.4, 2.6), run.output, "$y$", run.output.shape)
    return page.figure


def heads(run: Recording) -> Figure:
    """Figure 3: what every head looks at, what it contributes, and their sum."""
    page = Canvas()
    for head, colour, left, width in _side_by_side(run, 1.05):
        rows, centre = run.tokens if head == 0 else (), left + width / 2
        place = (left, 5.1, width, 1.9)
        page.heat(place, run.weights[head], f"$h = {head}$", weights=True, colour=colour, rows=rows, columns=run.tokens)
        page.arrow((centre, 4.15), (centre, 3.8), colour=colour)
        page.heat((left, 2.45, width, 1.3), run.contributions[head], colour=colour)
        page.arrow((centre, 2.4), (8.5, 1.9), colour=colour)
    page.text(8.5, 7.72, r"$p_h = \mathrm{softmax}(q_h k_h^\top / \sqrt{d_h})$", LARGE)
    page.text(0.5, 3.1, "$z_h W_O^h$", LARGE)
    page.heat((6.0, 0.45, 5.0, 1.35), run.output, "", run.output.shape)
    page.text(11.2, 1.35, f"$y = {_sum(run)} z_h W_O^h + b_O$", LARGE, left=True)
    page.text(11.2, 0.75, f"max |Σ − y| = {run.difference:.1e}", colour=QUIET, left=True)
    return page.figure


def projections(run: Recording) -> Figure:
    """Figure 4: query, key and value of every head."""
    page = Canvas()
    for i, (name, part) in enumerate((("q", run.query), ("k", run.key), ("v", run.value))):
        bottom = 5.6 - 2.55 * i
        page.text(0.3, bottom + 0.9, f"${name}_h$", LARGE)
        for head, colour, left, width in _side_by_side(run, 1.5):
            of = head * len(part) // len(run.query)  # heads of keys and values may be shared
            rows, label = run.tokens if head == 0 else (), f"$h = {head}$" if i == 0 else ""
            page.heat((left, bottom, width, 1.8), part[of], label, part[of].shape, colour=colour, rows=rows)
    return page.figure


def steps(run: Recording, head: int = 0) -> Figure:
    """Figure 5: all steps of one head."""
    page, tokens, width, height = Canvas(), run.tokens, 2.7, 2.0
    group, lefts = head * len(run.key) // len(run.query), [1.1 + 4.0 * i for i in range(4)]
    parts = (("$x$", run.x), ("$q_h$", run.query[head]), ("$k_h$", run.key[group]), ("$v_h$", run.value[group]))
    for i, (left, (name, matrix)) in enumerate(zip(lefts, parts, strict=True)):
        page.heat((left, 4.95, width, height), matrix, name, matrix.shape, rows=() if i else tokens)
    page.line((lefts[0] + 2, 7), (lefts[0] + 2, 7.6))
    page.line((lefts[0] + 2, 7.6), (lefts[3] + 0.4, 7.6))
    for left, text in zip(lefts[1:], ("$W_Q^h$", "$W_K^h$", "$W_V^h$"), strict=True):
        page.arrow((left + 0.4, 7.6), (left + 0.4, 7))
        page.text(left + 0.8, 7.3, text, LARGE, QUIET)
    below = (
        (r"$s = q_h k_h^\top / \sqrt{d_h}$", run.scores[head]),
        (r"$p = \mathrm{softmax}(s)$", run.weights[head]),
        ("$z_h = p v_h$", run.context[head]),
        (f"$y = {_all_of_them(run)} W_O + b_O$", run.output),
    )
    for i, (left, (name, matrix)) in enumerate(zip(lefts, below, strict=True)):
        rows, columns = () if i else tokens, tokens if i < 2 else ()
        place = (left, 1.4, width, height)
        page.heat(place, matrix, name, matrix.shape, weights=i == 1, rows=rows, columns=columns)
        if i:
            page.arrow((left - 1.2, 2.4), (left - 0.1, 2.4))
    return page.figure


def split(run: Recording) -> Figure:
    """Figure 6: x through W_Q, and the result cut into heads."""
    page, whole = Canvas(), _joined(run.query)
    page.heat((1.1, 4.9, 4.0, 2.1), run.x, "$x$", run.x.shape, rows=run.tokens)
    page.arrow((5.2, 5.95), (6.0, 5.95))
    page.box((6.1, 5.55, 1.5, 0.8), "$W_Q$", _weight(run, "Q").shape)
    page.arrow((7.7, 5.95), (8.5, 5.95))
    page.heat((8.6, 4.9, 7.3, 2.1), whole, "$Q = x W_Q + b_Q$")
    page.text(15.5, 7.25, " × ".join(map(str, whole.shape)), colour=QUIET)
    block = 7.3 / len(run.query)
    for head, colour, left, width in _side_by_side(run, 0.1):
        start, part = 8.6 + head * block, run.query[head]
        page.line((start, 4.8), (start + block, 4.8), colour, 5)
        page.arrow((start + block / 2, 4.7), (left + width / 2, 3.1), colour=colour)
        page.heat((left, 0.6, width, 1.9), part, f"$q_{{{head}}}$", part.shape, colour=colour)
    return page.figure


def concatenation(run: Recording) -> Figure:
    """Figure 7: the heads' outputs, side by side, through W_O."""
    page, block = Canvas(), 7.0 / len(run.query)
    for head, colour, left, width in _side_by_side(run, 0.1):
        start, part = 1.1 + head * block, run.context[head]
        page.heat((left, 5.6, width, 1.8), part, f"$z_{{{head}}}$", part.shape, colour=colour)
        page.arrow((left + width / 2, 5.15), (start + block / 2, 4.15), colour=colour)
        page.line((start, 4.05), (start + block, 4.05), colour, 5)
    page.heat((1.1, 1.85, 7.0, 2.1), run.joined, "", run.joined.shape, rows=run.tokens)
    page.arrow((8.2, 2.9), (8.95, 2.9))
    page.box((9.05, 2.5, 1.5, 0.8), "$W_O$", _output_weight(run).shape)
    page.arrow((10.65, 2.9), (11.4, 2.9))
    page.heat((11.5, 1.85, 4.4, 2.1), run.output, "$y$", run.output.shape)
    page.text(8.0, 0.65, f"$y = {_sum(run)} z_h W_O^h + b_O$      max |Σ − y| = {run.difference:.1e}", LARGE)
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


def _side_by_side(run: Recording, left: float) -> Iterator[tuple[int, str, float, float]]:
    """Each head that is drawn, its colour, and the left edge and width of its place between ``left`` and the page's right."""
    shown = _shown(run)
    pitch = (WIDTH - 0.1 - left) / len(shown)
    for head in shown:
        yield head, HEADS[head], left + head * pitch, min(pitch - 0.13, 4.0)


def _all_of_them(run: Recording) -> str:
    return f"[z_0 … z_{{{len(run.query) - 1}}}]"


def _sum(run: Recording) -> str:
    """Over all heads, more than are drawn as they may be."""
    return rf"\sum_{{h=0}}^{{{len(run.query) - 1}}}"


def _joined(part: Tensor) -> Tensor:
    return part.transpose(0, 1).flatten(1)


def _weight(run: Recording, name: str) -> Tensor:
    return projection(run.module, f"{name.lower()}_proj").weight.mT


def _output_weight(run: Recording) -> Tensor:
    return projection(run.module, "out_proj").weight.mT
