"""What every system's configuration has in common: the entries of config.json as a dataclass, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any, ClassVar, TypeVar

C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields carry the published names and defaults, so that a config.json is read and written as it is.

    other: entries that do not change the mathematics (labels' names, what a library notes), kept for writing back.
    supported: entries that would change it and have only one value here. Raises ValueError for anything else.
    """

    supported: ClassVar[Mapping[str, Any]] = {}
    other: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name), str(item.type).split(" | "))

    @classmethod
    def from_entries(cls: type[C], entries: Mapping[str, Any]) -> C:
        """From the entries of a config.json."""
        for name, value in cls.supported.items():
            if entries.get(name, value) != value:
                raise ValueError(f"{name} is {entries[name]!r}; only {value!r} is known here")
        known = {item.name for item in fields(cls)} - {"other"}
        other = {name: value for name, value in entries.items() if name not in known}
        return cls(**{name: entries[name] for name in known & entries.keys()}, other=other)

    def to_entries(self) -> dict[str, Any]:
        """The entries of a config.json."""
        entries = asdict(self)
        return {**entries.pop("other"), **entries}


def _check(name: str, value: Any, kinds: list[str]) -> None:
    """Raises ValueError where a value is not of its field's kind, or out of all bounds."""
    if type(value).__name__ in ("list", "NoneType") and {"list": "list[int]"}.get(type(value).__name__, "None") in kinds:
        return
    if kinds[0] == "int":
        wanted = "an integer from 0 to " + ("1000" if "layer" in name else "2147483647")  # no file has more layers
        good = type(value) is int and 0 <= value <= int(wanted.split()[-1])
    elif kinds[0] == "float":
        share = "dropout" in name or name.endswith("pdrop")
        wanted = "a number in [0, 1)" if share else "a number"
        good = type(value) in (int, float) and (0 <= value < 1 if share else isfinite(value))
    else:
        kind = {"bool": bool, "str": str}.get(kinds[0], object)
        wanted, good = f"a {kind.__name__}", isinstance(value, kind)
    if not good:
        raise ValueError(f"{name}: expected {wanted}; got {value!r}")
