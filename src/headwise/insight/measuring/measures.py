"""What is measured of every query, a block of rows at a time: each measure names its numbers, gives them, and says which
queries they are about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwise.attention import blocks, formula
from headwise.attention.record import Recorded
from headwise.attention.tiles import Tile, kind
from headwise.insight.measuring.places import Places


@dataclass(frozen=True, eq=False)
class Rows:
    """A block of rows: p and log p (*batch, heads, rows, columns) at the keys that the rows can reach, and where that is."""

    p: Float[Tensor, "*batch heads rows columns"]
    log_p: Float[Tensor, "*batch heads rows columns"]
    tile: Tile


class Measure(ABC):
    """Numbers of single queries, (*batch, heads, rows) each, of which means are taken.

    counted: over which queries, broadcastable to (*batch, heads, query_len); None = all real ones."""

    names: tuple[str, ...]
    counted: Tensor | None = None

    @abstractmethod
    def of(self, rows: Rows) -> Iterator[Tensor]:
        """The numbers of the rows, in the order of ``names``."""

    def means(self) -> Iterator[tuple[str, str, Tensor | None]]:
        """A mean's name, the number it is taken of, and over which queries."""
        for name in self.names:
            yield name, name, self.counted


class Shape(Measure):
    """Entropy and the share on the first key that is no padding."""

    names = ("entropy", "first")

    def __init__(self, call: Recorded) -> None:
        real = None if call.mask is None else call.mask.real_keys(call.call.tile())  # *batch 1 1 key_len
        self.first = torch.zeros(1, dtype=torch.long, device=call.lse.device)
        if real is not None and real.shape[-1]:
            self.first = real.int().argmax(-1, keepdim=True)

    def of(self, rows: Rows) -> Iterator[Tensor]:
        yield -torch.einsum("...ij,...ij->...i", rows.p, rows.log_p)
        yield share_at(self.first, rows)


class Neighbours(Measure):
    """Shares on the keys one position before, at and after the query."""

    names = ("previous", "own", "next")

    def of(self, rows: Rows) -> Iterator[Tensor]:
        for offset in (-1, 0, 1):
            yield share_at(rows.tile.query_positions + offset, rows)


class Distance(Measure):
    """Mean and standard deviation, under p_i, of the distance from the query. A sink's share is at distance 0."""

    names = ("distance", "spread")

    def __init__(self, call: Recorded, places: Places) -> None:
        self.call, self.places = call, places
        self.counted = places.has_place(call.call.tile().query_positions[:, 0])

    def of(self, rows: Rows) -> Iterator[Tensor]:
        apart = self.places.distance(rows.tile.query_positions, rows.tile.key_positions).to(rows.p.dtype)
        mean = torch.einsum("...ij,ij->...i", rows.p, apart)
        # Not as E d^2 - (E d)^2: of a sharp row far away the difference would be rounding alone.
        variance = (apart - mean[..., None]).square_().mul_(rows.p).sum(-1)
        if self.call.call.sinks is not None:
            variance += sink_share(self.call, rows.tile) * mean.square()
        yield mean
        yield variance.sqrt()


class Repeats(Measure):
    """Shares on earlier occurrences of the query's own token, and on the tokens that came after them."""

    names = ("duplicate", "induction")

    def __init__(self, call: Recorded, tokens: Tensor) -> None:
        ids = torch.unique(tokens, return_inverse=True)[1]
        unlike = -1 - torch.arange(ids.shape[-1], device=ids.device)  # equal to nothing: padding occurs nowhere
        real = None if call.mask is None else call.mask.real_keys(call.call.tile())
        self.keys = ids if real is None else torch.where(real[..., 0, 0, :], ids, unlike)
        self.before = torch.cat([torch.full_like(self.keys[..., :1], -1 - ids.shape[-1]), self.keys[..., :-1]], dim=-1)
        self.queries, here = at_queries(self.keys, call)
        value, order = self.keys.sort(dim=-1, stable=True)
        again = torch.nn.functional.pad(value[..., 1:] == value[..., :-1], (1, 0))[..., : order.shape[-1]]
        earlier = torch.zeros_like(again).scatter(-1, order, again)
        self.counted = (at_queries(earlier, call)[0] & here)[..., None, :]  # *batch 1 query_len

    def of(self, rows: Rows) -> Iterator[Tensor]:
        own, here, there = (
            self.queries[..., rows.tile.rows][..., None, :, None],
            rows.tile.query_positions,
            rows.tile.key_positions,
        )
        for keys, past in ((self.keys, there < here), (self.before, there <= here)):
            there_too = (keys[..., rows.tile.columns][..., None, None, :] == own) & past
            yield torch.einsum("...ij,...ij->...i", rows.p, there_too.to(rows.p.dtype))


