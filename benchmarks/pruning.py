"""How many heads of the shipped translation model are needed: quality on valid against heads kept, by several orders.

python benchmarks/pruning.py DATA [RUNS]

DATA: the folder with train and valid that the model was trained on. RUNS, or else runs/pruning, keeps what is measured, so that
an interrupted run goes on.

Writes docs/results/pruning.json and docs/pruning.png. About half an hour on one free core.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grouping import trained_on
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from quality import RESAMPLES, SEED, batches, kept, measure, parameters, publish
from scipy.stats import spearmanr

import headwise as hw
from headwise.cli.common import SHIPPED
from headwise.insight.operating.importance import Importance
from headwise.tasks.pairs import read_pairs
from headwise.tasks.translate import Search, Translator

RANKED_ON, SHARES, RANDOM, REPEATS = 500, [share / 10 for share in range(1, 10)], 3, 15


def main(data: Path, runs: Path) -> None:
    torch.set_num_threads(1)
    whole, valid = shipped(), read_pairs(data, "valid")
    sample = random.Random(SEED).sample(read_pairs(data, "train"), RANKED_ON)
    by_gradient, by_absence = orders = [
        restored(
            kept(runs / f"{name}.json", lambda measured=measured: stored(measured(whole.model, batches(whole, sample, 1))))
        )
        for name, measured in (("gradient", hw.importance), ("leave_one_out", hw.leave_one_out))
    ]
    named = {"gradient": by_gradient, "normalised": by_gradient.normalised(), "leave-one-out": by_absence}
    named |= {f"random {seed}": shuffled(by_gradient, seed) for seed in range(RANDOM)}
    points = [kept(runs / "whole.json", lambda: point(whole, valid))]
    for name, order in named.items():
        for share in SHARES:
            path = runs / f"{name} {share}.json"
            points.append({"order": name} | kept(path, lambda order=order, share=share: point(pruned(order, share), valid)))
            print(points[-1], flush=True)
    found = {
        "ranked on": f"{RANKED_ON} pairs of train",
        "measured on": f"valid, {len(valid)} sentences",
        "rank correlation": kept(runs / "correlation.json", lambda: correlation(by_gradient, by_absence)),
        "half": kept(runs / "half.json", lambda: half(whole, pruned(by_gradient, 0.5), valid)),
        "half, trained on": kept(
            runs / "trained on.json", lambda: trained_on_half(whole, by_gradient, data, runs / "half", valid)
        ),
        "points": points,
        "importance on train": {name: order.rows() for name, order in zip(("gradient", "leave-one-out"), orders, strict=True)},
        "importance on valid": kept(
            runs / "valid.json", lambda: {"rows": hw.importance(whole.model, batches(whole, valid, 1)).rows()}
        )["rows"],
    }
    publish("pruning", found)
    draw(points, found["half, trained on"], Path(__file__).parent.parent / "docs" / "pruning.png")
    print(found["rank correlation"], found["half"])


def shipped() -> Translator:
    """The shipped model, its loss without label smoothing."""
    translator = Translator.load(SHIPPED)
    translator.model.label_smoothing = 0.0
    return translator


def pruned(order: Importance, share: float) -> Translator:
    translator = shipped()
    hw.prune(translator.model, order.least(share))
    return translator


def trained_on_half(
    whole: Translator, order: Importance, data: Path, folder: Path, valid: list[tuple[str, str]]
) -> dict[str, Any]:
    """Half of the heads, after the same short training as grouped heads get."""
    if not (folder / "before" / "task.json").exists():
        (folder / "before").mkdir(parents=True, exist_ok=True)
        pruned(order, 0.5).save(folder / "before")
    translator = Translator.load(trained_on(data, folder / "before", folder / "after"))
    return point(translator, valid) | {"greedy translation": greedy_times(whole, translator, valid)}


def shuffled(order: Importance, seed: int) -> Importance:
    """The same heads in random order."""
    generator = torch.Generator().manual_seed(seed)
    return replace(order, value={name: torch.rand(len(x), generator=generator) for name, x in order.value.items()})


def stored(order: Importance) -> dict[str, Any]:
    if not order.complete:
        raise KeyboardInterrupt  # which the measuring had caught: half of it is not worth keeping
    numbers = {name: {at: x.tolist() for at, x in getattr(order, name).items()} for name in ("value", "low", "high")}
    return numbers | {"sharing": dict(order.sharing), "batches": order.batches}


def restored(entries: dict[str, Any]) -> Importance:
    for name in ("value", "low", "high"):
        entries[name] = {at: torch.tensor(x, dtype=torch.float64) for at, x in entries[name].items()}
    return Importance(**entries)


def point(translator: Translator, valid: list[tuple[str, str]]) -> dict[str, Any]:
    heads = sum(module.num_heads for module in translator.model.modules() if isinstance(module, hw.MultiHeadAttention))
    return {"heads": heads, "parameters": parameters(translator)} | measure(translator, valid).row()


def correlation(one: Importance, other: Importance) -> dict[str, float]:
    """Spearman's, over all heads; the interval resamples heads."""
    a, b = (np.concatenate([x.numpy() for x in order.value.values()]) for order in (one, other))
    drawn = np.random.default_rng(SEED).integers(len(a), size=(RESAMPLES, len(a)))
    low, high = np.quantile([spearmanr(a[i], b[i])[0] for i in drawn], (0.025, 0.975))
    return {"value": float(spearmanr(a, b)[0]), "low": float(low), "high": float(high), "heads": len(a)}


