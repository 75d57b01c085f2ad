"""Figures 2, 8 and 9: what the experiments found; a ring is a seed, a bar or a band the 95 % interval of the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from headwise.lecture.experiments.results import Results, conditions, key
from headwise.lecture.figures.canvas import HEADS, QUIET
from headwise.lecture.material import Material

SMALL, LARGE = 12, 14  # points on a page 12.8 inches wide
MARKS: dict[str, str] = dict(zip(HEADS, "osD^vP*X", strict=True))  # colours are not all there is to tell lines apart by
SHARE = (-0.03, 1.05)  # limits of an axis from 0 to 1


def background(material: Material) -> Figure:
    """Figure 2: by number of heads, how many places were fetched rightly, and how well is translated."""
    fetched, translated, terms = material.results("two_fetch"), material.results("translation"), material.terms
    figure, (left, right) = _panels(2)
    for colour, tokens in zip(HEADS, fetched.settings["vocabularies"], strict=False):
        names = [key("accuracy", heads=heads, tokens=tokens) for heads in fetched.settings["heads"]]
        _curve(left, fetched, fetched.settings["heads"], names, f"|V| = {tokens}", colour)
    names = [key("loss", heads=heads) for heads in translated.settings["heads"]]
    _curve(right, translated, translated.settings["heads"], names, "", HEADS[2])
    _label(left, terms["two_places"], terms["num_heads"], terms["accuracy"])
    _label(right, terms["translation"], terms["num_heads"], _loss(terms))
    left.set_ylim(SHARE)
    left.legend(fontsize=SMALL, frameon=False)
    for ax, results in ((left, fetched), (right, translated)):
        _doubling(ax, results.settings["heads"])
    return figure


def features(material: Material) -> Figure:
    """Figure 8: how alike heads are, accuracy by distance, and the loss with heads closed one after the other."""
    terms = material.terms
    figure, (left, middle, right) = _panels(3)
    _likeness(left, material.results("features"), terms)
    reached = material.results("distance")
    distances = reached.settings["reported"]
    for colour, heads in zip(HEADS, reached.settings["heads"], strict=False):
        names = [key("accuracy", heads=heads, distance=distance) for distance in distances]
        _curve(middle, reached, distances, names, f"h = {heads}", colour)
    middle.set_ylim(SHARE)
    _doubling(middle, distances)
    _label(middle, terms["by_distance"], terms["distance"], terms["accuracy"])
    middle.legend(fontsize=SMALL, frameon=False)
    closed = material.results("ablation")
    removed = sorted(int(where["removed"]) for name, where in map(conditions, closed.keys) if name == "loss")
    means = [closed.interval("loss", removed=count) for count in removed]
    right.plot(removed, [one.mean for one in means], color=HEADS[0])
    right.fill_between(removed, [one.low for one in means], [one.high for one in means], color=HEADS[0], alpha=0.2, lw=0)
    _label(right, terms["heads_closed"], terms["closed"], _loss(terms))
    return figure


def efficiency(material: Material) -> Figure:
    """Figure 9: time by heads and length, one call against a loop, and the most memory held at a time."""
    results, terms = material.results("efficiency"), material.terms
    settings = results.settings
    figure, (left, middle, right) = _panels(3)
    for colour, heads in zip(HEADS, settings["heads"], strict=False):
        for ax, name, lengths in ((left, "time", settings["lengths"]), (middle, "batched", settings["looped"])):
            names = [key(name, heads=heads, length=length) for length in lengths]
            if names[0] in results.keys:  # a loop over one head is no loop
                _curve(ax, results, lengths, names, f"h = {heads}", colour)
    for ax, title, lengths in ((left, "time", settings["lengths"]), (middle, "batched", settings["looped"])):
        ax.axhline(1, color=QUIET, lw=1)
        _doubling(ax, lengths)
        _label(ax, terms[title], terms["tokens"], "")
        ax.legend(fontsize=SMALL, frameon=False)
    length = settings["written_out"][-1]
    for colour, name in zip(HEADS, ("fused_bytes", "formula_bytes"), strict=False):
        names = [key(name, heads=heads, length=length) for heads in settings["heads"]]
        _curve(right, results, settings["heads"], names, terms[name], colour)
    right.set_yscale("log")
    right.yaxis.set_major_formatter(EngFormatter("B"))
    _doubling(right, settings["heads"])
    _label(right, f"n = {length:,}", terms["num_heads"], "")
    right.legend(fontsize=SMALL, frameon=False)
    return figure


FIGURES: dict[int, Callable[[Material], Figure]] = {2: background, 8: features, 9: efficiency}


def _likeness(ax: Axes, results: Results, terms: dict[str, str]) -> None:
    """Similarity of two heads of a layer, before and after training, by what is compared and kind of attention."""
    pairs = [(what, kind) for what in ("weights", "outputs") for kind in ("encoder", "decoder", "cross")]
    places = range(len(pairs))
    for colour, shift, state in ((QUIET, -0.12, "untrained"), (HEADS[0], 0.12, "trained")):
        names = [key(f"{what} alike {state}", kind=kind) for what, kind in pairs]
        _curve(ax, results, [place + shift for place in places], names, terms[state], colour, line="")
    labels = [f"{terms[kind]}\n{terms[what]}" for what, kind in pairs]
    ax.set_xticks(places, labels, rotation=60, ha="right", rotation_mode="anchor")
    ax.set_ylim(SHARE)
    _label(ax, terms["alike"], "", terms["similarity"])
    ax.legend(fontsize=SMALL, frameon=False)


def _loss(terms: dict[str, str]) -> str:
    return f"{terms['loss']} ({terms['nats_per_token']})"


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(12.8, 5.4), layout="constrained")
    return figure, list(figure.subplots(1, count))


def _curve(
    ax: Axes,
    results: Results,
    places: Sequence[int | float],
    names: Sequence[str],
    label: str,
    colour: str,
    line: str = "-",
) -> None:
    """Means with their intervals, and every seed beside them."""
    found = [results.interval(name) for name in names]
    means = [one.mean for one in found]
    half = [one.high - one.mean for one in found]
    ax.errorbar(places, means, yerr=half, color=colour, label=label, marker=MARKS.get(colour, "o"), ls=line, lw=1.8, capsize=4)
    for name, place in zip(names, places, strict=True):
        values = results.values(name)
        ax.plot([place] * len(values), values, "o", mec=colour, mfc="white", ms=4, zorder=3)


def _doubling(ax: Axes, places: Sequence[int]) -> None:
    """A step to the right is a doubling."""
    ax.set_xscale("log", base=2)
    doubled = [place for place in places if place & (place - 1) == 0]
    ax.set_xticks(doubled, [f"{place:,}" for place in doubled])
    ax.xaxis.set_minor_locator(NullLocator())


def _label(ax: Axes, title: str, across: str, along: str) -> None:
    ax.set_title(title, fontsize=LARGE)
    ax.set_xlabel(across, fontsize=SMALL)
    ax.set_ylabel(along, fontsize=SMALL)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
