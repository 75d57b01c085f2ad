"""What the registry knows of a system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from headwise.models.checkpoint.config import Config
from headwise.models.checkpoint.keys import Keys


@dataclass(frozen=True)
class Format:
    """One system's published format.

    model_type: as in config.json. models: architecture in config.json -> the class that reads it; the first architecture
    with a class is the one written back. keys: the key table.
    """

    model_type: str
    config: type[Config]
    models: Mapping[str, type[nn.Module] | Any]
    keys: Keys = field(default_factory=Keys)
