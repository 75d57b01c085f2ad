"""Attention block by block of queries, each over the keys that the mask lets it reach: O(length * window), on any device.

A window, packed documents, or both with padding, leave most blocks of the score matrix empty. ``Mask.reach`` says which
keys a block of rows can see; the block is then a small call of its own, which torch's kernel takes, or, where that cannot
(softcap, dropout), the formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headwise.attention import formula, sdpa
from headwise.attention.formula import Call
from headwise.attention.masks import Dense
from headwise.attention.positions import Added
from headwise.attention.tiles import Tile, fitting, without_autocast

ROWS = 192  # of one block; see benchmarks/LOG.md
WORTH = 0.6  # the share of pairs above which blocks do not pay


def refuse(call: Call) -> str | None:
    """Why the call cannot be cut into blocks, or None."""
    if call.positions is not None:
        return "the positions of a cache are values, and blocks need to know them"
    if torch.compiler.is_exporting():
        return "an exported graph has one path for all lengths, blocks have a path for each"
    return None


def slower(call: Call) -> str | None:
    """Why the call runs faster whole, or None."""
    query_len, key_len = call.query.shape[-2], call.key.shape[-2]
    if torch.compiler.is_compiling():
        return "torch.compile would write every block into its graph, for every length anew"
    if isinstance(call.bias, Added) and sdpa.needs_gradient(call.bias.tensor):
        return "the bias has a gradient as large as the whole matrix"
    if call.mask is None or query_len <= ROWS or call.mask.flag(call.tile()) is not None:
        return "the mask leaves no block of keys out"
    reach = call.mask.reach(call.tile(), ROWS)
    pairs = 1.0 if reach is None else ROWS * sum(map(len, reach)) / (query_len * key_len)
    return f"the mask leaves {pairs:.0%} of all pairs in the blocks" if pairs > WORTH else None


def attend(call: Call, lse: bool = False) -> tuple[Tensor, Tensor | None]:
    """The output and, where asked for, the log-sum-exp of every row."""
    call.corners()
    cuts = list(spans(call, ROWS))
    queries = call.query.split(ROWS, dim=-2)
    cut = _Cut.forward if torch.compiler.is_compiling() else _Cut.apply  # dynamo writes slices' gradients in its own way
    keys, values = (cut(x, [columns for _, columns in cuts]) for x in (call.key, call.value))
    parts = []
    with without_autocast(call.query.device):  # rules multiply, too
        for span, query, key, value in zip(cuts, queries, keys, values, strict=True):
            part = _part(call, call.tile(*span), query, key, value)
            parts.append((formula if sdpa.refuse(part) else sdpa).attend(part, lse))
        output, row_lse = zip(*parts, strict=True)
        return torch.cat(output, dim=-2), torch.cat(row_lse, dim=-1) if lse else None


def spans(call: Call, size: int) -> Iterator[tuple[slice, slice]]:
    """Every block of ``size`` rows with the keys it can reach, at least one (which the mask then forbids)."""
    query_len, key_len = call.query.shape[-2], call.key.shape[-2]
    reach = None if call.mask is None or call.positions is not None else call.mask.reach(call.tile(), size)
    for block, start in enumerate(range(0, max(1, query_len), size)):
        columns = range(key_len) if reach is None else reach[block]
        first = max(0, min(columns.start, key_len - 1))
        yield slice(start, min(start + size, query_len)), slice(first, max(columns.stop, min(first + 1, key_len)))


def _part(call: Call, tile: Tile, query: Tensor, key: Tensor, value: Tensor) -> Call:
    """The block as a call of its own: its rules are evaluated at their place in the whole."""
    shape = torch.Size((*query.shape[:-1], key.shape[-2]))
    mask, bias = call.mask, call.bias
    if mask is not None:
        full_rows = mask.sees_itself() and tile.query_len <= tile.key_len
        mask = Dense(fitting("mask", mask.allows(tile), shape), full_rows)
    if bias is not None:
        bias = Added(fitting("bias", bias.added(tile, query, key, call.scale), shape))
    return replace(call, query=query, key=key, value=value, mask=mask, bias=bias)


class _Cut(torch.autograd.Function):
    """Overlapping pieces of a sequence, as views. The gradient of all pieces is gathered in one tensor; the gradients of
    slices would each be as long as the whole."""

    @staticmethod
    def forward(x: Tensor, pieces: Sequence[slice]) -> tuple[Tensor, ...]:
        return tuple(x[..., piece, :] for piece in pieces)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Sequence[slice]], output: tuple[Tensor, ...]) -> None:
        x, ctx.pieces = inputs
        ctx.shape, ctx.dtype = x.shape, x.dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        wide = torch.promote_types(ctx.dtype, torch.float32)
        whole = gradients[0].new_zeros(ctx.shape, dtype=wide)  # batched under vmap, as torch.zeros would not be
        for piece, gradient in zip(ctx.pieces, gradients, strict=True):
            whole[..., piece, :] += gradient
        return whole.to(ctx.dtype), None

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> tuple[Tensor, ...]:
        return _Cut.forward(grad_inputs[0], ctx.pieces)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], int]:
        return _Cut.apply(args[0].movedim(in_dims[0], 0), args[1]), 0
