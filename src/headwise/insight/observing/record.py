"""What was recorded: the calls of every attention module, by its address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from headwise.attention.masks import Dense, Mask
from headwise.attention.positions import Added, Bias
from headwise.attention.record import Recorded
from headwise.attention.tiles import Tile


class Calls(Sequence[Recorded]):
    """The calls of one module, in order. Where there is a single one, its attributes are read off this directly."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._calls: list[Recorded] = []

    def __len__(self) -> int:
        return len(self._calls)

    def __getitem__(self, index: Any) -> Any:
        return self._calls[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if len(self._calls) != 1:
            raise AttributeError(f"{self.address!r} was called {len(self._calls)} times: choose one by index, or use .joined()")
        return getattr(self._calls[0], name)

    def joined(self) -> Recorded:
        """The steps of a decoding as the one call they amount to: all queries, the last step's keys, every step's own mask.

        Raises ValueError where the calls are not steps over one growing (or one fixed) sequence of keys, as after beams were
        reordered.
        """
        last = self._calls[-1]
        positions = [call.call.tile().query_positions[:, 0] for call in self._calls]
        for before, after in pairwise(positions):
            if last.call.same_sequence and before[-1:] + 1 != after[:1]:
                raise ValueError(f"{self.address!r}: the queries of one call do not go on in the next; choose calls by index")
        for call, here in zip(self._calls, positions, strict=True):
            held = call.key.shape[-2] if call.call.positions is None else int(here[-1]) + 1
            if isinstance(call.call.bias, Added) or not torch.equal(call.key[..., :held, :], last.key[..., :held, :]):
                raise ValueError(f"{self.address!r}: the keys of one call do not go on in the next; choose calls by index")
        query = torch.cat([call.query for call in self._calls], dim=-2)
        joined = replace(last.call, query=query, mask=_Steps(tuple(self._calls)), positions=torch.cat(positions))
        outputs = torch.cat([call.head_outputs for call in self._calls], dim=-2)
        return Recorded(joined, outputs, torch.cat([call.lse for call in self._calls], dim=-1))


@dataclass(frozen=True, eq=False)
class _Steps(Mask):
    """The rows of several calls one after the other: each sees what its own call allowed among the keys held then."""

    calls: tuple[Recorded, ...]

    def allows(self, tile: Tile) -> Tensor:
        rows, columns = (
            torch.arange(length, device=tile.device)[chosen]
            for length, chosen in ((tile.query_len, tile.rows), (tile.key_len, tile.columns))
        )
        allowed = torch.zeros(*self.calls[0].lse.shape[:-1], len(rows), len(columns), dtype=torch.bool, device=tile.device)
        start = 0
        for call in self.calls:
            held, stop = call.key.shape[-2], start + call.query.shape[-2]
            here, known = ((rows >= start) & (rows < stop)).nonzero(), (columns < held).nonzero()[:, 0]
            allowed[..., here, known] = call.allowed(rows[here[:, 0]] - start, columns[known])
            start = stop
        return allowed

    def real_keys(self, tile: Tile) -> Tensor | None:
        mask = self.calls[-1].mask
        return None if mask is None else mask.real_keys(tile)


class Record(Mapping[str, Calls]):
    """Calls by the address of their module, in the order of the first call."""

    def __init__(self) -> None:
        self._calls: dict[str, Calls] = {}

    def __getitem__(self, address: str) -> Calls:
        if address not in self._calls:
            raise KeyError(f"no call recorded at {address!r}; recorded are {', '.join(map(repr, self._calls)) or 'none'}")
        return self._calls[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, address: str, recorded: Recorded) -> None:
        self._calls.setdefault(address, Calls(address))._calls.append(recorded)

    @property
    def kept(self) -> list[Tensor]:
        """Tensors of pairs (..., query_len, key_len) that calls hold by reference, since the model itself formed them (a mask
        or a bias that no rule says, T5's table of positions, weights of a model that hides its queries), each once."""
        rules = (rule for calls in self.values() for call in calls for rule in (call.mask, call.call.bias))
        found = {(x.data_ptr(), x.shape): x for rule in rules for x in _of_pairs(rule)}
        return list(found.values())


def _of_pairs(rule: Mask | Bias | None) -> Iterator[Tensor]:
    if isinstance(rule, Dense | Added):
        yield rule.tensor
    elif isinstance(rule, Mask) and not isinstance(rule, _Steps):
        for field in fields(rule):  # type: ignore[arg-type]
            part = getattr(rule, field.name)
            if isinstance(part, Mask):
                yield from _of_pairs(part)
