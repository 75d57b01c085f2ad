"""What commands share: where data and models are, and how a mistake is said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from headwise.models.checkpoint.folder import CheckpointError, printable

SHIPPED = Path(__file__).parent.parent / "shipped" / "translate"

DataOption = Annotated[
    Path, typer.Option(help="Folder with train.tsv(.gz), valid.tsv(.gz): source, tab, target; or its name in $HEADWISE_DATA.")
]


def model_named(name: str | Path) -> Path | str:
    """What is shipped, by its name, where no folder has it; otherwise what was said."""
    return SHIPPED if str(name) == SHIPPED.name and not os.path.exists(name) else name


def data_folder(data: Path) -> Path:
    """The folder itself, or the one of that name among the user's data sets."""
    for folder in (data, Path(os.environ.get("HEADWISE_DATA", "")) / data):
        if folder.is_dir():
            return folder
    raise ValueError(f"--data: nothing at {data}, and no folder of that name in $HEADWISE_DATA")


def check_out(file: Path, *suffixes: str) -> None:
    """Before long work: that its result will have a place. Raises ValueError."""
    if file.suffix not in suffixes:
        raise ValueError(f"--out: expected a file ending in {', '.join(suffixes[:-1])} or {suffixes[-1]}; got {file}")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise ValueError(f"--out: {file.parent} is not a folder that can be written to")


def check_folder(folder: Path, option: str) -> None:
    """The same of a folder, which need not be there yet. option: that said it. Raises ValueError."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ValueError(f"{option}: {there} is not a folder that can be written to")


@contextmanager
def one_sentence() -> Iterator[None]:
    """What the user can mend is said in one sentence, with exit status 1; a traceback is for our own mistakes."""
    from headwise.explorer.picture import NoFont

    try:
        yield
    except (ValueError, OSError, CheckpointError, NoFont) as error:
        fail(str(error))


@contextmanager
def extra(name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"this command needs {error.name}: pip install -c constraints.txt -e '.[{name}]' in the project's folder")


def fail(message: str) -> NoReturn:
    typer.echo(f"headwise: {printable(message)}", err=True)
    raise typer.Exit(1)
