"""Attention by its definition in float64, written without headwise, and how far a result may be from it.

A result of dtype T may differ by 8 eps(T) A elementwise. A is the same sum over absolute values, with p_ij (1 + a_ij) in
place of p_ij, where a_ij = scale sum_d |q_id k_jd| + |bias_ij| bounds the rounding of the score s_ij in units of eps.
On top of that: the weight of a sink, whose own score is given, moves with the scores that share its denominator;
lse = m + log(..) is itself rounded, hence |lse|; the derivative of the softcap, 1 - t^2, is a difference, hence 1 + t^2.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

# may(batch index, head, position i of the query, position j of the key)
May = Callable[[tuple[int, ...], int, int, int], bool]


def allowed_pairs(may: May, batch: tuple[int, ...], heads: int, query_len: int, key_len: int) -> Tensor:
    first = key_len - query_len
    pairs = product(product(*map(range, batch)), range(heads), range(first, key_len), range(key_len))
    return torch.tensor([may(*pair) for pair in pairs], dtype=torch.bool).reshape(*batch, heads, query_len, key_len)


def tolerance(dtype: torch.dtype, scale: Tensor) -> Tensor:
    """8 eps A; tiny = the smallest normal number, below which eps is no longer the distance between two numbers."""
    return 8 * torch.finfo(dtype).eps * (scale + torch.finfo(dtype).tiny)


def rounded_once(dtype: torch.dtype, want: Tensor, scale: Tensor) -> Tensor:
    """The tolerance of a result computed in float32 and rounded to a narrower dtype at the end."""
    info = torch.finfo(dtype)
    return info.eps / 2 * want.abs() + info.eps * info.tiny + tolerance(torch.float32, (1 + info.eps) * scale)


class Reference:
    """Output, lse and weights of one call in float64, each with its A; ``empty`` marks queries without a single key."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        allowed: Tensor,
        *,
        bias: Tensor | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> None:
        given = {"query": query, "key": key, "value": value, "bias": bias, "sinks": sinks}
        self.inputs = {name: x.detach().double().requires_grad_() for name, x in given.items() if x is not None}
        query, key, value = (self.inputs[name] for name in ("query", "key", "value"))
        self.scale = query.shape[-1] ** -0.5 if scale is None else scale
        self.group = query.shape[-3] // key.shape[-3]
        key, value = self._per_query_head(key), self._per_query_head(value)

        s = self.scale * torch.einsum("...id,...jd->...ij", query, key)
        self.a = abs(self.scale) * torch.einsum("...id,...jd->...ij", query.detach().abs(), key.detach().abs())
        self.slope_scale = torch.ones(())
        if softcap is not None:
            t = torch.tanh(s / softcap)
            s, self.slope_scale = softcap * t, 1 + t.detach() ** 2
        if bias is not None:
            forbids = self.inputs["bias"].detach() == -torch.inf
            finite = self.inputs["bias"].masked_fill(forbids, 0.0)
            s, self.a, allowed = s + finite, self.a + finite.detach().abs(), allowed & ~forbids
        sink = None if sinks is None else self.inputs["sinks"][:, None].expand(s.shape[:-1])

        self.empty = ~allowed.any(-1)
        nothing = self.empty if sink is None else torch.zeros_like(self.empty)
        peak = s.detach().masked_fill(~allowed, -torch.inf).amax(-1)
        peak = (peak if sink is None else torch.maximum(peak, sink.detach())).masked_fill(nothing, 0.0)
        e = (s - peak[..., None]).masked_fill(~allowed, -torch.inf).exp()
        sink_e = torch.zeros_like(peak) if sink is None else (sink - peak).exp()
        total = (e.sum(-1) + sink_e).masked_fill(nothing, 1.0)

        p = e / total[..., None]
        self._output = p @ value
        self._lse = (peak + total.log()).masked_fill(nothing, -torch.inf)
        self.output, self.lse, self.weights = self._output.detach(), self._lse.detach(), p.detach()

        self.rough = self.weights * (1 + self.a)
        self.sink_rough = (sink_e / total).detach() * (1 + self.rough.sum(-1))
        self.weights_scale = self.weights * (1 + self.a + self.rough.sum(-1, keepdim=True))
        self.output_scale = self.rough @ value.detach().abs()
        self.lse_scale = self.rough.sum(-1) + self.sink_rough + self.lse.masked_fill(nothing, 0.0).abs()

    def gradients(self, d_output: Tensor, d_lse: Tensor | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Gradient and A of every input, by name, for gradients d_output of the output and d_lse of lse."""
        d_output = d_output.double()
        loss = (self._output * d_output).sum()
        if d_lse is not None:
            loss = loss + (self._lse.masked_fill(self._lse == -torch.inf, 0.0) * d_lse.double()).sum()
        tensors = self.inputs.values()
        wanted = torch.autograd.grad(loss, tensors, retain_graph=True, materialize_grads=True)
        scales = self._gradient_scales(d_output.abs(), torch.zeros(()) if d_lse is None else d_lse.double().abs())
        return {name: (gradient, scales[name]) for name, gradient in zip(self.inputs, wanted, strict=True)}

    def _gradient_scales(self, d_output: Tensor, d_lse: Tensor) -> dict[str, Tensor]:
        query, key, value = (self.inputs[name].detach().abs() for name in ("query", "key", "value"))
        d_p = d_output @ self._per_query_head(value).mT
        d_row = (self.rough * d_p).sum(-1) + d_lse
        d_s = self.rough * (d_p + d_row[..., None])
        d_product = abs(self.scale) * self.slope_scale * d_s
        scales = {
            "query": d_product @ self._per_query_head(key),
            "key": self._per_key_head(d_product.mT @ query),
            "value": self._per_key_head(self.rough.mT @ d_output),
        }
        if "bias" in self.inputs:
            scales["bias"] = d_s.sum_to_size(self.inputs["bias"].shape)
        if "sinks" in self.inputs:
            scales["sinks"] = (self.sink_rough * d_row).sum(-1).sum_to_size(self.inputs["sinks"].shape)
        return scales

    def _per_query_head(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.group, dim=-3)

    def _per_key_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-3, (-1, self.group)).sum(-3)
