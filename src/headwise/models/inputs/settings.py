"""The settings that a published folder holds for its processors, of pictures or of sound."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from headwise.models.checkpoint.folder import CheckpointError, find, read_json

Number = int | float
JOINT = "processor_config.json"  # newer files hold all of a model's processors, each as a part
LARGEST = 2**20  # of what a file can set: more would only fill the memory


def read_settings(
    folder: str | os.PathLike[str],
    reader: str,
    what: str,
    *,
    parts: Mapping[str, str],
    types: Collection[str],
    models: Mapping[str, str],
) -> tuple[str, dict[str, Any], Path]:
    """The kind of a folder's processor, its settings, and the file they are in.

    reader, what: it reads, for errors where there is none. parts: the name of each part of processor_config.json and
    of the file that held it before. types: the entries that name the kind; where there is none, ``models`` has that of the
    model_type in config.json.
    """
    path = find(folder)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder with {reader}")
    joint = read_json(path / JOINT) if (path / JOINT).exists() else {}
    for part, name in parts.items():
        if isinstance(joint.get(part), dict):
            settings, place = joint[part], path / JOINT
        elif (path / name).exists():
            settings, place = read_json(path / name), path / name
        else:
            continue
        return _kind(path, settings, types, models), settings, place
    raise CheckpointError(f"{path} holds no preprocessor_config.json, nor another file that says how {what} go in")


def _kind(path: Path, settings: dict[str, Any], types: Collection[str], models: Mapping[str, str]) -> str:
    for name in types:
        if isinstance(kind := settings.get(name), str):
            return kind
    config = read_json(path / "config.json") if (path / "config.json").exists() else {}
    return models.get(str(config.get("model_type")), f"the processor of model_type {config.get('model_type')}")


def check_numbers(settings: Any) -> None:
    """ValueError for a field of a dataclass that is not what it is declared as; whole numbers are from 1 to LARGEST."""
    for one in fields(settings):
        value = getattr(settings, one.name)
        if one.type == "bool" and not isinstance(value, bool):
            raise ValueError(f"{one.name} is {value!r}; expected True or False")
        if one.type == "int" and (type(value) is not int or not 0 < value <= LARGEST):
            raise ValueError(f"{one.name} is {value!r}; expected a whole number from 1 to {LARGEST}")
        if one.type == "Number" and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"{one.name} is {value!r}; expected a number")
