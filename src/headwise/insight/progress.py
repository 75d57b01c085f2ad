"""Progress of long work, on terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
shown = False  # work inside work shows the outer bar alone


def tracked(work: Iterable[Item], what: str) -> Iterator[Item]:
    """The same items, with a bar on standard error that goes when they end; none where that is no terminal."""
    global shown
    if shown or not sys.stderr.isatty():
        yield from work
        return
    shown = True
    try:
        yield from track(work, what, console=Console(stderr=True), transient=True)
    finally:
        shown = False
