"""What an experiment found: one number per seed and condition, kept as JSON; every interval is computed from them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from headwise.models.checkpoint.folder import write_json

FOLDER = Path(__file__).parent.parent / "results"
CONFIDENCE = 0.95
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

    def __str__(self) -> str:
        return f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g})"


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

    samples: on how much every number was measured. settings: the sizes it ran with. seconds: of each seed.
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
        """One number per seed. Raises KeyError, with the keys there are, for one that was not measured."""
        wanted = key(name, **where)
        if wanted not in self.keys:
            raise KeyError(f"{self.experiment} has no {wanted!r}; it has {', '.join(map(repr, self.keys))}")
        return [float(numbers[wanted]) for numbers in self.by_seed.values()]

    def interval(self, name: str, **where: object) -> Interval:
        return interval(self.values(name, **where))

    def write(self, folder: Path = FOLDER) -> Path:
        path = folder / f"{self.experiment}.json"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self) | {"by_seed": {str(seed): numbers for seed, numbers in self.by_seed.items()}})
        return path


def read(experiment: str, folder: Path = FOLDER) -> Results:
    """What ``Results.write`` wrote. Raises ValueError where there are none, or seeds were not measured alike."""
    path = folder / f"{experiment}.json"
    if not path.exists():
        raise ValueError(f"no results of {experiment} in {folder}")
    entries = json.loads(path.read_text(encoding="utf-8"))
    by_seed = {int(seed): numbers for seed, numbers in entries.pop("by_seed").items()}
    if not by_seed or len({frozenset(numbers) for numbers in by_seed.values()}) != 1:
        raise ValueError(f"{path}: expected the same numbers of every seed, and at least one seed")
    return Results(by_seed=by_seed, **entries)


def differences(one: Sequence[float], other: Sequence[float]) -> Interval:
    """one - other, seed by seed: what both seeds share (data, order) cancels."""
    return interval([a - b for a, b in zip(one, other, strict=True)])


@dataclass(frozen=True)
class Difference:
    """A number that a new run does not confirm, and where it should have been."""

    key: str
    old: Interval
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
            found.append(Difference(name, interval(before), mean, (low, high)))
    return found