class Shares(Measure):
    """Shares on named groups of keys, of all queries and of named groups of queries."""

    def __init__(self, keys: Mapping[str, Tensor], queries: Mapping[str, Tensor]) -> None:
        self.names = tuple(f"to {name}" for name in keys)
        self.keys = torch.stack(torch.broadcast_tensors(*keys.values()), dim=-1)  # *batch key_len groups
        self.queries = queries  # *batch query_len each

    def of(self, rows: Rows) -> Iterator[Tensor]:
        groups = self.keys[..., rows.tile.columns, :].to(rows.p.dtype)
        yield from (rows.p @ (groups if groups.dim() == 2 else groups.unsqueeze(-3))).unbind(-1)

    def means(self) -> Iterator[tuple[str, str, Tensor | None]]:
        for to in self.names:
            yield to, to, None
            for name, queries in self.queries.items():
                yield f"{name} {to}", to, queries[..., None, :]


def measures(
    address: str,
    call: Recorded,
    places: Places,
    tokens: Tensor | None,
    groups: Mapping[str, Tensor],
    query_groups: Mapping[str, Tensor],
) -> list[Measure]:
    """All that can be measured of a call, given what is known of its sequences."""
    batch, (query_len, key_len) = call.lse.shape[:-2], (call.query.shape[-2], call.key.shape[-2])
    for name, group in groups.items():
        _fits(f"{address!r}, group {name!r}", group, "key_len", (*batch, key_len), torch.bool)
    found: list[Measure] = [Shape(call)]
    if call.call.same_sequence:
        places.check(address, key_len)
        found += [Neighbours(), Distance(call, places)]
        if tokens is not None:
            _fits(f"{address!r}, tokens", tokens, "key_len", (*batch, key_len), torch.int64)
            found.append(Repeats(call, tokens))
        at = {name: at_queries(group, call) for name, group in groups.items()}
        of = {name: group & here for name, (group, here) in at.items()}
    else:
        for name, group in query_groups.items():
            _fits(f"{address!r}, query group {name!r}", group, "query_len", (*batch, query_len), torch.bool)
        of = query_groups
    return [*found, Shares(groups, of)] if groups else found


def real_queries(call: Recorded) -> Bool[Tensor, ...]:
    """Queries that are no padding as the mask says of their own keys, in self-attention; (*batch or 1, 1, query_len)."""
    keys = None if call.mask is None else call.mask.real_keys(call.call.tile())
    if keys is None or not call.call.same_sequence:
        return torch.ones(1, 1, call.query.shape[-2], dtype=torch.bool, device=call.query.device)
    real, here = at_queries(keys[..., 0, :], call)
    return real & here


def counted_queries(call: Recorded) -> Bool[Tensor, "*batch heads query_len"]:
    """Queries that are neither padding nor empty, in O(length) memory."""
    counted = real_queries(call).expand_as(call.lse).clone()
    for rows, columns in blocks.spans(call.call, blocks.ROWS):
        counted[..., rows] &= formula.allowed(call.call, call.call.tile(rows, columns)).any(-1)
    return counted


def at_queries(x: Tensor, call: Recorded) -> tuple[Tensor, Tensor]:
    """What is said of every key, (..., key_len), at the positions of the queries, (..., query_len), and which queries stand
    at a key's position, (query_len,)."""
    own = call.call.tile().query_positions[:, 0]
    x = x if x.shape[-1] else torch.nn.functional.pad(x, (0, 1))  # no key at all, at which no query stands
    return x[..., own.clamp(min=0)], own >= 0


def share_at(position: Tensor, rows: Rows) -> Tensor:
    """The weight on the key at a position, broadcastable to (*batch, heads, rows, 1), of every query: 0 where there is none."""
    p = rows.p if rows.p.shape[-1] else torch.nn.functional.pad(rows.p, (0, 1))  # no key at all
    at = position - _first(rows.tile)
    inside = (at >= 0) & (at < p.shape[-1])
    share = torch.take_along_dim(p, at.clamp(0, p.shape[-1] - 1).expand(*p.shape[:-1], 1), dim=-1) * inside
    return share.squeeze(-1)


def sink_share(call: Recorded, tile: Tile) -> Tensor:
    """The weight that goes to the sink, (*batch, heads, rows)."""
    assert call.call.sinks is not None
    return (call.call.sinks.to(call.lse.dtype)[:, None] - call.lse[..., tile.rows]).exp()


def _first(tile: Tile) -> int:
    assert isinstance(tile.columns, slice)
    return tile.columns.start


def _fits(what: str, x: Tensor, length: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    wanted = "bools (torch.isin(input_ids, ids), ~keep, ...)" if dtype == torch.bool else "integers"
    right = isinstance(x, Tensor) and (x.dtype == torch.bool) == (dtype == torch.bool) and not x.is_floating_point()
    if not right:
        raise ValueError(f"{what}: expected a tensor of {wanted}, (*batch, {length}) = {shape}; got {kind(x)}")
    fits = x.dim() and x.dim() <= len(shape) and x.shape[-1] == shape[-1]
    if not fits or any(have not in (1, want) for have, want in zip(x.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(
            f"{what}: expected (*batch, {length}) = {shape} or what broadcasts to it; got {tuple(x.shape)}. Where the modules "
            "of a record see different sequences, give the part of the record that sees this one: {address: record[address]}"
        )
