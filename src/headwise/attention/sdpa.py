"""torch's fused kernels: exact without the whole matrix of weights, in float16 and bfloat16 at their full speed.

Masks without a flag of their own are given whole. Away from the CPU the log-sum-exp costs the whole matrix of scores.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from headwise.attention.formula import Call, fitting, log_sum_exp, scores
from headwise.attention.masks import select


def refuse(call: Call, lse_gradient: bool) -> str | None:
    """Why no fused kernel evaluates this call exactly, or None."""
    if call.softcap is not None:
        return "the kernel knows no softcap"
    if call.sinks is not None:
        return "the kernel knows no sinks"
    if call.bias is not None and call.bias.requires_grad and torch.is_grad_enabled():
        return "the kernel has no gradient for the bias"
    if lse_gradient:
        return "the kernel has no gradient for the log-sum-exp"
    if call.dropout > 0 and call.query.device.type == "cpu":
        return "the kernel has no dropout on the CPU"
    if 0 in (*call.query.shape, *call.key.shape, *call.value.shape):
        return "the kernel needs at least one query, key and channel"
    return None


def attend(call: Call, lse: bool = False) -> tuple[Tensor, Tensor | None]:
    """The output and, where asked for, the log-sum-exp of every row (without a gradient)."""
    with torch.autocast(call.query.device.type, enabled=False):
        # The fused kernels take four dimensions and one width: leading dimensions are folded, the narrower side padded.
        batch, value_dim = call.query.shape[:-3], call.value.shape[-1]
        width = max(call.query.shape[-1], value_dim)
        query, key, value = (_dense_channels(_widen(_fold(x, batch), width)) for x in (call.query, call.key, call.value))
        mask, causal, empty = _lower(call)
        output, row_lse = _kernel(call, query, key, value, _fold_mask(mask, batch), causal, lse)
        output = output[..., :value_dim].reshape(*batch, *output.shape[1:-1], value_dim)
        if row_lse is not None:
            row_lse = row_lse.reshape(*batch, *row_lse.shape[1:])
        if empty is not None:
            output = output.masked_fill(empty, 0.0)
            row_lse = None if row_lse is None else row_lse.masked_fill(empty.squeeze(-1), -torch.inf)
        return output, row_lse


def _kernel(
    call: Call, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    if lse and query.device.type == "cpu":  # the public function does not return it
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
            mask = mask.expand(*query.shape[:-1], key.shape[-2])
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=call.scale
        )
    grouped = bool(query.shape[1] != key.shape[1])  # a tensor while torch.jit traces
    output = functional.scaled_dot_product_attention(
        query, key, value, mask, call.dropout, causal, scale=call.scale, enable_gqa=grouped
    )
    if not lse:
        return output, None
    with torch.no_grad():
        return output, log_sum_exp(scores(call, call.tile()), None).reshape(query.shape[:-1])


def _lower(call: Call) -> tuple[Tensor | None, bool, Tensor | None]:
    """Mask and bias as the kernel takes them: a tensor, or the causal flag; and which rows are empty.

    Kernels differ in what they do with an empty row, so none ever sees one: the row may attend to everything, and its
    output is zeroed, which zeroes its gradients too.
    """
    tile, shape = call.tile(), torch.Size((*call.query.shape[:-1], call.key.shape[-2]))
    mask = None if call.mask is None else call.mask.lower(tile)
    if mask == "causal" and call.scale <= 0 and call.mask is not None:  # the kernel multiplies its own -inf by the scale
        mask = call.mask.allows(tile)
    if call.bias is None:
        if not isinstance(mask, Tensor):
            return None, mask == "causal", None
        empty = ~fitting("mask", mask, shape).any(dim=-1, keepdim=True)
        return mask | empty, False, empty
    bias = fitting("bias", select("bias", call.bias, tile), shape).to(torch.promote_types(call.query.dtype, torch.float32))
    if call.mask is not None:
        bias = torch.where(fitting("mask", call.mask.allows(tile), shape), bias, -torch.inf)
    empty = (bias == -torch.inf).all(dim=-1, keepdim=True)
    return bias.masked_fill(empty, 0.0), False, empty


def _fold(x: Tensor, batch: torch.Size) -> Tensor:
    return x if len(batch) == 1 else x.reshape(-1, *x.shape[-3:])


def _fold_mask(mask: Tensor | None, batch: torch.Size) -> Tensor | None:
    if mask is None:
        return None
    if len(batch) > 1 and mask.dim() > 3:
        mask = mask.expand(*batch, *mask.shape[-3:]).flatten(0, -4)
    return mask.reshape((1,) * (4 - mask.dim()) + mask.shape)


def _dense_channels(x: Tensor) -> Tensor:
    """The kernel reads channels one after the other; given a stride, it reads foreign memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _widen(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else functional.pad(x, (0, width - x.shape[-1]))
