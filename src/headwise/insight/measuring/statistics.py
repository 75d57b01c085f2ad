"""Exact numbers about heads, computed row block by row block: memory grows with the length, not with its square."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headwise.attention import formula
from headwise.attention.record import Recorded
from headwise.insight.measuring.measures import Measure, Rows, measures, real_queries
from headwise.insight.measuring.places import Line, Places
from headwise.insight.progress import if_long

BLOCK = 2**21  # weights held at a time
SHOWN = 16  # heads in a printed table
MEANS = ("entropy", "alignment", "diagonality", "first", "top_mass")
MEANS += ("previous", "own", "next", "distance", "spread", "duplicate", "induction")


@dataclass(frozen=True, eq=False)
class PerSequence:
    """A number of every head in every sequence: its sum over the queries counted, and how many those are. A sequence is an
    entry of the first batch dimension."""

    sums: Float[Tensor, "sequences heads"]
    queries: Int[Tensor, "sequences heads"]

    @property
    def mean(self) -> Float[Tensor, "sequences heads"]:
        """Of each sequence; nan where no query of it is counted."""
        return self.sums / self.queries

    @property
    def overall(self) -> Float[Tensor, " heads"]:
        """Over the queries of all sequences."""
        return self.sums.sum(0) / self.queries.sum(0)

    @classmethod
    def joined(cls, parts: Sequence[PerSequence]) -> PerSequence:
        """Of the sequences of all parts."""
        return cls(torch.cat([part.sums for part in parts]), torch.cat([part.queries for part in parts]))


@dataclass(frozen=True, eq=False, repr=False)
class HeadStatistics:
    """The heads of one module. Every mean is over real queries (neither empty, nothing being allowed, nor padding) of all
    sequences; nan where there is none. Shares are of weight, 0 to 1. They say where a head looks, not what it is worth: that
    takes a gradient or an ablation.

    entropy: -sum_j p_ij log p_ij, nats. alignment: the mutual information of query and key, H(mean_i p_i) - mean_i H(p_i),
    nats: 0 where every query looks alike, large where each looks sharply at keys of its own. diagonality: Pearson's
    correlation of i and j when the pair is drawn with probability p_ij / sum p, -1 to 1, also across two sequences; 0 where
    i or j do not vary. first: the share on the first key that is no padding. top_mass: the share on the keys of ``top_keys``.

    Of one sequence with itself, else None. previous, own, next: the shares on the keys one position before, at and after the
    query, 0 where there is none. distance: m_i = sum_j p_ij d(i, j). spread: the standard deviation of the distance under p_i,
    sqrt(sum_j p_ij (d(i, j) - m_i)^2). d is |i - j|, in keys, or that of the ``places`` given; what a sink takes is at
    distance 0. (Yang et al. 2020, section 3, call mean entropy globalness and -distance / length diagonality.)

    With tokens, over the queries whose token occurs before, else None. duplicate: the share on those earlier occurrences.
    induction: the share on the keys right after them (Olsson et al. 2022, "prefix matching"), the query's own key included
    where its token stands twice in a row.

    shares: with groups, "to padding" is the share on the group "padding", "text to image" that of the queries of the group
    "text" on the group "image"; all groups with all.

    received: per key, the weight it gets over the number of queries allowed to see it (0 where none is). top_keys,
    top_weights: the largest weights of each query, largest first. by_query: the numbers that the means are taken of, by name,
    whether counted or not. These four are None where several calls are counted together. queries: per head, how many queries
    were counted. by_sequence: sums and counts per sequence of every mean above, by its name; alignment and diagonality are
    those of a sequence, counted with its queries.
    """

    entropy: Float[Tensor, " heads"]
    alignment: Float[Tensor, " heads"]
    diagonality: Float[Tensor, " heads"]
    first: Float[Tensor, " heads"]
    top_mass: Float[Tensor, " heads"]
    previous: Float[Tensor, " heads"] | None
    own: Float[Tensor, " heads"] | None
    next: Float[Tensor, " heads"] | None
    distance: Float[Tensor, " heads"] | None
    spread: Float[Tensor, " heads"] | None
    duplicate: Float[Tensor, " heads"] | None
    induction: Float[Tensor, " heads"] | None
    shares: dict[str, Float[Tensor, " heads"]]
    received: Float[Tensor, "*batch heads key_len"] | None
    top_keys: Int[Tensor, "*batch heads query_len top"] | None
    top_weights: Float[Tensor, "*batch heads query_len top"] | None
    by_query: dict[str, Float[Tensor, "*batch heads query_len"]] | None
    queries: Int[Tensor, " heads"]
    by_sequence: dict[str, PerSequence]

    def __repr__(self) -> str:
        """A table, a line per head."""
        names = list(self.by_sequence)
        table = torch.stack([number.overall for number in self.by_sequence.values()], dim=-1)
        lines = ["head  " + "  ".join(names)]
        for head, numbers in enumerate(table[:SHOWN].tolist()):
            cells = [f"{number:.3f}".rjust(len(name)) for name, number in zip(names, numbers, strict=True)]
            lines.append(f"{head:>4}  " + "  ".join(cells))
        lines += [f"... {len(table) - SHOWN} heads more"] * (len(table) > SHOWN)
        return "\n".join([f"{len(table)} heads, means over {self.queries.max()} queries (entropy in nats)", *lines])


def statistics(
    record: Mapping[str, Sequence[Recorded]],
    top: int = 3,
    *,
    places: Places | None = None,
    tokens: Tensor | None = None,
    groups: Mapping[str, Tensor] | None = None,
    query_groups: Mapping[str, Tensor] | None = None,
) -> dict[str, HeadStatistics]:
    """``HeadStatistics`` of every address of a record; several calls of one module are weighted by their queries.

    places: where positions are, ``hw.places.Line(unit)`` (seconds, say) or ``hw.places.Grid(height, width, special)``; each
    position is 1 from the next if not given. tokens: ids (*batch, key_len). groups: sets of keys by name, bool
    (*batch, key_len), such as {"padding": ~keep, "delimiters": torch.isin(input_ids, ids)}; in self-attention they are sets of
    queries, too. query_groups: sets of queries (*batch, query_len) for attention across two sequences.

    They describe one sequence: where the modules of a record see several (source and target, say), give each part of the
    record its own, ``hw.statistics({address: record[address] for address in ...}, tokens=...)``. The steps of a decoding are
    one call in pieces: give ``{address: [record[address].joined()]}``. Long calls show their progress on a terminal. Raises
    ValueError where something does not fit.
    """
    if not isinstance(places, Places | None):
        raise ValueError(f"places: expected hw.places.Line(unit) or hw.places.Grid(height, width, special); got {places!r}")
    known = (places or Line(), tokens, groups or {}, query_groups or {})
    return {
        address: _together(address, [_of_call(call, top, measures(address, call, *known)) for call in calls])
        for address, calls in record.items()
    }


@torch.no_grad()
def _of_call(call: Recorded, top: int, asked: Sequence[Measure]) -> HeadStatistics:
    """The statistics of one recorded call."""
    key_len, unpadded, lse = call.key.shape[-2], real_queries(call), call.lse
    # Results have their place before the loop: small tensors kept between large ones passing by would scatter the heap.
    received, seen = torch.zeros(2, *lse.shape[:-1], key_len, dtype=lse.dtype, device=lse.device)
    whole = {name: torch.zeros_like(lse) for measure in asked for name in measure.names}
    moments, place = lse.new_zeros(*lse.shape, 2), _along(key_len, lse)
    powers = torch.stack([torch.ones_like(place), place], dim=-1)
    real = torch.zeros_like(lse, dtype=torch.bool)
    top_keys = torch.zeros(*lse.shape, min(top, key_len), dtype=torch.long, device=lse.device)
    top_weights = torch.zeros_like(top_keys, dtype=lse.dtype)
    for rows, columns, p, log_p in call.whole_rows(BLOCK, if_long(lse.numel() * key_len, "statistics")):
        tile = call.call.tile(rows, columns)
        allowed = formula.allowed(call.call, tile)
        real[..., rows] = allowed.any(-1) & unpadded[..., rows]
        counted = real[..., None, rows].to(p.dtype)
        received[..., columns] += (counted @ p).squeeze(-2)
        seen[..., columns] += (counted @ allowed.to(p.dtype)).squeeze(-2)
        moments[..., rows, :] = p @ powers[columns]
        for measure in asked:
            for name, number in zip(measure.names, measure.of(Rows(p, log_p, tile)), strict=True):
                whole[name][..., rows] = number
        largest = p.topk(min(top, p.shape[-1]), dim=-1)
        top_keys[..., rows, : largest.indices.shape[-1]] = largest.indices + columns.start
        top_weights[..., rows, : largest.values.shape[-1]] = largest.values
    whole["top_mass"] = top_weights.sum(-1)
    by_sequence = {"top_mass": _per_sequence(whole["top_mass"], real)}
    for measure in asked:
        for name, number, queries in measure.means():
            by_sequence[name] = _per_sequence(whole[number], real if queries is None else real & queries)
    mean_row = received / real.sum(-1).clamp(min=1)[..., None]
    alignment = (-torch.special.xlogy(mean_row, mean_row).sum(-1))[..., None] - whole["entropy"]
    diagonality = _correlation(moments * real[..., None], mean_row).to(lse.dtype)[..., None].expand_as(lse)
    by_sequence |= {"alignment": _per_sequence(alignment, real), "diagonality": _per_sequence(diagonality, real)}
    single = {"received": received / seen.clamp(min=1), "top_keys": top_keys, "top_weights": top_weights, "by_query": whole}
    return _summary(by_sequence, by_sequence["entropy"].queries.sum(0), single)


def _summary(by_sequence: dict[str, PerSequence], queries: Tensor, single: Mapping[str, Any]) -> HeadStatistics:
    """The means over all sequences, with what is kept of ``single`` queries and keys."""
    ordered = {name: by_sequence[name] for name in (*MEANS, *by_sequence) if name in by_sequence}
    means = {name: number.overall for name, number in ordered.items()}
    named = {name: means.pop(name, None) for name in MEANS}
    kept = {name: single.get(name) for name in ("received", "top_keys", "top_weights", "by_query")}
    return HeadStatistics(**named, **kept, shares=means, queries=queries, by_sequence=ordered)  # type: ignore[arg-type]


def _together(address: str, parts: Sequence[HeadStatistics]) -> HeadStatistics:
    if len(parts) == 1:
        return parts[0]
    if len({tuple(part.by_sequence) for part in parts}) != 1:
        raise ValueError(f"{address!r}: expected calls that are all self-attention or all cross-attention")
    both = {name: PerSequence.joined([part.by_sequence[name] for part in parts]) for name in parts[0].by_sequence}
    return _summary(both, torch.stack([part.queries for part in parts]).sum(0), {})


def _per_sequence(number: Tensor, counted: Bool[Tensor, "*batch heads query_len"]) -> PerSequence:
    sums, queries = number.masked_fill(~counted, 0.0).sum(-1), counted.sum(-1)
    if sums.dim() == 1:
        sums, queries = sums[None], queries[None]
    while sums.dim() > 2:  # batch dimensions within a sequence, such as frames
        sums, queries = sums.sum(1), queries.sum(1)
    return PerSequence(sums, queries)


def _correlation(
    moments: Float[Tensor, "*batch heads query_len 2"], mean_row: Float[Tensor, "*batch heads key_len"]
) -> Float[Tensor, "*batch heads"]:
    """Pearson's correlation of a query's place x and its key's y, both from -1/2 to 1/2, from sum_j p_ij and sum_j p_ij y_j of
    every counted query and the mean of p over them."""
    (mass, key), marginal = moments.double().unbind(-1), mean_row.double()
    x, y = (_along(z.shape[-1], z) for z in (mass, marginal))
    total = mass.sum(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
    marginal = marginal / marginal.sum(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
    x = x - (mass * x).sum(-1, keepdim=True) / total
    y = y - (marginal * y).sum(-1, keepdim=True)
    variances = ((mass * x.square()).sum(-1) / total[..., 0], (marginal * y.square()).sum(-1))
    still = (variances[0] < 1e-10) | (variances[1] < 1e-10)  # what rounding amounts to
    spread = (variances[0] * variances[1]).sqrt().masked_fill(still, 1.0)
    return ((key * x).sum(-1) / total[..., 0] / spread).masked_fill(still, 0.0).clamp(-1.0, 1.0)


def _along(length: int, like: Tensor) -> Tensor:
    return torch.linspace(-0.5, 0.5, length, dtype=like.dtype, device=like.device)
