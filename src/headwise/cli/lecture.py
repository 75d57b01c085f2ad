"""``headwise lecture``: the deck, or one of its figures and tables."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headwise.cli.common import SHIPPED, check_out, one_sentence
from headwise.cli.translation import EXAMPLE
from headwise.lecture.recording import Recording, record
from headwise.models.checkpoint.folder import write
from headwise.tasks.translate import Translator

app = typer.Typer(no_args_is_help=True, help="The lecture on multi-head attention, every figure and table computed.")


class Language(StrEnum):
    ZH = "zh"
    EN = "en"


LanguageOption = Annotated[Language, typer.Option("--lang", help="Of the words.")]
TextOption = Annotated[str, typer.Option("--text", help="The sentence that runs through the model.")]
ModelOption = Annotated[Path, typer.Option("--model", help="Folder of a translation model.", show_default="the shipped one")]
NumberArgument = Annotated[int, typer.Argument(min=1, max=13, help="As in the lecture.")]


@app.command()
def build(
    lang: LanguageOption = Language.ZH,
    out: Annotated[Path | None, typer.Option(help="Folder for the deck.", show_default="lecture-zh or -en")] = None,
    text: TextOption = EXAMPLE,
    model: ModelOption = SHIPPED,
) -> None:
    """A deck of slides; open its index.html in any browser, without a network."""
    from headwise.lecture import deck

    with one_sentence():
        page = deck.build(_run(text, model), lang.value, out or Path(f"lecture-{lang.value}"), _asked(text, model))
        typer.echo(f"wrote {page}")


@app.command()
def figure(
    number: NumberArgument,
    out: Annotated[Path | None, typer.Option(help="FILE.svg or .png.", show_default="figure-N.svg")] = None,
    lang: LanguageOption = Language.ZH,
    text: TextOption = EXAMPLE,
    model: ModelOption = SHIPPED,
) -> None:
    """One figure, as SVG or PNG."""
    from headwise.explorer.picture import save_figure
    from headwise.lecture.figures.structure import FIGURES

    with one_sentence():
        file = out or Path(f"figure-{number}.svg")
        check_out(file, ".svg", ".png")
        _check(number, list(FIGURES))
        run = _run(text, model)
        save_figure(lambda: FIGURES[number](run), file, "".join(run.tokens))
        typer.echo(f"wrote {file}")


@app.command()
def table(
    number: NumberArgument,
    out: Annotated[Path | None, typer.Option(help="FILE.csv or .md.", show_default="printed as Markdown")] = None,
    lang: LanguageOption = Language.ZH,
    text: TextOption = EXAMPLE,
    model: ModelOption = SHIPPED,
) -> None:
    """One table, as Markdown or CSV."""
    from headwise.lecture.tables.structure import TABLES
    from headwise.lecture.words import words

    with one_sentence():
        if out is not None:
            check_out(out, ".csv", ".md")
        _check(number, list(TABLES))
        made = TABLES[number](_run(text, model))
        said = made.csv() if out is not None and out.suffix == ".csv" else made.markdown(words(lang.value)["terms"])
        if out is None:
            typer.echo(said, nl=False)
        else:
            write(out, lambda place: place.write_text(said, encoding="utf-8"))
            typer.echo(f"wrote {out}")


def _run(text: str, model: Path) -> Recording:
    return record(Translator.load(model), text)


def _check(number: int, there: list[int]) -> None:
    if number not in there:
        raise ValueError(f"number {number} is not computed yet; there is {', '.join(map(str, there))}")


def _asked(text: str, model: Path) -> str:
    """What makes the figures others than they are by default."""
    said = [] if text == EXAMPLE else ["--text", text]
    return "".join(f" {shlex.quote(part)}" for part in said + ([] if model == SHIPPED else ["--model", str(model)]))
