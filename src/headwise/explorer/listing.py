"""What can be read, and what a folder's model is made of: two tables for the terminal."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path

from rich.table import Table

from headwise.explorer.tables import alike, table
from headwise.models.checkpoint.heads import attentions
from headwise.models.registry import build
from headwise.models.systems import FORMATS


def architectures() -> Table:
    """Every architecture that a config.json may name, and the system it belongs to."""
    made = table("architecture", "system")
    for form in FORMATS:
        for name, make in form.models.items():
            made.add_row(name, (inspect.getdoc(inspect.getmodule(make)) or "").partition(":")[0])
    return made


def model(folder: str | Path) -> Table:
    """The attention of a folder's model and the number of its parameters; config.json is read, and no weight."""
    found = build(folder)
    parameters = sum(parameter.numel() for parameter in found.parameters())
    title = f"{type(found).__name__}: {parameters:,} parameters"
    made = table("attention", "modules", "heads", "kv heads", "head_dim", "embed_dim", title=title)
    counted = Counter(  # those that differ only in the number of their layer
        (alike(address), attention.num_heads, attention.num_kv_heads, attention.head_dim, attention.embed_dim)
        for address, attention in attentions(found).items()
    )
    for (address, *sizes), modules in counted.items():
        made.add_row(address, *map(str, (modules, *sizes)))
    return made
