"""The deck in a real browser: what an audience sees, and what comes out of a printer."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from headwise.cli.common import SHIPPED
from headwise.cli.translation import EXAMPLE
from headwise.lecture.deck import build
from headwise.lecture.material import Material
from headwise.lecture.recording import Recording, record
from headwise.lecture.words import LANGUAGES
from headwise.tasks.translate import Translator

BROWSERS = ("chromium", "google-chrome")  # the system's own, as in the Makefile
FAULTS = Path(__file__).parent / "faults.js"
PRINTED = "?print-pdf"  # how reveal.js is asked for pages instead of slides
POINT, SMALLEST = 4 / 3, 14  # px, on a slide of 1280 x 720; how high letters are at least, in faults.js, too


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up(f"no browser: install one of {', '.join(BROWSERS)} (as root, `make browser` does)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run() -> Recording:
    return record(Translator.load(SHIPPED), EXAMPLE)


@pytest.fixture(scope="module", params=LANGUAGES)
def deck(request, run, tmp_path_factory) -> Path:
    return build(Material(run, request.param), tmp_path_factory.mktemp(request.param))


@contextmanager
def opened(browser: Browser, deck: Path, query: str = "", width: int = 1280, height: int = 720) -> Iterator[Page]:
    """The deck's page, with a look for faults; asking for anything but files is one, and so is an error on the console."""
    complaints = []
    page = browser.new_page(viewport={"width": width, "height": height}, offline=True)
    page.on("request", lambda request: request.url.startswith("file://") or complaints.append(request.url))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{deck.as_uri()}{query}")
    page.add_script_tag(path=FAULTS)
    # a page to print is ready after that: for a frame its slides are nowhere
    page.wait_for_function(f"Reveal.isReady() && {'!!document.querySelector(`.pdf-page`)' if query else 'true'}")
    yield page
    page.close()
    assert complaints == []


def slides(deck: Path) -> int:
    """A stack of slides is a section of sections."""
    return len(re.findall("<section>(?!<section>)", deck.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1920, 1080)])
def test_every_slide_shows_all_that_is_on_it(browser, deck, width, height):
    with opened(browser, deck, width=width, height=height) as page:
        assert page.evaluate("onScreen()") == {"slides": slides(deck), "found": []}


def test_every_slide_is_printed_on_a_page_of_its_own_across_and_whole(browser, deck):
    with opened(browser, deck, PRINTED) as page:
        printed = page.pdf(prefer_css_page_size=True)
        page.emulate_media(media="print")
        assert page.evaluate("onPaper()") == {"slides": slides(deck), "found": []}
    boxes = re.findall(rb"/MediaBox \[([^]]*)\]", printed)
    assert boxes == [b"0 0 960 540"] * slides(deck)  # points: 16 to 9


def test_letters_in_figures_are_as_large_as_those_beside_them_must_be(browser, deck):
    with opened(browser, deck, PRINTED) as page:
        shown = page.evaluate(
            "[...document.images].map((image) => [image.alt, image.getAttribute('src'), image.width / image.naturalWidth])"
        )
    assert shown
    for name, file, scale in shown:
        # matplotlib draws letters at 100 points, and scales them
        sizes = re.findall(r"scale\((0\.\d+) -", (deck.parent / file).read_text(encoding="utf-8"))
        assert min(map(float, sizes)) * 100 * POINT * scale >= SMALLEST, name


@pytest.mark.parametrize("deck", ["en"], indirect=True)
def test_what_is_wrong_with_a_slide_is_found(browser, deck):
    breaking = {
        "in the margin": ".reveal li { font-size: 60px; }",
        "cut": ".reveal h1 { font-size: 120px; white-space: nowrap; }",
        "larger than its place": ".reveal figure img { height: 800px; max-height: none; }",
        "small": ".reveal td { font-size: 12px; }",
        'on "': ".reveal .reference { right: 48px; }",
    }
    with opened(browser, deck) as page:
        page.add_style_tag(content="".join(breaking.values()))
        page.evaluate("document.images[0].removeAttribute('src')")
        found = "".join(page.evaluate("onScreen()")["found"])
    assert [fault for fault in (*breaking, "not loaded") if fault not in found] == []
