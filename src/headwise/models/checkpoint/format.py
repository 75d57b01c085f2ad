"""What the registry knows of a system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from headwise.models.checkpoint.config import Config
from headwise.models.checkpoint.folder import DIFFUSERS, TRANSFORMERS, Files
from headwise.models.checkpoint.keys import Keys


@dataclass(frozen=True)
class Format:
    """One system's published format.

    model_type: as in config.json; diffusers has none. models: architecture in config.json -> the class that reads it; the
    first architecture with a class is the one written back. keys: the key table.
    """

    model_type: str | None
    config: type[Config]
    models: Mapping[str, type[nn.Module] | Any]
    keys: Keys = field(default_factory=Keys)

    @property
    def files(self) -> Files:
        """How the reference library calls the files with the weights."""
        return DIFFUSERS if self.model_type is None else TRANSFORMERS

    def signature(self, architecture: str, dtype: str) -> dict[str, Any]:
        """The entries of config.json that say what model it is, as the reference library writes them."""
        if self.model_type is None:
            return {"_class_name": architecture}
        return {"model_type": self.model_type, "architectures": [architecture], "dtype": dtype}

    def holds_copies(self, places: Mapping[str, Any], untied: bool) -> bool:
        """Whether files hold what is tied under all its names; places: the names of the model's own tensors."""
        return untied

    def recognise(self, entries: Mapping[str, Any], folder: Path) -> str | None:
        """The architecture of a folder whose config.json names none, if it can be told: where one class reads all of a
        model_type."""
        alone = self.model_type is not None and len(set(self.models.values())) == 1
        return next(iter(self.models)) if alone and entries.get("model_type") == self.model_type else None


# Entries of ``signature``, some under older names: what is no setting of a model.
SIGNATURE = ("model_type", "architectures", "dtype", "torch_dtype", "_class_name")


def architectures(entries: Mapping[str, Any]) -> Any:
    """What a config.json says that it is: a list of names, if it is a sound one."""
    return entries.get("architectures") or ([entries["_class_name"]] if "_class_name" in entries else [])
