"""Recording what the heads of a model compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attention import record as emission
from headwise.attention.formula import Call
from headwise.attention.masks import Mask
from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import Added
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


@contextmanager
def observe(model: nn.Module) -> Iterator[Record]:
    """Records every call of the model's attention modules: ``with hw.observe(model) as record: model(x)``.

    record["encoder.layers.0.self_attention"] holds query, key, value, the rules, lse and head_outputs, detached; weights are
    computed from them when asked for, so nothing (query_len, key_len) is kept. Mask tensors are kept as they are, not copied:
    do not write into them. Outside the context nothing is recorded and a
    compiled graph is what it was. Inside, a compiled model breaks its graph at each attention, or, with fullgraph=True,
    raises. A checkpointed module (torch.utils.checkpoint) must run its backward pass inside too, and records its
    recomputation as a call of its own. Raises RuntimeError where another observation is on, ValueError where the model has no
    attention module.
    """
    addresses = attention_modules(model)
    by_module = {module: address for address, module in addresses.items()}
    record = Record()

    def keep(module: Any, call: Call, head_outputs: Tensor, lse: Tensor) -> None:
        if module in by_module:
            record.add(by_module[module], Recorded(_detached(call), head_outputs.detach(), lse.detach()))

    if emission.observer is not None:
        raise RuntimeError("another hw.observe is on: leave it first")
    emission.observer = torch.compiler.disable(keep)  # compiled code breaks its graph there, or raises if it must not
    try:
        yield record
    finally:
        emission.observer = None


def attention_modules(model: nn.Module) -> dict[str, MultiHeadAttention]:
    """Every attention module of a model by its address, its name in ``named_modules()`` (of the model that was compiled)."""
    model = getattr(model, "_orig_mod", model)
    found = {name: module for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no hw.MultiHeadAttention in it")
    return found


def _detached(call: Call) -> Call:
    """A call as it is now: what learns or is written in place changes after it."""
    tensors = {field.name: getattr(call, field.name) for field in fields(call)}
    kept = {name: _kept(x, call.positions is not None) for name, x in tensors.items() if isinstance(x, Tensor)}
    bias = call.bias
    if isinstance(bias, Added):
        bias = Added(_kept(bias.tensor, False))
    elif isinstance(bias, nn.Module):
        bias = deepcopy(bias, {id(weight): weight.detach().clone() for weight in bias.parameters()})
    return replace(call, **kept, bias=bias)


def _kept(x: Tensor, in_place: bool) -> Tensor:
    return x.detach().clone() if in_place or isinstance(x, nn.Parameter) else x.detach()
