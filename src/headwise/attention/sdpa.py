"""torch's fused kernels: exact without the whole matrix of weights, in float16 and bfloat16 at their full speed.

Masks without a flag of their own are given whole. Away from the CPU the log-sum-exp costs the whole matrix of scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from headwise.attention.formula import Call, join_sinks, log_sum_exp, scores
from headwise.attention.tiles import as_added, fitting, in_transform, without_autocast

BLOCK = 2**22  # scores held at a time by the backward pass below


def refuse(call: Call) -> str | None:
    """Why no fused kernel evaluates this call exactly, or None."""
    if call.softcap is not None:
        return "the kernel knows no softcap"
    if call.dropout > 0 and call.query.device.type == "cpu":
        return "the kernel has no dropout on the CPU"
    if call.sinks is not None and not _gives_lse(call):
        return (
            "the kernel knows no sinks, and only the CPU's gives a log-sum-exp to add them to (an exported graph has neither)"
        )
    if 0 in (*call.query.shape, *call.key.shape, *call.value.shape):
        return "the kernel needs at least one query, key and channel"
    if has_tangent(call):
        return "the kernel has no forward-mode derivative"
    return None


def attend(call: Call, lse: bool = False) -> tuple[Tensor, Tensor | None]:
    """The output and, where asked for, the log-sum-exp of every row."""
    with without_autocast(call.query.device):
        # The fused kernels take four dimensions and one width: leading dimensions are folded, the narrower side padded.
        batch, value_dim = call.query.shape[:-3], call.value.shape[-1]
        width = max(call.query.shape[-1], value_dim)
        query, key, value = (_dense_channels(_widen(_fold(x, batch), width)) for x in (call.query, call.key, call.value))
        mask, causal, empty = _lower(call)
        mask = _fold_mask(mask, batch)
        if _gives_lse(call) and (lse or call.sinks is not None or needs_gradient(mask)):
            output, row_lse = _with_lse(query, key, value, mask, causal, call.scale)
            row_lse = row_lse.reshape(*batch, *row_lse.shape[1:])
        else:
            grouped = bool(query.shape[1] != key.shape[1])  # a tensor while torch.jit traces
            output = functional.scaled_dot_product_attention(
                query, key, value, mask, call.dropout, causal, scale=call.scale, enable_gqa=grouped
            )
            row_lse = log_sum_exp(scores(call, call.tile()), None) if lse else None
        output = output[..., :value_dim].reshape(*batch, *output.shape[1:-1], value_dim)
        if empty is not None:
            output = output.masked_fill(empty, 0.0)
            row_lse = None if row_lse is None else row_lse.masked_fill(empty.squeeze(-1), -torch.inf)
        if row_lse is not None and call.sinks is not None:
            output, row_lse = join_sinks(output, row_lse, call.sinks)
        return output, row_lse if lse else None


def _lower(call: Call) -> tuple[Tensor | None, bool, Tensor | None]:
    """Mask and bias as the kernel takes them: a tensor, or the causal flag; and which rows are empty.

    Kernels differ in what they do with an empty row, so none ever sees one: the row may attend to everything, and its
    output is zeroed, which zeroes its gradients too.
    """
    tile, shape = call.tile(), torch.Size((*call.query.shape[:-1], call.key.shape[-2]))
    full_rows = call.mask is None or (call.mask.sees_itself() and shape[-2] <= shape[-1])
    bias = call.added(tile)
    if bias is None:
        flag = "all" if call.mask is None else call.mask.flag(tile)
        if flag == "causal" and call.scale <= 0:  # the kernel multiplies its own -inf by the scale
            flag = None
        if flag is not None or call.mask is None:
            return None, flag == "causal", None
        mask = fitting("mask", call.mask.allows(tile), shape)
        if full_rows:
            return mask, False, None
        empty = ~mask.any(dim=-1, keepdim=True)
        return mask | empty, False, empty
    bias = fitting("bias", bias, shape).to(torch.promote_types(call.query.dtype, torch.float32))
    if call.mask is not None:
        bias = bias + as_added(fitting("mask", call.mask.allows(tile), shape), bias.dtype)
    if full_rows and call.bias is not None and not call.bias.forbids:
        return bias, False, None
    empty = bias.detach().amax(dim=-1, keepdim=True) == -torch.inf
    # The lowest number is as good as -inf, and clamping several times faster; but it may not fit the CUDA kernels' dtype.
    finite = bias.clamp(min=torch.finfo(bias.dtype).min) if bias.device.type == "cpu" else bias.masked_fill(empty, 0.0)
    return finite, False, empty


def _with_lse(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The CPU's kernel by the name under which it returns its log-sum-exp, too."""
    if mask is not None and mask.dtype == torch.bool:
        mask = as_added(mask, query.dtype)
    if needs_gradient(query, key, value, mask):
        return _Fused.apply(query, key, value, mask, causal, scale)
    return _Fused.forward(query, key, value, mask, causal, scale)


