"""What flows through the layers: attention rollout and attention flow (Abnar and Zuidema 2020, sections 3.1 and 3.2).

Layer l hands on A_l = W_l / 2 + I / 2, W_l the mean of its heads' weights and I the residual stream, each row divided by its
sum: a query whose weight goes to a sink, or that sees nothing, keeps more of itself. Both follow positions alone: values,
feed-forward layers and norms are left out, so they are pictures of routes, not of effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

from headwise.attention.record import Recorded
from headwise.attention.tiles import Select
from headwise.insight.measuring.similarity import same, single_calls
from headwise.insight.progress import if_long, tracked

BLOCK = 2**23  # weights held at a time; with fewer, long inputs have too few rows in a block for a matrix product
LONGEST = 512  # tokens of a flow
UNIT = 2**30  # capacities are integers: this many are 1


@torch.no_grad()
def rollout(record: Mapping[str, Sequence[Recorded]], rows: Select | None = None) -> Float[Tensor, "*batch rows length"]:
    """How much of every position of the input reaches chosen rows (None = all) of the last layer: rows of A_L ... A_2 A_1.

    record: the self-attention of one stack of layers, the first layer first, one call each, as it comes from ``observe`` (of a
    model with more in it, the part of the record). A row is a vector that goes down through the layers, vector times matrix,
    row block by row block: memory is rows x length, never length^2. Rows sum to 1. Raises ValueError where a module is
    not self-attention over one and the same sequence.
    """
    calls = _layers(record)
    (*batch, _, length), like = calls[-1].lse.shape, calls[-1].lse
    chosen = torch.arange(length, device=like.device)[slice(None) if rows is None else rows]
    reached = like.new_zeros(*batch, len(chosen), length)
    reached[..., torch.arange(len(chosen)), chosen] = 1.0
    for call in reversed(calls):
        before = torch.zeros_like(reached)
        for queries, columns, p, _ in call.whole_rows(BLOCK, if_long(call.lse.numel() * length, "rollout, layer by layer")):
            handed_on, kept = _layer(p)
            before[..., columns] += reached[..., queries] @ handed_on
            before[..., queries] += reached[..., queries] * kept[..., None, :]
        reached = before
    return reached


@torch.no_grad()
def flow(
    record: Mapping[str, Sequence[Recorded]], row: int, columns: Sequence[int] | None = None, *, batch: int = 0
) -> Float[Tensor, " columns"]:
    """The largest flow from one row of the last layer to chosen positions of the input (None = all), each by itself, 0 to 1.

    The layers are a network with capacity A_l[i, j] from i above to j below. record: as in ``rollout``; ``batch`` indexes the
    first batch dimension. Capacities are rounded to 2^-31. One maximum flow per column: use ``columns`` on long inputs.
    Raises ValueError beyond 512 positions.
    """
    calls = _layers(record)
    length = calls[-1].key.shape[-2]
    columns = range(length) if columns is None else columns
    if calls[-1].lse.dim() > 3:
        raise ValueError(f"flow: expected one batch dimension; got {tuple(calls[-1].lse.shape[:-2])}")
    if length > LONGEST:
        raise ValueError(f"flow: expected at most {LONGEST} positions; got {length}: the network has length^2 edges per layer")
    for name, at in (("row", [row]), ("columns", columns)):
        if not all(-length <= i < length for i in at):
            raise ValueError(f"{name}: expected positions out of {length}; got {list(at)}")
    edges = []
    for layer, call in enumerate(reversed(calls)):
        handed_on, kept = _layer(call.weights(batch=batch if call.lse.dim() == 3 else None))
        capacity = (handed_on + torch.diag_embed(kept)).double().mul(UNIT).round().int().cpu().numpy()
        above, below = capacity.nonzero()
        edges.append((above + layer * length, below + (layer + 1) * length, capacity[above, below]))
    above, below, capacity = (np.concatenate(part) for part in zip(*edges, strict=True))
    nodes = length * (len(calls) + 1)
    network = coo_array((capacity, (above, below)), shape=(nodes, nodes)).tocsr()
    found = [
        maximum_flow(network, row % length, nodes - length + column % length).flow_value for column in tracked(columns, "flow")
    ]
    return torch.tensor(found, dtype=torch.float64).div(UNIT).to(calls[-1].lse)


def _layer(p: Tensor) -> tuple[Tensor, Tensor]:
    """What a block of rows hands on to the keys, (*batch, rows, columns), and keeps, (*batch, rows)."""
    mean = p.mean(-3)
    total = 1 + mean.sum(-1)
    return mean / total[..., None], 1 / total


def _layers(record: Mapping[str, Sequence[Recorded]]) -> list[Recorded]:
    calls = single_calls(record)
    for address, call in calls.items():
        if not call.call.same_sequence or call.query.shape[-2] != call.key.shape[-2]:
            raise ValueError(
                f"{address!r}: expected self-attention of all queries; got {call.query.shape[-2]} queries and "
                f"{call.key.shape[-2]} keys{'' if call.call.same_sequence else ' of two sequences'}: give a part of the record"
            )
    same("batch and length", {address: (*call.lse.shape[:-2], call.lse.shape[-1]) for address, call in calls.items()})
    return list(calls.values())
