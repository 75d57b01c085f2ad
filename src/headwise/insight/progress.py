"""Progress of long work, on terminals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
LONG = 2**28  # weights: seconds
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


def if_long(weights: int, what: str) -> Callable[[Iterable[Item]], Iterable[Item]]:
    """``tracked`` for work on so many weights, if that takes long; a bar that goes at once would only flicker."""
    return partial(tracked, what=what) if weights > LONG else iter
