"""What every system's configuration has in common: the entries of config.json as a dataclass, checked at the door."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields carry the published names and defaults, so that a config.json is read and written as it is.

    other: entries that do not change the mathematics (labels' names, what a library notes), kept for writing back.
    supported: entries that would change it and have only one value here. aliases: further names of fields, in some files.
    Raises ValueError for what a field cannot be.
    """

    supported: ClassVar[Mapping[str, Any]] = {"per_layer_config": None, "is_causal": True, "quantization_config": None}
    aliases: ClassVar[Mapping[str, str]] = {}
    other: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for item in fields(self):
            words, fits = _kind(item.name, kinds[item.name])
            if not fits(getattr(self, item.name)):
                raise ValueError(f"{item.name}: expected {words}; got {getattr(self, item.name)!r}")

    @classmethod
    def from_entries(cls: type[C], entries: Mapping[str, Any]) -> C:
        """From the entries of a config.json."""
        for name, value in cls.supported.items():
            if entries.get(name, value) != value:
                raise ValueError(f"{name} is {entries[name]!r}; only {value!r} is known here")
        entries = dict(entries)
        for alias in cls.aliases.keys() & entries.keys():
            name, value = cls.aliases[alias], entries.pop(alias)
            if entries.setdefault(name, value) != value:
                raise ValueError(f"{name} is {entries[name]!r}, and {alias}, which means the same, {value!r}")
        kinds = get_type_hints(cls)
        known = {item.name for item in fields(cls)} - {"other"}
        other = {name: value for name, value in entries.items() if name not in known}
        return cls(**{name: _read(entries[name], kinds[name]) for name in known & entries.keys()}, other=other)

    def to_entries(self) -> dict[str, Any]:
        """The entries of a config.json."""
        entries = asdict(self)
        inner = {name: config.to_entries() for name, config in self._inner().items()}
        return {**entries.pop("other"), **entries, **inner}

    def with_heads(self: C, num_heads: int, num_kv_heads: int) -> C | None:
        """The settings of the same model with other heads in every layer, as wide as before; None if they cannot say it."""
        return None

    @property
    def depth(self) -> int:
        """The number of layers, of all stacks together."""
        sizes = [getattr(self, item.name) for item in fields(self) if "layer" in item.name]
        return sum(size for size in sizes if isinstance(size, int)) + sum(config.depth for config in self._inner().values())

    def _inner(self) -> dict[str, Config]:
        """The configurations of parts, which some have."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Config)}


@dataclass(frozen=True, kw_only=True)
class Labelled(Config):
    """The configuration of a model that tells classes apart.

    id2label: the names of the classes, by number. problem_type: the loss of classification: "regression" (squared error; the
    choice for one label), "single_label_classification" (for integer labels) or "multi_label_classification" (for float ones).
    """

    id2label: Mapping[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.id2label or not all(type(number) is int for number in self.id2label):
            raise ValueError(f"id2label: expected a name for each class by its number, from 0; got {dict(self.id2label)!r}")

    @classmethod
    def from_entries(cls: type[C], entries: Mapping[str, Any]) -> C:
        names = entries.get("id2label")
        if names is None:
            labels = entries.get("num_labels", 2)
            if type(labels) is not int or not 0 < labels <= 2**20:
                raise ValueError(f"num_labels: expected an integer from 1 to {2**20}; got {labels!r}")
            names = {i: f"LABEL_{i}" for i in range(labels)}
        elif isinstance(names, Mapping):  # in JSON every key is text
            names = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
        rest = {name: entry for name, entry in entries.items() if name != "label2id"}  # the same once more
        return super().from_entries({**rest, "id2label": names})

    def to_entries(self) -> dict[str, Any]:
        return {**super().to_entries(), "label2id": {name: number for number, name in self.id2label.items()}}

    @property
    def num_labels(self) -> int:
        return len(self.id2label)


def _read(value: Any, kind: Any) -> Any:
    """A part's entries as its configuration; an integer as a float where only a float is meant."""
    if isinstance(kind, type) and issubclass(kind, Config) and isinstance(value, Mapping):
        return kind.from_entries(value)
    kinds = (kind, *get_args(kind))
    meant = type(value) is int and float in kinds and int not in kinds and abs(value) <= sys.float_info.max
    return float(value) if meant else value


def _kind(name: str, kind: Any) -> tuple[str, Callable[[Any], bool]]:
    """What a field of that name can be, in words and as a test: values of its type, within all bounds."""
    parts = [_kind(name, part) for part in get_args(kind) if get_origin(kind) is not Literal]
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(words for words, _ in parts), lambda x: any(fits(x) for _, fits in parts)
    if get_origin(kind) is list:
        return f"a list ({parts[0][0]} each)", lambda x: isinstance(x, list) and all(map(parts[0][1], x))
    if get_origin(kind) is Mapping:
        return "an object", lambda x: isinstance(x, Mapping) and all(map(parts[1][1], x.values()))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind))), lambda x: x in get_args(kind)
    if kind is int:
        # Old files say -1 where there is no such token; a least number may be none; no file has more layers.
        low, high = -1 if name.endswith("token_id") else int("_min_" not in name), 1000 if "layer" in name else 2**31 - 1
        return f"an integer from {low} to {high}", lambda x: type(x) is int and low <= x <= high
    if kind is float and ("dropout" in name or name.endswith("pdrop")):
        return "a number in [0, 1)", lambda x: type(x) in (int, float) and 0 <= x < 1
    if kind is float and "eps" in name:
        return "a number from 0", lambda x: type(x) in (int, float) and 0 <= x <= sys.float_info.max
    if kind is float:
        return "a number", lambda x: type(x) in (int, float) and abs(x) <= sys.float_info.max  # neither nan nor infinity
    plain = {bool: "true or false", str: "a string", NoneType: "null"}
    return plain.get(kind, "an object"), lambda x: kind is Any or isinstance(x, kind)
