"""Where the positions of a sequence are, so that a distance between them has a unit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Places(ABC):
    """Gives every position of a sequence a place; queries and keys are positions of the same sequence."""

    @abstractmethod
    def distance(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Between every query (rows, 1) and every key (1, columns), (rows, columns), at least 0."""

    def has_place(self, positions: Tensor) -> Tensor:
        """Which positions are anywhere at all; distances of the others are 0 and not counted."""
        return torch.ones_like(positions, dtype=torch.bool)

    def check(self, address: str, key_len: int) -> None:
        """Raises ValueError where a sequence of ``key_len`` positions does not fit."""
        return


@dataclass(frozen=True)
class Line(Places):
    """Positions in a row, ``unit`` apart: |i - j| unit. 1 = distances in tokens; the duration of a frame = in seconds."""

    unit: float = 1.0

    def distance(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (queries - keys).abs() * float(self.unit)


@dataclass(frozen=True)
class Grid(Places):
    """Patches of a picture, row after row, behind ``special`` positions that are nowhere, such as a class token.

    The distance is the Euclidean one between the patches' centres, ``unit`` apart: 1 = in patches, a patch's side = in pixels.
    As in Dosovitskiy et al. 2021 (figure 7, "attention distance") weight on a special key counts as distance 0, and queries
    that are special are left out of the mean.
    """

    height: int
    width: int
    special: int = 0
    unit: float = 1.0

    def distance(self, queries: Tensor, keys: Tensor) -> Tensor:
        (query_row, query_column), (key_row, key_column) = self._patch(queries), self._patch(keys)
        apart = torch.hypot((query_row - key_row).float(), (query_column - key_column).float()) * float(self.unit)
        return apart * (self.has_place(queries) & self.has_place(keys))

    def has_place(self, positions: Tensor) -> Tensor:
        return positions >= self.special

    def check(self, address: str, key_len: int) -> None:
        if key_len != self.special + self.height * self.width:
            raise ValueError(
                f"{address!r}: expected {self.special} special positions and {self.height} x {self.width} patches, "
                f"{self.special + self.height * self.width} in all; got {key_len} keys. Where the modules of a record see "
                "different sequences, give the part of the record that sees this one: {address: record[address]}"
            )

    def _patch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        index = positions - self.special
        return index.div(self.width, rounding_mode="floor"), index.remainder(self.width)
