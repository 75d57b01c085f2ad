"""torch's FlexAttention: a kernel made for the rules of a call, by the same definitions that the formula evaluates.

A rule is asked about one pair at a time (``_Pair``), and what it answers is compiled into the kernel; blocks of pairs that
the mask empties are skipped. The first call with new rules or shapes compiles, for seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from headwise.attention.formula import Call, join_sinks, log_sum_exp, scores
from headwise.attention.positions import Added, Alibi
from headwise.attention.sdpa import has_tangent, needs_gradient
from headwise.attention.tiles import Tile, without_autocast


def refuse(call: Call) -> str | None:
    """Why FlexAttention cannot evaluate this call exactly, or None."""
    given = call.bias.tensor if isinstance(call.bias, Added) else None
    if call.dropout > 0:
        return "FlexAttention has no dropout"
    if has_tangent(call):
        return "FlexAttention has no forward-mode derivative"
    if call.query.dtype == torch.float64:
        return "FlexAttention has no kernel for float64"
    if call.query.device.type == "cpu" and needs_gradient(call.query, call.key, call.value, call.sinks, given):
        return "FlexAttention has no backward on the CPU"
    if call.query.device.type == "cpu" and call.sinks is not None:
        return "FlexAttention gives no log-sum-exp on the CPU, to which sinks would be added"
    if not isinstance(call.bias, Added | Alibi | None):
        return f"FlexAttention is not told of {type(call.bias).__name__} here"
    if 0 in (*call.query.shape, *call.key.shape, *call.value.shape):
        return "FlexAttention needs at least one query, key and channel"
    return "an exported graph cannot make a kernel" if torch.compiler.is_exporting() else None


def slower(call: Call) -> str | None:
    """Why it is not taken unasked."""
    return "FlexAttention compiles a kernel for every new rule and shape: it runs when it is named"


def attend(call: Call, lse: bool = False) -> tuple[Tensor, Tensor | None]:
    """The output and, where asked for, the log-sum-exp of every row."""
    batch = call.query.shape[:-3]
    query, key, value = (x.reshape(-1, *x.shape[-3:]).contiguous() for x in (call.query, call.key, call.value))
    options = {
        "score_mod": _score_mod(call, batch),
        "block_mask": _block_mask(call, batch),
        "scale": call.scale,
        "enable_gqa": bool(query.shape[1] != key.shape[1]),
    }
    with without_autocast(call.query.device):
        if call.query.device.type == "cpu":  # where the kernel gives no log-sum-exp
            # It refuses tensors that require gradients even where none is asked for.
            output = _kernel("cpu")(query.detach(), key.detach(), value.detach(), **options)
            row_lse = log_sum_exp(scores(call, call.tile()), None) if lse else None
        else:
            output, aux = _kernel(call.query.device.type)(query, key, value, **options, return_aux=AuxRequest(lse=True))
            row_lse = aux.lse.reshape(*batch, *aux.lse.shape[1:])
            output = output.masked_fill(aux.lse[..., None] == -torch.inf, 0.0)
        output = output.reshape(*batch, *output.shape[1:])
        if call.sinks is not None and row_lse is not None:
            output, row_lse = join_sinks(output, row_lse, call.sinks)
        return output, row_lse if lse else None


@cache
def _kernel(device: str) -> Callable[..., Any]:
    """The CPU's does not compile with a number that varies, such as the width of a second window. Where torch would give up
    after some rules and evaluate the rest unfused, it raises instead."""
    dynamic = False if device == "cpu" else None
    return torch.compile(flex_attention, fullgraph=True, dynamic=dynamic, recompile_limit=256)  # type: ignore[call-overload]


@dataclass(frozen=True, eq=False)
class _Pair(Tile):
    """One query and one key, by index tensors without dimensions: what a rule gets to see inside the kernel."""

    batch: tuple[Tensor, ...] = ()
    head: Tensor = None  # type: ignore[assignment]
    row: Tensor = None  # type: ignore[assignment]
    column: Tensor = None  # type: ignore[assignment]

    @property
    def query_positions(self) -> Tensor:
        return self.row + (self.key_len - self.query_len) if self.positions is None else self.positions[self.row]

    @property
    def key_positions(self) -> Tensor:
        return self.column

    def of_sequences(self, x: Tensor) -> Tensor:
        return _entry(x, *self.batch)

    def of_keys(self, x: Tensor) -> Tensor:
        return _entry(x, *self.batch, self.column)

    def of_queries(self, x: Tensor) -> Tensor:
        return _entry(x, *self.batch, self.query_positions)

    def of_heads(self, x: Tensor) -> Tensor:
        return x[self.head]

    def of_pairs(self, x: Tensor) -> Tensor:
        return _entry(x, *self.batch, self.head, self.row, self.column)


def _entry(x: Tensor, *index: Tensor) -> Tensor:
    """The entry at an index of the tensor to which x broadcasts."""
    own = index[len(index) - x.dim() :]
    return x if not own else x[tuple(at * 0 if size == 1 else at for at, size in zip(own, x.shape, strict=True))]


def _pair(call: Call, batch: torch.Size, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> _Pair:
    tile, index = call.tile(), []
    for size in reversed(batch):
        index.insert(0, b % size)
        b = b // size
    return _Pair(**vars(tile), batch=tuple(index), head=h, row=i, column=j)


def _block_mask(call: Call, batch: torch.Size) -> BlockMask | None:
    mask, (corner, _) = call.mask, call.corners()
    if mask is None or corner is None:
        return None
    seen = corner.shape
    heads = seen[-3] if len(seen) > 2 else 1
    sequences = batch.numel() if len(seen) > 3 else 1
    return create_block_mask(
        lambda b, h, i, j: mask.allows(_pair(call, batch, b, h, i, j)),
        sequences,
        heads,
        call.query.shape[-2],
        call.key.shape[-2],
        device=call.query.device,
        _compile=call.query.device.type != "cpu",  # where inductor of torch 2.13 writes C++ that does not compile
    )


def _score_mod(call: Call, batch: torch.Size) -> Callable[..., Tensor] | None:
    bias, softcap = call.bias, call.softcap
    if bias is None and softcap is None:
        return None
    slopes = bias.of_heads(call.query) if isinstance(bias, Alibi) else None  # a kernel makes no tensors

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if isinstance(bias, Added):
            score = score + _pair(call, batch, b, h, i, j).of_pairs(bias.tensor)
        if isinstance(bias, Alibi) and slopes is not None:
            score = score + bias.line(_pair(call, batch, b, h, i, j), slopes)
        return score

    return score_mod
