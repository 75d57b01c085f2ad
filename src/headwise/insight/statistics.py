"""Exact numbers about heads, computed row block by row block: memory grows with the length, not with its square."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headwise.attention import formula
from headwise.attention.record import Recorded
from headwise.attention.tiles import Tile

BLOCK = 2**21  # weights held at a time


@dataclass(frozen=True)
class HeadStatistics:
    """The heads of one module. Every mean is over real queries: neither empty (nothing allowed) nor padding.

    entropy: -sum_j p_ij log p_ij, nats. alignment: the mutual information of query and key, H(mean_i p_i) - mean_i H(p_i),
    nats: 0 where every query looks alike, large where each looks sharply at keys of its own. first, previous, own, next: the
    share of weight, 0 to 1, on the first key and on the keys one position before, at and after the query. distance: mean of
    sum_j p_ij |i - j|, in keys. What needs positions is None across two sequences.

    received: per key, the weight it gets over the number of queries allowed to see it (0 where none is). top_keys,
    top_weights: the largest weights of each query, largest first. These three are None where several calls are counted
    together. queries: per head, how many queries were counted.
    """

    entropy: Float[Tensor, " heads"]
    alignment: Float[Tensor, " heads"]
    first: Float[Tensor, " heads"]
    previous: Float[Tensor, " heads"] | None
    own: Float[Tensor, " heads"] | None
    next: Float[Tensor, " heads"] | None
    distance: Float[Tensor, " heads"] | None
    received: Float[Tensor, "*batch heads key_len"] | None
    top_keys: Int[Tensor, "*batch heads query_len top"] | None
    top_weights: Float[Tensor, "*batch heads query_len top"] | None
    queries: Int[Tensor, " heads"]


POSITIONAL = ("previous", "own", "next", "distance")
MEANS = ("entropy", "alignment", "first", *POSITIONAL)


def statistics(record: Mapping[str, Sequence[Recorded]], top: int = 3) -> dict[str, HeadStatistics]:
    """``HeadStatistics`` of every address of a record; several calls of one module are weighted by their queries.

    The steps of a decoding are one call in pieces: give ``{address: [record[address].joined()]}``.
    """
    return {address: _together(address, [of_call(call, top) for call in calls]) for address, calls in record.items()}


@torch.no_grad()
def of_call(call: Recorded, top: int = 3) -> HeadStatistics:
    """The statistics of one recorded call."""
    key_len, own_key, lse = call.key.shape[-2], _own_key(call), call.lse
    # Results have their place before the loop: small tensors kept between large ones passing by would scatter the heap.
    received, seen = torch.zeros(2, *lse.shape[:-1], key_len, dtype=lse.dtype, device=lse.device)
    names = ("entropy", "first", *(POSITIONAL if call.call.same_sequence else ()))
    whole = {name: torch.zeros_like(lse) for name in names}
    real = torch.zeros_like(lse, dtype=torch.bool)
    top_keys = torch.zeros(*lse.shape, min(top, key_len), dtype=torch.long, device=lse.device)
    top_weights = torch.zeros_like(top_keys, dtype=lse.dtype)
    for rows, columns, p, log_p in call.whole_rows(BLOCK):
        tile = call.call.tile(rows, columns)
        allowed = formula.allowed(call.call, tile)
        real[..., rows] = allowed.any(-1) & own_key[..., rows]
        counted = real[..., None, rows].to(p.dtype)
        received[..., columns] += (counted @ p).squeeze(-2)
        seen[..., columns] += (counted @ allowed.to(p.dtype)).squeeze(-2)
        numbers = {"entropy": -torch.einsum("...ij,...ij->...i", p, log_p), "first": p[..., :1].sum(-1) * (columns.start == 0)}
        if call.call.same_sequence:
            numbers |= _by_position(p, tile, columns)
        for name, number in numbers.items():
            whole[name][..., rows] = number
        largest = p.topk(min(top, p.shape[-1]), dim=-1)
        top_keys[..., rows, : largest.indices.shape[-1]] = largest.indices + columns.start
        top_weights[..., rows, : largest.values.shape[-1]] = largest.values
    counts = real.sum(-1)
    mean_row = received / counts.clamp(min=1)[..., None]
    whole["alignment"] = (-torch.special.xlogy(mean_row, mean_row).sum(-1))[..., None] - whole["entropy"]
    means = {name: _mean(number, real) for name, number in whole.items()}
    return HeadStatistics(
        **{name: means.get(name) for name in MEANS},  # type: ignore[arg-type]
        received=received / seen.clamp(min=1),
        top_keys=top_keys,
        top_weights=top_weights,
        queries=counts.movedim(-1, 0).flatten(1).sum(1),
    )


def _together(address: str, parts: Sequence[HeadStatistics]) -> HeadStatistics:
    if len(parts) == 1:
        return parts[0]
    if len({part.distance is None for part in parts}) != 1:
        raise ValueError(f"{address!r}: expected calls that are all self-attention or all cross-attention")
    counts = torch.stack([part.queries for part in parts])
    means: dict[str, Tensor | None] = {}
    for name in MEANS:
        numbers = [getattr(part, name) for part in parts]
        means[name] = None
        if numbers[0] is not None:  # a mean over no query is nan, and counts for nothing
            sums = torch.where(counts > 0, torch.stack(numbers) * counts, 0.0)
            means[name] = sums.sum(0) / counts.sum(0)
    return HeadStatistics(**means, received=None, top_keys=None, top_weights=None, queries=counts.sum(0))  # type: ignore[arg-type]


def _own_key(call: Recorded) -> Bool[Tensor, ...]:
    """Queries that are no padding as the mask says of their own keys, in self-attention; (*batch or 1, 1, query_len)."""
    keys = None if call.mask is None else call.mask.real_keys(call.call.tile())
    if keys is None or not call.call.same_sequence:
        return torch.ones(1, 1, call.query.shape[-2], dtype=torch.bool, device=call.query.device)
    own = call.call.tile().query_positions[:, 0]
    return keys[..., 0, own.clamp(min=0)] & (own >= 0)


def _by_position(p: Tensor, tile: Tile, columns: slice) -> dict[str, Tensor]:
    here, keys = tile.query_positions, tile.key_positions
    numbers = {"distance": torch.einsum("...ij,ij->...i", p, (here - keys).abs().to(p.dtype))}
    p = p if p.shape[-1] else nn.functional.pad(p, (0, 1))  # no key at all
    for name, offset in (("previous", -1), ("own", 0), ("next", 1)):
        at = here + offset - columns.start
        inside = (at >= 0) & (at < p.shape[-1])
        share = torch.take_along_dim(p, at.clamp(0, p.shape[-1] - 1).expand(*p.shape[:-1], 1), dim=-1) * inside
        numbers[name] = share.squeeze(-1)
    return numbers


def _mean(number: Float[Tensor, "*batch heads query_len"], real: Bool[Tensor, "*batch heads query_len"]) -> Tensor:
    """Per head, over the real queries of all batches; nan where there is none."""
    number, real = (x.movedim(-2, 0).flatten(1) for x in (number, real))
    return number.masked_fill(~real, 0.0).sum(1) / real.sum(1)