def half(whole: Translator, other: Translator, valid: list[tuple[str, str]]) -> dict[str, Any]:
    """Sizes and times of both: processor time of one thread, in turn, so that what else runs does not count."""
    inputs = batches(whole, valid)

    @torch.no_grad()
    def forward(translator: Translator) -> None:
        for batch in inputs:
            translator.model(**batch)

    both = (whole, other)
    return {
        "parameters": [parameters(translator) for translator in both],
        "bytes": [stored_bytes(translator) for translator in both],
        "forward, 1500 sentences": in_turn(*(lambda t=translator: forward(t) for translator in both)),
        "greedy translation": greedy_times(whole, other, valid),
    }


def greedy_times(whole: Translator, other: Translator, valid: list[tuple[str, str]]) -> dict[str, Any]:
    """Of 200 sentences, with the characters that were written: who says more takes longer."""
    sentences, both = [source for source, _ in valid[:200]], (whole, other)
    run = lambda translator: translator.translate(sentences, Search(beams=1))  # noqa: E731
    written = [sum(map(len, run(translator))) for translator in both]
    return {"characters": written} | in_turn(*(lambda t=translator: run(t) for translator in both))


def stored_bytes(translator: Translator) -> int:
    with tempfile.TemporaryDirectory() as folder:
        translator.save(Path(folder))
        return (Path(folder) / "model.safetensors").stat().st_size


def in_turn(whole: Callable[[], object], other: Callable[[], object]) -> dict[str, Any]:
    """Seconds of both, and how many times as fast the other is: by their least times, and by the median of neighbours."""

    def seconds(run: Callable[[], object]) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    for run in (whole, other):
        run()
    times = [(seconds(whole), seconds(other)) for _ in range(REPEATS)]
    least = [min(side) for side in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles([a / b for a, b in times], n=4)
    return {"least seconds": least, "least ratio": least[0] / least[1], "median ratio": middle, "quartiles": [low, high]}


COLOURS = {"gradient": "#0072B2", "normalised": "#009E73", "leave-one-out": "#D55E00", "random": "#7F7F7F"}  # Okabe and Ito
LABELS = {
    "gradient": "by gradients of gates",
    "normalised": "the same, layers normalised",
    "leave-one-out": "by leaving one out",
    "random": "at random (3 orders)",
    "trained": "by gradients, then one epoch",
}


def draw(points: list[dict[str, Any]], trained: dict[str, Any], path: Path) -> None:
    """BLEU and loss against heads kept; intervals as bars, random orders as a line through their mean and their range."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Heads pruned from the shipped translation model (72 heads)", fontsize=13)
    whole, rest = points[0], points[1:]
    for ax, number, label in zip(
        figure.subplots(1, 2), ("bleu", "loss"), ("sacreBLEU, greedy", "loss, nats per target token"), strict=True
    ):
        value, low, high = limits(whole[number])
        ax.axhspan(low, high, color="black", alpha=0.08, linewidth=0)
        ax.axhline(value, color="black", linewidth=1, linestyle=":")
        ax.annotate("whole model", (6.3, value), (0, 3), textcoords="offset points", ha="right", fontsize=9)
        for name, aside in (("gradient", 0.5), ("normalised", 0.0), ("leave-one-out", -0.5)):  # so that no bar hides another
            chosen = [whole] + [one for one in rest if one["order"] == name]
            middle, low, high = np.array([limits(one[number]) for one in chosen]).T
            heads = [one["heads"] + aside for one in chosen]
            bars = np.stack([middle - low, high - middle])
            ax.errorbar(heads, middle, bars, color=COLOURS[name], marker="o", markersize=4, capsize=2.5, label=LABELS[name])
        middle, low, high = limits(trained[number])
        bars, star = [[middle - low], [high - middle]], {"fmt": "*", "markersize": 11, "label": LABELS["trained"]}
        ax.errorbar(trained["heads"], middle, bars, color=COLOURS["gradient"], capsize=2.5, **star)
        at_random = [[whole] + [one for one in rest if one["order"] == f"random {seed}"] for seed in range(RANDOM)]
        heads = [one["heads"] for one in at_random[0]]
        values = np.array([[one[number]["value"] for one in order] for order in at_random])
        ax.fill_between(heads, values.min(0), values.max(0), color=COLOURS["random"], alpha=0.25, linewidth=0)
        ax.plot(
            heads, values.mean(0), color=COLOURS["random"], marker="s", markersize=4, linestyle="--", label=LABELS["random"]
        )
        ax.set(xlabel="heads kept", ylabel=label, xticks=heads, xlim=(75, 6))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="black", alpha=0.08)
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[0].legend(title="order of removal", frameon=False, loc="lower left", alignment="left")
    figure.supxlabel(
        "1,500 sentences of valid, English to Chinese; bars, and the band round the whole model: 95 % bootstrap over "
        "sentences; grey: mean and range of the orders",
        fontsize=8,
    )
    figure.savefig(path, dpi=150)


def limits(number: dict[str, float]) -> tuple[float, float, float]:
    """Value and interval, which BLEU has as a half width."""
    width = number.get("half_width", 0.0)
    return number["value"], number.get("low", number["value"] - width), number.get("high", number["value"] + width)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if sys.argv[2:] else "runs/pruning"))
