"""``headwise models``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from headwise.cli.common import one_sentence


def models(
    folder: Annotated[
        str | None, typer.Argument(help="A folder, or owner/name on the Hub; none = list what can be read.", show_default=False)
    ] = None,
) -> None:
    """What can be read; of a folder's model: its heads, widths and parameters."""
    from headwise.explorer import listing

    with one_sentence():
        Console().print(listing.architectures() if folder is None else listing.model(folder))
