"""The slides: a page of reveal.js that needs neither a network nor a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from headwise.explorer.picture import save_figure
from headwise.lecture.figures.structure import FIGURES
from headwise.lecture.outline import REFERENCES, SECTIONS, Slide
from headwise.lecture.recording import Recording
from headwise.lecture.tables.structure import TABLES
from headwise.lecture.words import words
from headwise.models.checkpoint.folder import write

WEB = Path(__file__).parent / "web"
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
<script>Reveal.initialize({{width: 1280, height: 720, margin: 0, center: false, hash: true, slideNumber: true,
  transition: "none", pdfSeparateFragments: false}});</script>
</body>
</html>
"""


def build(run: Recording, language: str, out: Path, asked: str = "") -> Path:
    """Writes the deck into a folder and returns its page. asked: what was said on the command line besides, to be repeated
    under every figure and table that depends on it."""
    said = words(language)
    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    shutil.copytree(WEB, out, dirs_exist_ok=True)
    for number, draw in FIGURES.items():
        save_figure(lambda draw=draw: draw(run), out / "figures" / f"{number}.svg", "".join(run.tokens))
    slides = "\n".join(_slides(run, said, out, f" --lang {language}{asked}"))
    page = out / "index.html"
    text = PAGE.format(language=language, title=escape(said["title"]), slides=slides)
    write(page, lambda place: place.write_text(text, encoding="utf-8"))
    return page


def _slides(run: Recording, said: dict[str, Any], out: Path, asked: str) -> Iterator[str]:
    yield _section(f"<h1>{escape(said['title'])}</h1>", f"<p>{escape(said['subtitle'])}</p>", f"<p>{said['date']}</p>")
    contents = "".join(f"<li>{escape(said['sections'][section.key])}</li>" for section in SECTIONS)
    yield _section(f"<h2>{escape(said['contents'])}</h2>", f"<ol>{contents}</ol>")
    for section in SECTIONS:
        yield _section(f"<h1>{escape(said['sections'][section.key])}</h1>")
        for slide in section.slides:
            pages = [_text(slide.key, slide.references, said), *_examples(slide, run, said, out, asked)]
            yield f"<section>{''.join(pages)}</section>"
    yield _text("summary", (), said)
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


def _examples(slide: Slide, run: Recording, said: dict[str, Any], out: Path, asked: str) -> Iterator[str]:
    """The slide's figure and table, each with the command that computes it."""
    number, words_of = slide.number, said["slides"][slide.key]
    if number is None:
        return
    for kind, there in (("figure", FIGURES), ("table", TABLES)):
        caption = f"<h3>{escape(said[kind])} {number}: {escape(words_of[kind])}</h3>"
        if number not in there:
            yield _section(caption, f'<p class="sub">{escape(said["not_yet"])}</p>')
            continue
        if kind == "figure":
            made = f'<figure><img src="figures/{number}.svg" alt="{escape(words_of[kind])}"></figure>'
        else:
            table = TABLES[number](run)
            text = table.csv()
            write(out / "tables" / f"{number}.csv", lambda place, text=text: place.write_text(text, encoding="utf-8"))
            made = _table(table.said(said["terms"]))
        by = f"headwise lecture {kind} {number}{asked}"
        yield _section(caption, made, f'<p class="by">{escape(said["computed_by"])} <code>{escape(by)}</code></p>')


def _table(rows: list[list[str]]) -> str:
    made = [
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        for row, tag in zip(rows, ["th", *["td"] * (len(rows) - 1)], strict=True)
    ]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in made)}</table>"


def _section(*parts: str) -> str:
    return f"<section>{''.join(parts)}</section>"
