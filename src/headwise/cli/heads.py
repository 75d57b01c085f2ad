"""Heads of anybody's checkpoint: ``headwise heads``, ``prune`` and ``compare``."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from headwise.cli.common import check_out, data_folder, extra, model_named, one_sentence
from headwise.tasks.examples import Checkpoint, Line, check_free, read, some
from headwise.tasks.pairs import split_file

WIDE = 160  # columns, where the output is no terminal
PLACE = "place"
ALONE = "Which head is which cannot be told: no two modules have a name in common and compare in weights or (--data) attention."

WHAT = "A folder with a checkpoint of headwise or transformers, owner/name on the Hub, or translate, the shipped one."
DATA = typer.Option(
    "--data",
    help="A file with a line for each example: a text, or the path of a picture or a sound, and, behind a tab, what the model "
    "should say to it, a text or a class. Or a folder with train.tsv(.gz) and valid.tsv(.gz).",
)
ModelArgument = Annotated[str, typer.Argument(help=WHAT)]
DataOption = Annotated[Path, DATA]
ExamplesOption = Annotated[int, typer.Option(min=1, help="Lines that heads are measured on, evenly spaced; at most.")]


def heads(
    model: ModelArgument,
    data: DataOption,
    examples: ExamplesOption = 500,
    sort: Annotated[str, typer.Option(help="The table's order: a number's name, the largest first, or place.")] = "",
    out: Annotated[list[Path] | None, typer.Option(help="Also write FILE.png, .svg, .csv or .json; may be repeated.")] = None,
) -> None:
    """Statistics and importance of every head of a model on the lines of a file: a table, a picture, CSV or JSON."""
    from headwise.explorer import heads as rows
    from headwise.explorer import heads_picture, tables

    with one_sentence(), extra("train"):
        if sort not in ("", PLACE, *rows.NAMES):
            raise ValueError(f"--sort: expected {PLACE} or one of {', '.join(rows.NAMES)}; got {sort!r}")
        for file in out or []:
            check_out(file, ".png", ".svg", ".csv", ".json")
        checkpoint = _checkpoint(model)
        found = rows.measure(checkpoint, _lines(checkpoint, _file(data, "valid"), examples))
        order = sort or (rows.IMPORTANCE if rows.IMPORTANCE in found.names else PLACE)
        console = _console()
        console.print(tables.heads(found, None if order == PLACE else order, console.width))
        for file in out or []:
            (heads_picture if file.suffix in (".png", ".svg") else rows).save(found, file)
            typer.echo(f"wrote {file}")


def prune(
    model: ModelArgument,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for the smaller model.")],
    keep: Annotated[str, typer.Option(metavar="SHARE", help="Of the heads: 50%, or their number.")] = "50%",
    examples: ExamplesOption = 500,
) -> None:
    """Take the least important heads out of a model, save it, and measure what that costs and saves.

    Heads are ranked on train and the models scored on valid where the data are a folder, and on every other line of a file."""
    from headwise.explorer import tables
    from headwise.explorer.compare import compare as compared
    from headwise.insight.operating.importance import importance
    from headwise.insight.operating.pruning import cuttable
    from headwise.insight.operating.pruning import prune as pruned

    with one_sentence(), extra("train"):
        check_free(out)
        checkpoint = _checkpoint(model)
        share = _share(keep, sum(module.num_heads for module in cuttable(checkpoint.model).values()))
        if data.is_file():
            both = _lines(checkpoint, data)
            ranking, scoring = some(both[::2], examples), both[1::2]
        else:
            ranking = _lines(checkpoint, _file(data, "train"), examples)
            scoring = _lines(checkpoint, _file(data, "valid"))
        if not scoring:
            raise ValueError(f"--data: {data} has one line, and the models are scored on others than heads are ranked on")
        found = importance(checkpoint.model, [checkpoint.batch([line]) for line in ranking])
        if not found.complete:
            raise typer.Abort
        gone = found.least(1 - share)
        if not gone and share < 1:
            raise ValueError(f"--keep {keep}: nothing can go: each module keeps a head, and heads that share keys go together")
        smaller = checkpoint.save(pruned(deepcopy(checkpoint.model), gone), out)
        comparison = compared(checkpoint, smaller, scoring)
        _console().print(tables.comparison(comparison, _names(model, out)))
        if (stay := comparison.second.heads) != round(share * comparison.first.heads):
            typer.echo(f"{stay} heads stay: each module keeps one, and heads that share keys go together")
        typer.echo(f"ranked by |d loss / d gate| on {len(ranking):,} examples, scored on {len(scoring):,} others; wrote {out}")


def compare(
    first: ModelArgument,
    second: ModelArgument,
    data: Annotated[Path | None, DATA] = None,
    examples: Annotated[int, typer.Option(min=1, help="Lines that attention is compared on; the rest is on all.")] = 100,
) -> None:
    """Two models side by side: size and which head of the one is which of the other; with data, quality, speed and where heads
    look."""
    from headwise.explorer import tables
    from headwise.explorer.compare import compare as compared

    with one_sentence(), extra("train"):
        checkpoints = _checkpoint(first), _checkpoint(second)
        lines = [] if data is None else checkpoints[1].usable(_lines(checkpoints[0], _file(data, "valid")))[0]
        found, names = compared(*checkpoints, lines, some(lines, examples)), _names(first, second)
        console = _console()
        console.print(tables.comparison(found, names))
        console.print(tables.matches(found, names) if found.matches else ALONE)


def _checkpoint(name: str) -> Checkpoint:
    return Checkpoint.load(model_named(name))


def _file(data: Path, part: str) -> Path:
    """The file itself, or that of a part of a data set."""
    return data if data.is_file() else split_file(data_folder(data), part)


def _lines(checkpoint: Checkpoint, file: Path, most: int | None = None) -> list[Line]:
    """Of a file, those that the model can use; says how many are left out."""
    usable, left_out = checkpoint.usable(some(read(file), most))
    if left_out:
        typer.echo(f"left out {len(left_out)} of {len(usable) + len(left_out)} lines; {left_out[0]}", err=True)
    return usable


def _names(*folders: str | Path) -> list[str]:
    """The shortest that tell them apart."""
    short = [Path(folder).resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _share(keep: str, heads: int) -> float:
    number = keep.removesuffix("%")
    try:
        share = float(number) / 100 if keep.endswith("%") else int(number) / heads
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f"--keep: expected a share such as 50%, or a number of heads from 1 to {heads}; got {keep!r}")
    return share


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDE)
