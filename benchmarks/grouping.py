"""What grouping the heads of the shipped translation model costs, and what a short uptraining brings back.

python benchmarks/grouping.py DATA [RUNS]

DATA: the folder with train and valid that the model was trained on. RUNS, or else runs/grouping, keeps models and checkpoints,
so that an interrupted run goes on.

Writes docs/results/grouping.json. The recipe was fixed beforehand: the learning rate climbs to where the shipped model's own
training had ended (3.5e-4), and what stands at the end of the epoch is taken, so that nothing is chosen on valid. The control
is trained on alike, with all its heads. About six minutes a model on one free core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality import Quality, Times, estimate, measure, parameters, publish

import headwise as hw
from headwise.cli.common import SHIPPED
from headwise.tasks.pairs import read_pairs
from headwise.tasks.recipe import Recipe, sizes
from headwise.tasks.training import train
from headwise.tasks.translate import Translator

GROUPED, WHOLE, EPOCHS = (4, 2), 8, 1  # key-value heads, of 8
Kind = Callable[[Quality, Times], NDArray[np.float64]]
RECIPE = {"lr_scale": 0.08, "warmup_steps": 200, "average": EPOCHS}


def main(data: Path, runs: Path) -> None:
    folders = {f"{heads} grouped": grouped(heads, runs / str(heads) / "before") for heads in GROUPED}
    folders |= {
        f"{heads} trained on": trained_on(data, folders[f"{heads} grouped"], runs / str(heads) / "after") for heads in GROUPED
    }
    folders = {"shipped": SHIPPED, "control": trained_on(data, SHIPPED, runs / str(WHOLE) / "after")} | folders
    valid, found, rows = read_pairs(data, "valid"), dict[str, Quality](), dict[str, Any]()
    for name, folder in folders.items():
        translator = Translator.load(folder)
        found[name] = measure(translator, valid)
        rows[name] = {"parameters": parameters(translator)} | found[name].row()
        print(name, rows[name], flush=True)
    compared = {str(heads): comparison(found, heads) for heads in GROUPED}
    print(compared)
    recipe = RECIPE | {"epochs": EPOCHS, "pairs": len(read_pairs(data, "train"))}
    measured_on = f"valid, {len(valid)} sentences"
    publish("grouping", {"measured on": measured_on, "recipe": recipe, "models": rows, "compared": compared})


def grouped(heads: int, folder: Path) -> Path:
    if not (folder / "task.json").exists():  # which is written last
        translator = Translator.load(SHIPPED)
        hw.group_heads(translator.model, heads)
        folder.mkdir(parents=True, exist_ok=True)
        translator.save(folder)
    return folder


def trained_on(data: Path, start: Path, folder: Path) -> Path:
    if not (folder / "README.md").exists():  # which is written last
        recipe = replace(Recipe(), **sizes(Translator.load(start).model.config), **RECIPE)
        train(data, folder, recipe, start=start, epochs=EPOCHS, patience=EPOCHS)
    return folder


def comparison(found: dict[str, Quality], heads: int) -> dict[str, Any]:
    """Which share of what grouping cost came back, and how far it is from the control: on the same resampled sentences."""
    names = f"{heads} grouped", f"{heads} trained on", "shipped", "control"
    before, after, whole, control = (found[name] for name in names)

    def recovered(kind: Kind, times: Times) -> NDArray[np.float64]:
        return (kind(after, times) - kind(before, times)) / (kind(whole, times) - kind(before, times))

    def less_control(kind: Kind, times: Times) -> NDArray[np.float64]:
        return kind(after, times) - kind(control, times)

    return {
        f"{kind.__name__} {name}": estimate(partial(number, kind), len(whole.nll))
        for kind in (Quality.loss, Quality.bleu)
        for name, number in (("recovered", recovered), ("less control", less_control))
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if sys.argv[2:] else "runs/grouping"))
