"""What tests of tokenizers share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory) -> Callable[[Callable[..., None]], Path]:
    """The folder that a function fills, made once."""
    made: dict[Callable[..., None], Path] = {}

    def folder(kind: Callable[..., None]) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind.__name__)
            kind(made[kind])
        return made[kind]

    return folder
