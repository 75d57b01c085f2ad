"""How much of a long run is kept, and where."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attention.formula import Call
from headwise.attention.heads import some_heads
from headwise.attention.masks import Dense, Mask
from headwise.attention.positions import Added, Bias
from headwise.attention.record import Recorded
from headwise.insight.observing.record import Record
from headwise.models.checkpoint.folder import write

WIDE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What ``hw.observe(model, keep=...)`` keeps of every call.

    addresses: those of the modules, or patterns of them ("decoder.layers.*.self_attention"); None = all. heads: theirs, by
    number; what is kept then counts them anew, and has a key-value head for each; None = all. last: the last so many
    queries of every call, with all their keys; None = all. dtype: in which query, key, value and head_outputs are kept (None =
    as they are; lse always as it is): torch.float16 takes half the memory, and what is computed from it is as exact as it.
    folder: where calls are written to, one file each as soon as it is made, and read from in pieces when they are asked for, so
    that memory holds none of them; a new or empty folder, which ``hw.open_record(folder)`` opens again.
    """

    addresses: tuple[str, ...] | None = None
    heads: tuple[int, ...] | None = None
    last: int | None = None
    dtype: torch.dtype | None = None
    folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.addresses, str):
            raise ValueError(f"addresses: expected several, ({self.addresses!r},)")
        if self.heads is not None and (not self.heads or any(type(head) is not int or head < 0 for head in self.heads)):
            raise ValueError(f"heads: expected numbers from 0, at least one; got {self.heads!r}")
        if self.last is not None and (type(self.last) is not int or self.last < 1):
            raise ValueError(f"last: expected a number of queries, at least 1; got {self.last!r}")
        if self.dtype not in (None, *WIDE):
            raise ValueError(f"dtype: expected one of {', '.join(map(str, WIDE))}; got {self.dtype!r}")
        if self.folder is not None and Path(self.folder).exists() and any(Path(self.folder).iterdir()):
            raise ValueError(f"folder: {self.folder} holds something already; expected a new or empty one")

    def wants(self, address: str) -> bool:
        return self.addresses is None or any(fnmatch(address, pattern) for pattern in self.addresses)

    def add(self, record: Record, address: str, recorded: Recorded) -> None:
        """Adds what is wanted of a call."""
        if not self.wants(address):
            return
        if self.heads is not None:
            recorded = these_heads(recorded, self.heads)
        if self.last is not None:
            recorded = last_queries(recorded, self.last)
        if self.dtype is not None:
            recorded = _as(recorded, self.dtype)
        if self.folder is not None:
            number = sum(map(len, record.values()))
            place = Path(self.folder) / f"{number:06}.pt"
            place.parent.mkdir(parents=True, exist_ok=True)
            write(place, lambda path: torch.save((address, _alone(recorded)), path))
            recorded = _read(place)[1]
        record.add(address, recorded)


def open_record(folder: str | os.PathLike[str]) -> Record:
    """What ``hw.observe(model, keep=hw.Keep(folder=folder))`` wrote, read in pieces when it is asked for.

    Raises ValueError where the folder has no calls, or what is none of ours.
    """
    record, places = Record(), sorted(Path(folder).glob("*.pt"))
    if not places:
        raise ValueError(f"{folder} holds no calls: expected a folder that hw.observe wrote to")
    for place in places:
        record.add(*_read(place))
    return record


def these_heads(recorded: Recorded, heads: Sequence[int]) -> Recorded:
    """Some heads of a call, each with the key-value head that it shares. ValueError where there are fewer."""
    call, chosen = recorded.call, list(heads)
    num_heads, size = recorded.num_heads, recorded.num_heads // call.key.shape[-3]
    if max(chosen) >= num_heads:
        raise ValueError(f"heads: expected some of 0 to {num_heads - 1}; got {tuple(heads)}")
    shared, mask, bias = [head // size for head in chosen], call.mask, call.bias
    if isinstance(bias, Added):
        bias = _pairs(bias, lambda x: _of_heads(x, chosen))
    elif bias is not None:
        bias = some_heads(bias, chosen)
    part = replace(
        call,
        query=call.query[..., chosen, :, :],
        key=call.key[..., shared, :, :],
        value=call.value[..., shared, :, :],
        mask=_pairs(mask, lambda x: _of_heads(x, chosen)),
        bias=bias,
        sinks=None if call.sinks is None else call.sinks[chosen],
    )
    return Recorded(part, recorded.head_outputs[..., chosen, :, :], recorded.lse[..., chosen, :])


def last_queries(recorded: Recorded, count: int) -> Recorded:
    """The last ``count`` queries of a call; their keys stay."""
    call, size = recorded.call, recorded.query.shape[-2]
    if count >= size:
        return recorded
    rows = slice(size - count, size)
    places = None if call.positions is None else call.positions[rows]
    # Tensors of pairs count queries from the first, all other rules from the last key.
    mask, bias = (_pairs(rule, lambda x: x if x.shape[-2] == 1 else x[..., rows, :]) for rule in (call.mask, call.bias))
    part = replace(call, query=call.query[..., rows, :], mask=mask, bias=bias, positions=places)
    return Recorded(part, recorded.head_outputs[..., rows, :], recorded.lse[..., rows])


def _of_heads(x: Tensor, heads: list[int]) -> Tensor:
    return x if x.dim() < 3 or x.shape[-3] == 1 else x[..., heads, :, :]


def _pairs(rule: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A rule with another tensor in the place of each that it holds about pairs."""
    if isinstance(rule, Dense | Added):
        return replace(rule, tensor=change(rule.tensor))
    if not isinstance(rule, Mask):
        return rule
    parts = {field.name: getattr(rule, field.name) for field in fields(rule)}  # type: ignore[arg-type]
    changed = {name: _pairs(part, change) for name, part in parts.items() if isinstance(part, Mask)}
    return replace(rule, **changed)  # type: ignore[type-var]


def _as(recorded: Recorded, dtype: torch.dtype) -> Recorded:
    call = recorded.call
    tensors = {name: getattr(call, name).to(dtype) for name in ("query", "key", "value")}
    return Recorded(replace(call, **tensors), recorded.head_outputs.to(dtype), recorded.lse)


def _alone(recorded: Recorded) -> Recorded:
    """With tensors of their own: a view would be written with all that it is a view of."""
    call = recorded.call
    tensors = {name: getattr(call, name).clone() for name in ("query", "key", "value")}
    return Recorded(replace(call, **tensors), recorded.head_outputs.clone(), recorded.lse.clone())


def _read(place: Path) -> tuple[str, Recorded]:
    try:
        with torch.serialization.safe_globals([Call, Recorded, *_kinds(Mask), *_kinds(Bias), nn.Linear, nn.Embedding, slice]):
            match torch.load(place, mmap=True, weights_only=True):
                case str(address), Recorded() as recorded:
                    return address, recorded
                case other:
                    raise ValueError(f"it holds a {type(other).__name__}")
    except Exception as error:
        raise ValueError(f"{place} is no call that hw.observe wrote: {error}") from None


def _kinds(kind: type) -> list[type]:
    """A class and all below it."""
    return [kind, *(further for below in kind.__subclasses__() for further in _kinds(below))]
