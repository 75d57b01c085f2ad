"""Progress of long work, on terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def tracked(work: Iterable[Item], what: str) -> Iterable[Item]:
    """The same items, with a bar on standard error that goes when they end; none where that is no terminal."""
    return track(work, what, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
