"""Long work says how far it is, on stderr, where somebody reads along."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The items, with a bar while they last; none where stderr is no terminal."""
    total = len(items) if isinstance(items, Sized) else None
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        yield from progress.track(items, total=total, description=what)
