"""What the figures and tables of the lecture are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwise.lecture.experiments.results import FOLDER, Results, read
from headwise.lecture.recording import Recording
from headwise.lecture.words import words


@dataclass(frozen=True, eq=False)
class Material:
    """run: a sentence through a model. language: of the words. folder: where the experiments' results are."""

    run: Recording
    language: str
    folder: Path = FOLDER

    @property
    def words(self) -> dict[str, Any]:
        return words(self.language)

    @property
    def terms(self) -> dict[str, str]:
        return self.words["terms"]

    def results(self, experiment: str) -> Results:
        return read(experiment, self.folder)
