"""The slides: a page of reveal.js that needs neither a network nor a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headwise.explorer.picture import save_figure
from headwise.lecture.claims import CLAIMS
from headwise.lecture.figures import FIGURES
from headwise.lecture.material import Material
from headwise.lecture.outline import REFERENCES, SECTIONS, Slide
from headwise.lecture.tables import TABLES
from headwise.lecture.tables.measured import verdicts

WEB = Path(__file__).parent / "web"
ROWS = 12  # of a table on one slide
LETTERS = 95  # of a command: one line, for below a figure there is no room for more
PAGE = """\
<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="reveal/reset.css">
<link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="deck.css">
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
<script src="reveal/reveal.js"></script>
<script>Reveal.initialize({{width: 1280, height: 720, margin: 0, maxScale: 10, center: false, hash: true, slideNumber: "c/t",
  navigationMode: "linear", controlsTutorial: false, transition: "none", pdfSeparateFragments: false}});</script>
</body>
</html>
"""


def build(material: Material, out: Path, asked: str = "") -> Path:
    """Writes the deck into a folder, once all of it is made, and returns its page. asked: what was said on the command line, to
    be repeated under every figure and table."""
    said = material.words
    with TemporaryDirectory() as name:
        made = Path(name)
        for folder in ("figures", "tables"):
            (made / folder).mkdir()
        slides = "\n".join(_slides(material, made, asked))
        text = PAGE.format(language=material.language, title=escape(said["title"]), slides=slides)
        (made / "index.html").write_text(text, encoding="utf-8")
        for folder in (WEB, made):
            shutil.copytree(folder, out, dirs_exist_ok=True, copy_function=shutil.copyfile)
    return out / "index.html"


def _slides(material: Material, out: Path, asked: str) -> Iterator[str]:
    said = material.words
    yield _section(f"<h1>{escape(said['title'])}</h1>", f"<p>{escape(said['subtitle'])}</p>", f"<p>{said['date']}</p>")
    contents = "".join(f"<li>{escape(said['sections'][section.key])}</li>" for section in SECTIONS)
    yield _section(f"<h2>{escape(said['contents'])}</h2>", f"<ol>{contents}</ol>")
    for section in SECTIONS:
        yield _section(f"<h1>{escape(said['sections'][section.key])}</h1>")
        for slide in section.slides:
            examples = (*_figure(slide, material, out, asked), *_table(slide, material, out, asked))
            then = _text(slide.then, (), said) if slide.then else ""
            yield f"<section>{_text(slide.key, slide.references, said)}{then}{''.join(examples)}</section>"
    yield f"<section>{_text('summary', (), said)}{_verdicts(material, asked)}</section>"
    listed = "".join(f"<li>{escape(reference)}</li>" for reference in REFERENCES.values())
    yield _section(f"<h2>{escape(said['slides']['references']['title'])}</h2>", f'<ul class="references">{listed}</ul>')
    yield _text("questions", (), said)


def _text(key: str, references: tuple[str, ...], said: dict[str, Any]) -> str:
    words_of = said["slides"][key]
    points = "".join(f"<li>{escape(point)}</li>" for point in words_of["points"])
    cited = "".join(f"<p>{escape(said['reference'])}: {escape(REFERENCES[name])}</p>" for name in references)
    return _section(
        f"<h2>{escape(words_of['title'])}</h2>",
        f'<p class="summary">{escape(words_of["summary"])}</p>',
        f"<ul>{points}</ul>",
        f'<div class="reference">{cited}</div>' if cited else "",
    )


def _figure(slide: Slide, material: Material, out: Path, asked: str) -> Iterator[str]:
    if slide.number not in FIGURES:
        yield _example("figure", slide, material, _not_yet(material))
        return
    save(slide.number, material, out / "figures" / f"{slide.number}.svg")
    alt = escape(material.words["slides"][slide.key]["figure"])
    made = f'<figure><img src="figures/{slide.number}.svg" alt="{alt}"></figure>'
    about = "".join(f"{escape(said['name'])}: {escape(said['about'])}<br>" for said in _experiments(slide.figure, material))
    yield _example("figure", slide, material, made, _by(f"figure {slide.number}", slide.figure, material, asked, about))


def _table(slide: Slide, material: Material, out: Path, asked: str) -> Iterator[str]:
    if slide.number not in TABLES:
        yield _example("table", slide, material, _not_yet(material))
        return
    table = TABLES[slide.number](material)
    (out / "tables" / f"{slide.number}.csv").write_text(table.csv(), encoding="utf-8")
    by, pages = _by(f"table {slide.number}", slide.table, material, asked), list(table.pages(ROWS))
    for place, page in enumerate(pages, 1):
        part = f" ({place}/{len(pages)})" if len(pages) > 1 else ""
        yield _example("table", slide, material, page.html(material.terms), by, part)


def _verdicts(material: Material, asked: str) -> str:
    caption = f"<h3>{escape(material.words['slides']['summary']['table'])}</h3>"
    by = _by("build", sorted({claim.experiment for claim in CLAIMS.values()}), material, asked)
    return _section(caption, verdicts(material).html(material.terms), by)


def save(number: int, material: Material, file: Path) -> None:
    """Writes a figure as SVG or PNG, with a font that has the characters of the words and of the sentence."""
    text = "".join([*material.run.tokens, *material.terms.values()])
    save_figure(lambda: FIGURES[number](material), file, text)


def _example(kind: str, slide: Slide, material: Material, made: str, by: str = "", part: str = "") -> str:
    """A figure or a table under its caption; below it, unless there is none yet, how it was computed."""
    said = material.words
    return _section(f"<h3>{escape(said[kind])} {slide.number}: {escape(said['slides'][slide.key][kind])}{part}</h3>", made, by)


def _by(command: str, experiments: Iterable[str], material: Material, asked: str, about: str = "") -> str:
    """Below a figure or a table: what its experiments do, the command that makes it, and what it is made from."""
    said, command = material.words, f"headwise lecture {command} --lang {material.language}{asked}"
    shown = command if len(command) <= LETTERS else f"{command[: LETTERS - 1]}…"
    by = f'{about}{escape(said["computed_by"])} <code title="{escape(command)}">{escape(shown)}</code>'
    if experiments:
        return f'<p class="by">{by}<br>{escape(_origin(experiments, material))}</p>'
    return f'<p class="by read">{by}; {escape(said["read"].format(**vars(material.run)))}</p>'


def _origin(experiments: Iterable[str], material: Material) -> str:
    """Experiments and their seeds, then the machines and days, each once."""
    said, found = material.words, [material.results(name) for name in experiments]
    names = [words_of["name"] for words_of in _experiments(experiments, material)]
    runs = [said["seeds"].format(name=name, seeds=len(results.seeds)) for name, results in zip(names, found, strict=True)]
    machines = [
        said["machine"].format(torch=results.versions["torch"], date=results.date, **results.hardware) for results in found
    ]
    return "; ".join([", ".join(runs), *dict.fromkeys(machines)])


def _experiments(names: Iterable[str], material: Material) -> list[dict[str, str]]:
    return [material.words["experiments"][name] for name in names]


def _not_yet(material: Material) -> str:
    return f'<p class="sub">{escape(material.words["not_yet"])}</p>'


def _section(*parts: str) -> str:
    return f"<section>{''.join(parts)}</section>"