class _Fused(torch.autograd.Function):
    """The CPU's kernel with the gradients that it lacks, of the mask that is added to the scores and of the log-sum-exp.

    With p = exp(s - lse), dp = dy v^T and D_i = sum_c dy_ic y_ic, the gradient of the scores is ds = p (dp - D + dlse);
    it is formed again for some rows at a time (Dao et al. 2022, algorithm 4).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        if mask is not None:
            mask = mask.expand(*query.shape[:-1], key.shape[-2])
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        query, key, value, mask, ctx.causal, ctx.scale = inputs
        ctx.save_for_backward(query, key, value, mask, *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_output, d_lse), (query, key, value, mask, output, lse) = gradients, ctx.saved_tensors
        wide, heads = torch.promote_types(query.dtype, torch.float32), (key.shape[1], -1)
        k, v = (x.to(wide).unsqueeze(2) for x in (key, value))
        d_row = d_lse - (d_output.to(wide) * output).sum(-1)  # batched under vmap, and so is what is made from it
        d_query, d_key, d_value = (d_row.new_zeros(x.shape, dtype=wide) for x in (query, key, value))
        d_mask = None if mask is None or not ctx.needs_input_grad[3] else d_row.new_zeros(mask.shape, dtype=mask.dtype)
        # A compiled graph takes all rows at once: a loop would be written into it, for every length anew.
        at_once = torch.compiler.is_compiling()
        size = query.shape[2] if at_once else max(16, BLOCK // (query.shape[0] * query.shape[1] * key.shape[2]))
        for start in (0,) if at_once else range(0, query.shape[2], size):
            rows = slice(start, start + size)
            seen = slice(min(start + size, key.shape[2]) if ctx.causal else None)
            q, dy, row_lse, d_score = (x[:, :, rows].to(wide).unflatten(1, heads) for x in (query, d_output, lse, d_row))
            s = ctx.scale * (q @ k[..., seen, :].mT)
            if ctx.causal:
                s = s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu(start + 1), -torch.inf)
            masked = rows if mask is not None and mask.shape[2] > 1 else slice(None)
            if mask is not None:
                s = s + mask[:, :, masked].expand(-1, query.shape[1], -1, -1).unflatten(1, heads)
            p = (s - row_lse[..., None]).exp_()
            d_s = (dy @ v[..., seen, :].mT).add_(d_score[..., None]).mul_(p)
            d_query[:, :, rows] = (ctx.scale * (d_s @ k[..., seen, :])).flatten(1, 2)
            d_key[:, :, seen] += (ctx.scale * (d_s.mT @ q)).sum(2)
            d_value[:, :, seen] += (p.mT @ dy).sum(2)
            if d_mask is not None:
                d_mask[:, :, masked] += d_s.flatten(1, 2).sum_to_size(d_mask[:, :, masked].shape)
        return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype), d_mask, None, None


def _gives_lse(call: Call) -> bool:
    """Whether the kernel is the CPU's, which can say its log-sum-exp; an exported graph names no device's kernel."""
    return call.query.device.type == "cpu" and not torch.compiler.is_exporting()


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of any of them."""
    inside = in_transform()  # where a wrapper says requires_grad=False of a tensor that has it
    floating = [x for x in tensors if x is not None and x.is_floating_point()]
    return torch.is_grad_enabled() and any(x.requires_grad or inside for x in floating)


def has_tangent(call: Call) -> bool:
    """Whether a forward-mode derivative is under way."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


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
