"""``headwise lecture``: the deck, or one of its figures and tables."""

from __future__ import annotations

import inspect
import shlex
import tempfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from headwise.cli.common import SHIPPED, DataOption, check_folder, check_out, data_folder, one_sentence
from headwise.cli.translation import EXAMPLE
from headwise.models.checkpoint.folder import write

if TYPE_CHECKING:
    from headwise.lecture.material import Material

app = typer.Typer(no_args_is_help=True, help="The lecture on multi-head attention, every figure and table computed.")
MEASURED = Path("lecture-results")


class Language(StrEnum):
    ZH = "zh"
    EN = "en"


@dataclass(frozen=True)
class Asked:
    """What every command here can be told."""

    lang: Annotated[Language, typer.Option(help="Of the words.")] = Language.ZH
    text: Annotated[str, typer.Option(help="The sentence that runs through the model.")] = EXAMPLE
    model: Annotated[Path, typer.Option(help="Folder of a translation model.", show_default="the shipped one")] = SHIPPED
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of the experiments' results.", show_default=f"headwise's own; with --recompute {MEASURED}"),
    ] = None
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Runs the experiments behind it again (hours) and writes their results."),
    ] = False
    quick: Annotated[
        bool,
        typer.Option("--quick", help="With --recompute: a part of them, in minutes, to say where it differs; writes none."),
    ] = False
    data: DataOption = Path("tatoeba_en_zh")
    runs: Annotated[Path, typer.Option(help="Where --recompute keeps what is finished, to go on there.")] = Path("runs/lecture")

    def __str__(self) -> str:
        """What makes figures and tables others than they are by default."""
        said = [] if self.text == EXAMPLE else ["--text", self.text]
        said += [] if self.model == SHIPPED else ["--model", str(self.model)]
        said += [] if self.results is None else ["--results", str(self.results)]
        return "".join(f" {shlex.quote(part)}" for part in said)

    def material(self, experiments: Collection[str]) -> Material:
        """What figures and tables are made from; these experiments are run before, if that was asked."""
        from headwise.lecture.experiments.results import FOLDER
        from headwise.lecture.material import Material
        from headwise.lecture.recording import record
        from headwise.tasks.translate import Translator

        if self.quick and not self.recompute:
            raise ValueError("--quick: only with --recompute")
        if self.recompute and not experiments:
            raise ValueError("--recompute: no experiment is behind this; it is computed anew each time")
        run = record(Translator.load(self.model), self.text)
        folder = self.results or (MEASURED if self.recompute and not self.quick else FOLDER)
        if self.recompute:
            self._measure(experiments, folder)
        return Material(run, self.lang.value, folder)

    def _measure(self, experiments: Iterable[str], folder: Path) -> None:
        from headwise.lecture.experiments.catalogue import EXPERIMENTS
        from headwise.lecture.experiments.experiment import Workspace
        from headwise.lecture.experiments.results import compare, read
        from headwise.lecture.outline import SLIDES
        from headwise.tasks.pairs import split_file

        behind = [EXPERIMENTS[name] for name in experiments]
        data = self.data
        if any(experiment.reads for experiment in behind):  # whatever is missing is said before the work, not after it
            data = data_folder(self.data)
            for split in ("train", "valid"):
                split_file(data, split)
        expected = {experiment.name: read(experiment.name, folder) for experiment in behind} if self.quick else {}
        if not self.quick:
            check_folder(folder, "--results")
        with tempfile.TemporaryDirectory() as fresh:
            workspace = Workspace(data, Path(fresh) if self.quick else self.runs)
            for experiment in behind:
                number = next(number for number, slide in SLIDES.items() if experiment.name in slide.table)
                reads = f" --data {data.name}" if experiment.reads else ""
                found = experiment.measure(workspace, f"headwise lecture table {number} --recompute{reads}", self.quick)
                if self.quick:
                    differing = compare(expected[experiment.name], found)
                    typer.echo(
                        f"{experiment.name}: {len(found.keys)} numbers, {len(differing)} of them outside what was expected"
                    )
                    for one in differing:
                        typer.echo(f"  {one}")
                else:
                    typer.echo(f"wrote {found.write(folder)}")


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what is asked everywhere to a command's own parameters; the command takes it as one object, ``asked``."""
    hints = get_type_hints(Asked, include_extras=True)
    shared = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(Asked)
    ]
    own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "asked"]

    def run(**given: Any) -> None:
        asked = Asked(**{one.name: given.pop(one.name) for one in shared})
        with one_sentence():
            command(**given, asked=asked)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature([*own, *shared])
    run.__annotations__ = {one.name: one.annotation for one in (*own, *shared)}
    return run


NumberArgument = Annotated[int, typer.Argument(min=1, max=13, help="As in the lecture.")]


@app.command()
@asks
def build(
    asked: Asked,
    out: Annotated[Path | None, typer.Option(help="Folder for the deck.", show_default="lecture-zh or -en")] = None,
) -> None:
    """A deck of slides; open its index.html in any browser, without a network."""
    from headwise.lecture import deck
    from headwise.lecture.outline import SLIDES

    folder = out or Path(f"lecture-{asked.lang.value}")
    check_folder(folder, "--out")
    behind = dict.fromkeys(name for slide in SLIDES.values() for name in slide.table)
    page = deck.build(asked.material(behind), folder, str(asked))
    typer.echo(f"wrote {page}")


@app.command()
@asks
def figure(
    asked: Asked,
    number: NumberArgument,
    out: Annotated[Path | None, typer.Option(help="FILE.svg or .png.", show_default="figure-N.svg")] = None,
) -> None:
    """One figure, as SVG or PNG."""
    from headwise.lecture import deck
    from headwise.lecture.figures import FIGURES
    from headwise.lecture.outline import SLIDES

    file = out or Path(f"figure-{number}.svg")
    check_out(file, ".svg", ".png")
    _check(number, FIGURES)
    deck.save(number, asked.material(SLIDES[number].figure), file)
    typer.echo(f"wrote {file}")


@app.command()
@asks
def table(
    asked: Asked,
    number: NumberArgument,
    out: Annotated[Path | None, typer.Option(help="FILE.csv or .md.", show_default="printed as Markdown")] = None,
) -> None:
    """One table, as Markdown or CSV."""
    from headwise.lecture.outline import SLIDES
    from headwise.lecture.tables import TABLES

    if out is not None:
        check_out(out, ".csv", ".md")
    _check(number, TABLES)
    material = asked.material(SLIDES[number].table)
    made = TABLES[number](material)
    said = made.csv() if out is not None and out.suffix == ".csv" else made.markdown(material.terms)
    if out is None:
        typer.echo(said, nl=False)
    else:
        write(out, lambda place: place.write_text(said, encoding="utf-8"))
        typer.echo(f"wrote {out}")


def _check(number: int, there: Iterable[int]) -> None:
    if number not in there:
        raise ValueError(f"number {number} is not computed yet; there is {', '.join(map(str, sorted(there)))}")
