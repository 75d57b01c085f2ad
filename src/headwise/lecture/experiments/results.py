"""What an experiment found: one number per seed and condition, kept as JSON; every interval is computed from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from headwise.models.checkpoint.folder import read_json, write_json

FOLDER = Path(__file__).parent.parent / "results"
CONFIDENCE = 0.95
LARGEST = 1e100  # no experiment counts so far, and nothing that is computed from less overflows
METHOD = f"{CONFIDENCE:.0%} Student t interval over seeds; differences are taken seed by seed"

Numbers = dict[str, float | int]  # what one seed found: name and condition, as ``key`` writes them -> value


def key(name: str, **where: object) -> str:
    """``key("accuracy", heads=8, distance=64)`` is "accuracy heads=8 distance=64"."""
    return " ".join([name, *(f"{condition}={value}" for condition, value in where.items())])


def conditions(written: str) -> tuple[str, dict[str, str]]:
    """What ``key`` was made from: its inverse, values as text."""
    parts = re.split(r" (?=\w+=)", written)
    return parts[0], dict(part.split("=", 1) for part in parts[1:])


class Interval(NamedTuple):
    """A mean over seeds and its 95 % limits: nan where there is one seed alone."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """mean ± t_{n-1} s / sqrt(n), s the standard deviation of the n values."""
    if not values:
        raise ValueError("expected at least one value")
    mean, half = float(np.mean(values)), math.nan
    if len(values) > 1:
        half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Results:
    """Everything that a run of an experiment leaves. by_seed: {seed: {key: value}}; all seeds have the same keys.

    samples: on how much every number was measured. settings: the sizes it ran with.
    """

    experiment: str
    command: str
    samples: str
    settings: Mapping[str, Any]
    by_seed: Mapping[int, Numbers]
    interval_method: str = METHOD
    hardware: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.by_seed)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(next(iter(self.by_seed.values())))

    def values(self, name: str, **where: object) -> list[float]:
        """One number per seed. Raises ValueError for one that was not measured."""
        wanted = key(name, **where)
        if wanted not in self.keys:
            near = get_close_matches(wanted, self.keys, n=1, cutoff=0)
            raise ValueError(
                f"the results of {self.experiment} have no {wanted!r}; the nearest is {', '.join(map(repr, near))}"
            )
        return [float(numbers[wanted]) for numbers in self.by_seed.values()]

    def interval(self, name: str, **where: object) -> Interval:
        return interval(self.values(name, **where))

    def write(self, folder: Path = FOLDER) -> Path:
        path = folder / f"{self.experiment}.json"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self) | {"by_seed": {str(seed): numbers for seed, numbers in self.by_seed.items()}})
        return path


def read(experiment: str, folder: Path = FOLDER) -> Results:
    """What ``Results.write`` wrote. Raises ValueError where there are none, those of another experiment, or damaged ones."""
    path = folder / f"{experiment}.json"
    if not path.exists():
        raise ValueError(f"no results of {experiment} in {folder}")
    entries, named = read_json(path), {one.name for one in fields(Results)}
    if entries.keys() != named:
        raise ValueError(
            f"{path}: expected results with {', '.join(sorted(named))}; got {', '.join(sorted(entries)) or 'nothing'}"
        )
    if entries["experiment"] != experiment:
        raise ValueError(f"{path}: expected results of {experiment!r}; got those of {entries['experiment']!r}")
    for name in ("settings", "hardware", "versions"):
        if not isinstance(entries[name], dict):
            raise ValueError(f"{path}: expected {name} by their names; got {entries[name]!r}")
        entries[name] = _Named(entries[name])
    if not all(map(_is_size, entries["settings"].values())):
        raise ValueError(f"{path}: expected settings that are numbers; got {dict(entries['settings'])}")
    entries["by_seed"] = _by_seed(path, entries["by_seed"])
    return Results(**entries)


class _Named(dict[str, Any]):
    """What a file holds under names; one that is not there is the file's mistake, and no KeyError."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"the results say no {name!r}, only {', '.join(self) or 'nothing'}")


def _is_size(value: object) -> bool:
    """A number, several, or those of another experiment that this one builds on."""
    if isinstance(value, dict):
        return all(map(_is_size, value.values()))
    many = value if isinstance(value, list) else [value]
    return bool(many) and all(isinstance(one, int | float) for one in many)


def _by_seed(path: Path, found: Any) -> dict[int, Numbers]:
    seeds = found if isinstance(found, dict) else {}
    if not seeds or not all(seed.isdecimal() and isinstance(numbers, dict) for seed, numbers in seeds.items()):
        raise ValueError(f"{path}: expected at least one seed, each with its numbers")
    if len({frozenset(numbers) for numbers in seeds.values()}) != 1:
        raise ValueError(f"{path}: expected the same numbers of every seed")
    for seed, numbers in seeds.items():
        for name, value in numbers.items():
            if not isinstance(value, int | float) or not abs(value) < LARGEST:
                raise ValueError(f"{path}, seed {seed}: expected a number for {name!r}; got {str(value)[:80]!r}")
    return {int(seed): numbers for seed, numbers in seeds.items()}


def differences(one: Sequence[float], other: Sequence[float]) -> Interval:
    """one - other, seed by seed: what both seeds share (data, order) cancels."""
    return interval([a - b for a, b in zip(one, other, strict=True)])


@dataclass(frozen=True)
class Difference:
    """A number that a new run does not confirm, and where it should have been."""

    key: str
    new: float
    expected: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.key}: {self.new:.4g}, expected {self.expected[0]:.4g} to {self.expected[1]:.4g}"


def compare(old: Results, new: Results) -> list[Difference]:
    """Numbers of both whose new mean lies outside the old prediction interval, m ± t_{n-1} s sqrt(1/n + 1/n').

    That is where the mean of n' further seeds falls 95 times in 100, were they drawn as the n old ones were; so of a hundred
    numbers that are alike about five are named. Seeds that both have run are expected to give the same, but machines round
    differently, so they are judged no more strictly. What only one of them measured is not compared.
    """
    found = []
    for name in (name for name in new.keys if name in old.keys):
        before, after = old.values(name), new.values(name)
        n, mean = len(before), float(np.mean(after))
        spread = float(np.std(before, ddof=1)) if n > 1 else 0.0
        half = float(student.ppf((1 + CONFIDENCE) / 2, max(1, n - 1))) * spread * math.sqrt(1 / n + 1 / len(after))
        low, high = float(np.mean(before)) - half, float(np.mean(before)) + half
        rounding = 1e-9 * max(abs(low), abs(high))
        if not low - rounding <= mean <= high + rounding:
            found.append(Difference(name, mean, (low, high)))
    return found
