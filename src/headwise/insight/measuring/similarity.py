"""How alike heads are: in where they look, and in what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.attention.record import Recorded
from headwise.insight.measuring.measures import counted_queries, sink_share
from headwise.insight.progress import tracked

BLOCK = 2**21  # weights held at a time


@dataclass(frozen=True, eq=False)
class Similarity:
    """Every head with every head: 1 = the same, 0 = nothing in common. heads: address and index of every row, and column."""

    heads: tuple[tuple[str, int], ...]
    matrix: Float[Tensor, "heads heads"]


@torch.no_grad()
def weights(record: Mapping[str, Sequence[Recorded]]) -> Similarity:
    """1 - the mean total variation distance between the heads' rows, 1/2 sum_j |p_ij - p'_ij|, exact.

    It is the weight that both put on the same keys; what a sink takes counts as a key. Means are over the queries real in
    both heads. Each module has one call (``[record[address].joined()]`` for a decoding), and all have the same queries and
    keys: give a part of the record for each such set. Time grows with heads^2 length^2, so this is no part of
    ``hw.statistics``; memory with heads length. Raises ValueError where lengths differ.
    """
    calls = single_calls(record)
    same("queries and keys", {address: (*_queries(call), call.key.shape[-2]) for address, call in calls.items()})
    heads = sum(call.num_heads for call in calls.values())
    first = next(iter(calls.values()))
    (*batch, _, query_len), key_len = first.lse.shape, first.key.shape[-2]
    size = max(1, BLOCK // max(1, heads * key_len * torch.Size(batch).numel()))
    apart, together = torch.zeros(2, heads, heads, dtype=torch.float64, device=first.query.device)
    counted = torch.cat([counted_queries(call) for call in calls.values()], dim=-2)
    for start in tracked(range(0, query_len, size), "comparing heads"):
        rows = slice(start, start + size)
        p = torch.cat([_with_sinks(call, rows) for call in calls.values()], dim=-3).movedim(-3, -2).flatten(0, -3)
        real = counted[..., rows].movedim(-2, -1).flatten(0, -2).double()
        both = real[:, :, None] * real[:, None, :]
        apart += (torch.cdist(p, p, p=1.0).double() * both).sum(0)
        together += both.sum(0)
    return Similarity(_names(calls), (1 - apart / 2 / together).to(first.lse.dtype))


@torch.no_grad()
def outputs(record: Mapping[str, Sequence[Recorded]]) -> Similarity:
    """Linear centred kernel alignment of the heads' outputs (Kornblith et al. 2019, section 3),
    ||Y^T X||^2 / (||X^T X|| ||Y^T Y||), Frobenius, X (queries, value_dim) with its mean taken off.

    It does not change when a head's outputs are turned or scaled. Over the queries that are real in all heads; each module has
    one call, and all have the same queries: give a part of the record for each such set. nan where a head's output is
    constant. Time grows with heads^2 length, memory with heads length. Raises ValueError where lengths differ.
    """
    calls = single_calls(record)
    same("queries", {address: _queries(call) for address, call in calls.items()})
    everywhere = torch.stack([counted_queries(call).all(-2) for call in calls.values()]).all(0)  # *batch query_len
    columns = []
    for call in calls.values():
        x = call.head_outputs.movedim(-3, -2)[everywhere].double()  # queries heads value_dim
        columns.append(x - x.mean(0))
    shared = {
        (a, b): torch.einsum("qhv,qgw->hgvw", columns[a], columns[b]).square().sum((-1, -2))
        for a, b in combinations_with_replacement(range(len(columns)), 2)
    }
    modules = range(len(columns))
    matrix = torch.cat([torch.cat([shared[a, b] if a <= b else shared[b, a].mT for b in modules], dim=1) for a in modules])
    norm = matrix.diagonal().sqrt()
    return Similarity(_names(calls), (matrix / norm / norm[:, None]).to(next(iter(calls.values())).lse.dtype))


def single_calls(record: Mapping[str, Sequence[Recorded]]) -> dict[str, Recorded]:
    """The one call of every module."""
    if not record:
        raise ValueError("expected at least one recorded module; the record is empty")
    for address, calls in record.items():
        if len(calls) != 1:
            raise ValueError(
                f"{address!r}: expected one call; got {len(calls)}. Choose one, or join the steps of a decoding: "
                "{address: [record[address].joined()]}"
            )
    return {address: calls[0] for address, calls in record.items()}


def same(what: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError where modules differ in it."""
    if len(set(shapes.values())) != 1:
        raise ValueError(f"expected modules with the same {what}; got {shapes}: give a part of the record")


def _queries(call: Recorded) -> tuple[int, ...]:
    return (*call.lse.shape[:-2], call.lse.shape[-1])


def _with_sinks(call: Recorded, rows: slice) -> Float[Tensor, "*batch heads rows columns"]:
    p = call.weights(rows=rows)
    if call.call.sinks is None:
        return torch.nn.functional.pad(p, (0, 1))
    return torch.cat([p, sink_share(call, call.call.tile(rows))[..., None]], dim=-1)


def _names(calls: Mapping[str, Recorded]) -> tuple[tuple[str, int], ...]:
    return tuple((address, head) for address, call in calls.items() for head in range(call.num_heads))
