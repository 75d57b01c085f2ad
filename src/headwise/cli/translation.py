"""Translation: ``headwise look``, ``run``, ``evaluate`` and ``train``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from headwise.cli.common import SHIPPED, DataOption, check_out, data_folder, extra, fail, model_named, one_sentence
from headwise.models.checkpoint.folder import write
from headwise.tasks.recipe import Recipe, sizes
from headwise.tasks.translate import Search, Translator

EXAMPLE = "Tom is taller than his mother."

RECIPE = ", ".join(f"{name}={value}" for name, value in asdict(Recipe()).items())


class Task(StrEnum):
    TRANSLATE = "translate"


TaskArgument = Annotated[Task, typer.Argument(help="What to do; English to Chinese is what the shipped model knows.")]
ModelOption = Annotated[Path, typer.Option("--model", help="Folder of a trained model.", show_default="the shipped one")]
BeamsOption = Annotated[int, typer.Option("--beams", min=1, help="Beam width; 1 = greedy.")]
PenaltyOption = Annotated[
    float, typer.Option("--length-penalty", min=0, max=10, help="Exponent of ((5 + length) / 6); 0 = none.")
]


def look(
    sentence: Annotated[str, typer.Argument(help="An English sentence.")] = EXAMPLE,
    model: ModelOption = SHIPPED,
    out: Annotated[Path | None, typer.Option("--out", help="Also write FILE.png, .svg or .json.")] = None,
    beams: BeamsOption = 4,
    length_penalty: PenaltyOption = 0.6,
) -> None:
    """Translate a sentence and show, head by head, what the model looked at."""
    from headwise.explorer import picture, terminal
    from headwise.explorer.look import look as look_at

    with one_sentence():
        if out is not None:
            check_out(out, ".png", ".svg", ".json")
        seen = look_at(Translator.load(model), sentence, Search(beams, length_penalty))
        terminal.show(seen, Console())
        if out is not None:
            if out.suffix == ".json":
                text = json.dumps(asdict(seen), ensure_ascii=False, allow_nan=False)
                write(out, lambda place: place.write_text(text + "\n", encoding="utf-8"))
            else:
                picture.save(seen, out)
            typer.echo(f"wrote {out}")


def run(
    task: TaskArgument,
    sentences: Annotated[list[str] | None, typer.Argument(help="Sentences; none = standard input, one per line.")] = None,
    model: ModelOption = SHIPPED,
    beams: BeamsOption = 4,
    length_penalty: PenaltyOption = 0.6,
) -> None:
    """Translate: one output line per input line, and nothing else; an empty one for a line that cannot be read."""
    with one_sentence():
        lines = sentences or [line.rstrip("\r\n") for line in _stdin()]
        translator = Translator.load(model)
        wrong = _wrong(translator, lines, blank_is_wrong=bool(sentences))
        readable = ["" if number in wrong else line for number, line in enumerate(lines, start=1)]
        if len(lines) > 1 or not wrong:
            for translation in translator.translate(readable, Search(beams, length_penalty)):
                typer.echo(translation)
        if wrong:
            fail("; ".join(f"line {number}: {why}" if len(lines) > 1 else why for number, why in wrong.items()))


def evaluate(
    task: TaskArgument,
    data: DataOption,
    model: ModelOption = SHIPPED,
    beams: BeamsOption = 4,
    length_penalty: PenaltyOption = 0.6,
) -> None:
    """Score a model on the valid split: sacreBLEU with its 95 % interval."""
    with one_sentence(), extra("train"):
        from headwise.tasks.pairs import read_pairs
        from headwise.tasks.scoring import score

        sources, references = zip(*read_pairs(data_folder(data), "valid"), strict=True)
        typer.echo(score(Translator.load(model).translate(sources, Search(beams, length_penalty)), references))


def train(
    task: TaskArgument,
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, log and model.")] = Path("runs/translate"),
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Folder of a trained model to go on with, pruned or grouped perhaps.", show_default="a new one"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs at most.")] = 16,
    patience: Annotated[int, typer.Option(min=1, help="Stop after so many epochs without a better BLEU on valid.")] = 5,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=f"Another value in the recipe: {RECIPE}.")
    ] = None,
) -> None:
    """Train a model, a new one or one that is there; interrupted, the same command goes on where it stopped."""
    with one_sentence(), extra("train"):
        from headwise.tasks.training import train as fit

        start = None if start is None else Path(model_named(start))
        given = {} if start is None else sizes(Translator.load(start).model.config)
        recipe = replace(Recipe(), **given | _settings(settings or [], asdict(Recipe())))
        how = {"epochs": epochs, "patience": patience, "checkpoint_every": checkpoint_every}
        try:
            fit(data_folder(data), out, recipe, start=start, **how)
        except SystemExit:  # lightning's answer to SIGINT and SIGTERM
            fail("training was interrupted: the same command goes on where it stopped")
        typer.echo(f"wrote {out}: see what its heads do with headwise look --model {out}")


def _wrong(translator: Translator, lines: list[str], blank_is_wrong: bool) -> dict[int, str]:
    """The numbers, from 1, of the lines that the model cannot read, and why."""
    wrong = {}
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip() or blank_is_wrong:
                translator.check(line)
        except ValueError as error:
            wrong[number] = str(error)
    return wrong


def _settings(settings: list[str], defaults: dict[str, Any]) -> dict[str, Any]:
    """NAME=VALUE of each setting, the value in the type of the default."""
    given = {}
    for name, _, value in (setting.partition("=") for setting in settings):
        if name not in defaults:
            raise ValueError(f"--set: no {name} in the recipe; there is {', '.join(defaults)}")
        kind = type(defaults[name])
        try:
            given[name] = kind(value)
        except ValueError:
            raise ValueError(f"--set: {name} is of type {kind.__name__}; got {value!r}") from None
    return given


def _stdin() -> Iterator[str]:
    if sys.stdin.isatty():
        raise ValueError("no sentence given: put it after the task, or pipe lines in")
    yield from sys.stdin
