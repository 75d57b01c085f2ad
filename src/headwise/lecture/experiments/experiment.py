"""What every experiment of the lecture is: sizes, seeds, and a function from a seed to numbers."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headwise.insight.progress import tracked
from headwise.lecture.experiments.results import Numbers, Results
from headwise.models.checkpoint.folder import write_json


@dataclass(frozen=True)
class Workspace:
    """Where an experiment finds sentence pairs (train and valid), and where it keeps what is finished."""

    data: Path
    runs: Path

    def kept(self, name: str, size: Any, make: Callable[[], Numbers]) -> Numbers:
        """What ``make`` returns, made once for each size: an interrupted experiment goes on where it stopped."""
        path, settings = self.runs / f"{name}.json", json.loads(json.dumps(asdict(size)))
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["settings"] == settings:
                return found["numbers"]
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = make()
        write_json(path, {"settings": settings, "numbers": numbers})
        return numbers


@dataclass(frozen=True)
class Experiment:
    """run(seed, size, workspace) -> numbers, for every seed alike.

    samples: on how much each number is measured. full: the size behind the committed
    results. quick: a part of it, fewer conditions at the same size, so that its numbers can be compared with the full ones.
    reads: whether it needs sentence pairs.
    """

    name: str
    samples: str
    run: Callable[[int, Any, Workspace], Numbers]
    full: Any
    quick: Any
    seeds: tuple[int, ...] = (0, 1, 2)
    reads: bool = False

    def measure(self, workspace: Workspace, command: str, quick: bool = False) -> Results:
        """Runs all seeds (a quick run: the first one), on one thread; finished seeds of an interrupted run are kept. command:
        what was typed for that."""
        size, seeds = (self.quick, self.seeds[:1]) if quick else (self.full, self.seeds)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            by_seed = {seed: self.run(seed, size, workspace) for seed in tracked(seeds, self.name)}
        finally:
            torch.set_num_threads(before)
        return Results(
            self.name,
            command,
            self.samples,
            asdict(size),
            by_seed,
            hardware={"cpu": _cpu(), "cores": os.cpu_count(), "threads": 1},
            versions={name: version(name) for name in ("torch", "headwise")} | {"python": platform.python_version()},
            date=date.today().isoformat(),
        )


def _cpu() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
